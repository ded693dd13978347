/*
 * Raw disk images: read-only, in place, or copy-on-write into a temporary file.
 *
 * Not locked: one thread (the device's) uses a disk at a time.
 */
#ifndef VMM_DISK_H
#define VMM_DISK_H

#include "vmm/types.h"
#include <sys/uio.h>

#include "vmm/config.h"

struct disk;

#define DISK_SECTOR 512u

/** Opens an image; takes an advisory lock so that two guests cannot write one image. */
struct disk *disk_open(const struct config_disk *cfg, GError **error);
void disk_close(struct disk *disk);

u64 disk_size(const struct disk *disk); /* bytes, a multiple of DISK_SECTOR */
bool disk_readonly(const struct disk *disk);

/* All return 0 or -errno; offset and length are multiples of DISK_SECTOR inside the disk. */
int disk_read(struct disk *disk, u64 offset, const struct iovec *iov, unsigned count);
int disk_write(struct disk *disk, u64 offset, const struct iovec *iov, unsigned count);
int disk_flush(struct disk *disk);
/** Zeroes a range; discard: the space may be given back to the host. */
int disk_zero(struct disk *disk, u64 offset, u64 len, bool discard);

#endif
