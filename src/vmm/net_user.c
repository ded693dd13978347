/*
 * libslirp in the main loop, as one GLib event source that polls slirp's sockets. Everything here
 * runs in the main thread.
 */
#include "vmm/net_user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <string.h>

#include "vmm/error.h"

struct slirp_source {
	GSource base;
	struct net_user *net;
};

struct net_user {
	Slirp *slirp;
	struct slirp_source *source;
	GArray *fds; /* GPollFD, rebuilt before each poll */
	net_receive_fn receive;
	void *opaque;
};

/* ---- what libslirp calls ---- */

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
	struct net_user *net = opaque;

	if (net->receive)
		net->receive(net->opaque, buf, len);
	return (ssize_t)len;
}

static void cb_guest_error(const char *msg, void *opaque)
{
	(void)msg; /* the guest's own business: a bad packet is dropped */
	(void)opaque;
}

static int64_t cb_clock(void *opaque)
{
	(void)opaque;
	return g_get_monotonic_time() * 1000;
}

struct slirp_timer {
	SlirpTimerCb cb;
	void *cb_opaque;
	guint source;
};

static void *cb_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	struct slirp_timer *t = g_new0(struct slirp_timer, 1);

	(void)opaque;
	t->cb = cb;
	t->cb_opaque = cb_opaque;
	return t;
}

static void cb_timer_free(void *timer, void *opaque)
{
	struct slirp_timer *t = timer;

	(void)opaque;
	if (t->source)
		g_source_remove(t->source);
	g_free(t);
}

static gboolean timer_fired(gpointer opaque)
{
	struct slirp_timer *t = opaque;

	t->source = 0;
	t->cb(t->cb_opaque);
	return G_SOURCE_REMOVE;
}

static void cb_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct slirp_timer *t = timer;
	gint64 delay = expire_ms - g_get_monotonic_time() / 1000;

	(void)opaque;
	if (t->source)
		g_source_remove(t->source);
	t->source = g_timeout_add((guint)CLAMP(delay, 0, G_MAXINT), timer_fired, t);
}

static void cb_poll_fd(int fd, void *opaque)
{
	(void)fd; /* slirp_pollfds_fill() names them all each time */
	(void)opaque;
}

static void cb_notify(void *opaque)
{
	(void)opaque;
	g_main_context_wakeup(NULL);
}

static const SlirpCb callbacks = {
	.send_packet = cb_send_packet,
	.guest_error = cb_guest_error,
	.clock_get_ns = cb_clock,
	.timer_new = cb_timer_new,
	.timer_free = cb_timer_free,
	.timer_mod = cb_timer_mod,
	.register_poll_fd = cb_poll_fd,
	.unregister_poll_fd = cb_poll_fd,
	.notify = cb_notify,
};

/* ---- the event source ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct net_user *net = opaque;
	GPollFD pfd = {.fd = fd};

	pfd.events = (gushort)((events & SLIRP_POLL_IN ? G_IO_IN : 0) |
			       (events & SLIRP_POLL_OUT ? G_IO_OUT : 0) |
			       (events & SLIRP_POLL_PRI ? G_IO_PRI : 0) |
			       (events & SLIRP_POLL_ERR ? G_IO_ERR : 0) |
			       (events & SLIRP_POLL_HUP ? G_IO_HUP : 0));
	g_array_append_val(net->fds, pfd);
	return (int)net->fds->len - 1;
}

static int get_revents(int index, void *opaque)
{
	struct net_user *net = opaque;
	int r = g_array_index(net->fds, GPollFD, index).revents;

	return (r & G_IO_IN ? SLIRP_POLL_IN : 0) | (r & G_IO_OUT ? SLIRP_POLL_OUT : 0) |
	       (r & G_IO_PRI ? SLIRP_POLL_PRI : 0) | (r & G_IO_ERR ? SLIRP_POLL_ERR : 0) |
	       (r & G_IO_HUP ? SLIRP_POLL_HUP : 0);
}

static gboolean source_prepare(GSource *base, gint *timeout)
{
	struct net_user *net = ((struct slirp_source *)base)->net;
	uint32_t wait = G_MAXINT;

	for (guint i = 0; i < net->fds->len; i++)
		g_source_remove_poll(base, &g_array_index(net->fds, GPollFD, i));
	g_array_set_size(net->fds, 0);
	slirp_pollfds_fill(net->slirp, &wait, add_poll, net);
	/* Only now: the array does not move any more. */
	for (guint i = 0; i < net->fds->len; i++)
		g_source_add_poll(base, &g_array_index(net->fds, GPollFD, i));
	*timeout = wait >= G_MAXINT ? -1 : (gint)wait;
	return FALSE;
}

