/* ACPI fixed hardware (power management registers). */
#ifndef VMM_ACPI_PM_H
#define VMM_ACPI_PM_H

#include "vmm/bus.h"
#include "vmm/irq.h"
#include "vmm/power.h"

#define ACPI_PM_EVENT	0x600 /* PM1a status and enable, 4 bytes */
#define ACPI_PM_CONTROL 0x604 /* PM1a control, 2 bytes */
#define ACPI_PM_TIMER	0x608 /* 32-bit timer */
#define ACPI_PM_S5	5     /* SLP_TYP of power-off */

struct acpi_pm;

struct acpi_pm *acpi_pm_new(struct bus *pio, struct irq_ctl *irq, const struct power *power);
void acpi_pm_free(struct acpi_pm *pm);

/** Presses the power button. Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif
