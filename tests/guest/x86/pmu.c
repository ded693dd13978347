/*
 * Performance counters: what RDPMC and the MSRs do without any, and what architectural counters
 * (leaf 0xa; AMD's core counters) count when they are there.
 * Source: SDM "Performance Monitoring": architectural versions 1 and 2; RDPMC; APM "Performance
 * Monitoring Counters".
 */
#include "x86/apic.h"
#include "x86/paging.h"
#include "x86/probe.h"

#define PERFCTR(n)	   (0xc1u + (n))
#define EVNTSEL(n)	   (0x186u + (n))
#define FIXED(n)	   (0x309u + (n))
#define FIXED_CTRL	   0x38du
#define GLOBAL_STATUS	   0x38eu
#define GLOBAL_CTRL	   0x38fu
#define GLOBAL_OVF	   0x390u
#define CORE_SEL(n)	   (0xc0010200u + 2 * (n))
#define CORE_CTR(n)	   (0xc0010201u + 2 * (n))
#define SEL_USR		   BIT(16)
#define SEL_OS		   BIT(17)
#define SEL_INT		   BIT(20)
#define SEL_EN		   BIT(22)
#define EVENT_INSTRUCTIONS 0xc0

static int rdpmc(u32 index, u64 *v)
{
	u32 lo = 0, hi = 0;

	trap_clear();
	__asm__ volatile(TRY("rdpmc") : "+a"(lo), "=d"(hi) : "c"(index) : "memory");
	*v = (u64)hi << 32 | lo;
	return trap_vector();
}

USER static void user_rdpmc(void *p)
{
	__asm__ volatile("rdpmc" : : "c"(0) : "eax", "edx");
}

static void loop(u32 n)
{
	__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n) : : "cc");
}

/* A counter by its two MSRs: counts instructions, at level 0, when enabled. */
static void counter(const char *name, u32 sel, u32 ctr, u32 pmc, u32 global)
{
	u64 a = 0, b = 0, v = 0;

	msr_write(sel, 0);
	report_eq((u64)(s64)msr_write(ctr, 0), ~0ull, "%s: written", name);
	if (global)
		msr_write(GLOBAL_CTRL, 1);
	report_eq((u64)(s64)msr_write(sel, EVENT_INSTRUCTIONS | SEL_OS | SEL_USR | SEL_EN), ~0ull,
		  "%s: instructions", name);
	report_eq((u64)(s64)rdpmc(pmc, &a), ~0ull, "%s: RDPMC", name);
	loop(10000);
	rdpmc(pmc, &b);
	report(b - a >= 20000 && b - a < 40000, "%s: 20000 instructions are %u", name,
	       (u32)(b - a));
	msr_read(ctr, &v);
	report(v >= b, "%s: RDMSR agrees", name);
	msr_write(sel, EVENT_INSTRUCTIONS | SEL_USR | SEL_EN);
	rdpmc(pmc, &a);
	loop(10000);
	rdpmc(pmc, &b);
	report_eq(b - a, 0, "%s: none at level 0 when only level 3 counts", name);
	msr_write(sel, 0);
	rdpmc(pmc, &a);
	loop(10000);
	rdpmc(pmc, &b);
	report_eq(b, a, "%s: it stands when it is off", name);
}

static volatile u32 overflows;
static void on_pmi(struct regs *r)
{
	overflows++;
	apic_eoi();
}

static void overflow(void)
{
	u64 v = 0;

	irq_set(0x5e, on_pmi);
	apic_write(APIC_LVTPC, 0x5e);
	msr_write(GLOBAL_CTRL, 0);
	msr_write(PERFCTR(0), (u32)-1000);
	msr_write(EVNTSEL(0), EVENT_INSTRUCTIONS | SEL_OS | SEL_EN | SEL_INT);
	msr_write(GLOBAL_CTRL, 1);
	sti();
	loop(10000);
	for (volatile unsigned i = 0; i < 1000; i++)
		;
	cli();
	msr_write(GLOBAL_CTRL, 0);
	report(msr_read(GLOBAL_STATUS, &v) == -1 && (v & 1), "overflow: global status");
	report(overflows >= 1, "overflow: its interrupt");
	report(apic_read(APIC_LVTPC) & LVT_MASKED, "overflow: the LVT entry is masked");
	msr_write(GLOBAL_OVF, 1);
	report(msr_read(GLOBAL_STATUS, &v) == -1 && !(v & 1), "overflow: cleared");
	apic_write(APIC_LVTPC, LVT_MASKED);
	msr_write(EVNTSEL(0), 0);
}

