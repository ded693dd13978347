/*
 * inline.c - system instructions that a kernel executes all the time
 *
 * C has a function for each of them, with every check. In the modes below the checks are decided
 * when the block is translated (CPL, IOPL and SMAP are in its mode), and what remains is a few
 * stores to struct cpu. Single steps and nested guests take the C functions. String instructions take
 * them, too, but are called from within their block.
 */
#include "cpu/feature.h"
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/*
 * STI: when an interrupt waits for IF, C does it, with its shadow. Otherwise there is nothing that
 * the shadow holds back yet; one that comes later is seen at the next poll, and a jump directly
 * behind this polls at its target (linkable() in flow.c).
 */
static bool emit_sti(struct trans *t, const struct cpu_insn *c)
{
	struct cpu_insn *copy = jit_meta_alloc(t->jit, sizeof(*copy));
	struct cold *cold;

	if (!copy)
		return false;
	*copy = *c;
	emit_gs_load(&t->e, REG_T, GS(irq_window));
	cold = jit_emit_unless_one(t, COLD_INSN);
	cold->target = (u64)copy;
	cold->rip = t->pc;
	emit_gs_store8_imm(&t->e, 1, GS(intf));
	t->sti = true;
	return true;
}

static bool emit_swapgs(struct trans *t)
{
	u32 base = (u32)(offsetof(struct cpu, seg) + SEG_GS * sizeof(struct cpu_seg));
	struct emit *e = &t->e;

	emit_gs_load(e, REG_A, base);
	emit_gs_load(e, REG_B, GS(kernel_gs_base));
	emit_gs_store(e, REG_A, GS(kernel_gs_base));
	emit_gs_store(e, REG_B, base);
	return true;
}

/* PUSHFQ: the arithmetic flags from the host, the others from their places. */
static bool emit_pushf(struct trans *t)
{
	struct emit *e = &t->e;
	struct cold *c;
	u64 desc;

	jit_emit_sp_address(t, -8, &desc);
	c = jit_emit_access(t, 8, MMU_WRITE, false, desc);
	emit_lea(e, true, REG_A, REG_A, REG_B, 0, 0);
	emit8(e, 0x9c); /* pushfq */
	emit8(e, 0x59); /* pop %rcx */
	emit_pext_gs(e, REG_T, REG_T, GS(flag_mask));
	emit_pdep_gs(e, REG_T, REG_T, GS(flag_mask));
	emit_gs_load8(e, REG_B, GS(intf));
	emit_rorx(e, REG_B, REG_B, 64 - 9);
	emit_lea(e, true, REG_T, REG_T, REG_B, 0, 0);
	emit_gs_load8(e, REG_B, GS(df));
	emit_rorx(e, REG_B, REG_B, 64 - 10);
	emit_lea(e, true, REG_T, REG_T, REG_B, 0, 0);
	emit_gs_load(e, REG_B, GS(rflags));
	emit_lea(e, true, REG_T, REG_T, REG_B, 0, 0);
	emit_store(e, 8, REG_T, REG_A, -1);
	jit_emit_sp_add(t, -8);
	jit_access_end(t, c);
	return true;
}

/* STAC, CLAC at CPL 0: RFLAGS.AC is known from the mode; the block ends in another mode. */
static bool emit_ac(struct trans *t, bool set)
{
	bool smap = t->cpu->cr4 & CR4_SMAP;
	struct emit *e = &t->e;
	u32 mode = t->mode & ~(MODE_VIEW | MODE_AC);

	if (!!(t->mode & MODE_AC) == set)
		return true;
	/* behind STI nothing is linked, and the jump cache would be that of the old view */
	if (t->shadow || ((t->next_pc ^ t->start) & PAGE_MASK))
		return false;
	mode |= set ? MODE_AC : 0;
	mode |= (u32)(smap && !set ? MMU_TLB_KERNEL : MMU_TLB_KERNEL_AC) << MODE_VIEW_SHIFT;
	emit_gs_load(e, REG_T, GS(rflags));
	emit_lea(e, true, REG_T, REG_T, -1, 0, set ? (s32)FLAG_AC : -(s32)FLAG_AC);
	emit_gs_store(e, REG_T, GS(rflags));
	emit_gs_store32_imm(e, mode, GS(mode));
	jit_emit_goto_mode(t, t->next_pc, mode);
	return true;
}

