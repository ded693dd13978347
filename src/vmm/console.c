/* Standard input and output as the guest's console, with the Ctrl-A escape and the monitor. */
#include "vmm/console.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define INPUT_MAX      4096u
#define OUTPUT_MAX     65536u
#define LINE_MAX_BYTES 256u
#define ESCAPE_CHAR    0x01	  /* Ctrl-A */
#define END_OF_FILE    "\x04\x04" /* Ctrl-D */
#define FLUSH_USEC     (1 * G_USEC_PER_SEC)

/* A byte ring; head and tail run freely and are masked by the power-of-two size. */
struct ring {
	u8 *data;
	unsigned size, head, tail;
};

struct console {
	GMutex frontend_lock;
	const struct console_frontend *fe; /* frontend_lock */
	void *fe_dev;

	GMutex lock;
	struct ring in, out;
	bool held;	 /* input waits for console_hold_input(con, false) */
	bool out_wanted; /* somebody got a short count */
	bool closing;
	GCond out_cond; /* out has bytes, or closing */
	GCond out_done; /* the writer emptied out */
	GThread *writer;
	int out_error; /* the writer's errno */

	/* main loop only */
	struct console_hooks hooks;
	guint in_source;
	bool in_eof, in_line; /* in_line: what came last was no end of line */
	bool escape, escaped, monitor;
	bool eof_wanted;
	bool resume_queued; /* under lock */
	char line[LINE_MAX_BYTES];
	unsigned line_len;
};

static unsigned ring_used(const struct ring *r)
{
	return r->tail - r->head;
}

static unsigned ring_put(struct ring *r, const u8 *p, size_t len)
{
	unsigned n = (unsigned)MIN(len, (size_t)(r->size - ring_used(r)));

	for (unsigned i = 0; i < n; i++)
		r->data[r->tail++ & (r->size - 1)] = p[i];
	return n;
}

static unsigned ring_get(struct ring *r, u8 *p, size_t max)
{
	unsigned n = (unsigned)MIN(max, (size_t)ring_used(r));

	for (unsigned i = 0; i < n; i++)
		p[i] = r->data[r->head++ & (r->size - 1)];
	return n;
}

static void console_call(struct console *con, bool input)
{
	g_mutex_lock(&con->frontend_lock);
	if (con->fe && input)
		con->fe->input_ready(con->fe_dev);
	else if (con->fe)
		con->fe->output_ready(con->fe_dev);
	g_mutex_unlock(&con->frontend_lock);
}

/* ---- output ---- */

/* 0 or errno. */
static int write_all(const u8 *p, size_t len)
{
	while (len) {
		ssize_t n = write(STDOUT_FILENO, p, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = STDOUT_FILENO, .events = POLLOUT};

			poll(&pfd, 1, 100);
		} else if (n < 0 && errno != EINTR) {
			return errno;
		}
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static void *console_writer(void *opaque)
{
	struct console *con = opaque;
	u8 buf[4096];

	g_mutex_lock(&con->lock);
	for (;;) {
		unsigned n = ring_get(&con->out, buf, sizeof(buf));
		bool wanted = con->out_wanted && n;

		if (!n) {
			g_cond_broadcast(&con->out_done);
			if (con->closing)
				break;
			g_cond_wait(&con->out_cond, &con->lock);
			continue;
		}
		if (wanted)
			con->out_wanted = false;
		g_mutex_unlock(&con->lock);
		/* Output that nobody can read any more is dropped; the guest goes on. */
		if (!con->out_error)
			con->out_error = write_all(buf, n);
		if (wanted)
			console_call(con, false);
		g_mutex_lock(&con->lock);
	}
	g_mutex_unlock(&con->lock);
	return NULL;
}

size_t console_write(struct console *con, const void *buf, size_t len)
{
	unsigned n;

	g_mutex_lock(&con->lock);
	if (!ring_used(&con->out))
		g_cond_signal(&con->out_cond);
	n = ring_put(&con->out, buf, len);
	if (n < len)
		con->out_wanted = true;
	g_mutex_unlock(&con->lock);
	return n;
}

static void console_print(struct console *con, const char *text)
{
	console_write(con, text, strlen(text));
}

/* ---- input ---- */

static gboolean console_stdin(gint fd, GIOCondition cond, gpointer opaque);

static unsigned input_room(struct console *con)
{
	unsigned room;

	g_mutex_lock(&con->lock);
	room = con->in.size - ring_used(&con->in);
	g_mutex_unlock(&con->lock);
	return room;
}

/* (Re)starts reading standard input when there is room for what it brings. */
static gboolean console_resume(gpointer opaque)
{
	struct console *con = opaque;

	g_mutex_lock(&con->lock);
	con->resume_queued = false;
	g_mutex_unlock(&con->lock);
	if (!con->in_source && !con->in_eof && input_room(con))
		con->in_source = g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP | G_IO_ERR,
					       console_stdin, con);
	return G_SOURCE_REMOVE;
}

