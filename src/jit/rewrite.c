/*
 * rewrite.c - ordinary instructions: copy and patch
 *
 * The host executes the guest's own opcode. What changes is where its operands are: a memory
 * operand becomes [A + B] after jit_emit_access, general registers become their hosts (RCX is
 * r15, RSP is r14), memory-homed ones pass through a scratch register, AH..BH pass through one
 * where the new encoding needs REX. encode.c writes it down.
 *
 * Order of one instruction: address and translation (may stop; nothing is committed), scratch
 * registers loaded, the instruction itself (may fault in the host; nothing is committed), results
 * stored from scratch registers (cannot fail).
 */
#include "jit/jit_internal.h"
#include "jit/rewrite.h"
#include "mmu/mmu.h"

/* Does the register's value count? A write of a part keeps the rest, a conditional one may keep the whole. */
static bool keeps_some(const struct trans *t, const ZydisDecodedOperand *op)
{
	return op->size < 32 ||
	       op->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE) ||
	       t->in.mnemonic == ZYDIS_MNEMONIC_BSF || t->in.mnemonic == ZYDIS_MNEMONIC_BSR;
}

static bool collect(struct trans *t, struct rewrite *w)
{
	for (unsigned i = 0; i < t->in.operand_count; i++) {
		const ZydisDecodedOperand *op = &t->op[i];
		struct field *f;

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op->mem.type != ZYDIS_MEMOP_TYPE_MEM)
				return false;
			if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
				w->rdi_mem = true;
				w->mem_op = i;
				continue;
			}
			w->mem = true;
			w->mem_op = i;
			w->mem_size = op->size / 8;
			if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
				w->access = MMU_WRITE;
			if (w->access && (op->actions & (ZYDIS_OPERAND_ACTION_MASK_READ |
							 ZYDIS_OPERAND_ACTION_CONDWRITE)))
				w->access |= MMU_RMW;
			continue;
		}
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !jit_is_gpr(op->reg.value))
			continue;
		switch (op->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			f = &w->reg;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			f = &w->rm;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			f = &w->vvvv;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			f = &w->opc;
			break;
		default:
			if (jit_gpr_index(op->reg.value) == RCX) {
				w->rcx_in = true;
				w->rcx_out |= !!(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
			} else if (jit_gpr_index(op->reg.value) == RSP ||
				   jit_home[jit_gpr_index(op->reg.value)] == REG_MEMORY) {
				return false;
			}
			continue;
		}
		f->used = true;
		f->guest = (u8)jit_gpr_index(op->reg.value);
		f->high = op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH;
		f->size = (u8)(op->size / 8);
		f->write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		f->read = keeps_some(t, op);
		f->host = jit_home[f->guest];
	}
	return true;
}

static unsigned take(struct rewrite *w)
{
	return w->free[--w->free_count];
}

/* Takes a certain one. False: it was not free. */
static bool take_this(struct rewrite *w, unsigned host)
{
	for (unsigned k = 0; k < w->free_count; k++) {
		if (w->free[k] == host) {
			w->free[k] = w->free[--w->free_count];
			return true;
		}
	}
	return false;
}

/* Gives a memory-homed field a scratch register and fills it. */
static void assign(struct trans *t, struct rewrite *w, struct field *f)
{
	if (!f->used || f->high || f->host != REG_MEMORY)
		return;
	/* the same register twice: one scratch for both */
	struct field *const all[] = {&w->reg, &w->rm, &w->vvvv, &w->opc};
	bool read = false;

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		if (!all[i]->used || all[i]->high || all[i]->guest != f->guest)
			continue;
		read |= all[i]->read;
		if (all[i] != f && all[i]->host != REG_MEMORY) {
			f->host = all[i]->host;
			return;
		}
	}
	if (t->a_guest == f->guest) {
		f->host = REG_A;
		take_this(w, REG_A);
	} else {
		f->host = t->window && t->a_guest == A_NOTHING && take_this(w, REG_A) ? REG_A
										      : (u8)take(w);
	}
	if (f->host == REG_A && !read)
		jit_a_has(t, f->guest);
	else if (f->host == REG_A)
		jit_emit_a(t, f->guest);
	else if (read)
		emit_load_stack(&t->e, f->host, STACK_GPR(f->guest));
}

