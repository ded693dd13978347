/* Disk images: plain, read-only, snapshot against a model, zeroing, errors. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "vmm/disk.h"

#define SIZE (1u << 20)

static char path[] = "/tmp/anykvm-test-XXXXXX";
static u8 *model; /* what the disk must read as */
static u8 *file;  /* what the image must hold */

static int setup(void **state)
{
	int fd;

	strcpy(path, "/tmp/anykvm-test-XXXXXX");
	fd = mkstemp(path);
	close(fd);
	model = g_malloc(SIZE);
	file = g_malloc(SIZE);
	for (unsigned i = 0; i < SIZE; i++)
		model[i] = (u8)rand();
	memcpy(file, model, SIZE);
	return g_file_set_contents(path, (char *)model, SIZE, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
	unlink(path);
	g_free(model);
	g_free(file);
	return 0;
}

static struct disk *open_disk(bool readonly, bool snapshot)
{
	struct config_disk cfg = {path, readonly, snapshot};
	struct disk *d = disk_open(&cfg, NULL);

	assert_non_null(d);
	assert_int_equal(disk_size(d), SIZE);
	return d;
}

static void check_reads(struct disk *d)
{
	g_autofree u8 *buf = g_malloc(SIZE);
	struct iovec iov[3] = {{buf, 1000}, {buf + 1000, 300000}, {buf + 301000, SIZE - 301000}};

	assert_int_equal(disk_read(d, 0, iov, 3), 0);
	assert_memory_equal(buf, model, SIZE);
}

static void check_file(const u8 *want)
{
	g_autofree char *data = NULL;
	gsize len;

	assert_true(g_file_get_contents(path, &data, &len, NULL));
	assert_int_equal(len, SIZE);
	assert_memory_equal(data, want, SIZE);
}

static void random_writes(struct disk *d)
{
	g_autofree u8 *buf = g_malloc(SIZE);

	for (unsigned i = 0; i < 200; i++) {
		u64 at = (u64)(rand() % (SIZE / 512)) * 512;
		u64 want = (u64)(1 + rand() % 400) * 512, len = MIN(want, SIZE - at);
		struct iovec iov[2] = {{buf, len / 3}, {buf + len / 3, len - len / 3}};

		if (i % 5 == 4) {
			memset(model + at, 0, len);
			assert_int_equal(disk_zero(d, at, len, i % 2), 0);
		} else {
			for (u64 k = 0; k < len; k++)
				buf[k] = (u8)rand();
			memcpy(model + at, buf, len);
			assert_int_equal(disk_write(d, at, iov, 2), 0);
		}
		if (i % 50 == 0)
			check_reads(d);
	}
	assert_int_equal(disk_flush(d), 0);
	check_reads(d);
}

static void plain(void **state)
{
	struct disk *d = open_disk(false, false);

	check_reads(d);
	random_writes(d);
	disk_close(d);
	check_file(model);
}

static void snapshot(void **state)
{
	struct disk *d = open_disk(false, true);

	check_reads(d);
	random_writes(d);
	disk_close(d);
	check_file(file);
}

static void many_segments(void **state)
{
	struct disk *d = open_disk(false, false);
	g_autofree u8 *buf = g_malloc(SIZE);
	g_autofree struct iovec *iov = g_new(struct iovec, SIZE / 512);

	for (unsigned i = 0; i < SIZE / 512; i++)
		iov[i] = (struct iovec){buf + i * 512, 512};
	assert_int_equal(disk_read(d, 0, iov, SIZE / 512), 0);
	assert_memory_equal(buf, model, SIZE);
	disk_close(d);
}

static void locked(void **state)
{
	struct config_disk cfg = {path, false, false}, ro = {path, true, false};
	struct disk *d = open_disk(false, false), *e;
	GError *error = NULL;

	assert_null(disk_open(&cfg, &error));
	assert_non_null(strstr(error->message, "in use"));
	g_clear_error(&error);
	disk_close(d);
	d = disk_open(&ro, NULL);
	e = disk_open(&ro, NULL); /* readers may share */
	assert_true(d && e && disk_readonly(d));
	disk_close(d);
	disk_close(e);
}

static void shrunk(void **state)
{
	struct disk *d = open_disk(true, false);
	u8 buf[1024];
	struct iovec iov = {buf, sizeof(buf)};

	assert_int_equal(truncate(path, 512), 0);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(disk_read(d, 0, &iov, 1), 0);
	assert_memory_equal(buf, model, 512);
	assert_int_equal(buf[512], 0);
	disk_close(d);
}

static void refused(void **state)
{
	struct config_disk none = {"/nonexistent/disk", false, false}, dir = {"/tmp", true, false};
	struct config_disk empty = {path, false, false};
	GError *error = NULL;

	assert_null(disk_open(&none, &error));
	g_clear_error(&error);
	assert_null(disk_open(&dir, &error));
	assert_non_null(strstr(error->message, "/tmp"));
	g_clear_error(&error);
	assert_int_equal(truncate(path, 100), 0);
	assert_null(disk_open(&empty, &error));
	assert_non_null(strstr(error->message, "empty"));
	g_clear_error(&error);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(plain),  CASE(snapshot), CASE(many_segments),
		CASE(locked), CASE(shrunk),   CASE(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
