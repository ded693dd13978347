/*
 * pmu.h - performance counters as a feature of the guest's CPU
 *
 * Intel's architectural version 2 (general and fixed counters, global control) or AMD's legacy and
 * core-extension counters. Which of them there are follows from the guest's CPUID.
 */
#ifndef CPU_PMU_H
#define CPU_PMU_H

#include "base/types.h"

struct cpu;

#define PMU_GP_MAX	 8u			      /* Intel */
#define PMU_GP_MAX_AMD	 6u			      /* with the core extension, else 4 */
#define PMU_FIXED_MAX	 3u			      /* instructions, cycles, reference cycles */
#define PMU_COUNTERS	 (PMU_GP_MAX + PMU_FIXED_MAX) /* fixed ones behind the general ones */
#define PMU_WIDTH	 48u
#define PMU_EVENTS_INTEL 7u /* length of CPUID leaf 0xA's list */
/* Of that list, those that are not counted: references and misses of a cache, mispredictions. */
#define PMU_EVENTS_MISSING 0x58u

#define PMU_CAP_FULL_WIDTH BIT64(13) /* in PERF_CAPABILITIES */

/* What an instruction was, for events; the engine knows it from decoding. */
#define PMU_INSN_BRANCH 1u
#define PMU_INSN_LOAD	2u
#define PMU_INSN_STORE	4u
#define PMU_INSN_FLUSH	8u /* CLFLUSH and its like: a cache reference and a miss */

/* Part of struct cpu. */
struct cpu_pmu {
	bool enabled; /* the VM has a PMU */
	bool running; /* guest code runs; else cycles do not pass: halted, in user space */
	u8 version;   /* Intel's; 0: none of its registers. AMD: 0 */
	u8 gp_count, fixed_count;
	bool extended; /* AMD: PERFCTR_CORE */
	u64 caps;      /* PERF_CAPABILITIES */
	u64 counter[PMU_COUNTERS];
	u64 sel[PMU_GP_MAX];
	u64 fixed_ctrl, global_ctrl, global_status;
	/* Derived from the registers, the event filter and the privilege level. */
	u32 on;	     /* counters that may count at some privilege level; 0: nothing to do */
	u32 by_time; /* counters that count cycles now */
	u64 by_insn; /* events of those that count instructions now, four bits each; 0: none */
	u64 since;   /* host TSC up to which by_time counters are added up */
};

/** Power-on values. `enabled` stays. */
void cpu_pmu_reset(struct cpu *cpu);
/** CPUID was set: which counters there are. Clears control registers, as KVM does. */
void cpu_pmu_refresh(struct cpu *cpu);
/** The event filter was changed. vCPU thread. */
void cpu_pmu_filter_changed(struct cpu *cpu);

/**
 * For cpu_mode_update(): the privilege level may be another. Returns MODE_STEP when single
 * instructions have to be counted, else 0. Called only while cpu->pmu.on.
 */
u32 cpu_pmu_mode(struct cpu *cpu);

/**
 * An instruction was completed. `active`: cpu->pmu.by_insn as it was when the instruction began (it
 * may have changed that); `what`: PMU_INSN_*.
 */
void cpu_pmu_retired(struct cpu *cpu, u64 active, unsigned what);

/** Brings the counters of cycles up to date, and overflows and interrupts with them. */
void cpu_pmu_settle(struct cpu *cpu);
/** TSC ticks of the host until a counter of cycles overflows with an interrupt; ~0: never. */
u64 cpu_pmu_next(const struct cpu *cpu);

/** RDPMC. 0, or 1: #GP. */
int cpu_pmu_rdpmc(struct cpu *cpu, u32 index, u64 *value);

#endif
