/*
 * smm.c - entering and leaving system-management mode
 *
 * The processor's state is stored at SMBASE + 0xfe00. Processors with long mode use AMD's 64-bit
 * map, whatever the vendor, older ones the 32-bit map: firmware finds out which from the revision.
 * Both are written down as tables of (offset, size, field), so that saving and restoring cannot
 * differ. RSM checks what it loads: an impossible state shuts the processor down.
 */
#include "base/mem.h"
#include "cpu/control.h"
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"

#define SMRAM_AT      0xfe00u
#define SMRAM_BYTES   512u
#define SMM_ENTRY     0x8000u
#define REVISION_32   0x00020000u
#define REVISION_64   0x00020064u
#define SMM_RELOCATES BIT(17)
#define DR6_ONES      0xffff0ff0ull
#define DR7_ONES      0x400ull
#define EFER_SMM      (EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_SVME | EFER_FFXSR | BIT64(21))

/* Offsets below 0xfe00 + … as the manuals give them, 0xfe00 subtracted when used. */
#define AT(offset) ((offset)-SMRAM_AT)

struct map {
	u8 bytes[SMRAM_BYTES];
};

static void put(struct map *m, u32 offset, u64 v, unsigned size)
{
	mem_store(m->bytes + AT(offset), v, size);
}

static u64 get(const struct map *m, u32 offset, unsigned size)
{
	return mem_load(m->bytes + AT(offset), size);
}

/* Where segments lie: in the order of enum cpu_sreg. */
static const struct {
	u16 at64; /* selector, attributes, limit, base */
	u16 at32; /* flags, limit, base */
	u16 sel32;
} seg_at[SEG_COUNT] = {
	[SEG_ES] = {0xfe00, 0xff84, 0xffa8},   [SEG_CS] = {0xfe10, 0xff90, 0xffac},
	[SEG_SS] = {0xfe20, 0xff9c, 0xffb0},   [SEG_DS] = {0xfe30, 0xff2c, 0xffb4},
	[SEG_FS] = {0xfe40, 0xff38, 0xffb8},   [SEG_GS] = {0xfe50, 0xff44, 0xffbc},
	[SEG_LDTR] = {0xfe70, 0xff78, 0xffc0}, [SEG_TR] = {0xfe90, 0xff5c, 0xffc4},
};

#define SEG_ATTR_SAVED 0xf0ffu

static u32 attr_saved(const struct cpu_seg *s)
{
	return s->attr & SEG_ATTR_UNUSABLE ? s->attr & SEG_ATTR_SAVED & ~SEG_ATTR_P
					   : s->attr & SEG_ATTR_SAVED;
}

static u32 attr_loaded(u32 attr)
{
	attr &= SEG_ATTR_SAVED;
	return attr & SEG_ATTR_P ? attr : attr | SEG_ATTR_UNUSABLE;
}

/* --- saving ---------------------------------------------------------------------------------------- */

static void save64(const struct cpu *cpu, struct map *m)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		const struct cpu_seg *s = &cpu->seg[i];

		put(m, seg_at[i].at64, s->sel, 2);
		put(m, seg_at[i].at64 + 2, attr_saved(s), 2);
		put(m, seg_at[i].at64 + 4, s->limit, 4);
		put(m, seg_at[i].at64 + 8, s->base, 8);
	}
	put(m, 0xfe64, cpu->gdtr.limit, 4);
	put(m, 0xfe68, cpu->gdtr.base, 8);
	put(m, 0xfe84, cpu->idtr.limit, 4);
	put(m, 0xfe88, cpu->idtr.base, 8);
	put(m, 0xfecb, cpu->shadow, 1);
	put(m, 0xfed0, cpu->efer, 8);
	put(m, 0xfefc, REVISION_64, 4);
	put(m, 0xff00, cpu->smbase, 4);
	put(m, 0xff48, cpu->cr4, 8);
	put(m, 0xff50, cpu->cr3, 8);
	put(m, 0xff58, cpu->cr0, 8);
	put(m, 0xff60, cpu->dr7, 8);
	put(m, 0xff68, cpu->dr6, 8);
	put(m, 0xff70, cpu_rflags(cpu), 8);
	put(m, 0xff78, cpu->rip, 8);
	for (unsigned i = 0; i < 16; i++)
		put(m, 0xfff8 - 8 * i, cpu->gpr[i], 8);
}

