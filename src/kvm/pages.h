/*
 * The statistics of pages given to a VM (mmu/pages.c keeps the records), and the parameters of
 * the kernel's module that change them.
 */
#ifndef KVM_PAGES_H
#define KVM_PAGES_H

#include "kvm/vm.h"

/** What anykvm_open() begins with. */
extern const struct anykvm_parameters pages_parameters;

/** A new VM takes its system's parameters. */
void pages_vm_init(struct vm *vm);
/** KVM_CAP_VM_DISABLE_NX_HUGE_PAGES: 0; -EPERM without CAP_SYS_BOOT, -EINVAL. */
int pages_nx_disable(struct vm *vm, u64 arg);
/** A copy of the VM's statistics with those of pages filled in. Takes slots_lock. */
void pages_stats(struct vm *vm, struct vm_stats *out);

#endif
