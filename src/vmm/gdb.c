/* The gdb server's socket and the frames of its protocol: $packet#checksum, + and -, Ctrl-C. */
#include "vmm/gdb_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/error.h"

#define WAIT	     ",wait"
#define SEND_SECONDS 10 /* a debugger that does not read for so long is gone */

/* ---- addresses ---- */

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_un un;
};

static bool parse_tcp(const char *text, struct sockaddr_in *in)
{
	const char *colon = strrchr(text, ':');
	g_autofree char *host = NULL;
	char *end;
	u64 port;

	if (!colon || !g_ascii_isdigit(colon[1]))
		return false;
	port = g_ascii_strtoull(colon + 1, &end, 10);
	host = g_strndup(text, (gsize)(colon - text));
	*in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((u16)port)};
	return !*end && port > 0 && port < 65536 &&
	       inet_pton(AF_INET, *host ? host : "127.0.0.1", &in->sin_addr) == 1;
}

static bool parse_unix(const char *path, struct sockaddr_un *un)
{
	*un = (struct sockaddr_un){.sun_family = AF_UNIX};
	return *path && g_strlcpy(un->sun_path, path, sizeof(un->sun_path)) < sizeof(un->sun_path);
}

static bool parse_address(const char *spec, union address *addr, socklen_t *len, bool *wait)
{
	g_autofree char *text = g_strdup(spec);

	*wait = g_str_has_suffix(text, WAIT);
	if (*wait)
		text[strlen(text) - strlen(WAIT)] = 0;
	memset(addr, 0, sizeof(*addr));
	if (g_str_has_prefix(text, "tcp:")) {
		*len = sizeof(addr->in);
		return parse_tcp(text + 4, &addr->in);
	}
	*len = sizeof(addr->un);
	return g_str_has_prefix(text, "unix:") && parse_unix(text + 5, &addr->un);
}

static bool check_address(const char *spec, GError **error)
{
	union address addr;
	socklen_t len;
	bool wait;

	if (parse_address(spec, &addr, &len, &wait))
		return true;
	vmm_error_usage(error,
			"--gdb takes tcp:HOST:PORT or unix:PATH, perhaps with ',wait' (such as "
			"tcp::1234; HOST is an IPv4 address or nothing), not '%s'",
			spec);
	return false;
}

/* ---- sending ---- */

static void send_all(struct gdb *gdb, const char *data, size_t len)
{
	while (gdb->fd >= 0 && len) {
		ssize_t n = send(gdb->fd, data, len, MSG_NOSIGNAL);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EINTR) {
			gdb_disconnect(gdb);
		}
	}
}

void gdb_send(struct gdb *gdb, const char *text)
{
	u8 sum = 0;

	if (gdb->fd < 0)
		return;
	for (const char *p = text; *p; p++)
		sum = (u8)(sum + (u8)*p);
	g_string_printf(gdb->last, "$%s#%02x", text, sum);
	send_all(gdb, gdb->last->str, gdb->last->len);
}

/* ---- receiving ---- */

/* Takes one packet or control byte off the input; false when there is no whole one. */
static bool take_frame(struct gdb *gdb)
{
	const u8 *in = gdb->in->data, *hash;
	g_autofree char *packet = NULL;
	size_t len;

	if (!gdb->in->len)
		return false;
	if (in[0] != '$') {
		u8 c = in[0];

		g_byte_array_remove_index(gdb->in, 0);
		if (c == 3)
			gdb_interrupt(gdb);
		else if (c == '-' && !gdb->no_ack)
			send_all(gdb, gdb->last->str, gdb->last->len);
		return true;
	}
	hash = memchr(in, '#', gdb->in->len);
	if (!hash || (size_t)(hash - in) + 3 > gdb->in->len)
		return false;
	len = (size_t)(hash - in) - 1;
	if (!gdb->no_ack) {
		u8 sum = 0;
		int told = g_ascii_xdigit_value((char)hash[1]) << 4 |
			   g_ascii_xdigit_value((char)hash[2]);

		for (size_t i = 1; i <= len; i++)
			sum = (u8)(sum + in[i]);
		send_all(gdb, sum == told ? "+" : "-", 1);
		if (sum != told)
			len = 0;
	}
	packet = g_malloc(len + 1);
	memcpy(packet, in + 1, len);
	packet[len] = 0;
	g_byte_array_remove_range(gdb->in, 0, (guint)(hash - in) + 3);
	if (len && gdb->fd >= 0)
		gdb_command(gdb, packet, len);
	return true;
}

static gboolean on_readable(gint fd, GIOCondition cond, gpointer opaque)
{
	struct gdb *gdb = opaque;
	u8 buf[4096];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	(void)cond;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	if (n > 0)
		g_byte_array_append(gdb->in, buf, (guint)n);
	if (n <= 0 || gdb->in->len > 4 * GDB_PACKET_MAX) {
		gdb_disconnect(gdb);
		return G_SOURCE_CONTINUE; /* the source is gone already */
	}
	while (gdb->fd >= 0 && take_frame(gdb))
		;
	return G_SOURCE_CONTINUE;
}

