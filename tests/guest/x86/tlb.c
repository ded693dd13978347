/*
 * What a TLB may keep and must drop: INVLPG, CR3, CR4.PGE, global pages, PCID, INVPCID, changes of
 * CR0.WP and EFER.NXE, accessed and dirty bits after they were cleared; large pages; other CPUs.
 * Only what the manuals demand is tested: a stale entry that may be there may also be gone.
 * Sources: SDM "Caching Translation Information".
 */
#include "x86/paging.h"
#include "x86/smp.h"

static u32 *page[3];
static ulong va;

static u32 at(ulong p)
{
	return *(volatile u32 *)p;
}

static int touch(ulong p, bool write)
{
	trap_clear();
	if (write)
		__asm__ volatile(TRY("movl $7, (%0)") : : "r"(p) : "memory");
	else
		__asm__ volatile(TRY("movl (%0), %%eax") : : "r"(p) : "eax", "memory");
	return trap_vector();
}

static void put(ulong v)
{
	*pte_of(va) = v;
}

static void plain(void)
{
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	report_eq(at(va), 0x100, "mapped");
	put((ulong)page[1] | PT_P | PT_W);
	invlpg((void *)(va + 0xabc));
	report_eq(at(va), 0x101, "INVLPG of another byte of the page");
	put((ulong)page[2] | PT_P | PT_W);
	write_cr3(read_cr3());
	report_eq(at(va), 0x102, "MOV to CR3");
	put(0);
	invlpg((void *)va);
	report_eq(touch(va, false), EXC_PF, "unmapped");
	put((ulong)page[0] | PT_P);
	report_eq(at(va), 0x100, "not present to present needs no flush");
	report_eq(touch(va, true), EXC_PF, "read-only");
	report_eq(trap_last()->error, PF_P | PF_W, "its error code");
	put((ulong)page[0] | PT_P | PT_W);
	/* A fault drops the entry that caused it: no flush is needed to be served now. */
	report_eq(touch(va, true), -1, "writable after the fault without a flush");
	put((ulong)page[0] | PT_P);
	invlpg((void *)va);
	report_eq(touch(va, true), EXC_PF, "read-only again");
	write_cr0(read_cr0() & ~(ulong)CR0_WP);
	report_eq(touch(va, true), -1, "CR0.WP cleared: writable at once");
	write_cr0(read_cr0() | CR0_WP);
	report_eq(touch(va, true), EXC_PF, "CR0.WP set: faults at once");
	page[0][0] = 0x100;
}

static void accessed(void)
{
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	touch(va, false);
	report_eq(*pte_of(va) & (PT_A | PT_D), PT_A, "a read sets A");
	touch(va, true);
	report_eq(*pte_of(va) & (PT_A | PT_D), PT_A | PT_D, "a write after a read sets D");
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	touch(va, true);
	report_eq(*pte_of(va) & (PT_A | PT_D), PT_A | PT_D, "A and D after they were cleared");
	put((ulong)page[0] | PT_P | PT_W | PT_A);
	write_cr3(read_cr3());
	touch(va, true);
	report_eq(*pte_of(va) & PT_D, PT_D, "D after it was cleared, CR3");
	put((ulong)page[0] | PT_P | PT_A);
	invlpg((void *)va);
	touch(va, true);
	report_eq(*pte_of(va) & PT_D, 0, "a write that faults leaves D");
	/* A locked instruction that does not store writes all the same */
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	__asm__ volatile("lock cmpxchgl %%ecx, (%0)"
			 :
			 : "r"(va), "a"(12345), "c"(1)
			 : "memory", "cc");
	report(*pte_of(va) & PT_D, "a failed CMPXCHG sets D");
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	__asm__ volatile("mov $0, %%ecx; rep stosb" : : "D"(va), "a"(1) : "ecx", "memory", "cc");
	report(!(*pte_of(va) & PT_D), "REP STOS of 0 sets nothing");
	page[0][0] = 0x100;
}

static void global(void)
{
	write_cr4(read_cr4() | CR4_PGE);
	put((ulong)page[0] | PT_P | PT_W | PT_G);
	invlpg((void *)va);
	touch(va, false);
	put((ulong)page[1] | PT_P | PT_W | PT_G);
	invlpg((void *)va);
	report_eq(at(va), 0x101, "INVLPG drops a global page");
	put((ulong)page[2] | PT_P | PT_W | PT_G);
	write_cr4(read_cr4() & ~(ulong)CR4_PGE);
	report_eq(at(va), 0x102, "clearing CR4.PGE drops global pages");
	write_cr4(read_cr4() | CR4_PGE);
	put((ulong)page[0] | PT_P | PT_W);
	write_cr4(read_cr4() & ~(ulong)CR4_PGE);
	report_eq(at(va), 0x100, "and the others");
}

