/*
 * gen_seq.c - whole cases: sequences of instructions with control flow, laid out in memory
 *
 * The translator works on blocks, and what goes wrong in blocks is state that should have been
 * kept across something: flags across a memory access, a register that the translator borrowed, a
 * fault in the middle. So sequences mix all classes, and keep the pointers in registers alive most
 * of the time, because a case ends at its first fault.
 */
#include <string.h>
#include "insn.h"
#include "gen_internal.h"
#include "memory.h"

static u32 pick_template(struct rng *r, enum gen_mode mode, enum insn_mode cpu)
{
	static const u8 weight[2][CLASS_COUNT] = {
		{30, 12, 14, 18, 24, 2}, /* random */
		{70, 6, 8, 7, 8, 1},	 /* sequences */
	};
	const u8 *w = weight[mode == GEN_SEQ];
	u32 k = rng_below(r, 100), cls = 0;
	const struct catalog_mnem *m;

	while (k >= w[cls])
		k -= w[cls++];
	/* VEX and EVEX are enumerated once, and some 32-bit integer ones are taken from there too. */
	cpu = cpu == INSN_LONG ? INSN_LONG : INSN_COMPAT32;
	if (!catalog.cls[cpu][cls].count)
		cpu = INSN_LONG;
	m = &catalog.cls[cpu][cls].mnem[rng_below(r, catalog.cls[cpu][cls].count)];
	return catalog.order[m->first + rng_below(r, m->count)];
}

static void item_set(struct insn_item *it, const u8 *bytes, unsigned len, unsigned link_size,
		     unsigned link)
{
	memset(it, 0, sizeof(*it));
	memcpy(it->bytes, bytes, len);
	it->len = len;
	it->link_size = link_size;
	it->link = link;
	it->tmpl = ~0u;
}

void gen_item(struct insn_item *it, const u8 *bytes, unsigned len)
{
	item_set(it, bytes, len, 0, 0);
}

/* Near branches with 66: IP may lose its upper half. */
static unsigned other_size(struct rng *r, struct insn_case *c, struct insn_item *it, unsigned to)
{
	/* AMD's processors heed the prefix in 64-bit mode too: a displacement of 16 bits. */
	unsigned wide = c->mode == INSN_SEG16 ? 4 : 2;
	u8 cc = rng_below(r, 16);

	c->wild = true;
	switch (rng_below(r, 5)) {
	case 0:
		item_set(it, (u8[]){0x66, 0x70 | cc, 0}, 3, 1, to);
		break;
	case 1:
		item_set(it, (u8[]){0x66, 0x0f, 0x80 | cc, 0, 0, 0, 0}, 3 + wide, wide, to);
		break;
	case 2:
		item_set(it, (u8[]){0x66, cc & 1 ? 0xe8 : 0xe9, 0, 0, 0, 0}, 2 + wide, wide, to);
		break;
	case 3:
		item_set(it, (u8[]){0x66, 0xe0 | (cc & 3), 0}, 3, 1, to);
		break;
	default:
		item_set(it, (u8[]){0x66, 0xc3}, 2, 0, 0);
		break;
	}
	return 1;
}

