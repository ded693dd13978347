/*
 * Local APIC: modes and their transitions, IPIs, priorities, EOI, timer, errors; I/O APIC: edge,
 * level, remote IRR, masks. Source: SDM "Advanced Programmable Interrupt Controller"; 82093AA.
 */
#include "x86/apic.h"
#include "x86/probe.h"
#include "x86/smp.h"

#define V1 0x61
#define V2 0x72
#define V3 0x83

static volatile u32 order[16], taken, timer_count;
static volatile bool no_eoi;
static volatile u32 ppr;

static void on_irq(struct regs *r)
{
	order[taken++ & 15] = (u32)r->vector;
	ppr = apic_read(APIC_PPR);
	if (!no_eoi)
		apic_eoi();
}

static void on_timer(struct regs *r)
{
	timer_count++;
	apic_eoi();
}

static void settle(void)
{
	sti();
	for (volatile unsigned i = 0; i < 200; i++)
		pause();
	cli();
}

static bool bit(unsigned reg, unsigned vector)
{
	return (apic_read(reg + (vector >> 5) * 0x10) >> (vector & 31)) & 1;
}

static void priorities(const char *mode)
{
	cli();
	taken = 0;
	apic_icr(ICR_SELF | ICR_ASSERT | V1, 0);
	apic_icr(ICR_SELF | ICR_ASSERT | V3, 0);
	apic_icr(ICR_SELF | ICR_ASSERT | V2, 0);
	report(bit(APIC_IRR, V1) && bit(APIC_IRR, V2) && bit(APIC_IRR, V3), "%s: IRR", mode);
	settle();
	report(taken == 3 && order[0] == V3 && order[1] == V2 && order[2] == V1,
	       "%s: highest first", mode);
	report(!bit(APIC_IRR, V1) && !bit(APIC_ISR, V1), "%s: IRR and ISR are empty", mode);
	/* without EOI lower ones wait */
	taken = 0;
	no_eoi = true;
	apic_icr(ICR_SELF | ICR_ASSERT | V2, 0);
	settle();
	report(bit(APIC_ISR, V2), "%s: ISR", mode);
	report_eq(ppr, V2 & 0xf0, "%s: PPR", mode);
	apic_icr(ICR_SELF | ICR_ASSERT | V1, 0);
	apic_icr(ICR_SELF | ICR_ASSERT | V2, 0);
	settle();
	report_eq(taken, 1, "%s: lower and equal ones wait for EOI", mode);
	apic_icr(ICR_SELF | ICR_ASSERT | V3, 0);
	settle();
	report(taken == 2 && order[1] == V3, "%s: a higher one nests", mode);
	apic_eoi();
	report(!bit(APIC_ISR, V3) && bit(APIC_ISR, V2), "%s: EOI takes the highest", mode);
	no_eoi = false;
	apic_eoi();
	settle();
	report(taken == 4 && order[2] == V2 && order[3] == V1, "%s: then the others", mode);
	apic_write(APIC_TPR, V2);
	taken = 0;
	apic_icr(ICR_SELF | ICR_ASSERT | V2, 0);
	settle();
	report_eq(taken, 0, "%s: TPR holds its class back", mode);
	apic_write(APIC_TPR, 0x60);
	settle();
	report_eq(taken, 1, "%s: and lets it go", mode);
	apic_write(APIC_TPR, 0);
}

static void timer(const char *mode)
{
	u64 t;

	apic_write(APIC_TDCR, 0xb);
	timer_count = 0;
	apic_write(APIC_LVTT, 0x90);
	apic_write(APIC_TMICT, 1000000000);
	report(apic_read(APIC_TMCCT) < 1000000000 && apic_read(APIC_TMCCT), "%s: the count runs",
	       mode);
	apic_write(APIC_TMICT, 100000);
	sti();
	report(wait_change(&timer_count, 0, 1000), "%s: one-shot timer", mode);
	delay_us(2000);
	report_eq(timer_count, 1, "%s: once", mode);
	report_eq(apic_read(APIC_TMCCT), 0, "%s: the count ends at 0", mode);
	timer_count = 0;
	apic_write(APIC_LVTT, 0x90 | LVT_PERIODIC);
	apic_write(APIC_TMICT, 100000);
	t = rdtsc();
	for (unsigned i = 0; i < 5; i++)
		wait_change(&timer_count, i, 1000);
	t = rdtsc() - t;
	report(timer_count >= 5, "%s: periodic timer", mode);
	apic_write(APIC_TMICT, 0);
	cli();
	timer_count = 0;
	if (HAS(TSC_DEADLINE)) {
		apic_write(APIC_LVTT, 0x90 | LVT_DEADLINE);
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
		sti();
		report(wait_change(&timer_count, 0, 1000), "%s: TSC deadline", mode);
		report_eq(rdmsr(MSR_TSC_DEADLINE), 0, "%s: it is disarmed", mode);
		cli();
		wrmsr(MSR_TSC_DEADLINE, 1);
		settle();
		report_eq(timer_count, 2, "%s: a deadline in the past", mode);
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + (u64)tsc_khz() * 1000);
		wrmsr(MSR_TSC_DEADLINE, 0);
		report_eq(rdmsr(MSR_TSC_DEADLINE), 0, "%s: disarmed by 0", mode);
	} else {
		report_skip("%s: TSC deadline", mode);
	}
	apic_write(APIC_LVTT, LVT_MASKED);
}