/* MOV, CMP and TEST: what they read may be in memory. */
static bool reads_home(const struct trans *t)
{
	return t->in.opcode == 0x89 || t->in.opcode == 0x8b ||
	       t->in.mnemonic == ZYDIS_MNEMONIC_CMP || t->in.mnemonic == ZYDIS_MNEMONIC_TEST;
}

/*
 * Instructions on general registers for which rm in the frame costs nothing. Zen 4 renames 64 bits on the stack
 * where they are moved, or changed in place: 0 cycles. It does not where they are one of an instruction's sources,
 * widened, or changed in part: 7 cycles behind a store, against one more instruction. Only of CMP and TEST nobody
 * waits for the result, mostly.
 */
static bool has_memory_form(const struct trans *t, const struct rewrite *w)
{
	u8 op = t->in.opcode;

	if (t->in.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    t->in.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return false;
	return reads_home(t) ||
	       ((w->rm.write || w->reg.write) &&
		((op < 0x40 && (op & 7) < 4) || op == 0x81 || op == 0x83 || op == 0xc1 ||
		 op == 0xc7 || op == 0xd1 || op == 0xd3 || op == 0xf7 || op == 0xff));
}

/* A write of 32 bits clears the rest of a register, and would not in memory. */
static bool fits_home(const struct field *f)
{
	return f->host == REG_MEMORY && (f->size == 8 || (f->size == 4 && !f->write));
}

/* A has the register already: to work on that is faster than to wait for what memory got last. */
static bool in_a(const struct trans *t, const struct field *f)
{
	return f->used && f->host == REG_MEMORY && t->a_guest == f->guest;
}

/* A memory-homed register as a memory operand: no scratch, and one instruction for two or three. */
static void use_home(const struct trans *t, struct rewrite *w)
{
	if (w->mem || !w->rm.used || w->rm.high || w->reg.high || in_a(t, &w->rm) ||
	    in_a(t, &w->reg) || !has_memory_form(t, w) ||
	    (w->reg.used && w->reg.guest == w->rm.guest))
		return;
	if (w->rm.host != REG_MEMORY && w->reg.used && fits_home(&w->reg)) {
		struct field reg = w->reg;

		w->reg = w->rm;
		w->rm = reg;
		w->flip = t->in.opcode == 0x85 ? 0 : 2;
	}
	if (!fits_home(&w->rm) || (!w->rm.write && !reads_home(t)))
		return;
	w->home = true;
	w->rm.write = false;
	w->rm.host = 0;
}

static void store_back(struct trans *t, const struct field *f)
{
	if (f->used && !f->high && f->write && jit_home[f->guest] == REG_MEMORY)
		emit_store_stack(&t->e, f->host, STACK_GPR(f->guest));
}

/* movzx %ah-like, T; CH comes from r15 through T. */
static void high_load(struct trans *t, const struct field *f, unsigned host)
{
	struct emit *e = &t->e;

	if (f->guest == RCX)
		emit_mov(e, false, REG_T, jit_home[RCX]);
	emit8(e, 0x0f);
	emit8(e, 0xb6);
	emit8(e, 0xc0 | REG_T << 3 | (4 + f->guest));
	if (host != REG_T)
		emit_mov(e, false, host, REG_T);
}

/* The low byte of host (T or B) into AH..BH. */
static void high_store(struct trans *t, const struct field *f)
{
	struct emit *e = &t->e;

	if (f->guest == RCX) {
		emit_rorx(e, H_R15, H_R15, 8);
		emit_rex(e, false, f->host, 0, H_R15, true);
		emit8(e, 0x88);
		emit8(e, 0xc0 | (f->host & 7) << 3 | (H_R15 & 7));
		emit_rorx(e, H_R15, H_R15, 56);
		return;
	}
	if (f->host != REG_T)
		emit_mov(e, false, REG_T, f->host);
	emit8(e, 0x88);
	emit8(e, 0xc0 | REG_T << 3 | (4 + f->guest));
}

/* AH..BH: leave them where the encoding can have no REX, else work on a copy of the byte. */
static void assign_high(struct trans *t, struct rewrite *w)
{
	bool rex = w->mem || (w->reg.used && !w->reg.high && (w->reg.host >= 8)) ||
		   (w->rm.used && !w->rm.high && w->rm.host >= 8) ||
		   (w->reg.high && w->reg.guest == RCX) || (w->rm.high && w->rm.guest == RCX);
	struct field *const f[] = {&w->reg, &w->rm, &w->opc};

	rex |= w->opc.high && w->opc.guest == RCX;
	if (w->rcx_in && !w->mem && w->rm.high && w->rm.guest == RCX) {
		/* shifts of CH by CL: RCX as a whole is in T */
		w->rm.host = 4 + RCX;
		w->rm.high = false;
		w->rcx_out = true;
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++) {
		if (!f[i]->used || !f[i]->high)
			continue;
		if (!rex) {
			f[i]->host = (u8)(4 + f[i]->guest);
			continue;
		}
		/* the second one goes through T as well, so the first may not stay there */
		f[i]->host = i == 0 && w->rm.high ? REG_B : REG_T;
		high_load(t, f[i], f[i]->host);
		take_this(w, f[i]->host);
	}
	if (!rex)
		w->reg.high = w->rm.high = w->opc.high = false;
}

/* LEA: no access; the result may be truncated. */
static void emit_lea_insn(struct trans *t)
{
	unsigned g = jit_gpr_index(t->op[0].reg.value), size = t->in.operand_width,
		 home = jit_home[g];
	bool direct = size != 16 && home != REG_MEMORY;

	/* a 32-bit result is its zero extension, whatever made it */
	jit_emit_offset(t, &t->op[1], 0, direct ? home : REG_A,
			t->in.address_width == 64 && size == 64);
	if (direct)
		return;
	if (home == REG_MEMORY && size != 16)
		jit_a_has(t, g);
	if (size == 16)
		emit8(&t->e, 0x66);
	if (home == REG_MEMORY)
		emit_stack(&t->e, 0x89, size != 16, REG_A, STACK_GPR(g));
	else
		emit_mov(&t->e, false, home, REG_A);
}

/* BT family, register offset, memory operand: the offset reaches beyond the addressed word. */
static void emit_bit_string_address(struct trans *t)
{
	struct emit *e = &t->e;
	unsigned g = jit_gpr_index(t->op[1].reg.value), size = t->in.operand_width,
		 src = jit_home[g];

	/* the segment is added with the whole: do the offset first, keep it in T while A is made */
	if (src == REG_MEMORY) {
		emit_load_stack(e, REG_B, STACK_GPR(g));
		src = REG_B;
	}
	/* movsx to 64 bits */
	if (size == 16) {
		emit_rex(e, true, REG_B, 0, src, false);
		emit8(e, 0x0f);
		emit8(e, 0xbf);
	} else if (size == 32) {
		emit_rex(e, true, REG_B, 0, src, false);
		emit8(e, 0x63);
	} else {
		emit_rex(e, true, REG_B, 0, src, false);
		emit8(e, 0x8b);
	}
	emit8(e, 0xc0 | (REG_B & 7) << 3 | (src & 7));
	emit_mov_imm(e, REG_T, size == 64 ? 6 : size == 32 ? 5 : 4);
	emit_shiftx(e, SHIFT_SARX, REG_B, REG_B, REG_T);
	emit_gs_store(e, REG_B, (u32)(offsetof(struct cpu, jit_scratch) + 8 * 9));

	jit_emit_offset(t, &t->op[0], 0, REG_A, t->in.address_width == 64);
	emit_gs_load(e, REG_B, (u32)(offsetof(struct cpu, jit_scratch) + 8 * 9));
	emit_lea(e, t->in.address_width == 64, REG_A, REG_A, REG_B,
		 size == 64   ? 3
		 : size == 32 ? 2
			      : 1,
		 0);
	if (t->in.address_width == 16)
		emit_zext16(e, REG_A, REG_A);
}

/* VZEROALL and VZEROUPPER outside 64-bit mode know eight registers only: one VEX move for each. */
static void emit_vzero(struct trans *t, bool all)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < 8; i++) {
		emit8(e, 0xc5);
		emit8(e, all ? 0x81 | (~i & 15) << 3 : 0xf8);
		emit8(e, all ? 0xef : 0x28); /* vpxor or vmovaps xmm, itself */
		emit8(e, 0xc0 | i << 3 | i);
	}
}

