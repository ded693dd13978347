/*
 * rig.h - one VM with some RAM and a few vCPUs, without the other layers
 */
#ifndef TESTS_MMU_RIG_H
#define TESTS_MMU_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/feature.h"
#include "mmu/mmu_internal.h"
#include "mmu/translator.h"

#define RIG_RAM	 (64ull << 20)
#define RIG_CPUS 4
/* RAM at 0; a read-only slot; RAM above 4 GiB (the second half of the same mapping). */
#define RIG_ROM_GPA  0xfffc0000ull
#define RIG_ROM_SIZE 0x40000ull
#define RIG_HIGH_GPA 0x100000000ull
#define RIG_DEVICE   0xe0000000ull /* no slot */
#define RIG_PT	     0x1000000ull  /* page tables are built from here */

struct rig {
	struct mmu_vm vm;
	struct cpu *cpu[RIG_CPUS];
	u8 *ram, *rom;
	struct mmu_map *map;
	u64 next_table;
	/* what the stubs saw */
	unsigned invalidated, jit_flushes, jc_flushes;
	u64 inv_gpa;
	unsigned inv_len;
	struct cpu *inv_cpu;
	void (*on_invalidate)(struct cpu *cpu, u64 gpa, unsigned n);
	unsigned device_reads, device_writes;
	u64 dev_gpa;
	u8 dev_byte;	    /* what the device answers */
	bool device_inside; /* cpu->ops answers at RIG_DEVICE .. +0xff */
};

extern struct rig rig;

void rig_make(unsigned cpus);
void rig_free(void);
/** 64-bit paging with empty tables, CPL 0, WP, NX, PGE. */
void rig_long(struct cpu *cpu);
/** Maps one page; size 4K, 2M or 1G; flags are entry bits of the leaf. Upper levels allow all. */
void rig_map(struct cpu *cpu, u64 lin, u64 gpa, u64 size, u64 flags);
/** Address of the leaf entry. */
u64 *rig_pte(struct cpu *cpu, u64 lin);
void rig_feature(struct cpu *cpu, enum cpu_feature f, bool on);
void rig_cpl(struct cpu *cpu, unsigned cpl);
/** As generated code tests the TLB: hit for n bytes? */
bool rig_hit(struct cpu *cpu, u64 lin, unsigned n, bool write);

#define P  1ull
#define W  2ull
#define U  4ull
#define A  0x20ull
#define D  0x40ull
#define PS 0x80ull
#define G  0x100ull
#define NX BIT64(63)

#endif
