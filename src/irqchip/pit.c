/*
 * The 8254 interval timer, and port 0x61 (gate of channel 2 and the speaker).
 *
 * No counter counts: a channel's count and output follow from its mode and the time since it was
 * loaded. Only channel 0 has a timer, because it raises GSI 0. BCD is remembered, not counted in,
 * as in KVM.
 *
 * Reinjection (KVM_REINJECT_CONTROL, on by default): a guest that counts ticks must get each of
 * them, so the next tick is raised only after the guest acknowledged the one before; ticks that
 * came due meanwhile wait in `pending`. Without it a tick the guest was too slow for is lost.
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>
#include <stdlib.h>

#define PIT_HZ	    1193182ull
#define PIT_GSI	    0
#define PERIOD_MIN  200000u /* ns; KVM's default bound for a periodic guest timer */
#define MODE_OFF    0xff    /* after reset: no mode programmed */
#define PENDING_MAX 1000000u

/* read_state, write_state, rw_mode; 3 stands for WORD0 in the states. */
enum { RW_LATCH, RW_LSB, RW_MSB, RW_WORD0, RW_WORD1 };

/* All with pit.lock held up to the next heading. */

/* Modes that a rising gate starts, and a falling one does not stop. */
static bool is_triggered_mode(const struct kvm_pit_channel_state *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

static u64 elapsed_ticks(const struct pit *p, const struct kvm_pit_channel_state *ch)
{
	bool stands = ch == &p->ch[2] && p->gate_fell && !is_triggered_mode(ch);
	u64 now = stands ? p->gate_fell : irqchip_now(p->chip);
	u64 t = (s64)now > ch->count_load_time ? now - (u64)ch->count_load_time : 0;

	return t / NS_PER_SEC * PIT_HZ + t % NS_PER_SEC * PIT_HZ / NS_PER_SEC;
}

static u16 count_now(const struct pit *p, const struct kvm_pit_channel_state *ch)
{
	u64 ticks = elapsed_ticks(p, ch);

	switch (ch->mode) {
	case 0:
	case 1:
	case 4:
	case 5:
		return (u16)(ch->count - ticks);
	case 3: /* counts by two */
		return (u16)(ch->count - 2 * ticks % ch->count);
	default:
		return (u16)(ch->count - ticks % ch->count);
	}
}

/* The 8254's output, which KVM has upside down in modes 1, 2, 4 and 5. */
static bool output_now(const struct pit *p, const struct kvm_pit_channel_state *ch)
{
	bool is2 = ch == &p->ch[2], idle = is2 && is_triggered_mode(ch) && !p->triggered;
	u64 ticks = elapsed_ticks(p, ch);

	if (p->unloaded & BIT(ch - p->ch) || idle)
		return ch->mode != 0;
	switch (ch->mode) {
	case 2:
		return (is2 && p->gate_fell) || ticks % ch->count != ch->count - 1;
	case 3:
		return (is2 && p->gate_fell) || ticks % ch->count < (ch->count + 1) / 2;
	case 4:
	case 5:
		return ticks != ch->count;
	default:
		return ticks >= ch->count;
	}
}

static void forget_ticks(struct pit *p)
{
	p->pending = 0;
	p->acked = true;
}

/* Starts channel 0's timer, or stops it (mode without an interrupt). */
static void channel0_start(struct pit *p)
{
	const struct kvm_pit_channel_state *ch = &p->ch[0];
	u64 ns = ch->count * NS_PER_SEC / PIT_HZ;

	timer_disarm(&p->timer);
	p->target = 0;
	p->period = 0;
	if (ch->mode > 4 || p->hpet_legacy & KVM_PIT_FLAGS_HPET_LEGACY)
		return;
	p->periodic = ch->mode == 2 || ch->mode == 3;
	p->period = p->periodic && ns < PERIOD_MIN ? PERIOD_MIN : ns;
	forget_ticks(p);
	p->target = (u64)ch->count_load_time + p->period;
	timer_arm(&p->timer, p->target);
}

static void load_count(struct pit *p, unsigned channel, u32 count)
{
	struct kvm_pit_channel_state *ch = &p->ch[channel];

	/* 0 is the largest count. What a client restores is bounded by the counter's width. */
	ch->count = count && count <= 0x10000 ? count : 0x10000;
	p->unloaded &= (u8)~BIT(channel);
	if (channel == 2 && is_triggered_mode(ch))
		return; /* counts from the next trigger on */
	ch->count_load_time = (s64)irqchip_now(p->chip);
	if (channel == 2 && p->gate_fell)
		p->gate_fell = (u64)ch->count_load_time;
	if (channel == 0)
		channel0_start(p);
}

static void latch_count(struct pit *p, struct kvm_pit_channel_state *ch)
{
	if (ch->count_latched)
		return;
	ch->latched_count = count_now(p, ch);
	ch->count_latched = ch->rw_mode;
}

static void latch_status(struct pit *p, struct kvm_pit_channel_state *ch)
{
	if (ch->status_latched)
		return;
	ch->status = (u8)(output_now(p, ch) << 7 | (p->unloaded >> (ch - p->ch) & 1) << 6 |
			  (ch->rw_mode & 3) << 4 | (ch->mode & 7) << 1 | (ch->bcd & 1));
	ch->status_latched = 1;
}

static void write_control(struct pit *p, u8 value)
{
	unsigned channel = value >> 6, access = value >> 4 & 3;
	struct kvm_pit_channel_state *ch;

	if (channel == 3) { /* read-back: active-low selections */
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & 2u << i))
				continue;
			if (!(value & 0x20))
				latch_count(p, &p->ch[i]);
			if (!(value & 0x10))
				latch_status(p, &p->ch[i]);
		}
		return;
	}
	ch = &p->ch[channel];
	if (access == RW_LATCH) {
		latch_count(p, ch);
		return;
	}
	ch->rw_mode = (u8)access;
	ch->read_state = (u8)access;
	ch->write_state = (u8)access;
	ch->mode = value >> 1 & 7;
	if (ch->mode > 5)
		ch->mode -= 4; /* 6 and 7 are 2 and 3 */
	ch->bcd = value & 1;
	p->unloaded |= (u8)BIT(channel);
	if (channel == 2)
		p->triggered = false;
}

