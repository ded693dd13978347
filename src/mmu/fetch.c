/*
 * fetch.c - where the bytes of instructions are
 *
 * The translator and the dispatcher's slow path ask for the guest-physical and host address of a
 * code address. Two small direct-mapped arrays (supervisor, user) answer most of it: a jump-cache
 * flush sends every following indirect jump here once, and kernel pages are still known then.
 */
#include "mmu/mmu_internal.h"

static void note_fetched(struct mmu_cpu *mc, u64 page, u64 page_size)
{
	unsigned h = (page >> PAGE_SHIFT) & 511;

	mc->exec_bloom[h >> 6] |= BIT64(h & 63);
	if (page_size > PAGE_SIZE) {
		if (page_size > (4u << 20))
			region_add(&mc->exec_huge, page, REGION_HUGE);
		else
			region_add(&mc->exec_large, page, REGION_LARGE);
	}
}

int mmu_fetch(struct cpu *cpu, u64 lin, u64 *gpa, const u8 **host)
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
	e = &mc->itlb[view == MMU_TLB_USER][(lin >> PAGE_SHIFT) & (ITLB_SIZE - 1)];
	if (UNLIKELY(e->page != page ||
		     e->gen != (e->global ? mc->itlb_global_gen : mc->itlb_gen))) {
		ret = page_walk(cpu, lin, MMU_EXEC, view, &w);
		if (ret)
			return ret;
		slot = slot_find(cpu, w.gpa);
		if (!slot) {
			if (gpa_blocked(cpu, w.gpa, 1, MMU_EXEC))
				return CPU_EXIT;
			return mmu_internal(cpu, "instruction fetch from an address without memory");
		}
		e->page = page;
		e->gpa = w.gpa & PAGE_MASK;
		e->host = slot->hva + (e->gpa - slot->gpa);
		e->global = w.global;
		e->page_size = w.page_size;
		e->gen = w.global ? mc->itlb_global_gen : mc->itlb_gen;
	}
	note_fetched(mc, page, e->page_size);
	*gpa = e->gpa + off;
	*host = e->host + off;
	return CPU_OK;
}
