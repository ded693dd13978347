/* The MSR table: order, lists, who may write what. */
#include "rig.h"

static void table_is_sorted(void **state)
{
	u32 next = 0;

#define ROW(first, n)                 \
	assert_true((first) >= next); \
	next = (first) + (n);
#define MSR(index, ...)		     ROW(index, 1)
#define MSR_STORE(index, ...)	     ROW(index, 1)
#define MSR_CONST(index, ...)	     ROW(index, 1)
#define MSR_FN(first, count, ...)    ROW(first, count)
#define MSR_ABOVE(first, count, ...) ROW(first, count)
#include "cpu/msr.def"
	assert_string_equal(cpu_msr_name(0xc0000082), "LSTAR");
	assert_null(cpu_msr_name(0x4242));
}

static bool is_above(u32 index)
{
#define MSR_ABOVE(first, count, ...)                       \
	if (index >= (first) && index - (first) < (count)) \
		return true;
#include "cpu/msr.def"
	return false;
}

/* What is listed can be read by the client and written back unchanged. */
static void lists_round_trip(void **state)
{
	for (enum cpu_vendor v = CPU_VENDOR_INTEL; v <= CPU_VENDOR_AMD; v++) {
		u32 list[512];
		unsigned n = cpu_msr_list(v, list, 512);
		u64 value;

		assert_true(n > 40 && n < 512);
		rig_vendor(v);
		rig_long();
		for (unsigned i = 0; i < n; i++) {
			if (is_above(list[i]))
				continue;
			if (cpu_msr_read(rig.cpu, list[i], &value, true))
				fail_msg("%s cannot be read", cpu_msr_name(list[i]));
			if (cpu_msr_write(rig.cpu, list[i], value, true))
				fail_msg("%s cannot be written back", cpu_msr_name(list[i]));
		}
		n = cpu_msr_feature_list(v, list, 512);
		assert_true(n > 0);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(cpu_msr_feature_read(v, list[i], &value), 0);
	}
}

#define BAD(index, v) assert_int_equal(cpu_msr_write(rig.cpu, index, v, false), 1)
#define GOOD(index, v)                                                           \
	do {                                                                     \
		u64 got_ = 0;                                                    \
		assert_int_equal(cpu_msr_write(rig.cpu, index, v, false), 0);    \
		assert_int_equal(cpu_msr_read(rig.cpu, index, &got_, false), 0); \
		assert_true(got_ == (v));                                        \
	} while (0)

static void canonical_addresses(void **state)
{
	static const u32 list[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
				   0xc0000102, 0x175,	   0x176};

	rig_long();
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		GOOD(list[i], 0xffff800000001000ull);
		BAD(list[i], 0x0000800000000000ull);
	}
	rig.cpu->cr4 |= CR4_LA57;
	GOOD(0xc0000100, 0x0000800000000000ull);
}

static void efer_rules(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long();
	BAD(MSR_EFER, EFER_SCE | EFER_LME | EFER_SVME);
	BAD(MSR_EFER, EFER_SCE); /* LME with paging on */
	BAD(MSR_EFER, BIT64(40));
	assert_int_equal(cpu_msr_write(cpu, MSR_EFER, EFER_LME | EFER_NX, false), 0);
	assert_int_equal(cpu->efer, EFER_LME | EFER_NX | EFER_LMA);
	rig_vendor(CPU_VENDOR_AMD);
	GOOD(MSR_EFER, EFER_FFXSR | EFER_SCE);
	rig_vendor(CPU_VENDOR_INTEL);
	BAD(MSR_EFER, EFER_FFXSR);
}

static void pat_and_mtrr(void **state)
{
	GOOD(0x277, 0x0007040600070406ull);
	BAD(0x277, 0x0207040600070406ull);
	BAD(0x277, 0x0007040600070408ull);
	GOOD(0x2ff, 0xc06);
	BAD(0x2ff, 0x1006);
	BAD(0x2ff, 0xc07); /* UC- is a type of PAT only */
	GOOD(0x250, 0x0606060606060606ull);
	BAD(0x26f, 0x0606060606060602ull);
	GOOD(0x26f, 0x0505050505050505ull);
	GOOD(0x200, 0x80000000ull | 6);
	BAD(0x200, 0x80000100ull | 6);
	GOOD(0x201, 0x80000800ull);
	BAD(0x201, 0x80000400ull);
	BAD(0x201, 1ull << 60);
	BAD(0xfe + 0x1000, 0);
}

