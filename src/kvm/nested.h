/*
 * nested.h - a vCPU that runs a nested guest (L2): what the run loop does for its hypervisor (L1),
 * and the nested state's ioctls. All on the vCPU's thread with the mutex held.
 */
#ifndef KVM_NESTED_H
#define KVM_NESTED_H

#include "kvm/vcpu.h"

/**
 * Guest mode, nothing is being delivered: leaves L2 for what is L1's (timer, NMI, interrupt, windows).
 * *waiting: L1 wants to hear of a window that is not open yet. RUN_GUEST or RUN_USER.
 */
int nested_events(struct vcpu *vcpu, bool *waiting);
/** Guest mode: something would end L2's HLT that would not end L1's. */
bool nested_has_work(const struct vcpu *vcpu);
/** Has the preemption timer wake this vCPU. */
void nested_timer_arm(struct vcpu *vcpu);
/** L2 cannot go on: a triple fault, told to L1. RUN_GUEST or RUN_USER. */
int nested_triple_fault(struct vcpu *vcpu);

/** KVM_CAP_NESTED_STATE: the size of the largest state, or 0. */
int nested_state_size(const struct system *sys);

#endif
