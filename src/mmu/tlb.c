/*
 * tlb.c - filling and emptying the software TLB
 *
 * Generated code looks at tags and addends only (tlb.h). Everything else about a slot - the guest
 * page it leads to, whether it is global, whether it is a fragment of a large page - is in a
 * parallel word here, together with two logs of filled indexes: a flush walks a log and so costs
 * what was filled since the last one, not the size of the table.
 *
 * Large pages are cached as 4 KiB fragments. INVLPG must drop all of them: summaries
 * say whether there can be any around an address, and only then the logs are searched.
 */
#include "mmu/mmu_internal.h"
#include "mmu/translator.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

ALWAYS_INLINE u64 slot_page(const struct mmu_tlb *t, unsigned i)
{
	return PAGE_SIZE - t->rtag[i];
}

ALWAYS_INLINE void slot_empty(struct mmu_tlb *t, struct tlb_log *log, unsigned i)
{
	t->rtag[i] = t->wtag[i] = mmu_tlb_empty(i);
	log->info[i] &= TLB_LOGGED;
}

bool tlb_fill(struct cpu *cpu, unsigned view, u64 lin, const struct mmu_walk *w, u8 *host,
	      bool writable)
{
	struct tlb_log *log = &cpu->mmu->log[view];
	struct mmu_tlb *t = &cpu->tlb[view];
	unsigned i = tlb_index(lin);
	u64 info = log->info[i], flags = TLB_VALID;
	u64 tag = mmu_tlb_tag(lin & PAGE_MASK);

	if ((info & TLB_VALID) && t->wtag[i] == t->rtag[i] && !(t->rtag[i] == tag && writable)) {
		if (code_settle(cpu)) {
			info = log->info[i];
			writable = writable && !code_tracked(cpu->mem, w->gpa);
		}
	}
	if (w->global) {
		flags |= TLB_GLOBAL | TLB_IN_GLOBAL;
		if (!(info & TLB_IN_GLOBAL))
			log->global[log->global_count++] = (u16)i;
	} else {
		flags |= TLB_IN_LOCAL;
		if (!(info & TLB_IN_LOCAL))
			log->local[log->local_count++] = (u16)i;
	}
	if (w->page_size > PAGE_SIZE) {
		if (w->page_size > (4u << 20)) {
			flags |= TLB_HUGE;
			region_add(&log->huge, lin, REGION_HUGE);
		} else {
			flags |= TLB_LARGE;
			region_add(&log->large, lin, REGION_LARGE);
		}
	}
	log->info[i] = (w->gpa >> PAGE_SHIFT) << 8 | (info & TLB_LOGGED) | flags;
	t->addend[i] = (s64)((u64)host - (lin & PAGE_MASK));
	t->rtag[i] = tag;
	t->wtag[i] = writable ? tag : mmu_tlb_empty(i);
	return writable;
}

static void view_flush_local(struct cpu *cpu, unsigned view)
{
	struct tlb_log *log = &cpu->mmu->log[view];
	struct mmu_tlb *t = &cpu->tlb[view];

	for (unsigned k = 0; k < log->local_count; k++) {
		unsigned i = log->local[k];

		log->info[i] &= ~(u64)TLB_IN_LOCAL;
		if (!(log->info[i] & TLB_GLOBAL))
			slot_empty(t, log, i);
	}
	log->local_count = 0;
	if (!log->global_count)
		log->large = log->huge = (struct region_set){0};
}

static void view_flush_global(struct cpu *cpu, unsigned view)
{
	struct tlb_log *log = &cpu->mmu->log[view];
	struct mmu_tlb *t = &cpu->tlb[view];

	for (unsigned k = 0; k < log->global_count; k++) {
		unsigned i = log->global[k];

		log->info[i] &= ~(u64)TLB_IN_GLOBAL;
		if (log->info[i] & TLB_GLOBAL)
			slot_empty(t, log, i);
	}
	log->global_count = 0;
	log->large = log->huge = (struct region_set){0};
}

void tlb_flush_local(struct cpu *cpu)
{
	unsigned bank = view_bank(cpu);

	for (unsigned v = bank; v < bank + MMU_TLB_OWN; v++)
		view_flush_local(cpu, v);
	fetch_flush(cpu, false);
}

unsigned tlb_copy_local(struct cpu *cpu, struct stash_entry *to, unsigned max)
{
	unsigned count = 0, bank = view_bank(cpu);

	/* User entries first: they are what an address space consists of. */
	for (unsigned v = bank + MMU_TLB_OWN; v-- > bank;) {
		const struct tlb_log *log = &cpu->mmu->log[v];
		const struct mmu_tlb *t = &cpu->tlb[v];

		for (unsigned k = 0; k < log->local_count && count < max; k++) {
			unsigned i = log->local[k];
			u64 info = log->info[i];

			if ((info & (TLB_VALID | TLB_GLOBAL)) != TLB_VALID)
				continue;
			to[count++] = (struct stash_entry){
				.tag = t->rtag[i],
				.info = info & ~(u64)TLB_LOGGED,
				.addend = t->addend[i],
				.index = (u16)i,
				.view = (u8)v,
				.writable = t->wtag[i] == t->rtag[i],
			};
		}
	}
	return count;
}

