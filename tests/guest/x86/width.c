/*
 * Operand widths: outside 64-bit mode no upper half of a register leaks into anything, and 32-bit
 * results clear it in 64-bit mode. The 64-bit kernel runs each case in compatibility mode with
 * garbage in the upper halves. Source: SDM "Basic Execution Environment": operand and address
 * size in 64-bit mode; the instructions' pages.
 */
#include "x86/paging.h"

#if IS64
#define JUNK 0xdeadbeef00000000ul

static ulong out[16];

/*
 * Runs 32-bit code at `code` (ends with a far return to 64-bit code at the address on the stack).
 * Registers in and out by a block.
 */
struct state {
	ulong ax, bx, cx, dx, si, di, bp;
};
void run32(void *code, struct state *s);
__asm__(".text\n"
	"run32: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"mov %rsi, %r15\n mov %rsp, %r14\n mov %rdi, %r13\n"
	"mov (%rsi), %rax; mov 8(%rsi), %rbx; mov 16(%rsi), %rcx; mov 24(%rsi), %rdx\n"
	"mov 40(%rsi), %rdi; mov 48(%rsi), %rbp; mov 32(%rsi), %rsi\n"
	"sub $16, %rsp\n movl $run32_back, (%rsp)\n movl $0x08, 4(%rsp)\n"
	"sub $8, %rsp; mov %r13d, (%rsp); movl $0x38, 4(%rsp)\n lretl\n"
	"run32_back: mov %r14, %rsp\n"
	"mov %rax, (%r15); mov %rbx, 8(%r15); mov %rcx, 16(%r15); mov %rdx, 24(%r15)\n"
	"mov %rsi, 32(%r15); mov %rdi, 40(%r15); mov %rbp, 48(%r15)\n"
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n ret\n");

#define CODE32(name, text)                                                  \
	__asm__(".text\n .code32\n" #name ": " text "\n lret\n .code64\n"); \
	extern char name[];

CODE32(c_load, "mov (%ebx), %eax")
CODE32(c_sib, "mov 4(%ebx,%ecx,4), %eax")
CODE32(c_lea, "lea 8(%ebx,%ecx,2), %eax")
CODE32(c_lea16, ".byte 0x67, 0x8d, 0x40, 0x10") /* lea 0x10(%bx,%si), %eax */
CODE32(c_push, "push %ebx; pop %eax")
CODE32(c_cr3, "mov %cr3, %eax; mov %eax, %cr3")
CODE32(c_dr, "mov %ebx, %dr0; mov %dr0, %eax")
CODE32(c_dr1, "mov %ebx, %dr1; mov %dr1, %eax")
CODE32(c_dr2, "mov %ebx, %dr2; mov %dr2, %eax")
CODE32(c_dr3, "mov %ebx, %dr3; mov %dr3, %eax")
CODE32(c_dr6, "mov %ebx, %dr6; mov %dr6, %eax")
CODE32(c_fromdr1, "mov %dr1, %eax")
CODE32(c_dr7, "mov %ebx, %dr7; mov %dr7, %eax; mov %ebx, %ecx; xor %ecx, %ecx; mov %ecx, %dr7")
CODE32(c_cr4, "mov %cr4, %eax; mov %eax, %cr4")
CODE32(c_cr0, "mov %cr0, %eax; mov %eax, %cr0")
CODE32(c_stos, "mov $2, %ecx; rep stosl")
CODE32(c_movs, "rep movsb")
CODE32(c_loop, "xor %eax, %eax; 1: inc %eax; loop 1b")
CODE32(c_jcxz, "mov $1, %eax; jecxz 1f; mov $2, %eax; 1:")
CODE32(c_jmp, "mov $1f, %edx; jmp *%edx; ud2; 1: mov $5, %eax")
CODE32(c_call, "call *%ebx")
CODE32(c_sub, "mov $77, %eax; ret")
CODE32(c_invlpg, "invlpg (%ebx)")
CODE32(c_xlat, "xlat")
CODE32(c_cmpxchg8b, "lock cmpxchg8b (%edi); setz %al; movzx %al, %eax")
CODE32(c_inc40, "mov $0x41, %ecx; .byte 0x41") /* inc %ecx, not a REX prefix */
CODE32(c_pusha, "pusha; popa")
CODE32(c_leave, "mov %esp, %edx; enter $16, $0; leave; sub %esp, %edx; mov %edx, %eax")
CODE32(c_wrap, "mov 0x10(%ebx), %eax")
CODE32(c_wrmsr, "mov $0xc0000103, %ecx; rdmsr; wrmsr")
CODE32(c_bt, "bt %ecx, (%ebx); setc %al; movzx %al, %eax")
CODE32(c_str, "str %eax")
CODE32(c_smsw, "smsw %eax")
CODE32(c_tocr3, "mov %eax, %cr3")
CODE32(c_tocr4, "mov %eax, %cr4")
CODE32(c_tocr0, "mov %eax, %cr0")
CODE32(c_tocr2, "mov %eax, %cr2")
CODE32(c_todr7, "mov %eax, %dr7")
CODE32(c_lmsw, "lmsw %ax")
CODE32(c_fromcr, "mov %cr2, %eax")
CODE32(c_vmcall, "vmcall")
CODE32(c_vmmcall, "vmmcall")
CODE32(c_in, "in $0x61, %al; movzx %al, %eax")
CODE32(c_rdmsr, "rdmsr")
CODE32(c_cpuid, "cpuid")
CODE32(c_xgetbv, "xgetbv")
CODE32(c_xsetbv, "xor %edx, %edx; xsetbv")
CODE32(c_rdpkru, "rdpkru")
CODE32(c_wrpkru, "xor %edx, %edx; wrpkru")
CODE32(c_invpcid, "invpcid (%ebx), %eax; mov $1, %eax")
CODE32(c_clflush, "clflush (%ebx); mov $1, %eax")
CODE32(c_lods, "lodsl")
CODE32(c_scas, "scasl; setz %al; movzx %al, %eax")
CODE32(c_cmps, "cmpsl; setz %al; movzx %al, %eax")
CODE32(c_ins, "mov $0xcf8, %edx; insl")
CODE32(c_outs, "mov $0xcf8, %edx; outsl")
CODE32(c_callmem, "call *(%ebx)")
CODE32(c_jmpmem, "mov $1f, %edx; mov %edx, (%ebx); jmp *(%ebx); ud2; 1: mov $6, %eax")
CODE32(c_callfar, "movl $c_sub_far, (%ebx); movw %cs, 4(%ebx); lcall *(%ebx)")
CODE32(c_popmem, "push $0x77; popl (%ebx); mov (%ebx), %eax")
CODE32(c_pushmem, "pushl (%ebx); pop %eax")
CODE32(c_pushf, "mov %esp, %edx; pushf; pop %eax; sub %esp, %edx; mov %edx, %eax")
CODE32(c_sgdt, "sgdt (%ebx)")
CODE32(c_lfs, "lfs (%ebx), %eax")
CODE32(c_cr8, ".byte 0xf0; mov %cr0, %eax")
CODE32(c_tocr8, ".byte 0xf0; mov %eax, %cr0")
CODE32(c_vmread, "vmread %eax, %ebx")
CODE32(c_vmwrite, "vmwrite %ebx, %eax")
CODE32(c_invlpga, "invlpga")
CODE32(c_monitor, "xor %ecx, %ecx; xor %edx, %edx; monitor; mov $1, %eax")
CODE32(c_div, "mov $7, %ecx; xor %edx, %edx; div %ecx")
CODE32(c_mul, "mul %ebx")
CODE32(c_cmpxchg, "lock cmpxchg %ecx, (%ebx)")
CODE32(c_bsr, "bsr %ebx, %eax")
CODE32(c_test, "test %ebx, %ebx; setz %al; movzx %al, %eax")
CODE32(c_shr, "shr $1, %eax")
CODE32(c_rcr, "clc; rcr $1, %eax")
CODE32(c_xadd, "xadd %eax, (%ebx)")
CODE32(c_sub_far, "mov $78, %eax")

static struct state now;

static void go_inside(void *code)
{
	run32(code, &now);
}
/* An exception ends it: trap_vector() tells, and RAX is none that a case expects. */
static struct state go(void *code, ulong ax, ulong bx, ulong cx, ulong si, ulong di)
{
	now = (struct state){JUNK | ax, JUNK | bx, JUNK | cx, JUNK | 0x55,
			     JUNK | si, JUNK | di, JUNK};
	if (trap_guard(go_inside, code) != -1) {
		note("vector %d error %x at %lx", trap_vector(), trap_last()->error,
		     trap_last()->ip);
		now.ax = 0xbad00bad;
	}
	return now;
}

static u32 cells[8] = {10, 11, 12, 13, 14, 15, 16, 17};

/* The upper half of the register is not looked at. Last: a machine that does is lost. */
static void upper_halves(void)
{
	ulong cr3 = read_cr3(), cr4 = read_cr4(), cr0 = read_cr0();

	go(c_tocr3, cr3, 0, 0, 0, 0);
	report_eq(read_cr3(), cr3, "MOV to CR3 takes EAX");
	go(c_tocr4, cr4 | CR4_DE, 0, 0, 0, 0);
	report_eq(read_cr4(), cr4 | CR4_DE, "MOV to CR4 takes EAX");
	write_cr4(cr4);
	go(c_tocr0, cr0 | CR0_AM, 0, 0, 0, 0);
	report_eq(read_cr0(), cr0 | CR0_AM, "MOV to CR0 takes EAX");
	write_cr0(cr0);
	go(c_tocr2, 0x12345678, 0, 0, 0, 0);
	report_eq(read_cr2(), 0x12345678, "MOV to CR2 takes EAX");
	write_cr2(0x123456789abc);
	report_eq(go(c_fromcr, 0, 0, 0, 0, 0).ax, 0x56789abc, "MOV from CR2 gives 32 bits");
	go(c_lmsw, cr0 & 0xf, 0, 0, 0, 0);
	report_eq(read_cr0(), cr0, "LMSW takes AX");
}

/* What was cached goes, although the register's upper half names another page. */
static void invalidation(void)
{
	u32 *one = page_alloc(), *two = page_alloc();
	ulong va = (ulong)page_alloc(); /* low, as these registers are */
	static u64 descriptor[2];

	*one = 1, *two = 2;
	map_page(va, (ulong)one, PT_P | PT_W);
	report_eq(go(c_load, 0, va, 0, 0, 0).ax, 1, "a page that is cached now");
	*pte_of(va) = (ulong)two | PT_P | PT_W;
	go(c_invlpg, 0, va, 0, 0, 0);
	report(trap_vector() == -1 && go(c_load, 0, va, 0, 0, 0).ax == 2, "INVLPG takes EBX");
	if (HAS(INVPCID)) {
		report_eq(go(c_invpcid, 2, (ulong)descriptor, 0, 0, 0).ax, 1,
			  "INVPCID: the type is EAX");
		*pte_of(va) = (ulong)one | PT_P | PT_W;
		descriptor[1] = va;
		report(go(c_invpcid, 0, (ulong)descriptor, 0, 0, 0).ax == 1 &&
			       go(c_load, 0, va, 0, 0, 0).ax == 1,
		       "INVPCID: the address in the descriptor has 64 bits");
	}
	map_page(va, va, PT_P | PT_W);
	if (HAS(CLFLUSH))
		report_eq(go(c_clflush, 0, va, 0, 0, 0).ax, 1, "CLFLUSH");
}

static void debug_registers(void)
{
	static const struct {
		void *code;
		ulong value;
	} dr[] = {
		{c_dr1, 0x11111111}, {c_dr2, 0x22222222}, {c_dr3, 0x33333333}, {c_dr6, 0xffff0ff0}};
	ulong (*const get[])(void) = {read_dr1, read_dr2, read_dr3, read_dr6};

	for (unsigned i = 0; i < ARRAY_SIZE(dr); i++) {
		report_eq((u32)go(dr[i].code, 0, dr[i].value, 0, 0, 0).ax, dr[i].value, "DR%u",
			  i < 3 ? i + 1 : 6);
		report_eq(get[i](), dr[i].value, "DR%u has no upper half", i < 3 ? i + 1 : 6);
	}
	write_dr1(0x123456789abc);
	report_eq(go(c_fromdr1, 0, 0, 0, 0, 0).ax, 0x56789abc, "MOV from DR1 gives 32 bits");
	write_dr1(0);
}

/* One by one: registers that are numbers, addresses, counts. */
static void forms(void)
{
	static u32 cell[4], other[4];
	ulong p = (ulong)cell;
	struct cpuid r = cpuid(0, 0);

	report_eq(go(c_rdmsr, 0, 0, MSR_EFER, 0, 0).ax, (u32)rdmsr(MSR_EFER),
		  "RDMSR: the number is ECX");
	report_eq(go(c_cpuid, 0, 0, 0, 0, 0).ax, r.a, "CPUID: the leaf is EAX");
	report_eq(go(c_cpuid, 0xd, 0, 0, 0, 0).ax, cpuid(0xd, 0).a, "CPUID: the index is ECX");
	cell[0] = 0x44332211, other[0] = 0x44332211;
	report_eq(go(c_lods, 0, 0, 0, p, 0).ax, 0x44332211, "LODS: ESI");
	report_eq(go(c_scas, 0x44332211, 0, 0, 0, p).ax, 1, "SCAS: EAX and EDI");
	report_eq(go(c_cmps, 0, 0, 0, p, (ulong)other).ax, 1, "CMPS: ESI and EDI");
	outl(0xcf8, 0x80001200);
	go(c_ins, 0, 0, 0, 0, p);
	report_eq(cell[0], 0x80001200, "INS: EDI");
	cell[0] = 0x80003400;
	go(c_outs, 0, 0, 0, p, 0);
	report_eq(inl(0xcf8), 0x80003400, "OUTS: ESI");
	outl(0xcf8, 0);
	cell[0] = (u32)(ulong)c_sub;
	report_eq(go(c_callmem, 0, p, 0, 0, 0).ax, 77, "CALL by memory has 32 bits");
	cell[1] = 0xffffffff;
	report_eq(go(c_jmpmem, 0, p, 0, 0, 0).ax, 6, "JMP by memory has 32 bits");
	report_eq(go(c_callfar, 0, p, 0, 0, 0).ax, 78, "CALL far by memory");
	cell[0] = cell[1] = 0;
	report(go(c_popmem, 0, p, 0, 0, 0).ax == 0x77 && !cell[1], "POP to memory");
	cell[0] = 0x1357;
	report_eq(go(c_pushmem, 0, p, 0, 0, 0).ax, 0x1357, "PUSH of memory");
	report_eq(go(c_pushf, 0, 0, 0, 0, 0).ax, 0, "PUSHF, POP");
	memset(cell, 0xee, sizeof(cell));
	go(c_sgdt, 0, p, 0, 0, 0);
	report(((u8 *)cell)[5] != 0xee && ((u8 *)cell)[6] == 0xee, "SGDT stores 6 bytes");
	cell[0] = 0x12345678, cell[1] = SEL_KDATA;
	report_eq(go(c_lfs, 0, p, 0, 0, 0).ax, 0x12345678, "LFS");
	report_eq(go(c_div, 70, 0, 0, 0, 0).ax, 10, "DIV divides EDX:EAX");
	report_eq(go(c_mul, 3, 5, 0, 0, 0).ax, 15, "MUL");
	cell[0] = 9;
	go(c_cmpxchg, 9, p, 4, 0, 0);
	report_eq(cell[0], 4, "CMPXCHG compares EAX");
	report_eq(go(c_bsr, 0, 0x80, 0, 0, 0).ax, 7, "BSR");
	report_eq(go(c_test, 0, 0, 0, 0, 0).ax, 1, "TEST of a register");
	report_eq(go(c_shr, 2, 0, 0, 0, 0).ax, 1, "SHR moves nothing in");
	report_eq(go(c_rcr, 2, 0, 0, 0, 0).ax, 1, "nor does RCR");
	cell[0] = 5, cell[1] = 0;
	report(go(c_xadd, 6, p, 0, 0, 0).ax == 5 && cell[0] == 11 && !cell[1], "XADD");
	if (HAS(MWAIT))
		report_eq(go(c_monitor, p, 0, 0, 0, 0).ax, 1, "MONITOR: the address is EAX");
	if (HAS(XSAVE)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		report_eq(go(c_xgetbv, 0, 0, 0, 0, 0).ax, 1, "XGETBV: the number is ECX");
		go(c_xsetbv, 3, 0, 0, 0, 0);
		report(trap_vector() == -1 && go(c_xgetbv, 0, 0, 0, 0, 0).ax == 3,
		       "XSETBV: ECX and EAX");
		go(c_xsetbv, 1, 0, 0, 0, 0);
		write_cr4(read_cr4() & ~(ulong)CR4_OSXSAVE);
	}
	if (HAS(PKU)) {
		write_cr4(read_cr4() | CR4_PKE);
		go(c_wrpkru, 0x55550000, 0, 0, 0, 0);
		report_eq(trap_vector(), -1, "WRPKRU: ECX");
		report_eq(go(c_rdpkru, 0, 0, 0, 0, 0).ax, 0x55550000, "RDPKRU: ECX");
		go(c_wrpkru, 0, 0, 0, 0, 0);
		write_cr4(read_cr4() & ~(ulong)CR4_PKE);
	}
	if (HAS(CR8_LEGACY)) {
		go(c_tocr8, 9, 0, 0, 0, 0);
		report(trap_vector() == -1 && read_cr8() == 9, "LOCK MOV to CR0 is CR8");
		report_eq(go(c_cr8, 0, 0, 0, 0, 0).ax, 9, "and from it");
		write_cr8(0);
	}
	/* Instructions of a hypervisor that this processor has not. */
	if (!HAS(VMX)) {
		go(c_vmread, 0, 0, 0, 0, 0);
		report_eq(trap_vector(), EXC_UD, "VMREAD without VMX");
		go(c_vmwrite, 0, 0, 0, 0, 0);
		report_eq(trap_vector(), EXC_UD, "VMWRITE without VMX");
	}
	if (!HAS(SVM)) {
		go(c_invlpga, 0, 0, 0, 0, 0);
		report_eq(trap_vector(), EXC_UD, "INVLPGA without SVM");
	}
}

static void compat(void)
{
	struct state s;
	ulong cr3 = read_cr3(), cr4 = read_cr4(), cr0 = read_cr0();
	ulong p = (ulong)cells;
	u8 text[8] = {0}, *t = pages_alloc(1);

	report_eq((u32)go(c_load, 0, p, 0, 0, 0).ax, 10, "load");
	report_eq((u32)go(c_sib, 0, p, 2, 0, 0).ax, 13, "load with an index");
	report_eq((u32)go(c_sib, 0, p + 16, 0xfffffffe, 0, 0).ax, 13,
		  "address calculation wraps at 4 GiB");
	report_eq((u32)go(c_lea, 0, 0xfffffff0, 0x10, 0, 0).ax, 0x18, "LEA wraps");
	report_eq((u32)go(c_lea16, 0, 0x1fff8, 0, 0x30, 0).ax, 0x38, "LEA with 16-bit addresses");
	report_eq((u32)go(c_push, 0, 0x1234, 0, 0, 0).ax, 0x1234, "PUSH, POP");
	go(c_cr3, 0, 0, 0, 0, 0);
	report_eq(read_cr3(), cr3, "CR3");
	go(c_cr4, 0, 0, 0, 0, 0);
	report_eq(read_cr4(), cr4, "CR4");
	go(c_cr0, 0, 0, 0, 0, 0);
	report_eq(read_cr0(), cr0, "CR0");
	report_eq((u32)go(c_dr, 0, 0x87654321, 0, 0, 0).ax, 0x87654321, "DR0");
	report_eq(read_dr0(), 0x87654321, "DR0 has no upper half");
	debug_registers();
	memset(t, 0, 16);
	s = go(c_stos, 0x31323334, 0, 0, 0, (ulong)t);
	report(*(u32 *)t == 0x31323334 && ((u32 *)t)[1] == 0x31323334 && !((u32 *)t)[2],
	       "REP STOS counts ECX");
	report_eq((u32)s.di, (ulong)t + 8, "EDI");
	go(c_movs, 0, 0, 5, p, (ulong)t);
	report(t[0] == 10 && t[4] == 11, "REP MOVS");
	(void)text;
	report_eq((u32)go(c_loop, 0, 0, 3, 0, 0).ax, 3, "LOOP counts ECX");
	report_eq((u32)go(c_jcxz, 0, 0, 0, 0, 0).ax, 1, "JECXZ looks at ECX");
	report_eq((u32)go(c_jmp, 0, 0, 0, 0, 0).ax, 5, "JMP by a register");
	report_eq((u32)go(c_call, 0, (ulong)c_sub, 0, 0, 0).ax, 77, "CALL by a register");
	invalidation();
	forms();
	report_eq((u8)go(c_xlat, 4, p, 0, 0, 0).ax, 11, "XLAT");
	cells[6] = 1, cells[7] = 2;
	{
		struct state in = {JUNK | 1, JUNK | 5, JUNK | 6,
				   JUNK | 2, JUNK,     JUNK | (ulong)&cells[6],
				   JUNK};

		run32(c_cmpxchg8b, &in);
		report((u32)in.ax == 1 && cells[6] == 5 && cells[7] == 6, "CMPXCHG8B");
	}
	report_eq((u32)go(c_inc40, 0, 0, 0, 0, 0).cx, 0x42, "0x41 is INC ECX");
	report_eq((u32)go(c_pusha, 0, 0x4321, 0, 0, 0).bx, 0x4321, "PUSHA, POPA");
	report_eq((u32)go(c_leave, 0, 0, 0, 0, 0).ax, 0, "ENTER, LEAVE");
	report_eq((u32)go(c_wrap, 0, 0xfffffff0 + p, 0, 0, 0).ax, 10, "displacement wraps");
	report_eq((u32)go(c_bt, 0, p, 33, 0, 0).ax, (cells[1] >> 1) & 1, "BT with a bit offset");
	if (cpu_has_kvm()) {
		void *call = cpu_is_intel() ? c_vmcall : c_vmmcall;

		report_eq(go(call, 1, 0, 0, 0, 0).ax, 0, "hypercall: the number is EAX");
		report_eq(go(call, 99, 0, 0, 0, 0).ax, 0xfffffc18, "hypercall: the result is EAX");
		if (HAS(KVM_HC_MAP_GPA_RANGE)) {
			report_eq(go(call, 12, 0x200000, 1, 0, 0).ax, 0,
				  "hypercall: its arguments are EBX, ECX, EDX");
			report_eq(go(call, 12, 0x200000, 0, 0, 0).ax, 0xffffffea,
				  "hypercall: no pages by ECX are none");
		}
		if (HAS(KVM_PV_SEND_IPI))
			report_eq(go(call, 10, 0, 0, 0, 0x99).ax, 0,
				  "hypercall: nobody's bits are set in EBX and ECX");
	}
	report_eq((u32)go(c_str, 0, 0, 0, 0, 0).ax, SEL_TSS, "STR");
	report_eq((u32)go(c_smsw, 0, 0, 0, 0, 0).ax, (u32)cr0, "SMSW");
	if (HAS(RDTSCP)) {
		wrmsr(MSR_TSC_AUX, 0x4711);
		go(c_wrmsr, 0, 0, 0, 0, 0);
		report_eq(rdmsr(MSR_TSC_AUX), 0x4711, "RDMSR, WRMSR");
	}
	go(c_in, 0, 0, 0, 0, 0);
}

static void long_mode(void)
{
	ulong v, w;

	__asm__ volatile("mov %1, %0; mov %k0, %k0" : "=&r"(v) : "r"(JUNK | 5));
	report_eq(v, 5, "a 32-bit move clears the upper half");
	__asm__ volatile("mov %1, %0; movw $7, %w0" : "=&r"(v) : "r"(JUNK | 5));
	report_eq(v, JUNK | 7, "a 16-bit move keeps it");
	__asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; mov %2, %%ecx; rdmsr"
			 : "=&a"(v), "=&d"(w)
			 : "i"(MSR_EFER)
			 : "rcx");
	report(!(v >> 32) && !(w >> 32), "RDMSR clears the upper halves");
	__asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; rdtsc" : "=&a"(v), "=&d"(w));
	report(!(v >> 32) && !(w >> 32), "RDTSC clears the upper halves");
	__asm__ volatile(
		"mov $-1, %%rax; mov $-1, %%rdx; mov $-1, %%rbx; xor %%ecx, %%ecx; cpuid; mov %%rbx, %0"
		: "=&S"(w), "=&a"(v)
		:
		: "rbx", "rcx", "rdx");
	report(!(w >> 32) && !(v >> 32), "CPUID clears the upper halves");
	__asm__ volatile("mov $-1, %%rax; in $0x61, %%eax" : "=&a"(v));
	report(!(v >> 32), "IN of 32 bits clears the upper half");
	__asm__ volatile("mov $-1, %%rax; inw $0x61, %%ax" : "=&a"(v));
	report_eq(v >> 16, 0xffffffffffff, "IN of 16 bits keeps it");
	__asm__ volatile("mov $-1, %0; str %k0" : "=&r"(v));
	report_eq(v, SEL_TSS, "STR of 32 bits clears the upper half");
	__asm__ volatile("mov $-1, %0; mov %%ds, %k0" : "=&r"(v));
	report_eq(v, SEL_KDATA, "MOV from DS of 32 bits");
	__asm__ volatile("mov $-1, %0; mov %%ds, %w0" : "=&r"(v));
	report_eq(v, 0xffffffffffff0000 | SEL_KDATA, "MOV from DS of 16 bits");
	__asm__ volatile("mov $-1, %0; lsl %1, %k0" : "=&r"(v) : "r"(SEL_KCODE) : "cc");
	report_eq(v, 0xffffffff, "LSL of 32 bits");
	__asm__ volatile("mov $-1, %0; lar %1, %k0" : "=&r"(v) : "r"(SEL_KCODE) : "cc");
	report_eq(v & ~0xf0000ul, 0xa09b00, "LAR of 32 bits");
	__asm__ volatile("mov $-1, %0; smsw %0" : "=&r"(v));
	report_eq(v, read_cr0(), "SMSW of 64 bits");
	{
		static u32 cell = 9;

		/* an address-size prefix cuts the address */
		__asm__ volatile("mov (%k1), %k0" : "=r"(v) : "r"(JUNK | (ulong)&cell));
		report_eq(v, 9, "32-bit address in 64-bit mode");
		__asm__ volatile("mov %1, %%rcx; .byte 0x67; rep lodsb"
				 : "=a"(v)
				 : "r"(JUNK | 1), "S"(&cell)
				 : "rcx");
		report((u8)v == 9, "REP with a 32-bit address counts ECX");
		__asm__ volatile("mov %1, %%rcx; xor %%eax, %%eax; addr32 loop 1f; inc %%eax; 1:"
				 : "=&a"(v)
				 : "r"(JUNK | 1)
				 : "rcx", "cc");
		report_eq(v, 1, "LOOP with a 32-bit address counts ECX");
	}
	__asm__ volatile("mov %1, %0; movslq %k0, %0" : "=&r"(v) : "r"(JUNK | 0x80000000));
	report_eq(v, 0xffffffff80000000, "MOVSXD");
	__asm__ volatile("mov %1, %0; bswap %k0" : "=&r"(v) : "r"(JUNK | 0x11223344));
	report_eq(v, 0x44332211, "BSWAP of 32 bits");
	__asm__ volatile("mov %1, %0; xor %%eax, %%eax; shl %%cl, %k0"
			 : "=&r"(v)
			 : "r"(JUNK | 3), "c"(0)
			 : "eax", "cc");
	report_eq(v, 3, "SHL by 0 clears the upper half");
	__asm__ volatile("mov %1, %0; xor %%edx, %%edx; cmovnz %%edx, %k0"
			 : "=&r"(v)
			 : "r"(JUNK | 3)
			 : "edx", "cc");
	report_eq(v, 3, "CMOV that does not move clears the upper half");
}
#endif

void test_main(void)
{
#if IS64
	(void)out;
	compat();
	long_mode();
	report_eq((u32)go(c_dr7, 0, 0, 0, 0, 0).ax, 0x400, "DR7 in compatibility mode");
	write_dr7(0x400);
	go(c_todr7, 0x402, 0, 0, 0, 0);
	report_eq(read_dr7(), 0x402, "MOV to DR7 takes EAX");
	write_dr7(0x400);
	upper_halves();
#else
	u32 v;

	__asm__ volatile("mov %%cr3, %0" : "=r"(v));
	report_eq(v, read_cr3(), "CR3");
	report_skip("there are no upper halves in a 32-bit kernel");
#endif
}
