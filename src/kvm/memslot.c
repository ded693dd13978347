#include "kvm/memslot.h"

#include "kvm/dirty.h"
#include "kvm/gmem.h"
#include "kvm/ioctl.h"
#include "kvm/memattr.h"
#include "kvm/request.h"
#include "mmu/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void slot_free(struct memslot *slot)
{
	if (!slot)
		return;
	free(slot->dirty);
	pages_free(slot->given);
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

/* --- the map ------------------------------------------------------------------------------------ */

/* Puts the pieces of [from, to) of a slot into a map. */
static int pieces_insert(struct mmu_map_edit *edit, struct memslot *slot,
			 const struct memattr *attrs, u64 from, u64 to)
{
	int ret = 0;

	for (u64 at = from, end; at < to && !ret; at = end) {
		bool is_private;
		u64 in = at - slot->gpa;
		struct mmu_slot piece = {
			.gpa = at,
			.hva = slot->hva + in,
			.id = slot->as << 16 | slot->id,
			.flags = slot->flags,
			.dirty = slot->dirty,
			.priv = slot,
			.first = in >> PAGE_SHIFT,
			.pages = slot->given,
		};

		end = MIN(memattr_run(attrs, at, &is_private), to);
		piece.size = end - at;
		if (is_private && !slot->gmem)
			continue;
		if (is_private)
			piece.hva = (u64)slot->gmem->memory + slot->gmem_offset + in;
		ret = mmu_map_insert(edit, &piece);
	}
	return ret;
}

/* Takes the pieces of a slot out that overlap [*from, *to), and widens the range to their ends. */
static int pieces_remove(struct mmu_map_edit *edit, const struct memslot *slot, u64 *from, u64 *to)
{
	const struct mmu_slot *s;
	u64 end = *to;
	int ret = 0;

	while (!ret && (s = mmu_map_next(edit->root, *from)) && s->gpa < end && s->priv == slot) {
		*from = MIN(*from, s->gpa);
		*to = MAX(*to, s->gpa + s->size);
		ret = mmu_map_remove(edit, s->gpa);
	}
	return ret;
}

static u64 slot_end(const struct memslot *slot)
{
	return slot->gpa + (slot->pages << PAGE_SHIFT);
}

static struct mmu_map *map_now(struct vm *vm, u32 as)
{
	return atomic_load(&vm->mem.map[as]);
}

/* Publishes an edited map, waits until nobody can hold what went out of it, and frees that. */
static void map_publish(struct vm *vm, u32 as, struct mmu_map_edit *edit, u64 requests)
{
	mmu_vm_set_map(&vm->mem, as, edit->root);
	vm_request_all(vm, requests, true);
	mmu_map_commit(edit);
	vm->stats.memslot_changes++;
}

/* The map with one slot (if any) taken out and one (if any) put in. */
static int map_change(struct vm *vm, u32 as, struct memslot *out, struct memslot *in)
{
	struct mmu_map_edit edit;
	u64 from, to;
	int ret = 0;

	mmu_map_begin(&edit, map_now(vm, as));
	if (out) {
		from = out->gpa;
		to = slot_end(out);
		ret = pieces_remove(&edit, out, &from, &to);
	}
	if (in && !ret)
		ret = pieces_insert(&edit, in, vm->attrs, in->gpa, slot_end(in));
	if (ret) {
		mmu_map_abort(&edit);
		return ret;
	}
	/*
	 * No translation leads to a new slot; those to one whose log begins or ends, or that goes
	 * or moves, must be dropped, and in the latter case code as well. SMM sees the ordinary
	 * slots until it has its first one.
	 */
	if (out && !in)
		mmu_vm_slot_deleted(&vm->mem);
	if (in && out && in->gpa == out->gpa)
		map_publish(vm, as, &edit, BIT64(REQ_TLB_FLUSH));
	else
		map_publish(vm, as, &edit, BIT64(out || as ? REQ_MEMORY : REQ_PUBLISH));
	return 0;
}

static bool overlaps(struct vm *vm, u32 as, const struct memslot *self, u64 gpa, u64 pages)
{
	u64 end = gpa + (pages << PAGE_SHIFT);
	const struct mmu_slot *s;

	/* Private pages that lead nowhere are not in the map. */
	for (u32 i = 0; vm->private_mem && i < vm->slot_count[as]; i++) {
		const struct memslot *slot = vm->slots[as][i];

		if (slot && slot != self && slot->gpa < end && slot_end(slot) > gpa)
			return true;
	}
	for (s = mmu_map_next(map_now(vm, as), gpa); s && s->gpa < end;
	     s = mmu_map_next(map_now(vm, as), s->gpa + s->size))
		if (s->priv != self)
			return true;
	return false;
}

/* --- private memory ----------------------------------------------------------------------------- */

bool memslot_gpa_blocked(struct cpu *cpu, u64 gpa, unsigned access)
{
	return memattr_is_private(vcpu_of(cpu)->vm, gpa);
}

int memslot_reattribute(struct vm *vm, struct memattr *attrs, u64 start, u64 end)
{
	struct memattr *old = vm->attrs;
	struct mmu_map_edit edit;
	bool code = false;
	int ret = 0;

	mmu_map_begin(&edit, map_now(vm, 0));
	for (u32 i = 0; i < vm->slot_count[0] && !ret; i++) {
		struct memslot *slot = vm->slots[0][i];
		u64 from, to;

		if (!slot || slot->gpa >= end || slot_end(slot) <= start)
			continue;
		from = MAX(start, slot->gpa);
		to = MIN(end, slot_end(slot));
		code |= mmu_code_present(&vm->mem, from, to - from);
		/* With the neighbours, which may become one with it. */
		from -= from > slot->gpa;
		to += to < slot_end(slot);
		ret = pieces_remove(&edit, slot, &from, &to);
		from = align_down(from, PAGE_SIZE);
		to = align_up(to, PAGE_SIZE);
		if (!ret)
			ret = pieces_insert(&edit, slot, attrs, from, to);
	}
	if (ret) {
		mmu_map_abort(&edit);
		return ret;
	}
	__atomic_store_n(&vm->attrs, attrs, __ATOMIC_RELEASE);
	map_publish(vm, 0, &edit, BIT64(code ? REQ_MEMORY : REQ_TLB_FLUSH));
	for (u32 i = 0; i < vm->slot_count[0]; i++) {
		const struct memslot *slot = vm->slots[0][i];

		if (slot && slot->gpa < end && slot_end(slot) > start)
			pages_forget(slot->given, MAX(start, slot->gpa),
				     MIN(end, slot_end(slot)) - MAX(start, slot->gpa));
	}
	if (!code && mmu_code_present(&vm->mem, start, end - start))
		vm_request_all(vm, BIT64(REQ_CODE_FLUSH), true);
	free(old);
	return 0;
}

int memslot_gmem_gone(struct vm *vm, struct gmem *gmem)
{
	struct mmu_map_edit edit;
	int ret = 0;

	mmu_map_begin(&edit, map_now(vm, 0));
	for (u32 i = 0; i < vm->slot_count[0] && !ret; i++) {
		struct memslot *slot = vm->slots[0][i];
		u64 from, to;

		if (!slot || slot->gmem != gmem)
			continue;
		from = slot->gpa;
		to = slot_end(slot);
		slot->gmem = NULL;
		pages_forget(slot->given, from, to - from);
		ret = pieces_remove(&edit, slot, &from, &to);
		if (!ret)
			ret = pieces_insert(&edit, slot, vm->attrs, slot->gpa, slot_end(slot));
	}
	if (ret)
		mmu_map_abort(&edit);
	else if (edit.root != map_now(vm, 0))
		map_publish(vm, 0, &edit, BIT64(REQ_MEMORY));
	return ret;
}

/* Binds a new slot to its guest_memfd: at most one slot for each page of the file. */
static int gmem_bind(struct vm *vm, struct memslot *slot, struct gmem *gmem, u64 offset)
{
	u64 size = slot->pages << PAGE_SHIFT;

	if (offset + size > gmem->size)
		return -EINVAL;
	for (u32 i = 0; i < vm->slot_count[0]; i++) {
		const struct memslot *s = vm->slots[0][i];

		if (s && s->gmem == gmem && s->gmem_offset < offset + size &&
		    s->gmem_offset + (s->pages << PAGE_SHIFT) > offset)
			return -EINVAL;
	}
	slot->gmem = gmem;
	slot->gmem_offset = offset;
	return 0;
}

/* --- KVM_SET_USER_MEMORY_REGION ------------------------------------------------------------------ */

static int region_check(struct vm *vm, const struct kvm_userspace_memory_region2 *r)
{
	u32 as = r->slot >> 16, id = r->slot & 0xffff;
	u64 valid = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;

	/* The log does not know private memory, and writes to it are never MMIO. */
	if (vm->private_mem && (r->flags & KVM_MEM_GUEST_MEMFD))
		valid = KVM_MEM_GUEST_MEMFD;
	if (r->flags & ~valid)
		return -EINVAL;
	if ((r->memory_size & ~PAGE_MASK) || (r->guest_phys_addr & ~PAGE_MASK))
		return -EINVAL;
	if ((r->userspace_addr & ~PAGE_MASK) ||
	    r->userspace_addr + r->memory_size < r->userspace_addr ||
	    r->userspace_addr + r->memory_size > 0x00007ffffffff000ull)
		return -EINVAL;
	if ((r->flags & KVM_MEM_GUEST_MEMFD) &&
	    ((r->guest_memfd_offset & ~PAGE_MASK) ||
	     r->guest_memfd_offset + r->memory_size < r->guest_memfd_offset))
		return -EINVAL;
	if (as >= (vm->private_mem ? 1u : 2u) || id >= KVM_ABI_USER_SLOTS)
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr)
		return -EINVAL;
	if (r->memory_size && (r->guest_phys_addr + r->memory_size - 1) >> KVM_ABI_MAX_GPA_BITS)
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
	ret = map_change(vm, old->as, old, NULL);
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

/* The record of pages given is the old slot's as long as what it says goes on to be true. */
static int slot_given_init(struct memslot *slot, const struct memslot *old)
{
	bool log_ends = old && old->dirty && !slot->dirty && !(slot->flags & KVM_MEM_READONLY);

	if (old && old->gpa == slot->gpa && !log_ends)
		slot->given = old->given;
	else
		slot->given = pages_create(slot->gpa, slot->pages << PAGE_SHIFT);
	return slot->given ? 0 : -ENOMEM;
}

/* A dirty log has begun. */
static void slot_given_log(struct vm *vm, struct memslot *slot)
{
	bool lazily = !vm->parameters.eager_page_split;

	if ((slot->flags & KVM_MEM_READONLY) || dirty_initially_set(vm))
		return;
	pages_split(slot->given, slot->gpa, slot->pages << PAGE_SHIFT, lazily);
	if (lazily)
		vm_request_all(vm, BIT64(REQ_WRITE_FLUSH), false);
}

static int memslot_set_locked(struct vm *vm, const struct kvm_userspace_memory_region2 *r,
			      struct gmem *gmem)
{
	u32 as = r->slot >> 16, id = r->slot & 0xffff;
	struct memslot *old = memslot_get(vm, r->slot), *slot;
	u64 pages = r->memory_size >> PAGE_SHIFT;
	int ret;

	if (!pages)
		return slot_delete(vm, old);
	if (old) {
		if (r->flags & KVM_MEM_GUEST_MEMFD)
			return -EINVAL;
		if (old->hva != r->userspace_addr || old->pages != pages ||
		    ((old->flags ^ r->flags) & (KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD)))
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
		ret = slot_given_init(slot, old);
	if (!ret && gmem)
		ret = gmem_bind(vm, slot, gmem, r->guest_memfd_offset);
	if (!ret)
		ret = map_change(vm, as, old, slot);
	if (ret) {
		if (old && old->dirty == slot->dirty)
			slot->dirty = NULL;
		if (old && old->given == slot->given)
			slot->given = NULL;
		slot_free(slot);
		return ret;
	}
	vm->slots[as][id] = slot;
	if (old) {
		if (slot->dirty && !old->dirty && old->given == slot->given)
			slot_given_log(vm, slot);
		if (old->dirty == slot->dirty)
			old->dirty = NULL;
		if (old->given == slot->given)
			old->given = NULL;
		slot_free(old);
	} else {
		vm->slot_pages += pages;
	}
	return 0;
}

int memslot_set(struct vm *vm, const struct kvm_userspace_memory_region2 *region)
{
	struct fd_file *file = NULL;
	struct gmem *gmem = NULL;
	int ret = region_check(vm, region);

	if (ret)
		return ret;
	if ((region->flags & KVM_MEM_GUEST_MEMFD) && region->memory_size) {
		ret = gmem_get(vm, region->guest_memfd, &gmem, &file);
		if (ret)
			return ret;
	}
	pthread_mutex_lock(&vm->slots_lock);
	ret = memslot_set_locked(vm, region, gmem);
	pthread_mutex_unlock(&vm->slots_lock);
	/* Outside the lock: if it was the last reference the file's release takes it. */
	if (file)
		fd_put(file);
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
		mmu_map_free(mmu_vm_set_map(&vm->mem, as, NULL));
	}
	free(vm->attrs);
	vm->attrs = NULL;
}

/* --- guest memory by this layer --------------------------------------------------------------------- */

/* One page as if the vCPU had read it. */
static int prefault_page(struct vcpu *vcpu, u64 gpa)
{
	struct mmu_slot *slot = mmu_slot_find(&vcpu->cpu, gpa);
	u8 byte;
	int ret;

	if (!slot)
		return memattr_is_private(vcpu->vm, gpa) ? -EFAULT : -ENOENT;
	ret = hostmem_copy(&byte, mmu_slot_host(slot, gpa), 1);
	if (!ret)
		pages_give(&vcpu->cpu, slot, gpa, PAGES_ALL);
	return ret;
}

int vcpu_pre_fault_memory(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_pre_fault_memory *r = data;
	u64 whole = r->size;
	int ret = 0;

	if (r->flags || ((r->gpa | r->size) & ~PAGE_MASK) || r->gpa + r->size <= r->gpa)
		return -EINVAL;
	while (r->size && !ret) {
		/* The range is the client's: slots may change meanwhile, and it may be long. */
		vcpu_handle_memory_requests(vcpu);
		if (__atomic_load_n(&vcpu->latch.kicked, __ATOMIC_SEQ_CST))
			ret = -EINTR;
		else
			ret = prefault_page(vcpu, r->gpa);
		if (!ret) {
			r->gpa += PAGE_SIZE;
			r->size -= PAGE_SIZE;
		}
	}
	return r->size == whole ? ret : 0;
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
		if (hostmem_cmpxchg(mmu_slot_host(slot, gpa), &old, *value, 1, &done))
			return -EFAULT;
	*value = (u8)old;
	return 0;
}
