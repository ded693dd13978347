/*
 * Memory slots: KVM_SET_USER_MEMORY_REGION(2), and the maps that the MMU reads.
 *
 * A slot is immutable once it is in a published map, but for its dirty bitmap. A change builds a
 * new slot and a new map of its address space, publishes it, and frees the old ones when no vCPU
 * can hold them.
 */
#ifndef KVM_MEMSLOT_H
#define KVM_MEMSLOT_H

#include "kvm/abi.h"
#include "kvm/vm.h"

struct memslot {
	u32 as, id, flags;
	u64 gpa, pages, hva;
	/*
	 * Dirty log: one bit a page, set by vCPUs. With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 a bit
	 * stays until KVM_CLEAR_DIRTY_LOG. With a dirty ring a set bit means "is in a ring".
	 */
	u64 *dirty;
};

#define MEMSLOT_DIRTY_WORDS(pages) (((pages) + 63) / 64)

/** KVM_SET_USER_MEMORY_REGION and …2. */
int memslot_set(struct vm *vm, const struct kvm_userspace_memory_region2 *region);

/** The slot with an id (address space in bits 31…16), or NULL. slots_lock held. */
struct memslot *memslot_get(struct vm *vm, u32 id);

/** Frees everything; no vCPU is left. */
void memslot_destroy_all(struct vm *vm);

/** MMU callback: a vCPU set the dirty bit of a page. Pushes it to the vCPU's ring, if any. */
void memslot_page_dirtied(struct cpu *cpu, struct mmu_slot *slot, u64 page);

/** Guest memory read or written by this layer. 0 or -EFAULT. vCPU thread in a section. */
int guest_read(struct vcpu *vcpu, u64 gpa, void *buf, u64 n);
int guest_write(struct vcpu *vcpu, u64 gpa, const void *buf, u64 n);
/** Atomically replaces one byte that other vCPUs write too; *value becomes the old one. 0 or -EFAULT. */
int guest_exchange8(struct vcpu *vcpu, u64 gpa, u8 *value);

#endif
