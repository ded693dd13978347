/*
 * msr.h - model-specific registers: one table (msr.def) for guest, client, lists and tests
 */
#ifndef CPU_MSR_H
#define CPU_MSR_H

#include "cpu/cpu.h"

/**
 * Reads or writes an MSR of the processor's own. `host`: on behalf of the client (KVM_GET_MSRS,
 * KVM_SET_MSRS), who may also see what the guest's CPUID hides and set what the guest may not.
 * 0, or 1 when the access is invalid (the guest gets #GP; for the client the batch ends there).
 * MSRs of the layers above (APIC, paravirtual) are invalid here.
 */
int cpu_msr_read(struct cpu *cpu, u32 index, u64 *value, bool host);
int cpu_msr_write(struct cpu *cpu, u32 index, u64 value, bool host);
/** True when the guest may know this MSR at all: listed, of its vendor, and its feature shown. */
bool cpu_msr_known(const struct cpu *cpu, u32 index);

/** MSRs of KVM_GET_MSR_INDEX_LIST. Writes at most max of them; returns how many there are. */
unsigned cpu_msr_list(enum cpu_vendor vendor, u32 *out, unsigned max);
/** MSRs of KVM_GET_MSR_FEATURE_INDEX_LIST, likewise. */
unsigned cpu_msr_feature_list(enum cpu_vendor vendor, u32 *out, unsigned max);
/** Value of a feature MSR for new guests of a vendor. 0, or 1: not a feature MSR. */
int cpu_msr_feature_read(enum cpu_vendor vendor, u32 index, u64 *value);
/** The name in msr.def, or NULL. */
const char *cpu_msr_name(u32 index);
/** Power-on values. */
void cpu_msr_reset(struct cpu *cpu);

#define MSR_IA32_TSC	      0x10u
#define MSR_IA32_APIC_BASE    0x1bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_EFER	      0xc0000080u

/* Bits of IA32_MISC_ENABLE. */
#define MISC_ENABLE_MWAIT BIT64(18)

#endif
