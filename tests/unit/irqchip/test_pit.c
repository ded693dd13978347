/* The 8254: counts and outputs by mode, latches, ticks, reinjection, speaker, state. */
#include <pthread.h>
#include <unistd.h>
#include "fake.h"

#define HZ 1193182ull
/* ns after which `ticks` have passed (rounded up). */
#define NS(ticks) (((ticks)*1000000000ull + HZ - 1) / HZ)

static int setup(void **state)
{
	struct fake *f;

	fake_setup(state);
	f = *state;
	assert_int_equal(irqchip_create_pit(f->chip, KVM_PIT_SPEAKER_DUMMY), 0);
	fake_enable(f->l[0]);
	fake_write(f->l[0], APIC_LVT0, 0x10000);
	fake_ioapic_entry(f, 0, 0x40);
	return 0;
}

static void program(struct fake *f, unsigned channel, unsigned mode, u16 count)
{
	fake_out(f, 0x43, (u8)(channel << 6 | 3 << 4 | mode << 1));
	fake_out(f, 0x40 + channel, count & 0xff);
	fake_out(f, 0x40 + channel, count >> 8);
}

static u16 count_of(struct fake *f, unsigned channel)
{
	fake_out(f, 0x43, (u8)(channel << 6)); /* latch */
	u16 low = fake_in(f, 0x40 + channel);

	return low | (u16)(fake_in(f, 0x40 + channel) << 8);
}

static u8 status_of(struct fake *f, unsigned channel)
{
	fake_out(f, 0x43, (u8)(0xe0 | 2u << channel));
	return fake_in(f, 0x40 + channel);
}

/* Channel 2's gate; its rising edge triggers modes 1 and 5. */
static void gate(struct fake *f, bool up)
{
	fake_out(f, 0x61, up);
}
static void trigger(struct fake *f)
{
	gate(f, false);
	gate(f, true);
}

/* Takes and ends the tick; 1 or 0. */
static int tick(struct fake *f)
{
	if (fake_take(f->l[0]) != 0x40)
		return 0;
	lapic_eoi(f->l[0]);
	return 1;
}

static void test_create(void **state)
{
	struct fake *f = *state;
	struct kvm_pit_state2 s = {0};

	assert_int_equal(irqchip_get_pit(f->chip, &s), -ENXIO);
	assert_int_equal(irqchip_set_pit(f->chip, &s), -ENXIO);
	assert_int_equal(irqchip_set_pit_reinject(f->chip, true), -ENXIO);
	assert_int_equal(irqchip_create_pit(f->chip, 2), -EINVAL);
	u8 v;
	assert_false(irqchip_pio_read(f->chip, 0x40, &v, 1));
	assert_int_equal(irqchip_create_pit(f->chip, 0), 0);
	assert_int_equal(irqchip_create_pit(f->chip, 0), -EEXIST);
	assert_true(irqchip_pio_read(f->chip, 0x40, &v, 1));
	assert_false(irqchip_pio_read(f->chip, 0x61, &v, 1)); /* not without the flag */
	assert_int_equal(irqchip_get_pit(f->chip, &s), 0);
	assert_int_equal(s.channels[0].count, 0x10000);
	assert_int_equal(s.channels[0].mode, 0xff);
	assert_int_equal(s.channels[0].gate, 1);
	assert_int_equal(s.channels[2].gate, 0);
}

static void test_split_has_none(void **state)
{
	struct fake *f = *state;

	assert_int_equal(irqchip_create_pit(f->chip, 0), -ENOENT);
}

static void test_counts(void **state)
{
	struct fake *f = *state;

	gate(f, true);
	for (unsigned mode = 0; mode < 6; mode++) {
		program(f, 2, mode, 1000);
		if (mode == 1 || mode == 5)
			trigger(f);
		assert_int_equal(count_of(f, 2), 1000);
		fake_sleep(f, NS(300));
		assert_int_equal(count_of(f, 2), mode == 3 ? 400 : 700);
		fake_sleep(f, NS(1000));
		if (mode == 2)
			assert_in_range(count_of(f, 2), 699, 700);
		else if (mode == 3)
			assert_in_range(count_of(f, 2), 398, 400);
		else
			assert_in_range(count_of(f, 2), 0xffff - 301, 0xffff - 298); /* wrapped */
	}
	/* 0 is 65536. */
	program(f, 2, 2, 0);
	fake_sleep(f, NS(1));
	assert_int_equal(count_of(f, 2), 0xffff);
}