/* dst = src shifted by n bits; count: a register for n. */
static void emit_shift(struct emit *e, unsigned kind, unsigned dst, unsigned src, unsigned n,
		       unsigned count)
{
	emit_mov_imm(e, count, n);
	emit_shiftx(e, kind, dst, src, count);
}

/* RDTSC, RDTSCP: (host's × ratio >> 48) + offset, without a change of flags. */
static bool emit_rdtsc(struct trans *t, bool p)
{
	struct emit *e = &t->e;

	if (!(t->mode & MODE_TSC) || (p && !cpu_has(t->cpu, X86_FEATURE_RDTSCP)))
		return false;
	emit8(e, 0x0f); /* lfence, as tsc_host() */
	emit8(e, 0xae);
	emit8(e, 0xe8);
	emit8(e, 0x0f);
	emit8(e, p ? 0x01 : 0x31);
	if (p)
		emit8(e, 0xf9);
	emit_shift(e, SHIFT_SHLX, REG_A, H_RDX, 32, REG_B);
	emit_lea(e, true, H_RDX, REG_A, H_RAX, 0, 0);
	emit_mulx_gs(e, REG_B, REG_T, GS(tsc_ratio));
	emit_shift(e, SHIFT_SHLX, REG_B, REG_B, 16, H_RAX);
	emit_shift(e, SHIFT_SHRX, REG_T, REG_T, 48, H_RAX);
	emit_lea(e, true, REG_A, REG_B, REG_T, 0, 0);
	emit_gs_load(e, REG_B, GS(tsc_offset));
	emit_lea(e, true, REG_A, REG_A, REG_B, 0, 0);
	emit_mov(e, false, H_RAX, REG_A);
	emit_shift(e, SHIFT_SHRX, H_RDX, REG_A, 32, REG_B);
	if (p)
		emit_gs_load32(e, jit_home[RCX], GS(tsc_aux));
	return true;
}

static u32 seg_field(unsigned seg, size_t field)
{
	return (u32)(offsetof(struct cpu, seg) + seg * sizeof(struct cpu_seg) + field);
}

/* MOV r, Sreg: the selector with zeros above. */
static bool emit_mov_from_sreg(struct trans *t, const struct cpu_insn *c)
{
	if (c->mem || c->opsize < 4 || c->reg > SEG_GS)
		return false;
	emit_gs_load16(&t->e, REG_T, seg_field(c->reg, offsetof(struct cpu_seg, sel)));
	jit_emit_reg_store(t, c->rm, REG_T);
	t->keeps_b = true;
	return true;
}

/* RDFSBASE, RDGSBASE; CR4.FSGSBASE is as it was when the block was translated (flush_pending()). */
static bool emit_rdfsgsbase(struct trans *t, const struct cpu_insn *c)
{
	u32 base = seg_field(c->imm2 == SEG_FS ? SEG_FS : SEG_GS, offsetof(struct cpu_seg, base));

	if (!(t->cpu->cr4 & CR4_FSGSBASE) || c->mem)
		return false;
	if (c->opsize == 8)
		emit_gs_load(&t->e, REG_T, base);
	else
		emit_gs_load32(&t->e, REG_T, base);
	jit_emit_reg_store(t, c->rm, REG_T);
	t->keeps_b = true;
	return true;
}