/* A forward branch or call, RET, or an indirect jump over LEA. Returns the number of items. */
static unsigned control_flow(struct rng *r, struct insn_case *c, unsigned i, unsigned count)
{
	unsigned to = i + 1 + rng_below(r, 4);
	u8 reg = rng_below(r, c->mode == INSN_LONG ? 16 : 8), cc = rng_below(r, 16);
	struct insn_item *it = &c->item[i];
	u8 modrm = 5 | (reg & 7) << 3, wide = c->mode == INSN_SEG16 ? 2 : 4;

	if (rng_percent(r, 4))
		return other_size(r, c, it, to);

	switch (rng_below(r, 12)) {
	case 0:
	case 1:
	case 2:
		item_set(it, (u8[]){0x70 | cc, 0}, 2, 1, to);
		return 1;
	case 3:
	case 4:
		item_set(it, (u8[]){0x0f, 0x80 | cc, 0, 0, 0, 0}, 2 + wide, wide, to);
		return 1;
	case 5:
		if (rng_percent(r, 50))
			item_set(it, (u8[]){0xeb, 0}, 2, 1, to);
		else
			item_set(it, (u8[]){0xe9, 0, 0, 0, 0}, 1 + wide, wide, to);
		return 1;
	case 6:
		if (rng_percent(r, 20))
			item_set(it, (u8[]){0x67, 0xe0 | (cc & 3), 0}, 3, 1, to);
		else
			item_set(it, (u8[]){0xe0 | (cc & 3), 0}, 2, 1, to);
		return 1;
	case 7:
	case 8:
		item_set(it, (u8[]){0xe8, 0, 0, 0, 0}, 1 + wide, wide, to);
		return 1;
	case 9:
		c->wild |= c->mode == INSN_SEG16;
		if (rng_percent(r, 80))
			item_set(it, (u8[]){0xc3}, 1, 0, 0);
		else
			item_set(it, (u8[]){0xc2, rng_below(r, 16) * 8, 0}, 3, 0, 0);
		return 1;
	default:
		if (c->mode != INSN_LONG || i + 1 >= count || i + 1 >= INSN_ITEM_MAX)
			return 0;
		/* LEA reg, [rip + item]; then JMP, CALL, or PUSH and later RET. */
		item_set(it, (u8[]){0x48 | (reg >> 3) << 2, 0x8d, modrm, 0, 0, 0, 0}, 7, 0, to + 1);
		it->rip_off = 3;
		it->rip_link = true;
		it++;
		switch (rng_below(r, 5)) {
		case 0:
		case 1:
			item_set(it, (u8[]){0x41 & -(reg >> 3), 0xff, 0xe0 | (reg & 7)}, 3, 0, 0);
			break;
		case 2:
			item_set(it, (u8[]){0x41 & -(reg >> 3), 0xff, 0xd0 | (reg & 7)}, 3, 0, 0);
			break;
		case 3:
			item_set(it, (u8[]){0x41 & -(reg >> 3), 0x50 | (reg & 7)}, 2, 0, 0);
			break;
		case 4:
			/* Through memory: PUSH reg, then JMP or CALL [rsp]. */
			item_set(it, (u8[]){0x41 & -(reg >> 3), 0x50 | (reg & 7)}, 2, 0, 0);
			if (i + 2 < count && i + 2 < INSN_ITEM_MAX) {
				c->item[i].link++;
				item_set(it + 1, (u8[]){0xff, cc & 1 ? 0x24 : 0x14, 0x24}, 3, 0, 0);
			}
			if (!it->bytes[0]) {
				memmove(it->bytes, it->bytes + 1, 14);
				it->len--;
			}
			return i + 2 < count && i + 2 < INSN_ITEM_MAX ? 3 : 2;
		}
		if (!it->bytes[0]) {
			memmove(it->bytes, it->bytes + 1, 14);
			it->len--;
		}
		return 2;
	}
}

/*
 * Changes an instruction that comes soon, possibly the next one, possibly in this very block:
 * MOV RAX, alias; MOV [RAX], imm (or ADD, or XCHG); …; MOV EBX, imm. Returns the number of items.
 */
static unsigned self_modifying(struct rng *r, struct insn_case *c, unsigned i)
{
	static const u8 store[4][3] = {
		{0xc6, 0x00, 1}, {0xc7, 0x00, 4}, {0x80, 0x00, 1}, {0x81, 0x28, 4}};
	const u8 *s = store[rng_below(r, 4)];
	unsigned far = rng_below(r, 4), add = s[2] == 4 ? 1 : 1 + rng_below(r, 4);
	struct insn_item *it = &c->item[i];
	u8 b[15] = {0x48, 0xb8};
	u32 imm = rng_next(r);

	gen_item(it, b, 10);
	it->abs_size = 8;
	/* Opcode B8 + reg becomes that of another register, or the immediate changes. */
	it->abs_add = s[2] == 1 && rng_percent(r, 30) ? 0 : add;
	if (it->abs_add == 0) {
		b[0] = 0xc6;
		b[1] = 0;
		imm = 0xb8 | (imm & 7);
	} else {
		b[0] = s[0];
		b[1] = s[1];
	}
	memcpy(b + 2, &imm, 4);
	gen_item(it + 1, b, it->abs_add ? 2 + s[2] : 3);
	for (unsigned k = 0; k < far; k++)
		gen_item(it + 2 + k, (u8[]){0xff, 0xc0 | rng_below(r, 8)}, 2);
	it->link = i + 2 + far;
	gen_item(it + 2 + far, (u8[]){0xbb, 1, 2, 3, 4}, 5);
	/* Nothing else shall change code through that pointer. */
	gen_item(it + 3 + far, (u8[]){0xb8, 0, 0x10, 0, 0x10}, 5);
	c->smc = true;
	return 4 + far;
}

