/* window_internal.h - what window.c and window_policy.c share */
#ifndef MMU_WINDOW_INTERNAL_H
#define MMU_WINDOW_INTERNAL_H

#include "mmu/mmu_internal.h"
#include "mmu/window.h"
#include "mmu/window_code.h"

/* Each run of pages is a mapping of the host's, which has some 65000 for a process. */
#define PAGES_MAX 16384u
#define HASH_SIZE 16384u
#define NO_PAGE	  0xffffu

struct window_page {
	u64 lin, gfn;
	u8 *host;
	u16 next_lin, next_gfn;
	bool writable, global;
	bool large; /* part of a large page of the guest */
};

struct mmu_window {
	const struct window_shape *shape;
	struct cpu *owner;    /* the vCPU that has it for good; everything below is its own */
	bool broken;	      /* its addresses could not be kept */
	bool readonly_wanted; /* all write permissions are to go */
	unsigned count;
	u64 large; /* bit n: 4 MiB regions n modulo 64 may have parts of large pages */
	/* window_policy.c */
	s64 credit;
	s64 missed;	 /* what of it went into accesses outside, since the last interrupt */
	unsigned pauses; /* times that the credit was used up */
	bool lost;	 /* it does not pay: the next interrupt takes it away */
	/* window.c */
	u16 by_lin[HASH_SIZE], by_gfn[HASH_SIZE];
	struct window_page page[PAGES_MAX];
	struct window_code code;
};

/* The vCPU's window, when a program has it. */
static inline struct mmu_window *window_own(struct cpu *cpu)
{
	return cpu->window_cr3 == WINDOW_NONE ? NULL : cpu->mmu->window;
}

/** The vCPU's window; it takes a free one when it has none. NULL: others have them all. */
struct mmu_window *window_take(struct cpu *cpu);

/** Empties the window. The window's code is not running, or does not go on. */
void window_drop_all(struct cpu *cpu, struct mmu_window *w);

/** The program paid for a fault of the host's; for one at an address that is not served. */
void window_paid_fault(struct cpu *cpu, bool served);
/** ... for pages that were put into the host's tables. */
void window_paid_pages(struct cpu *cpu, u64 pages);

#endif
