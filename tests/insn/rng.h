/* rng.h - a small, fast, repeatable random number generator (SplitMix64) */
#ifndef INSN_RNG_H
#define INSN_RNG_H

#include "base/types.h"

struct rng {
	u64 s;
};

static inline u64 rng_next(struct rng *r)
{
	u64 z = (r->s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/** A number below n (n < 2^32). */
static inline u32 rng_below(struct rng *r, u32 n)
{
	return (u32)(((rng_next(r) >> 32) * n) >> 32);
}

/** True with a probability of n percent. */
static inline bool rng_percent(struct rng *r, u32 n)
{
	return rng_below(r, 100) < n;
}

/** A generator for one case of one run. */
static inline struct rng rng_derive(u64 seed, u64 number)
{
	struct rng r = {seed ^ (number * 0xd1342543de82ef95ull)};

	r.s = rng_next(&r) + seed;
	return r;
}

#endif
