/*
 * operand.c - what an ordinary instruction demands of its memory operand
 *
 * Alignment, and pending x87 exceptions, come before any translation of the address.
 */
#include "jit/jit_internal.h"

/*
 * Operands that must be aligned to their size, which is checked before the page walk: DESC_ALIGN. With DESC_MM,
 * unless MXCSR.MM says that they need not.
 */
static u64 alignment(const struct trans *t, unsigned size)
{
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return 0;
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		return DESC_ALIGN;
	default:
		/* legacy encodings of 16-byte SSE operands; SHA differs by vendor: the host decides */
		return size == 16 && t->in.meta.isa_ext != ZYDIS_ISA_EXT_SHA &&
				       t->in.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY
			       ? DESC_ALIGN | DESC_MM
			       : 0;
	}
}

/** CLFLUSH and its kin: the check of the access is all that can be seen of them. */
bool jit_cache_line_op(const struct trans *t)
{
	return t->in.mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT ||
	       t->in.mnemonic == ZYDIS_MNEMONIC_CLFLUSH || t->in.mnemonic == ZYDIS_MNEMONIC_CLWB;
}

/* x87 and MMX instructions report a pending x87 exception before they touch memory. */
static bool waits_for_x87(const struct trans *t)
{
	if (t->in.meta.isa_ext == ZYDIS_ISA_EXT_X87 || t->in.mnemonic == ZYDIS_MNEMONIC_FISTTP)
		return t->in.mnemonic != ZYDIS_MNEMONIC_FNSTSW &&
		       t->in.mnemonic != ZYDIS_MNEMONIC_FNSTCW;
	for (unsigned i = 0; i < t->in.operand_count; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && jit_is_mmx(t->op[i].reg.value))
			return true;
	return false;
}

/* A store of 64 bytes is done by halves (Zen 4), but not one that compresses. */
static bool stores_halves(const struct trans *t, unsigned size)
{
	return size == 64 && t->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
	       t->in.meta.category != ZYDIS_CATEGORY_COMPRESS &&
	       t->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       (t->op[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

/** Does the operand consist of parts with addresses of their own: two accesses, or a mask's elements? */
bool jit_operand_in_parts(const struct trans *t, unsigned size)
{
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return true;
	default:
		return size == X87_REGISTER || stores_halves(t, size);
	}
}

/* Where addresses of the instruction's address size wrap. */
static u64 wrap_desc(const ZydisDecodedInstruction *in)
{
	return (u64)(in->address_width == 16   ? DESC_WRAP_64K
		     : in->address_width == 32 ? DESC_WRAP_4G
					       : 0)
	       << DESC_WRAP_SHIFT;
}

/* A general register is all that the instruction writes, and what it reads goes there whole: what becomes of it. */
static u64 load_desc(const struct trans *t)
{
	const ZydisDecodedOperand *to = &t->op[0];
	ZydisRegister reg = to->reg.value;
	bool high = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH, sign = false;

	if (to->type != ZYDIS_OPERAND_TYPE_REGISTER || t->op[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return 0;
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
		break;
	case ZYDIS_MNEMONIC_MOVSX:
		sign = true;
		break;
	case ZYDIS_MNEMONIC_MOVSXD:
		if (to->size != 64)
			return 0; /* the vendors disagree on what is read */
		sign = true;
		break;
	default:
		return 0;
	}
	return DESC_LOAD | (u64)(jit_gpr_index(reg) + (high ? 4 : 0)) << DESC_LOAD_REG_SHIFT |
	       (u64)__builtin_ctz(to->size / 8) << DESC_LOAD_TO_SHIFT |
	       (sign ? DESC_LOAD_SIGN : 0) | (high ? DESC_LOAD_HIGH : 0);
}

/** The bits of a descriptor that tell what the stub looks at before the page walk, and what is left to do behind it. */
u64 jit_operand_desc(const struct trans *t, unsigned size)
{
	return alignment(t, size) | (waits_for_x87(t) ? DESC_X87 : 0) |
	       (jit_operand_in_parts(t, size) ? wrap_desc(&t->in) : 0) | load_desc(t);
}
