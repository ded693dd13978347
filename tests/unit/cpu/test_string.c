/*
 * String instructions: every size and direction against a plain model, faults and devices in the
 * middle, overlap, address sizes, polling, single step.
 */
#include "machine.h"

#define SRC 0x100000u
#define DST 0x140000u

static struct cpu_insn str_insn(struct machine *m, unsigned size, unsigned prefix)
{
	struct cpu_insn in = machine_insn(m, size);

	in.prefix = (u8)prefix;
	return in;
}

static void fill(struct machine *m)
{
	for (u32 i = 0; i < 0x10000; i++) {
		m->mem[SRC + i] = (u8)(i * 7 + (i >> 8));
		m->mem[DST + i] = 0xcc;
	}
}

/* The model: one element after another. */
static void model_movs(u8 *mem, u64 si, u64 di, u64 count, unsigned n, bool down)
{
	while (count--) {
		u8 v[8];

		memcpy(v, mem + si, n);
		memcpy(mem + di, v, n);
		si += down ? -(u64)n : n;
		di += down ? -(u64)n : n;
	}
}

static void movs_like_model(void **state)
{
	static const s32 distance[] = {0x40000, 0x40003, 1, 3, 8, 64, -1, -5, -8, -4096, 4096};
	struct machine *m = machine_long(0);
	u8 *want = malloc(MEM_SIZE);

	for (unsigned size = 1; size <= 8; size *= 2)
		for (unsigned down = 0; down < 2; down++)
			for (unsigned i = 0; i < ARRAY_SIZE(distance); i++) {
				struct cpu_insn in = str_insn(m, size, CPU_PREFIX_REP);
				u64 si = SRC + 0x4000 + 5, di = si + distance[i], count = 1501;

				fill(m);
				memcpy(want, m->mem, MEM_SIZE);
				model_movs(want, si, di, count, size, down);
				m->cpu.df = down;
				m->cpu.gpr[RSI] = si;
				m->cpu.gpr[RDI] = di;
				m->cpu.gpr[RCX] = count;
				m->cpu.rip = AT_CODE;
				assert_int_equal(insn_movs(&m->cpu, &in), CPU_OK);
				assert_int_equal(m->cpu.rip, AT_CODE + 2);
				assert_int_equal(m->cpu.gpr[RCX], 0);
				assert_int_equal(m->cpu.gpr[RSI],
						 down ? si - count * size : si + count * size);
				assert_int_equal(m->cpu.gpr[RDI],
						 down ? di - count * size : di + count * size);
				assert_memory_equal(m->mem + SRC, want + SRC, 0x80000);
			}
	free(want);
	machine_free(m);
}

static void stos_every_size(void **state)
{
	struct machine *m = machine_long(0);

	m->cpu.gpr[RAX] = 0x1122334455667788;
	for (unsigned size = 1; size <= 8; size *= 2)
		for (unsigned down = 0; down < 2; down++) {
			struct cpu_insn in = str_insn(m, size, CPU_PREFIX_REP);
			u64 di = DST + 0x4003;

			fill(m);
			m->cpu.df = down;
			m->cpu.gpr[RDI] = di;
			m->cpu.gpr[RCX] = 1200;
			assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
			for (u64 i = 0; i < 1200; i++)
				assert_memory_equal(m->mem + (down ? di - i * size : di + i * size),
						    &m->cpu.gpr[RAX], size);
			assert_int_equal(m->mem[down ? di + size : di - 1], 0xcc);
			assert_int_equal(m->mem[down ? di - 1199 * size - 1 : di + 1200 * size],
					 0xcc);
		}
	machine_free(m);
}

static void fault_in_the_middle(void **state)
{
	struct machine *m = machine_long(3);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REP);

	fill(m);
	m->page[(DST + 0x2000) >> 12] = PAGE_READONLY;
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RDI] = DST + 0xf00;
	m->cpu.gpr[RCX] = 0x3000;
	assert_int_equal(insn_movs(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_PF, 7);
	assert_int_equal(m->cpu.exc.payload, DST + 0x2000);
	assert_int_equal(m->cpu.gpr[RCX], 0x3000 - 0x1100);
	assert_int_equal(m->cpu.gpr[RSI], SRC + 0x1100);
	assert_int_equal(m->cpu.gpr[RDI], DST + 0x2000);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_memory_equal(m->mem + DST + 0xf00, m->mem + SRC, 0x1100);
	machine_free(m);

	/* The source faults first when both would. */
	m = machine_long(0);
	m->page[SRC >> 12] = m->page[DST >> 12] = PAGE_ABSENT;
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 1;
	assert_int_equal(insn_movs(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.exc.payload, SRC);
	assert_int_equal(m->cpu.gpr[RCX], 1);
	machine_free(m);
}

static void element_across_pages_is_whole(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 8, CPU_PREFIX_REP);

	fill(m);
	m->page[(DST + 0x1000) >> 12] = PAGE_ABSENT;
	m->cpu.gpr[RDI] = DST + 0xffc - 16;
	m->cpu.gpr[RCX] = 4;
	m->cpu.gpr[RAX] = 0;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.exc.payload, DST + 0x1000);
	assert_int_equal(m->cpu.gpr[RCX], 2);
	assert_int_equal(m->mem[DST + 0xffc], 0xcc); /* nothing of the third element */
	machine_free(m);
}

