/*
 * decode_cache.c - what an instruction is, from a cache of what Zydis said
 *
 * Zydis takes a quarter of a microsecond for an instruction, and most instructions of a program
 * differ from earlier ones in registers, displacement and immediate only. So its answers are kept,
 * under a key that consists of the bytes that decide everything else: prefixes, opcode, and as much
 * of ModRM and SIB as matters. What the key leaves out is filled in.
 *
 * How much of ModRM matters is in the tables below. An opcode is "plain" when its register fields
 * do nothing but name general or vector registers; then a dozen keys stand for all its forms. For
 * other opcodes ModRM, SIB and REX are part of the key as they are. Opcodes that are in no table, and
 * everything else that is out of the ordinary, go to Zydis each time. The tables tell where the
 * fields are; an answer of Zydis's that says otherwise is not kept. tests/unit/jit compares all of
 * it with Zydis.
 *
 * A kept answer has only what the translator looks at, in two cache lines: Zydis's own structures
 * take ten times that, and fetching them costs as much as decoding again.
 */
#include "cpu/feature.h"
#include "jit/jit_internal.h"

/* What the key takes of an opcode's ModRM byte; F_NONE: such instructions are not kept. */
enum form {
	F_NONE,
	F_BARE,	 /* there is none */
	F_EXACT, /* all of it */
	F_GROUP, /* reg selects the instruction, rm is plain */
	F_PLAIN, /* reg and rm are plain */
};

#define ALU(n) [n... n + 3] = F_PLAIN, [n + 4 ... n + 5] = F_BARE
static const u8 form_one[256] = {
	ALU(0x00),
	ALU(0x08),
	ALU(0x10),
	ALU(0x18),
	ALU(0x20),
	ALU(0x28),
	ALU(0x30),
	ALU(0x38),
	[0x40 ... 0x5f] = F_BARE,
	[0x63] = F_PLAIN,
	[0x68] = F_BARE,
	[0x69] = F_PLAIN,
	[0x6a] = F_BARE,
	[0x6b] = F_PLAIN,
	[0x70 ... 0x7f] = F_BARE,
	[0x80 ... 0x81] = F_GROUP,
	[0x83] = F_GROUP,
	[0x84 ... 0x8b] = F_PLAIN,
	[0x8c] = F_EXACT,
	[0x8d] = F_PLAIN,
	[0x8e] = F_EXACT,
	[0x90 ... 0x99] = F_BARE,
	[0x9b ... 0x9f] = F_BARE,
	[0xa4 ... 0xbf] = F_BARE,
	[0xc0 ... 0xc1] = F_GROUP,
	[0xc2 ... 0xc3] = F_BARE,
	[0xc6 ... 0xc7] = F_GROUP,
	[0xc9 ... 0xcc] = F_BARE,
	[0xd0 ... 0xd3] = F_GROUP,
	[0xd8 ... 0xdf] = F_EXACT,
	[0xe0 ... 0xe3] = F_BARE,
	[0xe8 ... 0xe9] = F_BARE,
	[0xeb] = F_BARE,
	[0xf5] = F_BARE,
	[0xf6 ... 0xf7] = F_GROUP,
	[0xf8 ... 0xfd] = F_BARE,
	[0xfe ... 0xff] = F_GROUP,
};
static const u8 form_two[256] = {
	[0x00 ... 0x01] = F_EXACT, [0x05] = F_BARE,	      [0x0b] = F_BARE,
	[0x0d] = F_EXACT,	   [0x10 ... 0x17] = F_PLAIN, [0x18 ... 0x1f] = F_EXACT,
	[0x28 ... 0x2f] = F_PLAIN, [0x30 ... 0x32] = F_BARE,  [0x40 ... 0x70] = F_PLAIN,
	[0x71 ... 0x73] = F_EXACT, [0x74 ... 0x76] = F_PLAIN, [0x7c ... 0x7f] = F_PLAIN,
	[0x80 ... 0x8f] = F_BARE,  [0x90 ... 0x9f] = F_GROUP, [0xa2] = F_BARE,
	[0xa3 ... 0xa5] = F_PLAIN, [0xab ... 0xad] = F_PLAIN, [0xae] = F_EXACT,
	[0xaf ... 0xb1] = F_PLAIN, [0xb3] = F_PLAIN,	      [0xb6 ... 0xb8] = F_PLAIN,
	[0xba] = F_GROUP,	   [0xbb ... 0xc2] = F_PLAIN, [0xc3] = F_PLAIN,
	[0xc4 ... 0xc6] = F_PLAIN, [0xc7] = F_EXACT,	      [0xc8 ... 0xcf] = F_BARE,
	[0xd0 ... 0xfe] = F_PLAIN,
};

