/* Performance counters: registers of both vendors, what is counted, overflow, filter, RDPMC. */
#include "rig.h"

#define SEL_USR BIT64(16)
#define SEL_OS	BIT64(17)
#define SEL_INT BIT64(20)
#define SEL_EN	BIT64(22)
#define INSN	0xc0
#define BRANCH	0xc4
#define CYCLES	0x3c

static unsigned interrupts, changes;
static bool allow;

static bool on_allowed(struct cpu *cpu, int fixed, u64 sel)
{
	return allow;
}
static void on_interrupt(struct cpu *cpu)
{
	interrupts++;
}
static void on_changed(struct cpu *cpu)
{
	changes++;
}

static void start(enum cpu_vendor vendor)
{
	rig_vendor(vendor);
	rig_long();
	rig.ops.pmu_allowed = on_allowed;
	rig.ops.pmu_interrupt = on_interrupt;
	rig.ops.pmu_changed = on_changed;
	rig.cpu->ops = &rig.ops;
	rig.cpu->pmu.enabled = rig.cpu->pmu.running = true;
	rig.cpu->pmu.caps = vendor == CPU_VENDOR_INTEL ? PMU_CAP_FULL_WIDTH : 0;
	allow = true;
	interrupts = changes = 0;
	cpu_pmu_refresh(rig.cpu);
}

static u64 get(u32 msr)
{
	u64 v = 0;

	assert_int_equal(cpu_msr_read(rig.cpu, msr, &v, false), 0);
	return v;
}
static void set(u32 msr, u64 v)
{
	assert_int_equal(cpu_msr_write(rig.cpu, msr, v, false), 0);
}
static void bad(u32 msr, u64 v)
{
	assert_int_equal(cpu_msr_write(rig.cpu, msr, v, false), 1);
}

/* What the dispatcher does for one instruction. */
static void retire(unsigned what)
{
	cpu_pmu_retired(rig.cpu, rig.cpu->pmu.by_insn, what);
}

static void intel_registers(void **state)
{
	u64 v;

	start(CPU_VENDOR_INTEL);
	assert_int_equal(get(0x38f), 0xff);
	set(0xc1, 0x80000001);
	assert_true(get(0xc1) == 0xffff80000001);
	set(0x4c1, 0x123456789abc);
	assert_true(get(0xc1) == 0x123456789abc);
	bad(0x4c1, BIT64(48));
	bad(0xc9, 0);
	set(0x186, SEL_EN | SEL_OS | INSN);
	bad(0x186, BIT64(21));
	bad(0x186, BIT64(32));
	bad(0x38d, 4);
	bad(0x38d, 0x1000);
	bad(0x38f, BIT64(8));
	bad(0x38f, BIT64(35));
	bad(0x38e, 0);
	set(0x390, BIT64(62) | 1);
	bad(0x345, 0);
	assert_int_equal(cpu_msr_write(rig.cpu, 0x345, BIT64(6), true), 1);
	assert_int_equal(cpu_msr_write(rig.cpu, 0x345, 0, true), 0);
	bad(0x4c1, 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 7, &v), 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 8, &v), 1);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, BIT(30) | 2, &v), 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, BIT(30) | 3, &v), 1);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, BIT(31), &v), 1);
}

/* Without a PMU only the P6's first two of each may be touched. */
static void intel_none(void **state)
{
	u64 v;

	start(CPU_VENDOR_INTEL);
	rig.cpu->pmu.enabled = false;
	cpu_pmu_refresh(rig.cpu);
	set(0xc1, 7);
	assert_int_equal(get(0xc1), 0);
	set(0x187, SEL_EN | SEL_OS | INSN);
	assert_int_equal(get(0x187), 0);
	bad(0xc3, 0);
	bad(0x188, 0);
	bad(0x309, 0);
	bad(0x38f, 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 0, &v), 1);
	assert_int_equal(rig.cpu->pmu.on, 0);
}

static void counting(void **state)
{
	start(CPU_VENDOR_INTEL);
	set(0x186, SEL_EN | SEL_OS | INSN);
	set(0x187, SEL_EN | SEL_USR | BRANCH);
	assert_true(rig.cpu->mode & MODE_STEP);
	retire(0);
	retire(PMU_INSN_BRANCH);
	assert_int_equal(get(0xc1), 2);
	assert_int_equal(get(0xc2), 0);
	rig_cpl(3);
	cpu_mode_update(rig.cpu);
	assert_true(rig.cpu->mode & MODE_STEP);
	retire(PMU_INSN_BRANCH);
	retire(0);
	assert_int_equal(get(0xc1), 2);
	assert_int_equal(get(0xc2), 1);
	rig_cpl(0);
	cpu_mode_update(rig.cpu);
	/* what began while a counter was on counts, although it turned it off */
	{
		u64 active = rig.cpu->pmu.by_insn;

		set(0x186, 0);
		cpu_pmu_retired(rig.cpu, active, 0);
	}
	assert_int_equal(get(0xc1), 3);
	assert_false(rig.cpu->mode & MODE_STEP);
	/* the global control, then the fixed counter of instructions */
	set(0x186, SEL_EN | SEL_OS | INSN);
	set(0x38f, 0);
	assert_false(rig.cpu->mode & MODE_STEP);
	set(0x38d, 1);
	set(0x38f, BIT64(32));
	retire(0);
	assert_int_equal(get(0x309), 1);
	assert_int_equal(get(0xc1), 3);
}

