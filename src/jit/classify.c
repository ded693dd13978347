/*
 * classify.c - which instructions the host may execute for the guest
 *
 * Returns an enum cpu_op with *out filled for those that C executes, CPU_OP_NONE for those that
 * are copied, jumps or stack operations.
 */
#include "cpu/branch.h"
#include "cpu/gather.h"
#include "jit/jit_internal.h"

static const u16 table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define OP(mnemonic, op) [ZYDIS_MNEMONIC_##mnemonic] = CPU_OP_##op + 1,
#include "jit/classify.def"
#undef OP
};

static bool is_class(ZydisRegister r, ZydisRegisterClass c)
{
	return ZydisRegisterGetClass(r) == c;
}

/*
 * Operand size of a near branch. Only AMD's processors heed 66 in 64-bit mode; Zydis' idea of it is
 * not used, as it differs between the forms.
 */
static unsigned branch_size(const struct trans *t)
{
	bool prefix = false;

	for (unsigned i = 0; i < t->in.raw.prefix_count; i++)
		prefix |= t->in.raw.prefixes[i].value == 0x66;
	if (t->mode & MODE_LONG)
		return prefix && !t->in.raw.rex.W && t->cpu->vendor == CPU_VENDOR_AMD ? 2 : 8;
	return prefix ^ !!(t->mode & MODE_CS32) ? 4 : 2;
}

/* BRANCH_*, or -1: no near branch. */
static int branch_kind(const struct trans *t)
{
	const ZydisDecodedInstruction *in = &t->in;

	switch (in->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		return in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->opcode >= 0xe0
			       ? BRANCH_COUNT
			       : BRANCH_CONDITION;
	case ZYDIS_CATEGORY_UNCOND_BR:
		return in->mnemonic == ZYDIS_MNEMONIC_JMP ? BRANCH_JMP : -1;
	case ZYDIS_CATEGORY_CALL:
		return in->mnemonic == ZYDIS_MNEMONIC_CALL ? BRANCH_CALL : -1;
	case ZYDIS_CATEGORY_RET:
		return in->mnemonic == ZYDIS_MNEMONIC_RET ? BRANCH_RET : -1;
	default:
		return -1;
	}
}

/* Near branches that C does: see branch.c. */
static bool special_branch(const struct trans *t)
{
	int kind = branch_kind(t);
	bool direct = t->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && kind != BRANCH_RET;

	if (kind < 0)
		return false;
	if (t->mode & MODE_LONG)
		return branch_size(t) != 8 ||
		       (direct &&
			!cpu_is_canonical(t->cpu, t->next_pc + (u64)t->in.raw.imm[0].value.s));
	return branch_size(t) != (t->mode & MODE_CS32 ? 4 : 2) ||
	       (!direct && !(t->mode & MODE_FLAT));
}

