/* window_code.h - which pages the window's jumps lead to, see window_code.c */
#ifndef MMU_WINDOW_CODE_H
#define MMU_WINDOW_CODE_H

#include "cpu/cpu.h"

#define WINDOW_CODE_MAX	 8192u
#define WINDOW_CODE_HASH 8192u

struct window_code {
	unsigned count;
	bool unsure; /* the next look at all of them finds a change */
	bool large;  /* some are parts of large pages */
	u16 by_lin[WINDOW_CODE_HASH];
	struct window_code_page {
		u64 lin, gpa;
		u16 next;
	} page[WINDOW_CODE_MAX];
};

/** Forgets all. The jumps have been taken back, or there were none. */
void window_code_clear(struct window_code *c);
/** Jumps will lead to a linear address, where the guest-physical one is. */
void window_code_note(struct cpu *cpu, struct window_code *c, u64 lin, u64 gpa);
/** Takes a page off. True: it was there, and the jumps to it have to be taken back. */
bool window_code_drop(struct window_code *c, u64 lin);
/** Walks them again. True: each of them is executable and where it was. */
bool window_code_still(struct cpu *cpu, const struct window_code *c);

#endif
