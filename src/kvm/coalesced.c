#include "kvm/coalesced.h"

#include "base/futex.h"
#include "base/mem.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"

#include <errno.h>
#include <stdlib.h>

#define ZONES_MAX 1000u
#define RING_ENTRIES                                                  \
	((u32)((PAGE_SIZE - sizeof(struct kvm_coalesced_mmio_ring)) / \
	       sizeof(struct kvm_coalesced_mmio)))

struct coalesced {
	u32 count;
	struct kvm_coalesced_mmio_zone zone[];
};

static bool zone_hit(const struct coalesced *set, bool pio, u64 addr, unsigned len)
{
	for (u32 i = 0; i < set->count; i++) {
		const struct kvm_coalesced_mmio_zone *z = &set->zone[i];

		if (!!z->pio == pio && addr >= z->addr && len <= z->size &&
		    addr - z->addr <= z->size - len)
			return true;
	}
	return false;
}

bool coalesced_write(struct vm *vm, bool pio, u64 addr, unsigned len, const void *data)
{
	struct coalesced *set = __atomic_load_n(&vm->coalesced, __ATOMIC_ACQUIRE);
	struct kvm_coalesced_mmio_ring *ring = vm->coalesced_page;
	struct kvm_coalesced_mmio *e;
	bool done = false;
	u32 last;

	if (LIKELY(!set) || !zone_hit(set, pio, addr, len))
		return false;
	futex_lock(&vm->coalesced_lock);
	/* The ring is shared with the client: its indices are bounded before use. */
	last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED) % RING_ENTRIES;
	if ((last + 1) % RING_ENTRIES !=
	    __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) % RING_ENTRIES) {
		e = &ring->coalesced_mmio[last];
		e->phys_addr = addr;
		e->len = len;
		mem_copy(e->data, data, len);
		e->pio = pio;
		__atomic_store_n(&ring->last, (last + 1) % RING_ENTRIES, __ATOMIC_RELEASE);
		done = true;
	}
	futex_unlock(&vm->coalesced_lock);
	return done;
}

static int zones_publish(struct vm *vm, struct coalesced *set)
{
	struct coalesced *old = __atomic_exchange_n(&vm->coalesced, set, __ATOMIC_ACQ_REL);

	vm_sync(vm);
	free(old);
	return 0;
}

int vm_register_coalesced(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_coalesced_mmio_zone *z = data;
	struct coalesced *set;
	u32 count;
	int ret = -ENOMEM;

	if (z->pio > 1)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	count = vm->coalesced ? vm->coalesced->count : 0;
	if (count >= ZONES_MAX) {
		ret = -ENOSPC;
		goto out;
	}
	set = calloc(1, sizeof(*set) + (count + 1) * sizeof(set->zone[0]));
	if (!set)
		goto out;
	for (u32 i = 0; i < count; i++)
		set->zone[i] = vm->coalesced->zone[i];
	set->zone[count] = *z;
	set->count = count + 1;
	ret = zones_publish(vm, set);
out:
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

/* Drops every zone that lies inside the given one. None there is no error. */
int vm_unregister_coalesced(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_coalesced_mmio_zone *z = data;
	struct coalesced *set;
	u32 count;
	int ret = -ENOMEM;

	if (z->pio > 1)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	count = vm->coalesced ? vm->coalesced->count : 0;
	set = calloc(1, sizeof(*set) + count * sizeof(set->zone[0]));
	if (!set)
		goto out;
	for (u32 i = 0; i < count; i++) {
		const struct kvm_coalesced_mmio_zone *o = &vm->coalesced->zone[i];
		bool inside = o->pio == z->pio && z->addr >= o->addr && z->size <= o->size &&
			      z->addr - o->addr <= o->size - z->size;

		if (!inside)
			set->zone[set->count++] = *o;
	}
	ret = zones_publish(vm, set);
out:
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

void coalesced_destroy(struct vm *vm)
{
	free(vm->coalesced);
	vm->coalesced = NULL;
}
