/*
 * Delivery of exceptions and interrupts in each mode, error codes, double and triple faults.
 */
#include "machine.h"

#define GATE_INT32  0x8e
#define GATE_TRAP32 0x8f
#define GATE_DPL3   0x60

static u64 stack_at(struct machine *m, unsigned i, unsigned n)
{
	return machine_get(m, (u32)m->cpu.gpr[RSP] + i * n, n);
}

static void real_interrupt(void **state)
{
	struct machine *m = machine_real();
	struct cpu *cpu = &m->cpu;

	machine_put(m, 0x21 * 4, 0x20001234, 4);
	cpu->rflags |= FLAG_AC | FLAG_TF;
	assert_int_equal(cpu_intr_deliver(cpu, 0x21, EVENT_INTR), CPU_OK);
	assert_int_equal(cpu->rip, 0x1234);
	assert_int_equal(cpu->seg[SEG_CS].sel, 0x2000);
	assert_int_equal(cpu->seg[SEG_CS].base, 0x20000);
	assert_int_equal(cpu->intf, 0);
	assert_int_equal(cpu->rflags & (FLAG_TF | FLAG_AC), 0);
	assert_int_equal(stack_at(m, 0, 2), 0x100);
	assert_int_equal(stack_at(m, 1, 2), AT_CODE >> 4);
	assert_int_equal(stack_at(m, 2, 2), FLAG_IF | FLAG_TF | 2);
	machine_free(m);
}

static void real_stack_wraps(void **state)
{
	struct machine *m = machine_real();
	struct cpu *cpu = &m->cpu;

	cpu->gpr[RSP] = 0xabcd0002;
	assert_int_equal(cpu_intr_deliver(cpu, 8, EVENT_INTR), CPU_OK);
	assert_int_equal(cpu->gpr[RSP], 0xabcdfffc);
	assert_int_equal(machine_get(m, 0xfffc, 2), 0x100);
	assert_int_equal(machine_get(m, 0xfffe, 2), AT_CODE >> 4);
	assert_int_equal(machine_get(m, 0, 2), FLAG_IF | 2);
	machine_free(m);
}

static void real_no_error_code(void **state)
{
	struct machine *m = machine_real();
	struct cpu *cpu = &m->cpu;
	u64 sp = cpu->gpr[RSP];

	cpu_raise_err(cpu, EXC_GP, 0);
	assert_int_equal(cpu_exc_deliver(cpu), CPU_OK);
	assert_int_equal(cpu->gpr[RSP], sp - 6);
	machine_free(m);
}

static void real_short_idt_shuts_down(void **state)
{
	struct machine *m = machine_real();

	m->cpu.idtr.limit = 3;
	assert_int_equal(cpu_intr_deliver(&m->cpu, 0x21, EVENT_INTR), CPU_EXIT);
	assert_int_equal(m->cpu.exit.reason, CPU_EXIT_SHUTDOWN);
	machine_free(m);
}

static void prot_same_ring(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu *cpu = &m->cpu;
	u64 sp = cpu->gpr[RSP];

	machine_gate(m, EXC_GP, CS0, AT_HANDLER, GATE_TRAP32, 0);
	cpu_raise_err(cpu, EXC_GP, 0x1230);
	assert_int_equal(cpu_exc_deliver(cpu), CPU_OK);
	assert_int_equal(cpu->rip, AT_HANDLER);
	assert_int_equal(cpu->gpr[RSP], sp - 16);
	assert_int_equal(stack_at(m, 0, 4), 0x1230);
	assert_int_equal(stack_at(m, 1, 4), AT_CODE);
	assert_int_equal(stack_at(m, 2, 4), CS0);
	assert_int_equal(stack_at(m, 3, 4), FLAG_RF | FLAG_IF | 2);
	assert_int_equal(cpu->intf, 1); /* a trap gate */
	assert_false(cpu->exc.pending);
	machine_free(m);
}

static void prot_16bit_gate(void **state)
{
	struct machine *m = machine_prot(0);
	u64 sp = m->cpu.gpr[RSP];

	machine_gate(m, 0x30, CS0, 0xffff1234, 0x86, 0);
	assert_int_equal(cpu_intr_deliver(&m->cpu, 0x30, EVENT_INTR), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x1234);
	assert_int_equal(m->cpu.gpr[RSP], sp - 6);
	assert_int_equal(m->cpu.intf, 0);
	machine_free(m);
}

