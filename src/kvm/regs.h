/* Registers in the API's structures; also used by the sync regs of KVM_RUN. */
#ifndef KVM_REGS_H
#define KVM_REGS_H

#include "kvm/vcpu.h"

void regs_get(struct vcpu *vcpu, struct kvm_regs *r);
void regs_set(struct vcpu *vcpu, const struct kvm_regs *r);
void sregs_get(struct vcpu *vcpu, struct kvm_sregs *s);
/** 0 or -EINVAL. */
/** CPL as the rest of the state has it: SS.DPL, 3 in virtual-8086 mode, 0 in real mode. */
void sregs_cpl(struct cpu *cpu);
int sregs_set(struct vcpu *vcpu, const struct kvm_sregs *s);
void events_get(struct vcpu *vcpu, struct kvm_vcpu_events *e);
/** 0 or -EINVAL. */
int events_set(struct vcpu *vcpu, const struct kvm_vcpu_events *e);

/** CR8, from the local APIC where there is one inside. */
u64 vcpu_cr8(const struct vcpu *vcpu);
void vcpu_set_cr8(struct vcpu *vcpu, u64 value);

#endif
