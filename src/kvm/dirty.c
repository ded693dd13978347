#include "kvm/dirty.h"

#include "kvm/request.h"
#include "kvm/user.h"
#include "mmu/pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RING_MAX_BYTES (65536u * sizeof(struct kvm_dirty_gfn))
/* Entries kept free, so that one instruction's writes always fit. */
#define RING_RESERVE 64u

void memslot_page_dirtied(struct cpu *cpu, struct mmu_slot *mslot, u64 page)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	struct kvm_dirty_gfn *gfn;
	u32 head;

	if (!vcpu->dirty_ring)
		return;
	head = vcpu->dirty_ring_head;
	gfn = (struct kvm_dirty_gfn *)vcpu->dirty_ring + head % vcpu->dirty_ring_entries;
	gfn->slot = mslot->id;
	gfn->offset = page;
	__atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	__atomic_store_n(&vcpu->dirty_ring_head, head + 1, __ATOMIC_RELEASE);
	if (dirty_ring_full(vcpu)) {
		/* Jumps between blocks do not poll: more stores than are kept free would get by. */
		cpu->log_full = true;
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_SEQ_CST);
	}
}

bool dirty_ring_full(struct vcpu *vcpu)
{
	u32 used;

	if (LIKELY(!vcpu->dirty_ring))
		return false;
	used = vcpu->dirty_ring_head - __atomic_load_n(&vcpu->dirty_ring_reset, __ATOMIC_ACQUIRE);
	return used >= vcpu->dirty_ring_entries - RING_RESERVE;
}

int dirty_log_get(struct vm *vm, const struct kvm_dirty_log *log)
{
	struct memslot *slot;
	u64 *copy = NULL, words, any = 0;
	int ret;

	if (vm->dirty_ring_bytes && !vm->dirty_ring_bitmap)
		return -ENXIO;
	if ((log->slot >> 16) >= 2 || (log->slot & 0xffff) >= KVM_ABI_USER_SLOTS)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	ret = -ENOENT;
	slot = memslot_get(vm, log->slot);
	if (!slot || !slot->dirty)
		goto out;
	words = MEMSLOT_DIRTY_WORDS(slot->pages);
	ret = -ENOMEM;
	copy = malloc(words * sizeof(u64));
	if (!copy)
		goto out;
	for (u64 i = 0; i < words; i++) {
		copy[i] = vm->manual_dirty || !__atomic_load_n(&slot->dirty[i], __ATOMIC_RELAXED)
				  ? __atomic_load_n(&slot->dirty[i], __ATOMIC_RELAXED)
				  : __atomic_exchange_n(&slot->dirty[i], 0, __ATOMIC_SEQ_CST);
		any |= copy[i];
	}
	if (any && !vm->manual_dirty)
		vm_request_all(vm, BIT64(REQ_WRITE_FLUSH), true);
	ret = user_copy_out((u64)log->dirty_bitmap, copy, words * sizeof(u64));
out:
	pthread_mutex_unlock(&vm->slots_lock);
	free(copy);
	return ret;
}

/* Larger pieces outlive the beginning of a log with all bits set, up to here. */
static void given_split(struct vm *vm, struct memslot *slot, u64 page, u64 cleared)
{
	u64 first = page + (unsigned)__builtin_ctzll(cleared);
	u64 last = page + 63 - (unsigned)__builtin_clzll(cleared);

	if (!(slot->flags & KVM_MEM_READONLY))
		pages_split(slot->given, slot->gpa + (first << PAGE_SHIFT),
			    (last - first + 1) << PAGE_SHIFT, !vm->parameters.eager_page_split);
}

