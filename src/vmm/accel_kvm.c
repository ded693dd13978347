/* The real /dev/kvm. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/accel.h"

static void kick_ignore(int sig)
{
	(void)sig; /* its arrival alone ends KVM_RUN */
}

static int kvm_open(const char *options)
{
	struct sigaction sa = {.sa_handler = kick_ignore};
	int fd;

	(void)options;
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGUSR1, &sa, NULL))
		return -errno;
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int kvm_ioctl(int fd, unsigned long req, unsigned long arg)
{
	return ioctl(fd, req, arg);
}

static void *kvm_mmap(size_t len, int prot, int flags, int fd, off_t off)
{
	return mmap(NULL, len, prot, flags, fd, off);
}

/* immediate_exit catches a vCPU thread that is on its way into KVM_RUN, the signal one inside. */
static int kvm_vcpu_kick(int vcpu_fd, pthread_t thread, struct kvm_run *run)
{
	(void)vcpu_fd;
	__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	return pthread_kill(thread, SIGUSR1);
}

const struct accel_ops accel_kvm_ops = {
	.name = "kvm",
	.open = kvm_open,
	.ioctl = kvm_ioctl,
	.mmap = kvm_mmap,
	.munmap = munmap,
	.pread = pread,
	.close = close,
	.vcpu_kick = kvm_vcpu_kick,
};
