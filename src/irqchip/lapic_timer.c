/*
 * The local APIC's timer in its three modes: one-shot, periodic and TSC-deadline (Intel SDM,
 * "APIC Timer").
 *
 * The count-down register is not counted: it follows from the moment at which it would reach
 * zero. `timer_lock` serialises the vCPU's writes with the callback on the service thread; the
 * callback checks that its moment has really come, because a rearm may have overtaken it, and in
 * deadline mode because the guest's TSC and CLOCK_MONOTONIC drift apart by a little.
 */
#include "irqchip/irqchip_internal.h"

/* A guest that asks for a faster periodic tick gets this one: KVM's default bound, in ns. */
#define PERIOD_MIN 200000u

static u64 tick_ns(const struct lapic *l)
{
	return (u64)l->chip->bus_ns * l->timer_divide;
}

/* Stops, but for the deadline that is wanted. With timer_lock held. */
static void disarm_locked(struct lapic *l)
{
	if (l->timer_armed)
		timer_disarm(&l->timer);
	l->timer_armed = false;
	l->timer_period = 0;
	l->timer_target = 0;
}

static void stop_locked(struct lapic *l)
{
	disarm_locked(l);
	l->timer_deadline = 0;
}

void lapic_timer_stop(struct lapic *l)
{
	futex_lock(&l->timer_lock);
	stop_locked(l);
	futex_unlock(&l->timer_lock);
}

void lapic_timer_pause(struct lapic *l)
{
	futex_lock(&l->timer_lock);
	disarm_locked(l);
	futex_unlock(&l->timer_lock);
}

/* `ns` after `now`, or the end of time. */
static u64 after(u64 now, u64 ns)
{
	return ns < INT64_MAX - now ? now + ns : INT64_MAX;
}

static void arm_locked(struct lapic *l, u64 when)
{
	l->timer_armed = true;
	l->timer_target = when;
	timer_arm(&l->timer, when);
}

/* Arms for the guest TSC deadline; true when it has passed already. */
static bool deadline_locked(struct lapic *l)
{
	struct irqchip *c = l->chip;
	u64 now = irqchip_now(c), tsc = c->ops->tsc_now(c->owner, l->index), ns;

	if (l->timer_deadline <= tsc) {
		if (l->timer_armed)
			timer_disarm(&l->timer);
		l->timer_armed = false;
		l->timer_deadline = 0;
		return true;
	}
	ns = c->ops->tsc_to_ns(c->owner, l->index, l->timer_deadline - tsc);
	arm_locked(l, after(now, ns));
	return false;
}

void lapic_timer_fire(void *arg)
{
	struct lapic *l = arg;
	bool due = false;
	u64 now;

	futex_lock(&l->timer_lock);
	if (!l->timer_armed)
		goto out;
	if (l->timer_mode == APIC_TIMER_DEADLINE) {
		due = deadline_locked(l);
		goto out;
	}
	now = irqchip_now(l->chip);
	if (now < l->timer_target)
		goto out; /* armed anew meanwhile: that one will come */
	due = true;
	if (l->timer_mode == APIC_TIMER_PERIODIC && l->timer_period)
		/* Ticks nobody could take are lost, as on hardware. */
		arm_locked(l,
			   after(now, l->timer_period - (now - l->timer_target) % l->timer_period));
	else
		l->timer_armed = false;
out:
	futex_unlock(&l->timer_lock);
	if (due)
		lapic_local_deliver(l, APIC_LVTT);
}

static u64 period_clamp(const struct lapic *l, u64 ns)
{
	return l->timer_mode == APIC_TIMER_PERIODIC && ns < PERIOD_MIN ? PERIOD_MIN : ns;
}

void lapic_timer_start(struct lapic *l, bool from_current)
{
	u64 first;
	bool due = false;

	futex_lock(&l->timer_lock);
	if (l->timer_mode == APIC_TIMER_DEADLINE) {
		due = l->timer_deadline && deadline_locked(l);
		goto out;
	}
	stop_locked(l);
	l->timer_period = lapic_reg(l->regs, APIC_TMICT) * tick_ns(l);
	if (!l->timer_period)
		goto out;
	l->timer_period = period_clamp(l, l->timer_period);
	first = l->timer_period;
	if (from_current) {
		first = lapic_reg(l->regs, APIC_TMCCT) * tick_ns(l);
		if (first > l->timer_period)
			first = l->timer_period;
		if (!first && l->timer_mode == APIC_TIMER_PERIODIC)
			first = l->timer_period;
		/* A one-shot timer saved at zero had fired; its interrupt is in the IRR. */
		if (!first) {
			l->timer_target = irqchip_now(l->chip);
			goto out;
		}
	}
	arm_locked(l, after(irqchip_now(l->chip), first));
out:
	futex_unlock(&l->timer_lock);
	if (due)
		lapic_local_deliver(l, APIC_LVTT);
}

