/*
 * gen.c - one random instruction from a template
 *
 * The template fixes what the instruction is; registers, addressing, masks, prefixes and
 * immediates are random. What comes out is decoded again, and tried again when it is not legal or
 * not the template's instruction.
 */
#include <string.h>
#include "insn.h"
#include "encode.h"
#include "gen_internal.h"
#include "memory.h"

/* Takes one of the registers of a set, or any. */
static unsigned pick_register(struct rng *r, u32 set, unsigned percent, unsigned count)
{
	unsigned n = rng_below(r, count);

	if (set && rng_percent(r, percent))
		while (!(set >> n & 1))
			n = (n + 1) % count;
	return n;
}

struct operand {
	u8 modrm, sib;
	bool has_sib;
	u8 disp_size;
	s32 disp;
	bool rip;
	u64 target;
	u8 x, bb;
	u8 vidx_high; /* VSIB: bit 4 of the index register */
};

static u64 segment_base(const struct insn_case *c, u8 seg)
{
	return seg == 0x64 ? c->in.regs.fs_base : seg == 0x65 ? c->in.regs.gs_base : 0;
}

/* A memory operand, usually one that reaches the data area. `addr`: 32-bit addresses in 64-bit code. */
static void memory_operand(struct rng *r, const struct insn_case *c, const struct tmpl *t, u8 seg,
			   bool addr, struct operand *o)
{
	unsigned regs = c->mode == INSN_LONG ? 16 : 8, kind = rng_below(r, 100);
	u32 mask = (1u << regs) - 1;
	unsigned base = pick_register(r, c->ptr_mask & mask, 92, regs);
	unsigned index = pick_register(r, c->small_mask & mask & ~0x10, 85, regs);
	unsigned scale = rng_below(r, 4), mod;
	bool has_base = true, use_sib = rng_percent(r, 35) || t->vsib;
	/* Every other case has a register that most operands lie around, as in compiled code. */
	unsigned favourite = c->number >> 4 & (regs - 1);
	bool far;
	bool near =
		(c->number & 8) && (c->ptr_mask >> favourite & 1) && rng_percent(r, 75) && !t->vsib;
	u64 ea = segment_base(c, seg), target = state_target(r, t->mnemonic);

	memset(o, 0, sizeof(*o));
	if (near) {
		base = favourite;
		kind = 100;
		use_sib = false;
	}
	if (mode_segmented(c->mode))
		target -= INSN_DATA_VA;
	if (kind < 7 && !t->vsib && c->mode == INSN_LONG) {
		o->modrm = 5;
		o->rip = true;
		o->disp_size = 4;
		o->target = target - ea;
		o->bb = rng_below(r, 2);
		return;
	}
	if (kind < 7 && !t->vsib) {
		o->modrm = 5;
		o->disp_size = 4;
		o->disp = target;
		return;
	}
	if (kind < 12) {
		has_base = false;
		use_sib = true;
	}
	if (t->vsib) {
		static const u8 small[] = {5, 21, 6, 22};

		index = rng_percent(r, 85) ? small[rng_below(r, 4)] : rng_below(r, 32);
		if (t->enc == ENC_VEX)
			index &= 15;
		if (c->mode != INSN_LONG)
			index &= 7;
		o->vidx_high = index >> 4;
		index &= 15;
	} else if (use_sib && rng_percent(r, 25)) {
		index = 4; /* none */
	}
	if ((base & 7) == 4) {
		use_sib = true;
		if (near)
			index = 4;
	}
	/* and some as far from it as can be: sums of displacements leave 32 bits */
	far = near && rng_percent(r, 3);
	mod = far ? 2 : near ? 1 : has_base ? rng_below(r, 3) : 0;
	if (has_base && mod == 0 && (base & 7) == 5)
		mod = 1;
	if (has_base)
		ea += c->in.regs.gpr[base];
	if (use_sib && index != 4 && !t->vsib)
		ea += c->in.regs.gpr[index] << scale;
	if (use_sib) {
		o->has_sib = true;
		o->sib = scale << 6 | (index & 7) << 3 | (has_base ? base & 7 : 5);
		o->x = index >> 3;
	}
	o->bb = base >> 3;
	o->modrm = mod << 6 | (use_sib ? 4 : base & 7);
	if (mod == 1) {
		o->disp_size = 1;
		o->disp = t->enc == ENC_EVEX ? (s8)rng_next(r) >> rng_below(r, 6) : (s8)rng_next(r);
	} else if (far) {
		static const s32 edge[] = {INT32_MAX,	  INT32_MAX - 3, INT32_MIN,
					   INT32_MIN + 4, 1 << 30,	 -(1 << 30)};

		o->disp_size = 4;
		o->disp = edge[rng_below(r, 6)];
	} else if (mod == 2 || !has_base) {
		s64 d = target - ea;

		o->disp_size = 4;
		o->disp = d;
		if ((d != (s32)d && c->mode == INSN_LONG && !addr) || rng_percent(r, 4))
			o->disp = rng_percent(r, 70) ? (s32)rng_below(r, 8192) - 4096
						     : (s32)rng_next(r);
	}
}

