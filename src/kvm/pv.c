/* The paravirtual MSRs and the records in guest memory behind them. */
#include "kvm/pv.h"

#include "base/mem.h"
#include "cpu/feature.h"
#include "kvm/clock.h"
#include "kvm/memslot.h"
#include "kvm/request.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define PVCLOCK_TSC_STABLE    1u
#define PVCLOCK_GUEST_STOPPED 2u

/* struct pvclock_vcpu_time_info and pvclock_wall_clock of the guest interface. */
struct pvclock_time {
	u32 version, pad0;
	u64 tsc_timestamp, system_time;
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags, pad[2];
};
_Static_assert(sizeof(struct pvclock_time) == 32, "guest ABI");

struct pvclock_wall {
	u32 version, sec, nsec;
};

static void wall_clock_write(struct vcpu *vcpu, u64 gpa)
{
	struct pvclock_wall w;
	struct timespec real;
	u64 boot, now;

	if (!gpa || guest_read(vcpu, gpa, &w.version, 4))
		return;
	clock_gettime(CLOCK_REALTIME, &real);
	now = (u64)real.tv_sec * 1000000000u + (u64)real.tv_nsec;
	futex_lock(&vcpu->vm->clock.lock);
	boot = now - clock_vm_now(vcpu->vm, NULL);
	futex_unlock(&vcpu->vm->clock.lock);
	w.version = (w.version | 1) + 2; /* odd: being written */
	w.sec = (u32)(boot / 1000000000u);
	w.nsec = (u32)(boot % 1000000000u);
	guest_write(vcpu, gpa, &w, 4);
	guest_write(vcpu, gpa + 4, &w.sec, 8);
	w.version++;
	guest_write(vcpu, gpa, &w.version, 4);
}

void pv_clock_update(struct vcpu *vcpu)
{
	u64 gpa = vcpu->pv.system_time & ~1ull, tsc;
	struct pvclock_time t = {0}, old;

	if (!(vcpu->pv.system_time & KVM_MSR_ENABLED) || guest_read(vcpu, gpa, &old, sizeof(old)))
		return;
	futex_lock(&vcpu->vm->clock.lock);
	/* One base for all vCPUs: their results never disagree. */
	tsc = vcpu->vm->clock.tsc_base;
	t.system_time = vcpu->vm->clock.ns_base + (u64)vcpu->vm->clock.offset;
	futex_unlock(&vcpu->vm->clock.lock);
	t.tsc_timestamp = clock_guest_tsc(vcpu, tsc);
	clock_pv_factors(clock_vcpu_khz(vcpu), &t.tsc_to_system_mul, &t.tsc_shift);
	/* "Stopped" stays until the guest, which may not have looked yet, clears it. */
	t.flags = PVCLOCK_TSC_STABLE | (old.flags & PVCLOCK_GUEST_STOPPED);
	if (vcpu->pv.guest_stopped)
		t.flags |= PVCLOCK_GUEST_STOPPED;
	vcpu->pv.guest_stopped = false;
	t.version = (old.version + 1) | 1; /* goes on from the guest's; odd: being written */
	if (guest_write(vcpu, gpa, &t.version, 4))
		return;
	guest_write(vcpu, gpa + 4, (u8 *)&t + 4, sizeof(t) - 4);
	t.version++;
	guest_write(vcpu, gpa, &t.version, 4);
}

/* --- steal time ---------------------------------------------------------------------------------- */

/* The host is asked for the run delay this often while the vCPU runs, and after every absence of
 * this many TSC ticks; a question costs a microsecond or two. */
#define STEAL_PERIOD_US	 1000u
#define STEAL_ABSENCE_US 20u

static void steal_file_close(struct vcpu *vcpu)
{
	if (vcpu->pv.steal_fd > 0)
		close(vcpu->pv.steal_fd);
	vcpu->pv.steal_fd = 0;
}

void pv_destroy(struct vcpu *vcpu)
{
	steal_file_close(vcpu);
}

/* ns that this thread was runnable without running. 0 where the host does not tell. */
static u64 run_delay(struct vcpu *vcpu)
{
	u64 self = vcpu_thread_self(), n[2] = {0, 0};
	char text[96];
	unsigned field = 0;
	ssize_t len;

	if (vcpu->pv.steal_thread != self) {
		steal_file_close(vcpu);
		vcpu->pv.steal_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
		vcpu->pv.steal_thread = self;
		vcpu->pv.steal_last = 0;
	}
	if (vcpu->pv.steal_fd <= 0)
		return 0;
	len = pread(vcpu->pv.steal_fd, text, sizeof(text), 0);
	for (ssize_t i = 0; i < len && field < 2; i++) {
		if (text[i] == ' ')
			field++;
		else if (text[i] >= '0' && text[i] <= '9')
			n[field] = n[field] * 10 + (u64)(text[i] - '0');
	}
	return n[1];
}

