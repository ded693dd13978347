/*
 * KVM_RUN.
 *
 * One turn of the loop: handle requests, deliver events, allow polls to pass (cpu.poll = CPU_GO_ON), look
 * once more whether anything came in between, run guest code, turn its exit into kvm_run or go on.
 * The guest's FPU state stays in the registers from entry to exit, so nothing here uses vectors.
 */
#include "kvm/run.h"

#include "base/futex.h"
#include "base/mem.h"
#include "cpu/fpu.h"
#include "jit/jit.h"
#include "kvm/clock.h"
#include "kvm/dirty.h"
#include "kvm/nested.h"
#include "kvm/pmu.h"
#include "kvm/pv.h"
#include "kvm/regs.h"
#include "kvm/request.h"
#include "kvm/trace.h"
#include "nested/vmx/vmx.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How often a vCPU whose client uses KVM_SET_SIGNAL_MASK looks for signals. */
#define SIGNAL_POLL_NS 1000000ull
#define FOREVER_NS     3600000000000ull

bool run_signal_pending(struct vcpu *vcpu)
{
	sigset_t pending;
	const u64 *p = (const u64 *)&pending, *mask = (const u64 *)&vcpu->sigmask;

	if (LIKELY(!vcpu->sigmask_set))
		return false;
	if (syscall(SYS_rt_sigpending, &pending, 8))
		return false;
	return *p & ~*mask;
}

/* A kick, or a signal: KVM_RUN ends with -EINTR. */
static bool interrupted(struct vcpu *vcpu)
{
	if (UNLIKELY(__atomic_load_n(&vcpu->latch.kicked, __ATOMIC_SEQ_CST))) {
		__atomic_store_n(&vcpu->latch.kicked, 0, __ATOMIC_SEQ_CST);
		return true;
	}
	return run_signal_pending(vcpu);
}

static int end_interrupted(struct vcpu *vcpu)
{
	vcpu->stats.signal_exits++;
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return -EINTR;
}

/* --- requests ------------------------------------------------------------------------------------ */

static int handle_requests(struct vcpu *vcpu)
{
	const u64 mine = BIT64(REQ_EVENT) | BIT64(REQ_SMI) | BIT64(REQ_CLOCK) | BIT64(REQ_STEAL) |
			 BIT64(REQ_TRIPLE_FAULT) | BIT64(REQ_PMU);
	u64 got;

	vcpu_handle_memory_requests(vcpu);
	got = __atomic_load_n(&vcpu->latch.requests, __ATOMIC_SEQ_CST);
	if (LIKELY(!got))
		return RUN_GUEST;
	got = __atomic_fetch_and(&vcpu->latch.requests, ~mine, __ATOMIC_SEQ_CST);
	if (got & BIT64(REQ_SMI))
		vcpu->cpu.smi_pending = true;
	if (UNLIKELY(got & BIT64(REQ_PMU)))
		pmu_handle_request(vcpu);
	if (got & BIT64(REQ_CLOCK))
		pv_clock_update(vcpu);
	if (got & BIT64(REQ_STEAL))
		pv_steal_update(vcpu);
	if (got & BIT64(REQ_TRIPLE_FAULT)) {
		if (vcpu->cpu.guest_mode)
			return nested_triple_fault(vcpu);
		vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
		return RUN_USER;
	}
	return RUN_GUEST;
}

/* The client waits for the moment when it can hand an interrupt over. */
static int window_exit(struct vcpu *vcpu)
{
	if (LIKELY(!vcpu->request_window) || !vcpu_ready_for_injection(vcpu))
		return RUN_GUEST;
	vcpu->stats.irq_window_exits++;
	vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
	return RUN_USER;
}

/* Exits that something inside asked for. */
static int handle_wanted_exits(struct vcpu *vcpu)
{
	if (UNLIKELY(dirty_ring_full(vcpu))) {
		vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
		return RUN_USER;
	}
	vcpu->cpu.log_full = false;
	if (UNLIKELY(vcpu->eoi_exit_pending)) {
		vcpu->eoi_exit_pending = false;
		vcpu->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		vcpu->run->eoi.vector = vcpu->eoi_exit_vector;
		return RUN_USER;
	}
	if (UNLIKELY(vcpu->set_tpr_exit)) {
		vcpu->set_tpr_exit = false;
		vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
		return RUN_USER;
	}
	return window_exit(vcpu);
}

/* --- waiting --------------------------------------------------------------------------------------- */

/* System management mode and VMX root operation put INIT and SIPI off. */
static bool apic_events_due(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->latch.init_sipi, __ATOMIC_SEQ_CST) && !vcpu->cpu.smm &&
	       (!vcpu->cpu.vmx_on || vcpu->cpu.guest_mode);
}

