/* Which devices a machine has. */
#include "vmm/debug_port.h"
#include "vmm/error_port.h"
#include "vmm/i8042.h"
#include "vmm/machine.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_console.h"
#include "vmm/virtio_net.h"
#include "vmm/virtio_rng.h"

static void free_serial(void *dev)
{
	serial_free(dev);
}

static void free_rtc(void *dev)
{
	rtc_free(dev);
}

static void free_i8042(void *dev)
{
	i8042_free(dev);
}

static void free_pm(void *dev)
{
	acpi_pm_free(dev);
}

static void free_debug(void *dev)
{
	debug_port_free(dev);
}

static void free_error(void *dev)
{
	error_port_free(dev);
}

static void create_legacy(struct machine *m)
{
	struct console *con = m->back->console;
	const struct guest_memory *mem = &m->back->mem;

	machine_add_device(m, serial_new(&m->pio, &m->irq, con, m->cfg->console == CONSOLE_SERIAL),
			   NULL, free_serial);
	machine_add_device(m, rtc_new(&m->pio, &m->irq, mem->low, memory_high(mem)), NULL,
			   free_rtc);
	machine_add_device(m, i8042_new(&m->pio, &m->irq, &m->power), NULL, free_i8042);
	m->pm = acpi_pm_new(&m->pio, &m->irq, &m->power);
	machine_add_device(m, m->pm, NULL, free_pm);
	machine_add_device(m, debug_port_new(&m->pio, con, &m->power), NULL, free_debug);
	machine_add_device(m, error_port_new(&m->vcpus, mem), NULL, free_error);
	m->pci = pci_new(&m->pio, &m->mmio, &m->irq, &m->power);
}

/* The order gives the PCI slots, and so the names of disks and cards in the guest. */
bool machine_create_devices(struct machine *m, GError **error)
{
	create_legacy(m);
	for (unsigned i = 0; i < m->back->disk_count; i++)
		if (!virtio_blk_new(m, m->back->disks[i], i, error))
			return false;
	if (m->back->net && !virtio_net_new(m, m->back->net, error))
		return false;
	if (m->cfg->rng && !virtio_rng_new(m, error))
		return false;
	if (m->cfg->console == CONSOLE_VIRTIO && !virtio_console_new(m, error))
		return false;
	return true;
}
