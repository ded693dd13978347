/*
 * IRET beyond the plain case: bad CS and SS on the way to an outer level, NT, what level 3 may not
 * change, the 16-bit operand, the stack pointer's upper half under a 16-bit SS, virtual-8086 mode,
 * stack limits, and NMIs, which IRET unblocks even when it faults.
 *
 * Source: SDM "IRET/IRETD/IRETQ", "Handling Multiple NMIs", "Stack Switching".
 */
#include "x86/apic.h"
#include "x86/paging.h"

#define FREE(n) ((ulong)SEL_FREE + 8 * (n))

enum { /* descriptors of these tests */
       NOT_PRESENT_CODE,
       NOT_PRESENT_DATA,
       READ_ONLY3,
       STACK16,
       CODE16_3,
       CONFORMING0,
       CODE3_LD,
       DATA_USER_DPL2,
       LIMITED,
       NR,
};

USER static void landing(void *p)
{
	__asm__ volatile("ud2");
}

static void descriptors(void)
{
	const u8 wide = IS64 ? 0xa : 0xc;

	gdt_set(FREE(NOT_PRESENT_CODE), descriptor(0, 0xfffff, 0x7b, wide));
	gdt_set(FREE(NOT_PRESENT_DATA), descriptor(0, 0xfffff, 0x73, 0xc));
	gdt_set(FREE(READ_ONLY3), descriptor(0, 0xfffff, 0xf1, 0xc));
	gdt_set(FREE(STACK16), descriptor(0, 0xffff, 0xf3, 0));
	gdt_set(FREE(CODE16_3), descriptor(0, 0xffff, 0xfb, 0));
	gdt_set(FREE(CONFORMING0), descriptor(0, 0xfffff, 0x9f, wide));
	gdt_set(FREE(CODE3_LD), descriptor(0, 0xfffff, 0xfb, 0xe));
	gdt_set(FREE(DATA_USER_DPL2), descriptor(0, 0xfffff, 0xd3, 0xc));
}

/* ---- bad frames, from level 0 ---- */

struct frame {
	ulong ip, cs, flags, sp, ss;
};

static ulong frame_at __attribute__((used)), iret_at __attribute__((used));

/* IRETs to a frame; a fault ends it and leaves the frame's address and the IRET's. */
static void __attribute__((noinline)) go(void *arg)
{
	const struct frame *f = arg;

#if IS64
	__asm__ volatile("push %4; push %3; push %2; push %1; push %0\n"
			 "mov %%rsp, frame_at(%%rip)\n"
			 "lea 1f(%%rip), %%rax; mov %%rax, iret_at(%%rip)\n"
			 "1: iretq"
			 :
			 : "r"(f->ip), "r"(f->cs), "r"(f->flags), "r"(f->sp), "r"(f->ss)
			 : "rax", "memory");
#else
	__asm__ volatile("push 16(%0); push 12(%0); push 8(%0); push 4(%0); push (%0)\n"
			 "mov %%esp, frame_at\n"
			 "movl $1f, iret_at\n"
			 "1: iret"
			 :
			 : "r"(f)
			 : "memory");
#endif
}

static void bad(const char *name, struct frame f, int vector, ulong error)
{
	int got = trap_guard(go, &f);
	const struct trap *t = trap_last();
	bool ok = got == vector && t->error == error && t->ip == iret_at && !(t->cs & 3) &&
		  t->sp == frame_at;

	report(ok, "%s", name);
	if (!ok)
		note("want %d/%lx at %lx sp %lx, got %d/%x at %lx:%lx sp %lx", vector, error,
		     iret_at, frame_at, got, t->error, t->cs, t->ip, t->sp);
}

