/*
 * Host timers: one service thread per VM runs callbacks at moments of CLOCK_MONOTONIC.
 *
 * Arming is on the guest's hot path (every tick of a guest kernel programs its local APIC), so
 * it makes a system call only when the new moment lies before the one the thread sleeps for.
 * Moving a timer later, or disarming it, leaves the thread to wake once for nothing.
 *
 * A service made with TIMER_MANUAL has no thread: its clock stands until
 * timer_service_advance() moves it and runs what is due on the caller's thread. Tests use it,
 * and a replay can.
 *
 * Locks: `timer_service.lock` protects the heap and every timer's `deadline`, `slot` and
 * `cancelling`. It is a leaf: nothing is called with it held, and callbacks run without it.
 * Callers may hold their own locks around every function except timer_cancel() and
 * timer_destroy(), which wait for a running callback: not with a lock that the callback takes.
 *
 * timer_arm(), timer_disarm() and timer_service_now() touch general registers only and do not
 * allocate; the rest is for set-up and tear-down.
 */
#ifndef BASE_TIMER_H
#define BASE_TIMER_H

#include "base/types.h"

struct timer_service;

struct timer {
	struct timer_service *service;
	void (*fire)(void *arg);
	void *arg;
	u64 deadline;	/* ns; meaningful while slot != 0 */
	u32 slot;	/* place in the heap, from 1; 0: not armed */
	u32 cancelling; /* callers of timer_cancel() that wait */
};

enum timer_clock {
	TIMER_MONOTONIC, /* CLOCK_MONOTONIC and a thread with every signal blocked */
	TIMER_MANUAL,	 /* a clock that starts at 1 s and is moved by hand */
};

/** Most timers one service holds. */
#define TIMER_MAX 65536u

/**
 * Makes a service. The thread starts with the first timer_init(), which a client reaches before
 * it installs a seccomp filter; arming never starts it.
 * Returns 0 or -ENOMEM.
 */
int timer_service_create(struct timer_service **out, enum timer_clock clock);

/** Stops the thread (waiting for a running callback) and frees the service. NULL is allowed. */
void timer_service_destroy(struct timer_service *s);

/** The service's clock, in ns. */
u64 timer_service_now(const struct timer_service *s);

/** TIMER_MANUAL only: moves the clock forward to `ns`, running what becomes due in order. */
void timer_service_advance(struct timer_service *s, u64 ns);

/** Prepares a timer; `fire(arg)` will run on the service thread. 0, -ENOMEM, -EAGAIN. */
int timer_init(struct timer_service *s, struct timer *t, void (*fire)(void *arg), void *arg);

/** (Re)arms for the absolute moment `ns`; a moment in the past fires as soon as possible. */
void timer_arm(struct timer *t, u64 ns);

/** Disarms without waiting; true when it was armed. A callback may still be running. */
bool timer_disarm(struct timer *t);

/**
 * Disarms and waits until the callback is not running (unless called from the callback). Arming
 * while it waits, as a callback may, has no effect.
 */
void timer_cancel(struct timer *t);

/** timer_cancel() and gives the timer's place back. A timer never initialised is allowed. */
void timer_destroy(struct timer *t);

#endif
