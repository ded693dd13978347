/* The local APIC's timer: one-shot, periodic, TSC deadline; and saving and restoring the APIC. */
#include "fake.h"

#define MS 1000000ull

static struct lapic *start(struct fake *f, u32 lvtt, u32 divide)
{
	fake_enable(f->l[1]);
	fake_write(f->l[1], APIC_LVTT, lvtt);
	fake_write(f->l[1], APIC_TDCR, divide);
	return f->l[1];
}

static void test_oneshot(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x30, 0xb);

	assert_int_equal(fake_read(l, APIC_TMCCT), 0);
	fake_write(l, APIC_TMICT, 1000000);
	fake_sleep(f, 250000);
	assert_int_equal(fake_read(l, APIC_TMCCT), 750000);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 749999);
	assert_int_equal(fake_read(l, APIC_TMCCT), 1);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x30);
	lapic_eoi(l);
	assert_int_equal(fake_read(l, APIC_TMCCT), 0);
	fake_sleep(f, 10 * MS);
	assert_int_equal(fake_take(l), -1);
	/* Writing 0 stops; rewriting restarts. */
	fake_write(l, APIC_TMICT, 1000);
	fake_write(l, APIC_TMICT, 0);
	fake_sleep(f, MS);
	assert_int_equal(fake_take(l), -1);
	fake_write(l, APIC_TMICT, 1000);
	fake_sleep(f, 500);
	fake_write(l, APIC_TMICT, 1000);
	fake_sleep(f, 999);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x30);
}

static void test_masked(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x10030, 0xb);

	fake_write(l, APIC_TMICT, 1000);
	fake_sleep(f, 2000);
	assert_int_equal(fake_take(l), -1);
	fake_write(l, APIC_LVTT, 0x30);
	fake_sleep(f, 2000);
	assert_int_equal(fake_take(l), -1); /* was lost */
}

static void test_divide(void **state)
{
	static const struct {
		u32 code, divide;
	} rows[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {0xa, 128}, {0xb, 1}};
	struct fake *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct lapic *l = start(f, 0x30, rows[i].code);

		fake_write(l, APIC_TMICT, 1000);
		fake_sleep(f, 1000 * rows[i].divide - 1);
		assert_int_equal(fake_take(l), -1);
		fake_sleep(f, 1);
		assert_int_equal(fake_take(l), 0x30);
		lapic_eoi(l);
	}
	fake_write(f->l[1], APIC_TDCR, 0xff);
	assert_int_equal(fake_read(f->l[1], APIC_TDCR), 0xb);
}

static void test_divide_while_running(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x30, 0xb);

	fake_write(l, APIC_TMICT, 1000000);
	fake_sleep(f, 500000);
	fake_write(l, APIC_TDCR, 0); /* the other half takes twice as long */
	assert_int_equal(fake_read(l, APIC_TMCCT), 500000);
	fake_sleep(f, 999999);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x30);
}

static void test_bus_frequency(void **state)
{
	struct fake *f = *state;

	assert_int_equal(irqchip_set_apic_bus_ns(f->chip, 0), -EINVAL);
	assert_int_equal(irqchip_set_apic_bus_ns(f->chip, BIT64(40)), -EINVAL);
	assert_int_equal(irqchip_set_apic_bus_ns(f->chip, 40), 0);
	struct lapic *l = start(f, 0x30, 0xb);
	fake_write(l, APIC_TMICT, 1000);
	fake_sleep(f, 39999);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x30);
}

static void test_periodic(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x20031, 0xb);

	fake_write(l, APIC_TMICT, 1000000);
	for (int i = 0; i < 5; i++) {
		fake_sleep(f, MS - 1);
		assert_int_equal(fake_take(l), -1);
		fake_sleep(f, 1);
		assert_int_equal(fake_take(l), 0x31);
		lapic_eoi(l);
	}
	fake_sleep(f, 300000);
	assert_int_equal(fake_read(l, APIC_TMCCT), 700000);
	/* Missed ticks become one. */
	fake_sleep(f, 10 * MS);
	assert_int_equal(fake_take(l), 0x31);
	lapic_eoi(l);
	assert_int_equal(fake_take(l), -1);
	/* To one-shot without stopping: one more. */
	fake_write(l, APIC_LVTT, 0x31);
	fake_sleep(f, 10 * MS);
	assert_int_equal(fake_take(l), 0x31);
	lapic_eoi(l);
	fake_sleep(f, 10 * MS);
	assert_int_equal(fake_take(l), -1);
	/* A period that would eat the host is stretched. */
	fake_write(l, APIC_LVTT, 0x20031);
	fake_write(l, APIC_TMICT, 1);
	fake_sleep(f, 199999);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x31);
	/* Software-disabling masks it. */
	lapic_eoi(l);
	fake_write(l, APIC_SPIV, 0xff);
	fake_sleep(f, MS);
	assert_int_equal(fake_take(l), -1);
}

