#include "cpu/model.h"

#include "cpu/cpuid.h"
#include "cpu/cpuid_internal.h"
#include "cpu/feature.h"

enum {
#define MODEL(name, vendor, signature, last, brand) MODEL_##name,
#include "cpu/model.def"
	MODEL_NONE,
};

static const struct cpu_model models[] = {
#define MODEL(name, vendor, signature, last, brand) \
	{#name, CPU_VENDOR_##vendor, signature, last, brand},
#include "cpu/model.def"
};

static const struct {
	unsigned feature;
	u8 intel, amd;
} since[] = {
#define SINCE(feature, intel, amd) {X86_FEATURE_##feature, MODEL_##intel, MODEL_##amd},
#include "cpu/model.def"
};

static char folded(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c == '-' ? '_' : c;
}

const struct cpu_model *cpu_model_find(const char *name, size_t n)
{
	for (unsigned i = 0; i < ARRAY_SIZE(models); i++) {
		const char *p = models[i].name;
		size_t k = 0;

		while (k < n && p[k] && folded(p[k]) == folded(name[k]))
			k++;
		if (k == n && !p[k])
			return &models[i];
	}
	return NULL;
}

const struct cpu_model *cpu_model_at(unsigned i)
{
	return i < ARRAY_SIZE(models) ? &models[i] : NULL;
}

bool cpu_model_has(const struct cpu_model *model, unsigned feature)
{
	if (!model)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(since); i++)
		if (since[i].feature == feature)
			return model - models >=
			       (model->vendor == CPU_VENDOR_AMD ? since[i].amd : since[i].intel);
	return true;
}

unsigned cpu_model_missing(const struct cpu_model *model, unsigned *features, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(since); i++) {
		unsigned f = since[i].feature;
		u32 have = cpuid_word_supported(model->vendor, f >> 23, false);

		if (cpu_model_has(model, f) && !(have >> feature_bit(f) & 1) && n < max)
			features[n++] = f;
	}
	return n;
}
