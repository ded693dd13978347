/* `anykvm test`: what a test's log and the end of its program say. */
#include "fake.h"

#include <stdlib.h>
#include <unistd.h>

#include "vmm/cmd_test.h"

/* The last point that is read of a job, which ended with `status` and left `text` in its log. */
static void last(int status, bool shuts_down, const char *text, enum point_result result,
		 const char *name)
{
	char path[] = "/tmp/anykvm-test-report-XXXXXX";
	g_autoptr(GPtrArray) deviations = g_ptr_array_new();
	struct test_job job = {.status = status, .shuts_down = shuts_down, .log = path};
	const struct test_point *p;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	assert_true(g_file_set_contents(path, text, -1, NULL));
	test_job_read(&job, deviations);
	unlink(path);
	assert_true(job.points->len > 0);
	p = g_ptr_array_index(job.points, job.points->len - 1);
	assert_string_equal(p->name, name);
	assert_int_equal(p->result, result);
	g_ptr_array_free(job.points, TRUE);
}

static void ends(void **state)
{
	static const char whole[] = "ok 1 - a\n1..1\n", part[] = "ok 1 - a\n";
	static const char internal[] =
		"ok 1 - a\nanykvm run: the guest crashed, vCPU 0: internal\n";

	(void)state;
	last(0, false, whole, POINT_PASS, "a");
	last(0, false, part, POINT_FAIL, "(ended with status 0 before the test's end)");
	last(2, false, whole, POINT_FAIL, "(ended with status 2)");
	last(TEST_SHUTDOWN, false, part, POINT_FAIL,
	     "(the machine shut down before the test's end)");
	last(TEST_SHUTDOWN, false, whole, POINT_FAIL, "(the machine shut down)");
	last(TEST_SHUTDOWN, false, internal, POINT_FAIL,
	     "(the guest crashed before the test's end)");
	last(TEST_SIGNALLED, false, part, POINT_FAIL, "(ended by a signal before the test's end)");
	last(TEST_SIGNALLED, false, whole, POINT_FAIL, "(ended by a signal)");
	last(TEST_NO_STATUS, false, whole, POINT_FAIL, "(QEMU ended by itself)");
	last(TEST_SHUTDOWN, true, whole, POINT_PASS, "the machine shuts down");
	last(0, true, whole, POINT_FAIL, "the machine shuts down");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(ends)};

	return cmocka_run_group_tests_name("vmm report", tests, NULL, NULL);
}
