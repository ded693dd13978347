/*
 * translator.h - what the memory layer asks of the translator above it
 *
 * mmu lies below jit and includes nothing of it; these three are declared here and defined there
 * (jit/jit.h describes them). All run on the vCPU's own thread, also from within a block.
 */
#ifndef MMU_TRANSLATOR_H
#define MMU_TRANSLATOR_H

#include "cpu/cpu.h"

void jit_flush(struct cpu *cpu);
void jit_invalidate(struct cpu *cpu, u64 gpa, unsigned n);
void jit_jump_cache_flush(struct cpu *cpu);

#endif
