/* CPUID by feature names. */
#include "x86.h"

enum { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

enum word {
#define WORD(id, leaf, index, reg) WORD_##id,
#include "cpu/feature.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

static const struct {
	u32 leaf;
	u8 index, reg;
} words[] = {
#define WORD(id, leaf, index, reg) {leaf, index, REG_##reg},
#include "cpu/feature.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

static const struct {
	u8 word, bit;
} rows[] = {
#define FEATURE(name, word, bit, policy, reason) {WORD_##word, bit},
#include "cpu/feature.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

bool cpu_has(enum feature f)
{
	u32 leaf = words[rows[f].word].leaf, v[4];
	struct cpuid r = cpuid(leaf & 0xf0000000, 0);

	if (r.a < leaf || r.a > leaf + 0x1000)
		return false;
	r = cpuid(leaf, words[rows[f].word].index);
	v[0] = r.a, v[1] = r.b, v[2] = r.c, v[3] = r.d;
	return (v[words[rows[f].word].reg] >> rows[f].bit) & 1;
}

bool cpu_is_intel(void)
{
	return cpuid(0, 0).b == 0x756e6547;
}

bool cpu_is_amd(void)
{
	u32 b = cpuid(0, 0).b;

	return b == 0x68747541 || b == 0x6f677948;
}

unsigned cpu_maxphyaddr(void)
{
	if (cpuid(0x80000000, 0).a < 0x80000008)
		return 36;
	return cpuid(0x80000008, 0).a & 0xff;
}

bool cpu_has_kvm(void)
{
	struct cpuid r;

	if (!HAS(HYPERVISOR))
		return false;
	r = cpuid(0x40000000, 0);
	return r.b == 0x4b4d564b && r.c == 0x564b4d56 && r.d == 0x4d && r.a >= 0x40000001;
}
