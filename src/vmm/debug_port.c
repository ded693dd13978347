/*
 * Exit port 0x5f4, ready port 0x5f5, text port 0xe9 (Bochs) and the POST code port 0x80 that delays are made of.
 */
#include "vmm/debug_port.h"

struct debug_port {
	struct bus *pio;
	struct console *con;
	struct power power;
	struct bus_region exit_region, ready_region, text_region, post_region;
};

static void exit_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct debug_port *dbg = dev;

	(void)offset;
	(void)size;
	power_end(&dbg->power, POWER_EXIT, (u8)value);
}

static void ready_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct debug_port *dbg = dev;

	(void)offset;
	(void)value;
	(void)size;
	console_hold_input(dbg->con, false);
}

static u64 text_read(void *dev, u64 offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0xe9; /* how a guest finds out that the port is there */
}

static void text_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct debug_port *dbg = dev;
	u8 c = (u8)value;

	(void)offset;
	(void)size;
	console_write(dbg->con, &c, 1);
}

static const struct bus_ops exit_ops = {.write = exit_write};
static const struct bus_ops ready_ops = {.write = ready_write};
static const struct bus_ops text_ops = {.read = text_read, .write = text_write};
static const struct bus_ops post_ops = {.read = NULL};

struct debug_port *debug_port_new(struct bus *pio, struct console *con, const struct power *power)
{
	struct debug_port *dbg = g_new0(struct debug_port, 1);

	dbg->pio = pio;
	dbg->con = con;
	dbg->power = *power;
	dbg->exit_region = (struct bus_region){"exit", DEBUG_PORT_EXIT, 1, &exit_ops, dbg};
	dbg->ready_region = (struct bus_region){"ready", DEBUG_PORT_READY, 1, &ready_ops, dbg};
	dbg->text_region = (struct bus_region){"debug", 0xe9, 1, &text_ops, dbg};
	dbg->post_region = (struct bus_region){"post", 0x80, 1, &post_ops, dbg};
	bus_add(pio, &dbg->exit_region);
	bus_add(pio, &dbg->ready_region);
	bus_add(pio, &dbg->text_region);
	bus_add(pio, &dbg->post_region);
	return dbg;
}

void debug_port_free(struct debug_port *dbg)
{
	if (!dbg)
		return;
	bus_remove(dbg->pio, &dbg->exit_region);
	bus_remove(dbg->pio, &dbg->ready_region);
	bus_remove(dbg->pio, &dbg->text_region);
	bus_remove(dbg->pio, &dbg->post_region);
	g_free(dbg);
}
