/* A 16550A UART at COM1 (ports 0x3f8–0x3ff, GSI 4), as Linux calls ttyS0. */
#ifndef VMM_SERIAL_H
#define VMM_SERIAL_H

#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/irq.h"

struct serial;

/**
 * @input: the console's input comes to this port (else it is only written to)
 */
struct serial *serial_new(struct bus *pio, struct irq_ctl *irq, struct console *con, bool input);
void serial_free(struct serial *s);

#endif
