/* What stands behind the paths that are ours, whether or not this machine has files there. */
#include "exec/exec.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define KVM_MAJOR 10 /* misc */
#define KVM_MINOR 232

static bool is_module_path(const char *path)
{
	static const char head[] = "/sys/module/kvm";

	if (strncmp(path, head, sizeof(head) - 1))
		return false;
	path += sizeof(head) - 1;
	return !*path || *path == '/' || !strncmp(path, "_intel", 6) || !strncmp(path, "_amd", 4);
}

enum exec_path exec_path_kind(const char *path)
{
	int writable;

	if (!path || path[0] != '/')
		return PATH_OTHER;
	if (path[1] == 'd' && !strcmp(path, "/dev/kvm"))
		return PATH_KVM;
	if (path[1] == 'd' && !strcmp(path, "/dev/sev"))
		return PATH_ABSENT;
	if (path[1] == 's' && is_module_path(path))
		return exec_module_file(path, &writable) ? PATH_MODULE : PATH_ABSENT;
	return PATH_OTHER;
}

static int module_open(const char *path, int flags)
{
	int fd, writable;
	const char *text = exec_module_file(path, &writable);

	if ((flags & O_ACCMODE) != O_RDONLY) {
		if (writable >= 0)
			return exec_parameter_open(writable, flags);
		errno = EACCES;
		return -1;
	}
	if (!*text)
		return REAL(open)("/sys/module", flags);
	fd = memfd_create("kvm-parameter", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (fd < 0)
		return -1;
	exec_raw(SYS_pwrite64, fd, (long)text, (long)strlen(text), 0, 0, 0);
	return fd;
}

int exec_path_open(const char *path, enum exec_path kind, int flags)
{
	int fd;

	if (kind == PATH_ABSENT) {
		errno = ENOENT;
		return -1;
	}
	if (kind == PATH_MODULE)
		return module_open(path, flags);
	if (flags & O_DIRECTORY) {
		errno = ENOTDIR;
		return -1;
	}
	fd = exec_engine_open();
	if (fd >= 0) {
		if (!(flags & O_CLOEXEC))
			REAL(fcntl)(fd, F_SETFD, 0);
		exec_fd_created(fd);
	}
	return fd;
}

int exec_path_access(const char *path, enum exec_path kind, int mode)
{
	int writable = -1;

	if (kind == PATH_ABSENT) {
		errno = ENOENT;
		return -1;
	}
	if (kind == PATH_MODULE)
		exec_module_file(path, &writable);
	if ((mode & X_OK) || (kind == PATH_MODULE && writable < 0 && (mode & W_OK))) {
		errno = EACCES;
		return -1;
	}
	return 0;
}

int exec_path_stat(const char *path, enum exec_path kind, struct stat *st)
{
	int writable;

	if (kind == PATH_ABSENT) {
		errno = ENOENT;
		return -1;
	}
	memset(st, 0, sizeof(*st));
	st->st_nlink = 1;
	st->st_blksize = 4096;
	if (kind == PATH_KVM) {
		st->st_mode = S_IFCHR | 0666;
		st->st_rdev = makedev(KVM_MAJOR, KVM_MINOR);
	} else if (*exec_module_file(path, &writable)) {
		st->st_mode = S_IFREG | (writable >= 0 ? 0644 : 0444);
		st->st_size = 4096;
	} else {
		st->st_mode = S_IFDIR | 0755;
	}
	return 0;
}
