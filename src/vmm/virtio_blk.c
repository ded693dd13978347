/*
 * virtio-blk. Source: VIRTIO specification, "Block Device". A thread of its own serves the queue
 * and blocks in the host's file system, so the vCPUs never do.
 */
#include "vmm/virtio_blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

#include "vmm/virtio.h"

#define SEGMENTS_MAX (VIRTIO_QUEUE_SIZE - 2)
#define RANGE_MAX    (1u << 22) /* sectors of one discard or write-zeroes range */
#define RANGES_MAX   32u

struct virtio_blk {
	struct virtio *vio;
	struct disk *disk;
	unsigned index;
	struct virtio_ops ops;	   /* features depend on the disk */
	struct virtio_request req; /* the queue's thread only: too big for a stack */
};

static bool in_disk(const struct virtio_blk *blk, u64 sector, u64 len)
{
	u64 size = disk_size(blk->disk);

	return !(len % DISK_SECTOR) && sector <= size / DISK_SECTOR &&
	       len <= size - sector * DISK_SECTOR;
}

/* Drops skip bytes from the front of the segments; returns the first one left. */
static unsigned iov_trim_front(struct iovec *iov, unsigned count, size_t skip)
{
	unsigned i = 0;

	while (i < count && skip >= iov[i].iov_len)
		skip -= iov[i++].iov_len;
	if (i < count) {
		iov[i].iov_base = (u8 *)iov[i].iov_base + skip;
		iov[i].iov_len -= skip;
	}
	return i;
}

static u8 to_status(int r)
{
	return r >= 0		  ? VIRTIO_BLK_S_OK
	       : r == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
				  : VIRTIO_BLK_S_IOERR;
}

static u8 serve_read(struct virtio_blk *blk, u64 sector)
{
	struct virtio_request *req = &blk->req;
	struct iovec *in = virtio_request_in(req);
	unsigned count = req->in_count;
	u64 len = req->in_len - 1;
	int r;

	if (!in_disk(blk, sector, len))
		return VIRTIO_BLK_S_IOERR;
	/* The status byte is the last one of the last segment. */
	if (!--in[count - 1].iov_len)
		count--;
	r = disk_read(blk->disk, sector * DISK_SECTOR, in, count);
	in[req->in_count - 1].iov_len++;
	return to_status(r);
}

static u8 serve_write(struct virtio_blk *blk, u64 sector)
{
	struct virtio_request *req = &blk->req;
	u64 len = req->out_len - sizeof(struct virtio_blk_outhdr);
	unsigned first;

	if (!in_disk(blk, sector, len) || disk_readonly(blk->disk))
		return VIRTIO_BLK_S_IOERR;
	first = iov_trim_front(req->segments, req->out_count, sizeof(struct virtio_blk_outhdr));
	return to_status(disk_write(blk->disk, sector * DISK_SECTOR, req->segments + first,
				    req->out_count - first));
}

static u8 serve_ranges(struct virtio_blk *blk, bool discard)
{
	struct virtio_blk_discard_write_zeroes ranges[RANGES_MAX];
	u64 len = blk->req.out_len - sizeof(struct virtio_blk_outhdr);
	unsigned count = (unsigned)MIN(len / sizeof(ranges[0]), (u64)RANGES_MAX);

	if (disk_readonly(blk->disk) || !len || len % sizeof(ranges[0]) || len > sizeof(ranges))
		return VIRTIO_BLK_S_IOERR;
	iov_to_buf(blk->req.segments, blk->req.out_count, sizeof(struct virtio_blk_outhdr), ranges,
		   len);
	for (unsigned i = 0; i < count; i++) {
		u64 bytes = (u64)ranges[i].num_sectors * DISK_SECTOR;
		bool unmap = ranges[i].flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
		int r;

		if (discard && ranges[i].flags)
			return VIRTIO_BLK_S_UNSUPP;
		if (ranges[i].num_sectors > RANGE_MAX || !in_disk(blk, ranges[i].sector, bytes))
			return VIRTIO_BLK_S_IOERR;
		r = disk_zero(blk->disk, ranges[i].sector * DISK_SECTOR, bytes, discard || unmap);
		if (r < 0)
			return to_status(r);
	}
	return VIRTIO_BLK_S_OK;
}

