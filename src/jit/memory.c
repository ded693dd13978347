/*
 * memory.c - memory operands of generated code
 *
 * An access is: address into A; index and tag compare with T; addend into B; then the guest's own
 * instruction with the operand [A + B]. None of it changes flags. A miss leaves through an island
 * hidden inside a NOP (the SIB byte E9 and the displacement are a JMP rel32), because LOOP reaches
 * only 127 bytes; the cold stub calls a thunk and comes back with A = host address and B = 0. A
 * store that cannot be one plain host access comes back instead to a second copy of the
 * instruction that works on a bounce buffer, followed by a call that commits it.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

const u8 jit_home[16] = {
	[RAX] = H_RAX,	   [RCX] = H_R15,     [RDX] = H_RDX,	  [RBX] = H_RBX,
	[RSP] = H_R14,	   [RBP] = H_RBP,     [RSI] = H_RSI,	  [RDI] = H_RDI,
	[R8] = REG_MEMORY, [R9] = REG_MEMORY, [R10] = REG_MEMORY, [R11] = REG_MEMORY,
	[R12] = H_R12,	   [R13] = H_R13,     [R14] = H_R8,	  [R15] = REG_MEMORY,
};

/** Number of the general register that r is a part of; AH..BH give 4..7 (see callers). */
unsigned jit_gpr_index(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return r - ZYDIS_REGISTER_AH;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_SPL + 4;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	return r - ZYDIS_REGISTER_RAX;
}

void jit_emit_reg_load(struct trans *t, unsigned host, unsigned guest)
{
	if (jit_home[guest] == REG_MEMORY)
		emit_load_stack(&t->e, host, STACK_GPR(guest));
	else if (jit_home[guest] != host)
		emit_mov(&t->e, true, host, jit_home[guest]);
}

void jit_emit_reg_store(struct trans *t, unsigned guest, unsigned host)
{
	if (jit_home[guest] == REG_MEMORY)
		emit_store_stack(&t->e, host, STACK_GPR(guest));
	else if (jit_home[guest] != host)
		emit_mov(&t->e, true, jit_home[guest], host);
}

/**
 * A = a register that lives in memory, or the base of FS. Through the window A is not needed for much else, so
 * the copy serves until A or the register is written; elsewhere an access that misses destroys it.
 */
void jit_emit_a(struct trans *t, unsigned reg)
{
	if (t->a_guest == reg)
		return;
	if (reg == A_FS)
		emit_gs_load(&t->e, REG_A,
			     (u32)(offsetof(struct cpu, seg) + SEG_FS * sizeof(struct cpu_seg)));
	else
		emit_load_stack(&t->e, REG_A, STACK_GPR(reg));
	jit_a_has(t, reg);
}

static unsigned segment_number(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES:
		return SEG_ES;
	case ZYDIS_REGISTER_CS:
		return SEG_CS;
	case ZYDIS_REGISTER_SS:
		return SEG_SS;
	case ZYDIS_REGISTER_FS:
		return SEG_FS;
	case ZYDIS_REGISTER_GS:
		return SEG_GS;
	default:
		return SEG_DS;
	}
}

/*
 * Outside 64-bit mode, FS or GS with a base and without a limit: offsets end at 4 GiB all the same, in
 * the middle of the linear addresses. The offset is in A; T becomes 2^32 when the operand runs over
 * that end, else 0, and is to be added to the linear address, which then is refused. False: C must
 * look at the offset.
 */
static bool emit_offset_end(struct trans *t, const ZydisDecodedOperand *op)
{
	struct emit *e = &t->e;
	unsigned size = op->size / 8;

	if (op->mem.base == ZYDIS_REGISTER_NONE && op->mem.index == ZYDIS_REGISTER_NONE) {
		emit_mov_imm(e, REG_T, 0);
		return (u64)(u32)op->mem.disp.value + size <= BIT64(32);
	}
	if (!size || size > 8)
		return false;
	emit_lea(e, true, REG_T, REG_A, -1, 0, (s32)size - 1);
	emit_bswap(e, REG_T);
	emit_mov(e, false, REG_T, REG_T);
	emit_bswap(e, REG_T);
	return true;
}

/** The offset is in A: adds the segment's base, or says in *desc that C must check the segment. */
void jit_emit_segment(struct trans *t, const ZydisDecodedOperand *op, u64 *desc)
{
	unsigned seg = segment_number(op->mem.segment);
	bool special = seg == SEG_FS || seg == SEG_GS;

	*desc = seg << DESC_SEG_SHIFT;
	/* where its address wraps, a part of the operand is at offset 0 */
	if (jit_operand_in_parts(t, op->size / 8) &&
	    (t->mode & MODE_LONG ? t->in.address_width < 64
				 : special || t->in.address_width < 32)) {
		*desc |= DESC_CHECK;
		return;
	}
	if (!(t->mode & (seg == SEG_FS	 ? MODE_FS_FLAT
			 : seg == SEG_GS ? MODE_GS_FLAT
					 : MODE_FLAT))) {
		*desc |= DESC_CHECK;
	} else if (special) {
		bool lng = t->mode & MODE_LONG;

		if (!lng && !emit_offset_end(t, op)) {
			*desc |= DESC_CHECK;
			return;
		}
		emit_gs_load(&t->e, REG_B,
			     (u32)(offsetof(struct cpu, seg) + seg * sizeof(struct cpu_seg)));
		emit_lea(&t->e, lng, REG_A, REG_A, REG_B, 0, 0);
		if (!lng)
			emit_lea(&t->e, true, REG_A, REG_A, REG_T, 0, 0);
	}
}

