/* The ACPI tables that describe the machine to the guest. */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include "vmm/types.h"

#include "vmm/memory.h"

/**
 * Writes all tables at BOOT_BIOS.
 * @cpus:       number of vCPUs; APIC ids are 0 to cpus-1
 * @pin2_timer: the timer's line is IOAPIC pin 2
 * Returns the address of the root pointer (RSDP).
 */
u64 acpi_place(const struct guest_memory *mem, unsigned cpus, bool pin2_timer);

#endif
