/*
 * The parameters of the module kvm that can be written.
 *
 * What is written may come from a child's tee(1), or from a shell whose libc writes without asking us. So
 * each parameter is a memory file: who opens it for writing writes to that, behind what is there,
 * and its last line that makes sense is the value. The launcher makes the files when there may be children
 * (--follow) or wishes (--parameter), and all processes of the launch inherit them; else they are
 * made by the first one that writes. They are read when a VM is made and when statistics are.
 */
#include "exec/exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#define TEXT_MAX 4096u

static const struct row {
	const char *name;
	size_t at; /* in struct anykvm_parameters */
	bool is_bool;
	unsigned initial;
} rows[] = {
#define ROW(name, field, is_bool, initial) \
	{name, offsetof(struct anykvm_parameters, field), is_bool, initial},
	ROW("nx_huge_pages", nx_huge_pages, true, 0)
		ROW("nx_huge_pages_recovery_ratio", nx_recovery_ratio, false, 60)
			ROW("nx_huge_pages_recovery_period_ms", nx_recovery_period, false, 0)
				ROW("eager_page_split", eager_page_split, true, 1)
#undef ROW
};
#define ROWS ARRAY_SIZE(rows)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int files[ROWS] = {-1, -1, -1, -1};
static bool any; /* atomic: there are files */
static struct anykvm_parameters applied;

_Static_assert(ROWS == 4, "files[] begins with as many");

void exec_parameters_start(const char *list)
{
	for (unsigned i = 0; i < ROWS; i++) {
		const char *found = list ? strstr(list, rows[i].name) : NULL;
		size_t n = strlen(rows[i].name);
		int fd;

		/* One name begins like another. */
		while (found && found[n] != ':')
			found = strstr(found + 1, rows[i].name);
		fd = found ? atoi(found + n + 1) : -1;
		if (fd < 0 || REAL(fcntl)(fd, F_GET_SEALS) < 0)
			continue;
		if (!exec_options.follow)
			REAL(fcntl)(fd, F_SETFD, FD_CLOEXEC);
		files[i] = fd;
		any = true;
	}
}

int exec_parameter_find(const char *name)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return (int)i;
	return -1;
}

/* One line as the kernel would take it. */
static bool value_of(const struct row *row, const char *line, size_t n, unsigned *value)
{
	static const struct {
		const char *word;
		unsigned value;
	} words[] = {{"auto", 0}, {"off", 0}, {"never", 0}, {"force", 1}, {"on", 1}};
	char text[24], *end;
	unsigned long v;

	if (!n || n >= sizeof(text))
		return false;
	memcpy(text, line, n);
	text[n] = 0;
	if (!row->is_bool) {
		if (text[0] < '0' || text[0] > '9')
			return false;
		v = strtoul(text, &end, 0);
		*value = (unsigned)v;
		return !*end && v <= UINT32_MAX;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(text, words[i].word)) {
			*value = words[i].value;
			return true;
		}
	if (!strchr("yY1tTnN0fF", text[0]))
		return false;
	*value = !!strchr("yY1tT", text[0]);
	return true;
}

static unsigned current(unsigned i)
{
	unsigned value = rows[i].initial, v;
	char text[TEXT_MAX];
	long n, from = 0;

	if (files[i] < 0)
		return value;
	n = exec_raw(SYS_pread64, files[i], (long)text, sizeof(text), 0, 0, 0);
	for (long to = 0; to < n; to++) {
		if (text[to] != '\n' && to + 1 < n)
			continue;
		if (value_of(&rows[i], text + from, (size_t)(to + (text[to] != '\n') - from), &v))
			value = v;
		from = to + 1;
	}
	return value;
}

void exec_parameter_text(int i, char *text, size_t size)
{
	unsigned value;

	pthread_mutex_lock(&lock);
	value = current((unsigned)i);
	pthread_mutex_unlock(&lock);
	if (rows[i].is_bool)
		snprintf(text, size, "%c\n", value ? 'Y' : 'N');
	else
		snprintf(text, size, "%u\n", value);
}

int exec_parameter_open(int i, int flags)
{
	char text[32];
	struct stat st;
	int fd = -1;

	pthread_mutex_lock(&lock);
	if (files[i] < 0)
		files[i] = memfd_create(rows[i].name, MFD_CLOEXEC);
	if (files[i] < 0)
		goto out;
	__atomic_store_n(&any, true, __ATOMIC_RELEASE);
	/* Every writer begins a line, and finds room for it. */
	snprintf(text, sizeof(text), "%u\n", current((unsigned)i));
	if (!REAL(fstat)(files[i], &st)) {
		if (st.st_size > (off_t)TEXT_MAX / 2)
			st.st_size = ftruncate(files[i], 0) ? st.st_size : 0;
		exec_raw(SYS_pwrite64, files[i], (long)text, (long)strlen(text), st.st_size, 0, 0);
	}
	snprintf(text, sizeof(text), "/proc/self/fd/%d", files[i]);
	fd = REAL(open)(text, (flags & (O_ACCMODE | O_CLOEXEC)) | O_APPEND);
out:
	pthread_mutex_unlock(&lock);
	return fd;
}

/* What the files say; called with the lock held. */
static struct anykvm_parameters all(void)
{
	struct anykvm_parameters p;

	for (unsigned i = 0; i < ROWS; i++)
		*(unsigned *)((u8 *)&p + rows[i].at) = current(i);
	return p;
}

void exec_parameters_apply(int fd)
{
	struct anykvm_parameters p;

	if (LIKELY(!__atomic_load_n(&any, __ATOMIC_ACQUIRE)))
		return;
	pthread_mutex_lock(&lock);
	p = all();
	pthread_mutex_unlock(&lock);
	anykvm_set_parameters(fd, &p);
}

void exec_parameters_refresh(void)
{
	struct anykvm_parameters p;
	bool changed;

	if (LIKELY(!__atomic_load_n(&any, __ATOMIC_ACQUIRE)))
		return;
	pthread_mutex_lock(&lock);
	p = all();
	changed = memcmp(&p, &applied, sizeof(p));
	applied = p;
	pthread_mutex_unlock(&lock);
	for (int fd = 0; changed && fd < exec_fd_end(); fd++)
		if (exec_fd_usable(fd) &&
		    (anykvm_kind(fd) == ANYKVM_SYSTEM || anykvm_kind(fd) == ANYKVM_VM))
			anykvm_set_parameters(fd, &p);
}
