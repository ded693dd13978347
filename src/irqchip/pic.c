/*
 * Two cascaded 8259A interrupt controllers and the edge/level registers of the PIIX (ELCR).
 *
 * The state is kept in the layout of struct kvm_pic_state. `last_irr` remembers line levels for
 * edge detection; `init_state` counts the initialisation words still to come. Poll mode, special
 * mask mode, special fully nested mode, automatic EOI and both rotations are there.
 *
 * The master's output goes to the first CPU whose LINT0 lets it in (KVM does the same); that CPU
 * acknowledges. Acknowledge notifiers run when an interrupt is ended, without the lock.
 */
#include "irqchip/irqchip_internal.h"

enum { MASTER = KVM_IRQCHIP_PIC_MASTER, SLAVE = KVM_IRQCHIP_PIC_SLAVE };

#define CASCADE_PIN 2
#define NONE	    8 /* priority of "no interrupt" */

static struct kvm_pic_state *chip_of(struct irqchip *c, unsigned chip)
{
	return &c->pic.chip[chip];
}

/* Priority (0 highest) of the most important bit of `mask`; NONE when it is empty. */
static unsigned priority_of(const struct kvm_pic_state *s, u8 mask)
{
	unsigned first = s->priority_add & 7;
	u32 rotated = (u32)mask << 8 | mask;

	return mask ? (unsigned)__builtin_ctz(rotated >> first) & 7 : NONE;
}

static unsigned pin_of(const struct kvm_pic_state *s, unsigned priority)
{
	return (priority + s->priority_add) & 7;
}

/* The pin this chip asks for now, or -1. */
static int requested_pin(struct irqchip *c, unsigned chip)
{
	struct kvm_pic_state *s = chip_of(c, chip);
	unsigned wanted = priority_of(s, s->irr & ~s->imr);
	u8 busy = s->isr;

	if (wanted == NONE)
		return -1;
	if (s->special_mask)
		busy &= ~s->imr;
	/* The slave may interrupt its own interrupt with a more important one. */
	if (s->special_fully_nested_mode && chip == MASTER)
		busy &= (u8)~BIT(CASCADE_PIN);
	return wanted < priority_of(s, busy) ? (int)pin_of(s, wanted) : -1;
}

/* Applies a line's level to one chip; 1 new request, 0 coalesced, -1 masked. */
static int drive(struct kvm_pic_state *s, unsigned pin, bool level)
{
	u8 bit = (u8)BIT(pin);
	int ret = 1;

	if (!level) {
		if (s->elcr & bit)
			s->irr &= ~bit;
		s->last_irr &= ~bit;
		return s->imr & bit ? -1 : 1;
	}
	if (s->elcr & bit || !(s->last_irr & bit)) {
		ret = !(s->irr & bit);
		s->irr |= bit;
	}
	s->last_irr |= bit;
	return s->imr & bit ? -1 : ret;
}

/* Recomputes the cascade and the output. */
static void update(struct irqchip *c)
{
	bool output;

	if (requested_pin(c, SLAVE) >= 0) {
		drive(chip_of(c, MASTER), CASCADE_PIN, true);
		drive(chip_of(c, MASTER), CASCADE_PIN, false);
	}
	output = requested_pin(c, MASTER) >= 0;
	if (output && !c->pic.output)
		c->pic.wake = true;
	__atomic_store_n(&c->pic.output, output, __ATOMIC_RELEASE);
}

/* Unlocks; then wakes a CPU when the output rose. */
static void unlock(struct irqchip *c)
{
	bool wake = c->pic.wake;
	struct lapic *l;

	c->pic.wake = false;
	futex_unlock(&c->pic.lock);
	if (!wake)
		return;
	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		if (__atomic_load_n(&l->accept_pic, __ATOMIC_RELAXED)) {
			c->ops->kick(c->owner, i);
			return;
		}
	}
}

