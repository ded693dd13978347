/*
 * The I/O APIC: an 82093AA with 24 pins, without a register for directed EOI.
 *
 * An edge pin sends one message a rising edge. A level pin sends one, sets Remote IRR, and waits:
 * when a CPU ends the vector (ioapic_eoi) Remote IRR falls and, while the line is still high,
 * the message goes out again. A guest that never silences its device would be flooded within
 * its own EOI; after EOI_STORM such rounds the next message waits 10 ms, as in Linux KVM.
 *
 * `eoi_vectors` lets EOIs of vectors that no pin cares about return without coming here.
 *
 * The RTC's pin is special for guests that count ticks: with KVM_IRQ_LINE_STATUS a tick counts
 * as coalesced until every CPU has ended the one before.
 */
#include "irqchip/irqchip_internal.h"

#define EOI_STORM	10000u
#define EOI_STORM_DELAY (NS_PER_SEC / 100)

#define REG_ID	    0x00
#define REG_VERSION 0x01
#define REG_ARB	    0x02
#define REG_REDIR   0x10
#define VERSION	    0x11u

#define ENTRY_VECTOR	 0xffull
#define ENTRY_LOGICAL	 BIT64(11)
#define ENTRY_STATUS	 BIT64(12)
#define ENTRY_REMOTE_IRR BIT64(14)
#define ENTRY_LEVEL	 BIT64(15)
#define ENTRY_MASKED	 BIT64(16)
#define ENTRY_READ_ONLY	 (ENTRY_STATUS | ENTRY_REMOTE_IRR)

/* All functions below up to the next heading are called with ioapic.lock held. */

static bool rtc_pending(const struct ioapic *io)
{
	u64 any = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(io->rtc_pending.bits); i++)
		any |= io->rtc_pending.bits[i];
	return any;
}

static void rtc_forget(struct ioapic *io)
{
	mem_set(&io->rtc_pending, 0, sizeof(io->rtc_pending));
}

/* Sends a pin's message; its result, or -1 when the pin is masked or waits for an EOI. */
static int service(struct irqchip *c, unsigned pin, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	u64 e = io->entry[pin];
	struct irq_msg m = {
		.dest = (u32)(e >> 56),
		.vector = e & ENTRY_VECTOR,
		.mode = e >> 8 & 7,
		.logical = e & ENTRY_LOGICAL,
		.level = e & ENTRY_LEVEL,
		.assert = true,
	};
	bool rtc = pin == IOAPIC_RTC_PIN && line_status;
	int ret;

	if (e & ENTRY_MASKED || (m.level && e & ENTRY_REMOTE_IRR))
		return -1;
	if (!m.level)
		io->irr_delivered |= BIT(pin);
	if (rtc) {
		rtc_forget(io);
		io->rtc_vector = m.vector;
	}
	ret = irq_deliver(c, NULL, &m, rtc ? &io->rtc_pending : NULL);
	if (ret > 0 && m.level)
		io->entry[pin] |= ENTRY_REMOTE_IRR;
	return ret;
}

static int assert_pin(struct irqchip *c, unsigned pin, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	bool was = io->irr & BIT(pin);

	if (pin == IOAPIC_RTC_PIN && line_status && rtc_pending(io))
		return 0;
	io->irr |= BIT(pin);
	if (!(io->entry[pin] & ENTRY_LEVEL)) {
		io->irr_delivered &= ~BIT(pin);
		if (was)
			return 0;
	}
	return service(c, pin, line_status);
}

static void eoi_vectors_locked(struct irqchip *c)
{
	struct ioapic *io = &c->ioapic;
	u64 vectors[4] = {0};

	if (c->mode == IRQCHIP_SPLIT)
		route_level_vectors(c, vectors);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS && c->mode == IRQCHIP_FULL; pin++) {
		unsigned vector = io->entry[pin] & ENTRY_VECTOR;

		if (io->entry[pin] & ENTRY_LEVEL || pin == IOAPIC_RTC_PIN ||
		    ack_wanted(c, KVM_IRQCHIP_IOAPIC, pin))
			vectors[vector >> 6] |= BIT64(vector & 63);
	}
	for (unsigned i = 0; i < 4; i++)
		__atomic_store_n(&io->eoi_vectors[i], vectors[i], __ATOMIC_RELAXED);
}

