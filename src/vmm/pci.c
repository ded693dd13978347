/*
 * PCI host bridge and configuration space. Source: PCI Local Bus Specification, "Configuration
 * Space Organization", "Software Generation of Configuration Transactions".
 */
#include "vmm/pci.h"

#include <linux/pci_regs.h>
#include <string.h>

#define CONFIG_ADDRESS	0xcf8
#define BRIDGE_VENDOR	0x8086
#define BRIDGE_DEVICE	0x0d57 /* a host bridge without quirks in any guest */
#define CAPABILITIES_AT 0x40

struct pci_bus {
	struct bus *pio, *mmio;
	struct irq_ctl *irq;
	struct power power;
	struct bus_region region;
	GMutex lock;
	u32 address; /* CONFIG_ADDRESS */
	u8 reset;
	u32 next_bar;
	struct pci_device *slots[PCI_SLOTS];
	struct pci_device bridge;
};

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)v;
	p[1] = (u8)(v >> 8);
}

static void put32(u8 *p, u32 v)
{
	put16(p, v);
	put16(p + 2, v >> 16);
}

static u16 get16(const u8 *p)
{
	return (u16)(p[0] | p[1] << 8);
}

static u32 get32(const u8 *p)
{
	return get16(p) | (u32)get16(p + 2) << 16;
}

void pci_device_init(struct pci_device *dev, const char *name, u16 vendor, u16 device, u32 class)
{
	dev->name = name;
	put16(dev->config + PCI_VENDOR_ID, vendor);
	put16(dev->config + PCI_DEVICE_ID, device);
	put32(dev->config + PCI_CLASS_REVISION, class << 8 | 1);
	put16(dev->writable + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
						   PCI_COMMAND_MASTER | PCI_COMMAND_SERR |
						   PCI_COMMAND_INTX_DISABLE);
	dev->writable[PCI_INTERRUPT_LINE] = 0xff;
	dev->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	g_mutex_init(&dev->msix_lock);
}

unsigned pci_add_capability(struct pci_device *dev, u8 id, const void *data, u8 len)
{
	unsigned at = dev->cap_end ? (dev->cap_end + 3) & ~3u : CAPABILITIES_AT;
	unsigned last = dev->cap_last ? dev->cap_last + 1 : PCI_CAPABILITY_LIST;

	g_assert(at + len + 2u <= sizeof(dev->config));
	dev->config[last] = (u8)at;
	dev->config[at] = id;
	memcpy(dev->config + at + 2, data, len);
	dev->cap_last = at;
	dev->cap_end = at + 2 + len;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return at;
}

/* ---- BAR 0 and the interrupt pin follow the command register; lock held ---- */

static void update_bar(struct pci_device *dev)
{
	u64 base = get32(dev->config + PCI_BASE_ADDRESS_0) & PCI_BASE_ADDRESS_MEM_MASK;
	bool on = (get16(dev->config + PCI_COMMAND) & PCI_COMMAND_MEMORY) && dev->bar_size;

	if (on == dev->bar_mapped && (!on || base == dev->bar_region.base))
		return;
	if (dev->bar_mapped) {
		bus_remove(dev->bus->mmio, &dev->bar_region);
		if (dev->bar_hook)
			dev->bar_hook(dev->bar_dev, dev->bar_region.base, false);
		dev->bar_mapped = false;
	}
	/* Only inside the window: a BAR over RAM or the APICs would never be reached anyway. */
	if (!on || base < PCI_MMIO_BASE || base - PCI_MMIO_BASE > PCI_MMIO_SIZE - dev->bar_size)
		return;
	dev->bar_region =
		(struct bus_region){dev->name, base, dev->bar_size, dev->bar_ops, dev->bar_dev};
	if (!bus_add(dev->bus->mmio, &dev->bar_region))
		return; /* over another device's BAR: the first one keeps the address */
	dev->bar_mapped = true;
	if (dev->bar_hook)
		dev->bar_hook(dev->bar_dev, base, true);
}