static bool steal_on(const struct vcpu *vcpu)
{
	return UNLIKELY(vcpu->pv.steal_time & KVM_MSR_ENABLED);
}

/* The record's version is odd while it changes, and grows with every entry, as KVM's does. */
void pv_steal_update(struct vcpu *vcpu)
{
	u64 gpa = vcpu->pv.steal_time & ~63ull, now = clock_host_tsc(), delay = 0;
	struct kvm_steal_time s;
	u32 version;
	u64 us;

	if (!steal_on(vcpu) || guest_read(vcpu, gpa, &s, sizeof(s)))
		return;
	us = clock_host_tsc_khz() / 1000;
	if (now - vcpu->pv.steal_read > STEAL_PERIOD_US * us ||
	    now - vcpu->pv.steal_left > STEAL_ABSENCE_US * us) {
		vcpu->pv.steal_read = now;
		delay = run_delay(vcpu);
	}
	version = s.version + 1 + (s.version & 1);
	guest_write(vcpu, gpa + offsetof(struct kvm_steal_time, version), &version, 4);
	if (delay > vcpu->pv.steal_last) {
		if (vcpu->pv.steal_last)
			s.steal += delay - vcpu->pv.steal_last;
		vcpu->pv.steal_last = delay;
		guest_write(vcpu, gpa, &s.steal, 8);
	}
	version++;
	guest_write(vcpu, gpa + offsetof(struct kvm_steal_time, version), &version, 4);
}

void pv_steal_resume(struct vcpu *vcpu)
{
	u64 at = (vcpu->pv.steal_time & ~63ull) + offsetof(struct kvm_steal_time, preempted);
	u8 was = 0;

	if (!steal_on(vcpu))
		return;
	/* In one step: another vCPU that sees "preempted" leaves its TLB flush here instead of an IPI. */
	if (!guest_exchange8(vcpu, at, &was) && (was & KVM_VCPU_FLUSH_TLB))
		vcpu_request(vcpu, BIT64(REQ_TLB_FLUSH));
	pv_steal_update(vcpu);
}

void pv_steal_suspend(struct vcpu *vcpu)
{
	u64 at = (vcpu->pv.steal_time & ~63ull) + offsetof(struct kvm_steal_time, preempted);
	u8 flag = KVM_VCPU_PREEMPTED;

	if (!steal_on(vcpu))
		return;
	vcpu->pv.steal_left = clock_host_tsc();
	guest_write(vcpu, at, &flag, 1);
}

/* --- PV EOI ---------------------------------------------------------------------------------------- */

void pv_eoi_sync(struct vcpu *vcpu)
{
	u8 flag;

	if (LIKELY(!vcpu->pv.eoi_offered))
		return;
	vcpu->pv.eoi_offered = false;
	if (guest_read(vcpu, vcpu->pv.eoi & ~3ull, &flag, 1))
		return;
	if (flag & KVM_PV_EOI_ENABLED) {
		flag &= (u8)~KVM_PV_EOI_ENABLED; /* withdrawn: the guest writes the register */
		guest_write(vcpu, vcpu->pv.eoi & ~3ull, &flag, 1);
	} else {
		lapic_eoi(vcpu->apic);
	}
}

void pv_eoi_offer(struct vcpu *vcpu)
{
	u8 flag;

	if (LIKELY(!(vcpu->pv.eoi & KVM_MSR_ENABLED)) || !vcpu->apic ||
	    !lapic_pv_eoi_eligible(vcpu->apic) || guest_read(vcpu, vcpu->pv.eoi & ~3ull, &flag, 1))
		return;
	flag |= KVM_PV_EOI_ENABLED;
	if (!guest_write(vcpu, vcpu->pv.eoi & ~3ull, &flag, 1))
		vcpu->pv.eoi_offered = true;
}

/* --- MSRs -------------------------------------------------------------------------------------------- */

