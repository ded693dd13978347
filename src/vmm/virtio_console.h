/* virtio console (hvc0) on the terminal. */
#ifndef VMM_VIRTIO_CONSOLE_H
#define VMM_VIRTIO_CONSOLE_H

#include "vmm/machine.h"

bool virtio_console_new(struct machine *m, GError **error);

#endif
