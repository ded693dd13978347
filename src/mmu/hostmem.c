/*
 * hostmem.c - accesses to client memory that may fault in the host
 */
#include "mmu/hostmem.h"
#include "mmu/mmu.h"
#include "base/mem.h"

#include <errno.h>

struct hostmem_row {
	s32 insn, fixup;
};

/* The linker makes these for a section whose name is a C identifier. */
extern const struct hostmem_row __start_anykvm_extable[] __attribute__((visibility("hidden")));
extern const struct hostmem_row __stop_anykvm_extable[] __attribute__((visibility("hidden")));

u64 hostmem_fixup(u64 pc)
{
	for (const struct hostmem_row *r = __start_anykvm_extable; r < __stop_anykvm_extable; r++)
		if ((u64)&r->insn + (s64)r->insn == pc)
			return (u64)&r->fixup + (s64)r->fixup;
	return 0;
}

static inline bool get_one(void *dst, const void *guest, unsigned n)
{
	u8 b;
	u16 w;
	u32 l;
	u64 q;

	switch (n) {
	case 1:
		if (!hostmem_load8(guest, &b))
			return false;
		*(u8 *)dst = b;
		return true;
	case 2:
		if (!hostmem_load16(guest, &w))
			return false;
		*(u16_una *)dst = w;
		return true;
	case 4:
		if (!hostmem_load32(guest, &l))
			return false;
		*(u32_una *)dst = l;
		return true;
	default:
		if (!hostmem_load64(guest, &q))
			return false;
		*(u64_una *)dst = q;
		return true;
	}
}

static inline bool put_one(void *guest, const void *src, unsigned n)
{
	switch (n) {
	case 1:
		return hostmem_store8(guest, *(const u8 *)src);
	case 2:
		return hostmem_store16(guest, *(const u16_una *)src);
	case 4:
		return hostmem_store32(guest, *(const u32_una *)src);
	default:
		return hostmem_store64(guest, *(const u64_una *)src);
	}
}

/* Bytes of the next piece: the largest power of two that the guest address is aligned to. */
static inline unsigned piece(const u8 *guest, size_t n)
{
	unsigned size = 8;

	while (size > n || ((u64)guest & (size - 1)))
		size >>= 1;
	return size;
}

/* From here on nothing is read or written in one piece, as by the processor itself. */
#define BLOCK_COPY 128u

bool hostmem_get(void *dst, const void *guest, size_t n)
{
	const u8 *g = guest;
	u8 *d = dst;

	if (n <= 8 && !(n & (n - 1)))
		return n == 0 || get_one(dst, guest, (unsigned)n);
	if (n >= BLOCK_COPY)
		return !hostmem_copy(dst, guest, n);
	while (n) {
		unsigned size = piece(g, n);

		if (!get_one(d, g, size))
			return false;
		d += size;
		g += size;
		n -= size;
	}
	return true;
}

bool hostmem_put(void *guest, const void *src, size_t n)
{
	const u8 *s = src;
	u8 *g = guest;

	if (n <= 8 && !(n & (n - 1)))
		return n == 0 || put_one(guest, src, (unsigned)n);
	if (n >= BLOCK_COPY)
		return !hostmem_copy(guest, src, n);
	while (n) {
		unsigned size = piece(g, n);

		if (!put_one(g, s, size))
			return false;
		s += size;
		g += size;
		n -= size;
	}
	return true;
}

int hostmem_same(const void *guest, const void *buf, size_t n)
{
	const u8 *g = guest, *b = buf;
	u8 v;

	while (n >= 8) {
		u64 q;

		if (!hostmem_load64(g, &q))
			return -1;
		if (q != *(const u64_una *)b)
			return 0;
		g += 8;
		b += 8;
		n -= 8;
	}
	for (; n; n--, g++, b++) {
		if (!hostmem_load8(g, &v))
			return -1;
		if (v != *b)
			return 0;
	}
	return 1;
}

int hostmem_copy(void *dst, const void *src, size_t n)
{
	u32 err = 0;

	__asm__ volatile("1: rep movsb\n2:\n" HOSTMEM_FIXUP
			 : "+D"(dst), "+S"(src), "+c"(n), [err] "+&r"(err)
			 :
			 : "memory");
	return err ? -EFAULT : 0;
}

#define CMPXCHG(type, suffix)                                                                 \
	({                                                                                    \
		type o_ = (type)*old;                                                         \
		__asm__ volatile("1: lock cmpxchg" suffix " %[v], %[mem]\n2:\n" HOSTMEM_FIXUP \
				 : [mem] "+m"(*(type *)p), "+&a"(o_), [err] "+&r"(err)        \
				 : [v] "q"((type) new)                                        \
				 : "memory", "cc");                                           \
		o_;                                                                           \
	})

int hostmem_cmpxchg(void *p, u64 *old, u64 new, unsigned n, bool *done)
{
	u32 err = 0;
	u64 seen, want;

	switch (n) {
	case 1:
		want = (u8)*old;
		seen = CMPXCHG(u8, "b");
		break;
	case 2:
		want = (u16)*old;
		seen = CMPXCHG(u16, "w");
		break;
	case 4:
		want = (u32)*old;
		seen = CMPXCHG(u32, "l");
		break;
	default:
		want = *old;
		seen = CMPXCHG(u64, "q");
		break;
	}
	if (err)
		return -EFAULT;
	*done = seen == want;
	*old = seen;
	return 0;
}
