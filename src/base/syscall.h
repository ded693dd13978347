/*
 * A system call by the bare instruction, for code that runs while the guest's vector state is live: the
 * kernel leaves that alone, and nothing promises that libc's wrappers do.
 */
#ifndef BASE_SYSCALL_H
#define BASE_SYSCALL_H

#include "base/types.h"

#include <sys/syscall.h>

/** The kernel's result: negative errno on failure. */
static inline long sys_call(long nr, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = 0;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#endif