static void errors(void)
{
	apic_write(APIC_ESR, 0);
	apic_icr(ICR_SELF | ICR_ASSERT | 5, 0);
	apic_write(APIC_ESR, 0);
	report(apic_read(APIC_ESR) & 0x60, "ESR: illegal vector sent or received");
	apic_write(APIC_ESR, 0);
	apic_write(APIC_ESR, 0);
	report_eq(apic_read(APIC_ESR), 0, "ESR is cleared");
}

static void modes(void)
{
	u64 base = rdmsr(MSR_APIC_BASE), v;
	u32 id = apic_id();

	report_eq(apic_read(APIC_VERSION) & 0xf0, 0x10, "an integrated APIC");
	if (!HAS(X2APIC)) {
		report_skip("x2APIC");
		return;
	}
	report_eq(msr_read(0x802, &v), EXC_GP, "x2APIC registers in xAPIC mode");
	report_eq(msr_write(MSR_APIC_BASE, (base | APIC_BASE_X2) & ~APIC_BASE_EN), EXC_GP,
		  "EXTD without EN");
	report(apic_enable_x2(), "x2APIC mode");
	report_eq(apic_id(), id, "the same id");
	report_eq(rdmsr(0x80d), (u64)(id >> 4) << 16 | 1u << (id & 15), "LDR follows the id");
	report_eq(msr_write(0x802, 1), EXC_GP, "x2APIC: the id is read-only");
	report_eq(msr_write(0x80b, 1), EXC_GP, "x2APIC: EOI of 1");
	report_eq(msr_read(0x80e, &v), EXC_GP, "x2APIC: no DFR");
	report_eq(msr_read(0x831, &v), EXC_GP, "x2APIC: no ICR2");
	report_eq(msr_write(0x808, 0x100), EXC_GP, "x2APIC: reserved bits of TPR");
	report_eq(msr_write(0x80f, 1u << 31), EXC_GP, "x2APIC: reserved bits of SVR");
	report_eq(msr_write(MSR_APIC_BASE, base), EXC_GP, "x2APIC to xAPIC directly");
	priorities("x2APIC");
	timer("x2APIC");
	taken = 0;
	wrmsr(0x83f, V1);
	settle();
	report_eq(taken, 1, "x2APIC: self IPI register");
	apic_disable_x2();
	report(!apic_is_x2(), "and back, through disabled");
	report_eq(apic_id(), id, "with the same id");
}

static void disabled(void)
{
	apic_write(APIC_SVR, 0xff);
	apic_write(APIC_LVTT, 0x90);
	report(apic_read(APIC_LVTT) & LVT_MASKED, "software-disabled: LVTs are masked");
	apic_write(APIC_SVR, 0x1ff);
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~APIC_BASE_EN);
	report(!HAS(APIC), "globally disabled: CPUID says so");
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_EN);
	report(HAS(APIC), "and back");
	apic_init();
}

/* ---- IPIs between CPUs ---- */

static volatile u32 hits[CPUS_MAX];
static void on_ipi(struct regs *r)
{
	__atomic_fetch_add(&hits[this_cpu()->id], 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}
static void nap(void *arg)
{
	volatile u32 *until = arg;
	u64 end = rdtsc() + tsc_khz() * 3000;

	while (!*until && rdtsc() < end) {
		__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	}
}

static void ipis(void)
{
	volatile u32 stop = 0;
	unsigned others = cpu_count - 1;

	if (cpu_count < 2)
		return;
	irq_set(0x99, on_ipi);
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, nap, (void *)&stop);
	for (unsigned i = 1; i < cpu_count; i++) {
		u32 old = hits[i];

		apic_icr(ICR_ASSERT | 0x99, cpus[i]->apic_id);
		report(wait_change(&hits[i], old, 2000), "IPI to CPU %u", i);
	}
	memset((void *)hits, 0, sizeof(hits));
	sti();
	apic_icr(ICR_OTHERS | ICR_ASSERT | 0x99, 0);
	for (unsigned i = 1; i < cpu_count; i++)
		wait_change(&hits[i], 0, 2000);
	report(!hits[0] && hits[others] == 1, "all but self");
	apic_icr(ICR_ALL | ICR_ASSERT | 0x99, 0);
	for (unsigned i = 1; i < cpu_count; i++)
		wait_change(&hits[i], 1, 2000);
	wait_change(&hits[0], 0, 100);
	report(hits[0] == 1 && hits[others] == 2, "all");
	/* flat logical */
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << 24);
	memset((void *)hits, 0, sizeof(hits));
	apic_icr(ICR_LOGICAL | ICR_ASSERT | 0x99, 1);
	report(wait_change(&hits[0], 0, 1000), "logical destination");
	cli();
	stop = 1;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_wait(i);
}

