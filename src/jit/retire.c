/* retire.c - see retire.h */
#include "jit/retire.h"

#include "cpu/pmu.h"
#include "jit/jit_internal.h"

static bool is_branch(const ZydisDecodedInstruction *in)
{
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_INTERRUPT:
		return true;
	default:
		return false;
	}
}

static bool is_flush(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_CLFLUSH || m == ZYDIS_MNEMONIC_CLFLUSHOPT ||
	       m == ZYDIS_MNEMONIC_CLWB;
}

u8 jit_retire_class(const struct trans *t)
{
	u8 what = is_branch(&t->in) ? PMU_INSN_BRANCH : 0;

	if (is_flush(t->in.mnemonic))
		return PMU_INSN_FLUSH;
	for (unsigned i = 0; i < t->in.operand_count; i++) {
		const ZydisDecodedOperand *op = &t->op[i];

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			continue;
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			what |= PMU_INSN_LOAD;
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			what |= PMU_INSN_STORE;
	}
	return what;
}
