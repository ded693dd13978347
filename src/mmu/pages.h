/*
 * pages.h - which guest memory the vCPUs have been given, and in pieces of which size
 *
 * See the essay in pages.c. A record belongs to a memory slot of the API layer; struct mmu_slot
 * points to it. vCPUs write it without a lock. Everybody else who calls these functions keeps the
 * record alive (vm.slots_lock).
 */
#ifndef MMU_PAGES_H
#define MMU_PAGES_H

#include "cpu/cpu.h"

struct mmu_slot;
struct mmu_vm;

#define PAGES_BLOCK_SHIFT 21
#define PAGES_GIGA_SHIFT  30
#define PAGES_PER_BLOCK	  512u

/* What a byte says about a block of 2 MiB, or one of 1 GiB. */
#define PAGES_ALL   0x01u /* every page of it has been given */
#define PAGES_WRITE 0x02u /* a store needs nothing more; without: it is split for the dirty log */
#define PAGES_EXEC  0x04u /* a fetch needs nothing more; without: it is split for that */
#define PAGES_NX    0x08u /* it is split because code was fetched from it */
#define PAGES_LEVEL 0x30u
#define PAGES_NONE  0x00u /* nothing of it */
#define PAGES_4K \
	0x10u /* single pages: `bits`, unless PAGES_ALL. Of 1 GiB: blocks of 2 MiB or less */
#define PAGES_2M 0x20u
#define PAGES_1G 0x30u

struct mmu_pages {
	u64 gpa, size; /* of the slot, bytes */
	u64 first;     /* the number of its first block of 2 MiB */
	u64 blocks, gigas;
	u8 *block; /* [blocks], atomic; NULL before the first page is given */
	u8 *giga;  /* [gigas] */
	u64 *bits; /* [blocks * 8] */
	u32 *when; /* [blocks + gigas], ms: when it was split for a fetch */
	size_t bytes;
	bool mapped; /* `block` is a mapping of its own */
	u64 room[];
};

/** What the statistics show; pages_add() sums up. */
struct mmu_pages_sum {
	u64 small, large, huge; /* 4 KiB, 2 MiB, 1 GiB */
	u64 nx_splits;
};

/** A record of nothing given yet, or NULL: no memory. */
struct mmu_pages *pages_create(u64 gpa, u64 size);
void pages_free(struct mmu_pages *p);
void pages_add(const struct mmu_pages *p, struct mmu_pages_sum *sum);

/**
 * For a dirty log that begins: what was given in larger pieces in [gpa, gpa + size) becomes 4 KiB
 * pages at once, or (`lazily`) with the first store to each piece. No vCPU gives larger pieces any
 * more when this is called.
 */
void pages_split(struct mmu_pages *p, u64 gpa, u64 size, bool lazily);
/** Forgets the blocks that overlap [gpa, gpa + size). The caller flushes the vCPUs' TLBs behind it. */
void pages_forget(struct mmu_pages *p, u64 gpa, u64 size);

/** Blocks split for fetches, of one record. */
struct pages_nx {
	struct mmu_pages *pages;
	u64 index; /* of `when` */
	u32 when;
	bool keep; /* the caller's: see pages_nx_recover() */
};
/** Lists them; `room` entries at most. How many there are. */
u64 pages_nx_list(struct mmu_pages *p, struct pages_nx *out, u64 room);
/**
 * One of them is given up: forgotten, to be given in one piece again, or (`keep`) only no longer
 * counted as split. The caller flushes the vCPUs' TLBs.
 */
void pages_nx_recover(const struct pages_nx *nx);

/** The VM's clock of `when`, in ms. */
u32 pages_now(void);

/** The slow half of pages_note(). */
void pages_give(struct cpu *cpu, const struct mmu_slot *slot, u64 gpa, u8 need);

#endif