static void write_data(struct pit *p, unsigned channel, u8 value)
{
	struct kvm_pit_channel_state *ch = &p->ch[channel];

	switch (ch->write_state) {
	case RW_LSB:
		load_count(p, channel, value);
		break;
	case RW_MSB:
		load_count(p, channel, (u32)value << 8);
		break;
	case RW_WORD0:
		ch->write_latch = value;
		ch->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		load_count(p, channel, ch->write_latch | (u32)value << 8);
		ch->write_state = RW_WORD0;
		break;
	}
}

static u8 read_latched(struct kvm_pit_channel_state *ch)
{
	switch (ch->count_latched) {
	case RW_MSB:
		ch->count_latched = 0;
		return ch->latched_count >> 8;
	case RW_WORD0:
		ch->count_latched = RW_MSB;
		return ch->latched_count & 0xff;
	default:
		ch->count_latched = 0;
		return ch->latched_count & 0xff;
	}
}

static u8 read_data(struct pit *p, struct kvm_pit_channel_state *ch)
{
	u16 count;

	if (ch->status_latched) {
		ch->status_latched = 0;
		return ch->status;
	}
	if (ch->count_latched)
		return read_latched(ch);
	count = count_now(p, ch);
	switch (ch->read_state) {
	case RW_MSB:
		return count >> 8;
	case RW_WORD0:
		ch->read_state = RW_WORD1;
		return count & 0xff;
	case RW_WORD1:
		ch->read_state = RW_WORD0;
		return count >> 8;
	default:
		return count & 0xff;
	}
}

