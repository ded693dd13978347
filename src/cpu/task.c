/*
 * task.c - hardware task switch
 *
 * Everything that can fail in the old task is checked first: descriptor, limit, and that both
 * task-state segments can be read and written. Then the switch happens. What fails after that -
 * the new LDT and segments, the error code's push - is the new task's fault, with its selectors
 * already loaded; exceptions there carry the EXT bit of the event that caused the switch.
 *
 *                busy (old)  busy (new)  NT (saved)  NT (new)  back link (new)
 *   JMP          clear       set         -           -         -
 *   CALL, gate   -           set         -           set       old TR
 *   IRET         clear       -           clear       -         -
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

#define DR6_BT	  0x8000ull
#define DR7_LOCAL 0x155ull /* L0..L3 and LE end with the task */

/* Offsets in the 32-bit and the 16-bit task-state segment. */
struct tss_layout {
	u8 size; /* of a register */
	u8 ip;	 /* IP, FLAGS, eight registers, then the segments */
	u8 seg;	 /* first segment register (ES, CS, SS, DS, FS, GS) */
	u8 segs; /* how many */
	u8 ldt;
	u8 total; /* bytes the processor needs */
};

static const struct tss_layout layout32 = {4, 0x20, 0x48, 6, 0x60, 104};
static const struct tss_layout layout16 = {2, 0x0e, 0x22, 4, 0x2a, 44};

static const struct tss_layout *tss_layout(u32 attr)
{
	return seg_type(attr) & 8 ? &layout32 : &layout16;
}