/* The same with 16-bit addressing. Among operands of 64 bytes are those whose halves wrap each for itself. */
static void memory_operand16(struct rng *r, const struct insn_case *c, const struct tmpl *t,
			     struct operand *o)
{
	static const s8 regs[8][2] = {{3, 6},  {3, 7},	{5, 6},	 {5, 7},
				      {6, -1}, {7, -1}, {5, -1}, {3, -1}};
	unsigned rm = rng_below(r, 8), mod = rng_below(r, 4);
	u64 target = state_pointer(r), ea = 0;

	if (mode_segmented(c->mode))
		target = rng_percent(r, t->enc == ENC_EVEX && t->ll == 2 ? 60 : 6)
				 ? state_segment_end(r)
				 : target - INSN_DATA_VA;
	memset(o, 0, sizeof(*o));
	mod = mod == 3 ? 2 : mod;
	if (mod != 0 || rm != 6)
		for (unsigned i = 0; i < 2; i++)
			if (regs[rm][i] >= 0)
				ea += c->in.regs.gpr[(u8)regs[rm][i]];
	o->modrm = mod << 6 | rm;
	o->disp_size = mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0;
	o->disp = mod == 1 ? (s8)rng_next(r) : (s32)(target - ea);
}

static unsigned put_operand(const struct operand *o, u8 *p)
{
	unsigned n = 1;

	p[0] |= o->modrm;
	if (o->has_sib)
		p[n++] = o->sib;
	memcpy(p + n, &o->disp, o->disp_size);
	return n + o->disp_size;
}

/* Legacy prefixes before the rest. Returns their number; *seg is the effective FS or GS. */
static unsigned prefixes(struct rng *r, const struct insn_case *c, u8 *p, u8 *seg, bool *addr)
{
	static const u8 segs[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
	unsigned n = 0;

	*seg = 0;
	if (rng_percent(r, mode_segmented(c->mode) ? 25 : 12)) {
		/* In flat 32-bit mode FS and GS are null selectors. */
		p[n] = segs[rng_below(r, 8)];
		if (c->mode == INSN_LONG)
			*seg = p[n];
		n++;
	}
	if (rng_percent(r, c->mode == INSN_LONG ? 4 : 2))
		p[n++] = 0x67;
	else if (c->mode == INSN_SEG16 && rng_percent(r, 15))
		p[n++] = 0x67;
	*addr = n && p[n - 1] == 0x67;
	return n;
}

/*
 * More prefixes than are needed, in any order: doubled ones, segments of which the last one counts,
 * REX where it is none. The first `count` bytes are prefixes. Returns how many bytes were put in.
 */
static unsigned prefix_noise(struct rng *r, const struct insn_case *c, u8 *p, unsigned count,
			     unsigned len)
{
	static const u8 any[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0xf2, 0xf3};
	unsigned more = rng_percent(r, 8) ? 1 + rng_below(r, 3) : 0;

	for (unsigned i = 0; i < more; i++) {
		unsigned at = rng_below(r, count + 1);
		u8 b = any[rng_below(r, sizeof(any))];

		if (count && rng_percent(r, 40))
			b = p[rng_below(r, count)];
		else if (c->mode == INSN_LONG && rng_percent(r, 30))
			b = 0x40 | rng_below(r, 16);
		memmove(p + at + 1, p + at, len++ - at);
		p[at] = b;
		count++;
	}
	for (unsigned i = 1; i < count && rng_percent(r, 30); i++) {
		unsigned k = rng_below(r, count);
		u8 b = p[k];

		p[k] = p[i];
		p[i] = b;
	}
	return more;
}

static bool lockable(const ZydisDecodedInstruction *in)
{
	return in->attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK;
}

static bool make(struct rng *r, const struct insn_case *c, const struct tmpl *t,
		 struct insn_item *out, u8 *buf)
{
	struct encode e = {.enc = t->enc,
			   .map = t->map,
			   .pp = t->pp,
			   .w = t->w,
			   .ll = t->ll,
			   .b = t->b,
			   .opcode = t->opcode};
	struct operand o = {0};
	bool lng = c->mode == INSN_LONG;
	unsigned n, count;
	bool addr;
	u8 seg;

	memset(out, 0, sizeof(*out));
	count = n = prefixes(r, c, buf, &seg, &addr);
	e.r = lng && rng_percent(r, 50);
	e.bb = lng && rng_percent(r, 50);
	e.no_rex = !lng;
	if (t->enc == ENC_LEGACY) {
		if (t->reg >= 0 && rng_percent(r, 70))
			e.r = 0;
		if (t->rm >= 0 && rng_percent(r, 70))
			e.bb = 0;
		e.x = lng && rng_percent(r, 10);
		if (rng_percent(r, 40))
			e.r = e.x = e.bb = 0;
		e.rex = rng_percent(r, 30);
		if (!lng && e.w)
			return false;
	} else {
		e.vvvv = rng_percent(r, 70) ? rng_below(r, t->enc == ENC_EVEX ? 32 : 16) : 0;
		if (!lng)
			e.vvvv &= 7;
		e.vex3 = rng_percent(r, 40);
		if (t->enc == ENC_EVEX) {
			e.r2 = lng && rng_percent(r, 50);
			e.x = lng && rng_percent(r, 50);
			e.aaa = rng_percent(r, 55) ? rng_below(r, 8) : 0;
			e.z = e.aaa && rng_percent(r, 40);
		}
	}
	if (t->modrm) {
		if (!t->mod3) {
			if (!lng && addr == (c->mode != INSN_SEG16))
				memory_operand16(r, c, t, &o);
			else
				memory_operand(r, c, t, seg, addr && lng, &o);
			e.x = o.x;
			e.bb = o.bb;
			if (t->vsib) {
				if (t->enc == ENC_EVEX) {
					e.vvvv = o.vidx_high << 4;
					e.aaa = 1 + rng_below(r, 7);
					e.z = 0;
				}
			}
		}
	}
	n += encode_prefix(&e, buf + n);
	if (t->enc == ENC_LEGACY)
		count += (t->pp > 0) + (t->pp > 3);
	n += prefix_noise(r, c, buf, count, n);
	if (t->modrm) {
		buf[n] = (t->reg >= 0 ? t->reg : rng_below(r, 8)) << 3;
		if (t->mod3) {
			buf[n] |= 0xc0 | (t->rm >= 0 ? t->rm : rng_below(r, 8));
			n++;
		} else {
			if (o.rip)
				out->rip_off = n + 1;
			out->rip_target = o.target;
			n += put_operand(&o, buf + n);
		}
	} else if (t->enc == ENC_LEGACY && !t->map && lng && t->opcode >= 0xa0 &&
		   t->opcode <= 0xa3) {
		u64 a = state_pointer(r) - segment_base(c, seg);

		memcpy(buf + n, &a, 8);
		n += 8;
	}
	for (unsigned i = n; i < 24; i++)
		buf[i] = rng_next(r);
	/* Immediates: small ones are shift counts, selectors of lanes and the like. */
	if (rng_percent(r, 50))
		buf[n] &= 0x3f;
	return true;
}

bool gen_protects(const struct insn_case *c, const ZydisDecodedInstruction *in,
		  const ZydisDecodedOperand *op, u32 mask)
{
	for (unsigned i = 0; i < in->operand_count; i++) {
		int id;

		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		id = ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
									 op[i].reg.value));
		if (ZydisRegisterGetClass(ZydisRegisterGetLargestEnclosing(
			    ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value)) != ZYDIS_REGCLASS_GPR64)
			continue;
		if (id >= 0 && id < 16 && (mask >> id & 1))
			return true;
	}
	return false;
}