/* The feature that an MSR belongs to: hidden ones refuse when the client enforces CPUID. */
static bool pv_msr_shown(const struct vcpu *vcpu, u32 index)
{
	const struct cpu *cpu = &vcpu->cpu;

	if (!vcpu->pv_cpuid_enforced)
		return true;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return cpu_has(cpu, X86_FEATURE_KVM_CLOCKSOURCE);
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return cpu_has(cpu, X86_FEATURE_KVM_CLOCKSOURCE2);
	case MSR_KVM_ASYNC_PF_EN:
		return cpu_has(cpu, X86_FEATURE_KVM_ASYNC_PF);
	case MSR_KVM_ASYNC_PF_INT:
	case MSR_KVM_ASYNC_PF_ACK:
		return cpu_has(cpu, X86_FEATURE_KVM_ASYNC_PF_INT);
	case MSR_KVM_STEAL_TIME:
		return cpu_has(cpu, X86_FEATURE_KVM_STEAL_TIME);
	case MSR_KVM_PV_EOI_EN:
		return cpu_has(cpu, X86_FEATURE_KVM_PV_EOI);
	case MSR_KVM_POLL_CONTROL:
		return cpu_has(cpu, X86_FEATURE_KVM_POLL_CONTROL);
	case MSR_KVM_MIGRATION_CONTROL:
		return cpu_has(cpu, X86_FEATURE_KVM_MIGRATION_CONTROL);
	}
	return false;
}

int pv_msr_get(struct vcpu *vcpu, u32 index, u64 *value, bool host)
{
	const struct vcpu_pv *pv = &vcpu->pv;

	if (!host && !pv_msr_shown(vcpu, index))
		return 1;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = vcpu->vm->clock.wall_msr;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = pv->system_time;
		return 0;
	case MSR_KVM_ASYNC_PF_EN:
		*value = pv->async_pf_en;
		return 0;
	case MSR_KVM_ASYNC_PF_INT:
		*value = pv->async_pf_int;
		return 0;
	case MSR_KVM_ASYNC_PF_ACK:
		*value = 0;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = pv->steal_time;
		return 0;
	case MSR_KVM_PV_EOI_EN:
		*value = pv->eoi;
		return 0;
	case MSR_KVM_POLL_CONTROL:
		*value = pv->poll_control;
		return 0;
	case MSR_KVM_MIGRATION_CONTROL:
		*value = pv->migration_control;
		return 0;
	}
	return 1;
}

/* Accepted so that guests can set it up; no "not present" event is ever sent. */
static int async_pf_set(struct vcpu *vcpu, u64 value)
{
	if ((value & 0x30) || (value && !vcpu->apic))
		return 1;
	vcpu->pv.async_pf_en = value;
	return 0;
}

/* Can be set up without an APIC of ours as well; there is just nobody who offers anything then. */
static int pv_eoi_set(struct vcpu *vcpu, u64 value)
{
	u8 flag;

	if ((value & 2) ||
	    ((value & KVM_MSR_ENABLED) && guest_read(vcpu, value & ~3ull, &flag, sizeof(flag))))
		return 1;
	pv_eoi_sync(vcpu); /* an EOI that the guest has given counts */
	vcpu->pv.eoi = value;
	return 0;
}

int pv_msr_set(struct vcpu *vcpu, u32 index, u64 value, bool host)
{
	struct vcpu_pv *pv = &vcpu->pv;

	if (!host && !pv_msr_shown(vcpu, index))
		return 1;
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		vcpu->vm->clock.wall_msr = value;
		wall_clock_write(vcpu, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		pv->system_time = value;
		vcpu_request(vcpu, BIT64(REQ_CLOCK));
		return 0;
	case MSR_KVM_ASYNC_PF_EN:
		return async_pf_set(vcpu, value);
	case MSR_KVM_ASYNC_PF_INT:
		if (value >> 8 || (value && !vcpu->apic))
			return 1;
		pv->async_pf_int = value;
		return 0;
	case MSR_KVM_ASYNC_PF_ACK:
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (value & KVM_STEAL_RESERVED_MASK)
			return 1;
		pv->steal_time = value;
		pv->steal_last = pv->steal_read = pv->steal_left = 0;
		if (value & KVM_MSR_ENABLED)
			vcpu_request(vcpu, BIT64(REQ_STEAL));
		return 0;
	case MSR_KVM_PV_EOI_EN:
		return pv_eoi_set(vcpu, value);
	case MSR_KVM_POLL_CONTROL:
		if (value & ~1ull)
			return 1;
		pv->poll_control = value;
		return 0;
	case MSR_KVM_MIGRATION_CONTROL:
		if (value & ~(u64)KVM_MIGRATION_READY)
			return 1;
		pv->migration_control = value;
		return 0;
	}
	return 1;
}
