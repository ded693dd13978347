/*
 * state.c - random initial states
 *
 * Uniformly random bits find few bugs: a register is usually a pointer near the edge of a page, a
 * small number, or a value at the edge of some operand size; a vector register holds floating
 * point numbers of all kinds, or small integers that can serve as gather indexes.
 */
#include <string.h>
#include "insn.h"
#include "memory.h"

static const u64 edges[] = {
	0,
	1,
	2,
	3,
	7,
	8,
	0xf,
	0x10,
	0x1f,
	0x20,
	0x3f,
	0x40,
	0x7f,
	0x80,
	0xff,
	0x100,
	0x7fff,
	0x8000,
	0xffff,
	0x10000,
	0x7fffffff,
	0x80000000,
	0xffffffff,
	0x100000000ull,
	0x7fffffffffffull,
	0x800000000000ull,
	0xffff800000000000ull,
	0x7fffffffffffffffull,
	0x8000000000000000ull,
	~0ull,
	~1ull,
	~7ull,
	~0xfull,
	~0x7full,
	~0xffull,
	0x5555555555555555ull,
	0xaaaaaaaaaaaaaaaaull,
	0xfffffffffull << 28,
};

u64 state_pointer(struct rng *r)
{
	/* Read-write pages most of the time. */
	static const u8 pages[] = {1, 2, 4, 6, 9, 10, 1, 2, 9, 10, 1, 2, 9, 10, 3, 7, 0, 5, 8, 11};
	u64 page = INSN_DATA_VA + pages[rng_below(r, sizeof(pages))] * PAGE_SIZE;
	u32 kind = rng_below(r, 100);

	if (kind < 40)
		return page + rng_below(r, PAGE_SIZE);
	if (kind < 65)
		return page + (rng_below(r, PAGE_SIZE) & ~63u);
	if (kind < 85)
		return page + PAGE_SIZE - rng_below(r, 80);
	if (kind < 90)
		return page + rng_below(r, 16);
	return page + (rng_below(r, PAGE_SIZE) & ~7u);
}

u64 state_segment_end(struct rng *r)
{
	return (u16)(rng_percent(r, 50) ? 16 - rng_below(r, 96) : -16 * rng_below(r, 5));
}

static u32 float32(struct rng *r)
{
	u64 v = rng_next(r);
	u32 sign = v & 0x80000000, frac = v >> 32 & 0x7fffff;

	switch (rng_below(r, 12)) {
	case 0:
		return sign;
	case 1:
		return sign | 0x7f800000;
	case 2:
		return sign | 0x7fc00000 | frac;
	case 3:
		return sign | 0x7f800001 | (frac & 0x3fffff);
	case 4:
		return sign | frac; /* denormal */
	case 5:
		return sign | (1 + rng_below(r, 40)) << 23 | frac;
	case 6:
		return sign | (254 - rng_below(r, 4)) << 23 | frac;
	case 7:
		return sign | 127 << 23;
	default:
		return sign | (100 + rng_below(r, 60)) << 23 | frac;
	}
}

static u64 float64(struct rng *r)
{
	u64 v = rng_next(r), sign = v & (1ull << 63), frac = v & 0xfffffffffffffull;

	switch (rng_below(r, 12)) {
	case 0:
		return sign;
	case 1:
		return sign | 0x7ffull << 52;
	case 2:
		return sign | 0xfffull << 51 | frac;
	case 3:
		return sign | 0x7ffull << 52 | 1 | (frac >> 1);
	case 4:
		return sign | frac;
	case 5:
		return sign | (u64)(1 + rng_below(r, 60)) << 52 | frac;
	case 6:
		return sign | (u64)(2046 - rng_below(r, 4)) << 52 | frac;
	case 7:
		return sign | 1023ull << 52;
	default:
		return sign | (u64)(960 + rng_below(r, 130)) << 52 | frac;
	}
}

static u64 word(struct rng *r)
{
	switch (rng_below(r, 8)) {
	case 0:
		return edges[rng_below(r, ARRAY_SIZE(edges))];
	case 1:
		return state_pointer(r);
	case 2:
		return (u64)float32(r) << 32 | float32(r);
	case 3:
		return float64(r);
	case 4:
		return rng_below(r, 512);
	default:
		return rng_next(r);
	}
}

