/* Filling and emptying the software TLB, seen as generated code sees it. */
#include "rig.h"

#include <string.h>

static struct cpu *start(void)
{
	rig_make(1);
	rig_long(rig.cpu[0]);
	return rig.cpu[0];
}

static enum mmu_resolve_kind touch(struct cpu *cpu, u64 lin, unsigned access)
{
	return mmu_resolve(cpu, lin, 8, access, false);
}

static void tlb_empty_tags_match_nothing(void **state)
{
	struct cpu *cpu = start();
	static const u64 near[] = {0,
				   1,
				   0xff8,
				   0xfff,
				   0x1000,
				   0x1ff8,
				   0x7fffff,
				   0x800000,
				   0xc000000000001000ull,
				   0xc000000000000fffull,
				   0xfffffffffffff000ull,
				   0xffffffffffffffffull,
				   0x40000000000000ull,
				   0x3fffffffffff000ull};

	for (unsigned i = 0; i < ARRAY_SIZE(near); i++)
		for (unsigned n = 1; n <= 64; n *= 2) {
			assert_false(rig_hit(cpu, near[i], n, false));
			assert_false(rig_hit(cpu, near[i], n, true));
		}
	/* CALL looks where RSP is, for the eight bytes before it. */
	for (unsigned v = 0; v < MMU_TLB_OWN; v++) {
		mmu_view_begin(cpu, v);
		for (u64 page = 0; page < 8; page++)
			for (u64 at = page << PAGE_SHIFT; at < (page << PAGE_SHIFT) + 8; at++)
				assert_true((cpu->tlb[v].wtag[page] + at - 8) >> PAGE_SHIFT != 1);
	}
	rig_free();
}

/* A view's table is all zeros until somebody asks it, and zeros would match page 0x1000: every way begins it. */
static void tlb_view_begins(void **state)
{
	static const unsigned how[] = {MMU_READ, MMU_READ | MMU_AS_USER, MMU_READ | MMU_SYSTEM};
	u64 value;

	for (unsigned i = 0; i < ARRAY_SIZE(how); i++) {
		struct cpu *cpu = start();

		for (unsigned v = 0; v < MMU_TLB_COUNT; v++)
			assert_true(!cpu->tlb[v].rtag[0] && !cpu->tlb[v].wtag[1]);
		assert_int_equal(mmu_read(cpu, 0x1000, &value, 8, how[i]), CPU_EXC);
		cpu->exc.pending = false;
		assert_int_equal(mmu_write(cpu, 0x1ff8, &value, 8, how[i]), CPU_EXC);
		cpu->exc.pending = false;
		assert_int_equal(mmu_resolve(cpu, 0x1000, 8, how[i], false), MMU_STOP_EXC);
		rig_free();
	}
}

static void tlb_read_then_write(void **state)
{
	struct cpu *cpu = start();

	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W);
	assert_int_equal(touch(cpu, 0x400010, MMU_READ), MMU_DIRECT);
	assert_ptr_equal((void *)cpu->jit_scratch[0], rig.ram + 0x5010);
	assert_true(rig_hit(cpu, 0x400ff8, 8, false));
	assert_false(rig_hit(cpu, 0x400ff9, 8, false));
	assert_false(rig_hit(cpu, 0x401000, 8, false));
	assert_false(rig_hit(cpu, 0x3ffff9, 8, false));
	assert_false(rig_hit(cpu, 0x400ff8, 8, true)); /* D is clear */
	assert_int_equal(*rig_pte(cpu, 0x400000), 0x5000 | P | W | A);
	assert_int_equal(touch(cpu, 0x400010, MMU_WRITE), MMU_DIRECT);
	assert_true(rig_hit(cpu, 0x400ff8, 8, true));
	assert_int_equal(*rig_pte(cpu, 0x400000), 0x5000 | P | W | A | D);

	/* a dirty page is cached for writing by a read; a read-only one is not */
	mmu_flush_all(cpu);
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	assert_int_equal(touch(cpu, 0x400010, MMU_READ), MMU_DIRECT);
	assert_true(rig_hit(cpu, 0x400ff8, 8, true));
	rig_map(cpu, 0x401000, 0x6000, PAGE_SIZE, P | A | D);
	assert_int_equal(touch(cpu, 0x401010, MMU_READ), MMU_DIRECT);
	assert_false(rig_hit(cpu, 0x401000, 8, true));
	assert_int_equal(touch(cpu, 0x401010, MMU_WRITE), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.vector, EXC_PF);
	assert_int_equal(cpu->exc.error, 3);
	assert_int_equal(cpu->exc.payload, 0x401010);
	rig_free();
}

