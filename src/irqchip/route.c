/*
 * GSI routing: from the number a client raises to pins of the controllers or to an MSI
 * (KVM API: KVM_SET_GSI_ROUTING), and MSIs sent directly (KVM_SIGNAL_MSI).
 *
 * A table is built complete, checked, and swapped in; users copy the few entries of one GSI out
 * under route_lock and act without it.
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>
#include <stdlib.h>

/* One GSI goes to at most one pin of each controller. */
#define ROUTES_PER_GSI KVM_NR_IRQCHIPS

/* Checks one entry and translates it; 0 or -EINVAL. */
static int translate(struct irqchip *c, const struct kvm_irq_routing_entry *e, struct route *r)
{
	*r = (struct route){.type = (u8)e->type};
	if (e->gsi >= IRQCHIP_MAX_ROUTES)
		return -EINVAL;
	switch (e->type) {
	case KVM_IRQ_ROUTING_IRQCHIP: {
		u32 chip = e->u.irqchip.irqchip, pin = e->u.irqchip.pin;

		if (e->flags || c->mode == IRQCHIP_SPLIT || chip >= KVM_NR_IRQCHIPS ||
		    pin >= (chip == KVM_IRQCHIP_IOAPIC ? KVM_IOAPIC_NUM_PINS : 8u))
			return -EINVAL;
		r->irqchip = (u8)chip;
		r->pin = (u8)pin + (chip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0);
		return 0;
	}
	case KVM_IRQ_ROUTING_MSI:
		/* A device id is valid flag; x86 has no use for the id itself. */
		if (e->flags & ~KVM_MSI_VALID_DEVID)
			return -EINVAL;
		if (c->x2apic_ids && e->u.msi.address_hi & 0xff)
			return -EINVAL;
		r->address_lo = e->u.msi.address_lo;
		r->address_hi = e->u.msi.address_hi;
		r->data = e->u.msi.data;
		return 0;
	default:
		return -EINVAL;
	}
}

/* True when two entries may share a GSI: pins of different controllers. */
static bool compatible(const struct route *a, const struct route *b)
{
	return a->type == KVM_IRQ_ROUTING_IRQCHIP && b->type == KVM_IRQ_ROUTING_IRQCHIP &&
	       a->irqchip != b->irqchip;
}

/* Sorts the entries into the table by GSI; 0 or -EINVAL. */
static int fill(struct irqchip *c, struct route_table *t, const struct kvm_irq_routing_entry *e,
		u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		if (e[i].gsi >= IRQCHIP_MAX_ROUTES)
			return -EINVAL;
		t->first[e[i].gsi + 1]++;
	}
	for (u32 gsi = 0; gsi < IRQCHIP_MAX_ROUTES; gsi++)
		t->first[gsi + 1] += t->first[gsi];
	for (u32 i = 0; i < nr; i++) {
		u32 at = t->first[e[i].gsi], end = t->first[e[i].gsi + 1];
		struct route r;
		int ret = translate(c, &e[i], &r);

		if (ret)
			return ret;
		for (; at < end && t->entry[at].type; at++)
			if (!compatible(&t->entry[at], &r))
				return -EINVAL;
		t->entry[at] = r;
		if (r.type == KVM_IRQ_ROUTING_IRQCHIP)
			t->pin_gsi[r.irqchip]
				  [r.irqchip == KVM_IRQCHIP_PIC_SLAVE ? r.pin - 8 : r.pin] =
				(s16)e[i].gsi;
	}
	return 0;
}

