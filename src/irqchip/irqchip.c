/* The chip as a whole: creation, settings, the guest's port and memory accesses, saved states. */
#include "irqchip/irqchip_internal.h"

#include <errno.h>
#include <stdlib.h>

int irqchip_create(struct irqchip **out, enum irqchip_mode mode, const struct irqchip_ops *ops,
		   void *owner, struct timer_service *timers)
{
	struct irqchip *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return -ENOMEM;
	c->ops = ops;
	c->owner = owner;
	c->timers = timers;
	c->mode = mode;
	c->bus_ns = 1;
	c->map.usable = 1;
	pic_init(c);
	ret = ioapic_init(c);
	if (!ret)
		ret = route_init(c);
	if (ret) {
		irqchip_destroy(c);
		return ret;
	}
	*out = c;
	return 0;
}

void irqchip_destroy(struct irqchip *c)
{
	struct lapic *l, *next;

	if (!c)
		return;
	pit_destroy(c);
	timer_destroy(&c->ioapic.storm);
	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		lapic_destroy(l);
	}
	for (l = c->graves; l; l = next) {
		next = l->grave;
		free(l);
	}
	free(c->routes);
	free(c);
}

void irqchip_set_trace(struct irqchip *c, const struct trace *trace)
{
	c->trace = trace;
}

enum irqchip_mode irqchip_mode(const struct irqchip *c)
{
	return c->mode;
}

int irqchip_set_x2apic_api(struct irqchip *c, u64 flags)
{
	if (flags & ~(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK))
		return -EINVAL;
	if (flags & KVM_X2APIC_API_USE_32BIT_IDS)
		c->x2apic_ids = true;
	if (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
		c->broadcast_quirk_off = true;
	return 0;
}

void irqchip_disable_quirks(struct irqchip *c, u64 quirks)
{
	c->disabled_quirks = quirks;
}

int irqchip_set_reserved_routes(struct irqchip *c, u32 n)
{
	if (c->mode != IRQCHIP_SPLIT || n > IRQCHIP_MAX_ROUTES)
		return -EINVAL;
	c->reserved_routes = n;
	ack_routes_changed(c);
	return 0;
}

int irqchip_set_apic_bus_ns(struct irqchip *c, u64 ns)
{
	/* The longest period, 2^32 counts of 128 ticks, must fit 64 bits. */
	if (!ns || ns > UINT64_MAX / (0xffffffffull * 128))
		return -EINVAL;
	c->bus_ns = (u32)ns;
	return 0;
}

int irqchip_get_state(struct irqchip *c, struct kvm_irqchip *state)
{
	if (c->mode == IRQCHIP_SPLIT)
		return -ENXIO;
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		pic_get_state(c, state->chip_id, &state->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_get_state(c, &state->chip.ioapic);
		return 0;
	default:
		return -EINVAL;
	}
}

int irqchip_set_state(struct irqchip *c, const struct kvm_irqchip *state)
{
	if (c->mode == IRQCHIP_SPLIT)
		return -ENXIO;
	switch (state->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		pic_set_state(c, state->chip_id, &state->chip.pic);
		return 0;
	case KVM_IRQCHIP_IOAPIC:
		ioapic_set_state(c, &state->chip.ioapic);
		return 0;
	default:
		return -EINVAL;
	}
}

bool irqchip_pio_read(struct irqchip *c, u16 port, void *data, unsigned len)
{
	if (c->mode == IRQCHIP_SPLIT)
		return false;
	if (pic_owns_port(port)) {
		/* The 8259 hangs on a byte bus; KVM reads wider accesses as zero. */
		mem_store(data, len == 1 ? pic_port_read(c, port) : 0, len);
		return true;
	}
	if (!pit_owns_port(c, port))
		return false;
	mem_store(data, pit_port_read(c, port), len);
	return true;
}

bool irqchip_pio_write(struct irqchip *c, u16 port, const void *data, unsigned len)
{
	if (c->mode == IRQCHIP_SPLIT)
		return false;
	if (pic_owns_port(port)) {
		if (len == 1)
			pic_port_write(c, port, *(const u8 *)data);
		return true;
	}
	if (!pit_owns_port(c, port))
		return false;
	pit_port_write(c, port, *(const u8 *)data);
	return true;
}

/* Offset within the I/O APIC's registers, or -1. */
static int ioapic_offset(struct irqchip *c, u64 gpa, unsigned len)
{
	u64 base = __atomic_load_n(&c->ioapic.base, __ATOMIC_RELAXED);

	if (c->mode == IRQCHIP_SPLIT || gpa < base || gpa - base > IOAPIC_SIZE - len)
		return -1;
	return (int)(gpa - base);
}

bool irqchip_mmio_read(struct irqchip *c, u64 gpa, void *data, unsigned len)
{
	int offset = ioapic_offset(c, gpa, len);

	if (offset < 0)
		return false;
	mem_store(data, ioapic_read(c, (u32)offset), len);
	return true;
}

bool irqchip_mmio_write(struct irqchip *c, u64 gpa, const void *data, unsigned len)
{
	int offset = ioapic_offset(c, gpa, len);

	if (offset < 0)
		return false;
	ioapic_write(c, (u32)offset, (u32)mem_load(data, len > 4 ? 4 : len));
	return true;
}
