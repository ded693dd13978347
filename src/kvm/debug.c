#include "kvm/debug.h"

#include "kvm/ioctl.h"
#include "kvm/request.h"

#include <errno.h>

#define DEBUG_VALID                                                                 \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |   \
	 KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
	 KVM_GUESTDBG_BLOCKIRQ)

int vcpu_set_guest_debug(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_guest_debug *d = data;
	struct cpu *cpu = &vcpu->cpu;

	if (d->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (cpu->exc.pending)
			return -EBUSY;
		if (d->control & KVM_GUESTDBG_INJECT_DB)
			cpu_raise(cpu, EXC_DB);
		else
			cpu_raise(cpu, EXC_BP);
		cpu->exc.injected = true;
		/* RIP is at the INT3 that KVM_EXIT_DEBUG told of; the guest's handler returns behind. */
		if (cpu->exc.vector == EXC_BP) {
			cpu->exc.kind = EVENT_SW_EXC;
			cpu->exc.insn_len = 1;
		}
	}
	vcpu->debug = *d;
	if (!(d->control & KVM_GUESTDBG_ENABLE))
		vcpu->debug.control = 0;
	cpu->guest_debug = vcpu->debug.control & DEBUG_VALID;
	for (unsigned i = 0; i < 4; i++)
		cpu->guest_dr[i] =
			cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP ? d->arch.debugreg[i] : 0;
	cpu->guest_dr7 = cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP ? d->arch.debugreg[7] : 0;
	/* The client writes breakpoint instructions into memory behind our back. */
	vcpu_request(vcpu, BIT64(REQ_MEMORY));
	vcpu_state_changed(vcpu);
	return 0;
}

int vcpu_translate(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_translation *t = data;
	struct mmu_walk walk;
	struct mmu_fault fault;
	int bad =
		mmu_walk(&vcpu->cpu, t->linear_address, MMU_READ | MMU_SYSTEM, true, &walk, &fault);

	t->physical_address = bad ? ~0ull : walk.gpa;
	t->valid = !bad;
	t->writeable = 1;
	t->usermode = 0;
	return 0;
}
