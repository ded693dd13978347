/*
 * What the processor asks of us while guest code runs (struct cpu_ops). Called with the guest's
 * vector state live in the host's registers: general registers only.
 */
#ifndef KVM_OPS_H
#define KVM_OPS_H

#include "kvm/vcpu.h"

extern const struct cpu_ops kvm_cpu_ops;
extern const struct irqchip_ops kvm_irqchip_ops;

/** Latches an NMI. Any thread. */
void vcpu_queue_nmi(struct vcpu *vcpu);

#endif
