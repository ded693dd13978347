/*
 * iret.c - IRET in every mode
 *
 * real mode          IP CS FLAGS
 * virtual-8086       the same when IOPL is 3; with VME the 16-bit form works on VIF; else #GP
 * protected          same privilege, outer ring (SS:ESP too), to virtual-8086, back-link task
 * 64-bit             always pops SS:RSP
 *
 * The 64-bit form between flat segments is the hottest path of a kernel: descriptors are read
 * again, because the tables may have changed, but nothing else is done twice.
 */
#include "cpu/seg.h"
#include "mmu/mmu.h"

/* Flags that every IRET may change, at any privilege. */
#define IRET_FLAGS (FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID)

/* The new RFLAGS for an IRET executed at privilege cpl. */
static u64 iret_flags(struct cpu *cpu, u64 image, unsigned opsize)
{
	unsigned cpl = cpu->cpl, iopl = (cpu->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT;
	u64 mask = IRET_FLAGS;

	if (cpl <= iopl)
		mask |= FLAG_IF;
	if (cpl == 0)
		mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
	if (opsize == 2)
		mask &= 0xffff;
	/* RF is cleared by the 16-bit form as by any instruction. */
	return (cpu_rflags(cpu) & ~(mask | FLAG_RF)) | (image & mask);
}

static int iret_finish(struct cpu *cpu, u64 flags)
{
	cpu_rflags_set(cpu, flags);
	cpu->shadow = 0;
	cpu_mode_update(cpu);
	return cpu_irq_window_check(cpu);
}

static int iret_real(struct cpu *cpu, unsigned opsize)
{
	u64 v[3], flags;
	int ret = seg_stack_peek(cpu, 0, opsize, 3, v);

	if (ret)
		return ret;
	if (v[0] > cpu->seg[SEG_CS].limit)
		return cpu_raise_err(cpu, EXC_GP, 0);
	flags = cpu_rflags(cpu) & ~FLAG_RF;
	if (opsize == 2)
		flags = (flags & ~0xffffull) | v[2];
	else
		flags = (flags & (FLAG_VM | FLAG_VIF | FLAG_VIP)) |
			(v[2] & ~(FLAG_VM | FLAG_VIF | FLAG_VIP));
	seg_sp_set(cpu, cpu->gpr[RSP] + 3 * opsize);
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, (u16)v[1]);
	cpu->rip = v[0];
	return iret_finish(cpu, flags);
}

static int iret_v86(struct cpu *cpu, unsigned opsize)
{
	bool iopl3 = (cpu->rflags & FLAG_IOPL) == FLAG_IOPL;
	u64 v[3], flags, keep = FLAG_VM | FLAG_IOPL | FLAG_VIF | FLAG_VIP;
	int ret;

	if (!iopl3 && !((cpu->cr4 & CR4_VME) && opsize == 2))
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_stack_peek(cpu, 0, opsize, 3, v);
	if (ret)
		return ret;
	if (v[0] > cpu->seg[SEG_CS].limit)
		return cpu_raise_err(cpu, EXC_GP, 0);
	flags = cpu_rflags(cpu) & ~FLAG_RF;
	if (iopl3) {
		if (opsize == 2)
			keep |= ~0xffffull;
		flags = (flags & keep) | (v[2] & ~keep);
	} else {
		/* VME: the image's IF is VIF, and may not turn on over a pending interrupt. */
		if (((v[2] & FLAG_IF) && (flags & FLAG_VIP)) || (v[2] & FLAG_TF))
			return cpu_raise_err(cpu, EXC_GP, 0);
		keep = ~0xffffull | FLAG_IOPL | FLAG_IF;
		flags = (flags & keep & ~FLAG_VIF) | (v[2] & ~keep) |
			(v[2] & FLAG_IF ? FLAG_VIF : 0);
	}
	seg_sp_set(cpu, cpu->gpr[RSP] + 3 * opsize);
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, (u16)v[1]);
	cpu->rip = v[0];
	return iret_finish(cpu, flags);
}

/* EFLAGS.NT: back to the task whose selector is the TSS's back link. */
static int iret_task(struct cpu *cpu, const struct cpu_insn *in)
{
	struct seg_desc d;
	u16 sel;
	int ret;

	if (cpu_is_long(cpu))
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_tss_read(cpu, 0, &sel, 2, 0);
	if (ret)
		return ret;
	if ((sel & 4) || seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_TS, sel & 0xfffc);
	ret = seg_desc_fetch(cpu, sel, EXC_TS, 0, &d);
	if (ret)
		return ret;
	if ((d.attr & SEG_ATTR_S) ||
	    (seg_type(d.attr) != SEG_SYS_TSS16_BUSY && seg_type(d.attr) != SEG_SYS_TSS32_BUSY))
		return cpu_raise_err(cpu, EXC_TS, sel & 0xfffc);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, sel & 0xfffc);
	ret = cpu_task_switch(cpu, sel, &d,
			      &(struct seg_task){
				      .source = TASK_IRET,
				      .next_rip = seg_next_rip(cpu, in->len),
				      .flags = cpu_rflags(cpu) & ~(FLAG_RF | FLAG_NT),
			      });
	return ret ? ret : cpu_irq_window_check(cpu);
}

