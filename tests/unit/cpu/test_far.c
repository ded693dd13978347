/*
 * Far JMP, CALL and RET: real mode, code segments, call gates of every width, privilege changes.
 */
#include "machine.h"

static struct cpu_insn far_to(struct machine *m, u16 sel, u64 off, unsigned opsize)
{
	struct cpu_insn in = machine_insn(m, opsize);

	in.imm2 = sel;
	in.imm = off;
	in.len = 7;
	return in;
}

static void gate_put(struct machine *m, u16 cs, u64 off, u8 attr, u8 params)
{
	machine_gdt(m, SEL_GATE,
		    (off & 0xffff) | (u64)cs << 16 | (u64)params << 32 | (u64)attr << 40 |
			    (off >> 16 & 0xffff) << 48,
		    cpu_is_long(&m->cpu) ? off >> 32 : ~0ull);
}

static u64 stack_at(struct machine *m, unsigned i, unsigned n)
{
	return machine_get(m, (u32)m->cpu.gpr[RSP] + i * n, n);
}

static void real_call_and_return(void **state)
{
	struct machine *m = machine_real();
	struct cpu_insn in = far_to(m, 0x3000, 0x20, 2);
	u64 sp = m->cpu.gpr[RSP];

	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_CS].base, 0x30000);
	assert_int_equal(m->cpu.rip, 0x20);
	assert_int_equal(stack_at(m, 0, 2), 0x107);
	assert_int_equal(stack_at(m, 1, 2), AT_CODE >> 4);
	in = machine_insn(m, 2);
	in.imm = 4;
	assert_int_equal(insn_ret_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x107);
	assert_int_equal(m->cpu.gpr[RSP], sp + 4);
	machine_free(m);
}

static void enter_and_leave_64bit(void **state)
{
	/* The way a boot loader does it: far jump into a 64-bit segment. */
	struct machine *m = machine_long(0);
	struct cpu_insn in;

	machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc09b), ~0ull);
	m->cpu.seg[SEG_CS].attr = 0xc09b;
	cpu_mode_update(&m->cpu);
	assert_false(m->cpu.mode & MODE_LONG);
	in = far_to(m, CS0, 0x1234, 4);
	assert_int_equal(insn_jmp_far(&m->cpu, &in), CPU_OK);
	assert_true(m->cpu.mode & MODE_LONG);
	assert_int_equal(m->cpu.rip, 0x1234);
	/* And back, through memory. */
	in = machine_insn(m, 8);
	in.mem = true;
	in.disp = 0x5000;
	machine_put(m, 0x5000, 0x4321, 8);
	machine_put(m, 0x5008, SEL_FREE, 2);
	assert_int_equal(insn_jmp_far(&m->cpu, &in), CPU_OK);
	assert_false(m->cpu.mode & MODE_LONG);
	assert_int_equal(m->cpu.rip, 0x4321);
	machine_free(m);
}

static void accessed_bit(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = far_to(m, SEL_FREE, 0, 4);

	machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc09a), ~0ull);
	assert_int_equal(insn_jmp_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_gdt_get(m, SEL_FREE) >> 40 & 0xff, 0x9b);
	machine_free(m);
}

static void code_errors(void **state)
{
	static const struct {
		u16 sel;
		u64 off;
		unsigned cpl, vector;
		u32 error;
	} row[] = {
		{0, 0, 0, EXC_GP, 0},
		{3, 0, 3, EXC_GP, 0},
		{0x2f8, 0, 0, EXC_GP, 0x2f8},
		{DS0, 0, 0, EXC_GP, DS0},
		{CS0, 0, 3, EXC_GP, CS0},      /* more privileged */
		{CS3, 0, 0, EXC_GP, CS3 & ~3}, /* less privileged */
		{CS0 | 3, 0, 0, EXC_GP, CS0},  /* RPL */
		{SEL_FREE, 0, 0, EXC_NP, SEL_FREE},
		{CS16, 0x10000, 0, EXC_GP, 0},	  /* limit */
		{SEL_LDT, 0, 0, EXC_GP, SEL_LDT}, /* a system segment nobody calls */
		{4, 0, 0, EXC_GP, 4},		  /* no LDT */
		{SEL_TSS, 0, 0, EXC_GP, SEL_TSS}, /* busy */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(row[i].cpl);
		struct cpu_insn in = far_to(m, row[i].sel, row[i].off, 4);
		u64 sp = m->cpu.gpr[RSP];

		machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc01b), ~0ull);
		for (unsigned call = 0; call < 2; call++) {
			assert_int_equal(call ? insn_call_far(&m->cpu, &in)
					      : insn_jmp_far(&m->cpu, &in),
					 CPU_EXC);
			assert_exc(m, row[i].vector, row[i].error);
			assert_int_equal(m->cpu.rip, AT_CODE);
			assert_int_equal(m->cpu.gpr[RSP], sp);
		}
		machine_free(m);
	}
}