/*
 * EVEX.X extends only vector registers, and is ignored with a general one. This host's processor
 * (Zen 4) then reads RSP without what PUSH and CALL have just subtracted from it.
 */
static bool stale_rsp(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || in->raw.evex.X)
		return false;
	for (unsigned i = 0; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value) ==
			    ZYDIS_REGISTER_RSP)
			return true;
	return false;
}

bool gen_insn_masked(struct rng *r, const struct insn_case *c, u32 tmpl, u32 protect,
		     struct insn_item *out)
{
	const struct tmpl *t = &catalog.tmpl[tmpl];
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction in;
	ZydisDecoderContext ctx;
	u8 buf[48];

	for (unsigned tries = 0; tries < 12; tries++) {
		u8 *start = buf + 1;

		if (!make(r, c, t, out, start))
			return false;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], &ctx, start,
								15, &in)))
			continue;
		/* In 16-bit code the names of some operand sizes are swapped. */
		if ((in.mnemonic != t->mnemonic && c->mode != INSN_SEG16) || catalog_excluded(&in))
			continue;
		/* Linux's gate for system calls */
		if (in.mnemonic == ZYDIS_MNEMONIC_INT && in.raw.imm[0].value.u == 0x80)
			continue;
		if (lockable(&in) && t->modrm && !t->mod3 && rng_percent(r, 15)) {
			buf[0] = 0xf0;
			if (in.length < 15 &&
			    ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], &ctx,
								       buf, 15, &in))) {
				start = buf;
				out->rip_off += out->rip_off != 0;
			}
		}
		if (protect || in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
			if (!ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&insn_decoder[c->mode], &ctx,
								     &in, op, in.operand_count)) ||
			    gen_protects(c, &in, op, protect) || stale_rsp(&in, op))
				continue;
		}
		memcpy(out->bytes, start, in.length);
		out->len = in.length;
		out->mnemonic = in.mnemonic;
		out->tmpl = tmpl;
		return true;
	}
	return false;
}

bool gen_insn(struct rng *r, const struct insn_case *c, u32 tmpl, struct insn_item *out)
{
	return gen_insn_masked(r, c, tmpl, 0, out);
}
