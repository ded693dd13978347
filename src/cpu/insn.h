/*
 * insn.h - instructions that the host must not execute for the guest
 *
 * The translator copies ordinary instructions. The others - system, segmentation, far transfers,
 * string, and those that 64-bit mode lost - are decoded once into struct cpu_insn and executed by
 * one C function each, listed in insn.def as INSN(NAME, function). The function sees the complete
 * architectural state in struct cpu (cpu->rip at the instruction), advances cpu->rip itself
 * (cpu_insn_done()), and returns an enum cpu_ret.
 */
#ifndef CPU_INSN_H
#define CPU_INSN_H

#include "cpu/cpu.h"

struct cpu_insn {
	u16 op;	     /* enum cpu_op */
	u8 len;	     /* bytes */
	u8 opsize;   /* effective operand size in bytes: 1 for byte forms, 2, 4, 8 */
	u8 addrsize; /* 2, 4, 8 */
	u8 prefix;   /* CPU_PREFIX_* */
	u8 reg; /* ModRM.reg with REX.R (0..15); also the register in the opcode (with REX.B) */
	bool has_modrm;
	bool mem; /* the r/m operand is memory */
	u8 rm;	  /* its register number otherwise (with REX.B) */
	bool rex; /* byte registers 4..7 are SPL..DIL rather than AH..BH */
	/* Memory operand; for string instructions only seg (the override, default DS) is used. */
	u8 seg;		/* enum cpu_sreg */
	s8 base, index; /* GPR number or -1 */
	u8 scale;
	bool rip_relative; /* disp counts from this instruction's first byte, base is -1 */
	s64 disp;
	u64 imm; /* immediate, sign-extended to 64 bits where the instruction does so; far offset */
	u16 imm2;  /* far selector; ENTER's level */
	u8 opcode; /* last opcode byte, for families that share a function */
};

#define CPU_PREFIX_REP	 1 /* F3 */
#define CPU_PREFIX_REPNE 2 /* F2 */
#define CPU_PREFIX_LOCK	 4
#define CPU_PREFIX_66	 8

enum cpu_op {
#define INSN(name, fn) CPU_OP_##name,
#include "cpu/insn.def"
#undef INSN
	CPU_OP_COUNT,
	CPU_OP_NONE = 0xffff,
};

typedef int (*cpu_insn_fn)(struct cpu *cpu, const struct cpu_insn *in);
extern const cpu_insn_fn cpu_insn_table[CPU_OP_COUNT];
extern const char *const cpu_insn_name[CPU_OP_COUNT];

#define INSN(name, fn) int fn(struct cpu *cpu, const struct cpu_insn *in);
#include "cpu/insn.def"
#undef INSN

/** The instruction is complete: RIP moves behind it (wrapped to the code size), RF and shadows end. */
void cpu_insn_done(struct cpu *cpu, const struct cpu_insn *in);
/**
 * User space has answered the read, or the port access, that an instruction stopped for. True: with
 * that the instruction is complete. False: it has to run again (cpu->restart) and finds `data`, or
 * cpu->pio.data, where it asks.
 */
bool cpu_mmio_answer(struct cpu *cpu, const void *data);
bool cpu_pio_answer(struct cpu *cpu);
/** Ends an instruction of `len` bytes at RIP that user space has carried out; #DB behind it where somebody steps. */
void cpu_insn_skip(struct cpu *cpu, unsigned len);
/** Offset of the memory operand, truncated to the address size. */
u64 cpu_insn_offset(struct cpu *cpu, const struct cpu_insn *in);
/** #GP when the I/O permission bitmap forbids a port to this privilege level. enum cpu_ret. */
int cpu_port_check(struct cpu *cpu, u16 port, unsigned size);
/** Segment-checked read/write at seg:offset of n bytes. enum cpu_ret. */
int cpu_read(struct cpu *cpu, unsigned seg, u64 offset, void *buf, unsigned n);
/** Reads the far pointer in memory that is the operand: `size` bytes of offset and a selector. */
int cpu_read_far(struct cpu *cpu, const struct cpu_insn *in, u8 *buf, unsigned size);
int cpu_write(struct cpu *cpu, unsigned seg, u64 offset, const void *buf, unsigned n);
/**
 * seg:offset → linear address after limit, type and canonical checks for n bytes (#GP, or #SS for
 * SS; null and expand-down segments included). enum cpu_ret.
 */
int cpu_linear(struct cpu *cpu, unsigned seg, u64 offset, unsigned n, unsigned access, u64 *lin);
/** AMD's processors want the offsets of all n bytes in FS or GS canonical before its base is added. */
static inline bool cpu_offset_ok(const struct cpu *cpu, u64 offset, unsigned n)
{
	return cpu->vendor != CPU_VENDOR_AMD ||
	       (cpu_is_canonical(cpu, offset) && cpu_is_canonical(cpu, offset + n - 1));
}
/** r/m operand of opsize bytes: register or memory, zero-extended. */
int cpu_rm_read(struct cpu *cpu, const struct cpu_insn *in, u64 *value);
int cpu_rm_write(struct cpu *cpu, const struct cpu_insn *in, u64 value);
/** Writes a register with the operand-size rules (32-bit zero-extends in 64-bit mode, else keeps). */
void cpu_reg_write(struct cpu *cpu, unsigned reg, u64 value, unsigned size, bool rex);
u64 cpu_reg_read(const struct cpu *cpu, unsigned reg, unsigned size, bool rex);
/** Push/pop on the current stack with SS.B / 64-bit rules. RSP changes only on success. */
int cpu_push(struct cpu *cpu, u64 value, unsigned size);
int cpu_pop(struct cpu *cpu, u64 *value, unsigned size);

#endif
