/*
 * Virtual CPUs: one thread each, which sits in KVM_RUN and dispatches its exits.
 *
 * The set is RUNNING, PAUSED or STOPPING. The main thread changes the state, kicks every vCPU
 * and waits; each vCPU thread looks at the state before it enters the guest. While paused, every
 * thread is outside KVM_RUN with its last exit completed, so any ioctl may be made on the vCPUs.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include "vmm/types.h"

#include "vmm/accel.h"
#include "vmm/boot.h"
#include "vmm/bus.h"
#include "vmm/memory.h"
#include "vmm/power.h"

#define VCPU_EXITS_MAX 48 /* exit reasons that are counted one by one */

struct vcpu_set;

struct vcpu {
	struct vcpu_set *set;
	unsigned id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	GThread *thread;
	pthread_t pthread;		/* valid once started is set */
	bool started, parked, finished; /* set->lock */
	u64 exits[VCPU_EXITS_MAX];	/* written by the vCPU's thread only */
	/* The debugger's: */
	bool held;	/* atomic: stays parked while the set runs */
	bool debug_hit; /* set->lock, or while parked: debug_exit is news */
	struct kvm_debug_exit_arch debug_exit;
	u32 debug_control; /* main thread: last KVM_SET_GUEST_DEBUG */
};

enum vcpu_state { VCPU_RUNNING, VCPU_PAUSED, VCPU_STOPPING };

struct vcpu_set {
	const struct accel *accel;
	int vm_fd;
	struct bus *pio, *mmio;
	struct power power;
	struct vcpu *vcpus;
	unsigned count;
	GMutex lock;
	GCond changed;
	int state;	 /* enum vcpu_state; atomic reads, written under lock */
	bool stop_asked; /* atomic: a vCPU ended the machine; threads leave the guest for good */
	char *crash;	 /* under lock: text of the first crash */
	struct profile *profile; /* NULL: none wanted */
	char **without;		 /* names of features that no vCPU shows, or NULL */
	/* Called by a vCPU's thread that has stopped the set by a debug exit; NULL: no debugger. */
	void (*debug_notify)(void *opaque);
	void *debug_opaque;
};

/** Creates the vCPUs; they do not run yet. */
bool vcpu_set_init(struct vcpu_set *set, const struct accel *accel, int vm_fd, unsigned count,
		   struct bus *pio, struct bus *mmio, const struct power *power, GError **error);
/** Sets CPUID, MSRs and registers: vCPU 0 at the entry, the others waiting for a SIPI. */
bool vcpu_set_boot(struct vcpu_set *set, const struct boot_entry *entry, GError **error);
/** Starts the threads. */
void vcpu_set_start(struct vcpu_set *set);
/** Main thread: pauses all vCPUs and waits until they are. */
void vcpu_set_pause(struct vcpu_set *set);
void vcpu_set_resume(struct vcpu_set *set);
/** Main thread, set paused: keeps one vCPU parked when the others resume, or lets it go too. */
void vcpu_hold(struct vcpu *vcpu, bool hold);
/** Main thread: ends and joins all threads. */
void vcpu_set_stop(struct vcpu_set *set);
/** Closes everything; threads must be stopped. */
void vcpu_set_free(struct vcpu_set *set);
/** Table of exit counts as text; threads must be stopped. */
char *vcpu_set_stats(const struct vcpu_set *set);
const char *vcpu_exit_name(unsigned reason);

/** Registers of a vCPU that is not in KVM_RUN, as lines of text. */
char *vcpu_dump(const struct vcpu *vcpu);
/** Its local APIC. */
char *vcpu_dump_lapic(const struct vcpu *vcpu);

/** Guest-virtual to guest-physical by the tables of a vCPU not in KVM_RUN; false: not mapped. */
bool vcpu_virt_to_phys(const struct vcpu *vcpu, const struct guest_memory *mem, u64 va, u64 *pa);

/* cpuid.c: the CPUID table of one vCPU from what the accelerator supports. */
struct kvm_cpuid2 *cpuid_supported(const struct accel *accel, GError **error);
/** May guests report pages by hypercall (KVM_HC_MAP_GPA_RANGE)? */
bool cpuid_reports_pages(const struct accel *accel);
/** Adapts the table in place to a vCPU: APIC id, topology of count single-thread cores. */
void cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned count);

/* vcpu_state.c */
bool vcpu_boot_state(struct vcpu *vcpu, const struct boot_entry *entry, GError **error);

#endif
