/*
 * Exceptions and their error codes: which vector, which code, fault or trap; what happens when
 * delivery itself fails. Sources: SDM "Interrupt and Exception Handling": exception reference,
 * error code, double fault classes.
 */
#include "x86/apic.h"
#include "x86/paging.h"

enum { FAULT, TRAP_AFTER };

static void check(const char *name, void (*fn)(void *), void *arg, int vector, u32 error, int kind)
{
	int after = trap_guard(fn, arg), got = trap_vector();
	bool ok = got == vector;

	if (ok && vector >= 0)
		ok = trap_last()->error == error && (kind == TRAP_AFTER) == (after >= 0);
	report(ok, "%s", name);
	if (!ok)
		note("want vector %d error %x %s, got %d error %x %s ip %lx", vector, error,
		     kind == FAULT ? "fault" : "trap", got, trap_last()->error,
		     after < 0 ? "fault" : "elsewhere", trap_last()->ip);
}

#define CASE(id, text)                                                                        \
	static void id(void *p)                                                               \
	{                                                                                     \
		__asm__ volatile(TRY(text) : : "r"(p) : "eax", "ecx", "edx", "memory", "cc"); \
	}
#define CASE_PRE(id, pre, text)                                          \
	static void id(void *p)                                          \
	{                                                                \
		__asm__ volatile(pre "\n" TRY(text)                      \
				 :                                       \
				 : "r"(p)                                \
				 : "eax", "ecx", "edx", "memory", "cc"); \
	}

