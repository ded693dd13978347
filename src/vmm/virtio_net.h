/* virtio network card on the user-mode network. */
#ifndef VMM_VIRTIO_NET_H
#define VMM_VIRTIO_NET_H

#include "vmm/machine.h"

bool virtio_net_new(struct machine *m, struct net_user *net, GError **error);

#endif
