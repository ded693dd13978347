/* Interprocessor interrupts and destinations: every delivery mode, shorthand and addressing. */
#include "fake.h"

static void icr(struct lapic *l, u32 high, u32 low)
{
	fake_write(l, APIC_ICR2, high);
	fake_write(l, APIC_ICR, low);
}

static void enable_all(struct fake *f)
{
	fake_write(f->l[0], APIC_LVT0, 0x10000);
	for (unsigned i = 0; i < FAKE_VCPUS; i++)
		if (f->l[i])
			fake_enable(f->l[i]);
}

/* Bit i: vCPU i takes `vector`. Ends it. */
static u64 takers(struct fake *f, int vector)
{
	u64 who = 0;

	for (unsigned i = 0; i < FAKE_VCPUS; i++)
		if (f->l[i] && lapic_has_interrupt(f->l[i]) == vector) {
			fake_take(f->l[i]);
			lapic_eoi(f->l[i]);
			who |= BIT64(i);
		}
	return who;
}

static void test_physical(void **state)
{
	struct fake *f = *state;

	enable_all(f);
	icr(f->l[0], 2u << 24, 0x40);
	assert_int_equal(takers(f, 0x40), BIT(2));
	icr(f->l[0], 9u << 24, 0x40); /* nobody */
	assert_int_equal(takers(f, 0x40), 0);
	icr(f->l[1], 0xffu << 24, 0x41); /* broadcast */
	assert_int_equal(takers(f, 0x41), 0xf);
	icr(f->l[1], 0xffu << 24, 0x141); /* lowest priority to all: all */
	assert_int_equal(takers(f, 0x41), 0xf);
	/* A guest may rename itself. */
	fake_write(f->l[3], APIC_ID, 7u << 24);
	icr(f->l[0], 3u << 24, 0x42);
	assert_int_equal(takers(f, 0x42), 0);
	icr(f->l[0], 7u << 24, 0x42);
	assert_int_equal(takers(f, 0x42), BIT(3));
	assert_int_equal(irqchip_find_vcpu(f->chip, 7), 3);
	assert_int_equal(irqchip_find_vcpu(f->chip, 3), -1);
	assert_int_equal(irqchip_find_vcpu(f->chip, ~0u), -1);
	/* Two with one id: both. */
	fake_write(f->l[3], APIC_ID, 2u << 24);
	icr(f->l[0], 2u << 24, 0x43);
	assert_int_equal(takers(f, 0x43), BIT(2) | BIT(3));
}

static void test_shorthands(void **state)
{
	struct fake *f = *state;

	enable_all(f);
	icr(f->l[1], 0, APIC_DEST_SELF << 18 | 0x50);
	assert_int_equal(takers(f, 0x50), BIT(1));
	icr(f->l[1], 0, APIC_DEST_ALL << 18 | 0x51);
	assert_int_equal(takers(f, 0x51), 0xf);
	icr(f->l[1], 0, APIC_DEST_ALL_BUT << 18 | 0x52);
	assert_int_equal(takers(f, 0x52), 0xd);
}

static void test_flat(void **state)
{
	struct fake *f = *state;

	enable_all(f);
	for (unsigned i = 0; i < 4; i++)
		fake_write(f->l[i], APIC_LDR, BIT(i) << 24);
	icr(f->l[0], 0x0au << 24, 0x860);
	assert_int_equal(takers(f, 0x60), BIT(1) | BIT(3));
	icr(f->l[0], 0xffu << 24, 0x861);
	assert_int_equal(takers(f, 0x61), 0xf);
	icr(f->l[0], 0x10u << 24, 0x862);
	assert_int_equal(takers(f, 0x62), 0);
	/* Lowest priority: exactly one, and always the same for a vector. */
	icr(f->l[0], 0x0eu << 24, 0x960);
	u64 who = takers(f, 0x60);
	assert_int_equal(__builtin_popcountll(who), 1);
	assert_true(who & 0xe);
	icr(f->l[0], 0x0eu << 24, 0x960);
	assert_int_equal(takers(f, 0x60), who);
	icr(f->l[0], 0x0eu << 24, 0x961);
	assert_int_not_equal(takers(f, 0x61), who);
	/* A CPU with several bits: the map gives up, matching does not. */
	fake_write(f->l[0], APIC_LDR, 0x31u << 24);
	icr(f->l[1], 0x20u << 24, 0x863);
	assert_int_equal(takers(f, 0x63), BIT(0));
}

