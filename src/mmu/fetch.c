/*
 * fetch.c - where the bytes of instructions are
 *
 * The translator and the dispatcher's slow path ask for the guest-physical and host address of a
 * code address. Two small direct-mapped arrays (supervisor, user) answer most of it: a jump-cache
 * flush sends every following indirect jump here once, and kernel pages are still known then.
 */
#include "mmu/mmu_internal.h"
#include "mmu/translator.h"

static unsigned itlb_index(u64 lin)
{
	return (lin >> PAGE_SHIFT) & (ITLB_SIZE - 1);
}

static unsigned itlb_of(unsigned view)
{
	return ((view & MMU_TLB_RIGHTS) == MMU_TLB_USER) | (view & MMU_TLB_GUEST) >> 1;
}

static void note_fetched(struct fetch_log *log, u64 page, u64 page_size)
{
	unsigned h = (page >> PAGE_SHIFT) & (FETCH_BLOOM - 1);

	log->bloom[h >> 6] |= BIT64(h & 63);
	if (page_size > PAGE_SIZE) {
		if (page_size > (4u << 20))
			region_add(&log->huge, page, REGION_HUGE);
		else
			region_add(&log->large, page, REGION_LARGE);
	}
}

static bool was_fetched(const struct fetch_log *log, u64 page)
{
	unsigned h = (page >> PAGE_SHIFT) & (FETCH_BLOOM - 1);

	return log->bloom[h >> 6] >> (h & 63) & 1;
}

void fetch_flush(struct cpu *cpu, bool global)
{
	struct mmu_cpu *mc = cpu->mmu;

	mc->itlb_gen++;
	mc->psc_gen++;
	mc->fetched[0] = (struct fetch_log){0};
	if (global) {
		mc->itlb_global_gen++;
		mc->fetched[1] = (struct fetch_log){0};
		jit_jump_cache_flush(cpu);
	} else {
		jit_jump_cache_flush_local(cpu);
	}
}

void fetch_flush_guest(struct cpu *cpu)
{
	for (unsigned user = 2; user < 4; user++)
		for (unsigned i = 0; i < ITLB_SIZE; i++)
			cpu->mmu->itlb[user][i].gen = 0;
	jit_jump_cache_flush_guest(cpu);
}

void fetch_flush_page(struct cpu *cpu, u64 page)
{
	struct mmu_cpu *mc = cpu->mmu;
	unsigned shift = 0;

	for (unsigned g = 0; g < 2; g++) {
		struct fetch_log *log = &mc->fetched[g];

		if (region_may_have(&log->huge, page, REGION_HUGE))
			shift = REGION_HUGE;
		else if (region_may_have(&log->large, page, REGION_LARGE))
			shift = MAX(shift, (unsigned)REGION_LARGE);
		/* An instruction of the page before may reach into this one. */
		else if (was_fetched(log, page) || was_fetched(log, page - PAGE_SIZE))
			shift = MAX(shift, (unsigned)PAGE_SHIFT);
	}
	if (!shift)
		return;
	for (unsigned user = 0; user < 4; user++)
		for (unsigned i = 0; i < ITLB_SIZE; i++) {
			/* a small page has one place */
			struct itlb_entry *e =
				&mc->itlb[user][shift > PAGE_SHIFT ? i : itlb_index(page)];

			if (!((e->page ^ page) >> shift))
				e->gen = 0;
			if (shift == PAGE_SHIFT)
				break;
		}
	jit_jump_cache_flush_page(cpu, page, shift);
}

int mmu_fetch(struct cpu *cpu, u64 lin, struct mmu_fetched *out)
{
	struct mmu_cpu *mc = cpu->mmu;
	unsigned view = cpu_mode_view(cpu);
	struct itlb_entry *e;
	struct mmu_slot *slot;
	struct mmu_walk w;
	u64 page, off;
	int ret;

	lin = lin_wrap(cpu, lin);
	page = lin & PAGE_MASK;
	off = lin & (PAGE_SIZE - 1);
	e = &mc->itlb[itlb_of(view)][itlb_index(lin)];
	if (UNLIKELY(e->page != page ||
		     e->gen != (e->global ? mc->itlb_global_gen : mc->itlb_gen))) {
		ret = page_walk(cpu, lin, MMU_EXEC, view, &w);
		if (ret)
			return ret;
		slot = slot_find(cpu, w.gpa);
		if (!slot && slot_may_return(cpu))
			return mmu_raise(cpu, &(struct mmu_fault){.kind = MMU_FAULT_AGAIN});
		if (!slot) {
			if (gpa_blocked(cpu, w.gpa, 1, MMU_EXEC))
				return CPU_EXIT;
			return mmu_internal(cpu,
					    "instruction fetch from an address without memory");
		}
		pages_note(cpu, slot, w.gpa, MMU_EXEC);
		e->page = page;
		e->gpa = w.gpa & PAGE_MASK;
		e->host = mmu_slot_host(slot, e->gpa);
		e->global = w.global;
		e->gen = w.global ? mc->itlb_global_gen : mc->itlb_gen;
		note_fetched(&mc->fetched[w.global], page, w.page_size);
	}
	out->gpa = e->gpa + off;
	out->host = e->host + off;
	out->global = e->global;
	return CPU_OK;
}

bool mmu_fetch_cached(struct cpu *cpu, u64 lin, struct mmu_fetched *out)
{
	struct mmu_cpu *mc = cpu->mmu;
	const struct itlb_entry *e = &mc->itlb[itlb_of(cpu_mode_view(cpu))][itlb_index(lin)];
	u64 off = lin & (PAGE_SIZE - 1);

	if (e->page != (lin & PAGE_MASK) ||
	    e->gen != (e->global ? mc->itlb_global_gen : mc->itlb_gen))
		return false;
	out->gpa = e->gpa + off;
	out->host = e->host + off;
	out->global = e->global;
	return true;
}
