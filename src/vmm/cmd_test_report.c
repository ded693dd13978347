/* From a test's log to points, and from all of them to TAP and JUnit files. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/cmd_test.h"
#include "vmm/error.h"

static void point_free(void *data)
{
	struct test_point *p = data;

	g_free(p->name);
	g_free(p->why);
	g_free(p);
}

static void add_point(struct test_job *job, GPtrArray *deviations, enum point_result result,
		      const char *name, const char *why)
{
	struct test_point *p = g_new0(struct test_point, 1);

	p->name = g_utf8_make_valid(name, -1);
	p->why = why ? g_utf8_make_valid(why, -1) : NULL;
	p->result = result;
	for (unsigned i = 0; result == POINT_FAIL && i < deviations->len; i++) {
		const struct test_deviation *d = g_ptr_array_index(deviations, i);

		if (!g_pattern_spec_match_string(d->job, job->name) ||
		    !g_pattern_spec_match_string(d->point, p->name))
			continue;
		p->result = POINT_KNOWN;
		g_free(p->why);
		p->why = g_strdup(d->why);
		break;
	}
	job->counts[p->result]++;
	g_ptr_array_add(job->points, p);
}

/* "[not ]ok N - NAME[ # SKIP|TODO why]" */
static void read_line(struct test_job *job, GPtrArray *deviations, char *line, int *plan)
{
	bool failed = g_str_has_prefix(line, "not ok ");
	enum point_result result = failed ? POINT_FAIL : POINT_PASS;
	char *name, *directive;
	const char *why = NULL;

	if (g_str_has_prefix(line, "1..")) {
		*plan = (int)g_ascii_strtoll(line + 3, NULL, 10);
		return;
	}
	if (g_str_has_prefix(line, "Bail out!")) {
		add_point(job, deviations, POINT_FAIL, line, NULL);
		return;
	}
	if (!failed && !g_str_has_prefix(line, "ok "))
		return;
	name = line + (failed ? 7 : 3);
	name += strspn(name, "0123456789");
	name += strspn(name, " -");
	directive = strstr(name, " # ");
	if (directive) {
		*directive = 0;
		why = directive + 3;
		if (g_str_has_prefix(why, "SKIP"))
			result = POINT_SKIP;
		else if (failed && g_str_has_prefix(why, "TODO"))
			result = POINT_KNOWN;
		why += 4;
		why += strspn(why, " ");
	}
	add_point(job, deviations, result, name, why);
}

/* `anykvm run` has one status for all crashes and says in the log which it was. */
static bool shut_down(const struct test_job *job, const char *text)
{
	return job->status == TEST_SHUTDOWN &&
	       (!strstr(text, "the guest crashed") || strstr(text, ": triple fault"));
}

/* Tests that shut the machine down: the end is a point of its own. */
static void add_end(struct test_job *job, GPtrArray *deviations, const char *text)
{
	add_point(job, deviations, shut_down(job, text) ? POINT_PASS : POINT_FAIL,
		  "the machine shuts down", NULL);
}

/* How a job ended that should have ended otherwise; early: before the test's plan. */
static char *describe_end(const struct test_job *job, const char *text, bool early)
{
	const char *when = early ? " before the test's end" : "";

	switch (job->status) {
	case TEST_SHUTDOWN:
		return g_strdup_printf("(the %s%s)",
				       shut_down(job, text) ? "machine shut down" : "guest crashed",
				       when);
	case TEST_SIGNALLED:
		return g_strdup_printf("(ended by a signal%s)", when);
	case TEST_NO_STATUS:
		return g_strdup_printf("(QEMU ended by itself%s)", when);
	default:
		return g_strdup_printf("(ended with status %d%s)", job->status, when);
	}
}