static void slow_pages_work(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 4, CPU_PREFIX_REP);

	fill(m);
	m->page[(DST + 0x1000) >> 12] = PAGE_SLOW;
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RDI] = DST + 2;
	m->cpu.gpr[RCX] = 0xc00;
	assert_int_equal(insn_movs(&m->cpu, &in), CPU_OK);
	assert_memory_equal(m->mem + DST + 2, m->mem + SRC, 0x3000);
	machine_free(m);

	/* A page of code is written in blocks; overlapping operands replicate all the same. */
	m = machine_long(0);
	fill(m);
	m->page[DST >> 12] = PAGE_SLOW;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 0x400;
	m->cpu.gpr[RAX] = 0x01020304;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->writes, 1);
	assert_int_equal(machine_get(m, DST + 0xffc, 4), 0x01020304);
	m->cpu.gpr[RSI] = DST;
	m->cpu.gpr[RDI] = DST + 4;
	m->cpu.gpr[RCX] = 0x3ff;
	machine_put(m, DST, 0x55555555, 4);
	assert_int_equal(insn_movs(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_get(m, DST + 0xffc, 4), 0x55555555);
	machine_free(m);
}

static void count_zero(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REP);
	u16 flags = m->cpu.hflags;

	m->page[DST >> 12] = PAGE_ABSENT;
	m->cpu.gpr[RDI] = DST;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_int_equal(insn_scas(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.hflags, flags);
	machine_free(m);
}

static void address_sizes(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REP);

	/* 32-bit: upper halves are not used, and cleared when written. */
	in.addrsize = 4;
	m->cpu.gpr[RDI] = 0xabcd00000000 | DST;
	m->cpu.gpr[RCX] = 0xffff00000004;
	m->cpu.gpr[RAX] = 0x55;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RDI], DST + 4);
	assert_int_equal(m->cpu.gpr[RCX], 0);
	assert_int_equal(machine_get(m, DST, 4), 0x55555555);
	machine_free(m);

	/* 16-bit: DI wraps inside the segment, upper bits stay. */
	m = machine_real();
	in = str_insn(m, 2, CPU_PREFIX_REP);
	m->cpu.seg[SEG_ES].base = 0x40000;
	m->cpu.gpr[RDI] = 0x1234fffe;
	m->cpu.gpr[RCX] = 0x70003;
	m->cpu.gpr[RAX] = 0xbeef;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RDI], 0x12340004);
	assert_int_equal(m->cpu.gpr[RCX], 0x70000);
	assert_int_equal(machine_get(m, 0x4fffe, 2), 0xbeef);
	assert_int_equal(machine_get(m, 0x40000, 4), 0xbeefbeef);
	assert_int_equal(machine_get(m, 0x50000, 2), 0);
	/* A word at FFFF does not fit. */
	m->cpu.gpr[RDI] = 0xffff;
	m->cpu.gpr[RCX] = 1;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	machine_free(m);
}

static void segment_limit(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REP);

	m->cpu.seg[SEG_ES].limit = DST + 0x80f;
	cpu_mode_update(&m->cpu);
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 0x1000;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_GP, 0);
	assert_int_equal(m->cpu.gpr[RDI], DST + 0x810);
	assert_int_equal(m->cpu.gpr[RCX], 0x1000 - 0x810);
	machine_free(m);
}

static void poll_stops_it(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REP);

	m->cpu.poll = 0;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 0x20000;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_in_range(m->cpu.gpr[RCX], 0x10000, 0x1ffff);
	assert_true(m->cpu.rflags & FLAG_RF);
	m->cpu.poll = 1;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RCX], 0);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	assert_false(m->cpu.rflags & FLAG_RF);
	machine_free(m);
}

static void single_step(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 4, CPU_PREFIX_REP);

	m->cpu.rflags |= FLAG_TF;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 2;
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RCX], 1);
	assert_int_equal(m->cpu.rip, AT_CODE);
	assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.rip, AT_CODE + 2);
	machine_free(m);
}

static void device_writes_queue(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 4, CPU_PREFIX_REP);
	unsigned sent = 0;

	m->page[DST >> 12] = PAGE_DEVICE;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 200;
	m->cpu.gpr[RAX] = 0x12345678;
	while (m->cpu.rip == AT_CODE) {
		/* the dispatcher leaves for what is queued */
		assert_int_equal(insn_stos(&m->cpu, &in), CPU_OK);
		sent += m->cpu.mmio.write_count;
		assert_true(m->cpu.mmio.write_count > 0);
		m->cpu.mmio.write_count = 0;
	}
	assert_int_equal(sent, 200);
	machine_free(m);
}

