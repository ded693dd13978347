/*
 * The serial port's interrupt line as a line that tests move: its transmitter is always empty, so
 * enabling that interrupt raises it and reading IIR drops it. Printing moves it as well: results
 * are kept until it is down.
 */
#ifndef GUEST_X86_LINE_H
#define GUEST_X86_LINE_H

#include "x86.h"

/** IRQ 4 of the 8259, pin 4 of the I/O APIC. */
void line_set(bool up);
/** As report(), printed by later_flush(); at most 64 wait. */
bool later(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);
void later_flush(void);

#endif
