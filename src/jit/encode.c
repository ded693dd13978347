/*
 * encode.c - the guest's instruction with the host's operands, byte by byte
 *
 * Prefixes, opcode and immediates are the guest's; register numbers and the memory operand are those of
 * struct rewrite. 16- and 32-bit guest code is re-encoded for 64-bit mode, which turns the 0x66 prefix round
 * for 16-bit code and replaces the encodings that 64-bit mode gave to REX.
 */
#include "jit/rewrite.h"

/* 0x66 selects 16-bit operands in 64-bit mode for these, whatever the guest's default was. */
static bool width_by_prefix(const struct trans *t)
{
	switch (t->in.meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_MOVBE:
		return true;
	default:
		return t->in.mnemonic == ZYDIS_MNEMONIC_POPCNT ||
		       t->in.mnemonic == ZYDIS_MNEMONIC_CRC32;
	}
}

static void emit_modrm(struct trans *t, const struct rewrite *w)
{
	struct emit *e = &t->e;
	unsigned reg = w->reg.used ? w->reg.host & 7u : t->in.raw.modrm.reg;

	if (w->mem || (w->rdi_mem && !t->in.raw.modrm.offset)) {
		emit_mem(e, reg, w->base, w->index, 0, w->disp);
	} else if (w->home) {
		emit_mem(e, reg, H_RSP, -1, 0, STACK_GPR(w->rm.guest));
	} else {
		unsigned rm = w->rm.used ? w->rm.host & 7u : t->in.raw.modrm.rm;

		emit8(e, 0xc0 | reg << 3 | rm);
	}
}

