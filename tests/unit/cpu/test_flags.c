/*
 * CLI, STI, PUSHF, POPF, CLAC, STAC at every privilege, with VME and PVI; INT n in virtual-8086.
 */
#include "machine.h"

static void cli_sti(void **state)
{
	/* machine, cr4, VIP, expected: 'I' IF, 'V' VIF, 'G' #GP */
	static const struct {
		char mode; /* p0, p3, v86 */
		unsigned iopl;
		u64 cr4;
		bool vip;
		char cli, sti;
	} row[] = {
		{'0', 0, 0, false, 'I', 'I'},	    {'3', 0, 0, false, 'G', 'G'},
		{'3', 3, 0, false, 'I', 'I'},	    {'3', 0, CR4_PVI, false, 'V', 'V'},
		{'3', 0, CR4_PVI, true, 'V', 'G'},  {'3', 0, CR4_VME, false, 'G', 'G'},
		{'v', 0, 0, false, 'G', 'G'},	    {'v', 3, 0, false, 'I', 'I'},
		{'v', 0, CR4_VME, false, 'V', 'V'}, {'v', 2, CR4_VME, true, 'V', 'G'},
		{'v', 0, CR4_PVI, false, 'G', 'G'},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++)
		for (unsigned sti = 0; sti < 2; sti++) {
			struct machine *m = row[i].mode == 'v' ? machine_v86(row[i].iopl)
							       : machine_prot(row[i].mode - '0');
			struct cpu_insn in = machine_insn(m, 4);
			char want = sti ? row[i].sti : row[i].cli;
			struct cpu *cpu = &m->cpu;
			u64 rip = cpu->rip;
			int ret;

			cpu->rflags = (cpu->rflags & ~FLAG_IOPL) |
				      (u64)row[i].iopl << FLAG_IOPL_SHIFT |
				      (row[i].vip ? FLAG_VIP : 0);
			if (!sti)
				cpu->rflags |= FLAG_VIF;
			cpu->intf = !sti;
			cpu->cr4 = row[i].cr4;
			cpu_mode_update(cpu);
			ret = sti ? insn_sti(cpu, &in) : insn_cli(cpu, &in);
			if (want == 'G') {
				assert_int_equal(ret, CPU_EXC);
				assert_exc(m, EXC_GP, 0);
				assert_int_equal(cpu->rip, rip);
			} else {
				assert_int_equal(ret, CPU_OK);
				assert_int_equal(cpu->rip, rip + 2);
			}
			assert_int_equal(cpu->intf, want == 'I' ? sti : !sti);
			assert_int_equal(!!(cpu->rflags & FLAG_VIF), want == 'V' ? sti : !sti);
			assert_int_equal(cpu->shadow, want == 'I' && sti ? CPU_SHADOW_STI : 0);
			machine_free(m);
		}
}