static void bad_frames(void)
{
	/* this_cpu() looks at the stack pointer: a place inside the CPU's own block. */
	struct frame k = {(ulong)landing, SEL_KCODE, 2, (ulong)this_cpu() + 0x9000, SEL_KDATA};
	struct frame u = {(ulong)landing, SEL_UCODE | 3, 2, user_stack(), SEL_UDATA | 3};
	struct frame f;

#define WITH(base, field, value) (f = base, f.field = (value), f)
	bad("null CS", WITH(k, cs, 0), EXC_GP, 0);
	bad("null CS with RPL 3", WITH(u, cs, 3), EXC_GP, 0);
	bad("CS beyond the GDT", WITH(k, cs, 0xfff8), EXC_GP, 0xfff8);
	bad("CS in an empty LDT", WITH(k, cs, 0x0c), EXC_GP, 0x0c);
	bad("CS is data", WITH(k, cs, SEL_KDATA), EXC_GP, SEL_KDATA);
	bad("CS is a TSS", WITH(k, cs, SEL_TSS), EXC_GP, SEL_TSS);
	bad("CS of level 3 with RPL 0", WITH(k, cs, SEL_UCODE), EXC_GP, SEL_UCODE);
	bad("CS of level 0 with RPL 3", WITH(u, cs, SEL_KCODE | 3), EXC_GP, SEL_KCODE);
	bad("CS of level 3 with RPL 2", WITH(u, cs, SEL_UCODE | 2), EXC_GP, SEL_UCODE);
	bad("CS not present", WITH(u, cs, FREE(NOT_PRESENT_CODE) | 3), EXC_NP,
	    FREE(NOT_PRESENT_CODE));
	bad("null SS for level 3", WITH(u, ss, 0), EXC_GP, 0);
	bad("null SS with RPL 3", WITH(u, ss, 3), EXC_GP, 0);
	bad("SS beyond the GDT", WITH(u, ss, 0xfffb), EXC_GP, 0xfff8);
	bad("SS with RPL 0 for level 3", WITH(u, ss, SEL_UDATA), EXC_GP, SEL_UDATA);
	bad("SS of level 0 for level 3", WITH(u, ss, SEL_KDATA | 3), EXC_GP, SEL_KDATA);
	bad("SS of level 2 for level 3", WITH(u, ss, FREE(DATA_USER_DPL2) | 3), EXC_GP,
	    FREE(DATA_USER_DPL2));
	bad("SS is code", WITH(u, ss, SEL_UCODE | 3), EXC_GP, SEL_UCODE);
	bad("SS is read-only", WITH(u, ss, FREE(READ_ONLY3) | 3), EXC_GP, FREE(READ_ONLY3));
	bad("SS not present", WITH(u, ss, FREE(NOT_PRESENT_DATA) | 3), EXC_SS,
	    FREE(NOT_PRESENT_DATA));
#if IS64
	bad("RIP is not canonical", WITH(k, ip, 1ul << 63), EXC_GP, 0);
	bad("RIP for level 3 is not canonical", WITH(u, ip, 1ul << 47), EXC_GP, 0);
	bad("CS with L and D", WITH(u, cs, FREE(CODE3_LD) | 3), EXC_GP, FREE(CODE3_LD));
#else
	gdt_set(FREE(LIMITED), descriptor(0, 0xfff, 0xfb, 4));
	bad("EIP beyond the limit", WITH(u, cs, FREE(LIMITED) | 3), EXC_GP, 0);
#endif
}

/* ---- level 3 ---- */

/* The frame of an IRET at level 3 lies at the user stack's top, from the kernel. */
USER static void user_iret(void *p)
{
#if IS64
	__asm__ volatile("mov %0, %%rsp; iretq" : : "r"(p) : "memory");
#else
	__asm__ volatile("mov %0, %%esp; iret" : : "r"(p) : "memory");
#endif
}

static struct frame *user_frame(ulong flags)
{
	struct frame *f = (struct frame *)(user_stack() - 512);

	*f = (struct frame){(ulong)landing, SEL_UCODE | 3, flags, user_stack(), SEL_UDATA | 3};
	return f;
}

