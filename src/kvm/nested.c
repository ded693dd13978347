/* Nested guests: events that are the hypervisor's, and KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE. */
#include "kvm/nested.h"

#include "cpu/fpu.h"
#include "cpu/tsc.h"
#include "kvm/clock.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"
#include "kvm/run.h"
#include "kvm/user.h"
#include "nested/vmx/vmx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- events ---------------------------------------------------------------------------------------- */

static int leave(struct vcpu *vcpu, enum vmx_event event, int vector)
{
	bool halted = vcpu->l2_halted;

	vcpu->l2_halted = false;
	if (vmx_leave(&vcpu->cpu, event, vector, halted) == CPU_EXIT)
		return exit_handle(vcpu);
	return RUN_GUEST;
}

static bool timer_due(const struct vcpu *vcpu)
{
	u64 deadline = vmx_timer_deadline(&vcpu->cpu);

	return UNLIKELY(deadline != ~0ull) && cpu_tsc_read(&vcpu->cpu) >= deadline;
}

static u32 nmi_queued(const struct vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->latch.nmi_queued, __ATOMIC_ACQUIRE);
}

static int windows(struct vcpu *vcpu, bool *waiting)
{
	struct cpu *cpu = &vcpu->cpu;

	if (vmx_wants_nmi_window(cpu)) {
		if (!cpu->nmi_masked && !cpu->shadow)
			return leave(vcpu, VMX_EVENT_NMI_WINDOW, -1);
		*waiting = true;
	}
	if (vmx_wants_intr_window(cpu)) {
		if (cpu->intf && !cpu->shadow)
			return leave(vcpu, VMX_EVENT_INTR_WINDOW, -1);
		*waiting = true;
	}
	return RUN_GUEST;
}

int nested_events(struct vcpu *vcpu, bool *waiting)
{
	struct cpu *cpu = &vcpu->cpu;
	int vector;

	if (vmx_tpr_below(cpu))
		return leave(vcpu, VMX_EVENT_TPR, -1);
	if (timer_due(vcpu))
		return leave(vcpu, VMX_EVENT_TIMER, -1);
	nested_timer_arm(vcpu);
	if (nmi_queued(vcpu) && vmx_wants_nmi(cpu)) {
		__atomic_fetch_sub(&vcpu->latch.nmi_queued, 1, __ATOMIC_ACQ_REL);
		return leave(vcpu, VMX_EVENT_NMI, -1);
	}
	if (vmx_wants_intr(cpu) && inject_interrupt_pending(vcpu)) {
		vector = vmx_acks_intr(cpu) ? inject_take_interrupt(vcpu) : -1;
		return leave(vcpu, VMX_EVENT_INTR, vector);
	}
	return windows(vcpu, waiting);
}

bool nested_has_work(const struct vcpu *vcpu)
{
	const struct cpu *cpu = &vcpu->cpu;

	return timer_due(vcpu) || (nmi_queued(vcpu) && vmx_wants_nmi(cpu)) ||
	       (vmx_wants_nmi_window(cpu) && !cpu->nmi_masked) ||
	       (vmx_wants_intr_window(cpu) && cpu->intf);
}

int nested_triple_fault(struct vcpu *vcpu)
{
	return leave(vcpu, VMX_EVENT_TRIPLE_FAULT, -1);
}

/* --- the preemption timer --------------------------------------------------------------------------------- */

static void timer_fire(void *arg)
{
	vcpu_request(arg, BIT64(REQ_EVENT));
}

void nested_timer_arm(struct vcpu *vcpu)
{
	u64 deadline = vmx_timer_deadline(&vcpu->cpu), now;
	int ret;

	if (LIKELY(deadline == ~0ull))
		return;
	if (!vcpu->nested_timer.service) {
		cpu_fpu_save(&vcpu->cpu);
		ret = timer_init(vcpu->vm->timers, &vcpu->nested_timer, timer_fire, vcpu);
		cpu_fpu_load(&vcpu->cpu);
		if (ret)
			return; /* it is seen late: at the next exit */
	}
	now = cpu_tsc_read(&vcpu->cpu);
	timer_arm(&vcpu->nested_timer,
		  timer_service_now(vcpu->vm->timers) +
			  (deadline > now ? clock_tsc_to_ns(vcpu, deadline - now) : 0));
}

/* --- nested state --------------------------------------------------------------------------------------------- */

#define STATE_FLAGS \
	(KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_RUN_PENDING | KVM_STATE_NESTED_EVMCS)
#define SMM_FLAGS (KVM_STATE_NESTED_SMM_GUEST_MODE | KVM_STATE_NESTED_SMM_VMXON)

int nested_state_size(const struct system *sys)
{
	return sys->vendor == CPU_VENDOR_INTEL
		       ? (int)(sizeof(struct kvm_nested_state) + 2 * VMCS_BYTES)
		       : 0;
}