/* PUSH flags; POPF: single steps and alignment checks begin or end. Returns the number of items. */
static unsigned set_flags(struct rng *r, struct insn_case *c, struct insn_item *it)
{
	u32 flags = 0x202 | (rng_next(r) & 0x8d5), n = 0;
	u8 b[8];

	if (rng_percent(r, 50))
		flags |= 0x100; /* TF */
	if (rng_percent(r, 50))
		flags |= 0x40000; /* AC */
	if (rng_percent(r, 20))
		flags |= 0x400;
	if (rng_percent(r, 10))
		flags |= rng_next(r) & 0x204000; /* ID, NT */
	if (c->mode == INSN_SEG16)
		b[n++] = 0x66;
	b[n++] = 0x68;
	memcpy(b + n, &flags, 4);
	gen_item(it, b, n + 4);
	b[n - 1] = 0x9d;
	gen_item(it + 1, b, n);
	return 2;
}

/* Stores the x87's pointers, which are not compared: nothing may go on with them. */
static bool stores_pointers(const struct insn_item *it)
{
	return it->mnemonic == ZYDIS_MNEMONIC_FNSTENV || it->mnemonic == ZYDIS_MNEMONIC_FNSAVE ||
	       it->mnemonic == ZYDIS_MNEMONIC_FXSAVE || it->mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
}

/* XSAVE and its kin: their images hold the host's PKRU, and depend on what was done before. */
static bool saves_state(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return true;
	default:
		return false;
	}
}

/* PUSH and POP of memory, and plain accesses, all through RSP, which share a check with what pushes and pops. */
static void stack_memory(struct rng *r, struct insn_item *item, u8 reg)
{
	static const u8 modrm[][2] = {{0xff, 6}, {0x8f, 0}, {0x8b, 0}, {0x89, 0}};
	unsigned kind = rng_below(r, ARRAY_SIZE(modrm));
	u8 field = kind < 2 ? modrm[kind][1] : reg, rex = rng_percent(r, 50) ? 0x48 : 0x40;

	gen_item(item,
		 (u8[]){rex, modrm[kind][0], 0x44 | field << 3, 0x24,
			(u8)(8 * rng_below(r, 9) - 16 + (rng_percent(r, 20) ? 4 : 0))},
		 5);
}

/*
 * Pushes and pops in a row, which the translator may take together, with some moves and divisions between.
 * As a case's beginning, often with RSP near the end of a page, where one of them faults. Returns the
 * number of items.
 */
static unsigned stack_row(struct rng *r, struct insn_case *c, unsigned i, unsigned room)
{
	unsigned count = MIN(2 + rng_below(r, 8), room), kind = rng_below(r, 3);

	if (!i && rng_percent(r, 60))
		c->in.regs.gpr[4] = INSN_DATA_VA + rng_below(r, INSN_DATA_PAGES + 1) * 0x1000ull +
				    rng_below(r, 12) * 8 - 40 - (rng_percent(r, 10) ? 3 : 0);
	for (unsigned k = 0; k < count; k++) {
		u8 reg = rng_below(r, 8), high = c->mode == INSN_LONG && rng_percent(r, 50);
		bool pop = kind == 2 ? rng_percent(r, 50) : kind;

		if (k && rng_percent(r, 20))
			gen_item(&c->item[i + k],
				 rng_percent(r, 80)
					 ? (u8[]){0x89, 0xc0 | rng_below(r, 8) << 3 | reg}
					 : (u8[]){0xf7, 0xf0 | reg},
				 2);
		else if (c->mode == INSN_LONG && rng_percent(r, 20))
			stack_memory(r, &c->item[i + k], reg);
		else if (!pop && rng_percent(r, 15))
			gen_item(&c->item[i + k], (u8[]){0x6a, (u8)rng_next(r)}, 2);
		else if (high)
			gen_item(&c->item[i + k], (u8[]){0x41, 0x50 | pop << 3 | reg}, 2);
		else
			gen_item(&c->item[i + k], (u8[]){0x50 | pop << 3 | reg}, 1);
	}
	return count;
}

