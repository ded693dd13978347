/*
 * vmcs.h - a VMCS in memory
 */
#ifndef VMX_VMCS_H
#define VMX_VMCS_H

#include "base/types.h"
#include "cpu/vmx.h"

#define VMCS_SHADOW BIT(31) /* of the revision: a shadow VMCS */

struct vmcs {
	union {
		struct {
			u32 revision;
			u32 abort;
			u32 launch_state; /* 0: clear, 1: launched */
#define FIELD(type, name, encoding) type name;
#define HOLE(type, name, count)	    type name[count];
#include "nested/vmx/vmcs.def"
		};
		u8 bytes[VMCS_BYTES];
	};
} __attribute__((aligned(8)));

_Static_assert(sizeof(struct vmcs) == VMCS_BYTES, "a VMCS is a page");
_Static_assert(__builtin_offsetof(struct vmcs, io_bitmap_a) == 40, "layout of KVM");
_Static_assert(__builtin_offsetof(struct vmcs, tsc_multiplier) == 328, "layout of KVM");
_Static_assert(__builtin_offsetof(struct vmcs, guest_cr0) == 424, "layout of KVM");
_Static_assert(__builtin_offsetof(struct vmcs, pin_based_vm_exec_control) == 744, "layout of KVM");
_Static_assert(__builtin_offsetof(struct vmcs, virtual_processor_id) == 960, "layout of KVM");
_Static_assert(__builtin_offsetof(struct vmcs, host_es_selector) == 982, "layout of KVM");

/** Reads or writes a field by its encoding (bit 0: high half). False: there is no such field. */
bool vmcs_read(const struct vmcs *v, u32 encoding, u64 *value);
bool vmcs_write(struct vmcs *v, u32 encoding, u64 value);

/** True for the fields that the processor writes: exit information. */
static inline bool vmcs_read_only(u32 encoding)
{
	return (encoding >> 10 & 3) == 1;
}

#endif
