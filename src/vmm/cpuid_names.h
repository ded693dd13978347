/* CPUID features by name: the rows of the engine's table (a generated copy: facts, no code). */
#ifndef VMM_CPUID_NAMES_H
#define VMM_CPUID_NAMES_H

#include "vmm/types.h"

#include <linux/kvm.h>

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

struct cpuid_feature {
	const char *name; /* as in the table: "LM", "X2APIC" */
	u32 leaf, index;
	enum cpuid_reg reg;
	unsigned bit;
	const char *reason; /* why guests do not have it, or "" */
};

extern const struct cpuid_feature cpuid_features[];
extern const unsigned cpuid_feature_count;

/** A feature by its name, in either case; NULL when there is none. */
const struct cpuid_feature *cpuid_feature_find(const char *name);
/** Takes a feature out of what a guest is shown. */
void cpuid_feature_remove(struct kvm_cpuid2 *cpuid, const struct cpuid_feature *f);
/** The register of a feature in a table; 0 where the leaf is not there. */
u32 cpuid_feature_word(const struct kvm_cpuid2 *cpuid, const struct cpuid_feature *f);

#endif