static void read_only_and_client(void **state)
{
	struct cpu *cpu = rig.cpu;
	u64 v;

	BAD(0xce, 0);
	BAD(0x10a, 0);
	assert_int_equal(cpu_msr_write(cpu, 0x10a, 0, true), 0);
	assert_int_equal(cpu_msr_read(cpu, 0x9e, &v, false), 1);
	assert_int_equal(cpu_msr_read(cpu, 0x9e, &v, true), 0);
	assert_int_equal(cpu_msr_write(cpu, 0x8b, 7, false), 0); /* ignored */
	assert_int_equal(cpu_msr_read(cpu, 0x8b, &v, false), 0);
	assert_true(v == 0x100000000);
	assert_int_equal(cpu_msr_read(cpu, 0x49, &v, false), 1);
	assert_int_equal(cpu_msr_write(cpu, 0x49, 1, false), 0);
	BAD(0x49, 2);
	BAD(0xda0, 1);
	BAD(0xc0011020, 0); /* of the other vendor */
	rig_vendor(CPU_VENDOR_AMD);
	GOOD(0xc0010015, BIT64(24));
	BAD(0xc0010015, 1);
	assert_int_equal(cpu_msr_read(cpu, 0x10a, &v, false), 1);
}

static void machine_check_banks(void **state)
{
	u64 v;

	GOOD(0x400, ~0ull);
	GOOD(0x400, 0);
	BAD(0x400, 0x1234);
	BAD(0x401, 1);
	GOOD(0x401, 0);
	assert_int_equal(cpu_msr_write(rig.cpu, 0x401, 1ull << 63, true), 0);
	rig.cpu->mcg_cap = 4;
	assert_int_equal(cpu_msr_read(rig.cpu, 0x410, &v, false), 1);
	assert_int_equal(cpu_msr_read(rig.cpu, 0x17b, &v, false), 1);
	rig.cpu->mcg_cap |= BIT64(8);
	GOOD(0x17b, ~0ull);
}

static void tsc_and_adjust(void **state)
{
	struct cpu *cpu = rig.cpu;
	u64 a, b;

	cpu->tsc_ratio = 1ull << 48;
	assert_int_equal(cpu_msr_write(cpu, 0x10, 1000, false), 0);
	assert_int_equal(cpu_msr_read(cpu, 0x10, &a, false), 0);
	assert_true(a >= 1000 && a < 1000 + 10000000000ull);
	assert_int_equal(cpu_msr_read(cpu, 0x3b, &b, false), 0);
	assert_true(b == cpu->tsc_adjust && b != 0);
	assert_int_equal(cpu_msr_write(cpu, 0x3b, b + (1ull << 50), false), 0);
	assert_int_equal(cpu_msr_read(cpu, 0x10, &a, false), 0);
	assert_true(a >= 1ull << 50);
	cpu->tsc_ratio = 1ull << 47;
	cpu->tsc_offset = 0;
	assert_int_equal(cpu_msr_read(cpu, 0x10, &a, false), 0);
	cpu->tsc_ratio = 1ull << 48;
	assert_int_equal(cpu_msr_read(cpu, 0x10, &b, false), 0);
	assert_true(a <= b / 2 + 1 && a > b / 2 - 10000000000ull);
}

static int refuse(struct cpu *cpu, u32 index, u64 *value, bool *handled)
{
	cpu->exit.reason = CPU_EXIT_RDMSR;
	cpu->exit.msr.index = index;
	return CPU_EXIT;
}

/* An access that user space answers: exit, then the same instruction again. */
static void user_space_answers(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu;

	rig_long();
	rig.ops.msr_read = refuse;
	cpu->gpr[RCX] = 0x1234;
	assert_int_equal(insn_rdmsr(cpu, &in), CPU_EXIT);
	assert_int_equal(cpu->rip, 0x1000);
	cpu->exit.msr.data = 0x1122334455667788;
	cpu->msr_ready = true;
	EXPECT_OK(insn_rdmsr(cpu, &in));
	assert_true(cpu->gpr[RAX] == 0x55667788 && cpu->gpr[RDX] == 0x11223344);
	assert_int_equal(cpu->rip, 0x1003);
	assert_false(cpu->msr_ready);
	assert_int_equal(insn_rdmsr(cpu, &in), CPU_EXIT);
	cpu->msr_ready = cpu->msr_error = true;
	EXPECT_EXC(insn_rdmsr(cpu, &in), EXC_GP);
	rig_cpl(3);
	EXPECT_EXC(insn_rdmsr(cpu, &in), EXC_GP);
	EXPECT_EXC(insn_wrmsr(cpu, &in), EXC_GP);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(table_is_sorted),	T(lists_round_trip), T(canonical_addresses),
		T(efer_rules),		T(pat_and_mtrr),     T(read_only_and_client),
		T(machine_check_banks), T(tsc_and_adjust),   T(user_space_answers),
	};

	return cmocka_run_group_tests_name("cpu msr", tests, NULL, NULL);
}
