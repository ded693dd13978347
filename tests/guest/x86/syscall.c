/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: registers, flags, segments, faults.
 * Sources: SDM and APM, the instructions' pages; "Performing Fast Calls to System Procedures".
 */
#include "x86/probe.h"

#if IS64
static u64 saved_sp __attribute__((used));
#endif
static ulong seen[8] __attribute__((used));

#if IS64
__asm__(".text\n"
	"entry64: mov %rsp, saved_sp(%rip)\n"
	"lea seen(%rip), %rsp\n"
	"mov %rcx, (%rsp)\n mov %r11, 8(%rsp)\n"
	"mov saved_sp(%rip), %rax; mov %rax, 16(%rsp)\n"
	"mov %cs, %eax; mov %rax, 24(%rsp)\n mov %ss, %eax; mov %rax, 32(%rsp)\n"
	"pushf_at: mov %rsp, %rbx; mov back_sp(%rip), %rsp; pushf; pop %rax; mov %rax, 40(%rbx)\n"
	"mov saved_sp(%rip), %rsp\n"
	"sysretq\n"
	/* SYSRET to 32-bit code at ECX */
	"to32: mov $code32, %ecx; mov $0x2, %r11d; mov $0xdead0000, %esp; sysretl\n"
	".section .user, \"ax\"\n"
	"code32: .code32; mov %cs, %eax; mov %ss, %edx; mov $0x77, %ebx; int $0x80\n .code64\n"
	"call64: mov %rsp, %r8; syscall\n after64: mov %r8, %rsp; ret\n"
	".globl call64, after64\n"
	/* 32-bit SYSENTER from compatibility mode and 64-bit mode */
	"sysenter64: mov %rsp, %rcx; lea 1f(%rip), %rdx; sysenter\n 1: ret\n"
	/* from compatibility mode */
	".code32\n"
	"compat_syscall: mov %esp, %ebp; syscall\n after_compat: mov %ebp, %esp; mov %cs, %eax; mov %ss, %edx; int $0x80\n"
	"compat_sysenter: mov %esp, %ecx; mov $1f, %edx; sysenter\n 1: mov %cs, %eax; mov %ss, %edx; int $0x80\n"
	".code64\n"
	".text\n"
	"wrong_entry: ud2\n"
	"centry: mov %rcx, seen(%rip); mov %r11, seen+8(%rip); mov %rsp, seen+16(%rip)\n"
	"mov %cs, %eax; mov %rax, seen+24(%rip); mov %ss, %eax; mov %rax, seen+32(%rip)\n"
	"sysretl\n"
	"senter: mov %rsp, seen+48(%rip)\n"
	"mov %cs, %eax; mov %rax, seen+24(%rip); mov %ss, %eax; mov %rax, seen+32(%rip)\n"
	"pushf; pop %rax; mov %rax, seen+40(%rip)\n"
	"sysexitq\n"
	"senter32: mov %rsp, seen+48(%rip)\n"
	"mov %cs, %eax; mov %rax, seen+24(%rip); mov %ss, %eax; mov %rax, seen+32(%rip)\n"
	"sysexitl\n"
	".data\n back_sp: .quad 0\n .text\n");
extern char entry64[], to32[], call64[], after64[], sysenter64[], senter[], centry[], wrong_entry[],
	senter32[], compat_syscall[], after_compat[], compat_sysenter[];
extern u64 back_sp;

USER static void user_popf_syscall(void *p)
{
	__asm__ volatile("push $0xc02; popf; mov %%rsp, %%r8; syscall\n"
			 "mov %%r8, %%rsp; pushf; pop (%0); mov %%cs, 8(%0); mov %%ss, 16(%0)"
			 :
			 : "r"(p)
			 : "rax", "rbx", "rcx", "r8", "r11", "memory", "cc");
}
static void kernel_to32(void *p)
{
	__asm__ volatile("jmp to32");
}

static void ud_syscall(void *p)
{
	__asm__ volatile(TRY("syscall") : : : "rax", "rcx", "r11", "memory");
}

