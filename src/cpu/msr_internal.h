/* msr_internal.h - the functions behind MSR_FN rows */
#ifndef CPU_MSR_INTERNAL_H
#define CPU_MSR_INTERNAL_H

#include "cpu/msr.h"

/* 0, or 1: invalid. `at` counts from the row's first index. */
typedef int (*msr_get_fn)(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host);
typedef int (*msr_set_fn)(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host);

#define MSR_FN(first, count, name, vendors, list, feature, get, set)                       \
	int msr_get_##get(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host); \
	int msr_set_##set(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host);
#include "cpu/msr.def"

/*
 * Immune to what guests' mitigations are for: a mitigation inside translated code would cost
 * time and protect nothing. RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO
 * SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO ITS_NO
 */
#define MSR_ARCH_CAP_VALUE                                                                        \
	(BIT64(0) | BIT64(1) | BIT64(3) | BIT64(4) | BIT64(5) | BIT64(6) | BIT64(8) | BIT64(13) | \
	 BIT64(14) | BIT64(15) | BIT64(20) | BIT64(24) | BIT64(26) | BIT64(27) | BIT64(62))

#endif