static void test_deadline(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x40032, 0xb);
	u64 tsc = 2 * timer_service_now(f->timers);

	assert_int_equal(fake_read(l, APIC_LVTT), 0x40032);
	fake_write(l, APIC_TMICT, 1000); /* ignored in this mode */
	assert_int_equal(fake_read(l, APIC_TMICT), 0);
	lapic_set_tsc_deadline(l, tsc + 2001);
	assert_int_equal(lapic_get_tsc_deadline(l), tsc + 2001);
	fake_sleep(f, 1000);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x32);
	lapic_eoi(l);
	assert_int_equal(lapic_get_tsc_deadline(l), 0);
	lapic_set_tsc_deadline(l, tsc); /* passed: at once */
	assert_int_equal(fake_take(l), 0x32);
	lapic_eoi(l);
	lapic_set_tsc_deadline(l, tsc + 10000);
	lapic_set_tsc_deadline(l, 0); /* disarms */
	fake_sleep(f, MS);
	assert_int_equal(fake_take(l), -1);
	lapic_set_tsc_deadline(l, ~0ull); /* never */
	fake_sleep(f, MS);
	assert_int_equal(fake_take(l), -1);
	/* The guest sets its TSC back, then forward beyond the deadline. */
	tsc = 2 * timer_service_now(f->timers);
	lapic_set_tsc_deadline(l, tsc + 2000);
	f->tsc_offset = -1000;
	lapic_tsc_changed(l);
	fake_sleep(f, 1499);
	assert_int_equal(fake_take(l), -1);
	f->tsc_offset = 1000;
	lapic_tsc_changed(l);
	assert_int_equal(fake_take(l), 0x32);
	lapic_eoi(l);
	/* The host's timer is early by the guest's clock: it waits on. */
	tsc = 2 * timer_service_now(f->timers) + 1000;
	lapic_set_tsc_deadline(l, tsc + 2000);
	f->tsc_offset = 0;
	fake_sleep(f, 1499);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x32);
	/* Leaving the mode disarms. */
	lapic_set_tsc_deadline(l, tsc + 100000);
	fake_write(l, APIC_LVTT, 0x32);
	assert_int_equal(lapic_get_tsc_deadline(l), 0);
	lapic_set_tsc_deadline(l, 1);
	assert_int_equal(fake_take(l), -1);
}

static void test_deadline_needs_cpuid(void **state)
{
	struct fake *f = *state;
	struct lapic_features none = {0};

	lapic_set_features(f->l[1], &none);
	struct lapic *l = start(f, 0x40032, 0xb);
	assert_int_equal(fake_read(l, APIC_LVTT), 0x32);
	lapic_set_tsc_deadline(l, 1);
	assert_int_equal(fake_take(l), -1);
}

static void test_reset_stops(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x20031, 0xb);

	fake_write(l, APIC_TMICT, 1000000);
	lapic_reset(l, true);
	fake_enable(l);
	fake_sleep(f, 10 * MS);
	assert_int_equal(fake_take(l), -1);
	assert_int_equal(fake_read(l, APIC_TMICT), 0);
}

/* Saving and restoring. */

static u32 saved(struct kvm_lapic_state *s, u32 reg)
{
	return *(u32 *)(s->regs + reg);
}

static void test_state_round_trip(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x20031, 0xb), *to = f->l[2];
	struct kvm_lapic_state a, b;

	fake_write(l, APIC_LDR, 2u << 24);
	fake_write(l, APIC_TPR, 0x20);
	fake_msi(f, 1, 0, 0x44);
	fake_msi(f, 1, 0, 0x8055);
	assert_int_equal(fake_take(l), 0x55);
	fake_msi(f, 1, 0, 0x66);
	fake_write(l, APIC_TMICT, 1000000);
	fake_sleep(f, 400000);
	lapic_get_state(l, &a);
	assert_int_equal(saved(&a, APIC_TMCCT), 600000);
	assert_int_equal(saved(&a, APIC_ID), 1u << 24);
	lapic_set_tsc_deadline(l, 0);
	assert_int_equal(lapic_set_state(to, &a), 0);
	lapic_get_state(to, &b);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(fake_read(to, APIC_PPR), 0x50);
	assert_true(lapic_pending(to));
	assert_int_equal(fake_take(to), 0x66);
	lapic_eoi(to);
	assert_int_equal(fake_take(to), -1);
	assert_int_equal(lapic_eoi(to), 0x55);
	assert_int_equal(fake_take(to), 0x44);
	lapic_eoi(to);
	/* The first tick comes when the saved count runs out, then in full periods. */
	fake_sleep(f, 599999);
	assert_int_equal(fake_take(to), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(to), 0x31);
	lapic_eoi(to);
	fake_sleep(f, 999999);
	assert_int_equal(fake_take(to), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(to), 0x31);
}

