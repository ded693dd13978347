/*
 * KVM's paravirtual features: leaves, clock, steal time, PV EOI, PV IPIs, PV TLB flush,
 * hypercalls. Source: Linux, Documentation/virt/kvm/x86: cpuid, msr, hypercalls.
 */
#include "x86/apic.h"
#include "x86/paging.h"
#include "x86/probe.h"
#include "x86/smp.h"

#define MSR_WALL_CLOCK	 0x4b564d00
#define MSR_SYSTEM_TIME	 0x4b564d01
#define MSR_ASYNC_PF	 0x4b564d02
#define MSR_STEAL_TIME	 0x4b564d03
#define MSR_EOI_EN	 0x4b564d04
#define MSR_POLL	 0x4b564d05
#define MSR_ASYNC_PF_INT 0x4b564d06
#define MSR_MIGRATION	 0x4b564d08

#define HC_KICK		 5
#define HC_SEND_IPI	 10
#define HC_YIELD	 11
#define HC_MAP_GPA_RANGE 12

struct clock {
	u32 version, pad0;
	u64 tsc, ns;
	u32 mul;
	s8 shift;
	u8 flags, pad[2];
} __attribute__((packed));

static u64 scale(const volatile struct clock *c, u64 delta)
{
	u64 lo, hi;

	delta = c->shift >= 0 ? delta << c->shift : delta >> -c->shift;
	lo = (u64)(u32)delta * c->mul;
	hi = (delta >> 32) * c->mul;
	return hi + (lo >> 32);
}

static u64 clock_read(const volatile struct clock *c)
{
	u32 v;
	u64 ns;

	do {
		v = c->version;
		barrier();
		ns = c->ns + scale(c, rdtsc() - c->tsc);
		barrier();
	} while ((v & 1) || v != c->version);
	return ns;
}

static void pvclock(void)
{
	volatile struct clock *c = page_alloc();
	volatile u32 *wall = page_alloc();
	struct cases cs = {0};
	u64 a, b, t;

	if (!HAS(KVM_CLOCKSOURCE2)) {
		report_skip("kvmclock");
		return;
	}
	report_eq(msr_write(MSR_SYSTEM_TIME, (ulong)c | 1), -1, "clock on");
	report(c->version && !(c->version & 1) && c->mul, "its page is filled in");
	t = rdtsc();
	a = clock_read(c);
	delay_us(10000);
	b = clock_read(c);
	t = rdtsc() - t;
	/* This CPU may have been away; the TSC went on meanwhile. */
	report(b - a > 9000000 &&
		       b - a < 5000000ull * ((u32)(t >> 10) / ((u32)tsc_khz() >> 10) + 1),
	       "it runs as fast as the TSC");
	note("%u us", (u32)(b - a) / 1000);
	for (unsigned i = 0; i < 10000; i++) {
		b = clock_read(c);
		cs.run++;
		if (b < a)
			fail_case(&cs, "back by %u ns", (u32)(a - b));
		a = b;
	}
	report_cases(&cs, "it does not go back");
	report_eq(msr_write(MSR_WALL_CLOCK, (ulong)wall), -1, "wall clock");
	report(wall[0] && !(wall[0] & 1) && wall[1] > 1600000000, "its page");
	msr_write(MSR_SYSTEM_TIME, 0);
	report_eq(rdmsr(MSR_SYSTEM_TIME), 0, "clock off");
}

static void steal(void)
{
	volatile u32 *p = page_alloc();

	if (!HAS(KVM_STEAL_TIME)) {
		report_skip("steal time");
		return;
	}
	p[0] = p[1] = 0;
	report_eq(msr_write(MSR_STEAL_TIME, (ulong)p | 2), EXC_GP, "steal time: reserved bits");
	report_eq(msr_write(MSR_STEAL_TIME, (ulong)p | 1), -1, "steal time on");
	delay_us(1000);
	inb(0x61);
	report(!(p[2] & 1), "its version is even");
	msr_write(MSR_STEAL_TIME, 0);
}

static volatile u32 eois;
static u8 *eoi_page;
static void on_pv(struct regs *r)
{
	eois++;
	/* the bit set: EOI is a cleared bit; else the APIC's register */
	{
		u8 was;

		__asm__ volatile("lock btrl $0, (%1); setc %0"
				 : "=q"(was)
				 : "r"(eoi_page)
				 : "memory", "cc");
		if (!was)
			apic_eoi();
	}
}