static void test_cluster(void **state)
{
	struct fake *f = *state;

	enable_all(f);
	for (unsigned i = 0; i < 4; i++) {
		fake_write(f->l[i], APIC_DFR, 0x0fffffff);
		fake_write(f->l[i], APIC_LDR, (u32)((i / 2) << 4 | BIT(i % 2)) << 24);
	}
	icr(f->l[0], 0x13u << 24, 0x870);
	assert_int_equal(takers(f, 0x70), BIT(2) | BIT(3));
	icr(f->l[0], 0x01u << 24, 0x871);
	assert_int_equal(takers(f, 0x71), BIT(0));
	icr(f->l[0], 0x21u << 24, 0x871);
	assert_int_equal(takers(f, 0x71), 0);
	/* One CPU in flat mode among them. */
	fake_write(f->l[3], APIC_DFR, 0xffffffff);
	fake_write(f->l[3], APIC_LDR, 0x12u << 24);
	icr(f->l[0], 0x11u << 24, 0x872);
	assert_int_equal(takers(f, 0x72), BIT(2) | BIT(3));
}

static void test_x2apic(void **state)
{
	struct fake *f = *state;

	fake_add(f, 4, 17);
	fake_add(f, 5, 300);
	for (unsigned i = 0; i < 6; i++)
		fake_x2apic(f->l[i]);
	fake_write(f->l[0], APIC_LVT0, 0x10000);
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 300ull << 32 | 0x40), 0);
	assert_int_equal(takers(f, 0x40), BIT(5));
	/* Logical: cluster 1, bit 1 is id 17; cluster 0 bits 0-3. */
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 0x10002ull << 32 | 0x841), 0);
	assert_int_equal(takers(f, 0x41), BIT(4));
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 0x0000cull << 32 | 0x842), 0);
	assert_int_equal(takers(f, 0x42), BIT(2) | BIT(3));
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 0xfffe0001ull << 32 | 0x842), 0);
	assert_int_equal(takers(f, 0x42), 0);
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 0xffffffffull << 32 | 0x43), 0);
	assert_int_equal(takers(f, 0x43), 0x3f);
	/* 0xff is no broadcast for an x2APIC's IPI. */
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 0xffull << 32 | 0x44), 0);
	assert_int_equal(takers(f, 0x44), 0);
	/* But it is one for devices, unless the quirk is off. */
	assert_int_equal(fake_msi(f, 0xff, 0, 0x45), 6);
	assert_int_equal(takers(f, 0x45), 0x3f);
	assert_int_equal(
		irqchip_set_x2apic_api(f->chip, KVM_X2APIC_API_USE_32BIT_IDS |
							KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK),
		0);
	assert_int_equal(irqchip_set_x2apic_api(f->chip, 4), -EINVAL);
	assert_int_equal(fake_msi(f, 0xff, 0, 0x45), -1);
	assert_int_equal(fake_msi(f, 300, 0, 0x46), 1);
	assert_int_equal(takers(f, 0x46), BIT(5));
	assert_int_equal(fake_msi(f, 0xffffffff, 0, 0x47), 6);
}

static void test_xapic_reaches_high_ids(void **state)
{
	struct fake *f = *state;

	/* Plugged in, not yet in x2APIC mode: INIT and SIPI by its x2APIC id must arrive. */
	fake_add(f, 6, 400);
	fake_x2apic(f->l[0]);
	assert_int_equal(lapic_msr_write(f->l[0], 0x830, 400ull << 32 | 0x4500), 0);
	assert_int_equal(f->v[6].inits, 1);
}

