/*
 * Performance counters: KVM_SET_PMU_EVENT_FILTER, their interrupt, and the timer that looks at a
 * counter of cycles when it overflows. A filter is immutable; a new one is published whole.
 */
#include "kvm/pmu.h"

#include "cpu/tsc.h"
#include "kvm/clock.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>

#ifndef KVM_PMU_EVENT_FLAG_MASKED_EVENTS
#define KVM_PMU_EVENT_FLAG_MASKED_EVENTS 1u
#endif

#define FILTER_EVENTS_MAX 300u
#define EVENT_SELECT	  (0xffull | 0xfull << 32)
#define EVENT_UMASK	  0xff00ull
/* An entry under KVM_PMU_EVENT_FLAG_MASKED_EVENTS. */
#define ENTRY_MATCH	 0xff00ull
#define ENTRY_EXCLUDE	 BIT64(55)
#define ENTRY_MASK_SHIFT 56
#define ENTRY_VALID	 (EVENT_SELECT | ENTRY_MATCH | ENTRY_EXCLUDE | 0xffull << ENTRY_MASK_SHIFT)

#define OVERFLOW_NS_MIN 20000ull	 /* a storm of interrupts must leave time for the guest */
#define OVERFLOW_NS_MAX 3600000000000ull /* then it is looked again */

struct pmu_filter {
	u32 action, fixed, count;
	u64 entry[]; /* as under KVM_PMU_EVENT_FLAG_MASKED_EVENTS */
};

void pmu_filter_destroy(struct vm *vm)
{
	free(vm->pmu_filter);
	vm->pmu_filter = NULL;
}

/* The event is in the list: some entry includes it and none excludes it. */
static bool listed(const struct pmu_filter *f, u64 sel)
{
	bool in = false;

	for (u32 i = 0; i < f->count; i++) {
		u64 e = f->entry[i], umask = (sel & EVENT_UMASK) >> 8;

		if (((e ^ sel) & EVENT_SELECT) ||
		    (umask & e >> ENTRY_MASK_SHIFT) != (e & ENTRY_MATCH) >> 8)
			continue;
		if (e & ENTRY_EXCLUDE)
			return false;
		in = true;
	}
	return in;
}

bool pmu_ops_allowed(struct cpu *cpu, int fixed, u64 sel)
{
	const struct pmu_filter *f =
		__atomic_load_n(&vcpu_of(cpu)->vm->pmu_filter, __ATOMIC_ACQUIRE);
	bool in;

	if (LIKELY(!f))
		return true;
	/* On Intel the bits above the event's eight are not part of it. */
	if (cpu->vendor == CPU_VENDOR_INTEL)
		sel &= 0xffffffff;
	in = fixed >= 0 ? f->fixed >> fixed & 1 : listed(f, sel);
	return in == (f->action == KVM_PMU_EVENT_ALLOW);
}

int vm_set_pmu_event_filter(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_pmu_event_filter head;
	struct pmu_filter *f, *old;
	bool masked;

	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if ((head.action != KVM_PMU_EVENT_ALLOW && head.action != KVM_PMU_EVENT_DENY) ||
	    (head.flags & ~KVM_PMU_EVENT_FLAG_MASKED_EVENTS))
		return -EINVAL;
	if (head.nevents > FILTER_EVENTS_MAX)
		return -E2BIG;
	masked = head.flags & KVM_PMU_EVENT_FLAG_MASKED_EVENTS;
	f = calloc(1, sizeof(*f) + head.nevents * sizeof(f->entry[0]));
	if (!f)
		return -ENOMEM;
	f->action = head.action;
	f->fixed = head.fixed_counter_bitmap;
	if (user_copy_in(f->entry, arg + sizeof(head), head.nevents * sizeof(f->entry[0]))) {
		free(f);
		return -EFAULT;
	}
	for (u32 i = 0; i < head.nevents; i++) {
		u64 e = f->entry[i];

		if (masked && (e & ~ENTRY_VALID)) {
			free(f);
			return -EINVAL;
		}
		if (!masked && (e & ~(EVENT_SELECT | EVENT_UMASK)))
			continue; /* no event is named so */
		f->entry[f->count++] = masked ? e : e | 0xffull << ENTRY_MASK_SHIFT;
	}
	pthread_mutex_lock(&vm->lock);
	old = __atomic_exchange_n(&vm->pmu_filter, f, __ATOMIC_ACQ_REL);
	for (u32 i = 0; i < vm->vcpu_count; i++) {
		__atomic_store_n(&vm->vcpus[i]->pmu_filter_changed, true, __ATOMIC_SEQ_CST);
		vcpu_request(vm->vcpus[i], BIT64(REQ_PMU));
	}
	vm_sync(vm);
	pthread_mutex_unlock(&vm->lock);
	free(old);
	return 0;
}

/* ---- overflows ---- */

void pmu_ops_interrupt(struct cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (vcpu->apic)
		lapic_local_deliver(vcpu->apic, APIC_LVTPC);
}

/* Looks again when the first counter of cycles that interrupts overflows. */
void pmu_ops_changed(struct cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	u64 ticks = cpu_pmu_next(cpu), ns;

	if (!vcpu->pmu_timer.service)
		return;
	if (ticks == ~0ull) {
		timer_disarm(&vcpu->pmu_timer);
		return;
	}
	ns = clock_tsc_to_ns(vcpu, cpu_tsc_scale(cpu, ticks));
	ns = MIN(MAX(ns, OVERFLOW_NS_MIN), OVERFLOW_NS_MAX);
	timer_arm(&vcpu->pmu_timer, timer_service_now(vcpu->vm->timers) + ns);
}

static void timer_fire(void *arg)
{
	vcpu_request(arg, BIT64(REQ_PMU));
}

void pmu_handle_request(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;

	if (__atomic_exchange_n(&vcpu->pmu_filter_changed, false, __ATOMIC_SEQ_CST)) {
		cpu_pmu_filter_changed(cpu);
		return;
	}
	cpu_pmu_settle(cpu);
	pmu_ops_changed(cpu);
}

int pmu_cpuid_changed(struct vcpu *vcpu)
{
	int ret;

	cpu_pmu_refresh(&vcpu->cpu);
	if (!vcpu->apic || !vcpu->cpu.pmu.gp_count || vcpu->pmu_timer.service)
		return 0;
	ret = timer_init(vcpu->vm->timers, &vcpu->pmu_timer, timer_fire, vcpu);
	return ret;
}
