/*
 * debugreg.c - MOV to and from the debug registers
 *
 * The guest always sees and sets its own registers (cpu->dr, dr6, dr7). While a debugger on the
 * client's side uses hardware breakpoints (KVM_GUESTDBG_USE_HW_BP), the engine acts on guest_dr
 * instead, and its DR7.GD sends accesses to that debugger.
 */
#include <linux/kvm.h>
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"

#define DR6_ONES     0xffff0ff0ull
#define DR6_WRITABLE 0xe00full
#define DR6_BD	     BIT64(13)
#define DR7_ONES     0x400ull
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD	     BIT64(13)
#define DR7_ENABLED  0xffull

/* The register's number after aliasing, or an exception or exit. */
static int dr_check(struct cpu *cpu, const struct cpu_insn *in, unsigned *n)
{
	bool host;

	*n = in->reg;
	if (*n > 7)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (*n == 4 || *n == 5) {
		if (cpu->cr4 & CR4_DE)
			return cpu_raise(cpu, EXC_UD);
		*n += 2;
	}
	host = (cpu->guest_debug & KVM_GUESTDBG_ENABLE) &&
	       (cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP);
	if (!((host ? cpu->guest_dr7 : cpu->dr7) & DR7_GD))
		return CPU_OK;
	if (host) {
		cpu->exit.reason = CPU_EXIT_DEBUG;
		cpu->exit.debug.vector = EXC_DB;
		cpu->exit.debug.pc = cpu->seg[SEG_CS].base + cpu->rip;
		cpu->exit.debug.dr6 = DR6_ONES | DR6_BD;
		cpu->exit.debug.dr7 = cpu->guest_dr7;
		return CPU_EXIT;
	}
	return cpu_raise_db(cpu, DR6_BD);
}

int insn_mov_from_dr(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned n;
	int ret = dr_check(cpu, in, &n);
	u64 v;

	if (ret)
		return ret;
	v = n < 4 ? cpu->dr[n] : n == 6 ? cpu->dr6 : cpu->dr7;
	cpu->gpr[in->rm] = cpu_is_64bit(cpu) ? v : (u32)v;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_mov_to_dr(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned n;
	int ret = dr_check(cpu, in, &n);
	u64 v = cpu_is_64bit(cpu) ? cpu->gpr[in->rm] : (u32)cpu->gpr[in->rm];
	bool watched = cpu->dr7 & DR7_ENABLED;

	if (ret)
		return ret;
	if (n >= 6 && v >> 32)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (n < 4)
		cpu->dr[n] = v;
	else if (n == 6)
		cpu->dr6 = (v & DR6_WRITABLE) | DR6_ONES;
	else
		cpu->dr7 = (v & DR7_WRITABLE) | DR7_ONES;
	/* Pages with watched bytes are not cached for plain accesses. */
	if (n != 6 && (watched || (cpu->dr7 & DR7_ENABLED)))
		mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
