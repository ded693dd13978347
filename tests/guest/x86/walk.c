/*
 * The page walk against a model of it: every combination of present, write, user, no-execute and
 * reserved bits in the last entry and in one above, of CR0.WP, EFER.NXE, SMEP, SMAP and EFLAGS.AC,
 * for reads, writes and fetches by supervisor and user; large pages; accessed and dirty bits.
 * 64-bit kernels: 4 and 5 levels. 32-bit kernels: without PAE and with.
 *
 * Sources: SDM "Paging": access rights, page-fault exceptions, accessed and dirty flags; APM
 * "Page Translation and Protection". On a fault, accessed bits above the faulting entry are left
 * to the processor; nothing else is.
 */
#include "x86/mode.h"
#include "x86/paging.h"
#include "x86/probe.h"

/* A case's flags of one entry. */
enum { F_P = 1, F_W = 2, F_U = 4, F_NX = 8, F_RSVD = 16, F_ALL = 32 };
/* Of the processor. */
enum { C_WP = 1, C_NXE = 2, C_SMEP = 4, C_SMAP = 8, C_AC = 16, C_ALL = 32 };

struct walk {
	const char *name;
	unsigned levels; /* whose entries have access rights */
	bool wide;	 /* 8-byte entries */
	void *e[6];	 /* [1] last level … */
	u64 table[6];	 /* what a plain entry of that level points at */
	u64 rsvd[6];	 /* a reserved bit of a plain entry */
	ulong va;
	unsigned leaf; /* level of the entry that maps the page */
	u64 leaf_base, leaf_rsvd;
};

static struct cases cases, present; /* present: P in the error code of reserved bits */

/* ---- the model ---- */

static u64 get(const struct walk *w, unsigned level)
{
	return w->wide ? *(volatile u64 *)w->e[level] : *(volatile u32 *)w->e[level];
}

static void set(const struct walk *w, unsigned level, unsigned f)
{
	u64 v = level == w->leaf ? w->leaf_base : w->table[level];

	v |= f & F_P ? PT_P : 0;
	v |= f & F_W ? PT_W : 0;
	v |= f & F_U ? PT_U : 0;
	if (f & F_NX)
		v |= PT_NX;
	if (f & F_RSVD)
		v |= level == w->leaf ? w->leaf_rsvd : w->rsvd[level];
	if (w->wide)
		*(volatile u64 *)w->e[level] = v;
	else
		*(volatile u32 *)w->e[level] = (u32)v;
}

/* Error code of the fault, or -1. */
static int model(const struct walk *w, const unsigned *f, unsigned c, enum access a, bool user)
{
	bool writable = true, for_user = true, nx = false, nxe = c & C_NXE, bad;
	int error = (a == WRITE ? PF_W : 0) | (user ? PF_U : 0);

	/* The bit for fetches is there when something makes fetches special. */
	if (a == FETCH && ((nxe && w->wide) || (c & C_SMEP)))
		error |= PF_I;
	for (unsigned l = w->levels; l >= w->leaf; l--) {
		if (!(f[l] & F_P))
			return error;
		if ((f[l] & F_RSVD) || ((f[l] & F_NX) && !nxe))
			return error | PF_P | PF_RSVD;
		writable &= !!(f[l] & F_W);
		for_user &= !!(f[l] & F_U);
		nx |= !!(f[l] & F_NX);
	}
	if (user) {
		bad = !for_user || (a == WRITE && !writable);
	} else {
		bad = a == WRITE && !writable && (c & C_WP);
		if (for_user && a != FETCH && (c & C_SMAP) && !(c & C_AC))
			bad = true;
		if (for_user && a == FETCH && (c & C_SMEP))
			bad = true;
	}
	if (a == FETCH && nx)
		bad = true;
	return bad ? error | (int)PF_P : -1;
}

static const char *text(unsigned f)
{
	static char buf[4][8];
	static unsigned n;
	char *p = buf[n++ & 3];

	for (unsigned i = 0; i < 5; i++)
		p[i] = f & BIT(i) ? "PWUXR"[i] : '-';
	p[5] = 0;
	return p;
}

