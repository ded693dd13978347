/*
 * msr_fn.c - MSRs that do more than hold a value
 *
 * Each pair is one row MSR_FN of msr.def. A getter or setter returns 1 when the access is invalid.
 * `host` is true for the client's own accesses, which pass the checks that guard against the guest.
 */
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "cpu/msr_internal.h"
#include "cpu/tsc.h"
#include "mmu/mmu.h"

#define GET(name) int msr_get_##name(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host)
#define SET(name) int msr_set_##name(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host)
/* A register whose writes are special and whose reads are not. */
#define GET_FIELD(name, field)       \
	GET(name)                    \
	{                            \
		*value = cpu->field; \
		return 0;            \
	}

/* Write-only registers. */
GET(none)
{
	*value = 0;
	return !host;
}

/* --- time --------------------------------------------------------------------------------------- */

GET(tsc)
{
	*value = cpu_tsc_read(cpu);
	return 0;
}

SET(tsc)
{
	cpu_tsc_write(cpu, value, host);
	return 0;
}

GET_FIELD(tsc_adjust, tsc_adjust)

/* The client restores the register without moving the TSC, which it restores by itself. */
SET(tsc_adjust)
{
	if (!host)
		cpu->tsc_offset += (s64)(value - cpu->tsc_adjust);
	cpu->tsc_adjust = value;
	return 0;
}

GET(tsc_aux)
{
	*value = cpu->tsc_aux;
	return !host && !cpu_has(cpu, X86_FEATURE_RDTSCP) && !cpu_has(cpu, X86_FEATURE_RDPID);
}

/* Intel reserves the upper half, AMD ignores it. */
SET(tsc_aux)
{
	if (!host && !cpu_has(cpu, X86_FEATURE_RDTSCP) && !cpu_has(cpu, X86_FEATURE_RDPID))
		return 1;
	if (cpu->vendor == CPU_VENDOR_INTEL && value >> 32)
		return 1;
	cpu->tsc_aux = (u32)value;
	return 0;
}

/* --- speculation: nothing to control, but the registers are there -------------------------------- */

#define SPEC_IBRS    BIT64(0)
#define SPEC_STIBP   BIT64(1)
#define SPEC_SSBD    BIT64(2)
#define SPEC_PSFD    BIT64(7)
#define SPEC_BHI_DIS BIT64(10)

static u64 spec_ctrl_bits(const struct cpu *cpu)
{
	u64 v = 0;

	if (cpu_has(cpu, X86_FEATURE_SPEC_CTRL) || cpu_has(cpu, X86_FEATURE_AMD_IBRS))
		v |= SPEC_IBRS | SPEC_STIBP;
	if (cpu_has(cpu, X86_FEATURE_INTEL_STIBP) || cpu_has(cpu, X86_FEATURE_AMD_STIBP))
		v |= SPEC_STIBP;
	if (cpu_has(cpu, X86_FEATURE_SPEC_CTRL_SSBD) || cpu_has(cpu, X86_FEATURE_AMD_SSBD))
		v |= SPEC_SSBD;
	if (cpu_has(cpu, X86_FEATURE_AMD_PSFD))
		v |= SPEC_PSFD;
	if (cpu_has(cpu, X86_FEATURE_BHI_CTRL))
		v |= SPEC_BHI_DIS;
	return v;
}

GET(spec_ctrl)
{
	*value = cpu->spec_ctrl;
	return !host && !spec_ctrl_bits(cpu);
}

SET(spec_ctrl)
{
	u64 ok = spec_ctrl_bits(cpu);

	if (!host && (!ok || (value & ~ok)))
		return 1;
	if (value & ~(SPEC_IBRS | SPEC_STIBP | SPEC_SSBD | SPEC_PSFD | SPEC_BHI_DIS))
		return 1;
	cpu->spec_ctrl = value;
	return 0;
}

SET(pred_cmd)
{
	if (!host && !cpu_has(cpu, X86_FEATURE_SPEC_CTRL) && !cpu_has(cpu, X86_FEATURE_AMD_IBPB))
		return 1;
	return (value & ~1ull) != 0;
}

SET(flush_cmd)
{
	return (value & ~1ull) != 0;
}

/* --- configuration -------------------------------------------------------------------------------- */

#define MCG_LMCE_P		  BIT64(27)
#define PLATFORM_INFO_CPUID_FAULT BIT64(31)
#define MISC_ENABLE_EMON	  BIT64(7)
#define MISC_ENABLE_RO		  (BIT64(11) | BIT64(12)) /* no branch trace store, no PEBS */

