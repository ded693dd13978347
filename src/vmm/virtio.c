/*
 * The virtio PCI transport. Source: VIRTIO specification, "Virtio Over PCI Bus".
 *
 * BAR 0 holds everything:
 *	0x0000 common configuration    0x1000 ISR    0x2000 device configuration
 *	0x3000 MSI-X table             0x3800 pending bits
 *	0x4000 doorbells, 4 bytes a queue
 */
#include "vmm/virtio.h"

#include <errno.h>
#include <glib-unix.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/error.h"
#include "vmm/machine.h"

#define VENDOR_VIRTIO	0x1af4
#define DEVICE_BASE	0x1040
#define BAR_SIZE	0x8000
#define COMMON_AT	0x0000u
#define ISR_AT		0x1000u
#define CONFIG_AT	0x2000u
#define MSIX_AT		0x3000u
#define PBA_AT		0x3800u
#define NOTIFY_AT	0x4000u
#define NOTIFY_STEP	4u
#define CONFIG_SIZE_MAX 256u
#define ISR_QUEUE	1
#define NO_VECTOR	0xffff
#define FEATURES_RING                                                     \
	(BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_RING_F_INDIRECT_DESC) | \
	 BIT64(VIRTIO_RING_F_EVENT_IDX))

struct virtio {
	struct machine *m;
	const struct virtio_ops *ops;
	void *dev;
	struct pci_device pci;
	struct virtqueue queues[VIRTIO_QUEUES_MAX];
	int isr; /* atomic */

	GMutex lock;
	u64 driver_features;
	u32 feature_select, driver_feature_select;
	u16 queue_select, config_vector;
	u8 status;
	bool live; /* the driver said DRIVER_OK */

	GThread *thread;
	int stop_fd;
	guint sources[VIRTIO_QUEUES_MAX];
};

const struct guest_memory *virtio_memory(const struct virtio *vio)
{
	return &vio->m->back->mem;
}

bool virtio_has_feature(const struct virtio *vio, unsigned bit)
{
	return vio->driver_features & BIT64(bit);
}

struct virtqueue *virtio_queue(struct virtio *vio, unsigned index)
{
	return index < vio->ops->queues ? &vio->queues[index] : NULL;
}

/* ---- interrupts ---- */

void virtio_interrupt(struct virtio *vio, u16 vector)
{
	if (pci_msix_enabled(&vio->pci)) {
		if (vector != NO_VECTOR)
			pci_msix_notify(&vio->pci, vector);
		return;
	}
	__atomic_fetch_or(&vio->isr, ISR_QUEUE, __ATOMIC_SEQ_CST);
	pci_intx_set(&vio->pci, true);
}

/* ---- serving queues ---- */

static void serve_queue(struct virtqueue *vq)
{
	struct virtio *vio = vq->vio;

	g_mutex_lock(&vq->lock);
	if (__atomic_load_n(&vio->live, __ATOMIC_ACQUIRE) && vq->enabled && !vq->broken)
		vio->ops->serve(vio->dev, vq);
	g_mutex_unlock(&vq->lock);
}

static void drain(int fd)
{
	u64 n;

	if (read(fd, &n, sizeof(n)) != sizeof(n)) {
		/* nothing was there: another reader was faster */
	}
}

static void ring(int fd)
{
	const u64 one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one)) {
		/* the counter is full: the worker has enough to wake up for */
	}
}

void virtqueue_ring(struct virtqueue *vq)
{
	ring(vq->doorbell);
}

static gboolean on_doorbell(gint fd, GIOCondition cond, gpointer opaque)
{
	(void)cond;
	drain(fd);
	serve_queue(opaque);
	return G_SOURCE_CONTINUE;
}

static void *worker(void *opaque)
{
	struct virtio *vio = opaque;
	struct pollfd fds[VIRTIO_QUEUES_MAX + 1];
	unsigned n = vio->ops->queues;

	for (unsigned i = 0; i < n; i++)
		fds[i] = (struct pollfd){.fd = vio->queues[i].doorbell, .events = POLLIN};
	fds[n] = (struct pollfd){.fd = vio->stop_fd, .events = POLLIN};
	for (;;) {
		if (poll(fds, n + 1, -1) < 0)
			continue;
		if (fds[n].revents)
			return NULL;
		for (unsigned i = 0; i < n; i++) {
			if (!fds[i].revents)
				continue;
			drain(fds[i].fd);
			serve_queue(&vio->queues[i]);
		}
	}
}

/* ---- reset and readiness; lock held ---- */

