/*
 * Segment registers: loads and their checks, unreal mode, limits, LAR and friends, LDTR and TR.
 */
#include "machine.h"

static int mov_to(struct machine *m, unsigned seg, u16 sel)
{
	struct cpu_insn in = machine_insn(m, 2);

	in.reg = (u8)seg;
	in.rm = RAX;
	m->cpu.gpr[RAX] = sel;
	m->cpu.rip = AT_CODE;
	return insn_mov_to_sreg(&m->cpu, &in);
}

static void loads(void **state)
{
	static const struct {
		unsigned cpl, seg;
		u16 sel;
		int vector; /* -1: fine */
		u32 error;
	} row[] = {
		{0, SEG_DS, DS0, -1, 0},
		{0, SEG_DS, 0, -1, 0},
		{0, SEG_ES, 3, -1, 0},
		{3, SEG_DS, DS3, -1, 0},
		{3, SEG_DS, DS0, EXC_GP, DS0},
		{0, SEG_DS, DS0 | 3, EXC_GP, DS0},
		{0, SEG_DS, SEL_XO, EXC_GP, SEL_XO},
		{0, SEG_DS, CS0, -1, 0},
		{3, SEG_DS, CS0, EXC_GP, CS0},
		{3, SEG_DS, CS0C, -1, 0},
		{0, SEG_DS, SEL_NP, EXC_NP, SEL_NP},
		{0, SEG_DS, SEL_TSS, EXC_GP, SEL_TSS},
		{0, SEG_DS, 0x300, EXC_GP, 0x300},
		{0, SEG_DS, 0xc, EXC_GP, 0xc},
		{0, SEG_SS, 0, EXC_GP, 0},
		{0, SEG_SS, DS3, EXC_GP, DS3 & ~3},
		{3, SEG_SS, DS3, -1, 0},
		{3, SEG_SS, DS3 & ~3, EXC_GP, DS3 & ~3},
		{0, SEG_SS, SEL_RO & ~3, EXC_GP, SEL_RO},
		{0, SEG_SS, SEL_NP, EXC_SS, SEL_NP},
		{0, SEG_SS, CS0, EXC_GP, CS0},
		{0, SEG_SS, SEL_DOWN, -1, 0},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(row[i].cpl);
		struct cpu_seg before = m->cpu.seg[row[i].seg];
		int ret = mov_to(m, row[i].seg, row[i].sel);

		if (row[i].vector < 0) {
			assert_int_equal(ret, CPU_OK);
			assert_int_equal(m->cpu.seg[row[i].seg].sel, row[i].sel);
			assert_int_equal(m->cpu.rip, AT_CODE + 2);
			assert_int_equal(m->cpu.shadow,
					 row[i].seg == SEG_SS ? CPU_SHADOW_MOV_SS : 0);
		} else {
			assert_int_equal(ret, CPU_EXC);
			assert_exc(m, row[i].vector, row[i].error);
			assert_int_equal(m->cpu.seg[row[i].seg].sel, before.sel);
			assert_int_equal(m->cpu.rip, AT_CODE);
		}
		machine_free(m);
	}
}

