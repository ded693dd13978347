/* Control and debug registers: every check before any change. */
#include "rig.h"

static int write_cr(unsigned cr, u64 v)
{
	struct cpu_insn in = rig_reg_insn(cr, RBX);

	rig.cpu->gpr[RBX] = v;
	return insn_mov_to_cr(rig.cpu, &in);
}

static u64 read_cr(unsigned cr)
{
	struct cpu_insn in = rig_reg_insn(cr, RBX);

	rig.cpu->gpr[RBX] = ~0ull;
	EXPECT_OK(insn_mov_from_cr(rig.cpu, &in));
	return rig.cpu->gpr[RBX];
}

static void cr0_combinations(void **state)
{
	rig_flat32();
	EXPECT_EXC(write_cr(0, CR0_PE | CR0_NW), EXC_GP);
	EXPECT_EXC(write_cr(0, CR0_PG), EXC_GP);
	EXPECT_OK(write_cr(0, CR0_PE | CR0_NW | CR0_CD));
	assert_true(read_cr(0) == (CR0_PE | CR0_NW | CR0_CD | CR0_ET));
	/* Outside 64-bit mode the upper half takes no part. */
	EXPECT_OK(write_cr(0, 0xffffffff00000000ull | CR0_PE));
	assert_true(read_cr(0) == (CR0_PE | CR0_ET));
	rig_long();
	EXPECT_EXC(write_cr(0, BIT64(40) | rig.cpu->cr0), EXC_GP);
	EXPECT_EXC(write_cr(0, rig.cpu->cr0 & ~CR0_PG), EXC_GP);
}

static void long_mode_switch(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long(); /* for the tables */
	rig_flat32();
	cpu->cr4 = 0;
	cpu->efer = EFER_LME;
	EXPECT_EXC(write_cr(0, CR0_PE | CR0_PG), EXC_GP); /* no PAE */
	EXPECT_OK(write_cr(4, CR4_PAE));
	cpu->seg[SEG_CS].attr |= SEG_ATTR_L;
	EXPECT_EXC(write_cr(0, CR0_PE | CR0_PG), EXC_GP);
	cpu->seg[SEG_CS].attr &= ~SEG_ATTR_L;
	EXPECT_OK(write_cr(0, CR0_PE | CR0_PG));
	assert_true(cpu->efer & EFER_LMA);
	EXPECT_EXC(write_cr(4, 0), EXC_GP);
	EXPECT_EXC(write_cr(4, CR4_PAE | CR4_LA57), EXC_GP);
	EXPECT_OK(write_cr(0, CR0_PE)); /* from compatibility mode */
	assert_false(cpu->efer & EFER_LMA);
	EXPECT_OK(write_cr(4, CR4_PAE | CR4_LA57));
}

static void cr3_and_pcid(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long();
	EXPECT_EXC(write_cr(3, cpu->cr3 | BIT64(63)), EXC_GP);
	EXPECT_EXC(write_cr(3, cpu->cr3 | BIT64(cpu->maxphyaddr)), EXC_GP);
	cpu->cr3 |= 8;
	EXPECT_EXC(write_cr(4, cpu->cr4 | CR4_PCIDE), EXC_GP);
	cpu->cr3 &= ~0xfffull;
	EXPECT_OK(write_cr(4, cpu->cr4 | CR4_PCIDE));
	EXPECT_OK(write_cr(3, cpu->cr3 | BIT64(63) | 5));
	assert_false(read_cr(3) >> 63);
	assert_int_equal(read_cr(3) & 0xfff, 5);
}

/* A narrow physical address space binds 32-bit modes too (mission row 18). */
static void cr3_checked_in_every_mode(void **state)
{
	rig_flat32();
	EXPECT_OK(write_cr(3, 0xfffff000));
	EXPECT_OK(write_cr(3, 0xffffffff00001000ull));
	assert_true(read_cr(3) == 0x1000);
	rig.cpu->maxphyaddr = 30;
	EXPECT_EXC(write_cr(3, 0xfffff000), EXC_GP);
}

static void cr3_pae_pdptrs(void **state)
{
	u64 bad = 0x2000 | 1 | 6;

	rig_flat32();
	EXPECT_OK(write_cr(4, CR4_PAE));
	rig.cpu->cr3 = 0x5000;
	memcpy(rig.ram + 0x5000, &bad, 8);
	EXPECT_EXC(write_cr(0, CR0_PE | CR0_PG), EXC_GP);
	assert_false(rig.cpu->cr0 & CR0_PG);
	memset(rig.ram + 0x5000, 0, 32);
	EXPECT_OK(write_cr(0, CR0_PE | CR0_PG));
	memcpy(rig.ram + 0x6000, &bad, 8);
	EXPECT_EXC(write_cr(3, 0x6000), EXC_GP);
	assert_true(rig.cpu->cr3 == 0x5000);
}

