/*
 * window_code.c - which pages the window's jumps lead to
 *
 * Computed jumps find their code in the jump cache, which is emptied with the TLB, as linear addresses may have come
 * to mean other code. A program that gives memory back empties the TLB some dozen times a second, and to find everything
 * once more costs a large one a tenth of its time. The window's code does not run before mmu_window_refresh(), so its
 * jumps stay where they are: the pages that they lead to are listed here, and walked again then. They are only taken back
 * when one of them has changed.
 *
 * A page is walked when it comes on the list, as its translation may come from a TLB that holds what the tables do not say
 * any more. One that comes a second time from elsewhere leaves jumps to where it was before behind: then all are taken
 * back at the next flush. And a page whose A bit the guest has taken away counts as changed, as the next fetch has to set it.
 */
#include "mmu/window_code.h"

#include "base/mem.h"
#include "mmu/mmu_internal.h"

#define NO_PAGE 0xffffu
#define NOWHERE (~0ull) /* the gpa of a page that no jump leads to any more */

static u16 *list_of(struct window_code *c, u64 lin)
{
	return &c->by_lin[(lin >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> (64 - 13)];
}
_Static_assert(WINDOW_CODE_HASH == 1u << 13, "list_of() yields 13 bits");

static struct window_code_page *find(struct window_code *c, u64 lin)
{
	u16 i = *list_of(c, lin);

	while (i != NO_PAGE && c->page[i].lin != lin)
		i = c->page[i].next;
	return i == NO_PAGE ? NULL : &c->page[i];
}

void window_code_clear(struct window_code *c)
{
	c->count = 0;
	c->unsure = c->large = false;
	mem_set(c->by_lin, 0xff, sizeof(c->by_lin));
}

/* Where the guest's tables have a page of code that was used, or NOWHERE. */
static u64 walk(struct cpu *cpu, u64 lin, bool *large)
{
	struct mmu_fault fault;
	struct mmu_walk w;

	if (walk_view(cpu, lin, MMU_EXEC, MMU_TLB_USER, true, &w, &fault) || !w.accessed)
		return NOWHERE;
	*large = w.page_size > PAGE_SIZE;
	return w.gpa & PAGE_MASK;
}

void window_code_note(struct cpu *cpu, struct window_code *c, u64 lin, u64 gpa)
{
	struct window_code_page *p = find(c, lin & PAGE_MASK);
	bool large = false;

	lin &= PAGE_MASK;
	gpa &= PAGE_MASK;
	if (LIKELY(p && p->gpa == gpa))
		return;
	if (walk(cpu, lin, &large) != gpa ||
	    (p ? p->gpa != NOWHERE : c->count == WINDOW_CODE_MAX)) {
		c->unsure = true;
		return;
	}
	c->large |= large;
	if (p) {
		p->gpa = gpa;
		return;
	}
	c->page[c->count] = (struct window_code_page){lin, gpa, *list_of(c, lin)};
	*list_of(c, lin) = (u16)c->count++;
}

bool window_code_drop(struct window_code *c, u64 lin)
{
	struct window_code_page *p = find(c, lin & PAGE_MASK);

	if (!p || p->gpa == NOWHERE)
		return false;
	p->gpa = NOWHERE;
	return true;
}

bool window_code_still(struct cpu *cpu, const struct window_code *c)
{
	bool large;

	if (c->unsure)
		return false;
	for (unsigned i = 0; i < c->count; i++)
		if (c->page[i].gpa != NOWHERE &&
		    walk(cpu, c->page[i].lin, &large) != c->page[i].gpa)
			return false;
	return true;
}
