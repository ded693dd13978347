/*
 * window.h - where the host has programs' memory a second time
 *
 * The user's half of the linear addresses is more than the host has room for, but Linux uses little of it:
 * the beginning (programs that are not position-independent, their heaps), what is around 0x555555554000
 * (those that are), and the end (libraries, other memory, stacks). A window cuts the half into parts and has
 * places for these, one after the other, with one that stays empty before the last; all other parts lead
 * there. Generated code adds to an address what a table has for the bits of its part.
 *
 * There are some windows in a process, each for one vCPU, and they differ in the size of their parts, so
 * in the bits that tell them, the mask. The address that is the mask is where code of the window has its
 * stack: RSP is the mask for PEXT, and the table is near it.
 *
 * No address leads out of the places: where a bit above the parts' is set, the sum is not canonical, or in
 * the host kernel's half. Displacements of 32 bits reach from one place into the next, which is why pages
 * at the ends of a part are not mapped; WINDOW_GUARD of nothing is before and behind all.
 */
#ifndef MMU_WINDOW_H
#define MMU_WINDOW_H

#include "base/types.h"

#define WINDOW_GUARD (3ull << 30)
#define WINDOW_USER  (1ull << 47) /* end of the user's half */

/* From the mask's address on: the frame of generated code, then the table; before it, the stack. */
#define WINDOW_TABLE 64
#define WINDOW_FRAME 4096ull
#define WINDOW_STACK (512ull << 10)

struct window_shape {
	u64 host; /* of the first place: odd, so that the instruction test's random addresses miss it */
	u8 part_shift;	    /* log2 of a part's size */
	u8 middle, middles; /* parts around 0x555555554000: the first, how many */
};

/** The shape of the n-th window of a process, n < MMU_WINDOWS. */
const struct window_shape *window_shape(unsigned n);

/* No address space: what cpu->window_cr3 holds while the window is not used. */
#define WINDOW_NONE (~0ull)

static inline u64 window_part_size(const struct window_shape *s)
{
	return 1ull << s->part_shift;
}

static inline unsigned window_parts(const struct window_shape *s)
{
	return (unsigned)(WINDOW_USER >> s->part_shift);
}

/** The bits of an address that tell its part. */
static inline u64 window_mask(const struct window_shape *s)
{
	return WINDOW_USER - window_part_size(s);
}

/** The places together: the lowest part's, the middle ones', the empty one, the highest part's. */
static inline u64 window_size(const struct window_shape *s)
{
	return (s->middles + 3ull) << s->part_shift;
}

/** What is kept free of anything else, and how much: the places and what is before and behind them. */
static inline u64 window_room(const struct window_shape *s)
{
	return s->host - WINDOW_GUARD;
}

static inline u64 window_room_size(const struct window_shape *s)
{
	return window_size(s) + 2 * WINDOW_GUARD;
}

/* The number of a part's place. */
static inline unsigned window_place(const struct window_shape *s, unsigned part)
{
	unsigned middle = part - s->middle;

	if (!part)
		return 0;
	if (middle < s->middles)
		return 1 + middle;
	return s->middles + 1u + (part + 1 == window_parts(s));
}

/** What is added to an address in a part. */
static inline u64 window_addend(const struct window_shape *s, unsigned part)
{
	return s->host + (((u64)window_place(s, part) - part) << s->part_shift);
}

/** Where the host has a linear address. False: the window does not serve it. */
static inline bool window_host(const struct window_shape *s, u64 lin, u64 *host)
{
	u64 size = window_part_size(s), part = lin >> s->part_shift, at = lin & (size - 1);
	unsigned place;

	/* not the last page: behind it addresses are not canonical, which comes before any #PF */
	if (lin >= WINDOW_USER - 4096)
		return false;
	place = window_place(s, (unsigned)part);
	if (place == s->middles + 1u)
		return false;
	/* between middle parts nothing need be empty: their places are neighbours, too */
	if (at < WINDOW_GUARD && place && (place == 1 || place > s->middles))
		return false;
	if (at >= size - WINDOW_GUARD && (!place || place == s->middles))
		return false;
	*host = lin + window_addend(s, (unsigned)part);
	return true;
}

/** The linear address that the host has at a place in the window; ~0: at none. */
static inline u64 window_lin(const struct window_shape *s, u64 host)
{
	u64 at = host - s->host, place = at >> s->part_shift, part;

	if (at >= window_size(s))
		return ~0ull;
	part = !place			  ? 0
	       : place <= s->middles	  ? s->middle + place - 1
	       : place == s->middles + 1u ? s->middle + s->middles
					  : window_parts(s) - 1;
	return part << s->part_shift | (at & (window_part_size(s) - 1));
}

#endif