static void cr4_by_cpuid(void **state)
{
	rig_long();
	EXPECT_EXC(write_cr(4, rig.cpu->cr4 | CR4_SMXE), EXC_GP);
	EXPECT_EXC(write_cr(4, rig.cpu->cr4 | CR4_CET), EXC_GP);
	EXPECT_EXC(write_cr(4, rig.cpu->cr4 | BIT64(33)), EXC_GP);
	EXPECT_OK(write_cr(4, rig.cpu->cr4 | CR4_UMIP | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS));
}

static void cr8_and_numbers(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, RBX);

	rig_long();
	EXPECT_OK(write_cr(8, 9));
	assert_int_equal(rig.cr8, 9);
	assert_int_equal(read_cr(8), 9);
	EXPECT_EXC(write_cr(8, 16), EXC_GP);
	EXPECT_EXC(write_cr(1, 0), EXC_UD);
	EXPECT_EXC(write_cr(5, 0), EXC_UD);
	rig_cpl(3);
	EXPECT_EXC(write_cr(0, 0), EXC_GP);
	EXPECT_EXC(write_cr(7, 0), EXC_UD);
	/* LOCK MOV CR0 is AMD's MOV CR8. */
	in.prefix = CPU_PREFIX_LOCK;
	rig_vendor(CPU_VENDOR_INTEL);
	rig_flat32();
	EXPECT_EXC(insn_mov_to_cr(rig.cpu, &in), EXC_UD);
	rig_vendor(CPU_VENDOR_AMD);
	rig_flat32();
	rig.cpu->gpr[RBX] = 3;
	EXPECT_OK(insn_mov_to_cr(rig.cpu, &in));
	assert_int_equal(rig.cr8, 3);
}

static void lmsw_never_clears_pe(void **state)
{
	struct cpu_insn in = rig_reg_insn(6, RBX);

	rig_flat32();
	rig.cpu->gpr[RBX] = CR0_TS | 0xfff0;
	EXPECT_OK(insn_lmsw(rig.cpu, &in));
	assert_true(rig.cpu->cr0 == (CR0_PE | CR0_TS | CR0_ET | CR0_NE));
	EXPECT_OK(insn_clts(rig.cpu, &in));
	assert_false(rig.cpu->cr0 & CR0_TS);
	rig.cpu->cr4 |= CR4_UMIP;
	rig_cpl(3);
	EXPECT_EXC(insn_smsw(rig.cpu, &in), EXC_GP);
}

static int write_dr(unsigned dr, u64 v)
{
	struct cpu_insn in = rig_reg_insn(dr, RBX);

	rig.cpu->gpr[RBX] = v;
	return insn_mov_to_dr(rig.cpu, &in);
}

static void debug_registers(void **state)
{
	struct cpu *cpu = rig.cpu;

	rig_long();
	EXPECT_OK(write_dr(0, 0xffff800012345678));
	assert_true(cpu->dr[0] == 0xffff800012345678);
	EXPECT_OK(write_dr(6, 0));
	assert_true(cpu->dr6 == 0xffff0ff0);
	EXPECT_EXC(write_dr(6, BIT64(32)), EXC_GP);
	EXPECT_EXC(write_dr(7, BIT64(32)), EXC_GP);
	EXPECT_OK(write_dr(5, 0x403)); /* DR7 by its old name */
	assert_true(cpu->dr7 == 0x403);
	cpu->cr4 |= CR4_DE;
	EXPECT_EXC(write_dr(5, 0), EXC_UD);
	EXPECT_EXC(write_dr(8, 0), EXC_UD);
	EXPECT_OK(write_dr(7, 0x2400));
	EXPECT_EXC(write_dr(0, 0), EXC_DB);
	assert_true(cpu->exc.payload == 0x2000);
	rig_cpl(3);
	EXPECT_EXC(write_dr(0, 0), EXC_GP);
}

static void xcr0_rules(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu;
	static const struct {
		u64 v;
		bool ok;
	} rows[] = {
		{0, false}, {2, false},	   {1, true},	  {3, true},	 {5, false},
		{7, true},  {0x27, false}, {0xe3, false}, {0x203, true}, {1ull << 62 | 3, false}};

	rig_long();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		cpu->gpr[RCX] = 0;
		cpu->gpr[RAX] = (u32)rows[i].v;
		cpu->gpr[RDX] = rows[i].v >> 32;
		if (rows[i].ok)
			EXPECT_OK(insn_xsetbv(cpu, &in));
		else
			EXPECT_EXC(insn_xsetbv(cpu, &in), EXC_GP);
	}
	assert_int_equal(cpu->xcr0, 0x203);
	EXPECT_OK(insn_xgetbv(cpu, &in));
	assert_int_equal(cpu->gpr[RAX], 0x203);
	cpu->gpr[RCX] = 2;
	EXPECT_EXC(insn_xgetbv(cpu, &in), EXC_GP);
	cpu->cr4 &= ~CR4_OSXSAVE;
	EXPECT_EXC(insn_xgetbv(cpu, &in), EXC_UD);
}

