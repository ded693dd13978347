/* Interrupt lines and messages. */
#include "vmm/irq.h"

#include <string.h>

#include "vmm/error.h"

#define ROUTES_MAX (2 * IRQ_GSI_COUNT)

/* The PC's wiring: 16 lines to both PICs and the IOAPIC, the timer on pin 2, 8 more for PCI. */
static int irq_route(struct irq_ctl *irq)
{
	struct kvm_irq_routing *table =
		g_malloc0(sizeof(*table) + ROUTES_MAX * sizeof(table->entries[0]));
	struct kvm_irq_routing_entry *e = table->entries;
	unsigned n = 0;
	int r;

	for (unsigned gsi = 0; gsi < IRQ_GSI_COUNT; gsi++) {
		if (gsi == 2)
			continue; /* the PICs' cascade, and the pin that the timer took */
		if (gsi < 16) {
			e[n].gsi = gsi;
			e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
			e[n].u.irqchip.irqchip =
				gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
			e[n].u.irqchip.pin = gsi & 7;
			n++;
		}
		e[n].gsi = gsi;
		e[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[n].u.irqchip.pin = gsi == IRQ_GSI_TIMER ? 2 : gsi;
		n++;
	}
	table->nr = n;
	r = accel_ioctl(irq->accel, irq->vm_fd, KVM_SET_GSI_ROUTING, table);
	g_free(table);
	return r;
}

bool irq_init(struct irq_ctl *irq, const struct accel *accel, int vm_fd, GError **error)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int r;

	memset(irq, 0, sizeof(*irq));
	irq->accel = accel;
	irq->vm_fd = vm_fd;
	g_mutex_init(&irq->lock);
	r = accel_ioctl(accel, vm_fd, KVM_CREATE_IRQCHIP, NULL);
	if (r < 0) {
		vmm_error(error, "%s cannot create the interrupt controllers: %s", accel->ops->name,
			  g_strerror(-r));
		return false;
	}
	r = accel_ioctl(accel, vm_fd, KVM_CREATE_PIT2, &pit);
	if (r < 0) {
		vmm_error(error, "%s cannot create the interval timer: %s", accel->ops->name,
			  g_strerror(-r));
		return false;
	}
	if (!accel_extension(accel, vm_fd, KVM_CAP_IRQ_ROUTING))
		return true;
	r = irq_route(irq);
	if (r < 0) {
		vmm_error(error, "%s refuses the interrupt routing of a PC: %s", accel->ops->name,
			  g_strerror(-r));
		return false;
	}
	irq->pin2_timer = true;
	return true;
}

void irq_destroy(struct irq_ctl *irq)
{
	g_mutex_clear(&irq->lock);
}

void irq_set(struct irq_ctl *irq, unsigned gsi, unsigned source, bool level)
{
	struct kvm_irq_level line = {.irq = gsi};
	u64 old, new;

	g_mutex_lock(&irq->lock);
	old = irq->sources[gsi];
	new = level ? old | BIT64(source) : old & ~BIT64(source);
	irq->sources[gsi] = new;
	line.level = new != 0;
	if (!old != !new)
		accel_ioctl(irq->accel, irq->vm_fd, KVM_IRQ_LINE, &line);
	g_mutex_unlock(&irq->lock);
}

void irq_msi(struct irq_ctl *irq, u64 address, u32 data)
{
	struct kvm_msi msi = {
		.address_lo = (u32)address,
		.address_hi = (u32)(address >> 32),
		.data = data,
	};

	accel_ioctl(irq->accel, irq->vm_fd, KVM_SIGNAL_MSI, &msi);
}
