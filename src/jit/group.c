/*
 * group.c - one TLB check for several accesses through the same base register
 *
 * Compilers address a structure or a stack frame by one register and small displacements. Such
 * accesses within a block form a group: the first one's check is widened to the bytes that all of
 * them touch, and the others need none. Pushes, pops, calls and returns take part with RSP.
 *
 * The first access opens a group; while the base register lives on (RSP may change by a known
 * amount, as PUSH does), further ones join. Joining patches the check that was emitted before: it
 * spans all bytes from the lowest one, or from the base register itself when they are close behind
 * it, and its tag is the one for writing when any writes. The accesses themselves are
 * [base + B + disp]. Several groups are open at a time; when B, the TLB's addend, was another
 * group's, it is fetched again, without a look at the tag: between a group's check and its last
 * access nothing changes the TLB. That is because every miss in between leaves.
 *
 * When a check fails nothing of its group has been done. Groups that overlap make a region: a check
 * that fails in a region goes on in the region's second translation, which lies with the stubs,
 * checks every access by itself, and comes back behind the region (cold_region() in translate.c);
 * so faults, devices, watchpoints and page crossings never meet a widened check. A group that stays
 * alone keeps its ordinary stub.
 *
 * Only in 64-bit code, where no segment limits an access.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"
#include "mmu/window.h"

/* A wider span crosses pages more often, and is then done twice. */
#define SPAN 256
/* How far a byte may be from the base register whose page is looked up. */
#define NEAR 127
/* Farther displacements stay alone: the sums below must not leave 32 bits. */
#define FAR (1 << 30)
/* Through the window: behind a greater one there is an array at a fixed address, and the register is an index. */
#define WINDOW_FAR (1 << 20)

bool jit_group_operand(const struct trans *t, const ZydisDecodedOperand *op, unsigned *reg,
		       s32 *disp)
{
	ZydisRegister seg = op->mem.segment, base = op->mem.base;

	if (t->in.address_width != 64 || op->mem.index != ZYDIS_REGISTER_NONE ||
	    seg == ZYDIS_REGISTER_GS)
		return false;
	*disp = (s32)op->mem.disp.value;
	if (t->window && base == ZYDIS_REGISTER_NONE && seg == ZYDIS_REGISTER_FS) {
		*reg = A_FS;
		return *disp == op->mem.disp.value;
	}
	if (base == ZYDIS_REGISTER_NONE || base == ZYDIS_REGISTER_RIP || seg == ZYDIS_REGISTER_FS)
		return false;
	*reg = jit_gpr_index(base);
	if (t->window)
		return true;
	return jit_home[*reg] != REG_MEMORY ||
	       (op->mem.disp.value >= 0 && op->mem.disp.value + op->size / 8 - 1 <= NEAR);
}

bool jit_window_static(const struct trans *t, const ZydisDecodedOperand *op, u64 *host)
{
	bool here = op->mem.base == ZYDIS_REGISTER_RIP;
	u64 lin = (here ? t->next_pc : 0) + (u64)op->mem.disp.value;

	if (!t->window || op->mem.segment == ZYDIS_REGISTER_FS ||
	    op->mem.segment == ZYDIS_REGISTER_GS || t->in.address_width != 64)
		return false;
	return (here ||
		(op->mem.base == ZYDIS_REGISTER_NONE && op->mem.index == ZYDIS_REGISTER_NONE)) &&
	       window_host(mmu_window_shape(t->cpu), lin, host);
}

static void patch(u8 *at, u32 v)
{
	*(u32_una *)at = v;
}

static bool join(struct trans *t, struct group *g, s32 disp, unsigned size, bool write)
{
	s64 at = disp + g->shift, lo = MIN(g->lo, at), hi = MAX(g->hi, at + (s64)size);
	s64 reach = g->based ? hi - 1 : hi - lo - 1;

	if (hi - lo > SPAN || (g->based && (lo < 0 || reach > NEAR)))
		return false;
	g->lo = lo;
	g->hi = hi;
	g->write |= write;
	g->joined = true;
	g->last = t->insn_count - 1;
	if (g->check.address)
		patch(g->check.address, (u32)lo);
	if (g->check.narrow)
		*g->check.reach = (u8)reach;
	else
		patch(g->check.reach, (u32)reach - (t->jit->use_loop ? 0 : PAGE_SIZE));
	patch(g->check.tag, jit_tlb_tag(t, g->write));
	return true;
}

/** The host register that the operand of a group's access is based on: A for memory-homed ones. */
unsigned jit_group_base(unsigned reg)
{
	return reg == A_FS || jit_home[reg] == REG_MEMORY ? REG_A : jit_home[reg];
}

/** The host register that has the distance of a group's access. */
unsigned jit_group_addend(const struct trans *t, unsigned reg)
{
	return t->window && reg == RSP ? REG_S : REG_B;
}