static void prot_inner_ring(void **state)
{
	struct machine *m = machine_prot(3);
	struct cpu *cpu = &m->cpu;
	u64 sp = cpu->gpr[RSP];

	machine_gate(m, 0x30, CS0, AT_HANDLER, GATE_INT32, 0);
	assert_int_equal(cpu_intr_deliver(cpu, 0x30, EVENT_INTR), CPU_OK);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->seg[SEG_SS].sel, DS0);
	assert_int_equal(cpu->gpr[RSP], AT_STACK0 - 20);
	assert_int_equal(stack_at(m, 1, 4), CS3);
	assert_int_equal(stack_at(m, 3, 4), sp);
	assert_int_equal(stack_at(m, 4, 4), DS3);
	assert_int_equal((cpu->mode & MODE_CPL) >> MODE_CPL_SHIFT, 0);
	machine_free(m);
}

static void v86_to_ring0(void **state)
{
	struct machine *m = machine_v86(0);
	struct cpu *cpu = &m->cpu;

	machine_gate(m, EXC_GP, CS0, AT_HANDLER, GATE_INT32, 0);
	cpu_raise_err(cpu, EXC_GP, 0);
	assert_int_equal(cpu_exc_deliver(cpu), CPU_OK);
	assert_int_equal(cpu->cpl, 0);
	assert_false(cpu->rflags & FLAG_VM);
	assert_int_equal(cpu->gpr[RSP], AT_STACK0 - 40);
	assert_int_equal(stack_at(m, 3, 4) & FLAG_VM, FLAG_VM);
	assert_int_equal(stack_at(m, 4, 4), 0x800);
	assert_int_equal(stack_at(m, 5, 4), 0x602);
	assert_int_equal(stack_at(m, 6, 4), 0x600); /* ES */
	assert_int_equal(stack_at(m, 7, 4), 0x603); /* DS */
	assert_int_equal(stack_at(m, 9, 4), 0x605); /* GS */
	assert_true(cpu->seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
	machine_free(m);
}

static void v86_wants_ring0(void **state)
{
	struct machine *m = machine_v86(0);

	/* A conforming handler would run at CPL 3. */
	machine_gate(m, 0x30, CS0C, AT_HANDLER, GATE_INT32, 0);
	machine_gate(m, EXC_GP, CS0, AT_HANDLER, GATE_INT32, 0);
	assert_int_equal(cpu_intr_deliver(&m->cpu, 0x30, EVENT_INTR), CPU_OK);
	assert_int_equal(stack_at(m, 0, 4), CS0C | 1);
	machine_free(m);
}

static void long_inner_and_same(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu *cpu = &m->cpu;
	u64 sp = cpu->gpr[RSP];

	machine_gate(m, EXC_PF, CS0, 0xffff800000001000, GATE_INT32, 0);
	cpu_raise_pf(cpu, 0x123456789abc, 7);
	assert_int_equal(cpu_exc_deliver(cpu), CPU_OK);
	assert_int_equal(cpu->cr2, 0x123456789abc);
	assert_int_equal(cpu->rip, 0xffff800000001000);
	assert_int_equal(cpu->gpr[RSP], AT_STACK0 - 48);
	assert_int_equal(cpu->seg[SEG_SS].sel, 0);
	assert_int_equal(stack_at(m, 0, 8), 7);
	assert_int_equal(stack_at(m, 1, 8), AT_CODE);
	assert_int_equal(stack_at(m, 2, 8), CS3);
	assert_int_equal(stack_at(m, 3, 8), FLAG_RF | FLAG_IF | 2);
	assert_int_equal(stack_at(m, 4, 8), sp);
	assert_int_equal(stack_at(m, 5, 8), DS3);
	/* Once more at CPL 0: same stack, aligned, SS kept. */
	cpu->gpr[RSP] = 0x7ff7;
	cpu->seg[SEG_SS].sel = DS0;
	machine_gate(m, 0x40, CS0, AT_HANDLER, GATE_INT32, 0);
	assert_int_equal(cpu_intr_deliver(cpu, 0x40, EVENT_INTR), CPU_OK);
	assert_int_equal(cpu->gpr[RSP], 0x7ff0 - 40);
	assert_int_equal(stack_at(m, 3, 8), 0x7ff7);
	assert_int_equal(cpu->seg[SEG_SS].sel, DS0);
	machine_free(m);
}

static void long_ist(void **state)
{
	struct machine *m = machine_long(0);

	machine_gate(m, EXC_NMI, CS0, AT_HANDLER, GATE_INT32, 1);
	assert_int_equal(cpu_intr_deliver(&m->cpu, EXC_NMI, EVENT_NMI), CPU_OK);
	assert_int_equal(m->cpu.gpr[RSP], AT_IST1 - 40);
	assert_true(m->cpu.nmi_masked);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, DS0);
	machine_free(m);
}