/* Ends an interrupt in service, telling its notifiers (the lock is dropped for that). */
static void end_service(struct irqchip *c, unsigned chip, unsigned pin)
{
	chip_of(c, chip)->isr &= (u8)~BIT(pin);
	if (!ack_wanted(c, chip, pin))
		return;
	futex_unlock(&c->pic.lock);
	ack_notify(c, chip, pin);
	futex_lock(&c->pic.lock);
}

static void acknowledge_pin(struct irqchip *c, unsigned chip, unsigned pin)
{
	struct kvm_pic_state *s = chip_of(c, chip);

	s->isr |= (u8)BIT(pin);
	/* A level request stays as long as its line is high. */
	if (!(s->elcr & BIT(pin)))
		s->irr &= (u8)~BIT(pin);
	if (s->auto_eoi) {
		if (s->rotate_on_auto_eoi)
			s->priority_add = (pin + 1) & 7;
		end_service(c, chip, pin);
	}
}

int pic_set_line(struct irqchip *c, unsigned pin, unsigned source, bool level)
{
	struct pic *p = &c->pic;
	int ret;

	futex_lock(&p->lock);
	p->lines[pin] = level ? p->lines[pin] | BIT(source) : p->lines[pin] & ~BIT(source);
	ret = drive(&p->chip[pin >> 3], pin & 7, p->lines[pin] != 0);
	update(c);
	unlock(c);
	return ret;
}

u8 pic_acknowledge(struct irqchip *c)
{
	int pin, slave_pin;
	u8 vector;

	futex_lock(&c->pic.lock);
	pin = requested_pin(c, MASTER);
	if (pin < 0) {
		vector = chip_of(c, MASTER)->irq_base + 7; /* spurious */
	} else if (pin == CASCADE_PIN) {
		acknowledge_pin(c, MASTER, CASCADE_PIN);
		slave_pin = requested_pin(c, SLAVE);
		if (slave_pin >= 0)
			acknowledge_pin(c, SLAVE, (unsigned)slave_pin);
		else
			slave_pin = 7; /* spurious on the slave */
		vector = chip_of(c, SLAVE)->irq_base + (u8)slave_pin;
	} else {
		acknowledge_pin(c, MASTER, (unsigned)pin);
		vector = chip_of(c, MASTER)->irq_base + (u8)pin;
	}
	update(c);
	unlock(c);
	return vector;
}

/* ICW1: starts initialisation. */
static void start_init(struct irqchip *c, unsigned chip, u8 value)
{
	struct kvm_pic_state *s = chip_of(c, chip);
	u8 edges = s->irr & ~s->elcr;

	s->init4 = value & 1;
	s->last_irr = 0;
	s->irr &= s->elcr;
	s->imr = 0;
	s->isr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	if (!s->init4) {
		s->special_fully_nested_mode = 0;
		s->auto_eoi = 0;
	}
	s->init_state = 1;
	/* Edge requests are dropped: who waits for their acknowledgement must not wait on. */
	for (unsigned pin = 0; pin < 8; pin++)
		if (edges & BIT(pin))
			end_service(c, chip, pin);
}

/* OCW2: end of interrupt and rotation. */
static void write_ocw2(struct irqchip *c, unsigned chip, u8 value)
{
	struct kvm_pic_state *s = chip_of(c, chip);
	unsigned command = value >> 5, pin = value & 7;

	switch (command) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		s->rotate_on_auto_eoi = command >> 2;
		break;
	case 1: /* non-specific EOI, without and with rotation */
	case 5:
		pin = priority_of(s, s->isr);
		if (pin == NONE)
			break;
		pin = pin_of(s, pin);
		if (command == 5)
			s->priority_add = (pin + 1) & 7;
		end_service(c, chip, pin);
		break;
	case 3: /* specific EOI, without and with rotation */
	case 7:
		if (command == 7)
			s->priority_add = (pin + 1) & 7;
		end_service(c, chip, pin);
		break;
	case 6: /* set priority */
		s->priority_add = (pin + 1) & 7;
		break;
	}
}