/* Always: slirp also has timers that it looks at in slirp_pollfds_poll(). */
static gboolean source_check(GSource *base)
{
	(void)base;
	return TRUE;
}

static gboolean source_dispatch(GSource *base, GSourceFunc callback, gpointer data)
{
	struct net_user *net = ((struct slirp_source *)base)->net;

	(void)callback;
	(void)data;
	slirp_pollfds_poll(net->slirp, 0, get_revents, net);
	return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
	.prepare = source_prepare,
	.check = source_check,
	.dispatch = source_dispatch,
};

/* ---- life ---- */

static bool add_forward(struct net_user *net, const struct config_forward *fwd, GError **error)
{
	struct in_addr host = {.s_addr = htonl(INADDR_ANY)}, guest = {0};

	if (*fwd->host)
		inet_pton(AF_INET, fwd->host, &host);
	if (*fwd->guest)
		inet_pton(AF_INET, fwd->guest, &guest);
	if (!slirp_add_hostfwd(net->slirp, fwd->udp, host, fwd->host_port, guest, fwd->guest_port))
		return true;
	vmm_error(error, "cannot listen on %s port %s:%u for the guest: %s",
		  fwd->udp ? "UDP" : "TCP", *fwd->host ? fwd->host : "*", fwd->host_port,
		  g_strerror(errno));
	return false;
}

struct net_user *net_user_new(const struct run_config *cfg, GError **error)
{
	struct net_user *net = g_new0(struct net_user, 1);
	SlirpConfig sc = {
		.version = 1,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200), /* 10.0.2.0 */
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),	 /* 10.0.2.2, the host */
		.vdhcp_start.s_addr = htonl(0x0a00020f), /* 10.0.2.15, the guest */
		.vnameserver.s_addr = htonl(0x0a000203), /* 10.0.2.3 */
	};

	net->fds = g_array_new(FALSE, FALSE, sizeof(GPollFD));
	net->slirp = slirp_new(&sc, &callbacks, net);
	if (!net->slirp) {
		vmm_error(error, "cannot start the user-mode network");
		goto fail;
	}
	for (unsigned i = 0; i < cfg->forward_count; i++)
		if (!add_forward(net, &cfg->forwards[i], error))
			goto fail;
	net->source = (struct slirp_source *)g_source_new(&source_funcs, sizeof(*net->source));
	net->source->net = net;
	g_source_attach(&net->source->base, NULL);
	return net;
fail:
	net_user_free(net);
	return NULL;
}

void net_user_free(struct net_user *net)
{
	if (!net)
		return;
	if (net->source) {
		g_source_destroy(&net->source->base);
		g_source_unref(&net->source->base);
	}
	if (net->slirp)
		slirp_cleanup(net->slirp);
	g_array_unref(net->fds);
	g_free(net);
}

void net_user_attach(struct net_user *net, net_receive_fn fn, void *opaque)
{
	net->receive = fn;
	net->opaque = opaque;
}

void net_user_send(struct net_user *net, const u8 *frame, size_t len)
{
	slirp_input(net->slirp, frame, (int)len);
}
