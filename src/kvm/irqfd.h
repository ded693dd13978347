/* KVM_IRQFD: an event descriptor raises a guest's interrupt. */
#ifndef KVM_IRQFD_H
#define KVM_IRQFD_H

#include "kvm/vm.h"

void irqfd_destroy_all(struct vm *vm);

#endif
