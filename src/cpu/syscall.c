/*
 * syscall.c - SYSCALL, SYSRET, SYSENTER, SYSEXIT
 *
 * The two vendors invented one pair each and later copied the other's with differences:
 *   SYSCALL   Intel: 64-bit mode only. AMD: also compatibility (CSTAR) and legacy mode (STAR).
 *   SYSRET    a non-canonical RCX is #GP at CPL 0 on Intel, a fetch fault at CPL 3 on AMD;
 *             AMD leaves SS's base, limit and attributes as they were.
 *   SYSENTER  AMD: #UD in long mode.
 * Segment registers are loaded with fixed contents; no descriptor is read.
 */
#include "cpu/seg.h"

#define ATTR_CODE64 0xa09bu /* type 11, S, P, L, G; DPL 0 */
#define ATTR_CODE32 0xc09bu
#define ATTR_DATA   0xc093u
#define ATTR_DPL3   0x60u

static void set_flat(struct cpu_seg *s, u16 sel, u32 attr)
{
	s->sel = sel;
	s->base = 0;
	s->limit = 0xffffffff;
	s->attr = attr;
}

/* Bits of R11 that SYSRET restores: all but RF and VM. */
#define SYSRET_FLAGS 0x3c7fd7ull

int insn_syscall(struct cpu *cpu, const struct cpu_insn *in)
{
	bool mode64 = cpu->mode & MODE_LONG, lma = cpu_is_long(cpu);
	u16 sel = (u16)(cpu->star >> 32) & 0xfffc;
	u64 flags;

	if (!(cpu->efer & EFER_SCE) || (!mode64 && cpu->vendor == CPU_VENDOR_INTEL) ||
	    !cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	flags = cpu_rflags(cpu) & ~FLAG_RF;
	cpu->gpr[RCX] = seg_next_rip(cpu, in->len);
	if (lma) {
		cpu->gpr[R11] = flags;
		cpu->rip = mode64 ? cpu->lstar : cpu->cstar;
		cpu_rflags_set(cpu, flags & ~cpu->sfmask);
	} else {
		cpu->rip = (u32)cpu->star;
		cpu_rflags_set(cpu, flags & ~(FLAG_IF | FLAG_VM));
	}
	set_flat(&cpu->seg[SEG_CS], sel, lma ? ATTR_CODE64 : ATTR_CODE32);
	set_flat(&cpu->seg[SEG_SS], sel + 8, ATTR_DATA);
	cpu->cpl = 0;
	cpu->shadow = 0;
	cpu->trap_by_new_tf = 1;
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_sysret(struct cpu *cpu, const struct cpu_insn *in)
{
	bool amd = cpu->vendor == CPU_VENDOR_AMD, lma = cpu_is_long(cpu);
	struct cpu_seg *ss = &cpu->seg[SEG_SS];
	u16 sel = (u16)(cpu->star >> 48);

	if (!(cpu->efer & EFER_SCE) || (!(cpu->mode & MODE_LONG) && !amd) || !cpu_is_protected(cpu))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (in->opsize == 8) {
		if (!amd && !cpu_is_canonical(cpu, cpu->gpr[RCX]))
			return cpu_raise_err(cpu, EXC_GP, 0);
		set_flat(&cpu->seg[SEG_CS], (sel + 16) | 3, ATTR_CODE64 | ATTR_DPL3);
		cpu->rip = cpu->gpr[RCX];
	} else {
		set_flat(&cpu->seg[SEG_CS], sel | 3, ATTR_CODE32 | ATTR_DPL3);
		cpu->rip = (u32)cpu->gpr[RCX];
	}
	if (amd) {
		ss->sel = (u16)((sel + 8) | 3);
		ss->attr |= ATTR_DPL3;
	} else {
		set_flat(ss, (sel + 8) | 3, ATTR_DATA | ATTR_DPL3);
	}
	if (lma)
		cpu_rflags_set(cpu, cpu->gpr[R11] & SYSRET_FLAGS);
	else
		cpu->intf = 1;
	cpu->cpl = 3;
	cpu->shadow = 0;
	cpu_mode_update(cpu);
	return cpu_irq_window_check(cpu);
}

int insn_sysenter(struct cpu *cpu, const struct cpu_insn *in)
{
	bool lma = cpu_is_long(cpu);
	u16 sel = (u16)cpu->sysenter_cs & 0xfffc;

	if (lma && cpu->vendor == CPU_VENDOR_AMD)
		return cpu_raise(cpu, EXC_UD);
	if (!(cpu->cr0 & CR0_PE) || !sel)
		return cpu_raise_err(cpu, EXC_GP, 0);
	cpu->rflags &= ~(FLAG_VM | FLAG_RF);
	cpu->intf = 0;
	set_flat(&cpu->seg[SEG_CS], sel, lma ? ATTR_CODE64 : ATTR_CODE32);
	set_flat(&cpu->seg[SEG_SS], sel + 8, ATTR_DATA);
	cpu->gpr[RSP] = lma ? cpu->sysenter_esp : (u32)cpu->sysenter_esp;
	cpu->rip = lma ? cpu->sysenter_eip : (u32)cpu->sysenter_eip;
	cpu->cpl = 0;
	cpu->shadow = 0;
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_sysexit(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 sel = (u16)cpu->sysenter_cs & 0xfffc;
	u64 rip = cpu->gpr[RDX], rsp = cpu->gpr[RCX];

	if (cpu_is_long(cpu) && cpu->vendor == CPU_VENDOR_AMD)
		return cpu_raise(cpu, EXC_UD);
	if (!cpu_is_protected(cpu) || cpu->cpl || !sel)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (in->opsize == 8) {
		if (!cpu_is_canonical(cpu, rip) || !cpu_is_canonical(cpu, rsp))
			return cpu_raise_err(cpu, EXC_GP, 0);
		set_flat(&cpu->seg[SEG_CS], (sel + 32) | 3, ATTR_CODE64 | ATTR_DPL3);
		set_flat(&cpu->seg[SEG_SS], (sel + 40) | 3, ATTR_DATA | ATTR_DPL3);
	} else {
		rip = (u32)rip;
		rsp = (u32)rsp;
		set_flat(&cpu->seg[SEG_CS], (sel + 16) | 3, ATTR_CODE32 | ATTR_DPL3);
		set_flat(&cpu->seg[SEG_SS], (sel + 24) | 3, ATTR_DATA | ATTR_DPL3);
	}
	cpu->rip = rip;
	cpu->gpr[RSP] = rsp;
	cpu->cpl = 3;
	cpu->rflags &= ~FLAG_RF;
	cpu->shadow = 0;
	cpu_mode_update(cpu);
	return CPU_OK;
}