GET_FIELD(misc_features, misc_features_enables)

SET(misc_features)
{
	if ((value & ~1ull) || ((value & 1) && !(cpu->platform_info & PLATFORM_INFO_CPUID_FAULT)))
		return 1;
	cpu->misc_features_enables = value;
	return 0;
}

GET_FIELD(misc_enable, misc_enable)

SET(misc_enable)
{
	if (!host) {
		if ((cpu->misc_enable ^ value) & MISC_ENABLE_RO)
			return 1;
		value = (value & ~MISC_ENABLE_EMON) | (cpu->misc_enable & MISC_ENABLE_EMON);
	}
	cpu->misc_enable = value;
	return 0;
}

GET_FIELD(debugctl, debugctl)

/* Branch records and branch stepping are not offered; the bits are dropped, as KVM does. */
SET(debugctl)
{
	u64 known = cpu->vendor == CPU_VENDOR_AMD ? 0x3f : 0x3;

	if (value & ~known)
		return 1;
	cpu->debugctl = value & known & ~3ull;
	return 0;
}

GET(sysenter)
{
	*value = at ? cpu->sysenter_eip : cpu->sysenter_esp;
	return 0;
}

/* Intel refuses addresses that are not canonical, AMD keeps 32 bits. */
SET(sysenter)
{
	if (cpu->vendor == CPU_VENDOR_AMD && !host)
		value = (u32)value;
	else if (!cpu_is_canonical(cpu, value))
		return 1;
	if (at)
		cpu->sysenter_eip = value;
	else
		cpu->sysenter_esp = value;
	return 0;
}

#define HWCR_IGNORED (BIT64(3) | BIT64(6) | BIT64(8)) /* cache and filter switches */
#define HWCR_KEPT    (BIT64(18) | BIT64(24))	      /* McStatusWrEn, TscFreqSel */

GET_FIELD(hwcr, hwcr)

SET(hwcr)
{
	value &= ~HWCR_IGNORED;
	if (value & ~HWCR_KEPT)
		return 1;
	cpu->hwcr = value;
	return 0;
}

GET_FIELD(pkrs, pkrs)

SET(pkrs)
{
	if (value >> 32)
		return 1;
	if (cpu->pkrs != (u32)value) {
		cpu->pkrs = (u32)value;
		mmu_flush_all(cpu);
	}
	return 0;
}

/* --- EFER ----------------------------------------------------------------------------------------- */

#define EFER_AUTOIBRS BIT64(21)

static u64 efer_bits(const struct cpu *cpu)
{
	u64 v = 0;

	if (cpu_has(cpu, X86_FEATURE_SYSCALL))
		v |= EFER_SCE;
	if (cpu_has(cpu, X86_FEATURE_LM))
		v |= EFER_LME | EFER_LMA;
	if (cpu_has(cpu, X86_FEATURE_NX))
		v |= EFER_NX;
	if (cpu_has(cpu, X86_FEATURE_SVM))
		v |= EFER_SVME;
	if (cpu_has(cpu, X86_FEATURE_FXSR_OPT))
		v |= EFER_FFXSR;
	if (cpu_has(cpu, X86_FEATURE_TCE))
		v |= EFER_TCE;
	if (cpu_has(cpu, X86_FEATURE_AUTOIBRS))
		v |= EFER_AUTOIBRS;
	return v;
}

GET_FIELD(efer, efer)

/* LMA follows CR0.PG and LME; what a write says about it is ignored. */
SET(efer)
{
	u64 old = cpu->efer;

	if (!host && (value & ~efer_bits(cpu)))
		return 1;
	if (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_SVME | EFER_FFXSR | EFER_TCE |
		      EFER_AUTOIBRS))
		return 1;
	if (!host && (cpu->cr0 & CR0_PG) && ((value ^ old) & EFER_LME))
		return 1;
	cpu->efer = (value & ~EFER_LMA) | (old & EFER_LMA);
	if ((cpu->efer ^ old) & EFER_NX)
		mmu_flush_all(cpu);
	cpu_mode_update(cpu);
	return 0;
}

/* --- memory types ---------------------------------------------------------------------------------- */

#define MTRR_TYPES 0x73u /* UC WC WT WP WB */
#define PAT_TYPES  0xf3u /* and UC- */

