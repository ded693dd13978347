/*
 * window.h - where the host has a program's memory a second time
 *
 * The user's half of the linear addresses is eight parts of 16 TiB, more than the host has room for. Three
 * are served: the lowest, where Linux puts programs that are not position-independent and their heaps, that
 * of position-independent ones, and the highest, with what they map and their stacks. Generated code adds
 * to an address what a table of eight has for its bits 46 to 44:
 *
 *	part    0          5           7           1 to 4, 6
 *	place   0          1           3           2, which stays empty
 *
 * The places are next to each other from WINDOW_HOST on, with WINDOW_GUARD of nothing before and behind
 * them. So no address leads out: where an upper bit is set, the sum is not canonical, or in the host
 * kernel's half. Displacements of 32 bits reach from one place into the next, which is why pages at the
 * ends of a part are not mapped.
 */
#ifndef MMU_WINDOW_H
#define MMU_WINDOW_H

#include "base/types.h"

#define WINDOW_PART  (1ull << 44)
#define WINDOW_PARTS 8u
#define WINDOW_HOST \
	0x12350000000ull /* an odd place: the instruction test's random addresses do not meet it */
#define WINDOW_SIZE  (4 * WINDOW_PART)
#define WINDOW_GUARD (3ull << 30)

/* Bits of an address that tell its part. */
#define WINDOW_MASK ((WINDOW_PARTS - 1) * WINDOW_PART)
/*
 * Generated code that uses the window has its stack just below the address WINDOW_MASK, so that RSP is the mask
 * for PEXT. C that it calls runs on that stack, and so do the client's signal handlers that ask for none.
 */
#define WINDOW_STACK (512ull << 10)

/* No address space: what cpu->window_cr3 holds while the window is not used. */
#define WINDOW_NONE (~0ull)

/** What is added to an address in a part. */
static inline u64 window_addend(unsigned part)
{
	return WINDOW_HOST +
	       (part == 0   ? 0
		: part == 5 ? 1
		: part == 7 ? 3
			    : 2) *
		       WINDOW_PART -
	       part * WINDOW_PART;
}

/** Where the host has a linear address. False: the window does not serve it. */
static inline bool window_host(u64 lin, u64 *host)
{
	u64 part = lin / WINDOW_PART, at = lin % WINDOW_PART;

	if ((part != 0 && part != 5 && part != 7) || (part && at < WINDOW_GUARD) ||
	    (part != 7 && at >= WINDOW_PART - WINDOW_GUARD))
		return false;
	*host = lin + window_addend((unsigned)part);
	/* not the last page: behind it addresses are not canonical, which comes before any #PF */
	return lin < WINDOW_PARTS * WINDOW_PART - 4096;
}

/** The linear address that the host has at a place in the window. */
static inline u64 window_lin(u64 host)
{
	static const u8 part[] = {0, 5, 6, 7};
	u64 at = host - WINDOW_HOST;

	return at < WINDOW_SIZE ? part[at / WINDOW_PART] * WINDOW_PART + at % WINDOW_PART : ~0ull;
}

#endif