static void save32(const struct cpu *cpu, struct map *m)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		const struct cpu_seg *s = &cpu->seg[i];

		put(m, seg_at[i].at32, attr_saved(s) << 8, 4);
		put(m, seg_at[i].at32 + 4, s->limit, 4);
		put(m, seg_at[i].at32 + 8, s->base, 4);
		put(m, seg_at[i].sel32, s->sel, 4);
	}
	put(m, 0xfef8, cpu->smbase, 4);
	put(m, 0xfefc, REVISION_32, 4);
	put(m, 0xff14, cpu->cr4, 4);
	put(m, 0xff1a, cpu->shadow, 1);
	put(m, 0xff54, cpu->idtr.limit, 4);
	put(m, 0xff58, cpu->idtr.base, 4);
	put(m, 0xff70, cpu->gdtr.limit, 4);
	put(m, 0xff74, cpu->gdtr.base, 4);
	put(m, 0xffc8, cpu->dr7, 4);
	put(m, 0xffcc, cpu->dr6, 4);
	for (unsigned i = 0; i < 8; i++)
		put(m, 0xffd0 + 4 * i, cpu->gpr[i], 4);
	put(m, 0xfff0, cpu->rip, 4);
	put(m, 0xfff4, cpu_rflags(cpu), 4);
	put(m, 0xfff8, cpu->cr3, 4);
	put(m, 0xfffc, cpu->cr0, 4);
}

/* --- entering ---------------------------------------------------------------------------------------- */

static void smm_switch(struct cpu *cpu, bool in)
{
	cpu->smm = in;
	if (cpu->ops && cpu->ops->smm_changed)
		cpu->ops->smm_changed(cpu, in);
	mmu_flush_all(cpu);
}

static int smm_shutdown(struct cpu *cpu)
{
	cpu->exit.reason = CPU_EXIT_SHUTDOWN;
	return CPU_EXIT;
}

int cpu_smm_enter(struct cpu *cpu)
{
	const struct cpu_seg flat = {
		.limit = 0xffffffff,
		.attr = SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | 0x3,
	};
	struct map m;

	mem_set(&m, 0, sizeof(m));
	if (cpu_has(cpu, X86_FEATURE_LM))
		save64(cpu, &m);
	else
		save32(cpu, &m);
	cpu->smi_count++;
	if (UNLIKELY(cpu->vmx_on))
		cpu->nested_ops->smm(cpu, true);
	cpu->smm_nmi_masked = cpu->nmi_masked;
	smm_switch(cpu, true);
	if (mmu_phys_write(cpu, cpu->smbase + SMRAM_AT, &m, sizeof(m)))
		return smm_shutdown(cpu);
	cpu->nmi_masked = true;
	cpu->shadow = 0;
	cpu_rflags_set(cpu, 2);
	cpu->rip = SMM_ENTRY;
	cpu->cpl = 0;
	cpu->cr0 &= ~(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
	cpu->cr4 = 0;
	cpu->efer = 0;
	cpu->idtr = (struct cpu_dtable){0};
	cpu->dr7 = DR7_ONES;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		cpu->seg[i] = flat;
	cpu->seg[SEG_CS].sel = (u16)(cpu->smbase >> 4);
	cpu->seg[SEG_CS].base = (u32)cpu->smbase;
	mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	return CPU_OK;
}

/* --- leaving ------------------------------------------------------------------------------------------- */

/* What RSM loads, gathered before anything is committed. */
struct resume {
	u64 cr0, cr3, cr4, efer, rflags;
};

static void load64(struct cpu *cpu, const struct map *m, struct resume *r)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		cpu->seg[i].sel = (u16)get(m, seg_at[i].at64, 2);
		cpu->seg[i].attr = attr_loaded((u32)get(m, seg_at[i].at64 + 2, 2));
		cpu->seg[i].limit = (u32)get(m, seg_at[i].at64 + 4, 4);
		cpu->seg[i].base = get(m, seg_at[i].at64 + 8, 8);
	}
	cpu->gdtr.limit = (u16)get(m, 0xfe64, 4);
	cpu->gdtr.base = get(m, 0xfe68, 8);
	cpu->idtr.limit = (u16)get(m, 0xfe84, 4);
	cpu->idtr.base = get(m, 0xfe88, 8);
	cpu->shadow = (u8)get(m, 0xfecb, 1) & (CPU_SHADOW_STI | CPU_SHADOW_MOV_SS);
	if ((u32)get(m, 0xfefc, 4) & SMM_RELOCATES)
		cpu->smbase = get(m, 0xff00, 4);
	cpu->dr7 = (get(m, 0xff60, 8) & 0xffff23ff) | DR7_ONES;
	cpu->dr6 = (get(m, 0xff68, 8) & 0xe00f) | DR6_ONES;
	cpu->rip = get(m, 0xff78, 8);
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = get(m, 0xfff8 - 8 * i, 8);
	r->efer = get(m, 0xfed0, 8);
	r->cr4 = get(m, 0xff48, 8);
	r->cr3 = get(m, 0xff50, 8);
	r->cr0 = get(m, 0xff58, 8);
	r->rflags = get(m, 0xff70, 8);
}