static gboolean on_connection(gint listen_fd, GIOCondition cond, gpointer opaque)
{
	struct gdb *gdb = opaque;
	struct timeval patience = {.tv_sec = SEND_SECONDS};
	struct pollfd old = {.events = POLLRDHUP};
	int one = 1, fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)cond;
	if (fd < 0)
		return G_SOURCE_CONTINUE;
	/* The end of the one before may be on its way to on_readable(). */
	old.fd = gdb->fd;
	if (gdb->fd >= 0 && poll(&old, 1, 0) > 0 && (old.revents & (POLLRDHUP | POLLHUP | POLLERR)))
		gdb_disconnect(gdb);
	if (gdb->fd >= 0) { /* one debugger at a time */
		close(fd);
		return G_SOURCE_CONTINUE;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on a Unix socket */
	gdb->fd = fd;
	gdb->no_ack = gdb->physical = gdb->answer_due = false;
	gdb->thread = 0;
	g_byte_array_set_size(gdb->in, 0);
	g_string_truncate(gdb->last, 0);
	gdb->source = g_unix_fd_add(fd, G_IO_IN, on_readable, gdb);
	/* As QEMU does: who connects finds the machine standing still. */
	gdb_stop(gdb);
	return G_SOURCE_CONTINUE;
}

void gdb_stop(struct gdb *gdb)
{
	if (!gdb->m)
		return;
	vcpu_set_pause(&gdb->m->vcpus);
	gdb->m->paused = true;
	gdb->stopped = true;
}

/* The debugger has left: the guest goes on without breakpoints. */
void gdb_disconnect(struct gdb *gdb)
{
	if (gdb->fd < 0)
		return;
	g_source_remove(gdb->source);
	close(gdb->fd);
	gdb->fd = -1;
	gdb->answer_due = false;
	if (!gdb->m)
		return;
	gdb_stop(gdb);
	gdb_break_clear(gdb, true);
	for (unsigned i = 0; i < gdb->m->vcpus.count; i++) {
		gdb_break_apply(gdb, &gdb->m->vcpus.vcpus[i], false, 0);
		vcpu_hold(&gdb->m->vcpus.vcpus[i], false);
		gdb->m->vcpus.vcpus[i].debug_hit = false;
	}
	gdb->changed = false;
	gdb->stopped = gdb->m->paused = gdb->wait = false;
	vcpu_set_resume(&gdb->m->vcpus);
}

/* ---- stops ---- */

static gboolean on_hit(gpointer opaque)
{
	gdb_look_for_hits(opaque);
	return G_SOURCE_REMOVE;
}

void gdb_notify(void *opaque)
{
	g_idle_add_full(G_PRIORITY_DEFAULT, on_hit, opaque, NULL);
}

bool gdb_holds(const struct gdb *gdb)
{
	return gdb && gdb->stopped;
}

/* ---- life ---- */

struct gdb *gdb_new(const char *spec, GError **error)
{
	struct gdb *gdb;
	union address addr;
	socklen_t len;
	bool wait;
	int fd, one = 1;

	if (!check_address(spec, error))
		return NULL;
	parse_address(spec, &addr, &len, &wait);
	fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && addr.any.sa_family == AF_INET)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, &addr.any, len) || listen(fd, 1)) {
		vmm_error(error, "the gdb server cannot listen at '%s': %s", spec,
			  g_strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	gdb = g_new0(struct gdb, 1);
	gdb->listen_fd = fd;
	gdb->fd = -1;
	gdb->wait = wait;
	spec = strchr(spec, ':') + 1;
	gdb->target = g_strndup(spec, strlen(spec) - (wait ? strlen(WAIT) : 0));
	if (addr.any.sa_family == AF_UNIX)
		gdb->unix_path = g_strdup(addr.un.sun_path);
	gdb->in = g_byte_array_new();
	gdb->last = g_string_new(NULL);
	gdb->breaks = g_array_new(FALSE, FALSE, sizeof(struct gdb_break));
	gdb->listen_source = g_unix_fd_add(fd, G_IO_IN, on_connection, gdb);
	return gdb;
}

void gdb_free(struct gdb *gdb)
{
	if (!gdb)
		return;
	gdb_disconnect(gdb);
	while (g_source_remove_by_user_data(gdb))
		;
	close(gdb->listen_fd);
	if (gdb->unix_path)
		unlink(gdb->unix_path);
	g_free(gdb->unix_path);
	g_free(gdb->target);
	g_byte_array_unref(gdb->in);
	g_string_free(gdb->last, TRUE);
	g_array_unref(gdb->breaks);
	g_free(gdb);
}

void gdb_machine_begins(struct gdb *gdb, struct machine *m)
{
	if (!gdb)
		return;
	gdb->m = m;
	m->vcpus.debug_notify = gdb_notify;
	m->vcpus.debug_opaque = gdb;
	gdb->thread = MIN(gdb->thread, m->vcpus.count - 1);
	for (unsigned i = 0; i < m->vcpus.count; i++)
		gdb_break_apply(gdb, &m->vcpus.vcpus[i], false, 0);
	if (gdb->wait) {
		gdb_stop(gdb);
		fprintf(stderr,
			"anykvm run: the guest waits for a debugger: gdb -ex 'target remote %s'%s\n",
			gdb->target, isatty(STDERR_FILENO) ? "\r" : "");
	}
	gdb->wait = false;
}

void gdb_machine_ended(struct gdb *gdb, bool rebooting, int status)
{
	char text[8];

	if (!gdb)
		return;
	gdb->m = NULL;
	gdb->stopped = false;
	gdb_break_rebooted(gdb);
	if (rebooting || gdb->fd < 0)
		return;
	snprintf(text, sizeof(text), "W%02x", status & 0xff);
	gdb_send(gdb, text);
}