void vcpu_accept_apic_events(struct vcpu *vcpu)
{
	u32 got;
	u8 vector;

	if (LIKELY(!apic_events_due(vcpu)))
		return;
	got = __atomic_exchange_n(&vcpu->latch.init_sipi, 0, __ATOMIC_ACQ_REL);
	if (UNLIKELY(vcpu->cpu.guest_mode)) {
		/* an INIT leaves the nested guest, a SIPI is lost there */
		if (got & LATCH_INIT) {
			vmx_leave(&vcpu->cpu, VMX_EVENT_INIT, -1,
				  vcpu->mp_state == KVM_MP_STATE_HALTED);
			vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
		}
		return;
	}
	if (got & LATCH_INIT) {
		vcpu_reset(vcpu, true);
		vcpu->mp_state = vcpu->id == vcpu->vm->bsp_id ? KVM_MP_STATE_RUNNABLE
							      : KVM_MP_STATE_INIT_RECEIVED;
	}
	if ((got & LATCH_SIPI) && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED) {
		struct cpu_seg *cs = &vcpu->cpu.seg[SEG_CS];

		vector = (u8)__atomic_load_n(&vcpu->latch.sipi_vector, __ATOMIC_ACQUIRE);
		cs->sel = (u16)(vector << 8);
		cs->base = (u64)vector << 12;
		vcpu->cpu.rip = 0;
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
		vcpu_state_changed(vcpu);
	}
}

/* The vCPU may leave its wait. */
static bool wait_over(struct vcpu *vcpu)
{
	if (apic_events_due(vcpu))
		return true;
	if (vcpu->mp_state != KVM_MP_STATE_HALTED)
		return false;
	return inject_has_work(vcpu);
}

/*
 * A handler of the client's set it. In the kernel its signal alone would have ended the wait; so it does
 * here while the vCPU sleeps, but not while it polls.
 */
static bool told_to_exit(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST);
}

static bool wait_disturbed(struct vcpu *vcpu)
{
	return told_to_exit(vcpu) || __atomic_load_n(&vcpu->latch.kicked, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&vcpu->latch.requests, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&vcpu->latch.sync_wanted, __ATOMIC_SEQ_CST) != vcpu->latch.sync_done;
}

/* True: it was worth it, there is something to look at. */
static bool wait_poll(struct vcpu *vcpu, struct halt *h)
{
	u64 until = h->now + SIGNAL_POLL_NS;

	while (!wait_over(vcpu) && !wait_disturbed(vcpu)) {
		if (!halt_poll(vcpu, h))
			return false;
		if (UNLIKELY(vcpu->sigmask_set) && h->now > until)
			return true;
	}
	return true;
}

/* Sleeps until there is something to look at. True: a client's signal handler ran. */
static bool wait_sleep(struct vcpu *vcpu, struct halt *h)
{
	u64 until = clock_host_ns() + (vcpu->sigmask_set ? SIGNAL_POLL_NS : FOREVER_NS);
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000u),
			      .tv_nsec = (long)(until % 1000000000u)};
	long ret = 0;

	__atomic_store_n(&vcpu->latch.waiting, 1, __ATOMIC_SEQ_CST);
	if (!wait_over(vcpu) && !wait_disturbed(vcpu)) {
		vcpu->stats.blocking = 1;
		if (!h->slept)
			pv_steal_suspend(vcpu);
		h->slept = true;
		vcpu_section_leave(vcpu);
		/* With a time limit the call is not restarted after a handler has run. */
		ret = futex_call(&vcpu->latch.waiting, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 1,
				 &ts, FUTEX_BITSET_MATCH_ANY);
		vcpu_section_enter(vcpu);
		vcpu->stats.blocking = 0;
	}
	__atomic_store_n(&vcpu->latch.waiting, 0, __ATOMIC_SEQ_CST);
	return ret == -EINTR;
}

/* Waits in HLT, or for INIT and SIPI. RUN_GUEST when there is something to look at. */
static int vcpu_block(struct vcpu *vcpu)
{
	bool handler = false, halted = vcpu->mp_state == KVM_MP_STATE_HALTED;
	struct halt h = {0};
	int ret;

	if (halted)
		halt_begin(vcpu, &h);
	for (;;) {
		ret = handle_requests(vcpu);
		if (ret != RUN_GUEST)
			break;
		vcpu_accept_apic_events(vcpu);
		if (vcpu->mp_state == KVM_MP_STATE_RUNNABLE)
			break;
		if (vcpu->mp_state == KVM_MP_STATE_HALTED && inject_has_work(vcpu)) {
			vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
			vcpu->l2_halted = vcpu->cpu.guest_mode;
			__atomic_store_n(&vcpu->latch.unhalted, 0, __ATOMIC_RELEASE);
			vcpu->stats.halt_wakeup += h.slept;
			break;
		}
		if (handler || interrupted(vcpu) || told_to_exit(vcpu)) {
			ret = end_interrupted(vcpu);
			break;
		}
		if (!wait_poll(vcpu, &h))
			handler = wait_sleep(vcpu, &h);
	}
	if (halted)
		halt_end(vcpu, &h);
	if (h.slept)
		pv_steal_resume(vcpu);
	return ret;
}