/* A = a base that lives in memory. */
static void load_base(struct trans *t, unsigned reg)
{
	if (reg == A_FS || jit_home[reg] == REG_MEMORY)
		jit_emit_a(t, reg);
}

/*
 * Does the current instruction access its memory operand in any case? A mask may be 0, and a store of the
 * x87 unit is not done when that raises an exception.
 */
static bool touches(const struct trans *t)
{
	ZydisRegister mask = t->in.avx.mask.reg;

	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_FISTTP:
		return false;
	default:
		return t->in.meta.isa_ext != ZYDIS_ISA_EXT_X87 &&
		       (t->in.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX ||
			mask == ZYDIS_REGISTER_NONE || mask == ZYDIS_REGISTER_K0);
	}
}

/*
 * Through the window nothing is checked, and B serves all bytes around a base register, until there is
 * something else in either of them. A block that begins with it can be entered behind it, by jumps with
 * the same in B: as each entry touches memory through B, the register cannot get far in between.
 */
static bool window_access(struct trans *t, unsigned reg, s32 disp)
{
	struct group *g = t->b_group;
	bool first = t->e.p == t->block->body;

	if (disp < -WINDOW_FAR || disp > WINDOW_FAR)
		return false;
	if (reg == RSP) {
		t->stack_used |= touches(t);
		return true;
	}
	load_base(t, reg);
	if (g && g->open && g->reg == reg)
		return true;
	g = t->group; /* there is one B, and this one knows what is in it */
	t->group_count = 1;
	*g = (struct group){.reg = reg, .open = true};
	emit_window(&t->e, REG_B, jit_group_base(reg));
	t->b_group = g;
	if (first && jit_group_base(reg) != REG_A && touches(t)) {
		t->block->b_reg = (u8)reg;
		t->block->body_b = t->e.p;
	}
	return true;
}

/** The register whose distance in the window B has when the current instruction jumps, or JIT_NO_B. */
unsigned jit_group_b(const struct trans *t)
{
	return t->window && !t->plain && t->b_group && t->b_group->open &&
			       jit_group_base(t->b_group->reg) != REG_A
		       ? t->b_group->reg
		       : JIT_NO_B;
}

/* An open group that the access can join, which it then has done. */
static struct group *join_any(struct trans *t, unsigned reg, s32 disp, unsigned size, bool write)
{
	for (struct group *g = t->group + t->group_count; g-- > t->group;)
		if (g->open && g->reg == reg && join(t, g, disp, size, write))
			return g;
	return NULL;
}

/* B = the addend of a group, which the TLB still has. */
static void fetch_addend(struct trans *t, const struct group *g, s32 disp)
{
	unsigned host = jit_group_base(g->reg);

	if (!g->based) {
		emit_lea(&t->e, true, REG_A, (int)host, -1, 0, disp);
		host = REG_A;
	}
	emit_pext_stack(&t->e, REG_B, host, STACK_TLB_MASK);
	emit_gs_load_index(&t->e, REG_B, REG_B, jit_tlb_addend(t));
}

/* LEA A with a displacement of 32 bits, to be patched: where it is. */
static u8 *emit_address(struct trans *t, unsigned host, s32 disp)
{
	emit_rex(&t->e, true, REG_A, 0, host, false);
	emit8(&t->e, 0x8d);
	emit8(&t->e, 0x80 | (REG_A & 7) << 3 | (host & 7));
	if ((host & 7) == 4)
		emit8(&t->e, 0x24);
	emit32(&t->e, (u32)disp);
	return t->e.p - 4;
}

/*
 * Where an access looks. Bytes near the base register are mostly in its own page, which spares the
 * LEA. Not the stack's, which is used on both sides of RSP, but for CALL and RET: nothing joins them.
 */
static struct host_address look_at(const struct trans *t, unsigned reg, s32 disp, unsigned size,
				   bool *based)
{
	ZydisInstructionCategory c = t->in.meta.category;
	bool alone = c == ZYDIS_CATEGORY_CALL || c == ZYDIS_CATEGORY_RET;

	*based = reg == RSP ? alone : disp >= 0 && disp + (s32)size - 1 <= NEAR;
	if (!*based)
		return (struct host_address){.reg = REG_A, .reach = (s32)size - 1};
	return (struct host_address){.reg = jit_group_base(reg),
				     .disp = disp,
				     .based = true,
				     .reach = disp < 0 ? disp : disp + (s32)size - 1};
}