static void test_outputs(void **state)
{
	struct fake *f = *state;

	gate(f, true);
	fake_out(f, 0x43, 0xb0);
	assert_int_equal(status_of(f, 2), 0x70); /* low from the control word on; no count yet */
	program(f, 2, 0, 100);
	assert_int_equal(status_of(f, 2), 0x30); /* low until terminal count */
	fake_sleep(f, NS(100));
	assert_int_equal(status_of(f, 2), 0xb0);
	program(f, 2, 1, 100);
	assert_int_equal(status_of(f, 2), 0xb2); /* high until the trigger, and after the count */
	trigger(f);
	assert_int_equal(status_of(f, 2), 0x32);
	fake_sleep(f, NS(100));
	assert_int_equal(status_of(f, 2), 0xb2);
	program(f, 2, 2, 100);
	assert_int_equal(status_of(f, 2), 0xb4); /* low for the last of its ticks */
	fake_sleep(f, NS(99));
	assert_int_equal(status_of(f, 2), 0x34);
	fake_sleep(f, NS(1));
	assert_int_equal(status_of(f, 2), 0xb4);
	program(f, 2, 4, 100);
	assert_int_equal(status_of(f, 2), 0xb8); /* low for one tick at terminal count */
	fake_sleep(f, NS(100));
	assert_int_equal(status_of(f, 2), 0x38);
	fake_sleep(f, NS(2));
	assert_int_equal(status_of(f, 2), 0xb8);
	program(f, 2, 3, 100);
	assert_int_equal(status_of(f, 2), 0xb6); /* square wave */
	fake_sleep(f, NS(50));
	assert_int_equal(status_of(f, 2), 0x36);
	fake_sleep(f, NS(50));
	assert_int_equal(status_of(f, 2), 0xb6);
	fake_out(f, 0x43, 0xbc); /* mode 6 is 2 */
	assert_int_equal(status_of(f, 2) & 0x3f, 0x34);
	fake_out(f, 0x43, 0xb5); /* BCD is remembered */
	assert_int_equal(status_of(f, 2) & 0x3f, 0x35);
}

static void test_access_modes(void **state)
{
	struct fake *f = *state;

	gate(f, true);
	fake_out(f, 0x43, 0x94); /* channel 2, low byte only, mode 2 */
	fake_out(f, 0x42, 0x80);
	assert_int_equal(fake_in(f, 0x42), 0x80);
	fake_out(f, 0x43, 0xa4); /* high byte only */
	fake_out(f, 0x42, 0x12);
	assert_int_equal(fake_in(f, 0x42), 0x12);
	program(f, 2, 2, 0x1234);
	assert_int_equal(fake_in(f, 0x42), 0x34);
	assert_int_equal(fake_in(f, 0x42), 0x12);
	/* A latched count stands still; a second latch before the read does nothing. */
	fake_out(f, 0x43, 0x80);
	fake_sleep(f, NS(0x34));
	fake_out(f, 0x43, 0x80);
	assert_int_equal(fake_in(f, 0x42), 0x34);
	assert_int_equal(fake_in(f, 0x42), 0x12);
	assert_int_equal(fake_in(f, 0x42), 0x00);
	assert_int_equal(fake_in(f, 0x42), 0x12);
	/* Read-back of count and status of all: status first, then the count. */
	program(f, 2, 2, 0x2000);
	fake_out(f, 0x43, 0xce);
	assert_int_equal(fake_in(f, 0x42), 0xb4);
	assert_int_equal(fake_in(f, 0x42), 0x00);
	assert_int_equal(fake_in(f, 0x42), 0x20);
	assert_int_equal(fake_in(f, 0x43), 0); /* write-only */
}

