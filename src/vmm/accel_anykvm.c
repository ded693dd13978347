/* libanykvm: the same API in this process. */
#include <anykvm.h>
#include <errno.h>

#include "vmm/accel.h"

static int provider_open(const char *options)
{
	int fd = anykvm_open(options);

	return fd < 0 ? -errno : fd;
}

static int provider_kick(int vcpu_fd, pthread_t thread, struct kvm_run *run)
{
	(void)thread;
	__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	return anykvm_kick(vcpu_fd);
}

const struct accel_ops accel_anykvm_ops = {
	.name = "anykvm",
	.open = provider_open,
	.ioctl = anykvm_ioctl,
	.mmap = anykvm_mmap,
	.munmap = anykvm_munmap,
	.pread = anykvm_pread,
	.memory_written = anykvm_memory_written,
	.place = anykvm_place,
	.close = anykvm_close,
	.vcpu_kick = provider_kick,
};
