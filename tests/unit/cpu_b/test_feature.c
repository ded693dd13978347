/* Every bit of every feature word is in exactly one row; constants say where their bits are. */
#include "rig.h"

#include "cpu/model.h"

#include <string.h>

static void every_bit_has_one_row(void **state)
{
	u32 seen[FEATURE_WORD_COUNT] = {0}, twice[FEATURE_WORD_COUNT] = {0};

#define FEATURE(name, word, bit, policy, reason)                            \
	twice[FEATURE_WORD_##word] |= seen[FEATURE_WORD_##word] & BIT(bit); \
	seen[FEATURE_WORD_##word] |= BIT(bit);
#define RESERVED(word, mask)                                              \
	twice[FEATURE_WORD_##word] |= seen[FEATURE_WORD_##word] & (mask); \
	seen[FEATURE_WORD_##word] |= (mask);
#include "cpu/feature.def"
	for (unsigned i = 0; i < FEATURE_WORD_COUNT; i++) {
		assert_int_equal(seen[i], 0xffffffff);
		assert_int_equal(twice[i], 0);
	}
}

static void masked_bits_have_reasons(void **state)
{
	enum { NO, HOST, EMUL, HOST_INTEL, EMUL_INTEL, HOST_AMD, EMUL_AMD, RUN, CAP };
#define FEATURE(name, word, bit, policy, reason)            \
	if (policy == NO || policy == RUN || policy == CAP) \
		assert_true((reason)[0] != 0);              \
	else                                                \
		assert_true((reason)[0] == 0);
#include "cpu/feature.def"
}

static void constants_decode(void **state)
{
	assert_int_equal(feature_leaf(X86_FEATURE_LM), 0x80000001);
	assert_int_equal(feature_reg(X86_FEATURE_LM), CPUID_EDX);
	assert_int_equal(feature_bit(X86_FEATURE_LM), 29);
	assert_int_equal(feature_leaf(X86_FEATURE_KVM_PV_EOI), 0x40000001);
	assert_int_equal(feature_leaf(X86_FEATURE_SHA512), 7);
	assert_int_equal(feature_index(X86_FEATURE_SHA512), 1);
	assert_string_equal(feature_name(X86_FEATURE_AVX512BW), "AVX512BW");
	assert_null(feature_name(0x7fffffff));
}

static bool offered(const struct cpu_cpuid *l, int n, unsigned f)
{
	for (int i = 0; i < n; i++)
		if (l[i].leaf == feature_leaf(f) && l[i].index == feature_index(f)) {
			const u32 r[4] = {l[i].eax, l[i].ebx, l[i].ecx, l[i].edx};

			return r[feature_reg(f)] >> feature_bit(f) & 1;
		}
	return false;
}

static void offers_by_vendor(void **state)
{
	struct cpu_cpuid i[CPU_CPUID_MAX], a[CPU_CPUID_MAX];
	int ni = cpu_cpuid_supported(CPU_VENDOR_INTEL, i, CPU_CPUID_MAX);
	int na = cpu_cpuid_supported(CPU_VENDOR_AMD, a, CPU_CPUID_MAX);

	assert_true(offered(i, ni, X86_FEATURE_ARCH_CAPABILITIES));
	assert_false(offered(a, na, X86_FEATURE_ARCH_CAPABILITIES));
	assert_true(offered(a, na, X86_FEATURE_SRSO_NO));
	assert_false(offered(i, ni, X86_FEATURE_SRSO_NO));
	assert_true(offered(i, ni, X86_FEATURE_PCID) && offered(a, na, X86_FEATURE_PCID));
	assert_true(offered(i, ni, X86_FEATURE_PKU) && offered(a, na, X86_FEATURE_LA57));
	assert_true(offered(i, ni, X86_FEATURE_VMX));
	assert_false(offered(a, na, X86_FEATURE_VMX) || offered(a, na, X86_FEATURE_SVM));
	assert_false(offered(i, ni, X86_FEATURE_OSXSAVE) || offered(i, ni, X86_FEATURE_MWAIT));
	assert_int_equal(cpu_cpuid_supported(CPU_VENDOR_AMD, a, 3), -7 /* -E2BIG */);
}

/* A model offers a subset, its own signature and last leaf, and as much more as it is newer. */
static void models_hold_back(void **state)
{
	static struct cpu_cpuid all[CPU_CPUID_MAX], some[CPU_CPUID_MAX];
	static const unsigned features[] = {
#define FEATURE(name, word, bit, policy, reason) X86_FEATURE_##name,
#include "cpu/feature.def"
	};
	const struct cpu_model *m;

	for (unsigned k = 0; (m = cpu_model_at(k)); k++) {
		int na = cpu_cpuid_supported(m->vendor, all, CPU_CPUID_MAX);
		int ns = cpu_cpuid_supported_by(m->vendor, m, some, CPU_CPUID_MAX);

		assert_true(ns > 0 && ns <= na);
		assert_ptr_equal(cpu_model_find(m->name, strlen(m->name)), m);
		for (unsigned i = 0; i < ARRAY_SIZE(features); i++)
			if (offered(some, ns, features[i]))
				assert_true(offered(all, na, features[i]) &&
					    cpu_model_has(m, features[i]));
		for (int i = 0; i < ns; i++) {
			assert_true(some[i].leaf <= m->last_leaf || some[i].leaf >= 0x40000000);
			if (some[i].leaf == 1)
				assert_int_equal(some[i].eax, m->signature);
			if (some[i].leaf == 0xd && !some[i].index &&
			    !cpu_model_has(m, X86_FEATURE_AVX512F))
				assert_false(some[i].eax & XSTATE_AVX512);
		}
	}
	m = cpu_model_find("haswell", 7);
	assert_non_null(m);
	assert_true(cpu_model_has(m, X86_FEATURE_AVX2) && !cpu_model_has(m, X86_FEATURE_ADX));
	assert_ptr_equal(cpu_model_find("EPYC-Rome", 9), cpu_model_find("epyc_rome", 9));
	assert_null(cpu_model_find("EPYC-R", 6));
}

/* A client's claim to what is not implemented shows in CPUID and has no effect. */
static void claims_are_checked(void **state)
{
	struct cpu_cpuid e[] = {
		{.leaf = 0, .eax = 7, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
		{.leaf = 1, .ecx = 0xffffffff, .edx = 0xffffffff},
	};
	u32 r[4];

	assert_int_equal(cpu_cpuid_set(rig.cpu, e, 2), 0);
	cpu_cpuid_query(rig.cpu, 1, 0, r);
	assert_true(r[2] & BIT(6));
	assert_false(cpu_has(rig.cpu, X86_FEATURE_SMX));
	assert_true(cpu_has(rig.cpu, X86_FEATURE_X2APIC));
	assert_false(cpu_has(rig.cpu, X86_FEATURE_LM));
	assert_int_equal(rig.cpu->maxphyaddr, 36);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_bit_has_one_row),
		cmocka_unit_test(masked_bits_have_reasons),
		cmocka_unit_test(constants_decode),
		cmocka_unit_test(offers_by_vendor),
		cmocka_unit_test(models_hold_back),
		cmocka_unit_test_setup_teardown(claims_are_checked, rig_setup, rig_teardown),
	};

	return cmocka_run_group_tests_name("cpu feature", tests, NULL, NULL);
}
