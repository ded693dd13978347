/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT of both vendors.
 */
#include "machine.h"

#define STAR ((u64)0x13 << 48 | (u64)0x08 << 32 | 0xdeadb000)

static struct machine *machine(enum cpu_vendor vendor, unsigned cpl)
{
	struct machine *m = machine_long(cpl);

	m->cpu.vendor = vendor;
	m->cpu.star = STAR;
	m->cpu.lstar = 0xffffffff81000000;
	m->cpu.cstar = 0xffffffff82000000;
	m->cpu.sfmask = FLAG_IF | FLAG_TF | FLAG_AC;
	m->cpu.sysenter_cs = 0x10;
	m->cpu.sysenter_esp = 0xffff800000002000;
	m->cpu.sysenter_eip = 0xffffffff83000000;
	return m;
}

static void compat(struct machine *m)
{
	m->cpu.seg[SEG_CS].attr = 0xc0fb;
	cpu_mode_update(&m->cpu);
}

static void syscall64(void **state)
{
	struct machine *m = machine(CPU_VENDOR_INTEL, 3);
	struct cpu_insn in = machine_insn(m, 4);
	u64 sp = m->cpu.gpr[RSP];

	m->cpu.rflags |= FLAG_AC | FLAG_RF;
	m->cpu.hflags |= 0x0100;
	assert_int_equal(insn_syscall(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0xffffffff81000000);
	assert_int_equal(m->cpu.gpr[RCX], AT_CODE + 2);
	assert_int_equal(m->cpu.gpr[R11], FLAG_AC | FLAG_IF | FLAG_CF | 2);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_CF | 2);
	assert_int_equal(m->cpu.cpl, 0);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 8);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0x10);
	assert_int_equal(m->cpu.gpr[RSP], sp);
	assert_int_equal(m->cpu.mode & MODE_CPL, 0);
	assert_true(m->cpu.mode & MODE_LONG);
	/* And back. */
	in.opsize = 8;
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 0x23);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0x1b);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_AC | FLAG_IF | FLAG_CF | 2);
	machine_free(m);
}

static void syscall_needs_sce(void **state)
{
	struct machine *m = machine(CPU_VENDOR_INTEL, 3);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.efer &= ~EFER_SCE;
	assert_int_equal(insn_syscall(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	machine_free(m);
}

static void syscall_compat(void **state)
{
	struct machine *m = machine(CPU_VENDOR_INTEL, 3);
	struct cpu_insn in = machine_insn(m, 4);

	compat(m);
	assert_int_equal(insn_syscall(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	m->cpu.vendor = CPU_VENDOR_AMD;
	assert_int_equal(insn_syscall(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0xffffffff82000000);
	assert_true(m->cpu.mode & MODE_LONG);
	/* SYSRET to 32-bit code. */
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 0x13);
	assert_false(m->cpu.mode & MODE_LONG);
	assert_true(m->cpu.mode & MODE_CS32);
	machine_free(m);
}

static void sysret_faults(void **state)
{
	struct machine *m = machine(CPU_VENDOR_INTEL, 0);
	struct cpu_insn in = machine_insn(m, 8);

	m->cpu.gpr[RCX] = 0x800000000000;
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(m->cpu.cpl, 0);
	/* AMD goes there and faults on the fetch. */
	m->cpu.vendor = CPU_VENDOR_AMD;
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0); /* CPL 3 */
	machine_free(m);
}

static void sysret_amd_keeps_ss_attributes(void **state)
{
	struct machine *m = machine(CPU_VENDOR_AMD, 0);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.seg[SEG_SS] = seg_from_null(0, 0);
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0x1b);
	assert_true(m->cpu.seg[SEG_SS].attr & SEG_ATTR_UNUSABLE);
	machine_free(m);
	m = machine(CPU_VENDOR_INTEL, 0);
	m->cpu.seg[SEG_SS] = seg_from_null(0, 0);
	assert_int_equal(insn_sysret(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.seg[SEG_SS].attr, 0xc0f3);
	machine_free(m);
}

static void sysenter_sysexit(void **state)
{
	struct machine *m = machine(CPU_VENDOR_INTEL, 3);
	struct cpu_insn in = machine_insn(m, 8);

	assert_int_equal(insn_sysenter(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0xffffffff83000000);
	assert_int_equal(m->cpu.gpr[RSP], 0xffff800000002000);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 0x10);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0x18);
	assert_int_equal(m->cpu.intf, 0);
	m->cpu.gpr[RDX] = 0x401000;
	m->cpu.gpr[RCX] = 1ull << 47;
	assert_int_equal(insn_sysexit(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	m->cpu.gpr[RCX] = 0x7000;
	assert_int_equal(insn_sysexit(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.rip, 0x401000);
	assert_int_equal(m->cpu.seg[SEG_CS].sel, 0x33);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0x3b);
	machine_free(m);
	/* AMD: not in long mode. */
	m = machine(CPU_VENDOR_AMD, 3);
	assert_int_equal(insn_sysenter(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_UD);
	machine_free(m);
	m = machine(CPU_VENDOR_INTEL, 3);
	m->cpu.sysenter_cs = 3;
	assert_int_equal(insn_sysenter(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
	m = machine_prot(3);
	m->cpu.sysenter_cs = CS0;
	m->cpu.sysenter_eip = 0xc0001000;
	assert_int_equal(insn_sysenter(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, 0xc0001000);
	assert_true(m->cpu.mode & MODE_CS32);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(syscall64),
		cmocka_unit_test(syscall_needs_sce),
		cmocka_unit_test(syscall_compat),
		cmocka_unit_test(sysret_faults),
		cmocka_unit_test(sysret_amd_keeps_ss_attributes),
		cmocka_unit_test(sysenter_sysexit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