static void check(const struct walk *w, const unsigned *f, unsigned c, enum access a, bool user)
{
	int want = model(w, f, c, a, user), got;
	unsigned other = w->leaf == w->levels ? w->leaf : w->leaf + 1;
	const char *why = NULL;
	u64 e;

	got = user ? access_user(a, w->va) : access_kernel(a, w->va, c & C_AC);
	cases.run++;
	if (want >= 0 && (want & PF_RSVD)) {
		present.run++;
		present.failed += !(trap_last()->error & PF_P);
	}
	if (want < 0 && got != -1)
		why = "faults";
	else if (want >= 0 && got != EXC_PF)
		why = "no page fault";
	else if (want >= 0 && trap_last()->error != (u32)want &&
		 !((want & PF_RSVD) && trap_last()->error == (want & ~PF_P)))
		why = "error code";
	else if (want >= 0 && trap_last()->cr2 != w->va)
		why = "CR2";
	e = get(w, w->leaf);
	if (!why && want < 0 && !(e & PT_A))
		why = "accessed bit not set";
	if (!why && !!(e & PT_D) != (want < 0 && a == WRITE))
		why = "dirty bit";
	for (unsigned l = w->leaf + 1; !why && want < 0 && l <= w->levels; l++)
		if (!(get(w, l) & PT_A))
			why = "accessed bit above not set";
	if (why)
		fail_case(&cases,
			  "%s %s: leaf %s above %s(%u) cpu %s%s%s%s%s %s %s: want %x, got %d/%x",
			  w->name, why, text(f[w->leaf]), text(f[other]), other,
			  c & C_WP ? "WP " : "", c & C_NXE ? "NXE " : "", c & C_SMEP ? "SMEP " : "",
			  c & C_SMAP ? "SMAP " : "", c & C_AC ? "AC" : "", user ? "user" : "kernel",
			  a == READ    ? "read"
			  : a == WRITE ? "write"
				       : "fetch",
			  (unsigned)want, got, trap_last()->error);
}

/* One setting of one level above the leaf, all settings of the leaf or only a good one. */
static void sweep(const struct walk *w, unsigned c, unsigned upper, bool leaf_all)
{
	unsigned f[6] = {0};
	unsigned nx = w->wide ? 0 : F_NX;

	for (unsigned uf = 0; uf < F_ALL; uf++) {
		u64 rsvd = upper == w->leaf ? w->leaf_rsvd : w->rsvd[upper];

		if ((uf & nx) || ((uf & F_RSVD) && !rsvd))
			continue;
		for (unsigned lf = 0; lf < F_ALL; lf++) {
			if (!leaf_all && lf != (F_P | F_W | F_U))
				continue;
			if ((lf & nx) || ((lf & F_RSVD) && !w->leaf_rsvd))
				continue;
			for (unsigned a = READ; a <= FETCH; a++)
				for (unsigned user = 0; user < 2; user++) {
					if (user && (c & C_AC))
						continue;
					for (unsigned l = w->leaf; l <= w->levels; l++)
						f[l] = F_P | F_W | F_U;
					f[upper] = uf;
					f[w->leaf] = upper == w->leaf ? uf : lf;
					for (unsigned l = w->leaf; l <= w->levels; l++)
						set(w, l, f[l]);
					invlpg((void *)w->va);
					check(w, f, c, a, user);
				}
		}
		if (upper == w->leaf)
			continue;
	}
}

static void control(unsigned c)
{
	write_cr0((read_cr0() & ~(ulong)CR0_WP) | (c & C_WP ? CR0_WP : 0));
	if (HAS(NX))
		wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~(u64)EFER_NX) | (c & C_NXE ? EFER_NX : 0));
	write_cr4((read_cr4() & ~(ulong)(CR4_SMEP | CR4_SMAP)) | (c & C_SMEP ? CR4_SMEP : 0) |
		  (c & C_SMAP ? CR4_SMAP : 0));
}

static void run(struct walk *w, const char *name, bool full)
{
	bool nx = HAS(NX), smep = HAS(SMEP), smap = HAS(SMAP);

	w->name = name;
	cases = present = (struct cases){0};
	for (unsigned c = 0; c < C_ALL; c++) {
		if (((c & C_NXE) && !nx) || ((c & C_SMEP) && !smep) || ((c & C_SMAP) && !smap) ||
		    ((c & C_AC) && !(c & C_SMAP)))
			continue;
		control(c);
		sweep(w, c, w->leaf, false);
		for (unsigned l = w->leaf + 1; l <= w->levels; l++)
			sweep(w, c, l, full && l == w->leaf + 1);
	}
	control(C_WP | (nx ? C_NXE : 0));
	note("%s: %u cases", name, (unsigned)cases.run);
	report_cases(&cases, name);
	if (present.run)
		report(!present.failed, "%s: reserved bits fault with P in the error code", name);
}

/* ---- tables ---- */

static u8 *target;

static void large(struct walk *w, unsigned level, unsigned bits, const char *name)
{
	u64 base = w->leaf_base, rsvd = w->leaf_rsvd;
	ulong va = w->va;
	unsigned shift = 12 + bits * (level - 1);

	w->leaf = level;
	w->leaf_base = ((ulong)target & ~((1ul << shift) - 1)) | PT_PS;
	/* The first bit above the PAT bit that the page's size makes reserved. */
	w->leaf_rsvd = w->wide ? BIT64(13) : HAS(PSE36) ? BIT64(21) : BIT64(13);
	w->va = (va & ~((1ul << shift) - 1)) | ((ulong)target & ((1ul << shift) - 1));
	run(w, name, false);
	w->leaf = 1;
	w->leaf_base = base;
	w->leaf_rsvd = rsvd;
	w->va = va;
}

