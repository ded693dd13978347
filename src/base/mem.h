/*
 * Memory copies that touch no vector register.
 *
 * While a vCPU runs, the guest's x87/SSE/AVX state is live in the host's registers. libc's
 * memcpy and friends use those registers, so code that the running engine calls uses these.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/types.h"

typedef u16 __attribute__((may_alias, aligned(1))) u16_una;
typedef u32 __attribute__((may_alias, aligned(1))) u32_una;
typedef u64 __attribute__((may_alias, aligned(1))) u64_una;

/* Up to 16 bytes: two moves that may overlap. */
static inline void mem_copy_short(u8 *dst, const u8 *src, size_t n)
{
	if (n >= 8) {
		u64 first = *(const u64_una *)src, last = *(const u64_una *)(src + n - 8);

		*(u64_una *)dst = first;
		*(u64_una *)(dst + n - 8) = last;
	} else if (n >= 4) {
		u32 first = *(const u32_una *)src, last = *(const u32_una *)(src + n - 4);

		*(u32_una *)dst = first;
		*(u32_una *)(dst + n - 4) = last;
	} else if (n) {
		u8 middle = src[n / 2], last = src[n - 1];

		*dst = *src;
		dst[n / 2] = middle;
		dst[n - 1] = last;
	}
}

/** Copies n bytes; the areas must not overlap. */
static inline void mem_copy(void *dst, const void *src, size_t n)
{
	/* The string instruction takes 4 to 5 ns to begin. */
	if (n <= 16)
		mem_copy_short(dst, src, n);
	else
		__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

/** Fills n bytes with one value. */
static inline void mem_set(void *dst, u8 value, size_t n)
{
	u64 v = value * 0x0101010101010101ull;
	u8 *p = dst;

	if (n > 16) {
		__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(value) : "memory");
	} else if (n >= 8) {
		*(u64_una *)p = v;
		*(u64_una *)(p + n - 8) = v;
	} else if (n >= 4) {
		*(u32_una *)p = (u32)v;
		*(u32_una *)(p + n - 4) = (u32)v;
	} else if (n) {
		p[0] = p[n / 2] = p[n - 1] = value;
	}
}

/** True when n bytes are the same in both areas. */
static inline bool mem_equal(const void *a, const void *b, size_t n)
{
	const u8 *p = a, *q = b;

	while (n >= 8) {
		if (*(const u64_una *)p != *(const u64_una *)q)
			return false;
		p += 8;
		q += 8;
		n -= 8;
	}
	while (n--)
		if (*p++ != *q++)
			return false;
	return true;
}

/** Loads a little-endian value of 1, 2, 4 or 8 bytes from an address of any alignment. */
static inline u64 mem_load(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const u8 *)p;
	case 2:
		return *(const u16_una *)p;
	case 4:
		return *(const u32_una *)p;
	default:
		return *(const u64_una *)p;
	}
}

/** Stores the low 1, 2, 4 or 8 bytes of a value at an address of any alignment. */
static inline void mem_store(void *p, u64 v, unsigned size)
{
	switch (size) {
	case 1:
		*(u8 *)p = (u8)v;
		break;
	case 2:
		*(u16_una *)p = (u16)v;
		break;
	case 4:
		*(u32_una *)p = (u32)v;
		break;
	default:
		*(u64_una *)p = v;
		break;
	}
}

#endif
