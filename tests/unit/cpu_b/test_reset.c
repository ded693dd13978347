/* Power-on reset, INIT, and system-management mode. */
#include "rig.h"

static void power_on_state(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long();
	cpu->gpr[RBX] = 7;
	cpu_reset(cpu, false);
	assert_int_equal(cpu->rip, 0xfff0);
	assert_int_equal(cpu->seg[SEG_CS].sel, 0xf000);
	assert_true(cpu->seg[SEG_CS].base == 0xffff0000);
	assert_true(cpu->cr0 == (CR0_ET | CR0_NW | CR0_CD));
	assert_int_equal(cpu->efer | cpu->cr4 | cpu->cr3 | cpu->gpr[RBX], 0);
	assert_int_equal(cpu->xcr0, 1);
	assert_true(cpu->dr6 == 0xffff0ff0 && cpu->dr7 == 0x400);
	assert_true(cpu->gpr[RDX] == cpu_cpuid_find(cpu, 1, 0)->eax);
	assert_int_equal(cpu_rflags(cpu), 2);
	assert_int_equal(cpu->mode & (MODE_LONG | MODE_PE | MODE_CS32), 0);
}

static void init_keeps(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long();
	cpu->pat = 0x0606060606060606;
	cpu->tsc_offset = 99;
	cpu->cr0 |= CR0_CD;
	cpu_reset(cpu, true);
	assert_true(cpu->pat == 0x0606060606060606);
	assert_int_equal(cpu->tsc_offset, 99);
	assert_true(cpu->cr0 == (CR0_ET | CR0_CD));
	assert_true(cpu->xcr0 == cpu_xcr0_allowed(cpu));
	assert_int_equal(cpu->efer, 0);
}

static void scramble(struct cpu *cpu)
{
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0x1111111111111111ull * i;
	cpu->gdtr = (struct cpu_dtable){0x7000, 0x3f};
	cpu->idtr = (struct cpu_dtable){0x8000, 0xfff};
	cpu->dr7 = 0x400;
	cpu->rip = 0x12345;
	cpu_rflags_set(cpu, FLAG_IF | FLAG_ZF | FLAG_IOPL | 2);
	cpu->seg[SEG_FS].base = 0x4455;
	cpu->seg[SEG_LDTR].attr |= SEG_ATTR_UNUSABLE;
}

static struct cpu saved; /* all but the tables at its end, which are large */

static void round_trip(bool wide)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu, *before = &saved;
	u64 cr0, cr3, cr4, efer;

	scramble(cpu);
	if (!wide)
		for (unsigned i = 0; i < 16; i++)
			cpu->gpr[i] = i < 8 ? (u32)cpu->gpr[i] : 0;
	cr0 = cpu->cr0;
	cr3 = cpu->cr3;
	cr4 = cpu->cr4;
	efer = cpu->efer;
	memcpy(before, cpu, offsetof(struct cpu, jit_scratch));
	EXPECT_OK(cpu_smm_enter(cpu));
	assert_true(cpu->smm && cpu->nmi_masked);
	assert_int_equal(cpu->rip, 0x8000);
	assert_true(cpu->seg[SEG_CS].base == 0x30000 && cpu->seg[SEG_CS].sel == 0x3000);
	assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), 0);
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0;
	EXPECT_OK(insn_rsm(cpu, &in));
	assert_false(cpu->smm || cpu->nmi_masked);
	assert_memory_equal(cpu->gpr, before->gpr, sizeof(cpu->gpr));
	assert_true(cpu->rip == before->rip && cpu_rflags(cpu) == cpu_rflags(before));
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		assert_int_equal(cpu->seg[i].sel, before->seg[i].sel);
		assert_true(cpu->seg[i].base == before->seg[i].base);
		assert_int_equal(cpu->seg[i].limit, before->seg[i].limit);
	}
	assert_true(cpu->cr0 == cr0 && cpu->cr3 == cr3 && cpu->cr4 == cr4 && cpu->efer == efer);
	assert_int_equal(cpu->mode, before->mode);
	assert_true(cpu->gdtr.base == 0x7000 && cpu->idtr.limit == 0xfff);
	assert_true(cpu->seg[SEG_LDTR].attr & SEG_ATTR_UNUSABLE || !wide);
}

static void smm_round_trip_64(void **state)
{
	u32 revision;

	rig_long();
	round_trip(true);
	memcpy(&revision, rig.ram + 0x30000 + 0xfefc, 4);
	assert_int_equal(revision, 0x20064);
	rig_flat32();
	round_trip(false);
}

static void smm_round_trip_32(void **state)
{
	u32 revision;

	for (unsigned i = 0; i < rig.cpu->cpuid_count; i++)
		if (rig.cpu->cpuid[i].leaf == 0x80000001)
			rig.cpu->cpuid[i].edx &= ~BIT(29);
	struct cpu_cpuid *copy = test_malloc(sizeof(rig.cpu->cpuid));

	memcpy(copy, rig.cpu->cpuid, sizeof(rig.cpu->cpuid));
	assert_int_equal(cpu_cpuid_set(rig.cpu, copy, rig.cpu->cpuid_count), 0);
	test_free(copy);
	rig_flat32();
	rig.cpu->seg[SEG_LDTR].attr = 0x82;
	round_trip(false);
	memcpy(&revision, rig.ram + 0x30000 + 0xfefc, 4);
	assert_int_equal(revision, 0x20000);
}

static void smbase_moves(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	u32 where = 0x50000;

	rig_long();
	EXPECT_OK(cpu_smm_enter(rig.cpu));
	memcpy(rig.ram + 0x3ff00, &where, 4);
	EXPECT_OK(insn_rsm(rig.cpu, &in));
	assert_int_equal(rig.cpu->smbase, 0x50000);
	EXPECT_EXC(insn_rsm(rig.cpu, &in), EXC_UD);
}

static void bad_states_shut_down(void **state)
{
	static const struct {
		u32 at;
		u64 v;
	} rows[] = {
		{0xff58, CR0_PG},	   /* paging without protection */
		{0xff58, CR0_PE | CR0_NW}, /* NW without CD */
		{0xff48, CR4_SMXE | CR4_PAE},
		{0xff48, 0},   /* long mode without PAE */
		{0xfed0, 0x2}, /* reserved bit of EFER */
		{0xff50, 1ull << 60},
	};
	struct cpu_insn in = rig_reg_insn(0, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		cpu_reset(rig.cpu, false);
		rig_long();
		EXPECT_OK(cpu_smm_enter(rig.cpu));
		memcpy(rig.ram + 0x30000 + rows[i].at, &rows[i].v, 8);
		assert_int_equal(insn_rsm(rig.cpu, &in), CPU_EXIT);
		assert_int_equal(rig.cpu->exit.reason, CPU_EXIT_SHUTDOWN);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(power_on_state),    T(init_keeps),   T(smm_round_trip_64),
		T(smm_round_trip_32), T(smbase_moves), T(bad_states_shut_down),
	};

	return cmocka_run_group_tests_name("cpu reset", tests, NULL, NULL);
}