/* Each way a gate can be wrong, as the error code of the second exception. */
static void gate_errors(void **state)
{
	static const struct {
		u16 sel;
		u8 type;
		u8 ist;
		unsigned vector;
		u32 error;
	} row[] = {
		{CS0, 0x85, 0, EXC_GP, 0x30 * 8 + 3}, /* a task gate in long mode */
		{CS0, 0x0e, 0, EXC_NP, 0x30 * 8 + 3}, /* gate not present */
		{0, 0x8e, 0, EXC_GP, 1},	      /* null */
		{DS0, 0x8e, 0, EXC_GP, DS0 | 1},      /* not code */
		{0x208, 0x8e, 0, EXC_GP, 0x208 | 1},  /* beyond the GDT */
		{CS16, 0x8e, 0, EXC_GP, CS16 | 1},    /* not 64-bit */
		{CS0, 0x8e, 7, EXC_TS, SEL_TSS | 1},  /* TSS too short for IST7 */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_long(0);

		m->cpu.seg[SEG_TR].limit = 80;
		machine_gate(m, 0x30, row[i].sel, AT_HANDLER, row[i].type, row[i].ist);
		machine_gate(m, row[i].vector, CS0, AT_HANDLER, GATE_INT32, 0);
		assert_int_equal(cpu_intr_deliver(&m->cpu, 0x30, EVENT_INTR), CPU_OK);
		assert_int_equal(stack_at(m, 0, 8), row[i].error);
		assert_int_equal(stack_at(m, 1, 8), AT_CODE);
		machine_free(m);
	}
}

static void soft_interrupts_check_dpl(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu_insn in = machine_insn(m, 4);

	in.imm = 0x80;
	machine_gate(m, 0x80, CS0, AT_HANDLER, GATE_INT32, 0);
	machine_gate(m, EXC_GP, CS0, AT_HANDLER, GATE_INT32, 0);
	assert_int_equal(insn_int(&m->cpu, &in), CPU_EXC);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(stack_at(m, 0, 8), 0x80 * 8 + 2); /* EXT clear */
	assert_int_equal(stack_at(m, 1, 8), AT_CODE);	   /* at the INT */
	machine_free(m);

	m = machine_long(3);
	machine_gate(m, 0x80, CS0, AT_HANDLER, GATE_INT32 | GATE_DPL3, 0);
	assert_int_equal(insn_int(&m->cpu, &in), CPU_EXC);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(stack_at(m, 0, 8), AT_CODE + 2); /* behind it */
	assert_int_equal(stack_at(m, 2, 8), FLAG_IF | 2); /* no RF */
	machine_free(m);

	/* INT1 needs no gate privilege. */
	m = machine_long(3);
	machine_gate(m, EXC_DB, CS0, AT_HANDLER, GATE_INT32, 0);
	assert_int_equal(insn_int1(&m->cpu, &in), CPU_EXC);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	machine_free(m);
}

static void db_payload(void **state)
{
	struct machine *m = machine_long(0);

	machine_gate(m, EXC_DB, CS0, AT_HANDLER, GATE_INT32, 0);
	m->cpu.dr7 |= 0x2000;
	m->cpu.dr6 |= 8;
	cpu_raise_db(&m->cpu, 0x4001);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(m->cpu.dr6, 0xffff4ff1);
	assert_int_equal(m->cpu.dr7 & 0x2000, 0);
	assert_int_equal(stack_at(m, 2, 8), FLAG_IF | 2); /* a trap: RF as it was */
	machine_free(m);
}

static void double_fault_table(void **state)
{
	/* First event, whose handler is broken by a not-present gate or an absent stack page. */
	static const struct {
		unsigned first;
		bool error;
		bool page_fault; /* the second is #PF, else #NP */
		unsigned delivered;
	} row[] = {
		{EXC_UD, false, false, EXC_NP}, {EXC_GP, true, false, EXC_DF},
		{EXC_PF, true, false, EXC_DF},	{EXC_UD, false, true, EXC_PF},
		{EXC_GP, true, true, EXC_PF},	{EXC_PF, true, true, EXC_DF},
		{EXC_DE, false, false, EXC_DF}, {EXC_AC, true, false, EXC_NP},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_long(0);
		struct cpu *cpu = &m->cpu;

		for (unsigned v = 0; v < 32; v++)
			machine_gate(m, v, CS0, AT_HANDLER + v * 16, GATE_INT32, 1);
		if (row[i].page_fault) {
			machine_gate(m, row[i].first, CS0, 0, GATE_INT32, 0);
			cpu->gpr[RSP] = 0x101000;
			m->page[0x100] = PAGE_ABSENT;
		} else {
			machine_gate(m, row[i].first, CS0, 0, 0x0e, 0);
		}
		if (row[i].error)
			cpu_raise_err(cpu, row[i].first, 0);
		else
			cpu_raise(cpu, row[i].first);
		if (row[i].page_fault && row[i].first == EXC_PF)
			machine_gate(m, EXC_PF, CS0, AT_HANDLER, GATE_INT32, 0);
		assert_int_equal(cpu_exc_deliver(cpu), CPU_OK);
		assert_int_equal(cpu->rip, AT_HANDLER + row[i].delivered * 16);
		if (row[i].page_fault)
			assert_in_range(cpu->cr2, 0x100000, 0x100fff);
		machine_free(m);
	}
}

