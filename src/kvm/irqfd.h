/* KVM_IRQFD: an event descriptor raises a guest's interrupt. */
#ifndef KVM_IRQFD_H
#define KVM_IRQFD_H

#include "kvm/vm.h"

/**
 * Raises what the client has signalled so far, as KVM does within the write to the eventfd. Before
 * state that an interrupt changes is read or replaced. Any thread, no lock of the VM's held but
 * slots_lock.
 */
void irqfd_drain(struct vm *vm);
void irqfd_destroy_all(struct vm *vm);

#endif
