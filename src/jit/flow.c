/*
 * flow.c - near jumps, calls and returns
 *
 * A block leaves to a static target in its own page through a patched JMP (a link); to another
 * page, or to a computed address, through the jump cache, which is emptied whenever a linear
 * address may have changed its meaning. Jumps backward look at cpu->poll first.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/** Emits reg = a guest RIP near this block. */
void jit_emit_rip(struct trans *t, unsigned reg, u64 rip)
{
	s64 off = (s64)(rip - (t->start & PAGE_MASK));

	if (!t->relative) {
		emit_mov_imm(&t->e, reg, rip);
		return;
	}
	emit_gs_load(&t->e, reg, GS(code_base));
	while (off) {
		s32 part = (s32)MAX(MIN(off, (s64)INT32_MAX), (s64)INT32_MIN);

		emit_lea(&t->e, true, reg, (int)reg, -1, 0, part);
		off -= part;
	}
}

/** Emits cpu->rip = rip; destroys A. */
void jit_emit_store_rip(struct trans *t, u64 rip)
{
	jit_emit_rip(t, REG_A, rip);
	emit_gs_store(&t->e, REG_A, GS(rip));
}

/* A jump into another page that may be patched (cross.c). */
static bool crosses(const struct trans *t, u64 target)
{
	return t->window && ((target ^ t->start) & PAGE_MASK) && cpu_is_canonical(t->cpu, target);
}

static bool linkable(const struct trans *t, u64 target)
{
	return (t->mode & MODE_FLAT) && !(t->mode & MODE_STEP) && !t->shadow &&
	       (((target ^ t->start) & PAGE_MASK) == 0 || crosses(t, target));
}

/* A JMP or Jcc rel32 is to lead to `target`: its field is `from`. */
static void side_exit(struct trans *t, u8 *from, u64 target, u32 mode)
{
	struct cold *c = &t->cold[t->cold_count++];

	*c = (struct cold){.from = from,
			   .kind = COLD_LINK,
			   .insn = (u16)(t->insn_count - 1),
			   .target = target};
	if (linkable(t, target)) {
		struct jit_link *link = jit_meta_alloc(t->jit, sizeof(*link));

		if (!link) {
			t->e.full = true;
			return;
		}
		*link = (struct jit_link){.site = from,
					  .target = t->relative ? target & ~PAGE_MASK : target,
					  .from = t->block,
					  .next_out = t->block->out,
					  .mode = mode,
					  .cross = crosses(t, target),
					  .b_reg = (u8)jit_group_b(t)};
		t->block->out = link;
		if (mode != t->mode) {
			link->next_mode = t->jit->mode_links;
			t->jit->mode_links = link;
		}
		c->link = link;
	}
}

void jit_emit_goto(struct trans *t, u64 target)
{
	if (linkable(t, target)) {
		emit8(&t->e, 0xe9);
		side_exit(t, t->e.p, target, t->mode);
		emit32(&t->e, 0);
	} else {
		jit_emit_rip(t, REG_A, target);
		jit_emit_goto_a(t);
	}
	t->ended = true;
}

void jit_emit_goto_mode(struct trans *t, u64 target, u32 mode)
{
	emit8(&t->e, 0xe9);
	side_exit(t, t->e.p, target, mode);
	emit32(&t->e, 0);
	t->ended = true;
}

void jit_emit_goto_a(struct trans *t)
{
	if (!(t->mode & MODE_FLAT) || (t->mode & MODE_STEP)) {
		emit_rel32(&t->e, 0xe8, t->jit->thunk.target);
	} else {
		jit_emit_jump_cache(t);
	}
	t->ended = true;
}

static u64 branch_target(const struct trans *t)
{
	u64 target = t->next_pc + (u64)t->in.raw.imm[0].value.s;

	if (t->mode & MODE_LONG)
		return target; /* narrow branches are done in C (classify.c) */
	return t->in.operand_width == 16 ? (u16)target : (u32)target;
}

static void emit_jcc(struct trans *t)
{
	u64 target = branch_target(t);

	if (target <= t->pc && !(t->mode & MODE_STEP) && !t->shadow)
		jit_emit_poll(t);
	emit8(&t->e, 0x0f);
	emit8(&t->e, 0x80 | (t->in.opcode & 15));
	side_exit(t, t->e.p, target, t->mode);
	emit32(&t->e, 0);
	t->keeps_b = t->keeps_a = true;
	/* the block goes on with the path not taken */
}

/* JCXZ family and LOOPs: decide by T, which holds the counter. */
static void emit_counter_branch(struct trans *t)
{
	struct emit *e = &t->e;
	u64 target = branch_target(t);
	unsigned width = t->in.address_width;
	bool loop = t->in.opcode != 0xe3;

	if (target <= t->pc && !(t->mode & MODE_STEP) && !t->shadow)
		jit_emit_poll(t);
	emit_lea(e, width == 64, REG_T, jit_home[RCX], -1, 0, loop ? -1 : 0);
	if (loop && width != 16)
		emit_mov(e, width == 64, jit_home[RCX], REG_T);
	if (width == 16) {
		if (loop) {
			emit8(e, 0x66);
			emit_mov(e, false, jit_home[RCX], REG_T);
		}
		emit_zext16(e, REG_T, REG_T);
	}
	if (!loop) {
		emit8(e, 0xe3); /* jrcxz over the short jump to the long one */
		emit8(e, 2);
		emit8(e, 0xeb);
		emit8(e, 5);
	} else {
		bool conditional = t->in.opcode != 0xe2;

		emit8(e, 0xe3); /* counter is 0: not taken */
		emit8(e, conditional ? 7 : 5);
		if (conditional) {
			emit8(e, t->in.opcode == 0xe1 ? 0x75 : 0x74); /* LOOPE leaves on NE */
			emit8(e, 5);
		}
	}
	emit8(e, 0xe9);
	side_exit(t, e->p, target, t->mode);
	emit32(e, 0);
}

