/*
 * far.c - JMP, CALL and RET between code segments
 *
 * A selector may name a code segment, a call gate (16, 32 or, in long mode, only 64 bit), a task
 * gate or a TSS. Only a CALL through a gate to non-conforming code of an inner ring switches
 * stacks; the 16- and 32-bit gates then copy up to 31 parameters.
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

struct far_target {
	u16 sel;
	u64 off;
};

/* AMD's processors have no 16:64 pointers in memory: REX.W is ignored. */
static unsigned pointer_size(const struct cpu *cpu, const struct cpu_insn *in)
{
	return in->opsize == 8 && cpu->vendor == CPU_VENDOR_AMD ? 4 : in->opsize;
}

static int target_read(struct cpu *cpu, const struct cpu_insn *in, struct far_target *t)
{
	unsigned size = pointer_size(cpu, in);
	u8 buf[10];
	int ret;

	if (!in->mem) {
		t->sel = in->imm2;
		t->off = in->opsize == 2 ? (u16)in->imm : (u32)in->imm;
		return CPU_OK;
	}
	ret = cpu_read_far(cpu, in, buf, size);
	if (ret)
		return ret;
	t->off = mem_load(buf, size);
	t->sel = (u16)mem_load(buf + size, 2);
	return CPU_OK;
}

/* A call's return address on the current stack. */
static int frame_return(struct cpu *cpu, const struct cpu_insn *in, struct seg_frame *f,
			unsigned size, bool long_mode)
{
	int ret;

	seg_frame_init(f, &cpu->seg[SEG_SS], cpu->gpr[RSP], long_mode, size, MMU_AS_VIEW);
	seg_frame_push(f, cpu->seg[SEG_CS].sel);
	/* AMD's processors write CS before they look at where the offset goes. */
	if (cpu->vendor == CPU_VENDOR_AMD) {
		ret = seg_frame_write(cpu, f);
		if (ret)
			return ret;
	}
	seg_frame_push(f, seg_next_rip(cpu, in->len));
	return seg_frame_write(cpu, f);
}

static int far_commit(struct cpu *cpu, const struct cpu_insn *in, const struct cpu_seg *cs, u64 rip)
{
	cpu_insn_done(cpu, in);
	cpu->seg[SEG_CS] = *cs;
	cpu->rip = rip;
	cpu_mode_update(cpu);
	return CPU_OK;
}

static int far_real(struct cpu *cpu, const struct cpu_insn *in, const struct far_target *t,
		    bool call)
{
	struct cpu_seg cs = seg_from_real(cpu, SEG_CS, t->sel);
	struct seg_frame f;

	if (t->off > cs.limit)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (call) {
		int ret;

		ret = frame_return(cpu, in, &f, in->opsize, false);
		if (ret)
			return ret;
		cpu->gpr[RSP] = seg_frame_sp(&f);
	}
	return far_commit(cpu, in, &cs, t->off);
}

/* Straight to a code segment, or through a gate without a change of privilege. */
static int far_same(struct cpu *cpu, const struct cpu_insn *in, u16 sel, struct seg_desc *d,
		    u64 rip, bool call, unsigned size)
{
	struct seg_frame f;
	struct cpu_seg cs;
	int ret = seg_desc_mark(cpu, d, SEG_TYPE_ACCESSED);

	if (ret)
		return ret;
	cs = seg_from_desc((u16)((sel & 0xfffc) | cpu->cpl), d);
	/*
	 * AMD's processors push before they look at the target, in the new segment's mode, and do
	 * not take it back.
	 */
	if (call && cpu->vendor == CPU_VENDOR_AMD) {
		ret = frame_return(cpu, in, &f, size, cpu_is_long(cpu) && (cs.attr & SEG_ATTR_L));
		if (ret)
			return ret;
	}
	ret = seg_target_check(cpu, &cs, rip, 0);
	if (ret)
		return ret;
	if (call && cpu->vendor != CPU_VENDOR_AMD) {
		ret = frame_return(cpu, in, &f, size, cpu->mode & MODE_LONG);
		if (ret)
			return ret;
	}
	if (call)
		cpu->gpr[RSP] = seg_frame_sp(&f);
	return far_commit(cpu, in, &cs, rip);
}

static int far_code(struct cpu *cpu, const struct cpu_insn *in, const struct far_target *t,
		    struct seg_desc *d, bool call)
{
	u32 error = t->sel & 0xfffc;

