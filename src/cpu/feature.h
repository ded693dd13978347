/*
 * feature.h - CPUID features by name (mission row 16)
 *
 * One constant says everything about a feature: the leaf, index, register and bit where CPUID
 * shows it, and its place in cpu->features. feature.def has the rows.
 */
#ifndef CPU_FEATURE_H
#define CPU_FEATURE_H

#include "cpu/cpu.h"

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* The CPUID registers that hold feature bits; 32 bits each in cpu->features. */
enum cpu_feature_word {
#define WORD(id, leaf, index, reg) FEATURE_WORD_##id,
#include "cpu/feature.def"
	FEATURE_WORD_COUNT,
};
_Static_assert(FEATURE_WORD_COUNT <= 2 * CPU_FEATURE_WORDS, "cpu->features is too small");

/*
 * bits 4..0 bit, 6..5 register, 12..7 index, 20..13 leaf (low byte), 22..21 leaf (two top bits),
 * 28..23 word
 */
#define FEATURE_ENCODE(word, leaf, index, reg)                        \
	(((reg) << 5) | ((index) << 7) | (int)(((leaf)&0xff) << 13) | \
	 (int)(((u32)(leaf) >> 30) << 21) | ((word) << 23))

enum {
#define WORD(id, leaf, index, reg) \
	FEATURE_BASE_##id = FEATURE_ENCODE(FEATURE_WORD_##id, leaf, index, CPUID_##reg),
#include "cpu/feature.def"
};

enum cpu_feature {
#define FEATURE(name, word, bit, policy, reason) X86_FEATURE_##name = FEATURE_BASE_##word + (bit),
#include "cpu/feature.def"
};

static inline unsigned feature_bit(unsigned f)
{
	return f & 31;
}
static inline enum cpuid_reg feature_reg(unsigned f)
{
	return (enum cpuid_reg)((f >> 5) & 3);
}
static inline u32 feature_index(unsigned f)
{
	return (f >> 7) & 63;
}
static inline u32 feature_leaf(unsigned f)
{
	return ((f >> 13) & 0xff) | ((f >> 21) & 3) << 30;
}
/** Number of the feature's bit in cpu->features. */
static inline unsigned feature_number(unsigned f)
{
	return (f >> 23) * 32 + (f & 31);
}
/** The feature's name as feature.def has it, or NULL. */
const char *feature_name(unsigned f);

/**
 * True when the guest's CPUID shows the feature and this processor implements it: its
 * instructions work, its control bits may be set. (Bits that depend on CR4 are not in here.)
 */
static inline bool cpu_has(const struct cpu *cpu, enum cpu_feature f)
{
	unsigned n = feature_number(f);

	return (cpu->features[n >> 6] >> (n & 63)) & 1;
}

/** The host's own CPUID, asked once in a process. regs: EAX, EBX, ECX, EDX. */
void cpuid_host(u32 leaf, u32 index, u32 regs[4]);

#endif
