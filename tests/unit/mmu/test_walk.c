/*
 * The walker against a second one written from the manuals' tables, bit by bit and slowly: every
 * combination of permissions in 4-level tables, then random entries in every paging mode.
 */
#include "rig.h"

#include <stdlib.h>
#include <string.h>

/* What the model says. */
struct verdict {
	bool ok;
	u32 error;
	u64 gpa, size;
	unsigned levels;
	bool global;
};

struct tables {
	unsigned top; /* number of levels read from memory */
	unsigned esize;
	u64 at[6], was[6]; /* [level]: guest-physical address and value before the walk */
};

static u64 ent_get(u64 gpa, unsigned esize)
{
	u64 v = 0;

	memcpy(&v, rig.ram + gpa, esize);
	return v;
}

static u64 bits_between(unsigned hi, unsigned lo)
{
	u64 m = 0;

	for (unsigned b = lo; b <= hi; b++)
		m |= 1ull << b;
	return m;
}

static struct verdict model(struct cpu *cpu, u64 lin, unsigned access, unsigned view,
			    const struct tables *t)
{
	const unsigned maxphy = 40;
	bool pae = cpu->cr4 & CR4_PAE, lng = cpu->efer & EFER_LMA, nxe = cpu->efer & EFER_NX;
	bool fetch = access & MMU_EXEC, write = access & MMU_WRITE,
	     user_mode = view == MMU_TLB_USER;
	bool user = true, rw = true, nx = false, wp = cpu->cr0 & CR0_WP;
	struct verdict v = {0};
	u32 base = (write ? 2 : 0) | (user_mode ? 4 : 0);
	u64 e = 0, rsvd;
	unsigned level, shift = 0;

	if (fetch && ((nxe && pae) || (cpu->cr4 & CR4_SMEP)))
		base |= 16;
	for (level = t->top; level; level--) {
		bool leaf = level == 1;

		e = t->was[level];
		v.levels = level;
		if (!(e & P)) {
			v.error = base;
			return v;
		}
		if (!pae) {
			shift = level == 2 ? 22 : 12;
			rsvd = 0;
			if (level == 2 && (e & PS) && (cpu->cr4 & CR4_PSE)) {
				leaf = true;
				/* MAXPHYADDR 40: with PSE-36 all of 20..13 are address bits */
				rsvd = cpu_has(cpu, X86_FEATURE_PSE36) ? 1 << 21
								       : bits_between(21, 13);
			}
		} else {
			shift = 12 + 9 * (level - 1);
			rsvd = bits_between(51, maxphy);
			if (!lng)
				rsvd |= bits_between(62, 52);
			if (!nxe)
				rsvd |= 1ull << 63;
			if (level >= 4 || (level == 3 && !cpu_has(cpu, X86_FEATURE_GBPAGES)))
				rsvd |= PS;
			else if (level > 1 && (e & PS)) {
				leaf = true;
				rsvd |= bits_between(shift - 1, 13);
			}
			if (lng && level >= 3 && !leaf && cpu->vendor == CPU_VENDOR_AMD)
				rsvd |= G;
		}
		if (e & rsvd) {
			v.error = base | 8 | 1;
			return v;
		}
		user = user && (e & U);
		rw = rw && (e & W);
		nx = nx || (pae && (e >> 63));
		if (leaf)
			break;
	}
	v.error = base | 1;
	v.ok = true;
	if (fetch) {
		if (nx || (user_mode && !user) || (!user_mode && user && (cpu->cr4 & CR4_SMEP)))
			v.ok = false;
	} else {
		if (user_mode && (!user || (write && !rw)))
			v.ok = false;
		if (!user_mode && write && !rw && wp)
			v.ok = false;
		if (view == MMU_TLB_KERNEL && user && (cpu->cr4 & CR4_SMAP))
			v.ok = false;
		if (lng && (user ? cpu->cr4 & CR4_PKE : cpu->cr4 & CR4_PKS)) {
			u32 rights = (user ? cpu->pkru : cpu->pkrs) >> (2 * (e >> 59 & 15)) & 3;

			if ((rights & 1) || ((rights & 2) && write && (user_mode || wp))) {
				v.ok = false;
				v.error |= 32;
			}
		}
	}
	v.size = 1ull << shift;
	if (!pae && shift == 22)
		v.gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (lin & 0x3fffff);
	else
		v.gpa = (e & bits_between(51, shift) & (pae ? ~0ull : 0xffffffff)) |
			(lin & (v.size - 1));
	v.global = (e & G) && (cpu->cr4 & CR4_PGE);
	return v;
}