void test_job_read(struct test_job *job, GPtrArray *deviations)
{
	g_autofree char *text = NULL;
	g_auto(GStrv) lines = NULL;
	unsigned seen;
	int plan = -1;
	gsize len = 0;

	job->points = g_ptr_array_new_with_free_func(point_free);
	if (!g_file_get_contents(job->log, &text, &len, NULL) || len > TEST_LOG_MAX) {
		add_point(job, deviations, POINT_FAIL, "(no log, or one that is too long)", NULL);
		return;
	}
	lines = g_strsplit_set(text, "\r\n", -1);
	for (char **l = lines; *l; l++)
		read_line(job, deviations, *l, &plan);
	seen = job->points->len;
	/* A machine on which the test cannot be made ends as any other. */
	if (job->shuts_down && !(job->status == 0 && job->counts[POINT_SKIP]))
		add_end(job, deviations, text);
	if (job->timed_out)
		add_point(job, deviations, POINT_FAIL, "(ended by its time limit)", NULL);
	else if (plan >= 0 && (unsigned)plan != seen)
		add_point(job, deviations, POINT_FAIL, "(points are missing)", NULL);
	else if (plan < 0 || (!job->shuts_down && (job->status < 0 || job->status > 1))) {
		g_autofree char *why = describe_end(job, text, plan < 0);

		if (!job->counts[POINT_FAIL] && !job->counts[POINT_KNOWN])
			add_point(job, deviations, POINT_FAIL, why, NULL);
	}
}

FILE *test_report_open(const char *path, GError **error)
{
	FILE *f = strcmp(path, "-") ? fopen(path, "we") : stdout;

	if (!f)
		vmm_error(error, "cannot write '%s': %s", path, g_strerror(errno));
	return f;
}

bool test_report_close(FILE *f, const char *path, GError **error)
{
	bool bad;

	if (!f)
		return true;
	bad = fflush(f) || ferror(f);
	if (bad)
		vmm_error(error, "cannot write '%s': %s", path, g_strerror(errno));
	if (f != stdout)
		fclose(f);
	return !bad;
}

void test_write_tap(FILE *f, GPtrArray *jobs)
{
	unsigned n = 0;

	for (unsigned i = 0; i < jobs->len; i++) {
		const struct test_job *job = g_ptr_array_index(jobs, i);

		for (unsigned k = 0; job->points && k < job->points->len; k++) {
			const struct test_point *p = g_ptr_array_index(job->points, k);
			bool bad = p->result == POINT_FAIL || p->result == POINT_KNOWN;

			fprintf(f, "%sok %u - %s: %s", bad ? "not " : "", ++n, job->name, p->name);
			if (p->result == POINT_SKIP)
				fprintf(f, " # SKIP %s", p->why ? p->why : "");
			if (p->result == POINT_KNOWN)
				fprintf(f, " # TODO %s", p->why ? p->why : "");
			fputc('\n', f);
			if (p->result == POINT_FAIL)
				fprintf(f, "# log: %s\n", job->log);
		}
	}
	fprintf(f, "1..%u\n", n);
}

void test_write_junit(FILE *f, const char *suite, GPtrArray *jobs)
{
	fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n", f);
	for (unsigned i = 0; i < jobs->len; i++) {
		const struct test_job *job = g_ptr_array_index(jobs, i);

		fprintf(f,
			"<testsuite name=\"%s.%s\" tests=\"%u\" failures=\"%u\" skipped=\"%u\" "
			"time=\"%.3f\">\n",
			suite, job->name, job->points ? job->points->len : 0,
			job->counts[POINT_FAIL], job->counts[POINT_SKIP] + job->counts[POINT_KNOWN],
			job->seconds);
		for (unsigned k = 0; job->points && k < job->points->len; k++) {
			const struct test_point *p = g_ptr_array_index(job->points, k);
			g_autofree char *name = g_markup_escape_text(p->name, -1);
			g_autofree char *why = g_markup_escape_text(p->why ? p->why : "", -1);

			fprintf(f, "<testcase classname=\"%s\" name=\"%s\">", job->name, name);
			if (p->result == POINT_FAIL)
				fprintf(f, "<failure message=\"see %s\"/>", job->log);
			else if (p->result != POINT_PASS)
				fprintf(f, "<skipped message=\"%s\"/>", why);
			fputs("</testcase>\n", f);
		}
		fputs("</testsuite>\n", f);
	}
	fputs("</testsuites>\n", f);
}
