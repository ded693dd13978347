/* ioctl: on the way to the engine, statistics and trace. */
#include "exec/exec.h"

#include "kvm/fd.h"
#include "kvm/ioctl.h"

#include <errno.h>

static bool makes_descriptor(u32 request)
{
	switch (request) {
	case (u32)KVM_CREATE_VM:
	case (u32)KVM_CREATE_VCPU:
	case (u32)KVM_GET_STATS_FD:
	case (u32)KVM_CREATE_GUEST_MEMFD:
		return true;
	}
	return false;
}

static int call_run(int fd, unsigned long arg)
{
	struct fd_file *file = fd_get(fd);
	int ret = -1;

	if (!file || file->ops->kind != ANYKVM_VCPU) {
		errno = EBADF;
		goto out;
	}
	ret = exec_run(file, arg);
	if (UNLIKELY(exec_options.stats) && !ret)
		exec_stats_exit(((struct vcpu *)file->object)->run->exit_reason);
out:
	if (file)
		fd_put(file);
	return ret;
}

/* What a guest may execute is as the program's file has it. Both structures begin alike. */
static void memory_set(const struct kvm_userspace_memory_region *region)
{
	if (exec_cpuid_trapped())
		exec_cpuid_restore(region->userspace_addr, region->memory_size);
	exec_window_check(region);
}

static int call(int fd, enum anykvm_kind kind, unsigned long request, unsigned long arg)
{
	int ret, error;

	if (LIKELY((u32)request == (u32)KVM_RUN && kind == ANYKVM_VCPU))
		return call_run(fd, arg);
	ret = anykvm_ioctl(fd, request, arg);
	if (ret >= 0 && makes_descriptor((u32)request)) {
		exec_fd_created(ret);
		if ((u32)request == (u32)KVM_CREATE_VM) {
			exec_parameters_apply(ret);
			exec_window_enable(ret);
		}
	}
	if (!ret && (u32)request == (u32)KVM_GET_SUPPORTED_CPUID)
		exec_cpuid_filter((struct kvm_cpuid2 *)arg);
	if (!ret && ((u32)request == (u32)KVM_SET_USER_MEMORY_REGION ||
		     (u32)request == (u32)KVM_SET_USER_MEMORY_REGION2))
		memory_set((const struct kvm_userspace_memory_region *)arg);
	if (UNLIKELY(exec_options.trace)) {
		error = errno;
		exec_trace_ioctl(fd, kind, (u32)request, arg, ret < 0 ? -error : ret);
		errno = error;
	}
	return ret;
}

int exec_ioctl(int fd, enum anykvm_kind kind, unsigned long request, unsigned long arg)
{
	u8 selector = exec_raw_selector;
	int ret, cancel;

	/* The descriptor of /dev/kvm works on in a child, what came from it does not. */
	if (UNLIKELY(!exec_fd_usable(fd)) && kind != ANYKVM_SYSTEM) {
		errno = EIO;
		return -1;
	}
	if (UNLIKELY(!exec_thread.ready))
		exec_thread_prepare();
	if (UNLIKELY(exec_options.stats))
		exec_stats_count(kind, (u32)request);
	exec_raw_selector = EXEC_RAW_PASS; /* the engine's own system calls */
	cancel = exec_cancel_off();
	ret = call(fd, kind, request, arg);
	exec_raw_selector = selector;
	exec_cancel_restore(cancel);
	return ret;
}