void tlb_restore_local(struct cpu *cpu, const struct stash_entry *from, unsigned count, bool writes)
{
	for (const struct stash_entry *e = from; e < from + count; e++) {
		struct tlb_log *log = &cpu->mmu->log[e->view];
		struct mmu_tlb *t = &cpu->tlb[e->view];
		u64 *info = &log->info[e->index], page = PAGE_SIZE - e->tag;

		if (*info & TLB_VALID)
			continue;
		if (!(*info & TLB_IN_LOCAL))
			log->local[log->local_count++] = e->index;
		*info = e->info | (*info & TLB_LOGGED) | TLB_IN_LOCAL;
		if (e->info & TLB_LARGE)
			region_add(&log->large, page, REGION_LARGE);
		if (e->info & TLB_HUGE)
			region_add(&log->huge, page, REGION_HUGE);
		t->addend[e->index] = e->addend;
		t->rtag[e->index] = e->tag;
		if (writes && e->writable)
			t->wtag[e->index] = e->tag;
	}
}

void mmu_flush_all(struct cpu *cpu)
{
	code_settle(cpu);
	mmu_slots_forget(cpu);
	stash_drop_all(cpu);
	window_stale(cpu);
	for (unsigned v = 0; v < cpu_views(cpu); v++) {
		view_flush_local(cpu, v);
		view_flush_global(cpu, v);
	}
	fetch_flush(cpu, true);
}

void mmu_flush_guest(struct cpu *cpu)
{
	code_settle(cpu);
	for (unsigned v = MMU_TLB_GUEST; v < MMU_TLB_COUNT; v++) {
		view_flush_local(cpu, v);
		view_flush_global(cpu, v);
	}
	fetch_flush_guest(cpu);
}

void mmu_guest_switch(struct cpu *cpu)
{
	stash_drop_all(cpu); /* PCIDs are each level's own */
	cpu->mmu->psc_gen++; /* and so are paging structures */
}

NOINLINE void mmu_view_begin(struct cpu *cpu, unsigned view)
{
	struct mmu_tlb *t = &cpu->tlb[view];

	if (cpu->mmu->views >> view & 1)
		return;
	/* Only slots whose empty tag is not 0: untouched pages of the tables cost nothing. */
	for (unsigned i = 0; i < MMU_TLB_LOW; i++)
		t->rtag[i] = t->wtag[i] = mmu_tlb_empty(i);
	cpu->mmu->views |= 1u << view;
}

void mmu_flush_nonglobal(struct cpu *cpu)
{
	code_settle(cpu);
	stash_drop_all(cpu);
	window_stale(cpu);
	tlb_flush_local(cpu);
}

static void view_drop_page(struct cpu *cpu, unsigned view, u64 page)
{
	struct tlb_log *log = &cpu->mmu->log[view];
	struct mmu_tlb *t = &cpu->tlb[view];
	unsigned i = tlb_index(page);

	if (t->rtag[i] == mmu_tlb_tag(page))
		slot_empty(t, log, i);
	if (LIKELY(!region_may_have(&log->large, page, REGION_LARGE) &&
		   !region_may_have(&log->huge, page, REGION_HUGE)))
		return;
	for (unsigned g = 0; g < 2; g++) {
		const u16 *list = g ? log->global : log->local;
		unsigned n = g ? log->global_count : log->local_count;

		for (unsigned k = 0; k < n; k++) {
			u64 p = slot_page(t, list[k]);
			u64 info = log->info[list[k]];

			if (((info & TLB_LARGE) && !((p ^ page) >> REGION_LARGE)) ||
			    ((info & TLB_HUGE) && !((p ^ page) >> REGION_HUGE)))
				slot_empty(t, log, list[k]);
		}
	}
}

static unsigned current_pcid(const struct cpu *cpu)
{
	return (cpu->cr4 & CR4_PCIDE) ? cpu->cr3 & 0xfff : 0;
}

void mmu_flush_page(struct cpu *cpu, u64 lin)
{
	u64 page = lin_wrap(cpu, lin) & PAGE_MASK;

	code_settle(cpu);
	for (unsigned v = 0; v < cpu_views(cpu); v++)
		view_drop_page(cpu, v, page);
	cpu->mmu->psc_gen++;
	window_flush_page(cpu, page, current_pcid(cpu));
	fetch_flush_page(cpu, page);
}

