/* virtio-rng. Source: VIRTIO specification, "Entropy Device". */
#include "vmm/virtio_rng.h"

#include <sys/random.h>

#include "vmm/virtio.h"

#define REQUEST_MAX 65536u /* bytes given to one request, so that none keeps the loop long */

struct virtio_rng {
	struct virtio *vio;
	struct virtio_request req; /* the main loop only */
};

static u32 fill(struct virtio_request *req)
{
	u32 done = 0;

	for (unsigned i = 0; i < req->in_count && done < REQUEST_MAX; i++) {
		struct iovec *in = &virtio_request_in(req)[i];
		ssize_t n =
			getrandom(in->iov_base, MIN(in->iov_len, (size_t)REQUEST_MAX - done), 0);

		if (n <= 0)
			break;
		done += (u32)n;
		if ((size_t)n < in->iov_len)
			break;
	}
	return done;
}

static void rng_serve(void *dev, struct virtqueue *vq)
{
	struct virtio_rng *rng = dev;
	u16 before = vq->used_index;

	do {
		while (virtqueue_pop(vq, &rng->req))
			virtqueue_push(vq, &rng->req, fill(&rng->req));
	} while (virtqueue_enable_doorbell(vq, true));
	virtqueue_notify(vq, before);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio rng",
	.id = 4,
	.class = 0xff0000,
	.queues = 1,
	.serve = rng_serve,
};

static void rng_stop(void *dev)
{
	virtio_stop(((struct virtio_rng *)dev)->vio);
}

static void rng_free(void *dev)
{
	struct virtio_rng *rng = dev;

	virtio_free(rng->vio);
	g_free(rng);
}

bool virtio_rng_new(struct machine *m, GError **error)
{
	struct virtio_rng *rng = g_new0(struct virtio_rng, 1);

	rng->vio = virtio_new(m, &rng_ops, rng, error);
	if (!rng->vio) {
		g_free(rng);
		return false;
	}
	machine_add_device(m, rng, rng_stop, rng_free);
	return true;
}