static void sequence(struct rng *r, struct insn_case *c)
{
	unsigned count = 1 + rng_below(r, 12), i = 0, tries = 0;
	unsigned loop_at = 0;
	u32 protect = c->ptr_mask | c->small_mask;
	bool loop = rng_percent(r, 8) && count >= 3;

	if (loop) {
		/* MOV ECX, n; body; LOOP body. */
		item_set(&c->item[0], (u8[]){0xb9, 1 + rng_below(r, 5), 0, 0, 0},
			 c->mode == INSN_SEG16 ? 3 : 5, 0, 0);
		i = loop_at = 1;
		count--;
	}
	while (i < count && tries++ < 60) {
		u32 mask = rng_percent(r, 80) ? protect : 0;

		if (loop)
			mask |= 2;
		if (!loop && rng_percent(r, 2)) {
			i += gen_far(r, c, i, INSN_ITEM_MAX - i);
			c->far = c->wild = true;
			continue;
		}
		if (!loop && c->mode == INSN_LONG && i + 8 < INSN_ITEM_MAX && rng_percent(r, 1)) {
			i += self_modifying(r, c, i);
			continue;
		}
		if (i + 2 < count && rng_percent(r, 2)) {
			i += set_flags(r, c, &c->item[i]);
			continue;
		}
		if (!loop && rng_percent(r, 14)) {
			i += control_flow(r, c, i, count);
			continue;
		}
		if (!loop && rng_percent(r, i ? 2 : 6)) {
			i += stack_row(r, c, i, MIN(count + 4, INSN_ITEM_MAX) - i);
			continue;
		}
		if (!gen_insn_masked(r, c, pick_template(r, GEN_SEQ, c->mode), mask, &c->item[i]) ||
		    /* flags that are not compared: something could go on with them */
		    compare_undefined(c->item[i].mnemonic) ||
		    /* excluded outside 64-bit mode, to which a far transfer may have led */
		    (c->far && c->item[i].mnemonic == ZYDIS_MNEMONIC_KMOVQ) ||
		    saves_state(c->item[i].mnemonic) || (loop && stores_pointers(&c->item[i])))
			continue;
		if (stores_pointers(&c->item[i++]))
			break;
	}
	if (loop && i > loop_at)
		item_set(&c->item[i++], (u8[]){0xe2, 0}, 2, 1, loop_at);
	c->count = i;
}

/* An instruction with LOCK that takes none, or with more prefixes than fit. */
static bool undefined_prefix(struct rng *r, struct insn_case *c, struct insn_item *it)
{
	static const u8 any[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3};
	ZydisDecodedInstruction in;
	unsigned n = 1, len;
	u8 b[32];

	if (!gen_insn(r, c, pick_template(r, GEN_RANDOM, c->mode), it))
		return false;
	if (rng_percent(r, 50)) {
		b[0] = 0xf0;
	} else {
		c->overlong = true;
		n = 16 - it->len + rng_below(r, it->len);
		for (unsigned i = 0; i < n; i++)
			b[i] = any[rng_below(r, rng_percent(r, 80) ? 6 : sizeof(any))];
	}
	len = MIN(n + it->len, 15u);
	memcpy(b + n, it->bytes, 15 - MIN(n, 15u));
	memcpy(it->bytes, b, len);
	it->len = len;
	it->rip_off = 0;
	it->tmpl = ~0u;
	return !ZYAN_SUCCESS(
		ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], NULL, it->bytes, len, &in));
}