static void tlb_views_are_apart(void **state)
{
	struct cpu *cpu = start();

	cpu->cr4 |= CR4_SMAP;
	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W | U);
	rig_map(cpu, 0x401000, 0x6000, PAGE_SIZE, P | W);
	rig_cpl(cpu, 3);
	assert_int_equal(touch(cpu, 0x400000, MMU_READ), MMU_DIRECT);
	assert_int_equal(touch(cpu, 0x401000, MMU_READ), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.error, 5);
	rig_cpl(cpu, 0);
	assert_int_equal(cpu_mode_view(cpu), MMU_TLB_KERNEL);
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	assert_int_equal(touch(cpu, 0x400000, MMU_READ), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.error, 1);
	assert_int_equal(touch(cpu, 0x401000, MMU_READ), MMU_DIRECT);
	cpu->rflags |= FLAG_AC;
	rig_cpl(cpu, 0);
	assert_int_equal(touch(cpu, 0x400000, MMU_READ), MMU_DIRECT);
	/* implicit accesses ignore AC */
	assert_int_equal(mmu_probe(cpu, 0x400000, 8, MMU_READ | MMU_SYSTEM), CPU_EXC);
	assert_int_equal(mmu_probe(cpu, 0x401000, 8, MMU_READ | MMU_AS_USER), CPU_EXC);
	rig_free();
}

/* A page that has 0x401000's slot. */
#define ALIAS (0x401000ull + MMU_TLB_SIZE * PAGE_SIZE)

static void tlb_global_survives(void **state)
{
	struct cpu *cpu = start();

	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W | G);
	rig_map(cpu, 0x401000, 0x6000, PAGE_SIZE, P | W);
	touch(cpu, 0x400000, MMU_WRITE);
	touch(cpu, 0x401000, MMU_WRITE);
	mmu_flush_nonglobal(cpu);
	assert_true(rig_hit(cpu, 0x400000, 8, true));
	assert_false(rig_hit(cpu, 0x401000, 8, false));
	/* a slot that goes from local to global and back */
	touch(cpu, 0x401000, MMU_WRITE);
	rig_map(cpu, ALIAS, 0x7000, PAGE_SIZE, P | W | G);
	touch(cpu, ALIAS, MMU_WRITE);
	assert_false(rig_hit(cpu, 0x401000, 8, false));
	mmu_flush_nonglobal(cpu);
	assert_true(rig_hit(cpu, ALIAS, 8, true));
	touch(cpu, 0x401000, MMU_WRITE);
	mmu_flush_nonglobal(cpu);
	assert_false(rig_hit(cpu, 0x401000, 8, true));
	mmu_flush_all(cpu);
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* without CR4.PGE the bit means nothing */
	cpu->cr4 &= ~CR4_PGE;
	touch(cpu, 0x400000, MMU_WRITE);
	mmu_flush_nonglobal(cpu);
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	rig_free();
}