int irqchip_set_routing(struct irqchip *c, const struct kvm_irq_routing_entry *e, u32 nr)
{
	struct route_table *t, *old;
	int ret;

	if (nr > IRQCHIP_MAX_ROUTES)
		return -EINVAL;
	t = calloc(1, sizeof(*t) + nr * sizeof(t->entry[0]));
	if (!t)
		return -ENOMEM;
	for (unsigned chip = 0; chip < KVM_NR_IRQCHIPS; chip++)
		for (unsigned pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
			t->pin_gsi[chip][pin] = -1;
	ret = fill(c, t, e, nr);
	if (ret) {
		free(t);
		return ret;
	}
	futex_lock(&c->route_lock);
	old = c->routes;
	c->routes = t;
	futex_unlock(&c->route_lock);
	free(old);
	ack_routes_changed(c);
	return 0;
}

int route_init(struct irqchip *c)
{
	struct kvm_irq_routing_entry e[40] = {0};
	u32 n = 0;

	if (c->mode == IRQCHIP_SPLIT)
		return irqchip_set_routing(c, NULL, 0);
	for (u32 gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n++].u.irqchip.pin = gsi;
		if (gsi >= 16)
			continue;
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		e[n++].u.irqchip.pin = gsi & 7;
	}
	return irqchip_set_routing(c, e, n);
}

int route_pin_gsi(struct irqchip *c, unsigned irqchip, unsigned pin)
{
	int gsi;

	futex_lock(&c->route_lock);
	gsi = c->routes ? c->routes->pin_gsi[irqchip][pin] : -1;
	futex_unlock(&c->route_lock);
	return gsi;
}

void route_level_vectors(struct irqchip *c, u64 vectors[4])
{
	struct route_table *t;

	futex_lock(&c->route_lock);
	t = c->routes;
	for (u32 i = 0; t && i < t->first[c->reserved_routes]; i++) {
		struct route *r = &t->entry[i];
		u8 vector = r->data & 0xff;

		if (r->type == KVM_IRQ_ROUTING_MSI && r->data & BIT(15))
			vectors[vector >> 6] |= BIT64(vector & 63);
	}
	futex_unlock(&c->route_lock);
}

static u32 copy_routes(struct irqchip *c, u32 gsi, struct route to[ROUTES_PER_GSI])
{
	u32 n = 0;

	if (gsi >= IRQCHIP_MAX_ROUTES)
		return 0;
	futex_lock(&c->route_lock);
	for (u32 i = c->routes->first[gsi]; i < c->routes->first[gsi + 1]; i++)
		mem_copy(&to[n++], &c->routes->entry[i], sizeof(*to));
	futex_unlock(&c->route_lock);
	return n;
}

static int send_msi(struct irqchip *c, u32 lo, u32 hi, u32 data)
{
	struct irq_msg m;

	TRACE(c->trace, kvm_msi_set_irq, (u64)hi << 32 | lo, data);
	if (c->x2apic_ids && hi & 0xff)
		return -EINVAL;
	irq_msg_from_msi(c, lo, hi, data, &m);
	return irq_deliver(c, NULL, &m, NULL);
}

int irqchip_set_irq(struct irqchip *c, unsigned source, u32 gsi, bool level, bool line_status)
{
	struct route routes[ROUTES_PER_GSI];
	u32 n = copy_routes(c, gsi, routes);
	int ret = -1;

	TRACE(c->trace, kvm_set_irq, gsi, level, source);

	for (u32 i = 0; i < n; i++) {
		struct route *r = &routes[i];
		int one;

		if (r->type == KVM_IRQ_ROUTING_MSI)
			one = level ? send_msi(c, r->address_lo, r->address_hi, r->data) : -1;
		else if (r->irqchip == KVM_IRQCHIP_IOAPIC)
			one = ioapic_set_line(c, r->pin, source, level, line_status);
		else
			one = pic_set_line(c, r->pin, source, level);
		if (one >= 0)
			ret = one + (ret < 0 ? 0 : ret);
	}
	return ret;
}

int irqchip_pulse_irq(struct irqchip *c, unsigned source, u32 gsi)
{
	int ret = irqchip_set_irq(c, source, gsi, true, false);

	irqchip_set_irq(c, source, gsi, false, false);
	return ret;
}

int irqchip_send_msi(struct irqchip *c, const struct kvm_msi *msi)
{
	/* KVM_CAP_MSI_DEVID is not offered on x86: KVM tolerates its flag and no other. */
	if (msi->flags & ~KVM_MSI_VALID_DEVID)
		return -EINVAL;
	return send_msi(c, msi->address_lo, msi->address_hi, msi->data);
}
