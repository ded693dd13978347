/* `anykvm run`: options, backends, then one machine after another until one ends for good. */
#include "vmm/machine.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/cmd.h"
#include "vmm/error.h"
#include "vmm/profile.h"
#include "vmm/gdb.h"
#include "vmm/stats.h"
#include "vmm/terminal.h"

/* Exit statuses of our own; the man page lists them. */
enum { STATUS_SETUP = 1, STATUS_CRASH = 3, STATUS_TIMEOUT = 124, STATUS_NO_STATUS = 125 };

/* The run as the signal handlers of the main loop see it. */
struct run {
	const struct run_config *cfg;
	struct backends back;
	struct machine *machine; /* NULL between two machines */
	int signal;		 /* one that came in between */
};

static void complain(const GError *error)
{
	fprintf(stderr, "anykvm run: %s%s\n", error->message,
		error->code == VMM_ERROR_USAGE ? " ('anykvm run --help' explains)" : "");
}

/* ---- signals, delivered in the main loop ---- */

static void run_signal(struct run *run, int sig)
{
	run->signal = sig;
	if (run->machine)
		machine_end(run->machine, POWER_SIGNAL, sig);
}

static gboolean on_sigint(gpointer run)
{
	run_signal(run, SIGINT);
	return G_SOURCE_CONTINUE;
}

static gboolean on_sigterm(gpointer run)
{
	run_signal(run, SIGTERM);
	return G_SOURCE_CONTINUE;
}

static gboolean on_sighup(gpointer run)
{
	run_signal(run, SIGHUP);
	return G_SOURCE_CONTINUE;
}

/* GLib's signal sources do not know SIGQUIT and SIGCONT; a pipe does the same for them. */
static int signal_pipe[2] = {-1, -1};

static void signal_to_pipe(int sig)
{
	int saved = errno;
	char c = (char)sig;

	if (write(signal_pipe[1], &c, 1) != 1) {
		/* full: one of them is on its way already */
	}
	errno = saved;
}

static gboolean on_signal_pipe(gint fd, GIOCondition cond, gpointer run)
{
	char c;

	(void)cond;
	if (read(fd, &c, 1) != 1)
		return G_SOURCE_CONTINUE;
	if (c == SIGCONT)
		terminal_resume();
	else
		run_signal(run, c);
	return G_SOURCE_CONTINUE;
}

static void watch_signals(struct run *run)
{
	struct sigaction sa = {.sa_handler = signal_to_pipe, .sa_flags = SA_RESTART};

	signal(SIGPIPE, SIG_IGN);
	g_unix_signal_add(SIGINT, on_sigint, run);
	g_unix_signal_add(SIGTERM, on_sigterm, run);
	g_unix_signal_add(SIGHUP, on_sighup, run);
	if (!g_unix_open_pipe(signal_pipe, FD_CLOEXEC, NULL))
		return;
	g_unix_set_fd_nonblocking(signal_pipe[1], TRUE, NULL);
	g_unix_fd_add(signal_pipe[0], G_IO_IN, on_signal_pipe, run);
	sigemptyset(&sa.sa_mask);
	sigaction(SIGQUIT, &sa, NULL);
	sigaction(SIGCONT, &sa, NULL);
}

/* ---- backends ---- */

static bool check_memory(u64 size, GError **error)
{
	struct sysinfo info;
	u64 host;

	if (sysinfo(&info))
		return true;
	host = (u64)(info.totalram + info.totalswap) * info.mem_unit;
	if (size <= host)
		return true;
	vmm_error_usage(error,
			"%" G_GUINT64_FORMAT " MiB of guest memory are more than this "
			"host's %" G_GUINT64_FORMAT " MiB",
			size >> 20, host >> 20);
	return false;
}

static bool open_accel(struct backends *back, const struct run_config *cfg, GError **error)
{
	g_autofree char *why = NULL, *options = NULL;
	GString *s = g_string_new(NULL);

	if (cfg->vendor)
		g_string_append_printf(s, "vendor=%s", cfg->vendor);
	if (cfg->perf_map)
		g_string_append(s, s->len ? ",perfmap" : "perfmap");
	options = g_string_free(s, FALSE);
	if (accel_open(&back->accel, cfg->accel, *options ? options : NULL, &why)) {
		vmm_error(error, "%s", why);
		return false;
	}
	return accel_extension(&back->accel, back->accel.fd, ACCEL_CAP_ANYKVM) ||
	       config_check_vendor(cfg->vendor, error);
}