static void syscall(void)
{
	u8 *stack = page_alloc();
	volatile ulong *out = page_alloc();

	back_sp = (ulong)stack + 4000;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_SCE);
	trap_guard(ud_syscall, NULL);
	report_eq(trap_vector(), EXC_UD, "SYSCALL without EFER.SCE");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)(0x18 | 3) << 48 | (u64)SEL_KCODE << 32);
	wrmsr(MSR_LSTAR, (ulong)entry64);
	wrmsr(MSR_SFMASK, FL_DF | FL_TF);
	report_eq(msr_write(MSR_LSTAR, 1ul << 60), EXC_GP, "LSTAR is canonical");
	report_eq(msr_write(MSR_CSTAR, 1ul << 60), EXC_GP, "CSTAR is canonical");
	report_eq(rdmsr(MSR_LSTAR), (ulong)entry64, "LSTAR is as before");
	wrmsr(MSR_LSTAR, (ulong)entry64);
	trap_user(user_popf_syscall, (void *)out);
	report_eq(trap_vector(), -1, "SYSCALL and SYSRET");
	report_eq(seen[1], 0xc02, "R11 has the flags");
	report_eq(seen[5] & (FL_DF | FL_OF), FL_OF, "flags are masked by SFMASK");
	report_eq(seen[3], SEL_KCODE, "CS by STAR");
	report_eq(seen[4], SEL_KDATA, "SS by STAR");
	report_eq(out[0] & (FL_DF | FL_OF), FL_DF | FL_OF, "flags come back from R11");
	report_eq(out[1] & 0xffff, SEL_UCODE | 3, "SYSRET: CS");
	report_eq(out[2] & 0xffff, SEL_UDATA | 3, "SYSRET: SS");
	trap_guard(kernel_to32, NULL);
	report(trap_vector() == -1, "SYSRET to 32-bit code");
	wrmsr(MSR_STAR, 0);
}

/* Enters 32-bit code at level 3; the vector that ended it, -1 for its INT 0x80. */
static struct regs compat_end;
static void compat_hook(struct regs *r)
{
	compat_end = *r;
}
static int compat(char *code)
{
	struct regs r;
	int vector;

	memset(&r, 0, sizeof(r));
	memset(seen, 0, sizeof(seen));
	r.ip = (ulong)code;
	r.cs = SEL_UCODE32 | 3;
	r.ss = SEL_UDATA | 3;
	r.sp = user_stack();
	r.flags = 2 | FL_DF;
	this_cpu()->hook = compat_hook;
	vector = trap_enter(&r);
	this_cpu()->hook = NULL;
	return vector;
}

/* SYSCALL: AMD's processors go by CSTAR, Intel's have it in 64-bit mode only. SYSENTER: the other way. */
static void compatibility(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)(0x18 | 3) << 48 | (u64)SEL_KCODE << 32);
	wrmsr(MSR_CSTAR, (ulong)centry);
	wrmsr(MSR_LSTAR, (ulong)wrong_entry);
	idt_set_ist(EXC_UD, 2); /* SYSCALL leaves the stack to its target */
	wrmsr(MSR_SFMASK, FL_DF);
	if (cpu_is_intel()) {
		u8 *stack = page_alloc();

		report_eq(compat(compat_syscall), EXC_UD, "compatibility mode: SYSCALL on Intel");
		wrmsr(MSR_SYSENTER_CS, 0);
		report(compat(compat_sysenter) == EXC_GP && !trap_last()->error,
		       "compatibility mode: SYSENTER with CS 0");
		wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
		wrmsr(MSR_SYSENTER_ESP, (ulong)stack + 4000);
		wrmsr(MSR_SYSENTER_EIP, (ulong)senter32);
		report_eq(compat(compat_sysenter), -1,
			  "compatibility mode: SYSENTER, and SYSEXIT to 32 bits");
		report(seen[3] == SEL_KCODE && seen[4] == SEL_KDATA &&
			       seen[6] == (ulong)stack + 4000,
		       "compatibility mode: SYSENTER: CS, SS, RSP");
		wrmsr(MSR_SYSENTER_CS, 0);
	} else {
		report_eq(compat(compat_syscall), -1, "compatibility mode: SYSCALL and SYSRET");
		report(seen[3] == SEL_KCODE && seen[4] == SEL_KDATA,
		       "compatibility mode: SYSCALL: CS, SS by STAR");
		report_eq(seen[0], (ulong)after_compat, "compatibility mode: SYSCALL: RCX");
		report(seen[1] & FL_DF, "compatibility mode: SYSCALL: R11 has the flags");
		report_eq(seen[2], user_stack(), "compatibility mode: SYSCALL: RSP stays");
		report_eq(compat(compat_sysenter), EXC_UD, "compatibility mode: SYSENTER on AMD");
	}
	idt_set_ist(EXC_UD, 0);
	wrmsr(MSR_STAR, 0);
}