static void test_init_sipi_nmi_smi(void **state)
{
	struct fake *f = *state;

	/* None of these needs the target's APIC to be software-enabled. */
	icr(f->l[0], 1u << 24, 0xc500); /* INIT, level assert */
	assert_int_equal(f->v[1].inits, 1);
	icr(f->l[0], 1u << 24, 0x8500); /* de-assert: ignored */
	assert_int_equal(f->v[1].inits, 1);
	icr(f->l[0], 1u << 24, 0x0500); /* edge */
	assert_int_equal(f->v[1].inits, 2);
	icr(f->l[0], 1u << 24, 0x469a);
	assert_int_equal(f->v[1].sipis, 1);
	assert_int_equal(f->v[1].sipi_vector, 0x9a);
	icr(f->l[0], 0, 0xc4400 | 0);
	assert_int_equal(f->v[0].nmis, 0);
	assert_int_equal(f->v[1].nmis + f->v[2].nmis + f->v[3].nmis, 3);
	icr(f->l[0], 2u << 24, 0x4200);
	assert_int_equal(f->v[2].smis, 1);
	icr(f->l[0], 2u << 24, 0x4300);
	assert_int_equal(f->v[2].unhalts, 1);
	icr(f->l[0], 2u << 24, 0x4700); /* ExtINT message: nothing */
	assert_int_equal(takers(f, 0), 0);
	/* A level-triggered fixed de-assert is nothing either. */
	fake_enable(f->l[2]);
	icr(f->l[0], 2u << 24, 0x8050);
	assert_int_equal(takers(f, 0x50), 0);
	/* A hardware-disabled APIC hears nothing. */
	assert_int_equal(lapic_set_base(f->l[1], 0xfee00000, false), 0);
	icr(f->l[0], 1u << 24, 0x0500);
	assert_int_equal(f->v[1].inits, 2);
}

static void test_pv_ipi(void **state)
{
	struct fake *f = *state;

	fake_add(f, 10, 70);
	enable_all(f);
	assert_int_equal(irqchip_send_pv_ipi(f->chip, 0x6, 0x40, 0, 0x55, 64), 3);
	assert_int_equal(takers(f, 0x55), BIT(1) | BIT(2) | BIT(10));
	assert_int_equal(irqchip_send_pv_ipi(f->chip, 0x1, 0x40, 1, 0x55, 32), 1);
	assert_int_equal(takers(f, 0x55), BIT(1));
	assert_int_equal(irqchip_send_pv_ipi(f->chip, ~0ull, ~0ull, 0xffffffff, 0x55, 64), 0);
	assert_int_equal(irqchip_send_pv_ipi(f->chip, 1, 0, 0, 0x40055, 64), -EINVAL);
	assert_int_equal(irqchip_send_pv_ipi(f->chip, 1, 0, 0, 0x855, 64), -EINVAL);
	assert_int_equal(irqchip_send_pv_ipi(f->chip, 0x2, 0, 0, 0x400, 64), 1);
	assert_int_equal(f->v[1].nmis, 1);
}

