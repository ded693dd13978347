/*
 * IRET: real, protected to same and outer ring, virtual-8086 both ways, task back link, 64-bit.
 */
#include "machine.h"

#define AT_FRAME 0x7000u

/* Puts a frame of n-byte elements at the stack pointer. */
static void frame(struct machine *m, unsigned n, const u64 *v, unsigned count)
{
	m->cpu.gpr[RSP] = AT_FRAME;
	for (unsigned i = 0; i < count; i++)
		machine_put(m, (u32)m->cpu.seg[SEG_SS].base + AT_FRAME + i * n, v[i], n);
}

#define FRAME(m, n, ...) \
	frame(m, n, (const u64[]){__VA_ARGS__}, sizeof((const u64[]){__VA_ARGS__}) / sizeof(u64))

static int iret(struct machine *m, unsigned opsize)
{
	struct cpu_insn in = machine_insn(m, opsize);

	return insn_iret(&m->cpu, &in);
}

static void real(void **state)
{
	struct machine *m = machine_real();

	FRAME(m, 2, 0x1234, 0x2000, FLAG_CF | FLAG_IOPL | 2);
	m->cpu.nmi_masked = true;
	assert_int_equal(iret(m, 2), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x1234);
	assert_int_equal(m->cpu.seg[SEG_CS].base, 0x20000);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_CF | FLAG_IOPL | 2);
	assert_int_equal(m->cpu.gpr[RSP], AT_FRAME + 6);
	assert_false(m->cpu.nmi_masked);
	FRAME(m, 4, 0x12345, 0x2000, 2); /* beyond the limit */
	assert_int_equal(iret(m, 4), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void prot_same_and_outer(void **state)
{
	struct machine *m = machine_prot(0);

	FRAME(m, 4, AT_HANDLER, CS0, FLAG_IF | FLAG_ID | FLAG_AC | 2);
	assert_int_equal(iret(m, 4), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_HANDLER);
	assert_int_equal(m->cpu.gpr[RSP], AT_FRAME + 12);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_IF | FLAG_ID | FLAG_AC | 2);

	FRAME(m, 4, AT_HANDLER, CS3, FLAG_IF | FLAG_IOPL | 2, AT_STACK3, DS3);
	m->cpu.seg[SEG_ES].attr = 0xc093; /* DPL 0 data may not be kept */
	m->cpu.seg[SEG_DS] = m->cpu.seg[SEG_FS];
	m->cpu.seg[SEG_DS].attr |= 0x60;
	assert_int_equal(iret(m, 4), CPU_OK);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.gpr[RSP], AT_STACK3);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, DS3);
	assert_int_equal(m->cpu.seg[SEG_ES].sel, 0);
	assert_true(m->cpu.seg[SEG_ES].attr & SEG_ATTR_UNUSABLE);
	assert_int_equal(m->cpu.seg[SEG_DS].sel, DS0);
	assert_int_equal(cpu_mode_view(&m->cpu), MMU_TLB_USER);
	machine_free(m);
}

static void privilege_of_flags(void **state)
{
	struct machine *m = machine_prot(3);

	/* IOPL 0 at CPL 3: IF and IOPL stay. */
	FRAME(m, 4, AT_HANDLER, CS3, FLAG_IOPL | FLAG_ZF | FLAG_VIF | 2);
	assert_int_equal(iret(m, 4), CPU_OK);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_IF | FLAG_ZF | 2);
	machine_free(m);
}

static void code_errors(void **state)
{
	static const struct {
		u64 cs, rip;
		unsigned cpl, vector;
		u32 error;
	} row[] = {
		{0, 0, 0, EXC_GP, 0},	       {0x300, 0, 0, EXC_GP, 0x300},
		{DS0, 0, 0, EXC_GP, DS0},      {CS0, 0, 3, EXC_GP, CS0},
		{CS0 | 3, 0, 0, EXC_GP, CS0},  {CS3 & ~3, 0, 0, EXC_GP, CS3 & ~3},
		{CS16, 0x10000, 0, EXC_GP, 0}, {SEL_FREE, 0, 0, EXC_NP, SEL_FREE},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(row[i].cpl);
		u64 sp;

		machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc01b), ~0ull);
		FRAME(m, 4, row[i].rip, row[i].cs, 2, AT_STACK3, DS3);
		sp = m->cpu.gpr[RSP];
		assert_int_equal(iret(m, 4), CPU_EXC);
		assert_exc(m, row[i].vector, row[i].error);
		assert_int_equal(m->cpu.gpr[RSP], sp);
		assert_int_equal(m->cpu.rip, AT_CODE);
		machine_free(m);
	}
}

static void stack_errors(void **state)
{
	static const struct {
		u64 ss;
		unsigned vector;
		u32 error;
	} row[] = {
		{0, EXC_GP, 0},
		{DS0, EXC_GP, DS0},
		{SEL_RO | 3, EXC_GP, SEL_RO},
		{SEL_FREE | 3, EXC_SS, SEL_FREE},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_prot(0);

		machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc073), ~0ull);
		FRAME(m, 4, AT_HANDLER, CS3, 2, AT_STACK3, row[i].ss);
		assert_int_equal(iret(m, 4), CPU_EXC);
		assert_exc(m, row[i].vector, row[i].error);
		assert_int_equal(m->cpu.cpl, 0);
		machine_free(m);
	}
}