static u8 serve_id(struct virtio_blk *blk)
{
	char id[VIRTIO_BLK_ID_BYTES] = {0};

	if (blk->req.in_len < sizeof(id) + 1)
		return VIRTIO_BLK_S_IOERR;
	snprintf(id, sizeof(id), "anykvm-disk-%u", blk->index);
	iov_from_buf(virtio_request_in(&blk->req), blk->req.in_count, 0, id, sizeof(id));
	return VIRTIO_BLK_S_OK;
}

static u8 serve_one(struct virtio_blk *blk)
{
	struct virtio_blk_outhdr head;

	if (iov_to_buf(blk->req.segments, blk->req.out_count, 0, &head, sizeof(head)) !=
	    sizeof(head))
		return VIRTIO_BLK_S_IOERR;
	switch (head.type) {
	case VIRTIO_BLK_T_IN:
		return serve_read(blk, head.sector);
	case VIRTIO_BLK_T_OUT:
		return serve_write(blk, head.sector);
	case VIRTIO_BLK_T_FLUSH:
		return to_status(disk_flush(blk->disk));
	case VIRTIO_BLK_T_GET_ID:
		return serve_id(blk);
	case VIRTIO_BLK_T_DISCARD:
		return serve_ranges(blk, true);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return serve_ranges(blk, false);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

static void blk_serve(void *dev, struct virtqueue *vq)
{
	struct virtio_blk *blk = dev;
	u16 before = vq->used_index;

	do {
		virtqueue_enable_doorbell(vq, false);
		while (virtqueue_pop(vq, &blk->req)) {
			u8 *status = NULL;
			u64 len = blk->req.in_len;

			if (len) { /* before serving, which changes segments */
				struct iovec *last =
					virtio_request_in(&blk->req) + blk->req.in_count - 1;

				while (!last->iov_len)
					last--;
				status = (u8 *)last->iov_base + last->iov_len - 1;
				blk->req.in_count =
					(unsigned)(last - virtio_request_in(&blk->req)) + 1;
				*status = serve_one(blk);
			}
			virtqueue_push(vq, &blk->req, (u32)MIN(len, (u64)G_MAXUINT32));
			virtqueue_notify(vq, before);
			before = vq->used_index;
		}
	} while (virtqueue_enable_doorbell(vq, true));
}

static void blk_config_read(void *dev, u8 *config)
{
	struct virtio_blk *blk = dev;
	struct virtio_blk_config c = {
		.capacity = disk_size(blk->disk) / DISK_SECTOR,
		.seg_max = SEGMENTS_MAX,
		.blk_size = DISK_SECTOR,
		.max_discard_sectors = RANGE_MAX,
		.max_discard_seg = RANGES_MAX,
		.discard_sector_alignment = 8,
		.max_write_zeroes_sectors = RANGE_MAX,
		.max_write_zeroes_seg = RANGES_MAX,
		.write_zeroes_may_unmap = 1,
	};

	memcpy(config, &c, sizeof(c));
}

static void blk_stop(void *dev)
{
	virtio_stop(((struct virtio_blk *)dev)->vio);
}

static void blk_free(void *dev)
{
	struct virtio_blk *blk = dev;

	virtio_free(blk->vio);
	g_free(blk);
}

bool virtio_blk_new(struct machine *m, struct disk *disk, unsigned index, GError **error)
{
	struct virtio_blk *blk = g_new0(struct virtio_blk, 1);

	blk->disk = disk;
	blk->index = index;
	blk->ops = (struct virtio_ops){
		.name = "virtio disk",
		.id = 2,
		.class = 0x010000, /* mass storage, SCSI: what other VMMs show */
		.features = BIT64(VIRTIO_BLK_F_SEG_MAX) | BIT64(VIRTIO_BLK_F_BLK_SIZE) |
			    BIT64(VIRTIO_BLK_F_FLUSH),
		.queues = 1,
		.thread = true,
		.serve = blk_serve,
		.config_read = blk_config_read,
		.config_size = sizeof(struct virtio_blk_config),
	};
	blk->ops.features |= disk_readonly(disk) ? BIT64(VIRTIO_BLK_F_RO)
						 : BIT64(VIRTIO_BLK_F_DISCARD) |
							   BIT64(VIRTIO_BLK_F_WRITE_ZEROES);
	blk->vio = virtio_new(m, &blk->ops, blk, error);
	if (!blk->vio) {
		g_free(blk);
		return false;
	}
	machine_add_device(m, blk, blk_stop, blk_free);
	return true;
}