/* Runs a pin's ack notifiers, dropping the lock around them. */
static void notify(struct irqchip *c, unsigned pin)
{
	if (!ack_wanted(c, KVM_IRQCHIP_IOAPIC, pin))
		return;
	futex_unlock(&c->ioapic.lock);
	ack_notify(c, KVM_IRQCHIP_IOAPIC, pin);
	futex_lock(&c->ioapic.lock);
}

static void eoi_pin(struct irqchip *c, struct lapic *l, unsigned pin, bool level)
{
	struct ioapic *io = &c->ioapic;

	notify(c, pin);
	if (!level || !(io->entry[pin] & ENTRY_LEVEL) ||
	    lapic_reg(l->regs, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI)
		return;
	io->entry[pin] &= ~ENTRY_REMOTE_IRR;
	if (io->entry[pin] & ENTRY_MASKED || !(io->irr & BIT(pin))) {
		io->eoi_count[pin] = 0;
		return;
	}
	if (++io->eoi_count[pin] < EOI_STORM) {
		service(c, pin, false);
		return;
	}
	io->eoi_count[pin] = 0;
	timer_arm(&io->storm, irqchip_now(c) + EOI_STORM_DELAY);
}

/* A redirection entry was written: half `high`. Returns the pin when its mask changed, or -1. */
static int write_entry(struct irqchip *c, unsigned pin, bool high, u32 value)
{
	struct ioapic *io = &c->ioapic;
	u64 old = io->entry[pin], new;

	if (high)
		new = (u32)old | (u64)value << 32;
	else
		new = (old & ~0xffffffffull) | value;
	new = (new & ~ENTRY_READ_ONLY) | (old & ENTRY_READ_ONLY);
	/* Guests clear a stuck Remote IRR by switching the pin to edge and back. */
	if (!(new &ENTRY_LEVEL))
		new &= ~ENTRY_REMOTE_IRR;
	io->entry[pin] = new;
	if (pin == IOAPIC_RTC_PIN)
		rtc_forget(io);
	eoi_vectors_locked(c);
	if (new &ENTRY_LEVEL && io->irr &BIT(pin) && !(new &(ENTRY_MASKED | ENTRY_REMOTE_IRR))) {
		/* The line may have changed its mind while the pin was masked: ask its owner. */
		notify(c, pin);
		if (io->irr & BIT(pin))
			service(c, pin, false);
	}
	return (old ^ new) & ENTRY_MASKED ? (int)pin : -1;
}

/* Storm over: send what still asks. Timer thread. */
static void storm_over(void *arg)
{
	struct irqchip *c = arg;
	struct ioapic *io = &c->ioapic;

	futex_lock(&io->lock);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (io->entry[pin] & ENTRY_LEVEL && io->irr & BIT(pin) &&
		    !(io->entry[pin] & ENTRY_REMOTE_IRR))
			service(c, pin, false);
	futex_unlock(&io->lock);
}

/* For the rest of the folder; without the lock. */

int ioapic_set_line(struct irqchip *c, unsigned pin, unsigned source, bool level, bool line_status)
{
	struct ioapic *io = &c->ioapic;
	int ret = 1;

	futex_lock(&io->lock);
	io->lines[pin] = level ? io->lines[pin] | BIT(source) : io->lines[pin] & ~BIT(source);
	if (io->lines[pin])
		ret = assert_pin(c, pin, line_status);
	else
		io->irr &= ~BIT(pin);
	futex_unlock(&io->lock);
	return ret;
}

void ioapic_eoi(struct irqchip *c, struct lapic *l, u8 vector, bool level)
{
	struct ioapic *io = &c->ioapic;

	futex_lock(&io->lock);
	if (vector == io->rtc_vector)
		io->rtc_pending.bits[l->index / 64] &= ~BIT64(l->index % 64);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if ((io->entry[pin] & ENTRY_VECTOR) == vector)
			eoi_pin(c, l, pin, level);
	futex_unlock(&io->lock);
}

void ioapic_forget(struct irqchip *c, struct lapic *l)
{
	futex_lock(&c->ioapic.lock);
	c->ioapic.rtc_pending.bits[l->index / 64] &= ~BIT64(l->index % 64);
	futex_unlock(&c->ioapic.lock);
}

void ioapic_eoi_vectors_update(struct irqchip *c)
{
	futex_lock(&c->ioapic.lock);
	eoi_vectors_locked(c);
	futex_unlock(&c->ioapic.lock);
}

static u32 read_window(const struct ioapic *io)
{
	u32 pin = (io->select - REG_REDIR) / 2;

	switch (io->select) {
	case REG_VERSION:
		return (KVM_IOAPIC_NUM_PINS - 1) << 16 | VERSION;
	case REG_ID:
	case REG_ARB:
		return (io->id & 0xf) << 24;
	}
	if (io->select < REG_REDIR || pin >= KVM_IOAPIC_NUM_PINS)
		return 0xffffffff;
	return (u32)(io->entry[pin] >> (io->select & 1 ? 32 : 0));
}

u32 ioapic_read(struct irqchip *c, u32 offset)
{
	struct ioapic *io = &c->ioapic;
	u32 value = 0;

	futex_lock(&io->lock);
	if (offset == 0x00)
		value = io->select;
	else if (offset == 0x10)
		value = read_window(io);
	futex_unlock(&io->lock);
	return value;
}

void ioapic_write(struct irqchip *c, u32 offset, u32 value)
{
	struct ioapic *io = &c->ioapic;
	int unmasked = -1;
	u32 pin;

	futex_lock(&io->lock);
	pin = (io->select - REG_REDIR) / 2;
	if (offset == 0x00)
		io->select = value & 0xff;
	else if (offset == 0x10 && io->select == REG_ID)
		io->id = value >> 24 & 0xf;
	else if (offset == 0x10 && io->select >= REG_REDIR && pin < KVM_IOAPIC_NUM_PINS)
		unmasked = write_entry(c, pin, io->select & 1, value);
	futex_unlock(&io->lock);
	if (unmasked >= 0)
		mask_notify(c, KVM_IRQCHIP_IOAPIC, (unsigned)unmasked, value & ENTRY_MASKED);
}

void ioapic_get_state(struct irqchip *c, struct kvm_ioapic_state *s)
{
	struct ioapic *io = &c->ioapic;

	mem_set(s, 0, sizeof(*s));
	futex_lock(&io->lock);
	s->base_address = io->base;
	s->ioregsel = io->select;
	s->id = io->id;
	s->irr = io->irr & ~io->irr_delivered;
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		s->redirtbl[pin].bits = io->entry[pin];
	futex_unlock(&io->lock);
}

void ioapic_set_state(struct irqchip *c, const struct kvm_ioapic_state *s)
{
	struct ioapic *io = &c->ioapic;

	futex_lock(&io->lock);
	__atomic_store_n(&io->base, s->base_address, __ATOMIC_RELAXED);
	io->select = s->ioregsel;
	io->id = s->id;
	io->irr = 0;
	io->irr_delivered = 0;
	rtc_forget(io);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		io->entry[pin] = s->redirtbl[pin].bits;
	eoi_vectors_locked(c);
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (s->irr & BIT(pin))
			assert_pin(c, pin, true);
	futex_unlock(&io->lock);
}

int ioapic_init(struct irqchip *c)
{
	struct ioapic *io = &c->ioapic;

	io->base = IOAPIC_BASE;
	for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		io->entry[pin] = ENTRY_MASKED;
	eoi_vectors_locked(c);
	return timer_init(c->timers, &io->storm, storm_over, c);
}
