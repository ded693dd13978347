/*
 * gen_far.c - segment register loads and far transfers, as parts of sequences
 *
 * These go through the descriptor tables. Guest and host have the same local table, and the same
 * user segments in the global one; its other entries refuse user code in both.
 */
#include <string.h>
#include "insn.h"
#include "gen_internal.h"

static u16 selector(struct rng *r, const struct insn_case *c, bool code)
{
	static const u16 odd[] = {0,	1,    2,      3,      0x10, 0x13, 0x18, 0x40, 0x43,
				  0x50, 0x60, 0xfff8, 0xffff, 7,    0x2a, 0x28, 0x32, 0x22};
	u32 k = rng_below(r, 100);

	if (k < (code ? 60 : 20))
		return code ? c->mode == INSN_LONG	  ? 0x33
			       : c->mode == INSN_COMPAT32 ? 0x23
							  : LDT_SELECTOR(LDT_CODE32)
			    : 0x2b;
	if (k < 70)
		return code ? rng_percent(r, 50) ? 0x23 : 0x33 : 0;
	if (k < 90)
		return LDT_SELECTOR(rng_below(r, LDT_COUNT + 1));
	return odd[rng_below(r, ARRAY_SIZE(odd))];
}

/* PUSH of a 16-bit constant at the code's operand size. */
static void push(struct insn_item *it, const struct insn_case *c, u16 value)
{
	u8 b[5] = {0x68, (u8)value, value >> 8, 0, 0};

	gen_item(it, b, c->mode == INSN_SEG16 ? 3 : 5);
}

/* What an element of a stack frame holds. */
enum { HOLDS_VALUE, HOLDS_CODE, HOLDS_STACK, HOLDS_FLAGS };

/*
 * Pushes one element of `size` bytes, whatever the code's own size. An item that holds the address
 * of code is left for the caller to link: its number goes to *code. Returns the number of items.
 */
static unsigned element(struct insn_item *it, const struct insn_case *c, unsigned size,
			unsigned holds, u16 value, struct insn_item **code)
{
	unsigned n = 0, native = c->mode == INSN_LONG ? 8 : c->mode == INSN_SEG16 ? 2 : 4, len = 0;
	u8 b[8] = {0};

	if (c->mode == INSN_LONG && holds == HOLDS_CODE) {
		gen_item(it, (u8[]){0x48, 0x8d, 0x05, 0, 0, 0, 0}, 7);
		it->rip_off = 3;
		it->rip_link = true;
		*code = it;
		n = 1;
	}
	if (c->mode == INSN_LONG && size == 4) {
		/* no PUSH of this size: MOV [rsp-4], …; LEA rsp, [rsp-4] */
		if (holds == HOLDS_VALUE || holds == HOLDS_FLAGS) {
			u8 mov[8] = {0xc7, 0x44, 0x24, 0xfc, (u8)value, value >> 8};

			if (holds == HOLDS_FLAGS)
				mov[4] = 2;
			gen_item(it + n++, mov, 8);
		} else {
			gen_item(it + n++,
				 (u8[]){0x89, holds == HOLDS_CODE ? 0x44 : 0x64, 0x24, 0xfc}, 4);
		}
		gen_item(it + n++, (u8[]){0x48, 0x8d, 0x64, 0x24, 0xfc}, 5);
		return n;
	}
	if (size != native)
		b[len++] = 0x66;
	if (holds == HOLDS_STACK || holds == HOLDS_FLAGS || n) {
		b[len++] = n ? 0x50 : holds == HOLDS_STACK ? 0x54 : 0x9c;
		gen_item(it + n++, b, len);
		return n;
	}
	b[len++] = 0x68;
	b[len] = (u8)value;
	b[len + 1] = value >> 8;
	gen_item(it + n, b, len + (size == 2 ? 2 : 4));
	if (holds == HOLDS_CODE) {
		it->abs_size = size == 2 ? 2 : 4;
		*code = it;
	}
	return n + 1;
}

static unsigned load(struct rng *r, struct insn_case *c, struct insn_item *it)
{
	static const u8 regs[] = {0, 0, 0, 3, 3, 3, 2, 4, 5};
	u8 seg = regs[rng_below(r, sizeof(regs))];
	u16 sel = selector(r, c, false);

	if (c->mode != INSN_LONG && seg != 2 && rng_percent(r, 40)) {
		push(it, c, sel);
		if (seg < 4)
			gen_item(it + 1, (u8[]){0x07 | seg << 3}, 1);
		else
			gen_item(it + 1, (u8[]){0x0f, 0x81 | seg << 3}, 2);
		return 2;
	}
	/* MOV ECX, selector; MOV Sreg, ECX. */
	gen_item(it, (u8[]){0xb9, (u8)sel, sel >> 8, 0, 0}, c->mode == INSN_SEG16 ? 3 : 5);
	if (rng_percent(r, 70))
		gen_item(it + 1, (u8[]){0x8e, 0xc1 | seg << 3}, 2);
	else
		gen_item(it + 1, (u8[]){0x66, 0x8e, 0xc1 | seg << 3}, 3);
	return 2;
}

