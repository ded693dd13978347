/* Trace points around KVM_RUN; base/trace.def has them all. Called only where there is a trace. */
#ifndef KVM_TRACE_H
#define KVM_TRACE_H

#include "base/trace.h"
#include "kvm/vcpu.h"

/** Before and behind guest code. */
void trace_entry(struct vcpu *vcpu);
void trace_exit(struct vcpu *vcpu);
/** KVM_RUN ends with this result. */
void trace_userspace_exit(struct vcpu *vcpu, int ret);
/** Accesses with their data, also those that the client answered. */
void trace_pio(struct vcpu *vcpu, bool in, u16 port, unsigned size, u32 count, const void *data);
void trace_mmio(struct vcpu *vcpu, bool write, u64 gpa, unsigned len, const void *data);

#endif
