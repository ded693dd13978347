/* CPUID as the client sets and reads it. The processor's side is cpu/cpuid.h. */
#ifndef KVM_CPUID_H
#define KVM_CPUID_H

#include "kvm/vcpu.h"

/** MCG_CAP bits that KVM_X86_SETUP_MCE accepts: CTL_P, SER_P, and on Intel CMCI_P, LMCE_P. */
static inline u64 mce_cap_supported(const struct system *sys)
{
	return BIT64(8) | BIT64(24) | (sys->vendor == CPU_VENDOR_INTEL ? BIT64(10) | BIT64(27) : 0);
}

/** What KVM_GET_SUPPORTED_CPUID answers, computed once. 0 or -errno. */
int cpuid_system_init(struct system *sys);
/** A feature (X86_FEATURE_*) is in that answer. */
bool cpuid_supports(const struct system *sys, unsigned feature);

/** A new vCPU has no CPUID entries. 0 or -ENOMEM. */
int cpuid_init(struct vcpu *vcpu);
/** Bits that follow the state (APIC enabled …) and what the local APIC takes from CPUID. */
void cpuid_update_dynamic(struct vcpu *vcpu);

#endif
