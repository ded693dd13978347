/*
 * One virtual machine.
 *
 * Locks (docs/locking.md has the whole order): `lock` protects creation of vCPUs and irqchip and
 * the settings made by KVM_ENABLE_CAP; `slots_lock` protects memslots, I/O event descriptors and
 * coalesced zones. What a running vCPU reads without a lock is published by an atomic store and
 * freed after vm_sync() (kvm/request.h).
 */
#ifndef KVM_VM_H
#define KVM_VM_H

#include "base/trace.h"
#include "base/futex.h"
#include "base/timer.h"
#include "irqchip/irqchip.h"
#include "kvm/abi.h"
#include "mmu/mmu.h"

#include <anykvm.h>
#include <pthread.h>

struct vcpu;
struct memslot;
struct memattr;
struct ioeventfd_set;
struct irqfd_set;
struct coalesced;
struct msr_filter;
struct pmu_filter;

/* Settings of anykvm_open(), copied into every VM. */
struct system {
	u32 refs;
	enum cpu_vendor vendor;
	const struct cpu_model *model; /* or NULL */
	size_t cache_bytes;
	bool perfmap;
	struct cpu_cpuid *supported; /* what KVM_GET_SUPPORTED_CPUID answers */
	int supported_count;
	struct trace trace;
	struct futex_lock parameters_lock;
	struct anykvm_parameters parameters; /* of new VMs */
};

/** Where trace points go, or NULL. */
static inline const struct trace *system_trace(const struct system *sys)
{
	return sys->trace.points ? &sys->trace : NULL;
}

void system_get(struct system *sys);
void system_put(struct system *sys);

/* kvm/clock.c */
struct vm_clock {
	struct futex_lock lock;
	u64 tsc_base; /* host TSC at ns_base */
	u64 ns_base;  /* host time (CLOCK_MONOTONIC) at tsc_base */
	s64 offset;   /* kvmclock = host time + offset */
	/* Synchronisation of the vCPUs' TSCs (KVM_SET_MSRS of IA32_TSC). */
	u64 tsc_write_host; /* host TSC of the last write */
	u64 tsc_write;	    /* its value */
	s64 tsc_offset;	    /* the offset that it gave */
	u64 tsc_write_khz;  /* the writer's rate, 0: the host's */
	bool tsc_user_set;
	u64 wall_msr;
};

/* Counters of the VM's statistics descriptor. */
struct vm_stats {
	u64 remote_tlb_flush, remote_tlb_flush_requests;
	u64 memslot_changes;
	/* Filled in when they are read (kvm/pages.c). */
	u64 pages_4k, pages_2m, pages_1g, nx_lpage_splits;
};

struct vm {
	struct mmu_vm mem;
	u32 refs; /* descriptors: the VM's, its vCPUs', its devices' */
	struct system *sys;
	u32 type;
	pthread_mutex_t lock, slots_lock;

	struct vcpu **vcpus; /* KVM_ABI_MAX_VCPUS places, filled from the front; lock to write */
	u32 vcpu_count;	     /* atomic */
	u32 max_vcpu_id;     /* KVM_CAP_MAX_VCPU_ID; 0: not set */
	u32 bsp_id;

	/* Memory; slots_lock. */
	struct memslot **slots[2];
	u32 slot_count[2];
	u64 slot_pages;
	bool private_mem;      /* KVM_X86_SW_PROTECTED_VM */
	struct memattr *attrs; /* atomic; NULL: all is shared */
	u64 manual_dirty;      /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2's flags */
	u32 dirty_ring_bytes;  /* KVM_CAP_DIRTY_LOG_RING; 0: bitmap */
	bool dirty_ring_bitmap;
	struct anykvm_parameters parameters;
	bool nx_disabled; /* KVM_CAP_VM_DISABLE_NX_HUGE_PAGES; atomic, lock to write */
	u32 nx_recovered; /* when pages split for fetches were given up last (pages_now()) */

	/* Interrupts. */
	struct irqchip *irqchip; /* atomic: published by KVM_CREATE_IRQCHIP; NULL before */
	struct timer_service *timers;
	bool pit;
	u64 x2apic_api;
	struct irqfd_set *irqfds;
	struct ioeventfd_set *ioeventfds; /* atomic; slots_lock to write */
	struct coalesced *coalesced;	  /* slots_lock to write */
	void *coalesced_page;		  /* the last of run_pages */
	void *run_pages; /* VCPU_RUN_PAGES as the first vCPU shows them: its own two, the ring */
	bool run_pages_used;
	struct futex_lock coalesced_lock; /* writers of the ring */

	/* Time. */
	struct vm_clock clock;
	u64 default_tsc_khz; /* 0: the host's */

	/* Settings. */
	u64 disabled_quirks;
	u64 user_msr_mask;	       /* KVM_CAP_X86_USER_SPACE_MSR */
	struct msr_filter *msr_filter; /* atomic; lock to write */
	struct pmu_filter *pmu_filter; /* likewise */
	bool pmu_disabled;	       /* KVM_CAP_PMU_CAPABILITY */
	u64 hypercall_exits;	       /* KVM_CAP_EXIT_HYPERCALL */
	u64 disabled_exits;	       /* KVM_CAP_X86_DISABLE_EXITS */
	u32 halt_poll_ns;	       /* a halted vCPU polls for so long at most; atomic */
	bool exception_payload, triple_fault_event;
	bool platform_info_hidden;
	u64 tss_addr, identity_map_addr;

	struct vm_stats stats;
};

/** KVM_CREATE_VM: the new VM's descriptor or -errno. */
int vm_create(struct system *sys, unsigned long type);
void vm_get(struct vm *vm);
/** The last reference destroys the VM with its vCPUs. */
void vm_put(struct vm *vm);

static inline u32 vm_vcpu_count(const struct vm *vm)
{
	return __atomic_load_n(&vm->vcpu_count, __ATOMIC_ACQUIRE);
}

static inline struct irqchip *vm_irqchip(const struct vm *vm)
{
	return __atomic_load_n(&vm->irqchip, __ATOMIC_ACQUIRE);
}

/** KVM_CREATE_IRQCHIP or a split one. Called with lock held, without vCPUs. */
int vm_irqchip_create(struct vm *vm, enum irqchip_mode mode);

/** The VM has PIC and IOAPIC (KVM_CREATE_IRQCHIP). */
static inline bool vm_pic_inside(const struct vm *vm)
{
	struct irqchip *chip = vm_irqchip(vm);

	return chip && irqchip_mode(chip) == IRQCHIP_FULL;
}

/** The vCPU with an id, or NULL. Any thread. */
struct vcpu *vm_vcpu_by_id(struct vm *vm, u32 id);

#endif