static bool intx_enabled(const struct pci_device *dev)
{
	bool msix = dev->msix_cap && (dev->config[dev->msix_cap + PCI_MSIX_FLAGS + 1] & 0x80);

	return !msix && !(get16(dev->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
}

/* msix_lock held */
static void update_intx(struct pci_device *dev)
{
	if (!dev->bus)
		return;
	irq_set(dev->bus->irq, pci_slot_gsi(dev->slot), dev->slot, dev->intx && intx_enabled(dev));
	dev->config[PCI_STATUS] = (u8)((dev->config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) |
				       (dev->intx ? PCI_STATUS_INTERRUPT : 0));
}

void pci_intx_set(struct pci_device *dev, bool level)
{
	g_mutex_lock(&dev->msix_lock);
	dev->intx = level;
	update_intx(dev);
	g_mutex_unlock(&dev->msix_lock);
}

/* ---- MSI-X ---- */

void pci_add_msix(struct pci_device *dev, unsigned vectors, u32 table, u32 pba)
{
	u8 cap[PCI_CAP_MSIX_SIZEOF - 2] = {0};

	put16(cap, vectors - 1);
	put32(cap + 2, table); /* BAR 0 in the low bits */
	put32(cap + 6, pba);
	dev->msix_vectors = vectors;
	dev->msix_table = table;
	dev->msix_pba = pba;
	dev->msix_cap = pci_add_capability(dev, PCI_CAP_ID_MSIX, cap, sizeof(cap));
	put16(dev->writable + dev->msix_cap + PCI_MSIX_FLAGS,
	      PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned i = 0; i < vectors; i++)
		dev->msix[i].control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

static unsigned msix_flags(const struct pci_device *dev)
{
	return dev->msix_cap ? get16(dev->config + dev->msix_cap + PCI_MSIX_FLAGS) : 0;
}

bool pci_msix_enabled(struct pci_device *dev)
{
	bool on;

	g_mutex_lock(&dev->msix_lock);
	on = msix_flags(dev) & PCI_MSIX_FLAGS_ENABLE;
	g_mutex_unlock(&dev->msix_lock);
	return on;
}

/* Sends what is pending and no longer masked. msix_lock held: irq_msi() takes no lock of ours. */
static void msix_flush(struct pci_device *dev)
{
	unsigned flags = msix_flags(dev);

	if (!(flags & PCI_MSIX_FLAGS_ENABLE) || (flags & PCI_MSIX_FLAGS_MASKALL))
		return;
	for (u64 left = dev->msix_pending; left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);

		if (dev->msix[n].control & PCI_MSIX_ENTRY_CTRL_MASKBIT)
			continue;
		dev->msix_pending &= ~BIT64(n);
		irq_msi(dev->bus->irq, dev->msix[n].address, dev->msix[n].data);
	}
}

void pci_msix_notify(struct pci_device *dev, unsigned n)
{
	if (n >= dev->msix_vectors)
		return;
	g_mutex_lock(&dev->msix_lock);
	if (dev->bus && (msix_flags(dev) & PCI_MSIX_FLAGS_ENABLE)) {
		dev->msix_pending |= BIT64(n);
		msix_flush(dev);
	}
	g_mutex_unlock(&dev->msix_lock);
}

u64 pci_msix_read(struct pci_device *dev, u64 offset, unsigned size)
{
	u8 bytes[8] = {0};
	u64 v = 0;

	g_mutex_lock(&dev->msix_lock);
	if (offset >= dev->msix_pba) {
		for (unsigned i = 0; i < size && offset - dev->msix_pba + i < 8; i++)
			bytes[i] = (u8)(dev->msix_pending >> (8 * (offset - dev->msix_pba + i)));
	} else if (offset - dev->msix_table + size <= dev->msix_vectors * sizeof(dev->msix[0])) {
		memcpy(bytes, (u8 *)dev->msix + (offset - dev->msix_table), size);
	}
	g_mutex_unlock(&dev->msix_lock);
	memcpy(&v, bytes, size);
	return v;
}

void pci_msix_write(struct pci_device *dev, u64 offset, u64 value, unsigned size)
{
	g_mutex_lock(&dev->msix_lock);
	if (offset < dev->msix_pba &&
	    offset - dev->msix_table + size <= dev->msix_vectors * sizeof(dev->msix[0])) {
		memcpy((u8 *)dev->msix + (offset - dev->msix_table), &value, size);
		msix_flush(dev);
	}
	g_mutex_unlock(&dev->msix_lock);
}

/* ---- configuration space ---- */

/* Where the parts of a window capability are, from its start. */
enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16, WINDOW_END = 20 };

/* Passes an access to the window's data on to the BAR. */
static void window_access(struct pci_device *dev, unsigned at, unsigned size, bool write)
{
	u8 *cap = dev->config + dev->window_cap, *data = cap + WINDOW_DATA;
	u32 offset = get32(cap + WINDOW_OFFSET), len = get32(cap + WINDOW_LENGTH);

	if (!dev->window_cap || at + size <= dev->window_cap + WINDOW_DATA ||
	    at >= dev->window_cap + WINDOW_END || cap[WINDOW_BAR] != 0 ||
	    (len != 1 && len != 2 && len != 4) || offset % len || offset >= dev->bar_size)
		return;
	if (write)
		dev->bar_ops->write(dev->bar_dev, offset, get32(data) & (~0u >> (32 - 8 * len)),
				    len);
	else
		put32(data, (u32)dev->bar_ops->read(dev->bar_dev, offset, len));
}

static u64 config_read(struct pci_bus *bus, unsigned offset, unsigned size)
{
	unsigned slot = (bus->address >> 11) & 31, fn = (bus->address >> 8) & 7;
	unsigned at = (bus->address & 0xfc) + offset;
	struct pci_device *dev = bus->slots[slot];
	u64 v = 0;

	if (!(bus->address & 0x80000000) || (bus->address & 0xff0000) || fn || !dev)
		return ~0ull;
	window_access(dev, at, size, false);
	for (unsigned i = 0; i < size && at + i < sizeof(dev->config); i++)
		v |= (u64)dev->config[at + i] << (8 * i);
	return v;
}

static void config_write(struct pci_bus *bus, unsigned offset, u64 value, unsigned size)
{
	unsigned slot = (bus->address >> 11) & 31, fn = (bus->address >> 8) & 7;
	unsigned at = (bus->address & 0xfc) + offset;
	struct pci_device *dev = bus->slots[slot];

	if (!(bus->address & 0x80000000) || (bus->address & 0xff0000) || fn || !dev)
		return;
	g_mutex_lock(&dev->msix_lock);
	for (unsigned i = 0; i < size && at + i < sizeof(dev->config); i++) {
		u8 mask = dev->writable[at + i];

		dev->config[at + i] =
			(u8)((dev->config[at + i] & ~mask) | ((u8)(value >> (8 * i)) & mask));
	}
	msix_flush(dev);
	update_intx(dev);
	g_mutex_unlock(&dev->msix_lock);
	update_bar(dev);
	window_access(dev, at, size, true);
}

static u64 pci_read(void *dev, u64 offset, unsigned size)
{
	struct pci_bus *bus = dev;
	u64 v;

	g_mutex_lock(&bus->lock);
	if (offset >= 4)
		v = config_read(bus, (unsigned)offset - 4, size);
	else if (offset == PCI_RESET_PORT - CONFIG_ADDRESS && size == 1)
		v = bus->reset;
	else
		v = bus->address >> (8 * offset);
	g_mutex_unlock(&bus->lock);
	return v;
}

static void pci_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct pci_bus *bus = dev;

	g_mutex_lock(&bus->lock);
	if (offset >= 4) {
		config_write(bus, (unsigned)offset - 4, value, size);
	} else if (offset == 0 && size == 4) {
		bus->address = (u32)value & ~3u;
	} else if (offset == PCI_RESET_PORT - CONFIG_ADDRESS && size == 1) {
		bus->reset = (u8)value & (u8)~4;
		if (value & 4)
			power_end(&bus->power, POWER_RESET, 0);
	}
	g_mutex_unlock(&bus->lock);
}

