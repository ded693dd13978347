/*
 * Raw disk images. A snapshot keeps written clusters in an unlinked temporary file at the same
 * offsets (a sparse file) and one bit a cluster that says where the newest bytes are.
 */
#include "vmm/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/error.h"

#define CLUSTER	  65536u
#define IOV_BATCH 512u

struct disk {
	int fd;
	int overlay;	/* -1 without snapshot */
	u8 *in_overlay; /* bit per cluster */
	u8 *bounce;	/* one cluster, for copy-on-write */
	u64 size;
	bool readonly;
};

/* Transfers all bytes of the segments, or fails. */
static int transfer(int fd, bool write, u64 offset, const struct iovec *iov, unsigned count)
{
	struct iovec part[IOV_BATCH];

	while (count) {
		unsigned n = MIN(count, IOV_BATCH);
		struct iovec *p = part;

		memcpy(part, iov, n * sizeof(*iov));
		iov += n;
		count -= n;
		while (n) {
			ssize_t r = write ? pwritev(fd, p, (int)n, (off_t)offset)
					  : preadv(fd, p, (int)n, (off_t)offset);

			if (r < 0 && errno == EINTR)
				continue;
			if (r < 0)
				return -errno;
			offset += (u64)r;
			/* The image got shorter under us: what is missing reads as zeros. */
			if (r == 0) {
				if (write)
					return -ENOSPC;
				for (; n; n--, p++)
					memset(p->iov_base, 0, p->iov_len);
				break;
			}
			while (n && (size_t)r >= p->iov_len) {
				r -= (ssize_t)p->iov_len;
				p++;
				n--;
			}
			if (n) {
				p->iov_base = (u8 *)p->iov_base + r;
				p->iov_len -= (size_t)r;
			}
			while (n && !p->iov_len) {
				p++;
				n--;
			}
		}
	}
	return 0;
}

static bool overlaid(const struct disk *d, u64 cluster)
{
	return d->in_overlay[cluster / 8] & (1u << (cluster % 8));
}

static void mark_overlaid(struct disk *d, u64 cluster)
{
	d->in_overlay[cluster / 8] |= (u8)(1u << (cluster % 8));
}

static u64 cluster_len(const struct disk *d, u64 cluster)
{
	return MIN((u64)CLUSTER, d->size - cluster * CLUSTER);
}

/* Copies a cluster into the overlay before a part of it is written. */
static int copy_up(struct disk *d, u64 cluster)
{
	struct iovec iov = {d->bounce, cluster_len(d, cluster)};
	int r;

	if (overlaid(d, cluster))
		return 0;
	r = transfer(d->fd, false, cluster * CLUSTER, &iov, 1);
	if (!r)
		r = transfer(d->overlay, true, cluster * CLUSTER, &iov, 1);
	if (!r)
		mark_overlaid(d, cluster);
	return r;
}

/* Both ends of a range that cover only part of their cluster; the middle is overwritten whole. */
static int prepare_range(struct disk *d, u64 offset, u64 len)
{
	u64 first = offset / CLUSTER, last = (offset + len - 1) / CLUSTER;
	int r = 0;

	if (offset % CLUSTER)
		r = copy_up(d, first);
	if (!r && (offset + len) % CLUSTER && offset + len < d->size)
		r = copy_up(d, last);
	return r;
}

static void finish_range(struct disk *d, u64 offset, u64 len)
{
	for (u64 c = offset / CLUSTER; c <= (offset + len - 1) / CLUSTER; c++)
		mark_overlaid(d, c);
}

static u64 iov_length(const struct iovec *iov, unsigned count)
{
	u64 len = 0;

	for (unsigned i = 0; i < count; i++)
		len += iov[i].iov_len;
	return len;
}

/* Reads run by run: neighbouring clusters from the same file in one call. */
static int overlay_read(struct disk *d, u64 offset, const struct iovec *iov, unsigned count)
{
	unsigned i = 0;
	size_t skip = 0;

	while (i < count) {
		u64 cluster = offset / CLUSTER, run = CLUSTER - offset % CLUSTER;
		bool where = overlaid(d, cluster);
		struct iovec part;
		int r;

		part.iov_base = (u8 *)iov[i].iov_base + skip;
		part.iov_len = iov[i].iov_len - skip;
		while (run < part.iov_len && overlaid(d, (offset + run) / CLUSTER) == where)
			run += CLUSTER;
		part.iov_len = MIN(part.iov_len, run);
		if (part.iov_len) {
			r = transfer(where ? d->overlay : d->fd, false, offset, &part, 1);
			if (r)
				return r;
		}
		offset += part.iov_len;
		skip += part.iov_len;
		if (skip == iov[i].iov_len) {
			skip = 0;
			i++;
		}
	}
	return 0;
}

int disk_read(struct disk *d, u64 offset, const struct iovec *iov, unsigned count)
{
	return d->overlay < 0 ? transfer(d->fd, false, offset, iov, count)
			      : overlay_read(d, offset, iov, count);
}

