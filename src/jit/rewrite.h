/* rewrite.h - an ordinary instruction with the host's operands: rewrite.c decides, encode.c emits */
#ifndef JIT_REWRITE_H
#define JIT_REWRITE_H

#include "jit/jit_internal.h"

/* A register operand field of the encoding. */
struct field {
	bool used;
	bool high; /* AH..BH */
	bool write, read;
	u8 guest; /* GPR number */
	u8 host;  /* what goes into the encoding */
	u8 size;  /* bytes */
};

struct rewrite {
	struct field reg, rm, vvvv, opc;
	bool mem;
	bool home; /* rm is in memory: the register's place in struct cpu */
	u8 flip;   /* what turns the opcode into the one with reg and rm exchanged */
	unsigned mem_op;
	unsigned mem_size;
	unsigned access; /* MMU_* */
	bool bit_string; /* BT family with a register bit offset on memory */
	int base, index; /* the host memory operand */
	s32 disp;
	bool rcx_in, rcx_out; /* RCX is an implicit operand */
	bool rdi_mem;	      /* MASKMOV: implicit [rDI] */
	unsigned free[3], free_count;
};

/** Emits the current instruction with these operands. */
void jit_emit_rewritten(struct trans *t, const struct rewrite *w);

#endif