/* Forms that W makes undefined outside 64-bit mode, rather than being ignored there. */
static bool width_undefined(const struct trans *t)
{
	return !(t->mode & MODE_LONG) && t->in.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
	       t->in.raw.vex.W &&
	       (t->in.mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
		t->in.mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

/* One scratch register beside the memory operand is not enough: the instruction takes B, too. */
static bool wants_b(const struct rewrite *w)
{
	const struct field *const f[] = {&w->reg, &w->rm, &w->vvvv, &w->opc};
	unsigned homeless = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		homeless += f[i]->used && !f[i]->high && f[i]->host == REG_MEMORY;
	return w->bit_string || w->rcx_in || homeless > 1 ||
	       (homeless && (w->reg.high || w->rm.high));
}

/*
 * A displacement behind a host register. EVEX counts bytes of it in units, which depend on the instruction:
 * one that was a byte stays that byte. False: it was none, and would become one.
 */
static bool evex_disp(const struct trans *t, s32 *disp)
{
	if (t->in.raw.disp.size == 8)
		*disp = (s32)t->in.raw.disp.value;
	return t->in.raw.disp.size == 8 || !*disp || *disp != (s8)*disp;
}

/* The memory operand as one of a group. False: it cannot be, nothing was done. */
static bool group_access(struct trans *t, struct rewrite *w, bool lock, struct cold **c)
{
	const ZydisDecodedOperand *op = &t->op[w->mem_op];
	ZydisInstructionEncoding encoding = t->in.encoding;
	bool evex = encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	unsigned reg;
	s32 disp, there;
	u64 host;

	if (!wants_b(w) && !jit_cache_line_op(t) && jit_window_static(t, op, &host)) {
		emit_mov_imm(&t->e, REG_A, host);
		t->a_guest = A_NOTHING;
		w->index = -1;
		return true;
	}

	if ((encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	     encoding != ZYDIS_INSTRUCTION_ENCODING_VEX && !evex) ||
	    wants_b(w) || jit_cache_line_op(t) || !jit_group_operand(t, op, &reg, &disp))
		return false;
	there = disp;
	if ((evex && !evex_disp(t, &there)) ||
	    !jit_group_access(t, reg, disp, w->mem_size, w->access, lock,
			      jit_operand_desc(t, w->mem_size) | jit_mask_desc(t, op) |
				      (u64)(op->mem.segment == ZYDIS_REGISTER_SS   ? SEG_SS
					    : op->mem.segment == ZYDIS_REGISTER_FS ? SEG_FS
										   : SEG_DS)
					      << DESC_SEG_SHIFT,
			      c))
		return false;
	w->base = (int)jit_group_base(reg);
	w->index = (int)jit_group_addend(t, reg);
	w->disp = there;
	return true;
}

static void finish_access(struct trans *t, struct cold *c)
{
	if (c)
		jit_access_end(t, c);
}

/* Plain copy: no memory, and every register is where the encoding says. */
static bool verbatim(const struct trans *t, const struct rewrite *w)
{
	const struct field *const f[] = {&w->reg, &w->rm, &w->vvvv, &w->opc};

	if (!(t->mode & MODE_LONG) || w->mem || w->rdi_mem || w->rcx_in || w->bit_string)
		return false;
	/* the host would take F3, which means nothing to this guest, for LZCNT or TZCNT */
	if (t->in.mnemonic == ZYDIS_MNEMONIC_BSR || t->in.mnemonic == ZYDIS_MNEMONIC_BSF)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		if (f[i]->used && (f[i]->host != f[i]->guest || (f[i]->high && f[i]->guest == RCX)))
			return false;
	/* a high byte beside RCX's replacement was caught above: r15 is not RCX */
	return true;
}

/* XCHG R8, rAX with a meaningless F3, which makes PAUSE of the others of its kind (classify.c). */
static void emit_xchg_r8(struct trans *t)
{
	struct emit *e = &t->e;

	emit_load_stack(e, REG_T, STACK_GPR(R8));
	if (t->in.operand_width == 16)
		emit8(e, 0x66);
	emit_rex(e, t->in.operand_width == 64, 0, 0, REG_T, false);
	emit8(e, 0x90 | REG_T);
	emit_store_stack(e, REG_T, STACK_GPR(R8));
}

/*
 * A prefetch cannot fault, so it goes unchecked: to the place in the window, or to what the TLB has for such an
 * address, which mostly is the right page.
 */
static void emit_prefetch_insn(struct trans *t)
{
	const ZydisDecodedOperand *op = t->op;
	struct emit *e = &t->e;
	u64 desc;

	while (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
		op++;
	if (t->plain) {
		t->keeps_b = t->keeps_a = true;
		return;
	}
	t->keeps_b = op->mem.segment != ZYDIS_REGISTER_FS && op->mem.segment != ZYDIS_REGISTER_GS &&
		     (op->mem.index == ZYDIS_REGISTER_NONE ||
		      jit_home[jit_gpr_index(op->mem.index)] != REG_MEMORY);
	jit_emit_address(t, op, 0, &desc);
	if (desc & DESC_CHECK)
		return;
	if (t->window) {
		emit_window(e, REG_T, REG_A);
	} else {
		emit_pext_stack(e, REG_T, REG_A, STACK_TLB_MASK);
		emit_gs_load_index(e, REG_T, REG_T, jit_tlb_addend(t));
	}
	emit_rex(e, false, 0, REG_T, REG_A, false);
	emit8(e, 0x0f);
	emit8(e, t->in.opcode);
	emit_mem(e, t->in.raw.modrm.reg, REG_A, REG_T, 0, 0);
}

bool jit_emit_ordinary(struct trans *t)
{
	struct rewrite w = {
		.free = {REG_B, REG_A, REG_T}, .free_count = 3, .base = REG_A, .index = REG_B};
	struct emit *e = &t->e;
	struct cold *c = NULL;
	bool grouped;
	u64 desc;

	if (t->in.meta.isa_ext == ZYDIS_ISA_EXT_CET ||
	    t->in.meta.category == ZYDIS_CATEGORY_WIDENOP ||
	    t->in.meta.category == ZYDIS_CATEGORY_NOP) {
		t->keeps_b = t->keeps_a = true;
		return true;
	}
	if (t->in.meta.category == ZYDIS_CATEGORY_PREFETCH ||
	    t->in.meta.category == ZYDIS_CATEGORY_PREFETCHWT1) {
		emit_prefetch_insn(t);
		return true;
	}
	if (t->in.mnemonic == ZYDIS_MNEMONIC_CLD || t->in.mnemonic == ZYDIS_MNEMONIC_STD) {
		emit_gs_store8_imm(e, t->in.mnemonic == ZYDIS_MNEMONIC_STD, GS(df));
		return true;
	}
	if (t->in.mnemonic == ZYDIS_MNEMONIC_PAUSE) {
		emit_xchg_r8(t);
		return true;
	}
	if (t->in.mnemonic == ZYDIS_MNEMONIC_LEA) {
		emit_lea_insn(t);
		t->keeps_a = true;
		t->keeps_b = t->op[1].mem.index == ZYDIS_REGISTER_NONE ||
			     jit_home[jit_gpr_index(t->op[1].mem.index)] != REG_MEMORY;
		return true;
	}
	if (!(t->mode & MODE_LONG) && (t->in.mnemonic == ZYDIS_MNEMONIC_VZEROALL ||
				       t->in.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER)) {
		emit_vzero(t, t->in.mnemonic == ZYDIS_MNEMONIC_VZEROALL);
		return true;
	}
	if (width_undefined(t) || !collect(t, &w))
		return false;
	if (verbatim(t, &w)) {
		emit_copy(e, t->bytes, t->in.length);
		t->keeps_b = t->keeps_a = true;
		return true;
	}
	if (w.mem && w.mem_size == 0)
		return true; /* forms of NOP */
	if (w.rdi_mem) {
		unsigned size = t->op[w.mem_op].size / 8;

		if (t->in.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ) {
			/* MOVD from MM0: the x87 turns to MMX, or reports, before memory is looked at */
			emit8(e, 0x0f);
			emit8(e, 0x7e);
			emit8(e, 0xc0 | REG_T);
		}
		/* a fault between the exchanges would show their registers: it is found before */
		t->window = false;
		jit_emit_address(t, &t->op[w.mem_op], 0, &desc);
		desc |= jit_maskmov_desc(t);
		if (t->in.mnemonic != ZYDIS_MNEMONIC_MASKMOVQ)
			desc |= DESC_HALVES | jit_operand_desc(t, size);
		c = jit_emit_access(t, size, MMU_WRITE | MMU_RMW, false, desc);
		t->window = t->mode & MODE_WINDOW;
		emit_lea(e, true, REG_A, REG_A, REG_B, 0, 0);
		emit8(e, 0x49);
		emit8(e, 0x87);
		emit8(e, 0xfa); /* xchg %rdi, %r10: the instruction itself cannot fault now */
		jit_emit_rewritten(t, &w);
		emit8(e, 0x49);
		emit8(e, 0x87);
		emit8(e, 0xfa);
		finish_access(t, c);
		return true;
	}
	if (w.mem) {
		bool lock = (t->in.attributes & ZYDIS_ATTRIB_HAS_LOCK) ||
			    t->in.mnemonic == ZYDIS_MNEMONIC_XCHG;
		bool bits = t->in.meta.isa_ext == ZYDIS_ISA_EXT_BASE &&
			    (t->in.mnemonic == ZYDIS_MNEMONIC_BT ||
			     t->in.mnemonic == ZYDIS_MNEMONIC_BTS ||
			     t->in.mnemonic == ZYDIS_MNEMONIC_BTR ||
			     t->in.mnemonic == ZYDIS_MNEMONIC_BTC);

		w.bit_string = bits && w.reg.used;
		grouped = group_access(t, &w, lock, &c);
		if (grouped) {
			t->keeps_b = true;
		} else {
			if (w.bit_string) {
				emit_bit_string_address(t);
				jit_emit_segment(t, &t->op[w.mem_op], &desc);
			} else {
				jit_emit_address(t, &t->op[w.mem_op], 0, &desc);
			}
			desc |= jit_operand_desc(t, w.mem_size);
			if (jit_cache_line_op(t)) {
				w.mem_size = 1;
				t->window = false;
			}
			desc |= jit_mask_desc(t, &t->op[w.mem_op]);
			c = jit_emit_access(t, w.mem_size, w.access, lock, desc);
			t->window = t->mode & MODE_WINDOW;
			if (jit_cache_line_op(t))
				return true; /* the access check is all that can be seen */
		}
		w.free_count = 0;
		w.free[w.free_count++] = REG_T;
	}
	if (w.mem && wants_b(&w)) {
		emit_lea(e, true, REG_A, REG_A, REG_B, 0, 0);
		w.index = -1;
		w.free[w.free_count++] = REG_B;
	}
	if (w.rcx_in) {
		take_this(&w, REG_T);
		emit_mov(e, true, REG_T, jit_home[RCX]);
		/* explicit uses of RCX beside the implicit one read the same value */
	}
	assign_high(t, &w);
	if (w.bit_string) {
		unsigned src = w.reg.host;

		if (src == REG_MEMORY) {
			emit_load_stack(e, REG_T, STACK_GPR(w.reg.guest));
			src = REG_T;
		}
		emit_mov_imm(e, REG_B,
			     t->in.operand_width == 64	 ? 58
			     : t->in.operand_width == 32 ? 59
							 : 60);
		emit_shiftx(e, SHIFT_SHLX, REG_T, src, REG_B);
		emit_shiftx(e, SHIFT_SHRX, REG_T, REG_T, REG_B);
		w.reg.host = REG_T;
		w.free_count = 0;
	}
	use_home(t, &w);
	assign(t, &w, &w.reg);
	assign(t, &w, &w.rm);
	assign(t, &w, &w.vvvv);
	assign(t, &w, &w.opc);
	jit_emit_rewritten(t, &w);
	t->keeps_a = true;
	if (!w.mem && !w.bit_string && !w.rcx_in)
		t->keeps_b = w.reg.host != REG_B && w.rm.host != REG_B && w.vvvv.host != REG_B &&
			     w.opc.host != REG_B;
	/* RM first: it is the one in T, through which the other goes */
	if (w.rm.used && w.rm.high && w.rm.write)
		high_store(t, &w.rm);
	if (w.reg.used && w.reg.high && w.reg.write &&
	    !(w.rm.used && w.rm.high && w.rm.write && w.rm.guest == w.reg.guest))
		high_store(t, &w.reg);
	if (w.opc.used && w.opc.high && w.opc.write)
		high_store(t, &w.opc);
	if (!w.bit_string) {
		store_back(t, &w.reg);
		store_back(t, &w.rm);
		store_back(t, &w.vvvv);
		store_back(t, &w.opc);
	}
	if (w.rcx_out)
		emit_mov(e, true, jit_home[RCX], REG_T);
	finish_access(t, c);
	return true;
}