static void cycles(void **state)
{
	u64 a, b;

	start(CPU_VENDOR_INTEL);
	set(0x186, SEL_EN | SEL_OS | SEL_USR | CYCLES);
	assert_false(rig.cpu->mode & MODE_STEP);
	a = get(0xc1);
	b = get(0xc1);
	assert_true(b > a);
	/* not while it is halted */
	cpu_pmu_settle(rig.cpu);
	rig.cpu->pmu.running = false;
	a = get(0xc1);
	assert_true(get(0xc1) == a);
	rig.cpu->pmu.running = true;
	assert_true(cpu_pmu_next(rig.cpu) == ~0ull);
	changes = 0;
	set(0x186, SEL_EN | SEL_OS | SEL_USR | SEL_INT | CYCLES);
	assert_true(changes > 0);
	set(0x4c1, BIT64(48) - 1000);
	assert_true(cpu_pmu_next(rig.cpu) <= 1000);
	for (unsigned i = 0; i < 1000000 && !interrupts; i++)
		cpu_pmu_settle(rig.cpu);
	assert_int_equal(interrupts, 1);
	assert_int_equal(get(0x38e), 1);
	set(0x390, 1);
	assert_int_equal(get(0x38e), 0);
}

static void overflow(void **state)
{
	start(CPU_VENDOR_INTEL);
	set(0x4c2, BIT64(48) - 2);
	set(0x187, SEL_EN | SEL_OS | SEL_INT | INSN);
	retire(0);
	assert_int_equal(interrupts, 0);
	retire(0);
	assert_int_equal(interrupts, 1);
	assert_int_equal(get(0xc2), 0);
	assert_int_equal(get(0x38e), 2);
	/* a fixed counter's bit is above */
	set(0x30a, 0);
	set(0x38d, 9);
	set(0x38f, BIT64(32));
	set(0x309, BIT64(48) - 1);
	retire(0);
	assert_true(get(0x38e) == (BIT64(32) | 2));
	assert_int_equal(interrupts, 2);
}

static void filter(void **state)
{
	start(CPU_VENDOR_INTEL);
	set(0x186, SEL_EN | SEL_OS | INSN);
	allow = false;
	cpu_pmu_filter_changed(rig.cpu);
	assert_int_equal(rig.cpu->pmu.on, 0);
	assert_false(rig.cpu->mode & MODE_STEP);
	allow = true;
	cpu_pmu_filter_changed(rig.cpu);
	assert_true(rig.cpu->mode & MODE_STEP);
}

static void amd(void **state)
{
	u64 v;

	start(CPU_VENDOR_AMD);
	set(0xc0010000, SEL_EN | SEL_OS | INSN | BIT64(19));
	assert_true(get(0xc0010000) == (SEL_EN | SEL_OS | INSN));
	retire(0);
	assert_int_equal(get(0xc0010004), 1);
	assert_int_equal(get(0xc0010201), 1); /* the same counter */
	set(0xc001020a, SEL_EN | SEL_OS | 0xc2);
	retire(PMU_INSN_BRANCH);
	assert_int_equal(get(0xc001020b), 1);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 5, &v), 0);
	assert_int_equal(v, 1);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 6, &v), 1);
	/* no PMU: the legacy registers read as zero, the extension's are gone */
	rig.cpu->pmu.enabled = false;
	cpu_pmu_refresh(rig.cpu);
	set(0xc0010004, 5);
	assert_int_equal(get(0xc0010004), 0);
	bad(0xc0010201, 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 3, &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(cpu_pmu_rdpmc(rig.cpu, 4, &v), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(intel_registers),
		cmocka_unit_test(intel_none),
		cmocka_unit_test(counting),
		cmocka_unit_test(cycles),
		cmocka_unit_test(overflow),
		cmocka_unit_test(filter),
		cmocka_unit_test(amd),
	};

	return cmocka_run_group_tests_name("pmu", tests, rig_setup, rig_teardown);
}
