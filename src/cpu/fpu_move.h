/*
 * fpu_move.h - the guest's x87 and vector state in and out of the registers without XSAVE
 */
#ifndef CPU_FPU_MOVE_H
#define CPU_FPU_MOVE_H

#include "cpu/cpu.h"

/**
 * What this host allows for the components of cpu->fpu_mask: 0 when only XSAVE and XRSTOR will do,
 * otherwise those that fpu_move_load() can put into their initial state. cpu->xsave is initial.
 * x87 and vector registers are lost, the control words stay; for set-up.
 */
u64 fpu_move_supported(const struct cpu *cpu);
/** cpu->xsave into the registers, all of cpu->fpu_mask and MXCSR. */
void fpu_move_load(struct cpu *cpu);
/**
 * … and back, what is in use, which XSTATE_BV says afterwards; the data of other components is left
 * alone.
 */
void fpu_move_save(struct cpu *cpu);

#endif