static void device_to_memory(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 4, CPU_PREFIX_REP);

	m->page[SRC >> 12] = PAGE_DEVICE;
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 3;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(insn_movs(&m->cpu, &in), CPU_EXIT);
		assert_int_equal(m->cpu.gpr[RCX], 3 - i);
		m->cpu.mmio.done_count = 1;
		m->cpu.mmio.done_next = 0;
		memset(m->cpu.mmio.done[0].data, 0x10 + (int)i, 8);
	}
	assert_int_equal(insn_movs(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_get(m, DST, 4), 0x10101010);
	assert_int_equal(machine_get(m, DST + 8, 4), 0x12121212);
	machine_free(m);
}

static void scas_and_cmps(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REPNE);

	/* strlen: the zero lies 5000 bytes on, over a page boundary. */
	memset(m->mem + DST, 'x', 0x8000);
	m->mem[DST + 5000] = 0;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = ~0ull;
	m->cpu.gpr[RAX] = 0xff00;
	assert_int_equal(insn_scas(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RDI], DST + 5001);
	assert_int_equal(m->cpu.gpr[RCX], ~0ull - 5001);
	assert_int_equal(cpu_rflags(&m->cpu) & FLAG_ARITH, FLAG_ZF | FLAG_PF);

	/* memcmp, words, difference in the 3000th. */
	in = str_insn(m, 2, CPU_PREFIX_REP);
	memcpy(m->mem + SRC, m->mem + DST, 0x8000);
	machine_put(m, SRC + 6000, 0x7878 - 1, 2);
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 10000;
	assert_int_equal(insn_cmps(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RSI], SRC + 6002);
	assert_int_equal(m->cpu.gpr[RCX], 10000 - 3001);
	assert_true(cpu_rflags(&m->cpu) & FLAG_CF); /* 7877 - 7878 */
	assert_false(cpu_rflags(&m->cpu) & FLAG_ZF);

	/* Backwards, equal to the end. */
	in = str_insn(m, 8, CPU_PREFIX_REP);
	m->cpu.df = 1;
	m->cpu.gpr[RSI] = SRC + 0x4000;
	m->cpu.gpr[RDI] = DST + 0x4000;
	m->cpu.gpr[RCX] = 16;
	assert_int_equal(insn_cmps(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RSI], SRC + 0x4000 - 128);
	assert_true(cpu_rflags(&m->cpu) & FLAG_ZF);
	machine_free(m);
}

static void scas_stops_before_a_bad_page(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 1, CPU_PREFIX_REPNE);

	memset(m->mem + DST, 'x', 0x1000);
	m->mem[DST + 0xfff] = 0;
	m->page[(DST + 0x1000) >> 12] = PAGE_ABSENT;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 0x5000;
	m->cpu.gpr[RAX] = 0;
	assert_int_equal(insn_scas(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RDI], DST + 0x1000);
	/* And faults on it with the count exact. */
	m->mem[DST + 0xfff] = 'x';
	m->cpu.rip = AT_CODE;
	m->cpu.gpr[RDI] = DST;
	m->cpu.gpr[RCX] = 0x5000;
	assert_int_equal(insn_scas(&m->cpu, &in), CPU_EXC);
	assert_int_equal(m->cpu.exc.payload, DST + 0x1000);
	assert_int_equal(m->cpu.gpr[RCX], 0x4000);
	machine_free(m);
}

static void lods(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = str_insn(m, 4, 0);

	machine_put(m, SRC, 0x8899aabbccddeeff, 8);
	m->cpu.gpr[RSI] = SRC;
	m->cpu.gpr[RAX] = ~0ull;
	assert_int_equal(insn_lods(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], 0xccddeeff);
	assert_int_equal(m->cpu.gpr[RSI], SRC + 4);
	in = str_insn(m, 1, CPU_PREFIX_REP);
	m->cpu.gpr[RCX] = 3;
	assert_int_equal(insn_lods(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], 0xccddee99);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(movs_like_model),
		cmocka_unit_test(stos_every_size),
		cmocka_unit_test(fault_in_the_middle),
		cmocka_unit_test(element_across_pages_is_whole),
		cmocka_unit_test(slow_pages_work),
		cmocka_unit_test(count_zero),
		cmocka_unit_test(address_sizes),
		cmocka_unit_test(segment_limit),
		cmocka_unit_test(poll_stops_it),
		cmocka_unit_test(single_step),
		cmocka_unit_test(device_writes_queue),
		cmocka_unit_test(device_to_memory),
		cmocka_unit_test(scas_and_cmps),
		cmocka_unit_test(scas_stops_before_a_bad_page),
		cmocka_unit_test(lods),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
