/* open, access and stat in all their names. */
#include "exec/exec.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sysmacros.h>

#define MODE_ARGUMENT(mode, flags)               \
	mode_t mode = 0;                         \
	if ((flags) & (O_CREAT | __O_TMPFILE)) { \
		va_list args;                    \
		va_start(args, flags);           \
		mode = va_arg(args, mode_t);     \
		va_end(args);                    \
	}

EXPORT int open(const char *path, int flags, ...)
{
	enum exec_path kind = exec_path_kind(path);
	MODE_ARGUMENT(mode, flags)

	return kind ? exec_path_open(path, kind, flags) : REAL(open)(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
	enum exec_path kind = exec_path_kind(path);
	MODE_ARGUMENT(mode, flags)

	return kind ? exec_path_open(path, kind, flags)
		    : REAL(open)(path, flags | O_LARGEFILE, mode);
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
	enum exec_path kind = exec_path_kind(path);
	MODE_ARGUMENT(mode, flags)

	return kind ? exec_path_open(path, kind, flags) : REAL(openat)(dir, path, flags, mode);
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	enum exec_path kind = exec_path_kind(path);
	MODE_ARGUMENT(mode, flags)

	return kind ? exec_path_open(path, kind, flags) : REAL(openat)(dir, path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of them. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags);
EXPORT int __openat_2(int dir, const char *path, int flags);
EXPORT int __openat64_2(int dir, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return open(path, flags);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return open(path, flags);
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return openat(dir, path, flags);
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return openat(dir, path, flags);
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	enum exec_path kind = exec_path_kind(path);
	int fd;

	if (!kind)
		return REAL(fopen)(path, mode);
	fd = exec_path_open(path, kind, strpbrk(mode, "wa+") ? O_RDWR : O_RDONLY);
	return fd < 0 ? NULL : fdopen(fd, mode);
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	return fopen(path, mode);
}

EXPORT int access(const char *path, int mode)
{
	enum exec_path kind = exec_path_kind(path);

	return kind ? exec_path_access(path, kind, mode) : REAL(access)(path, mode);
}

EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
	enum exec_path kind = exec_path_kind(path);

	return kind ? exec_path_access(path, kind, mode) : REAL(faccessat)(dir, path, mode, flags);
}

EXPORT int stat(const char *path, struct stat *st)
{
	enum exec_path kind = exec_path_kind(path);

	return kind ? exec_path_stat(path, kind, st) : REAL(stat)(path, st);
}

EXPORT int lstat(const char *path, struct stat *st)
{
	enum exec_path kind = exec_path_kind(path);

	return kind ? exec_path_stat(path, kind, st) : REAL(lstat)(path, st);
}

EXPORT int fstat(int fd, struct stat *st)
{
	if (anykvm_kind(fd) == ANYKVM_SYSTEM)
		return exec_path_stat("/dev/kvm", PATH_KVM, st);
	return REAL(fstat)(fd, st);
}

EXPORT int fstatat(int dir, const char *path, struct stat *st, int flags)
{
	enum exec_path kind = exec_path_kind(path);

	if (kind)
		return exec_path_stat(path, kind, st);
	if ((flags & AT_EMPTY_PATH) && !*path && anykvm_kind(dir) == ANYKVM_SYSTEM)
		return exec_path_stat("/dev/kvm", PATH_KVM, st);
	return REAL(fstatat)(dir, path, st, flags);
}

EXPORT int statx(int dir, const char *path, int flags, unsigned int mask, struct statx *stx)
{
	enum exec_path kind = exec_path_kind(path);
	struct stat st;

	if ((flags & AT_EMPTY_PATH) && !*path && anykvm_kind(dir) == ANYKVM_SYSTEM) {
		path = "/dev/kvm";
		kind = PATH_KVM;
	}
	if (!kind)
		return REAL(statx)(dir, path, flags, mask, stx);
	if (exec_path_stat(path, kind, &st))
		return -1;
	memset(stx, 0, sizeof(*stx));
	stx->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID | STATX_SIZE;
	stx->stx_mode = (u16)st.st_mode;
	stx->stx_nlink = 1;
	stx->stx_size = (u64)st.st_size;
	stx->stx_rdev_major = major(st.st_rdev);
	stx->stx_rdev_minor = minor(st.st_rdev);
	return 0;
}

/* struct stat64 is struct stat on this machine; the __x names are those of glibc before 2.33. */
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "one layout");
EXPORT int __xstat(int version, const char *path, struct stat *st);
EXPORT int __xstat64(int version, const char *path, struct stat *st);
EXPORT int __lxstat(int version, const char *path, struct stat *st);
EXPORT int __lxstat64(int version, const char *path, struct stat *st);
EXPORT int __fxstat(int version, int fd, struct stat *st);
EXPORT int __fxstat64(int version, int fd, struct stat *st);

EXPORT int stat64(const char *path, struct stat64 *st)
{
	return stat(path, (struct stat *)st);
}

EXPORT int lstat64(const char *path, struct stat64 *st)
{
	return lstat(path, (struct stat *)st);
}

EXPORT int fstat64(int fd, struct stat64 *st)
{
	return fstat(fd, (struct stat *)st);
}

EXPORT int fstatat64(int dir, const char *path, struct stat64 *st, int flags)
{
	return fstatat(dir, path, (struct stat *)st, flags);
}

EXPORT int __xstat(int version, const char *path, struct stat *st)
{
	return stat(path, st);
}

EXPORT int __xstat64(int version, const char *path, struct stat *st)
{
	return stat(path, st);
}

EXPORT int __lxstat(int version, const char *path, struct stat *st)
{
	return lstat(path, st);
}

EXPORT int __lxstat64(int version, const char *path, struct stat *st)
{
	return lstat(path, st);
}

EXPORT int __fxstat(int version, int fd, struct stat *st)
{
	return fstat(fd, st);
}

EXPORT int __fxstat64(int version, int fd, struct stat *st)
{
	return fstat(fd, st);
}
