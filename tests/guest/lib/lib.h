/*
 * What the runtime gives to every test, on every architecture.
 *
 * A test is one kernel with a function test_main(). It reports with report() and friends; the
 * runtime prints TAP on the serial port and ends the machine with 0 (all passed), 1 (some
 * failed) or 2 (the test itself died).
 */
#ifndef GUEST_LIB_H
#define GUEST_LIB_H

#include "types.h"

/** The test. */
void test_main(void);

/* ---- reports; any CPU may call them, one at a time ---- */

#define PRINTF_LIKE(a, b) __attribute__((format(printf, a, b)))

/** One test point. Returns ok. */
bool report(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** A point that passes when two numbers are equal, and prints both when they are not. */
bool report_eq(u64 got, u64 want, const char *fmt, ...) PRINTF_LIKE(3, 4);
/** A point that cannot be tested here, and why. */
void report_skip(const char *fmt, ...) PRINTF_LIKE(1, 2);
/** A point that is known to fail: counted as such, or as a pass when it passes. */
void report_xfail(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** Text that belongs to the test's log ("# ..."). */
void note(const char *fmt, ...) PRINTF_LIKE(1, 2);

/*
 * Many cases that make one point: fail_case() for each bad one (the first few are printed), then
 * report_cases() once.
 */
struct cases {
	u64 run, failed;
};
void fail_case(struct cases *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
void report_cases(const struct cases *c, const char *name);

/** Prints the plan and ends the machine. */
void report_done(void) __attribute__((noreturn));
/** The test itself cannot go on: says so and ends the machine with 2. */
void die(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));

/* ---- text ---- */

int printf(const char *fmt, ...) PRINTF_LIKE(1, 2);
int vsnprintf(char *buf, size_t size, const char *fmt, va_list args);
int snprintf(char *buf, size_t size, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- memory ---- */

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strncmp(const char *a, const char *b, size_t n);

/** A zeroed page that is nobody else's; never returned. Physical = linear address. */
void *page_alloc(void);
/** Contiguous zeroed pages, aligned to their own size rounded up to a power of two. */
void *pages_alloc(unsigned count);

/* ---- the command line: "NAME=NUMBER" words ---- */

extern char cmdline[512];
u64 param(const char *name, u64 otherwise);

/* ---- given by each architecture ---- */

void arch_puts(const char *text, size_t len);
void arch_exit(unsigned status) __attribute__((noreturn));
/** Wall clock good enough for time limits. */
u64 arch_ticks(void);
static inline void barrier(void)
{
	__asm__ volatile("" ::: "memory");
}

#endif