static void chain(struct walk *w, unsigned bits, unsigned top)
{
	for (unsigned l = top - 1; l >= 1; l--) {
		void *t = page_alloc();

		w->table[l + 1] = (ulong)t;
		w->e[l] = (u8 *)t + ((w->va >> (12 + bits * (l - 1))) & ((1u << bits) - 1)) *
					    (w->wide ? 8 : 4);
	}
	w->leaf = 1;
	w->leaf_base = (ulong)target;
}

#if IS64
static void levels(unsigned n)
{
	struct walk w = {.levels = n, .wide = true};
	u64 *root = page_alloc(), *top = root;
	ulong cr3 = read_cr3(), cr4 = read_cr4();

	memcpy(root, (void *)(cr3 & ~0xffful), PAGE_SIZE);
	w.va = 0xffffa00000000000;
	if (n == 5) {
		top = page_alloc();
		top[0] = (ulong)root | PT_P | PT_W | PT_U;
		w.va = 0xff55a00000000000;
	}
	w.e[n] = &top[(w.va >> (12 + 9 * (n - 1))) & 511];
	for (unsigned l = 1; l <= n; l++)
		w.rsvd[l] = cpu_maxphyaddr() < 52 ? BIT64(51) : 0;
	w.leaf_rsvd = w.rsvd[1];
	chain(&w, 9, n);
	mode_switch((ulong)top, n == 5 ? cr4 | CR4_LA57 : cr4);
	run(&w, n == 5 ? "5 levels, 4 KiB" : "4 levels, 4 KiB", n == 4);
	large(&w, 2, 9, n == 5 ? "5 levels, 2 MiB" : "4 levels, 2 MiB");
	if (HAS(GBPAGES))
		large(&w, 3, 9, n == 5 ? "5 levels, 1 GiB" : "4 levels, 1 GiB");
	/* A large page does not exist above: the bit is reserved. */
	for (unsigned l = 4; l <= n; l++)
		w.rsvd[l] = PT_PS;
	run(&w, n == 5 ? "5 levels, PS reserved above" : "4 levels, PS reserved above", false);
	mode_switch(cr3, cr4);
}
#else
static void levels(unsigned n)
{
	struct walk w = {.levels = 2, .wide = n == 3};
	ulong cr3 = read_cr3(), cr4 = read_cr4();
	u64 *root = page_alloc();

	w.va = 0x45600000;
	if (n == 3) {
		u64 *pd = pages_alloc(4);

		for (unsigned i = 0; i < 4; i++)
			root[i] = (ulong)pd + i * PAGE_SIZE + PT_P;
		for (unsigned i = 0; i < 2048; i++)
			pd[i] = ((u64)i << 21) | PT_P | PT_W | PT_PS | (i < 256 ? PT_U : 0);
		/* The kernel's own 4 KiB refinements are not in here: see user_map_code(). */
		for (unsigned i = 0; i < 256; i++) {
			u64 *pt = page_alloc();

			if (i > 16)
				break;
			for (unsigned k = 0; k < 512; k++) {
				ulong va = (ulong)i << 21 | k << 12;

				pt[k] = va | PT_P | PT_W | (*pte_of(va) & PT_U);
			}
			pd[i] = (ulong)pt | PT_P | PT_W | PT_U;
		}
		for (unsigned i = 17; i < 256; i++)
			pd[i] &= ~PT_U;
		w.e[2] = &pd[w.va >> 21];
		w.rsvd[1] = w.rsvd[2] = cpu_maxphyaddr() < 52 ? BIT64(51) : 0;
		w.leaf_rsvd = w.rsvd[1];
		chain(&w, 9, 2);
		mode_switch((ulong)root, cr4 | CR4_PAE);
	} else {
		memcpy(root, (void *)(cr3 & ~0xffful), PAGE_SIZE);
		w.e[2] = (u32 *)root + (w.va >> 22);
		chain(&w, 10, 2);
		mode_switch((ulong)root, cr4);
	}
	run(&w, n == 3 ? "PAE, 4 KiB" : "32-bit, 4 KiB", true);
	large(&w, 2, n == 3 ? 9 : 10, n == 3 ? "PAE, 2 MiB" : "32-bit, 4 MiB");
	mode_switch(cr3, cr4);
}
#endif

void test_main(void)
{
	target = pages_alloc(1);
	target[0] = 0xc3;
	user_map_code();
	cli();
#if IS64
	levels(4);
	if (HAS(LA57))
		levels(5);
	else
		report_skip("5 levels: no LA57");
#else
	levels(2);
	levels(3);
#endif
}
