/*
 * stack.c - PUSH, POP and LEAVE
 *
 * Guest RSP lives in r14 and changes only after the access has been done. In a row of pushes or pops through the
 * window, r14 changes once, behind the last: what RSP is ahead of it goes into their operands, and into their marks,
 * as each of them may fault.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* A = base register + disp, wrapped to the stack's width; desc for SS. */
static void stack_address(struct trans *t, unsigned host, int disp, u64 *desc)
{
	emit_lea(&t->e, t->mode & MODE_LONG, REG_A, (int)host, -1, 0, disp);
	if (!(t->mode & (MODE_LONG | MODE_SS32)))
		emit_zext16(&t->e, REG_A, REG_A);
	*desc = (u64)SEG_SS << DESC_SEG_SHIFT;
	if (!(t->mode & MODE_FLAT))
		*desc |= DESC_CHECK;
}

void jit_emit_sp_address(struct trans *t, int disp, u64 *desc)
{
	stack_address(t, jit_home[RSP], disp, desc);
}

bool jit_sp_by_s(const struct trans *t)
{
	return t->window && !t->plain && !t->shadow && !(t->mode & MODE_ALIGN);
}

/* The most that RSP may be ahead of its register: a mark has eight bits for it. */
#define SP_AHEAD 112

/* An instruction between pushes: it has to do with neither memory nor RSP. */
static bool passes_by(const struct trans *t)
{
	switch (t->in.meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
		return false;
	default:
		break;
	}
	for (unsigned i = 0; i < t->in.operand_count; i++) {
		const ZydisDecodedOperand *op = &t->op[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY ||
		    (op->type == ZYDIS_OPERAND_TYPE_REGISTER && jit_is_gpr(op->reg.value) &&
		     jit_gpr_index(op->reg.value) == RSP))
			return false;
	}
	return true;
}

bool jit_sp_runs(const struct trans *t)
{
	const ZydisDecodedOperand *op = &t->op[0];

	if (!jit_sp_by_s(t) || t->sp_ahead > SP_AHEAD || t->sp_ahead < -SP_AHEAD)
		return false;
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return t->in.operand_width == 64 &&
		       (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ||
			(op->type == ZYDIS_OPERAND_TYPE_REGISTER && jit_is_gpr(op->reg.value) &&
			 jit_gpr_index(op->reg.value) != RSP));
	case ZYDIS_MNEMONIC_RET:
		return t->in.operand_width == 64 &&
		       t->in.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
	default:
		return t->sp_ahead && passes_by(t);
	}
}

void jit_emit_sp(struct trans *t)
{
	if (t->sp_ahead)
		emit_lea(&t->e, true, jit_home[RSP], (int)jit_home[RSP], -1, 0, t->sp_ahead);
	t->sp_ahead = 0;
}

/** The check of a stack access at RSP + disp, and the operand for it. *c for jit_access_end(). */
struct host_operand jit_emit_sp_access(struct trans *t, int disp, unsigned size, unsigned access,
				       struct cold **c)
{
	u64 desc = (u64)SEG_SS << DESC_SEG_SHIFT;

	if (jit_group_access(t, RSP, disp, size, access, false, desc, c))
		return (struct host_operand){jit_home[RSP], (int)jit_group_addend(t, RSP),
					     disp + t->sp_ahead};
	jit_emit_sp_address(t, disp, &desc);
	*c = jit_emit_access(t, size, access, false, desc);
	return (struct host_operand){REG_A, REG_B, 0};
}

static void emit_store_operand(struct emit *e, unsigned size, unsigned reg, struct host_operand at)
{
	emit_store_at(e, size, reg, at.base, at.index, at.disp);
}

/* dst = src + n as the stack pointer's width demands; destroys A in 16-bit stacks. */
static void sp_set(struct trans *t, unsigned src, int n)
{
	if (t->mode & (MODE_LONG | MODE_SS32)) {
		emit_lea(&t->e, t->mode & MODE_LONG, jit_home[RSP], (int)src, -1, 0, n);
	} else {
		emit_lea(&t->e, false, REG_A, (int)src, -1, 0, n);
		emit8(&t->e, 0x66);
		emit_mov(&t->e, false, jit_home[RSP], REG_A);
	}
}

void jit_emit_sp_add(struct trans *t, int n)
{
	sp_set(t, jit_home[RSP], n + t->sp_ahead);
	t->sp_ahead = 0;
}

/* RSP has changed by a push or a pop. */
static void sp_moved(struct trans *t, int n)
{
	if (jit_sp_runs(t))
		t->sp_ahead += n;
	else
		jit_emit_sp_add(t, n);
}