/* PAUSE: the host's own; C is asked when its window ends. */
static bool emit_pause(struct trans *t, const struct cpu_insn *c)
{
	struct cpu_insn *copy = jit_meta_alloc(t->jit, sizeof(*copy));
	struct emit *e = &t->e;
	struct cold *cold;

	if (!copy)
		return false;
	*copy = *c;
	emit_gs_load(e, REG_T, GS(pauses));
	emit_lea(e, true, REG_T, REG_T, -1, 0, -1);
	emit_gs_store(e, REG_T, GS(pauses));
	emit8(e, 0xe3); /* jrcxz to the long jump */
	emit8(e, 2);
	emit8(e, 0xeb);
	emit8(e, 5);
	emit8(e, 0xe9);
	cold = jit_cold_add(t, e->p, COLD_INSN);
	cold->target = (u64)copy;
	cold->rip = t->pc;
	emit32(e, 0);
	emit8(e, 0xf3);
	emit8(e, 0x90);
	t->keeps_b = true;
	return true;
}

u64 jit_called(struct cpu *cpu, const struct jit_called *at)
{
	u64 next = cpu->rip + at->insn.len;
	int ret;

	cpu->jit->stat_cinsn[at->insn.op]++;
	ret = cpu_insn_table[at->insn.op](cpu, &at->insn);
	cpu->jit_scratch[3] = (u64)ret;
	/* everything that the dispatcher would look at; and it may have written what comes next */
	return ret != CPU_OK || cpu->rip != next ||
	       !__atomic_load_n(&cpu->poll, __ATOMIC_RELAXED) || at->block->dead ||
	       cpu->pending_db || cpu->mmio.write_count || cpu->window_stale;
}

/* String instructions: C executes them, but nothing changes in them that would end the block. */
static bool emit_called(struct trans *t, const struct cpu_insn *c)
{
	struct jit_called *copy = jit_meta_alloc(t->jit, sizeof(*copy));

	if (!copy)
		return false;
	*copy = (struct jit_called){*c, t->block};
	jit_emit_store_rip(t, t->pc);
	emit_mov_imm(&t->e, REG_A, (u64)copy);
	emit_rel32(&t->e, 0xe8, t->jit->thunk.called);
	jit_group_end(t);
	return true;
}

bool jit_emit_inline(struct trans *t, const struct cpu_insn *c)
{
	bool kernel = (t->mode & MODE_LONG) && !(t->mode & MODE_CPL);

	if (t->mode & (MODE_V86 | MODE_STEP | MODE_GUEST))
		return false;
	if (c->prefix & CPU_PREFIX_LOCK)
		return false;
	switch (c->op) {
	case CPU_OP_CLI:
		if (!(t->mode & MODE_IOPL_OK))
			return false;
		emit_gs_store8_imm(&t->e, 0, GS(intf));
		return true;
	case CPU_OP_STI:
		return (t->mode & MODE_IOPL_OK) && emit_sti(t, c);
	case CPU_OP_RDTSC:
		return (t->mode & MODE_LONG) && emit_rdtsc(t, false);
	case CPU_OP_RDTSCP:
		return (t->mode & MODE_LONG) && emit_rdtsc(t, true);
	case CPU_OP_MOV_FROM_SREG:
		return (t->mode & MODE_LONG) && emit_mov_from_sreg(t, c);
	case CPU_OP_RDFSGSBASE:
		return (t->mode & MODE_LONG) && emit_rdfsgsbase(t, c);
	case CPU_OP_PAUSE:
		return emit_pause(t, c);
	case CPU_OP_MOVS:
	case CPU_OP_STOS:
	case CPU_OP_LODS:
	case CPU_OP_SCAS:
	case CPU_OP_CMPS:
		return (t->mode & MODE_LONG) && !t->shadow && emit_called(t, c);
	case CPU_OP_SWAPGS:
		return kernel && emit_swapgs(t);
	case CPU_OP_PUSHF:
		return (t->mode & MODE_LONG) && c->opsize == 8 && emit_pushf(t);
	case CPU_OP_STAC:
		return kernel && emit_ac(t, true);
	case CPU_OP_CLAC:
		return kernel && emit_ac(t, false);
	default:
		return false;
	}
}
