/* The API's side of performance counters: event filter, interrupts, time. */
#ifndef KVM_PMU_H
#define KVM_PMU_H

#include "kvm/vcpu.h"

/** CPUID was set (ioctl): counters appear or go. 0 or -errno. */
int pmu_cpuid_changed(struct vcpu *vcpu);
/** REQ_PMU: a counter's time came, or the filter was changed. */
void pmu_handle_request(struct vcpu *vcpu);
void pmu_filter_destroy(struct vm *vm);

/* cpu_ops */
bool pmu_ops_allowed(struct cpu *cpu, int fixed, u64 sel);
void pmu_ops_interrupt(struct cpu *cpu);
void pmu_ops_changed(struct cpu *cpu);

#endif
