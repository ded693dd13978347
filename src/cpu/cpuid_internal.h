/* cpuid_internal.h - shared by cpuid.c and cpuid_supported.c */
#ifndef CPU_CPUID_INTERNAL_H
#define CPU_CPUID_INTERNAL_H

#include "cpu/feature.h"

/* The first bit of each feature word, as an X86_FEATURE_ constant. */
extern const unsigned cpuid_words[FEATURE_WORD_COUNT];

/** The bits of one word that a guest of this vendor may have; `caps`: those of capabilities too. */
u32 cpuid_word_supported(enum cpu_vendor vendor, enum cpu_feature_word word, bool caps);
/** The bits of all words that mean instructions which the host executes. */
void cpuid_words_native(u32 words[FEATURE_WORD_COUNT]);

#endif