static void level3(void)
{
	struct frame *f;
	u32 may = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_DF | FL_OF | FL_NT | FL_AC | FL_ID;

	trap_user(user_iret, user_frame(0x3fffff & ~(ulong)(FL_TF | FL_RF | FL_VM | FL_NT)));
	report_eq(trap_vector(), EXC_UD, "level 3: IRET to the same level");
	report_eq(trap_last()->flags & ~(ulong)FL_RF, 2 | (may & ~FL_NT),
		  "level 3: IF, IOPL, VIF and VIP stay");
	f = user_frame(2);
	f->cs = SEL_KCODE;
	trap_user(user_iret, f);
	report(trap_vector() == EXC_GP && trap_last()->error == SEL_KCODE &&
		       trap_last()->cs == (SEL_UCODE | 3),
	       "level 3: IRET to level 0");
#if !IS64
	/* What a processor that goes to virtual-8086 mode all the same finds there. */
	*(volatile u16 *)(((SEL_UCODE | 3) << 4) + ((ulong)landing & 0xffff)) = 0x0b0f;
#endif
	trap_user(user_iret, user_frame(2 | FL_VM));
	report(trap_vector() == EXC_UD && !(trap_last()->flags & FL_VM), "level 3: VM is ignored");
}

/* ---- NT ---- */

static void nt_iret(void *arg)
{
	struct frame f = {(ulong)landing, SEL_KCODE, 2, 0, SEL_KDATA};

	write_flags(read_flags() | FL_NT);
	go(&f);
}

static void nested_task(void)
{
#if IS64
	report(trap_guard(nt_iret, NULL) == EXC_GP && !trap_last()->error, "NT: GP in long mode");
#else
	struct tss *tss = &this_cpu()->tss;

	tss->link = 0;
	report(trap_guard(nt_iret, NULL) == EXC_TS && !trap_last()->error, "NT: a null back link");
	tss->link = SEL_KDATA;
	report(trap_guard(nt_iret, NULL) == EXC_TS && trap_last()->error == SEL_KDATA,
	       "NT: a back link to data");
	tss->link = 0xfff8;
	report(trap_guard(nt_iret, NULL) == EXC_TS && trap_last()->error == 0xfff8,
	       "NT: a back link beyond the GDT");
	gdt_set(FREE(LIMITED), descriptor((u32)&this_cpu()->tss_df, 103, 0x89, 0));
	tss->link = FREE(LIMITED);
	report(trap_guard(nt_iret, NULL) == EXC_TS && trap_last()->error == FREE(LIMITED),
	       "NT: a back link to a task that is not busy");
	gdt_set(FREE(LIMITED), descriptor((u32)&this_cpu()->tss_df, 103, 0x0b, 0));
	report(trap_guard(nt_iret, NULL) == EXC_NP && trap_last()->error == FREE(LIMITED),
	       "NT: a back link to a task that is not present");
	tss->link = 0;
#endif
	write_flags(2);
}

/* ---- operand size, 16-bit stacks ---- */

static void stack16(void)
{
	/* Only SP is loaded when the new SS is 16 bits wide: the rest is the kernel's. */
	struct frame f = {(ulong)landing, SEL_UCODE32 | 3, 2, 0x87654320, FREE(STACK16) | 3};
	ulong got;

	report_eq(trap_guard(go, &f), EXC_UD, "to a 16-bit stack");
	got = trap_last()->sp;
	report_eq(trap_last()->ss, FREE(STACK16) | 3, "its SS");
	report_eq(got & 0xffff, 0x4320, "SP is the frame's");
	report_eq(got & 0xffff0000, frame_at & 0xffff0000, "the upper half of ESP is the kernel's");
	f.ss = SEL_UDATA | 3;
	trap_guard(go, &f);
	report_eq(trap_last()->sp, 0x87654320, "to a 32-bit stack: all of ESP");
}

extern char low_code[], low_code_end[];
__asm__(".text\nlow_code: ud2\nlow_code_end:\n");