CASE_PRE(div_zero, "xor %%ecx, %%ecx", "div %%ecx")
CASE_PRE(idiv_overflow, "mov $0x80000000, %%eax; cltd; mov $-1, %%ecx", "idiv %%ecx")
CASE_PRE(div_byte, "mov $0x1000, %%eax; mov $1, %%ecx", "div %%cl")
CASE(icebp, ".byte 0xf1")
CASE(int3, "int3")
CASE(int_3, "int $3")
CASE(int_n_limit, "int $0x99")
CASE(ud0, ".byte 0x0f, 0xff, 0xc0")
CASE(ud1, ".byte 0x0f, 0xb9, 0xc0")
CASE(ud2, "ud2")
CASE(lock_nop, ".byte 0xf0, 0x90")
CASE(lock_reg, ".byte 0xf0, 0x01, 0xc0")
CASE(mov_cs, ".byte 0x8e, 0xc8")
CASE(bad_cr, ".byte 0x0f, 0x20, 0xc8")
CASE(long_insn,
     ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
CASE(longest_insn,
     ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
CASE(fnop, "fnop")
CASE(fwait, "fwait")
CASE(sse, "xorps %%xmm0, %%xmm0")
CASE(emms, "emms")
CASE(load, "mov (%0), %%al")
CASE_PRE(limit_ds, "mov $0xfff8, %%eax", "mov %%eax, %%ds")
CASE_PRE(limit_fs, "mov $0xfffb, %%eax", "mov %%eax, %%fs")
CASE_PRE(ldt_none, "mov $0x0c, %%eax", "mov %%eax, %%fs")
CASE_PRE(system_ds, "mov $0x50, %%eax", "mov %%eax, %%ds")
CASE_PRE(np_ds, "mov $0x68, %%eax", "mov %%eax, %%ds")
CASE_PRE(np_ss, "mov $0x68, %%eax", "mov %%eax, %%ss")
CASE_PRE(ro_ss, "mov $0x70, %%eax", "mov %%eax, %%ss")
CASE_PRE(rpl_ss, "mov $0x13, %%eax", "mov %%eax, %%ss")
CASE_PRE(msr_none, "mov $0xdeadbee0, %%ecx", "rdmsr")
CASE_PRE(msr_none_w, "mov $0xdeadbee0, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx", "wrmsr")
CASE_PRE(xsetbv_bad, "mov $7, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx", "xsetbv")
CASE_PRE(lldt_data, "mov $0x10, %%eax", "lldt %%ax")
CASE_PRE(ltr_busy, "mov $0x50, %%eax", "ltr %%ax")
#if IS64
CASE(store, "mov %%al, (%0)")
static void rbp_ss(void *p)
{
	__asm__ volatile("mov %%rbp, %%rdx; mov $0x8000000000000000, %%rbp\n" TRY(
				 "mov (%%rbp), %%al") "mov %%rdx, %%rbp"
			 :
			 :
			 : "rax", "rdx", "memory");
}
static void push_ss(void *p)
{
	__asm__ volatile("mov %%rsp, %%rdx; mov $0x8000000000000000, %%rsp\n" TRY(
				 "push %%rax") "mov %%rdx, %%rsp"
			 :
			 :
			 : "rax", "rdx", "memory");
}
CASE(jmp_to, "jmp *%0")
CASE(call_to, "call *%0")
static void ret_to(void *p)
{
	__asm__ volatile("push %0\n" TRY("ret") "lea 8(%%rsp), %%rsp" : : "r"(p) : "memory");
}
CASE(aaa, ".byte 0x37")
CASE(push_es, ".byte 0x06")
CASE(into64, ".byte 0xce")
CASE(far_ptr, ".byte 0x9a, 0, 0, 0, 0, 0, 0")
CASE(lds64, ".byte 0xd6")
#else
CASE_PRE(into, "mov $0x7fffffff, %%eax; inc %%eax", "into")
CASE_PRE(into_no, "xor %%eax, %%eax", "into")
static u32 bounds[2] = {5, 9};
static void bound(void *p)
{
	__asm__ volatile(TRY("bound %0, %1") : : "r"(p), "m"(bounds) : "memory");
}
#endif

static void user_none(void *p)
{
}
#if IS64
#define DI "rdi"
#else
#define DI "edi"
#endif
#define USER_CASE(id, text)                                                                  \
	USER static void id(void *p)                                                         \
	{                                                                                    \
		__asm__ volatile(text : : "r"(p) : "eax", "ecx", "edx", DI, "memory", "cc"); \
	}
USER_CASE(u_hlt, "hlt")
USER_CASE(u_cli, "cli")
USER_CASE(u_sti, "sti")
USER_CASE(u_in, "in $0x80, %%al")
USER_CASE(u_out, "out %%al, $0x80")
USER_CASE(u_in_word, "in $0x80, %%ax")
USER_CASE(u_in_dword, "mov $0x7e, %%edx; inl %%dx, %%eax")
USER_CASE(u_out_far, "mov $0x1234, %%edx; outb %%al, %%dx")
USER_CASE(u_in_last, "mov $0xffff, %%edx; inb %%dx, %%al")
USER_CASE(u_in_beyond, "mov $0xffff, %%edx; inw %%dx, %%ax")
USER_CASE(u_ins_ok, "mov $0x80, %%edx; mov %0, %%" DI "; insb")
USER_CASE(u_ins, "mov $0x80, %%edx; insb")
USER_CASE(u_cr0, ".byte 0x0f, 0x20, 0xc0")
USER_CASE(u_dr, ".byte 0x0f, 0x21, 0xf0")
USER_CASE(u_rdmsr, "mov $0x10, %%ecx; rdmsr")
USER_CASE(u_lgdt, "lgdt (%0)")
USER_CASE(u_lidt, "lidt (%0)")
USER_CASE(u_ltr, "mov $0x50, %%eax; ltr %%ax")
USER_CASE(u_lmsw, "smsw %%ax; lmsw %%ax")
USER_CASE(u_clts, "clts")
USER_CASE(u_invlpg, "invlpg (%0)")
USER_CASE(u_wbinvd, "wbinvd")
USER_CASE(u_int20, "int $0x20")
USER_CASE(u_int3, "int3")
USER_CASE(u_int14, "int $14")
USER_CASE(u_icebp, ".byte 0xf1")
USER_CASE(u_rdtsc, "rdtsc")
USER_CASE(u_rdpmc, "xor %%ecx, %%ecx; rdpmc")
USER_CASE(u_sgdt, "sub $32, %%"
		  "esp; sgdt (%0)")
USER_CASE(u_str, "str %%ax")
USER_CASE(u_smsw, "smsw %%ax")
USER_CASE(u_load, "mov (%0), %%al")
USER_CASE(u_load_off, "mov 1(%0), %%eax")
USER_CASE(u_load_off8, "movw 1(%0), %%ax")
USER_CASE(u_push_kernel_ds, "mov $0x10, %%eax; mov %%eax, %%ds")
USER_CASE(u_null_ss, "xor %%eax, %%eax; mov %%eax, %%ss")
USER_CASE(u_invd, "invd")
#if IS64
USER_CASE(u_swapgs, ".byte 0x0f, 0x01, 0xf8")
#endif

static void user(const char *name, void (*fn)(void *), void *arg, int vector, u32 error)
{
	trap_user(fn, arg);
	if (!report(trap_vector() == vector && (vector < 0 || trap_last()->error == error),
		    "user: %s", name))
		note("want vector %d error %x, got %d error %x", vector, error, trap_vector(),
		     trap_last()->error);
}

static u8 scratch[64] __attribute__((aligned(64)));

static void simple(void)
{
	check("DIV by 0", div_zero, NULL, EXC_DE, 0, FAULT);
	check("IDIV overflow", idiv_overflow, NULL, EXC_DE, 0, FAULT);
	check("DIV quotient too big", div_byte, NULL, EXC_DE, 0, FAULT);
	check("INT1 (F1)", icebp, NULL, EXC_DB, 0, TRAP_AFTER);
	check("INT3", int3, NULL, EXC_BP, 0, TRAP_AFTER);
	check("INT 3", int_3, NULL, EXC_BP, 0, TRAP_AFTER);
	check("UD0", ud0, NULL, EXC_UD, 0, FAULT);
	check("UD1", ud1, NULL, EXC_UD, 0, FAULT);
	check("UD2", ud2, NULL, EXC_UD, 0, FAULT);
	check("LOCK NOP", lock_nop, NULL, EXC_UD, 0, FAULT);
	check("LOCK with a register", lock_reg, NULL, EXC_UD, 0, FAULT);
	check("MOV to CS", mov_cs, NULL, EXC_UD, 0, FAULT);
	check("MOV from CR1", bad_cr, NULL, EXC_UD, 0, FAULT);
	check("16 bytes long", long_insn, NULL, EXC_GP, 0, FAULT);
	check("15 bytes long", longest_insn, NULL, -1, 0, FAULT);
#if IS64
	check("non-canonical load", load, (void *)0x8000000000000000, EXC_GP, 0, FAULT);
	check("non-canonical store", store, (void *)0x0000800000000000, EXC_GP, 0, FAULT);
	check("JMP to a non-canonical address", jmp_to, (void *)0x8000000000000000, EXC_GP, 0,
	      FAULT);
	/* tags of empty entries in caches of branch targets may look like these */
	check("JMP to 1 - 2^62", jmp_to, (void *)0xc000000000000001, EXC_GP, 0, FAULT);
	check("CALL 1 - 2^62", call_to, (void *)0xc000000000000001, EXC_GP, 0, FAULT);
	check("RET to 1 - 2^62", ret_to, (void *)0xc000000000000001, EXC_GP, 0, FAULT);
	check("non-canonical by RBP", rbp_ss, NULL, EXC_SS, 0, FAULT);
	idt_set_ist(EXC_SS, 2);
	check("non-canonical PUSH", push_ss, NULL, EXC_SS, 0, FAULT);
	idt_set_ist(EXC_SS, 0);
	check("AAA in 64-bit mode", aaa, NULL, EXC_UD, 0, FAULT);
	check("PUSH ES in 64-bit mode", push_es, NULL, EXC_UD, 0, FAULT);
	check("INTO in 64-bit mode", into64, NULL, EXC_UD, 0, FAULT);
	check("CALL far direct in 64-bit mode", far_ptr, NULL, EXC_UD, 0, FAULT);
	check("SALC in 64-bit mode", lds64, NULL, EXC_UD, 0, FAULT);
#else
	check("INTO", into, NULL, EXC_OF, 0, TRAP_AFTER);
	check("INTO without overflow", into_no, NULL, -1, 0, FAULT);
	check("BOUND below", bound, (void *)4, EXC_BR, 0, FAULT);
	check("BOUND above", bound, (void *)10, EXC_BR, 0, FAULT);
	check("BOUND inside", bound, (void *)9, -1, 0, FAULT);
#endif
	check("RDMSR of none", msr_none, NULL, EXC_GP, 0, FAULT);
	check("WRMSR of none", msr_none_w, NULL, EXC_GP, 0, FAULT);
}

static void selectors(void)
{
	/* SEL_FREE: data, not present; next: read-only data */
	gdt_set(SEL_FREE, descriptor(0, 0xfffff, 0x13, 0xc));
	gdt_set(SEL_FREE + 8, descriptor(0, 0xfffff, 0x91, 0xc));
	check("DS beyond the GDT", limit_ds, NULL, EXC_GP, 0xfff8, FAULT);
	check("FS beyond the GDT, RPL 3", limit_fs, NULL, EXC_GP, 0xfff8, FAULT);
	check("FS from an empty LDT", ldt_none, NULL, EXC_GP, 0x0c, FAULT);
	check("DS with a system descriptor", system_ds, NULL, EXC_GP, 0x50, FAULT);
	check("DS not present", np_ds, NULL, EXC_NP, 0x68, FAULT);
	check("SS not present", np_ss, NULL, EXC_SS, 0x68, FAULT);
	check("SS read-only", ro_ss, NULL, EXC_GP, 0x70, FAULT);
	check("SS with another RPL", rpl_ss, NULL, EXC_GP, 0x10, FAULT);
	check("LLDT of a data segment", lldt_data, NULL, EXC_GP, 0x10, FAULT);
	check("LTR of a busy TSS", ltr_busy, NULL, EXC_GP, 0x50, FAULT);
}

/* ---- far transfers ---- */

static struct {
	u32 offset;
	u16 sel;
} far __attribute__((aligned(16)));

CASE(far_jmp, "ljmpl *(%0)")
CASE(far_call, "lcall *(%0)")
static void far_ret(void *p)
{
#if IS64
	__asm__ volatile("mov %%rsp, %%rdx; mov %0, %%rcx; sub $8, %%rsp\n"
			 "movl %k1, 4(%%rsp); lea 1f(%%rip), %%rax; mov %%eax, (%%rsp)\n" TRY(
				 "lretl") "1: mov %%rdx, %%rsp"
			 :
			 : "r"(p), "r"((ulong)far.sel)
			 : "rax", "rcx", "rdx", "memory");
#else
	__asm__ volatile("mov %%esp, %%edx; push %0; push $1f\n" TRY("lret") "1: mov %%edx, %%esp"
			 :
			 : "r"((ulong)far.sel)
			 : "edx", "memory");
#endif
}

static void far_transfers(void)
{
	static const struct {
		const char *name;
		void (*fn)(void *);
		bool ret;
	} kinds[] = {{"JMP", far_jmp, false}, {"CALL", far_call, false}, {"RET", far_ret, true}};
	static const struct {
		const char *name;
		u16 sel;
		u8 access, flags; /* of SEL_FREE */
		int vector;
		u32 error;
	} bad[] = {
		{"null", 0, 0, 0, EXC_GP, 0},
		{"null with RPL 3", 3, 0, 0, EXC_GP, 0},
		{"beyond the GDT", 0xfff8, 0, 0, EXC_GP, 0xfff8},
		{"in an empty LDT", 0x0c, 0, 0, EXC_GP, 0x0c},
		{"data", SEL_KDATA, 0, 0, EXC_GP, SEL_KDATA},
		{"code of level 3", SEL_FREE, 0xfb, IS64 ? 0xa : 0xc, EXC_GP, SEL_FREE},
		{"conforming code of level 3", SEL_FREE, 0xff, IS64 ? 0xa : 0xc, EXC_GP, SEL_FREE},
		{"code that is not present", SEL_FREE, 0x1b, IS64 ? 0xa : 0xc, EXC_NP, SEL_FREE},
		{"a system segment of no use", SEL_FREE, 0x80, 0, EXC_GP, SEL_FREE},
		{"an LDT", SEL_FREE, 0x82, 0, EXC_GP, SEL_FREE},
		{"an interrupt gate", SEL_FREE, 0x8e, 0, EXC_GP, SEL_FREE},
#if IS64
		{"code with L and D", SEL_FREE, 0x9b, 0xe, EXC_GP, SEL_FREE},
		{"a TSS", SEL_TSS, 0, 0, EXC_GP, SEL_TSS},
#endif
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
			char name[80];

			/* RET asks for the RPL first: level 3's code is no error of its own with RPL 3. */
			if (kinds[k].ret && bad[i].sel == 3)
				continue;
			gdt_set(SEL_FREE, descriptor(0, 0xfffff, bad[i].access, bad[i].flags));
			gdt_set(SEL_FREE + 8, 0);
			far.offset = 0x1000;
			far.sel = bad[i].sel;
			snprintf(name, sizeof(name), "%s far: %s", kinds[k].name, bad[i].name);
			check(name, kinds[k].fn, &far, bad[i].vector, bad[i].error, FAULT);
		}
}

#if IS64
/* ---- call gates of 16 bytes ---- */

__asm__(".text\ngate64: mov 8(%rsp), %eax; mov %eax, gate64_cs(%rip); lretq\n"
	".section .user, \"ax\"\n through_gate64: lcall *gate64_far(%rip); ret\n"
	"gate64_far: .long 0, 0x80\n .text\n");
extern char gate64[], through_gate64[];
u32 gate64_cs;

static void set_gate(u16 sel, u8 access, u32 type_above)
{
	ulong at = (ulong)gate64;

	gdt_set(0x80, (at & 0xffff) | (u64)sel << 16 | (u64)access << 40 |
			      (u64)((at >> 16) & 0xffff) << 48);
	gdt_set(0x88, at >> 32 | (u64)type_above << 40);
}

static int call_gate(void)
{
	gate64_cs = 0;
	trap_user((void (*)(void *))through_gate64, NULL);
	return trap_vector();
}

static bool gate_faults(int vector, u32 error)
{
	return call_gate() == vector && trap_last()->error == error;
}

static void call_gates(void)
{
	set_gate(SEL_KCODE, 0xec, 0);
	report(call_gate() == -1 && gate64_cs == (SEL_UCODE | 3), "call gate: to level 0 and back");
	set_gate(SEL_KCODE, 0x8c, 0);
	report(gate_faults(EXC_GP, 0x80), "call gate: of level 0");
	set_gate(SEL_KCODE, 0x6c, 0);
	report(gate_faults(EXC_NP, 0x80), "call gate: not present");
	set_gate(SEL_KCODE, 0xec, 1);
	report(gate_faults(EXC_GP, 0x80), "call gate: a type in its upper half");
	set_gate(0, 0xec, 0);
	report(gate_faults(EXC_GP, 0), "call gate: to a null selector");
	set_gate(SEL_KDATA, 0xec, 0);
	report(gate_faults(EXC_GP, SEL_KDATA), "call gate: to data");
	set_gate(SEL_KCODE32, 0xec, 0);
	report(gate_faults(EXC_GP, SEL_KCODE32), "call gate: to 32-bit code");
	set_gate(0xfff0, 0xec, 0);
	report(gate_faults(EXC_GP, 0xfff0), "call gate: beyond the GDT");
	gdt_set(SEL_FREE, descriptor(0, 0xfffff, 0x1b, 0xa));
	set_gate(SEL_FREE, 0xec, 0);
	report(gate_faults(EXC_NP, SEL_FREE), "call gate: to code that is not present");
	set_gate(SEL_KCODE, 0xe4, 0);
	report(gate_faults(EXC_GP, 0x80), "call gate: of 16 bits");
}
#endif

static void fpu(void)
{
	ulong cr0 = read_cr0(), cr4 = read_cr4();

	write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
	write_cr0((cr0 & ~(ulong)(CR0_EM | CR0_MP)) | CR0_TS);
	check("x87 with CR0.TS", fnop, NULL, EXC_NM, 0, FAULT);
	check("SSE with CR0.TS", sse, NULL, EXC_NM, 0, FAULT);
	check("MMX with CR0.TS", emms, NULL, EXC_NM, 0, FAULT);
	check("FWAIT with CR0.TS, not MP", fwait, NULL, -1, 0, FAULT);
	write_cr0((cr0 & ~(ulong)CR0_EM) | CR0_TS | CR0_MP);
	check("FWAIT with CR0.TS and MP", fwait, NULL, EXC_NM, 0, FAULT);
	write_cr0((cr0 | CR0_EM) & ~(ulong)CR0_TS);
	check("x87 with CR0.EM", fnop, NULL, EXC_NM, 0, FAULT);
	check("SSE with CR0.EM", sse, NULL, EXC_UD, 0, FAULT);
	check("MMX with CR0.EM", emms, NULL, EXC_UD, 0, FAULT);
	write_cr0(cr0 & ~(ulong)(CR0_EM | CR0_TS));
	write_cr4(cr4 & ~(ulong)CR4_OSFXSR);
	check("SSE without CR4.OSFXSR", sse, NULL, EXC_UD, 0, FAULT);
	if (HAS(XSAVE)) {
		check("XSETBV without CR4.OSXSAVE", xsetbv_bad, NULL, EXC_UD, 0, FAULT);
		write_cr4(cr4 | CR4_OSXSAVE | CR4_OSFXSR);
		check("XSETBV of XCR7", xsetbv_bad, NULL, EXC_GP, 0, FAULT);
	}
	write_cr0(cr0);
	write_cr4(cr4);
}

static void user_mode(void)
{
	ulong cr0 = read_cr0(), cr4 = read_cr4();

	user_map();
	user("nothing", user_none, NULL, -1, 0);
	user("HLT", u_hlt, NULL, EXC_GP, 0);
	user("CLI", u_cli, NULL, EXC_GP, 0);
	user("STI", u_sti, NULL, EXC_GP, 0);
	user("IN", u_in, NULL, EXC_GP, 0);
	user("OUT", u_out, NULL, EXC_GP, 0);
	user("INS", u_ins, NULL, EXC_GP, 0);
	user("MOV from CR0", u_cr0, NULL, EXC_GP, 0);
	user("MOV from DR6", u_dr, NULL, EXC_GP, 0);
	user("RDMSR", u_rdmsr, NULL, EXC_GP, 0);
	user("LGDT", u_lgdt, scratch, EXC_GP, 0);
	user("LIDT", u_lidt, scratch, EXC_GP, 0);
	user("LTR", u_ltr, NULL, EXC_GP, 0);
	user("LMSW", u_lmsw, NULL, EXC_GP, 0);
	user("CLTS", u_clts, NULL, EXC_GP, 0);
	user("INVLPG", u_invlpg, scratch, EXC_GP, 0);
	user("WBINVD", u_wbinvd, NULL, EXC_GP, 0);
	user("INVD", u_invd, NULL, EXC_GP, 0);
#if IS64
	user("SWAPGS", u_swapgs, NULL, EXC_GP, 0);
#endif
	user("INT 0x20, gate of level 0", u_int20, NULL, EXC_GP, 0x20 * 8 + 2);
	user("INT 14, gate of level 0", u_int14, NULL, EXC_GP, 14 * 8 + 2);
	user("INT3", u_int3, NULL, EXC_BP, 0);
	user("INT1 (F1), gate of level 0", u_icebp, NULL, EXC_DB, 0);
	user("RDTSC", u_rdtsc, NULL, -1, 0);
	write_cr4(cr4 | CR4_TSD);
	user("RDTSC with CR4.TSD", u_rdtsc, NULL, EXC_GP, 0);
	write_cr4(cr4);
	user("RDPMC without CR4.PCE", u_rdpmc, NULL, EXC_GP, 0);
	user("SS null", u_null_ss, NULL, EXC_GP, 0);
	user("DS of level 0", u_push_kernel_ds, NULL, EXC_GP, 0x10);
	user("SMSW", u_smsw, NULL, -1, 0);
	if (HAS(UMIP)) {
		write_cr4(cr4 | CR4_UMIP);
		user("SMSW with UMIP", u_smsw, NULL, EXC_GP, 0);
		user("STR with UMIP", u_str, NULL, EXC_GP, 0);
		user("SGDT with UMIP", u_sgdt, scratch, EXC_GP, 0);
		write_cr4(cr4);
	} else {
		report_skip("UMIP");
	}
	/* Alignment: only at level 3, with CR0.AM and EFLAGS.AC. */
	write_cr0(cr0 | CR0_AM);
	{
		struct regs r;
		ulong *sp = (ulong *)user_stack();

		memset(&r, 0, sizeof(r));
#if IS64
		r.di = (ulong)scratch;
#else
		*--sp = (ulong)scratch;
		*--sp = 0;
		r.ds = r.es = SEL_UDATA | 3;
#endif
		r.ip = (ulong)u_load_off;
		r.cs = SEL_UCODE | 3;
		r.ss = SEL_UDATA | 3;
		r.sp = (ulong)sp;
		r.flags = 2 | FL_AC;
		report(trap_enter(&r) == EXC_AC && !trap_last()->error, "user: #AC of 4 bytes");
		r.ip = (ulong)u_load_off8;
		report(trap_enter(&r) == EXC_AC && !trap_last()->error, "user: #AC of 2 bytes");
		r.flags = 2;
		r.ip = (ulong)u_load_off;
		report(trap_enter(&r) != EXC_AC, "user: no #AC without EFLAGS.AC");
	}
	write_cr0(cr0);
	{
		ulong va = va_alloc();

		user("page not present", u_load, (void *)va, EXC_PF, PF_U);
		report(trap_last()->cr2 == va, "CR2");
	}
}

/* The I/O permission map: every byte's bit, its end, and IOPL, which overrides it. */
static void io_map(void)
{
	struct tss *tss = &this_cpu()->tss;
	u16 iomap = tss->iomap;
	u8 *map = tss->io;

	memset(map, 0xff, sizeof(tss->io));
	map[0x80 / 8] = 0xfe;
	user("I/O map: a port that is open", u_in, NULL, -1, 0);
	user("I/O map: OUT to it", u_out, NULL, -1, 0);
	user("I/O map: INS from it", u_ins_ok, (void *)(user_stack() - 2048), -1, 0);
	user("I/O map: a word of which one port is open", u_in_word, NULL, EXC_GP, 0);
	user("I/O map: four ports across two bytes", u_in_dword, NULL, EXC_GP, 0);
	map[0x80 / 8] = 0xfc;
	user("I/O map: a word", u_in_word, NULL, -1, 0);
	map[0x78 / 8] = 0x3f;
	user("I/O map: four ports", u_in_dword, NULL, -1, 0);
	map[0x1234 / 8] = (u8) ~(1 << (0x1234 % 8));
	user("I/O map: a high port", u_out_far, NULL, -1, 0);
	map[0xffff / 8] = 0x7f;
	user("I/O map: the last port", u_in_last, NULL, -1, 0);
	user("I/O map: beyond the last port", u_in_beyond, NULL, EXC_GP, 0);
	tss->iomap = sizeof(struct tss) - 0x1234 / 8;
	map[0x80 / 8] = 0;
	user("I/O map: it ends with the TSS's limit", u_out_far, NULL, EXC_GP, 0);
	tss->iomap = 0xffff;
	user("I/O map: none", u_in, NULL, EXC_GP, 0);
	{
		struct regs r;

		memset(&r, 0, sizeof(r));
		r.ip = (ulong)u_in;
		r.cs = SEL_UCODE | 3;
		r.ss = SEL_UDATA | 3;
		r.sp = user_stack() - 64;
#if !IS64
		r.ds = r.es = SEL_UDATA | 3;
#endif
		((ulong *)r.sp)[0] = (ulong)u_hlt;
		r.flags = 2 | FL_IOPL;
		report(trap_enter(&r) == EXC_GP && trap_last()->ip != (ulong)u_in,
		       "user: IN with IOPL 3");
	}
	tss->iomap = iomap;
	memset(map, 0xff, sizeof(tss->io));
}

CASE(int_gate, "int $0x60")

static void gates(void)
{
	struct table_reg idtr = sidt(), small = {0x98 * 8 + 7, idtr.base};
	struct gate old = idt[0x60];

	lidt(&small);
	check("INT beyond the IDT", int_n_limit, NULL, EXC_GP, 0x99 * 8 + 2, FAULT);
	lidt(&idtr);
	idt[0x60].type &= 0x7f;
	check("gate not present", int_gate, NULL, EXC_NP, 0x60 * 8 + 2, FAULT);
	idt[0x60] = old;
	idt[0x60].type = 0x92;
	check("gate of a wrong type", int_gate, NULL, EXC_GP, 0x60 * 8 + 2, FAULT);
	idt[0x60] = old;
	idt[0x60].sel = 0;
	check("gate with CS 0", int_gate, NULL, EXC_GP, 0, FAULT);
	idt[0x60].sel = SEL_KDATA;
	check("gate with a data segment", int_gate, NULL, EXC_GP, SEL_KDATA, FAULT);
	idt[0x60].sel = 0xfff0;
	check("gate with CS beyond the GDT", int_gate, NULL, EXC_GP, 0xfff0, FAULT);
	gdt_set(SEL_FREE, descriptor(0, 0xfffff, 0x1b, IS64 ? 0xa : 0xc));
	idt[0x60].sel = SEL_FREE;
	check("gate with CS not present", int_gate, NULL, EXC_NP, SEL_FREE, FAULT);
#if IS64
	idt[0x60].sel = SEL_KCODE32;
	check("gate with a 32-bit CS", int_gate, NULL, EXC_GP, SEL_KCODE32, FAULT);
#endif
	idt[0x60] = old;
}

/* Delivery that fails: benign first, then the classes that make a double fault. */
static void nested(void)
{
	ulong va = va_alloc();
	struct gate ud = idt[EXC_UD], de = idt[EXC_DE], pf = idt[EXC_PF], gp = idt[EXC_GP];

	idt[EXC_UD].type &= 0x7f;
	check("#UD gate not present: #NP with EXT", ud2, NULL, EXC_NP, EXC_UD * 8 + 3, FAULT);
	idt[EXC_UD] = ud;

	idt[EXC_DE].type &= 0x7f;
	trap_guard(div_zero, NULL);
	report(trap_vector() == EXC_DF && !trap_last()->error, "#DE, then #NP: double fault");
	idt[EXC_DE] = de;

	idt[EXC_PF].type &= 0x7f;
	trap_guard(load, (void *)va);
	report(trap_vector() == EXC_DF && !trap_last()->error, "#PF, then #NP: double fault");
	report(read_cr2() == va, "CR2 of the #PF");
	idt[EXC_PF] = pf;

	idt[EXC_GP].type &= 0x7f;
	trap_guard(msr_none, NULL);
	report(trap_vector() == EXC_DF, "#GP, then #NP: double fault");
	idt[EXC_GP] = gp;

	irq_set(0x70, NULL);
	idt[0x70].type &= 0x7f;
	apic_icr(ICR_SELF | ICR_ASSERT | 0x70, 0);
	trap_clear();
	__asm__ volatile("sti; nop\n" TRY("nop") "cli" ::: "memory");
	report(trap_vector() == EXC_NP && trap_last()->error == 0x70 * 8 + 3,
	       "interrupt gate not present: #NP with EXT");
	idt_reset(0x70);
	/* It was accepted, or is still there: both end here. */
	apic_eoi();
}

void test_main(void)
{
	simple();
	selectors();
	far_transfers();
	gates();
	fpu();
	user_mode();
	io_map();
#if IS64
	call_gates();
#endif
	nested();
}
