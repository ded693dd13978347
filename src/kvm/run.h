/*
 * KVM_RUN, split into its parts. All on the vCPU's thread with the mutex held, in a section, the
 * guest's FPU state live.
 *
 * Results of the parts: RUN_GUEST go on, RUN_USER return 0 to the client with kvm_run filled,
 * negative: return this -errno.
 */
#ifndef KVM_RUN_H
#define KVM_RUN_H

#include "kvm/vcpu.h"

enum { RUN_USER = 0, RUN_GUEST = 1 };

/* exits.c: cpu->exit → kvm_run, and what completes an exit on re-entry. */
int exit_handle(struct vcpu *vcpu);
int exit_complete(struct vcpu *vcpu);
/** The exit for what cannot be emulated, with up to 15 bytes of the instruction. RUN_USER. */
int exit_emulation_failure(struct vcpu *vcpu, const u8 *bytes, unsigned n);

/* inject.c: delivers what is due and allowed, and prepares to hear about what is not. */
int inject_events(struct vcpu *vcpu);
/** Something would end HLT now. */
bool inject_has_work(struct vcpu *vcpu);
/** An external interrupt waits, whatever is masked; takes it: its vector, or -1. */
bool inject_interrupt_pending(struct vcpu *vcpu);
int inject_take_interrupt(struct vcpu *vcpu);
/** External interrupts may be taken now (IF, shadows). */
bool inject_interrupts_allowed(const struct vcpu *vcpu);

/** INIT and SIPI that were latched. */
void vcpu_accept_apic_events(struct vcpu *vcpu);

/** A signal that the mask of KVM_SET_SIGNAL_MASK lets through is pending on this thread. */
bool run_signal_pending(struct vcpu *vcpu);

#endif
