#include "kvm/memslot.h"

#include "kvm/dirty.h"
#include "kvm/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_FLAGS (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)

static void slot_free(struct memslot *slot)
{
	if (!slot)
		return;
	free(slot->dirty);
	free(slot);
}

struct memslot *memslot_get(struct vm *vm, u32 id)
{
	u32 as = id >> 16, n = id & 0xffff;

	if (as >= 2 || n >= vm->slot_count[as])
		return NULL;
	return vm->slots[as][n];
}

/* Makes room for slot number n. */
static int slots_grow(struct vm *vm, u32 as, u32 n)
{
	u32 count = vm->slot_count[as];
	struct memslot **slots;

	if (n < count)
		return 0;
	count = MIN(MAX(n + 1, MAX(2 * count, 32u)), KVM_ABI_USER_SLOTS);
	slots = realloc(vm->slots[as], count * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + vm->slot_count[as], 0, (count - vm->slot_count[as]) * sizeof(*slots));
	vm->slots[as] = slots;
	vm->slot_count[as] = count;
	return 0;
}

static struct mmu_slot mmu_slot_of(struct memslot *slot)
{
	return (struct mmu_slot){
		.gpa = slot->gpa,
		.size = slot->pages << PAGE_SHIFT,
		.hva = (u8 *)slot->hva,
		.id = slot->as << 16 | slot->id,
		.flags = slot->flags,
		.dirty = slot->dirty,
		.priv = slot,
	};
}

/* Maps are recycled: with many slots most of a change's time would go into fresh pages. */
static struct mmu_map *map_alloc(struct vm *vm, unsigned count)
{
	struct mmu_map *map = vm->spare_map;

	if (map && vm->spare_room >= count) {
		vm->spare_map = NULL;
		return map;
	}
	return malloc(sizeof(*map) + align_up(count, 64) * sizeof(map->slot[0]));
}

static void map_retire(struct vm *vm, struct mmu_map *map)
{
	if (!map)
		return;
	free(vm->spare_map);
	vm->spare_map = map;
	vm->spare_room = (unsigned)align_up(map->count, 64);
}