/* Mnemonics of which only some forms are special. */
static unsigned special_form(const struct trans *t)
{
	const ZydisDecodedInstruction *in = &t->in;
	const ZydisDecodedOperand *op = t->op;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (is_class(op[0].reg.value, ZYDIS_REGCLASS_SEGMENT))
				return CPU_OP_MOV_TO_SREG;
			if (is_class(op[0].reg.value, ZYDIS_REGCLASS_CONTROL))
				return CPU_OP_MOV_TO_CR;
			if (is_class(op[0].reg.value, ZYDIS_REGCLASS_DEBUG))
				return CPU_OP_MOV_TO_DR;
		}
		if (op[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (is_class(op[1].reg.value, ZYDIS_REGCLASS_SEGMENT))
				return CPU_OP_MOV_FROM_SREG;
			if (is_class(op[1].reg.value, ZYDIS_REGCLASS_CONTROL))
				return CPU_OP_MOV_FROM_CR;
			if (is_class(op[1].reg.value, ZYDIS_REGCLASS_DEBUG))
				return CPU_OP_MOV_FROM_DR;
			if (is_class(op[1].reg.value, ZYDIS_REGCLASS_TEST))
				return CPU_OP_UD;
		}
		if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_class(op[0].reg.value, ZYDIS_REGCLASS_TEST))
			return CPU_OP_UD;
		return CPU_OP_NONE;
	case ZYDIS_MNEMONIC_PUSH:
		if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_class(op[0].reg.value, ZYDIS_REGCLASS_SEGMENT))
			return CPU_OP_PUSH_SREG;
		return CPU_OP_NONE;
	case ZYDIS_MNEMONIC_POP:
		if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_class(op[0].reg.value, ZYDIS_REGCLASS_SEGMENT))
			return CPU_OP_POP_SREG;
		return CPU_OP_NONE;
	case ZYDIS_MNEMONIC_MOVSD:
		return in->meta.category == ZYDIS_CATEGORY_STRINGOP ? CPU_OP_MOVS : CPU_OP_NONE;
	case ZYDIS_MNEMONIC_CMPSD:
		return in->meta.category == ZYDIS_CATEGORY_STRINGOP ? CPU_OP_CMPS : CPU_OP_NONE;
	case ZYDIS_MNEMONIC_JMP:
		if (in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return CPU_OP_JMP_FAR;
		break;
	case ZYDIS_MNEMONIC_CALL:
		if (in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return CPU_OP_CALL_FAR;
		break;
	case ZYDIS_MNEMONIC_RET:
		if (in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return CPU_OP_RET_FAR;
		break;
	default:
		break;
	}
	return special_branch(t) ? CPU_OP_BRANCH : CPU_OP_NONE;
}

static unsigned segment_of(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? r - ZYDIS_REGISTER_ES : SEG_DS;
}

static int gpr_or_none(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP
		       ? -1
		       : (int)jit_gpr_index(r);
}

static void fill_memory(const struct trans *t, const ZydisDecodedOperand *op, struct cpu_insn *out)
{
	out->seg = (u8)segment_of(op->mem.segment);
	out->base = (s8)gpr_or_none(op->mem.base);
	out->index = (s8)gpr_or_none(op->mem.index);
	out->scale = op->mem.scale;
	out->disp = op->mem.disp.value;
	out->rip_relative =
		op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
	if (out->rip_relative)
		out->disp += t->in.length;
}

static u8 override_of(const ZydisDecodedInstruction *in)
{
	if (in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
		return SEG_CS;
	if (in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
		return SEG_SS;
	if (in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
		return SEG_ES;
	if (in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		return SEG_FS;
	if (in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		return SEG_GS;
	return SEG_DS;
}

/* Of an operand that Zydis does not know as memory. */
static u8 override_by_prefix(const struct trans *t)
{
	u8 seg = SEG_DS;

	for (unsigned i = 0; i < t->in.raw.prefix_count; i++) {
		u8 p = t->in.raw.prefixes[i].value;

		if (p == 0x64 || p == 0x65)
			seg = p == 0x64 ? SEG_FS : SEG_GS;
		else if ((p & 0xe7) == 0x26 && !(t->mode & MODE_LONG))
			seg = p >> 3 & 3;
	}
	return seg;
}

/* The two bytes of immediate fields whose meaning differs by instruction. */
static void fill_extra(const struct trans *t, struct cpu_insn *out)
{
	const ZydisDecodedInstruction *in = &t->in;

	switch (out->op) {
	case CPU_OP_LOAD_FAR_PTR:
		out->imm2 = in->mnemonic == ZYDIS_MNEMONIC_LDS	 ? SEG_DS
			    : in->mnemonic == ZYDIS_MNEMONIC_LES ? SEG_ES
			    : in->mnemonic == ZYDIS_MNEMONIC_LSS ? SEG_SS
			    : in->mnemonic == ZYDIS_MNEMONIC_LFS ? SEG_FS
								 : SEG_GS;
		break;
	case CPU_OP_PUSH_SREG:
	case CPU_OP_POP_SREG:
		out->reg = (u8)segment_of(t->op[0].reg.value);
		break;
	case CPU_OP_MOV_TO_SREG:
		out->reg = (u8)segment_of(t->op[0].reg.value);
		break;
	case CPU_OP_MOV_FROM_SREG:
		out->reg = (u8)segment_of(t->op[1].reg.value);
		break;
	case CPU_OP_RDFSGSBASE:
	case CPU_OP_WRFSGSBASE:
		out->imm2 = in->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ||
					    in->mnemonic == ZYDIS_MNEMONIC_WRFSBASE
				    ? SEG_FS
				    : SEG_GS;
		break;
	case CPU_OP_JMP_FAR:
	case CPU_OP_CALL_FAR:
		if (t->op[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
			out->imm = t->op[0].ptr.offset;
			out->imm2 = t->op[0].ptr.segment;
		}
		break;
	case CPU_OP_BRANCH:
		out->imm2 = (u16)branch_kind(t);
		out->opsize = (u8)branch_size(t);
		break;
	case CPU_OP_CLZERO:
		out->seg = override_by_prefix(t);
		break;
	case CPU_OP_ENTER:
		out->imm2 = (u16)in->raw.imm[1].value.u;
		break;
	case CPU_OP_IN:
	case CPU_OP_OUT:
		out->imm2 = in->raw.imm[0].size != 0;
		break;
	case CPU_OP_XSAVE:
	case CPU_OP_XRSTOR: {
		const char *name = ZydisMnemonicGetString(in->mnemonic);
		char last = out->op == CPU_OP_XSAVE ? name[5] : name[6];

		out->opcode = last == 's' ? 'S' : last == 'c' ? 'C' : last == 'o' ? 'O' : 'X';
		out->opsize = in->raw.rex.W ? 8 : 4;
		break;
	}
	case CPU_OP_FXSAVE:
	case CPU_OP_FXRSTOR:
		out->opsize = in->raw.rex.W ? 8 : 4;
		break;
	case CPU_OP_HYPERCALL:
		out->opcode = in->mnemonic == ZYDIS_MNEMONIC_VMCALL ? 0xc1 : 0xd9;
		break;
	default:
		break;
	}
}

static bool is_gather(const ZydisDecodedInstruction *in)
{
	return in->meta.category == ZYDIS_CATEGORY_GATHER ||
	       in->meta.category == ZYDIS_CATEGORY_AVX2GATHER ||
	       in->meta.category == ZYDIS_CATEGORY_SCATTER;
}

/* Gathers and scatters: the operand that Zydis shows as VSIB memory decides. */
static bool fill_gather(const struct trans *t, struct cpu_insn *out)
{
	const ZydisDecodedInstruction *in = &t->in;
	bool evex = in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	const ZydisDecodedOperand *mem = NULL;
	const u8 *p;

	if (!is_gather(in))
		return false;
	for (unsigned i = 0; i < in->operand_count; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    t->op[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			mem = &t->op[i];
	if (!mem)
		return false;
	*out = (struct cpu_insn){
		.op = CPU_OP_GATHER,
		.len = in->length,
		.opsize = (u8)(mem->element_size / 8),
		.addrsize = (u8)(in->address_width / 8),
		.mem = true,
		.seg = (u8)segment_of(mem->mem.segment),
		.base = (s8)gpr_or_none(mem->mem.base),
		.index = -1,
		.scale = mem->mem.scale,
		.disp = mem->mem.disp.value,
		.rm = (u8)ZydisRegisterGetId(mem->mem.index),
	};
	bool scatter = in->meta.category == ZYDIS_CATEGORY_SCATTER;

	for (unsigned i = 0; i < in->operand_count; i++) {
		if (t->op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (t->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			out->reg = (u8)ZydisRegisterGetId(t->op[i].reg.value);
		else if (t->op[i].encoding == ZYDIS_OPERAND_ENCODING_MASK ||
			 t->op[i].encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			out->imm2 = (u8)ZydisRegisterGetId(t->op[i].reg.value);
	}
	/* opcodes 90/92, A0/A2: dword indexes; 91/93, A1/A3: qword; W: qword elements */
	if (evex) {
		p = t->bytes + in->raw.evex.offset;
		out->opsize = p[2] & 0x80 ? 8 : 4;
	} else {
		p = t->bytes + in->raw.vex.offset;
		out->opsize = p[2] & 0x80 ? 8 : 4;
	}
	out->imm = GATHER_SHAPE(in->opcode & 1 ? 8 : 4, in->avx.vector_length / 8) |
		   (evex ? GATHER_EVEX : 0) | (scatter ? GATHER_SCATTER : 0);
	return true;
}

/* What is asked of near branches depends on mode and address. */
bool jit_classify_never(const struct trans *t)
{
	return !table[t->in.mnemonic] && branch_kind(t) < 0 && special_form(t) == CPU_OP_NONE &&
	       !is_gather(&t->in);
}

unsigned jit_classify(struct trans *t, struct cpu_insn *out)
{
	const ZydisDecodedInstruction *in = &t->in;
	unsigned op = table[in->mnemonic] ? table[in->mnemonic] - 1u : special_form(t);

	if (op == CPU_OP_PAUSE && in->raw.rex.B)
		return CPU_OP_NONE; /* XCHG R8, rAX with a meaningless F3: copied as it is */

	if (op == CPU_OP_NONE)
		return fill_gather(t, out) ? CPU_OP_GATHER : CPU_OP_NONE;
	*out = (struct cpu_insn){
		.op = (u16)op,
		.len = in->length,
		.opsize = (u8)(in->operand_width / 8),
		.addrsize = (u8)(in->address_width / 8),
		.reg = (u8)(in->raw.modrm.reg | in->raw.rex.R << 3),
		.has_modrm = in->attributes & ZYDIS_ATTRIB_HAS_MODRM,
		.rm = (u8)(in->raw.modrm.rm | in->raw.rex.B << 3),
		.rex = in->attributes & ZYDIS_ATTRIB_HAS_REX,
		.seg = override_of(in),
		.base = -1,
		.index = -1,
		.opcode = in->opcode,
	};
	if (!out->has_modrm)
		out->reg = (u8)((in->opcode & 7) | in->raw.rex.B << 3);
	/* the byte, not Zydis's attribute: the string functions want to know which it was */
	for (unsigned i = 0; i < in->raw.prefix_count; i++) {
		switch (in->raw.prefixes[i].value) {
		case 0xf3:
			out->prefix = (u8)((out->prefix & ~CPU_PREFIX_REPNE) | CPU_PREFIX_REP);
			break;
		case 0xf2:
			out->prefix = (u8)((out->prefix & ~CPU_PREFIX_REP) | CPU_PREFIX_REPNE);
			break;
		case 0xf0:
			out->prefix |= CPU_PREFIX_LOCK;
			break;
		case 0x66:
			out->prefix |= CPU_PREFIX_66;
			break;
		default:
			break;
		}
	}
	if (out->has_modrm && in->raw.modrm.mod != 3 && op != CPU_OP_MOV_TO_CR &&
	    op != CPU_OP_MOV_FROM_CR && op != CPU_OP_MOV_TO_DR && op != CPU_OP_MOV_FROM_DR) {
		out->mem = true;
		for (unsigned i = 0; i < in->operand_count; i++)
			if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			    t->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
				fill_memory(t, &t->op[i], out);
	}
	if (in->raw.imm[0].size)
		out->imm = in->raw.imm[0].is_signed ? (u64)in->raw.imm[0].value.s
						    : in->raw.imm[0].value.u;
	fill_extra(t, out);
	return op;
}