static void check(struct cpu *cpu, u64 lin, unsigned access, unsigned view, const struct tables *t)
{
	struct verdict v = model(cpu, lin, access, view, t);
	struct mmu_fault f = {0};
	struct mmu_walk w = {0};
	int ret;

	cpu->mode = (cpu->mode & ~MODE_VIEW) | view << MODE_VIEW_SHIFT;
	ret = mmu_walk(cpu, lin, access, false, &w, &f);
	if ((ret == 0) != v.ok ||
	    (ret && (f.error != v.error || f.address != lin || f.kind != MMU_FAULT_PF)) ||
	    (!ret && (w.gpa != v.gpa || w.page_size != v.size || w.global != v.global))) {
		print_error(
			"lin %lx access %x view %u cr0 %lx cr4 %lx efer %lx: model %d err %x gpa %lx, "
			"walk %d err %x gpa %lx\n",
			lin, access, view, cpu->cr0, cpu->cr4, cpu->efer, v.ok, v.error, v.gpa, ret,
			f.error, w.gpa);
		for (unsigned l = t->top; l; l--)
			print_error("  level %u %016lx\n", l, t->was[l]);
		fail();
	}
	for (unsigned l = t->top; l >= 1; l--) {
		u64 want = t->was[l];

		if (v.ok && l >= v.levels) {
			want |= A;
			if (l == v.levels && (access & MMU_WRITE))
				want |= D;
		}
		if (ent_get(t->at[l], t->esize) != want) {
			print_error("level %u: entry %lx is %lx, expected %lx\n", l, t->was[l],
				    ent_get(t->at[l], t->esize), want);
			fail();
		}
	}
}

/* Again with the bits that the first walk set: now upper levels may come from the cache. */
static void check_thrice(struct cpu *cpu, u64 lin, unsigned access, unsigned view, struct tables *t)
{
	for (unsigned i = 0; i < 3; i++) {
		check(cpu, lin, access, view, t);
		for (unsigned l = t->top; l >= 1; l--)
			t->was[l] = ent_get(t->at[l], t->esize);
	}
	mmu_flush_page(cpu, lin);
}

static void put(struct tables *t, unsigned level, u64 value)
{
	t->was[level] = t->esize == 4 ? (u32)value : value;
	memcpy(rig.ram + t->at[level], &value, t->esize);
}

/* Table addresses of a fixed chain: level l's table is at RIG_PT + l * 4096. */
static void chain(struct tables *t, u64 lin, unsigned top, unsigned esize)
{
	unsigned bits = esize == 4 ? 10 : 9;

	t->top = top;
	t->esize = esize;
	for (unsigned l = top; l; l--) {
		u64 index = (lin >> (12 + bits * (l - 1))) & ((1 << bits) - 1);

		t->at[l] = RIG_PT + l * 4096 + index * esize;
	}
}

static const unsigned accesses[3] = {MMU_READ, MMU_WRITE, MMU_EXEC};

static void walk_permissions(void **state)
{
	const u64 lin = 0x00007f1234567abcull;
	struct tables t;
	struct cpu *cpu;

	rig_make(1);
	cpu = rig.cpu[0];
	rig_long(cpu);
	cpu->cr3 = RIG_PT + 4 * 4096;
	chain(&t, lin, 4, 8);
	for (unsigned combo = 0; combo < 4096; combo++) {
		for (unsigned regs = 0; regs < 16; regs++) {
			bool nxe = regs & 8;

			cpu->cr0 = CR0_PE | CR0_PG | (regs & 1 ? CR0_WP : 0);
			cpu->cr4 = CR4_PAE | (regs & 2 ? CR4_SMEP : 0) | (regs & 4 ? CR4_SMAP : 0);
			cpu->efer = EFER_LMA | EFER_LME | (nxe ? EFER_NX : 0);
			for (unsigned q = 0; q < 9; q++) {
				for (unsigned l = 4; l; l--) {
					unsigned perm = combo >> (3 * (l - 1)) & 7;
					u64 e = P | (perm & 1 ? W : 0) | (perm & 2 ? U : 0) |
						(perm & 4 ? NX : 0);

					put(&t, l, e | (l > 1 ? RIG_PT + (l - 1) * 4096 : 0x5000));
				}
				check_thrice(cpu, lin, accesses[q % 3], q / 3, &t);
			}
		}
	}
	rig_free();
}

static u64 rnd_state = 88172645463325252ull;
static u64 rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state * 0x2545f4914f6cdd1dull;
}
static bool one_in(unsigned n)
{
	return (rnd() >> 33) % n == 0;
}

