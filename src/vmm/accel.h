/*
 * What runs the guest's processors: a real /dev/kvm or libanykvm, behind one small table.
 *
 * Everything above this table speaks the KVM API of <linux/kvm.h> and cannot tell the two apart,
 * so a difference in behaviour between them is a bug in one of them.
 */
#ifndef VMM_ACCEL_H
#define VMM_ACCEL_H

#include <anykvm.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/types.h>

#include "vmm/types.h"

/** KVM_CHECK_EXTENSION number that names anykvm: its interface version there, 0 on a real KVM. */
#define ACCEL_CAP_ANYKVM 0x616b766d

struct accel_ops {
	const char *name;
	/** Opens the system descriptor; options is a comma list or NULL. ≥ 0, or -errno. */
	int (*open)(const char *options);
	/** As ioctl(2): ≥ 0, or -1 and errno. */
	int (*ioctl)(int fd, unsigned long req, unsigned long arg);
	/** As mmap(2) of a vCPU descriptor: MAP_FAILED and errno on failure. */
	void *(*mmap)(size_t len, int prot, int flags, int fd, off_t off);
	int (*munmap)(void *addr, size_t len);
	/** As pread(2) of a statistics descriptor. */
	ssize_t (*pread)(int fd, void *buf, size_t size, off_t at);
	int (*close)(int fd);
	/** As anykvm_memory_written(), for ANYKVM_CAP_WRITES_TOLD; NULL where nobody asks for it. */
	int (*memory_written)(int vm_fd, unsigned long gpa, unsigned long size);
	/**
	 * As anykvm_place(): what this thread was doing at a host address when a signal came. NULL
	 * where guests run on the hardware.
	 */
	enum anykvm_place (*place)(unsigned long pc, unsigned long *rip, unsigned *cpl);
	/** Makes KVM_RUN of this vCPU return -1/EINTR soon; any thread may call it. */
	int (*vcpu_kick)(int vcpu_fd, pthread_t thread, struct kvm_run *run);
};

extern const struct accel_ops accel_kvm_ops;
extern const struct accel_ops accel_anykvm_ops;

/** An opened accelerator. */
struct accel {
	const struct accel_ops *ops;
	int fd;
};

/**
 * Opens the accelerator that a name asks for: "anykvm", "kvm", or "auto" (a real KVM where the
 * host has a usable one, else anykvm).
 * @options: for libanykvm, a comma list such as "vendor=intel"; ignored by a real KVM
 * @error:   set to a message of one line on failure; free with g_free()
 * Returns 0 or -errno.
 */
int accel_open(struct accel *accel, const char *name, const char *options, char **error);

/** Closes it; harmless on one that never opened (fd < 0). */
void accel_close(struct accel *accel);

/** ioctl with a pointer argument: ≥ 0, or -errno. */
int accel_ioctl(const struct accel *accel, int fd, unsigned long req, const void *arg);

/** ioctl with an integer argument: ≥ 0, or -errno. */
int accel_ioctl_value(const struct accel *accel, int fd, unsigned long req, unsigned long arg);

/** KVM_CHECK_EXTENSION on a system or VM descriptor; 0 when the extension is not there. */
int accel_extension(const struct accel *accel, int fd, int cap);

#endif
