/*
 * exc.c - raising and delivering exceptions and interrupts
 *
 * Raising only records: cpu->exc says what, cpu->rip still names the instruction (for traps, the
 * next one). Delivery reads the gate, checks everything in the order of the manuals, writes the
 * whole frame at once, and commits registers last; so a fault during delivery finds the state of
 * the first event intact and can be combined with it: both contributory, or a page fault followed
 * by either, make a double fault; anything during a double fault is shutdown; else the second one
 * is delivered and the first is lost (its cause comes again when the handler returns).
 *
 * When a delivery must leave to user space (a stack in MMIO space), the event stays in cpu->exc
 * and delivery starts over.
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

#define DR6_GD		 0x2000ull /* BD: access to a debug register */
#define DR6_FIXED	 0xffff0ff0ull
#define DR7_GD		 0x2000ull
#define DEBUGCTL_LBR_BTF 3ull

/* An exception replaces whatever a failed delivery had recorded. */
int cpu_raise(struct cpu *cpu, unsigned vector)
{
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = EVENT_HW_EXC,
		.vector = (u8)vector,
	};
	return CPU_EXC;
}

int cpu_raise_err(struct cpu *cpu, unsigned vector, u32 error)
{
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = EVENT_HW_EXC,
		.vector = (u8)vector,
		.has_error = true,
		.error = error,
	};
	return CPU_EXC;
}

int cpu_raise_pf(struct cpu *cpu, u64 address, u32 error)
{
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = EVENT_HW_EXC,
		.vector = EXC_PF,
		.has_error = true,
		.error = error,
		.payload = address,
	};
	return CPU_EXC;
}

int cpu_raise_db(struct cpu *cpu, u64 dr6_bits)
{
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = EVENT_HW_EXC,
		.vector = EXC_DB,
		.payload = dr6_bits,
	};
	return CPU_EXC;
}

/* Events that a program asks for: gate DPL is checked, EXT is 0, the frame returns behind them. */
static bool event_is_soft(const struct cpu_exc *ev)
{
	return ev->kind == EVENT_SW_INT || ev->kind == EVENT_SW_EXC;
}

static u64 event_return_rip(struct cpu *cpu, const struct cpu_exc *ev)
{
	if (ev->kind >= EVENT_SW_INT)
		return seg_next_rip(cpu, ev->insn_len);
	return cpu->rip;
}

/* The flags image: RF is set for faults, so that an instruction breakpoint does not repeat. */
static u64 event_flags(const struct cpu *cpu, const struct cpu_exc *ev)
{
	u64 flags = cpu_rflags(cpu);

	if (ev->kind != EVENT_HW_EXC)
		return flags;
	switch (ev->vector) {
	case EXC_DB:
		return ev->payload & DR6_GD ? flags | FLAG_RF : flags;
	case EXC_BP:
	case EXC_OF:
	case EXC_NMI:
	case EXC_MC:
		return flags;
	default:
		return flags | FLAG_RF;
	}
}

/* After the handler's first instruction is reachable. */
static void event_commit_flags(struct cpu *cpu, bool mask_if)
{
	cpu->rflags &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (mask_if)
		cpu->intf = 0;
}

int cpu_nested_exit(struct cpu *cpu, const struct cpu_nested_exit *exit)
{
	cpu->nested_exit = *exit;
	cpu->exc = (struct cpu_exc){.pending = true, .kind = EVENT_VMEXIT, .vector = 0xff};
	return CPU_EXC;
}

/* --- real mode --------------------------------------------------------------------------------- */