/* The 16-bit form pops three words and cuts IP. */
static void iret16(void *arg)
{
	const u16 *f = arg;

#if IS64
	__asm__ volatile("pushw %w4; pushw %w3; pushw %w2; pushw %w1; pushw %w0; .byte 0x66, 0xcf"
			 :
			 : "r"(f[0]), "r"(f[1]), "r"(f[2]), "r"((u16)0x1230), "r"((u16)SEL_KDATA)
			 : "memory");
#else
	__asm__ volatile("pushw %w2; pushw %w1; pushw %w0; .byte 0x66, 0xcf"
			 :
			 : "r"(f[0]), "r"(f[1]), "r"(f[2])
			 : "memory");
#endif
}

static void operand16(void)
{
	u16 f[3] = {0x8000, SEL_KCODE, 2 | FL_CF};

	memcpy((void *)0x8000, low_code, (size_t)(low_code_end - low_code));
	write_flags(2 | FL_AC | FL_ID);
#if IS64
	/* The stack that it loads has 16 bits: the exception needs another. */
	idt_set_ist(EXC_UD, 2);
#endif
	report_eq(trap_guard(iret16, f), EXC_UD, "16-bit operand");
	report(trap_last()->ip == 0x8000 && trap_last()->cs == SEL_KCODE, "16-bit operand: CS:IP");
	report((trap_last()->flags & (FL_AC | FL_ID | FL_CF)) == (FL_AC | FL_ID | FL_CF),
	       "16-bit operand: the upper flags stay");
#if IS64
	report_eq(trap_last()->sp, 0x1230, "16-bit operand: SP");
	idt_set_ist(EXC_UD, 0);
#endif
	write_flags(2);
}

/* ---- NMIs ---- */

static volatile u32 nmis, nmis_inside;
static void (*volatile nmi_does)(void);

static void nmi_self(void)
{
	apic_icr(ICR_NMI | ICR_ASSERT, apic_id());
	for (unsigned i = 0; i < 1000; i++)
		pause();
}

static void on_nmi(struct regs *r)
{
	void (*fn)(void) = nmi_does;

	nmis++;
	nmi_does = NULL;
	if (fn) {
		nmis_inside = 0;
		fn();
		if (!nmis_inside)
			nmis_inside = nmis;
	}
}

/* An IRET that faults is an IRET: NMIs are open when the handler of its fault begins. */
static volatile u32 at_entry;
static void in_handler(struct regs *r)
{
	this_cpu()->hook = NULL;
	at_entry = nmis;
	nmi_self();
	nmis_inside = nmis;
}
static void faulting_iret(void)
{
	trap_clear();
	this_cpu()->hook = in_handler;
#if IS64
	__asm__ volatile(
		"mov %%rsp, %%rcx; pushq $0; pushq %%rcx; pushq $2; pushq $0; pushq $0\n" TRY(
			"iretq") "mov %%rcx, %%rsp"
		:
		:
		: "rcx", "memory");
#else
	__asm__ volatile(
		"mov %%esp, %%ecx; pushl $2; pushl $0; pushl $0\n" TRY("iret") "mov %%ecx, %%esp"
		:
		:
		: "ecx", "memory");
#endif
}
static void no_iret(void)
{
	nmi_self();
}
static void plain_iret(void)
{
#if IS64
	__asm__ volatile(
		"mov %%ss, %%eax; mov %%rsp, %%rcx; push %%rax; push %%rcx; pushfq; mov %%cs, %%eax\n"
		"push %%rax; lea 1f(%%rip), %%rax; push %%rax; iretq\n1:"
		:
		:
		: "rax", "rcx", "memory");
#else
	__asm__ volatile("pushf; push %%cs; push $1f; iret\n1:" : : : "memory");
#endif
	nmi_self();
}

static void nmi_with(void (*fn)(void), unsigned inside, const char *name)
{
	nmis = nmis_inside = 0;
	nmi_does = fn;
	nmi_self();
	report(nmis_inside == inside && nmis == 2, "NMI %s", name);
	if (nmis_inside != inside || nmis != 2)
		note("%u inside the handler, %u in all", nmis_inside, nmis);
}

/* One that waits is taken as soon as the faulting IRET has opened the door. */
static void pending_then_fault(void)
{
	nmi_self();
	faulting_iret();
}

