/*
 * pages.c - a record of the memory that vCPUs have been given
 *
 * KVM counts the entries of its second-stage page tables by size (pages_4k, pages_2m, pages_1g) and the
 * larger ones that it had to split because code was fetched from them (nx_lpage_splits). There
 * are no such tables here: a guest-physical address leads through its slot to the client's memory, and
 * what a vCPU caches are single pages. So the counts come from a record that is kept beside the
 * slots and follows the rules by which KVM fills, splits and empties its tables:
 *
 * - The first access to memory gives the vCPUs the largest piece around it that is aligned in the
 *   guest and in the client, and lies wholly in the slot: 1 GiB, 2 MiB or 4 KiB. (KVM also asks how
 *   large the pages of the host are.)
 * - In a slot with a dirty log it gives 4 KiB. Larger pieces are split when the log begins, or
 *   when they are cleared from a log that began with all bits set, or, without
 *   eager_page_split, by the first store behind that moment.
 * - With nx_huge_pages in force for the VM a larger piece is given without the right to execute.
 *   The first fetch splits it: all of its pages are there then, in 4 KiB. A fetch from what was
 *   not given yet gives one page. The block counts as split, and is forgotten, oldest first, in
 *   the periods of nx_huge_pages_recovery_* (kvm/pages.c).
 * - A slot that goes or moves takes its record along; a log that ends begins a new one.
 *
 * The record is fed where a walk of the guest's tables has ended and the TLB is filled. What has been
 * given needs one byte for 2 MiB, which is read without a lock and tested for the bits that the access
 * needs; so the price there is a load and a compare. All changes are compare-and-exchanges of that byte and
 * or-ing of bits, by any vCPU at any time. Nothing is counted on the way: reading the statistics goes
 * through the bytes (half a KiB for each GiB of guest memory).
 *
 *	block    one byte for 2 MiB
 *	giga     one byte for 1 GiB; PAGES_1G there stands for all its blocks
 *	bits     64 bytes for 2 MiB, valid where the block's byte says PAGES_4K
 *	when     4 bytes for each of both, touched by splits for fetches only
 *
 * They share one mapping of zero pages, made with the first page that is given; parts that nobody
 * touches cost nothing. Records of small slots have it inside.
 *
 * A vCPU that sets a bit while another thread forgets the block may leave that bit behind: it
 * counts when the block is given in single pages again, and the page has been given, after all.
 *
 * Not seen: the reads of the guest's page tables by the walk itself, and memory that the client
 * discards (MADV_DONTNEED), which KVM hears of.
 */
#include "mmu/pages.h"

#include "base/syscall.h"
#include "mmu/mmu_internal.h"

#include <stdlib.h>
#include <time.h>

#define ROOM_INSIDE 1024u /* bytes: records of up to some 20 MiB */

static u8 load(const u8 *b)
{
	return __atomic_load_n(b, __ATOMIC_RELAXED);
}

