/* stats.c - names and values of the counters in struct mmu_cpu */
#include "mmu/stats.h"

#include "mmu/mmu_internal.h"

static const char *const names[] = {
#define MMU_STAT(name) #name,
#include "mmu/stats.def"
#undef MMU_STAT
};

static const char *stat_name(unsigned index)
{
	return names[index];
}

static u64 stat_value(const struct cpu *cpu, unsigned index)
{
	return cpu->mmu ? stat_read(&cpu->mmu->stat[index]) : 0;
}

const struct stat_set mmu_stats = {
	.count = MMU_STAT_COUNT,
	.prefix = "anykvm_tlb_",
	.name = stat_name,
	.value = stat_value,
};
