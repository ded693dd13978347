/*
 * anykvm.h - the Linux KVM API, in this process, without a kernel module
 *
 * These functions stand for open(2), ioctl(2), mmap(2), munmap(2), close(2) and read(2) on
 * /dev/kvm and on the descriptors that come from it. Requests, structures, flags, exit reasons
 * and errors are those of <linux/kvm.h> and of the kernel's "KVM API" document for Linux 6.12,
 * for an x86-64 host; docs/api.md of this project lists what is there and what differs.
 *
 *	int kvm = anykvm_open(NULL);
 *	int vm = anykvm_ioctl(kvm, KVM_CREATE_VM, 0);
 *	int vcpu = anykvm_ioctl(vm, KVM_CREATE_VCPU, 0);
 *	struct kvm_run *run = anykvm_mmap(anykvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
 *					  PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
 *
 * Descriptors are numbers of the process's own descriptor table (an eventfd holds each
 * place), so they never collide with others and poll(2) finds them ready. Close them with
 * anykvm_close(), duplicate them with anykvm_dup(); plain close(2) would leave the object behind.
 *
 * Threads: every function may be called from any thread. KVM_RUN runs the guest on the calling
 * thread. Guest memory is the client's own mapping, used in place.
 *
 * Signals: the library handles SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP for faults of its own
 * code, from the first anykvm_open() on, and passes all others on to the handlers that were there.
 * A client that installs handlers for these signals later must call the earlier ones for faults
 * that are not its own. A client's handler for another signal runs whenever the signal arrives,
 * also during KVM_RUN; to make KVM_RUN return it calls anykvm_kick().
 */
#ifndef ANYKVM_H
#define ANYKVM_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ANYKVM_API __attribute__((visibility("default")))

/**
 * KVM_CHECK_EXTENSION number by which a client learns that it talks to anykvm: the answer is
 * ANYKVM_INTERFACE_VERSION, where a kernel's KVM answers 0.
 */
#define ANYKVM_CAP_VERSION	 0x616b766d
#define ANYKVM_INTERFACE_VERSION 1

/**
 * KVM_ENABLE_CAP on a VM, before it has vCPUs: programs of the guest that run for long are given a
 * second mapping of their memory, in which the host's MMU translates their addresses.
 *
 * @args[0]: ANYKVM_WINDOW_AUTO, or ANYKVM_WINDOW_ALWAYS for every program at once (tests)
 * The client promises that all memory slots are mapped MAP_SHARED, and that what is mapped at their
 * addresses does not change while they exist. One VM of a process can have it: it takes the 64 TiB
 * of addresses from 1.1 TiB on, and 516 KiB around 112 TiB for a stack, on which KVM_RUN then has the
 * client's signal handlers, too, unless they use one of their own (SA_ONSTACK). EBUSY: something else
 * is there; ENOMEM. For a second and a third vCPU it takes 16 TiB from 65 TiB and 10 from 96 on, and
 * stacks around 124 and 126 TiB; where these are not free, those do without.
 */
#define ANYKVM_CAP_WINDOW    0x616b7677
#define ANYKVM_WINDOW_AUTO   1
#define ANYKVM_WINDOW_ALWAYS 2

/**
 * KVM_ENABLE_CAP on a VM, before it has vCPUs: the client tells of its writes. args[0] is 0.
 *
 * What a client writes to guest memory may be code that the library has translated. So the library compares
 * such code after each exit and after each interrupt that the client makes. That is not done
 * for a client that promises to call anykvm_memory_written() after each of its writes to guest memory.
 */
#define ANYKVM_CAP_WRITES_TOLD 0x616b7774

/**
 * Opens the system descriptor, as open("/dev/kvm").
 *
 * @options: NULL, or a comma-separated list:
 *	vendor=intel|amd   what CPU guests see (default intel)
 *	cpu=MODEL          what host to be taken for: a name of src/cpu/model.def, such as Haswell or
 *	                   EPYC-Rome; its vendor becomes the guests', and KVM_GET_SUPPORTED_CPUID
 *	                   leaves out what is newer (default: all that the host can do)
 *	cache=N            MiB of address space for each vCPU's translated code (default 256)
 *	trace=FD           writes a line to descriptor FD at each trace point of KVM's (kvm_exit …);
 *	                   trace=FD:kvm_pio+kvm_msr: at these only
 *	perfmap            names translated code in /tmp/perf-PID.map, for perf(1)
 * Returns a descriptor, or -1 and errno: EINVAL (an option is unknown or has a bad value),
 * EMFILE, ENFILE, ENOMEM.
 */
ANYKVM_API int anykvm_open(const char *options);

/** What a kernel has as parameters of its module kvm, with the values that anykvm_open() sets. */
struct anykvm_parameters {
	unsigned nx_huge_pages;	     /* 0 (as on a processor without the erratum) or 1 */
	unsigned nx_recovery_ratio;  /* nx_huge_pages_recovery_ratio: 60; 0: none is recovered */
	unsigned nx_recovery_period; /* nx_huge_pages_recovery_period_ms: 0, chosen by the ratio */
	unsigned eager_page_split;   /* 1 or 0 */
};

