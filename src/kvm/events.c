/* KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS. */
#include "kvm/regs.h"

#include "kvm/ioctl.h"
#include "kvm/irqfd.h"
#include "kvm/request.h"

#include <errno.h>
#include <string.h>

static bool exception_is_soft(const struct cpu_exc *exc)
{
	return exc->kind == EVENT_SW_EXC || exc->kind == EVENT_SW_INT;
}

/* One NMI waits for the handler of another, two when there is none. */
static u8 nmi_pending(const struct vcpu *vcpu, u32 queued)
{
	const struct cpu *cpu = &vcpu->cpu;
	bool busy = cpu->nmi_masked || vcpu->nmi_injected ||
		    (cpu->exc.pending && cpu->exc.kind == EVENT_NMI);

	return (u8)MIN(queued, busy ? 1u : 2u);
}

static bool triple_fault_wanted(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->latch.requests, __ATOMIC_ACQUIRE) & BIT64(REQ_TRIPLE_FAULT);
}

void events_get(struct vcpu *vcpu, struct kvm_vcpu_events *e)
{
	const struct cpu *cpu = &vcpu->cpu;
	static const struct cpu_exc none;
	/* A nested guest's exit that is not carried out yet is no event. */
	const struct cpu_exc *exc = cpu->exc.kind == EVENT_VMEXIT ? &none : &cpu->exc;

	memset(e, 0, sizeof(*e));
	/* Interrupts and NMIs whose delivery an exit cut short are "injected" events as well. */
	if (exc->pending && exc->kind == EVENT_INTR) {
		e->interrupt.injected = 1;
		e->interrupt.nr = exc->vector;
	} else if (exc->pending && exc->kind == EVENT_NMI) {
		e->nmi.injected = 1;
	} else if (exc->pending && !exception_is_soft(exc)) {
		/* Without the payload capability a pending exception counts as injected, too. */
		e->exception.injected = exc->injected || !vcpu->vm->exception_payload;
		e->exception.pending = !exc->injected;
		e->exception.nr = exc->vector;
		e->exception.has_error_code = exc->has_error;
		e->exception.error_code = exc->error;
		e->exception_has_payload = vcpu->vm->exception_payload && !exc->injected &&
					   (exc->vector == EXC_PF || exc->vector == EXC_DB);
		e->exception_payload = e->exception_has_payload ? exc->payload : 0;
	}
	if (vcpu->interrupt_injected) {
		e->interrupt.injected = 1;
		e->interrupt.nr = vcpu->interrupt_vector;
		e->interrupt.soft = vcpu->interrupt_soft;
	}
	e->interrupt.shadow = (cpu->shadow & CPU_SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0) |
			      (cpu->shadow & CPU_SHADOW_STI ? KVM_X86_SHADOW_INT_STI : 0);
	e->nmi.injected |= vcpu->nmi_injected;
	e->nmi.pending =
		nmi_pending(vcpu, __atomic_load_n(&vcpu->latch.nmi_queued, __ATOMIC_ACQUIRE));
	e->nmi.masked = cpu->nmi_masked;
	e->sipi_vector = 0;
	e->smi.smm = cpu->smm;
	e->smi.pending =
		cpu->smi_pending ||
		(__atomic_load_n(&vcpu->latch.requests, __ATOMIC_ACQUIRE) & BIT64(REQ_SMI));
	e->smi.smm_inside_nmi = cpu->smm && cpu->smm_nmi_masked;
	e->smi.latched_init =
		vcpu->apic &&
		(__atomic_load_n(&vcpu->latch.init_sipi, __ATOMIC_ACQUIRE) & LATCH_INIT);
	e->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
		   KVM_VCPUEVENT_VALID_SMM;
	if (vcpu->vm->exception_payload)
		e->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	if (vcpu->vm->triple_fault_event) {
		e->triple_fault.pending = triple_fault_wanted(vcpu);
		e->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	}
}

#define EVENTS_FLAGS                                                                          \
	(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |                  \
	 KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD | \
	 KVM_VCPUEVENT_VALID_TRIPLE_FAULT)

