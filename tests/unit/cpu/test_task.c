/*
 * Hardware task switch: JMP, CALL, IRET, interrupt gate; both TSS formats; checks before and
 * faults after the point of no return.
 */
#include "machine.h"

/* A runnable 32-bit task in the TSS at `at`. */
static void task32(struct machine *m, u32 at, u32 eip, u16 cs, u16 ss, u32 esp)
{
	memset(m->mem + at, 0, 104);
	machine_put(m, at + 0x20, eip, 4);
	machine_put(m, at + 0x24, FLAG_IF | 2, 4);
	for (unsigned i = 0; i < 8; i++)
		machine_put(m, at + 0x28 + i * 4, 0x1000 + i, 4);
	machine_put(m, at + 0x38, esp, 4);
	machine_put(m, at + 0x48, ss, 2);
	machine_put(m, at + 0x4c, cs, 2);
	machine_put(m, at + 0x50, ss, 2);
	machine_put(m, at + 0x54, ss, 2);
	machine_put(m, at + 4, AT_STACK0 - 0x400, 4);
	machine_put(m, at + 8, DS0, 2);
}

static unsigned tss_type(struct machine *m, u16 sel)
{
	return machine_gdt_get(m, sel) >> 40 & 15;
}

static int far_insn(struct machine *m, bool call, u16 sel)
{
	struct cpu_insn in = machine_insn(m, 4);

	in.imm2 = sel;
	in.len = 7;
	return call ? insn_call_far(&m->cpu, &in) : insn_jmp_far(&m->cpu, &in);
}

static void jmp(void **state)
{
	struct machine *m = machine_prot(0);

	m->cpu.gpr[RBX] = 0xb0b0;
	m->cpu.dr7 = 0x555;
	task32(m, AT_TSS2, AT_HANDLER, CS3, DS3, AT_STACK3);
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.gpr[RDI], 0x1007);
	assert_int_equal(m->cpu.gpr[RSP], AT_STACK3);
	assert_int_equal(m->cpu.seg[SEG_TR].sel, SEL_TSS2);
	assert_true(m->cpu.cr0 & CR0_TS);
	assert_true(m->cpu.mode & MODE_TS);
	assert_int_equal(m->cpu.dr7, 0x400);
	assert_int_equal(tss_type(m, SEL_TSS), 9);
	assert_int_equal(tss_type(m, SEL_TSS2), 11);
	/* What was saved. */
	assert_int_equal(machine_get(m, AT_TSS + 0x20, 4), AT_CODE + 7);
	assert_int_equal(machine_get(m, AT_TSS + 0x34, 4), 0xb0b0);
	assert_int_equal(machine_get(m, AT_TSS + 0x4c, 2), CS0);
	assert_false(m->cpu.rflags & FLAG_NT);
	machine_free(m);
}

static void call_and_iret(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = machine_insn(m, 4);

	task32(m, AT_TSS2, AT_HANDLER, CS0, DS0, 0x7000);
	assert_int_equal(far_insn(m, true, SEL_TSS2), CPU_OK);
	assert_true(m->cpu.rflags & FLAG_NT);
	assert_int_equal(machine_get(m, AT_TSS2, 2), SEL_TSS);
	assert_int_equal(tss_type(m, SEL_TSS), 11);
	assert_int_equal(tss_type(m, SEL_TSS2), 11);
	m->cpu.rip = 0x5555;
	assert_int_equal(insn_iret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE + 7);
	assert_int_equal(m->cpu.seg[SEG_TR].sel, SEL_TSS);
	assert_int_equal(tss_type(m, SEL_TSS2), 9);
	assert_false(m->cpu.rflags & FLAG_NT);
	assert_int_equal(machine_get(m, AT_TSS2 + 0x20, 4), 0x5557);
	assert_int_equal(machine_get(m, AT_TSS2 + 0x24, 4) & FLAG_NT, 0);
	machine_free(m);
}

