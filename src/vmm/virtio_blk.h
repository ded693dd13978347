/* virtio block device over a disk image. */
#ifndef VMM_VIRTIO_BLK_H
#define VMM_VIRTIO_BLK_H

#include "vmm/disk.h"
#include "vmm/machine.h"

/** index: the disk's number, part of its serial number. */
bool virtio_blk_new(struct machine *m, struct disk *disk, unsigned index, GError **error);

#endif
