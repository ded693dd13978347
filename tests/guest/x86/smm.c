/*
 * System-management mode: an SMI by IPI, what the processor is in the handler, the saved state,
 * what RSM loads, NMIs, relocation, HLT, other CPUs.
 *
 * The handler is 16-bit code at SMBASE + 0x8000; memory there is plain RAM, because a machine
 * without firmware leaves SMBASE at 0x30000. Where firmware took it, nothing here can be tested.
 * Source: SDM "System Management Mode"; APM "System-Management Mode": the save area of processors
 * with long mode.
 */
#include "x86/apic.h"
#include "x86/paging.h"
#include "x86/smp.h"

#define SMBASE	   0x30000ul
#define SMBASE2	   0x38000ul /* its entry is 32 KiB above */
#define SAVE(base) ((base) + 0xfe00)
#define ICR_SMI	   0x200u

/* What the handler leaves at 0x20000; it counts last. */
struct seen {
	u32 count, cr0, cr4, eflags, dr7, cs, ss, esp, wide, smbase_cs;
	u32 command; /* what it does before RSM */
	u32 argument;
	u32 efer, nmi_count;
	u32 sgdt_limit, cpu_apic;
};
#define SEEN ((volatile struct seen *)0x20000)

/*
 * Commands: 1: the dword at DS:argument becomes ~it; 2: an NMI to this CPU; 3: SMBASE becomes
 * argument; 4: saved RAX becomes argument; 5: saved RIP becomes argument; 6: saved CR4 becomes
 * argument.
 */
__asm__(".text\n.code16\n"
	".globl smm_code, smm_code_end\n"
	"smm_code:\n"
	"mov $0x20000, %ebx\n"
	"mov %cr0, %eax; mov %eax, 4(%ebx)\n"
	"mov %cr4, %eax; mov %eax, 8(%ebx)\n"
	"mov %esp, %edx; mov $0x27000, %esp\n"
	"pushfl; popl 12(%ebx)\n"
	"mov %dr7, %eax; mov %eax, 16(%ebx)\n"
	"xor %eax, %eax; mov %cs, %ax; mov %eax, 20(%ebx)\n"
	"mov %ss, %ax; mov %eax, 24(%ebx)\n"
	"mov %edx, 28(%ebx)\n"
	"mov $0x100000, %esi; movl (%esi), %eax; mov %eax, 32(%ebx)\n"
	"mov %cs, %ax; shl $4, %eax; mov %eax, 36(%ebx)\n"
	"mov $0xc0000080, %ecx; rdmsr; mov %eax, 48(%ebx)\n"
	"xor %edi, %edi; mov %cs, %di; shl $4, %edi; add $0xfe00, %edi\n"
	"mov 40(%ebx), %eax\n"
	"mov 44(%ebx), %ecx\n"
	"cmp $1, %eax; je 1f\n"
	"cmp $2, %eax; je 2f\n"
	"cmp $3, %eax; je 3f\n"
	"cmp $4, %eax; je 4f\n"
	"cmp $5, %eax; je 5f\n"
	"cmp $6, %eax; je 6f\n"
	"9: movl $0, 40(%ebx); incl (%ebx); rsm\n"
	"1: notl (%ecx); jmp 9b\n"
	"2: mov $0xfee00300, %esi; movl $0x44400, (%esi)\n"
	"mov $2000, %ecx; 7: dec %ecx; jnz 7b; mov 52(%ebx), %eax; mov %eax, 60(%ebx); jmp 9b\n"
	"3: mov %ecx, 0x100(%edi); jmp 9b\n"
	"4: mov %ecx, 0x1f8(%edi); movl $0, 0x1fc(%edi); jmp 9b\n"
	"5: mov %ecx, 0x178(%edi); movl $0, 0x17c(%edi); jmp 9b\n"
	"6: mov %ecx, 0x148(%edi); jmp 9b\n"
	"smm_code_end:\n"
#if IS64
	".code64\n"
#else
	".code32\n"
#endif
);
extern u8 smm_code[], smm_code_end[];

static volatile u32 nmis;
static void on_nmi(struct regs *r)
{
	nmis++;
	SEEN->nmi_count++;
}

static bool smi(u32 dest)
{
	u32 old = SEEN->count;

	apic_icr(ICR_SMI | ICR_ASSERT, dest);
	return wait_change(&SEEN->count, old, 200);
}