static void emit_offset(struct trans *t, const ZydisDecodedOperand *op, s64 extra, unsigned dst,
			bool w)
{
	struct emit *e = &t->e;
	unsigned width = t->in.address_width;
	s64 disp = op->mem.disp.value + extra;
	s64 rest = fits_s32(disp) ? 0 : extra; /* of what one LEA can add */
	int base = -1, index = -1;
	unsigned scale = op->mem.scale == 8   ? 3
			 : op->mem.scale == 4 ? 2
			 : op->mem.scale == 2 ? 1
					      : 0;

	if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
		jit_emit_rip(t, dst, t->next_pc + (u64)disp);
		if (!w)
			emit_mov(e, false, dst, dst);
		return;
	}
	if (op->mem.base != ZYDIS_REGISTER_NONE) {
		unsigned g = jit_gpr_index(op->mem.base);

		base = jit_home[g];
		if (base == REG_MEMORY) {
			jit_emit_a(t, g);
			base = REG_A;
		}
	}
	if (op->mem.index != ZYDIS_REGISTER_NONE) {
		unsigned g = jit_gpr_index(op->mem.index);

		index = jit_home[g];
		if (index == REG_MEMORY && t->a_guest == g) {
			index = REG_A;
		} else if (index == REG_MEMORY) {
			emit_load_stack(e, REG_B, STACK_GPR(g));
			index = REG_B;
		}
	}
	if (base < 0 && index < 0) {
		emit_mov_imm(e, dst, w ? (u64)disp : width == 16 ? (u16)disp : (u32)disp);
		return;
	}
	if (index >= 0 || disp != 0 || width == 16)
		emit_lea(e, w, dst, base, index, scale, (s32)(disp - rest));
	else if (base != (int)dst || !w)
		emit_mov(e, w, dst, base);
	if (rest)
		emit_lea(e, w, dst, (int)dst, -1, 0, (s32)rest);
	if (width == 16)
		emit_zext16(e, dst, dst);
}

void jit_emit_offset(struct trans *t, const ZydisDecodedOperand *op, s64 extra, unsigned dst,
		     bool w)
{
	emit_offset(t, op, extra, dst, w);
	if (dst == REG_A)
		t->a_guest = A_NOTHING;
}

void jit_emit_address(struct trans *t, const ZydisDecodedOperand *op, s64 extra, u64 *desc)
{
	jit_emit_offset(t, op, extra, REG_A, t->in.address_width == 64);
	jit_emit_segment(t, op, desc);
}

/* The short branch whose opcode was emitted leads to a JMP rel32 that hides in a NOP: its field. */
static u8 *emit_island(struct emit *e)
{
	u8 *field;

	emit8(e, 3);
	emit8(e, 0x0f);
	emit8(e, 0x1f);
	emit8(e, 0x84);
	emit8(e, 0xe9);
	field = e->p;
	emit32(e, 0);
	return field;
}

/* LOOP (or JRCXZ) on T to a JMP rel32 whose displacement field is returned. */
static u8 *emit_branch_miss(struct trans *t)
{
	struct emit *e = &t->e;
	u8 *field;

	if (t->jit->use_loop) {
		emit8(e, 0xe2);
		return emit_island(e);
	}
	emit8(e, 0xe3);
	emit8(e, 5);
	emit8(e, 0xe9);
	field = e->p;
	emit32(e, 0);
	return field;
}

struct cold *jit_cold_add(struct trans *t, u8 *from, unsigned kind)
{
	struct cold *c = &t->cold[t->cold_count++];

	*c = (struct cold){
		.from = from, .kind = kind, .insn = (u16)(t->insn_count - 1), .plain = t->plain};
	return c;
}

