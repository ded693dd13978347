/*
 * Descriptors: close, dup, fcntl, read, mmap, ioctl.
 *
 * After fork() the child has a copy of every object. KVM refuses to let it use the parent's VMs
 * (-EIO), and a copy could not work anyway: the threads behind it are gone. So each descriptor
 * remembers the generation of the process it was made in. A child of vfork() shares our memory:
 * its close() must not touch the table, which getpid() tells.
 */
#include "exec/exec.h"

#include "kvm/fd.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/syscall.h>

#define FD_LIMIT (1 << 20)

static u8 fd_generation[FD_LIMIT]; /* pages that are never used are never there */
static u8 generation;
static int fd_end; /* atomic */
static pid_t owner;

static pid_t self(void)
{
	return (pid_t)exec_raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static void after_fork(void)
{
	owner = self();
	generation++;
}

static __attribute__((constructor)) void start(void)
{
	owner = self();
	pthread_atfork(NULL, NULL, after_fork);
}

void exec_fd_created(int fd)
{
	int end = __atomic_load_n(&fd_end, __ATOMIC_RELAXED);

	if (fd < 0 || fd >= FD_LIMIT)
		return;
	fd_generation[fd] = generation;
	while (fd >= end && !__atomic_compare_exchange_n(&fd_end, &end, fd + 1, false,
							 __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

int exec_fd_end(void)
{
	return __atomic_load_n(&fd_end, __ATOMIC_RELAXED);
}

bool exec_fd_usable(int fd)
{
	return fd >= 0 && fd < FD_LIMIT && fd_generation[fd] == generation;
}

static bool ours(int fd)
{
	return UNLIKELY(anykvm_kind(fd) != ANYKVM_NONE);
}

/* Another number for what `fd` is; `n` is the system call's result. */
static int adopted(int fd, int n)
{
	u8 made_in;

	if (n < 0 || n == fd)
		return n;
	if (!ours(fd)) {
		if (ours(n) && self() == owner)
			fd_remove(n);
		return n;
	}
	if (self() != owner)
		return n;
	if (anykvm_adopt(fd, n)) {
		int error = errno;

		REAL(close)(n);
		errno = error;
		return -1;
	}
	made_in = fd_generation[fd];
	exec_fd_created(n);
	fd_generation[n] = made_in;
	return n;
}

int exec_close(int fd)
{
	if (self() != owner)
		return REAL(close)(fd);
	if (!exec_fd_usable(fd)) {
		/* The copy of a parent's object: forget it, but never take it down. */
		(void)fd_get(fd);
		fd_remove(fd);
		return REAL(close)(fd);
	}
	return anykvm_close(fd);
}

EXPORT int close(int fd)
{
	return ours(fd) ? exec_close(fd) : REAL(close)(fd);
}

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
	if (!flags && self() == owner)
		for (unsigned int fd = first; fd <= last && fd < FD_LIMIT; fd++)
			if (ours((int)fd))
				exec_close((int)fd);
	return REAL(close_range)(first, last, flags);
}

EXPORT void closefrom(int first)
{
	close_range((unsigned int)MAX(first, 0), ~0u, 0);
}

EXPORT int dup(int fd)
{
	return adopted(fd, REAL(dup)(fd));
}

EXPORT int dup2(int fd, int new_fd)
{
	return adopted(fd, REAL(dup2)(fd, new_fd));
}

EXPORT int dup3(int fd, int new_fd, int flags)
{
	return adopted(fd, REAL(dup3)(fd, new_fd, flags));
}

static int fcntl_any(int fd, int command, unsigned long arg)
{
	int ret = REAL(fcntl)(fd, command, arg);

	return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? adopted(fd, ret) : ret;
}

EXPORT int fcntl(int fd, int command, ...)
{
	unsigned long arg;
	va_list args;

	va_start(args, command);
	arg = va_arg(args, unsigned long);
	va_end(args);
	return fcntl_any(fd, command, arg);
}

EXPORT int fcntl64(int fd, int command, ...)
{
	unsigned long arg;
	va_list args;

	va_start(args, command);
	arg = va_arg(args, unsigned long);
	va_end(args);
	return fcntl_any(fd, command, arg);
}

EXPORT ssize_t read(int fd, void *buf, size_t size)
{
	if (!ours(fd))
		return REAL(read)(fd, buf, size);
	exec_parameters_refresh();
	return anykvm_read(fd, buf, size);
}

EXPORT ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
	if (!ours(fd))
		return REAL(pread)(fd, buf, size, offset);
	exec_parameters_refresh();
	return anykvm_pread(fd, buf, size, offset);
}

EXPORT ssize_t pread64(int fd, void *buf, size_t size, off64_t offset)
{
	return pread(fd, buf, size, offset);
}

EXPORT ssize_t __read_chk(int fd, void *buf, size_t size, size_t room);
EXPORT ssize_t __read_chk(int fd, void *buf, size_t size, size_t room)
{
	if (size > room)
		__builtin_trap();
	return read(fd, buf, size);
}

EXPORT ssize_t __pread_chk(int fd, void *buf, size_t size, off_t offset, size_t room);
EXPORT ssize_t __pread_chk(int fd, void *buf, size_t size, off_t offset, size_t room)
{
	if (size > room)
		__builtin_trap();
	return pread(fd, buf, size, offset);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return ours(fd) ? anykvm_fallocate(fd, mode, offset, length)
			: REAL(fallocate)(fd, mode, offset, length);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	return fallocate(fd, mode, offset, length);
}

static void *mmap_ours(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *p;

	if (!exec_fd_usable(fd)) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	p = anykvm_mmap(length, prot, flags, fd, offset);
	if (p == MAP_FAILED || !(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) || p == addr)
		return p;
	/* The pages are several mappings, which move one by one. */
	if (flags & MAP_FIXED_NOREPLACE) {
		void *room = REAL(mmap)(addr, length, PROT_NONE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (room == MAP_FAILED)
			return room;
	}
	for (size_t at = 0; at < length; at += 4096)
		if (mremap((u8 *)p + at, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED,
			   (u8 *)addr + at) == MAP_FAILED)
			return MAP_FAILED;
	return addr;
}

EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	if (!(flags & MAP_ANONYMOUS) && ours(fd))
		return mmap_ours(addr, length, prot, flags, fd, offset);
	return REAL(mmap)(addr, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return mmap(addr, length, prot, flags, fd, offset);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	enum anykvm_kind kind = anykvm_kind(fd);
	unsigned long arg;
	va_list args;

	va_start(args, request);
	arg = va_arg(args, unsigned long);
	va_end(args);
	if (kind)
		return exec_ioctl(fd, kind, request, arg);
	/* KVM's requests go to nobody else's descriptor; the launcher's filter would say the same. */
	if (UNLIKELY((request & 0xff00) == KVMIO << 8)) {
		if (REAL(fcntl)(fd, F_GETFD) >= 0)
			errno = ENOTTY;
		return -1;
	}
	return REAL(ioctl)(fd, request, arg);
}
