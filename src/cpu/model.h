/* model.h - processors by name, of which a host may be taken for one */
#ifndef CPU_MODEL_H
#define CPU_MODEL_H

#include "cpu/cpu.h"

struct cpu_model {
	const char *name; /* users may write - for _ */
	enum cpu_vendor vendor;
	u32 signature; /* CPUID.1:EAX */
	u32 last_leaf; /* CPUID.0:EAX */
	const char *brand;
};

/** By name of n bytes; upper and lower case are one. NULL: there is none. */
const struct cpu_model *cpu_model_find(const char *name, size_t n);
/** The i-th model, or NULL. */
const struct cpu_model *cpu_model_at(unsigned i);
/** May this model have the feature (X86_FEATURE_*)? `model` may be NULL: any. */
bool cpu_model_has(const struct cpu_model *model, unsigned feature);
/**
 * Features of the model that this host lacks, as far as the models differ in them: at most max
 * X86_FEATURE_*. Their number.
 */
unsigned cpu_model_missing(const struct cpu_model *model, unsigned *features, unsigned max);

#endif