/* Logical destinations of the xAPIC's cluster model, and lowest priority: one of several. */
static void to_cluster(void *arg)
{
	apic_write(APIC_DFR, 0x0fffffff);
	apic_write(APIC_LDR, (0x10u | 1u << (this_cpu()->id & 3)) << 24);
}
static void to_flat(void *arg)
{
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << (24 + (this_cpu()->id & 7)));
}

static u32 hits_of_others(unsigned want)
{
	u64 end = rdtsc() + tsc_khz() * 2000;
	u32 sum;

	do {
		sum = 0;
		for (unsigned i = 1; i < cpu_count; i++)
			sum += hits[i];
	} while (sum < want && rdtsc() < end);
	delay_us(1000);
	for (unsigned i = sum = 0; i < cpu_count; i++)
		sum += hits[i];
	return sum;
}

static void clusters(void)
{
	volatile u32 stop = 0;
	u32 others = (1u << cpu_count) - 2;

	if (cpu_count < 2)
		return;
	smp_all(to_cluster, NULL);
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, nap, (void *)&stop);
	memset((void *)hits, 0, sizeof(hits));
	apic_icr(ICR_LOGICAL | ICR_ASSERT | 0x99, 0x10 | others);
	report_eq(hits_of_others(cpu_count - 1), cpu_count - 1, "xAPIC: a cluster's members");
	apic_icr(ICR_LOGICAL | ICR_ASSERT | 0x99, 0x20 | others);
	report_eq(hits_of_others(0), cpu_count - 1, "xAPIC: another cluster's are nobody");
	memset((void *)hits, 0, sizeof(hits));
	for (unsigned i = 1; i <= 10; i++) {
		apic_icr(ICR_LOGICAL | ICR_LOWEST | ICR_ASSERT | 0x99, 0x10 | others);
		hits_of_others(i);
	}
	report(hits_of_others(10) == 10 && !hits[0], "xAPIC: lowest priority: one CPU for each");
	stop = 1;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_wait(i);
	smp_all(to_flat, NULL);
}

/* ---- x2APIC on all CPUs: physical, cluster and broadcast destinations ---- */

static volatile u32 x2_fail;
static void to_x2(void *arg)
{
	if (!apic_enable_x2() || apic_id() != this_cpu()->apic_id)
		x2_fail++;
}
static void from_x2(void *arg)
{
	apic_disable_x2();
}

static void x2_smp(void)
{
	volatile u32 stop = 0;
	u32 all = 0, cluster = 0;

	if (cpu_count < 2 || !HAS(X2APIC))
		return;
	smp_all(to_x2, NULL);
	report_eq(x2_fail, 0, "x2APIC on all CPUs");
	memset((void *)hits, 0, sizeof(hits));
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, nap, (void *)&stop);
	for (unsigned i = 1; i < cpu_count; i++) {
		u32 old = hits[i];

		apic_icr(ICR_ASSERT | 0x99, cpus[i]->apic_id);
		report(wait_change(&hits[i], old, 2000) && hits[i] == 1, "x2APIC: IPI to CPU %u",
		       i);
		cluster |= 1u << (cpus[i]->apic_id & 15);
	}
	memset((void *)hits, 0, sizeof(hits));
	apic_icr(ICR_LOGICAL | ICR_ASSERT | 0x99, cluster);
	for (unsigned i = 1; i < cpu_count; i++)
		all += wait_change(&hits[i], 0, 2000);
	report(all == cpu_count - 1 && !hits[0], "x2APIC: a cluster");
	memset((void *)hits, 0, sizeof(hits));
	sti();
	apic_icr(ICR_ASSERT | 0x99, 0xffffffff);
	for (unsigned i = all = 0; i < cpu_count; i++)
		all += wait_change(&hits[i], 0, 2000);
	cli();
	report_eq(all, cpu_count, "x2APIC: the broadcast id");
	stop = 1;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_wait(i);
	smp_all(from_x2, NULL);
}