/* The first slot at or behind an address. */
static unsigned map_place(const struct mmu_map *map, unsigned count, u64 gpa)
{
	unsigned lo = 0, hi = count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (map->slot[mid].gpa < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/*
 * The current map of an address space with one slot (if any) taken out and one (if any) put in.
 * The map is sorted, so this is one pass.
 */
static struct mmu_map *map_change(struct vm *vm, u32 as, const struct memslot *out,
				  struct memslot *in)
{
	struct mmu_map *old = atomic_load(&vm->mem.map[as]), *map;
	unsigned count = old ? old->count : 0, n = 0;

	map = map_alloc(vm, count + 1);
	if (!map)
		return NULL;
	/* Whole runs between the places of change: with thousands of slots this is what costs. */
	for (unsigned i = 0; i < count || in;) {
		unsigned end = in ? map_place(old, count, in->gpa) : count;

		if (out && map_place(old, count, out->gpa) >= i)
			end = MIN(end, map_place(old, count, out->gpa));
		if (end > i)
			memcpy(&map->slot[n], &old->slot[i], (end - i) * sizeof(map->slot[0]));
		n += end - i;
		i = end;
		if (in && i == map_place(old, count, in->gpa)) {
			map->slot[n++] = mmu_slot_of(in);
			in = NULL;
		}
		if (out && i < count && old->slot[i].priv == out) {
			i++;
			out = NULL;
		}
	}
	map->count = n;
	return map;
}

static bool overlaps(struct vm *vm, u32 as, const struct memslot *self, u64 gpa, u64 pages)
{
	struct mmu_map *map = atomic_load(&vm->mem.map[as]);
	u64 end = gpa + (pages << PAGE_SHIFT);
	unsigned lo = 0, hi = map ? map->count : 0;

	/* The first slot that ends behind gpa. */
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (map->slot[mid].gpa + map->slot[mid].size <= gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; map && lo < map->count && map->slot[lo].gpa < end; lo++)
		if (map->slot[lo].priv != self)
			return true;
	return false;
}

/* Publishes a new map; frees the old one and a slot that nothing refers to any more. */
static int map_publish(struct vm *vm, u32 as, struct memslot *out, struct memslot *in)
{
	struct mmu_map *map = map_change(vm, as, out, in);
	/* Only a new slot's translations can be missing; others must go. */
	u64 mask = BIT64(out ? REQ_MEMORY : REQ_TLB_FLUSH);

	if (!map)
		return -ENOMEM;
	map = mmu_vm_set_map(&vm->mem, as, map);
	vm_request_all(vm, mask, true);
	vm->stats.memslot_changes++;
	map_retire(vm, map);
	return 0;
}

static int region_check(struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	u32 as = r->slot >> 16, id = r->slot & 0xffff;

	if (r->flags & ~SLOT_FLAGS)
		return -EINVAL;
	if ((r->memory_size & ~PAGE_MASK) || (r->guest_phys_addr & ~PAGE_MASK))
		return -EINVAL;
	if ((r->userspace_addr & ~PAGE_MASK) ||
	    r->userspace_addr + r->memory_size < r->userspace_addr ||
	    r->userspace_addr + r->memory_size > 0x00007ffffffff000ull)
		return -EINVAL;
	if (as >= 2 || id >= KVM_ABI_USER_SLOTS)
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	if (!as && r->memory_size >> PAGE_SHIFT > KVM_ABI_MAX_SLOT_PAGES)
		return -EINVAL;
	return 0;
}

static int slot_delete(struct vm *vm, struct memslot *old)
{
	int ret;

	if (!old)
		return -EINVAL;
	ret = map_publish(vm, old->as, old, NULL);
	if (ret)
		return ret;
	vm->slot_pages -= old->pages;
	vm->slots[old->as][old->id] = NULL;
	slot_free(old);
	return 0;
}

/* The bitmap of a slot that logs; an existing one is kept. */
static int slot_dirty_init(struct vm *vm, struct memslot *slot, struct memslot *old)
{
	if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return 0;
	if (old && old->dirty && old->pages == slot->pages) {
		slot->dirty = old->dirty;
		return 0;
	}
	slot->dirty = calloc(MEMSLOT_DIRTY_WORDS(slot->pages), sizeof(u64));
	if (!slot->dirty)
		return -ENOMEM;
	if (dirty_initially_set(vm))
		for (u64 i = 0; i < slot->pages; i++)
			slot->dirty[i / 64] |= BIT64(i % 64);
	return 0;
}

static int memslot_set_locked(struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	u32 as = r->slot >> 16, id = r->slot & 0xffff;
	struct memslot *old = memslot_get(vm, r->slot), *slot;
	u64 pages = r->memory_size >> PAGE_SHIFT;
	int ret;

	if (!pages)
		return slot_delete(vm, old);
	if (old) {
		if (old->hva != r->userspace_addr || old->pages != pages ||
		    ((old->flags ^ r->flags) & KVM_MEM_READONLY))
			return -EINVAL;
		if (old->gpa == r->guest_phys_addr && old->flags == r->flags)
			return 0;
	}
	if ((!old || old->gpa != r->guest_phys_addr) &&
	    overlaps(vm, as, old, r->guest_phys_addr, pages))
		return -EEXIST;
	ret = slots_grow(vm, as, id);
	if (ret)
		return ret;
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		return -ENOMEM;
	*slot = (struct memslot){
		.as = as,
		.id = id,
		.flags = r->flags,
		.gpa = r->guest_phys_addr,
		.pages = pages,
		.hva = r->userspace_addr,
	};
	ret = slot_dirty_init(vm, slot, old);
	if (!ret)
		ret = map_publish(vm, as, old, slot);
	if (ret) {
		if (old && old->dirty == slot->dirty)
			slot->dirty = NULL;
		slot_free(slot);
		return ret;
	}
	vm->slots[as][id] = slot;
	if (old) {
		if (old->dirty == slot->dirty)
			old->dirty = NULL;
		slot_free(old);
	} else {
		vm->slot_pages += pages;
	}
	return 0;
}

int memslot_set(struct vm *vm, const struct kvm_userspace_memory_region2 *region)
{
	int ret = region_check(vm, region);

	if (ret)
		return ret;
	pthread_mutex_lock(&vm->slots_lock);
	ret = memslot_set_locked(vm, region);
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

void memslot_destroy_all(struct vm *vm)
{
	for (u32 as = 0; as < 2; as++) {
		for (u32 i = 0; i < vm->slot_count[as]; i++)
			slot_free(vm->slots[as][i]);
		free(vm->slots[as]);
		vm->slots[as] = NULL;
		vm->slot_count[as] = 0;
		free(mmu_vm_set_map(&vm->mem, as, NULL));
	}
	free(vm->spare_map);
	vm->spare_map = NULL;
}

int guest_read(struct vcpu *vcpu, u64 gpa, void *buf, u64 n)
{
	return mmu_phys_read(&vcpu->cpu, gpa, buf, (unsigned)n) ? -EFAULT : 0;
}

int guest_write(struct vcpu *vcpu, u64 gpa, const void *buf, u64 n)
{
	return mmu_phys_write(&vcpu->cpu, gpa, buf, (unsigned)n) ? -EFAULT : 0;
}

int guest_exchange8(struct vcpu *vcpu, u64 gpa, u8 *value)
{
	struct mmu_slot *slot = mmu_slot_find(&vcpu->cpu, gpa);
	bool done = false;
	u64 old = 0;

	if (!slot || (slot->flags & KVM_MEM_READONLY))
		return -EFAULT;
	while (!done)
		if (hostmem_cmpxchg(slot->hva + (gpa - slot->gpa), &old, *value, 1, &done))
			return -EFAULT;
	*value = (u8)old;
	return 0;
}
