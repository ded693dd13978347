/* Address lookup for port and memory-mapped I/O. */
#include "vmm/bus.h"

#include <string.h>

void bus_init(struct bus *bus)
{
	memset(bus, 0, sizeof(*bus));
	g_mutex_init(&bus->lock);
}

void bus_destroy(struct bus *bus)
{
	g_mutex_clear(&bus->lock);
}

static void write_begin(struct bus *bus)
{
	g_mutex_lock(&bus->lock);
	__atomic_store_n(&bus->sequence, bus->sequence + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void write_end(struct bus *bus)
{
	__atomic_store_n(&bus->sequence, bus->sequence + 1, __ATOMIC_RELEASE);
	g_mutex_unlock(&bus->lock);
}

static void put(struct bus *bus, unsigned at, struct bus_region *region)
{
	__atomic_store_n(&bus->regions[at], region, __ATOMIC_RELEASE);
}

static bool insert(struct bus *bus, struct bus_region *region)
{
	unsigned at = 0;

	while (at < bus->count && bus->regions[at]->base < region->base)
		at++;
	if (bus->count == BUS_REGIONS_MAX)
		return false;
	if (at > 0 && bus->regions[at - 1]->base + bus->regions[at - 1]->size > region->base)
		return false;
	if (at < bus->count && region->base + region->size > bus->regions[at]->base)
		return false;
	for (unsigned i = bus->count; i > at; i--)
		put(bus, i, bus->regions[i - 1]);
	put(bus, at, region);
	__atomic_store_n(&bus->count, bus->count + 1, __ATOMIC_RELEASE);
	return true;
}

bool bus_add(struct bus *bus, struct bus_region *region)
{
	bool ok;

	if (!region->size || region->base + region->size < region->base)
		return false;
	write_begin(bus);
	ok = insert(bus, region);
	write_end(bus);
	return ok;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
	write_begin(bus);
	for (unsigned i = 0; i < bus->count; i++) {
		if (bus->regions[i] != region)
			continue;
		__atomic_store_n(&bus->count, bus->count - 1, __ATOMIC_RELEASE);
		for (; i < bus->count; i++)
			put(bus, i, bus->regions[i + 1]);
		break;
	}
	write_end(bus);
}

/* The region that holds all of [addr, addr+size) in the table as it is, whole or not. */
static bool look_up(const struct bus *bus, u64 addr, unsigned size, struct bus_region *found)
{
	unsigned lo = 0, hi = __atomic_load_n(&bus->count, __ATOMIC_ACQUIRE);
	const struct bus_region *r;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		r = __atomic_load_n(&bus->regions[mid], __ATOMIC_ACQUIRE);
		if (r->base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return false;
	r = __atomic_load_n(&bus->regions[lo - 1], __ATOMIC_ACQUIRE);
	*found = *r;
	return addr - found->base < found->size && size <= found->size - (addr - found->base);
}

/* The same in a whole table. The region is copied, so that it stays valid. */
static bool bus_find(struct bus *bus, u64 addr, unsigned size, struct bus_region *found)
{
	for (;;) {
		u32 before = __atomic_load_n(&bus->sequence, __ATOMIC_ACQUIRE);
		bool hit = look_up(bus, addr, size, found);

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (G_LIKELY(!(before & 1) &&
			     __atomic_load_n(&bus->sequence, __ATOMIC_RELAXED) == before))
			return hit;
		__builtin_ia32_pause();
	}
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
