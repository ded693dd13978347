/*
 * guest_memfd: memory of the guest that the client cannot map, read or write.
 *
 * The file pins its VM, not the other way round: when its last descriptor is closed, its memory
 * goes, and slots that were bound to it have no private memory any more.
 */
#ifndef KVM_GMEM_H
#define KVM_GMEM_H

#include "kvm/fd.h"
#include "kvm/vm.h"

struct gmem {
	struct vm *vm;
	u8 *memory; /* a mapping of ours */
	u64 size;
};

/** The VM's guest_memfd behind a descriptor, with a reference to *file. 0, -EBADF, -EINVAL. */
int gmem_get(struct vm *vm, u32 fd, struct gmem **gmem, struct fd_file **file);

#endif
