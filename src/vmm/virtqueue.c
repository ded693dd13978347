/*
 * Split virtqueues. Source: VIRTIO specification, "Split Virtqueues".
 *
 * Everything in the rings is the guest's word and may change while we read it: each value is read
 * once, checked, then used. Chains are bounded by VIRTIO_SEGMENTS_MAX, so a loop ends. A driver
 * that breaks the rules finds its queue standing still until it resets the device.
 */
#include "vmm/virtio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define RING_READ(p) __atomic_load_n(&(p), __ATOMIC_RELAXED)

/* The driver's part and ours; NULL only when the queue is broken. */
static struct vring_avail *avail_ring(struct virtqueue *vq)
{
	return memory_at(virtio_memory(vq->vio), vq->avail, 6 + 2ull * vq->size);
}

static struct vring_used *used_ring(struct virtqueue *vq)
{
	return memory_at(virtio_memory(vq->vio), vq->used, 6 + 8ull * vq->size);
}

void virtqueue_reset(struct virtqueue *vq)
{
	vq->size = VIRTIO_QUEUE_SIZE;
	vq->vector = 0xffff;
	vq->enabled = vq->broken = false;
	vq->desc = vq->avail = vq->used = 0;
	vq->last_avail = vq->used_index = 0;
}

/* One descriptor of a table into the request. False when it breaks a rule. */
static bool add_segment(struct virtqueue *vq, struct virtio_request *req,
			const struct vring_desc *d)
{
	unsigned n = req->out_count + req->in_count;
	void *host = memory_at(virtio_memory(vq->vio), d->addr, d->len);
	bool in = d->flags & VRING_DESC_F_WRITE;

	if (n == VIRTIO_SEGMENTS_MAX || !host || (!in && req->in_count))
		return false;
	req->segments[n] = (struct iovec){host, d->len};
	if (in) {
		req->in_count++;
		req->in_len += d->len;
	} else {
		req->out_count++;
		req->out_len += d->len;
	}
	return true;
}

/* Follows a chain through one table of count descriptors. */
static bool walk_chain(struct virtqueue *vq, struct virtio_request *req,
		       const struct vring_desc *table, u32 count, u32 at, bool indirect)
{
	for (u32 steps = 0; steps < count; steps++) {
		struct vring_desc d;

		if (at >= count)
			return false;
		d.addr = RING_READ(table[at].addr);
		d.len = RING_READ(table[at].len);
		d.flags = RING_READ(table[at].flags);
		d.next = RING_READ(table[at].next);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			u32 n = d.len / sizeof(d);
			const struct vring_desc *inner =
				memory_at(virtio_memory(vq->vio), d.addr, d.len);

			if (indirect || (d.flags & VRING_DESC_F_NEXT) || !inner || !n ||
			    d.len % sizeof(d) || n > VIRTIO_SEGMENTS_MAX)
				return false;
			return walk_chain(vq, req, inner, n, 0, true);
		}
		if (!add_segment(vq, req, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return true;
		at = d.next;
	}
	return false;
}

bool virtqueue_pop(struct virtqueue *vq, struct virtio_request *req)
{
	const struct vring_desc *table;
	struct vring_avail *avail;
	u16 waiting;

	if (!vq->enabled || vq->broken)
		return false;
	avail = avail_ring(vq);
	table = memory_at(virtio_memory(vq->vio), vq->desc, 16ull * vq->size);
	if (!avail || !table || !used_ring(vq))
		goto broken;
	waiting = (u16)(__atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) - vq->last_avail);
	if (!waiting)
		return false;
	if (waiting > vq->size)
		goto broken;
	req->head = RING_READ(avail->ring[vq->last_avail & (vq->size - 1)]);
	req->out_count = req->in_count = 0;
	req->out_len = req->in_len = 0;
	if (!walk_chain(vq, req, table, vq->size, req->head, false))
		goto broken;
	vq->last_avail++;
	return true;
broken:
	vq->broken = true;
	return false;
}

void virtqueue_unpop(struct virtqueue *vq)
{
	vq->last_avail--;
}

void virtqueue_push(struct virtqueue *vq, const struct virtio_request *req, u32 written)
{
	struct vring_used *used = used_ring(vq);
	struct vring_used_elem *e;

	if (!used)
		return;
	for (unsigned i = req->out_count; i < req->out_count + req->in_count; i++)
		memory_written(virtio_memory(vq->vio), req->segments[i].iov_base,
			       req->segments[i].iov_len);
	e = &used->ring[vq->used_index & (vq->size - 1)];
	e->id = req->head;
	e->len = written;
	vq->used_index++;
	__atomic_store_n(&used->idx, vq->used_index, __ATOMIC_RELEASE);
}

void virtqueue_notify(struct virtqueue *vq, u16 before)
{
	struct vring_avail *avail = avail_ring(vq);
	bool wanted;

	if (vq->used_index == before || !avail)
		return;
	/* The used index must be visible before we look whether the driver sleeps. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (virtio_has_feature(vq->vio, VIRTIO_RING_F_EVENT_IDX))
		wanted = vring_need_event(RING_READ(avail->ring[vq->size]), vq->used_index, before);
	else
		wanted = !(RING_READ(avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	if (wanted)
		virtio_interrupt(vq->vio, vq->vector);
}

bool virtqueue_enable_doorbell(struct virtqueue *vq, bool on)
{
	struct vring_avail *avail;
	struct vring_used *used;

	if (!vq->enabled || vq->broken)
		return false;
	avail = avail_ring(vq);
	used = used_ring(vq);
	if (!avail || !used)
		return false;
	if (!virtio_has_feature(vq->vio, VIRTIO_RING_F_EVENT_IDX))
		__atomic_store_n(&used->flags, on ? 0 : VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
	else if (on)
		__atomic_store_n((u16 *)&used->ring[vq->size], vq->last_avail, __ATOMIC_RELAXED);
	if (!on)
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) != vq->last_avail;
}

/* ---- segments ---- */

static size_t iov_copy(const struct iovec *iov, unsigned count, size_t skip, u8 *buf, size_t len,
		       bool to_iov)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t n;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - skip, len - done);
		if (to_iov)
			memcpy((u8 *)iov[i].iov_base + skip, buf + done, n);
		else
			memcpy(buf + done, (u8 *)iov[i].iov_base + skip, n);
		done += n;
		skip = 0;
	}
	return done;
}

size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t skip, void *buf, size_t len)
{
	return iov_copy(iov, count, skip, buf, len, false);
}

size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t skip, const void *buf,
		    size_t len)
{
	return iov_copy(iov, count, skip, (u8 *)buf, len, true);
}
