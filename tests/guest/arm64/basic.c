/* arm64: exceptions, translation, timer, PSCI, atomics, message passing. Source: Arm ARM, PSCI. */
#include "arm64/arm64.h"

static void svc(void *p)
{
	__asm__ volatile("svc #0x12");
}
static void undefined(void *p)
{
	__asm__ volatile(".inst 0");
}
static void breakpoint(void *p)
{
	__asm__ volatile("brk #7");
}
static void load(void *p)
{
	__asm__ volatile("ldr x9, [%0]" : : "r"(p) : "x9", "memory");
}
static void store(void *p)
{
	__asm__ volatile("str xzr, [%0]" : : "r"(p) : "memory");
}
static void add(void *p)
{
	for (unsigned i = 0; i < 10000; i++)
		__atomic_fetch_add((u32 *)p, 1, __ATOMIC_SEQ_CST);
}
static void id(void *p)
{
	*(u64 *)p = sys_read(mpidr_el1) & 0xff;
}

static void exceptions(void)
{
	report(trap_try(svc, NULL) && trap_last.class == 0x15 && (trap_last.esr & 0xffff) == 0x12,
	       "SVC");
	report(trap_try(undefined, NULL) && trap_last.class == 0, "undefined instruction");
	report(trap_try(breakpoint, NULL) && trap_last.class == 0x3c &&
		       (trap_last.esr & 0xffff) == 7,
	       "BRK");
	report(trap_try(load, (void *)0x100000000), "load of an unmapped address");
	report(trap_last.class == 0x25 && trap_last.far == 0x100000000 &&
		       (trap_last.esr & 0x3f) == 5,
	       "its syndrome: a translation fault, level 1");
	report(trap_try(store, (void *)0x100000008) && (trap_last.esr & 0x40), "a store says so");
	report(trap_try(load, (void *)0x8000000000000000) && trap_last.class == 0x25,
	       "an address that is too big");
}

static void translation(void)
{
	static u64 cell = 42;

	root[4] = 0x40000000 + 0x701; /* 4 GiB is another name of 1 GiB */
	__asm__ volatile("dsb ishst; isb" ::: "memory");
	report_eq(*(volatile u64 *)((u64)&cell + 0xc0000000), 42, "another address");
	root[4] |= 0x80; /* read-only */
	__asm__ volatile("dsb ishst; tlbi vmalle1is; dsb ish; isb" ::: "memory");
	report(trap_try(store, (void *)((u64)&cell + 0xc0000000)), "read-only");
	report((trap_last.esr & 0x3f) == 0xd, "a permission fault, level 1");
	root[4] = 0;
	__asm__ volatile("dsb ishst; tlbi vmalle1is; dsb ish; isb" ::: "memory");
	report(trap_try(load, (void *)((u64)&cell + 0xc0000000)), "unmapped after TLBI");
}

static void timer(void)
{
	u64 hz = sys_read(cntfrq_el0), t = sys_read(cntvct_el0);

	report(hz > 1000000, "counter frequency");
	while (sys_read(cntvct_el0) - t < hz / 1000)
		;
	sys_write(cntv_tval_el0, hz / 1000);
	sys_write(cntv_ctl_el0, 1);
	t = sys_read(cntvct_el0);
	while (!(sys_read(cntv_ctl_el0) & 4) && sys_read(cntvct_el0) - t < hz)
		;
	report(sys_read(cntv_ctl_el0) & 4, "the virtual timer fires");
	sys_write(cntv_ctl_el0, 0);
}

static volatile u64 data, flag, seen;
static void reader(void *p)
{
	while (!__atomic_load_n(&flag, __ATOMIC_ACQUIRE))
		;
	seen = data;
}

void test_main(void)
{
	u32 n = 0;
	u64 v = 0;

	note("command line: %s", cmdline);
	report_eq((sys_read(CurrentEL) >> 2) & 3, 1, "EL1");
	exceptions();
	translation();
	timer();
	report(psci(0x84000000, 0, 0, 0) >= 2, "PSCI version");
	smp_start();
	report_eq(cpu_count, param("cpus", 1), "all CPUs run");
	smp_all(add, &n);
	report_eq(n, 10000 * cpu_count, "atomic additions");
	for (unsigned i = 1; i < cpu_count; i++) {
		smp_call(i, id, &v);
		report_eq(v, i, "CPU %u is itself", i);
	}
	if (cpu_count > 1) {
		report_eq((u64)psci(0xc4000003, 1, 0x40400000, 0), (u64)-4,
			  "CPU_ON of one that is on");
		data = 77;
		__atomic_store_n(&flag, 1, __ATOMIC_RELEASE);
		smp_call(1, reader, NULL);
		report_eq(seen, 77, "release and acquire");
	}
}