void lapic_timer_lvtt(struct lapic *l)
{
	u32 mask = l->features.tsc_deadline ? APIC_TIMER_MASK : APIC_TIMER_PERIODIC;
	u32 mode = lapic_reg(l->regs, APIC_LVTT) & mask;
	u32 old = l->timer_mode;

	if (mode == old)
		return;
	futex_lock(&l->timer_lock);
	l->timer_mode = mode;
	/* Into or out of deadline mode disarms; between the other two the count goes on. */
	if (mode == APIC_TIMER_DEADLINE || old == APIC_TIMER_DEADLINE) {
		lapic_reg_set(l->regs, APIC_TMICT, 0);
		stop_locked(l);
	} else if (l->timer_period) {
		l->timer_period = period_clamp(l, l->timer_period);
	}
	futex_unlock(&l->timer_lock);
}

void lapic_timer_tdcr(struct lapic *l)
{
	u32 tdcr = lapic_reg(l->regs, APIC_TDCR);
	u32 code = ((tdcr & 3) | (tdcr & 8) >> 1) + 1;
	u32 divide = 1u << (code & 7), old;
	u64 now, left;

	futex_lock(&l->timer_lock);
	old = l->timer_divide;
	l->timer_divide = divide;
	if (divide == old || !l->timer_armed || l->timer_mode == APIC_TIMER_DEADLINE)
		goto out;
	/* The count that is left now takes another time; divisors are powers of two. */
	now = irqchip_now(l->chip);
	left = l->timer_target > now ? l->timer_target - now : 0;
	l->timer_period = period_clamp(l, lapic_reg(l->regs, APIC_TMICT) * tick_ns(l));
	left = divide > old ? left * (divide / old) : left / (old / divide);
	arm_locked(l, after(now, left));
out:
	futex_unlock(&l->timer_lock);
}

u32 lapic_timer_current(struct lapic *l)
{
	u64 now, left = 0;

	futex_lock(&l->timer_lock);
	if (l->timer_mode == APIC_TIMER_DEADLINE || !lapic_reg(l->regs, APIC_TMICT) ||
	    !l->timer_period)
		goto out;
	now = irqchip_now(l->chip);
	if (l->timer_target > now)
		left = (l->timer_target - now) / tick_ns(l);
	else if (l->timer_mode == APIC_TIMER_PERIODIC)
		left = (l->timer_period - (now - l->timer_target) % l->timer_period) / tick_ns(l);
out:
	futex_unlock(&l->timer_lock);
	return (u32)left;
}

u64 lapic_get_tsc_deadline(struct lapic *l)
{
	u64 value;

	futex_lock(&l->timer_lock);
	value = l->timer_mode == APIC_TIMER_DEADLINE ? l->timer_deadline : 0;
	futex_unlock(&l->timer_lock);
	return lapic_mode(l) == LAPIC_DISABLED ? 0 : value;
}

void lapic_set_tsc_deadline(struct lapic *l, u64 value)
{
	bool due = false;

	if (lapic_mode(l) == LAPIC_DISABLED)
		return;
	futex_lock(&l->timer_lock);
	if (l->timer_mode == APIC_TIMER_DEADLINE) {
		l->timer_deadline = value;
		if (value)
			due = deadline_locked(l);
		else
			stop_locked(l);
	}
	futex_unlock(&l->timer_lock);
	if (due)
		lapic_local_deliver(l, APIC_LVTT);
}

void lapic_tsc_changed(struct lapic *l)
{
	bool due = false;

	futex_lock(&l->timer_lock);
	if (l->timer_mode == APIC_TIMER_DEADLINE && l->timer_deadline)
		due = deadline_locked(l);
	futex_unlock(&l->timer_lock);
	if (due)
		lapic_local_deliver(l, APIC_LVTT);
}
