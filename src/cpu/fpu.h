/*
 * fpu.h - where the guest's x87 and vector state is
 */
#ifndef CPU_FPU_H
#define CPU_FPU_H

#include "cpu/cpu.h"

/** Allocates cpu->xsave in the host's standard XSAVE format, in its reset state. 0 or -ENOMEM. */
int cpu_fpu_init(struct cpu *cpu);
void cpu_fpu_destroy(struct cpu *cpu);
/** Puts the guest's state into the registers, keeping the host's MXCSR and FCW aside. */
void cpu_fpu_load(struct cpu *cpu);
/** Takes it out again; the host's control words are restored, x87 is empty, upper halves zero. */
void cpu_fpu_save(struct cpu *cpu);
/** XSAVE components kept in the registers while the guest runs (host XCR0 less PKRU and AMX). */
u64 cpu_fpu_mask(void);

#endif