size_t console_read(struct console *con, u8 *buf, size_t max)
{
	bool resume = false;
	size_t n;

	g_mutex_lock(&con->lock);
	n = con->held ? 0 : ring_get(&con->in, buf, max);
	if (n && !con->resume_queued && ring_used(&con->in) < con->in.size / 2)
		resume = con->resume_queued = true;
	g_mutex_unlock(&con->lock);
	if (resume)
		g_idle_add(console_resume, con);
	return n;
}

size_t console_pending(struct console *con)
{
	size_t n;

	g_mutex_lock(&con->lock);
	n = con->held ? 0 : ring_used(&con->in);
	g_mutex_unlock(&con->lock);
	return n;
}

void console_hold_input(struct console *con, bool hold)
{
	g_mutex_lock(&con->lock);
	con->held = hold;
	g_mutex_unlock(&con->lock);
	if (!hold)
		console_call(con, true);
}

static void console_to_guest(struct console *con, const u8 *buf, size_t len)
{
	g_mutex_lock(&con->lock);
	ring_put(&con->in, buf, len);
	g_mutex_unlock(&con->lock);
	console_call(con, true);
}

static void console_help(struct console *con)
{
	console_print(con, "\r\nCtrl-A x  quit            Ctrl-A c  monitor and back\r\n"
			   "Ctrl-A h  this help       Ctrl-A Ctrl-A  sends Ctrl-A\r\n");
}

static void console_escape(struct console *con, u8 c)
{
	const u8 escape = ESCAPE_CHAR;

	switch (c) {
	case 'x':
	case 'X':
		if (con->hooks.quit)
			con->hooks.quit(con->hooks.opaque);
		break;
	case 'c':
	case 'C':
		con->monitor = !con->monitor;
		con->line_len = 0;
		console_print(con, con->monitor ? "\r\nanykvm monitor; 'help' lists commands, "
						  "Ctrl-A c goes back\r\n(anykvm) "
						: "\r\n");
		break;
	case 'h':
	case 'H':
	case '?':
		console_help(con);
		break;
	case ESCAPE_CHAR:
		console_to_guest(con, &escape, 1);
		break;
	default:
		break;
	}
}

static void monitor_line(struct console *con)
{
	g_autofree char *answer = NULL;
	char **lines;

	con->line[con->line_len] = '\0';
	con->line_len = 0;
	console_print(con, "\r\n");
	if (con->hooks.command)
		answer = con->hooks.command(con->hooks.opaque, con->line);
	lines = g_strsplit(answer ? answer : "", "\n", -1);
	for (unsigned i = 0; lines[i]; i++) {
		console_print(con, lines[i]);
		if (lines[i + 1])
			console_print(con, "\r\n");
	}
	g_strfreev(lines);
	if (con->monitor)
		console_print(con, "(anykvm) ");
}

static void monitor_key(struct console *con, u8 c)
{
	char echo[2] = {(char)c, '\0'};

	if (c == '\r' || c == '\n') {
		monitor_line(con);
	} else if ((c == 0x7f || c == '\b') && con->line_len) {
		con->line_len--;
		console_print(con, "\b \b");
	} else if (c == 0x15 || c == 0x03) { /* Ctrl-U, Ctrl-C */
		con->line_len = 0;
		console_print(con, "\r\n(anykvm) ");
	} else if (c >= 0x20 && c < 0x7f && con->line_len < sizeof(con->line) - 1) {
		con->line[con->line_len++] = (char)c;
		console_print(con, echo);
	}
}