static void no_mov_to_cs(void **state)
{
	struct machine *m = machine_prot(0);

	assert_int_equal(mov_to(m, SEG_CS, CS0), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	assert_int_equal(mov_to(m, 6, DS0), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	machine_free(m);
}

static void flatness_follows(void **state)
{
	struct machine *m = machine_prot(0);

	assert_true(m->cpu.mode & MODE_FLAT);
	assert_int_equal(mov_to(m, SEG_DS, SEL_DOWN), CPU_OK);
	assert_false(m->cpu.mode & MODE_FLAT);
	assert_int_equal(mov_to(m, SEG_DS, DS0), CPU_OK);
	assert_true(m->cpu.mode & MODE_FLAT);
	assert_int_equal(mov_to(m, SEG_FS, 0), CPU_OK);
	assert_false(m->cpu.mode & MODE_FS_FLAT);
	machine_free(m);
	m = machine_long(0);
	assert_int_equal(mov_to(m, SEG_DS, 0), CPU_OK);
	assert_true(m->cpu.mode & MODE_FLAT);
	assert_int_equal(mov_to(m, SEG_SS, 0), CPU_OK);
	machine_free(m);
}

static void unreal_mode_keeps_limits(void **state)
{
	struct machine *m = machine_real();
	u64 lin;

	m->cpu.seg[SEG_DS].limit = 0xffffffff;
	m->cpu.seg[SEG_DS].attr = 0xc093;
	assert_int_equal(mov_to(m, SEG_DS, 0x1234), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_DS].base, 0x12340);
	assert_int_equal(cpu_linear(&m->cpu, SEG_DS, 0x100000, 4, MMU_READ, &lin), CPU_OK);
	assert_int_equal(lin, 0x112340);
	assert_int_equal(cpu_linear(&m->cpu, SEG_ES, 0x10000, 1, MMU_READ, &lin), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void limits_and_types(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu *cpu = &m->cpu;
	u64 lin;

	assert_int_equal(mov_to(m, SEG_DS, SEL_DOWN), CPU_OK);
	assert_int_equal(cpu_linear(cpu, SEG_DS, 0x1000, 4, MMU_WRITE, &lin), CPU_OK);
	assert_int_equal(cpu_linear(cpu, SEG_DS, 0xfff, 4, MMU_WRITE, &lin), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(mov_to(m, SEG_DS, SEL_RO), CPU_OK);
	assert_int_equal(cpu_linear(cpu, SEG_DS, 0, 4, MMU_READ, &lin), CPU_OK);
	assert_int_equal(cpu_linear(cpu, SEG_DS, 0, 4, MMU_WRITE, &lin), CPU_EXC);
	assert_int_equal(cpu_linear(cpu, SEG_CS, 0, 4, MMU_WRITE, &lin), CPU_EXC);
	assert_int_equal(cpu_linear(cpu, SEG_CS, 0, 4, MMU_READ, &lin), CPU_OK);
	assert_int_equal(mov_to(m, SEG_DS, 0), CPU_OK);
	assert_int_equal(cpu_linear(cpu, SEG_DS, 0, 1, MMU_READ, &lin), CPU_EXC);
	cpu->seg[SEG_SS].limit = 0x7fff;
	cpu_mode_update(cpu);
	assert_int_equal(cpu_linear(cpu, SEG_SS, 0x7ffd, 4, MMU_READ, &lin), CPU_EXC);
	assert_exc(m, EXC_SS, 0);
	machine_free(m);
}

static void canonical(void **state)
{
	struct machine *m = machine_long(0);
	u64 lin;

	assert_int_equal(cpu_linear(&m->cpu, SEG_DS, 0x7ffffffffffd, 4, MMU_READ, &lin), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(cpu_linear(&m->cpu, SEG_SS, 1ull << 63, 8, MMU_READ, &lin), CPU_EXC);
	assert_exc(m, EXC_SS, 0);
	m->cpu.seg[SEG_GS].base = 0xffff888000000000;
	assert_int_equal(cpu_linear(&m->cpu, SEG_GS, 0x10, 8, MMU_READ, &lin), CPU_OK);
	assert_int_equal(lin, 0xffff888000000010);
	m->cpu.cr4 |= CR4_LA57;
	cpu_mode_update(&m->cpu);
	assert_int_equal(cpu_linear(&m->cpu, SEG_DS, 0x7ffffffffffd, 4, MMU_READ, &lin), CPU_OK);
	machine_free(m);
}

static void pop_and_far_pointer(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = machine_insn(m, 4);
	u64 sp = m->cpu.gpr[RSP];

	in.reg = SEG_FS;
	machine_put(m, (u32)sp, 0xffff0000 | SEL_NP, 4);
	assert_int_equal(insn_pop_sreg(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_NP, SEL_NP);
	assert_int_equal(m->cpu.gpr[RSP], sp);
	machine_put(m, (u32)sp, SEL_RO, 4);
	assert_int_equal(insn_pop_sreg(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RSP], sp + 4);
	assert_int_equal(m->cpu.seg[SEG_FS].sel, SEL_RO);
	in = machine_insn(m, 4);
	in.mem = true;
	in.disp = 0x5000;
	in.reg = RBX;
	in.imm2 = SEG_GS;
	machine_put(m, 0x5000, 0x12345678, 4);
	machine_put(m, 0x5004, SEL_NP, 2);
	assert_int_equal(insn_load_far_ptr(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.gpr[RBX], 0);
	machine_put(m, 0x5004, DS0, 2);
	assert_int_equal(insn_load_far_ptr(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RBX], 0x12345678);
	machine_free(m);
}

static bool zf(struct machine *m)
{
	return cpu_rflags(&m->cpu) & FLAG_ZF;
}

static void looking(void **state)
{
	static const struct {
		u16 sel;
		unsigned cpl;
		bool lar, lsl, verr, verw;
	} row[] = {
		{0, 0, false, false, false, false},	  {0x300, 0, false, false, false, false},
		{CS0, 0, true, true, true, false},	  {CS0, 3, false, false, false, false},
		{CS0C, 3, true, true, true, false},	  {DS3, 3, true, true, true, true},
		{SEL_RO, 3, true, true, true, false},	  {SEL_XO, 0, true, true, false, false},
		{SEL_TSS, 0, true, true, false, false},	  {SEL_LDT, 0, true, true, false, false},
		{SEL_GATE, 0, true, false, false, false}, {SEL_NP, 0, true, true, true, true},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(row[i].cpl);
		struct cpu_insn in = machine_insn(m, 4);

		machine_gdt(m, SEL_GATE, 0x8cull << 40, ~0ull);
		in.rm = RCX;
		in.reg = RDX;
		m->cpu.gpr[RCX] = row[i].sel;
		m->cpu.gpr[RDX] = 0x77;
		assert_int_equal(insn_lar(&m->cpu, &in), CPU_OK);
		assert_int_equal(zf(m), row[i].lar);
		assert_int_equal(m->cpu.gpr[RDX],
				 row[i].lar ? machine_gdt_get(m, row[i].sel) >> 32 & 0xf0ff00
					    : 0x77);
		assert_int_equal(insn_lsl(&m->cpu, &in), CPU_OK);
		assert_int_equal(zf(m), row[i].lsl);
		if (row[i].lsl)
			assert_int_equal(m->cpu.gpr[RDX],
					 seg_desc_limit(machine_gdt_get(m, row[i].sel)));
		assert_int_equal(insn_verr(&m->cpu, &in), CPU_OK);
		assert_int_equal(zf(m), row[i].verr);
		assert_int_equal(insn_verw(&m->cpu, &in), CPU_OK);
		assert_int_equal(zf(m), row[i].verw);
		machine_free(m);
	}
}

static void only_in_protected_mode(void **state)
{
	int (*const fn[])(struct cpu *, const struct cpu_insn *) = {
		insn_lar,  insn_lsl, insn_verr, insn_verw, insn_arpl,
		insn_lldt, insn_ltr, insn_sldt, insn_str,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(fn); i++)
		for (unsigned v86 = 0; v86 < 2; v86++) {
			struct machine *m = v86 ? machine_v86(3) : machine_real();
			struct cpu_insn in = machine_insn(m, 2);

			assert_int_equal(fn[i](&m->cpu, &in), CPU_EXC);
			assert_exc_plain(m, EXC_UD);
			machine_free(m);
		}
}

static int system_load(struct machine *m, bool ldt, u16 sel)
{
	struct cpu_insn in = machine_insn(m, 2);

	m->cpu.gpr[RAX] = sel;
	return ldt ? insn_lldt(&m->cpu, &in) : insn_ltr(&m->cpu, &in);
}

static void ldtr_and_tr(void **state)
{
	struct machine *m = machine_long(0);

	assert_int_equal(system_load(m, true, SEL_LDT), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_LDTR].base, 0x5000);
	assert_int_equal(system_load(m, false, SEL_TSS2), CPU_OK);
	assert_int_equal(machine_gdt_get(m, SEL_TSS2) >> 40 & 15, 11);
	assert_int_equal(system_load(m, false, SEL_TSS2), CPU_EXC); /* busy now */
	assert_exc(m, EXC_GP, SEL_TSS2);
	assert_int_equal(system_load(m, false, 0), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(system_load(m, true, DS0), CPU_EXC);
	assert_exc(m, EXC_GP, DS0);
	/* A segment through the LDT. */
	machine_put(m, 0x5008, machine_desc(0x1000, ~0u, 0xc093), 8);
	assert_int_equal(mov_to(m, SEG_FS, 0xc), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_FS].base, 0x1000);
	assert_int_equal(system_load(m, true, 0), CPU_OK);
	assert_int_equal(mov_to(m, SEG_FS, 0xc), CPU_EXC);
	assert_exc(m, EXC_GP, 0xc);
	/* 64-bit bases; not canonical. */
	machine_gdt(m, SEL_LDT, machine_desc(0x5000, 0xff, 0x82), 0xffff8000);
	assert_int_equal(system_load(m, true, SEL_LDT), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_LDTR].base, 0xffff800000005000);
	machine_gdt(m, SEL_LDT, machine_desc(0x5000, 0xff, 0x82), 0x8000);
	assert_int_equal(system_load(m, true, SEL_LDT), CPU_EXC);
	assert_exc(m, EXC_GP, SEL_LDT);
	m->cpu.cpl = 3;
	assert_int_equal(system_load(m, true, SEL_LDT), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void umip(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.gpr[RAX] = ~0ull;
	assert_int_equal(insn_str(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], SEL_TSS);
	m->cpu.cr4 |= CR4_UMIP;
	assert_int_equal(insn_str(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(insn_sldt(&m->cpu, &in), CPU_EXC);
	machine_free(m);
}

static void arpl(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = machine_insn(m, 2);

	in.rm = RCX;
	in.reg = RDX;
	m->cpu.gpr[RCX] = 0x100;
	m->cpu.gpr[RDX] = 3;
	assert_int_equal(insn_arpl(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RCX], 0x103);
	assert_true(zf(m));
	m->cpu.gpr[RDX] = 1;
	assert_int_equal(insn_arpl(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RCX], 0x103);
	assert_false(zf(m));
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads),
		cmocka_unit_test(no_mov_to_cs),
		cmocka_unit_test(flatness_follows),
		cmocka_unit_test(unreal_mode_keeps_limits),
		cmocka_unit_test(limits_and_types),
		cmocka_unit_test(canonical),
		cmocka_unit_test(pop_and_far_pointer),
		cmocka_unit_test(looking),
		cmocka_unit_test(only_in_protected_mode),
		cmocka_unit_test(ldtr_and_tr),
		cmocka_unit_test(umip),
		cmocka_unit_test(arpl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