USER static void user_sysret(void *p)
{
	__asm__ volatile("sysretq" : : "c"(0) : "memory");
}
USER static void user_sysexit(void *p)
{
	__asm__ volatile("sysexitq" : : "c"(0), "d"(0) : "memory");
}

static void level3(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	report(trap_user(user_sysret, NULL) == EXC_GP && !trap_last()->error, "SYSRET at level 3");
	wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
	report(trap_user(user_sysexit, NULL) == (cpu_is_amd() ? EXC_UD : EXC_GP),
	       "SYSEXIT at level 3");
	wrmsr(MSR_SYSENTER_CS, 0);
}

static void far_sysret(void *arg)
{
	__asm__ volatile("mov $2, %%r11d; sysretq" : : "c"(1ul << 60) : "memory", "r11");
}

static void sysret_faults(void)
{
	trap_clear();
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_SCE);
	__asm__ volatile(TRY("sysretq") : : "c"(0), "d"(0) : "memory", "r11");
	report_eq(trap_vector(), EXC_UD, "SYSRET without EFER.SCE");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	if (!cpu_is_intel())
		return;
	trap_guard(far_sysret, NULL);
	report(trap_vector() == EXC_GP && trap_last()->cs == SEL_KCODE,
	       "SYSRET to a non-canonical address: Intel faults in the kernel");
}
#else
__asm__(".text\n"
	"senter: mov %esp, seen+24\n"
	"mov %cs, %eax; mov %eax, seen+12; mov %ss, %eax; mov %eax, seen+16\n"
	"pushf; pop seen+20\n"
	"sysexit\n"
	".section .user, \"ax\"\n"
	"sysenter32: mov %esp, %ecx; mov $1f, %edx; sysenter\n 1: ret\n .text\n");
__asm__("taken: jmp *%ecx\n"
	/* legacy SYSCALL: the stack is still the user's */
	"lentry: mov %ecx, seen; mov %cs, %eax; mov %eax, seen+12; mov %ss, %eax; mov %eax, seen+16\n"
	"pushf; pop seen+20; mov %esp, seen+8; sysret\n"
	".section .user, \"ax\"\n"
	"user_syscall: push %ebp; mov %esp, %ebp; syscall\n after_syscall: pushf; pop %eax; mov %eax, user_flags\n"
	"mov %cs, %eax; mov %eax, user_cs; mov %ss, %eax; mov %eax, user_ss; pop %ebp; ret\n"
	".data\n user_flags: .long 0\n user_cs: .long 0\n user_ss: .long 0\n .text\n");
extern char senter[], sysenter32[], taken[], lentry[], user_syscall[], after_syscall[];
extern u32 user_flags, user_cs, user_ss;

USER static void user_sysret(void *p)
{
	__asm__ volatile("sysret" : : "c"(0) : "memory");
}
USER static void user_sysexit(void *p)
{
	__asm__ volatile("sysexit" : : "c"(0), "d"(0) : "memory");
}

