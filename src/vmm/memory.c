/* Guest RAM: reservation and checked access. */
#include "vmm/memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/error.h"

bool memory_init(struct guest_memory *mem, u64 size, GError **error)
{
	int fd = memfd_create("anykvm-ram", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	/* shared: the engine maps pages of it a second time (ANYKVM_CAP_WINDOW) */
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (fd >= 0)
		close(fd);

	if (p == MAP_FAILED) {
		vmm_error(error, "cannot reserve %" G_GUINT64_FORMAT " MiB of guest memory: %s",
			  size >> 20, g_strerror(errno));
		return false;
	}
	madvise(p, size, MADV_HUGEPAGE);
	madvise(p, size, MADV_DONTDUMP);
	mem->host = p;
	mem->size = size;
	mem->low = MIN(size, (u64)MEMORY_PCI_HOLE);
	mem->written = NULL;
	return true;
}

void memory_free(struct guest_memory *mem)
{
	if (mem->host)
		munmap(mem->host, mem->size);
	mem->host = NULL;
}

void memory_clear(struct guest_memory *mem)
{
	madvise(mem->host, mem->size, MADV_REMOVE);
}

void *memory_at(const struct guest_memory *mem, u64 gpa, u64 len)
{
	if (!len)
		return NULL;
	if (gpa < mem->low)
		return len <= mem->low - gpa ? mem->host + gpa : NULL;
	if (gpa < MEMORY_4G)
		return NULL;
	gpa -= MEMORY_4G;
	if (gpa >= memory_high(mem) || len > memory_high(mem) - gpa)
		return NULL;
	return mem->host + mem->low + gpa;
}

bool memory_read(const struct guest_memory *mem, u64 gpa, void *buf, u64 len)
{
	const void *p = memory_at(mem, gpa, len);

	if (p)
		memcpy(buf, p, len);
	return p != NULL;
}

bool memory_write(const struct guest_memory *mem, u64 gpa, const void *buf, u64 len)
{
	void *p = memory_at(mem, gpa, len);

	if (p) {
		memcpy(p, buf, len);
		memory_written(mem, p, len);
	}
	return p != NULL;
}

void memory_written(const struct guest_memory *mem, const void *host, u64 len)
{
	u64 gpa = (u64)((const u8 *)host - mem->host);

	if (gpa >= mem->low)
		gpa += MEMORY_4G - mem->low;
	if (mem->written)
		mem->written(mem->vm_fd, gpa, len);
}