static void conforming_keeps_cpl(void **state)
{
	struct machine *m = machine_prot(3);
	struct cpu_insn in = far_to(m, CS0C, 0x100, 4);

	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, CS0C | 3);
	machine_free(m);
}

static void gate32_with_parameters(void **state)
{
	struct machine *m = machine_prot(3);
	struct cpu_insn in = far_to(m, SEL_GATE | 3, 0xdead, 4);
	u64 sp = m->cpu.gpr[RSP];

	gate_put(m, CS0, AT_HANDLER, 0xec, 2);
	machine_put(m, (u32)sp, 0x11111111, 4);
	machine_put(m, (u32)sp + 4, 0x22222222, 4);
	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 0);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, CS0);
	assert_int_equal(m->cpu.gpr[RSP], AT_STACK0 - 24);
	assert_int_equal(stack_at(m, 0, 4), AT_CODE + 7);
	assert_int_equal(stack_at(m, 1, 4), CS3);
	assert_int_equal(stack_at(m, 2, 4), 0x11111111);
	assert_int_equal(stack_at(m, 3, 4), 0x22222222);
	assert_int_equal(stack_at(m, 4, 4), sp);
	assert_int_equal(stack_at(m, 5, 4), DS3);
	/* RET 8 releases the parameters on both stacks. */
	in = machine_insn(m, 4);
	in.imm = 8;
	assert_int_equal(insn_ret_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.rip, AT_CODE + 7);
	assert_int_equal(m->cpu.gpr[RSP], sp + 8);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, DS3);
	machine_free(m);
}

static void gate16(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = far_to(m, SEL_GATE, 0, 4);
	u64 sp = m->cpu.gpr[RSP];

	gate_put(m, CS0, 0xffff1234, 0x84, 0);
	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x1234);
	assert_int_equal(m->cpu.gpr[RSP], sp - 4);
	machine_free(m);
}

static void gate64(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu_insn in = machine_insn(m, 4);
	u64 sp = m->cpu.gpr[RSP];

	in.mem = true;
	in.disp = 0x5000;
	machine_put(m, 0x5004, SEL_GATE | 3, 2);
	gate_put(m, CS0, 0xffff800000001000, 0xec, 0);
	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 0);
	assert_int_equal(m->cpu.rip, 0xffff800000001000);
	assert_int_equal(m->cpu.gpr[RSP], AT_STACK0 - 32);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0);
	assert_int_equal(stack_at(m, 1, 8), CS3);
	assert_int_equal(stack_at(m, 2, 8), sp);
	assert_int_equal(stack_at(m, 3, 8), DS3);
	in = machine_insn(m, 8);
	assert_int_equal(insn_ret_far(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.gpr[RSP], sp);
	machine_free(m);
}

static void gate_errors(void **state)
{
	static const struct {
		u16 cs;
		u8 attr;
		bool jmp;
		unsigned vector;
		u32 error;
	} row[] = {
		{CS0, 0x8c, false, EXC_GP, SEL_GATE}, /* gate DPL 0 < CPL 3 */
		{CS0, 0x6c, false, EXC_NP, SEL_GATE},
		{0, 0xec, false, EXC_GP, 0},
		{DS0, 0xec, false, EXC_GP, DS0},
		{CS0, 0xec, true, EXC_GP, CS0}, /* a JMP does not change rings */
		{SEL_FREE, 0xec, false, EXC_NP, SEL_FREE},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(3);
		struct cpu_insn in = far_to(m, SEL_GATE | 3, 0, 4);

		machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc01b), ~0ull);
		gate_put(m, row[i].cs, AT_HANDLER, row[i].attr, 0);
		assert_int_equal(row[i].jmp ? insn_jmp_far(&m->cpu, &in)
					    : insn_call_far(&m->cpu, &in),
				 CPU_EXC);
		assert_exc(m, row[i].vector, row[i].error);
		assert_int_equal(m->cpu.cpl, 3);
		machine_free(m);
	}
}

static void gate_stack_fault_changes_nothing(void **state)
{
	struct machine *m = machine_prot(3);
	struct cpu_insn in = far_to(m, SEL_GATE | 3, 0, 4);

	gate_put(m, CS0, AT_HANDLER, 0xec, 0);
	machine_put(m, AT_TSS + 4, 0x100008, 4);
	m->page[0x0ff] = PAGE_ABSENT;
	memset(m->mem + 0x100000, 0xcc, 16);
	assert_int_equal(insn_call_far(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_PF, 2);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, CS3);
	assert_int_equal(m->mem[0x100000], 0xcc);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_call_and_return),
		cmocka_unit_test(enter_and_leave_64bit),
		cmocka_unit_test(accessed_bit),
		cmocka_unit_test(code_errors),
		cmocka_unit_test(conforming_keeps_cpl),
		cmocka_unit_test(gate32_with_parameters),
		cmocka_unit_test(gate16),
		cmocka_unit_test(gate64),
		cmocka_unit_test(gate_errors),
		cmocka_unit_test(gate_stack_fault_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
