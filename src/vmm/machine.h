/*
 * One guest machine from power-on to its end. A reboot makes a new one on the same backends, so
 * that no state of the old one can leak into it.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "vmm/types.h"

#include "vmm/accel.h"
#include "vmm/acpi_pm.h"
#include "vmm/boot.h"
#include "vmm/bus.h"
#include "vmm/config.h"
#include "vmm/console.h"
#include "vmm/disk.h"
#include "vmm/irq.h"
#include "vmm/memory.h"
#include "vmm/net_user.h"
#include "vmm/pci.h"
#include "vmm/power.h"
#include "vmm/vcpu.h"

/** What outlives a reboot: the host's side of the devices, and the boot files. */
struct backends {
	struct accel accel;
	struct guest_memory mem;
	struct boot_image image;
	struct console *console;
	struct disk *disks[CONFIG_DISKS_MAX];
	unsigned disk_count;
	struct net_user *net;
	struct gdb *gdb;
};

#define MACHINE_DEVICES_MAX (CONFIG_DISKS_MAX + 9)

/** A device as the machine sees it: how to take it down. */
struct machine_device {
	void *dev;
	void (*stop)(void *dev); /* ends its threads and callbacks; vCPUs are stopped */
	void (*free)(void *dev);
};

struct machine {
	const struct run_config *cfg;
	struct backends *back;
	int vm_fd;
	struct bus pio, mmio;
	struct irq_ctl irq;
	struct power power;
	struct vcpu_set vcpus;
	struct pci_bus *pci;
	struct acpi_pm *pm;
	struct machine_device devices[MACHINE_DEVICES_MAX];
	unsigned device_count;
	bool paused; /* by the monitor or the debugger */

	GMutex lock;
	enum power_end end; /* lock: why the machine ended, POWER_ON while it runs */
	int end_status;
};

/** Builds a machine, loads its kernel; nothing runs yet. NULL with the error set. */
struct machine *machine_new(const struct run_config *cfg, struct backends *back, GError **error);
/** Runs it in the calling (main) thread until it ends; all its threads are then gone. */
enum power_end machine_run(struct machine *m, int *status);
void machine_free(struct machine *m);

/** Asks the machine to end; any thread, the first call decides. */
void machine_end(struct machine *m, enum power_end why, int status);

/** Registers a device for the orderly end. */
void machine_add_device(struct machine *m, void *dev, void (*stop)(void *), void (*free)(void *));

/** devices.c: creates all devices that the options ask for. */
bool machine_create_devices(struct machine *m, GError **error);

/** monitor.c: runs one monitor command; main thread. Returns text for g_free(). */
char *monitor_execute(struct machine *m, const char *line);

#endif