static int deliver_real(struct cpu *cpu, const struct cpu_exc *ev)
{
	u32 off = ev->vector * 4u, entry;
	struct seg_frame f;
	int ret;

	if (off + 3 > cpu->idtr.limit)
		return cpu_raise_err(cpu, EXC_GP, off + 2);
	ret = mmu_read(cpu, cpu->idtr.base + off, &entry, 4, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	seg_frame_init(&f, &cpu->seg[SEG_SS], cpu->gpr[RSP], false, 2, MMU_AS_VIEW);
	seg_frame_push(&f, event_flags(cpu, ev));
	seg_frame_push(&f, cpu->seg[SEG_CS].sel);
	seg_frame_push(&f, event_return_rip(cpu, ev));
	ret = seg_frame_write(cpu, &f);
	if (ret)
		return ret;
	cpu->gpr[RSP] = seg_frame_sp(&f);
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, (u16)(entry >> 16));
	cpu->rip = (u16)entry;
	event_commit_flags(cpu, true);
	cpu->rflags &= ~FLAG_AC;
	cpu_mode_update(cpu);
	return CPU_OK;
}

/* --- gates ------------------------------------------------------------------------------------- */

/* The gate's code segment: checked, accessed, and the privilege it runs at. */
static int gate_code(struct cpu *cpu, u16 sel, u32 ext, struct cpu_seg *cs, unsigned *cpl)
{
	struct seg_desc d;
	u32 error = (sel & 0xfffc) | ext;
	int ret;

	if (seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_GP, ext);
	ret = seg_desc_fetch(cpu, sel, EXC_GP, ext, &d);
	if (ret)
		return ret;
	if (!seg_is_code(d.attr) || seg_dpl(d.attr) > cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (cpu_is_long(cpu) && (d.attr & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	*cpl = seg_is_conforming(d.attr) ? cpu->cpl : seg_dpl(d.attr);
	if ((cpu->rflags & FLAG_VM) && *cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	*cs = seg_from_desc((u16)((sel & 0xfffc) | *cpl), &d);
	return CPU_OK;
}

static void deliver_commit(struct cpu *cpu, const struct cpu_seg *cs, u64 rip, unsigned cpl,
			   bool interrupt_gate)
{
	cpu->seg[SEG_CS] = *cs;
	cpu->rip = rip;
	cpu->cpl = (u8)cpl;
	event_commit_flags(cpu, interrupt_gate);
	cpu_mode_update(cpu);
}

/* --- long mode --------------------------------------------------------------------------------- */

/* The handler's stack: IST, the TSS's stack for an inner ring, or the current one. */
static int long_stack(struct cpu *cpu, unsigned ist, unsigned cpl, u32 ext, u64 *rsp)
{
	int ret;

	if (ist) {
		ret = seg_tss_read(cpu, 36 + (ist - 1) * 8, rsp, 8, ext);
		if (ret)
			return ret;
	} else if (cpl != cpu->cpl) {
		ret = seg_tss_read(cpu, 4 + cpl * 8, rsp, 8, ext);
		if (ret)
			return ret;
	} else {
		*rsp = cpu->gpr[RSP];
	}
	if (!cpu_is_canonical(cpu, *rsp))
		return cpu_raise_err(cpu, EXC_SS, ext);
	*rsp &= ~15ull;
	return CPU_OK;
}

static int deliver_long(struct cpu *cpu, const struct cpu_exc *ev, u32 ext)
{
	u32 error = ev->vector * 8u + 2 + ext, off = ev->vector * 16u;
	u64 gate[2], rip, rsp, frame[6], *top = frame;
	unsigned cpl, n, access;
	struct cpu_seg cs;
	int ret;

	if (UNLIKELY(off + 15 > cpu->idtr.limit))
		return cpu_raise_err(cpu, EXC_GP, error);
	ret = mmu_read(cpu, cpu->idtr.base + off, gate, 16, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	if (UNLIKELY((gate[0] >> 41 & 0xf) != SEG_SYS_INT32 >> 1))
		return cpu_raise_err(cpu, EXC_GP, error);
	if (event_is_soft(ev) && (gate[0] >> 45 & 3) < cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (UNLIKELY(!(gate[0] >> 47 & 1)))
		return cpu_raise_err(cpu, EXC_NP, error);
	ret = gate_code(cpu, (u16)(gate[0] >> 16), ext, &cs, &cpl);
	if (ret)
		return ret;
	ret = long_stack(cpu, gate[0] >> 32 & 7, cpl, ext, &rsp);
	if (ret)
		return ret;
	rip = (u16)gate[0] | (gate[0] >> 48) << 16 | gate[1] << 32;
	if (UNLIKELY(!cpu_is_canonical(cpu, rip)))
		return cpu_raise_err(cpu, EXC_GP, ext);

	if (ev->has_error)
		*top++ = ev->error;
	*top++ = event_return_rip(cpu, ev);
	*top++ = cpu->seg[SEG_CS].sel;
	*top++ = event_flags(cpu, ev);
	*top++ = cpu->gpr[RSP];
	*top++ = cpu->seg[SEG_SS].sel;
	n = (unsigned)((u8 *)top - (u8 *)frame);
	if (UNLIKELY(!cpu_is_canonical(cpu, rsp - n)))
		return cpu_raise_err(cpu, EXC_SS, ext);
	access = cpl == cpu->cpl ? MMU_WRITE | MMU_AS_VIEW : MMU_WRITE | MMU_SYSTEM;
	ret = mmu_write(cpu, rsp - n, frame, n, access);
	if (ret)
		return ret;

	if (cpl != cpu->cpl)
		cpu->seg[SEG_SS] = seg_from_null((u16)cpl, cpl);
	cpu->gpr[RSP] = rsp - n;
	deliver_commit(cpu, &cs, rip, cpl, !(gate[0] >> 40 & 1));
	return CPU_OK;
}

/* --- protected mode ---------------------------------------------------------------------------- */

/* SS:ESP for an inner ring from a 16- or 32-bit TSS. */
int seg_tss_stack(struct cpu *cpu, unsigned cpl, u32 ext, u16 *ss, u32 *esp)
{
	u8 buf[6];
	int ret;

	if (seg_type(cpu->seg[SEG_TR].attr) & 8) {
		ret = seg_tss_read(cpu, 4 + cpl * 8, buf, 6, ext);
		*esp = (u32)mem_load(buf, 4);
		*ss = (u16)mem_load(buf + 4, 2);
	} else {
		ret = seg_tss_read(cpu, 2 + cpl * 4, buf, 4, ext);
		*esp = (u32)mem_load(buf, 2);
		*ss = (u16)mem_load(buf + 2, 2);
	}
	return ret;
}

static int deliver_task(struct cpu *cpu, const struct cpu_exc *ev, u64 gate, u32 ext)
{
	struct seg_desc tss;
	u16 sel;
	int ret = cpu_task_gate(cpu, gate, ext, &sel, &tss);

	if (ret)
		return ret;
	return cpu_task_switch(cpu, sel, &tss,
			       &(struct seg_task){
				       .source = TASK_GATE,
				       .has_error = ev->has_error,
				       .error = ev->error,
				       .ext = ext,
				       .next_rip = event_return_rip(cpu, ev),
				       .flags = event_flags(cpu, ev),
			       });
}

static void push_v86_segments(struct cpu *cpu, struct seg_frame *f)
{
	static const u8 order[4] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};

	for (unsigned i = 0; i < 4; i++)
		seg_frame_push(f, cpu->seg[order[i]].sel);
}

static int deliver_prot(struct cpu *cpu, const struct cpu_exc *ev, u32 ext)
{
	u32 error = ev->vector * 8u + 2 + ext, off = ev->vector * 8u, esp;
	bool v86 = cpu->rflags & FLAG_VM, inner;
	struct cpu_seg cs, ss;
	struct seg_frame f;
	unsigned type, cpl;
	u64 gate, rip;
	u16 ss_sel;
	int ret;

	if (off + 7 > cpu->idtr.limit)
		return cpu_raise_err(cpu, EXC_GP, error);
	ret = mmu_read(cpu, (u32)(cpu->idtr.base + off), &gate, 8, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	type = gate >> 40 & 0x1f;
	if (type != SEG_SYS_TASK && type != SEG_SYS_INT16 && type != SEG_SYS_TRAP16 &&
	    type != SEG_SYS_INT32 && type != SEG_SYS_TRAP32)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (event_is_soft(ev) && (gate >> 45 & 3) < cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(gate >> 47 & 1))
		return cpu_raise_err(cpu, EXC_NP, error);
	if (type == SEG_SYS_TASK)
		return deliver_task(cpu, ev, gate, ext);

	ret = gate_code(cpu, (u16)(gate >> 16), ext, &cs, &cpl);
	if (ret)
		return ret;
	rip = (u16)gate | (type & 8 ? (gate >> 48) << 16 : 0);
	inner = cpl < cpu->cpl;
	if (inner) {
		ret = seg_tss_stack(cpu, cpl, ext, &ss_sel, &esp);
		if (!ret)
			ret = seg_stack_check(cpu, ss_sel, cpl, EXC_TS, ext, &ss);
		if (ret)
			return ret;
		seg_frame_init(&f, &ss, esp, false, type & 8 ? 4 : 2, MMU_SYSTEM);
		f.error = (ss_sel & 0xfffc) | ext;
		if (v86)
			push_v86_segments(cpu, &f);
		seg_frame_push(&f, cpu->seg[SEG_SS].sel);
		seg_frame_push(&f, cpu->gpr[RSP]);
	} else {
		seg_frame_init(&f, &cpu->seg[SEG_SS], cpu->gpr[RSP], false, type & 8 ? 4 : 2,
			       MMU_AS_VIEW);
		f.error = ext;
	}
	seg_frame_push(&f, event_flags(cpu, ev));
	seg_frame_push(&f, cpu->seg[SEG_CS].sel);
	seg_frame_push(&f, event_return_rip(cpu, ev));
	if (ev->has_error)
		seg_frame_push(&f, ev->error);
	ret = seg_target_check(cpu, &cs, rip, ext);
	if (!ret)
		ret = seg_frame_write(cpu, &f);
	if (ret)
		return ret;

	if (inner)
		cpu->seg[SEG_SS] = ss;
	cpu->gpr[RSP] = seg_frame_sp(&f);
	if (v86) {
		cpu->seg[SEG_ES] = seg_from_null(0, 0);
		cpu->seg[SEG_DS] = seg_from_null(0, 0);
		cpu->seg[SEG_FS] = seg_from_null(0, 0);
		cpu->seg[SEG_GS] = seg_from_null(0, 0);
	}
	deliver_commit(cpu, &cs, rip, cpl, !(type & 1));
	return CPU_OK;
}

/* --- delivery ---------------------------------------------------------------------------------- */

/* What an event does to CR2, DR6 and friends, whether or not its delivery succeeds. */
static void event_payload(struct cpu *cpu, const struct cpu_exc *ev)
{
	if (ev->kind != EVENT_HW_EXC && ev->kind != EVENT_PRIV_SW_EXC)
		return;
	if (ev->vector == EXC_PF) {
		cpu->cr2 = ev->payload;
	} else if (ev->vector == EXC_DB) {
		/* Bits 16 and 11 are active low: RTM, bus lock. */
		if (ev->payload)
			cpu->dr6 = ((cpu->dr6 & ~0xfull) | DR6_FIXED | ev->payload) ^
				   (ev->payload & DR6_FIXED);
		if (cpu->dr7 & DR7_GD) {
			cpu->dr7 &= ~DR7_GD;
			cpu_mode_update(cpu);
		}
		cpu->debugctl &= ~DEBUGCTL_LBR_BTF;
	}
}

static int event_deliver(struct cpu *cpu, const struct cpu_exc *ev)
{
	u32 ext = !event_is_soft(ev);

	if (LIKELY(cpu_is_long(cpu)))
		return deliver_long(cpu, ev, ext);
	if (cpu->cr0 & CR0_PE)
		return deliver_prot(cpu, ev, ext);
	return deliver_real(cpu, ev);
}

/* Classes of the double-fault table. */
enum event_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE };

static enum event_class event_class(const struct cpu_exc *ev)
{
	if (ev->kind != EVENT_HW_EXC)
		return CLASS_BENIGN;
	switch (ev->vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
	case EXC_CP:
		return CLASS_CONTRIBUTORY;
	case EXC_PF:
	case EXC_VE:
		return CLASS_PAGE_FAULT;
	case EXC_DF:
		return CLASS_DOUBLE;
	default:
		return CLASS_BENIGN;
	}
}

/* cpu->exc was raised while `first` was being delivered. False: triple fault. */
static bool event_combine(struct cpu *cpu, const struct cpu_exc *first)
{
	enum event_class a = event_class(first), b = event_class(&cpu->exc);

	if (a == CLASS_DOUBLE)
		return false;
	if (b != CLASS_BENIGN &&
	    (a == CLASS_PAGE_FAULT || (a == CLASS_CONTRIBUTORY && b == CLASS_CONTRIBUTORY))) {
		event_payload(cpu, &cpu->exc);
		cpu_raise_err(cpu, EXC_DF, 0);
	}
	return true;
}

/*
 * A nested guest's delivery of `first` has met what is in cpu->exc now: an exit, an exception that its
 * hypervisor wants, or one to go on with, which is a delivery of its own.
 */
static int deliver_nested(struct cpu *cpu, const struct cpu_exc *first)
{
	if (cpu->exc.kind == EVENT_VMEXIT || cpu->nested_ops->event(cpu, &cpu->exc))
		return cpu->nested_ops->leave(cpu, first);
	if (!event_combine(cpu, first)) {
		cpu->nested_ops->triple_fault(cpu);
		return cpu->nested_ops->leave(cpu, NULL);
	}
	if (cpu->exc.vector == EXC_DF && cpu->nested_ops->event(cpu, &cpu->exc))
		return cpu->nested_ops->leave(cpu, NULL);
	cpu->exc.injected = true; /* it was looked at */
	return cpu_exc_deliver(cpu);
}

int cpu_exc_deliver(struct cpu *cpu)
{
	struct cpu_exc ev = cpu->exc;
	bool nmi = ev.kind == EVENT_NMI;
	int ret;

	if (UNLIKELY(cpu->guest_mode)) {
		if (ev.kind != EVENT_VMEXIT && !ev.injected)
			cpu->nested_ops->event(cpu, &ev);
		if (cpu->exc.kind == EVENT_VMEXIT)
			return cpu->nested_ops->leave(cpu, NULL);
	}
	if (ev.kind == EVENT_HW_EXC || ev.kind == EVENT_SW_EXC)
		TRACE(cpu->trace, kvm_inj_exception, cpu->index, ev.vector,
		      ev.has_error ? ev.error : 0);

	for (;;) {
		cpu->exc.pending = false;
		event_payload(cpu, &ev);
		ret = event_deliver(cpu, &ev);
		if (LIKELY(ret == CPU_OK))
			break;
		if (ret == CPU_EXIT) {
			ev.pending = true;
			cpu->exc = ev;
			return CPU_EXIT;
		}
		if (UNLIKELY(cpu->guest_mode))
			return deliver_nested(cpu, &ev);
		if (!event_combine(cpu, &ev)) {
			cpu->exc.pending = false;
			return cpu_exit_set(cpu, CPU_EXIT_SHUTDOWN);
		}
		ev = cpu->exc;
	}
	cpu->shadow = 0;
	if (nmi)
		cpu->nmi_masked = true;
	return CPU_OK;
}

int cpu_intr_deliver(struct cpu *cpu, unsigned vector, enum cpu_event_kind kind)
{
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = (u8)kind,
		.vector = (u8)vector,
	};
	return cpu_exc_deliver(cpu);
}