/* mode: 0 32-bit, 1 PAE, 2 4-level, 3 5-level */
static void random_walks(unsigned mode, unsigned count)
{
	struct tables t;
	struct cpu *cpu;

	rig_make(1);
	cpu = rig.cpu[0];
	for (unsigned n = 0; n < count; n++) {
		unsigned top = (const unsigned[]){2, 2, 4, 5}[mode];
		u64 lin = rnd();

		if (mode < 2)
			lin = (u32)lin;
		else
			lin = (u64)((s64)(lin << (mode == 2 ? 16 : 7)) >> (mode == 2 ? 16 : 7));
		rig_feature(cpu, X86_FEATURE_GBPAGES, !one_in(4));
		rig_feature(cpu, X86_FEATURE_PSE36, !one_in(4));
		cpu->vendor = one_in(2) ? CPU_VENDOR_AMD : CPU_VENDOR_INTEL;
		cpu->cr0 = CR0_PE | CR0_PG | (one_in(2) ? CR0_WP : 0);
		cpu->cr4 = rnd() & (CR4_SMEP | CR4_SMAP | CR4_PGE | CR4_PSE);
		cpu->efer = one_in(4) ? 0 : EFER_NX;
		if (mode)
			cpu->cr4 |= CR4_PAE;
		if (mode >= 2) {
			cpu->efer |= EFER_LME | EFER_LMA;
			cpu->cr4 |= rnd() & (CR4_PKE | CR4_PKS);
			if (mode == 3)
				cpu->cr4 |= CR4_LA57;
		}
		cpu->pkru = one_in(3) ? (u32)rnd() : 0;
		cpu->pkrs = one_in(3) ? (u32)rnd() : 0;
		chain(&t, lin, top, mode ? 8 : 4);
		cpu->cr3 = RIG_PT + top * 4096;
		if (mode == 1)
			cpu->pdptr[(lin >> 30) & 3] = (RIG_PT + 2 * 4096) | P;
		for (unsigned l = top; l; l--) {
			u64 e = rnd() & (W | U | A | D | G | 0xe18);

			e |= one_in(30) ? 0 : P;
			if (!one_in(4))
				e |= W | U;
			e |= l > 1 ? RIG_PT + (l - 1) * 4096 : rnd() & 0xfffff000;
			if (mode) {
				e |= one_in(8) ? NX : 0;
				/* address bits only where they do not move the next table */
				e |= one_in(20) ? 1ull << (40 + rnd() % 23) : 0;
				if (mode >= 2)
					e |= rnd() & 0x7800000000000000ull;
			}
			if (l == 1 ? one_in(2) : one_in(6)) {
				e |= PS;
				if (l > 1 && l < 4 && (mode || (cpu->cr4 & CR4_PSE))) {
					/* a large page: random address bits, mostly aligned */
					u64 low = (1ull << (12 + (mode ? 9 : 10) * (l - 1))) - 1;

					e = (e & 0xfff0000000000fffull) |
					    (rnd() & 0xfffffff000ull & ~low) |
					    (one_in(4) ? rnd() & low & ~0xfffull : 0);
				}
			}
			put(&t, l, e);
		}
		check_thrice(cpu, lin, accesses[n % 3], rnd() % 3, &t);
	}
	rig_free();
}

static void walk_32bit(void **state)
{
	random_walks(0, 400000);
}
static void walk_pae(void **state)
{
	random_walks(1, 400000);
}
static void walk_4level(void **state)
{
	random_walks(2, 400000);
}
static void walk_5level(void **state)
{
	random_walks(3, 400000);
}

static void walk_unpaged(void **state)
{
	struct mmu_fault f;
	struct mmu_walk w;

	rig_make(1);
	assert_int_equal(mmu_walk(rig.cpu[0], 0xfee00123, MMU_WRITE, false, &w, &f), 0);
	assert_int_equal(w.gpa, 0xfee00123);
	rig_free();
}

static void walk_canonical(void **state)
{
	struct mmu_fault f;
	struct mmu_walk w;
	struct cpu *cpu;
	u64 v;

	rig_make(1);
	cpu = rig.cpu[0];
	rig_long(cpu);
	assert_int_equal(mmu_walk(cpu, 0x0000800000000000ull, MMU_READ, false, &w, &f), -1);
	assert_int_equal(f.kind, MMU_FAULT_NONCANONICAL);
	assert_int_equal(mmu_read(cpu, 0x0000800000000000ull, &v, 8, MMU_READ), CPU_EXC);
	assert_int_equal(cpu->exc.vector, EXC_GP);
	assert_int_equal(mmu_read(cpu, 0xffff7fffffffffffull, &v, 8, MMU_STACK), CPU_EXC);
	assert_int_equal(cpu->exc.vector, EXC_SS);
	assert_int_equal(cpu->exc.error, 0);
	rig_free();
}

