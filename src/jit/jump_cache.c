/*
 * jump_cache.c - where computed jumps lead
 *
 * One direct-mapped table a view, from linear address to host address, looked up by generated
 * code. An entry holds while its linear address means the same code: it is dropped when a
 * translation of the page is (CR3, INVLPG …), when its block is, and in a new epoch unless its page
 * was compared again (page.c). Those of the window's code stay over a change of CR3 (mmu/window_code.c). Two logs of
 * filled slots, for pages that are global and others, make a flush cost what was filled. A slot can
 * be in both; what counts then is its JC_GLOBAL bit.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

enum { JC_IN_LOCAL = 1, JC_IN_GLOBAL = 2, JC_GLOBAL = 4 };

/* Bytes before a page in which a block may begin whose one instruction ends in the page. */
#define CROSS 14u

static u32 index_of(u64 rip)
{
	return rip % JIT_JC_SIZE;
}

/** The code that a computed jump of `view` to an address would find, or 0. */
u64 jit_jc_find(const struct cpu *cpu, unsigned view, u64 rip)
{
	const struct jit_jump *to = &cpu->jc[view].to[index_of(rip)];

	return to->ntag == 1 - rip ? to->code : 0;
}

/** Enters a block for the jumps to a linear address. `global`: of the page's translation. */
void jit_jc_fill(struct cpu *cpu, unsigned view, u64 rip, const struct jit_block *b, bool global)
{
	struct jit_jump_log *log = &cpu->jit->jc_log[view];
	struct jit_jump_cache *jc = &cpu->jc[view];
	u32 i = index_of(rip);
	u8 state = log->state[i] & (u8)~JC_GLOBAL;

	if (b->mode & MODE_WINDOW)
		mmu_window_code(cpu, rip, b->gpa, b->gpa2);
	if (UNLIKELY(i < JIT_JC_FIRST))
		return;
	if (global) {
		if (!(state & JC_IN_GLOBAL))
			log->global[log->global_count++] = i;
		state |= JC_GLOBAL | JC_IN_GLOBAL;
	} else {
		if (!(state & JC_IN_LOCAL))
			log->local[log->local_count++] = i;
		state |= JC_IN_LOCAL;
	}
	log->state[i] = state;
	jc->to[i].ntag = 1 - rip;
	jc->to[i].code = jit_exec(cpu->jit, b->code);
}

/**
 * Generated code missed (or has to poll): fills the jump cache for cpu->rip when the page is known
 * and its block translated, as after a change of address space. The block's host address, or 0:
 * the dispatcher has to look. Called with the guest's registers in the host's.
 */
u64 jit_jc_lookup(struct cpu *cpu)
{
	unsigned view = cpu_mode_view(cpu);
	u32 mode = cpu->mode;
	struct mmu_fetched at;
	struct jit_block *b;

	cpu->jit->stat_jc_misses++;
	if (!__atomic_load_n(&cpu->poll, __ATOMIC_RELAXED) || (mode & MODE_BREAK) ||
	    cpu->jit->jc_mode[view] != mode || !mmu_fetch_cached(cpu, cpu->rip, &at))
		return 0;
	b = jit_block_find(cpu->jit, at.gpa, cpu->rip, mode);
	if (!b || b->gpa2 != ~0ull || !jit_page_current(cpu, b->page))
		return 0;
	jit_jc_fill(cpu, view, cpu->rip, b, at.global);
	return jit_exec(cpu->jit, b->code);
}

static void flush_local(struct cpu *cpu, unsigned view)
{
	struct jit_jump_log *log = &cpu->jit->jc_log[view];
	struct jit_jump_cache *jc = &cpu->jc[view];

	for (u32 k = 0; k < log->local_count; k++) {
		u32 i = log->local[k];

		log->state[i] &= (u8)~JC_IN_LOCAL;
		if (!(log->state[i] & JC_GLOBAL))
			jc->to[i].ntag = 0;
	}
	log->local_count = 0;
}

/** Empties the jump cache of one view. */
void jit_jc_flush_view(struct cpu *cpu, unsigned view)
{
	struct jit_jump_log *log = &cpu->jit->jc_log[view];
	struct jit_jump_cache *jc = &cpu->jc[view];

	flush_local(cpu, view);
	for (u32 k = 0; k < log->global_count; k++) {
		u32 i = log->global[k];

		log->state[i] = 0;
		jc->to[i].ntag = 0;
	}
	log->global_count = 0;
}