/* reg = the target of a computed jump or call that is in memory. */
static void emit_load_target(struct trans *t, const ZydisDecodedOperand *op, unsigned size,
			     unsigned reg)
{
	struct cold *c;
	u64 desc, host;

	if (jit_window_static(t, op, &host)) {
		emit_mov_imm(&t->e, REG_A, host);
		emit_load(&t->e, size, reg, REG_A, -1);
		return;
	}
	jit_emit_address(t, op, 0, &desc);
	c = jit_emit_access(t, size, MMU_READ, false, desc);
	emit_load(&t->e, size, reg, REG_A, REG_B);
	jit_access_end(t, c);
}

/*
 * The push of a computed CALL. A target that is not canonical takes it back, so what was there is kept.
 * Through the window a load would fault as one; there the target, in A, has to be one of the user's half, or
 * the instruction is translated once more, without.
 */
static struct host_operand emit_push_target(struct trans *t, unsigned size, struct cold **c)
{
	struct emit *e = &t->e;
	u64 desc;

	if (jit_sp_by_s(t)) {
		emit_pext_stack(e, REG_T, REG_A, STACK_UPPER_MASK);
		emit_lea(e, true, REG_T, REG_T, -1, 0, 1);
		jit_emit_unless_one(t, COLD_AGAIN);
		return jit_emit_sp_access(t, -(int)size, size, MMU_WRITE, c);
	}
	emit_gs_store(e, REG_A, SCRATCH(8));
	t->window = false;
	jit_emit_sp_address(t, -(int)size, &desc);
	*c = jit_emit_access(t, size, MMU_WRITE | MMU_RMW, false, desc);
	t->window = t->mode & MODE_WINDOW;
	emit_load(e, size, REG_T, REG_A, REG_B);
	emit_gs_store(e, REG_T, SCRATCH(10));
	return (struct host_operand){REG_A, REG_B, 0};
}

static void emit_call(struct trans *t)
{
	const ZydisDecodedOperand *op = &t->op[0];
	unsigned size = t->in.operand_width / 8;
	struct emit *e = &t->e;
	struct host_operand at;
	struct cold *c;

	/* a loop of calls alone has to end, too */
	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && branch_target(t) <= t->pc &&
	    linkable(t, branch_target(t)))
		jit_emit_poll(t);
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		emit_load_target(t, op, size, REG_A);
	} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		jit_emit_reg_load(t, REG_A, jit_gpr_index(op->reg.value));
		if (size != 8)
			size == 4 ? emit_mov(e, false, REG_A, REG_A) : emit_zext16(e, REG_A, REG_A);
	}
	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		at = jit_emit_sp_access(t, -(int)size, size, MMU_WRITE, &c);
	else
		at = emit_push_target(t, size, &c);
	if (t->relative)
		jit_emit_rip(t, REG_T, t->next_pc);
	else
		emit_mov_imm(e, REG_T,
			     size == 8	 ? t->next_pc
			     : size == 4 ? (u32)t->next_pc
					 : (u16)t->next_pc);
	emit_store_at(e, size, REG_T, at.base, at.index, at.disp);
	jit_emit_sp_add(t, -(int)size);
	jit_access_end(t, c);
	jit_emit_prefetch(t, t->next_pc);
	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		jit_emit_goto(t, branch_target(t));
	} else {
		t->block->rsp_change = -(s32)size;
		if (!jit_sp_by_s(t))
			emit_gs_load(e, REG_A, SCRATCH(8));
		jit_emit_goto_a(t);
	}
}

static void emit_ret(struct trans *t)
{
	unsigned size = t->in.operand_width / 8;
	unsigned release = t->in.raw.imm[0].size ? (u16)t->in.raw.imm[0].value.u : 0;
	struct cold *c;
	struct host_operand at = jit_emit_sp_access(t, 0, size, MMU_READ, &c);
	unsigned to;

	to = t->mode & MODE_LONG ? REG_A : REG_T; /* a stack of 16 bits needs A */
	emit_load_at(&t->e, size, to, at.base, at.index, at.disp);
	jit_access_end(t, c);
	jit_emit_sp_add(t, (int)(size + release));
	t->block->rsp_change = (s32)(size + release);
	if (to != REG_A)
		emit_mov(&t->e, true, REG_A, to);
	jit_emit_goto_a(t);
}

static void emit_jmp(struct trans *t)
{
	const ZydisDecodedOperand *op = &t->op[0];
	unsigned size = t->in.operand_width / 8;

	if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		u64 target = branch_target(t);

		if (target <= t->pc && linkable(t, target))
			jit_emit_poll(t);
		jit_emit_goto(t, target);
		return;
	}
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		emit_load_target(t, op, size, REG_A);
	} else {
		jit_emit_reg_load(t, REG_A, jit_gpr_index(op->reg.value));
		if (size == 4)
			emit_mov(&t->e, false, REG_A, REG_A);
		else if (size == 2)
			emit_zext16(&t->e, REG_A, REG_A);
	}
	jit_emit_goto_a(t);
}

bool jit_emit_flow(struct trans *t)
{
	switch (t->in.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		if (t->in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && t->in.opcode >= 0xe0 &&
		    t->in.opcode <= 0xe3)
			emit_counter_branch(t);
		else
			emit_jcc(t);
		return true;
	case ZYDIS_CATEGORY_UNCOND_BR:
		emit_jmp(t);
		return true;
	case ZYDIS_CATEGORY_CALL:
		emit_call(t);
		return true;
	case ZYDIS_CATEGORY_RET:
		emit_ret(t);
		return true;
	default:
		return false;
	}
}
