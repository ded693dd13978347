/*
 * virtio 1.x devices on PCI ("modern" only): what device models see.
 *
 * A device model gives a table of operations. Its queues are served by a worker of the device,
 * either a thread of its own (may block, as disks do) or the main loop (network, console).
 *
 * Locks, in this order: pci_bus.lock → virtio.lock → virtqueue.lock → pci_device.msix_lock.
 * virtio.lock: status, features, queue setup. virtqueue.lock: a queue's position in its ring; it is
 * held while requests are served, so a reset waits for the request that is being served.
 */
#ifndef VMM_VIRTIO_H
#define VMM_VIRTIO_H

#include "vmm/types.h"
#include <sys/uio.h>

#include "vmm/memory.h"

struct machine;
struct virtio;

#define VIRTIO_QUEUES_MAX   8
#define VIRTIO_QUEUE_SIZE   256
#define VIRTIO_SEGMENTS_MAX 512 /* descriptors of one request, indirect ones included */

struct virtqueue {
	struct virtio *vio;
	unsigned index;
	GMutex lock;
	u16 size; /* what the driver chose; a power of two, at most VIRTIO_QUEUE_SIZE */
	u16 vector;
	bool enabled;
	u64 desc, avail, used; /* guest addresses */
	u16 last_avail;	       /* next entry to take */
	u16 used_index;	       /* next entry to fill */
	bool broken;	       /* the driver broke the rules: the queue stands still */
	int doorbell;	       /* eventfd */
};

/** A request: first out_count segments to read, then in_count segments to write. */
struct virtio_request {
	u16 head;
	unsigned out_count, in_count;
	u64 out_len, in_len;
	struct iovec segments[VIRTIO_SEGMENTS_MAX];
};

static inline struct iovec *virtio_request_in(struct virtio_request *req)
{
	return req->segments + req->out_count;
}

struct virtio_ops {
	const char *name;
	u16 id;	      /* virtio device type */
	u32 class;    /* PCI class code */
	u64 features; /* besides the ring's own */
	unsigned queues;
	bool thread; /* served by an own thread */
	/** Serves a queue whose doorbell rang (or that became ready); its lock is held. */
	void (*serve)(void *dev, struct virtqueue *vq);
	/** Configuration space, offset + size checked to lie in config_size. virtio.lock is held. */
	void (*config_read)(void *dev, u8 *config);
	void (*config_write)(void *dev, u32 offset, const u8 *data, unsigned size);
	u32 config_size;
	/** The driver is ready (true), or the device was reset (false). May be NULL. */
	void (*ready)(void *dev, bool on);
};

/** Creates the device and plugs it into the machine's PCI bus. NULL with the error set. */
struct virtio *virtio_new(struct machine *m, const struct virtio_ops *ops, void *dev,
			  GError **error);
/** Ends its worker; vCPUs are stopped. */
void virtio_stop(struct virtio *vio);
void virtio_free(struct virtio *vio);

/** The queue, or NULL when the device has no such queue. */
struct virtqueue *virtio_queue(struct virtio *vio, unsigned index);
bool virtio_has_feature(const struct virtio *vio, unsigned bit);
/* ---- a queue's lock is held for all of these (virtqueue.c) ---- */

/** Takes the next request; false when there is none. Broken rings yield none, ever. */
bool virtqueue_pop(struct virtqueue *vq, struct virtio_request *req);
/** Gives the request back unserved: it will be popped again. */
void virtqueue_unpop(struct virtqueue *vq);
/** Completes a request of which written bytes were filled in; its segments for that are as they were popped. */
void virtqueue_push(struct virtqueue *vq, const struct virtio_request *req, u32 written);
/** Interrupts the driver if it wants to hear of the completions since the last call. */
void virtqueue_notify(struct virtqueue *vq, u16 used_before);
/** Asks the driver (not) to ring the doorbell; returns true when requests are there already. */
bool virtqueue_enable_doorbell(struct virtqueue *vq, bool on);
/** Has the queue served again soon, as if its doorbell rang. */
void virtqueue_ring(struct virtqueue *vq);
/** Back to the state after reset. */
void virtqueue_reset(struct virtqueue *vq);

/** Copies between a flat buffer and segments, from byte skip on; returns bytes copied. */
size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t skip, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t skip, const void *buf,
		    size_t len);

/* virtio.c, for virtqueue.c */
const struct guest_memory *virtio_memory(const struct virtio *vio);
void virtio_interrupt(struct virtio *vio, u16 vector);

#endif
