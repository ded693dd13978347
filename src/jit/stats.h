/* stats.h - counters of the translator: stats.def, and C instructions by name */
#ifndef JIT_STATS_H
#define JIT_STATS_H

#include "base/stat.h"

extern const struct stat_set jit_stats;
/** Instructions that C executed, by name. */
extern const struct stat_set jit_insn_stats;

#endif