/* With the payload capability: "pending" is valid, and rules "injected" out. */
static bool exception_pending(const struct kvm_vcpu_events *e)
{
	return (e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && e->exception.pending;
}

static int events_check(const struct vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	if (e->flags & ~(u32)EVENTS_FLAGS)
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && !vcpu->vm->exception_payload)
		return -EINVAL;
	if ((e->exception.injected || exception_pending(e)) &&
	    (e->exception.nr > 31 || e->exception.nr == EXC_NMI))
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_SMM) && (e->smi.smm || e->smi.pending) &&
	    vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return -EINVAL;
	if ((e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !vcpu->vm->triple_fault_event)
		return -EINVAL;
	return 0;
}

static void events_set_exception(struct vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct cpu *cpu = &vcpu->cpu;
	bool pending = exception_pending(e);

	cpu->exc.pending = e->exception.injected || pending;
	if (!cpu->exc.pending)
		return;
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = EVENT_HW_EXC,
		.vector = e->exception.nr,
		.has_error = e->exception.has_error_code,
		.error = e->exception.error_code,
		/* An injected #PF has its address in CR2 already. */
		.payload = e->exception.nr == EXC_PF ? cpu->cr2 : 0,
		.injected = !pending,
	};
	if (pending && e->exception_has_payload)
		cpu->exc.payload = e->exception_payload;
}

static void events_set_smm(struct vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct cpu *cpu = &vcpu->cpu;

	if (cpu->smm != (e->smi.smm != 0)) {
		cpu->smm = e->smi.smm;
		vcpu_request(vcpu, BIT64(REQ_MEMORY));
	}
	cpu->smi_pending = e->smi.pending;
	if (cpu->smm)
		cpu->smm_nmi_masked = e->smi.smm_inside_nmi;
	if (vcpu->apic) {
		if (e->smi.latched_init)
			__atomic_fetch_or(&vcpu->latch.init_sipi, LATCH_INIT, __ATOMIC_SEQ_CST);
		else
			__atomic_fetch_and(&vcpu->latch.init_sipi, ~LATCH_INIT, __ATOMIC_SEQ_CST);
	}
}

int events_set(struct vcpu *vcpu, const struct kvm_vcpu_events *e)
{
	struct cpu *cpu = &vcpu->cpu;
	int ret = events_check(vcpu, e);

	if (ret)
		return ret;
	events_set_exception(vcpu, e);
	vcpu->interrupt_injected = e->interrupt.injected;
	vcpu->interrupt_vector = e->interrupt.nr;
	vcpu->interrupt_soft = e->interrupt.soft;
	if (e->flags & KVM_VCPUEVENT_VALID_SHADOW)
		cpu->shadow =
			(e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? CPU_SHADOW_MOV_SS : 0) |
			(e->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? CPU_SHADOW_STI : 0);
	vcpu->nmi_injected = e->nmi.injected;
	vcpu->interrupt_behind = vcpu->nmi_injected && vcpu->interrupt_injected;
	cpu->nmi_masked = e->nmi.masked;
	if (e->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		__atomic_store_n(&vcpu->latch.nmi_queued, nmi_pending(vcpu, e->nmi.pending),
				 __ATOMIC_SEQ_CST);
	if ((e->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR) && vcpu->apic)
		__atomic_store_n(&vcpu->latch.sipi_vector, e->sipi_vector, __ATOMIC_SEQ_CST);
	if (e->flags & KVM_VCPUEVENT_VALID_SMM)
		events_set_smm(vcpu, e);
	if (e->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
		if (e->triple_fault.pending)
			vcpu_request(vcpu, BIT64(REQ_TRIPLE_FAULT));
		else
			__atomic_fetch_and(&vcpu->latch.requests, ~BIT64(REQ_TRIPLE_FAULT),
					   __ATOMIC_SEQ_CST);
	}
	vcpu_state_changed(vcpu);
	return 0;
}

int vcpu_get_events(struct vcpu *vcpu, void *data, unsigned long arg)
{
	irqfd_drain(vcpu->vm);
	events_get(vcpu, data);
	return 0;
}

int vcpu_set_events(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return events_set(vcpu, data);
}