/* The second-level entry of an address: what large pages are made by. */
static volatile pte_t *entry_above(ulong p)
{
	volatile pte_t *e = (pte_t *)(read_cr3() & ~0xffful);

#if IS64
	e = (pte_t *)(e[(p >> 39) & 511] & ~0xffful);
	e = (pte_t *)(e[(p >> 30) & 511] & ~0xffful);
	return e + ((p >> 21) & 511);
#else
	return e + (p >> 22);
#endif
}

static void large(void)
{
	ulong size = IS64 ? 0x200000 : 0x400000, at0 = va & ~(size - 1);
	volatile pte_t *table, *e;
	ulong old;
	u8 *block = pages_alloc((unsigned)(2 * size / PAGE_SIZE));

	block[5 * PAGE_SIZE] = 1;
	block[size + 5 * PAGE_SIZE] = 2;
	table = (pte_t *)((ulong)pte_of(at0) & ~0xffful);
	e = entry_above(at0);
	old = *e;
	report((old & ~0xffful) == (ulong)table, "the table above");
	*e = (ulong)block | PT_P | PT_W | PT_PS;
	write_cr3(read_cr3());
	report(*(volatile u8 *)(at0 + 5 * PAGE_SIZE) == 1, "large page");
	*(volatile u8 *)(at0 + 9 * PAGE_SIZE) = 3;
	report(*e & PT_D, "D of a large page");
	for (unsigned i = 0; i < 20; i++)
		touch(at0 + i * PAGE_SIZE, false);
	*e = (ulong)(block + size) | PT_P | PT_W | PT_PS;
	invlpg((void *)(at0 + 11 * PAGE_SIZE));
	report(*(volatile u8 *)(at0 + 5 * PAGE_SIZE) == 2, "INVLPG drops all of a large page");
	*e = old;
	write_cr3(read_cr3());
}

/* Paging structures themselves are changed through a mapping of their own. */
static void upper(void)
{
	volatile pte_t *e = entry_above(va);
	pte_t *other = page_alloc();
	ulong old = *e;

	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	touch(va, false);
	other[((ulong)pte_of(va) & 0xfff) / sizeof(pte_t)] = (ulong)page[1] | PT_P | PT_W;
	*e = (ulong)other | PT_P | PT_W;
	invlpg((void *)va);
	report_eq(at(va), 0x101, "INVLPG drops cached upper entries");
	*e = old & ~(ulong)PT_W;
	invlpg((void *)va);
	report_eq(touch(va, true), EXC_PF, "an upper entry made read-only");
	*e = old;
	invlpg((void *)va);
	report_eq(touch(va, true), -1, "and writable");
	page[0][0] = 0x100;
}

#if IS64
static int invpcid(ulong type, u64 pcid, u64 linear)
{
	u64 d[2] = {pcid, linear};

	trap_clear();
	__asm__ volatile(TRY("invpcid %0, %1") : : "m"(d), "r"(type) : "memory");
	return trap_vector();
}

