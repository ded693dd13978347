/*
 * tsc.c - the time-stamp counter and the processor's identity beside it
 *
 * guest TSC = (host TSC * ratio >> 48) + offset. The host's counter is assumed invariant and in
 * step on all its processors, as its kernel checks before it uses it as a clock.
 */
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/tsc.h"

void cpu_tsc_write(struct cpu *cpu, u64 value, bool host)
{
	u64 old = cpu_tsc_read(cpu);

	cpu->tsc_offset += (s64)(value - old);
	if (!host)
		cpu->tsc_adjust += value - old;
}

static bool tsc_refused(const struct cpu *cpu)
{
	return (cpu->cr4 & CR4_TSD) && cpu->cpl;
}

static void set_edx_eax(struct cpu *cpu, u64 v)
{
	cpu->gpr[RAX] = (u32)v;
	cpu->gpr[RDX] = v >> 32;
}

int insn_rdtsc(struct cpu *cpu, const struct cpu_insn *in)
{
	if (tsc_refused(cpu))
		return cpu_raise_err(cpu, EXC_GP, 0);
	set_edx_eax(cpu, cpu_tsc_visible(cpu));
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_rdtscp(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!cpu_has(cpu, X86_FEATURE_RDTSCP))
		return cpu_raise(cpu, EXC_UD);
	if (tsc_refused(cpu))
		return cpu_raise_err(cpu, EXC_GP, 0);
	set_edx_eax(cpu, cpu_tsc_visible(cpu));
	cpu->gpr[RCX] = (u32)cpu->tsc_aux;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_rdpid(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!cpu_has(cpu, X86_FEATURE_RDPID) || in->mem)
		return cpu_raise(cpu, EXC_UD);
	cpu->gpr[in->rm] = (u32)cpu->tsc_aux;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_rdpmc(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 value;

	if (cpu->cpl && !(cpu->cr4 & CR4_PCE) && (cpu->cr0 & CR0_PE))
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (cpu_pmu_rdpmc(cpu, (u32)cpu->gpr[RCX], &value))
		return cpu_raise_err(cpu, EXC_GP, 0);
	set_edx_eax(cpu, value);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
