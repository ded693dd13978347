/*
 * tlb.h - the software TLB as generated code sees it
 *
 * Direct-mapped, one table per privilege view. For a linear address A the index is
 * PEXT(A, cpu->tlb_mask), and an access of n bytes hits when
 *
 *	(ntag[index] + A + n - 1) >> 12 == 1,   ntag = 4096 - page(A)
 *
 * which folds the page-crossing check into the tag compare and needs no flags: PEXT, LEA, PEXT
 * and LOOP (or JRCXZ) leave the guest's flags alone. On a hit the host address is A + addend.
 *
 * An empty slot holds mmu_tlb_empty(index): 0 almost everywhere, so a fresh table costs no
 * memory. A tag matches one page, and accesses that reach into it from the page before, or from the one behind
 * (CALL, at RSP - 8), so an empty tag must belong to a page whose neighbourhood has other indexes. 0 is the
 * tag of page 0x1000; slots 0 to 2, which addresses near it select, hold the tag of page 0x800000 instead.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "base/types.h"

/* Views: which one a block uses is part of its key. */
enum {
	MMU_TLB_KERNEL,	   /* CPL < 3, user pages not accessible (SMAP with AC clear) */
	MMU_TLB_KERNEL_AC, /* CPL < 3, SMAP off or overridden by AC */
	MMU_TLB_USER,	   /* CPL 3 */
	MMU_TLB_OWN,	   /* so many, of a processor without nested guests */
	/* The same of a nested guest: its translations and its hypervisor's outlive changes between them. */
	MMU_TLB_GUEST = 4,
	MMU_TLB_COUNT = MMU_TLB_GUEST + MMU_TLB_OWN,
};
#define MMU_TLB_RIGHTS 3u /* of a view: which rights it stands for, whoever runs */

#define MMU_TLB_BITS 14
#define MMU_TLB_SIZE (1u << MMU_TLB_BITS)
#define JIT_JC_SIZE  131072u

struct mmu_tlb {
	u64 rtag[MMU_TLB_SIZE];
	u64 wtag[MMU_TLB_SIZE];
	s64 addend[MMU_TLB_SIZE];
};

#define MMU_TLB_LOW 3u /* slots whose empty tag is not 0 */

/** The tag of a slot that matches nothing. */
static inline u64 mmu_tlb_empty(unsigned index)
{
	return index < MMU_TLB_LOW ? 4096 - 0x800000ull : 0;
}

/** The tag that matches one page. */
static inline u64 mmu_tlb_tag(u64 page)
{
	return 4096 - page;
}

#endif
