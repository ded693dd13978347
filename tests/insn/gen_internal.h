/* gen_internal.h - between gen.c and gen_seq.c */
#ifndef INSN_GEN_INTERNAL_H
#define INSN_GEN_INTERNAL_H

#include "insn.h"

/** True when the instruction writes one of the general registers in mask. */
bool gen_protects(const struct insn_case *c, const ZydisDecodedInstruction *in,
		  const ZydisDecodedOperand *op, u32 mask);
/** One instruction that writes none of the registers in `protect`. */
bool gen_insn_masked(struct rng *r, const struct insn_case *c, u32 tmpl, u32 protect,
		     struct insn_item *out);

/** A fixed instruction. */
void gen_item(struct insn_item *it, const u8 *bytes, unsigned len);
/** Segment loads and far transfers, at item i. Returns the number of items, 0: no room. */
unsigned gen_far(struct rng *r, struct insn_case *c, unsigned i, unsigned room);

#endif