static void test_msi(void **state)
{
	struct fake *f = *state;
	struct kvm_msi msi = {.address_lo = 0xfee01000, .data = 0x60};

	enable_all(f);
	for (unsigned i = 0; i < 4; i++)
		fake_write(f->l[i], APIC_LDR, BIT(i) << 24);
	assert_int_equal(irqchip_send_msi(f->chip, &msi), 1);
	assert_int_equal(takers(f, 0x60), BIT(1));
	assert_int_equal(fake_msi(f, 0x0c, BIT(2), 0x61), 2); /* logical */
	assert_int_equal(takers(f, 0x61), BIT(2) | BIT(3));
	assert_int_equal(fake_msi(f, 0x0c, BIT(2) | BIT(3), 0x62), 1); /* redirection hint */
	assert_int_equal(__builtin_popcountll(takers(f, 0x62)), 1);
	assert_int_equal(fake_msi(f, 0x0c, BIT(2), 0x163), 1); /* lowest priority */
	assert_int_equal(fake_msi(f, 3, 0, 0x400), 1);
	assert_int_equal(f->v[3].nmis, 1);
	assert_int_equal(fake_msi(f, 0x33, 0, 0x60), 0); /* nobody */
	msi.flags = 2;
	assert_int_equal(irqchip_send_msi(f->chip, &msi), -EINVAL);
	msi.flags = 0;
	msi.address_hi = 1;
	assert_int_equal(irqchip_send_msi(f->chip, &msi), 1); /* ignored bits */
	assert_int_equal(irqchip_set_x2apic_api(f->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	assert_int_equal(irqchip_send_msi(f->chip, &msi), -EINVAL);
}

static void test_many_vcpus(void **state)
{
	struct fake *f = fake_new(IRQCHIP_FULL, FAKE_VCPUS, TIMER_MANUAL);

	for (unsigned i = 0; i < FAKE_VCPUS; i++)
		fake_x2apic(f->l[i]);
	fake_write(f->l[0], APIC_LVT0, 0x10000);
	for (unsigned i = 0; i < FAKE_VCPUS; i++) {
		assert_int_equal(lapic_msr_write(f->l[0], 0x830, (u64)i << 32 | 0x40), 0);
		assert_int_equal(takers(f, 0x40), BIT64(i));
	}
	assert_int_equal(lapic_msr_write(f->l[5], 0x830, APIC_DEST_ALL_BUT << 18 | 0x41), 0);
	assert_int_equal(takers(f, 0x41), ~BIT64(5));
	fake_free(f);
}

/* A vCPU 256 in xAPIC mode has the register of vCPU 0: with 32-bit ids it is not that one's too. */
static void test_truncated_ids(void **state)
{
	for (unsigned wide = 0; wide < 2; wide++) {
		struct fake *f = fake_new(IRQCHIP_SPLIT, 1, TIMER_MANUAL);
		u64 flags = wide ? KVM_X2APIC_API_USE_32BIT_IDS : 0;

		assert_int_equal(irqchip_set_x2apic_api(f->chip, flags), 0);
		fake_add(f, 1, 256);
		fake_enable(f->l[0]);
		fake_enable(f->l[1]);
		assert_int_equal(fake_msi(f, 0, 0, 0x45), wide ? 1 : 2);
		assert_int_equal(fake_take(f->l[0]), 0x45);
		assert_int_equal(fake_take(f->l[1]), wide ? -1 : 0x45);
		if (wide) {
			assert_int_equal(fake_msi(f, 256, 0, 0x56), 1);
			assert_int_equal(fake_take(f->l[1]), 0x56);
		}
		fake_free(f);
	}
}

/* An x2APIC's id that is in another's xAPIC register too means both, unless ids have 32 bits. */
static void test_shared_id(void **state)
{
	struct fake *f = *state;

	for (unsigned i = 0; i < 3; i++)
		fake_enable(f->l[i]);
	fake_write(f->l[1], APIC_ID, 2u << 24);
	fake_x2apic(f->l[2]);
	assert_int_equal(fake_msi(f, 2, 0, 0x45), 2);
	assert_int_equal(fake_take(f->l[1]), 0x45);
	assert_int_equal(fake_take(f->l[2]), 0x45);
}

/* A logical destination while no APIC that is on has a logical id: nobody, not "ignored". */
static void test_no_logical_ids(void **state)
{
	struct fake *f = *state;

	assert_int_equal(fake_msi(f, 1, BIT(2), 0x45), 0);
	fake_write(f->l[0], APIC_LDR, 1u << 24);
	assert_int_equal(fake_msi(f, 1, BIT(2), 0x45), 0);
	fake_enable(f->l[0]);
	assert_int_equal(fake_msi(f, 1, BIT(2), 0x45), 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_physical),
		FAKE_TEST(test_shorthands),
		FAKE_TEST(test_flat),
		FAKE_TEST(test_cluster),
		FAKE_TEST(test_x2apic),
		FAKE_TEST(test_xapic_reaches_high_ids),
		FAKE_TEST(test_init_sipi_nmi_smi),
		FAKE_TEST(test_pv_ipi),
		FAKE_TEST(test_msi),
		FAKE_TEST(test_shared_id),
		FAKE_TEST(test_no_logical_ids),
		cmocka_unit_test(test_truncated_ids),
		cmocka_unit_test(test_many_vcpus),
	};

	return cmocka_run_group_tests_name("ipi", tests, NULL, NULL);
}
