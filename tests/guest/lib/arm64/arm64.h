/* CPUs, exceptions and the timer of an arm64 guest. */
#ifndef GUEST_ARM64_H
#define GUEST_ARM64_H

#include "../lib.h"

#define CPUS_MAX 8

#define sys_read(reg)                                                      \
	({                                                                 \
		u64 v_;                                                    \
		__asm__ volatile("mrs %0, " #reg : "=r"(v_) : : "memory"); \
		v_;                                                        \
	})
#define sys_write(reg, v) __asm__ volatile("msr " #reg ", %0\nisb" : : "r"((u64)(v)) : "memory")

/* Saved by the vectors, as the assembler file has it. */
struct regs {
	u64 x[18];
	u64 x18, x29, x30, pad;
	u64 pc, pstate;
};

struct trap {
	bool taken;
	u32 class; /* ESR_EL1.EC */
	u64 esr, far, pc;
};

/** The last exception that was caught: an instruction that faults is skipped. */
extern struct trap trap_last;
extern bool trap_expected;
/** Runs fn(arg); true when it faulted. */
bool trap_try(void (*fn)(void *), void *arg);

extern unsigned cpu_count;
/** Starts the others by PSCI. */
void smp_start(void);
void smp_call(unsigned cpu, void (*fn)(void *), void *arg);
void smp_all(void (*fn)(void *), void *arg);
long psci(u64 fn, u64 a, u64 b, u64 c);
extern u64 root[512];

#endif
