/*
 * perfmap.h - the addresses of translated code in /tmp/perf-PID.map, for perf(1)
 *
 * A line a block: start, size, "guest:ADDRESS:PRIVILEGE". Blocks that are dropped stay in the file;
 * code that comes later at the same place has a later line.
 */
#ifndef JIT_PERFMAP_H
#define JIT_PERFMAP_H

#include "base/types.h"

struct cpu;
struct jit_block;

/** Opens the file for this vCPU's cache. 0 or -errno. */
int jit_perfmap_open(struct cpu *cpu);
void jit_perfmap_close(struct cpu *cpu);
/** A block was translated. The guest's FPU state is saved: libc may be called. */
void jit_perfmap_add(const struct cpu *cpu, const struct jit_block *b);

#endif