static bool backends_open(struct backends *back, const struct run_config *cfg, GError **error)
{
	bool raw, filter = cfg->command && !isatty(STDIN_FILENO);

	if (!check_memory(cfg->memory, error) || !boot_image_init(&back->image, cfg, error))
		return false;
	for (unsigned i = 0; i < cfg->disk_count; i++) {
		back->disks[i] = disk_open(&cfg->disks[i], error);
		if (!back->disks[i])
			return false;
		back->disk_count++;
	}
	if (cfg->net) {
		back->net = net_user_new(cfg, error);
		if (!back->net)
			return false;
	}
	if (cfg->gdb) {
		back->gdb = gdb_new(cfg->gdb, error);
		if (!back->gdb)
			return false;
	}
	if (!memory_init(&back->mem, cfg->memory, error))
		return false;
	/* The terminal's handlers come before libanykvm's, which pass on what is not theirs. */
	raw = terminal_init();
	if (!open_accel(back, cfg, error))
		return false;
	/* A command that reads standard input sees its end as Ctrl-D on the console. */
	back->console = console_new(raw, filter);
	console_hold_input(back->console, filter);
	return true;
}

/* 0, or the errno of output that was lost. */
static int backends_close(struct backends *back)
{
	int lost;

	gdb_free(back->gdb);
	lost = console_free(back->console);
	terminal_restore();
	net_user_free(back->net);
	for (unsigned i = 0; i < back->disk_count; i++)
		disk_close(back->disks[i]);
	accel_close(&back->accel);
	memory_free(&back->mem);
	boot_image_free(&back->image);
	return lost;
}

/* ---- the end ---- */

/* Exit status of the run; what is to be said is collected and printed on a sane terminal. */
static int conclude(struct run *run, enum power_end end, int status, const char *crash,
		    GString *say)
{
	const struct run_config *cfg = run->cfg;

	switch (end) {
	case POWER_EXIT:
		return status;
	case POWER_QUIT:
		return 0;
	case POWER_CRASH:
		g_string_append_printf(say, "anykvm run: the guest crashed: %s",
				       crash ? crash : "no details\n");
		return STATUS_CRASH;
	case POWER_TIMEOUT:
		g_string_append_printf(say, "anykvm run: ended after --timeout %u seconds\n",
				       cfg->timeout);
		return STATUS_TIMEOUT;
	case POWER_SIGNAL:
		g_string_append_printf(say, "anykvm run: ended by signal %d (%s)\n", status,
				       g_strsignal(status));
		return 128 + status;
	default: /* power-off, or a reboot that was not wanted */
		if (!cfg->command)
			return 0;
		g_string_append_printf(say,
				       "anykvm run: the guest %s before the command reported "
				       "its status\n",
				       end == POWER_RESET ? "rebooted" : "switched itself off");
		return STATUS_NO_STATUS;
	}
}

static int run_machines(struct run *run, GString *say, GError **error)
{
	const struct run_config *cfg = run->cfg;
	struct profile *profile = NULL;
	enum power_end end;
	int status, result;
	bool again;

	do {
		struct machine *m = machine_new(cfg, &run->back, error);

		if (!m)
			return STATUS_SETUP;
		if (cfg->profile && !profile) {
			profile = profile_new(&run->back.accel, error);
			if (!profile) {
				machine_free(m);
				return STATUS_SETUP;
			}
		}
		m->vcpus.profile = profile;
		run->machine = m;
		if (run->signal)
			machine_end(m, POWER_SIGNAL, run->signal);
		end = machine_run(m, &status);
		run->machine = NULL;
		/* A command whose guest reboots has failed; it must not start over. */
		again = end == POWER_RESET && !cfg->no_reboot && !cfg->command;
		gdb_machine_ended(run->back.gdb, again, end == POWER_EXIT ? status : 0);
		result = conclude(run, end, status, m->vcpus.crash, say);
		if (cfg->stats) {
			g_autofree char *stats = vcpu_set_stats(&m->vcpus);
			g_autofree char *counters = stats_text(&m->vcpus);

			g_string_append(say, stats);
			g_string_append(say, counters);
		}
		machine_free(m);
		memory_clear(&run->back.mem);
	} while (again);
	if (profile) {
		g_autofree char *text = profile_text(profile);

		g_string_append(say, text);
		profile_free(profile);
	}
	return result;
}

int cmd_run(int argc, char **argv)
{
	struct run run = {.back.accel.fd = -1};
	g_autoptr(GError) error = NULL;
	GString *say = g_string_new(NULL);
	struct run_config *cfg;
	bool help;
	int result = STATUS_SETUP, lost;

	cfg = config_parse(argc, argv, &help, &error);
	if (!cfg) {
		if (help)
			config_print_help();
		else
			complain(error);
		g_string_free(say, TRUE);
		return help ? 0 : error->code;
	}
	run.cfg = cfg;
	watch_signals(&run);
	if (backends_open(&run.back, cfg, &error))
		result = run_machines(&run, say, &error);
	lost = backends_close(&run.back);
	/* A reader that went away is no error. */
	if (lost && lost != EPIPE) {
		g_string_append_printf(say, "anykvm run: the guest's output is lost: %s\n",
				       g_strerror(lost));
		result = result ? result : STATUS_SETUP;
	}
	if (error) {
		complain(error);
		result = error->code;
	}
	fputs(say->str, stderr);
	g_string_free(say, TRUE);
	config_free(cfg);
	return result;
}
