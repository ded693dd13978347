/* Running jobs: the command of each target, processes side by side, time limits. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/cmd_test.h"
#include "vmm/error.h"

/* A target that emulates everything in software is given more time. */
#define TCG_PATIENCE 3
#define KILL_AFTER   5 /* seconds over the guest's own time limit */
#define RUN_CRASHED  3 /* exit statuses of `anykvm run` */
#define RUN_TIMEOUT  124
#define EFI_START    60		  /* seconds that the firmware may need */
#define EFI_MEMORY   (256u << 10) /* KiB that it wants at least */

/* `anykvm run` runs the tests, not QEMU. */
static bool by_run(const struct test_options *opt)
{
	return opt->target == TARGET_ANYKVM || opt->target == TARGET_KVM;
}

/* ---- commands ---- */

static void add(GPtrArray *args, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void add(GPtrArray *args, const char *fmt, ...)
{
	va_list list;

	va_start(list, fmt);
	g_ptr_array_add(args, g_strdup_vprintf(fmt, list));
	va_end(list);
}

static void add_words(GPtrArray *args, const char *text)
{
	g_auto(GStrv) words = g_strsplit(text, " ", -1);

	for (char **w = words; *w; w++)
		if (**w)
			add(args, "%s", *w);
}

static char *append_text(const struct test_options *opt, const struct test_job *job)
{
	return g_strdup_printf("cpus=%u %s %s", job->cpus, job->append,
			       opt->append ? opt->append : "");
}

/* "LM;X2APIC" as both `anykvm run` and QEMU take it away, which has small letters. */
static char *features(const char *names, bool small)
{
	g_auto(GStrv) list = g_strsplit(names, ";", -1);
	GString *s = g_string_new(NULL);

	for (char **name = list; *name; name++)
		if (**name)
			g_string_append_printf(s, ",-%s", *name);
	for (char *c = s->str; small && *c; c++)
		*c = g_ascii_tolower(*c);
	return g_string_free(s, FALSE);
}

static void command_anykvm(GPtrArray *args, const struct test_options *opt,
			   const struct test_job *job)
{
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *append = append_text(opt, job), *without = NULL;
	const char *vendor;

	add(args, "%s", self ? self : "anykvm");
	add_words(args, "run --no-reboot --accel");
	add(args, "%s", opt->target == TARGET_KVM ? "kvm" : "anykvm");
	add(args, "--kernel=%s", job->kernel);
	add(args, "--cpus=%u", job->cpus);
	add(args, "--memory=%uK", (unsigned)(job->memory >> 10));
	add(args, "--timeout=%u", job->timeout);
	add(args, "--append=%s", append);
	vendor = opt->target == TARGET_KVM ? "host" : opt->cpu ? opt->cpu : "intel";
	without = features(job->without, false);
	add(args, "--cpu=%s%s", vendor, without);
}

static const char *qemu_cpu(const struct test_options *opt)
{
	if (opt->target == TARGET_QEMU_KVM)
		return "host";
	if (!g_strcmp0(opt->cpu, "intel"))
		return "max,vendor=GenuineIntel";
	return "max,vendor=AuthenticAMD";
}

static void command_qemu(GPtrArray *args, const struct test_options *opt,
			 const struct test_job *job)
{
	bool arm = !g_strcmp0(job->arch, "arm64");
	g_autofree char *append = append_text(opt, job), *without = features(job->without, true);

	add(args, "%s", arm ? "qemu-system-aarch64" : "qemu-system-x86_64");
	add_words(args, "-nodefaults -display none -serial stdio -no-reboot");
	add_words(args, opt->target == TARGET_QEMU_KVM ? "-accel kvm" : "-accel tcg");
	add_words(args, "-smp");
	add(args, "%u", job->cpus);
	add_words(args, "-m");
	add(args, "%uK",
	    MAX((unsigned)(job->memory >> 10), opt->target == TARGET_EFI ? EFI_MEMORY : 0));
	if (arm) {
		add_words(args, "-M virt,gic-version=3 -cpu max "
				"-semihosting-config enable=on,target=native");
	} else {
		add_words(args, "-device isa-debug-exit,iobase=0x5f4 -cpu");
		add(args, "%s%s", qemu_cpu(opt), without);
	}
	if (opt->target == TARGET_EFI) {
		add_words(args, "-M q35 -bios OVMF.fd -device virtio-blk-pci,drive=esp -drive");
		add(args, "if=none,id=esp,format=raw,snapshot=on,file=fat:%s", job->esp);
		return;
	}
	add_words(args, job->qemu);
	add_words(args, "-kernel");
	add(args, "%s", job->kernel);
	add_words(args, "-append");
	add(args, "%s", append);
}

char **test_command(const struct test_options *opt, const struct test_job *job)
{
	GPtrArray *args = g_ptr_array_new();

	if (by_run(opt))
		command_anykvm(args, opt, job);
	else
		command_qemu(args, opt, job);
	g_ptr_array_add(args, NULL);
	return (char **)g_ptr_array_free(args, FALSE);
}

/* ---- processes ---- */

struct pool {
	const struct test_options *opt;
	GPtrArray *jobs;
	void (*done)(struct test_job *job, void *data);
	void *data;
	GMainLoop *loop;
	unsigned next, running;
	GError *error;
};

struct child {
	struct pool *pool;
	struct test_job *job;
	GPid pid;
	guint watch, timer;
	gint64 start;
};

static void pool_fill(struct pool *pool);

/* QEMU's isa-debug-exit makes 2n+1 of n. */
static int status_of(const struct test_options *opt, const struct test_job *job, int wait)
{
	int code;

	if (!WIFEXITED(wait))
		return TEST_SIGNALLED;
	code = WEXITSTATUS(wait);
	if (by_run(opt))
		return code == RUN_CRASHED ? TEST_SHUTDOWN : code;
	if (!g_strcmp0(job->arch, "arm64"))
		return code;
	/* -no-reboot ends QEMU with 0 when the machine resets itself. */
	if (!code)
		return TEST_SHUTDOWN;
	return code & 1 ? code >> 1 : TEST_NO_STATUS;
}

static void on_child(GPid pid, gint wait, gpointer data)
{
	struct child *child = data;
	struct pool *pool = child->pool;
	struct test_job *job = child->job;

	g_spawn_close_pid(pid);
	if (child->timer)
		g_source_remove(child->timer);
	job->seconds = (double)(g_get_monotonic_time() - child->start) / 1e6;
	job->status = status_of(pool->opt, job, wait);
	if (by_run(pool->opt) && job->status == RUN_TIMEOUT)
		job->timed_out = true;
	pool->running--;
	pool->done(job, pool->data);
	g_free(child);
	pool_fill(pool);
}

static gboolean on_timeout(gpointer data)
{
	struct child *child = data;

	child->timer = 0;
	child->job->timed_out = true;
	kill(child->pid, SIGKILL);
	return G_SOURCE_REMOVE;
}

static bool prepare_efi(const struct test_options *opt, struct test_job *job, GError **error)
{
	g_autofree char *folder = g_strdup_printf("%.*s.esp", (int)strlen(job->log) - 4, job->log);
	g_autofree char *words = append_text(opt, job);

	return test_efi_prepare(job, folder, words, error);
}

static bool start(struct pool *pool, struct test_job *job, GError **error)
{
	g_auto(GStrv) args = NULL;
	g_autofree char *line = NULL, *file = g_strdup(job->name);
	struct child *child;
	unsigned limit = job->timeout;
	bool ok;
	int fd;

	job->log = g_strdup_printf("%s/%s.log", pool->opt->logs, g_strdelimit(file, "/", '-'));
	fd = g_open(job->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return vmm_error(error,
				 "cannot write the log '%s': %s; --logs names another folder",
				 job->log, g_strerror(errno)),
		       false;
	if (pool->opt->target == TARGET_EFI && !prepare_efi(pool->opt, job, error)) {
		close(fd);
		return false;
	}
	args = test_command(pool->opt, job);
	line = g_strjoinv(" ", args);
	dprintf(fd, "# %s\n", line);
	child = g_new0(struct child, 1);
	child->pool = pool;
	child->job = job;
	child->start = g_get_monotonic_time();
	ok = g_spawn_async_with_fds(NULL, args, NULL,
				    G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH, NULL, NULL,
				    &child->pid, -1, fd, fd, error);
	close(fd);
	if (!ok) {
		g_free(child);
		return false;
	}
	if (pool->opt->target >= TARGET_QEMU_TCG)
		limit *= TCG_PATIENCE;
	if (pool->opt->target == TARGET_EFI)
		limit += EFI_START;
	child->watch = g_child_watch_add(child->pid, on_child, child);
	child->timer = g_timeout_add_seconds(limit + KILL_AFTER, on_timeout, child);
	pool->running++;
	return true;
}

static void pool_fill(struct pool *pool)
{
	while (!pool->error && pool->running < (unsigned)pool->opt->jobs &&
	       pool->next < pool->jobs->len)
		start(pool, g_ptr_array_index(pool->jobs, pool->next++), &pool->error);
	if (!pool->running)
		g_main_loop_quit(pool->loop);
}

bool test_run(const struct test_options *opt, GPtrArray *jobs,
	      void (*done)(struct test_job *job, void *data), void *data, GError **error)
{
	struct pool pool = {.opt = opt, .jobs = jobs, .done = done, .data = data};

	if (g_mkdir_with_parents(opt->logs, 0755))
		return vmm_error(error,
				 "cannot make the folder '%s': %s; --logs names another folder",
				 opt->logs, g_strerror(errno)),
		       false;
	pool.loop = g_main_loop_new(NULL, FALSE);
	pool_fill(&pool);
	if (pool.running)
		g_main_loop_run(pool.loop);
	g_main_loop_unref(pool.loop);
	if (pool.error) {
		g_propagate_error(error, pool.error);
		return false;
	}
	return true;
}
