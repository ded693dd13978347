/*
 * pcid.c - address spaces that come back
 */
#include "mmu/mmu_internal.h"

void stash_drop_all(struct cpu *cpu)
{
}

void stash_drop_pcid(struct cpu *cpu, unsigned pcid)
{
}

void stash_drop_page(struct cpu *cpu, u64 lin, unsigned pcid)
{
}

bool stash_drop_write(struct cpu *cpu, u64 gfn)
{
	return false;
}

void stash_destroy(struct cpu *cpu)
{
}

void mmu_set_cr3(struct cpu *cpu, u64 value)
{
	cpu->cr3 = value & ~BIT64(63);
	code_settle(cpu);
	tlb_flush_local(cpu);
}