static void test_periodic_ticks(void **state)
{
	struct fake *f = *state;

	program(f, 0, 2, 11932); /* 10 ms */
	for (int i = 0; i < 3; i++) {
		fake_sleep(f, 9900000);
		assert_int_equal(tick(f), 0);
		fake_sleep(f, 100200);
		assert_int_equal(tick(f), 1);
		assert_int_equal(tick(f), 0);
	}
	fake_out(f, 0x43, 0x30); /* a mode alone does not stop it, a count does */
	program(f, 0, 5, 100);
	fake_sleep(f, 50000000);
	assert_int_equal(tick(f), 0);
	program(f, 0, 0, 11932);
	fake_sleep(f, 10100000);
	assert_int_equal(tick(f), 1); /* once */
	fake_sleep(f, 50000000);
	assert_int_equal(tick(f), 0);
	program(f, 0, 3, 2); /* much too fast: bounded */
	fake_sleep(f, 199999);
	assert_int_equal(tick(f), 0);
	fake_sleep(f, 1);
	assert_int_equal(tick(f), 1);
}

static void test_reinject(void **state)
{
	struct fake *f = *state;
	int n = 0;

	program(f, 0, 2, 11932);
	fake_sleep(f, 55000000); /* the guest sleeps through five ticks */
	while (tick(f))
		n++;
	assert_int_equal(n, 5); /* each comes as the one before is ended */
	/* Without, four are lost. */
	assert_int_equal(irqchip_set_pit_reinject(f->chip, false), 0);
	fake_sleep(f, 50000000);
	for (n = 0; tick(f);)
		n++;
	assert_int_equal(n, 1);
	assert_int_equal(irqchip_set_pit_reinject(f->chip, true), 0);
	/* Ticks of a masked pin are not owed. */
	fake_ioapic_write(f, 0x10, 0x10040);
	fake_sleep(f, 50000000);
	fake_ioapic_write(f, 0x10, 0x40);
	fake_sleep(f, 10100000);
	for (n = 0; tick(f);)
		n++;
	assert_in_range(n, 1, 2);
}

static void test_through_pic(void **state)
{
	struct fake *f = *state;
	static const u8 words[] = {0x20, 0x04, 0x01, 0xfe};
	int n = 0;

	fake_ioapic_write(f, 0x10, 0x10040);
	fake_write(f->l[0], APIC_LVT0, 0x700);
	fake_out(f, 0x20, 0x11);
	for (unsigned i = 0; i < sizeof(words); i++)
		fake_out(f, 0x21, words[i]);
	program(f, 0, 2, 11932);
	fake_sleep(f, 32000000);
	while (fake_take(f->l[0]) == 0x20) {
		fake_out(f, 0x20, 0x20);
		n++;
	}
	assert_int_equal(n, 3);
}

static void test_nmi_watchdog(void **state)
{
	struct fake *f = *state;

	fake_enable(f->l[1]);
	fake_write(f->l[1], APIC_LVT0, 0x400);
	program(f, 0, 2, 11932);
	fake_sleep(f, 10100000);
	assert_int_equal(f->v[1].nmis, 1);
	assert_int_equal(f->v[0].nmis, 0);
	fake_write(f->l[1], APIC_LVT0, 0x10400);
	tick(f);
	fake_sleep(f, 10100000);
	assert_int_equal(f->v[1].nmis, 1);
}

static void test_speaker(void **state)
{
	struct fake *f = *state;

	program(f, 2, 3, 1000);
	fake_out(f, 0x61, 0x00);
	assert_int_equal(fake_in(f, 0x61) & 0x03, 0);
	fake_sleep(f, NS(600));
	assert_int_equal(fake_in(f, 0x61) & 0x20, 0x20); /* high while the gate is low */
	fake_out(f, 0x61, 0x03); /* the gate's rising edge restarts the wave */
	assert_int_equal(fake_in(f, 0x61) & 0x23, 0x23);
	u8 before = fake_in(f, 0x61) & 0x10;
	fake_sleep(f, 1 << 14);
	assert_int_not_equal(fake_in(f, 0x61) & 0x10, before);
	/* Mode 0 is not triggered by its gate: it stands while that is low. */
	program(f, 2, 0, 1000);
	fake_sleep(f, NS(600));
	gate(f, false);
	fake_sleep(f, NS(200));
	assert_int_equal(count_of(f, 2), 400);
	gate(f, true);
	assert_int_equal(count_of(f, 2), 400);
	fake_sleep(f, NS(100));
	assert_in_range(count_of(f, 2), 299, 300);
}

