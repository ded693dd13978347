/* encode.h - the prefix and opcode bytes of an instruction */
#ifndef INSN_ENCODE_H
#define INSN_ENCODE_H

#include "base/types.h"

struct encode {
	u8 enc; /* enum tmpl_enc */
	u8 map; /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A, 5, 6 */
	u8 pp;	/* 0 none, 1 66, 2 F3, 3 F2; legacy also 4 66 F3, 5 66 F2 */
	u8 w, ll, b, opcode;
	u8 r, x, bb, r2; /* register number extensions, not inverted; bb extends r/m */
	u8 vvvv;	 /* 0..31, as a register number */
	u8 aaa, z;
	bool rex;    /* legacy: a REX prefix even when empty */
	bool vex3;   /* VEX: three-byte form even when two would do */
	bool no_rex; /* 32-bit mode */
};

/** Writes prefix and opcode (without other legacy prefixes). Returns the length. */
unsigned encode_prefix(const struct encode *e, u8 *p);

#endif