static u64 saved(unsigned offset, unsigned size)
{
	u64 v = 0;

	memcpy(&v, (void *)(SMBASE + offset), size);
	return v;
}

static void inside(void)
{
	report_eq(SEEN->cr0 & 0x8000000d, 0, "in SMM: CR0.PE, EM, TS and PG are clear");
	report_eq(SEEN->cr4, 0, "in SMM: CR4");
	report_eq(SEEN->eflags, 2, "in SMM: EFLAGS");
	report_eq(SEEN->dr7, 0x400, "in SMM: DR7");
	report_eq(SEEN->efer, 0, "in SMM: EFER");
	report_eq(SEEN->cs, SMBASE >> 4, "in SMM: CS");
	report_eq(SEEN->ss, 0, "in SMM: SS");
	report_eq(SEEN->wide, *(volatile u32 *)0x100000, "in SMM: data beyond 64 KiB");
}

static void saved_state(void)
{
	report_eq(saved(0xfefc, 4) & 0xffff, 0x64, "the save area's revision");
	report_eq(saved(0xff58, 8) & ~0x10ull, read_cr0() & ~0x10ul, "saved CR0");
	report_eq(saved(0xff50, 8), read_cr3(), "saved CR3");
	report_eq(saved(0xff48, 8), read_cr4(), "saved CR4");
	report_eq(saved(0xfed0, 8), rdmsr(MSR_EFER), "saved EFER");
	report_eq(saved(0xff00, 4), SMBASE, "saved SMBASE");
	report_eq(saved(0xfe10, 2), SEL_KCODE, "saved CS");
	report_eq(saved(0xfe20, 2), SEL_KDATA, "saved SS");
	report_eq(saved(0xfe90, 2), SEL_TSS, "saved TR");
	report_eq(saved(0xfe88, 8), sidt().base, "saved IDT base");
	report_eq(saved(0xfe84, 2), sidt().limit, "saved IDT limit");
	report_eq(saved(0xfe68, 8), sgdt().base, "saved GDT base");
	report_eq(saved(0xff60, 8), read_dr7(), "saved DR7");
}

/* Registers around an SMI: sent by a store, awaited by a loop on memory. */
static void registers(void)
{
	ulong bx = 0x11223344, si = 0x55667788, di = 0x99aabbcc, bp = 0, flags = 0;
	volatile u32 *icr = (u32 *)0xfee00300;

	*(volatile u32 *)0xfee00310 = 0;
	__asm__ volatile("push %6; popf\n"
			 "movl $0x44200, (%5)\n"
			 "mov $5000, %%ecx\n"
			 "1: dec %%ecx; jnz 1b\n"
			 "pushf; pop %4\n push $2; popf"
			 : "+b"(bx), "+S"(si), "+D"(di), "+a"(bp), "=&d"(flags)
			 : "r"(icr), "i"(0x0c02 | FL_IOPL | FL_AC)
			 : "ecx", "memory", "cc");
	report(bx == 0x11223344 && si == 0x55667788 && di == 0x99aabbcc, "registers are as before");
	report_eq(flags & (FL_DF | FL_IOPL | FL_AC), FL_DF | FL_IOPL | FL_AC,
		  "flags are as before");
}

static void changes(void)
{
	ulong v;

	/* RAX is changed by the handler while this loop waits for it. */
	SEEN->command = 4;
	SEEN->argument = 0x13579bdf;
	__asm__ volatile("mov $0, %%eax\n"
			 "movl $0x44200, (%1)\n"
			 "mov $100000, %%ecx\n"
			 "1: test %%eax, %%eax; jnz 2f; dec %%ecx; jnz 1b\n"
			 "2:"
			 : "=&a"(v)
			 : "r"(0xfee00300ul)
			 : "ecx", "memory", "cc");
	report_eq(v, 0x13579bdf, "RSM loads a changed RAX");
	SEEN->command = 5;
	__asm__ volatile(
#if IS64
		"lea 2f(%%rip), %%rax; mov %%eax, 44(%2)\n"
#else
		"lea 2f, %%eax; mov %%eax, 44(%2)\n"
#endif
		"xor %%eax, %%eax\n"
		"movl $0x44200, (%1)\n"
		"1: mov $10000000, %%ecx\n"
		"3: dec %%ecx; jnz 3b; jmp 4f\n"
		"2: mov $1, %%eax\n"
		"4:"
		: "=&a"(v)
		: "r"(0xfee00300ul), "r"(SEEN)
		: "ecx", "memory", "cc");
	report_eq(v, 1, "RSM loads a changed RIP");
	report_eq(read_cr0() & 0x80000001, 0x80000001, "paging is on again");
}

