/*
 * virtio-net. Source: VIRTIO specification, "Network Device". Both queues are served by the main
 * loop, where the network's other end lives. Frames that find no receive buffer wait in a
 * bounded queue; beyond that they are dropped, and TCP sends them again.
 */
#include "vmm/virtio_net.h"

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "vmm/virtio.h"

#define QUEUE_RX    0
#define QUEUE_TX    1
#define FRAME_MAX   65550u
#define BACKLOG_MAX 256u /* frames */
#define TX_BURST    64u	 /* frames before others in the main loop get their turn */

struct virtio_net {
	struct virtio *vio;
	struct net_user *net;
	GQueue backlog;		   /* GBytes, main loop only */
	struct virtio_request req; /* main loop only */
	u8 frame[FRAME_MAX];	   /* main loop only */
};

static const u8 mac[6] = {0x52, 0x54, 0x00, 0x61, 0x6b, 0x76};

/* Fills receive buffers from the backlog; the RX queue's lock is held. */
static void deliver(struct virtio_net *n, struct virtqueue *vq)
{
	struct virtio_net_hdr_mrg_rxbuf head = {.num_buffers = 1};
	u16 before = vq->used_index;

	while (!g_queue_is_empty(&n->backlog)) {
		GBytes *bytes = g_queue_peek_head(&n->backlog);
		gsize len;
		const void *data = g_bytes_get_data(bytes, &len);
		struct iovec *in;

		if (!virtqueue_pop(vq, &n->req)) {
			/* The driver rings when it has put new buffers in. */
			if (!virtqueue_enable_doorbell(vq, true))
				break;
			continue;
		}
		in = virtio_request_in(&n->req);
		if (n->req.in_len >= sizeof(head) + len) {
			iov_from_buf(in, n->req.in_count, 0, &head, sizeof(head));
			iov_from_buf(in, n->req.in_count, sizeof(head), data, len);
			virtqueue_push(vq, &n->req, (u32)(sizeof(head) + len));
		} else {
			virtqueue_push(vq, &n->req, 0); /* too small for the frame: dropped */
		}
		g_queue_pop_head(&n->backlog);
		g_bytes_unref(bytes);
	}
	virtqueue_notify(vq, before);
}

static void net_receive(void *opaque, const u8 *frame, size_t len)
{
	struct virtio_net *n = opaque;
	struct virtqueue *vq = virtio_queue(n->vio, QUEUE_RX);

	if (len > FRAME_MAX || n->backlog.length >= BACKLOG_MAX)
		return;
	g_queue_push_tail(&n->backlog, g_bytes_new(frame, len));
	g_mutex_lock(&vq->lock);
	deliver(n, vq);
	g_mutex_unlock(&vq->lock);
}

/*
 * The network may answer from inside net_user_send(), through net_receive() and the RX queue's
 * lock: two different queues, so the TX lock that is held here does no harm.
 */
static void transmit(struct virtio_net *n, struct virtqueue *vq)
{
	u16 before = vq->used_index;
	unsigned burst = 0;

	do {
		while (burst < TX_BURST && virtqueue_pop(vq, &n->req)) {
			size_t skip = sizeof(struct virtio_net_hdr_mrg_rxbuf);
			size_t len = iov_to_buf(n->req.segments, n->req.out_count, skip, n->frame,
						sizeof(n->frame));
			struct virtio_request done = {.head = n->req.head};

			/* Sending may reuse n->req for the answer. */
			virtqueue_push(vq, &done, 0);
			if (n->req.out_len >= skip && n->req.out_len - skip <= FRAME_MAX && len)
				net_user_send(n->net, n->frame, len);
			burst++;
		}
	} while (burst < TX_BURST && virtqueue_enable_doorbell(vq, true));
	virtqueue_notify(vq, before);
	if (burst == TX_BURST)
		virtqueue_ring(vq);
}

static void net_serve(void *dev, struct virtqueue *vq)
{
	if (vq->index == QUEUE_TX)
		transmit(dev, vq);
	else
		deliver(dev, vq);
}

static void net_config_read(void *dev, u8 *config)
{
	struct virtio_net_config c = {.status = VIRTIO_NET_S_LINK_UP};

	(void)dev;
	memcpy(c.mac, mac, sizeof(mac));
	memcpy(config, &c, sizeof(c));
}

static const struct virtio_ops net_ops = {
	.name = "virtio net",
	.id = 1,
	.class = 0x020000,
	.features = BIT64(VIRTIO_NET_F_MAC) | BIT64(VIRTIO_NET_F_STATUS),
	.queues = 2,
	.serve = net_serve,
	.config_read = net_config_read,
	.config_size = sizeof(struct virtio_net_config),
};

static void net_stop(void *dev)
{
	struct virtio_net *n = dev;

	net_user_attach(n->net, NULL, NULL);
	virtio_stop(n->vio);
}

static void net_free(void *dev)
{
	struct virtio_net *n = dev;

	net_user_attach(n->net, NULL, NULL);
	virtio_free(n->vio);
	g_queue_clear_full(&n->backlog, (GDestroyNotify)g_bytes_unref);
	g_free(n);
}

bool virtio_net_new(struct machine *m, struct net_user *net, GError **error)
{
	struct virtio_net *n = g_new0(struct virtio_net, 1);

	n->net = net;
	g_queue_init(&n->backlog);
	n->vio = virtio_new(m, &net_ops, n, error);
	if (!n->vio) {
		g_free(n);
		return false;
	}
	net_user_attach(net, net_receive, n);
	machine_add_device(m, n, net_stop, net_free);
	return true;
}
