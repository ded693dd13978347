/*
 * window.h - the part of the guest's address space that the host's own MMU translates
 *
 * Upper half of what a 64-bit program can address: where Linux puts position-independent programs,
 * their heaps, libraries and stacks. See window.c.
 */
#ifndef MMU_WINDOW_H
#define MMU_WINDOW_H

#include "base/types.h"

/* The linear addresses that are 1 when shifted right by so much, and where they begin in the host. */
#define WINDOW_BITS 46
#define WINDOW_HOST (4ull << 30)
/* What lies around them in the host is kept empty, as displacements reach there. */
#define WINDOW_GUARD (3ull << 30)

/* No address space: what cpu->window_cr3 holds while the window is not used. */
#define WINDOW_NONE (~0ull)

#endif