	if (seg_is_conforming(d->attr) ? seg_dpl(d->attr) > cpu->cpl
				       : (t->sel & 3) > cpu->cpl || seg_dpl(d->attr) != cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (cpu_is_long(cpu) && (d->attr & SEG_ATTR_L) && (d->attr & SEG_ATTR_DB))
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(d->attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	return far_same(cpu, in, t->sel, d, t->off, call, in->opsize);
}

/* CALL through a gate to an inner ring. */
static int gate_inner(struct cpu *cpu, const struct cpu_insn *in, u64 gate, u16 sel,
		      struct seg_desc *d, u64 rip, unsigned size)
{
	unsigned cpl = seg_dpl(d->attr), params = gate >> 32 & 31;
	bool lma = cpu_is_long(cpu);
	struct cpu_seg cs, ss;
	struct seg_frame f;
	u64 v[32], sp;
	u16 ss_sel;
	u32 esp;
	int ret;

	if (lma) {
		ret = seg_tss_read(cpu, 4 + cpl * 8, &sp, 8, 0);
		if (ret)
			return ret;
		ss = seg_from_null((u16)cpl, cpl);
		seg_frame_init(&f, &ss, sp, true, 8, MMU_SYSTEM);
	} else {
		ret = seg_tss_stack(cpu, cpl, 0, &ss_sel, &esp);
		if (!ret)
			ret = seg_stack_check(cpu, ss_sel, cpl, EXC_TS, 0, &ss);
		if (ret)
			return ret;
		seg_frame_init(&f, &ss, esp, false, size, MMU_SYSTEM);
		f.error = ss_sel & 0xfffc;
	}
	seg_frame_push(&f, cpu->seg[SEG_SS].sel);
	seg_frame_push(&f, cpu->gpr[RSP]);
	if (!lma && params) {
		ret = seg_stack_peek(cpu, 0, size, params, v);
		if (ret)
			return ret;
		for (unsigned i = params; i-- > 0;)
			seg_frame_push(&f, v[i]);
	}
	seg_frame_push(&f, cpu->seg[SEG_CS].sel);
	seg_frame_push(&f, seg_next_rip(cpu, in->len));
	ret = seg_desc_mark(cpu, d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	cs = seg_from_desc((u16)((sel & 0xfffc) | cpl), d);
	ret = seg_target_check(cpu, &cs, rip, 0);
	if (!ret)
		ret = seg_frame_write(cpu, &f);
	if (ret)
		return ret;
	cpu->seg[SEG_SS] = ss;
	cpu->gpr[RSP] = seg_frame_sp(&f);
	cpu->cpl = (u8)cpl;
	return far_commit(cpu, in, &cs, rip);
}

static int far_gate(struct cpu *cpu, const struct cpu_insn *in, u16 gate_sel, struct seg_desc *gate,
		    bool call)
{
	bool lma = cpu_is_long(cpu), wide = seg_type(gate->attr) == SEG_SYS_CALL32;
	unsigned size = lma ? 8 : wide ? 4 : 2;
	u16 sel = (u16)(gate->lo >> 16);
	struct seg_desc d;
	u64 rip;
	int ret;

	rip = (u16)gate->lo | (wide ? gate->lo >> 48 << 16 : 0);
	if (lma) {
		ret = seg_desc_fetch_high(cpu, gate_sel, EXC_GP, 0, gate);
		if (ret)
			return ret;
		if (gate->hi >> 40 & 0x1f)
			return cpu_raise_err(cpu, EXC_GP, gate_sel & 0xfffc);
		rip |= gate->hi << 32;
	}
	if (seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_desc_fetch(cpu, sel, EXC_GP, 0, &d);
	if (ret)
		return ret;
	if (!seg_is_code(d.attr) || seg_dpl(d.attr) > cpu->cpl ||
	    (lma && (d.attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L) ||
	    (!call && !seg_is_conforming(d.attr) && seg_dpl(d.attr) != cpu->cpl))
		return cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, sel & 0xfffc);
	if (call && !seg_is_conforming(d.attr) && seg_dpl(d.attr) < cpu->cpl)
		return gate_inner(cpu, in, gate->lo, sel, &d, rip, size);
	return far_same(cpu, in, sel, &d, rip, call, size);
}

static int far_task(struct cpu *cpu, const struct cpu_insn *in, u16 sel, struct seg_desc *d,
		    bool call)
{
	int ret;

	if (seg_type(d->attr) == SEG_SYS_TASK) {
		ret = cpu_task_gate(cpu, d->lo, 0, &sel, d);
		if (ret)
			return ret;
	}
	ret = cpu_task_switch(cpu, sel, d,
			      &(struct seg_task){
				      .source = call ? TASK_CALL : TASK_JMP,
				      .next_rip = seg_next_rip(cpu, in->len),
				      .flags = cpu_rflags(cpu) & ~FLAG_RF,
			      });
	if (ret)
		return ret;
	return cpu_irq_window_check(cpu);
}

static int far_protected(struct cpu *cpu, const struct cpu_insn *in, const struct far_target *t,
			 bool call)
{
	u32 error = t->sel & 0xfffc, types;
	struct seg_desc d;
	int ret;

	if (seg_is_null(t->sel))
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_desc_fetch(cpu, t->sel, EXC_GP, 0, &d);
	if (ret)
		return ret;
	if (d.attr & SEG_ATTR_S) {
		if (!(d.attr & SEG_TYPE_CODE))
			return cpu_raise_err(cpu, EXC_GP, error);
		return far_code(cpu, in, t, &d, call);
	}
	types = cpu_is_long(cpu) ? BIT(SEG_SYS_CALL32)
				 : BIT(SEG_SYS_CALL16) | BIT(SEG_SYS_CALL32) | BIT(SEG_SYS_TASK) |
					   BIT(SEG_SYS_TSS16) | BIT(SEG_SYS_TSS32);
	if (!(types >> seg_type(d.attr) & 1) || seg_dpl(d.attr) < cpu->cpl ||
	    seg_dpl(d.attr) < (t->sel & 3))
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	if (seg_type(d.attr) == SEG_SYS_CALL16 || seg_type(d.attr) == SEG_SYS_CALL32)
		return far_gate(cpu, in, t->sel, &d, call);
	if (seg_type(d.attr) != SEG_SYS_TASK && (t->sel & 4))
		return cpu_raise_err(cpu, EXC_GP, error);
	return far_task(cpu, in, t->sel, &d, call);
}

static int far_transfer(struct cpu *cpu, const struct cpu_insn *in, bool call)
{
	struct far_target t;
	int ret = target_read(cpu, in, &t);

	if (ret)
		return ret;
	return cpu_is_protected(cpu) ? far_protected(cpu, in, &t, call)
				     : far_real(cpu, in, &t, call);
}

int insn_jmp_far(struct cpu *cpu, const struct cpu_insn *in)
{
	return far_transfer(cpu, in, false);
}

int insn_call_far(struct cpu *cpu, const struct cpu_insn *in)
{
	return far_transfer(cpu, in, true);
}

/* --- RET --------------------------------------------------------------------------------------- */

static int ret_outer(struct cpu *cpu, const struct cpu_insn *in, const struct cpu_seg *cs, u64 rip)
{
	u16 release = (u16)in->imm;
	struct cpu_seg ss;
	u64 v[2];
	int ret = seg_stack_peek(cpu, 2 * in->opsize + release, in->opsize, 2, v);

	if (!ret)
		ret = seg_return_stack(cpu, (u16)v[1], cs, &ss);
	if (!ret)
		ret = seg_target_check(cpu, cs, rip, 0);
	if (ret)
		return ret;
	seg_sp_put(cpu, v[0] + release, seg_sp_mask_of(cpu, cs, &ss));
	cpu->seg[SEG_SS] = ss;
	cpu->cpl = cs->sel & 3;
	seg_drop_privileged(cpu);
	return far_commit(cpu, in, cs, rip);
}

int insn_ret_far(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned frame = 2u * in->opsize + (u16)in->imm;
	struct cpu_seg cs;
	u64 v[2];
	int ret = seg_stack_peek(cpu, 0, in->opsize, 2, v);

	/* AMD's processors read CS before the offset */
	if (ret == CPU_EXC && cpu->vendor == CPU_VENDOR_AMD)
		ret = seg_stack_blame(cpu, in->opsize, (const u8[]){1, 0}, 2);
	if (ret)
		return ret;
	if (!cpu_is_protected(cpu)) {
		cs = seg_from_real(cpu, SEG_CS, (u16)v[1]);
		if (v[0] > cs.limit)
			return cpu_raise_err(cpu, EXC_GP, 0);
	} else {
		/* AMD's processors read the outer stack pointer, SS first, before they look at CS. */
		if (cpu->vendor == CPU_VENDOR_AMD && (v[1] & 3) != cpu->cpl) {
			u64 outer;

			ret = seg_stack_peek(cpu, frame + in->opsize, in->opsize, 1, &outer);
			if (!ret)
				ret = seg_stack_peek(cpu, frame, in->opsize, 1, &outer);
			if (ret)
				return ret;
		}
		ret = seg_return_code(cpu, (u16)v[1], &cs);
		if (ret)
			return ret;
		if ((cs.sel & 3) > cpu->cpl)
			return ret_outer(cpu, in, &cs, v[0]);
		ret = seg_target_check(cpu, &cs, v[0], 0);
		if (ret)
			return ret;
	}
	seg_sp_put(cpu, cpu->gpr[RSP] + frame, seg_sp_mask_of(cpu, &cs, &cpu->seg[SEG_SS]));
	return far_commit(cpu, in, &cs, v[0]);
}