void mmu_flush_page_pcid(struct cpu *cpu, u64 lin, unsigned pcid)
{
	code_settle(cpu);
	if (pcid == current_pcid(cpu)) {
		mmu_flush_page(cpu, lin);
	} else {
		stash_drop_page(cpu, lin_wrap(cpu, lin) & PAGE_MASK, pcid);
		window_flush_page(cpu, lin_wrap(cpu, lin) & PAGE_MASK, pcid);
	}
}

void mmu_flush_pcid(struct cpu *cpu, unsigned pcid)
{
	code_settle(cpu);
	stash_drop_pcid(cpu, pcid);
	window_stale_pcid(cpu, pcid);
	if (pcid == current_pcid(cpu))
		tlb_flush_local(cpu);
}

void mmu_flush_write(struct cpu *cpu)
{
	code_settle(cpu);
	cpu->mmu->wgen++;
	window_stale_writes(cpu);
	for (unsigned v = 0; v < cpu_views(cpu); v++) {
		struct tlb_log *log = &cpu->mmu->log[v];

		for (unsigned k = 0; k < log->local_count; k++)
			cpu->tlb[v].wtag[log->local[k]] = mmu_tlb_empty(log->local[k]);
		for (unsigned k = 0; k < log->global_count; k++)
			cpu->tlb[v].wtag[log->global[k]] = mmu_tlb_empty(log->global[k]);
	}
}

bool tlb_drop_write(struct cpu *cpu, u64 gfn)
{
	bool had = stash_drop_write(cpu, gfn);

	had |= window_drop_write(cpu, gfn);
	for (unsigned v = 0; v < cpu_views(cpu); v++) {
		struct tlb_log *log = &cpu->mmu->log[v];
		struct mmu_tlb *t = &cpu->tlb[v];

		for (unsigned g = 0; g < 2; g++) {
			const u16 *list = g ? log->global : log->local;
			unsigned n = g ? log->global_count : log->local_count;

			for (unsigned k = 0; k < n; k++) {
				unsigned i = list[k];

				if ((log->info[i] >> 8) != gfn || !(log->info[i] & TLB_VALID) ||
				    t->wtag[i] != t->rtag[i])
					continue;
				t->wtag[i] = mmu_tlb_empty(i);
				had = true;
			}
		}
	}
	return had;
}

/* Joins the vCPU to the list that messages are sent along. Set-up: libc's allocator is allowed. */
static int vm_add_cpu(struct mmu_vm *vm, struct cpu *cpu)
{
	int ret = 0;

	futex_lock(&vm->cpu_lock);
	if (vm->cpu_count == vm->cpu_room) {
		unsigned room = vm->cpu_room ? vm->cpu_room * 2 : 8;
		struct cpu **list = realloc(vm->cpus, room * sizeof(*list));

		if (!list) {
			ret = -ENOMEM;
			goto out;
		}
		vm->cpus = list;
		vm->cpu_room = room;
	}
	vm->cpus[vm->cpu_count] = cpu;
	__atomic_store_n(&vm->cpu_count, vm->cpu_count + 1, __ATOMIC_SEQ_CST);
out:
	futex_unlock(&vm->cpu_lock);
	return ret;
}

int mmu_cpu_init(struct cpu *cpu, struct mmu_vm *vm)
{
	int ret;

	cpu->mmu = pages_map(sizeof(struct mmu_cpu));
	if (!cpu->mmu)
		return -ENOMEM;
	cpu->mem = vm;
	cpu->window_cr3 = WINDOW_NONE;
	cpu->mmu->itlb_gen = cpu->mmu->itlb_global_gen = cpu->mmu->psc_gen = cpu->mmu->stage2_gen =
		1;
	cpu->tlb_mask = (MMU_TLB_SIZE - 1ull) << PAGE_SHIFT;
	cpu->page_mask = PAGE_MASK;
	for (unsigned v = 0; v < MMU_TLB_COUNT; v++) {
		struct tlb_log_room *room = &cpu->mmu->log_room[v];
		struct tlb_log *log = &cpu->mmu->log[v];

		log->local = room->local;
		log->global = room->global;
		log->info = room->info;
	}
	ret = vm_add_cpu(vm, cpu);
	if (ret) {
		pages_unmap(cpu->mmu, sizeof(struct mmu_cpu));
		cpu->mmu = NULL;
	}
	return ret;
}

void mmu_cpu_destroy(struct cpu *cpu)
{
	struct mmu_vm *vm = cpu->mem;

	if (!cpu->mmu)
		return;
	futex_lock(&vm->cpu_lock);
	for (unsigned i = 0; i < vm->cpu_count; i++)
		if (vm->cpus[i] == cpu) {
			vm->cpus[i] = vm->cpus[vm->cpu_count - 1];
			vm->cpu_count--;
			break;
		}
	futex_unlock(&vm->cpu_lock);
	window_cpu_destroy(cpu);
	code_cpu_destroy(cpu);
	stash_destroy(cpu);
	pages_unmap(cpu->mmu, sizeof(struct mmu_cpu));
	cpu->mmu = NULL;
}
