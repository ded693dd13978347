/*
 * Port I/O: devices inside, exits to user space, restarts, permission bitmap, batches, faults.
 */
#include <linux/kvm.h>
#include "machine.h"

#define BUF 0x100000u

static void inside(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 2);

	m->port_answers = true;
	m->port_value = 0xabcd;
	in.imm2 = 1;
	in.imm = 0x60;
	m->cpu.gpr[RAX] = ~0ull;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], 0xffffffffffffabcd);
	assert_int_equal(insn_out(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->port_writes, 1);
	machine_free(m);
}

static void in_stops_and_restarts(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 4);

	m->cpu.gpr[RDX] = 0xffff0cf8;
	m->cpu.gpr[RAX] = ~0ull;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_EXIT);
	assert_int_equal(m->cpu.exit.reason, CPU_EXIT_PIO);
	assert_true(m->cpu.pio.in);
	assert_int_equal(m->cpu.pio.port, 0xcf8);
	assert_int_equal(m->cpu.pio.size, 4);
	assert_int_equal(m->cpu.pio.count, 1);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_int_equal(m->cpu.gpr[RAX], ~0ull);
	memcpy(m->cpu.pio.data, "\x78\x56\x34\x12", 4);
	m->cpu.pio.ready = true;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], 0x12345678);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_false(m->cpu.pio.ready);
	machine_free(m);
}

static void out_ends_when_answered(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 1);

	m->cpu.gpr[RDX] = 0x3f8;
	m->cpu.gpr[RAX] = 'A';
	assert_int_equal(insn_out(&m->cpu, &in), CPU_EXIT);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_false(m->cpu.pio.in);
	assert_int_equal(m->cpu.pio.data[0], 'A');
	m->cpu.pio.ready = true;
	assert_int_equal(insn_out(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_false(m->cpu.pio.ready);
	machine_free(m);
}

/* KVM's quirk of one port. */
static void out_commits_first(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 1);

	m->cpu.gpr[RDX] = 0x7e;
	assert_int_equal(insn_out(&m->cpu, &in), CPU_EXIT);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	m->cpu.rip = AT_CODE;
	m->cpu.disabled_quirks = KVM_X86_QUIRK_OUT_7E_INC_RIP;
	assert_int_equal(insn_out(&m->cpu, &in), CPU_EXIT);
	assert_int_equal(m->cpu.rip, AT_CODE);
	machine_free(m);
}

static void permission(void **state)
{
	/* port, size, bitmap byte 0x7f (ports 3f8..3ff) and 0x80, allowed */
	static const struct {
		unsigned size;
		u16 port, bits;
		bool ok;
	} row[] = {
		{1, 0x3f8, 0, true},	   {1, 0x3f8, 1, false},     {2, 0x3f8, 2, false},
		{4, 0x3ff, 0x0100, false}, {4, 0x3ff, 0x0800, true}, {4, 0x3ff, 0x0400, false},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct machine *m = machine_long(3);
		struct cpu_insn in = machine_insn(m, row[i].size);

		m->port_answers = true;
		machine_put(m, AT_TSS + 102, 0x68, 2);
		machine_put(m, AT_TSS + 0x68 + 0x7f, row[i].bits, 2);
		m->cpu.gpr[RDX] = row[i].port;
		assert_int_equal(insn_in(&m->cpu, &in), row[i].ok ? CPU_OK : CPU_EXC);
		if (!row[i].ok)
			assert_exc(m, EXC_GP, 0);
		/* IOPL 3 does not ask. */
		m->cpu.rflags |= FLAG_IOPL;
		cpu_mode_update(&m->cpu);
		assert_int_equal(insn_in(&m->cpu, &in), CPU_OK);
		machine_free(m);
	}
}

static void bitmap_beyond_the_limit(void **state)
{
	struct machine *m = machine_v86(3);
	struct cpu_insn in = machine_insn(m, 1);

	m->port_answers = true;
	machine_put(m, AT_TSS + 102, 0x68, 2);
	m->cpu.seg[SEG_TR].limit = 0x68 + 0x7f; /* the second byte is beyond */
	m->cpu.gpr[RDX] = 0x3f8;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	m->cpu.seg[SEG_TR].limit++;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_OK);
	machine_free(m);
}

static void ins_batch(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 2);
	unsigned got = 0;

	in.prefix = CPU_PREFIX_REP;
	m->cpu.gpr[RDX] = 0x1f0;
	m->cpu.gpr[RDI] = BUF + 0xf01;
	m->cpu.gpr[RCX] = 256;
	while (insn_ins(&m->cpu, &in) == CPU_EXIT) {
		assert_int_equal(m->cpu.gpr[RCX], 256 - got);
		assert_in_range(m->cpu.pio.count, 1, 256 - got);
		for (unsigned i = 0; i < m->cpu.pio.count * 2; i++)
			m->cpu.pio.data[i] = (u8)(got * 2 + i);
		got += m->cpu.pio.count;
		m->cpu.pio.ready = true;
	}
	assert_int_equal(got, 256);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_int_equal(m->cpu.gpr[RDI], BUF + 0xf01 + 512);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(m->mem[BUF + 0xf01 + i], (u8)i);
	machine_free(m);
}

static void ins_faults_before_reading(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 1);

	m->port_answers = true;
	m->page[BUF >> 12] = PAGE_READONLY;
	m->cpu.gpr[RDI] = BUF;
	assert_int_equal(insn_ins(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_PF, 3);
	assert_int_equal(m->port_reads, 0);
	machine_free(m);
}

static void outs_batch(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 1);
	unsigned sent = 0;

	in.prefix = CPU_PREFIX_REP;
	for (unsigned i = 0; i < 3000; i++)
		m->mem[BUF + 0x800 + i] = (u8)(i * 3);
	m->cpu.gpr[RSI] = BUF + 0x800;
	m->cpu.gpr[RCX] = 3000;
	while (m->cpu.rip == AT_CODE) {
		assert_int_equal(insn_outs(&m->cpu, &in), CPU_EXIT);
		for (unsigned i = 0; i < m->cpu.pio.count; i++)
			assert_int_equal(m->cpu.pio.data[i], (u8)((sent + i) * 3));
		sent += m->cpu.pio.count;
		assert_int_equal(m->cpu.gpr[RCX], 3000 - sent);
	}
	assert_int_equal(sent, 3000);
	machine_free(m);
}

static void io_breakpoint(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 1);

	m->port_answers = true;
	m->cpu.cr4 |= CR4_DE;
	m->cpu.dr[1] = 0x60;
	m->cpu.dr7 = 0x400 | 4 | 2u << 20;
	m->cpu.gpr[RDX] = 0x60;
	assert_int_equal(insn_in(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_DB);
	assert_int_equal(m->cpu.exc.payload, 2);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inside),
		cmocka_unit_test(in_stops_and_restarts),
		cmocka_unit_test(out_ends_when_answered),
		cmocka_unit_test(out_commits_first),
		cmocka_unit_test(permission),
		cmocka_unit_test(bitmap_beyond_the_limit),
		cmocka_unit_test(ins_batch),
		cmocka_unit_test(ins_faults_before_reading),
		cmocka_unit_test(outs_batch),
		cmocka_unit_test(io_breakpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
