/*
 * A PCI bus behind a host bridge with configuration mechanism 1 (ports 0xcf8 and 0xcfc), and the
 * reset control register that shares those ports.
 *
 * Locks: pci_bus.lock protects every configuration space and BAR mapping, and is held while a
 * device's map hook runs. pci_device.msix_lock is a leaf.
 */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include "vmm/types.h"

#include "vmm/bus.h"
#include "vmm/irq.h"
#include "vmm/power.h"

#define PCI_SLOTS	32
#define PCI_MMIO_BASE	0xc0000000u
#define PCI_MMIO_SIZE	0x20000000u
#define PCI_RESET_PORT	0xcf9
#define PCI_RESET_VALUE 0x06
#define PCI_MSIX_MAX	64 /* vectors a device may have */

struct pci_bus;

struct pci_msix_entry {
	u64 address;
	u32 data;
	u32 control; /* bit 0: masked */
};

struct pci_device {
	const char *name;
	struct pci_bus *bus;
	unsigned slot;
	u8 config[256];
	u8 writable[256];	    /* bits that the guest may change */
	unsigned cap_last, cap_end; /* newest capability and its end, 0 for none */

	/* One memory BAR, number 0; size a power of two, 0 for none. */
	u32 bar_size;
	const struct bus_ops *bar_ops;
	void *bar_dev;
	struct bus_region bar_region;
	bool bar_mapped;
	/** Tells the device that its BAR appears or disappears at an address; may be NULL. */
	void (*bar_hook)(void *dev, u64 base, bool mapped);

	/*
	 * Offset of a capability through which BAR 0 can be reached from configuration space, laid
	 * out as virtio's struct virtio_pci_cfg_cap; 0 for none.
	 */
	unsigned window_cap;

	unsigned msix_cap; /* offset of the capability, 0 for none */
	unsigned msix_vectors;
	u32 msix_table, msix_pba; /* offsets in the BAR */
	GMutex msix_lock;
	struct pci_msix_entry msix[PCI_MSIX_MAX];
	u64 msix_pending;
	bool intx; /* msix_lock: the device wants its pin asserted */
};

struct pci_bus *pci_new(struct bus *pio, struct bus *mmio, struct irq_ctl *irq,
			const struct power *power);
void pci_free(struct pci_bus *bus);

/** Fills identity and defaults of a device that is not on the bus yet. class: 24 bits. */
void pci_device_init(struct pci_device *dev, const char *name, u16 vendor, u16 device, u32 class);
/** Appends a capability; data begins after id and next pointer. Returns its offset. */
unsigned pci_add_capability(struct pci_device *dev, u8 id, const void *data, u8 len);
/** Adds the MSI-X capability, table and pending bits at these offsets of BAR 0. */
void pci_add_msix(struct pci_device *dev, unsigned vectors, u32 table, u32 pba);
/** Puts the device into the next free slot and gives its BAR an address; false when full. */
bool pci_plug(struct pci_bus *bus, struct pci_device *dev);
/** Takes it off; no access is in progress afterwards, vCPUs being stopped. */
void pci_unplug(struct pci_device *dev);

/** Accesses to the MSI-X table and pending bits, offset from the BAR's base. */
u64 pci_msix_read(struct pci_device *dev, u64 offset, unsigned size);
void pci_msix_write(struct pci_device *dev, u64 offset, u64 value, unsigned size);
bool pci_msix_enabled(struct pci_device *dev);
/** Sends vector n now, or when it gets unmasked. Any thread. */
void pci_msix_notify(struct pci_device *dev, unsigned n);
/** Sets the INTx pin; without effect on the line while MSI-X is on or the guest disabled it. */
void pci_intx_set(struct pci_device *dev, bool level);

/** GSI of a slot's pin A. */
static inline unsigned pci_slot_gsi(unsigned slot)
{
	return IRQ_GSI_PCI + slot % 8;
}

/** Text for the monitor: the devices on the bus. */
char *pci_describe(struct pci_bus *bus);

#endif
