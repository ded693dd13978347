/* CPUID: topology of a vCPU; the table grows until the accelerator's fits. */
#include "fake.h"

#include "vmm/vcpu.h"

static struct kvm_cpuid2 *make(void)
{
	static const u32 leaves[][2] = {
		{1, 0},	  {4, 3},	   {4, 0},	    {0xb, 0},	     {0xb, 1},
		{0xb, 2}, {0x80000001, 0}, {0x80000008, 0}, {0x8000001d, 3}, {0x8000001e, 0}};
	struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + ARRAY_SIZE(leaves) * sizeof(c->entries[0]));

	c->nent = ARRAY_SIZE(leaves);
	for (unsigned i = 0; i < c->nent; i++) {
		c->entries[i].function = leaves[i][0];
		c->entries[i].index = leaves[i][1];
		c->entries[i].ebx = 0x55aa;
	}
	c->entries[1].eax = c->entries[8].eax = 3 << 5 | 3; /* a level 3 cache */
	c->entries[2].eax = 1 << 5 | 1;
	c->entries[7].ecx = 0xf0ff;
	return c;
}

static void topology(void **state)
{
	struct kvm_cpuid2 *c = make();
	struct kvm_cpuid_entry2 *e = c->entries;

	cpuid_set_topology(c, 4, 6);
	assert_int_equal(e[0].ebx, 4 << 24 | 6 << 16 | 0x55aa);
	assert_false(e[0].ecx & BIT(31)); /* it may have been taken away */
	assert_true(e[0].edx & BIT(28));
	assert_int_equal(e[1].eax >> 26, 7);
	assert_int_equal((e[1].eax >> 14) & 0xfff, 7);
	assert_int_equal((e[2].eax >> 14) & 0xfff, 0);
	assert_int_equal(e[3].ecx, 1 << 8);
	assert_int_equal(e[3].eax, 0);
	assert_int_equal(e[3].ebx, 1);
	assert_int_equal(e[4].ecx, 2 << 8 | 1);
	assert_int_equal(e[4].eax, 3);
	assert_int_equal(e[4].ebx, 6);
	assert_int_equal(e[5].ecx, 2);
	for (unsigned i = 3; i < 6; i++)
		assert_int_equal(e[i].edx, 4);
	assert_true(e[6].ecx & BIT(1));
	assert_int_equal(e[7].ecx, 3 << 12 | 5);
	assert_int_equal((e[8].eax >> 14) & 0xfff, 7);
	assert_int_equal(e[9].eax, 4);
	/* The same table again for a single CPU: nothing of the first one may stay. */
	cpuid_set_topology(c, 0, 1);
	assert_int_equal(e[0].ebx, 1 << 16 | 0x55aa);
	assert_false(e[0].edx & BIT(28));
	assert_int_equal(e[1].eax >> 14, 0);
	assert_int_equal(e[4].eax, 0);
	assert_false(e[6].ecx & BIT(1));
	assert_int_equal(e[7].ecx, 0);
	g_free(c);
}

static void supported(void **state)
{
	const struct accel_ops ops = {.name = "fake"};
	const struct accel accel = {&ops, 0};
	struct kvm_cpuid2 *c;

	fake_reset(state);
	c = cpuid_supported(&accel, NULL);
	assert_non_null(c);
	/* 200 leaves, without 0x1f and the single 0xb, with the three levels of 0xb. */
	assert_int_equal(c->nent, 201);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(c->entries[198 + i].function, 0xb);
		assert_int_equal(c->entries[198 + i].index, i);
	}
	assert_false(c->entries[197].ecx & BIT(24));
	assert_true(c->entries[197].ecx & BIT(31));
	g_free(c);
	fake.deadline_timer = true;
	c = cpuid_supported(&accel, NULL);
	assert_true(c->entries[197].ecx & BIT(24));
	g_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(topology),
		cmocka_unit_test(supported),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
