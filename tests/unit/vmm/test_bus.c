/* The I/O bus: lookup, overlaps, accesses across an end. */
#include "fake.h"

static u64 last_offset, last_value;

static u64 dev_read(void *dev, u64 offset, unsigned size)
{
	return (u64)(uintptr_t)dev + offset;
}

static void dev_write(void *dev, u64 offset, u64 value, unsigned size)
{
	last_offset = offset;
	last_value = value;
}

static const struct bus_ops ops = {dev_read, dev_write};
static const struct bus_ops silent = {NULL, NULL};

static void lookup(void **state)
{
	struct bus_region a = {"a", 0x100, 0x10, &ops, (void *)1000};
	struct bus_region b = {"b", 0x110, 0x10, &ops, (void *)2000};
	struct bus_region c = {"c", 0x80, 4, &silent, NULL};
	struct bus bus;

	bus_init(&bus);
	assert_int_equal(bus_read(&bus, 0x100, 1), ~0ull);
	assert_true(bus_add(&bus, &b) && bus_add(&bus, &a) && bus_add(&bus, &c));
	assert_int_equal(bus_read(&bus, 0x100, 4), 1000);
	assert_int_equal(bus_read(&bus, 0x10f, 1), 1015);
	assert_int_equal(bus_read(&bus, 0x110, 1), 2000);
	assert_int_equal(bus_read(&bus, 0x80, 1), ~0ull);
	bus_write(&bus, 0x80, 5, 1);
	/* An access across an end belongs to nobody. */
	assert_int_equal(bus_read(&bus, 0x10f, 2), ~0ull);
	assert_int_equal(bus_read(&bus, 0xff, 2), ~0ull);
	assert_int_equal(bus_read(&bus, 0x120, 1), ~0ull);
	bus_write(&bus, 0x11c, 77, 4);
	assert_int_equal(last_offset, 0xc);
	assert_int_equal(last_value, 77);
	bus_remove(&bus, &b);
	bus_remove(&bus, &b);
	assert_int_equal(bus_read(&bus, 0x110, 1), ~0ull);
	assert_int_equal(bus_read(&bus, 0x100, 1), 1000);
	bus_destroy(&bus);
}

static void refused(void **state)
{
	struct bus_region a = {"a", 0x100, 0x10, &ops, NULL};
	struct bus_region over[] = {{"o", 0x100, 1, &ops, NULL},   {"o", 0x10f, 4, &ops, NULL},
				    {"o", 0xf0, 0x11, &ops, NULL}, {"o", 0, 0x1000, &ops, NULL},
				    {"o", 0x200, 0, &ops, NULL},   {"o", ~0ull, 2, &ops, NULL}};
	struct bus_region many[BUS_REGIONS_MAX + 1];
	struct bus bus;

	bus_init(&bus);
	assert_true(bus_add(&bus, &a));
	for (unsigned i = 0; i < ARRAY_SIZE(over); i++)
		assert_false(bus_add(&bus, &over[i]));
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = (struct bus_region){"m", 0x1000 + i, 1, &ops, NULL};
		assert_int_equal(bus_add(&bus, &many[i]), i < BUS_REGIONS_MAX - 1);
	}
	bus_destroy(&bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lookup),
		cmocka_unit_test(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
