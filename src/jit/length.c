/*
 * length.c - how many bytes an instruction takes that is none
 *
 * A processor takes all bytes of an instruction before it says #UD: when they reach into an absent
 * page it is #PF, when there are more than 15 #GP. Zydis gives up earlier. The shapes of undefined
 * opcodes are those of a Zen 4; they are as regular as a length decoder has to be.
 */
#include "jit/jit_internal.h"

/* What follows an opcode. */
#define S_MODRM 1
#define S_REG	2 /* ModRM that names registers whatever its mod says */
#define S_IMM8	4
#define S_IMM16 8
#define S_IMMZ	16 /* 2 or 4, by operand size */
#define S_IMMV	32 /* 2, 4 or 8 */
#define S_FAR	64
#define S_MOFFS 128
#define S_TEST	256 /* immediate for /0 and /1 only */
#define S_REL	512 /* near branch: as S_IMMZ, but only AMD heeds 66 in 64-bit mode */

/* tables, in the form of case labels */
/* clang-format off */
static u32 shape_one(u8 op)
{
	static const u16 low[8] = { S_MODRM, S_MODRM, S_MODRM, S_MODRM, S_IMM8, S_IMMZ };

	if (op < 0x40)
		return low[op & 7];
	switch (op) {
	case 0x62: case 0x63: case 0x84 ... 0x8f: case 0xc4: case 0xc5: case 0xd0 ... 0xd3:
	case 0xd8 ... 0xdf: case 0xfe: case 0xff:
		return S_MODRM;
	case 0x69: case 0x81: case 0xc7:
		return S_MODRM | S_IMMZ;
	case 0x6b: case 0x80: case 0x82: case 0x83: case 0xc0: case 0xc1: case 0xc6:
		return S_MODRM | S_IMM8;
	case 0x68: case 0xa9:
		return S_IMMZ;
	case 0xe8: case 0xe9:
		return S_REL;
	case 0x6a: case 0x70 ... 0x7f: case 0xa8: case 0xb0 ... 0xb7: case 0xcd: case 0xd4: case 0xd5:
	case 0xe0 ... 0xe7: case 0xeb:
		return S_IMM8;
	case 0x9a: case 0xea:
		return S_FAR;
	case 0xa0 ... 0xa3:
		return S_MOFFS;
	case 0xb8 ... 0xbf:
		return S_IMMV;
	case 0xc2: case 0xca:
		return S_IMM16;
	case 0xc8:
		return S_IMM16 | S_IMM8;
	case 0xf6:
		return S_MODRM | S_TEST | S_IMM8;
	case 0xf7:
		return S_MODRM | S_TEST | S_IMMZ;
	default:
		return 0;
	}
}

/* The opcodes behind 0F, and the same in VEX and EVEX. */
static u32 shape_two(u8 op, bool evex)
{
	switch (op) {
	case 0x04 ... 0x0c: case 0x0e: case 0x24 ... 0x27: case 0x30 ... 0x3f: case 0x77:
	case 0xa0 ... 0xa2: case 0xa6 ... 0xaa: case 0xb9: case 0xc8 ... 0xcf: case 0xff:
		return 0;
	case 0x7a: case 0x7b:
		return evex ? S_MODRM : 0;
	case 0x78:
		return evex ? S_MODRM : S_MODRM | S_IMM16;
	case 0x20 ... 0x23:
		return S_REG;
	case 0x80 ... 0x8f:
		return S_REL;
	case 0x0f: case 0x70 ... 0x73: case 0xa4: case 0xac: case 0xba: case 0xc2: case 0xc4 ... 0xc6:
		return S_MODRM | S_IMM8;
	default:
		return S_MODRM;
	}
}
/* clang-format on */

struct length {
	const u8 *p;
	u32 n, at;
	unsigned bits, addr, operand; /* sizes in bits; operand of immediates that stop at 32 */
	bool vex, wide;		      /* C4, C5, 62 and 8F may begin something else; REX.W */
};