static void pv_eoi(void)
{
	if (!HAS(KVM_PV_EOI)) {
		report_skip("PV EOI");
		return;
	}
	eoi_page = page_alloc();
	irq_set(0x66, on_pv);
	report_eq(msr_write(MSR_EOI_EN, (ulong)eoi_page | 1), -1, "PV EOI on");
	sti();
	for (unsigned i = 0; i < 100; i++) {
		u32 old = eois;

		apic_icr(ICR_SELF | ICR_ASSERT | 0x66, 0);
		wait_change(&eois, old, 100);
	}
	cli();
	report_eq(eois, 100, "interrupts with PV EOI");
	inb(0x61); /* a look of the hypervisor at it */
	report(!(apic_read(APIC_ISR + 0x30) & BIT(6)), "ISR is empty");
	msr_write(MSR_EOI_EN, 0);
}

static long hypercall(ulong nr, ulong a, ulong b, ulong c, ulong d)
{
	long r;

	if (cpu_is_intel())
		__asm__ volatile("vmcall"
				 : "=a"(r)
				 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
				 : "memory");
	else
		__asm__ volatile("vmmcall"
				 : "=a"(r)
				 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
				 : "memory");
	return r;
}

static volatile u32 pv_hits[CPUS_MAX];
static void on_pv_ipi(struct regs *r)
{
	pv_hits[this_cpu()->id]++;
	apic_eoi();
}
static volatile u32 nmis;
static void on_nmi(struct regs *r)
{
	nmis++;
}
static void idle_on(void *arg)
{
	volatile u32 *stop = arg;
	u64 end = rdtsc() + tsc_khz() * 3000;

	sti();
	while (!*stop && rdtsc() < end)
		pause();
	cli();
}

