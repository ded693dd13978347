/*
 * A lock and a wait on a word, without libc.
 *
 * The engine's helpers run while the guest's vector state is live, so they must not call into
 * pthread_mutex_lock (its code may use vector registers). The system call instruction itself
 * leaves them alone. The lock is the usual three-state futex: 0 free, 1 held, 2 held and
 * somebody sleeps. It is not recursive and not fair.
 */
#ifndef BASE_FUTEX_H
#define BASE_FUTEX_H

#include "base/types.h"

#include <linux/futex.h>
#include <sys/syscall.h>

#define FUTEX_NEVER UINT64_MAX

/** One futex system call; returns the kernel's result (negative errno on failure). */
static inline long futex_call(u32 *word, int op, u32 val, const void *timeout, u32 bits)
{
	register const void *r10 __asm__("r10") = timeout;
	register void *r8 __asm__("r8") = NULL;
	register unsigned long r9 __asm__("r9") = bits;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"((long)SYS_futex), "D"(word), "S"((long)op), "d"((long)val), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/**
 * Sleeps while *word == val, until a wake or the moment `deadline` (ns of CLOCK_MONOTONIC;
 * FUTEX_NEVER: no end). Wakes for no reason are possible: the caller loops.
 */
static inline void futex_wait(u32 *word, u32 val, u64 deadline)
{
	struct {
		s64 sec, nsec;
	} ts = {(s64)(deadline / 1000000000u), (s64)(deadline % 1000000000u)};

	futex_call(word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, val,
		   deadline == FUTEX_NEVER ? NULL : &ts, FUTEX_BITSET_MATCH_ANY);
}

/** Wakes up to n sleepers on the word. */
static inline void futex_wake(u32 *word, u32 n)
{
	futex_call(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n, NULL, 0);
}

/** Zero-initialised = free. */
struct futex_lock {
	u32 word;
};

static inline bool futex_trylock(struct futex_lock *l)
{
	u32 free = 0;

	return __atomic_compare_exchange_n(&l->word, &free, 1, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static inline void futex_lock(struct futex_lock *l)
{
	for (int spin = 0; spin < 64; spin++) {
		if (LIKELY(futex_trylock(l)))
			return;
		__builtin_ia32_pause();
	}
	while (__atomic_exchange_n(&l->word, 2, __ATOMIC_ACQUIRE) != 0)
		futex_wait(&l->word, 2, FUTEX_NEVER);
}

static inline void futex_unlock(struct futex_lock *l)
{
	if (UNLIKELY(__atomic_exchange_n(&l->word, 0, __ATOMIC_RELEASE) == 2))
		futex_wake(&l->word, 1);
}

#endif