/**
 * Sets them: of the system descriptor, for VMs that it makes from now on; of a VM descriptor, for this
 * VM at once. They change what the statistics of pages given to a VM count (docs/mmu.md).
 * Returns 0, or -1 and errno: EBADF, EINVAL (another kind of descriptor, a value out of range).
 */
ANYKVM_API int anykvm_set_parameters(int fd, const struct anykvm_parameters *parameters);

/**
 * As ioctl(2).
 *
 * @arg: a value or a pointer, as the request says; a bad pointer gives EFAULT.
 * Returns 0 or more, or -1 and errno. EBADF: not a descriptor of ours; EINVAL (system and vCPU
 * descriptors) or ENOTTY (all others): the request does not belong to this kind of descriptor, or
 * is not there.
 *
 * KVM_RUN returns EAGAIN, as in the kernel, once a waiting application processor was woken by
 * INIT and SIPI: call it again.
 */
ANYKVM_API int anykvm_ioctl(int fd, unsigned long request, unsigned long arg);

/**
 * As mmap(2) of a vCPU descriptor: the kvm_run page, the port data page and the coalesced ring
 * (offset 0, KVM_GET_VCPU_MMAP_SIZE bytes), or the dirty ring (offset
 * KVM_DIRTY_LOG_PAGE_OFFSET pages). The kernel chooses the address.
 * Returns the address, or MAP_FAILED and errno.
 */
ANYKVM_API void *anykvm_mmap(size_t length, int prot, int flags, int fd, off_t offset);
ANYKVM_API int anykvm_munmap(void *addr, size_t length);

/** As read(2) and pread(2) of a KVM_GET_STATS_FD descriptor. Bytes read, or -1 and errno. */
ANYKVM_API ssize_t anykvm_read(int fd, void *buf, size_t size);
ANYKVM_API ssize_t anykvm_pread(int fd, void *buf, size_t size, off_t offset);

/**
 * As fallocate(2) of a KVM_CREATE_GUEST_MEMFD descriptor: FALLOC_FL_KEEP_SIZE allocates, with
 * FALLOC_FL_PUNCH_HOLE frees. Returns 0, or -1 and errno: EOPNOTSUPP (other modes), EINVAL (not
 * whole pages, or beyond the end), ENOMEM.
 */
ANYKVM_API int anykvm_fallocate(int fd, int mode, off_t offset, off_t length);

/**
 * As close(2). Objects live as KVM's do: a vCPU's descriptor keeps its VM alive.
 * Returns 0, or -1 and EBADF.
 */
ANYKVM_API int anykvm_close(int fd);

/**
 * As dup3(2) (new_fd >= 0) or fcntl(F_DUPFD_CLOEXEC) (new_fd < 0): another number for the same
 * object. A new_fd that is open is closed first. Returns the number, or -1 and errno.
 */
ANYKVM_API int anykvm_dup(int fd, int new_fd);

/**
 * For interposers: an existing descriptor `new_fd` (made by a dup-like system call) becomes one
 * more name of the object behind `fd`. Returns 0, or -1 and errno.
 */
ANYKVM_API int anykvm_adopt(int fd, int new_fd);

enum anykvm_kind {
	ANYKVM_NONE, /* not a descriptor of ours */
	ANYKVM_SYSTEM,
	ANYKVM_VM,
	ANYKVM_VCPU,
	ANYKVM_STATS,
	ANYKVM_DEVICE,
	ANYKVM_GUEST_MEMFD, /* KVM_CREATE_GUEST_MEMFD */
};

/** What a descriptor is. Async-signal-safe. */
ANYKVM_API enum anykvm_kind anykvm_kind(int fd);

/**
 * Makes a vCPU's KVM_RUN return -1 with errno EINTR: the one that is running, or else the next
 * one. This is what the arrival of a signal does to a kernel's KVM_RUN. Async-signal-safe; any
 * thread. Returns 0, or -1 and EBADF or EINVAL (not a vCPU).
 */
ANYKVM_API int anykvm_kick(int vcpu_fd);

/**
 * The client has written guest memory (ANYKVM_CAP_WRITES_TOLD); called before the guest is told, be it by an
 * interrupt, by an exit's end, or by memory. Costs some nanoseconds a page when there is no
 * code. Async-signal-safe; any thread.
 *
 * @gpa, @size: in bytes; what is not memory does no harm
 * Returns 0, or -1 and EBADF or EINVAL (not a VM, beyond 2^52).
 */
ANYKVM_API int anykvm_memory_written(int vm_fd, unsigned long gpa, unsigned long size);

enum anykvm_place {
	ANYKVM_PLACE_OTHER, /* nothing of the below */
	ANYKVM_PLACE_GUEST, /* translated guest code */
	ANYKVM_PLACE_GLUE,  /* the library's ways in and out of it */
};

/**
 * For sampling profilers: what the calling thread was doing at host address `pc` when a signal
 * interrupted it. Async-signal-safe.
 *
 * @rip, @cpl: for ANYKVM_PLACE_GUEST the guest instruction's address (0: unknown) and the guest's
 * privilege level.
 */
ANYKVM_API enum anykvm_place anykvm_place(unsigned long pc, unsigned long *rip, unsigned *cpl);

#ifdef __cplusplus
}
#endif

#endif