static void load32(struct cpu *cpu, const struct map *m, struct resume *r)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		cpu->seg[i].sel = (u16)get(m, seg_at[i].sel32, 4);
		cpu->seg[i].attr = attr_loaded((u32)get(m, seg_at[i].at32, 4) >> 8);
		cpu->seg[i].limit = (u32)get(m, seg_at[i].at32 + 4, 4);
		cpu->seg[i].base = get(m, seg_at[i].at32 + 8, 4);
	}
	cpu->gdtr.limit = (u16)get(m, 0xff70, 4);
	cpu->gdtr.base = get(m, 0xff74, 4);
	cpu->idtr.limit = (u16)get(m, 0xff54, 4);
	cpu->idtr.base = get(m, 0xff58, 4);
	cpu->shadow = (u8)get(m, 0xff1a, 1) & (CPU_SHADOW_STI | CPU_SHADOW_MOV_SS);
	if ((u32)get(m, 0xfefc, 4) & SMM_RELOCATES)
		cpu->smbase = get(m, 0xfef8, 4);
	cpu->dr7 = (get(m, 0xffc8, 4) & 0xffff23ff) | DR7_ONES;
	cpu->dr6 = (get(m, 0xffcc, 4) & 0xe00f) | DR6_ONES;
	cpu->rip = get(m, 0xfff0, 4);
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = get(m, 0xffd0 + 4 * i, 4);
	r->efer = 0;
	r->cr4 = get(m, 0xff14, 4);
	r->cr3 = get(m, 0xfff8, 4);
	r->cr0 = get(m, 0xfffc, 4);
	r->rflags = get(m, 0xfff4, 4);
}

static bool resume_valid(const struct cpu *cpu, const struct resume *r)
{
	bool pg = r->cr0 & CR0_PG;

	if (!cpu_cr0_valid(r->cr0) || (r->cr4 & ~cpu_cr4_allowed(cpu)))
		return false;
	if (r->efer & ~EFER_SMM)
		return false;
	/* Long mode is active just when it is enabled and paging is on, and needs PAE. */
	if (pg && (r->efer & EFER_LME) && !(r->cr4 & CR4_PAE))
		return false;
	if ((r->cr4 & CR4_PCIDE) && !(pg && (r->efer & EFER_LME)))
		return false;
	return !(r->cr3 & cpu_cr3_reserved(cpu) & ~BIT64(63));
}

int insn_rsm(struct cpu *cpu, const struct cpu_insn *in)
{
	struct resume r;
	struct map m;

	if (!cpu->smm)
		return cpu_raise(cpu, EXC_UD);
	if (mmu_phys_read(cpu, cpu->smbase + SMRAM_AT, &m, sizeof(m)))
		return smm_shutdown(cpu);
	if (cpu_has(cpu, X86_FEATURE_LM))
		load64(cpu, &m, &r);
	else
		load32(cpu, &m, &r);
	smm_switch(cpu, false);
	cpu->nmi_masked = cpu->smm_nmi_masked;
	if (UNLIKELY(cpu->nested != NULL))
		cpu->nested_ops->smm(cpu, false);
	if (!resume_valid(cpu, &r))
		return smm_shutdown(cpu);
	cpu->cr0 = r.cr0 | CR0_ET;
	cpu->cr4 = r.cr4;
	cpu->efer = r.efer & ~EFER_LMA;
	if ((r.cr0 & CR0_PG) && (r.efer & EFER_LME))
		cpu->efer |= EFER_LMA;
	cpu_rflags_set(cpu, r.rflags);
	cpu->cpl = r.rflags & FLAG_VM ? 3
		   : !(cpu->cr0 & CR0_PE)
			   ? 0
			   : (u8)((cpu->seg[SEG_SS].attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT);
	cpu->cr3 = r.cr3 & ~BIT64(63);
	mmu_set_cr3(cpu, cpu->cr3);
	if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA) &&
	    mmu_load_pdptrs(cpu, cpu->cr3))
		return smm_shutdown(cpu);
	mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	return CPU_OK;
}