/* What must be #UD: encodings the host lacks, those guests are not offered, and no encodings. */
static void undefined(struct rng *r, struct insn_case *c)
{
	struct insn_item *it = &c->item[0];
	ZydisDecodedInstruction in;

	c->count = 1;
	if (rng_percent(r, 15) && undefined_prefix(r, c, it))
		return;
	for (unsigned tries = 0; tries < 20 && rng_percent(r, 80); tries++) {
		u32 t = catalog.undefined[rng_below(r, catalog.undefined_count)];

		if (!gen_insn(r, c, t, it))
			continue;
		c->expect_ud = catalog.tmpl[t].masked;
		return;
	}
	do {
		static const u8 first[] = {0x0f, 0x0f, 0x0f, 0xc5, 0xc4,
					   0x62, 0x66, 0xf2, 0xf3, 0xf0};

		memset(it, 0, sizeof(*it));
		for (unsigned i = 0; i < 15; i++)
			it->bytes[i] = rng_next(r);
		if (rng_percent(r, 80))
			it->bytes[0] = first[rng_below(r, sizeof(first))];
		if (rng_percent(r, 10))
			it->bytes[1] = first[rng_below(r, sizeof(first))];
		it->len = 15;
		it->tmpl = ~0u;
	} while (ZYAN_SUCCESS(
		ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], NULL, it->bytes, 15, &in)));
}

/* The templates one after another, leaving out what is not to be generated. */
static u32 enum_template(u64 number)
{
	const struct tmpl *t;

	do
		t = &catalog.tmpl[number++ % catalog.count];
	while (t->excluded || t->unsupported || t->masked);
	return t - catalog.tmpl;
}

static enum insn_mode random_mode(struct rng *r)
{
	u32 k = rng_below(r, segment_available ? 100 : 84);

	return k < 74 ? INSN_LONG : k < 84 ? INSN_COMPAT32 : k < 90 ? INSN_SEG32 : INSN_SEG16;
}

static enum insn_mode enum_mode(struct rng *r, enum insn_mode mode)
{
	return mode == INSN_LONG ? INSN_LONG
				 : INSN_COMPAT32 + rng_below(r, segment_available ? 3 : 1);
}

void gen_state(struct rng *r, struct insn_case *c, enum insn_mode mode)
{
	c->mode = mode;
	state_random(r, c);
	c->trap_end = rng_percent(r, 3);
	c->expect_ud = c->smc = c->far = c->wild = c->overlong = c->edge = c->kernel = false;
	c->count = 0;
}

/* A segment or address size prefix is among the prefixes. */
static bool has_prefix(const struct insn_item *it, u8 prefix)
{
	for (unsigned i = 0; i < it->len; i++) {
		u8 b = it->bytes[i];

		if (b == prefix)
			return true;
		if (!((b & 0xe7) == 0x26 || (b & 0xfc) == 0x64 || (b & 0xfe) == 0xf2 || b == 0xf0 ||
		      (b & 0xf0) == 0x40))
			return false;
	}
	return false;
}

/* Registers that only a certain instruction is made for. */
static void single_adjust(struct rng *r, struct insn_case *c)
{
	if (c->count == 1 && saves_state(c->item[0].mnemonic))
		c->in.regs.gpr[0] &= ~0x200ull;
	if (c->count != 1 || c->mode != INSN_LONG || !has_prefix(&c->item[0], 0x67) ||
	    rng_percent(r, 40))
		return;
	/* addresses of 32 bits: the upper halves do not count */
	for (unsigned i = 0; i < 16; i++)
		if (i != 4 && rng_percent(r, 70))
			c->in.regs.gpr[i] ^= rng_next(r) << 32;
}

/* What CPL 0 does as CPL 3 does. */
static bool kernel_can(const struct insn_case *c)
{
	if (c->mode != INSN_LONG || c->far || c->smc || c->in.regs.rflags & 0x40000)
		return false;
	for (unsigned i = 0; i < c->count; i++) {
		const struct insn_item *it = &c->item[i];
		ZydisDecodedInstruction in;

		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], NULL,
								it->bytes, 15, &in)))
			return false;
		if (in.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
		    in.meta.category == ZYDIS_CATEGORY_IO ||
		    in.meta.category == ZYDIS_CATEGORY_IOSTRINGOP ||
		    in.meta.category == ZYDIS_CATEGORY_SYSTEM ||
		    in.meta.category == ZYDIS_CATEGORY_INTERRUPT)
			return false;
		switch (in.mnemonic) {
		case ZYDIS_MNEMONIC_CLI:
		case ZYDIS_MNEMONIC_STI:
		case ZYDIS_MNEMONIC_POPF:
		case ZYDIS_MNEMONIC_POPFQ:
			return false;
		case ZYDIS_MNEMONIC_MOV:
			if (in.opcode == 0x8c && in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
				return false;
			break;
		default:
			break;
		}
	}
	return true;
}

