/*
 * segload.c - instructions that load, store or examine segment registers
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

#define HFLAG_ZF 0x4000u

static void zf_set(struct cpu *cpu, bool zf)
{
	cpu->hflags = (u16)((cpu->hflags & ~HFLAG_ZF) | (zf ? HFLAG_ZF : 0));
}

/* A 16-bit r/m operand whatever the operand size. */
static int rm16_read(struct cpu *cpu, const struct cpu_insn *in, u16 *value)
{
	if (!in->mem) {
		*value = (u16)cpu->gpr[in->rm];
		return CPU_OK;
	}
	return cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), value, 2);
}

/* A selector: 16 bits to memory, operand size with zeros above to a register. */
static int selector_store(struct cpu *cpu, const struct cpu_insn *in, u16 sel)
{
	int ret;

	if (in->mem) {
		ret = cpu_write(cpu, in->seg, cpu_insn_offset(cpu, in), &sel, 2);
		if (ret)
			return ret;
	} else {
		cpu_reg_write(cpu, in->rm, sel, in->opsize, true);
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_mov_from_sreg(struct cpu *cpu, const struct cpu_insn *in)
{
	if (in->reg > SEG_GS)
		return cpu_raise(cpu, EXC_UD);
	return selector_store(cpu, in, cpu->seg[in->reg].sel);
}

/* After MOV SS and POP SS; a second one in a row does not extend the shadow. */
static void load_done(struct cpu *cpu, const struct cpu_insn *in, unsigned seg)
{
	u8 old = cpu->shadow;

	cpu_insn_done(cpu, in);
	if (seg == SEG_SS && !(old & CPU_SHADOW_MOV_SS))
		cpu->shadow = CPU_SHADOW_MOV_SS;
}

int insn_mov_to_sreg(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 sel;
	int ret;

	if (in->reg > SEG_GS || in->reg == SEG_CS)
		return cpu_raise(cpu, EXC_UD);
	ret = rm16_read(cpu, in, &sel);
	if (!ret)
		ret = seg_load(cpu, in->reg, sel);
	if (ret)
		return ret;
	load_done(cpu, in, in->reg);
	return CPU_OK;
}

int insn_push_sreg(struct cpu *cpu, const struct cpu_insn *in)
{
	int ret = cpu_push(cpu, cpu->seg[in->reg].sel, in->opsize);

	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_pop_sreg(struct cpu *cpu, const struct cpu_insn *in)
{
	struct cpu_seg s;
	u64 sel;
	int ret = seg_stack_peek(cpu, 0, in->opsize, 1, &sel);

	if (!ret)
		ret = seg_load_check(cpu, in->reg, (u16)sel, &s);
	if (ret)
		return ret;
	seg_sp_set(cpu, cpu->gpr[RSP] + in->opsize);
	cpu->seg[in->reg] = s;
	load_done(cpu, in, in->reg);
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_load_far_ptr(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 buf[10];
	int ret;

	if (!in->mem)
		return cpu_raise(cpu, EXC_UD);
	ret = cpu_read_far(cpu, in, buf, in->opsize);
	if (!ret)
		ret = seg_load(cpu, in->imm2, (u16)mem_load(buf + in->opsize, 2));
	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	cpu_reg_write(cpu, in->reg, mem_load(buf, in->opsize), in->opsize, true);
	return CPU_OK;
}

/* --- looking at descriptors -------------------------------------------------------------------- */

/*
 * The descriptor for LAR, LSL, VERR, VERW: *ok is false when the selector is null, out of range or
 * not visible at this privilege. Only memory faults are errors.
 */
static int descriptor_look(struct cpu *cpu, const struct cpu_insn *in, struct seg_desc *d, bool *ok)
{
	unsigned level;
	u16 sel;
	int ret;

	*ok = false;
	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	ret = rm16_read(cpu, in, &sel);
	if (ret)
		return ret;
	if (seg_is_null(sel) || !seg_desc_locate(cpu, sel, 8, &d->address))
		return CPU_OK;
	ret = mmu_read(cpu, d->address, &d->lo, 8, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	d->hi = 0;
	d->attr = seg_desc_attr(d->lo);
	level = MAX((unsigned)(sel & 3), (unsigned)cpu->cpl);
	*ok = level <= seg_dpl(d->attr) || (seg_is_code(d->attr) && seg_is_conforming(d->attr));
	return CPU_OK;
}

/* System types that LAR and LSL accept, as bitmaps; long mode has fewer. */
#define LAR_TYPES      0x1a3eu /* 1 2 3 4 5 9 11 12 */
#define LAR_TYPES_LONG 0x1a04u /* 2 9 11 12 */
#define LSL_TYPES      0x0a0eu /* 1 2 3 9 11 */
#define LSL_TYPES_LONG 0x0a04u /* 2 9 11 */

static bool system_type_ok(struct cpu *cpu, u32 attr, u32 types, u32 types_long)
{
	if (attr & SEG_ATTR_S)
		return true;
	return (cpu_is_long(cpu) ? types_long : types) >> seg_type(attr) & 1;
}

/* What LAR, LSL, VERR and VERW make of a descriptor that may be looked at; ZF. */
typedef bool look_fn(struct cpu *cpu, const struct cpu_insn *in, const struct seg_desc *d);

static int look(struct cpu *cpu, const struct cpu_insn *in, look_fn *fn)
{
	struct seg_desc d;
	bool ok;
	int ret = descriptor_look(cpu, in, &d, &ok);

	if (ret)
		return ret;
	zf_set(cpu, ok && fn(cpu, in, &d));
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

static bool look_lar(struct cpu *cpu, const struct cpu_insn *in, const struct seg_desc *d)
{
	/* the limit's upper bits are left undefined by the manuals, and shown by AMD's processors */
	u32 shown = cpu->vendor == CPU_VENDOR_AMD ? 0x00ffff00 : 0x00f0ff00;

	if (!system_type_ok(cpu, d->attr, LAR_TYPES, LAR_TYPES_LONG))
		return false;
	cpu_reg_write(cpu, in->reg, d->lo >> 32 & shown, in->opsize, true);
	return true;
}

static bool look_lsl(struct cpu *cpu, const struct cpu_insn *in, const struct seg_desc *d)
{
	if (!system_type_ok(cpu, d->attr, LSL_TYPES, LSL_TYPES_LONG))
		return false;
	cpu_reg_write(cpu, in->reg, seg_desc_limit(d->lo), in->opsize, true);
	return true;
}

static bool look_verr(struct cpu *cpu, const struct cpu_insn *in, const struct seg_desc *d)
{
	return (d->attr & SEG_ATTR_S) &&
	       (d->attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE)) != SEG_TYPE_CODE;
}

static bool look_verw(struct cpu *cpu, const struct cpu_insn *in, const struct seg_desc *d)
{
	return seg_is_writable_data(d->attr);
}

int insn_lar(struct cpu *cpu, const struct cpu_insn *in)
{
	return look(cpu, in, look_lar);
}

int insn_lsl(struct cpu *cpu, const struct cpu_insn *in)
{
	return look(cpu, in, look_lsl);
}

int insn_verr(struct cpu *cpu, const struct cpu_insn *in)
{
	return look(cpu, in, look_verr);
}

int insn_verw(struct cpu *cpu, const struct cpu_insn *in)
{
	return look(cpu, in, look_verw);
}

int insn_arpl(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 dst, rpl = cpu->gpr[in->reg] & 3;
	int ret;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	ret = rm16_read(cpu, in, &dst);
	if (ret)
		return ret;
	if ((dst & 3) < rpl) {
		dst = (u16)((dst & ~3) | rpl);
		if (in->mem)
			ret = cpu_write(cpu, in->seg, cpu_insn_offset(cpu, in), &dst, 2);
		else
			cpu_reg_write(cpu, in->rm, dst, 2, true);
		if (ret)
			return ret;
		zf_set(cpu, true);
	} else {
		zf_set(cpu, false);
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* --- LDTR and TR ------------------------------------------------------------------------------- */

static int system_store(struct cpu *cpu, const struct cpu_insn *in, unsigned seg)
{
	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl && (cpu->cr4 & CR4_UMIP))
		return cpu_raise_err(cpu, EXC_GP, 0);
	return selector_store(cpu, in, cpu->seg[seg].sel);
}

int insn_sldt(struct cpu *cpu, const struct cpu_insn *in)
{
	return system_store(cpu, in, SEG_LDTR);
}

int insn_str(struct cpu *cpu, const struct cpu_insn *in)
{
	return system_store(cpu, in, SEG_TR);
}

/* A system descriptor of the GDT with one of `types`, present, its base canonical. */
static int system_fetch(struct cpu *cpu, u16 sel, u32 types, struct seg_desc *d)
{
	int ret;

	if (sel & 4)
		return cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	ret = seg_desc_fetch(cpu, sel, EXC_GP, 0, d);
	if (!ret && cpu_is_long(cpu))
		ret = seg_desc_fetch_high(cpu, sel, EXC_GP, 0, d);
	if (ret)
		return ret;
	if ((d->attr & SEG_ATTR_S) || !(types >> seg_type(d->attr) & 1))
		return cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	if (!(d->attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, sel & 0xfffc);
	/* Bits 12..8 of the last doubleword must be zero: not two descriptors read as one. */
	if (cpu_is_long(cpu) && ((d->hi >> 40 & 0x1f) || !cpu_is_canonical(cpu, seg_desc_base(d))))
		return cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	return CPU_OK;
}

int insn_lldt(struct cpu *cpu, const struct cpu_insn *in)
{
	struct seg_desc d;
	u16 sel;
	int ret;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = rm16_read(cpu, in, &sel);
	if (ret)
		return ret;
	if (seg_is_null(sel)) {
		cpu->seg[SEG_LDTR] = seg_from_null(sel, 0);
	} else {
		ret = system_fetch(cpu, sel, BIT(SEG_SYS_LDT), &d);
		if (ret)
			return ret;
		cpu->seg[SEG_LDTR] = seg_from_desc(sel, &d);
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_ltr(struct cpu *cpu, const struct cpu_insn *in)
{
	struct seg_desc d;
	u32 types = BIT(SEG_SYS_TSS32);
	u16 sel;
	int ret;

	if (!cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = rm16_read(cpu, in, &sel);
	if (ret)
		return ret;
	if (seg_is_null(sel))
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (!cpu_is_long(cpu))
		types |= BIT(SEG_SYS_TSS16);
	ret = system_fetch(cpu, sel, types, &d);
	if (!ret)
		ret = seg_desc_mark(cpu, &d, SEG_TYPE_WRITE);
	if (ret)
		return ret;
	cpu->seg[SEG_TR] = seg_from_desc(sel, &d);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
