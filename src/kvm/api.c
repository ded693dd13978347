/* The functions of <anykvm.h>. */
#include "jit/profile.h"
#include "kvm/fd.h"
#include "kvm/request.h"

#include <anykvm.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static long result(long ret)
{
	if (ret >= 0)
		return ret;
	errno = (int)-ret;
	return -1;
}

int fd_ioctl(struct fd_file *file, unsigned long request, unsigned long arg)
{
	return (int)result(file->ops->ioctl(file, (u32)request, arg));
}

int anykvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct fd_file *file = fd_get(fd);
	int ret;

	if (!file)
		return (int)result(-EBADF);
	ret = fd_ioctl(file, request, arg);
	fd_put(file);
	return ret;
}

void *anykvm_mmap(size_t length, int prot, int flags, int fd, off_t offset)
{
	struct fd_file *file = fd_get(fd);
	long ret = -EBADF;

	if (file) {
		if (offset < 0 || (offset & ~(off_t)PAGE_MASK) || !length)
			ret = -EINVAL;
		else if (!file->ops->mmap)
			ret = -ENODEV;
		else
			ret = file->ops->mmap(file, length, prot, flags, (u64)offset);
		fd_put(file);
	}
	if (ret < 0 && ret > -4096) {
		errno = (int)-ret;
		return MAP_FAILED;
	}
	return (void *)ret;
}

int anykvm_munmap(void *addr, size_t length)
{
	return munmap(addr, length);
}

ssize_t anykvm_pread(int fd, void *buf, size_t size, off_t offset)
{
	struct fd_file *file = fd_get(fd);
	long ret = -EBADF;

	if (file) {
		ret = file->ops->read && offset >= 0 ? file->ops->read(file, buf, size, (u64)offset)
						     : -EINVAL;
		fd_put(file);
	}
	return result(ret);
}

ssize_t anykvm_read(int fd, void *buf, size_t size)
{
	struct fd_file *file = fd_get(fd);
	long ret = -EBADF;

	if (file) {
		ret = -EINVAL;
		if (file->ops->read) {
			u64 at = __atomic_load_n(&file->offset, __ATOMIC_RELAXED);

			ret = file->ops->read(file, buf, size, at);
			if (ret > 0)
				__atomic_store_n(&file->offset, at + (u64)ret, __ATOMIC_RELAXED);
		}
		fd_put(file);
	}
	return result(ret);
}

int anykvm_fallocate(int fd, int mode, off_t offset, off_t length)
{
	struct fd_file *file = fd_get(fd);
	long ret = -EBADF;

	if (file) {
		if (offset < 0 || length <= 0)
			ret = -EINVAL;
		else if (!file->ops->fallocate)
			ret = -EOPNOTSUPP;
		else if (offset + (u64)length > INT64_MAX)
			ret = -EFBIG;
		else
			ret = file->ops->fallocate(file, mode, (u64)offset, (u64)length);
		fd_put(file);
	}
	return (int)result(ret);
}

int anykvm_close(int fd)
{
	int ret = fd_remove(fd);

	if (!ret)
		close(fd);
	return (int)result(ret);
}

int anykvm_adopt(int fd, int new_fd)
{
	struct fd_file *file = fd_get(fd);
	int ret = -EBADF;

	if (file) {
		ret = fd_install(new_fd, file);
		fd_put(file);
	}
	return (int)result(ret);
}

int anykvm_dup(int fd, int new_fd)
{
	struct fd_file *file = fd_get(fd);
	int n, ret;

	if (!file)
		return (int)result(-EBADF);
	if (new_fd == fd) {
		fd_put(file);
		return (int)result(-EINVAL);
	}
	if (new_fd >= 0)
		fd_remove(new_fd);
	n = new_fd < 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : dup3(fd, new_fd, O_CLOEXEC);
	ret = n < 0 ? -errno : fd_install(n, file);
	fd_put(file);
	if (ret && n >= 0)
		close(n);
	return (int)result(ret ? ret : n);
}

enum anykvm_kind anykvm_kind(int fd)
{
	return fd_kind(fd);
}

int anykvm_kick(int vcpu_fd)
{
	int saved = errno;
	struct fd_file *file = fd_get(vcpu_fd);
	int ret = -EBADF;

	if (file) {
		ret = -EINVAL;
		if (file->ops->kind == ANYKVM_VCPU) {
			vcpu_kick(file->object);
			ret = 0;
		}
		fd_put(file);
	}
	errno = saved;
	return (int)result(ret);
}

/* No processor's physical address has more bits. */
#define ADDRESS_END (1ull << 52)

int anykvm_memory_written(int vm_fd, unsigned long gpa, unsigned long size)
{
	int saved = errno;
	struct fd_file *file = fd_get(vm_fd);
	int ret = -EBADF;

	if (file) {
		ret = -EINVAL;
		if (file->ops->kind == ANYKVM_VM && size <= ADDRESS_END &&
		    gpa <= ADDRESS_END - size) {
			vm_memory_written(file->object, gpa, size);
			ret = 0;
		}
		fd_put(file);
	}
	errno = saved;
	return (int)result(ret);
}

enum anykvm_place anykvm_place(unsigned long pc, unsigned long *rip, unsigned *cpl)
{
	u64 at;
	enum jit_place place = jit_place(pc, &at, cpl);

	*rip = at;
	return place == JIT_PLACE_GUEST	 ? ANYKVM_PLACE_GUEST
	       : place == JIT_PLACE_GLUE ? ANYKVM_PLACE_GLUE
					 : ANYKVM_PLACE_OTHER;
}