static void test_state_x2apic_ids(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[3];
	struct kvm_lapic_state s;
	u64 icr;

	fake_x2apic(l);
	assert_int_equal(lapic_msr_write(l, 0x830, 0x500000040ull), 0);
	lapic_get_state(l, &s);
	assert_int_equal(saved(&s, APIC_ID), 3u << 24); /* the old format */
	assert_int_equal(saved(&s, APIC_ICR2), 5);
	*(u32 *)(s.regs + APIC_ID) = 9u << 24; /* ids are not the client's to give */
	assert_int_equal(lapic_set_state(l, &s), 0);
	assert_int_equal(fake_read(l, APIC_ID), 3);
	assert_int_equal(lapic_msr_read(l, 0x830, &icr), 0);
	assert_int_equal(icr, 0x500000040ull);
	assert_int_equal(irqchip_set_x2apic_api(f->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	lapic_get_state(l, &s);
	assert_int_equal(saved(&s, APIC_ID), 3);
	assert_int_equal(lapic_set_state(l, &s), 0);
	*(u32 *)(s.regs + APIC_ID) = 4;
	assert_int_equal(lapic_set_state(l, &s), -EINVAL);
}

static void test_state_garbage(void **state)
{
	struct fake *f = *state;
	struct kvm_lapic_state s;
	u32 seed = 1;

	/* Whatever a client restores: no crash, and the guest can go on. */
	for (int round = 0; round < 200; round++) {
		for (unsigned i = 0; i < sizeof(s.regs); i++)
			s.regs[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
		if (round == 0)
			memset(&s, 0xff, sizeof(s));
		struct lapic *l = f->l[round & 3];
		assert_int_equal(lapic_set_state(l, &s), 0);
		fake_sleep(f, MS);
		for (int i = 0; i < 300; i++) {
			fake_take(l);
			lapic_eoi(l);
		}
	}
}

/* Restoring what was saved keeps an armed deadline; restoring another mode does not. */
static void test_state_deadline(void **state)
{
	struct fake *f = *state;
	struct lapic *l = start(f, 0x40032, 0xb);
	u64 tsc = 2 * timer_service_now(f->timers);
	struct kvm_lapic_state s;

	lapic_set_tsc_deadline(l, tsc + 2000);
	lapic_get_state(l, &s);
	assert_int_equal(lapic_set_state(l, &s), 0);
	assert_int_equal(lapic_get_tsc_deadline(l), tsc + 2000);
	fake_sleep(f, 999);
	assert_int_equal(fake_take(l), -1);
	fake_sleep(f, 1);
	assert_int_equal(fake_take(l), 0x32);
	lapic_eoi(l);
	lapic_set_tsc_deadline(l, tsc + 20000);
	lapic_reg_set((u32 *)s.regs, APIC_LVTT, 0x32);
	assert_int_equal(lapic_set_state(l, &s), 0);
	fake_write(l, APIC_LVTT, 0x40032);
	assert_int_equal(lapic_get_tsc_deadline(l), 0);
	fake_sleep(f, MS);
	assert_int_equal(fake_take(l), -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_oneshot),	  FAKE_TEST(test_masked),
		FAKE_TEST(test_divide),		  FAKE_TEST(test_divide_while_running),
		FAKE_TEST(test_bus_frequency),	  FAKE_TEST(test_periodic),
		FAKE_TEST(test_deadline),	  FAKE_TEST(test_deadline_needs_cpuid),
		FAKE_TEST(test_reset_stops),	  FAKE_TEST(test_state_round_trip),
		FAKE_TEST(test_state_x2apic_ids), FAKE_TEST(test_state_garbage),
		FAKE_TEST(test_state_deadline),
	};

	return cmocka_run_group_tests_name("lapic_timer", tests, NULL, NULL);
}
