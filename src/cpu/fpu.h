/*
 * fpu.h - where the guest's x87 and vector state is
 *
 * While the vCPU runs, the state is in the host's own registers; otherwise in cpu->xsave, in the
 * host's standard XSAVE format. Data of components whose XSTATE_BV bit is clear is kept in its
 * initial value there, so that readers of the legacy area need not look at XSTATE_BV. PKRU is not
 * in it: it is cpu->pkru.
 */
#ifndef CPU_FPU_H
#define CPU_FPU_H

#include "cpu/cpu.h"

#define CPU_XSAVE_SIZE 4096 /* bytes at cpu->xsave; no component of cpu_fpu_mask() ends later */

/** Allocates cpu->xsave in the host's standard XSAVE format, in its reset state. 0 or -ENOMEM. */
int cpu_fpu_init(struct cpu *cpu);
void cpu_fpu_destroy(struct cpu *cpu);
/** Puts the saved state into its power-on values. Not while it is in the registers. */
void cpu_fpu_reset(struct cpu *cpu);
/** Puts the guest's state into the registers, keeping the host's MXCSR and FCW aside. */
void cpu_fpu_load(struct cpu *cpu);
/** Takes it out again; the host's control words are restored, x87 is empty, upper halves zero. */
void cpu_fpu_save(struct cpu *cpu);
/** XSAVE components kept in the registers while the guest runs (host XCR0 less PKRU and AMX). */
u64 cpu_fpu_mask(void);

/**
 * Copies the saved state out as an XSAVE image in the standard format, PKRU included, at most
 * `size` bytes (KVM_GET_XSAVE). Not while the state is in the registers.
 */
void cpu_fpu_image_get(struct cpu *cpu, void *image, size_t size);
/**
 * Replaces the saved state by an image (KVM_SET_XSAVE). 0, or -EINVAL when the image has reserved
 * bits, components that this host or the guest's CPUID lacks, or is compacted.
 */
int cpu_fpu_image_set(struct cpu *cpu, const void *image, size_t size);

#endif
