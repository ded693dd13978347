/*
 * Memory slots: KVM_SET_USER_MEMORY_REGION(2), and the maps that the MMU reads.
 *
 * A slot is immutable once it is in a published map, but for its dirty bitmap and its guest_memfd.
 * A change edits the map of its address space (mmu/map.c), publishes it, and frees what went out
 * when no vCPU can hold it.
 *
 * Of a VM with private memory the map shows each range of a slot by its attribute: shared ranges
 * lead to the client's memory, private ones to the guest_memfd's, or nowhere.
 */
#ifndef KVM_MEMSLOT_H
#define KVM_MEMSLOT_H

#include "kvm/abi.h"
#include "kvm/vm.h"

struct memslot {
	u32 as, id, flags;
	u64 gpa, pages, hva;
	struct gmem *gmem; /* private memory, or NULL */
	u64 gmem_offset;   /* bytes */
	/*
	 * Dirty log: one bit a page, set by vCPUs. With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 a bit
	 * stays until KVM_CLEAR_DIRTY_LOG. With a dirty ring a set bit means "is in a ring".
	 */
	u64 *dirty;
	struct mmu_pages *given; /* what of it vCPUs have been given */
};

#define MEMSLOT_DIRTY_WORDS(pages) (((pages) + 63) / 64)

/** KVM_SET_USER_MEMORY_REGION and …2. */
int memslot_set(struct vm *vm, const struct kvm_userspace_memory_region2 *region);

/**
 * Makes the map show [start, end) by the attributes of `attrs`, and, if there are any, publishes
 * `attrs`. slots_lock held; 0 or -ENOMEM: nothing has changed.
 */
struct memattr;
int memslot_reattribute(struct vm *vm, struct memattr *attrs, u64 start, u64 end);
/** The guest_memfd closes: its ranges lead nowhere from now on. slots_lock held. 0 or -ENOMEM. */
int memslot_gmem_gone(struct vm *vm, struct gmem *gmem);

/** The slot with an id (address space in bits 31…16), or NULL. slots_lock held. */
struct memslot *memslot_get(struct vm *vm, u32 id);

/** Frees everything; no vCPU is left. */
void memslot_destroy_all(struct vm *vm);

/** MMU callback: a vCPU set the dirty bit of a page. Pushes it to the vCPU's ring, if any. */
void memslot_page_dirtied(struct cpu *cpu, struct mmu_slot *slot, u64 page);

/** MMU callback: an address in no slot is a memory fault rather than MMIO. */
bool memslot_gpa_blocked(struct cpu *cpu, u64 gpa, unsigned access);

/** Guest memory read or written by this layer. 0 or -EFAULT. vCPU thread in a section. */
int guest_read(struct vcpu *vcpu, u64 gpa, void *buf, u64 n);
int guest_write(struct vcpu *vcpu, u64 gpa, const void *buf, u64 n);
/** Atomically replaces one byte that other vCPUs write too; *value becomes the old one. 0 or -EFAULT. */
int guest_exchange8(struct vcpu *vcpu, u64 gpa, u8 *value);

#endif
