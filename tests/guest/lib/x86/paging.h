/* The runtime's own page tables: 4 GiB of identity mapping that tests may refine. */
#ifndef GUEST_X86_PAGING_H
#define GUEST_X86_PAGING_H

#include "cpu.h"

#define PT_P   0x1ull
#define PT_W   0x2ull
#define PT_U   0x4ull
#define PT_PWT 0x8ull
#define PT_PCD 0x10ull
#define PT_A   0x20ull
#define PT_D   0x40ull
#define PT_PS  0x80ull
#define PT_G   0x100ull
#define PT_NX  (1ull << 63)

#define PF_P	1u
#define PF_W	2u
#define PF_U	4u
#define PF_RSVD 8u
#define PF_I	16u
#define PF_PK	32u

typedef ulong pte_t; /* 32-bit kernels run without PAE */

/**
 * The last-level (4 KiB) entry that maps va in the tables that CR3 names; large pages on the way
 * are split, missing tables added (user, writable).
 */
volatile pte_t *pte_of(ulong va);
/** Maps a page and flushes it. */
void map_page(ulong va, ulong pa, pte_t flags);
/** A free piece of linear address space, 1 MiB for each call; nothing is mapped there. */
ulong va_alloc(void);

#endif