/* Where the parts of an instruction are, and its key. */
struct scan {
	u64 head; /* prefixes, REX, opcode: at most 8 bytes */
	u32 tail; /* KEY_* */
	u8 prefixes, rex;
	u8 modrm_at, sib_at; /* 0: there is none */
	u8 end;		     /* of what the key is made of: displacement and immediate follow */
	u8 disp;	     /* bytes of displacement */
	bool plain;
};

#define KEY_SIB_SHIFT	  8
#define KEY_PLAIN	  BIT(16)
#define KEY_MODRM	  BIT(17)
#define KEY_INDEX	  BIT(18)
#define KEY_TZCNT	  BIT(19)
#define KEY_LZCNT	  BIT(20)
#define KEY_DECODER_SHIFT 21
#define KEY_VALID	  BIT(23)

/* ModRM and SIB of 32- and 64-bit addresses, or of registers. */
static void scan_modrm(struct scan *s, const u8 *p, bool group)
{
	u8 modrm = p[s->modrm_at], mod = modrm >> 6, sib = 0, key = modrm;

	s->end = s->modrm_at + 1;
	s->tail |= KEY_MODRM;
	if (mod != 3 && (modrm & 7) == 4) {
		s->sib_at = s->end++;
		sib = p[s->sib_at];
	}
	s->disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;
	if (mod == 0 && ((modrm & 7) == 5 || (s->sib_at && (sib & 7) == 5))) {
		s->disp = 4;
		s->plain &= !s->sib_at;
	}
	if (!s->plain) {
		s->tail |= modrm | (u32)sib << KEY_SIB_SHIFT;
		return;
	}
	key &= group ? 0xf8 : 0xc0;
	if (mod != 3 && s->sib_at)
		key |= 4;
	else if (mod == 0 && s->disp)
		key |= 5;
	s->tail |= key | KEY_PLAIN;
	if (s->sib_at && ((sib >> 3 & 7) != 4 || s->rex & 2))
		s->tail |= KEY_INDEX;
}

/* 16-bit addresses. */
static void scan_modrm16(struct scan *s, const u8 *p)
{
	u8 modrm = p[s->modrm_at], mod = modrm >> 6;

	s->end = s->modrm_at + 1;
	s->tail |= KEY_MODRM | modrm;
	s->disp = mod == 1 ? 1 : mod == 2 || (mod == 0 && (modrm & 7) == 6) ? 2 : 0;
}

