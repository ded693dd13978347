/* `anykvm test`: options, progress, summary. */
#include "vmm/cmd_test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cmd.h"
#include "vmm/config.h"
#include "vmm/error.h"

static const char *const targets[] = {
	[TARGET_ANYKVM] = "anykvm",	[TARGET_KVM] = "kvm", [TARGET_QEMU_TCG] = "qemu-tcg",
	[TARGET_QEMU_KVM] = "qemu-kvm", [TARGET_EFI] = "efi",
};

struct progress {
	unsigned done, total;
	unsigned counts[4];
	GPtrArray *deviations;
	bool quiet; /* TAP goes to standard output */
};

static void on_done(struct test_job *job, void *data)
{
	struct progress *pr = data;
	FILE *out = pr->quiet ? stderr : stdout;

	test_job_read(job, pr->deviations);
	pr->done++;
	for (unsigned i = 0; i < 4; i++)
		pr->counts[i] += job->counts[i];
	fprintf(out, "[%*u/%u] %-6s %-24s %4u points", pr->total > 99 ? 3 : 2, pr->done, pr->total,
		job->counts[POINT_FAIL] ? "FAIL" : "ok", job->name, job->points->len);
	if (job->counts[POINT_SKIP])
		fprintf(out, ", %u skipped", job->counts[POINT_SKIP]);
	if (job->counts[POINT_KNOWN])
		fprintf(out, ", %u known", job->counts[POINT_KNOWN]);
	fprintf(out, "  %.1f s\n", job->seconds);
	for (unsigned i = 0; i < job->points->len; i++) {
		const struct test_point *p = g_ptr_array_index(job->points, i);

		if (p->result == POINT_FAIL)
			fprintf(out, "         failed: %s\n", p->name);
	}
	if (job->counts[POINT_FAIL])
		fprintf(out, "         log: %s\n", job->log);
	fflush(out);
}

static void list(GPtrArray *jobs)
{
	for (unsigned i = 0; i < jobs->len; i++) {
		const struct test_job *job = g_ptr_array_index(jobs, i);

		printf("%-24s %-20s %s\n", job->name, job->groups, job->about);
	}
}

static bool set_target(struct test_options *opt, const char *name, GError **error)
{
	for (unsigned i = 0; i < ARRAY_SIZE(targets); i++)
		if (!strcmp(name, targets[i])) {
			opt->target = (enum test_target)i;
			opt->target_name = targets[i];
			return true;
		}
	vmm_error_usage(error, "'%s' is no target: anykvm, kvm, qemu-tcg, qemu-kvm or efi", name);
	return false;
}

/* Beside the program in a build folder, or where the environment says. */
static char *default_dir(void)
{
	const char *env = g_getenv("ANYKVM_TESTS");
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *folder = self ? g_path_get_dirname(self) : g_strdup(".");

	return env && *env ? g_strdup(env) : g_build_filename(folder, "tests", "guest", NULL);
}

