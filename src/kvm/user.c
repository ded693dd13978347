/* Copies to and from the client's memory; faults are caught by hostmem. */
#include "kvm/user.h"

#include "mmu/mmu.h"

#include <stdlib.h>

/* Addresses from here on are the kernel's or not canonical: a plain access would not fault with
 * an address that the signal handler understands. */
#define USER_END 0x00fffffffffff000ull

static bool user_ok(u64 addr, size_t n)
{
	return addr < USER_END && n <= USER_END - addr;
}

int user_copy_in(void *dst, u64 src, size_t n)
{
	if (!n)
		return 0;
	if (!user_ok(src, n) || hostmem_copy(dst, (const void *)src, n))
		return -EFAULT;
	return 0;
}

int user_copy_out(u64 dst, const void *src, size_t n)
{
	if (!n)
		return 0;
	if (!user_ok(dst, n) || hostmem_copy((void *)dst, src, n))
		return -EFAULT;
	return 0;
}

int user_clear(u64 dst, size_t n)
{
	static const u8 zeros[PAGE_SIZE];

	while (n) {
		size_t part = MIN(n, sizeof(zeros));

		if (user_copy_out(dst, zeros, part))
			return -EFAULT;
		dst += part;
		n -= part;
	}
	return 0;
}

int user_array_in(void **out, u64 src, size_t n, size_t size, size_t max)
{
	void *p;

	*out = NULL;
	if (n > max)
		return -E2BIG;
	if (!n)
		return 0;
	p = malloc(n * size);
	if (!p)
		return -ENOMEM;
	if (user_copy_in(p, src, n * size)) {
		free(p);
		return -EFAULT;
	}
	*out = p;
	return 0;
}
