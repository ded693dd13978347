/*
 * virtio-console with one port. Source: VIRTIO specification, "Console Device". It takes the
 * terminal's input once its driver is up; until then input waits in the console's queue.
 */
#include "vmm/virtio_console.h"

#include <linux/virtio_console.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/virtio.h"

#define QUEUE_RX 0
#define QUEUE_TX 1
#define CHUNK	 4096u

struct virtio_con {
	struct virtio *vio;
	struct console *con;
	struct virtio_request rx, tx; /* under the lock of their queue */
	u64 tx_done;		      /* bytes of the first request that are out already */
};

static void serve_rx(struct virtio_con *vc, struct virtqueue *vq)
{
	u16 before = vq->used_index;
	u8 buf[CHUNK];

	while (console_pending(vc->con)) {
		size_t room, n;

		if (!virtqueue_pop(vq, &vc->rx)) {
			if (!virtqueue_enable_doorbell(vq, true))
				break;
			continue;
		}
		room = MIN(vc->rx.in_len, (u64)sizeof(buf));
		n = console_read(vc->con, buf, room);
		if (!n && room) { /* somebody else read it */
			virtqueue_unpop(vq);
			break;
		}
		iov_from_buf(virtio_request_in(&vc->rx), vc->rx.in_count, 0, buf, n);
		virtqueue_push(vq, &vc->rx, (u32)n);
	}
	virtqueue_notify(vq, before);
}

/* False when the console is full: output_ready() goes on. */
static bool send_request(struct virtio_con *vc)
{
	while (vc->tx_done < vc->tx.out_len) {
		u8 buf[CHUNK];
		size_t n = iov_to_buf(vc->tx.segments, vc->tx.out_count, vc->tx_done, buf,
				      sizeof(buf));
		size_t taken = console_write(vc->con, buf, n);

		vc->tx_done += taken;
		if (taken < n)
			return false;
	}
	vc->tx_done = 0;
	return true;
}

static void serve_tx(struct virtio_con *vc, struct virtqueue *vq)
{
	u16 before = vq->used_index;
	bool full = false;

	do {
		while (!full && virtqueue_pop(vq, &vc->tx)) {
			full = !send_request(vc);
			if (full)
				virtqueue_unpop(vq);
			else
				virtqueue_push(vq, &vc->tx, 0);
		}
	} while (!full && virtqueue_enable_doorbell(vq, true));
	virtqueue_notify(vq, before);
}

static void con_serve(void *dev, struct virtqueue *vq)
{
	if (vq->index == QUEUE_RX)
		serve_rx(dev, vq);
	else
		serve_tx(dev, vq);
}

/* The console's threads come in through the doorbells, so that only one place serves queues. */
static void con_input_ready(void *dev)
{
	virtqueue_ring(virtio_queue(((struct virtio_con *)dev)->vio, QUEUE_RX));
}

static void con_output_ready(void *dev)
{
	virtqueue_ring(virtio_queue(((struct virtio_con *)dev)->vio, QUEUE_TX));
}

static const struct console_frontend frontend = {
	.input_ready = con_input_ready,
	.output_ready = con_output_ready,
};

static void con_ready(void *dev, bool on)
{
	struct virtio_con *vc = dev;

	vc->tx_done = 0;
	console_attach(vc->con, on ? &frontend : NULL, on ? vc : NULL);
}

static void con_config_read(void *dev, u8 *config)
{
	struct virtio_console_config c = {.cols = 80, .rows = 25, .max_nr_ports = 1};
	struct winsize ws;

	(void)dev;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) && ws.ws_col && ws.ws_row) {
		c.cols = ws.ws_col;
		c.rows = ws.ws_row;
	}
	memcpy(config, &c, sizeof(c));
}

static const struct virtio_ops con_ops = {
	.name = "virtio console",
	.id = 3,
	.class = 0x078000,
	.features = BIT64(VIRTIO_CONSOLE_F_SIZE),
	.queues = 2,
	.serve = con_serve,
	.ready = con_ready,
	.config_read = con_config_read,
	.config_size = sizeof(struct virtio_console_config),
};

static void con_stop(void *dev)
{
	struct virtio_con *vc = dev;

	console_attach(vc->con, NULL, NULL);
	virtio_stop(vc->vio);
}

static void con_free(void *dev)
{
	struct virtio_con *vc = dev;

	console_attach(vc->con, NULL, NULL);
	virtio_free(vc->vio);
	g_free(vc);
}

bool virtio_console_new(struct machine *m, GError **error)
{
	struct virtio_con *vc = g_new0(struct virtio_con, 1);

	vc->con = m->back->console;
	vc->vio = virtio_new(m, &con_ops, vc, error);
	if (!vc->vio) {
		g_free(vc);
		return false;
	}
	machine_add_device(m, vc, con_stop, con_free);
	return true;
}