int cpu_task_gate(struct cpu *cpu, u64 gate, u32 ext, u16 *sel, struct seg_desc *tss)
{
	u32 error;
	int ret;

	*sel = (u16)(gate >> 16);
	error = (*sel & 0xfffc) | ext;
	if ((*sel & 4) || seg_is_null(*sel))
		return cpu_raise_err(cpu, EXC_GP, error);
	ret = seg_desc_fetch(cpu, *sel, EXC_GP, ext, tss);
	if (ret)
		return ret;
	if ((tss->attr & SEG_ATTR_S) ||
	    (seg_type(tss->attr) != SEG_SYS_TSS16 && seg_type(tss->attr) != SEG_SYS_TSS32))
		return cpu_raise_err(cpu, EXC_GP, error);
	if (!(tss->attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	return CPU_OK;
}

/* The outgoing task's registers, into the block that begins at layout->ip. */
static unsigned state_save(struct cpu *cpu, const struct tss_layout *l, u64 rip, u64 flags, u8 *buf)
{
	unsigned n = l->size;
	u8 *p = buf;

	mem_store(p, rip, n);
	mem_store(p + n, flags, n);
	p += 2 * n;
	for (unsigned i = 0; i < 8; i++, p += n)
		mem_store(p, cpu->gpr[i], n);
	for (unsigned i = 0; i < l->segs; i++, p += n)
		mem_store(p, cpu->seg[i].sel, n);
	return (unsigned)(p - buf);
}

/* --- the new task's segments: failures are #TS in the new task --------------------------------- */

static int load_ldt(struct cpu *cpu, u16 sel, u32 ext)
{
	u32 error = (sel & 0xfffc) | ext;
	struct seg_desc d;
	int ret;

	cpu->seg[SEG_LDTR] = seg_from_null(sel, 0);
	if (seg_is_null(sel))
		return CPU_OK;
	if (sel & 4)
		return cpu_raise_err(cpu, EXC_TS, error);
	ret = seg_desc_fetch(cpu, sel, EXC_TS, ext, &d);
	if (ret)
		return ret;
	if ((d.attr & SEG_ATTR_S) || seg_type(d.attr) != SEG_SYS_LDT || !(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_TS, error);
	cpu->seg[SEG_LDTR] = seg_from_desc(sel, &d);
	return CPU_OK;
}

static int load_cs(struct cpu *cpu, u16 sel, u32 ext)
{
	u32 error = (sel & 0xfffc) | ext;
	struct seg_desc d;
	int ret;

	if (seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_TS, error);
	ret = seg_desc_fetch(cpu, sel, EXC_TS, ext, &d);
	if (ret)
		return ret;
	if (!seg_is_code(d.attr) || (seg_is_conforming(d.attr) ? seg_dpl(d.attr) > (sel & 3)
							       : seg_dpl(d.attr) != (sel & 3)))
		return cpu_raise_err(cpu, EXC_TS, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	cpu->seg[SEG_CS] = seg_from_desc(sel, &d);
	return CPU_OK;
}

static int load_data(struct cpu *cpu, unsigned seg, u16 sel, u32 ext)
{
	u32 error = (sel & 0xfffc) | ext;
	struct seg_desc d;
	int ret;

	if (seg_is_null(sel))
		return CPU_OK;
	ret = seg_desc_fetch(cpu, sel, EXC_TS, ext, &d);
	if (ret)
		return ret;
	if (!(d.attr & SEG_ATTR_S) ||
	    (d.attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE)) == SEG_TYPE_CODE ||
	    ((d.attr & (SEG_TYPE_CODE | SEG_TYPE_DOWN)) != (SEG_TYPE_CODE | SEG_TYPE_DOWN) &&
	     MAX((unsigned)(sel & 3), (unsigned)cpu->cpl) > seg_dpl(d.attr)))
		return cpu_raise_err(cpu, EXC_TS, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, error);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	cpu->seg[seg] = seg_from_desc(sel, &d);
	return CPU_OK;
}

static int load_segments(struct cpu *cpu, const u16 *sel, u16 ldt, u32 ext)
{
	static const u8 data[4] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
	int ret;

	if (cpu->rflags & FLAG_VM) {
		cpu->cpl = 3;
		for (unsigned i = SEG_ES; i <= SEG_GS; i++)
			cpu->seg[i] = seg_from_real(cpu, i, sel[i]);
		return load_ldt(cpu, ldt, ext);
	}
	cpu->cpl = sel[SEG_CS] & 3;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		cpu->seg[i] = seg_from_null(sel[i], 0);
	ret = load_ldt(cpu, ldt, ext);
	if (!ret)
		ret = load_cs(cpu, sel[SEG_CS], ext);
	if (ret)
		return ret;
	if (seg_is_null(sel[SEG_SS]))
		return cpu_raise_err(cpu, EXC_TS, (sel[SEG_SS] & 0xfffc) | ext);
	ret = seg_stack_check(cpu, sel[SEG_SS], cpu->cpl, EXC_TS, ext, &cpu->seg[SEG_SS]);
	for (unsigned i = 0; i < 4 && !ret; i++)
		ret = load_data(cpu, data[i], sel[data[i]], ext);
	return ret;
}

static int push_error(struct cpu *cpu, unsigned size, u32 error, u32 ext)
{
	struct seg_frame f;
	int ret;

	seg_frame_init(&f, &cpu->seg[SEG_SS], cpu->gpr[RSP], false, size, MMU_AS_VIEW);
	f.error = ext;
	seg_frame_push(&f, error);
	ret = seg_frame_write(cpu, &f);
	if (!ret)
		cpu->gpr[RSP] = seg_frame_sp(&f);
	return ret;
}

/* Registers from the new TSS's image; then everything that may fault in the new task. */
static int state_load(struct cpu *cpu, const struct tss_layout *l, const u8 *tss, bool nested,
		      u16 tss_sel, u32 ext)
{
	const u8 *p = tss + l->ip;
	unsigned n = l->size;
	u16 sel[6] = {0};
	u64 flags;
	int ret;

	cpu->rip = mem_load(p, n);
	flags = mem_load(p + n, n) | (nested ? FLAG_NT : 0);
	if (n == 2)
		flags &= 0xffff;
	p += 2 * n;
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = mem_load(p + i * n, n);
	for (unsigned i = 0; i < l->segs; i++)
		sel[i] = (u16)mem_load(tss + l->seg + i * n, 2);
	cpu_rflags_set(cpu, flags);
	cpu->cr0 |= CR0_TS;
	cpu->dr7 &= ~DR7_LOCAL;
	if (l == &layout32 && (cpu->cr0 & CR0_PG)) {
		u64 cr3 = (u32)mem_load(tss + 0x1c, 4);

		if ((cpu->cr4 & CR4_PAE) && mmu_load_pdptrs(cpu, cr3)) {
			cpu_mode_update(cpu);
			return cpu_raise_err(cpu, EXC_TS, (tss_sel & 0xfffc) | ext);
		}
		mmu_set_cr3(cpu, cr3);
	}
	ret = load_segments(cpu, sel, (u16)mem_load(tss + l->ldt, 2), ext);
	cpu_mode_update(cpu);
	if (!ret && cpu->rip > cpu->seg[SEG_CS].limit)
		ret = cpu_raise_err(cpu, EXC_GP, ext);
	return ret;
}

int cpu_task_switch(struct cpu *cpu, u16 sel, struct seg_desc *tss, const struct seg_task *t)
{
	const struct tss_layout *old = tss_layout(cpu->seg[SEG_TR].attr);
	const struct tss_layout *new = tss_layout(tss->attr);
	bool nested = t->source == TASK_CALL || t->source == TASK_GATE;
	struct cpu_seg tr = seg_from_desc(sel, tss);
	u64 old_base = cpu->seg[SEG_TR].base;
	u32 ext = t->ext;
	u16 old_sel = cpu->seg[SEG_TR].sel;
	u8 image[104], saved[64];
	struct seg_desc od;
	unsigned n;
	int ret;

	if (!(tss->attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, (sel & 0xfffc) | ext);
	if (tr.limit < new->total - 1u)
		return cpu_raise_err(cpu, EXC_TS, (sel & 0xfffc) | ext);
	if ((cpu->seg[SEG_TR].attr & SEG_ATTR_UNUSABLE) || cpu->seg[SEG_TR].limit < old->total - 1u)
		return cpu_raise_err(cpu, EXC_TS, (old_sel & 0xfffc) | ext);
	if (UNLIKELY(cpu->guest_mode)) {
		static const u8 source[] = {
			[TASK_CALL] = 0, [TASK_IRET] = 1, [TASK_JMP] = 2, [TASK_GATE] = 3};

		return cpu->nested_ops->task_switch(
			cpu, sel, source[t->source],
			t->source == TASK_GATE ? 0 : (unsigned)(t->next_rip - cpu->rip) & 15);
	}
	n = state_save(cpu, old, t->next_rip, t->flags, saved);
	ret = mmu_read(cpu, tr.base, image, new->total, MMU_READ | MMU_SYSTEM);
	if (!ret && nested)
		ret = mmu_probe(cpu, tr.base, 2, MMU_WRITE | MMU_SYSTEM);
	if (!ret)
		ret = mmu_probe(cpu, old_base + old->ip, n, MMU_WRITE | MMU_SYSTEM);
	if (!ret && !nested)
		ret = seg_desc_fetch(cpu, old_sel, EXC_TS, ext, &od);
	if (!ret && !nested)
		ret = seg_desc_unmark(cpu, &od, SEG_TYPE_WRITE);
	if (!ret && t->source != TASK_IRET)
		ret = seg_desc_mark(cpu, tss, SEG_TYPE_WRITE);
	if (!ret)
		ret = mmu_write(cpu, old_base + old->ip, saved, n, MMU_WRITE | MMU_SYSTEM);
	if (!ret && nested)
		ret = mmu_write(cpu, tr.base, &old_sel, 2, MMU_WRITE | MMU_SYSTEM);
	if (ret)
		return ret;

	/* The point of no return: from here on the new task is current. */
	tr.attr |= SEG_TYPE_WRITE;
	cpu->seg[SEG_TR] = tr;
	cpu->shadow = 0;
	ret = state_load(cpu, new, image, nested, sel, ext);
	if (!ret && t->has_error)
		ret = push_error(cpu, new->size, t->error, ext);
	if (!ret && new == &layout32 && (image[100] & 1))
		ret = cpu_raise_db(cpu, DR6_BT);
	return ret;
}