static u8 read_speaker(struct pit *p)
{
	/* Bit 4 toggles with the DRAM refresh; software only wants to see it move. */
	return (u8)(p->ch[2].gate & 1) | (u8)(p->speaker_on << 1) |
	       (u8)((irqchip_now(p->chip) >> 14 & 1) << 4) | (u8)(output_now(p, &p->ch[2]) << 5);
}

static void write_speaker(struct pit *p, u8 value)
{
	struct kvm_pit_channel_state *ch = &p->ch[2];
	u8 gate = value & 1;

	p->speaker_on = value >> 1 & 1;
	if (gate == ch->gate)
		return;
	ch->gate = gate;
	if (!gate) {
		p->gate_fell = irqchip_now(p->chip);
		return;
	}
	/* Modes 0 and 4 go on where they stood, the others begin anew. */
	if (ch->mode == 0 || ch->mode == 4)
		ch->count_load_time += (s64)(irqchip_now(p->chip) - p->gate_fell);
	else
		ch->count_load_time = (s64)irqchip_now(p->chip);
	p->triggered = true;
	p->gate_fell = 0;
}

/* Takes the right to raise one tick; false when it must wait for an acknowledgement. */
static bool take_tick(struct pit *p)
{
	if (!p->reinject)
		return true;
	if (!p->acked)
		return false;
	p->acked = false;
	return true;
}

/*
 * Without the lock. The guest may take and end a tick while the thread that raised it has not lowered the line yet:
 * a second pulse begun then, by the acknowledgement, would have no edge.
 */
static void raise_tick(struct pit *p)
{
	struct irqchip *c = p->chip;
	struct lapic *l;

	futex_lock(&p->pulse_lock);
	irqchip_pulse_irq(c, IRQCHIP_SOURCE_PIT, PIT_GSI);
	futex_unlock(&p->pulse_lock);
	/* NMI watchdog by "virtual wire": the PIT's line reaches LINT0s that are set to NMI. */
	if (!__atomic_load_n(&c->nmi_lint0, __ATOMIC_RELAXED))
		return;
	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		if ((lapic_reg(l->regs, APIC_LVT0) >> APIC_LVT_DM_SHIFT & 7) == APIC_DM_NMI)
			lapic_local_deliver(l, APIC_LVT0);
	}
}

/* Timer thread. */
static void tick(void *arg)
{
	struct pit *p = arg;
	bool raise = false;
	u64 now, ticks = 1;

	futex_lock(&p->lock);
	now = irqchip_now(p->chip);
	if (!p->target || now < p->target)
		goto out; /* reprogrammed meanwhile */
	if (p->periodic) {
		ticks += (now - p->target) / p->period;
		p->target += ticks * p->period;
		timer_arm(&p->timer, p->target);
	} else {
		p->target = 0;
	}
	if (p->reinject)
		p->pending = (u32)MIN(p->pending + ticks, (u64)PENDING_MAX);
	raise = take_tick(p);
out:
	futex_unlock(&p->lock);
	if (raise)
		raise_tick(p);
}

static void tick_acked(struct irqchip_ack *ack)
{
	struct pit *p = CONTAINER_OF(ack, struct pit, ack);
	bool raise = false;

	futex_lock(&p->lock);
	if (p->reinject) {
		p->acked = true;
		if (p->pending && --p->pending)
			raise = take_tick(p);
	}
	futex_unlock(&p->lock);
	if (raise)
		raise_tick(p);
}

static struct pit *get_pit(const struct irqchip *c)
{
	return __atomic_load_n(&c->pit, __ATOMIC_ACQUIRE);
}

void pit_unmasked(struct irqchip *c)
{
	struct pit *p = get_pit(c);

	if (!p)
		return;
	futex_lock(&p->lock);
	if (p->reinject)
		forget_ticks(p);
	futex_unlock(&p->lock);
}

bool pit_owns_port(const struct irqchip *c, u16 port)
{
	struct pit *p = get_pit(c);

	return p && ((port & ~3) == 0x40 || (port == 0x61 && p->speaker_port));
}