USER static void user_call(void *p)
{
	long r;

	__asm__ volatile("vmmcall" : "=a"(r) : "a"(1), "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
	*(volatile long *)p = r;
}
USER static void user_call_intel(void *p)
{
	long r;

	__asm__ volatile("vmcall" : "=a"(r) : "a"(1), "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
	*(volatile long *)p = r;
}

static void hypercalls(void)
{
	volatile long *r = page_alloc();

	report_eq((ulong)hypercall(1, 0, 0, 0, 0), 0, "hypercall: memory-mapped I/O flush hint");
	report_eq((ulong)hypercall(99, 0, 0, 0, 0), (ulong)-1000, "hypercall: one that is none");
	user_map();
	trap_user(cpu_is_intel() ? user_call_intel : user_call, (void *)r);
	report(trap_vector() == -1 && *r == -1, "hypercall at privilege level 3: -EPERM");
	if (cpu_count > 1 && HAS(KVM_PV_SEND_IPI)) {
		struct cases cs = {0};
		volatile u32 stop = 0;
		long n;

		irq_set(0x67, on_pv_ipi);
		for (unsigned i = 1; i < cpu_count; i++)
			smp_post(i, idle_on, (void *)&stop);
		n = hypercall(10, (1u << cpu_count) - 2, 0, 0, 0x67);
		report_eq((ulong)n, cpu_count - 1, "PV IPI says how many it sent");
		for (unsigned i = 1; i < cpu_count; i++)
			report(wait_change(&pv_hits[i], 0, 1000), "PV IPI arrives at CPU %u", i);
		report_eq((ulong)hypercall(10, 1, 0, cpus[1]->apic_id, 0x67), 1,
			  "PV IPI: the bits count from a lowest id");
		report(wait_change(&pv_hits[1], 1, 1000), "and it arrives");
		report_eq((ulong)hypercall(10, 0, 3, 0, 0x67), 0,
			  "PV IPI: the second word counts behind the first");
		report_eq((ulong)hypercall(10, 0, 0, 0, 0x67), 0, "PV IPI to nobody");
		report_eq((ulong)hypercall(10, 1, 0, 200, 0x67), 0,
			  "PV IPI to a CPU that is not there");
		nmis = 0;
		irq_set(EXC_NMI, on_nmi);
		report_eq((ulong)hypercall(10, 2, 0, 0, ICR_NMI), 1, "PV IPI of an NMI");
		wait_change(&nmis, 0, 1000);
		report_eq(nmis, 1, "it arrives");
		for (u32 i = 1; i < 1000; i++) {
			hypercall(10, 2, 0, 0, ICR_NMI);
			cs.run++;
			if (!wait_change(&nmis, i, 1000) || nmis != i + 1) {
				fail_case(&cs, "%u have arrived of %u", nmis, i + 1);
				break;
			}
		}
		report_cases(&cs, "a thousand of them, each once");
		stop = 1;
		for (unsigned i = 1; i < cpu_count; i++)
			smp_wait(i);
	}
}

/* ---- steal time's "preempted" byte: a TLB flush that the hypervisor does on the way back ---- */

#define PREEMPTED 1u
#define FLUSH_TLB 2u

struct steal {
	u64 ns;
	u32 version, flags;
	u8 preempted, pad[47];
} __attribute__((aligned(64)));

static volatile struct steal *steals;
static volatile u32 asleep, woke, seen_value;
static volatile ulong shared;

static void on_wake_up(struct regs *r)
{
	woke++;
	apic_eoi();
}

/* Reads the page, sleeps, reads it again: nothing but the hypervisor flushes in between. */
static void sleeper(void *arg)
{
	msr_write(MSR_STEAL_TIME, (ulong)&steals[this_cpu()->id] | 1);
	seen_value = *(volatile u32 *)shared;
	asleep = 1;
	while (!woke)
		__asm__ volatile("sti; hlt; cli" ::: "memory");
	seen_value = *(volatile u32 *)shared;
	msr_write(MSR_STEAL_TIME, 0);
}

static void tlb_flush(void)
{
	u32 *a = page_alloc(), *b = page_alloc();
	struct cases c = {0};
	unsigned used = 0;

	if (cpu_count < 2 || !HAS(KVM_PV_TLB_FLUSH) || !HAS(KVM_STEAL_TIME)) {
		report_skip("PV TLB flush");
		return;
	}
	irq_set(0x68, on_wake_up);
	steals = page_alloc();
	shared = va_alloc();
	*a = 0xaaaa, *b = 0xbbbb;
	for (unsigned i = 0; i < 50; i++) {
		u64 end = rdtsc() + tsc_khz() * 1000;
		u8 was = PREEMPTED;

		*pte_of(shared) = (ulong)a | PT_P | PT_W;
		invlpg((void *)shared);
		asleep = woke = 0;
		smp_post(1, sleeper, NULL);
		while ((!asleep || !(steals[1].preempted & PREEMPTED)) && rdtsc() < end)
			pause();
		*pte_of(shared) = (ulong)b | PT_P | PT_W;
		c.run++;
		if (__atomic_compare_exchange_n(&steals[1].preempted, &was, PREEMPTED | FLUSH_TLB,
						false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
			used++;
			apic_icr(ICR_ASSERT | 0x68, cpus[1]->apic_id);
			if (!smp_wait(1))
				die("CPU 1 hangs");
			if (seen_value != 0xbbbb)
				fail_case(&c, "round %u: read %x after the flush", i, seen_value);
			if (steals[1].preempted)
				fail_case(&c, "round %u: preempted is %x while it runs", i,
					  steals[1].preempted);
		} else {
			apic_icr(ICR_ASSERT | 0x68, cpus[1]->apic_id);
			smp_wait(1);
		}
	}
	report(used, "a sleeping CPU is marked as preempted");
	report_cases(&c, "PV TLB flush: before the CPU runs again");
}

/* ---- kick: a CPU that halted with interrupts off ---- */

static volatile u32 kicked;
static void halt_off(void *arg)
{
	kicked = 1;
	__asm__ volatile("cli; hlt");
	kicked = 2;
}

static void unhalt(void)
{
	if (cpu_count < 2 || !HAS(KVM_PV_UNHALT)) {
		report_skip("PV unhalt");
		return;
	}
	for (unsigned early = 0; early < 2; early++) {
		kicked = 0;
		smp_post(1, halt_off, NULL);
		while (!kicked)
			pause();
		if (!early)
			delay_us(5000);
		report_eq((ulong)hypercall(HC_KICK, 0, cpus[1]->apic_id, 0, 0), 0, "kick");
		for (unsigned i = 0; i < 1000 && kicked != 2; i++)
			delay_us(1000);
		if (!report(kicked == 2, "it ends HLT%s",
			    early ? ", also when it comes first" : ""))
			apic_icr(ICR_NMI | ICR_ASSERT, cpus[1]->apic_id);
		smp_wait(1);
	}
	if (HAS(KVM_PV_SCHED_YIELD))
		report_eq((ulong)hypercall(HC_YIELD, cpus[1]->apic_id, 0, 0, 0), 0,
			  "yield to another CPU");
}

/* ---- migration with the guest's help ---- */

static void migration(void)
{
	if (HAS(KVM_MIGRATION_CONTROL)) {
		report_eq(rdmsr(MSR_MIGRATION), 0, "migration control: not ready at first");
		report_eq((u64)(s64)msr_write(MSR_MIGRATION, 1), ~0ull, "migration control: ready");
		report_eq(rdmsr(MSR_MIGRATION), 1, "and it says so");
		report_eq((u64)(s64)msr_write(MSR_MIGRATION, 2), EXC_GP,
			  "migration control: reserved bits");
		report_eq((u64)(s64)msr_write(MSR_MIGRATION, BIT64(63)), EXC_GP,
			  "migration control: bit 63");
		report_eq(rdmsr(MSR_MIGRATION), 1, "and it is as before");
		msr_write(MSR_MIGRATION, 0);
	} else {
		report_skip("migration control");
	}
	if (HAS(KVM_HC_MAP_GPA_RANGE)) {
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200000, 2, 0x10, 0), 0,
			  "map GPA range: two encrypted pages");
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200000, 1, 0, 0), 0,
			  "map GPA range: one plain page");
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200800, 1, 0, 0), (ulong)-22,
			  "map GPA range: not the start of a page");
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200000, 0, 0, 0), (ulong)-22,
			  "map GPA range: no pages");