static void write_command(struct irqchip *c, unsigned chip, u8 value)
{
	struct kvm_pic_state *s = chip_of(c, chip);

	if (value & 0x10) {
		start_init(c, chip, value);
	} else if (value & 0x08) { /* OCW3 */
		if (value & 0x04)
			s->poll = 1;
		if (value & 0x02)
			s->read_reg_select = value & 1;
		if (value & 0x40)
			s->special_mask = value >> 5 & 1;
	} else {
		write_ocw2(c, chip, value);
	}
}

/* Returns the pins whose mask changed. */
static u8 write_data(struct irqchip *c, unsigned chip, u8 value)
{
	struct kvm_pic_state *s = chip_of(c, chip);
	u8 changed = 0;

	switch (s->init_state) {
	case 0:
		changed = s->imr ^ value;
		s->imr = value;
		break;
	case 1: /* ICW2 */
		s->irq_base = value & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* ICW3: the wiring is fixed */
		s->init_state = s->init4 ? 3 : 0;
		break;
	default: /* ICW4 */
		s->special_fully_nested_mode = value >> 4 & 1;
		s->auto_eoi = value >> 1 & 1;
		s->init_state = 0;
		break;
	}
	return changed;
}

static unsigned chip_of_port(u16 port)
{
	return port == 0xa0 || port == 0xa1 || port == 0x4d1 ? SLAVE : MASTER;
}

void pic_port_write(struct irqchip *c, u16 port, u8 value)
{
	unsigned chip = chip_of_port(port);
	u8 changed = 0;

	futex_lock(&c->pic.lock);
	if (port >= 0x4d0)
		chip_of(c, chip)->elcr = value & chip_of(c, chip)->elcr_mask;
	else if (port & 1)
		changed = write_data(c, chip, value);
	else
		write_command(c, chip, value);
	update(c);
	unlock(c);
	for (; changed; changed &= changed - 1) {
		unsigned pin = (unsigned)__builtin_ctz(changed);

		mask_notify(c, chip, pin, value & BIT(pin));
	}
}

/* The poll command: the read is the acknowledge, and puts the request in service (not so in KVM). */
static u8 poll_read(struct irqchip *c, unsigned chip)
{
	int pin = requested_pin(c, chip);

	if (pin < 0)
		return 0x07;
	if (chip == SLAVE) {
		chip_of(c, MASTER)->isr &= (u8)~BIT(CASCADE_PIN);
		chip_of(c, MASTER)->irr &= (u8)~BIT(CASCADE_PIN);
	}
	acknowledge_pin(c, chip, (unsigned)pin);
	return 0x80 | (u8)pin;
}

u8 pic_port_read(struct irqchip *c, u16 port)
{
	unsigned chip = chip_of_port(port);
	struct kvm_pic_state *s = chip_of(c, chip);
	u8 value;

	futex_lock(&c->pic.lock);
	if (port >= 0x4d0) {
		value = s->elcr;
	} else if (s->poll) {
		s->poll = 0;
		value = poll_read(c, chip);
		update(c);
	} else if (port & 1) {
		value = s->imr;
	} else {
		value = s->read_reg_select ? s->isr : s->irr;
	}
	unlock(c);
	return value;
}

void pic_get_state(struct irqchip *c, unsigned chip, struct kvm_pic_state *s)
{
	futex_lock(&c->pic.lock);
	mem_copy(s, chip_of(c, chip), sizeof(*s));
	futex_unlock(&c->pic.lock);
}

void pic_set_state(struct irqchip *c, unsigned chip, const struct kvm_pic_state *s)
{
	futex_lock(&c->pic.lock);
	mem_copy(chip_of(c, chip), s, sizeof(*s));
	update(c);
	unlock(c);
}

void pic_init(struct irqchip *c)
{
	chip_of(c, MASTER)->elcr_mask = 0xf8;
	chip_of(c, SLAVE)->elcr_mask = 0xde;
}
