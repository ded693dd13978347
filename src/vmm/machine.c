/* Building, running and taking down one machine. */
#include "vmm/machine.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/error.h"
#include "vmm/gdb.h"

#define TSS_ADDRESS	 0xfffbd000ul /* three pages that KVM may need below the ROM */
#define IDENTITY_ADDRESS 0xfffbc000ul /* one page */

void machine_end(struct machine *m, enum power_end why, int status)
{
	g_mutex_lock(&m->lock);
	if (m->end == POWER_ON) {
		m->end = why;
		m->end_status = status;
	}
	g_mutex_unlock(&m->lock);
	/* The vCPU that asked must not run on; the others follow when the main loop ends. */
	__atomic_store_n(&m->vcpus.stop_asked, true, __ATOMIC_RELEASE);
	g_main_context_wakeup(NULL);
}

static void power_request(void *opaque, enum power_end why, int status)
{
	machine_end(opaque, why, status);
}

void machine_add_device(struct machine *m, void *dev, void (*stop)(void *), void (*free)(void *))
{
	g_assert(m->device_count < MACHINE_DEVICES_MAX);
	m->devices[m->device_count++] = (struct machine_device){dev, stop, free};
}

static bool set_slot(struct machine *m, unsigned slot, u64 gpa, void *host, u64 size,
		     GError **error)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (u64)host,
	};
	int r;

	if (!size)
		return true;
	r = accel_ioctl(&m->back->accel, m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
	if (r >= 0)
		return true;
	vmm_error(error, "%s refuses %" G_GUINT64_FORMAT " MiB of guest memory: %s",
		  m->back->accel.ops->name, size >> 20, g_strerror(-r));
	return false;
}

/* The accelerator need not look for code that devices have written: they say what they write. */
static void tell_writes(struct machine *m)
{
	const struct accel *accel = &m->back->accel;
	struct guest_memory *mem = &m->back->mem;
	struct kvm_enable_cap told = {.cap = ANYKVM_CAP_WRITES_TOLD};

	if (accel_extension(accel, m->vm_fd, ANYKVM_CAP_WRITES_TOLD) <= 0 ||
	    accel_ioctl(accel, m->vm_fd, KVM_ENABLE_CAP, &told))
		return;
	mem->vm_fd = m->vm_fd;
	mem->written = accel->ops->memory_written;
}

static bool create_vm(struct machine *m, GError **error)
{
	const struct accel *accel = &m->back->accel;
	const struct guest_memory *mem = &m->back->mem;
	u64 identity = IDENTITY_ADDRESS;
	struct kvm_enable_cap pages = {.cap = KVM_CAP_EXIT_HYPERCALL,
				       .args = {BIT64(KVM_HC_MAP_GPA_RANGE)}};

	m->vm_fd = accel_ioctl_value(accel, accel->fd, KVM_CREATE_VM, 0);
	if (m->vm_fd < 0) {
		vmm_error(error, "%s cannot create a virtual machine: %s", accel->ops->name,
			  g_strerror(-m->vm_fd));
		return false;
	}
	/* Only some Intel processors need these; where they are not known they are not needed. */
	accel_ioctl(accel, m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	accel_ioctl_value(accel, m->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	if (cpuid_reports_pages(accel))
		accel_ioctl(accel, m->vm_fd, KVM_ENABLE_CAP, &pages);
	if (m->cfg->window != WINDOW_OFF &&
	    accel_extension(accel, m->vm_fd, ANYKVM_CAP_WINDOW) > 0) {
		struct kvm_enable_cap window = {.cap = ANYKVM_CAP_WINDOW,
						.args = {m->cfg->window == WINDOW_ALWAYS
								 ? ANYKVM_WINDOW_ALWAYS
								 : ANYKVM_WINDOW_AUTO}};

		accel_ioctl(accel, m->vm_fd, KVM_ENABLE_CAP, &window);
	}
	tell_writes(m);
	return set_slot(m, 0, 0, mem->host, mem->low, error) &&
	       set_slot(m, 1, MEMORY_4G, mem->host + mem->low, memory_high(mem), error);
}

struct machine *machine_new(const struct run_config *cfg, struct backends *back, GError **error)
{
	struct machine *m = g_new0(struct machine, 1);
	const struct accel *accel = &back->accel;
	struct boot_entry entry;
	u64 rsdp;

	m->cfg = cfg;
	m->back = back;
	m->vm_fd = -1;
	m->power = (struct power){power_request, m};
	g_mutex_init(&m->lock);
	bus_init(&m->pio);
	bus_init(&m->mmio);
	if (!create_vm(m, error) || !irq_init(&m->irq, accel, m->vm_fd, error) ||
	    !vcpu_set_init(&m->vcpus, accel, m->vm_fd, cfg->cpus, &m->pio, &m->mmio, &m->power,
			   error) ||
	    !machine_create_devices(m, error))
		goto fail;
	m->vcpus.without = cfg->without;
	rsdp = acpi_place(&back->mem, cfg->cpus, m->irq.pin2_timer);
	if (!boot_load(&back->image, cfg, &back->mem, rsdp, &entry, error) ||
	    !vcpu_set_boot(&m->vcpus, &entry, error))
		goto fail;
	return m;
fail:
	machine_free(m);
	return NULL;
}

static gboolean on_timeout(gpointer opaque)
{
	machine_end(opaque, POWER_TIMEOUT, 0);
	return G_SOURCE_REMOVE;
}

static char *on_command(void *opaque, const char *line)
{
	return monitor_execute(opaque, line);
}

static void on_quit(void *opaque)
{
	machine_end(opaque, POWER_QUIT, 0);
}

static bool machine_running(struct machine *m)
{
	bool running;

	g_mutex_lock(&m->lock);
	running = m->end == POWER_ON;
	g_mutex_unlock(&m->lock);
	return running;
}

enum power_end machine_run(struct machine *m, int *status)
{
	const struct console_hooks hooks = {on_command, on_quit, m};
	guint timer = m->cfg->timeout ? g_timeout_add_seconds(m->cfg->timeout, on_timeout, m) : 0;

	console_set_hooks(m->back->console, &hooks);
	gdb_machine_begins(m->back->gdb, m);
	vcpu_set_start(&m->vcpus);
	while (machine_running(m))
		g_main_context_iteration(NULL, TRUE);
	vcpu_set_stop(&m->vcpus);
	for (unsigned i = 0; i < m->device_count; i++)
		if (m->devices[i].stop)
			m->devices[i].stop(m->devices[i].dev);
	console_set_hooks(m->back->console, NULL);
	if (timer && m->end != POWER_TIMEOUT)
		g_source_remove(timer);
	*status = m->end_status;
	return m->end;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	while (m->device_count--)
		m->devices[m->device_count].free(m->devices[m->device_count].dev);
	pci_free(m->pci);
	vcpu_set_free(&m->vcpus);
	if (m->irq.accel)
		irq_destroy(&m->irq);
	m->back->mem.written = NULL;
	if (m->vm_fd >= 0)
		m->back->accel.ops->close(m->vm_fd);
	bus_destroy(&m->pio);
	bus_destroy(&m->mmio);
	g_mutex_clear(&m->lock);
	g_free(m);
}
