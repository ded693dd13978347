/*
 * One virtual CPU of the API: the processor (struct cpu) and everything that KVM keeps around it.
 *
 * `mutex` is held by every vCPU ioctl, so by KVM_RUN while the guest runs. Other threads reach a
 * vCPU only through requests (kvm/request.h), the latches in `struct vcpu_latch` and its APIC.
 */
#ifndef KVM_VCPU_H
#define KVM_VCPU_H

#include "cpu/cpu.h"
#include "irqchip/lapic.h"
#include "kvm/abi.h"
#include "kvm/halt.h"
#include "kvm/vm.h"

#include <pthread.h>
#include <signal.h>

#define VCPU_RUN_PAGES 3 /* kvm_run, port data, coalesced ring */

/* What KVM_RUN does first on re-entry, to finish the exit before. */
enum vcpu_completion {
	COMPLETE_NOTHING,
	COMPLETE_PIO,
	COMPLETE_MMIO,
	COMPLETE_MSR,
	COMPLETE_HYPERCALL,
	COMPLETE_HYPERCALL_32,
};

/* Statistics of a vCPU; kvm/stats.c names them. Written by the vCPU's thread. */
struct vcpu_stats {
	u64 exits, io_exits, mmio_exits, signal_exits, irq_window_exits, nmi_window_exits;
	u64 halt_exits, halt_wakeup, request_irq_exits, irq_exits, host_state_reload;
	u64 halt_attempted_poll, halt_successful_poll, halt_poll_invalid;
	u64 halt_poll_success_ns, halt_poll_fail_ns, halt_wait_ns;
	u64 hypercalls, irq_injections, nmi_injections, req_event, tlb_flush;
	u64 blocking, guest_mode;
};

/* State that any thread may write. */
struct vcpu_latch {
	u64 requests; /* REQ_* bits */
	u32 kicked;   /* KVM_RUN must return -EINTR */
	u32 waiting;  /* futex: 1 while the vCPU sleeps in HLT */
	u32 section;  /* futex: odd while the vCPU may hold published pointers */
	u32 section_waiters;
	u32 sync_wanted, sync_done; /* generations of vm_sync() */
	u64 thread;		    /* thread inside KVM_RUN (its thread pointer), 0: none */
	u32 nmi_queued;
	u32 init_sipi; /* LATCH_INIT, LATCH_SIPI */
	u32 sipi_vector;
	u32 unhalted;
};

#define LATCH_INIT 1u
#define LATCH_SIPI 2u

/* kvm/pv.c */
struct vcpu_pv {
	u64 system_time; /* MSR_KVM_SYSTEM_TIME */
	u64 steal_time;
	u64 eoi;
	u64 poll_control;
	u64 async_pf_en, async_pf_int;
	u64 migration_control;
	bool guest_stopped;	    /* KVM_KVMCLOCK_CTRL */
	u64 steal_last;		    /* run delay at the last update, ns; 0: none yet */
	u64 steal_read, steal_left; /* host TSC of the last question, of the last suspension */
	u64 steal_thread;	    /* whose delay it is */
	int steal_fd;		    /* its schedstat file; 0: none */
	bool eoi_offered;
};

struct vcpu {
	struct vm *vm;
	u32 id, index;
	pthread_mutex_t mutex;
	struct vcpu_latch latch;
	struct lapic *apic; /* NULL: interrupt controllers are in user space */

	/* Pages shared with the client. */
	struct kvm_run *run;
	u8 *pio_page;
	void *run_pages;
	void *dirty_ring; /* struct kvm_dirty_gfn[] */
	u32 dirty_ring_entries, dirty_ring_head, dirty_ring_reset;
	struct futex_lock dirty_lock;
	bool dirty_full;

	/* Run state; under mutex. */
	u32 mp_state;
	enum vcpu_completion completion;
	u32 mmio_sent; /* of cpu.mmio.write[] */
	u64 mmio_rip;  /* of the instruction whose read the client answers */
	u8 hypercall_len;
	bool ran;      /* KVM_RUN happened: CPUID is fixed */
	bool has_code; /* guest code ran since translated code was dropped */
	bool sigmask_set;
	sigset_t sigmask;
	struct timer signal_timer; /* wakes guest code to look for signals */
	struct timer pmu_timer;	   /* a counter of cycles overflows */
	struct timer nested_timer; /* VMX preemption timer of a nested guest */
	bool pmu_filter_changed;   /* atomic */
	bool interrupt_injected;   /* user space's controller: KVM_INTERRUPT */
	bool interrupt_soft;
	u8 interrupt_vector;
	bool nmi_injected;     /* the client's: behind cpu.exc, whatever is masked */
	bool interrupt_behind; /* … and the injected interrupt behind its handler */
	u64 cr8;	       /* without a local APIC */
	u64 apic_base_user;
	u64 smi_count;
	bool smm_inside_nmi;
	bool l2_halted;	     /* a nested guest was in HLT, and has not run since */
	bool request_window; /* what run->request_interrupt_window asked */
	bool eoi_exit_pending;
	u8 eoi_exit_vector;
	bool tpr_reporting;
	u64 vapic_addr;
	u64 msr_exit_reason;
	u32 msr_exit_index;
	bool set_tpr_exit;

	/* CPUID as the client set it (cpu.cpuid has the dynamic bits in it). */
	struct kvm_cpuid_entry2 *cpuid;
	u32 cpuid_count;

	/* Time. */
	u64 tsc_khz; /* the guest's, 0: the host's; clock_vcpu_khz() */
	bool tsc_scaled;

	struct vcpu_pv pv;
	struct vcpu_halt halt;
	struct kvm_guest_debug debug;
	u64 dr6_set, dr7_set; /* KVM_SET_DEBUGREGS, as it was */
	bool pv_cpuid_enforced;
	u64 mce_banks;
	struct vcpu_stats stats;

	struct cpu cpu; /* last: what it begins with shares pages with the above */
};

static inline struct vcpu *vcpu_of(struct cpu *cpu)
{
	return CONTAINER_OF(cpu, struct vcpu, cpu);
}

/** KVM_CREATE_VCPU: the new vCPU's descriptor or -errno. */
int vcpu_create(struct vm *vm, unsigned long id);
/** Frees a vCPU that is out of the VM's table; nobody may use it any more. */
void vcpu_destroy(struct vcpu *vcpu);

/** Power-on reset, or INIT. Under mutex. */
void vcpu_reset(struct vcpu *vcpu, bool init);

/** mmap of a vCPU descriptor: address or -errno. */
struct fd_file;
long vcpu_mmap(struct fd_file *file, size_t length, int prot, int flags, u64 offset);

/** KVM_RUN. */
int vcpu_run(struct vcpu *vcpu);
/** The thread is being cancelled inside vcpu_run(): gives back what it holds, but the mutex. */
void vcpu_run_abandon(struct vcpu *vcpu);

/** Registers changed from outside: recompute what depends on them. Under mutex. */
void vcpu_state_changed(struct vcpu *vcpu);

/** IA32_APIC_BASE, wherever the APIC is. */
u64 vcpu_apic_base(const struct vcpu *vcpu);
/** 0, or 1: refused. `host`: by the client. */
int vcpu_set_apic_base(struct vcpu *vcpu, u64 value, bool host);

/** True while KVM would take an external interrupt from user space now. */
bool vcpu_ready_for_injection(struct vcpu *vcpu);

#endif
