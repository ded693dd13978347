/*
 * jit.h - the translator's face to the run loop
 */
#ifndef JIT_JIT_H
#define JIT_JIT_H

#include "cpu/cpu.h"

/** Maps a vCPU's code cache (both views, decision D9) and emits its thunks. 0 or -errno. */
int jit_cpu_init(struct cpu *cpu, size_t cache_bytes);
void jit_cpu_destroy(struct cpu *cpu);

/**
 * Runs guest code until cpu->exit.reason says why it stopped. The caller has loaded the guest's
 * FPU state (cpu_fpu_load) and is the vCPU's thread. Exceptions are delivered inside.
 */
void jit_run(struct cpu *cpu);
/**
 * Between the two, GS base stays as generated code needs it, which spares jit_run() and jit_step() two
 * writes of some 12 ns each. Same thread.
 */
void jit_enter(struct cpu *cpu);
void jit_leave(struct cpu *cpu);
/** Runs exactly one guest instruction (with restart answers, if any). Same results. */
void jit_step(struct cpu *cpu);

/** Drops all translated code. */
void jit_flush(struct cpu *cpu);
/** Drops the blocks translated from bytes [gpa, gpa + n) of one page. */
void jit_invalidate(struct cpu *cpu, u64 gpa, unsigned n);
/** Empties the jump caches (all views): linear addresses may mean other code now. */
void jit_jump_cache_flush(struct cpu *cpu);
/** Likewise, of addresses that no global translation covers; but the window's code keeps its own (mmu/window_code.c). */
void jit_jump_cache_flush_local(struct cpu *cpu);
/** Likewise, of those alone. */
void jit_jump_cache_flush_window(struct cpu *cpu);
/** Likewise, of a nested guest's views. */
void jit_jump_cache_flush_guest(struct cpu *cpu);
/** Likewise, of the addresses in one aligned region of 1 << shift bytes. */
void jit_jump_cache_flush_page(struct cpu *cpu, u64 page, unsigned shift);

/** Takes back direct jumps between pages of the window's code: all, or those to one page. */
void jit_cross_links_drop(struct cpu *cpu);
void jit_cross_links_drop_page(struct cpu *cpu, u64 page);

/**
 * The client may have changed guest memory behind the vCPU's back (KVM_RUN begins): code is compared
 * before it runs again. vCPU thread.
 */
void jit_client_wrote(struct cpu *cpu);

/**
 * Installs the handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP, once per process. Faults
 * whose PC is not in generated code or hostmem go on to the handlers that were there before.
 * 0 or -errno.
 */
int jit_signal_install(void);

/** Guest RIP of the instruction that a host address in the code cache belongs to, or 0. */
u64 jit_guest_pc(struct cpu *cpu, u64 host_pc);

#endif
