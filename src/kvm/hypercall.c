/* KVM's hypercalls: number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX. */
#include "cpu/feature.h"
#include "kvm/clock.h"
#include "kvm/memslot.h"
#include "kvm/pv.h"
#include "kvm/request.h"

#include <sched.h>
#include <time.h>

struct call {
	u64 nr, a[4];
	bool wide;
};

static bool shown(const struct vcpu *vcpu, enum cpu_feature f)
{
	return !vcpu->pv_cpuid_enforced || cpu_has(&vcpu->cpu, f);
}

static s64 call_kick(struct vcpu *vcpu, const struct call *c)
{
	struct irqchip *chip = vcpu->vm->irqchip;
	int index;

	if (!shown(vcpu, X86_FEATURE_KVM_PV_UNHALT))
		return KVM_HC_RET_ENOSYS;
	index = chip ? irqchip_find_vcpu(chip, (u32)c->a[1]) : -1;
	if (index >= 0) {
		struct vcpu *to = __atomic_load_n(&vcpu->vm->vcpus[index], __ATOMIC_ACQUIRE);

		if (!to)
			return 0;
		__atomic_store_n(&to->latch.unhalted, 1, __ATOMIC_SEQ_CST);
		vcpu_request(to, BIT64(REQ_EVENT));
	}
	return 0;
}

static s64 call_send_ipi(struct vcpu *vcpu, const struct call *c)
{
	struct irqchip *chip = vcpu->vm->irqchip;

	if (!shown(vcpu, X86_FEATURE_KVM_PV_SEND_IPI))
		return KVM_HC_RET_ENOSYS;
	if (!chip)
		return KVM_HC_RET_EOPNOTSUPP;
	return irqchip_send_pv_ipi(chip, c->a[0], c->a[1], (u32)c->a[2], (u32)c->a[3],
				   c->wide ? 64 : 32);
}

static s64 call_sched_yield(struct vcpu *vcpu, const struct call *c)
{
	if (!shown(vcpu, X86_FEATURE_KVM_PV_SCHED_YIELD))
		return KVM_HC_RET_ENOSYS;
	sched_yield();
	return 0;
}

static s64 call_clock_pairing(struct vcpu *vcpu, const struct call *c)
{
	struct kvm_clock_pairing p = {0};
	struct timespec real;

	if (c->a[1] != KVM_CLOCK_PAIRING_WALLCLOCK)
		return KVM_HC_RET_EOPNOTSUPP;
	p.tsc = clock_guest_tsc(vcpu, clock_host_tsc());
	clock_gettime(CLOCK_REALTIME, &real);
	p.sec = real.tv_sec;
	p.nsec = real.tv_nsec;
	return guest_write(vcpu, c->a[0], &p, sizeof(p)) ? KVM_HC_RET_EFAULT : 0;
}

/* The client decides about pages, when it asked to. */
static s64 call_map_gpa_range(struct vcpu *vcpu, const struct call *c, bool *leave)
{
	u64 gpa = c->a[0], pages = c->a[1];

	if (!(vcpu->vm->hypercall_exits & BIT64(KVM_HC_MAP_GPA_RANGE)))
		return KVM_HC_RET_ENOSYS;
	if ((gpa & ~PAGE_MASK) || !pages || (gpa >> PAGE_SHIFT) + pages <= gpa >> PAGE_SHIFT)
		return KVM_HC_RET_EINVAL;
	*leave = true;
	return 0;
}

static s64 dispatch(struct vcpu *vcpu, const struct call *c, bool *leave)
{
	switch (c->nr) {
	case KVM_HC_VAPIC_POLL_IRQ:
		return 0;
	case KVM_HC_KICK_CPU:
		return call_kick(vcpu, c);
	case KVM_HC_CLOCK_PAIRING:
		return call_clock_pairing(vcpu, c);
	case KVM_HC_SEND_IPI:
		return call_send_ipi(vcpu, c);
	case KVM_HC_SCHED_YIELD:
		return call_sched_yield(vcpu, c);
	case KVM_HC_MAP_GPA_RANGE:
		return call_map_gpa_range(vcpu, c, leave);
	default:
		return KVM_HC_RET_ENOSYS;
	}
}

int pv_hypercall(struct cpu *cpu)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	struct call c = {
		.nr = cpu->gpr[RAX],
		.a = {cpu->gpr[RBX], cpu->gpr[RCX], cpu->gpr[RDX], cpu->gpr[RSI]},
		.wide = cpu_is_64bit(cpu),
	};
	bool leave = false;
	s64 ret;

	vcpu->stats.hypercalls++;
	if (!c.wide) {
		c.nr = (u32)c.nr;
		for (unsigned i = 0; i < 4; i++)
			c.a[i] = (u32)c.a[i];
	}
	TRACE(cpu->trace, kvm_hypercall, vcpu->id, c.nr, c.a[0], c.a[1], c.a[2], c.a[3]);
	ret = cpu->cpl ? KVM_HC_RET_EPERM : dispatch(vcpu, &c, &leave);
	if (leave) {
		cpu->exit.reason = CPU_EXIT_HYPERCALL;
		cpu->exit.hypercall.nr = c.nr;
		for (unsigned i = 0; i < 4; i++)
			cpu->exit.hypercall.args[i] = c.a[i];
		return CPU_EXIT;
	}
	cpu->gpr[RAX] = c.wide ? (u64)ret : (u32)ret;
	return CPU_OK;
}