static void intel(unsigned version, unsigned count, unsigned width)
{
	struct cpuid c = cpuid(0xa, 0);
	u64 v = 0, a = 0, b = 0;

	report(width >= 32 && width <= 64, "counters of %u bits", width);
	counter("counter 0", EVNTSEL(0), PERFCTR(0), 0, version >= 2);
	report_eq((u64)(s64)rdpmc(count, &v), EXC_GP, "RDPMC of the counter after the last");
	report_eq((u64)(s64)msr_write(EVNTSEL(0), BIT64(40)), EXC_GP,
		  "reserved bits of the event select");
	if (version < 2)
		return;
	report_eq((u64)(s64)msr_write(GLOBAL_CTRL, BIT64(63)), EXC_GP,
		  "reserved bits of the global control");
	report_eq((u64)(s64)msr_write(GLOBAL_STATUS, 0), EXC_GP, "the global status is read-only");
	msr_write(GLOBAL_CTRL, 0);
	msr_write(EVNTSEL(0), EVENT_INSTRUCTIONS | SEL_OS | SEL_EN);
	rdpmc(0, &a);
	loop(1000);
	rdpmc(0, &b);
	report_eq(b, a, "the global control stops it");
	msr_write(EVNTSEL(0), 0);
	if (c.d & 31) {
		msr_write(FIXED_CTRL, 1);
		msr_write(GLOBAL_CTRL, BIT64(32));
		report_eq((u64)(s64)rdpmc(BIT(30), &a), ~0ull, "RDPMC of fixed counter 0");
		loop(10000);
		rdpmc(BIT(30), &b);
		report(b - a >= 20000 && b - a < 40000,
		       "fixed counter 0: 20000 instructions are %u", (u32)(b - a));
		msr_write(FIXED_CTRL, 0);
		msr_write(GLOBAL_CTRL, 0);
	}
	overflow();
}

static void none(void)
{
	u64 v = 1;

	if (cpu_is_amd()) {
		/* Every AMD processor has four, whatever they count. */
		report_eq((u64)(s64)rdpmc(0, &v), ~0ull, "RDPMC of the first");
		report_eq((u64)(s64)rdpmc(3, &v), ~0ull, "RDPMC of the fourth");
	} else {
		report_eq((u64)(s64)rdpmc(0, &v), EXC_GP, "RDPMC without counters");
	}
	report_eq((u64)(s64)rdpmc(0x40000000, &v), EXC_GP, "RDPMC of a fixed counter");
	report_eq((u64)(s64)rdpmc(0xffffffff, &v), EXC_GP, "RDPMC of any other number");
	if (cpu_is_intel())
		report_eq((u64)(s64)msr_read(FIXED_CTRL, &v), EXC_GP, "no fixed counters");
	/* Old kernels touch these without looking: they read 0 and hold nothing. */
	if (msr_read(EVNTSEL(0), &v) == -1)
		report(!v && msr_write(EVNTSEL(0), 0) == -1,
		       "the first event select holds nothing");
	else
		report(true, "the first event select is not there");
}

void test_main(void)
{
	struct cpuid c = {0};
	ulong cr4 = read_cr4();

	cli();
	user_map();
	if (cpuid(0, 0).a >= 0xa && cpu_is_intel())
		c = cpuid(0xa, 0);
	note("version %u, %u counters", c.a & 0xff, (c.a >> 8) & 0xff);
	trap_user(user_rdpmc, NULL);
	report(trap_vector() == EXC_GP && !trap_last()->error, "RDPMC at level 3 without CR4.PCE");
	if (c.a & 0xff)
		intel(c.a & 0xff, (c.a >> 8) & 0xff, (c.a >> 16) & 0xff);
	else if (cpu_is_amd() && HAS(PERFCTR_CORE))
		counter("core counter 0", CORE_SEL(0), CORE_CTR(0), 0, 0);
	else
		none();
	write_cr4(cr4 | CR4_PCE);
	trap_user(user_rdpmc, NULL);
	report_eq((u64)(s64)trap_vector(), (c.a & 0xff) || cpu_is_amd() ? ~0ull : (u64)EXC_GP,
		  "RDPMC at level 3 with it");
	write_cr4(cr4);
}
