/*
 * idle.c - waiting, and calling the hypervisor
 */
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "mmu/mmu.h"

static int gp(struct cpu *cpu)
{
	return cpu_raise_err(cpu, EXC_GP, 0);
}

int insn_hlt(struct cpu *cpu, const struct cpu_insn *in)
{
	if (cpu->cpl)
		return gp(cpu);
	cpu_insn_done(cpu, in);
	cpu->exit.reason = CPU_EXIT_HLT;
	return CPU_EXIT;
}

/* A hint. Threads of one process yield by themselves when they outnumber the host's processors. */
int insn_pause(struct cpu *cpu, const struct cpu_insn *in)
{
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* #UD above ring 0, as on processors where MSRs do not open it to users. */
int insn_monitor(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 off = cpu->gpr[RAX], lin;
	struct mmu_walk walk;
	struct mmu_fault fault;
	u8 byte;
	int ret;

	if (!cpu_has(cpu, X86_FEATURE_MWAIT) || cpu->cpl)
		return cpu_raise(cpu, EXC_UD);
	if ((u32)cpu->gpr[RCX])
		return gp(cpu);
	if (in->addrsize == 2)
		off = (u16)off;
	else if (in->addrsize == 4)
		off = (u32)off;
	ret = cpu_linear(cpu, in->seg, off, 1, MMU_READ, &lin);
	if (ret == CPU_OK)
		ret = mmu_read(cpu, lin, &byte, 1, MMU_READ | MMU_AS_VIEW);
	if (ret)
		return ret;
	cpu->monitor_armed = 0;
	if (!mmu_walk(cpu, lin, MMU_READ | MMU_AS_VIEW, true, &walk, &fault)) {
		cpu->monitor_gpa = walk.gpa;
		cpu->monitor_armed = 1;
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_mwait(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!cpu_has(cpu, X86_FEATURE_MWAIT) || cpu->cpl)
		return cpu_raise(cpu, EXC_UD);
	if ((u32)cpu->gpr[RCX] & ~1u)
		return gp(cpu);
	cpu_insn_done(cpu, in);
	if (!cpu->monitor_armed)
		return CPU_OK;
	cpu->monitor_armed = 0;
	cpu->exit.reason = CPU_EXIT_MWAIT;
	return CPU_EXIT;
}

/*
 * VMCALL and VMMCALL mean the same here, whatever the vendor: guests find out which to use from
 * CPUID, and some use the other one.
 */
int insn_hypercall(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!cpu->ops || !cpu->ops->hypercall)
		return cpu_raise(cpu, EXC_UD);
	cpu_insn_done(cpu, in);
	return cpu->ops->hypercall(cpu);
}

int insn_vmx(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise(cpu, EXC_UD);
}

int insn_svm(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise(cpu, EXC_UD);
}