/* The byte at `at`; what is beyond the end is never decisive, as the length is too large then. */
static u8 peek(const struct length *l, u32 at)
{
	return at < l->n ? l->p[at] : 0;
}

static void prefixes(struct length *l)
{
	bool size = false, addr = false, vex = l->vex;

	for (; l->at < l->n; l->at++) {
		u8 b = l->p[l->at];

		if (l->bits == 64 && (b & 0xf0) == 0x40) {
			l->wide = b & 8;
			l->vex = false;
			continue;
		}
		if ((b & 0xe7) != 0x26 && (b & 0xfc) != 0x64 && b != 0xf0 && (b & 0xfe) != 0xf2)
			break;
		size |= b == 0x66;
		addr |= b == 0x67;
		l->wide = false;
		l->vex = vex;
	}
	l->operand = (l->bits == 16) != size ? 16 : 32;
	l->addr = l->bits == 64 ? (addr ? 32 : 64) : (l->bits == 16) != addr ? 16 : 32;
}

static u32 shape(struct length *l)
{
	u8 op = peek(l, l->at++), next = peek(l, l->at);
	bool vex = l->vex && (l->bits == 64 || next >= 0xc0);

	if (op == 0x0f) {
		op = peek(l, l->at++);
		if (op == 0x38 || op == 0x3a) {
			l->at++;
			return op == 0x38 ? S_MODRM : S_MODRM | S_IMM8;
		}
		return shape_two(op, false);
	}
	if (op == 0x8f && l->vex && next & 0x38) {
		/* once XOP */
		l->at += 3;
		l->operand = 32;
		return (next & 31) == 10 ? S_MODRM | S_IMMZ : S_MODRM;
	}
	if (!vex || (op != 0xc4 && op != 0xc5 && op != 0x62))
		return shape_one(op);
	l->at += op == 0xc5 ? 1 : op == 0xc4 ? 2 : 3;
	l->operand = 32;
	unsigned map = op == 0xc5 ? 1 : op == 0xc4 ? next & 31 : next & 3;

	u8 opcode = peek(l, l->at++);

	return map == 1 ? shape_two(opcode, op == 0x62) : map == 3 ? S_MODRM | S_IMM8 : S_MODRM;
}

static void modrm(struct length *l)
{
	u8 b = peek(l, l->at++), mod = b >> 6, rm = b & 7;

	if (mod == 3)
		return;
	if (l->addr == 16) {
		l->at += mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0;
		return;
	}
	if (rm == 4)
		rm = peek(l, l->at++) & 7;
	l->at += mod == 1 ? 1 : mod == 2 || rm == 5 ? 4 : 0;
}

u32 jit_insn_length(const struct cpu *cpu, u32 mode, const u8 *p, u32 n)
{
	struct length l = {.p = p,
			   .n = n,
			   .bits = mode & MODE_LONG   ? 64
				   : mode & MODE_CS32 ? 32
						      : 16,
			   .vex = mode & MODE_PE};
	u32 s;

	prefixes(&l);
	s = shape(&l);
	if (s & S_TEST && peek(&l, l.at) & 0x30)
		s = S_MODRM;
	if (s & S_MODRM)
		modrm(&l);
	l.at += s & S_REG ? 1 : 0;
	l.at += s & S_IMM8 ? 1 : 0;
	l.at += s & (S_IMM16 | S_FAR) ? 2 : 0;
	l.at += s & (S_IMMZ | S_FAR) ? (l.wide ? 4 : l.operand / 8) : 0;
	if (s & S_REL)
		l.at += (l.bits == 64 && cpu->vendor != CPU_VENDOR_AMD) || l.wide ? 4
										  : l.operand / 8;
	l.at += s & S_IMMV ? (l.wide ? 8 : l.operand / 8) : 0;
	l.at += s & S_MOFFS ? l.addr / 8 : 0;
	return l.at;
}
