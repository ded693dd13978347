/* Paravirtual features: kvmclock, steal time, PV EOI, asynchronous page faults, hypercalls. */
#ifndef KVM_PV_H
#define KVM_PV_H

#include "kvm/vcpu.h"

/* The KVM_… MSRs: 0, or 1 for "refused". */
int pv_msr_get(struct vcpu *vcpu, u32 index, u64 *value, bool host);
int pv_msr_set(struct vcpu *vcpu, u32 index, u64 value, bool host);

/** Writes the vCPU's pvclock structure. vCPU thread in a section, as all below. */
void pv_clock_update(struct vcpu *vcpu);
/** Steal time: the vCPU's thread begins and ends to be runnable on the guest's behalf. */
void pv_steal_resume(struct vcpu *vcpu);
void pv_steal_suspend(struct vcpu *vcpu);
void pv_steal_update(struct vcpu *vcpu);
/** Closes what the vCPU holds. */
void pv_destroy(struct vcpu *vcpu);
/** Takes an EOI that the guest signalled in memory; offers the next one. */
void pv_eoi_sync(struct vcpu *vcpu);
void pv_eoi_offer(struct vcpu *vcpu);

/** cpu_ops: VMCALL, VMMCALL. */
int pv_hypercall(struct cpu *cpu);

#endif
