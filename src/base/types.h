/* Fixed-width names used everywhere in anykvm. */
#ifndef BASE_TYPES_H
#define BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;
typedef __int128 s128;

#define ARRAY_SIZE(a)		      (sizeof(a) / sizeof((a)[0]))
#define BIT(n)			      (1u << (n))
#define BIT64(n)		      (1ull << (n))
#define LIKELY(x)		      __builtin_expect(!!(x), 1)
#define UNLIKELY(x)		      __builtin_expect(!!(x), 0)
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/** Largest of two values of one type. */
#define MAX(a, b)                     \
	({                            \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ > b_ ? a_ : b_;    \
	})
/** Smallest of two values of one type. */
#define MIN(a, b)                     \
	({                            \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ < b_ ? a_ : b_;    \
	})

/** Bits hi..lo of v, shifted down. */
static inline u64 bits_get(u64 v, unsigned hi, unsigned lo)
{
	return (v >> lo) & (~0ull >> (63 - (hi - lo)));
}

/** Rounds v down to a multiple of a power of two. */
static inline u64 align_down(u64 v, u64 a)
{
	return v & ~(a - 1);
}

/** Rounds v up to a multiple of a power of two. */
static inline u64 align_up(u64 v, u64 a)
{
	return (v + a - 1) & ~(a - 1);
}

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ull
#define PAGE_MASK  (~(PAGE_SIZE - 1))

#endif