static void emit_immediates(struct trans *t)
{
	u8 keep = 0xff;

	/* a register number in bits 7..4 has only three bits outside 64-bit mode */
	for (unsigned i = 0; i < t->in.operand_count && !(t->mode & MODE_LONG); i++)
		if (t->op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
			keep = 0x7f;
	for (unsigned i = 0; i < 2; i++) {
		unsigned n = t->in.raw.imm[i].size / 8;

		for (unsigned k = 0; k < n; k++)
			emit8(&t->e, t->bytes[t->in.raw.imm[i].offset + k] & keep);
	}
}

static void emit_legacy(struct trans *t, const struct rewrite *w)
{
	struct emit *e = &t->e;
	const ZydisDecodedInstruction *in = &t->in;
	u8 opcode = in->opcode;
	struct bytes q = {0}; /* four prefixes, REX, opcode */
	bool opsize_mandatory = false;
	u8 lock = 0, rep = 0; /* of several the last counts; there are only 15 bytes */
	bool rexw = in->raw.rex.W;
	bool moffs = w->mem && !in->raw.modrm.offset &&
		     in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (opcode & 0xfc) == 0xa0;

	for (unsigned i = 0; i < in->raw.prefix_count; i++) {
		u8 p = in->raw.prefixes[i].value;

		if (p == 0x66 && in->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			opsize_mandatory = true;
		if (p == 0xf0)
			lock = p;
		else if (p == 0xf2 || p == 0xf3)
			rep = p;
	}
	/* without LZCNT and TZCNT the guest's CPU ignores F3 and runs BSR and BSF */
	if (w->home || in->mnemonic == ZYDIS_MNEMONIC_BSR || in->mnemonic == ZYDIS_MNEMONIC_BSF)
		rep = 0;
	if (lock)
		put8(&q, lock);
	if (rep)
		put8(&q, rep);
	if (opsize_mandatory || (width_by_prefix(t) && in->operand_width == 16))
		put8(&q, 0x66);
	else if (!width_by_prefix(t) && (in->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) &&
		 (t->mode & MODE_LONG))
		put8(&q, 0x66);

	unsigned r = w->reg.used ? w->reg.host : moffs ? 0 : in->raw.rex.R << 3;
	unsigned x = 0, b;
	bool low_byte = false; /* SPL..DIL need a REX even when it is empty */
	const struct field *const f[] = {&w->reg, &w->rm, &w->opc};

	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		if (f[i]->used && f[i]->size == 1 && f[i]->host >= 4 &&
		    !(f[i]->guest < 4 && f[i]->host == 4 + f[i]->guest && !f[i]->high))
			low_byte = true;
	if (w->mem) {
		b = (unsigned)w->base;
		x = w->index < 0 ? 0 : (unsigned)w->index;
	} else {
		b = w->rm.used ? w->rm.host : w->opc.used ? w->opc.host : in->raw.rex.B << 3;
	}
	put_rex(&q, rexw, r, x, b, low_byte);

	if (!(t->mode & MODE_LONG) && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    (opcode & 0xf0) == 0x40) {
		put8(&q, 0xff); /* INC/DEC r: the one-byte form is REX now */
		put8(&q, 0xc0 | (opcode & 8) | (w->opc.host & 7));
		emit_bytes(e, q);
		return;
	}
	if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		put8(&q, 0x0f);
	if (in->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put8(&q, 0x38);
	else if (in->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put8(&q, 0x3a);
	if (moffs) {
		put8(&q,
		     0x88 | (opcode & 1) | (opcode & 2 ? 0 : 2)); /* A0,A1 loads; A2,A3 stores */
		emit_bytes(e, q);
		emit_mem(e, H_RAX, w->base, w->index, 0, w->disp);
		return;
	}
	if (opcode == 0x82 && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		opcode = 0x80; /* the alias that 64-bit mode lost */
	put8(&q, w->opc.used ? (opcode & 0xf8) | (w->opc.host & 7) : opcode ^ w->flip);
	emit_bytes(e, q);
	if (in->raw.modrm.offset)
		emit_modrm(t, w);
	emit_immediates(t);
}

/* Outside 64-bit mode (V)EX.W is ignored where it would choose between 32- and 64-bit operands. */
static bool width_ignored(const struct trans *t, const struct rewrite *w)
{
	if (t->mode & MODE_LONG)
		return false;
	if (w->reg.used || w->rm.used || w->vvvv.used)
		return true;
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
		return true;
	default:
		return false;
	}
}

static void emit_vex_xop(struct trans *t, const struct rewrite *w)
{
	struct emit *e = &t->e;
	const ZydisDecodedInstruction *in = &t->in;
	const u8 *p;
	u8 b1, b2;

	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP) {
		p = t->bytes + in->raw.xop.offset;
		b1 = p[1];
		b2 = p[2];
	} else {
		p = t->bytes + in->raw.vex.offset;
		if (p[0] == 0xc5) {
			b1 = (p[1] & 0x80) | 0x61;
			b2 = p[1] & 0x7f;
		} else {
			b1 = p[1];
			b2 = p[2];
		}
	}
	if (!(t->mode & MODE_LONG))
		b1 |= 0xe0; /* no register extensions in legacy code; these bits were fixed */
	if (w->reg.used)
		b1 = (u8)((b1 & ~0x80) | (w->reg.host & 8 ? 0 : 0x80));
	if (w->rm.used)
		b1 = (u8)((b1 & ~0x20) | (w->rm.host & 8 ? 0 : 0x20));
	if (w->mem)
		b1 = (u8)((b1 & ~0x60) | (w->index >= 0 && (w->index & 8) ? 0 : 0x40) |
			  (w->base & 8 ? 0 : 0x20));
	if (w->vvvv.used)
		b2 = (u8)((b2 & ~0x78) | (~w->vvvv.host & 15) << 3);
	if (!(t->mode & MODE_LONG) && !w->vvvv.used)
		b2 |= 0x40; /* vvvv's top bit is ignored there, not here */
	if (jit_vex_opmask(in->opcode_map, in->opcode)) { /* what AMD ignores is #UD elsewhere */
		if (!w->reg.used)
			b1 |= 0x80;
		if (!w->vvvv.used)
			b2 |= 0x40;
	}
	if (width_ignored(t, w))
		b2 &= 0x7f;
	emit8(e, p[0] == 0xc5 ? 0xc4 : p[0]);
	emit8(e, b1);
	emit8(e, b2);
	emit8(e, in->opcode);
	if (in->raw.modrm.offset)
		emit_modrm(t, w);
	emit_immediates(t);
}

static void emit_evex(struct trans *t, const struct rewrite *w)
{
	struct emit *e = &t->e;
	const u8 *p = t->bytes + t->in.raw.evex.offset;
	u8 p0 = p[1], p1 = p[2], p2 = p[3];

	if (!(t->mode & MODE_LONG)) {
		p0 |= 0xf0;
		p2 |= 0x08;
		p1 |= w->vvvv.used ? 0 : 0x40;
	}
	if (width_ignored(t, w))
		p1 &= 0x7f;
	if (w->reg.used)
		p0 = (u8)((p0 & ~0x90) | 0x10 | (w->reg.host & 8 ? 0 : 0x80));
	if (w->rm.used)
		p0 = (u8)((p0 & ~0x60) | 0x40 | (w->rm.host & 8 ? 0 : 0x20));
	if (w->mem)
		p0 = (u8)((p0 & ~0x60) | (w->index >= 0 && (w->index & 8) ? 0 : 0x40) |
			  (w->base & 8 ? 0 : 0x20));
	if (w->vvvv.used)
		p1 = (u8)((p1 & ~0x78) | (~w->vvvv.host & 15) << 3);
	emit8(e, 0x62);
	emit8(e, p0);
	emit8(e, p1);
	emit8(e, p2);
	emit8(e, t->in.opcode);
	emit_modrm(t, w);
	emit_immediates(t);
}

void jit_emit_rewritten(struct trans *t, const struct rewrite *w)
{
	switch (t->in.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
	case ZYDIS_INSTRUCTION_ENCODING_XOP:
		emit_vex_xop(t, w);
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		emit_evex(t, w);
		break;
	default:
		emit_legacy(t, w);
		break;
	}
}