bool jit_group_access(struct trans *t, unsigned reg, s32 disp, unsigned size, unsigned access,
		      bool lock, u64 desc, struct cold **c)
{
	bool write = access & MMU_WRITE;
	struct host_address at = {.reg = REG_A};
	struct group *g;

	*c = NULL;
	if (disp < -FAR || disp > FAR)
		return false;
	if (t->plain || t->shadow || (t->mode & MODE_ALIGN) || !(t->mode & MODE_LONG) ||
	    (desc & DESC_CHECK))
		return false;
	if (t->window)
		return window_access(t, reg, disp);
	if (desc & DESC_MASK)
		return false;
	load_base(t, reg);
	g = join_any(t, reg, disp, size, write);
	if (g) {
		if (t->b_group != g)
			fetch_addend(t, g, disp);
		t->b_group = g;
		return true;
	}
	if (t->group_count == JIT_GROUP_MAX)
		return false;
	g = &t->group[t->group_count++];
	*g = (struct group){.reg = reg,
			    .lo = disp,
			    .hi = disp + (s64)size,
			    .write = write,
			    .open = true,
			    .first = t->insn_count - 1,
			    .last = t->insn_count - 1};
	at = look_at(t, reg, disp, size, &g->based);
	if (!g->based)
		g->check.address = emit_address(t, jit_home[reg], disp);
	*c = jit_emit_check(t, at, size, access, lock, desc, &g->check);
	g->open = !t->e.full;
	t->b_group = g;
	return true;
}

/** RSP has changed by n, which its groups know. */
void jit_group_shift(struct trans *t, int n)
{
	for (unsigned i = 0; i < t->group_count; i++)
		if (t->group[i].reg == RSP)
			t->group[i].shift += n;
}

/* True when the current instruction writes a register, other than as a push or pop writes RSP. */
static bool writes(const struct trans *t, unsigned reg)
{
	bool stack = t->in.mnemonic == ZYDIS_MNEMONIC_PUSH || t->in.mnemonic == ZYDIS_MNEMONIC_POP;

	/* F3 90 with REX.B is XCHG R8, rAX, whose operands Zydis does not show */
	if (t->in.mnemonic == ZYDIS_MNEMONIC_PAUSE)
		return true;
	for (unsigned i = 0; i < t->in.operand_count; i++) {
		const ZydisDecodedOperand *op = &t->op[i];

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (stack && reg == RSP && op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (jit_is_gpr(op->reg.value) && jit_gpr_index(op->reg.value) == reg)
			return true;
	}
	return false;
}

/*
 * True when the current instruction moves a register by a little: it points to the window's same part
 * still, or to the emptiness around it. A block has not enough instructions to get past that.
 */
static bool moves(const struct trans *t, unsigned reg)
{
	const ZydisDecodedOperand *op = t->op;
	s64 by;

	if (t->in.operand_width != 64 || op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    !jit_is_gpr(op[0].reg.value) || jit_gpr_index(op[0].reg.value) != reg)
		return false;
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
		return true;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return false;
		by = t->in.raw.imm[0].value.s;
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (t->in.address_width != 64 || op[1].mem.base != op[0].reg.value ||
		    op[1].mem.index != ZYDIS_REGISTER_NONE)
			return false;
		by = op[1].mem.disp.value;
		break;
	default:
		return false;
	}
	return by >= -WINDOW_FAR && by <= WINDOW_FAR;
}

/**
 * Behind each instruction, in the window: S = the distance of RSP, if it may have changed its part. A small
 * step behind an access through S leaves S good enough, as it does B.
 */
void jit_group_stack(struct trans *t)
{
	if (writes(t, RSP) && !(t->stack_used && !t->plain && moves(t, RSP)))
		emit_window(&t->e, REG_S, jit_home[RSP]);
}

/** Behind each instruction: which groups go on? t->keeps_b: B was left alone. */
void jit_group_next(struct trans *t)
{
	if (!t->keeps_b)
		t->b_group = NULL;
	if (!t->keeps_a)
		t->a_guest = A_NOTHING;
	for (unsigned i = 0; i < t->group_count; i++)
		if (t->group[i].open && (t->sti || t->shadow || writes(t, t->group[i].reg)) &&
		    !(t->window && moves(t, t->group[i].reg)))
			t->group[i].open = false;
}

/** Nothing is known about the TLB any more. */
void jit_group_end(struct trans *t)
{
	for (unsigned i = 0; i < t->group_count; i++)
		t->group[i].open = false;
}

/**
 * When the block is complete: end[i] is the last instruction of the region that instruction i is in,
 * or -1.
 */
void jit_group_regions(const struct trans *t, s16 *end)
{
	unsigned first = 0, last = 0;
	bool any = false;

	for (unsigned i = 0; i < t->insn_count; i++)
		end[i] = -1;
	for (unsigned k = 0; k < t->group_count; k++) {
		const struct group *g = &t->group[k];

		if (!g->joined)
			continue;
		if (!any || g->first > last)
			first = g->first;
		last = any ? MAX(last, g->last) : g->last;
		any = true;
		for (unsigned i = first; i <= last; i++)
			end[i] = (s16)last;
	}
}
