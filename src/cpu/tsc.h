/*
 * tsc.h - the guest's time-stamp counter
 */
#ifndef CPU_TSC_H
#define CPU_TSC_H

#include "cpu/cpu.h"

/** The host's counter. */
static inline u64 tsc_host(void)
{
	u32 lo, hi;

	/* LFENCE: RDTSCP waits for earlier loads, and a plain RDTSC was seen to run backwards
	   between CPUs by hundreds of cycles */
	__asm__ volatile("lfence\n\trdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

/** A host counter value in units of the guest's. */
static inline u64 cpu_tsc_scale(const struct cpu *cpu, u64 host)
{
	if (LIKELY(cpu->tsc_ratio == 1ull << 48))
		return host;
	return (u64)(((u128)host * cpu->tsc_ratio) >> 48);
}

/** The guest's counter at a host counter value. */
static inline u64 cpu_tsc_at(const struct cpu *cpu, u64 host)
{
	return cpu_tsc_scale(cpu, host) + (u64)cpu->tsc_offset;
}

/** The guest's counter now. */
static inline u64 cpu_tsc_read(const struct cpu *cpu)
{
	return cpu_tsc_at(cpu, tsc_host());
}

/** … as the level that runs sees it. */
static inline u64 cpu_tsc_visible(const struct cpu *cpu)
{
	u64 host = tsc_host();

	return UNLIKELY(cpu->guest_mode) ? cpu->nested_ops->tsc(cpu, host) : cpu_tsc_at(cpu, host);
}

/** Sets the counter by moving its offset; a guest's write shows in TSC_ADJUST, the client's not. */
void cpu_tsc_write(struct cpu *cpu, u64 value, bool host);

#endif
