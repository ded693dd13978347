/*
 * Port 0x5f8: the machine's owner causes a machine check, as the guest asks. On real machines such
 * errors come from ACPI's EINJ; here a test says by a structure in its memory what it wants.
 */
#include "vmm/error_port.h"

#include <errno.h>
#include <linux/kvm.h>

struct error_port {
	struct vcpu_set *vcpus;
	const struct guest_memory *mem;
	struct bus_region region;
	int result; /* atomic: of the last request, 0 or an error number */
};

/* The vCPU whose thread this is: a port's function runs in it, outside of KVM_RUN. */
static struct vcpu *current(struct vcpu_set *set)
{
	struct vcpu *found = NULL;

	g_mutex_lock(&set->lock);
	for (unsigned i = 0; i < set->count && !found; i++)
		if (set->vcpus[i].started && pthread_equal(set->vcpus[i].pthread, pthread_self()))
			found = &set->vcpus[i];
	g_mutex_unlock(&set->lock);
	return found;
}

static void error_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct error_port *port = dev;
	struct vcpu *vcpu = current(port->vcpus);
	struct kvm_x86_mce mce;
	int r;

	if (offset || size != 4 || !vcpu)
		r = -EINVAL;
	else if (!memory_read(port->mem, (u32)value, &mce, sizeof(mce)))
		r = -EFAULT;
	else
		r = accel_ioctl(port->vcpus->accel, vcpu->fd, KVM_X86_SET_MCE, &mce);
	__atomic_store_n(&port->result, r < 0 ? -r : 0, __ATOMIC_RELAXED);
}

static u64 error_read(void *dev, u64 offset, unsigned size)
{
	struct error_port *port = dev;

	(void)size;
	return (u64)__atomic_load_n(&port->result, __ATOMIC_RELAXED) >> (8 * offset);
}

static const struct bus_ops error_ops = {.read = error_read, .write = error_write};

struct error_port *error_port_new(struct vcpu_set *vcpus, const struct guest_memory *mem)
{
	struct error_port *port = g_new0(struct error_port, 1);

	port->vcpus = vcpus;
	port->mem = mem;
	port->region = (struct bus_region){"error", ERROR_PORT, 4, &error_ops, port};
	bus_add(vcpus->pio, &port->region);
	return port;
}

void error_port_free(struct error_port *port)
{
	if (!port)
		return;
	bus_remove(port->vcpus->pio, &port->region);
	g_free(port);
}