#if IS64
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200000, ~0ul, 0, 0), (ulong)-22,
			  "map GPA range: around the end");
#endif
	} else {
		report_eq((ulong)hypercall(HC_MAP_GPA_RANGE, 0x200000, 1, 0, 0), (ulong)-1000,
			  "map GPA range: not offered");
	}
}

static void async_pf(void)
{
	if (!HAS(KVM_ASYNC_PF)) {
		report_skip("asynchronous page faults");
		return;
	}
	report_eq((u64)(s64)msr_write(MSR_ASYNC_PF, (ulong)page_alloc() | 0x11), EXC_GP,
		  "asynchronous page faults: reserved bits");
	report_eq(rdmsr(MSR_ASYNC_PF), 0, "and they are off");
	if (HAS(KVM_ASYNC_PF_INT)) {
		report_eq((u64)(s64)msr_write(MSR_ASYNC_PF_INT, 0xf3), ~0ull, "their vector");
		report_eq((u64)(s64)msr_write(MSR_ASYNC_PF_INT, 0x100), EXC_GP,
			  "their vector has 8 bits");
		msr_write(MSR_ASYNC_PF_INT, 0);
	}
}

/* Steal time only grows, and its flags and padding are the hypervisor's zeros. */
static void steal_grows(void)
{
	volatile struct steal *s;
	struct cases c = {0};
	u64 old = 0;

	if (!HAS(KVM_STEAL_TIME))
		return;
	s = page_alloc();
	msr_write(MSR_STEAL_TIME, (ulong)s | 1);
	for (unsigned i = 0; i < 200; i++) {
		u64 now;

		delay_us(50);
		inb(0x61);
		now = s->ns;
		c.run++;
		if (now < old)
			fail_case(&c, "back from %u to %u", (u32)old, (u32)now);
		old = now;
	}
	report_cases(&c, "steal time grows");
	report(!s->flags && !s->preempted, "flags and preempted are 0 while it runs");
	msr_write(MSR_STEAL_TIME, 0);
}

void test_main(void)
{
	struct cpuid r;

	smp_start();
	if (!cpu_has_kvm()) {
		report_skip("this is not KVM");
		return;
	}
	r = cpuid(0x40000000, 0);
	report(r.a >= 0x40000001, "signature and highest leaf");
	pvclock();
	steal();
	steal_grows();
	pv_eoi();
	hypercalls();
	migration();
	async_pf();
	tlb_flush();
	unhalt();
	if (HAS(KVM_POLL_CONTROL)) {
		report_eq(msr_write(MSR_POLL, 0), -1, "poll control 0");
		report_eq(msr_write(MSR_POLL, 2), EXC_GP, "poll control 2");
		msr_write(MSR_POLL, 1);
	}
}
