/*
 * group.c - one TLB check for several accesses through the same base register
 *
 * Compilers address a structure or a stack frame by one register and small displacements. Such
 * accesses within a block form a group: the first one's check is widened to the bytes that all of
 * them touch, and the others need none. Pushes, pops, calls and returns take part with RSP.
 *
 * The first access opens a group; while B, the TLB's addend, and the base register live on (the
 * base may change by a known amount, as PUSH does), further ones join. Joining patches the check
 * that was emitted before: it spans all bytes from the lowest one, or from the base register itself
 * when they are close behind it, and its tag is the one for writing when any writes. The accesses themselves are [base + B + disp].
 *
 * When the check fails nothing of the group has been done. The group is then run from its second
 * translation, which lies with the stubs and checks every access by itself (cold_group() in
 * translate.c); so faults, devices, watchpoints and page crossings never meet a widened check. A
 * group that stays alone keeps its ordinary stub.
 *
 * Only in 64-bit code, where no segment limits an access.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* A wider span crosses pages more often, and is then done twice. */
#define SPAN 256
/* How far a byte may be from the base register whose page is looked up. */
#define NEAR 127
/* Farther displacements stay alone: the sums below must not leave 32 bits. */
#define FAR (1 << 30)

bool jit_group_operand(const struct trans *t, const ZydisDecodedOperand *op, unsigned *reg)
{
	ZydisRegister seg = op->mem.segment, base = op->mem.base;

	if (t->in.address_width != 64 || op->mem.index != ZYDIS_REGISTER_NONE ||
	    base == ZYDIS_REGISTER_NONE || base == ZYDIS_REGISTER_RIP || seg == ZYDIS_REGISTER_FS ||
	    seg == ZYDIS_REGISTER_GS)
		return false;
	*reg = jit_gpr_index(base);
	return jit_home[*reg] != REG_MEMORY;
}

static void patch(u8 *at, u32 v)
{
	*(u32_una *)at = v;
}

static bool join(struct trans *t, struct group *g, unsigned reg, s32 disp, unsigned size, bool write)
{
	s64 at = disp + g->shift, lo = MIN(g->lo, at), hi = MAX(g->hi, at + (s64)size);
	s64 reach = g->based ? hi - 1 : hi - lo - 1;

	if (g->reg != reg || hi - lo > SPAN || (g->based && (lo < 0 || reach > NEAR)))
		return false;
	g->lo = lo;
	g->hi = hi;
	g->write |= write;
	g->last = t->insn_count - 1;
	if (g->check.address)
		patch(g->check.address, (u32)lo);
	if (g->check.narrow)
		*g->check.reach = (u8)reach;
	else
		patch(g->check.reach, (u32)reach - (t->jit->use_loop ? 0 : PAGE_SIZE));
	patch(g->check.tag, jit_tlb_tag(t, g->write));
	g->cold->kind = COLD_GROUP;
	g->cold->target = (u64)(g - t->group);
	return true;
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
static struct host_address look_at(const struct trans *t, unsigned reg, s32 disp, unsigned size, bool *based)
{
	ZydisInstructionCategory c = t->in.meta.category;
	bool alone = c == ZYDIS_CATEGORY_CALL || c == ZYDIS_CATEGORY_RET;

	*based = reg == RSP ? alone : disp >= 0 && disp + (s32)size - 1 <= NEAR;
	if (!*based)
		return (struct host_address){ .reg = REG_A, .reach = (s32)size - 1 };
	return (struct host_address){ .reg = jit_home[reg], .disp = disp, .reach = disp < 0 ? disp : disp + (s32)size - 1 };
}

bool jit_group_access(struct trans *t, unsigned reg, s32 disp, unsigned size, unsigned access, bool lock,
		      u64 desc, struct cold **c)
{
	struct group *g = &t->group[t->group_count];
	bool write = access & MMU_WRITE;
	struct host_address at;

	*c = NULL;
	if (disp < -FAR || disp > FAR)
		return false;
	if (t->plain || t->shadow || (t->mode & MODE_ALIGN) || !(t->mode & MODE_LONG) ||
	    (desc & (DESC_CHECK | DESC_MASK)))
		return false;
	if (t->group_live && join(t, g, reg, disp, size, write))
		return true;
	jit_group_close(t);
	g = &t->group[t->group_count];
	if (t->group_count == JIT_GROUP_MAX)
		return false;
	*g = (struct group){ .reg = reg, .lo = disp, .hi = disp + (s64)size, .write = write,
			     .first = t->insn_count - 1, .last = t->insn_count - 1 };
	at = look_at(t, reg, disp, size, &g->based);
	if (!g->based)
		g->check.address = emit_address(t, jit_home[reg], disp);
	g->cold = jit_emit_check(t, at, size, access, lock, desc, &g->check);
	*c = g->cold;
	t->group_live = !t->e.full;
	return true;
}

/** Nothing joins any more. */
void jit_group_close(struct trans *t)
{
	if (t->group_live && t->group[t->group_count].cold->kind == COLD_GROUP)
		t->group_count++;
	t->group_live = false;
}

/** The base register RSP has changed by n. */
void jit_group_shift(struct trans *t, int n)
{
	if (t->group_live)
		t->group[t->group_count].shift += n;
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
		ZydisRegisterClass c;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (stack && reg == RSP && op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		c = ZydisRegisterGetClass(op->reg.value);
		if ((c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
		     c == ZYDIS_REGCLASS_GPR64) &&
		    jit_gpr_index(op->reg.value) == reg)
			return true;
	}
	return false;
}

/** Behind each instruction: may the group go on? t->keeps_b: B was left alone. */
void jit_group_next(struct trans *t)
{
	if (t->group_live && (!t->keeps_b || writes(t, t->group[t->group_count].reg)))
		jit_group_close(t);
}
