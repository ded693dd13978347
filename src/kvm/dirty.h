/*
 * The dirty log: bitmap, manual clear, ring.
 *
 * A vCPU that writes to a logged page sets the page's bit before its store can be seen to have
 * happened without it: the MMU caches write permission for a page only after the bit is set.
 * Reading the log clears bits first and drops the cached permissions of every vCPU after, before
 * the client may look at memory; so a store is in this round or in the next.
 */
#ifndef KVM_DIRTY_H
#define KVM_DIRTY_H

#include "kvm/memslot.h"

/** KVM_DIRTY_LOG_INITIALLY_SET is in force. */
static inline bool dirty_initially_set(const struct vm *vm)
{
	return (vm->manual_dirty & KVM_DIRTY_LOG_INITIALLY_SET) && !vm->dirty_ring_bytes;
}

int dirty_log_get(struct vm *vm, const struct kvm_dirty_log *log);
int dirty_log_clear(struct vm *vm, const struct kvm_clear_dirty_log *log);

/** KVM_CAP_DIRTY_LOG_RING(_ACQ_REL): bytes of each vCPU's ring. */
int dirty_ring_enable(struct vm *vm, u64 bytes);
int dirty_ring_create(struct vcpu *vcpu);
void dirty_ring_destroy(struct vcpu *vcpu);
/** KVM_RESET_DIRTY_RINGS: number of entries collected. */
int dirty_ring_reset_all(struct vm *vm);
/** The ring is so full that the vCPU must stop. */
bool dirty_ring_full(struct vcpu *vcpu);

#endif