void gen_case(struct insn_case *c, enum gen_mode mode, u64 seed, u64 number)
{
	struct rng r = rng_derive(seed, number);

	c->seed = seed;
	c->number = number;
	if (mode == GEN_ENUM)
		gen_state(&r, c, enum_mode(&r, catalog.tmpl[enum_template(number)].mode));
	else
		gen_state(&r, c, random_mode(&r));
	switch (mode) {
	case GEN_ENUM:
		for (u64 k = number; !c->count; k++) {
			u32 t = enum_template(k);

			if ((catalog.tmpl[t].mode == INSN_LONG) == (c->mode == INSN_LONG))
				c->count = gen_insn(&r, c, t, &c->item[0]);
		}
		break;
	case GEN_UD:
		undefined(&r, c);
		break;
	case GEN_SEQ:
		sequence(&r, c);
		break;
	default:
		while (!c->count)
			c->count = gen_insn(&r, c, pick_template(&r, mode, c->mode), &c->item[0]);
		break;
	}
	single_adjust(&r, c);
	c->kernel = kernel_can(c);
	/* Where in its slot: anywhere, and every eighth slot lies across a page boundary. */
	c->code_va = rng_below(&r, 256);
	/* Or where the next page is absent, the next byte beyond CS's limit. */
	c->edge = rng_below(&r, 256) == 0 && !c->expect_ud;
	if (c->edge) {
		unsigned len = 0;
		u64 end = INSN_CODE_SIZE;

		for (unsigned i = 0; i < c->count; i++)
			len += c->item[i].len;
		if (c->mode == INSN_SEG16)
			end = 0x10000 * (1 + rng_below(&r, INSN_CODE_SIZE / 0x10000));
		c->code_va = INSN_CODE_VA + end - 1 - rng_below(&r, len + 6);
	}
}

static u64 item_va(const struct insn_case *c, u64 va, unsigned n)
{
	for (unsigned i = 0; i < n && i < c->count; i++)
		va += c->item[i].len;
	return va;
}

void gen_layout(struct insn_case *c, u64 va)
{
	u8 text[INSN_SLOT_SIZE], *p = text;
	u64 at = va;

	c->code_va = c->ip = va;
	if (c->mode == INSN_SEG16) {
		c->in.regs.sel[1] = LDT_SELECTOR(LDT_CODE16 + ((va - INSN_CODE_VA) >> 16));
		c->ip = va & 0xffff;
	} else if (c->mode == INSN_SEG32) {
		c->in.regs.sel[1] = LDT_SELECTOR(LDT_CODE32);
		c->ip = va - CODE32_BASE;
	}
	for (unsigned i = 0; i < c->count; i++) {
		const struct insn_item *it = &c->item[i];
		u64 next = at + it->len;
		s32 d;

		memcpy(p, it->bytes, it->len);
		if (it->link_size) {
			d = item_va(c, va, it->link) - next;
			memcpy(p + it->len - it->link_size, &d, it->link_size);
		}
		if (it->abs_size) {
			u64 to = item_va(c, va, it->link) + it->abs_add;

			to += it->abs_size == 8 ? INSN_ALIAS_VA - INSN_CODE_VA : c->ip - va;
			memcpy(p + it->len - it->abs_tail - it->abs_size, &to, it->abs_size);
		}
		if (it->rip_off) {
			d = (it->rip_link ? item_va(c, va, it->link) : it->rip_target) - next;
			memcpy(p + it->rip_off, &d, 4);
		}
		p += it->len;
		at = next;
	}
	if (c->trap_end || c->mode != INSN_LONG) {
		*p++ = 0xcc;
	} else {
		s32 d = INSN_CODE_VA - (at + 6);

		*p++ = 0xff;
		*p++ = 0x25;
		memcpy(p, &d, 4);
		p += 4;
	}
	*p++ = 0xcc;
	c->code_len = p - text;
	/* The code area may end before the code does. */
	memcpy(insn_memory.code + (va - INSN_CODE_VA), text,
	       MIN(c->code_len, INSN_CODE_VA + INSN_CODE_SIZE - va));
}
