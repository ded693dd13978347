/*
 * Memory attributes: which guest-physical ranges are private (KVM_SET_MEMORY_ATTRIBUTES).
 *
 * A set is immutable; the VM's is published like everything else that vCPUs read, see
 * kvm/request.h. Set-up and changes are under slots_lock.
 */
#ifndef KVM_MEMATTR_H
#define KVM_MEMATTR_H

#include "kvm/vm.h"

struct memattr {
	u64 count;
	struct {
		u64 start, end;
	} private[]; /* sorted, disjoint, not adjacent */
};

/** Where the run of equal attributes that begins at gpa ends; *is_private: which. `a` may be NULL. */
u64 memattr_run(const struct memattr *a, u64 gpa, bool *is_private);
/** vCPU thread, in a section. */
bool memattr_is_private(struct vm *vm, u64 gpa);
/** What KVM_SET_MEMORY_ATTRIBUTES can set. */
static inline u64 memattr_supported(const struct vm *vm)
{
	return !vm || vm->private_mem ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
}

#endif
