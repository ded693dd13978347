/* Fixed-width names and small helpers of the VMM, on top of GLib's. */
#ifndef VMM_TYPES_H
#define VMM_TYPES_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n)	      (1u << (n))
#define BIT64(n)      (1ull << (n))

/** Rounds up to a multiple of a power of two. */
static inline u64 align_up(u64 v, u64 a)
{
	return (v + a - 1) & ~(a - 1);
}

#endif