/* LDS, LES, LSS, LFS, LGS EBX, [esp]: a far pointer that was just pushed. */
static unsigned load_pointer(struct rng *r, struct insn_case *c, struct insn_item *it)
{
	static const u8 op[] = {0xb2, 0xb4, 0xb5, 0xc5, 0xc4};
	u8 o = op[rng_below(r, c->mode == INSN_LONG ? 3 : 5)], b[8];
	unsigned n = 0, len = 0, size = c->mode == INSN_SEG16 ? 2 : 4;
	bool toggle = rng_percent(r, 25);

	if (toggle)
		size = 6 - size;
	n += element(it, c, size, HOLDS_VALUE, selector(r, c, false), NULL);
	n += element(it + n, c, size, HOLDS_VALUE, rng_next(r), NULL);
	if (c->mode == INSN_SEG16)
		b[len++] = 0x67;
	if (toggle)
		b[len++] = 0x66;
	if (o < 0xc0)
		b[len++] = 0x0f;
	b[len++] = o;
	b[len++] = 0x1c;
	b[len++] = 0x24;
	gen_item(it + n++, b, len);
	return n;
}

/* LAR, LSL, VERR, VERW of a selector in ECX. */
static unsigned look(struct rng *r, struct insn_case *c, struct insn_item *it)
{
	/* Of the global table only what Linux and the engine's machine have in common. */
	static const u16 common[] = {0, 1, 0x2b, 0x28, 0x33, 0x23, 0xffff};
	u16 sel = rng_percent(r, 70) ? LDT_SELECTOR(rng_below(r, LDT_COUNT)) - rng_below(r, 4)
				     : common[rng_below(r, ARRAY_SIZE(common))];
	unsigned kind = rng_below(r, 4), len = 0;
	u8 b[6];

	gen_item(it, (u8[]){0xb9, (u8)sel, sel >> 8, 0, 0}, c->mode == INSN_SEG16 ? 3 : 5);
	if (rng_percent(r, 30))
		b[len++] = 0x66;
	if (c->mode == INSN_LONG && rng_percent(r, 30))
		b[len++] = 0x48;
	b[len++] = 0x0f;
	b[len++] = kind < 2 ? 2 + kind : 0;
	b[len++] = kind < 2 ? 0xd9 : kind == 2 ? 0xe1 : 0xe9;
	gen_item(it + 1, b, len);
	return 2;
}

/* JMP and CALL with the pointer in the instruction. */
static unsigned immediate(struct rng *r, struct insn_case *c, struct insn_item *it, unsigned i)
{
	u16 sel = selector(r, c, true);
	unsigned len = 0, size = c->mode == INSN_SEG16 ? 2 : 4;
	u8 b[9] = {0};

	if (rng_percent(r, 20)) {
		b[len++] = 0x66;
		size = 6 - size;
	}
	b[len++] = rng_percent(r, 50) ? 0xea : 0x9a;
	len += size;
	b[len++] = (u8)sel;
	b[len++] = sel >> 8;
	gen_item(it, b, len);
	it->abs_size = size;
	it->abs_tail = 2;
	it->link = i + 1;
	return 1;
}

/* Returns and jumps through a far pointer on the stack. */
static unsigned transfer(struct rng *r, struct insn_case *c, struct insn_item *it, unsigned i,
			 unsigned room)
{
	bool lng = c->mode == INSN_LONG;
	unsigned size = c->mode == INSN_SEG16 ? 2 : 4, kind = rng_below(r, 8), n = 0, len = 0;
	u32 k = rng_below(r, 100);
	struct insn_item *code = NULL;
	u8 b[8];

	/* Operand size; the pointer of JMP and CALL has no 64-bit form everywhere. */
	if (lng && k < 70) {
		b[len++] = 0x48;
		size = kind >= 3 && kind < 6 && rng_percent(r, 80) ? 4 : 8;
	} else if (k >= 85) {
		size = c->mode == INSN_SEG16 ? 4 : 2;
		b[len++] = 0x66;
	}
	if (lng && size == 4 && kind >= 6 && room < 15)
		return 0;
	if (kind >= 6) {
		if (lng) {
			n += element(it, c, size, HOLDS_VALUE,
				     rng_percent(r, 80) ? 0x2b : selector(r, c, false), NULL);
			n += element(it + n, c, size, HOLDS_STACK, 0, NULL);
		}
		n += element(it + n, c, size, HOLDS_FLAGS, 0, NULL);
	}
	n += element(it + n, c, size, HOLDS_VALUE, selector(r, c, true), NULL);
	n += element(it + n, c, size, HOLDS_CODE, 0, &code);
	if (kind >= 6) {
		b[len++] = 0xcf;
	} else if (kind < 3) {
		b[len++] = kind ? 0xcb : 0xca;
		if (!kind) {
			b[len++] = rng_below(r, 4) * 8;
			b[len++] = 0;
		}
	} else {
		/* [SP] is no 16-bit address */
		if (c->mode == INSN_SEG16) {
			memmove(b + 1, b, len++);
			b[0] = 0x67;
		}
		b[len++] = 0xff;
		b[len++] = kind == 3 ? 0x1c : 0x2c;
		b[len++] = 0x24;
	}
	gen_item(it + n++, b, len);
	code->link = i + n;
	return n;
}

unsigned gen_far(struct rng *r, struct insn_case *c, unsigned i, unsigned room)
{
	if (room < 10)
		return 0;
	switch (rng_below(r, 10)) {
	case 0:
	case 1:
	case 2:
		return load(r, c, &c->item[i]);
	case 3:
		return load_pointer(r, c, &c->item[i]);
	case 4:
		return segment_available ? look(r, c, &c->item[i]) : 0;
	case 5:
		return c->mode == INSN_LONG ? 0 : immediate(r, c, &c->item[i], i);
	default:
		return transfer(r, c, &c->item[i], i, room);
	}
}