/* An 80-bit register: 64-bit significand, then sign and exponent. */
static void x87_register(struct rng *r, u8 *p)
{
	u64 sig = rng_next(r) | 1ull << 63;
	u16 exp = (rng_next(r) & 0x8000) | (0x3fff - 70 + rng_below(r, 140));

	switch (rng_below(r, 12)) {
	case 0:
		sig = 0;
		exp &= 0x8000;
		break;
	case 1:
		sig = 1ull << 63;
		exp |= 0x7fff;
		break;
	case 2:
		exp |= 0x7fff;
		break;
	case 3:
		sig &= ~(1ull << 63);
		exp &= 0x8000;
		break;
	case 4:
		sig = rng_next(r); /* possibly an unnormal, which today's processors refuse */
		exp = rng_next(r);
		break;
	case 5:
		sig = rng_next(r);
		exp = 0xffff; /* what MMX leaves */
		break;
	case 6:
		sig = 1ull << 63;
		exp = (exp & 0x8000) | 0x3fff;
		break;
	case 7:
		sig = (u64)rng_below(r, 1000) << 54 | 1ull << 63;
		break;
	}
	memcpy(p, &sig, 8);
	memcpy(p + 8, &exp, 2);
	memset(p + 10, 0, 6);
}

static void x87_random(struct rng *r, u8 *x)
{
	u16 fcw = 0x37f, fsw;
	u8 ftw;

	if (rng_percent(r, 40)) {
		fcw = 0x7f | (rng_below(r, 4) << 8) | (rng_below(r, 4) << 10);
		if (rng_percent(r, 40))
			fcw &= ~0x3f | rng_below(r, 64);
	}
	fsw = rng_next(r) & 0x7f00;
	fsw &= ~0x8000;
	if (rng_percent(r, 50))
		fsw &= ~0x3800; /* top 0 */
	if (rng_percent(r, 30)) {
		fsw |= rng_below(r, 128);
		/* A pending unmasked exception hides everything else: not often. */
		if (rng_percent(r, 80))
			fsw &= ~0x3f | (fcw & 0x3f);
	}
	fsw &= ~0x80;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	ftw = rng_percent(r, 60) ? 0xff : rng_percent(r, 20) ? 0 : rng_next(r);
	memcpy(x, &fcw, 2);
	memcpy(x + 2, &fsw, 2);
	x[4] = ftw;
	memset(x + 5, 0, 19);
	for (unsigned i = 0; i < 8; i++)
		x87_register(r, x + 32 + 16 * i);
}

static void vector_fill(struct rng *r, u8 kind, u64 *v)
{
	for (unsigned i = 0; i < 8; i++) {
		switch (kind) {
		case V_RANDOM:
			v[i] = rng_next(r);
			break;
		case V_F32:
			v[i] = (u64)float32(r) << 32 | float32(r);
			break;
		case V_F64:
			v[i] = float64(r);
			break;
		case V_SMALL32:
			v[i] = rng_below(r, 256) | (u64)rng_below(r, 256) << 32;
			if (rng_percent(r, 10))
				v[i] ^= 0xffffffff;
			break;
		case V_SMALL64:
			v[i] = rng_below(r, 300);
			break;
		case V_ZERO:
			v[i] = 0;
			break;
		case V_ONES:
			v[i] = ~0ull;
			break;
		}
	}
}

static void vectors_random(struct rng *r, struct insn_case *c)
{
	static const u8 kinds[] = {V_RANDOM, V_RANDOM,	V_RANDOM,  V_F32,  V_F32, V_F64,
				   V_F64,    V_SMALL32, V_SMALL64, V_ZERO, V_ONES};
	u8 *x = c->in.xsave;
	u32 mxcsr = 0x1f80;
	u64 v[8];

	if (rng_percent(r, 40)) {
		mxcsr = 0x1f80 | (rng_next(r) & 0xe07f);
		if (rng_percent(r, 40))
			mxcsr &= ~0x1f80 | rng_next(r);
	}
	memcpy(x + 24, &mxcsr, 4);
	*(u32 *)(x + 28) = 0;
	for (unsigned i = 0; i < 32; i++) {
		c->vkind[i] = kinds[rng_below(r, sizeof(kinds))];
		if (i == 5 || i == 21)
			c->vkind[i] = V_SMALL32;
		if (i == 6 || i == 22)
			c->vkind[i] = V_SMALL64;
		if (i >= 16 && !(insn_xsave_mask & 0x80))
			break;
		vector_fill(r, c->vkind[i], v);
		if (i >= 16) {
			memcpy(x + insn_xsave_offset[7] + 64 * (i - 16), v, 64);
			continue;
		}
		memcpy(x + 160 + 16 * i, v, 16);
		if (insn_xsave_mask & 4)
			memcpy(x + insn_xsave_offset[2] + 16 * i, v + 2, 16);
		if (insn_xsave_mask & 0x40)
			memcpy(x + insn_xsave_offset[6] + 32 * i, v + 4, 32);
	}
	if (insn_xsave_mask & 0x20)
		for (unsigned i = 0; i < 8; i++) {
			u64 k = rng_next(r);

			switch (rng_below(r, 5)) {
			case 0:
				k = ~0ull;
				break;
			case 1:
				k = rng_below(r, 256);
				break;
			case 2:
				k = rng_percent(r, 50) ? 0 : 1ull << rng_below(r, 64);
				break;
			}
			memcpy(x + insn_xsave_offset[5] + 8 * i, &k, 8);
		}
}