/* --- the loop -------------------------------------------------------------------------------------- */

/* Anything came between the handling of requests and poll = CPU_GO_ON. */
static bool attention(struct vcpu *vcpu)
{
	const struct vcpu_latch *l = &vcpu->latch;

	return __atomic_load_n(&l->requests, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&l->kicked, __ATOMIC_SEQ_CST) || apic_events_due(vcpu) ||
	       __atomic_load_n(&l->sync_wanted, __ATOMIC_SEQ_CST) != l->sync_done;
}

static int enter_guest(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;
	int ret = handle_requests(vcpu);

	if (ret == RUN_GUEST)
		ret = handle_wanted_exits(vcpu);
	if (ret == RUN_GUEST) {
		vcpu->ran = true;
		ret = inject_events(vcpu);
	}
	if (ret != RUN_GUEST || vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
		return ret;
	__atomic_store_n(&cpu->poll, cpu->exc.pending ? 0 : CPU_GO_ON, __ATOMIC_SEQ_CST);
	mmu_code_poll(cpu);
	if (UNLIKELY(attention(vcpu)))
		return RUN_GUEST;
	/* A signal that this thread blocks does not disturb guest code: it has to be looked for. */
	if (UNLIKELY(vcpu->sigmask_set))
		timer_arm(&vcpu->signal_timer,
			  timer_service_now(vcpu->vm->timers) + SIGNAL_POLL_NS);
	vcpu->stats.guest_mode = 1;
	vcpu->has_code = true;
	if (UNLIKELY(cpu->pmu.on))
		cpu_pmu_settle(cpu);
	cpu->pmu.running = true;
	if (UNLIKELY(cpu->trace))
		trace_entry(vcpu);
	jit_run(cpu);
	if (UNLIKELY(cpu->trace))
		trace_exit(vcpu);
	if (UNLIKELY(cpu->pmu.on))
		cpu_pmu_settle(cpu);
	cpu->pmu.running = false;
	vcpu->stats.guest_mode = 0;
	pv_eoi_sync(vcpu);
	return exit_handle(vcpu);
}

static int run_loop(struct vcpu *vcpu)
{
	int ret;

	if (run_signal_pending(vcpu))
		return end_interrupted(vcpu);
	do {
		vcpu_accept_apic_events(vcpu);
		ret = LIKELY(vcpu->mp_state == KVM_MP_STATE_RUNNABLE) ? enter_guest(vcpu)
								      : vcpu_block(vcpu);
		/* Before it sleeps in HLT, too: nobody else would bring the interrupt that ends it. */
		if (ret == RUN_GUEST)
			ret = window_exit(vcpu);
		if (ret == RUN_GUEST && UNLIKELY(interrupted(vcpu)))
			ret = end_interrupted(vcpu);
	} while (ret == RUN_GUEST);
	return ret;
}

/* --- entry and exit ---------------------------------------------------------------------------------- */

bool vcpu_ready_for_injection(struct vcpu *vcpu)
{
	if (!inject_interrupts_allowed(vcpu) || vcpu->cpu.exc.pending || vcpu->nmi_injected ||
	    vcpu->interrupt_injected)
		return false;
	return !vcpu->apic || (lapic_accepts_pic(vcpu->apic) && !lapic_has_extint(vcpu->apic));
}

static int sync_regs_in(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 dirty = __atomic_load_n(&run->kvm_dirty_regs, __ATOMIC_RELAXED);
	struct kvm_sync_regs regs;

	if ((__atomic_load_n(&run->kvm_valid_regs, __ATOMIC_RELAXED) | dirty) &
	    ~(u64)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (LIKELY(!dirty))
		return 0;
	mem_copy(&regs, &run->s.regs, sizeof(regs));
	if (dirty & KVM_SYNC_X86_REGS)
		regs_set(vcpu, &regs.regs);
	if ((dirty & KVM_SYNC_X86_SREGS) && sregs_set(vcpu, &regs.sregs))
		return -EINVAL;
	if ((dirty & KVM_SYNC_X86_EVENTS) && events_set(vcpu, &regs.events))
		return -EINVAL;
	run->kvm_dirty_regs = 0;
	return 0;
}

static void sync_regs_out(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 valid = __atomic_load_n(&run->kvm_valid_regs, __ATOMIC_RELAXED);

	if (LIKELY(!valid))
		return;
	if (valid & KVM_SYNC_X86_REGS)
		regs_get(vcpu, &run->s.regs.regs);
	if (valid & KVM_SYNC_X86_SREGS)
		sregs_get(vcpu, &run->s.regs.sregs);
	if (valid & KVM_SYNC_X86_EVENTS)
		events_get(vcpu, &run->s.regs.events);
}

static void run_fill(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->if_flag = vcpu->cpu.intf;
	run->cr8 = vcpu_cr8(vcpu);
	run->apic_base = vcpu_apic_base(vcpu);
	run->ready_for_interrupt_injection =
		vm_pic_inside(vcpu->vm) || vcpu_ready_for_injection(vcpu);
	run->flags = (vcpu->cpu.smm ? KVM_RUN_X86_SMM : 0) |
		     (vcpu->cpu.guest_mode ? KVM_RUN_X86_GUEST_MODE : 0);
}

/* A processor that nobody has started yet: waits, and lets the client look when it was. */
static int run_uninitialized(struct vcpu *vcpu)
{
	int ret;

	if (vcpu->run->immediate_exit)
		return -EINTR;
	ret = vcpu_block(vcpu);
	if (ret < 0)
		return ret;
	return -EAGAIN;
}

/*
 * A processor with VMX runs no guest in protected mode without a task register ("Checks on Guest
 * Segment Registers"); KVM without unrestricted guests then fails to emulate it. SVM takes it.
 */
static bool state_impossible(const struct cpu *cpu)
{
	return (cpu->seg[SEG_TR].attr & SEG_ATTR_UNUSABLE) && (cpu->cr0 & CR0_PE) &&
	       cpu->vendor == CPU_VENDOR_INTEL;
}

static int run_prepared(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int ret = RUN_GUEST;
	u64 cr8;

	if (UNLIKELY(vcpu->mp_state == KVM_MP_STATE_UNINITIALIZED))
		return run_uninitialized(vcpu);
	ret = sync_regs_in(vcpu);
	if (ret)
		return ret;
	if (!vcpu->apic) {
		cr8 = __atomic_load_n(&run->cr8, __ATOMIC_RELAXED);
		if (cr8 & ~15ull)
			return -EINVAL;
		vcpu->cr8 = cr8;
	}
	vcpu->request_window = __atomic_load_n(&run->request_interrupt_window, __ATOMIC_RELAXED) &&
			       !vm_pic_inside(vcpu->vm);
	ret = exit_complete(vcpu);
	if (ret != RUN_GUEST)
		return ret;
	if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)) {
		__atomic_store_n(&vcpu->latch.kicked, 0, __ATOMIC_SEQ_CST);
		return -EINTR;
	}
	if (UNLIKELY(state_impossible(&vcpu->cpu))) {
		if (!vcpu->cpu.guest_mode)
			return exit_emulation_failure(vcpu, NULL, 0);
		nested_triple_fault(vcpu);
	}
	run->exit_reason = KVM_EXIT_UNKNOWN;
	return run_loop(vcpu);
}

