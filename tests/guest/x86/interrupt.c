/*
 * When interrupts are taken: STI, POPF, IRET, MOV SS, HLT, CR8; NMIs and what blocks them;
 * Source: SDM "Masking Maskable Hardware Interrupts", "Handling Multiple NMIs", STI.
 */
#include "x86/apic.h"
#include "x86/smp.h"

#define VECTOR 0x51

static volatile u32 count, nmis;
static volatile ulong ip;
static volatile ulong flags_seen;

static void on_irq(struct regs *r)
{
	count++;
	ip = r->ip;
	flags_seen = read_flags();
	apic_eoi();
}

static volatile bool nmi_again;
static volatile u32 nmis_inside;

static void on_nmi(struct regs *r)
{
	nmis++;
	ip = r->ip;
	if (nmi_again) {
		nmi_again = false;
		apic_icr(ICR_NMI | ICR_ASSERT, apic_id());
		for (unsigned i = 0; i < 1000; i++)
			pause();
		nmis_inside = nmis;
	}
}

static void pend(void)
{
	count = 0;
	ip = 0;
	apic_icr(ICR_SELF | ICR_ASSERT | VECTOR, 0);
}

#if IS64
#define LEA(n, r) "lea " #n "f(%%rip), " r "\n"
#else
#define LEA(n, r) "lea " #n "f, " r "\n"
#endif

static void sti_shadow(void)
{
	ulong at;

	cli();
	pend();
	__asm__ volatile(LEA(1, "%0") "sti\n nop\n1: nop\n cli" : "=&r"(at) : : "memory");
	report(count == 1 && ip == at, "STI: after the next instruction");
	if (ip != at)
		note("count %u at %lx, want %lx", count, ip, at);
	pend();
	__asm__ volatile(LEA(1, "%0") "mov %%ss, %%ecx; sti\n mov %%ecx, %%ss\n nop\n1: nop\n cli"
			 : "=&r"(at)
			 :
			 : "ecx", "memory");
	report(count == 1 && ip == at, "MOV SS: after the next instruction");
	pend();
	__asm__ volatile("mov %%ss, %%ecx; sti; mov %%ecx, %%ss; cli" ::: "ecx", "memory");
	report_eq(count, 0, "MOV SS, CLI: never");
	__asm__ volatile("sti; nop; nop; cli");
#if !IS64
	pend();
	__asm__ volatile(LEA(1, "%0") "push %%ss; sti\n pop %%ss\n nop\n1: nop\n cli"
			 : "=&r"(at)
			 :
			 : "memory");
	report(count == 1 && ip == at, "POP SS: after the next instruction");
#endif
	pend();
	__asm__ volatile(LEA(1, "%0") "sti\n nop\n1: mov %%ds, %%ecx\n mov %%ecx, %%ds\n nop\n cli"
			 : "=&r"(at)
			 :
			 : "ecx", "memory");
	report(count == 1 && ip == at, "MOV DS is no shadow");
	pend();
	__asm__ volatile("sti; cli" ::: "memory");
	report_eq(count, 0, "STI, CLI: never");
	__asm__ volatile(LEA(1, "%0") "sti\n sti\n1: nop\n cli" : "=&r"(at) : : "memory");
	report(count == 1 && ip == at, "STI, STI: after the second");
	pend();
	__asm__ volatile(LEA(1, "%0") "sti\n hlt\n1: cli" : "=&r"(at) : : "memory");
	report(count == 1 && ip == at, "STI, HLT wakes");
	pend();
	__asm__ volatile(LEA(1, "%0") "pushf; orl $0x200, (%%"
#if IS64
				      "rsp"
#else
				      "esp"
#endif
				      "); popf\n1: nop\n cli"
			 : "=&r"(at)
			 :
			 : "memory", "cc");
	report(count == 1 && ip == at, "POPF: at once");
	pend();
	__asm__ volatile(
		LEA(1, "%0")
#if IS64
			"mov %%ss, %%ecx; push %%rcx; lea 8(%%rsp), %%rcx; push %%rcx; push $0x202; push $8; push %0; iretq\n"
#else
			"push $0x202; push $8; push %0; iret\n"
#endif
			"1: nop; cli"
		: "=&r"(at)
		:
		: "ecx", "memory", "cc");
	report(count == 1 && ip == at, "IRET: at once");
	report(!(flags_seen & FL_IF), "an interrupt gate clears IF");
	idt[VECTOR].type |= 1;
	pend();
	__asm__ volatile("sti; nop; nop; cli");
	report(flags_seen & FL_IF, "a trap gate does not");
	idt[VECTOR].type &= ~1;
	cli();
}

#if IS64
static void priority(void)
{
	cli();
	write_cr8(VECTOR >> 4);
	pend();
	__asm__ volatile("sti; nop; nop; nop");
	report_eq(count, 0, "CR8 holds an interrupt back");
	{
		ulong at, low = (VECTOR >> 4) - 1;

		__asm__ volatile(LEA(1, "%0") "mov %1, %%cr8\n1: nop"
				 : "=&r"(at)
				 : "r"(low)
				 : "memory");
		report(count == 1 && ip == at, "lowering CR8 lets it in at once");
	}
	write_cr8(0);
	cli();
}
#endif

static void nmi_self(void)
{
	apic_icr(ICR_NMI | ICR_ASSERT, apic_id());
	for (unsigned i = 0; i < 1000; i++)
		pause();
}

static void nmi(void)
{
	cli();
	nmis = 0;
	nmi_self();
	report_eq(nmis, 1, "NMI with IF clear");
	nmis = nmis_inside = 0;
	nmi_again = true;
	nmi_self();
	for (unsigned i = 0; i < 1000; i++)
		pause();
	report_eq(nmis_inside, 1, "a second NMI waits");
	report_eq(nmis, 2, "until IRET");
	nmis = 0;
	sti();
	count = 0;
	pend();
	nmi_self();
	report(nmis == 1 && count == 1, "NMI and an interrupt");
	cli();
}

static volatile bool awake;

static void wake_by_nmi(void *arg)
{
	/* More than one: the first may come before the HLT. */
	for (unsigned i = 0; i < 100 && !awake; i++) {
		delay_us(2000);
		apic_icr(ICR_NMI | ICR_ASSERT, cpus[0]->apic_id);
	}
}

static void smp(void)
{
	if (cpu_count < 2)
		return;
	nmis = 0;
	cli();
	smp_post(1, wake_by_nmi, NULL);
	hlt();
	awake = true;
	report(nmis > 0, "an NMI wakes HLT with IF clear");
	smp_wait(1);
}

void test_main(void)
{
	irq_set(VECTOR, on_irq);
	irq_set(EXC_NMI, on_nmi);
	smp_start();
	sti_shadow();
#if IS64
	priority();
#endif
	nmi();
	smp();
}
