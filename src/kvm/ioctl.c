/*
 * Dispatch: a request is looked up in the rows of its kind of descriptor, its argument is copied
 * in, the handler runs, the argument is copied out. One that is not there is -ENOTTY on a VM and
 * -EINVAL on the other two, as in the kernel.
 */
#include "kvm/ioctl.h"

#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>

enum how { VALUE, USER, IN, OUT, INOUT };

/* Room for the largest fixed-size argument. */
#define ARG_MAX_SIZE 1040

typedef int handler_fn(void *object, void *data, unsigned long arg);

struct row {
	u32 req;
	u16 how, size;
	handler_fn *handler;
	const char *name;
};

#define SIZE_OF_VALUE(type) 0
#define SIZE_OF_USER(type)  0
#define SIZE_OF_IN(type)    sizeof(type)
#define SIZE_OF_OUT(type)   sizeof(type)
#define SIZE_OF_INOUT(type) sizeof(type)
/* The handlers differ only in the type of their first pointer. */
#define ROW(request, how, type, handler) \
	{(u32)request, how, SIZE_OF_##how(type), (handler_fn *)(void *)handler, #request},

static const struct row rows_sys[] = {
#define IOCTL_SYS ROW
#include "kvm/ioctl.def"
};
static const struct row rows_vm[] = {
#define IOCTL_VM ROW
#include "kvm/ioctl.def"
};
static const struct row rows_vcpu[] = {
#define IOCTL_VCPU ROW
#include "kvm/ioctl.def"
};

/* Place of each request in its table; the compiler makes the search. */
enum {
#define IOCTL_SYS(request, how, type, handler) SYS_##handler,
#include "kvm/ioctl.def"
};
enum {
#define IOCTL_VM(request, how, type, handler) VM_##handler,
#include "kvm/ioctl.def"
};
enum {
#define IOCTL_VCPU(request, how, type, handler) VCPU_##handler,
#include "kvm/ioctl.def"
};

#define IOCTL_SYS(request, how, type, handler) \
	_Static_assert(SIZE_OF_##how(type) <= ARG_MAX_SIZE, "argument too large");
#define IOCTL_VM   IOCTL_SYS
#define IOCTL_VCPU IOCTL_SYS
#include "kvm/ioctl.def"

static const struct row *find_sys(u32 req)
{
	switch (req) {
#define IOCTL_SYS(request, how, type, handler) \
	case (u32)request:                     \
		return &rows_sys[SYS_##handler];
#include "kvm/ioctl.def"
	}
	return NULL;
}

static const struct row *find_vm(u32 req)
{
	switch (req) {
#define IOCTL_VM(request, how, type, handler) \
	case (u32)request:                    \
		return &rows_vm[VM_##handler];
#include "kvm/ioctl.def"
	}
	return NULL;
}

static const struct row *find_vcpu(u32 req)
{
	switch (req) {
#define IOCTL_VCPU(request, how, type, handler) \
	case (u32)request:                      \
		return &rows_vcpu[VCPU_##handler];
#include "kvm/ioctl.def"
	}
	return NULL;
}

const char *ioctl_name(enum anykvm_kind kind, u32 req)
{
	const struct row *row = kind == ANYKVM_SYSTEM ? find_sys(req)
				: kind == ANYKVM_VM   ? find_vm(req)
				: kind == ANYKVM_VCPU ? find_vcpu(req)
						      : NULL;

	return row ? row->name : NULL;
}

static long row_call(const struct row *row, void *object, struct vcpu *vcpu, unsigned long arg)
{
	u64 data[ARG_MAX_SIZE / 8];
	int ret;

	if (row->how == IN || row->how == INOUT) {
		if (user_copy_in(data, arg, row->size))
			return -EFAULT;
	} else if (row->how == OUT) {
		__builtin_memset(data, 0, row->size);
	}
	if (vcpu) {
		pthread_mutex_lock(&vcpu->mutex);
		vcpu_section_enter(vcpu);
	}
	ret = row->handler(object, data, arg);
	if (vcpu) {
		vcpu_section_leave(vcpu);
		pthread_mutex_unlock(&vcpu->mutex);
	}
	if (ret >= 0 && (row->how == OUT || row->how == INOUT) &&
	    user_copy_out(arg, data, row->size))
		return -EFAULT;
	return ret;
}

static long ioctl_sys(struct fd_file *file, u32 req, unsigned long arg)
{
	const struct row *row = find_sys(req);

	return row ? row_call(row, file->object, NULL, arg) : -EINVAL;
}

static long ioctl_vm(struct fd_file *file, u32 req, unsigned long arg)
{
	const struct row *row = find_vm(req);

	return row ? row_call(row, file->object, NULL, arg) : -ENOTTY;
}

static void run_cancelled(void *arg)
{
	struct vcpu *vcpu = arg;

	vcpu_run_abandon(vcpu);
	pthread_mutex_unlock(&vcpu->mutex);
}

/*
 * The client may end its thread by asynchronous cancellation while the guest runs, as it may with
 * the kernel's KVM_RUN: what KVM_RUN holds is given back then.
 */
static long run_vcpu(struct vcpu *vcpu)
{
	long ret;

	pthread_mutex_lock(&vcpu->mutex);
	pthread_cleanup_push(run_cancelled, vcpu);
	ret = vcpu_run(vcpu);
	pthread_cleanup_pop(0);
	pthread_mutex_unlock(&vcpu->mutex);
	return ret;
}

static long ioctl_vcpu(struct fd_file *file, u32 req, unsigned long arg)
{
	struct vcpu *vcpu = file->object;
	const struct row *row;

	if (LIKELY(req == (u32)KVM_RUN))
		return arg ? -EINVAL : run_vcpu(vcpu);
	row = find_vcpu(req);
	return row ? row_call(row, vcpu, vcpu, arg) : -EINVAL;
}

int vcpu_ioctl_run(struct vcpu *vcpu, void *data, unsigned long arg)
{
	(void)vcpu;
	(void)data;
	(void)arg;
	return -EINVAL; /* ioctl_vcpu() takes it before the table */
}

static void release_sys(struct fd_file *file)
{
	system_put(file->object);
}

static void release_vm(struct fd_file *file)
{
	vm_put(file->object);
}

static void release_vcpu(struct fd_file *file)
{
	vm_put(((struct vcpu *)file->object)->vm);
}

const struct fd_ops fd_system_ops = {
	.kind = ANYKVM_SYSTEM,
	.ioctl = ioctl_sys,
	.release = release_sys,
};

const struct fd_ops fd_vm_ops = {
	.kind = ANYKVM_VM,
	.ioctl = ioctl_vm,
	.release = release_vm,
};

const struct fd_ops fd_vcpu_ops = {
	.kind = ANYKVM_VCPU,
	.ioctl = ioctl_vcpu,
	.mmap = vcpu_mmap,
	.release = release_vcpu,
};