/* Takes an instruction apart as far as its key needs. False: it has none. p: 16 bytes. */
static bool scan(const struct cpu *cpu, u32 mode, const u8 *p, struct scan *s)
{
	bool plain = mode & MODE_LONG, wide = !(mode & (MODE_LONG | MODE_CS32)), addr16 = wide;
	unsigned at = 0, form;
	u64 head = 0;

	*s = (struct scan){.tail = KEY_VALID | jit_decoder_index(mode) << KEY_DECODER_SHIFT |
				   (cpu_has(cpu, X86_FEATURE_BMI1) ? KEY_TZCNT : 0) |
				   (cpu_has(cpu, X86_FEATURE_ABM) ? KEY_LZCNT : 0)};
	for (;; at++) {
		u8 b = p[at];

		if (b == 0x66 || (b & 0xfe) == 0xf2 || b == 0xf0 || (b & 0xfe) == 0x64)
			;
		else if (b == 0x67)
			addr16 = mode & MODE_CS32, plain = false;
		else if ((b & 0xe7) == 0x26)
			plain = false;
		else
			break;
		if (at == 3)
			return false;
		head = head << 8 | b;
	}
	s->prefixes = (u8)at;
	if ((mode & MODE_LONG) && (p[at] & 0xf0) == 0x40) {
		s->rex = p[at++];
		head = head << 8 | s->rex;
	}
	u8 op = p[at++];

	head = head << 8 | op;
	if (op == 0x0f) {
		op = p[at++];
		head = head << 8 | op;
		if (op == 0x38 || op == 0x3a) {
			head = head << 8 | p[at++];
			form = F_EXACT;
		} else {
			form = form_two[op];
		}
	} else if ((op == 0xc5 || op == 0xc4 || op == 0x62) && (mode & MODE_LONG)) {
		unsigned n = op == 0xc5 ? 2 : op == 0xc4 ? 3 : 4;
		bool map1 = op == 0xc5 || (op == 0xc4 && (p[at] & 31) == 1);

		if (s->prefixes || s->rex)
			return false;
		for (unsigned i = 0; i < n; i++)
			head = head << 8 | p[at++];
		form = map1 && p[at - 1] == 0x77 ? F_BARE : F_EXACT;
	} else {
		form = form_one[op];
		/* only in 64-bit mode REX; XABORT and XBEGIN look like MOV */
		if ((op & 0xfe) == 0xc6 && p[at] & 0x38)
			form = F_EXACT;
	}
	if (form == F_NONE)
		return false;
	s->plain = plain && form >= F_GROUP;
	s->end = (u8)at;
	if (form != F_BARE) {
		s->modrm_at = (u8)at;
		if (addr16)
			scan_modrm16(s, p);
		else
			scan_modrm(s, p, form == F_GROUP);
	}
	if (s->plain && s->rex) /* R, X and B are register numbers */
		head &= ~(7ull << 8 * (at - s->prefixes - 1));
	s->head = head;
	return true;
}

static struct jit_decoded *slot_of(struct jit *jit, const struct scan *s)
{
	u64 h = (s->head ^ (u64)s->tail << 32 ^ (u64)s->tail << 3) * 0x9e3779b97f4a7c15ull;

	return &jit->decoded[h >> (64 - JIT_DECODED_BITS) & ~1ull];
}

/* A register by its number and the first one of its class, which tells the class. */
static ZydisRegister reg_of(ZydisRegister first, unsigned n, bool rex)
{
	if (first == ZYDIS_REGISTER_AL && rex && n >= 4)
		n += 4; /* no AH..BH; SPL..DIL follow them */
	if (first == ZYDIS_REGISTER_MM0)
		n &= 7;
	return first + n;
}

static ZydisRegister first_of(ZydisRegister r)
{
	static const u16 first[] = {ZYDIS_REGISTER_AL,	 ZYDIS_REGISTER_AX,  ZYDIS_REGISTER_EAX,
				    ZYDIS_REGISTER_RAX,	 ZYDIS_REGISTER_ST0, ZYDIS_REGISTER_MM0,
				    ZYDIS_REGISTER_XMM0, ZYDIS_REGISTER_YMM0};
	unsigned i = 0;

	while (i < ARRAY_SIZE(first) && r >= first[i])
		i++;
	return i == 0 || i == ARRAY_SIZE(first) || first[i - 1] == ZYDIS_REGISTER_ST0
		       ? ZYDIS_REGISTER_NONE
		       : first[i - 1];
}

static u64 load_signed(const u8 *p, unsigned bytes)
{
	u64 v = mem_load(p, bytes);
	unsigned gone = 64 - 8 * bytes;

	return (u64)((s64)(v << gone) >> gone);
}

/* Operands: what the key leaves out comes later. */
static void unpack_operand(ZydisDecodedOperand *op, const struct jit_decoded_op *d)
{
	op->type = d->type;
	op->encoding = d->encoding;
	op->visibility = d->visibility;
	op->actions = d->actions;
	op->size = d->size;
	op->element_size = d->element_size;
	op->element_count = d->element_count;
	if (d->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		op->reg.value = d->reg;
	} else if (d->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		op->mem.type = d->mem_type;
		op->mem.segment = d->segment;
		op->mem.base = d->reg;
		op->mem.index = d->index;
		op->mem.scale = d->scale;
		op->mem.disp.value = 0;
	} else {
		op->imm.value.u = d->reg; /* the 1 of shifts */
	}
}

