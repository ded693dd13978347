/* Ports for guests that know they run in a VMM: exit status, and text without a driver. */
#ifndef VMM_DEBUG_PORT_H
#define VMM_DEBUG_PORT_H

#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/power.h"

#define DEBUG_PORT_EXIT	 0x5f4 /* a byte written here ends the run with that status */
#define DEBUG_PORT_READY 0x5f5 /* a byte written here lets standard input through */

struct debug_port;

struct debug_port *debug_port_new(struct bus *pio, struct console *con, const struct power *power);
void debug_port_free(struct debug_port *dbg);

#endif
