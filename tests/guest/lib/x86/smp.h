/* More than one CPU. */
#ifndef GUEST_X86_SMP_H
#define GUEST_X86_SMP_H

#include "cpu.h"

/** Starts the others; cpu_count says how many there are then. */
void smp_start(void);
/** Runs fn(arg) on a CPU and does not wait. CPUs that have nothing to do sleep. */
void smp_post(unsigned cpu, void (*fn)(void *), void *arg);
/** Waits until a CPU has nothing to do. False after the time limit. */
bool smp_wait(unsigned cpu);
/** Posts and waits; dies after the time limit. */
void smp_call(unsigned cpu, void (*fn)(void *), void *arg);
/** Runs fn(arg) on all CPUs, this one included, at the same time, and waits for all. */
void smp_all(void (*fn)(void *), void *arg);

/* A CPU without work sleeps; this interrupt wakes it. */
#define VECTOR_WAKE 0xf1

/** Busy-waits. */
void delay_us(unsigned us);
/** TSC ticks in a millisecond, measured against the PIT. */
u64 tsc_khz(void);
/** Waits until *p is not old, at most ms milliseconds; true when it changed. */
bool wait_change(volatile u32 *p, u32 old, unsigned ms);

#endif