static void protection_keys(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, 0);
	struct cpu *cpu = rig.cpu;

	rig_long();
	EXPECT_EXC(insn_rdpkru(cpu, &in), EXC_UD);
	cpu->cr4 |= CR4_PKE;
	cpu->gpr[RAX] = 0x55555554;
	cpu->gpr[RCX] = cpu->gpr[RDX] = 0;
	EXPECT_OK(insn_wrpkru(cpu, &in));
	cpu->gpr[RAX] = 0;
	EXPECT_OK(insn_rdpkru(cpu, &in));
	assert_int_equal(cpu->gpr[RAX], 0x55555554);
	cpu->gpr[RDX] = 1;
	EXPECT_EXC(insn_wrpkru(cpu, &in), EXC_GP);
	cpu->gpr[RCX] = 1;
	EXPECT_EXC(insn_rdpkru(cpu, &in), EXC_GP);
}

static void descriptor_tables(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	struct cpu *cpu = rig.cpu;
	u64 base = 0xffff888000001000, odd = 0x0000800000000000;

	rig_long();
	memset(rig.ram + RIG_DATA, 0x12, 2);
	memcpy(rig.ram + RIG_DATA + 2, &base, 8);
	EXPECT_OK(insn_lgdt(cpu, &in));
	assert_true(cpu->gdtr.base == base && cpu->gdtr.limit == 0x1212);
	memcpy(rig.ram + RIG_DATA + 2, &odd, 8);
	EXPECT_EXC(insn_lidt(cpu, &in), EXC_GP);
	EXPECT_OK(insn_sgdt(cpu, &in));
	assert_memory_equal(rig.ram + RIG_DATA + 2, &base, 8);
	cpu->cr4 |= CR4_UMIP;
	rig_cpl(3);
	EXPECT_EXC(insn_sidt(cpu, &in), EXC_GP);
	EXPECT_EXC(insn_lgdt(cpu, &in), EXC_GP);
	rig_cpl(0);
	rig_flat32();
	in.opsize = 2;
	EXPECT_OK(insn_lidt(cpu, &in));
	assert_true(cpu->idtr.base == 0x001000);
}

static void invpcid_types(void **state)
{
	struct cpu_insn in = rig_mem_insn(RIG_DATA, 8);
	struct cpu *cpu = rig.cpu;
	u64 desc[2] = {0, 0};
	int i;

	rig_long();
	in.reg = RSI;
	for (i = 0; i < 4; i++) {
		cpu->gpr[RSI] = (u64)i;
		EXPECT_OK(insn_invpcid(cpu, &in));
	}
	cpu->gpr[RSI] = 4;
	EXPECT_EXC(insn_invpcid(cpu, &in), EXC_GP);
	cpu->gpr[RSI] = 1;
	desc[0] = 1;
	memcpy(rig.ram + RIG_DATA, desc, 16);
	EXPECT_EXC(insn_invpcid(cpu, &in), EXC_GP);
	cpu->cr4 |= CR4_PCIDE;
	EXPECT_OK(insn_invpcid(cpu, &in));
	desc[0] = 0x1000;
	memcpy(rig.ram + RIG_DATA, desc, 16);
	EXPECT_EXC(insn_invpcid(cpu, &in), EXC_GP);
	desc[0] = 0;
	desc[1] = 1ull << 47;
	memcpy(rig.ram + RIG_DATA, desc, 16);
	cpu->gpr[RSI] = 0;
	EXPECT_EXC(insn_invpcid(cpu, &in), EXC_GP);
}

static void gs_bases(void **state)
{
	struct cpu_insn in = rig_reg_insn(0, RBX);
	struct cpu *cpu = rig.cpu;

	rig_long();
	in.imm2 = SEG_GS;
	EXPECT_EXC(insn_wrfsgsbase(cpu, &in), EXC_UD);
	cpu->cr4 |= CR4_FSGSBASE;
	cpu->gpr[RBX] = 0xffff800000000000;
	EXPECT_OK(insn_wrfsgsbase(cpu, &in));
	cpu->kernel_gs_base = 77;
	EXPECT_OK(insn_swapgs(cpu, &in));
	assert_true(cpu->kernel_gs_base == 0xffff800000000000 && cpu->seg[SEG_GS].base == 77);
	EXPECT_OK(insn_rdfsgsbase(cpu, &in));
	assert_true(cpu->gpr[RBX] == 77);
	cpu->gpr[RBX] = 1ull << 47;
	EXPECT_EXC(insn_wrfsgsbase(cpu, &in), EXC_GP);
	rig_cpl(3);
	EXPECT_EXC(insn_swapgs(cpu, &in), EXC_GP);
	rig_cpl(0);
	rig_flat32();
	EXPECT_EXC(insn_swapgs(cpu, &in), EXC_UD);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(cr0_combinations),
		T(long_mode_switch),
		T(cr3_and_pcid),
		T(cr3_pae_pdptrs),
		T(cr3_checked_in_every_mode),
		T(cr4_by_cpuid),
		T(cr8_and_numbers),
		T(lmsw_never_clears_pe),
		T(debug_registers),
		T(xcr0_rules),
		T(protection_keys),
		T(descriptor_tables),
		T(invpcid_types),
		T(gs_bases),
	};

	return cmocka_run_group_tests_name("cpu control", tests, NULL, NULL);
}
