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

/* Pushes a code address: LEA and PUSH, or PUSH of the offset. */
static unsigned push_target(struct insn_item *it, const struct insn_case *c, unsigned link)
{
	if (c->mode == INSN_LONG) {
		gen_item(it, (u8[]){0x48, 0x8d, 0x05, 0, 0, 0, 0}, 7);
		it->rip_off = 3;
		it->rip_link = true;
		it->link = link;
		gen_item(it + 1, (u8[]){0x50}, 1);
		return 2;
	}
	gen_item(it, (u8[]){0x68, 0, 0, 0, 0}, c->mode == INSN_SEG16 ? 3 : 5);
	it->abs_size = it->len - 1;
	it->link = link;
	return 1;
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

/* Returns and jumps through a far pointer on the stack. */
static unsigned transfer(struct rng *r, struct insn_case *c, struct insn_item *it, unsigned i)
{
	bool lng = c->mode == INSN_LONG;
	u8 rexw = lng && rng_percent(r, 75) ? 0x48 : 0;
	unsigned kind = rng_below(r, 8), n = 0, len = 0;
	u8 b[8];

	if (kind >= 6) {
		/* IRET */
		if (lng) {
			push(it + n++, c, rng_percent(r, 80) ? 0x2b : selector(r, c, false));
			gen_item(it + n++, (u8[]){0x54}, 1);
		}
		gen_item(it + n++, (u8[]){0x9c}, 1);
		push(it + n++, c, selector(r, c, true));
		n += push_target(it + n, c, i + n + (lng ? 3 : 2));
		if (rexw)
			b[len++] = rexw;
		b[len++] = 0xcf;
		gen_item(it + n++, b, len);
		return n;
	}
	push(it + n++, c, selector(r, c, true));
	n += push_target(it + n, c, i + n + (lng ? 3 : 2));
	if (rexw)
		b[len++] = rexw;
	if (kind < 3) {
		b[len++] = kind ? 0xcb : 0xca;
		if (!kind) {
			b[len++] = rng_below(r, 4) * 8;
			b[len++] = 0;
		}
	} else if (c->mode == INSN_SEG16) {
		/* MOV BX, SP is no address on a 32-bit stack; use the prefix. */
		b[len++] = 0x67;
		b[len++] = 0xff;
		b[len++] = kind == 3 ? 0x1c : 0x2c;
		b[len++] = 0x24;
	} else {
		b[len++] = 0xff;
		b[len++] = kind == 3 ? 0x1c : 0x2c;
		b[len++] = 0x24;
	}
	gen_item(it + n++, b, len);
	return n;
}

unsigned gen_far(struct rng *r, struct insn_case *c, unsigned i, unsigned room)
{
	if (room < 8)
		return 0;
	if (rng_percent(r, 50))
		return load(r, c, &c->item[i]);
	return transfer(r, c, &c->item[i], i);
}