/* Protected to virtual-8086: nine doublewords. */
static int iret_to_v86(struct cpu *cpu)
{
	static const u8 order[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	u64 v[9];
	int ret = seg_stack_peek(cpu, 0, 4, 9, v);

	if (ret)
		return ret;
	cpu_rflags_set(cpu, v[2]); /* at CPL 0: every flag */
	cpu->cpl = 3;
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, (u16)v[1]);
	cpu->seg[SEG_SS] = seg_from_real(cpu, SEG_SS, (u16)v[4]);
	for (unsigned i = 0; i < 4; i++)
		cpu->seg[order[i]] = seg_from_real(cpu, order[i], (u16)v[5 + i]);
	cpu->rip = (u16)v[0];
	cpu->gpr[RSP] = (u32)v[3];
	return iret_finish(cpu, v[2]);
}

/* The code segment an IRET or far RET returns to; its privilege is the selector's RPL. */
int seg_return_code(struct cpu *cpu, u16 sel, struct cpu_seg *cs)
{
	u32 error = sel & 0xfffc;
	unsigned rpl = sel & 3;
	struct seg_desc d;
	int ret;

	if (seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_desc_fetch(cpu, sel, EXC_GP, 0, &d);
	if (ret)
		return ret;
	if (!seg_is_code(d.attr) || rpl < cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (seg_is_conforming(d.attr) ? seg_dpl(d.attr) > rpl : seg_dpl(d.attr) != rpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (cpu_is_long(cpu) && (d.attr & SEG_ATTR_L) && (d.attr & SEG_ATTR_DB))
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	*cs = seg_from_desc(sel, &d);
	return CPU_OK;
}

/* The stack segment returned to: null only into 64-bit code below ring 3. */
int seg_return_stack(struct cpu *cpu, u16 sel, const struct cpu_seg *cs, struct cpu_seg *ss)
{
	unsigned cpl = cs->sel & 3;

	if (seg_is_null(sel) && cpu_is_long(cpu) && (cs->attr & SEG_ATTR_L) && cpl != 3) {
		*ss = seg_from_null(sel, cpl);
		return CPU_OK;
	}
	return seg_stack_check(cpu, sel, cpl, EXC_GP, 0, ss);
}

static int iret_protected(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned opsize = in->opsize, cpl;
	bool from64 = cpu->mode & MODE_LONG, with_ss = from64;
	struct cpu_seg cs, ss;
	u64 v[5], flags;
	int ret = seg_stack_peek(cpu, 0, opsize, from64 ? 5 : 3, v);

	/* AMD's processors read the flags first, and SS before RSP */
	if (ret == CPU_EXC && cpu->vendor == CPU_VENDOR_AMD) {
		static const u8 order[5] = {2, 1, 0, 4, 3};

		ret = seg_stack_blame(cpu, opsize, order, from64 ? 5 : 3);
	}
	if (ret)
		return ret;
	if (opsize == 4 && (v[2] & FLAG_VM) && cpu->cpl == 0 && !cpu_is_long(cpu))
		return iret_to_v86(cpu);
	/* AMD's processors read an outer stack pointer, SS first, before they look at CS. */
	if (!from64 && (v[1] & 3) != cpu->cpl && cpu->vendor == CPU_VENDOR_AMD) {
		ret = seg_stack_peek(cpu, 4 * opsize, opsize, 1, v + 3);
		if (!ret)
			ret = seg_stack_peek(cpu, 3 * opsize, opsize, 1, v + 3);
		if (ret)
			return ret;
	}
	ret = seg_return_code(cpu, (u16)v[1], &cs);
	if (ret)
		return ret;
	cpl = cs.sel & 3;
	/* AMD's processors look at the target before they look at SS, Intel's after it. */
	if (cpu->vendor == CPU_VENDOR_AMD) {
		ret = seg_target_check(cpu, &cs, v[0], 0);
		if (ret)
			return ret;
	}
	if (!from64 && cpl > cpu->cpl) {
		ret = seg_stack_peek(cpu, 3 * opsize, opsize, 2, v + 3);
		if (ret)
			return ret;
		with_ss = true;
	}
	if (with_ss) {
		ret = seg_return_stack(cpu, (u16)v[4], &cs, &ss);
		if (ret)
			return ret;
	}
	ret = seg_target_check(cpu, &cs, v[0], 0);
	if (ret)
		return ret;

	flags = iret_flags(cpu, v[2], opsize);
	if (with_ss)
		cpu->seg[SEG_SS] = ss;
	seg_sp_put(cpu, with_ss ? v[3] : cpu->gpr[RSP] + 3 * opsize,
		   seg_sp_mask_of(cpu, &cs, &cpu->seg[SEG_SS]));
	cpu->seg[SEG_CS] = cs;
	cpu->rip = v[0];
	if (cpl != cpu->cpl) {
		cpu->cpl = (u8)cpl;
		seg_drop_privileged(cpu);
	}
	return iret_finish(cpu, flags);
}

static int iret_any(struct cpu *cpu, const struct cpu_insn *in)
{
	if (LIKELY(cpu_is_protected(cpu))) {
		if (UNLIKELY(cpu->rflags & FLAG_NT))
			return iret_task(cpu, in);
		return iret_protected(cpu, in);
	}
	return cpu->rflags & FLAG_VM ? iret_v86(cpu, in->opsize) : iret_real(cpu, in->opsize);
}

/*
 * NMIs are open again after an IRET, also after one that faults ("Handling Multiple NMIs"); not
 * after one that has left in the middle and will run again. One may wait, whatever IF says.
 */
int insn_iret(struct cpu *cpu, const struct cpu_insn *in)
{
	int ret = iret_any(cpu, in);

	if (UNLIKELY(cpu->nmi_masked) && ret != CPU_EXIT) {
		cpu->nmi_masked = false;
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
	}
	return ret;
}
