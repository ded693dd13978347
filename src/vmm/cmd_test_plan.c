/* The table of tests, and the list of what is known to differ on a target. */
#include "vmm/cmd_test.h"

#include <string.h>

#include "vmm/config.h"
#include "vmm/error.h"

void test_job_free(void *data)
{
	struct test_job *job = data;

	g_free(job->name);
	g_free(job->about);
	g_free(job->kernel);
	g_free(job->groups);
	g_free(job->qemu);
	g_free(job->append);
	g_free(job->without);
	g_free(job->esp);
	g_free(job->arch);
	g_free(job->log);
	if (job->points)
		g_ptr_array_free(job->points, TRUE);
	g_free(job);
}

static bool wanted(const struct test_options *opt, const struct test_job *job)
{
	g_auto(GStrv) groups = g_strsplit(job->groups, ";", -1);

	if (!opt->patterns || !opt->patterns[0])
		return true;
	for (char **p = opt->patterns; *p; p++) {
		bool arch = !strcmp(*p, "64") || !strcmp(*p, "32") || !strcmp(*p, "arm64");
		g_autofree char *inside = g_strdup_printf("*%s*", *p);

		if (!strcmp(*p, job->arch) || g_strv_contains((const char *const *)groups, *p) ||
		    (!arch && g_pattern_match_simple(inside, job->name)))
			return true;
	}
	return false;
}

/* Which builds a target can run. */
static bool runs_here(const struct test_options *opt, const char *arch)
{
	return strcmp(arch, "arm64") || opt->target == TARGET_QEMU_TCG;
}

static char *get(GKeyFile *file, const char *group, const char *key, const char *otherwise)
{
	char *v = g_key_file_get_string(file, group, key, NULL);

	return v ? v : g_strdup(otherwise);
}

static struct test_job *job_new(const struct test_options *opt, GKeyFile *file, const char *test,
				const char *arch, unsigned cpus, GError **error)
{
	struct test_job *job = g_new0(struct test_job, 1);
	g_autofree char *memory = get(file, test, "memory", "64M");
	g_autofree char *name = g_strdup_printf("%s.%s", test, arch);
	g_autofree char *kernel = get(file, test, "kernel", test);
	g_autofree char *build =
		g_strdup_printf("%s.%s%s", kernel, arch, opt->target == TARGET_EFI ? ".efi" : "");
	g_autofree char *ends = get(file, test, "ends", "exit");
	int timeout = g_key_file_get_integer(file, test, "timeout", NULL);

	job->status = TEST_NO_STATUS;
	job->arch = g_strdup(arch);
	job->cpus = cpus;
	job->name = cpus > 1 ? g_strdup_printf("%s/%u", name, cpus) : g_strdup(name);
	job->kernel = g_build_filename(opt->dir, build, NULL);
	job->about = get(file, test, "about", "");
	job->groups = get(file, test, "groups", "");
	job->qemu = get(file, test, "qemu", "");
	job->append = get(file, test, "append", "");
	job->without = get(file, test, "without", "");
	job->shuts_down = !strcmp(ends, "shutdown");
	job->timeout = timeout > 0 ? (unsigned)timeout : 60;
	if (!job->shuts_down && strcmp(ends, "exit")) {
		vmm_error(error, "tests.cfg, [%s]: 'ends' is exit or shutdown", test);
		test_job_free(job);
		return NULL;
	}
	if (!config_parse_size(memory, &job->memory, error)) {
		g_prefix_error(error, "tests.cfg, [%s]: ", test);
		test_job_free(job);
		return NULL;
	}
	return job;
}

