/* KVM_IOEVENTFD: a guest's write signals an event descriptor instead of exiting. */
#ifndef KVM_IOEVENTFD_H
#define KVM_IOEVENTFD_H

#include "kvm/vm.h"

/** A write matched and its descriptor was signalled. vCPU thread, in a section. */
bool ioeventfd_signal(struct vm *vm, bool pio, u64 addr, unsigned len, const void *data);
void ioeventfd_destroy_all(struct vm *vm);
/**
 * A descriptor of our own for a client's eventfd: number, or -EBADF, -EINVAL (no eventfd), … *id is
 * the same for all descriptors of one eventfd.
 */
int eventfd_hold(int fd, int *id);

#endif
