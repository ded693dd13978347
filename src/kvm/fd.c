/* The table of descriptors. */
#include "kvm/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHUNK_BITS  10
#define CHUNK_SLOTS (1u << CHUNK_BITS)
#define CHUNKS	    1024u

struct fd_slot {
	u64 entry; /* the file's address, and in the low bits its kind */
	u32 pins;
};

#define KIND_MASK 7ull
_Static_assert(ANYKVM_GUEST_MEMFD <= KIND_MASK, "kinds fit beside an address");

static struct fd_slot *fd_chunks[CHUNKS];

static struct fd_slot *slot_find(int fd)
{
	struct fd_slot *chunk;

	if (fd < 0 || (u32)fd >= CHUNKS * CHUNK_SLOTS)
		return NULL;
	chunk = __atomic_load_n(&fd_chunks[(u32)fd >> CHUNK_BITS], __ATOMIC_ACQUIRE);
	return chunk ? &chunk[(u32)fd & (CHUNK_SLOTS - 1)] : NULL;
}

static struct fd_file *entry_file(u64 entry)
{
	return (struct fd_file *)(entry & ~KIND_MASK);
}

static u64 entry_of(const struct fd_file *file)
{
	return file ? (u64)file | file->ops->kind : 0;
}

enum anykvm_kind fd_kind(int fd)
{
	struct fd_slot *slot = slot_find(fd);

	return slot ? __atomic_load_n(&slot->entry, __ATOMIC_ACQUIRE) & KIND_MASK : ANYKVM_NONE;
}

struct fd_file *fd_get(int fd)
{
	struct fd_slot *slot = slot_find(fd);
	struct fd_file *file;

	if (!slot || !__atomic_load_n(&slot->entry, __ATOMIC_RELAXED))
		return NULL;
	__atomic_fetch_add(&slot->pins, 1, __ATOMIC_SEQ_CST);
	file = entry_file(__atomic_load_n(&slot->entry, __ATOMIC_SEQ_CST));
	if (file)
		__atomic_fetch_add(&file->refs, 1, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&slot->pins, 1, __ATOMIC_RELEASE);
	return file;
}

void fd_put(struct fd_file *file)
{
	if (__atomic_fetch_sub(&file->refs, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	file->ops->release(file);
	free(file);
}

/* Puts a file (or NULL) into a slot and gives the former one's reference back. */
static bool slot_exchange(struct fd_slot *slot, struct fd_file *file)
{
	u64 entry = __atomic_exchange_n(&slot->entry, entry_of(file), __ATOMIC_SEQ_CST);
	struct fd_file *old = entry_file(entry);

	if (!old)
		return false;
	while (__atomic_load_n(&slot->pins, __ATOMIC_SEQ_CST))
		__builtin_ia32_pause();
	fd_put(old);
	return true;
}

int fd_install(int fd, struct fd_file *file)
{
	struct fd_slot *slot, *chunk, *none = NULL;

	if (fd < 0 || (u32)fd >= CHUNKS * CHUNK_SLOTS)
		return -EMFILE;
	slot = slot_find(fd);
	if (!slot) {
		chunk = calloc(CHUNK_SLOTS, sizeof(*chunk));
		if (!chunk)
			return -ENOMEM;
		if (!__atomic_compare_exchange_n(&fd_chunks[(u32)fd >> CHUNK_BITS], &none, chunk,
						 false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			free(chunk);
		slot = slot_find(fd);
	}
	__atomic_fetch_add(&file->refs, 1, __ATOMIC_RELAXED);
	slot_exchange(slot, file);
	return 0;
}

int fd_remove(int fd)
{
	struct fd_slot *slot = slot_find(fd);

	return slot && slot_exchange(slot, NULL) ? 0 : -EBADF;
}

int fd_attach(int fd, const struct fd_ops *ops, void *object)
{
	struct fd_file *file = calloc(1, sizeof(*file));
	int ret;

	if (!file)
		return -ENOMEM;
	file->ops = ops;
	file->object = object;
	ret = fd_install(fd, file);
	if (ret)
		free(file);
	return ret;
}

/* What is wanted is the number, of a file that poll(2) finds ready, as the kernel's; an eventfd is the cheapest. */
int fd_create(const struct fd_ops *ops, void *object)
{
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK), ret;

	if (fd < 0)
		return -errno;
	ret = fd_attach(fd, ops, object);
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}