/* ---- I/O APIC: the PIT on pin 2 (edge), a level pin by a mask of its own ---- */

static void ioapic(void)
{
	irq_set(0x95, on_timer);
	report((ioapic_read(1) & 0xff) >= 0x11, "I/O APIC version");
	report_eq((ioapic_read(1) >> 16) & 0xff, 23, "24 pins");
	ioapic_set(5, 0x10000 | 0x77);
	report_eq(ioapic_get(5) & 0x100ff, 0x10077, "redirection entry");
	ioapic_set(2, 0x95 | (u64)apic_id() << 56);
	ioapic_set(0, 0x10000);
	timer_count = 0;
	outb(0x43, 0x34);
	outb(0x40, 0x9c);
	outb(0x40, 0x2e); /* 10 ms, periodic */
	sti();
	report(wait_change(&timer_count, 0, 2000), "PIT through the I/O APIC");
	report(wait_change(&timer_count, 1, 2000), "again");
	ioapic_set(2, 0x10000 | 0x95 | (u64)apic_id() << 56);
	delay_us(1000);
	timer_count = 0;
	delay_us(30000);
	report_eq(timer_count, 0, "masked");
	cli();
	outb(0x43, 0x30);
}

static void pic(void)
{
	irq_set(0x20, NULL);
	outb(0x20, 0x11), outb(0x21, 0x20), outb(0x21, 4), outb(0x21, 1);
	outb(0xa0, 0x11), outb(0xa1, 0x28), outb(0xa1, 2), outb(0xa1, 1);
	outb(0x21, 0xfe), outb(0xa1, 0xff);
	report_eq(inb(0x21), 0xfe, "8259 mask");
	apic_write(APIC_LVT0, 0x700); /* ExtINT */
	this_cpu()->irqs[0x20] = 0;
	outb(0x43, 0x30);
	outb(0x40, 0x00);
	outb(0x40, 0x10);
	sti();
	report(wait_change(&this_cpu()->irqs[0x20], 0, 2000), "PIT through the 8259");
	cli();
	outb(0x20, 0x0b);
	report_eq(inb(0x20) & 1, 1, "8259 in-service register");
	outb(0x20, 0x20);
	report_eq(inb(0x20) & 1, 0, "8259 EOI");
	pic_disable();
	apic_write(APIC_LVT0, LVT_MASKED);
}

static void pit_counter(void)
{
	u16 a, b;

	outb(0x43, 0x34);
	outb(0x40, 0xff);
	outb(0x40, 0xff);
	delay_us(100);
	outb(0x43, 0x00);
	a = inb(0x40);
	a |= (u16)(inb(0x40) << 8);
	delay_us(1000);
	outb(0x43, 0x00);
	b = inb(0x40);
	b |= (u16)(inb(0x40) << 8);
	report(a > b && a - b > 1000, "PIT counts down (%u, %u)", a, b);
	outb(0x43, 0xe2); /* read back status of channel 0 */
	report_eq(inb(0x40) & 0x3f, 0x34, "PIT read-back status");
}

static void tsc(void)
{
	u64 old = rdtsc(), now;
	struct cases c = {0};

	for (unsigned i = 0; i < 10000; i++) {
		now = rdtsc();
		c.run++;
		if (now < old)
			fail_case(&c, "back by %u", (u32)(old - now));
		old = now;
	}
	report_cases(&c, "TSC does not go back");
	wrmsr(MSR_TSC, 0x1000000000);
	now = rdtsc();
	report(now >= 0x1000000000 && now < 0x1000000000 + tsc_khz() * 1000, "TSC is written");
	if (HAS(TSC_ADJUST)) {
		u64 adjust = rdmsr(MSR_TSC_ADJUST);

		report(adjust != 0, "writing the TSC moves TSC_ADJUST");
		wrmsr(MSR_TSC_ADJUST, adjust + 0x100000000000);
		report(rdtsc() > 0x100000000000, "TSC_ADJUST moves the TSC");
		wrmsr(MSR_TSC_ADJUST, 0);
	} else {
		report_skip("TSC_ADJUST");
	}
}

void test_main(void)
{
	irq_set(V1, on_irq);
	irq_set(V2, on_irq);
	irq_set(V3, on_irq);
	irq_set(0x90, on_timer);
	smp_start();
	priorities("xAPIC");
	timer("xAPIC");
	disabled();
	ipis();
	clusters();
	modes();
	x2_smp();
	ioapic();
	pic();
	pit_counter();
	tsc();
	errors();
}
