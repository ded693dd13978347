/* Small vCPU ioctls: signal mask, machine checks, TPR reporting, kvmclock control. */
#include "kvm/cpuid.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <string.h>

#define MCI_STATUS_VAL	 BIT64(63)
#define MCI_STATUS_OVER	 BIT64(62)
#define MCI_STATUS_UC	 BIT64(61)
#define MCI_STATUS_PCC	 BIT64(57)
#define MCI_STATUS_S	 BIT64(56)
#define MCI_STATUS_AR	 BIT64(55)
#define MCI_CTL2_CMCI_EN BIT64(30)
#define MCG_STATUS_MCIP	 BIT64(2)
#define MCG_CTL_P	 BIT64(8)
#define MCG_BANKS	 0xffu

static void signal_timer_fire(void *arg)
{
	vcpu_wake(arg);
}

int vcpu_set_signal_mask(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_signal_mask head;
	u64 mask;
	int ret;

	if (!arg) {
		vcpu->sigmask_set = false;
		return 0;
	}
	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.len != sizeof(mask))
		return -EINVAL;
	if (user_copy_in(&mask, arg + sizeof(head), sizeof(mask)))
		return -EFAULT;
	if (!vcpu->signal_timer.service) {
		ret = timer_init(vcpu->vm->timers, &vcpu->signal_timer, signal_timer_fire, vcpu);
		if (ret)
			return ret;
	}
	memset(&vcpu->sigmask, 0, sizeof(vcpu->sigmask));
	memcpy(&vcpu->sigmask, &mask, sizeof(mask));
	vcpu->sigmask_set = true;
	return 0;
}

int vcpu_setup_mce(struct vcpu *vcpu, void *data, unsigned long arg)
{
	u64 cap = *(u64 *)data, banks = cap & MCG_BANKS;

	if (!banks || banks > 32 ||
	    (cap & ~(mce_cap_supported(vcpu->vm->sys) | MCG_BANKS | 0xff0000u)))
		return -EINVAL;
	vcpu->cpu.mcg_cap = cap;
	vcpu->cpu.mcg_ctl = cap & MCG_CTL_P ? ~0ull : 0;
	for (u64 b = 0; b < banks; b++) {
		vcpu->cpu.mce_bank[4 * b] = ~0ull;
		if (cap & BIT64(10))
			vcpu->cpu.mce_ctl2[b] = 0;
	}
	cpuid_update_dynamic(vcpu);
	return 0;
}

/* An error that needs no action: recorded, and CMCI where the guest asked for it. */
static bool mce_is_ucna(const struct kvm_x86_mce *mce)
{
	return !mce->mcg_status && (mce->status & MCI_STATUS_UC) &&
	       !(mce->status & (MCI_STATUS_PCC | MCI_STATUS_S | MCI_STATUS_AR));
}

static int mce_set_ucna(struct vcpu *vcpu, const struct kvm_x86_mce *mce, u64 *bank)
{
	bank[1] = mce->status;
	bank[2] = mce->addr;
	bank[3] = mce->misc;
	vcpu->cpu.mcg_status = mce->mcg_status;
	if (vcpu->apic && (vcpu->cpu.mcg_cap & BIT64(10)) &&
	    (vcpu->cpu.mce_ctl2[mce->bank] & MCI_CTL2_CMCI_EN))
		lapic_local_deliver(vcpu->apic, APIC_LVTCMCI);
	return 0;
}

int vcpu_set_mce(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_x86_mce *mce = data;
	struct cpu *cpu = &vcpu->cpu;
	u64 *bank;

	if (mce->bank >= (cpu->mcg_cap & MCG_BANKS) || !(mce->status & MCI_STATUS_VAL))
		return -EINVAL;
	bank = &cpu->mce_bank[4 * mce->bank];
	if (mce_is_ucna(mce))
		return mce_set_ucna(vcpu, mce, bank);
	if (mce->status & MCI_STATUS_UC) {
		if (((cpu->mcg_cap & MCG_CTL_P) && cpu->mcg_ctl != ~0ull) || bank[0] != ~0ull)
			return 0;
		/* A second one, or a guest that cannot take it, shuts down. */
		if ((cpu->mcg_status & MCG_STATUS_MCIP) || !(cpu->cr4 & CR4_MCE)) {
			vcpu_request(vcpu, BIT64(REQ_TRIPLE_FAULT));
			return 0;
		}
		bank[1] = mce->status | (bank[1] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
		bank[2] = mce->addr;
		bank[3] = mce->misc;
		cpu->mcg_status = mce->mcg_status;
		cpu_raise(cpu, EXC_MC);
		vcpu_request(vcpu, BIT64(REQ_EVENT));
	} else if (!(bank[1] & MCI_STATUS_VAL) || !(bank[1] & MCI_STATUS_UC)) {
		bank[1] = mce->status | (bank[1] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
		bank[2] = mce->addr;
		bank[3] = mce->misc;
	} else {
		bank[1] |= MCI_STATUS_OVER;
	}
	return 0;
}

/* Accepted, so that clients go on; the exit itself has no use here (docs/gaps). */
int vcpu_tpr_reporting(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_tpr_access_ctl *c = data;

	if (c->flags)
		return -EINVAL;
	vcpu->tpr_reporting = c->enabled;
	return 0;
}

int vcpu_set_vapic_addr(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_vapic_addr addr;

	if (!vcpu->apic)
		return -EINVAL;
	if (user_copy_in(&addr, arg, sizeof(addr)))
		return -EFAULT;
	vcpu->vapic_addr = addr.vapic_addr;
	return 0;
}

int vcpu_kvmclock_ctrl(struct vcpu *vcpu, void *data, unsigned long arg)
{
	if (!(vcpu->pv.system_time & KVM_MSR_ENABLED))
		return -EINVAL;
	vcpu->pv.guest_stopped = true;
	vcpu_request(vcpu, BIT64(REQ_CLOCK));
	return 0;
}