static void device_reset(struct virtio *vio)
{
	bool was_live = vio->live;

	__atomic_store_n(&vio->live, false, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vio->ops->queues; i++) {
		/* Waits for the request that is being served. */
		g_mutex_lock(&vio->queues[i].lock);
		virtqueue_reset(&vio->queues[i]);
		g_mutex_unlock(&vio->queues[i].lock);
	}
	vio->driver_features = 0;
	vio->feature_select = vio->driver_feature_select = 0;
	vio->queue_select = 0;
	vio->config_vector = NO_VECTOR;
	vio->status = 0;
	__atomic_store_n(&vio->isr, 0, __ATOMIC_SEQ_CST);
	pci_intx_set(&vio->pci, false);
	if (was_live && vio->ops->ready)
		vio->ops->ready(vio->dev, false);
}

static u64 offered(const struct virtio *vio)
{
	return vio->ops->features | FEATURES_RING;
}

static void write_status(struct virtio *vio, u8 v)
{
	if (!v) {
		device_reset(vio);
		return;
	}
	/* A driver must take VERSION_1 and nothing that was not offered. */
	if ((v & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    ((vio->driver_features & ~offered(vio)) ||
	     !(vio->driver_features & BIT64(VIRTIO_F_VERSION_1))))
		v &= (u8)~VIRTIO_CONFIG_S_FEATURES_OK;
	vio->status = v;
	if ((v & VIRTIO_CONFIG_S_DRIVER_OK) && (v & VIRTIO_CONFIG_S_FEATURES_OK) && !vio->live) {
		__atomic_store_n(&vio->live, true, __ATOMIC_RELEASE);
		if (vio->ops->ready)
			vio->ops->ready(vio->dev, true);
		/* Requests may have been queued before the driver was ready. */
		for (unsigned i = 0; i < vio->ops->queues; i++)
			ring(vio->queues[i].doorbell);
	}
}

/* ---- common configuration; lock held ---- */

static void enable_queue(struct virtqueue *vq)
{
	const struct guest_memory *mem = virtio_memory(vq->vio);

	vq->last_avail = vq->used_index = 0;
	vq->broken = (vq->desc & 15) || (vq->avail & 1) || (vq->used & 3) ||
		     !memory_at(mem, vq->desc, 16ull * vq->size) ||
		     !memory_at(mem, vq->avail, 6 + 2ull * vq->size) ||
		     !memory_at(mem, vq->used, 6 + 8ull * vq->size);
	vq->enabled = true;
	if (!vq->broken)
		virtqueue_enable_doorbell(vq, true);
}

static void set_half(u64 *field, bool high, u32 v)
{
	*field = high ? (*field & 0xffffffff) | (u64)v << 32 : (*field & ~0xffffffffull) | v;
}

static void write_queue(struct virtio *vio, u32 offset, u32 v)
{
	struct virtqueue *vq = virtio_queue(vio, vio->queue_select);

	if (!vq)
		return;
	g_mutex_lock(&vq->lock);
	if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
		vq->vector = v < vio->pci.msix_vectors ? (u16)v : NO_VECTOR;
	} else if (!vq->enabled) { /* an enabled queue's place does not change */
		switch (offset) {
		case VIRTIO_PCI_COMMON_Q_SIZE:
			if (v && v <= VIRTIO_QUEUE_SIZE && !(v & (v - 1)))
				vq->size = (u16)v;
			break;
		case VIRTIO_PCI_COMMON_Q_ENABLE:
			if (v == 1)
				enable_queue(vq);
			break;
		case VIRTIO_PCI_COMMON_Q_DESCLO:
		case VIRTIO_PCI_COMMON_Q_DESCHI:
			set_half(&vq->desc, offset == VIRTIO_PCI_COMMON_Q_DESCHI, v);
			break;
		case VIRTIO_PCI_COMMON_Q_AVAILLO:
		case VIRTIO_PCI_COMMON_Q_AVAILHI:
			set_half(&vq->avail, offset == VIRTIO_PCI_COMMON_Q_AVAILHI, v);
			break;
		case VIRTIO_PCI_COMMON_Q_USEDLO:
		case VIRTIO_PCI_COMMON_Q_USEDHI:
			set_half(&vq->used, offset == VIRTIO_PCI_COMMON_Q_USEDHI, v);
			break;
		}
	}
	g_mutex_unlock(&vq->lock);
}

