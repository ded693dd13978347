/*
 * Time: the host's clocks, the VM's kvmclock, and the vCPUs' TSCs.
 *
 * The guest's TSC is (host TSC × ratio >> 48) + offset, computed by generated code. kvmclock is
 * the host's CLOCK_MONOTONIC plus an offset; guests derive it from their TSC with the factors of
 * the host's TSC rate that all vCPUs share, so it never goes back between CPUs (the "stable" bit).
 */
#ifndef KVM_CLOCK_H
#define KVM_CLOCK_H

#include "kvm/vcpu.h"

static inline u64 clock_host_tsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

/** Host time in ns (CLOCK_MONOTONIC), the clock of base/timer.h. */
u64 clock_host_ns(void);
/** The host's TSC frequency, measured against CLOCK_MONOTONIC; waits for the rest of 12 ms from … */
u64 clock_host_tsc_khz(void);
/** … the first of these calls in a process. */
void clock_host_begin(void);

void clock_vm_init(struct vm *vm);

/** kvmclock now, ns; *tsc (if not NULL) is the host TSC of that moment. */
u64 clock_vm_now(struct vm *vm, u64 *tsc);

/** The vCPU's TSC as its guest would read it when the host's is `host`. */
u64 clock_guest_tsc(const struct vcpu *vcpu, u64 host);
/** Guest ticks to ns, rounded up, saturating. */
u64 clock_tsc_to_ns(const struct vcpu *vcpu, u64 ticks);

/** A new vCPU's TSC: the VM's rate, synchronised with the others. */
void clock_vcpu_init(struct vcpu *vcpu);
/** The vCPU's TSC rate. */
u64 clock_vcpu_khz(const struct vcpu *vcpu);
/** Sets a vCPU's TSC rate; 0 keeps the host's. 0 or -EINVAL. */
int clock_set_tsc_khz(struct vcpu *vcpu, u64 khz);
/** IA32_TSC written by the client, with KVM's synchronisation rules. */
void clock_tsc_write_host(struct vcpu *vcpu, u64 value);
/** IA32_TSC written by the guest. */
void clock_tsc_write_guest(struct vcpu *vcpu, u64 value);

/** Factors of struct pvclock_vcpu_time_info for a TSC rate. */
void clock_pv_factors(u64 khz, u32 *mul, s8 *shift);

#endif