static void interrupt_gate_pushes_error(void **state)
{
	struct machine *m = machine_prot(3);

	task32(m, AT_TSS2, AT_HANDLER, CS0, DS0, 0x7000);
	machine_gate(m, EXC_DF, SEL_TSS2, 0, 0x85, 0);
	cpu_raise_err(&m->cpu, EXC_DF, 0);
	m->cpu.cr3 = 0x1000;
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	assert_int_equal(m->cpu.gpr[RSP], 0x7000 - 4);
	assert_int_equal(machine_get(m, 0x7000 - 4, 4), 0);
	assert_true(m->cpu.rflags & FLAG_NT);
	assert_int_equal(machine_get(m, AT_TSS2, 2), SEL_TSS);
	assert_int_equal(machine_get(m, AT_TSS + 0x20, 4), AT_CODE);
	assert_true(machine_get(m, AT_TSS + 0x24, 4) & FLAG_RF);
	machine_free(m);
}

static void task16(void **state)
{
	struct machine *m = machine_prot(0);

	machine_gdt(m, SEL_TSS2, machine_desc(AT_TSS2, 43, 0x81), 0);
	memset(m->mem + AT_TSS2, 0, 44);
	machine_put(m, AT_TSS2 + 0x0e, 0x1234, 2);
	machine_put(m, AT_TSS2 + 0x10, FLAG_CF | 2, 2);
	machine_put(m, AT_TSS2 + 0x12, 0xaaaa, 2);
	machine_put(m, AT_TSS2 + 0x1a, 0x6000, 2);
	machine_put(m, AT_TSS2 + 0x22, DS0, 2);
	machine_put(m, AT_TSS2 + 0x24, CS16, 2);
	machine_put(m, AT_TSS2 + 0x26, DS0, 2);
	assert_int_equal(far_insn(m, true, SEL_TSS2), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x1234);
	assert_int_equal(m->cpu.gpr[RAX], 0xaaaa);
	assert_int_equal(m->cpu.gpr[RSP], 0x6000);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, CS16);
	assert_int_equal(m->cpu.seg[SEG_ES].sel, DS0);
	assert_true(m->cpu.seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_NT | FLAG_CF | 2);
	assert_false(m->cpu.mode & MODE_CS32);
	machine_free(m);
}

static void to_v86(void **state)
{
	struct machine *m = machine_prot(0);

	task32(m, AT_TSS2, 0x100, 0x1000, 0x2000, 0x80);
	machine_put(m, AT_TSS2 + 0x24, FLAG_VM | 2, 4);
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_CS].base, 0x10000);
	assert_int_equal(m->cpu.seg[SEG_SS].base, 0x20000);
	assert_true(m->cpu.mode & MODE_V86);
	machine_free(m);
}

static void old_task_errors(void **state)
{
	struct machine *m = machine_prot(0);
	u64 gdt;

	task32(m, AT_TSS2, AT_HANDLER, CS0, DS0, 0x7000);
	machine_gdt(m, SEL_TSS2, machine_desc(AT_TSS2, 102, 0x89), 0);
	gdt = machine_gdt_get(m, SEL_TSS2);
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc(m, EXC_TS, SEL_TSS2);
	machine_gdt(m, SEL_TSS2, machine_desc(AT_TSS2, 103, 0x09), 0);
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc(m, EXC_NP, SEL_TSS2);
	assert_int_equal(m->cpu.seg[SEG_TR].sel, SEL_TSS);
	assert_int_equal(tss_type(m, SEL_TSS), 11);
	assert_int_equal(machine_get(m, AT_TSS + 0x20, 4), 0); /* nothing was saved */
	assert_int_equal(gdt >> 40 & 15, 9);
	machine_free(m);

	/* The old TSS is not writable. */
	m = machine_prot(0);
	machine_gdt(m, SEL_TSS2, machine_desc(0x6000, 103, 0x89), 0);
	task32(m, 0x6000, AT_HANDLER, CS0, DS0, 0x7000);
	m->page[AT_TSS >> 12] = PAGE_READONLY;
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc(m, EXC_PF, 3);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_int_equal(tss_type(m, SEL_TSS2), 9);
	machine_free(m);
}

