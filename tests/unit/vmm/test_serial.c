/* The UART: transmit with back-pressure, input that is never lost, interrupts, loop-back. */
#include "fake.h"

#include "vmm/serial.h"

#define BASE 0x3f8

static struct bus pio;
static struct serial *uart;

static void out(unsigned reg, u8 v)
{
	bus_write(&pio, BASE + reg, v, 1);
}

static u8 in(unsigned reg)
{
	return (u8)bus_read(&pio, BASE + reg, 1);
}

static int setup(void **state)
{
	fake_reset(state);
	bus_init(&pio);
	uart = serial_new(&pio, NULL, NULL, true);
	return 0;
}

static int teardown(void **state)
{
	serial_free(uart);
	bus_destroy(&pio);
	return 0;
}

static void transmit(void **state)
{
	out(0, 'h');
	out(0, 'i');
	assert_string_equal(fake.output->str, "hi");
	assert_int_equal(in(5), 0x60);
	assert_false(fake_line(IRQ_GSI_SERIAL));
	out(1, 2); /* THRE interrupt: at once, since the register is empty */
	assert_true(fake_line(IRQ_GSI_SERIAL));
	assert_int_equal(in(2) & 0xf, 2);
	assert_false(fake_line(IRQ_GSI_SERIAL)); /* reading IIR acknowledges */
	assert_int_equal(in(2) & 0xf, 1);
	out(0, '!');
	assert_true(fake_line(IRQ_GSI_SERIAL));
}

static void back_pressure(void **state)
{
	out(1, 2);
	in(2);
	fake.output_room = 0;
	out(0, 'x');
	assert_int_equal(in(5) & 0x60, 0); /* busy */
	assert_false(fake_line(IRQ_GSI_SERIAL));
	fake.output_room = 10;
	fake.frontend->output_ready(fake.frontend_dev);
	assert_string_equal(fake.output->str, "x");
	assert_int_equal(in(5) & 0x60, 0x60);
	assert_true(fake_line(IRQ_GSI_SERIAL));
}

static void receive(void **state)
{
	out(2, 1);
	out(4, 0xb); /* DTR, RTS, OUT2 */
	out(1, 1);
	assert_false(fake_line(IRQ_GSI_SERIAL));
	g_string_assign(fake.input, "abc");
	fake.frontend->input_ready(fake.frontend_dev);
	assert_true(fake_line(IRQ_GSI_SERIAL));
	assert_int_equal(in(5) & 1, 1);
	assert_int_equal(in(0), 'a');
	assert_int_equal(in(0), 'b');
	assert_true(fake_line(IRQ_GSI_SERIAL));
	assert_int_equal(in(0), 'c');
	assert_false(fake_line(IRQ_GSI_SERIAL));
	assert_int_equal(in(5) & 1, 0);
	assert_int_equal(in(0), 0);
}

/* What Linux does to a port when it opens it: nothing that was typed before may get lost. */
static void opening_loses_nothing(void **state)
{
	g_string_assign(fake.input, "typed early");
	fake.frontend->input_ready(fake.frontend_dev);
	out(2, 1);
	out(2, 7);
	out(2, 0);
	in(5);
	in(0);
	in(2);
	in(6);
	assert_int_equal(fake.input->len, 11);
	out(1, 1);
	assert_true(fake_line(IRQ_GSI_SERIAL));
	out(2, 7); /* clears the FIFO once more */
	assert_int_equal(in(0), 't');
}

static void polling_driver(void **state)
{
	g_string_assign(fake.input, "p");
	for (unsigned i = 0; i < 40; i++)
		in(5);
	assert_int_equal(in(5) & 1, 1);
	assert_int_equal(in(0), 'p');
}

static void flow_control(void **state)
{
	out(1, 1);
	out(4, 3);
	out(4, 1); /* RTS falls: wait */
	g_string_assign(fake.input, "z");
	fake.frontend->input_ready(fake.frontend_dev);
	assert_int_equal(in(5) & 1, 0);
	out(4, 3);
	assert_int_equal(in(5) & 1, 1);
	assert_int_equal(in(0), 'z');
}

static void loop_back(void **state)
{
	out(4, 0x10 | 0xa);
	assert_int_equal(in(6) & 0xf0, 0x90); /* OUT2 to DCD, RTS to CTS */
	out(4, 0x10 | 0x5);
	assert_int_equal(in(6) & 0xf0, 0x60);
	g_string_assign(fake.input, "no");
	out(0, 'q');
	assert_int_equal(fake.output->len, 0);
	assert_int_equal(in(5) & 1, 1);
	assert_int_equal(in(0), 'q');
	assert_int_equal(in(5) & 1, 0);
	out(0, '1');
	out(0, '2'); /* no FIFO: overrun */
	assert_int_equal(in(5) & 2, 2);
	assert_int_equal(in(5) & 2, 0);
}

static void registers(void **state)
{
	out(7, 0x5a);
	assert_int_equal(in(7), 0x5a);
	out(3, 0x80);
	out(0, 1);
	out(1, 2);
	assert_int_equal(in(0), 1);
	assert_int_equal(in(1), 2);
	out(3, 3);
	assert_int_equal(in(1), 0);
	out(1, 0xff);
	assert_int_equal(in(1), 0x0f);
	assert_int_equal(in(6), 0xb0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(transmit),	      CASE(back_pressure),
		CASE(receive),	      CASE(opening_loses_nothing),
		CASE(polling_driver), CASE(flow_control),
		CASE(loop_back),      CASE(registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