static bool pack_operand(struct jit_decoded_op *d, const ZydisDecodedOperand *op)
{
	*d = (struct jit_decoded_op){.type = op->type,
				     .encoding = (u8)op->encoding,
				     .visibility = op->visibility,
				     .actions = op->actions,
				     .size = op->size,
				     .element_size = op->element_size,
				     .element_count = op->element_count};
	switch (op->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		d->reg = (u16)op->reg.value;
		return true;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		d->mem_type = op->mem.type;
		d->segment = (u8)op->mem.segment;
		d->reg = (u16)op->mem.base;
		d->index = (u8)op->mem.index;
		d->scale = op->mem.scale;
		return d->index == op->mem.index;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		d->reg = op->encoding == ZYDIS_OPERAND_ENCODING_NONE ? (u16)op->imm.value.u : 0;
		return true;
	default:
		return false;
	}
}

/* What the key leaves out: numbers of registers. */
static void fill_registers(struct trans *t, const struct jit_decoded *d, const struct scan *s,
			   const u8 *p)
{
	u8 modrm = p[s->modrm_at], rex = s->rex;
	unsigned rm = (modrm & 7) | (rex & 1) << 3;
	ZydisDecodedOperandMem *m;

	if (d->reg_op != JIT_DECODED_NO_OP)
		t->op[d->reg_op].reg.value =
			reg_of(d->reg_first, (modrm >> 3 & 7) | (rex & 4) << 1, rex);
	if (d->rm_op != JIT_DECODED_NO_OP)
		t->op[d->rm_op].reg.value = reg_of(d->rm_first, rm, rex);
	if (d->mem_op == JIT_DECODED_NO_OP || !d->based)
		return;
	m = &t->op[d->mem_op].mem;
	if (s->sib_at) {
		u8 sib = p[s->sib_at];

		rm = (sib & 7) | (rex & 1) << 3;
		if (s->tail & KEY_INDEX) {
			m->index = ZYDIS_REGISTER_RAX + ((sib >> 3 & 7) | (rex & 2) << 2);
			m->scale = (u8)(1 << (sib >> 6));
		}
	}
	m->base = ZYDIS_REGISTER_RAX + rm;
	if (m->segment == ZYDIS_REGISTER_DS || m->segment == ZYDIS_REGISTER_SS)
		m->segment = rm == RSP || rm == RBP ? ZYDIS_REGISTER_SS : ZYDIS_REGISTER_DS;
}

static void fill_raw(struct trans *t, const struct jit_decoded *d, const struct scan *s,
		     const u8 *p)
{
	ZydisDecodedInstruction *in = &t->in;
	u8 modrm = s->modrm_at ? p[s->modrm_at] : 0;
	unsigned at = s->end;

	in->raw.prefix_count = s->prefixes + !!s->rex;
	for (unsigned i = 0; i < in->raw.prefix_count; i++) {
		in->raw.prefixes[i].value = p[i];
		in->raw.prefixes[i].type = d->prefix_type >> 2 * i & 3;
	}
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		in->raw.rex.W = s->rex >> 3 & 1;
		in->raw.rex.R = s->rex >> 2 & 1;
		in->raw.rex.X = s->rex >> 1 & 1;
		in->raw.rex.B = s->rex & 1;
	} else {
		/* no prefix stands before these */
		in->raw.vex.W = p[0] == 0xc4 && p[2] & 0x80;
		in->raw.vex.offset = in->raw.evex.offset = 0;
	}
	in->raw.modrm.offset = s->modrm_at;
	in->raw.modrm.mod = modrm >> 6;
	in->raw.modrm.reg = modrm >> 3 & 7;
	in->raw.modrm.rm = modrm & 7;
	in->raw.disp.size = (u8)(8 * s->disp);
	in->raw.disp.value = 0;
	if (s->disp) {
		u64 v = load_signed(p + at, s->disp);

		in->raw.disp.value = (s64)v;
		if (d->mem_op != JIT_DECODED_NO_OP)
			t->op[d->mem_op].mem.disp.value = (s64)v * d->disp_scale;
		at += s->disp;
	}
	for (unsigned i = 0; i < 2; i++) {
		unsigned n = d->imm_bytes[i];
		u64 v;

		in->raw.imm[i].size = (u8)(8 * n);
		if (!n)
			continue;
		v = d->imm_signed[i] ? load_signed(p + at, n) : mem_load(p + at, n);
		in->raw.imm[i].is_signed = d->imm_signed[i];
		in->raw.imm[i].offset = (u8)at;
		in->raw.imm[i].value.u = v;
		if (d->imm_op[i] != JIT_DECODED_NO_OP)
			t->op[d->imm_op[i]].imm.value.u = v;
		at += n;
	}
}