u32 jit_tlb_tag(const struct trans *t, bool write)
{
	unsigned view = (t->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;

	return GS(tlb) + view * (u32)sizeof(struct mmu_tlb) +
	       (u32)(write ? offsetof(struct mmu_tlb, wtag) : offsetof(struct mmu_tlb, rtag));
}

u32 jit_tlb_addend(const struct trans *t)
{
	unsigned view = (t->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;

	return GS(tlb) + view * (u32)sizeof(struct mmu_tlb) + (u32)offsetof(struct mmu_tlb, addend);
}

struct cold *jit_emit_check(struct trans *t, struct host_address at, unsigned size, unsigned access,
			    bool lock, u64 desc, struct check *check)
{
	struct emit *e = &t->e;
	s32 reach = at.reach - (t->jit->use_loop ? 0 : (s32)PAGE_SIZE);
	bool write = access & MMU_WRITE;
	struct cold *c;

	if (write && (desc & DESC_SEG) == SEG_CS << DESC_SEG_SHIFT && !(t->mode & MODE_LONG))
		desc |= DESC_CHECK; /* code segments are not writable; flat ones have base 0: A is the offset */
	if ((desc & DESC_CHECK) || (t->mode & MODE_ALIGN)) {
		emit8(e, 0xe9);
		c = jit_cold_add(t, e->p, COLD_ACCESS);
		emit32(e, 0);
	} else if (t->window) {
		emit_window(e, REG_B, at.reg);
		return NULL;
	} else {
		emit_pext_stack(e, REG_B, at.reg, STACK_TLB_MASK);
		emit_gs_load_index(e, REG_T, REG_B, jit_tlb_tag(t, write));
		if (check) {
			check->tag = e->p - 4;
			check->narrow = reach == (s8)reach && at.based;
			emit_rex(e, true, REG_T, REG_T, at.reg, false);
			emit8(e, 0x8d);
			emit8(e, (check->narrow ? 0x44 : 0x84) | (REG_T & 7) << 3);
			emit8(e, (REG_T & 7) << 3 | (at.reg & 7));
			check->reach = e->p;
			emit_n(e, (u32)reach, check->narrow ? 1 : 4);
		} else {
			emit_lea(e, true, REG_T, (int)at.reg, REG_T, 0, reach);
		}
		emit_pext_stack(e, REG_T, REG_T, STACK_PAGE_MASK);
		c = jit_cold_add(t, emit_branch_miss(t), COLD_ACCESS);
		emit_gs_load_index(e, REG_B, REG_B, jit_tlb_addend(t));
	}
	c->hot = e->p;
	c->base = (u8)at.reg;
	c->disp = at.disp;
	c->desc = desc | size | (u64)(write ? DESC_WRITE : 0) | (access & MMU_RMW ? DESC_RMW : 0) |
		  (lock ? DESC_LOCK : 0);
	return c;
}

struct cold *jit_emit_access(struct trans *t, unsigned size, unsigned access, bool lock, u64 desc)
{
	t->b_group = NULL;
	return jit_emit_check(t, (struct host_address){.reg = REG_A, .reach = (s32)size - 1}, size,
			      access, lock, desc, NULL);
}

void jit_access_end(struct trans *t, struct cold *c)
{
	if (c && (c->desc & DESC_WRITE))
		c->hot_end = t->e.p;
}

/** Leaves at an instruction boundary when cpu->poll is 0: the current instruction is yet to run. */
void jit_emit_poll(struct trans *t)
{
	emit_gs_load(&t->e, REG_T, GS(poll));
	emit8(&t->e, 0xe3); /* jrcxz */
	jit_cold_add(t, emit_island(&t->e), COLD_POLL);
}

void jit_emit_prefetch(struct trans *t, u64 rip)
{
	unsigned view = (t->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;

	if (t->relative || !(t->mode & MODE_FLAT) || (t->mode & MODE_STEP))
		return;
	emit8(&t->e, 0x65); /* prefetcht0 */
	emit8(&t->e, 0x0f);
	emit8(&t->e, 0x18);
	emit_mem(&t->e, 1, -1, -1, 0,
		 (s32)(offsetof(struct cpu, jc) + view * sizeof(struct jit_jump_cache) +
		       rip % JIT_JC_SIZE * sizeof(struct jit_jump)));
}

/**
 * Goes to the guest RIP in A through the jump cache. A miss, which a poll is as well, goes to a cold stub that
 * tells which instruction jumped.
 */
void jit_emit_jump_cache(struct trans *t)
{
	struct emit *e = &t->e;
	unsigned view = (t->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;
	u32 jc = (u32)(offsetof(struct cpu, jc) + view * sizeof(struct jit_jump_cache));

	emit_pdep_gs(e, REG_B, REG_A, GS(poll));
	emit_gs_load_at(e, REG_T, REG_B, jc + (u32)offsetof(struct jit_jump, ntag));
	emit_lea(e, true, REG_T, REG_A, REG_T, 0, t->jit->use_loop ? 0 : -1);
	jit_cold_add(t, emit_branch_miss(t), COLD_TARGET);
	emit8(e, 0x65);
	emit_rex(e, false, 0, 0, REG_B, false);
	emit8(e, 0xff);
	emit_mem(e, 4, REG_B, -1, 0, (s32)(jc + offsetof(struct jit_jump, code)));
}

struct cold *jit_emit_unless_one(struct trans *t, unsigned kind)
{
	if (!t->jit->use_loop)
		emit_lea(&t->e, true, REG_T, REG_T, -1, 0, -1);
	return jit_cold_add(t, emit_branch_miss(t), kind);
}