static bool parse(struct test_options *opt, int argc, char **argv, GError **error)
{
	g_autofree char *target = NULL, *vmm = NULL;
	bool ok;
	GOptionEntry entries[] = {
		{"target", 'T', 0, G_OPTION_ARG_STRING, &target,
		 "what runs the tests: anykvm (default), kvm, qemu-tcg, qemu-kvm, efi", "NAME"},
		{"vmm", 0, 0, G_OPTION_ARG_STRING, &vmm, "older spelling of --target", "NAME"},
		{"cpu", 0, 0, G_OPTION_ARG_STRING, &opt->cpu, "vendor of the guest's CPU",
		 "intel|amd"},
		{"cpus", 'c', 0, G_OPTION_ARG_INT, &opt->cpus,
		 "only the runs with this number of virtual CPUs", "N"},
		{"jobs", 'j', 0, G_OPTION_ARG_INT, &opt->jobs,
		 "tests that run at the same time (default: as many as there are processors)", "N"},
		{"append", 'a', 0, G_OPTION_ARG_STRING, &opt->append,
		 "more words for the tests' command line", "TEXT"},
		{"tap", 0, 0, G_OPTION_ARG_FILENAME, &opt->tap,
		 "write a TAP report, '-' for standard output", "FILE"},
		{"junit", 0, 0, G_OPTION_ARG_FILENAME, &opt->junit, "write a JUnit report", "FILE"},
		{"logs", 0, 0, G_OPTION_ARG_FILENAME, &opt->logs, "folder of the tests' logs",
		 "DIR"},
		{"dir", 0, 0, G_OPTION_ARG_FILENAME, &opt->dir,
		 "folder of the tests (default: beside this program, or $ANYKVM_TESTS)", "DIR"},
		{"list", 'l', 0, G_OPTION_ARG_NONE, NULL, "name the tests and run none", NULL},
		{G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt->patterns, NULL,
		 "[PATTERN...]"},
		G_OPTION_ENTRY_NULL,
	};
	gboolean only_list = FALSE;
	g_autoptr(GOptionContext) context = g_option_context_new(NULL);

	entries[10].arg_data = &only_list;
	g_option_context_set_summary(
		context,
		"Runs guest unit tests: small kernels that each test what a processor or\n"
		"a hypervisor must do. A PATTERN is part of a test's name, a group, or an\n"
		"architecture (64, 32, arm64); of several patterns any will do.");
	g_option_context_set_description(
		context,
		"Exit status: 0 when nothing failed that is not known, 1 when something did,\n"
		"2 for wrong options, and when tests cannot be run.\n");
	g_option_context_add_main_entries(context, entries, NULL);
	ok = g_option_context_parse(context, &argc, &argv, error);
	if (!ok) {
		g_autofree char *text = g_strdup((*error)->message);

		g_clear_error(error);
		vmm_error_usage(error, "%s", text);
		return false;
	}
	opt->list = only_list;
	if (vmm) {
		fprintf(stderr, "anykvm test: warning: --vmm is an older spelling of --target\n");
		if (!target)
			target = g_steal_pointer(&vmm);
	}
	if (opt->cpu && strcmp(opt->cpu, "intel") && strcmp(opt->cpu, "amd")) {
		vmm_error_usage(error, "--cpu is intel or amd, not '%s'", opt->cpu);
		return false;
	}
	if (opt->jobs < 0 || opt->cpus < 0) {
		vmm_error_usage(error, "--jobs and --cpus are positive numbers");
		return false;
	}
	if (!opt->jobs)
		opt->jobs = (int)g_get_num_processors();
	if (!set_target(opt, target ? target : "anykvm", error))
		return false;
	return (opt->target != TARGET_KVM && opt->target != TARGET_QEMU_KVM) ||
	       config_check_vendor(opt->cpu, error);
}

/* "-j4" is "-j 4": glib's parser knows the latter only. */
static char **spread(int argc, char **argv)
{
	GPtrArray *out = g_ptr_array_new();

	for (int i = 0; i < argc; i++) {
		const char *a = argv[i];

		if (a[0] == '-' && a[1] && strchr("jcTa", a[1]) && a[2]) {
			g_ptr_array_add(out, g_strndup(a, 2));
			g_ptr_array_add(out, g_strdup(a + (a[2] == '=' ? 3 : 2)));
		} else {
			g_ptr_array_add(out, g_strdup(a));
		}
	}
	g_ptr_array_add(out, NULL);
	return (char **)g_ptr_array_free(out, FALSE);
}

/* Kernels that are not built: arm64's want a cross compiler and are left out, others are an error. */
static bool check_kernels(GPtrArray *jobs, GError **error)
{
	bool warned = false;

	for (unsigned i = 0; i < jobs->len;) {
		const struct test_job *job = g_ptr_array_index(jobs, i);

		if (g_file_test(job->kernel, G_FILE_TEST_EXISTS)) {
			i++;
		} else if (!strcmp(job->arch, "arm64")) {
			if (!warned)
				fprintf(stderr,
					"anykvm test: warning: the arm64 tests are not built; "
					"install gcc-aarch64-linux-gnu and build anew\n");
			warned = true;
			g_ptr_array_remove_index(jobs, i);
		} else {
			return vmm_error(error, "the test kernel '%s' is missing; 'make' builds it",
					 job->kernel),
			       false;
		}
	}
	return true;
}