void vcpu_run_abandon(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->latch.waiting, 0, __ATOMIC_SEQ_CST);
	jit_leave(&vcpu->cpu);
	cpu_fpu_save(&vcpu->cpu);
	if (__atomic_load_n(&vcpu->latch.section, __ATOMIC_RELAXED) & 1)
		vcpu_section_leave(vcpu);
	__atomic_store_n(&vcpu->latch.thread, 0, __ATOMIC_RELAXED);
}

int vcpu_run(struct vcpu *vcpu)
{
	int ret;

	__atomic_store_n(&vcpu->latch.thread, vcpu_thread_self(), __ATOMIC_RELAXED);
	vcpu_section_enter(vcpu);
	jit_client_wrote(&vcpu->cpu);
	cpu_fpu_load(&vcpu->cpu);
	jit_enter(&vcpu->cpu);
	pv_steal_resume(vcpu);
	ret = run_prepared(vcpu);
	pv_steal_suspend(vcpu);
	jit_leave(&vcpu->cpu);
	if (UNLIKELY(vcpu->cpu.trace))
		trace_userspace_exit(vcpu, ret);
	cpu_fpu_save(&vcpu->cpu);
	sync_regs_out(vcpu);
	run_fill(vcpu);
	vcpu_section_leave(vcpu);
	__atomic_store_n(&vcpu->latch.thread, 0, __ATOMIC_RELAXED);
	return ret;
}