static void common_write(struct virtio *vio, u32 offset, u32 v)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		vio->feature_select = v;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		vio->driver_feature_select = v;
		break;
	case VIRTIO_PCI_COMMON_GF:
		if (vio->driver_feature_select < 2 && !(vio->status & VIRTIO_CONFIG_S_FEATURES_OK))
			set_half(&vio->driver_features, vio->driver_feature_select == 1, v);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		vio->config_vector = v < vio->pci.msix_vectors ? (u16)v : NO_VECTOR;
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		write_status(vio, (u8)v);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		vio->queue_select = (u16)v;
		break;
	default:
		write_queue(vio, offset, v);
		break;
	}
}

static u32 read_queue(struct virtio *vio, u32 offset)
{
	struct virtqueue *vq = virtio_queue(vio, vio->queue_select);

	if (!vq)
		return 0; /* size 0: no such queue */
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return vq->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return vq->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return vq->enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return vq->index;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return (u32)vq->desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return (u32)(vq->desc >> 32);
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return (u32)vq->avail;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return (u32)(vq->avail >> 32);
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return (u32)vq->used;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return (u32)(vq->used >> 32);
	default:
		return 0;
	}
}

static u32 common_read(struct virtio *vio, u32 offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return vio->feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return vio->feature_select < 2 ? (u32)(offered(vio) >> (32 * vio->feature_select))
					       : 0;
	case VIRTIO_PCI_COMMON_GFSELECT:
		return vio->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return vio->driver_feature_select < 2
			       ? (u32)(vio->driver_features >> (32 * vio->driver_feature_select))
			       : 0;
	case VIRTIO_PCI_COMMON_MSIX:
		return vio->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return vio->ops->queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return vio->status;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return vio->queue_select;
	default:
		return read_queue(vio, offset);
	}
}

/* ---- BAR ---- */

static u64 config_read(struct virtio *vio, u32 offset, unsigned size)
{
	u8 config[CONFIG_SIZE_MAX + 8] = {0};
	u64 v = 0;

	if (!vio->ops->config_read || offset >= vio->ops->config_size)
		return 0;
	vio->ops->config_read(vio->dev, config);
	memcpy(&v, config + offset, size);
	return v;
}

static u64 bar_read(void *dev, u64 offset, unsigned size)
{
	struct virtio *vio = dev;
	u64 v = 0;

	if (offset >= MSIX_AT && offset < NOTIFY_AT)
		return pci_msix_read(&vio->pci, offset, size);
	if (offset == ISR_AT) {
		v = (u64)__atomic_exchange_n(&vio->isr, 0, __ATOMIC_SEQ_CST);
		pci_intx_set(&vio->pci, false);
		/* One that came between the two lines above must not get lost. */
		if (__atomic_load_n(&vio->isr, __ATOMIC_SEQ_CST))
			pci_intx_set(&vio->pci, true);
		return v;
	}
	g_mutex_lock(&vio->lock);
	if (offset < ISR_AT)
		v = common_read(vio, (u32)offset);
	else if (offset >= CONFIG_AT && offset < MSIX_AT)
		v = config_read(vio, (u32)offset - CONFIG_AT, size);
	g_mutex_unlock(&vio->lock);
	return v;
}

static void bar_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct virtio *vio = dev;
	struct virtqueue *vq;

	if (offset >= NOTIFY_AT) {
		/* Doorbells come here only where the accelerator has no ioeventfd. */
		vq = virtio_queue(vio, (unsigned)(offset - NOTIFY_AT) / NOTIFY_STEP);
		if (vq)
			ring(vq->doorbell);
		return;
	}
	if (offset >= MSIX_AT) {
		pci_msix_write(&vio->pci, offset, value, size);
		return;
	}
	g_mutex_lock(&vio->lock);
	if (offset < ISR_AT)
		common_write(vio, (u32)offset, (u32)value);
	else if (offset >= CONFIG_AT && vio->ops->config_write &&
		 offset - CONFIG_AT + size <= vio->ops->config_size)
		vio->ops->config_write(vio->dev, (u32)offset - CONFIG_AT, (const u8 *)&value, size);
	g_mutex_unlock(&vio->lock);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/* Doorbell writes go from the accelerator straight to the worker's eventfd. */
static void bar_hook(void *dev, u64 base, bool mapped)
{
	struct virtio *vio = dev;

	for (unsigned i = 0; i < vio->ops->queues; i++) {
		struct kvm_ioeventfd bell = {
			.addr = base + NOTIFY_AT + i * NOTIFY_STEP,
			.len = 2,
			.fd = vio->queues[i].doorbell,
			.flags = mapped ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
		};

		/* Where it fails bar_write() rings the bell. */
		accel_ioctl(&vio->m->back->accel, vio->m->vm_fd, KVM_IOEVENTFD, &bell);
	}
}

