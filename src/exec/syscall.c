/* syscall(): the same calls by their numbers. */
#include "exec/exec.h"

#include <errno.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

/* The kernel's struct for rt_sigaction. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	u64 mask;
};

static long by_signal(long n, long a, long b, long c, long d)
{
	const struct kernel_sigaction *act = (void *)b;
	struct kernel_sigaction *old = (void *)c;
	struct sigaction next = {0}, before = {0};
	int ret;

	if (act) {
		next.sa_handler = act->handler;
		next.sa_flags = (int)(act->flags & ~0x04000000ul); /* libc adds its own restorer */
		*(u64 *)&next.sa_mask = act->mask;
	}
	ret = sigaction((int)a, act ? &next : NULL, &before);
	if (!ret && old) {
		old->handler = before.sa_handler;
		old->flags = (unsigned long)before.sa_flags;
		old->restorer = before.sa_restorer;
		old->mask = *(u64 *)&before.sa_mask;
	}
	return ret;
}

static long by_path(long n, long a, long b, long c, long d, bool *done)
{
	bool at = n != SYS_open && n != SYS_access && n != SYS_stat && n != SYS_lstat;
	const char *path = (const char *)(at ? b : a);
	enum exec_path kind;

	/* A path that cannot be read is the kernel's to refuse. */
	if (!path || exec_raw(SYS_access, (long)path, F_OK, 0, 0, 0, 0) == -EFAULT)
		return 0;
	kind = exec_path_kind(path);
	if (!kind)
		return 0;
	*done = true;
	switch (n) {
	case SYS_open:
		return exec_path_open(path, kind, (int)b);
	case SYS_openat:
		return exec_path_open(path, kind, (int)c);
	case SYS_openat2:
		return exec_path_open(path, kind, (int)((struct open_how *)c)->flags);
	case SYS_access:
		return exec_path_access(path, kind, (int)b);
	case SYS_faccessat:
	case SYS_faccessat2:
		return exec_path_access(path, kind, (int)c);
	case SYS_stat:
	case SYS_lstat:
		return exec_path_stat(path, kind, (struct stat *)b);
	default:
		return exec_path_stat(path, kind, (struct stat *)c);
	}
}

/* Calls that are ours whatever their arguments: they look by themselves. */
static long by_number(long n, const long *a, bool *done)
{
	*done = true;
	switch (n) {
	case SYS_close:
		return close((int)a[0]);
	case SYS_close_range:
		return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
	case SYS_dup:
		return dup((int)a[0]);
	case SYS_dup2:
		return dup2((int)a[0], (int)a[1]);
	case SYS_dup3:
		return dup3((int)a[0], (int)a[1], (int)a[2]);
	case SYS_fcntl:
		if (a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC)
			return fcntl((int)a[0], (int)a[1], a[2]);
		break;
	case SYS_ioctl:
		if (anykvm_kind((int)a[0]))
			return ioctl((int)a[0], (unsigned long)a[1], a[2]);
		break;
	case SYS_read:
		if (anykvm_kind((int)a[0]))
			return read((int)a[0], (void *)a[1], (size_t)a[2]);
		break;
	case SYS_pread64:
		if (anykvm_kind((int)a[0]))
			return pread((int)a[0], (void *)a[1], (size_t)a[2], a[3]);
		break;
	case SYS_fallocate:
		if (anykvm_kind((int)a[0]))
			return fallocate((int)a[0], (int)a[1], a[2], a[3]);
		break;
	case SYS_mmap:
		if (!(a[3] & MAP_ANONYMOUS) && anykvm_kind((int)a[4]))
			return (long)mmap((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3],
					  (int)a[4], a[5]);
		break;
	case SYS_rt_sigaction:
		if (a[3] == 8)
			return by_signal(n, a[0], a[1], a[2], a[3]);
		break;
	case SYS_rt_sigprocmask:
		if (a[3] == 8 && exec_thread.ready) {
			u64 set[16] = {0}, old[16] = {0};
			int ret;

			if (a[1])
				set[0] = *(u64 *)a[1];
			ret = sigprocmask((int)a[0], a[1] ? (sigset_t *)set : NULL,
					  (sigset_t *)old);
			if (!ret && a[2])
				*(u64 *)a[2] = old[0];
			return ret;
		}
		break;
	}
	*done = false;
	return 0;
}

EXPORT long syscall(long n, ...)
{
	bool done = false;
	va_list args;
	long a[6], ret;

	va_start(args, n);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	switch (n) {
	case SYS_open:
	case SYS_openat:
	case SYS_openat2:
	case SYS_access:
	case SYS_faccessat:
	case SYS_faccessat2:
	case SYS_stat:
	case SYS_lstat:
	case SYS_newfstatat:
		ret = by_path(n, a[0], a[1], a[2], a[3], &done);
		break;
	default:
		ret = by_number(n, a, &done);
	}
	if (done)
		return ret;
	ret = exec_raw(n, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (ret < 0 && ret >= -4095) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}
