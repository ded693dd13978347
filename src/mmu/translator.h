/*
 * translator.h - what the layers cpu and mmu ask of the translator above them
 *
 * They lie below jit and include nothing of it; these few are declared here and defined there
 * (jit/jit.h describes them). All run on the vCPU's own thread, also from within a block.
 */
#ifndef MMU_TRANSLATOR_H
#define MMU_TRANSLATOR_H

#include "cpu/cpu.h"

void jit_flush(struct cpu *cpu);
void jit_invalidate(struct cpu *cpu, u64 gpa, unsigned n);
void jit_jump_cache_flush(struct cpu *cpu);
void jit_jump_cache_flush_local(struct cpu *cpu);
void jit_jump_cache_flush_guest(struct cpu *cpu);
void jit_jump_cache_flush_page(struct cpu *cpu, u64 page, unsigned shift);
void jit_jump_cache_flush_window(struct cpu *cpu);
void jit_cross_links_drop(struct cpu *cpu);
void jit_cross_links_drop_page(struct cpu *cpu, u64 page);
u64 jit_guest_pc(struct cpu *cpu, u64 host_pc);

#endif
