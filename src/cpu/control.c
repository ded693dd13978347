/*
 * control.c - control registers: what may change, and what a change means
 *
 * A write is checked completely before anything changes. Then the register is stored, paging
 * consequences follow (mode of paging, PDPTRs, flushes - always after the new value has landed),
 * and the facts that translated code depends on are gathered anew.
 *
 * Outside 64-bit mode only the low half of the general register takes part (mission row 18).
 */
#include "cpu/control.h"
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"

#define CR0_KNOWN                                                                                  \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR3_NOFLUSH BIT64(63)
#define CR3_PCID    0xfffull

/* Paging with page-directory-pointer registers. */
static bool paging_is_pae(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* #GP, unless a nested guest's second stage has refused the pointers. */
static int pdptrs_refused(struct cpu *cpu)
{
	return cpu_leaving_guest(cpu) ? CPU_EXC : cpu_raise_err(cpu, EXC_GP, 0);
}

/* --- CR0 ---------------------------------------------------------------------------------------- */

bool cpu_cr0_valid(u64 v)
{
	if (v >> 32)
		return false;
	if ((v & CR0_NW) && !(v & CR0_CD))
		return false;
	return !(v & CR0_PG) || (v & CR0_PE);
}

/* What entering or leaving paging asks for. */
static bool cr0_paging_ok(const struct cpu *cpu, u64 v)
{
	bool pg = v & CR0_PG, was = cpu->cr0 & CR0_PG;
	unsigned tr = cpu->seg[SEG_TR].attr & SEG_ATTR_TYPE;

	if (pg && !was && (cpu->efer & EFER_LME)) {
		if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_ATTR_L))
			return false;
		return tr != 1 && tr != 3; /* no 16-bit TSS in IA-32e mode */
	}
	if (!pg && was)
		return !cpu_is_64bit(cpu) && !(cpu->cr4 & CR4_PCIDE);
	return true;
}

int cpu_cr0_write(struct cpu *cpu, u64 v)
{
	u64 old = cpu->cr0, changed;

	if (!cpu_cr0_valid(v) || !cr0_paging_ok(cpu, v) || (v & cpu->cr0_must) != cpu->cr0_must)
		return cpu_raise_err(cpu, EXC_GP, 0);
	v = (v & CR0_KNOWN) | CR0_ET;
	changed = v ^ old;
	if (paging_is_pae(v, cpu->cr4, v & CR0_PG && cpu->efer & EFER_LME ? EFER_LMA : 0) &&
	    (changed & (CR0_PG | CR0_CD | CR0_NW)) && mmu_load_pdptrs(cpu, cpu->cr3))
		return pdptrs_refused(cpu);
	cpu->cr0 = v;
	if (changed & CR0_PG) {
		if (!(v & CR0_PG))
			cpu->efer &= ~EFER_LMA;
		else if (cpu->efer & EFER_LME)
			cpu->efer |= EFER_LMA;
	}
	if (changed & (CR0_PG | CR0_WP))
		mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	return CPU_OK;
}

/* --- CR3 ---------------------------------------------------------------------------------------- */

u64 cpu_cr3_reserved(const struct cpu *cpu)
{
	return cpu->maxphyaddr ? ~0ull << cpu->maxphyaddr : ~0ull << 52;
}

int cpu_cr3_write(struct cpu *cpu, u64 v)
{
	u64 reserved = cpu_cr3_reserved(cpu);

	if (cpu_is_long(cpu)) {
		if (cpu->cr4 & CR4_PCIDE)
			reserved &= ~CR3_NOFLUSH;
		if (v & reserved)
			return cpu_raise_err(cpu, EXC_GP, 0);
	} else {
		if (v & reserved)
			return cpu_raise_err(cpu, EXC_GP, 0);
		if (paging_is_pae(cpu->cr0, cpu->cr4, cpu->efer) && mmu_load_pdptrs(cpu, v))
			return pdptrs_refused(cpu);
	}
	mmu_set_cr3(cpu, v);
	cpu->cr3 = cpu->cr4 & CR4_PCIDE ? v & ~CR3_NOFLUSH : v;
	return CPU_OK;
}

/* --- CR4 ---------------------------------------------------------------------------------------- */