static void new_task_errors(void **state)
{
	static const struct {
		u16 cs, ss, ldt;
		unsigned vector;
		u32 error;
	} row[] = {
		{0, DS0, 0, EXC_TS, 0},
		{DS0, DS0, 0, EXC_TS, DS0},
		{CS3 & ~3, DS0, 0, EXC_TS, CS3 & ~3},
		{CS0, 0, 0, EXC_TS, 0},
		{CS0, DS3, 0, EXC_TS, DS3 & ~3},
		{CS0, SEL_NP, 0, EXC_SS, SEL_NP},
		{CS0, DS0, DS0, EXC_TS, DS0},
		{CS0, DS0, 0x2f8, EXC_TS, 0x2f8},
		{CS0, DS0, 4, EXC_TS, 4},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(0);

		task32(m, AT_TSS2, AT_HANDLER, row[i].cs, row[i].ss, 0x7000);
		machine_put(m, AT_TSS2 + 0x60, row[i].ldt, 2);
		/* The null selectors 4..7 name the LDT's first entry. */
		assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
		assert_exc(m, row[i].vector, row[i].error);
		assert_int_equal(m->cpu.seg[SEG_TR].sel, SEL_TSS2); /* in the new task */
		assert_int_equal(m->cpu.rip, AT_HANDLER);
		machine_free(m);
	}
}

static void ext_bit_in_the_new_task(void **state)
{
	struct machine *m = machine_prot(0);
	struct seg_task t = {.source = TASK_GATE, .ext = 1, .next_rip = AT_CODE, .flags = 2};
	struct seg_desc d;

	task32(m, AT_TSS2, AT_HANDLER, CS0, SEL_RO & ~3, 0x7000);
	assert_int_equal(seg_desc_fetch(&m->cpu, SEL_TSS2, EXC_GP, 1, &d), CPU_OK);
	assert_int_equal(cpu_task_switch(&m->cpu, SEL_TSS2, &d, &t), CPU_EXC);
	assert_exc(m, EXC_TS, SEL_RO | 1);
	machine_free(m);
}

static void trap_bit(void **state)
{
	struct machine *m = machine_prot(0);

	task32(m, AT_TSS2, AT_HANDLER, CS0, DS0, 0x7000);
	machine_put(m, AT_TSS2 + 0x64, 1, 2);
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc_plain(m, EXC_DB);
	assert_int_equal(m->cpu.exc.payload, 0x8000);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	machine_free(m);
}

static void task_gate_and_privilege(void **state)
{
	struct machine *m = machine_prot(3);

	task32(m, AT_TSS2, AT_HANDLER, CS0, DS0, 0x7000);
	/* TSS DPL 0 from ring 3. */
	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc(m, EXC_GP, SEL_TSS2);
	/* A task gate with DPL 3 opens the way. */
	machine_gdt(m, SEL_GATE, (u64)SEL_TSS2 << 16 | 0xe5ull << 40, ~0ull);
	assert_int_equal(far_insn(m, true, SEL_GATE | 3), CPU_OK);
	assert_int_equal(m->cpu.cpl, 0);
	assert_int_equal(m->cpu.seg[SEG_TR].sel, SEL_TSS2);
	machine_free(m);
}

static void not_in_long_mode(void **state)
{
	struct machine *m = machine_long(0);

	assert_int_equal(far_insn(m, false, SEL_TSS2), CPU_EXC);
	assert_exc(m, EXC_GP, SEL_TSS2);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jmp),
		cmocka_unit_test(call_and_iret),
		cmocka_unit_test(interrupt_gate_pushes_error),
		cmocka_unit_test(task16),
		cmocka_unit_test(to_v86),
		cmocka_unit_test(old_task_errors),
		cmocka_unit_test(new_task_errors),
		cmocka_unit_test(ext_bit_in_the_new_task),
		cmocka_unit_test(trap_bit),
		cmocka_unit_test(task_gate_and_privilege),
		cmocka_unit_test(not_in_long_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