static void sti_twice_has_no_shadow(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.intf = 1;
	m->cpu.shadow = CPU_SHADOW_STI;
	assert_int_equal(insn_sti(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.shadow, 0);
	machine_free(m);
}

static void ac(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.cr4 |= CR4_SMAP;
	cpu_mode_update(&m->cpu);
	assert_int_equal(cpu_mode_view(&m->cpu), MMU_TLB_KERNEL);
	assert_int_equal(insn_stac(&m->cpu, &in), CPU_OK);
	assert_int_equal(cpu_mode_view(&m->cpu), MMU_TLB_KERNEL_AC);
	assert_true(m->cpu.rflags & FLAG_AC);
	assert_int_equal(insn_clac(&m->cpu, &in), CPU_OK);
	assert_int_equal(cpu_mode_view(&m->cpu), MMU_TLB_KERNEL);
	machine_free(m);
	m = machine_long(3);
	assert_int_equal(insn_stac(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	machine_free(m);
}

static u64 popf(struct machine *m, u64 image, unsigned opsize)
{
	struct cpu_insn in = machine_insn(m, opsize);

	machine_put(m, (u32)(m->cpu.seg[SEG_SS].base + m->cpu.gpr[RSP]), image, opsize);
	assert_int_equal(insn_popf(&m->cpu, &in), CPU_OK);
	return cpu_rflags(&m->cpu);
}

static void popf_masks(void **state)
{
	u64 every =
		FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID;
	struct machine *m = machine_long(0);

	m->cpu.rflags |= FLAG_RF;
	assert_int_equal(popf(m, ~0ull, 8), every | 2);
	assert_true(m->cpu.mode & MODE_STEP);
	assert_int_equal(popf(m, 0, 8), 2);
	assert_int_equal(popf(m, 0xffff, 2), (every & 0xffff) | 2);
	machine_free(m);
	/* CPL 3, IOPL 0: neither IF nor IOPL. */
	m = machine_long(3);
	assert_int_equal(popf(m, ~0ull, 8), (every & ~FLAG_IOPL) | 2);
	assert_int_equal(popf(m, 0, 8), FLAG_IF | 2);
	machine_free(m);
	/* CPL 3, IOPL 3: IF but not IOPL. */
	m = machine_prot(3);
	m->cpu.rflags |= FLAG_IOPL;
	cpu_mode_update(&m->cpu);
	assert_int_equal(popf(m, 0, 4), FLAG_IOPL | 2);
	machine_free(m);
	/* Virtual-8086 with VME: IF is VIF. */
	m = machine_v86(0);
	m->cpu.cr4 = CR4_VME;
	assert_int_equal(popf(m, FLAG_IF | FLAG_CF | 2, 2),
			 FLAG_VM | FLAG_IF | FLAG_VIF | FLAG_CF | 2);
	assert_int_equal(popf(m, FLAG_CF | 2, 2), FLAG_VM | FLAG_IF | FLAG_CF | 2);
	machine_free(m);
}

static void pushf(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu_insn in = machine_insn(m, 8);

	m->cpu.rflags |= FLAG_RF | FLAG_AC;
	assert_int_equal(insn_pushf(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_get(m, (u32)m->cpu.gpr[RSP], 8), FLAG_AC | FLAG_IF | 2);
	machine_free(m);
	m = machine_v86(0);
	in = machine_insn(m, 2);
	assert_int_equal(insn_pushf(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	m->cpu.cr4 = CR4_VME;
	assert_int_equal(insn_pushf(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_get(m, (u32)(0x6020 + m->cpu.gpr[RSP]), 2), FLAG_IOPL | 2);
	machine_free(m);
}

static void popf_opens_the_window(void **state)
{
	struct machine *m = machine_long(0);

	m->cpu.intf = 0;
	m->cpu.irq_window = 0;
	popf(m, 2, 8);
	assert_int_equal(m->cpu.poll, 1);
	popf(m, FLAG_IF | 2, 8);
	assert_int_equal(m->cpu.poll, 0);
	machine_free(m);
}

static void v86_int(void **state)
{
	struct machine *m = machine_v86(0);
	struct cpu_insn in = machine_insn(m, 2);

	in.imm = 0x21;
	assert_int_equal(insn_int(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);

	m = machine_v86(3);
	assert_int_equal(insn_int(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.exc.kind, EVENT_SW_INT);
	machine_free(m);

	/* VME: the redirection bitmap lies below the I/O bitmap; 0 keeps it inside the task. */
	m = machine_v86(0);
	m->cpu.cr4 = CR4_VME;
	m->cpu.rflags |= FLAG_VIF;
	machine_put(m, AT_TSS + 102, 0x90, 2);
	machine_put(m, 0x21 * 4, 0x20005678, 4);
	assert_int_equal(insn_int(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x5678);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 0x2000);
	assert_false(m->cpu.rflags & FLAG_VIF);
	assert_true(m->cpu.intf);
	assert_int_equal(machine_get(m, (u32)(0x6020 + m->cpu.gpr[RSP]) + 4, 2),
			 FLAG_IF | FLAG_IOPL | 2);
	/* 1 sends it to the monitor: #GP below IOPL 3. */
	machine_put(m, AT_TSS + 0x70 + 0x21 / 8, 1 << (0x21 & 7), 1);
	assert_int_equal(insn_int(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void into_and_bound(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = machine_insn(m, 4);

	assert_int_equal(insn_into(&m->cpu, &in), CPU_OK);
	m->cpu.hflags |= 1;
	assert_int_equal(insn_into(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.exc.vector, EXC_OF);
	in.mem = true;
	in.disp = 0x5000;
	in.reg = RCX;
	machine_put(m, 0x5000, (u64)100 << 32 | (u32)-5, 8);
	m->cpu.gpr[RCX] = (u32)-5;
	assert_int_equal(insn_bound(&m->cpu, &in), CPU_OK);
	m->cpu.gpr[RCX] = (u32)-6;
	assert_int_equal(insn_bound(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_BR);
	m->cpu.gpr[RCX] = 101;
	assert_int_equal(insn_bound(&m->cpu, &in), CPU_EXC);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cli_sti), cmocka_unit_test(sti_twice_has_no_shadow),
		cmocka_unit_test(ac),	   cmocka_unit_test(popf_masks),
		cmocka_unit_test(pushf),   cmocka_unit_test(popf_opens_the_window),
		cmocka_unit_test(v86_int), cmocka_unit_test(into_and_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
