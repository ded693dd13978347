/* stats.h - counters of the memory management, see stats.def */
#ifndef MMU_STATS_H
#define MMU_STATS_H

#include "base/stat.h"

enum {
#define MMU_STAT(name) MMU_STAT_##name,
#include "mmu/stats.def"
#undef MMU_STAT
	MMU_STAT_COUNT,
};

extern const struct stat_set mmu_stats;

#endif
