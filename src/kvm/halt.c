/*
 * Halt polling, as Linux does it (Documentation/virt/kvm/halt-polling.rst).
 *
 * To sleep and to be woken takes two system calls, two switches and often an interrupt between
 * processors. A vCPU that is halted for a short time only does better to look around for as long. How
 * long that is worth is learnt: a halt that was over soon after the vCPU fell asleep makes its window
 * larger, one that took longer than the longest window makes it smaller, down to none. So a guest that
 * has nothing to do but its timer's ticks does not poll.
 *
 * The kernel polls while nobody else is to run on the processor, which it knows. Here:
 *
 * - There have to be at least two CPUs for the thread, and one for each vCPU of the VM: whoever the vCPU
 *   waits for needs one as well.
 * - Polling lets others through (sched_yield) every few microseconds: the client's thread that serves
 *   the guest's disk does not wait for the end of the window.
 * - Whoever comes back from that late, or was interrupted, was not alone: polling ends. After a long
 *   absence there is a program that uses the CPU for itself. A sleeper that is woken goes before such a
 *   program, one that has yielded waits for the end of its time slice; so the vCPU stays with sleeping
 *   for a while.
 */
#include "kvm/halt.h"

#include "base/syscall.h"
#include "kvm/clock.h"
#include "kvm/vcpu.h"

/* The kernel's parameters of the same names. */
#define HALT_POLL_NS_GROW	2u
#define HALT_POLL_NS_GROW_START 10000u
#define HALT_POLL_NS_SHRINK	2u

#define YIELD_NS     5000u	/* others are let through this often; it costs half a microsecond */
#define SHARED_NS    50000u	/* away for so long: not alone on this CPU, polling ends */
#define CONTENDED_NS 500000u	/* away for so long: no polling … */
#define AVOID_NS     100000000u /* … for this time */
#define CPUS_NS	     10000000u	/* the CPUs are counted this often */
#define CPUS_MAX     8192u
#define PAUSES	     4

/* CPUs that this thread may run on. 0 where the host does not tell. */
static u32 count_cpus(void)
{
	u64 mask[CPUS_MAX / 64];
	long bytes = sys_call(SYS_sched_getaffinity, 0, sizeof(mask), (u64)mask, 0, 0);
	u32 count = 0;

	for (long i = 0; i < bytes / 8; i++)
		for (u64 left = mask[i]; left; left &= left - 1)
			count++;
	return count;
}

static bool cpus_suffice(struct vcpu *vcpu, u64 now)
{
	struct vcpu_halt *own = &vcpu->halt;

	if (now - own->cpus_read > CPUS_NS) {
		own->cpus_read = now;
		own->cpus = count_cpus();
	}
	return own->cpus > 1 && vm_vcpu_count(vcpu->vm) <= own->cpus;
}

static u32 longest(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->vm->halt_poll_ns, __ATOMIC_RELAXED);
}

void halt_begin(struct vcpu *vcpu, struct halt *h)
{
	struct vcpu_halt *own = &vcpu->halt;
	u32 max = longest(vcpu);

	*h = (struct halt){.begin = clock_host_ns()};
	h->now = h->begin;
	own->window = MIN(own->window, max);
	/* A guest that polls by itself (cpuidle-haltpoll) says so in MSR_KVM_POLL_CONTROL. */
	h->allowed = max && (vcpu->pv.poll_control & 1) && h->now >= own->contended_until &&
		     cpus_suffice(vcpu, h->now);
	h->polls = h->allowed && own->window;
	h->stop = h->begin + (h->polls ? own->window : 0);
}

bool halt_poll(struct vcpu *vcpu, struct halt *h)
{
	u64 before = h->now;

	if (!h->polls || h->slept || h->now >= h->stop)
		return false;
	if (before - h->yielded > YIELD_NS) {
		sys_call(SYS_sched_yield, 0, 0, 0, 0, 0);
		h->now = h->yielded = clock_host_ns();
	} else {
		for (int i = 0; i < PAUSES; i++)
			__builtin_ia32_pause();
		h->now = clock_host_ns();
	}
	if (UNLIKELY(h->now - before > SHARED_NS)) {
		h->stop = h->now;
		if (h->now - before > CONTENDED_NS)
			vcpu->halt.contended_until = h->now + AVOID_NS;
	}
	return true;
}

static u32 grown(u32 window, u32 max)
{
	u64 ns = MAX((u64)window * HALT_POLL_NS_GROW, (u64)HALT_POLL_NS_GROW_START);

	return (u32)MIN(ns, (u64)max);
}

static u32 shrunk(u32 window)
{
	window /= HALT_POLL_NS_SHRINK;
	return window < HALT_POLL_NS_GROW_START ? 0 : window;
}

/* The longest window is also the longest halt that polling is meant for. */
static void move_window(struct vcpu *vcpu, u64 ns)
{
	u32 *window = &vcpu->halt.window, max = longest(vcpu);

	if (!max)
		*window = 0;
	else if (ns <= *window)
		return;
	else if (ns > max)
		*window = shrunk(*window);
	else if (*window < max && ns < max)
		*window = grown(*window, max);
}

void halt_end(struct vcpu *vcpu, struct halt *h)
{
	struct vcpu_stats *st = &vcpu->stats;
	u64 polled = h->now - h->begin;

	if (h->polls) {
		st->halt_attempted_poll++;
		st->halt_successful_poll += !h->slept;
		*(h->slept ? &st->halt_poll_fail_ns : &st->halt_poll_success_ns) += polled;
	}
	if (h->slept) {
		u64 now = clock_host_ns();

		st->halt_wait_ns += now - h->now;
		h->now = now;
	}
	if (h->allowed)
		move_window(vcpu, h->now - h->begin);
}
