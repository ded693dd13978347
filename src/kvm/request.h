/*
 * Requests: how any thread gets a vCPU's attention.
 *
 * A request is a bit in latch.requests. Setting one also clears cpu.poll, so that guest code is
 * left at its next poll, and wakes a vCPU that sleeps in HLT. The run loop sets cpu.poll to CPU_GO_ON
 * and looks at the bits afterwards, so a request is never missed: either the loop sees the bit,
 * or the guest's code sees the cleared poll word.
 *
 * Sections: while a vCPU runs or reads what others publish (memory maps, I/O event tables, the
 * MSR filter), its latch.section is odd. vm_sync() posts requests and waits until every vCPU has
 * either been outside since, or has handled its requests; then nobody holds what was published
 * before.
 */
#ifndef KVM_REQUEST_H
#define KVM_REQUEST_H

#include "kvm/vcpu.h"

/** A number that no other running thread has: the thread pointer. */
static inline u64 vcpu_thread_self(void)
{
	u64 self;

	__asm__("mov %%fs:0, %0" : "=r"(self));
	return self;
}

enum vcpu_request_bit {
	REQ_EVENT,	 /* an interrupt or event may be deliverable */
	REQ_TLB_FLUSH,	 /* drop all translations */
	REQ_WRITE_FLUSH, /* drop cached write permissions (dirty log) */
	REQ_MEMORY,	 /* memslots changed: drop translations and translated code */
	REQ_CODE_FLUSH,	 /* drop translated code */
	REQ_SMI,
	REQ_CLOCK, /* update the kvmclock page */
	REQ_STEAL, /* update the steal-time record */
	REQ_TRIPLE_FAULT,
	REQ_PMU,     /* a performance counter's time, or another event filter */
	REQ_PUBLISH, /* nothing to do but to notice */
	REQ_COUNT,
};

/** Posts requests (mask of BIT64(REQ_*)) and makes the vCPU look. Any thread, signal handlers. */
void vcpu_request(struct vcpu *vcpu, u64 mask);
/** Makes the vCPU look at its state without a request. */
void vcpu_wake(struct vcpu *vcpu);
/** KVM_RUN must return -EINTR. Async-signal-safe. */
void vcpu_kick(struct vcpu *vcpu);

/** Posts requests to every vCPU; with `wait`, see above. slots_lock or lock held. */
void vm_request_all(struct vm *vm, u64 mask, bool wait);
/** The client has written guest memory: vCPUs look whether it was code. Any thread, signal handlers. */
void vm_memory_written(struct vm *vm, u64 gpa, u64 bytes);
/** What was published before is no longer in use when this returns. */
static inline void vm_sync(struct vm *vm)
{
	vm_request_all(vm, BIT64(REQ_PUBLISH), true);
}

/** The vCPU's thread begins to use published pointers; handles memory requests first. */
void vcpu_section_enter(struct vcpu *vcpu);
/** … and has no such pointer any more. */
void vcpu_section_leave(struct vcpu *vcpu);

#define REQ_MEMORY_MASK                                                      \
	(BIT64(REQ_TLB_FLUSH) | BIT64(REQ_WRITE_FLUSH) | BIT64(REQ_MEMORY) | \
	 BIT64(REQ_CODE_FLUSH) | BIT64(REQ_PUBLISH))

/** Takes the memory requests and performs them; waiters go on. vCPU thread, inside a section,
 *  holding no published pointer. */
void vcpu_handle_memory_requests(struct vcpu *vcpu);

#endif