static void triple_fault(void **state)
{
	struct machine *m = machine_long(0);

	m->cpu.idtr.limit = 0;
	cpu_raise_err(&m->cpu, EXC_GP, 0);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_EXIT);
	assert_int_equal(m->cpu.exit.reason, CPU_EXIT_SHUTDOWN);
	assert_int_equal(m->cpu.rip, AT_CODE);
	machine_free(m);
}

static void delivery_restarts_after_exit(void **state)
{
	struct machine *m = machine_long(0);

	machine_gate(m, 0x40, CS0, AT_HANDLER, GATE_INT32, 0);
	m->page[AT_IDT >> 12] = PAGE_HOSTFAULT;
	assert_int_equal(cpu_intr_deliver(&m->cpu, 0x40, EVENT_INTR), CPU_EXIT);
	assert_int_equal(m->cpu.exit.reason, CPU_EXIT_MEMFAULT);
	assert_true(m->cpu.exc.pending);
	m->page[AT_IDT >> 12] = 0;
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	assert_false(m->cpu.exc.pending);
	machine_free(m);
}

static void prot_stack_errors(void **state)
{
	static const struct {
		u16 ss;
		u32 esp;
		u32 tss_limit;
		unsigned vector;
		u32 error;
	} row[] = {
		{0, AT_STACK0, 0x3ff, EXC_TS, 1},
		{DS3, AT_STACK0, 0x3ff, EXC_TS, (DS3 & ~3) | 1},
		{SEL_RO & ~3, AT_STACK0, 0x3ff, EXC_TS, SEL_RO | 1},
		{SEL_NP, AT_STACK0, 0x3ff, EXC_SS, SEL_NP | 1},
		{DS0, AT_STACK0, 8, EXC_TS, SEL_TSS | 1},
		{SEL_DOWN, 0x1008, 0x3ff, EXC_SS, SEL_DOWN | 1},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(3);
		struct cpu *cpu = &m->cpu;

		machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc0fb), ~0ull);
		machine_put(m, AT_TSS + 4, row[i].esp, 4);
		machine_put(m, AT_TSS + 8, row[i].ss, 2);
		cpu->seg[SEG_TR].limit = row[i].tss_limit;
		machine_gate(m, 0x30, CS0, AT_HANDLER, GATE_INT32, 0);
		/* The second exception is handled at CPL 3, on the stack that works. */
		machine_gate(m, row[i].vector, SEL_FREE, AT_HANDLER, GATE_INT32, 0);
		assert_int_equal(cpu_intr_deliver(cpu, 0x30, EVENT_INTR), CPU_OK);
		assert_int_equal(cpu->cpl, 3);
		assert_int_equal(stack_at(m, 0, 4), row[i].error);
		machine_free(m);
	}
}

static void shadow_ends(void **state)
{
	struct machine *m = machine_long(0);

	machine_gate(m, EXC_UD, CS0, AT_HANDLER, GATE_INT32, 0);
	m->cpu.shadow = CPU_SHADOW_MOV_SS;
	cpu_raise(&m->cpu, EXC_UD);
	assert_int_equal(cpu_exc_deliver(&m->cpu), CPU_OK);
	assert_int_equal(m->cpu.shadow, 0);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real_interrupt),
		cmocka_unit_test(real_stack_wraps),
		cmocka_unit_test(real_no_error_code),
		cmocka_unit_test(real_short_idt_shuts_down),
		cmocka_unit_test(prot_same_ring),
		cmocka_unit_test(prot_16bit_gate),
		cmocka_unit_test(prot_inner_ring),
		cmocka_unit_test(prot_stack_errors),
		cmocka_unit_test(v86_to_ring0),
		cmocka_unit_test(v86_wants_ring0),
		cmocka_unit_test(long_inner_and_same),
		cmocka_unit_test(long_ist),
		cmocka_unit_test(gate_errors),
		cmocka_unit_test(soft_interrupts_check_dpl),
		cmocka_unit_test(db_payload),
		cmocka_unit_test(double_fault_table),
		cmocka_unit_test(triple_fault),
		cmocka_unit_test(delivery_restarts_after_exit),
		cmocka_unit_test(shadow_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