static void tlb_invlpg(void **state)
{
	struct cpu *cpu = start();
	static const u64 sizes[] = {2 << 20, 1 << 30};

	rig_map(cpu, 0x40000000, 0, 2 << 20, P | W);
	rig_map(cpu, 0x80000000, 0, 1 << 30, P | W | G);
	for (unsigned k = 0; k < 2; k++) {
		u64 lin = 0x40000000 + k * 0x40000000;

		touch(cpu, lin, MMU_WRITE);
		touch(cpu, lin + sizes[k] / 64 + 0x3000, MMU_WRITE);
		assert_true(rig_hit(cpu, lin, 8, true));
		mmu_flush_page(cpu, lin + 0x55123);
		assert_false(rig_hit(cpu, lin, 8, false));
		assert_false(rig_hit(cpu, lin + sizes[k] / 64 + 0x3000, 8, false));
	}
	rig_map(cpu, 0x200000, 0x5000, PAGE_SIZE, P | W | G);
	rig_map(cpu, 0x201000, 0x6000, PAGE_SIZE, P | W);
	touch(cpu, 0x200000, MMU_WRITE);
	touch(cpu, 0x201000, MMU_WRITE);
	mmu_flush_page(cpu, 0x200fff);
	assert_false(rig_hit(cpu, 0x200000, 8, false));
	assert_true(rig_hit(cpu, 0x201000, 8, true));
	rig_free();
}

static void tlb_jump_caches(void **state)
{
	struct cpu *cpu = start();
	struct mmu_fetched at;

	rig_map(cpu, 0x200000, 0x5000, PAGE_SIZE, P | W);
	rig_map(cpu, 0x202000, 0x6000, PAGE_SIZE, P | W);
	assert_int_equal(mmu_fetch(cpu, 0x200123, &at), CPU_OK);
	assert_int_equal(at.gpa, 0x5123);
	assert_ptr_equal(at.host, rig.ram + 0x5123);
	rig.jc_flushes = 0;
	mmu_flush_page(cpu, 0x202000); /* never executed */
	assert_int_equal(rig.jc_flushes, 0);
	*rig_pte(cpu, 0x200000) = 0x7000 | P;
	assert_int_equal(mmu_fetch(cpu, 0x200123, &at), CPU_OK);
	assert_int_equal(at.gpa, 0x5123); /* no INVLPG yet */
	mmu_flush_page(cpu, 0x200000);
	assert_int_equal(rig.jc_flushes, 1);
	assert_int_equal(mmu_fetch(cpu, 0x200123, &at), CPU_OK);
	assert_int_equal(at.gpa, 0x7123);
	*rig_pte(cpu, 0x200000) = 0x7000 | P | NX;
	mmu_flush_nonglobal(cpu);
	assert_int_equal(mmu_fetch(cpu, 0x200123, &at), CPU_EXC);
	assert_int_equal(cpu->exc.error, 0x11);
	rig_free();
}