static void to_v86_and_within(void **state)
{
	struct machine *m = machine_prot(0);

	FRAME(m, 4, 0x100, 0x1000, FLAG_VM | FLAG_IF | 2, 0x800, 0x600, 0x601, 0x602, 0x603, 0x604);
	assert_int_equal(iret(m, 4), CPU_OK);
	assert_true(m->cpu.rflags & FLAG_VM);
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_CS].base, 0x10000);
	assert_int_equal(m->cpu.seg[SEG_DS].sel, 0x602);
	assert_int_equal(m->cpu.seg[SEG_GS].sel, 0x604);
	assert_int_equal(m->cpu.seg[SEG_GS].limit, 0xffff);
	assert_int_equal(m->cpu.gpr[RSP], 0x800);
	assert_true(m->cpu.mode & MODE_V86);
	/* IOPL 0: #GP. */
	assert_int_equal(iret(m, 2), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);

	m = machine_v86(3);
	FRAME(m, 2, 0x55, 0x1100, FLAG_CF | 2);
	assert_int_equal(iret(m, 2), CPU_OK);
	assert_int_equal(m->cpu.rip, 0x55);
	assert_int_equal(cpu_rflags(&m->cpu), FLAG_VM | FLAG_IOPL | FLAG_CF | 2);
	machine_free(m);

	/* VME: IF goes to VIF; a pending VIP makes it #GP. */
	m = machine_v86(0);
	m->cpu.cr4 |= CR4_VME;
	FRAME(m, 2, 0x55, 0x1100, FLAG_IF | 2);
	assert_int_equal(iret(m, 2), CPU_OK);
	assert_true(m->cpu.rflags & FLAG_VIF);
	m->cpu.rflags |= FLAG_VIP;
	FRAME(m, 2, 0x55, 0x1100, FLAG_IF | 2);
	assert_int_equal(iret(m, 2), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void long_always_pops_ss(void **state)
{
	struct machine *m = machine_long(0);

	FRAME(m, 8, 0xffff800000001000, CS0, 2, 0xffff900000000008, 0);
	assert_int_equal(iret(m, 8), CPU_OK);
	assert_int_equal(m->cpu.rip, 0xffff800000001000);
	assert_int_equal(m->cpu.gpr[RSP], 0xffff900000000008);
	assert_int_equal(m->cpu.seg[SEG_SS].sel, 0);
	assert_int_equal(m->cpu.cpl, 0);
	machine_free(m);
}

static void long_to_user(void **state)
{
	struct machine *m = machine_long(0);

	/* A user FS base under a null selector survives. */
	m->cpu.seg[SEG_FS] = seg_from_null(0, 0);
	m->cpu.seg[SEG_FS].base = 0x7f0000000000;
	m->cpu.poll = 1;
	m->cpu.irq_window = 0;
	m->cpu.intf = 0;
	FRAME(m, 8, 0x401000, CS3, FLAG_IF | 2, 0x7fffffffe000, DS3);
	assert_int_equal(iret(m, 8), CPU_OK);
	assert_int_equal(m->cpu.poll, 0); /* somebody waited for IF */
	assert_int_equal(m->cpu.cpl, 3);
	assert_int_equal(m->cpu.seg[SEG_FS].base, 0x7f0000000000);
	assert_true(m->cpu.seg[SEG_DS].attr & SEG_ATTR_UNUSABLE);
	assert_int_equal(m->cpu.gpr[RSP], 0x7fffffffe000);
	machine_free(m);
}

static void long_errors(void **state)
{
	struct machine *m = machine_long(0);

	FRAME(m, 8, 0x800000000000, CS0, 2, AT_STACK0, 0);
	assert_int_equal(iret(m, 8), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	FRAME(m, 8, AT_CODE, CS3, 2, AT_STACK3, 0); /* null SS in ring 3 */
	assert_int_equal(iret(m, 8), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	m->cpu.rflags |= FLAG_NT;
	assert_int_equal(iret(m, 8), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void long_to_compat(void **state)
{
	struct machine *m = machine_long(0);

	machine_gdt(m, SEL_FREE, machine_desc(0, ~0u, 0xc0fb), ~0ull);
	FRAME(m, 8, 0x8049000, SEL_FREE | 3, FLAG_IF | 2, 0xffffd000, DS3);
	assert_int_equal(iret(m, 8), CPU_OK);
	assert_int_equal(m->cpu.mode & (MODE_LONG | MODE_CS32 | MODE_SS32), MODE_CS32 | MODE_SS32);
	/* Back to 64-bit code of the same ring: three elements only. */
	m->cpu.gpr[RSP] = AT_FRAME;
	machine_put(m, AT_FRAME, 0x1000, 4);
	machine_put(m, AT_FRAME + 4, CS3, 4);
	machine_put(m, AT_FRAME + 8, FLAG_IF | 2, 4);
	assert_int_equal(iret(m, 4), CPU_OK);
	assert_true(m->cpu.mode & MODE_LONG);
	assert_int_equal(m->cpu.gpr[RSP], AT_FRAME + 12);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(real),
		cmocka_unit_test(prot_same_and_outer),
		cmocka_unit_test(privilege_of_flags),
		cmocka_unit_test(code_errors),
		cmocka_unit_test(stack_errors),
		cmocka_unit_test(to_v86_and_within),
		cmocka_unit_test(long_always_pops_ss),
		cmocka_unit_test(long_to_user),
		cmocka_unit_test(long_errors),
		cmocka_unit_test(long_to_compat),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