/* The instruction at p as the kept answer tells it: the fields that the translator looks at. */
static void unpack(struct trans *t, const struct jit_decoded *d, const struct scan *s, const u8 *p)
{
	ZydisDecodedInstruction *in = &t->in;

	t->allowed = d->allowed;
	t->copied = d->copied;
	in->mnemonic = d->mnemonic;
	in->length = d->length;
	in->encoding = d->encoding;
	in->opcode_map = d->opcode_map;
	in->opcode = d->opcode;
	in->operand_width = d->operand_width;
	in->address_width = d->address_width;
	in->operand_count = d->operand_count;
	in->attributes = d->attributes;
	in->avx.vector_length = d->vector_length;
	in->avx.mask.reg = d->mask;
	in->avx.broadcast.is_static = d->broadcast_static;
	in->avx.broadcast.mode = d->broadcast;
	in->meta.category = d->category;
	in->meta.isa_set = d->isa_set;
	in->meta.isa_ext = d->isa_ext;
	in->meta.branch_type = d->branch_type;
	in->meta.exception_class = d->exception_class;
	for (unsigned i = 0; i < d->operand_count; i++)
		unpack_operand(&t->op[i], &d->op[i]);
	fill_raw(t, d, s, p);
	if (s->plain)
		fill_registers(t, d, s, p);
}

static void pack(struct jit_decoded *d, const ZydisDecodedInstruction *in)
{
	d->mnemonic = (u16)in->mnemonic;
	d->length = in->length;
	d->encoding = in->encoding;
	d->opcode_map = in->opcode_map;
	d->opcode = in->opcode;
	d->operand_width = in->operand_width;
	d->address_width = in->address_width;
	d->operand_count = in->operand_count;
	d->attributes = in->attributes;
	d->vector_length = in->avx.vector_length;
	d->mask = (u16)in->avx.mask.reg;
	d->broadcast_static = in->avx.broadcast.is_static;
	d->broadcast = in->avx.broadcast.mode;
	d->category = (u8)in->meta.category;
	d->isa_set = (u8)in->meta.isa_set;
	d->isa_ext = (u8)in->meta.isa_ext;
	d->branch_type = in->meta.branch_type;
	d->exception_class = (u8)in->meta.exception_class;
	d->prefix_type = 0;
	for (unsigned i = 0; i < in->raw.prefix_count; i++)
		d->prefix_type |= (u8)(in->raw.prefixes[i].type << 2 * i);
	for (unsigned i = 0; i < 2; i++) {
		d->imm_bytes[i] = in->raw.imm[i].size / 8;
		d->imm_signed[i] = in->raw.imm[i].is_signed;
	}
}
_Static_assert(ZYDIS_MNEMONIC_MAX_VALUE < 1 << 16 && ZYDIS_REGISTER_MAX_VALUE < 1 << 16 &&
		       ZYDIS_ISA_SET_MAX_VALUE < 256 && ZYDIS_ISA_EXT_MAX_VALUE < 256 &&
		       ZYDIS_CATEGORY_MAX_VALUE < 256 && ZYDIS_EXCEPTION_CLASS_MAX_VALUE < 256 &&
		       ZYDIS_OPERAND_ENCODING_MAX_VALUE < 256,
	       "fields of struct jit_decoded");

