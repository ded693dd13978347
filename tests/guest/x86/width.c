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

#define CODE32(name, text) \
	__asm__(".text\n .code32\n" #name ": " text "\n lret\n .code64\n"); \
	extern char name[];

CODE32(c_load, "mov (%ebx), %eax")
CODE32(c_sib, "mov 4(%ebx,%ecx,4), %eax")
CODE32(c_lea, "lea 8(%ebx,%ecx,2), %eax")
CODE32(c_lea16, ".byte 0x67, 0x8d, 0x40, 0x10") /* lea 0x10(%bx,%si), %eax */
CODE32(c_push, "push %ebx; pop %eax")
CODE32(c_cr3, "mov %cr3, %eax; mov %eax, %cr3")
CODE32(c_cr3_junk, "mov %cr3, %eax; mov %eax, %ebx")
CODE32(c_dr, "mov %ebx, %dr0; mov %dr0, %eax")
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

static struct state go(void *code, ulong ax, ulong bx, ulong cx, ulong si, ulong di)
{
	struct state s = {JUNK | ax, JUNK | bx, JUNK | cx, JUNK | 0x55, JUNK | si, JUNK | di, JUNK};

	run32(code, &s);
	return s;
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

static void compat(void)
{
	struct state s;
	ulong cr3 = read_cr3(), cr4 = read_cr4(), cr0 = read_cr0();
	ulong p = (ulong)cells;
	u8 text[8] = {0}, *t = pages_alloc(1);

	report_eq((u32)go(c_load, 0, p, 0, 0, 0).ax, 10, "load");
	report_eq((u32)go(c_sib, 0, p, 2, 0, 0).ax, 13, "load with an index");
	report_eq((u32)go(c_sib, 0, p + 16, 0xfffffffe, 0, 0).ax, 13, "address calculation wraps at 4 GiB");
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
	memset(t, 0, 16);
	s = go(c_stos, 0x31323334, 0, 0, 0, (ulong)t);
	report(*(u32 *)t == 0x31323334 && ((u32 *)t)[1] == 0x31323334 && !((u32 *)t)[2], "REP STOS counts ECX");
	report_eq((u32)s.di, (ulong)t + 8, "EDI");
	go(c_movs, 0, 0, 5, p, (ulong)t);
	report(t[0] == 10 && t[4] == 11, "REP MOVS");
	(void)text;
	report_eq((u32)go(c_loop, 0, 0, 3, 0, 0).ax, 3, "LOOP counts ECX");
	report_eq((u32)go(c_jcxz, 0, 0, 0, 0, 0).ax, 1, "JECXZ looks at ECX");
	report_eq((u32)go(c_jmp, 0, 0, 0, 0, 0).ax, 5, "JMP by a register");
	report_eq((u32)go(c_call, 0, (ulong)c_sub, 0, 0, 0).ax, 77, "CALL by a register");
	go(c_invlpg, 0, p, 0, 0, 0);
	report(true, "INVLPG");
	report_eq((u8)go(c_xlat, 4, p, 0, 0, 0).ax, 11, "XLAT");
	cells[6] = 1, cells[7] = 2;
	{
		struct state in = {JUNK | 1, JUNK | 5, JUNK | 6, JUNK | 2, JUNK, JUNK | (ulong)&cells[6], JUNK};

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
	__asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; mov %2, %%ecx; rdmsr" : "=&a"(v), "=&d"(w) : "i"(MSR_EFER) : "rcx");
	report(!(v >> 32) && !(w >> 32), "RDMSR clears the upper halves");
	__asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; rdtsc" : "=&a"(v), "=&d"(w));
	report(!(v >> 32) && !(w >> 32), "RDTSC clears the upper halves");
	__asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; mov $-1, %%rbx; xor %%ecx, %%ecx; cpuid; mov %%rbx, %0" : "=&S"(w), "=&a"(v) : : "rbx", "rcx", "rdx");
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
		__asm__ volatile("mov %1, %%rcx; .byte 0x67; rep lodsb" : "=a"(v) : "r"(JUNK | 1), "S"(&cell) : "rcx");
		report((u8)v == 9, "REP with a 32-bit address counts ECX");
		__asm__ volatile("mov %1, %%rcx; xor %%eax, %%eax; addr32 loop 1f; inc %%eax; 1:" : "=&a"(v) : "r"(JUNK | 1) : "rcx", "cc");
		report_eq(v, 1, "LOOP with a 32-bit address counts ECX");
	}
	__asm__ volatile("mov %1, %0; movslq %k0, %0" : "=&r"(v) : "r"(JUNK | 0x80000000));
	report_eq(v, 0xffffffff80000000, "MOVSXD");
	__asm__ volatile("mov %1, %0; bswap %k0" : "=&r"(v) : "r"(JUNK | 0x11223344));
	report_eq(v, 0x44332211, "BSWAP of 32 bits");
	__asm__ volatile("mov %1, %0; xor %%eax, %%eax; shl %%cl, %k0" : "=&r"(v) : "r"(JUNK | 3), "c"(0) : "eax", "cc");
	report_eq(v, 3, "SHL by 0 clears the upper half");
	__asm__ volatile("mov %1, %0; xor %%edx, %%edx; cmovnz %%edx, %k0" : "=&r"(v) : "r"(JUNK | 3) : "edx", "cc");
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