static bool plan_test(const struct test_options *opt, GKeyFile *file, const char *test,
		      GPtrArray *jobs, GError **error)
{
	g_auto(GStrv) arch = g_key_file_get_string_list(file, test, "arch", NULL, NULL);
	g_auto(GStrv) targets = g_key_file_get_string_list(file, test, "targets", NULL, NULL);
	g_autofree char *counts = get(file, test, "cpus", "1");
	g_auto(GStrv) list = g_strsplit(counts, ";", -1);

	if (!arch)
		return vmm_error(error, "tests.cfg, [%s]: 'arch' is missing", test), false;
	if (targets && !g_strv_contains((const char *const *)targets, opt->target_name))
		return true;
	for (char **a = arch; *a; a++) {
		if (!runs_here(opt, *a))
			continue;
		for (char **n = list; *n; n++) {
			u64 cpus = **n ? g_ascii_strtoull(*n, NULL, 10) : 0;
			struct test_job *job;

			if (!**n)
				continue;
			if (!cpus || cpus > TEST_CPUS_MAX)
				return vmm_error(error, "tests.cfg, [%s]: '%s' CPUs", test, *n),
				       false;
			if (opt->cpus && (u64)opt->cpus != cpus)
				continue;
			job = job_new(opt, file, test, *a, (unsigned)cpus, error);
			if (!job)
				return false;
			if (wanted(opt, job))
				g_ptr_array_add(jobs, job);
			else
				test_job_free(job);
		}
	}
	return true;
}

GPtrArray *test_plan(const struct test_options *opt, GError **error)
{
	g_autofree char *path = g_build_filename(opt->dir, "tests.cfg", NULL);
	g_autoptr(GKeyFile) file = g_key_file_new();
	g_autoptr(GPtrArray) jobs = g_ptr_array_new_with_free_func(test_job_free);
	g_autoptr(GError) cause = NULL;
	g_auto(GStrv) tests = NULL;

	if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, &cause)) {
		bool there = g_file_test(path, G_FILE_TEST_EXISTS);

		vmm_error(error, "the table of tests '%s': %s%s", path, cause->message,
			  there ? ""
				: "; 'make' builds the tests, --dir or $ANYKVM_TESTS names "
				  "another folder");
		return NULL;
	}
	tests = g_key_file_get_groups(file, NULL);
	for (char **t = tests; *t; t++)
		if (!plan_test(opt, file, *t, jobs, error))
			return NULL;
	return g_steal_pointer(&jobs);
}

static void deviation_free(void *data)
{
	struct test_deviation *d = data;

	g_pattern_spec_free(d->job);
	g_pattern_spec_free(d->point);
	g_free(d->why);
	g_free(d);
}

/* A line is "TARGET | JOB | POINT | REASON"; JOB and POINT are glob patterns. */
GPtrArray *test_deviations(const struct test_options *opt, GError **error)
{
	g_autofree char *path = g_build_filename(opt->dir, "deviations.txt", NULL), *text = NULL;
	g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(deviation_free);
	g_auto(GStrv) lines = NULL;

	if (!g_file_get_contents(path, &text, NULL, NULL))
		return g_steal_pointer(&all);
	lines = g_strsplit(text, "\n", -1);
	for (char **line = lines; *line; line++) {
		g_auto(GStrv) part = NULL;
		struct test_deviation *d;

		g_strstrip(*line);
		if (!**line || **line == '#')
			continue;
		part = g_strsplit(*line, "|", 4);
		if (g_strv_length(part) != 4)
			return vmm_error(error, "%s: '%s' has not four parts", path, *line), NULL;
		for (unsigned i = 0; i < 4; i++)
			g_strstrip(part[i]);
		/* QEMU's TCG runs the EFI machines too. */
		if (!g_pattern_match_simple(part[0], opt->target_name) &&
		    !(opt->target == TARGET_EFI && !strcmp(part[0], "qemu-tcg")))
			continue;
		d = g_new0(struct test_deviation, 1);
		d->job = g_pattern_spec_new(part[1]);
		d->point = g_pattern_spec_new(part[2]);
		d->why = g_strdup(part[3]);
		g_ptr_array_add(all, d);
	}
	return g_steal_pointer(&all);
}