u64 cpu_cr4_allowed(const struct cpu *cpu)
{
	static const struct {
		u64 bit;
		enum cpu_feature feature;
	} rows[] = {
		{CR4_VME | CR4_PVI, X86_FEATURE_VME},
		{CR4_TSD, X86_FEATURE_TSC},
		{CR4_DE, X86_FEATURE_DE},
		{CR4_PSE, X86_FEATURE_PSE},
		{CR4_PAE, X86_FEATURE_PAE},
		{CR4_MCE, X86_FEATURE_MCE},
		{CR4_PGE, X86_FEATURE_PGE},
		{CR4_OSFXSR, X86_FEATURE_FXSR},
		{CR4_OSXMMEXCPT, X86_FEATURE_SSE},
		{CR4_UMIP, X86_FEATURE_UMIP},
		{CR4_LA57, X86_FEATURE_LA57},
		{CR4_VMXE, X86_FEATURE_VMX},
		{CR4_FSGSBASE, X86_FEATURE_FSGSBASE},
		{CR4_PCIDE, X86_FEATURE_PCID},
		{CR4_OSXSAVE, X86_FEATURE_XSAVE},
		{CR4_SMEP, X86_FEATURE_SMEP},
		{CR4_SMAP, X86_FEATURE_SMAP},
		{CR4_PKE, X86_FEATURE_PKU},
		{CR4_CET, X86_FEATURE_SHSTK},
		{CR4_PKS, X86_FEATURE_PKS},
	};
	u64 ok = CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (cpu_has(cpu, rows[i].feature))
			ok |= rows[i].bit;
	return ok;
}

static bool cr4_valid(const struct cpu *cpu, u64 v)
{
	u64 changed = v ^ cpu->cr4;

	if (v & ~cpu_cr4_allowed(cpu))
		return false;
	if (cpu_is_long(cpu)) {
		if (!(v & CR4_PAE) || (changed & CR4_LA57))
			return false;
	}
	if ((v & cpu->cr4_must) != cpu->cr4_must)
		return false;
	if ((changed & v & CR4_PCIDE) && (!cpu_is_long(cpu) || (cpu->cr3 & CR3_PCID)))
		return false;
	return true;
}

int cpu_cr4_write(struct cpu *cpu, u64 v)
{
	u64 changed = v ^ cpu->cr4;

	if (!cr4_valid(cpu, v))
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (paging_is_pae(cpu->cr0, v, cpu->efer) &&
	    (changed & (CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP)) && mmu_load_pdptrs(cpu, cpu->cr3))
		return pdptrs_refused(cpu);
	cpu->cr4 = v;
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE |
		       CR4_PKS | CR4_LA57))
		mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	return CPU_OK;
}

/* --- the instructions ------------------------------------------------------------------------------ */

static int gp(struct cpu *cpu)
{
	return cpu_raise_err(cpu, EXC_GP, 0);
}

/* AMD reaches CR8 outside 64-bit mode as CR0 with a LOCK prefix. -1: #UD. */
static int cr_number(const struct cpu *cpu, const struct cpu_insn *in)
{
	int n = in->reg;

	if (in->prefix & CPU_PREFIX_LOCK) {
		if (n != 0 || !cpu_has(cpu, X86_FEATURE_CR8_LEGACY))
			return -1;
		return 8;
	}
	if (n == 8 && !cpu_is_64bit(cpu))
		return -1;
	return n == 0 || n == 2 || n == 3 || n == 4 || n == 8 ? n : -1;
}