static bool swap(u8 *b, u8 *old, u8 new)
{
	return __atomic_compare_exchange_n(b, old, new, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static u64 *block_bits(const struct mmu_pages *p, u64 i)
{
	return p->bits + i * (PAGES_PER_BLOCK / 64);
}

/* Has something been given? */
static bool any(const struct mmu_pages *p)
{
	return p && __atomic_load_n(&p->block, __ATOMIC_ACQUIRE);
}

static bool nx_in_force(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->mem->nx_huge_pages, __ATOMIC_RELAXED);
}

/* Index of the byte for the GiB that a block lies in. */
static u64 giga_of(const struct mmu_pages *p, u64 i)
{
	return ((p->first + i) >> (PAGES_GIGA_SHIFT - PAGES_BLOCK_SHIFT)) -
	       (p->first >> (PAGES_GIGA_SHIFT - PAGES_BLOCK_SHIFT));
}

/* The blocks of a GiB that are the slot's. */
static u64 giga_first(const struct mmu_pages *p, u64 g)
{
	u64 at = ((p->first >> (PAGES_GIGA_SHIFT - PAGES_BLOCK_SHIFT)) + g)
		 << (PAGES_GIGA_SHIFT - PAGES_BLOCK_SHIFT);

	return at > p->first ? at - p->first : 0;
}

static u64 giga_end(const struct mmu_pages *p, u64 g)
{
	return MIN(giga_first(p, g + 1), p->blocks);
}

/* --- life --------------------------------------------------------------------------------------- */

static void arrays_place(struct mmu_pages *p, u8 *room)
{
	p->bits = (u64 *)room;
	p->when = (u32 *)(p->bits + p->blocks * (PAGES_PER_BLOCK / 64));
	p->giga = (u8 *)(p->when + p->blocks + p->gigas);
	/* Who sees this one sees the others. */
	__atomic_store_n(&p->block, p->giga + p->gigas, __ATOMIC_RELEASE);
}

struct mmu_pages *pages_create(u64 gpa, u64 size)
{
	u64 first = gpa >> PAGES_BLOCK_SHIFT, last = (gpa + size - 1) >> PAGES_BLOCK_SHIFT;
	u64 blocks = last - first + 1;
	u64 gigas = ((gpa + size - 1) >> PAGES_GIGA_SHIFT) - (gpa >> PAGES_GIGA_SHIFT) + 1;
	size_t bytes = blocks * (PAGES_PER_BLOCK / 8 + 4 + 1) + gigas * (4 + 1);
	bool inside = bytes <= ROOM_INSIDE;
	struct mmu_pages *p = calloc(1, sizeof(*p) + (inside ? align_up(bytes, 8) : 0));

	if (!p)
		return NULL;
	p->gpa = gpa;
	p->size = size;
	p->first = first;
	p->blocks = blocks;
	p->gigas = gigas;
	p->bytes = align_up(bytes, PAGE_SIZE);
	if (inside)
		arrays_place(p, (u8 *)p->room);
	return p;
}

void pages_free(struct mmu_pages *p)
{
	if (p && p->mapped)
		pages_unmap(p->bits, p->bytes);
	free(p);
}

/* Called on vCPU threads: no allocator of libc's. */
static bool arrays_map(struct cpu *cpu, struct mmu_pages *p)
{
	bool ok = true;
	u8 *room;

	futex_lock(&cpu->mem->pages_lock);
	if (!p->block) {
		room = pages_map(p->bytes);
		ok = room;
		if (room) {
			p->mapped = true;
			arrays_place(p, room);
		}
	}
	futex_unlock(&cpu->mem->pages_lock);
	return ok;
}

u32 pages_now(void)
{
	struct timespec t = {0, 0};

	sys_call(SYS_clock_gettime, CLOCK_MONOTONIC_COARSE, (u64)&t, 0, 0, 0);
	return (u32)((u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000);
}

/* --- giving ------------------------------------------------------------------------------------- */

/* May the aligned piece of this size around an address be given as one? */
static bool fits(const struct mmu_slot *slot, u64 gpa, unsigned shift)
{
	u64 at = gpa & ~(BIT64(shift) - 1);

	return !((slot->hva - slot->gpa) & (BIT64(shift) - 1)) && at >= slot->gpa &&
	       BIT64(shift) <= slot->size && at - slot->gpa <= slot->size - BIT64(shift);
}

static u8 larger(struct cpu *cpu, u8 level)
{
	return level | PAGES_ALL | PAGES_WRITE | (nx_in_force(cpu) ? 0 : PAGES_EXEC);
}

#define SMALL (PAGES_4K | PAGES_WRITE | PAGES_EXEC)

static void split_time(struct mmu_pages *p, u64 index)
{
	__atomic_store_n(&p->when[index], pages_now(), __ATOMIC_RELAXED);
}

/* A GiB in one piece becomes 512 pieces of 2 MiB with the same rights. */
static void giga_split(struct mmu_pages *p, u64 g, u8 old, bool for_fetch)
{
	u8 rights = old & (PAGES_WRITE | PAGES_EXEC);

	if (for_fetch)
		split_time(p, p->blocks + g);
	if (!swap(&p->giga[g], &old, SMALL | (for_fetch ? PAGES_NX : 0)))
		return;
	for (u64 i = giga_first(p, g); i < giga_end(p, g); i++) {
		u8 b = load(&p->block[i]);

		while (((b & PAGES_LEVEL) == PAGES_NONE || (b & PAGES_LEVEL) == PAGES_1G) &&
		       !swap(&p->block[i], &b, PAGES_2M | PAGES_ALL | rights))
			;
	}
}

static void giga_take_rights(struct mmu_pages *p, u64 g, u8 rights)
{
	u8 old = __atomic_fetch_and(&p->giga[g], (u8)~rights, __ATOMIC_RELAXED);

	if ((old & PAGES_LEVEL) == PAGES_1G)
		for (u64 i = giga_first(p, g); i < giga_end(p, g); i++)
			__atomic_fetch_and(&p->block[i], (u8)~rights, __ATOMIC_RELAXED);
}

/* The first page of a block that has nothing yet. The block's new byte, or 0: look again. */
static u8 give_first(struct cpu *cpu, struct mmu_pages *p, const struct mmu_slot *slot, u64 gpa,
		     u64 i, u8 need)
{
	bool fetch_splits = (need & PAGES_EXEC) && nx_in_force(cpu);
	u64 g = giga_of(p, i);
	u8 giga = load(&p->giga[g]), none = 0, new;

	if ((giga & PAGES_LEVEL) == PAGES_1G) {
		new = giga;
	} else if (slot->dirty || !fits(slot, gpa, PAGES_BLOCK_SHIFT)) {
		new = SMALL;
	} else {
		if (!(giga & PAGES_LEVEL) && fits(slot, gpa, PAGES_GIGA_SHIFT)) {
			if (fetch_splits)
				split_time(p, p->blocks + g);
			if (!swap(&p->giga[g], &giga,
				  fetch_splits ? SMALL | PAGES_NX : larger(cpu, PAGES_1G)))
				return 0;
			if (!fetch_splits)
				return 0; /* the byte of the block follows it */
		}
		if (fetch_splits)
			split_time(p, i);
		new = fetch_splits ? SMALL | PAGES_NX : larger(cpu, PAGES_2M);
	}
	return swap(&p->block[i], &none, new) ? new : 0;
}

/* Unless the block is something else by now. */
static void rights_add(struct mmu_pages *p, u64 i, u8 level, u8 rights)
{
	u8 b = load(&p->block[i]);

	while ((b & PAGES_LEVEL) == level && !swap(&p->block[i], &b, b | rights))
		;
}

static void give_small(struct mmu_pages *p, u64 gpa, u64 i)
{
	u64 *bits = block_bits(p, i), *word, bit;
	unsigned n = (gpa >> PAGE_SHIFT) & (PAGES_PER_BLOCK - 1);

	word = &bits[n / 64];
	bit = BIT64(n & 63);
	if (__atomic_load_n(word, __ATOMIC_RELAXED) & bit)
		return;
	if ((__atomic_fetch_or(word, bit, __ATOMIC_RELAXED) | bit) != ~0ull)
		return;
	for (unsigned k = 0; k < PAGES_PER_BLOCK / 64; k++)
		if (__atomic_load_n(&bits[k], __ATOMIC_RELAXED) != ~0ull)
			return;
	rights_add(p, i, PAGES_4K, PAGES_ALL);
}

void pages_give(struct cpu *cpu, const struct mmu_slot *slot, u64 gpa, u8 need)
{
	struct mmu_pages *p = slot->pages;
	u64 i = (gpa >> PAGES_BLOCK_SHIFT) - p->first, g;
	u8 b, wants;

	if (UNLIKELY(!__atomic_load_n(&p->block, __ATOMIC_ACQUIRE)) && !arrays_map(cpu, p))
		return;
	g = giga_of(p, i);
	/* Each turn changes something, or somebody else has. */
	for (unsigned turns = 0; turns < 16; turns++) {
		b = load(&p->block[i]);
		if (!(b & PAGES_LEVEL))
			b = give_first(cpu, p, slot, gpa, i, need);
		if (!b)
			continue;
		if ((b & PAGES_LEVEL) == PAGES_4K) {
			if (!(b & PAGES_ALL))
				give_small(p, gpa, i);
			return;
		}
		if (!(need & ~b))
			return;
		wants = need & ~b;
		if ((wants & PAGES_EXEC) && !nx_in_force(cpu))
			rights_add(p, i, b & PAGES_LEVEL, PAGES_EXEC);
		else if ((b & PAGES_LEVEL) == PAGES_2M) {
			if (wants & PAGES_EXEC)
				split_time(p, i);
			swap(&p->block[i], &b,
			     SMALL | PAGES_ALL | (wants & PAGES_EXEC ? PAGES_NX : 0));
		} else if ((load(&p->giga[g]) & PAGES_LEVEL) == PAGES_1G)
			giga_split(p, g, load(&p->giga[g]), wants & PAGES_EXEC);
		else /* somebody is splitting it */
			swap(&p->block[i], &b,
			     PAGES_2M | PAGES_ALL | (b & (PAGES_WRITE | PAGES_EXEC)));
	}
}

/* --- splitting and forgetting --------------------------------------------------------------------- */

/* The blocks that overlap a range of the slot. */
static void range_blocks(const struct mmu_pages *p, u64 gpa, u64 size, u64 *from, u64 *to)
{
	*from = (gpa >> PAGES_BLOCK_SHIFT) - p->first;
	*to = ((gpa + size - 1) >> PAGES_BLOCK_SHIFT) - p->first + 1;
}

void pages_split(struct mmu_pages *p, u64 gpa, u64 size, bool lazily)
{
	u64 i, to;

	if (!any(p) || !size)
		return;
	range_blocks(p, gpa, size, &i, &to);
	for (; i < to; i++) {
		u64 g = giga_of(p, i);
		u8 giga = load(&p->giga[g]), b;

		if ((giga & PAGES_LEVEL) == PAGES_1G && !lazily)
			giga_split(p, g, giga, false);
		else if ((giga & PAGES_LEVEL) == PAGES_1G && (giga & PAGES_WRITE))
			giga_take_rights(p, g, PAGES_WRITE);
		b = load(&p->block[i]);
		while ((b & PAGES_LEVEL) == PAGES_2M &&
		       !swap(&p->block[i], &b, lazily ? b & (u8)~PAGES_WRITE : SMALL | PAGES_ALL))
			;
	}
}

static void block_forget(struct mmu_pages *p, u64 i)
{
	u8 old = __atomic_exchange_n(&p->block[i], 0, __ATOMIC_RELAXED);

	if ((old & PAGES_LEVEL) == PAGES_4K)
		for (unsigned k = 0; k < PAGES_PER_BLOCK / 64; k++)
			__atomic_store_n(&block_bits(p, i)[k], 0, __ATOMIC_RELAXED);
}

static void giga_forget(struct mmu_pages *p, u64 g)
{
	__atomic_store_n(&p->giga[g], 0, __ATOMIC_RELAXED);
	for (u64 i = giga_first(p, g); i < giga_end(p, g); i++)
		block_forget(p, i);
}

void pages_forget(struct mmu_pages *p, u64 gpa, u64 size)
{
	u64 i, to;

	if (!any(p) || !size)
		return;
	range_blocks(p, gpa, size, &i, &to);
	for (; i < to; i++) {
		u64 g = giga_of(p, i);

		if ((load(&p->giga[g]) & PAGES_LEVEL) == PAGES_1G ||
		    (giga_first(p, g) == i && giga_end(p, g) <= to))
			giga_forget(p, g);
		else
			block_forget(p, i);
	}
}

/* --- reading ------------------------------------------------------------------------------------- */

void pages_add(const struct mmu_pages *p, struct mmu_pages_sum *sum)
{
	if (!any(p))
		return;
	for (u64 g = 0; g < p->gigas; g++) {
		u8 giga = load(&p->giga[g]);

		sum->nx_splits += !!(giga & PAGES_NX);
		if ((giga & PAGES_LEVEL) == PAGES_1G) {
			sum->huge++;
			continue;
		}
		for (u64 i = giga_first(p, g); i < giga_end(p, g); i++) {
			u8 b = load(&p->block[i]);

			if (!b)
				continue;
			sum->nx_splits += !!(b & PAGES_NX);
			if ((b & PAGES_LEVEL) != PAGES_4K)
				sum->large++;
			else if (b & PAGES_ALL)
				sum->small += PAGES_PER_BLOCK;
			else
				for (unsigned k = 0; k < PAGES_PER_BLOCK / 64; k++)
					sum->small +=
						(unsigned)__builtin_popcountll(__atomic_load_n(
							&block_bits(p, i)[k], __ATOMIC_RELAXED));
		}
	}
}

u64 pages_nx_list(struct mmu_pages *p, struct pages_nx *out, u64 room)
{
	u64 n = 0;

	if (!any(p))
		return 0;
	for (u64 k = 0; k < p->blocks + p->gigas; k++) {
		u8 b = load(k < p->blocks ? &p->block[k] : &p->giga[k - p->blocks]);

		if (!(b & PAGES_NX))
			continue;
		if (n < room)
			out[n] = (struct pages_nx){
				.pages = p,
				.index = k,
				.when = __atomic_load_n(&p->when[k], __ATOMIC_RELAXED),
			};
		n++;
	}
	return n;
}

void pages_nx_recover(const struct pages_nx *nx)
{
	struct mmu_pages *p = nx->pages;
	bool giga = nx->index >= p->blocks;
	u64 g = nx->index - p->blocks;
	u8 *b = giga ? &p->giga[g] : &p->block[nx->index];

	if (!(__atomic_fetch_and(b, (u8)~PAGES_NX, __ATOMIC_RELAXED) & PAGES_NX) || nx->keep)
		return;
	if (giga)
		giga_forget(p, g);
	else
		block_forget(p, nx->index);
}
