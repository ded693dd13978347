/*
 * The ioctl table. ioctl.def has one row for each request and kind of descriptor:
 *
 *	IOCTL_SYS(request, how, type, handler)     IOCTL_VM(…)     IOCTL_VCPU(…)
 *
 * `how` says what the argument is:
 *	VALUE  a number, given to the handler as `arg`
 *	USER   a pointer that the handler reads by itself (structures of variable length)
 *	IN     struct `type` is copied in first          (-EFAULT)
 *	OUT    struct `type` is cleared, filled by the handler and copied out
 *	INOUT  both
 *
 * Handlers get the object, `data` (the copy, for IN, OUT and INOUT) and `arg`, and return a
 * result ≥ 0 or -errno. IOCTL_VCPU handlers run with the vCPU's mutex held, in a section
 * (kvm/request.h).
 */
#ifndef KVM_IOCTL_H
#define KVM_IOCTL_H

#include "kvm/abi.h"
#include "kvm/fd.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

#define IOCTL_SYS(request, how, type, handler) \
	int handler(struct system *sys, void *data, unsigned long arg);
#define IOCTL_VM(request, how, type, handler) \
	int handler(struct vm *vm, void *data, unsigned long arg);
#define IOCTL_VCPU(request, how, type, handler) \
	int handler(struct vcpu *vcpu, void *data, unsigned long arg);
#include "kvm/ioctl.def"

extern const struct fd_ops fd_system_ops, fd_vm_ops, fd_vcpu_ops;

/** The name of a request as the API document has it, or NULL. */
const char *ioctl_name(enum anykvm_kind kind, u32 req);

#endif
