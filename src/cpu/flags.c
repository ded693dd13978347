/*
 * flags.c - instructions that read or change RFLAGS as a whole, IF, or AC
 *
 * With CR4.VME (virtual-8086) or CR4.PVI (CPL 3) an IOPL-sensitive program works on VIF instead
 * of IF; enabling VIF over a pending virtual interrupt (VIP) is #GP.
 */
#include "cpu/seg.h"

static unsigned iopl(const struct cpu *cpu)
{
	return (cpu->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT;
}

/* Which interrupt flag CLI and STI change: IF, VIF, or none (#GP). */
static u64 interrupt_flag(const struct cpu *cpu)
{
	if (cpu->mode & MODE_IOPL_OK)
		return FLAG_IF;
	if (cpu->rflags & FLAG_VM)
		return cpu->cr4 & CR4_VME ? FLAG_VIF : 0;
	return cpu->cpl == 3 && (cpu->cr4 & CR4_PVI) ? FLAG_VIF : 0;
}

int insn_cli(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 flag = interrupt_flag(cpu);

	if (!flag)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (flag == FLAG_IF)
		cpu->intf = 0;
	else
		cpu->rflags &= ~FLAG_VIF;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/*
 * The shadow covers one instruction, and only when IF was clear: the dispatcher runs that
 * instruction alone and then looks at irq_window itself.
 */
int insn_sti(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 flag = interrupt_flag(cpu);

	if (!flag || (flag == FLAG_VIF && (cpu->rflags & FLAG_VIP)))
		return cpu_raise_err(cpu, EXC_GP, 0);
	cpu_insn_done(cpu, in);
	if (flag == FLAG_VIF) {
		cpu->rflags |= FLAG_VIF;
	} else if (!cpu->intf) {
		cpu->intf = 1;
		cpu->shadow = CPU_SHADOW_STI;
	}
	return CPU_OK;
}

static int ac_change(struct cpu *cpu, const struct cpu_insn *in, u64 ac)
{
	if (cpu->cpl)
		return cpu_raise(cpu, EXC_UD);
	cpu->rflags = (cpu->rflags & ~FLAG_AC) | ac;
	cpu_insn_done(cpu, in);
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_clac(struct cpu *cpu, const struct cpu_insn *in)
{
	return ac_change(cpu, in, 0);
}

int insn_stac(struct cpu *cpu, const struct cpu_insn *in)
{
	return ac_change(cpu, in, FLAG_AC);
}

int insn_pushf(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 flags = cpu_rflags(cpu) & ~(FLAG_VM | FLAG_RF);
	int ret;

	if ((cpu->rflags & FLAG_VM) && iopl(cpu) < 3) {
		if (!(cpu->cr4 & CR4_VME) || in->opsize != 2)
			return cpu_raise_err(cpu, EXC_GP, 0);
		flags = (flags & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	}
	ret = cpu_push(cpu, flags, in->opsize);
	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* POPF in virtual-8086 mode with IOPL below 3: the image's IF goes to VIF. */
static int popf_vme(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 image, old = cpu_rflags(cpu), keep = ~0xffffull | FLAG_IF | FLAG_IOPL;
	int ret;

	if (!(cpu->cr4 & CR4_VME) || in->opsize != 2)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = seg_stack_peek(cpu, 0, 2, 1, &image);
	if (ret)
		return ret;
	if ((image & FLAG_TF) || ((image & FLAG_IF) && (old & FLAG_VIP)))
		return cpu_raise_err(cpu, EXC_GP, 0);
	seg_sp_set(cpu, cpu->gpr[RSP] + 2);
	cpu_rflags_set(cpu, (old & keep & ~FLAG_VIF) | (image & ~keep) |
				    (image & FLAG_IF ? FLAG_VIF : 0));
	cpu_insn_done(cpu, in);
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_popf(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 image, old = cpu_rflags(cpu);
	u64 mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
	int ret;

	if ((cpu->rflags & FLAG_VM) && iopl(cpu) < 3)
		return popf_vme(cpu, in);
	ret = cpu_pop(cpu, &image, in->opsize);
	if (ret)
		return ret;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	if (cpu->mode & MODE_IOPL_OK)
		mask |= FLAG_IF;
	if (in->opsize == 2)
		mask &= 0xffff;
	cpu_rflags_set(cpu, (old & ~mask) | (image & mask));
	cpu_insn_done(cpu, in);
	if ((old ^ image) & mask & (FLAG_TF | FLAG_AC | FLAG_IOPL))
		cpu_mode_update(cpu);
	return cpu_irq_window_check(cpu);
}
