/* The keyboard controller: the probes of guests, and the two ways to reset. */
#include "fake.h"

#include "vmm/i8042.h"

static struct bus pio;
static struct i8042 *kbc;

static void command(u8 v)
{
	bus_write(&pio, 0x64, v, 1);
}

static void data(u8 v)
{
	bus_write(&pio, 0x60, v, 1);
}

static u8 answer(void)
{
	assert_int_equal(bus_read(&pio, 0x64, 1) & 1, 1);
	return (u8)bus_read(&pio, 0x60, 1);
}

static int setup(void **state)
{
	fake_reset(state);
	bus_init(&pio);
	kbc = i8042_new(&pio, NULL, &fake_power);
	return 0;
}

static int teardown(void **state)
{
	i8042_free(kbc);
	bus_destroy(&pio);
	return 0;
}

static void controller(void **state)
{
	command(0xaa);
	assert_int_equal(answer(), 0x55);
	command(0xab);
	assert_int_equal(answer(), 0);
	command(0xa9);
	assert_int_not_equal(answer(), 0); /* no mouse port */
	command(0x60);
	data(0x41);
	command(0x20);
	assert_int_equal(answer(), 0x41);
	assert_int_equal(bus_read(&pio, 0x64, 1) & 1, 0);
}

static void keyboard(void **state)
{
	command(0x60);
	data(0x01);
	data(0xf2);
	assert_true(fake_line(IRQ_GSI_KEYBOARD));
	assert_int_equal(answer(), 0xfa);
	assert_true(fake_line(IRQ_GSI_KEYBOARD));
	assert_int_equal(answer(), 0xab);
	assert_int_equal(answer(), 0x83);
	assert_false(fake_line(IRQ_GSI_KEYBOARD));
	assert_int_equal(fake.edges[IRQ_GSI_KEYBOARD], 3);
	data(0xff);
	assert_int_equal(answer(), 0xfa);
	assert_int_equal(answer(), 0xaa);
	data(0xed);
	assert_int_equal(answer(), 0xfa);
	data(0x07);
	assert_int_equal(answer(), 0xfa);
	data(0xf0);
	answer();
	data(0);
	assert_int_equal(answer(), 0xfa);
	assert_int_equal(answer(), 2);
}

static void flood(void **state)
{
	for (unsigned i = 0; i < 1000; i++)
		data(0xff);
	for (unsigned i = 0; i < 16; i++)
		answer();
	assert_int_equal(bus_read(&pio, 0x64, 1) & 1, 0);
}

static void reset_by_pulse(void **state)
{
	command(0xff); /* pulses no line */
	assert_int_equal(fake.end, POWER_ON);
	command(0xfe);
	assert_int_equal(fake.end, POWER_RESET);
}

static void reset_by_output_port(void **state)
{
	command(0xd1);
	data(0x03);
	assert_int_equal(fake.end, POWER_ON);
	command(0xd1);
	data(0x02);
	assert_int_equal(fake.end, POWER_RESET);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(controller),	    CASE(keyboard), CASE(flood), CASE(reset_by_pulse),
		CASE(reset_by_output_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
