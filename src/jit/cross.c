/*
 * cross.c - jumps that lead straight into another page
 *
 * Linear addresses may come to mean other code, so a jump between pages goes through the jump cache,
 * which is emptied then. Code of the window (mmu/window.c) is that of one address space, which runs for
 * long and whose mappings seldom change: there, direct jumps are patched across pages, too. They are
 * taken back whenever an entry of the jump cache is: when one of the pages that they lead to is not what it was
 * (mmu/window_code.c), when the window goes to another program, when the page is invalidated, and when a new epoch of
 * the client begins (page.c). A switch to another address space and back changes nothing: this code does not
 * run there.
 *
 * A jump that was taken back finds its block again without the dispatcher, in jit_link_again(), which
 * costs what a miss of the jump cache does. So what a change costs is what had been linked since the
 * last one.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* The list of the jumps into a page; jumps into others are on it, too. */
static struct jit_link **list_of(struct jit *jit, u64 page)
{
	return &jit->cross_links[(page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >>
				 (64 - JIT_CROSS_BITS)];
}

/** Patches a jump into another page. */
void jit_cross_patch(struct jit *jit, struct jit_link *link, struct jit_block *to)
{
	struct jit_link **list = list_of(jit, link->target);

	if (!link->listed) {
		link->next_cross = *list;
		*list = link;
		link->listed = true;
		jit->cross_any = true;
	}
	jit_link_patch(link, to);
	jit->stat_links++;
}

/**
 * A jump of the window's code into another page, which is not patched: patches it when its target is
 * known and translated. The block's host address, or 0: the dispatcher has to look. Called with the
 * guest's registers in the host's.
 */
u64 jit_link_again(struct cpu *cpu, struct jit_link *link)
{
	struct mmu_fetched at;
	struct jit_block *b;

	cpu->jit->stat_links_again++;
	if (!__atomic_load_n(&cpu->poll, __ATOMIC_RELAXED) || (cpu->mode & MODE_BREAK) ||
	    cpu->mode != link->mode || link->from->dead ||
	    !mmu_fetch_cached(cpu, link->target, &at))
		return 0;
	b = jit_block_find(cpu->jit, at.gpa, link->target, link->mode);
	if (!b || b->gpa2 != ~0ull || !jit_page_current(cpu, b->page))
		return 0;
	if (!link->to) {
		mmu_window_code(cpu, link->target, b->gpa, b->gpa2);
		jit_cross_patch(cpu->jit, link, b);
	}
	return jit_exec(cpu->jit, b->code);
}

void jit_cross_links_drop(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;
	struct jit_link *next;

	if (!jit || !jit->cross_any)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(jit->cross_links); i++) {
		for (struct jit_link *l = jit->cross_links[i]; l; l = next) {
			next = l->next_cross;
			l->listed = false;
			jit_link_unpatch(l);
		}
		jit->cross_links[i] = NULL;
	}
	jit->cross_any = false;
}

void jit_cross_links_drop_page(struct cpu *cpu, u64 page)
{
	struct jit *jit = cpu->jit;

	if (!jit || !jit->cross_any)
		return;
	for (struct jit_link *l = *list_of(jit, page); l; l = l->next_cross)
		if (!((l->target ^ page) >> PAGE_SHIFT))
			jit_link_unpatch(l);
}