static void no_match(const struct test_options *opt, GError **error)
{
	bool any = opt->patterns && opt->patterns[0];
	g_autofree char *patterns = any ? g_strjoinv("', '", opt->patterns) : NULL;

	if (any && opt->target != TARGET_QEMU_TCG &&
	    g_strv_contains((const char *const *)opt->patterns, "arm64"))
		vmm_error(error, "arm64 tests run on qemu-tcg only: --target qemu-tcg");
	else if (any)
		vmm_error(error, "no test on %s matches '%s'; --list names them", opt->target_name,
			  patterns);
	else
		vmm_error(error, "there is no such test on %s; --list names them",
			  opt->target_name);
}

/* Runs them and writes the reports, which are open before the first test begins. */
static int run_jobs(const struct test_options *opt, GPtrArray *jobs, GPtrArray *deviations,
		    GError **error)
{
	struct progress pr = {.total = jobs->len, .deviations = deviations};
	FILE *tap = NULL, *junit = NULL;
	int result = 2;

	pr.quiet = opt->tap && !strcmp(opt->tap, "-");
	if (opt->tap && !(tap = test_report_open(opt->tap, error)))
		goto out;
	if (opt->junit && !(junit = test_report_open(opt->junit, error)))
		goto out;
	if (!test_run(opt, jobs, on_done, &pr, error))
		goto out;
	if (tap)
		test_write_tap(tap, jobs);
	if (junit)
		test_write_junit(junit, opt->target_name, jobs);
	fprintf(pr.quiet ? stderr : stdout,
		"%u passed, %u failed, %u skipped, %u known to differ on %s\n",
		pr.counts[POINT_PASS], pr.counts[POINT_FAIL], pr.counts[POINT_SKIP],
		pr.counts[POINT_KNOWN], opt->target_name);
	result = pr.counts[POINT_FAIL] != 0;
out:
	if (!test_report_close(tap, opt->tap, *error ? NULL : error))
		result = 2;
	if (!test_report_close(junit, opt->junit, *error ? NULL : error))
		result = 2;
	return result;
}

static int run(struct test_options *opt, GError **error)
{
	g_autoptr(GPtrArray) jobs = NULL, deviations = NULL;

	if (!opt->dir)
		opt->dir = default_dir();
	if (!opt->logs) {
		g_autofree char *name =
			g_strdup_printf("%s-%s", opt->target_name, opt->cpu ? opt->cpu : "default");

		opt->logs = g_build_filename(opt->dir, "logs", name, NULL);
	}
	jobs = test_plan(opt, error);
	deviations = jobs ? test_deviations(opt, error) : NULL;
	if (!deviations)
		return 2;
	if (opt->list) {
		list(jobs);
		return 0;
	}
	if (jobs->len && !check_kernels(jobs, error))
		return 2;
	if (!jobs->len) {
		no_match(opt, error);
		return 2;
	}
	return run_jobs(opt, jobs, deviations, error);
}

int cmd_test(int argc, char **argv)
{
	struct test_options opt = {0};
	g_autoptr(GError) error = NULL;
	g_auto(GStrv) words = spread(argc, argv);
	g_autofree char **moved = g_memdup2(words, (g_strv_length(words) + 1) * sizeof(*words));
	int result = 2;

	g_set_prgname("anykvm test");
	/* The parser moves the words about: it gets a list of its own. */
	if (parse(&opt, (int)g_strv_length(words), moved, &error))
		result = run(&opt, &error);
	if (error) {
		fprintf(stderr, "anykvm test: %s%s\n", error->message,
			error->code == VMM_ERROR_USAGE ? " ('anykvm test --help' explains)" : "");
		if (!result)
			result = 2;
	}
	g_free(opt.dir);
	g_free(opt.logs);
	g_free(opt.cpu);
	g_free(opt.tap);
	g_free(opt.junit);
	g_free(opt.append);
	g_strfreev(opt.patterns);
	return result;
}
