/* A user-mode network (libslirp): the guest behind a NAT, with forwarded host ports. */
#ifndef VMM_NET_USER_H
#define VMM_NET_USER_H

#include "vmm/types.h"

#include "vmm/config.h"

struct net_user;

/** Takes a frame for the guest; main thread. */
typedef void (*net_receive_fn)(void *opaque, const u8 *frame, size_t len);

/** Starts the network in the default main context, with the port forwards of the options. */
struct net_user *net_user_new(const struct run_config *cfg, GError **error);
void net_user_free(struct net_user *net);
/** Who gets frames for the guest; NULL for nobody. Main thread. */
void net_user_attach(struct net_user *net, net_receive_fn fn, void *opaque);
/** Sends a frame of the guest. Main thread. */
void net_user_send(struct net_user *net, const u8 *frame, size_t len);

#endif