int vcpu_get_nested_state(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_nested_state s = {.format = KVM_STATE_NESTED_FORMAT_VMX}, head;
	struct vmx_state v;

	if (vcpu->cpu.vendor != CPU_VENDOR_INTEL)
		return -EINVAL;
	if (user_copy_in(&head, arg, offsetof(struct kvm_nested_state, hdr)))
		return -EFAULT;
	vmx_state_get(&vcpu->cpu, &v);
	s.size = sizeof(s) + (v.has_vmcs ? VMCS_BYTES : 0) + (v.has_shadow ? VMCS_BYTES : 0);
	if (head.size < s.size) {
		head.size = s.size;
		return user_copy_out(arg, &head, offsetof(struct kvm_nested_state, hdr)) ? -EFAULT
											 : -E2BIG;
	}
	s.flags = v.guest_mode ? KVM_STATE_NESTED_GUEST_MODE : 0;
	s.hdr.vmx.vmxon_pa = v.vmxon_pa;
	s.hdr.vmx.vmcs12_pa = v.vmcs_pa;
	s.hdr.vmx.smm.flags = (v.smm_guest_mode ? KVM_STATE_NESTED_SMM_GUEST_MODE : 0) |
			      (v.smm_vmxon ? KVM_STATE_NESTED_SMM_VMXON : 0);
	if (v.has_deadline) {
		s.hdr.vmx.flags = KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
		s.hdr.vmx.preemption_timer_deadline = v.deadline;
	}
	if (user_copy_out(arg, &s, sizeof(s)))
		return -EFAULT;
	if (v.has_vmcs && user_copy_out(arg + sizeof(s), v.vmcs, VMCS_BYTES))
		return -EFAULT;
	if (v.has_shadow && user_copy_out(arg + sizeof(s) + VMCS_BYTES, v.shadow, VMCS_BYTES))
		return -EFAULT;
	return 0;
}

/* What the header alone tells. */
static int state_check(const struct vcpu *vcpu, const struct kvm_nested_state *s)
{
	u16 smm = s->hdr.vmx.smm.flags;
	bool guest = s->flags & KVM_STATE_NESTED_GUEST_MODE;

	if (s->size < sizeof(*s) || (s->flags & ~STATE_FLAGS))
		return -EINVAL;
	if ((s->flags & KVM_STATE_NESTED_RUN_PENDING) && !guest)
		return -EINVAL;
	if (s->format != KVM_STATE_NESTED_FORMAT_VMX || vcpu->cpu.vendor != CPU_VENDOR_INTEL)
		return -EINVAL;
	if (s->flags & KVM_STATE_NESTED_EVMCS)
		return -EINVAL; /* Hyper-V's enlightened VMCS */
	if (s->hdr.vmx.vmxon_pa == VMX_NONE)
		return smm || s->hdr.vmx.vmcs12_pa != VMX_NONE || s->flags ? -EINVAL : 0;
	if (((smm & KVM_STATE_NESTED_SMM_GUEST_MODE) && guest) || (smm & ~SMM_FLAGS))
		return -EINVAL;
	if (s->hdr.vmx.flags & ~(u32)KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE)
		return -EINVAL;
	if (vcpu->cpu.smm ? guest : smm)
		return -EINVAL;
	if (s->size < sizeof(*s) + VMCS_BYTES && (guest || s->hdr.vmx.vmcs12_pa != VMX_NONE))
		return -EINVAL;
	return 0;
}

int vcpu_set_nested_state(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_nested_state s;
	struct vmx_state v;
	u8 *pages;
	int ret;

	if (user_copy_in(&s, arg, sizeof(s)))
		return -EFAULT;
	ret = state_check(vcpu, &s);
	if (ret)
		return ret;
	v = (struct vmx_state){
		.vmxon_pa = s.hdr.vmx.vmxon_pa,
		.vmcs_pa = s.hdr.vmx.vmcs12_pa,
		.guest_mode = s.flags & KVM_STATE_NESTED_GUEST_MODE,
		.run_pending = s.flags & KVM_STATE_NESTED_RUN_PENDING,
		.smm_guest_mode = s.hdr.vmx.smm.flags & KVM_STATE_NESTED_SMM_GUEST_MODE,
		.smm_vmxon = s.hdr.vmx.smm.flags & KVM_STATE_NESTED_SMM_VMXON,
		.has_deadline = s.hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE,
		.deadline = s.hdr.vmx.preemption_timer_deadline,
		.has_vmcs = s.hdr.vmx.vmxon_pa != VMX_NONE && s.hdr.vmx.vmcs12_pa != VMX_NONE,
	};
	if (v.guest_mode && !v.has_vmcs)
		return -EINVAL;
	v.has_shadow = v.guest_mode && s.size >= sizeof(s) + 2 * VMCS_BYTES;
	pages = malloc(2 * VMCS_BYTES);
	if (!pages)
		return -ENOMEM;
	if ((v.has_vmcs && user_copy_in(pages, arg + sizeof(s), VMCS_BYTES)) ||
	    (v.has_shadow &&
	     user_copy_in(pages + VMCS_BYTES, arg + sizeof(s) + VMCS_BYTES, VMCS_BYTES))) {
		ret = -EFAULT;
		goto out;
	}
	v.vmcs = pages;
	v.shadow = pages + VMCS_BYTES;
	ret = vmx_state_set(&vcpu->cpu, &v);
	vcpu_state_changed(vcpu);
out:
	free(pages);
	return ret;
}
