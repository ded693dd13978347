/*
 * Port and memory-mapped I/O: finds the device that owns an address.
 *
 * The region table is looked up at every exit and hardly ever changes: readers take no lock, and look
 * again when its sequence number has moved meanwhile. Regions belong to devices, and those live as
 * long as the machine. So a device may move its own regions (a PCI BAR) from inside its function.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include "vmm/types.h"

#define BUS_REGIONS_MAX 128

/** Access functions: offset is from the region's base, size is 1, 2, 4 or 8 bytes. */
struct bus_ops {
	u64 (*read)(void *dev, u64 offset, unsigned size);
	void (*write)(void *dev, u64 offset, u64 value, unsigned size);
};

struct bus_region {
	const char *name;
	u64 base;
	u64 size;
	const struct bus_ops *ops;
	void *dev;
};

struct bus {
	GMutex lock;  /* of writers */
	u32 sequence; /* odd while one of them writes */
	unsigned count;
	struct bus_region *regions[BUS_REGIONS_MAX]; /* by base address, no overlaps */
};

void bus_init(struct bus *bus);
void bus_destroy(struct bus *bus);

/** Maps a region; false when it overlaps another one, wraps, or the table is full. */
bool bus_add(struct bus *bus, struct bus_region *region);
/** Takes a region out; harmless when it is not mapped. */
void bus_remove(struct bus *bus, struct bus_region *region);

/** Reads 1–8 bytes; all ones where no device answers. */
u64 bus_read(struct bus *bus, u64 addr, unsigned size);
/** Writes 1–8 bytes; lost where no device answers. */
void bus_write(struct bus *bus, u64 addr, u64 value, unsigned size);

#endif