/* `debug` walks leave no trace; tables outside RAM are not present; ROM tables keep their bits. */
static void walk_debug_and_odd_tables(void **state)
{
	struct mmu_fault f;
	struct mmu_walk w;
	struct cpu *cpu;

	rig_make(1);
	cpu = rig.cpu[0];
	rig_long(cpu);
	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W | U);
	assert_int_equal(mmu_walk(cpu, 0x400000, MMU_WRITE, true, &w, &f), 0);
	assert_int_equal(*rig_pte(cpu, 0x400000), 0x5000 | P | W | U);

	cpu->cr3 = RIG_DEVICE;
	assert_int_equal(mmu_walk(cpu, 0x400000, MMU_WRITE, false, &w, &f), -1);
	assert_int_equal(f.error, 2);
	assert_int_equal(f.gpa, RIG_DEVICE);

	/* a 1 GiB page straight from a ROM PDPT */
	cpu->cr3 = RIG_ROM_GPA;
	((u64 *)rig.rom)[0] = (RIG_ROM_GPA + 4096) | P | W | U;
	((u64 *)rig.rom)[512] = P | W | U | PS;
	assert_int_equal(mmu_walk(cpu, 0x400000, MMU_WRITE, false, &w, &f), 0);
	assert_int_equal(w.gpa, 0x400000);
	assert_int_equal(w.page_size, 1 << 30);
	assert_int_equal(((u64 *)rig.rom)[512], P | W | U | PS);
	rig_free();
}

/* What the walker remembers of upper levels goes with every invalidation. */
static void walk_upper_levels(void **state)
{
	struct mmu_fault f;
	struct mmu_walk w;
	struct cpu *cpu;
	u64 *pde;

	rig_make(1);
	cpu = rig.cpu[0];
	rig_long(cpu);
	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W | U);
	pde = (u64 *)(rig.ram + 0x1002000) + 2;
	assert_int_equal(*pde & ~A, 0x1003000 | P | W | U);
	for (unsigned how = 0; how < 5; how++) {
		*pde = 0x1003000 | P | W | U;
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(mmu_walk(cpu, 0x400000 + i * 8, MMU_READ, false, &w, &f),
					 0);
		*pde = 0;
		switch (how) {
		case 0:
			mmu_flush_all(cpu);
			break;
		case 1:
			mmu_flush_nonglobal(cpu);
			break;
		case 2:
			mmu_flush_page(cpu, 0x123456000);
			break;
		case 3:
			mmu_flush_pcid(cpu, 0);
			break;
		case 4:
			mmu_set_cr3(cpu, cpu->cr3);
			break;
		}
		assert_int_equal(mmu_walk(cpu, 0x400000, MMU_READ, false, &w, &f), -1);
		assert_int_equal(f.gpa, (u8 *)pde - rig.ram);
	}
	rig_free();
}

static void walk_pdptrs(void **state)
{
	struct cpu *cpu;
	u64 *t;

	rig_make(1);
	cpu = rig.cpu[0];
	t = (u64 *)(rig.ram + 0x3020);
	t[0] = 0x5000 | P;
	t[1] = 0x1e6; /* not present: reserved bits do not matter */
	t[3] = 0x6000 | P | 0x18;
	assert_int_equal(mmu_load_pdptrs(cpu, 0xffffffff00003020ull), 0);
	assert_int_equal(cpu->pdptr[0], 0x5000 | P);
	t[2] = 0x6000 | P | W;
	assert_int_equal(mmu_load_pdptrs(cpu, 0x3020), -1);
	assert_int_equal(cpu->pdptr[2], 0);
	t[2] = 1ull << 41 | P;
	assert_int_equal(mmu_load_pdptrs(cpu, 0x3020), -1);
	rig_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(walk_permissions),  cmocka_unit_test(walk_32bit),
		cmocka_unit_test(walk_pae),	     cmocka_unit_test(walk_4level),
		cmocka_unit_test(walk_5level),	     cmocka_unit_test(walk_unpaged),
		cmocka_unit_test(walk_canonical),    cmocka_unit_test(walk_debug_and_odd_tables),
		cmocka_unit_test(walk_upper_levels), cmocka_unit_test(walk_pdptrs),
	};

	return cmocka_run_group_tests_name("mmu walk", tests, NULL, NULL);
}
