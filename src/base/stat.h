/*
 * stat.h - how a layer shows its counters: names and values by number, 0 … count - 1
 *
 * Counters are plain words that the vCPU's thread adds to; others may read them at any time.
 */
#ifndef BASE_STAT_H
#define BASE_STAT_H

#include "base/types.h"

struct cpu;

struct stat_set {
	unsigned count;
	const char *prefix;
	/** The name behind the prefix. */
	const char *(*name)(unsigned index);
	u64 (*value)(const struct cpu *cpu, unsigned index);
};

static inline u64 stat_read(const u64 *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
