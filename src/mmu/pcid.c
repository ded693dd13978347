/*
 * pcid.c - address spaces that come back
 *
 * The live TLB has no PCID in its tags. When CR3 changes to another PCID, the live non-global
 * entries move into a stash, a plain list; when a PCID comes back with bit 63 of CR3 set, its list
 * is put back. Both cost a few nanoseconds an entry, where a miss costs a walk and a call.
 *
 * A stash is part of the TLB: INVPCID reaches it, and so do "stop writing" messages about code
 * pages. Dropping all cached write permission only moves mmu_cpu.wgen, which a stash remembers.
 */
#include "mmu/mmu_internal.h"

static struct stash *stash_find(struct mmu_cpu *mc, unsigned pcid)
{
	for (unsigned i = 0; i < STASH_COUNT; i++)
		if (mc->stash[i].valid && mc->stash[i].pcid == pcid)
			return &mc->stash[i];
	return NULL;
}

/* A free stash, or the one that was left longest ago. NULL: no memory. */
static struct stash *stash_take(struct mmu_cpu *mc)
{
	struct stash *best = &mc->stash[0];

	for (unsigned i = 0; i < STASH_COUNT; i++) {
		struct stash *s = &mc->stash[i];

		if (!s->valid) {
			best = s;
			break;
		}
		if (s->used < best->used)
			best = s;
	}
	if (!best->entry)
		best->entry = pages_map(STASH_ENTRIES * sizeof(*best->entry));
	return best->entry ? best : NULL;
}

static void stash_save(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;
	struct stash *s = stash_take(mc);

	if (!s)
		return;
	s->pcid = cpu->cr3 & 0xfff;
	s->cr3 = cpu->cr3;
	s->used = ++mc->stash_clock;
	s->wgen = mc->wgen;
	s->count = tlb_copy_local(cpu, s->entry, STASH_ENTRIES);
	s->valid = s->count != 0;
}

void stash_drop_all(struct cpu *cpu)
{
	for (unsigned i = 0; i < STASH_COUNT; i++)
		cpu->mmu->stash[i].valid = false;
}

void stash_drop_pcid(struct cpu *cpu, unsigned pcid)
{
	struct stash *s = stash_find(cpu->mmu, pcid);

	if (s)
		s->valid = false;
}

void stash_drop_page(struct cpu *cpu, u64 lin, unsigned pcid)
{
	struct stash *s = stash_find(cpu->mmu, pcid);

	for (unsigned i = 0; s && i < s->count;) {
		u64 differ = (PAGE_SIZE - s->entry[i].tag) ^ lin, info = s->entry[i].info;
		unsigned shift = (info & TLB_HUGE)    ? REGION_HUGE
				 : (info & TLB_LARGE) ? REGION_LARGE
						      : PAGE_SHIFT;

		if (differ >> shift)
			i++;
		else
			s->entry[i] = s->entry[--s->count];
	}
}

bool stash_drop_write(struct cpu *cpu, u64 gfn)
{
	struct mmu_cpu *mc = cpu->mmu;
	bool had = false;

	for (unsigned k = 0; k < STASH_COUNT; k++) {
		struct stash *s = &mc->stash[k];

		if (!s->valid || s->wgen != mc->wgen)
			continue;
		for (unsigned i = 0; i < s->count; i++)
			if (s->entry[i].writable && s->entry[i].info >> 8 == gfn) {
				s->entry[i].writable = false;
				had = true;
			}
	}
	return had;
}

void stash_destroy(struct cpu *cpu)
{
	for (unsigned i = 0; i < STASH_COUNT; i++)
		pages_unmap(cpu->mmu->stash[i].entry,
			    STASH_ENTRIES * sizeof(*cpu->mmu->stash[i].entry));
}

void mmu_set_cr3(struct cpu *cpu, u64 value)
{
	struct mmu_cpu *mc = cpu->mmu;
	u64 new = value & ~BIT64(63), old = cpu->cr3;
	bool keep = value >> 63, same = !((new ^ old) & 0xfff);
	struct stash *s;

	if (!(cpu->cr4 & CR4_PCIDE)) {
		code_settle(cpu);
		cpu->cr3 = new;
		window_stale(cpu);
		tlb_flush_local(cpu);
		mmu_window_switched(cpu);
		return;
	}
	if (same && keep && new == old)
		return;
	code_settle(cpu);
	if (!same)
		stash_save(cpu);
	cpu->cr3 = new;
	if (!keep)
		window_stale_pcid(cpu, new & 0xfff);
	mmu_window_switched(cpu);
	tlb_flush_local(cpu);
	s = stash_find(mc, new & 0xfff);
	if (!s)
		return;
	if (keep && s->cr3 == new)
		tlb_restore_local(cpu, s->entry, s->count, s->wgen == mc->wgen);
	s->valid = false;
}