static void nmi_blocked(void)
{
	nmis = 0;
	SEEN->nmi_count = 0;
	SEEN->command = 2;
	smi(apic_id());
	delay_us(100);
	report_eq(*(volatile u32 *)0x2003c, 0, "an NMI waits in SMM");
	report_eq(nmis, 1, "until RSM");
}

static int do_rsm(void)
{
	trap_clear();
	__asm__ volatile(TRY("rsm") : : : "memory");
	return trap_vector();
}

static void debug_registers(void)
{
	write_dr0(0x1234);
	write_dr7(0x401); /* an execution breakpoint far away */
	smi(apic_id());
	report_eq(SEEN->dr7, 0x400, "breakpoints are off in SMM");
	report_eq(read_dr7() & 0xff, 1, "and on after RSM");
	report_eq(read_dr0(), 0x1234, "DR0 stays");
	write_dr7(0x400);
}

static void halted(void *arg)
{
	volatile u32 *woken = arg;

	__asm__ volatile("cli; hlt");
	(*woken)++;
}

static void others(void)
{
	volatile u32 woken = 0;
	u32 old;

	if (cpu_count < 2)
		return;
	/* All have the same SMBASE after reset: one at a time. */
	old = SEEN->count;
	report(smi(cpus[1]->apic_id), "SMI to another CPU");
	delay_us(1000);
	report_eq(SEEN->count, old + 1, "once");
	/* Away from the first one's area, by its own handler. */
	SEEN->argument = SMBASE2;
	SEEN->command = 3;
	smi(cpus[1]->apic_id);
	delay_us(1000);
	smi(cpus[1]->apic_id);
	report_eq(SEEN->cs, SMBASE2 >> 4, "it has an SMBASE of its own now");
	smi(apic_id());
	report_eq(SEEN->cs, SMBASE >> 4, "this one has not");
	smp_post(1, halted, (void *)&woken);
	delay_us(5000);
	report(smi(cpus[1]->apic_id), "SMI to a CPU in HLT");
	delay_us(5000);
	note("it %s", woken ? "goes on behind HLT" : "is in HLT again");
	for (unsigned i = 0; i < 100 && !woken; i++) {
		apic_icr(ICR_NMI | ICR_ASSERT, cpus[1]->apic_id);
		delay_us(2000);
	}
	report(woken, "it lives");
	smp_wait(1);
}

void test_main(void)
{
	u64 smis;

	cli();
	irq_set(EXC_NMI, on_nmi);
	smp_start();
	memset((void *)SEEN, 0, sizeof(*SEEN));
	memcpy((void *)(SMBASE + 0x8000), smm_code, (size_t)(smm_code_end - smm_code));
	memcpy((void *)(SMBASE2 + 0x8000), smm_code, (size_t)(smm_code_end - smm_code));
	*(volatile u32 *)0x20000 = 0;
	report_eq(do_rsm(), EXC_UD, "RSM outside of SMM");
	if (!smi(apic_id())) {
		report_skip("firmware has moved SMBASE");
		return;
	}
	report_eq(SEEN->count, 1, "SMI by IPI");
	if (param("rsm", 0)) {
		/* CR4 with a reserved bit in the save area: RSM shuts the processor down. */
		printf("1..2\n");
		SEEN->argument = 0x80000000;
		SEEN->command = 6;
		smi(apic_id());
		delay_us(10000);
		die("the machine goes on");
	}
	inside();
	saved_state();
	registers();
	changes();
	nmi_blocked();
	debug_registers();
	trap_clear();
	smis = 0;
	if (cpu_is_intel()) {
		u32 lo = 0, hi;

		__asm__ volatile(TRY("rdmsr") : "+a"(lo), "=d"(hi) : "c"(0x34));
		smis = lo;
		if (trap_vector() == -1)
			report_eq(smis, SEEN->count, "SMI_COUNT counts them");
		else
			report_skip("no SMI_COUNT");
	}
	others();
}
