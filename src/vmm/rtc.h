/* The PC's real-time clock and CMOS memory (ports 0x70 and 0x71, GSI 8). */
#ifndef VMM_RTC_H
#define VMM_RTC_H

#include "vmm/bus.h"
#include "vmm/irq.h"

#define RTC_CENTURY 0x32 /* index of the century byte, as the FADT tells */

struct rtc;

/** @low, @high: bytes of RAM below and above 4G, reported in the CMOS as firmware expects. */
struct rtc *rtc_new(struct bus *pio, struct irq_ctl *irq, u64 low, u64 high);
void rtc_free(struct rtc *rtc);

#endif
