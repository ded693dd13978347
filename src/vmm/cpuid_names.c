/* The table of features by name, and what is done with one of its rows. */
#include "vmm/cpuid_names.h"

#define EAX CPUID_EAX
#define EBX CPUID_EBX
#define ECX CPUID_ECX
#define EDX CPUID_EDX

enum {
#define WORD(id, leaf, index, reg) LEAF_##id = (int)(leaf), INDEX_##id = (index), REG_##id = (reg),
#include "vmm/cpuid-features.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

const struct cpuid_feature cpuid_features[] = {
#define FEATURE(name, word, bit, policy, reason) \
	{#name, (u32)LEAF_##word, INDEX_##word, (enum cpuid_reg)REG_##word, bit, reason},
#include "vmm/cpuid-features.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};
const unsigned cpuid_feature_count = ARRAY_SIZE(cpuid_features);

const struct cpuid_feature *cpuid_feature_find(const char *name)
{
	for (unsigned i = 0; i < cpuid_feature_count; i++)
		if (!g_ascii_strcasecmp(name, cpuid_features[i].name))
			return &cpuid_features[i];
	return NULL;
}

static u32 *register_of(struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
	return reg == CPUID_EAX	  ? &e->eax
	       : reg == CPUID_EBX ? &e->ebx
	       : reg == CPUID_ECX ? &e->ecx
				  : &e->edx;
}

static struct kvm_cpuid_entry2 *entry_of(const struct kvm_cpuid2 *cpuid,
					 const struct cpuid_feature *f)
{
	for (unsigned i = 0; cpuid && i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = (struct kvm_cpuid_entry2 *)&cpuid->entries[i];

		if (e->function == f->leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == f->index))
			return e;
	}
	return NULL;
}

void cpuid_feature_remove(struct kvm_cpuid2 *cpuid, const struct cpuid_feature *f)
{
	struct kvm_cpuid_entry2 *e = entry_of(cpuid, f);

	if (e)
		*register_of(e, f->reg) &= ~BIT(f->bit);
}

u32 cpuid_feature_word(const struct kvm_cpuid2 *cpuid, const struct cpuid_feature *f)
{
	struct kvm_cpuid_entry2 *e = entry_of(cpuid, f);

	return e ? *register_of(e, f->reg) : 0;
}