/* ---- life ---- */

static void add_capability(struct virtio *vio, u8 type, u32 offset, u32 length)
{
	struct virtio_pci_notify_cap cap = {
		.cap = {.cfg_type = type, .bar = 0, .offset = offset, .length = length},
		.notify_off_multiplier = NOTIFY_STEP,
	};
	u8 len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? sizeof(cap) : sizeof(cap.cap);

	cap.cap.cap_len = len;
	pci_add_capability(&vio->pci, PCI_CAP_ID_VNDR, &cap.cap.cap_len, len - 2);
}

/* The window for drivers that cannot reach memory BARs (firmware in real mode). */
static void add_window(struct virtio *vio)
{
	struct virtio_pci_cfg_cap cap = {
		.cap = {.cfg_type = VIRTIO_PCI_CAP_PCI_CFG, .cap_len = sizeof(cap)},
	};
	u8 *writable;

	vio->pci.window_cap =
		pci_add_capability(&vio->pci, PCI_CAP_ID_VNDR, &cap.cap.cap_len, sizeof(cap) - 2);
	writable = vio->pci.writable + vio->pci.window_cap;
	writable[offsetof(struct virtio_pci_cfg_cap, cap.bar)] = 0xff;
	memset(writable + offsetof(struct virtio_pci_cfg_cap, cap.offset), 0xff, 12);
}

static void add_capabilities(struct virtio *vio)
{
	add_capability(vio, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_AT, 0x1000);
	add_capability(vio, VIRTIO_PCI_CAP_ISR_CFG, ISR_AT, 0x1000);
	add_capability(vio, VIRTIO_PCI_CAP_DEVICE_CFG, CONFIG_AT, 0x1000);
	add_capability(vio, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_AT, 0x1000);
	add_window(vio);
	pci_add_msix(&vio->pci, vio->ops->queues + 1, MSIX_AT, PBA_AT);
}

struct virtio *virtio_new(struct machine *m, const struct virtio_ops *ops, void *dev,
			  GError **error)
{
	struct virtio *vio = g_new0(struct virtio, 1);
	u16 id = DEVICE_BASE + ops->id;

	g_assert(ops->queues <= VIRTIO_QUEUES_MAX && ops->config_size <= CONFIG_SIZE_MAX);
	vio->m = m;
	vio->ops = ops;
	vio->dev = dev;
	vio->config_vector = NO_VECTOR;
	g_mutex_init(&vio->lock);
	vio->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (unsigned i = 0; i < ops->queues; i++) {
		struct virtqueue *vq = &vio->queues[i];

		vq->vio = vio;
		vq->index = i;
		vq->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		g_mutex_init(&vq->lock);
		virtqueue_reset(vq);
	}
	pci_device_init(&vio->pci, ops->name, VENDOR_VIRTIO, id, ops->class);
	memcpy(vio->pci.config + PCI_SUBSYSTEM_VENDOR_ID, (u16[]){VENDOR_VIRTIO, id}, 4);
	vio->pci.bar_size = BAR_SIZE;
	vio->pci.bar_ops = &bar_ops;
	vio->pci.bar_dev = vio;
	vio->pci.bar_hook = bar_hook;
	add_capabilities(vio);
	if (!pci_plug(m->pci, &vio->pci)) {
		vmm_error(error, "more devices than the PCI bus has slots");
		virtio_free(vio);
		return NULL;
	}
	if (ops->thread)
		vio->thread = g_thread_new(ops->name, worker, vio);
	else
		for (unsigned i = 0; i < ops->queues; i++)
			vio->sources[i] = g_unix_fd_add(vio->queues[i].doorbell, G_IO_IN,
							on_doorbell, &vio->queues[i]);
	return vio;
}

void virtio_stop(struct virtio *vio)
{
	if (vio->thread) {
		ring(vio->stop_fd);
		g_clear_pointer(&vio->thread, g_thread_join);
	}
	for (unsigned i = 0; i < vio->ops->queues; i++) {
		if (vio->sources[i])
			g_source_remove(vio->sources[i]);
		vio->sources[i] = 0;
	}
}

void virtio_free(struct virtio *vio)
{
	if (!vio)
		return;
	virtio_stop(vio);
	pci_unplug(&vio->pci);
	for (unsigned i = 0; i < vio->ops->queues; i++) {
		close(vio->queues[i].doorbell);
		g_mutex_clear(&vio->queues[i].lock);
	}
	close(vio->stop_fd);
	g_mutex_clear(&vio->lock);
	g_free(vio);
}
