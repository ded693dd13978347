/* virtio entropy device over the host's random numbers. */
#ifndef VMM_VIRTIO_RNG_H
#define VMM_VIRTIO_RNG_H

#include "vmm/machine.h"

bool virtio_rng_new(struct machine *m, GError **error);

#endif
