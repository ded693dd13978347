/*
 * The guest's RAM: one host mapping, split in guest-physical space around the PCI hole below 4G.
 * The layout never changes while a machine lives, so that any thread may use it without a lock.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include "vmm/types.h"

#define MEMORY_PCI_HOLE 0xc0000000ull /* first address of the hole */
#define MEMORY_4G	0x100000000ull

struct guest_memory {
	u8 *host; /* the mapping */
	u64 size; /* all RAM, in bytes */
	u64 low;  /* part of it that begins at address 0; the rest begins at 4G */
	/* Who wants to know what is written behind the guest's back, or NULL. Set while nothing runs. */
	int (*written)(int vm_fd, unsigned long gpa, unsigned long size);
	int vm_fd;
};

/** Reserves size bytes (a multiple of 4 KiB); the host commits pages as they are touched. */
bool memory_init(struct guest_memory *mem, u64 size, GError **error);
void memory_free(struct guest_memory *mem);
/** Gives all pages back to the host: the guest then reads zeros. */
void memory_clear(struct guest_memory *mem);

/** Host address of [gpa, gpa+len), or NULL when a byte of it is not RAM. len 0 gives NULL. */
void *memory_at(const struct guest_memory *mem, u64 gpa, u64 len);
/** Copies between guest and host; false, and nothing copied, when a byte is not RAM. */
bool memory_read(const struct guest_memory *mem, u64 gpa, void *buf, u64 len);
bool memory_write(const struct guest_memory *mem, u64 gpa, const void *buf, u64 len);

/**
 * To be called when a device has written to what memory_at() returned, and before the guest learns of it. Not
 * needed before the guest runs.
 */
void memory_written(const struct guest_memory *mem, const void *host, u64 len);

/** Bytes of RAM above 4G. */
static inline u64 memory_high(const struct guest_memory *mem)
{
	return mem->size - mem->low;
}

#endif
