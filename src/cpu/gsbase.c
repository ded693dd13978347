/*
 * gsbase.c - FS and GS bases without MSRs
 */
#include "cpu/insn.h"

int insn_swapgs(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 base = cpu->seg[SEG_GS].base;

	if (!cpu_is_64bit(cpu))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_rdfsgsbase(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 base = cpu->seg[in->imm2 == SEG_FS ? SEG_FS : SEG_GS].base;

	if (!cpu_is_64bit(cpu) || !(cpu->cr4 & CR4_FSGSBASE) || in->mem)
		return cpu_raise(cpu, EXC_UD);
	cpu->gpr[in->rm] = in->opsize == 8 ? base : (u32)base;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_wrfsgsbase(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 v = in->opsize == 8 ? cpu->gpr[in->rm] : (u32)cpu->gpr[in->rm];

	if (!cpu_is_64bit(cpu) || !(cpu->cr4 & CR4_FSGSBASE) || in->mem)
		return cpu_raise(cpu, EXC_UD);
	if (!cpu_is_canonical(cpu, v))
		return cpu_raise_err(cpu, EXC_GP, 0);
	cpu->seg[in->imm2 == SEG_FS ? SEG_FS : SEG_GS].base = v;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