/* Which operand is what. False: the answer cannot be kept. */
static bool find_operands(const struct trans *t, const struct scan *s, struct jit_decoded *d)
{
	const ZydisDecodedInstruction *in = &t->in;
	unsigned imm = 0;

	d->reg_op = d->rm_op = d->mem_op = d->imm_op[0] = d->imm_op[1] = JIT_DECODED_NO_OP;
	d->disp_scale = 1;
	for (u8 i = 0; i < in->operand_count; i++) {
		const ZydisDecodedOperand *op = &t->op[i];
		bool reg = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;

		if (!pack_operand(&d->op[i], op))
			return false;
		switch (op->type) {
		case ZYDIS_OPERAND_TYPE_MEMORY:
			if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM) {
				if (op->mem.disp.value)
					return false;
				continue;
			}
			d->mem_op = i;
			d->based = op->mem.base != ZYDIS_REGISTER_RIP;
			if (s->disp == 1 && s->head >> 32 == 0x62) { /* EVEX */
				if (!in->raw.disp.value)
					return false; /* that does not tell the scale */
				d->disp_scale = (u8)(op->mem.disp.value / in->raw.disp.value);
			}
			break;
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (op->encoding == ZYDIS_OPERAND_ENCODING_IS4)
				return false;
			if (!s->plain || (!reg && op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM))
				continue;
			if (first_of(op->reg.value) == ZYDIS_REGISTER_NONE ||
			    (reg ? d->reg_op : d->rm_op) != JIT_DECODED_NO_OP)
				return false;
			if (reg) {
				d->reg_op = i;
				d->reg_first = (u8)first_of(op->reg.value);
			} else {
				d->rm_op = i;
				d->rm_first = (u8)first_of(op->reg.value);
			}
			break;
		default:
			if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
				continue;
			if (imm == 2 || op->imm.value.u != in->raw.imm[imm].value.u)
				return false;
			d->imm_op[imm++] = i;
			break;
		}
	}
	return true;
}

/* Keeps what Zydis said of the instruction at p, unless it sees the bytes differently. */
static void keep(struct trans *t, const struct scan *s)
{
	const ZydisDecodedInstruction *in = &t->in;
	struct jit_decoded *d = slot_of(t->jit, s) + (t->jit->decoded_turn++ & 1);
	unsigned imm = (in->raw.imm[0].size + in->raw.imm[1].size) / 8;

	if (in->operand_count > JIT_DECODED_OPS || in->raw.modrm.offset != s->modrm_at ||
	    in->raw.sib.offset != s->sib_at || in->raw.disp.size != 8 * s->disp ||
	    (s->disp && in->raw.disp.offset != s->end) || in->length != s->end + s->disp + imm ||
	    (imm && in->raw.imm[0].offset != s->end + s->disp) ||
	    in->raw.prefix_count != s->prefixes + !!s->rex)
		return;
	d->tail = 0;
	if (!find_operands(t, s, d))
		return;
	pack(d, in);
	d->allowed = jit_isa_always(in, t->op);
	d->copied = jit_classify_never(t);
	d->head = s->head;
	d->tail = s->tail;
}

ZyanStatus jit_decode(struct trans *t, const u8 *p, u32 n)
{
	struct scan s;
	bool keyed = scan(t->cpu, t->mode, p, &s);
	ZyanStatus status;

	if (LIKELY(keyed)) {
		const struct jit_decoded *d = slot_of(t->jit, &s);

		if (d->head != s.head || d->tail != s.tail)
			d++;
		if (LIKELY(d->head == s.head && d->tail == s.tail)) {
			if (d->length > n)
				return ZYDIS_STATUS_NO_MORE_DATA;
			unpack(t, d, &s, p);
			return ZYAN_STATUS_SUCCESS;
		}
	}
	t->allowed = t->copied = false;
	status = jit_decode_uncached(t, p, n);
	if (ZYAN_SUCCESS(status)) {
		t->jit->stat_decodes++;
		if (keyed)
			keep(t, &s);
	}
	return status;
}
