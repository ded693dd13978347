/* Address lookup for port and memory-mapped I/O. */
#include "vmm/bus.h"

#include <string.h>

void bus_init(struct bus *bus)
{
	memset(bus, 0, sizeof(*bus));
	g_rw_lock_init(&bus->lock);
}

void bus_destroy(struct bus *bus)
{
	g_rw_lock_clear(&bus->lock);
}

bool bus_add(struct bus *bus, struct bus_region *region)
{
	unsigned at = 0;
	bool ok = false;

	if (!region->size || region->base + region->size < region->base)
		return false;
	g_rw_lock_writer_lock(&bus->lock);
	while (at < bus->count && bus->regions[at]->base < region->base)
		at++;
	if (bus->count == BUS_REGIONS_MAX)
		goto out;
	if (at > 0 && bus->regions[at - 1]->base + bus->regions[at - 1]->size > region->base)
		goto out;
	if (at < bus->count && region->base + region->size > bus->regions[at]->base)
		goto out;
	memmove(&bus->regions[at + 1], &bus->regions[at],
		(bus->count - at) * sizeof(bus->regions[0]));
	bus->regions[at] = region;
	bus->count++;
	ok = true;
out:
	g_rw_lock_writer_unlock(&bus->lock);
	return ok;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
	g_rw_lock_writer_lock(&bus->lock);
	for (unsigned i = 0; i < bus->count; i++) {
		if (bus->regions[i] != region)
			continue;
		bus->count--;
		memmove(&bus->regions[i], &bus->regions[i + 1],
			(bus->count - i) * sizeof(bus->regions[0]));
		break;
	}
	g_rw_lock_writer_unlock(&bus->lock);
}

/* The region that holds all of [addr, addr+size), copied so that it stays valid unlocked. */
static bool bus_find(struct bus *bus, u64 addr, unsigned size, struct bus_region *found)
{
	unsigned lo = 0, hi;
	bool hit = false;

	g_rw_lock_reader_lock(&bus->lock);
	hi = bus->count;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (bus->regions[mid]->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo > 0) {
		const struct bus_region *r = bus->regions[lo - 1];

		if (addr - r->base < r->size && size <= r->size - (addr - r->base)) {
			*found = *r;
			hit = true;
		}
	}
	g_rw_lock_reader_unlock(&bus->lock);
	return hit;
}

u64 bus_read(struct bus *bus, u64 addr, unsigned size)
{
	struct bus_region r;

	if (!bus_find(bus, addr, size, &r) || !r.ops->read)
		return ~0ull;
	return r.ops->read(r.dev, addr - r.base, size);
}

void bus_write(struct bus *bus, u64 addr, u64 value, unsigned size)
{
	struct bus_region r;

	if (bus_find(bus, addr, size, &r) && r.ops->write)
		r.ops->write(r.dev, addr - r.base, value, size);
}