static const struct bus_ops pci_ops = {.read = pci_read, .write = pci_write};

/* ---- life ---- */

struct pci_bus *pci_new(struct bus *pio, struct bus *mmio, struct irq_ctl *irq,
			const struct power *power)
{
	struct pci_bus *bus = g_new0(struct pci_bus, 1);

	bus->pio = pio;
	bus->mmio = mmio;
	bus->irq = irq;
	bus->power = *power;
	bus->next_bar = PCI_MMIO_BASE;
	g_mutex_init(&bus->lock);
	bus->region = (struct bus_region){"pci", CONFIG_ADDRESS, 8, &pci_ops, bus};
	bus_add(pio, &bus->region);
	pci_device_init(&bus->bridge, "host bridge", BRIDGE_VENDOR, BRIDGE_DEVICE, 0x060000);
	pci_plug(bus, &bus->bridge);
	return bus;
}

void pci_free(struct pci_bus *bus)
{
	if (!bus)
		return;
	pci_unplug(&bus->bridge);
	bus_remove(bus->pio, &bus->region);
	g_mutex_clear(&bus->lock);
	g_free(bus);
}

bool pci_plug(struct pci_bus *bus, struct pci_device *dev)
{
	unsigned slot = 0;

	while (slot < PCI_SLOTS && bus->slots[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return false;
	g_mutex_lock(&bus->lock);
	dev->bus = bus;
	dev->slot = slot;
	bus->slots[slot] = dev;
	if (dev->bar_size) {
		u32 base = (bus->next_bar + dev->bar_size - 1) & ~(dev->bar_size - 1);

		bus->next_bar = base + dev->bar_size;
		put32(dev->config + PCI_BASE_ADDRESS_0, base);
		put32(dev->writable + PCI_BASE_ADDRESS_0, ~(dev->bar_size - 1));
		dev->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
		dev->config[PCI_INTERRUPT_PIN] = 1;
		dev->config[PCI_INTERRUPT_LINE] = (u8)pci_slot_gsi(slot);
		update_bar(dev);
	}
	g_mutex_unlock(&bus->lock);
	return true;
}

void pci_unplug(struct pci_device *dev)
{
	struct pci_bus *bus = dev->bus;

	if (!bus)
		return;
	g_mutex_lock(&bus->lock);
	dev->config[PCI_COMMAND] = 0;
	update_bar(dev);
	bus->slots[dev->slot] = NULL;
	g_mutex_unlock(&bus->lock);
	g_mutex_lock(&dev->msix_lock);
	dev->bus = NULL;
	g_mutex_unlock(&dev->msix_lock);
	g_mutex_clear(&dev->msix_lock);
}

char *pci_describe(struct pci_bus *bus)
{
	GString *s = g_string_new(NULL);

	g_mutex_lock(&bus->lock);
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_device *dev = bus->slots[i];

		if (!dev)
			continue;
		g_string_append_printf(s, "00:%02x.0 %04x:%04x %s", i, get16(dev->config),
				       get16(dev->config + 2), dev->name);
		if (dev->bar_mapped)
			g_string_append_printf(s, ", memory at 0x%" G_GINT64_MODIFIER "x",
					       dev->bar_region.base);
		g_string_append_c(s, '\n');
	}
	g_mutex_unlock(&bus->lock);
	return g_string_free(s, FALSE);
}
