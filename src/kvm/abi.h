/*
 * The KVM ABI of Linux 6.12 where the build machine's <linux/kvm.h> is older (Debian 12 has
 * 6.1's), and facts of the ABI that the header does not name.
 */
#ifndef KVM_ABI_H
#define KVM_ABI_H

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#include "base/types.h"

#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1ul << 2)

struct kvm_userspace_memory_region2 {
	__u32 slot;
	__u32 flags;
	__u64 guest_phys_addr;
	__u64 memory_size;
	__u64 userspace_addr;
	__u64 guest_memfd_offset;
	__u32 guest_memfd;
	__u32 pad1;
	__u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)

struct kvm_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 attributes;
	__u64 flags;
};
#define KVM_SET_MEMORY_ATTRIBUTES    _IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE (1ull << 3)

struct kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)

struct kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif
#ifndef KVM_MEMORY_EXIT_FLAG_PRIVATE
#define KVM_MEMORY_EXIT_FLAG_PRIVATE (1ull << 3)
#endif
#ifndef KVM_RUN_X86_GUEST_MODE
#define KVM_RUN_X86_GUEST_MODE (1 << 2)
#endif
#ifndef KVM_EXIT_HYPERCALL_LONG_MODE
#define KVM_EXIT_HYPERCALL_LONG_MODE 1ull
#endif
#ifndef KVM_X86_DEFAULT_VM
#define KVM_X86_DEFAULT_VM	0
#define KVM_X86_SW_PROTECTED_VM 1
#endif

#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_PMU_EVENT_MASKED_EVENTS 226
#define KVM_CAP_USER_MEMORY2		231
#define KVM_CAP_MEMORY_FAULT_INFO	232
#define KVM_CAP_MEMORY_ATTRIBUTES	233
#define KVM_CAP_GUEST_MEMFD		234
#define KVM_CAP_VM_TYPES		235
#define KVM_CAP_PRE_FAULT_MEMORY	236
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS	237
#define KVM_CAP_X86_GUEST_MODE		238
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

#ifndef KVM_X86_QUIRK_SLOT_ZAP_ALL
#define KVM_X86_QUIRK_SLOT_ZAP_ALL (1 << 7)
#endif
#ifndef KVM_X86_QUIRK_STUFF_FEATURE_MSRS
#define KVM_X86_QUIRK_STUFF_FEATURE_MSRS (1 << 8)
#endif

#ifndef KVM_X86_GRP_SYSTEM
#define KVM_X86_GRP_SYSTEM 0
#endif
#ifndef KVM_X86_XCOMP_GUEST_SUPP
#define KVM_X86_XCOMP_GUEST_SUPP 0
#endif

/* Limits of the kernel's x86 KVM. */
#define KVM_ABI_MAX_VCPUS      1024u
#define KVM_ABI_MAX_VCPU_IDS   4096u
#define KVM_ABI_USER_SLOTS     32764u /* slots 32764…32766 are KVM's own */
#define KVM_ABI_MAX_CPUID      256u
#define KVM_ABI_MAX_IRQ_ROUTES 4096u
#define KVM_ABI_MAX_SLOT_PAGES ((1ull << 31) - 1)
#define KVM_ABI_MAX_GPA_BITS   52u

/* Results of hypercalls. */
#define KVM_HC_RET_ENOSYS     (-1000ll)
#define KVM_HC_RET_EFAULT     (-14ll)
#define KVM_HC_RET_EINVAL     (-22ll)
#define KVM_HC_RET_EPERM      (-1ll)
#define KVM_HC_RET_EOPNOTSUPP (-95ll)

#endif