int dirty_log_clear(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	struct memslot *slot;
	u64 *clear = NULL, words, any = 0;
	int ret;

	if (vm->dirty_ring_bytes && !vm->dirty_ring_bitmap)
		return -ENXIO;
	if ((log->slot >> 16) >= 2 || (log->slot & 0xffff) >= KVM_ABI_USER_SLOTS)
		return -EINVAL;
	if (log->first_page & 63)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	ret = -ENOENT;
	slot = memslot_get(vm, log->slot);
	if (!slot || !slot->dirty)
		goto out;
	ret = -EINVAL;
	if (log->first_page > slot->pages || log->num_pages > slot->pages - log->first_page ||
	    ((log->num_pages & 63) && log->first_page + log->num_pages < slot->pages))
		goto out;
	words = MEMSLOT_DIRTY_WORDS(log->num_pages);
	ret = -ENOMEM;
	clear = malloc(words * sizeof(u64) + 8);
	if (!clear)
		goto out;
	ret = user_copy_in(clear, (u64)log->dirty_bitmap, words * sizeof(u64));
	if (ret)
		goto out;
	for (u64 i = 0; i < words; i++) {
		u64 cleared = !clear[i] ? 0
					: __atomic_fetch_and(&slot->dirty[log->first_page / 64 + i],
							     ~clear[i], __ATOMIC_SEQ_CST) &
						  clear[i];

		if (!cleared)
			continue;
		any |= cleared;
		if (dirty_initially_set(vm))
			given_split(vm, slot, log->first_page + i * 64, cleared);
	}
	if (any)
		vm_request_all(vm, BIT64(REQ_WRITE_FLUSH), true);
out:
	pthread_mutex_unlock(&vm->slots_lock);
	free(clear);
	return ret;
}

int dirty_ring_enable(struct vm *vm, u64 bytes)
{
	int ret = 0;

	bytes = (u32)bytes;
	if (!bytes || (bytes & (bytes - 1)) || bytes < PAGE_SIZE)
		return -EINVAL;
	if (bytes > RING_MAX_BYTES)
		return -E2BIG;
	pthread_mutex_lock(&vm->lock);
	if (vm->dirty_ring_bytes || vm->vcpu_count)
		ret = -EINVAL;
	else
		vm->dirty_ring_bytes = (u32)bytes;
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int dirty_ring_create(struct vcpu *vcpu)
{
	u32 bytes = vcpu->vm->dirty_ring_bytes;
	void *p;

	if (!bytes)
		return 0;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	vcpu->dirty_ring_entries = bytes / sizeof(struct kvm_dirty_gfn);
	vcpu->dirty_ring = p;
	return 0;
}

void dirty_ring_destroy(struct vcpu *vcpu)
{
	if (vcpu->dirty_ring)
		munmap(vcpu->dirty_ring, vcpu->vm->dirty_ring_bytes);
	vcpu->dirty_ring = NULL;
}

/* Takes back the entries that the client has marked as collected. slots_lock held. */
static u32 ring_reset(struct vm *vm, struct vcpu *vcpu)
{
	struct kvm_dirty_gfn *ring = vcpu->dirty_ring;
	u32 n = 0, reset = vcpu->dirty_ring_reset;
	u32 head = __atomic_load_n(&vcpu->dirty_ring_head, __ATOMIC_ACQUIRE);

	for (; reset != head; reset++, n++) {
		struct kvm_dirty_gfn *gfn = &ring[reset % vcpu->dirty_ring_entries];
		struct memslot *slot;
		u64 page;

		if (!(__atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
			break;
		/* The client may have written anything here: the index is checked. */
		slot = memslot_get(vm, gfn->slot);
		page = gfn->offset;
		if (slot && slot->dirty && page < slot->pages)
			__atomic_fetch_and(&slot->dirty[page / 64], ~BIT64(page % 64),
					   __ATOMIC_SEQ_CST);
		__atomic_store_n(&gfn->flags, 0, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&vcpu->dirty_ring_reset, reset, __ATOMIC_RELEASE);
	return n;
}

int dirty_ring_reset_all(struct vm *vm)
{
	u32 n = 0;

	if (!vm->dirty_ring_bytes)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	for (u32 i = 0; i < vm_vcpu_count(vm); i++)
		n += ring_reset(vm, vm->vcpus[i]);
	if (n)
		vm_request_all(vm, BIT64(REQ_WRITE_FLUSH), true);
	pthread_mutex_unlock(&vm->slots_lock);
	return (int)n;
}
