/*
 * idle.c - waiting, and calling the hypervisor
 */
#include <linux/kvm.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/msr.h"
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

/* How many PAUSEs are taken for a spin loop that waits for somebody else. */
#define PAUSE_WINDOW 64

/*
 * A hint. Generated code pauses the host and comes here once in a window: whom this processor waits
 * for may be a thread that has none of the host's.
 */
int insn_pause(struct cpu *cpu, const struct cpu_insn *in)
{
	cpu->pauses = PAUSE_WINDOW;
	if (cpu->mem->cpu_count > 1)
		syscall(SYS_sched_yield);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/*
 * MONITOR and MWAIT are #UD above ring 0, as where no MSR opens them to users. Guests that were not
 * offered them find two no-operations, as with KVM, unless the client switched that quirk off.
 */
static int mwait_check(struct cpu *cpu, bool *nop)
{
	bool shown = cpu_has(cpu, X86_FEATURE_MWAIT);

	*nop = !shown;
	/* Without its quirk CPUID's bit follows the MSR. */
	if (cpu->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT)
		shown = cpu->misc_enable & MISC_ENABLE_MWAIT;
	if (cpu->cpl || (!shown && (cpu->disabled_quirks & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)))
		return cpu_raise(cpu, EXC_UD);
	return CPU_OK;
}

/* The byte is read as MONITOR's operand is, and where it lies is kept for MWAIT. */
static int monitor_arm(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 off = cpu->gpr[RAX], lin;
	struct mmu_fault fault;
	struct mmu_walk walk;
	u8 byte;
	int ret;

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
	return CPU_OK;
}

int insn_monitor(struct cpu *cpu, const struct cpu_insn *in)
{
	bool nop;
	int ret = mwait_check(cpu, &nop);

	if (ret == CPU_OK && !nop)
		ret = (u32)cpu->gpr[RCX] ? gp(cpu) : monitor_arm(cpu, in);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

int insn_mwait(struct cpu *cpu, const struct cpu_insn *in)
{
	bool nop;
	int ret = mwait_check(cpu, &nop);

	if (ret)
		return ret;
	if (!nop && ((u32)cpu->gpr[RCX] & ~1u))
		return gp(cpu);
	cpu_insn_done(cpu, in);
	if (nop || !cpu->monitor_armed)
		return CPU_OK;
	cpu->monitor_armed = 0;
	cpu->exit.reason = CPU_EXIT_MWAIT;
	return CPU_EXIT;
}

/*
 * VMCALL is Intel's, VMMCALL AMD's. A guest that uses the other vendor's gets it replaced in its
 * own code, as KVM does, unless the client switched that quirk off.
 */
static int hypercall_fix(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 code[3] = {0x0f, 0x01, cpu->vendor == CPU_VENDOR_AMD ? 0xd9 : 0xc1};
	u64 lin = cpu->rip;

	if (LIKELY(in->opcode == code[2]))
		return CPU_OK;
	if (cpu->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
		return cpu_raise(cpu, EXC_UD);
	if (!cpu_is_64bit(cpu))
		lin = (u32)(lin + cpu->seg[SEG_CS].base);
	return mmu_write(cpu, lin + in->len - 3, code, 3, MMU_WRITE | MMU_AS_VIEW);
}

int insn_hypercall(struct cpu *cpu, const struct cpu_insn *in)
{
	int ret;

	if (!cpu->ops || !cpu->ops->hypercall)
		return cpu_raise(cpu, EXC_UD);
	ret = hypercall_fix(cpu, in);
	if (ret)
		return ret;
	ret = cpu->ops->hypercall(cpu);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	else if (ret == CPU_EXIT && cpu->exit.reason == CPU_EXIT_HYPERCALL)
		cpu->exit.hypercall.len = in->len;
	return ret;
}

int insn_vmx(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!cpu->nested_ops || cpu->vendor != CPU_VENDOR_INTEL || !cpu_has(cpu, X86_FEATURE_VMX))
		return cpu_raise(cpu, EXC_UD);
	return cpu->nested_ops->insn(cpu, in);
}

int insn_svm(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise(cpu, EXC_UD);
}