void jit_jump_cache_flush(struct cpu *cpu)
{
	if (!cpu->jit)
		return;
	cpu->jit->stat_jc_flushes++;
	jit_cross_links_drop(cpu);
	for (unsigned v = 0; v < cpu_views(cpu); v++)
		jit_jc_flush_view(cpu, v);
	jit_pages_unreached(cpu->jit);
}

/* Does a jump cache hold the window's code? Its entries go when the window says so. */
static bool is_window(const struct cpu *cpu, unsigned view)
{
	return view == MMU_TLB_USER && (cpu->jit->jc_mode[view] & MODE_WINDOW);
}

void jit_jump_cache_flush_local(struct cpu *cpu)
{
	if (!cpu->jit)
		return;
	cpu->jit->stat_jc_local_flushes++;
	for (unsigned v = 0; v < cpu_views(cpu); v++)
		if (!is_window(cpu, v))
			flush_local(cpu, v);
}

void jit_jump_cache_flush_window(struct cpu *cpu)
{
	if (cpu->jit && is_window(cpu, MMU_TLB_USER))
		jit_jc_flush_view(cpu, MMU_TLB_USER);
}

void jit_jump_cache_flush_guest(struct cpu *cpu)
{
	if (!cpu->jit)
		return;
	for (unsigned v = MMU_TLB_GUEST; v < MMU_TLB_COUNT; v++)
		jit_jc_flush_view(cpu, v);
}

static bool in_page(const struct jit_jump *to, u64 page, unsigned shift)
{
	u64 rip = 1 - to->ntag;

	return !((rip ^ page) >> shift) || !(((rip + CROSS) ^ page) >> shift);
}

static void drop_page(struct jit_jump_cache *jc, const u32 *list, u32 count, u64 page,
		      unsigned shift)
{
	for (u32 k = 0; k < count; k++)
		if (in_page(&jc->to[list[k]], page, shift))
			jc->to[list[k]].ntag = 0;
}

/* All slots that jumps to a small page can be in. */
static void drop_slots(struct jit_jump_cache *jc, u64 page)
{
	for (u64 rip = page - CROSS; rip != page + PAGE_SIZE; rip++) {
		struct jit_jump *to = &jc->to[index_of(rip)];

		if (to->ntag == 1 - rip)
			to->ntag = 0;
	}
}

void jit_jump_cache_flush_page(struct cpu *cpu, u64 page, unsigned shift)
{
	if (!cpu->jit)
		return;
	for (unsigned v = 0; v < cpu_views(cpu); v++) {
		const struct jit_jump_log *log = &cpu->jit->jc_log[v];

		if (shift == PAGE_SHIFT && log->local_count + log->global_count > PAGE_SIZE) {
			drop_slots(&cpu->jc[v], page & PAGE_MASK);
			continue;
		}
		drop_page(&cpu->jc[v], log->local, log->local_count, page, shift);
		drop_page(&cpu->jc[v], log->global, log->global_count, page, shift);
	}
}

/** A block is gone: no jump leads to it any more. */
void jit_jc_drop_block(struct cpu *cpu, const struct jit_block *b)
{
	unsigned view = (b->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;
	struct jit_jump_cache *jc = &cpu->jc[view];
	u32 i = index_of(b->rip);

	if (b->relative)
		jit_jc_flush_view(cpu, view); /* it may be there for several addresses */
	else if (jc->to[i].code == jit_exec(cpu->jit, b->code))
		jc->to[i].ntag = 0;
}

/** The jump cache of a view changes hands: jumps from other modes relied on who had it. */
void jit_jc_take(struct cpu *cpu, unsigned view, u32 mode)
{
	struct jit *jit = cpu->jit;
	struct jit_jump *to = cpu->jc[view].to;

	if (jit->jc_mode[view] == JIT_JC_NO_MODE) {
		/* The slots that are never filled; their page is only there for a view that is used. */
		to[0] = (struct jit_jump){JIT_JC_NOWHERE, jit_exec(jit, jit->thunk.next)};
		to[1].ntag = JIT_JC_NOWHERE;
	}
	jit_jc_flush_view(cpu, view);
	jit_mode_links_drop(jit);
	jit->jc_mode[view] = mode;
}
