/*
 * Events before the guest goes on, in KVM's order: an exception that is already under way, SMI,
 * NMI, external interrupt. What is pending but not allowed arranges to be heard of: cpu.irq_window
 * makes the guest leave when it opens interrupts, and an interrupt shadow is passed by a single
 * step.
 */
#include "jit/jit.h"
#include "kvm/nested.h"
#include "kvm/pv.h"
#include "kvm/request.h"
#include "kvm/run.h"
#include "nested/vmx/vmx.h"

#define NMI_VECTOR 2

bool inject_interrupts_allowed(const struct vcpu *vcpu)
{
	if (UNLIKELY(vcpu->cpu.guest_mode) && vmx_wants_intr(&vcpu->cpu))
		return true;
	return vcpu->cpu.intf && !vcpu->cpu.shadow;
}

static u32 nmi_queued(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->latch.nmi_queued, __ATOMIC_ACQUIRE);
}

bool inject_interrupt_pending(struct vcpu *vcpu)
{
	if (!vcpu->apic)
		return vcpu->interrupt_injected;
	if (LIKELY(!lapic_pending(vcpu->apic)))
		return false;
	return lapic_has_extint(vcpu->apic) || lapic_has_interrupt(vcpu->apic) >= 0;
}

bool inject_has_work(struct vcpu *vcpu)
{
	const struct cpu *cpu = &vcpu->cpu;

	return cpu->exc.pending || vcpu->nmi_injected || vcpu->eoi_exit_pending ||
	       (__atomic_load_n(&vcpu->latch.requests, __ATOMIC_ACQUIRE) &
		BIT64(REQ_TRIPLE_FAULT)) ||
	       __atomic_load_n(&vcpu->latch.unhalted, __ATOMIC_ACQUIRE) ||
	       (nmi_queued(vcpu) && !cpu->nmi_masked) || (cpu->smi_pending && !cpu->smm) ||
	       vcpu->interrupt_injected || (UNLIKELY(cpu->guest_mode) && nested_has_work(vcpu)) ||
	       (inject_interrupts_allowed(vcpu) && inject_interrupt_pending(vcpu));
}

/* An interrupt that was injected with an NMI comes when the NMI's handler lets it. */
static bool interrupt_waits(struct vcpu *vcpu)
{
	if (LIKELY(!vcpu->interrupt_behind))
		return false;
	vcpu->interrupt_behind = vcpu->cpu.nmi_masked && !inject_interrupts_allowed(vcpu);
	return vcpu->interrupt_behind;
}

static int deliver(struct vcpu *vcpu, unsigned vector, enum cpu_event_kind kind)
{
	if (cpu_intr_deliver(&vcpu->cpu, vector, kind) == CPU_EXIT)
		return exit_handle(vcpu);
	return RUN_GUEST;
}

static int inject_smi(struct vcpu *vcpu)
{
	vcpu->cpu.smi_pending = false;
	vcpu->smi_count++;
	vcpu->smm_inside_nmi = vcpu->cpu.nmi_masked;
	if (cpu_smm_enter(&vcpu->cpu) == CPU_EXIT)
		return exit_handle(vcpu);
	return RUN_GUEST;
}

static int inject_nmi(struct vcpu *vcpu)
{
	__atomic_fetch_sub(&vcpu->latch.nmi_queued, 1, __ATOMIC_ACQ_REL);
	vcpu->stats.nmi_injections++;
	return deliver(vcpu, NMI_VECTOR, EVENT_NMI);
}

/* The client's: KVM_INTERRUPT, or one that was under way when its state was saved. */
static u8 take_injected(struct vcpu *vcpu)
{
	vcpu->interrupt_injected = false;
	return vcpu->interrupt_vector;
}

int inject_take_interrupt(struct vcpu *vcpu)
{
	return vcpu->apic ? lapic_get_interrupt(vcpu->apic) : take_injected(vcpu);
}

static int inject_interrupt(struct vcpu *vcpu, int vector)
{
	if (vector < 0)
		return RUN_GUEST;
	TRACE(vcpu->cpu.trace, kvm_inj_virq, vcpu->id, (u64)vector);
	vcpu->stats.irq_injections++;
	mmu_window_tick(&vcpu->cpu);
	return deliver(vcpu, (unsigned)vector, EVENT_INTR);
}

/* The guest must come back when it opens interrupts, or behind the next instruction. */
static int want_window(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;

	cpu->irq_window = 0;
	if (!cpu->shadow || (!cpu->intf && !nmi_queued(vcpu) && !cpu->guest_mode))
		return RUN_GUEST;
	/* Only a shadow is in the way: it ends behind one instruction. */
	mmu_code_poll(cpu);
	jit_step(cpu);
	vcpu_wake(vcpu);
	return exit_handle(vcpu);
}

int inject_events(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;
	bool waiting = false;
	int ret = RUN_GUEST;

	cpu->irq_window = 1;
	if (cpu->exc.pending)
		return RUN_GUEST; /* jit_run() delivers it and comes back at once: poll is 0 */
	if (UNLIKELY(vcpu->nmi_injected)) {
		vcpu->nmi_injected = false;
		cpu->exc = (struct cpu_exc){.pending = true, .kind = EVENT_NMI, .vector = EXC_NMI};
		return RUN_GUEST; /* likewise */
	}
	if (UNLIKELY(cpu->guest_debug & KVM_GUESTDBG_BLOCKIRQ))
		return RUN_GUEST;
	if (UNLIKELY(cpu->guest_mode)) {
		ret = nested_events(vcpu, &waiting);
		if (ret != RUN_GUEST)
			return ret;
		vcpu->l2_halted = false;
	}
	/* What is injected already goes first, whatever is masked. */
	if (vcpu->interrupt_injected) {
		if (!interrupt_waits(vcpu))
			return inject_interrupt(vcpu, take_injected(vcpu));
		waiting = true;
	}
	if (UNLIKELY(cpu->smi_pending) && !cpu->smm)
		return inject_smi(vcpu);
	if (UNLIKELY(nmi_queued(vcpu)) && !(cpu->guest_mode && vmx_wants_nmi(cpu))) {
		if (!cpu->nmi_masked && !cpu->shadow)
			ret = inject_nmi(vcpu);
		else
			waiting = true;
		if (ret != RUN_GUEST)
			return ret;
	}
	/* One that came since nested_events() is the hypervisor's, too: its request has us look again. */
	if (inject_interrupt_pending(vcpu) && !(UNLIKELY(cpu->guest_mode) && vmx_wants_intr(cpu))) {
		if (!waiting && inject_interrupts_allowed(vcpu))
			ret = inject_interrupt(vcpu, inject_take_interrupt(vcpu));
		else
			waiting = true;
		if (ret == RUN_GUEST && !waiting && inject_interrupt_pending(vcpu))
			cpu->irq_window = 0;
	}
	if (vcpu->request_window && !vcpu_ready_for_injection(vcpu))
		waiting = true;
	if (ret != RUN_GUEST || !waiting) {
		pv_eoi_offer(vcpu);
		return ret;
	}
	return want_window(vcpu);
}
