/* The CPUID instruction: bits that follow state, leaves that do not exist, faulting. */
#include "rig.h"

static void query(u32 leaf, u32 index, u32 r[4])
{
	cpu_cpuid_query(rig.cpu, leaf, index, r);
}

static void follows_state(void **state)
{
	struct cpu *cpu = rig.cpu;
	u32 r[4];

	rig_long();
	query(1, 0, r);
	assert_true(r[2] & BIT(27));
	cpu->cr4 &= ~CR4_OSXSAVE;
	query(1, 0, r);
	assert_false(r[2] & BIT(27));
	query(7, 0, r);
	assert_false(r[2] & BIT(4));
	cpu->cr4 |= CR4_PKE;
	query(7, 0, r);
	assert_true(r[2] & BIT(4));
	cpu->xcr0 = 3;
	query(0xd, 0, r);
	assert_int_equal(r[1], 576);
	assert_true(r[2] >= 576);
	cpu->xcr0 = cpu_xcr0_allowed(cpu);
	query(0xd, 0, r);
	assert_int_equal(r[1], r[2]);
}

static void out_of_range_by_vendor(void **state)
{
	u32 r[4], last[4];

	query(0x1f, 0, last);
	query(0x12345, 0, r);
	assert_memory_equal(r, last, sizeof(r));
	rig_vendor(CPU_VENDOR_AMD);
	query(0x12345, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	query(0x40000000, 0, r);
	assert_int_equal(r[1], 0x4b4d564b);
}

static void instruction_writes_registers(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu;

	rig_long();
	cpu->gpr[RAX] = 0xdead00000000;
	cpu->gpr[RCX] = ~0ull;
	EXPECT_OK(insn_cpuid(cpu, &in));
	assert_int_equal(cpu->gpr[RBX], 0x756e6547);
	assert_int_equal(cpu->gpr[RAX] >> 32, 0);
	assert_int_equal(cpu->rip, 0x1003);
}

static void faulting(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu;

	rig_long();
	assert_int_equal(cpu_msr_write(cpu, 0x140, 1, false), 0);
	EXPECT_OK(insn_cpuid(cpu, &in));
	rig_cpl(3);
	EXPECT_EXC(insn_cpuid(cpu, &in), EXC_GP);
}

static void bad_address_width(void **state)
{
	struct cpu_cpuid e = {.leaf = 0x80000008, .eax = 40 | 50 << 8};
	u64 before = rig.cpu->cpuid_count;

	assert_int_equal(cpu_cpuid_set(rig.cpu, &e, 1), -22);
	assert_int_equal(rig.cpu->cpuid_count, before);
	assert_int_equal(cpu_cpuid_set(rig.cpu, &e, CPU_CPUID_MAX + 1), -7);
}

/* With another hypervisor's leaves first, KVM's are 0x100 further. */
static void kvm_leaves_move(void **state)
{
	struct cpu_cpuid e[] = {
		{.leaf = 0x40000000, .eax = 0x40000001, .ebx = 0x7263694d},
		{.leaf = 0x40000001, .eax = 0xffffffff},
		{.leaf = 0x40000100,
		 .eax = 0x40000101,
		 .ebx = 0x4b4d564b,
		 .ecx = 0x564b4d56,
		 .edx = 0x4d},
		{.leaf = 0x40000101, .eax = BIT(6)},
	};

	assert_int_equal(cpu_cpuid_set(rig.cpu, e, 4), 0);
	assert_true(cpu_has(rig.cpu, X86_FEATURE_KVM_PV_EOI));
	assert_false(cpu_has(rig.cpu, X86_FEATURE_KVM_STEAL_TIME));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(follows_state), T(out_of_range_by_vendor), T(instruction_writes_registers),
		T(faulting),	  T(bad_address_width),	     T(kvm_leaves_move),
	};

	return cmocka_run_group_tests_name("cpu cpuid", tests, NULL, NULL);
}
