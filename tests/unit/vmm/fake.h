/*
 * Fakes for what device models call: interrupt lines, the console, the accelerator, power. Each
 * test program has one machine, so plain globals do.
 */
#ifndef TESTS_VMM_FAKE_H
#define TESTS_VMM_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/irq.h"
#include "vmm/power.h"

struct fake {
	u64 lines[IRQ_GSI_COUNT]; /* sources that hold a line up */
	unsigned edges[IRQ_GSI_COUNT];
	unsigned msis;
	u64 msi_address;
	u32 msi_data;
	GString *input, *output; /* the console's two ends */
	size_t output_room;
	const struct console_frontend *frontend;
	void *frontend_dev;
	enum power_end end;
	int end_status;
	bool deadline_timer;
};

extern struct fake fake;
extern const struct power fake_power;

/** Back to the start, as a cmocka set-up function. */
int fake_reset(void **state);
/** True when a line is up. */
bool fake_line(unsigned gsi);

#endif
