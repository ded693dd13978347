/* The clock: reading and setting in both formats, interrupts, memory size. */
#include "fake.h"

#include <time.h>

#include "vmm/rtc.h"

static struct bus pio;
static struct rtc *rtc;

static u8 get(u8 index)
{
	bus_write(&pio, 0x70, index, 1);
	return (u8)bus_read(&pio, 0x71, 1);
}

static void put(u8 index, u8 v)
{
	bus_write(&pio, 0x70, index, 1);
	bus_write(&pio, 0x71, v, 1);
}

static int setup(void **state)
{
	fake_reset(state);
	bus_init(&pio);
	rtc = rtc_new(&pio, NULL, 3ull << 30, 5ull << 30);
	return 0;
}

static int teardown(void **state)
{
	rtc_free(rtc);
	bus_destroy(&pio);
	return 0;
}

static unsigned bcd(u8 v)
{
	return (v >> 4) * 10 + (v & 15);
}

static void reads_utc(void **state)
{
	time_t t;
	struct tm tm;

	/* not time(): that is some milliseconds behind */
	do {
		t = g_get_real_time() / G_USEC_PER_SEC;
		gmtime_r(&t, &tm);
		tm.tm_sec = (int)bcd(get(0));
	} while (g_get_real_time() / G_USEC_PER_SEC != t);
	assert_int_equal(tm.tm_sec, t % 60);
	assert_int_equal(bcd(get(0x32)) * 100 + bcd(get(9)), tm.tm_year + 1900);
	assert_int_equal(bcd(get(8)), tm.tm_mon + 1);
	assert_int_equal(get(0xd), 0x80);
	assert_int_equal(get(0xb) & 2, 2);
}

static void set_and_run(void **state)
{
	put(0xb, 0x82);
	put(0, 0x50);
	put(2, 0x59);
	put(4, 0x23);
	put(7, 0x31);
	put(8, 0x12);
	put(9, 0x99);
	put(0x32, 0x19);
	assert_int_equal(get(0), 0x50); /* stands still while it is set */
	put(0xb, 0x02);
	assert_int_equal(get(4), 0x23);
	assert_int_equal(get(9), 0x99);
	assert_int_equal(get(0x32), 0x19);
	assert_in_range(get(0), 0x50, 0x52);
	put(0xb, 0x06); /* binary */
	assert_int_equal(get(9), 99);
	put(0xb, 0x04); /* 12 hours */
	assert_int_equal(get(4), 0x80 | 11);
}

static void update_interrupt(void **state)
{
	gint64 end = g_get_monotonic_time() + 3 * G_USEC_PER_SEC;

	put(0xb, 0x12);
	while (!fake_line(IRQ_GSI_RTC) && g_get_monotonic_time() < end)
		g_main_context_iteration(NULL, TRUE);
	assert_true(fake_line(IRQ_GSI_RTC));
	assert_int_equal(get(0xc) & 0x90, 0x90);
	assert_false(fake_line(IRQ_GSI_RTC));
	assert_int_equal(get(0xc), 0);
}

static void periodic_interrupt(void **state)
{
	gint64 start = g_get_monotonic_time();

	put(0xa, 0x26);
	put(0xb, 0x42);
	for (unsigned i = 0; i < 20; i++) {
		while (!fake_line(IRQ_GSI_RTC))
			g_main_context_iteration(NULL, TRUE);
		assert_int_equal(get(0xc) & 0xc0, 0xc0);
	}
	assert_true(g_get_monotonic_time() - start >= 18000);
	put(0xb, 0x02);
	assert_false(fake_line(IRQ_GSI_RTC));
}

static void alarm_interrupt(void **state)
{
	gint64 end = g_get_monotonic_time() + 3 * G_USEC_PER_SEC;

	put(1, 0xff);
	put(3, 0xff);
	put(5, 0xff); /* every second */
	put(0xb, 0x22);
	while (!fake_line(IRQ_GSI_RTC) && g_get_monotonic_time() < end)
		g_main_context_iteration(NULL, TRUE);
	assert_int_equal(get(0xc) & 0xa0, 0xa0);
}

static void memory_size(void **state)
{
	assert_int_equal(get(0x34) | get(0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, 5 * 1024 * 16);
	put(0xd, 0);
	assert_int_equal(get(0xd), 0x80);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(reads_utc),	  CASE(set_and_run),	 CASE(update_interrupt),
		CASE(periodic_interrupt), CASE(alarm_interrupt), CASE(memory_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