void console_feed(struct console *con, const u8 *buf, size_t len)
{
	size_t start = 0;

	/* Runs of plain bytes go to the guest in one piece. */
	for (size_t i = 0; i < len; i++) {
		bool plain =
			!con->escaped && !(con->escape && buf[i] == ESCAPE_CHAR) && !con->monitor;

		if (plain)
			continue;
		if (i > start)
			console_to_guest(con, buf + start, i - start);
		start = i + 1;
		if (con->escaped) {
			con->escaped = false;
			console_escape(con, buf[i]);
		} else if (con->escape && buf[i] == ESCAPE_CHAR) {
			con->escaped = true;
		} else {
			monitor_key(con, buf[i]);
		}
	}
	if (len > start)
		console_to_guest(con, buf + start, len - start);
}

static gboolean console_stdin(gint fd, GIOCondition cond, gpointer opaque)
{
	struct console *con = opaque;
	/* Monitor keys and escapes take no room; with the queue full, a terminal's still come. */
	unsigned room = con->escape ? MAX(input_room(con), 1u) : input_room(con);
	u8 buf[256];
	ssize_t n;

	(void)cond;
	if (!room || (con->eof_wanted && room < sizeof(END_OF_FILE) - 1))
		goto pause;
	n = read(fd, buf, MIN(room, (unsigned)sizeof(buf)));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return G_SOURCE_CONTINUE;
	if (n <= 0) {
		con->in_eof = true;
		/* Behind an unfinished line the first one only sends what there is of it. */
		if (con->eof_wanted)
			console_to_guest(con, (const u8 *)END_OF_FILE, con->in_line ? 2 : 1);
		goto pause;
	}
	con->in_line = buf[n - 1] != '\n';
	console_feed(con, buf, (size_t)n);
	return G_SOURCE_CONTINUE;
pause:
	con->in_source = 0;
	return G_SOURCE_REMOVE;
}

/* ---- life ---- */

struct console *console_new(bool escape, bool end_of_file)
{
	struct console *con = g_new0(struct console, 1);

	g_mutex_init(&con->frontend_lock);
	g_mutex_init(&con->lock);
	g_cond_init(&con->out_cond);
	g_cond_init(&con->out_done);
	con->in.size = INPUT_MAX;
	con->in.data = g_malloc(INPUT_MAX);
	con->out.size = OUTPUT_MAX;
	con->out.data = g_malloc(OUTPUT_MAX);
	con->escape = escape;
	con->eof_wanted = end_of_file;
	con->writer = g_thread_new("console", console_writer, con);
	con->resume_queued = true;
	console_resume(con);
	return con;
}

int console_free(struct console *con)
{
	gint64 deadline = g_get_monotonic_time() + FLUSH_USEC;
	bool flushed = true;
	int error;

	if (!con)
		return 0;
	if (con->in_source)
		g_source_remove(con->in_source);
	while (g_idle_remove_by_data(con))
		;
	g_mutex_lock(&con->lock);
	con->closing = true;
	g_cond_signal(&con->out_cond);
	while (ring_used(&con->out) && flushed)
		flushed = g_cond_wait_until(&con->out_done, &con->lock, deadline);
	g_mutex_unlock(&con->lock);
	if (!flushed)
		return 0; /* the writer hangs in write(); the process is about to end anyway */
	g_thread_join(con->writer);
	error = con->out_error;
	g_cond_clear(&con->out_cond);
	g_cond_clear(&con->out_done);
	g_mutex_clear(&con->lock);
	g_mutex_clear(&con->frontend_lock);
	g_free(con->in.data);
	g_free(con->out.data);
	g_free(con);
	return error;
}

void console_attach(struct console *con, const struct console_frontend *fe, void *dev)
{
	g_mutex_lock(&con->frontend_lock);
	con->fe = fe;
	con->fe_dev = dev;
	g_mutex_unlock(&con->frontend_lock);
}

void console_set_hooks(struct console *con, const struct console_hooks *hooks)
{
	con->hooks = hooks ? *hooks : (struct console_hooks){0};
}
