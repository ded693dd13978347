/* KVM_SET_GUEST_DEBUG. */
#ifndef KVM_DEBUG_H
#define KVM_DEBUG_H

#include "kvm/vcpu.h"

/** RFLAGS.TF is the debugger's, not the guest's: hidden from the client. */
static inline bool debug_hides_tf(const struct vcpu *vcpu)
{
	return false; /* single steps are made by block length, not by TF */
}

#endif
