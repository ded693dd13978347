/*
 * mask.c - memory operands under a vector mask
 *
 * An access under a mask touches only the elements whose mask bits are set, and faults only for
 * them. The inline TLB check covers the whole operand; when it misses, the part that is really
 * touched is found here from the live mask register and resolved alone (resolve.c). The host's own CPU
 * then suppresses the rest, as the guest's would.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* Instruction classes that suppress faults of masked-out elements (the NF ones do not). */
static bool suppresses(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
		return false;
	default:
		break;
	}
	switch (in->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
		return false;
	default:
		return true;
	}
}

/* Elements that an embedded broadcast makes of one; 0: there is none. */
static unsigned broadcast_count(const ZydisDecodedInstruction *in)
{
	if (in->avx.broadcast.is_static)
		return 0;
	switch (in->avx.broadcast.mode) {
	case ZYDIS_BROADCAST_MODE_1_TO_2:
		return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4:
		return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8:
		return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16:
		return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32:
		return 32;
	default:
		return 0;
	}
}

static unsigned log2_of(unsigned bytes)
{
	return (unsigned)__builtin_ctz(bytes);
}

/** The upper half of an access descriptor: how the mask selects elements; 0: no mask. */
u64 jit_mask_desc(const struct trans *t, const ZydisDecodedOperand *mem)
{
	const ZydisDecodedInstruction *in = &t->in;
	unsigned size = mem->size / 8, bytes, count;
	u64 d = DESC_MASK;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		bytes = in->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
					in->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD
				? 4
				: 8;
		d |= DESC_MASK_VECTOR;
		for (unsigned i = 0; i < in->operand_count; i++)
			if (t->op[i].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
				d |= (u64)(ZydisRegisterGetId(t->op[i].reg.value) & 15)
				     << DESC_MASK_REG_SHIFT;
		count = size / bytes;
		break;
	default:
		if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || !suppresses(in))
			return 0;
		if (in->avx.mask.reg != ZYDIS_REGISTER_NONE &&
		    in->avx.mask.reg != ZYDIS_REGISTER_K0)
			d |= (u64)ZydisRegisterGetId(in->avx.mask.reg) << DESC_MASK_REG_SHIFT;
		else if (in->meta.category != ZYDIS_CATEGORY_COMPRESS)
			return 0; /* compressing stores go by the element without a mask too */
		/* bits are chosen from quadwords, but by a mask for bytes */
		bytes = in->mnemonic == ZYDIS_MNEMONIC_VPSHUFBITQMB ? 1 : mem->element_size / 8;
		if (!bytes || bytes > 8 || (bytes & (bytes - 1)) || bytes > size)
			return 0;
		count = broadcast_count(in);
		if (count)
			break;
		/* as many mask bits as the vector operand has elements */
		for (unsigned i = 0; i < in->operand_count; i++)
			if (t->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && &t->op[i] != mem &&
			    t->op[i].encoding != ZYDIS_OPERAND_ENCODING_MASK &&
			    t->op[i].element_count > count)
				count = t->op[i].element_count;
		if (in->meta.category == ZYDIS_CATEGORY_COMPRESS ||
		    in->meta.category == ZYDIS_CATEGORY_EXPAND)
			d |= DESC_MASK_PACKED;
		if (!count || count > 64)
			return 0;
		if (size / bytes > count)
			bytes = size /
				count; /* a mask bit stands for several of the operand's elements */
		else if (size / bytes < count &&
			 in->avx.broadcast.mode == ZYDIS_BROADCAST_MODE_INVALID &&
			 in->meta.category != ZYDIS_CATEGORY_BROADCAST)
			count = size / bytes; /* scalars, and registers wider than the operation */
		if (bytes > 8 || (bytes & (bytes - 1)))
			return 0;
		break;
	}
	return d | (u64)log2_of(bytes) << DESC_MASK_ELEMENT_SHIFT |
	       (u64)count << DESC_MASK_COUNT_SHIFT;
}

static u64 opmask(unsigned n)
{
	u64 v = 0;

	switch (n) {
	case 0:
		return ~0ull; /* no mask */
#define K(i)                                                       \
	case i:                                                    \
		__asm__ volatile("kmovq %%k" #i ", %0" : "=r"(v)); \
		break;
		K(1) K(2) K(3) K(4) K(5) K(6) K(7)
#undef K
	}
	return v;
}

static u64 sign_mask(unsigned n, bool wide)
{
	u64 v = 0;

	switch (n) {
#define V(i)                                                                     \
	case i:                                                                  \
		if (wide)                                                        \
			__asm__ volatile("vmovmskpd %%ymm" #i ", %0" : "=r"(v)); \
		else                                                             \
			__asm__ volatile("vmovmskps %%ymm" #i ", %0" : "=r"(v)); \
		break;
		V(0)
		V(1) V(2) V(3) V(4) V(5) V(6) V(7) V(8) V(9) V(10) V(11) V(12) V(13) V(14) V(15)
#undef V
	}
	return v;
}

/** MASKMOVDQU and MASKMOVQ: where their mask is. */
u64 jit_maskmov_desc(const struct trans *t)
{
	bool mmx = t->in.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;

	return DESC_MASKMOV | (mmx ? DESC_MASKMOV_MMX : 0) |
	       (u64)(t->op[1].reg.value - (mmx ? ZYDIS_REGISTER_MM0 : ZYDIS_REGISTER_XMM0))
		       << DESC_MASK_REG_SHIFT;
}

static u32 mmx_signs(unsigned n)
{
	u32 v = 0;

	switch (n) {
#define M(i)                                                           \
	case i:                                                        \
		__asm__ volatile("pmovmskb %%mm" #i ", %0" : "=r"(v)); \
		break;
		M(0)
		M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#undef M
	}
	return v;
}

static u32 xmm_signs(unsigned n)
{
	u32 v = 0;

	switch (n) {
#define X(i)                                                            \
	case i:                                                         \
		__asm__ volatile("pmovmskb %%xmm" #i ", %0" : "=r"(v)); \
		break;
		X(0)
		X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#undef X
	}
	return v;
}

/** The bytes that one of them writes, from the live registers. */
u64 jit_maskmov_bytes(u64 desc)
{
	unsigned reg = desc >> DESC_MASK_REG_SHIFT & 15;

	return desc & DESC_MASKMOV_MMX ? mmx_signs(reg) : xmm_signs(reg);
}

/** The elements of 1 << *shift bytes that the mask lets through, from the live registers. */
u64 jit_mask_active(u64 desc, unsigned size, unsigned *shift)
{
	unsigned reg = desc >> DESC_MASK_REG_SHIFT & 15,
		 count = desc >> DESC_MASK_COUNT_SHIFT & 127, elements;
	u64 bits, active = 0;

	*shift = desc >> DESC_MASK_ELEMENT_SHIFT & 3;
	elements = size >> *shift;
	bits = desc & DESC_MASK_VECTOR ? sign_mask(reg, *shift == 3) : opmask(reg);
	if (count < 64)
		bits &= BIT64(count) - 1;
	if (desc & DESC_MASK_PACKED) {
		unsigned n = (unsigned)__builtin_popcountll(bits);

		return n >= 64 ? ~0ull : BIT64(n) - 1;
	}
	/* a broadcast operand is used by every count / elements-th mask bit */
	for (unsigned i = 0; i < count; i++)
		if (bits >> i & 1)
			active |= BIT64(i % elements);
	return active;
}
