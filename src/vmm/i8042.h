/* The keyboard controller (ports 0x60 and 0x64, GSI 1): reset, and a keyboard nobody types on. */
#ifndef VMM_I8042_H
#define VMM_I8042_H

#include "vmm/bus.h"
#include "vmm/irq.h"
#include "vmm/power.h"

struct i8042;

struct i8042 *i8042_new(struct bus *pio, struct irq_ctl *irq, const struct power *power);
void i8042_free(struct i8042 *kbc);

#endif
