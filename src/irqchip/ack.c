/*
 * Telling others about interrupts: acknowledgement (EOI) notifiers by GSI, and the PIT about
 * masks. `ack_pins` says which pins anybody waits for, so that an EOI of another pin costs one
 * load. ack_lock is held while notifiers run: removal waits for them.
 */
#include "irqchip/irqchip_internal.h"

/* Recomputes ack_pins from the notifiers and the routes; ack_lock held. */
static void pins_update(struct irqchip *c)
{
	u32 pins[KVM_NR_IRQCHIPS] = {0};

	for (unsigned chip = 0; chip < KVM_NR_IRQCHIPS; chip++)
		for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
			int gsi = route_pin_gsi(c, chip, pin);

			for (struct irqchip_ack *a = c->acks; a; a = a->next)
				if (gsi >= 0 && a->gsi == (u32)gsi)
					pins[chip] |= BIT(pin);
		}
	for (unsigned chip = 0; chip < KVM_NR_IRQCHIPS; chip++)
		__atomic_store_n(&c->ack_pins[chip], pins[chip], __ATOMIC_RELAXED);
	ioapic_eoi_vectors_update(c);
}

bool ack_wanted(struct irqchip *c, unsigned irqchip, unsigned pin)
{
	return __atomic_load_n(&c->ack_pins[irqchip], __ATOMIC_RELAXED) >> pin & 1;
}

void ack_notify(struct irqchip *c, unsigned irqchip, unsigned pin)
{
	int gsi = route_pin_gsi(c, irqchip, pin);

	if (gsi < 0)
		return;
	futex_lock(&c->ack_lock);
	for (struct irqchip_ack *a = c->acks, *next; a; a = next) {
		next = a->next;
		if (a->gsi == (u32)gsi)
			a->acked(a);
	}
	futex_unlock(&c->ack_lock);
}

void irqchip_ack_add(struct irqchip *c, struct irqchip_ack *ack)
{
	futex_lock(&c->ack_lock);
	ack->next = c->acks;
	c->acks = ack;
	pins_update(c);
	futex_unlock(&c->ack_lock);
}

void irqchip_ack_remove(struct irqchip *c, struct irqchip_ack *ack)
{
	futex_lock(&c->ack_lock);
	for (struct irqchip_ack **p = &c->acks; *p; p = &(*p)->next)
		if (*p == ack) {
			*p = ack->next;
			break;
		}
	pins_update(c);
	futex_unlock(&c->ack_lock);
}

void ack_routes_changed(struct irqchip *c)
{
	futex_lock(&c->ack_lock);
	pins_update(c);
	futex_unlock(&c->ack_lock);
}

void mask_notify(struct irqchip *c, unsigned irqchip, unsigned pin, bool masked)
{
	if (!masked && route_pin_gsi(c, irqchip, pin) == 0)
		pit_unmasked(c);
}
