/*
 * MSRs: the layers' own (APIC, paravirtual, TSC), the filter, and exits to user space. The
 * processor's are in cpu/msr.def.
 */
#ifndef KVM_MSR_H
#define KVM_MSR_H

#include "kvm/vcpu.h"

struct msr_filter;

/* Reads and writes by the client (host) or the guest: 0, or 1 for "refused". */
int msr_get(struct vcpu *vcpu, u32 index, u64 *value, bool host);
int msr_set(struct vcpu *vcpu, u32 index, u64 value, bool host);

/** The filter lets the guest's access through. In a section. */
bool msr_allowed(struct vcpu *vcpu, u32 index, bool write);

/* cpu_ops */
int msr_ops_read(struct cpu *cpu, u32 index, u64 *value, bool *handled);
int msr_ops_write(struct cpu *cpu, u32 index, u64 value, bool *handled);

void msr_filter_destroy(struct vm *vm);

#endif