static void nmi(void)
{
	irq_set(EXC_NMI, on_nmi);
	nmi_with(no_iret, 1, "inside an NMI: after its IRET");
	nmi_with(plain_iret, 2, "after an IRET inside the handler");
	nmi_with(faulting_iret, 2, "after an IRET that faulted");
	nmis = 0;
	nmi_does = pending_then_fault;
	nmi_self();
	report_eq(at_entry, 2, "a waiting NMI comes with the fault of an IRET");
}

#if !IS64
/* ---- virtual-8086 mode, limits ---- */

extern char v86_code[], v86_code_end[];
__asm__(".text\n.code16\nv86_code: mov %sp, %ax\n mov %ds, %bx\n mov %es, %cx\n mov %fs, %dx\n mov %gs, %si\n ud2\nv86_code_end:\n.code32\n");

static struct regs v86_seen;
static void v86_hook(struct regs *r)
{
	v86_seen = *r;
}

static void virtual8086(void)
{
	struct {
		u32 ip, cs, flags, sp, ss, es, ds, fs, gs;
	} f = {0x12340000, 0x3000, 2 | FL_VM | FL_IOPL | FL_RF, 0xabcd4000, 0x4321, 0x1111, 0x2222,
	       0x3333,	   0x4444};
	int got;

	user_map();
	memcpy((void *)0x30000, v86_code, (size_t)(v86_code_end - v86_code));
	this_cpu()->hook = v86_hook;
	{
		struct regs r;

		memset(&r, 0, sizeof(r));
		r.ip = f.ip;
		r.cs = f.cs;
		r.flags = f.flags;
		r.sp = f.sp;
		r.ss = f.ss;
		r.v86_es = f.es, r.v86_ds = f.ds, r.v86_fs = f.fs, r.v86_gs = f.gs;
		got = trap_enter(&r);
	}
	this_cpu()->hook = NULL;
	report_eq((u64)(s64)got, EXC_UD, "to virtual-8086 mode");
	report(v86_seen.cs == 0x3000 && v86_seen.ip == (u32)(v86_code_end - v86_code) - 2,
	       "EIP is cut to 16 bits");
	report(v86_seen.flags & FL_VM, "VM is pushed");
	report_eq(v86_seen.ss, 0x4321, "SS");
	report_eq(v86_seen.sp & 0xffff, 0x4000, "SP");
	report(v86_seen.bx == 0x2222 && (u16)v86_seen.cx == 0x1111 && (u16)v86_seen.dx == 0x3333 &&
		       (u16)v86_seen.si == 0x4444,
	       "DS, ES, FS, GS");
	report(v86_seen.v86_es == 0x1111 && v86_seen.v86_gs == 0x4444, "and they are pushed");
}

/* The fault's own frame goes below the one that is too high, inside the limit. */
static void __attribute__((noinline)) short_stack(u32 sel, ulong top)
{
	__asm__ volatile(
		"mov %%esp, %%ecx; mov %0, %%ss; mov %1, %%esp\n" TRY(
			"iret") "iret_back: mov $0x10, %%eax; mov %%eax, %%ss; mov %%ecx, %%esp"
		:
		: "r"(sel), "r"(top - 8)
		: "eax", "ecx", "memory");
}

extern char iret_back[];
static void limits(void)
{
	/* this_cpu() looks at the stack pointer: a page inside the CPU's own block. */
	ulong top = (ulong)this_cpu() + 0x9000;

	((u32 *)top)[-2] = (u32)iret_back;
	((u32 *)top)[-1] = SEL_KCODE;
	((u32 *)top)[0] = 2;
	gdt_set(FREE(LIMITED), descriptor(0, (top >> 12) - 1, 0x93, 0xc));
	trap_clear();
	short_stack(FREE(LIMITED), top);
	report(trap_vector() == EXC_SS && !trap_last()->error, "a frame beyond SS's limit");
}
#endif

void test_main(void)
{
	cli();
	user_map();
	descriptors();
	bad_frames();
	level3();
	nested_task();
	stack16();
	operand16();
#if !IS64
	virtual8086();
	limits();
#endif
	nmi();
}