/* Where the data area holds images that XRSTOR and the like accept: standard and compacted ones. */
#define IMAGE_STANDARD	(9 * PAGE_SIZE + 0x4c0)
#define IMAGE_COMPACTED (1 * PAGE_SIZE + 0x540)

static void image(struct rng *r, u8 *p, bool compacted)
{
	static struct insn_case c;
	u64 bv = insn_xsave_mask & (rng_percent(r, 30) ? insn_xsave_mask : rng_next(r));
	u64 comp = (bv | (insn_xsave_mask & rng_next(r))) | 1ull << 63;

	memset(&c.in.xsave, 0, insn_xsave_size);
	x87_random(r, c.in.xsave);
	vectors_random(r, &c);
	if (!compacted)
		comp = 0;
	memcpy(c.in.xsave + 512, &bv, 8);
	memcpy(c.in.xsave + 520, &comp, 8);
	memcpy(p, c.in.xsave, insn_xsave_size);
}

void state_memory(struct rng *r)
{
	u64 *p = (u64 *)insn_memory.baseline;

	for (unsigned i = 0; i < INSN_DATA_PAGES * PAGE_SIZE / 8; i++)
		p[i] = word(r);
	image(r, insn_memory.baseline + IMAGE_STANDARD, false);
	image(r, insn_memory.baseline + IMAGE_COMPACTED, true);
}

u64 state_target(struct rng *r, unsigned mnemonic)
{
	u64 at = INSN_DATA_VA + (rng_percent(r, 50) ? IMAGE_STANDARD : IMAGE_COMPACTED);

	switch (mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		at += 24;
		break;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FLDCW:
		break;
	default:
		return state_pointer(r);
	}
	return rng_percent(r, 60) ? at : state_pointer(r);
}

static u64 segment_base(struct rng *r)
{
	u32 kind = rng_below(r, 100);

	if (kind < 20)
		return 0;
	if (kind < 60)
		return rng_below(r, 0x2000);
	if (kind < 80)
		return state_pointer(r);
	if (kind < 90)
		return (s64)(s32)rng_next(r);
	return (s64)(rng_next(r) << 17) >> 17;
}

void state_random(struct rng *r, struct insn_case *c)
{
	struct insn_regs *g = &c->in.regs;
	u32 kind;

	c->ptr_mask = c->small_mask = 0;
	for (unsigned i = 0; i < 16; i++) {
		kind = rng_below(r, 100);
		if (i == 4)
			kind = rng_percent(r, 95) ? 0 : kind;
		if (kind < 45) {
			c->ptr_mask |= 1u << i;
			g->gpr[i] = state_pointer(r);
		} else if (kind < 65) {
			c->small_mask |= 1u << i;
			g->gpr[i] = rng_below(r, 70);
			if (rng_percent(r, 20))
				g->gpr[i] = -g->gpr[i];
		} else if (kind < 80) {
			g->gpr[i] = edges[rng_below(r, ARRAY_SIZE(edges))];
		} else {
			g->gpr[i] = rng_next(r);
		}
	}
	if (c->ptr_mask & 0x10 && rng_percent(r, 85))
		g->gpr[4] &= ~7ull;
	g->rflags = 0x202 | (rng_next(r) & 0x8d5);
	if (rng_percent(r, 20))
		g->rflags |= 0x400;
	if (rng_percent(r, 4))
		g->rflags |= 0x40000; /* AC */
	g->fs_base = segment_base(r);
	g->gs_base = segment_base(r);
	memset(g->sel, 0, sizeof(g->sel));
	g->sel[1] = 0x33;
	g->sel[2] = 0x2b;
	if (c->mode != INSN_LONG) {
		g->sel[0] = g->sel[3] = 0x2b;
		g->sel[1] = 0x23;
		g->fs_base = g->gs_base = 0;
		for (unsigned i = 0; i < 8; i++)
			g->gpr[i] = (u32)g->gpr[i];
	}
	if (mode_segmented(c->mode)) {
		segment_random(r, c);
		for (unsigned i = 0; i < 8; i++) {
			if (c->ptr_mask >> i & 1)
				g->gpr[i] -= INSN_DATA_VA;
			if (c->mode == INSN_SEG16 && rng_percent(r, 5))
				g->gpr[i] = state_segment_end(r);
			/* The upper half does not matter to 16-bit code. */
			if (c->mode == INSN_SEG16 && rng_percent(r, 20))
				g->gpr[i] = (u32)(g->gpr[i] & 0xffff) | (u32)rng_next(r) << 16;
		}
	}
	x87_random(r, c->in.xsave);
	vectors_random(r, c);
	memset(c->in.xsave + 416, 0, 96 + 64);
	memcpy(c->in.xsave + 512, &insn_xsave_mask, 8);
}