static void tlb_pcid(void **state)
{
	struct cpu *cpu = start();
	u64 as1, as2;

	cpu->cr4 |= CR4_PCIDE;
	as1 = cpu->cr3 | 1;
	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W);
	rig_map(cpu, 0x40000000, 0, 2 << 20, P | W);
	rig_long(cpu); /* another root */
	cpu->cr4 |= CR4_PCIDE;
	as2 = cpu->cr3 | 2;
	rig_map(cpu, 0x400000, 0x6000, PAGE_SIZE, P | W);
	rig_map(cpu, 0x402000, 0x7000, PAGE_SIZE, P | W | G);

	mmu_set_cr3(cpu, as1);
	touch(cpu, 0x400000, MMU_WRITE);
	touch(cpu, 0x40001000, MMU_WRITE);
	mmu_set_cr3(cpu, as2);
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	touch(cpu, 0x400000, MMU_WRITE);
	touch(cpu, 0x402000, MMU_WRITE);
	assert_ptr_equal((u8 *)0x400000 + cpu->tlb[cpu_mode_view(cpu)].addend[0x400],
			 rig.ram + 0x6000);

	/* back, keeping */
	mmu_set_cr3(cpu, as1 | BIT64(63));
	assert_true(rig_hit(cpu, 0x400000, 8, true));
	assert_ptr_equal((u8 *)0x400000 + cpu->tlb[cpu_mode_view(cpu)].addend[0x400],
			 rig.ram + 0x5000);
	assert_true(rig_hit(cpu, 0x40001000, 8, true));
	assert_true(rig_hit(cpu, 0x402000, 8, true)); /* global */
	mmu_flush_page(cpu, 0x40000000);	      /* the restored fragment knows its page */
	assert_false(rig_hit(cpu, 0x40001000, 8, true));

	/* INVPCID, one address of the other */
	mmu_flush_page_pcid(cpu, 0x400000, 2);
	assert_true(rig_hit(cpu, 0x400000, 8, true));
	mmu_set_cr3(cpu, as2 | BIT64(63));
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* … the whole other */
	touch(cpu, 0x400000, MMU_WRITE);
	mmu_flush_pcid(cpu, 1);
	assert_true(rig_hit(cpu, 0x400000, 8, true));
	mmu_set_cr3(cpu, as1 | BIT64(63));
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* without bit 63 nothing of the PCID survives */
	mmu_set_cr3(cpu, as2);
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* write permission dropped meanwhile */
	touch(cpu, 0x400000, MMU_WRITE);
	mmu_set_cr3(cpu, as1 | BIT64(63));
	mmu_flush_write(cpu);
	mmu_set_cr3(cpu, as2 | BIT64(63));
	assert_true(rig_hit(cpu, 0x400000, 8, false));
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* a page that became code while its entry was stashed */
	touch(cpu, 0x400000, MMU_WRITE);
	mmu_set_cr3(cpu, as1 | BIT64(63));
	mmu_code_add(cpu, 0x6000, 16);
	mmu_set_cr3(cpu, as2 | BIT64(63));
	assert_true(rig_hit(cpu, 0x400000, 8, false));
	assert_false(rig_hit(cpu, 0x400000, 8, true));
	/* more address spaces than stashes */
	for (unsigned n = 3; n < 40; n++) {
		mmu_set_cr3(cpu, (as1 & PAGE_MASK) | n);
		touch(cpu, 0x400000, MMU_READ);
	}
	mmu_set_cr3(cpu, as2 | BIT64(63));
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	rig_free();
}

/* Random fills and flushes against a plain list of what may be cached. */
static void tlb_random(void **state)
{
	struct cpu *cpu = start();
	u64 r = 12345;

	for (u64 n = 0; n < 512; n++)
		rig_map(cpu, 0x10000000 + n * 4096, 0x100000 + (n & 255) * 4096, PAGE_SIZE,
			P | W | (n & 1 ? G : 0));
	for (unsigned k = 0; k < 200000; k++) {
		u64 n, lin;

		r = r * 6364136223846793005ull + 1442695040888963407ull;
		n = (r >> 33) & 511;
		lin = 0x10000000 + n * 4096;
		switch (r >> 60) {
		case 0:
			mmu_flush_page(cpu, lin);
			assert_false(rig_hit(cpu, lin, 1, false));
			break;
		case 1:
			if ((r >> 50) & 15)
				break;
			if ((r >> 49) & 1)
				mmu_flush_all(cpu);
			else
				mmu_flush_nonglobal(cpu);
			for (n = 0; n < 512; n++)
				if (!(n & 1) || ((r >> 49) & 1))
					assert_false(rig_hit(cpu, 0x10000000 + n * 4096, 1, false));
			break;
		default:
			assert_int_equal(touch(cpu, lin, (r >> 40) & 1 ? MMU_WRITE : MMU_READ),
					 MMU_DIRECT);
			assert_true(rig_hit(cpu, lin, 1, (r >> 40) & 1));
			assert_int_equal(cpu->jit_scratch[0],
					 (u64)rig.ram + 0x100000 + (n & 255) * 4096);
		}
	}
	rig_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tlb_empty_tags_match_nothing),
		cmocka_unit_test(tlb_view_begins),
		cmocka_unit_test(tlb_read_then_write),
		cmocka_unit_test(tlb_views_are_apart),
		cmocka_unit_test(tlb_global_survives),
		cmocka_unit_test(tlb_invlpg),
		cmocka_unit_test(tlb_jump_caches),
		cmocka_unit_test(tlb_pcid),
		cmocka_unit_test(tlb_random),
	};

	return cmocka_run_group_tests_name("mmu tlb", tests, NULL, NULL);
}