int disk_write(struct disk *d, u64 offset, const struct iovec *iov, unsigned count)
{
	u64 len = iov_length(iov, count);
	int r;

	if (!len)
		return 0;
	if (d->overlay < 0)
		return transfer(d->fd, true, offset, iov, count);
	r = prepare_range(d, offset, len);
	if (!r)
		r = transfer(d->overlay, true, offset, iov, count);
	if (!r)
		finish_range(d, offset, len);
	return r;
}

int disk_flush(struct disk *d)
{
	/* A temporary file has nothing that must survive a crash. */
	if (d->overlay >= 0 || d->readonly)
		return 0;
	return fdatasync(d->fd) ? -errno : 0;
}

static int write_zeros(struct disk *d, int fd, u64 offset, u64 len)
{
	int r = 0;

	memset(d->bounce, 0, CLUSTER);
	while (len && !r) {
		struct iovec iov = {d->bounce, MIN(len, (u64)CLUSTER)};

		r = transfer(fd, true, offset, &iov, 1);
		offset += iov.iov_len;
		len -= iov.iov_len;
	}
	return r;
}

int disk_zero(struct disk *d, u64 offset, u64 len, bool discard)
{
	int fd = d->overlay < 0 ? d->fd : d->overlay, r = 0;
	int mode = discard ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
			   : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

	if (!len)
		return 0;
	if (d->overlay >= 0)
		r = prepare_range(d, offset, len);
	if (r)
		return r;
	if (fallocate(fd, mode, (off_t)offset, (off_t)len))
		r = write_zeros(d, fd, offset, len); /* a file system without the call */
	if (!r && d->overlay >= 0)
		finish_range(d, offset, len);
	return r;
}

u64 disk_size(const struct disk *d)
{
	return d->size;
}

bool disk_readonly(const struct disk *d)
{
	return d->readonly;
}

static bool open_overlay(struct disk *d, GError **error)
{
	g_autofree char *path = g_build_filename(g_get_tmp_dir(), "anykvm-snapshot-XXXXXX", NULL);
	u64 clusters = (d->size + CLUSTER - 1) / CLUSTER;

	d->overlay = mkostemp(path, O_CLOEXEC);
	if (d->overlay < 0) {
		vmm_error(error, "cannot make a temporary file for the disk snapshot in %s: %s",
			  g_get_tmp_dir(), g_strerror(errno));
		return false;
	}
	unlink(path);
	if (ftruncate(d->overlay, (off_t)d->size)) {
		vmm_error(error,
			  "cannot make a snapshot file of %" G_GUINT64_FORMAT " MiB in %s: "
			  "%s",
			  d->size >> 20, g_get_tmp_dir(), g_strerror(errno));
		return false;
	}
	d->in_overlay = g_malloc0(clusters / 8 + 1);
	return true;
}

static bool find_size(struct disk *d, const char *path, GError **error)
{
	char magic[4];
	struct stat st;
	u64 size = 0;

	if (fstat(d->fd, &st)) {
		vmm_error(error, "cannot look at the disk '%s': %s", path, g_strerror(errno));
		return false;
	}
	if (S_ISREG(st.st_mode))
		size = (u64)st.st_size;
	else if (!S_ISBLK(st.st_mode) || ioctl(d->fd, BLKGETSIZE64, &size)) {
		vmm_error(error, "the disk '%s' is neither a file nor a block device", path);
		return false;
	}
	if (pread(d->fd, magic, sizeof(magic), 0) == sizeof(magic) &&
	    !memcmp(magic, "QFI\xfb", sizeof(magic))) {
		vmm_error(error,
			  "the disk '%s' is a qcow2 image; only raw ones are read "
			  "('qemu-img convert -O raw' makes one)",
			  path);
		return false;
	}
	d->size = size & ~(u64)(DISK_SECTOR - 1);
	if (!d->size) {
		vmm_error(error, "the disk '%s' is empty", path);
		return false;
	}
	return true;
}

struct disk *disk_open(const struct config_disk *cfg, GError **error)
{
	struct disk *d = g_new0(struct disk, 1);
	bool write = !cfg->readonly && !cfg->snapshot;

	d->overlay = -1;
	d->readonly = cfg->readonly;
	d->bounce = g_malloc(CLUSTER);
	d->fd = open(cfg->path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (d->fd < 0) {
		bool may_read = write && !access(cfg->path, R_OK);

		vmm_error(error, "cannot open the disk '%s'%s: %s%s", cfg->path,
			  write ? " for writing" : "", g_strerror(errno),
			  may_read ? " (',readonly' and ',snapshot' do not write to it)" : "");
		goto fail;
	}
	if (!find_size(d, cfg->path, error))
		goto fail;
	if (flock(d->fd, (write ? LOCK_EX : LOCK_SH) | LOCK_NB) && errno == EWOULDBLOCK) {
		vmm_error(error, "the disk '%s' is in use already, by this or another guest",
			  cfg->path);
		goto fail;
	}
	if (cfg->snapshot && !cfg->readonly && !open_overlay(d, error))
		goto fail;
	return d;
fail:
	disk_close(d);
	return NULL;
}

void disk_close(struct disk *d)
{
	if (!d)
		return;
	if (d->fd >= 0)
		close(d->fd);
	if (d->overlay >= 0)
		close(d->overlay);
	g_free(d->in_overlay);
	g_free(d->bounce);
	g_free(d);
}