u8 pit_port_read(struct irqchip *c, u16 port)
{
	struct pit *p = get_pit(c);
	u8 value = 0;

	futex_lock(&p->lock);
	if (port == 0x61)
		value = read_speaker(p);
	else if (port != 0x43)
		value = read_data(p, &p->ch[port & 3]);
	futex_unlock(&p->lock);
	return value;
}

void pit_port_write(struct irqchip *c, u16 port, u8 value)
{
	struct pit *p = get_pit(c);

	futex_lock(&p->lock);
	if (port == 0x61)
		write_speaker(p, value);
	else if (port == 0x43)
		write_control(p, value);
	else
		write_data(p, port & 3, value);
	futex_unlock(&p->lock);
}

int irqchip_get_pit(struct irqchip *c, struct kvm_pit_state2 *state)
{
	struct pit *p = get_pit(c);

	if (!p)
		return -ENXIO;
	mem_set(state, 0, sizeof(*state));
	futex_lock(&p->lock);
	mem_copy(state->channels, p->ch, sizeof(state->channels));
	state->flags = p->hpet_legacy | (p->speaker_on ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0);
	futex_unlock(&p->lock);
	return 0;
}

int irqchip_set_pit(struct irqchip *c, const struct kvm_pit_state2 *state)
{
	struct pit *p = get_pit(c);

	if (!p)
		return -ENXIO;
	futex_lock(&p->lock);
	mem_copy(p->ch, state->channels, sizeof(state->channels));
	/* With the HPET in the timer's place, channel 0 keeps its state but raises nothing. */
	p->hpet_legacy = state->flags & KVM_PIT_FLAGS_HPET_LEGACY;
	p->speaker_on = state->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	p->gate_fell = p->ch[2].gate ? 0 : irqchip_now(c);
	p->triggered = true;
	for (unsigned i = 0; i < 3; i++)
		load_count(p, i, state->channels[i].count);
	p->ch[2].count_load_time = (s64)irqchip_now(c);
	futex_unlock(&p->lock);
	return 0;
}

int irqchip_set_pit_reinject(struct irqchip *c, bool reinject)
{
	struct pit *p = get_pit(c);
	bool was;

	if (!p)
		return -ENXIO;
	futex_lock(&p->config_lock);
	futex_lock(&p->lock);
	was = p->reinject;
	p->reinject = reinject;
	forget_ticks(p);
	futex_unlock(&p->lock);
	/* Listening costs an EOI of the PIT's vector the way to the I/O APIC. */
	if (reinject && !was)
		irqchip_ack_add(c, &p->ack);
	else if (!reinject && was)
		irqchip_ack_remove(c, &p->ack);
	futex_unlock(&p->config_lock);
	return 0;
}

int irqchip_create_pit(struct irqchip *c, u32 flags)
{
	struct pit *p;
	int ret;

	if (get_pit(c))
		return -EEXIST;
	if (c->mode == IRQCHIP_SPLIT)
		return -ENOENT;
	if (flags & ~KVM_PIT_SPEAKER_DUMMY)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->chip = c;
	p->speaker_port = flags & KVM_PIT_SPEAKER_DUMMY;
	p->ack = (struct irqchip_ack){.gsi = PIT_GSI, .acked = tick_acked};
	ret = timer_init(c->timers, &p->timer, tick, p);
	if (ret) {
		free(p);
		return ret;
	}
	p->gate_fell = irqchip_now(c);
	for (unsigned i = 0; i < 3; i++) {
		p->ch[i].mode = MODE_OFF;
		p->ch[i].gate = i != 2;
		load_count(p, i, 0);
	}
	__atomic_store_n(&c->pit, p, __ATOMIC_RELEASE);
	return irqchip_set_pit_reinject(c, true);
}

void pit_destroy(struct irqchip *c)
{
	struct pit *p = get_pit(c);

	if (!p)
		return;
	timer_destroy(&p->timer);
	free(p);
	c->pit = NULL;
}