static void pcid(void)
{
	ulong cr3 = read_cr3(), cr4 = read_cr4();

	if (!HAS(PCID)) {
		report_skip("PCID");
		return;
	}
	if (HAS(INVPCID)) {
		report_eq(invpcid(4, 0, 0), EXC_GP, "INVPCID type 4");
		report_eq(invpcid(0, 1, va), EXC_GP, "INVPCID 0 of PCID 1 without PCIDE");
		report_eq(invpcid(2, 0, 0), -1, "INVPCID 2");
	}
	write_cr4(cr4 | CR4_PCIDE | CR4_PGE);
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	write_cr3(cr3 | 1);
	touch(va, false);
	write_cr3(cr3 | 2);
	touch(va, false);
	put((ulong)page[1] | PT_P | PT_W);
	invlpg((void *)va);
	report_eq(at(va), 0x101, "INVLPG in PCID 2");
	write_cr3(cr3 | 1);
	report_eq(at(va), 0x101, "loading a PCID flushes it");
	put((ulong)page[2] | PT_P | PT_W);
	write_cr3(cr3 | 1);
	report_eq(at(va), 0x102, "loading the same PCID flushes it");
	if (!HAS(INVPCID)) {
		report_skip("INVPCID");
		goto out;
	}
	write_cr3(cr3 | 2);
	touch(va, false);
	put((ulong)page[0] | PT_P | PT_W);
	invpcid(1, 2, 0);
	report_eq(at(va), 0x100, "INVPCID 1: this PCID");
	write_cr3(cr3 | 1 | 1ul << 63);
	touch(va, false);
	put((ulong)page[1] | PT_P | PT_W);
	write_cr3(cr3 | 2 | 1ul << 63);
	invpcid(1, 1, 0);
	write_cr3(cr3 | 1 | 1ul << 63);
	report_eq(at(va), 0x101, "INVPCID 1: another PCID");
	put((ulong)page[2] | PT_P | PT_W);
	write_cr3(cr3 | 2 | 1ul << 63);
	invpcid(0, 1, va);
	write_cr3(cr3 | 1 | 1ul << 63);
	report_eq(at(va), 0x102, "INVPCID 0: one address of another PCID");
	put((ulong)page[0] | PT_P | PT_W);
	invpcid(3, 0, 0);
	report_eq(at(va), 0x100, "INVPCID 3: all but global");
	put((ulong)page[1] | PT_P | PT_W | PT_G);
	invlpg((void *)va);
	touch(va, false);
	put((ulong)page[2] | PT_P | PT_W | PT_G);
	invpcid(2, 0, 0);
	report_eq(at(va), 0x102, "INVPCID 2: all and global");
	report_eq(invpcid(0, 0x1000, va), EXC_GP, "INVPCID: reserved bits of the descriptor");
	report_eq(invpcid(0, 1, 1ul << 63), EXC_GP, "INVPCID: non-canonical");
out:
	write_cr3(cr3);
	write_cr4(cr4);
}
#endif

/* ---- other CPUs ---- */

static volatile u32 step;
static volatile u32 seen;

static void other_reads(void *arg)
{
	seen = at(va);
}
static void other_flush(void *arg)
{
	invlpg((void *)va);
}
static void other_write_many(void *arg)
{
	for (unsigned i = 0; i < 2000; i++) {
		while (step == i * 2)
			pause();
		__atomic_fetch_add((u32 *)va, 1, __ATOMIC_SEQ_CST);
		step++;
	}
}

static void smp(void)
{
	struct cases c = {0};

	if (cpu_count < 2)
		return;
	put((ulong)page[0] | PT_P | PT_W);
	invlpg((void *)va);
	smp_call(1, other_reads, NULL);
	report_eq(seen, 0x100, "another CPU reads");
	put((ulong)page[1] | PT_P | PT_W);
	smp_call(1, other_flush, NULL);
	smp_call(1, other_reads, NULL);
	report_eq(seen, 0x101, "and flushes");
	/* D is set by the other CPU each time it was cleared and flushed there. */
	for (unsigned i = 0; i < 200; i++) {
		put((ulong)page[1] | PT_P | PT_W);
		smp_call(1, other_flush, NULL);
		smp_call(1, other_reads, NULL);
		c.run++;
		if ((*pte_of(va) & (PT_A | PT_D)) != PT_A)
			fail_case(&c, "round %u: %lx", i, (ulong)*pte_of(va));
	}
	report_cases(&c, "accessed bit set by another CPU");
	put((ulong)page[2] | PT_P | PT_W);
	smp_call(1, other_flush, NULL);
	page[2][0] = 0;
	step = 0;
	smp_post(1, other_write_many, NULL);
	for (unsigned i = 0; i < 2000; i++) {
		step++;
		while (step == i * 2 + 1)
			pause();
	}
	smp_wait(1);
	report_eq(page[2][0], 2000, "writes of another CPU through its own TLB");
}

/* The same on another CPU: its own control registers and translations, the same tables. */
static void one_cpu(void *arg)
{
	for (unsigned i = 0; i < 3; i++)
		page[i][0] = 0x100 + i;
	write_cr0(read_cr0() | CR0_WP);
	plain();
	accessed();
	global();
	upper();
	large();
#if IS64
	pcid();
#endif
}

void test_main(void)
{
	for (unsigned i = 0; i < 3; i++)
		page[i] = page_alloc();
	va = va_alloc() + 0x7000;
	smp_start();
	one_cpu(NULL);
	smp();
	if (cpu_count > 1) {
		note("on CPU 1");
		smp_call(1, one_cpu, NULL);
	}
}