static void legacy(void)
{
	u64 efer = rdmsr(MSR_EFER);

	wrmsr(MSR_EFER, efer | EFER_SCE);
	wrmsr(MSR_STAR, (u64)SEL_UCODE32 << 48 | (u64)SEL_KCODE << 32 | (u32)lentry);
	sti();
	report_eq(trap_user((void (*)(void *))user_syscall, NULL), -1,
		  "32 bits: SYSCALL and SYSRET");
	cli();
	report_eq(seen[0], (ulong)after_syscall, "32 bits: SYSCALL: ECX");
	report(seen[3] == SEL_KCODE && seen[4] == SEL_KDATA, "32 bits: SYSCALL: CS, SS by STAR");
	report(!(seen[5] & FL_IF), "32 bits: SYSCALL clears IF");
	report((user_cs & 0xffff) == (SEL_UCODE32 | 3) && (user_ss & 0xffff) == (SEL_UDATA | 3),
	       "32 bits: SYSRET: CS, SS");
	report(user_flags & FL_IF, "32 bits: SYSRET sets IF");
	report(trap_user(user_sysret, NULL) == EXC_GP && !trap_last()->error,
	       "32 bits: SYSRET at level 3");
	wrmsr(MSR_STAR, 0);
	wrmsr(MSR_EFER, efer);
}

static void syscall(void)
{
	if (!HAS(SYSCALL)) {
		trap_clear();
		__asm__ volatile(TRY("syscall") : : : "ecx", "memory");
		report_eq(trap_vector(), EXC_UD, "SYSCALL in 32-bit mode without the feature");
	}
	trap_clear();
	__asm__ volatile(TRY("syscall") : : : "ecx", "memory");
	report_eq(trap_vector(), EXC_UD, "SYSCALL without EFER.SCE");
	if (cpu_is_amd() && HAS(SYSCALL))
		legacy();
	if (cpu_is_intel()) {
		/* A processor that takes it comes back from here. */
		wrmsr(MSR_STAR, (u64)SEL_KCODE << 32 | (u32)taken);
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
		trap_clear();
		__asm__ volatile(TRY("syscall") : : : "ecx", "memory");
		report_eq(trap_vector(), EXC_UD, "SYSCALL in 32-bit mode on Intel");
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_SCE);
	}
}

static void sysret_faults(void)
{
	wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
	report(trap_user(user_sysexit, NULL) == EXC_GP && !trap_last()->error,
	       "SYSEXIT at level 3");
	wrmsr(MSR_SYSENTER_CS, 0);
}
static void compatibility(void)
{
}
static void level3(void)
{
}
#endif

#if IS64
#define USER_SYSENTER sysenter64
#define SYSEXIT	      "sysexitq"
#else
#define USER_SYSENTER sysenter32
#define SYSEXIT	      "sysexit"
#endif

static void sysenter(void)
{
	void (*enter)(void *) = (void (*)(void *))USER_SYSENTER;
	u8 *stack = page_alloc();

	if (IS64 && cpu_is_amd()) {
		trap_user(enter, NULL);
		report_eq(trap_vector(), EXC_UD, "SYSENTER in long mode on AMD");
		return;
	}
	wrmsr(MSR_SYSENTER_CS, 0);
	trap_user(enter, NULL);
	report(trap_vector() == EXC_GP && !trap_last()->error, "SYSENTER with CS 0");
	wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
	wrmsr(MSR_SYSENTER_ESP, (ulong)stack + 4000);
	wrmsr(MSR_SYSENTER_EIP, (ulong)senter);
	if (IS64)
		report_eq(msr_write(MSR_SYSENTER_EIP, BIT64(60)), EXC_GP,
			  "SYSENTER_EIP is canonical");
	wrmsr(MSR_SYSENTER_EIP, (ulong)senter);
	trap_user(enter, NULL);
	report_eq(trap_vector(), -1, "SYSENTER and SYSEXIT");
	report_eq(seen[6], (ulong)stack + 4000, "its stack");
	report_eq(seen[3], SEL_KCODE, "its CS");
	report_eq(seen[4], SEL_KDATA, "its SS");
	report(!(seen[5] & FL_IF), "IF is clear");
	wrmsr(MSR_SYSENTER_CS, 0);
	trap_clear();
	__asm__ volatile(TRY(SYSEXIT) : : "c"(0), "d"(0) : "memory");
	report_eq(trap_vector(), EXC_GP, "SYSEXIT with CS 0");
}

void test_main(void)
{
	user_map();
	syscall();
	sysret_faults();
	compatibility();
	level3();
	sti(); /* SYSENTER clears IF */
	sysenter();
	cli();
}
