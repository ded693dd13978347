/*
 * The descriptor that the client gets is one opened with O_PATH: the kernel itself then refuses
 * to read, write, map or resize the file, but answers fstat(). Our mapping keeps the memory.
 */
#include "kvm/gmem.h"

#include "kvm/ioctl.h"
#include "kvm/memslot.h"
#include "kvm/request.h"
#include "mmu/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static long gmem_ioctl(struct fd_file *file, u32 req, unsigned long arg)
{
	return -ENOTTY;
}

static void gmem_release(struct fd_file *file)
{
	struct gmem *gmem = file->object;
	struct vm *vm = gmem->vm;
	int ret;

	pthread_mutex_lock(&vm->slots_lock);
	ret = memslot_gmem_gone(vm, gmem);
	pthread_mutex_unlock(&vm->slots_lock);
	/* Without memory for the change the mapping has to stay: a vCPU may use it. */
	if (!ret) {
		munmap(gmem->memory, gmem->size);
		free(gmem);
	}
	vm_put(vm);
}

/* Pages of a hole read as zeros afterwards; code made from them is void. */
static int punch_hole(struct gmem *gmem, u64 offset, u64 length)
{
	struct vm *vm = gmem->vm;
	u64 requests = 0;
	int ret = 0;

	if (offset >= gmem->size)
		return 0;
	length = MIN(length, gmem->size - offset);
	pthread_mutex_lock(&vm->slots_lock);
	if (madvise(gmem->memory + offset, length, MADV_REMOVE))
		ret = -errno;
	for (u32 i = 0; i < vm->slot_count[0] && !ret; i++) {
		const struct memslot *s = vm->slots[0][i];
		u64 size, from;

		if (!s || s->gmem != gmem)
			continue;
		size = s->pages << PAGE_SHIFT;
		if (s->gmem_offset >= offset + length || s->gmem_offset + size <= offset)
			continue;
		from = MAX(offset, s->gmem_offset) - s->gmem_offset;
		pages_forget(s->given, s->gpa + from,
			     MIN(offset + length - s->gmem_offset, size) - from);
		requests |= BIT64(REQ_TLB_FLUSH);
		if (mmu_code_present(&vm->mem, s->gpa, size))
			requests |= BIT64(REQ_CODE_FLUSH);
	}
	if (requests)
		vm_request_all(vm, requests, requests & BIT64(REQ_CODE_FLUSH));
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

static int allocate(struct gmem *gmem, u64 offset, u64 length)
{
	if (offset > gmem->size || length > gmem->size - offset)
		return -EINVAL;
	if (!madvise(gmem->memory + offset, length, MADV_POPULATE_WRITE))
		return 0;
	/* An older kernel: pages come when they are touched. */
	return errno == EINVAL ? 0 : errno == EFAULT ? -ENOMEM : -errno;
}

static long gmem_fallocate(struct fd_file *file, int mode, u64 offset, u64 length)
{
	struct gmem *gmem = file->object;

	if (!(mode & FALLOC_FL_KEEP_SIZE) || (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)))
		return -EOPNOTSUPP;
	if ((offset & ~PAGE_MASK) || (length & ~PAGE_MASK))
		return -EINVAL;
	return mode & FALLOC_FL_PUNCH_HOLE ? punch_hole(gmem, offset, length)
					   : allocate(gmem, offset, length);
}

static const struct fd_ops fd_gmem_ops = {
	.kind = ANYKVM_GUEST_MEMFD,
	.ioctl = gmem_ioctl,
	.fallocate = gmem_fallocate,
	.release = gmem_release,
};

int gmem_get(struct vm *vm, u32 fd, struct gmem **gmem, struct fd_file **file)
{
	*file = fd_get((int)fd);
	if (!*file)
		return fcntl((int)fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
	*gmem = (*file)->object;
	if ((*file)->ops == &fd_gmem_ops && (*gmem)->vm == vm)
		return 0;
	fd_put(*file);
	*file = NULL;
	return -EINVAL;
}

/* Maps a new memory file. The descriptor for the client, or -errno. */
static int memory_create(struct gmem *gmem)
{
	char path[32];
	int fd = memfd_create("kvm-gmem", MFD_CLOEXEC), shown, ret;
	void *p;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)gmem->size)) {
		ret = -ENOMEM;
		goto out;
	}
	p = mmap(NULL, gmem->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED) {
		ret = -ENOMEM;
		goto out;
	}
	gmem->memory = p;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	shown = open(path, O_PATH);
	if (shown >= 0) {
		close(fd);
		return shown;
	}
	/* No /proc: the client could map this one, if it tried. */
	return fd;
out:
	close(fd);
	return ret;
}

int vm_create_guest_memfd(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_create_guest_memfd *r = data;
	struct gmem *gmem;
	int fd, ret;

	if (r->flags || (s64)r->size <= 0 || (r->size & ~PAGE_MASK))
		return -EINVAL;
	gmem = calloc(1, sizeof(*gmem));
	if (!gmem)
		return -ENOMEM;
	gmem->vm = vm;
	gmem->size = r->size;
	fd = memory_create(gmem);
	if (fd < 0) {
		free(gmem);
		return fd;
	}
	vm_get(vm);
	ret = fd_attach(fd, &fd_gmem_ops, gmem);
	if (ret) {
		vm_put(vm);
		close(fd);
		munmap(gmem->memory, gmem->size);
		free(gmem);
		return ret;
	}
	return fd;
}