static void emit_push(struct trans *t)
{
	const ZydisDecodedOperand *op = &t->op[0];
	unsigned size = t->in.operand_width / 8;
	bool memory = op->type == ZYDIS_OPERAND_TYPE_MEMORY;
	struct emit *e = &t->e;
	struct host_operand at;
	unsigned from = REG_T;
	struct cold *c;
	u64 desc;

	if (memory) {
		jit_emit_address(t, op, 0, &desc);
		c = jit_emit_access(t, size, MMU_READ, false, desc);
		emit_load(e, size, REG_T, REG_A, REG_B);
		if (!jit_sp_by_s(t))
			emit_gs_store(e, REG_T, SCRATCH(8));
		jit_access_end(t, c);
	}
	at = jit_emit_sp_access(t, -(int)size, size, MMU_WRITE, &c);
	if (memory) {
		if (!jit_sp_by_s(t))
			emit_gs_load(e, REG_T, SCRATCH(8));
	} else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_mov_imm(e, REG_T, (u64)t->in.raw.imm[0].value.s);
	} else {
		unsigned g = jit_gpr_index(op->reg.value);

		if (jit_home[g] != REG_MEMORY)
			from = jit_home[g];
		else if (t->a_guest == g && at.base != REG_A)
			from = REG_A;
		else
			emit_load_stack(e, REG_T, STACK_GPR(g));
	}
	emit_store_operand(e, size, from, at);
	sp_moved(t, -(int)size);
	jit_access_end(t, c);
	jit_group_shift(t, -(int)size);
	t->keeps_b = true;
	t->keeps_a = at.base != REG_A && !memory;
}

/* Writes the low `size` bytes of T to a guest register. */
static void pop_to_reg(struct trans *t, unsigned g, unsigned size)
{
	struct emit *e = &t->e;

	if (size == 8) {
		jit_emit_reg_store(t, g, REG_T);
	} else if (size == 4) {
		emit_mov(e, false, jit_home[g],
			 REG_T); /* never memory-homed: no REX in 32-bit code */
	} else {
		unsigned host = jit_home[g];

		if (host == REG_MEMORY) {
			emit8(e, 0x66);
			emit_stack(e, 0x89, false, REG_T, STACK_GPR(g));
		} else {
			emit8(e, 0x66);
			emit_mov(e, false, host, REG_T);
		}
	}
}

static void emit_pop(struct trans *t)
{
	const ZydisDecodedOperand *op = &t->op[0];
	unsigned size = t->in.operand_width / 8;
	struct emit *e = &t->e;
	struct cold *c;
	struct host_operand at = jit_emit_sp_access(t, 0, size, MMU_READ, &c);
	u64 desc;
	bool direct = size == 8 && op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		      jit_gpr_index(op->reg.value) != RSP &&
		      jit_home[jit_gpr_index(op->reg.value)] != REG_MEMORY;

	emit_load_at(e, size, direct ? jit_home[jit_gpr_index(op->reg.value)] : REG_T, at.base,
		     at.index, at.disp);
	jit_access_end(t, c);
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		bool by_sp =
			op->mem.base != ZYDIS_REGISTER_NONE && op->mem.base != ZYDIS_REGISTER_RIP &&
			op->mem.base != ZYDIS_REGISTER_EIP && jit_gpr_index(op->mem.base) == RSP;

		emit_gs_store(e, REG_T, SCRATCH(8));
		jit_emit_address(t, op, by_sp ? (s64)size : 0, &desc);
		c = jit_emit_access(t, size, MMU_WRITE, false, desc);
		emit_gs_load(e, REG_T, SCRATCH(8));
		emit_store(e, size, REG_T, REG_A, REG_B);
		jit_emit_sp_add(t, (int)size);
		jit_access_end(t, c);
		jit_group_shift(t, (int)size);
		return;
	}
	sp_moved(t, (int)size);
	if (!direct)
		pop_to_reg(t, jit_gpr_index(op->reg.value), size);
	jit_group_shift(t, (int)size);
	t->keeps_b = true;
	t->keeps_a = at.base != REG_A && t->a_guest != jit_gpr_index(op->reg.value);
}

static void emit_leave(struct trans *t)
{
	unsigned size = t->in.operand_width / 8;
	struct cold *c;
	u64 desc;

	stack_address(t, jit_home[RBP], 0, &desc);
	c = jit_emit_access(t, size, MMU_READ, false, desc);
	emit_load(&t->e, size, REG_T, REG_A, REG_B);
	jit_access_end(t, c);
	sp_set(t, jit_home[RBP], (int)size);
	pop_to_reg(t, RBP, size);
}

bool jit_emit_stack(struct trans *t)
{
	switch (t->in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		emit_push(t);
		return true;
	case ZYDIS_MNEMONIC_POP:
		emit_pop(t);
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
		emit_leave(t);
		return true;
	default:
		return false;
	}
}
