/*
 * str.h - the frame of repeated instructions: string.c and pio.c
 */
#ifndef CPU_STR_H
#define CPU_STR_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

struct str {
	const struct cpu_insn *in;
	u64 mask;   /* of addresses and count */
	u64 count;  /* left; 1 without a prefix */
	unsigned n; /* element size */
	bool rep, down;
	bool single; /* stop after each element */
};

/** Reads prefixes, sizes and count. False: a repeat count of zero, the instruction is complete. */
bool str_begin(struct cpu *cpu, const struct cpu_insn *in, struct str *s);
/** Commits k elements: the count, and RSI and RDI as asked. */
void str_advance(struct cpu *cpu, struct str *s, u64 k, bool src, bool dst);
/**
 * After a chunk. True: leave with *ret, RIP behind the instruction when the count is used up.
 * max_writes: how many queued device writes to tolerate before the run loop must send them.
 */
bool str_stop(struct cpu *cpu, struct str *s, unsigned max_writes, int *ret);

static inline u64 str_offset(const struct cpu *cpu, const struct str *s, unsigned reg)
{
	return cpu->gpr[reg] & s->mask;
}

#endif