int insn_mov_from_cr(struct cpu *cpu, const struct cpu_insn *in)
{
	int n = cr_number(cpu, in);
	u64 v = 0;

	if (n < 0)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	switch (n) {
	case 0:
		v = cpu->cr0;
		break;
	case 2:
		v = cpu->cr2;
		break;
	case 3:
		v = cpu->cr3;
		break;
	case 4:
		v = cpu->cr4;
		break;
	case 8:
		v = cpu->ops && cpu->ops->cr8_read ? cpu->ops->cr8_read(cpu) : 0;
		break;
	}
	TRACE(cpu->trace, kvm_cr, cpu->index, TRACE_STRING("read"), (u64)n, v);
	cpu->gpr[in->rm] = cpu_is_64bit(cpu) ? v : (u32)v;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_mov_to_cr(struct cpu *cpu, const struct cpu_insn *in)
{
	int n = cr_number(cpu, in), ret = CPU_OK;
	u64 v = cpu_is_64bit(cpu) ? cpu->gpr[in->rm] : (u32)cpu->gpr[in->rm];

	if (n < 0)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	TRACE(cpu->trace, kvm_cr, cpu->index, TRACE_STRING("write"), (u64)n, v);
	switch (n) {
	case 0:
		ret = cpu_cr0_write(cpu, v);
		break;
	case 2:
		cpu->cr2 = v;
		break;
	case 3:
		ret = cpu_cr3_write(cpu, v);
		break;
	case 4:
		ret = cpu_cr4_write(cpu, v);
		break;
	case 8:
		if (v > 15)
			return gp(cpu);
		if (cpu->ops && cpu->ops->cr8_write)
			cpu->ops->cr8_write(cpu, v);
		break;
	}
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

int insn_clts(struct cpu *cpu, const struct cpu_insn *in)
{
	if (cpu->cpl)
		return gp(cpu);
	cpu->cr0 &= ~CR0_TS;
	cpu_mode_update(cpu);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* The operand is 16 bits; PE can be set, never cleared. */
int insn_lmsw(struct cpu *cpu, const struct cpu_insn *in)
{
	struct cpu_insn word = *in;
	u64 v;
	int ret;

	if (cpu->cpl)
		return gp(cpu);
	word.opsize = 2;
	ret = cpu_rm_read(cpu, &word, &v);
	if (ret)
		return ret;
	v &= CR0_PE | CR0_MP | CR0_EM | CR0_TS;
	v |= cpu->cr0 & ~(CR0_MP | CR0_EM | CR0_TS);
	ret = cpu_cr0_write(cpu, v);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

int insn_smsw(struct cpu *cpu, const struct cpu_insn *in)
{
	struct cpu_insn op = *in;
	int ret;

	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl)
		return gp(cpu);
	if (in->mem)
		op.opsize = 2;
	ret = cpu_rm_write(cpu, &op, cpu->cr0);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

/* --- extended control registers ---------------------------------------------------------------------- */

bool cpu_xcr0_valid(const struct cpu *cpu, u64 v)
{
	if (!(v & XSTATE_X87) || (v & ~cpu_xcr0_allowed(cpu)))
		return false;
	if ((v & XSTATE_AVX) && !(v & XSTATE_SSE))
		return false;
	if (v & XSTATE_AVX512)
		return (v & XSTATE_AVX512) == XSTATE_AVX512 && (v & XSTATE_AVX);
	return true;
}

/* What the guest's leaf 0xd shows and this processor keeps. */
u64 cpu_xcr0_allowed(const struct cpu *cpu)
{
	const struct cpu_cpuid *e = cpu_cpuid_find(cpu, 0xd, 0);
	u64 v = e ? e->eax | (u64)e->edx << 32 : XSTATE_X87 | XSTATE_SSE, have = 3;

	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++)
		if (cpu->xcomp[i].size)
			have |= BIT64(i);
	return v & have;
}

int insn_xgetbv(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 v = cpu->xcr0;
	u32 lo, hi;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		return cpu_raise(cpu, EXC_UD);
	switch ((u32)cpu->gpr[RCX]) {
	case 0:
		break;
	case 1: /* which components are in use: the guest's state is live in the registers */
		if (!cpu_has(cpu, X86_FEATURE_XGETBV1))
			return gp(cpu);
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
		v &= (lo & ~(u32)XSTATE_PKRU) | (cpu->pkru ? XSTATE_PKRU : 0);
		break;
	default:
		return gp(cpu);
	}
	cpu->gpr[RAX] = (u32)v;
	cpu->gpr[RDX] = v >> 32;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_xsetbv(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 v = (u32)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl || (u32)cpu->gpr[RCX] || !cpu_xcr0_valid(cpu, v))
		return gp(cpu);
	cpu->xcr0 = v;
	cpu_mode_update(cpu);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* --- protection keys ------------------------------------------------------------------------------------ */

void cpu_pkru_write(struct cpu *cpu, u32 v)
{
	if (cpu->pkru == v)
		return;
	cpu->pkru = v;
	if (cpu->cr4 & CR4_PKE)
		mmu_flush_all(cpu); /* cached permissions were checked with the old keys */
}

int insn_rdpkru(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!(cpu->cr4 & CR4_PKE))
		return cpu_raise(cpu, EXC_UD);
	if ((u32)cpu->gpr[RCX])
		return gp(cpu);
	cpu->gpr[RAX] = cpu->pkru;
	cpu->gpr[RDX] = 0;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_wrpkru(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!(cpu->cr4 & CR4_PKE))
		return cpu_raise(cpu, EXC_UD);
	if ((u32)cpu->gpr[RCX] || (u32)cpu->gpr[RDX])
		return gp(cpu);
	cpu_pkru_write(cpu, (u32)cpu->gpr[RAX]);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