static void test_state(void **state)
{
	struct fake *f = *state;
	struct kvm_pit_state2 s, back;
	int n = 0;

	program(f, 0, 2, 11932);
	program(f, 2, 3, 1000);
	fake_out(f, 0x61, 0x02);
	fake_sleep(f, 5000000);
	assert_int_equal(irqchip_get_pit(f->chip, &s), 0);
	assert_int_equal(s.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
	assert_int_equal(s.channels[0].count, 11932);
	assert_int_equal(s.channels[0].mode, 2);
	assert_int_equal(irqchip_set_pit(f->chip, &s), 0);
	assert_int_equal(irqchip_get_pit(f->chip, &back), 0);
	for (int i = 0; i < 3; i++) /* loading starts the counters anew */
		back.channels[i].count_load_time = s.channels[i].count_load_time;
	assert_memory_equal(&s, &back, sizeof(s));
	fake_sleep(f, 9900000);
	assert_int_equal(tick(f), 0);
	fake_sleep(f, 200000);
	assert_int_equal(tick(f), 1);
	/* The HPET takes channel 0's place, and gives it back. */
	s.flags = KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(irqchip_set_pit(f->chip, &s), 0);
	fake_sleep(f, 50000000);
	assert_int_equal(tick(f), 0);
	s.flags = 0;
	assert_int_equal(irqchip_set_pit(f->chip, &s), 0);
	fake_sleep(f, 10100000);
	assert_int_equal(tick(f), 1);
	/* Garbage. */
	memset(&s, 0xff, sizeof(s));
	assert_int_equal(irqchip_set_pit(f->chip, &s), 0);
	s.flags = 0;
	for (unsigned i = 0; i < 3; i++) {
		count_of(f, i);
		status_of(f, i);
		s.channels[i].count = 0;
		s.channels[i].mode = 3;
	}
	assert_int_equal(irqchip_set_pit(f->chip, &s), 0);
	count_of(f, 0);
	fake_sleep(f, 100000000);
	while (tick(f))
		n++;
	assert_true(n > 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, fake_teardown)

static pthread_t vcpu;

/* The line is up. The timer's thread is slow to bring it down, so that ticks pile up. */
static void slow_timer(struct fake *f)
{
	if (!pthread_equal(pthread_self(), vcpu))
		usleep(3000);
}

#define TAKEN 30u

/* Takes and ends ticks as soon as they are there. */
static void *take_ticks(void *arg)
{
	struct fake *f = arg;

	for (unsigned n = 0, looks = 0; n < TAKEN; looks++) {
		if (looks > 20000)
			return f;
		if (fake_take(f->l[0]) == 0x20) {
			fake_out(f, 0x20, 0x20);
			n++;
			looks = 0;
		} else {
			usleep(100);
		}
	}
	return NULL;
}

/* An acknowledgement raises the next tick while the pulse of the one before is not over. */
static void test_pulses(void **state)
{
	struct fake *f = fake_new(IRQCHIP_FULL, 1, TIMER_MONOTONIC);
	void *stuck;

	assert_int_equal(irqchip_create_pit(f->chip, 0), 0);
	fake_enable(f->l[0]);
	fake_write(f->l[0], APIC_LVT0, 0x700);
	fake_out(f, 0x20, 0x11);
	fake_out(f, 0x21, 0x20);
	fake_out(f, 0x21, 4);
	fake_out(f, 0x21, 1);
	fake_out(f, 0x21, 0xfe);
	f->on_kick = slow_timer;
	assert_int_equal(pthread_create(&vcpu, NULL, take_ticks, f), 0);
	program(f, 0, 2, 1193);
	assert_int_equal(pthread_join(vcpu, &stuck), 0);
	assert_null(stuck);
	fake_free(f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_create),	 FAKE_TEST_SPLIT(test_split_has_none),
		TEST(test_counts),	 TEST(test_outputs),
		TEST(test_access_modes), TEST(test_periodic_ticks),
		TEST(test_reinject),	 TEST(test_through_pic),
		TEST(test_nmi_watchdog), TEST(test_speaker),
		TEST(test_state),	 cmocka_unit_test(test_pulses),
	};

	return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