static bool types_valid(u64 value, unsigned types)
{
	for (unsigned i = 0; i < 8; i++) {
		u8 t = (u8)(value >> (8 * i));

		if (t > 7 || !(types & BIT(t)))
			return false;
	}
	return true;
}

GET_FIELD(pat, pat)

SET(pat)
{
	if (!types_valid(value, PAT_TYPES))
		return 1;
	cpu->pat = value;
	return 0;
}

GET_FIELD(mtrr_def, mtrr_def_type)

SET(mtrr_def)
{
	if ((value & ~0xcffull) || (value & 0xff) > 7 || !(MTRR_TYPES & BIT(value & 0xff)))
		return 1;
	cpu->mtrr_def_type = value;
	return 0;
}

/* Place of a fixed-range register: one of 64K, two of 16K, eight of 4K. */
static u64 *fixed_at(struct cpu *cpu, u32 index)
{
	if (index == 0x250)
		return &cpu->mtrr_fixed[0];
	if (index < 0x260)
		return &cpu->mtrr_fixed[1 + index - 0x258];
	return &cpu->mtrr_fixed[3 + index - 0x268];
}

GET(mtrr_fixed)
{
	*value = *fixed_at(cpu, index);
	return 0;
}

SET(mtrr_fixed)
{
	if (!types_valid(value, MTRR_TYPES))
		return 1;
	*fixed_at(cpu, index) = value;
	return 0;
}

GET(mtrr_var)
{
	*value = cpu->mtrr_var[at];
	return 0;
}

/* Even: base and type; odd: mask and valid bit. */
SET(mtrr_var)
{
	u64 reserved = ~0ull << (cpu->maxphyaddr ? cpu->maxphyaddr : 36);

	if (at & 1)
		reserved |= 0x7ff;
	else if ((value & 0xff) > 7 || !(MTRR_TYPES & BIT(value & 0xff)))
		return 1;
	else
		reserved |= 0xf00;
	if (value & reserved)
		return 1;
	cpu->mtrr_var[at] = value;
	return 0;
}

/* --- machine check ----------------------------------------------------------------------------------- */

#define MCG_CTL_P	  BIT64(8)
#define MCG_CMCI_P	  BIT64(10)
#define HWCR_MC_STATUS_WR BIT64(18)

GET(mcg_ctl)
{
	*value = cpu->mcg_ctl;
	return !(cpu->mcg_cap & MCG_CTL_P) && !host;
}

SET(mcg_ctl)
{
	if (!(cpu->mcg_cap & MCG_CTL_P))
		return value || !host;
	if (value && value != ~0ull)
		return 1;
	cpu->mcg_ctl = value;
	return 0;
}

GET(mcg_ext_ctl)
{
	*value = cpu->mcg_ext_ctl;
	return !(cpu->mcg_cap & MCG_LMCE_P) && !host;
}

SET(mcg_ext_ctl)
{
	if (!(cpu->mcg_cap & MCG_LMCE_P))
		return value || !host;
	if (value & ~1ull)
		return 1;
	cpu->mcg_ext_ctl = value;
	return 0;
}

GET(mc_ctl2)
{
	if (at >= (cpu->mcg_cap & 0xff) || (!(cpu->mcg_cap & MCG_CMCI_P) && !host))
		return 1;
	*value = cpu->mce_ctl2[at];
	return 0;
}

SET(mc_ctl2)
{
	if (at >= (cpu->mcg_cap & 0xff))
		return 1;
	if (!(cpu->mcg_cap & MCG_CMCI_P))
		return value || !host;
	if (value & ~(BIT64(30) | 0x7fffull))
		return 1;
	cpu->mce_ctl2[at] = value;
	return 0;
}

GET(mc_bank)
{
	if (at / 4 >= (cpu->mcg_cap & 0xff))
		return 1;
	*value = cpu->mce_bank[at];
	return 0;
}

/* CTL takes all or nothing (old kernels leave out a bit or two), STATUS takes zero. */
SET(mc_bank)
{
	bool status_ok = cpu->vendor == CPU_VENDOR_AMD && (cpu->hwcr & HWCR_MC_STATUS_WR);

	if (at / 4 >= (cpu->mcg_cap & 0xff))
		return 1;
	if (at % 4 == 0 && value && (value | BIT64(10) | 1) != ~0ull)
		return 1;
	if (at % 4 == 1 && value && !host && !status_ok)
		return 1;
	cpu->mce_bank[at] = value;
	return 0;
}
