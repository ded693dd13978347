/* General registers, XCR0, debug registers, MP state. */
#include "kvm/regs.h"

#include "cpu/control.h"
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "kvm/debug.h"
#include "kvm/ioctl.h"
#include "kvm/irqfd.h"
#include "kvm/request.h"
#include "kvm/run.h"

#include <errno.h>

#define DR_FIXED_1  0xffff0ff0ull /* DR6 */
#define DR7_FIXED_1 0x400ull

void regs_get(struct vcpu *vcpu, struct kvm_regs *r)
{
	const u64 *g = vcpu->cpu.gpr;

	*r = (struct kvm_regs){
		.rax = g[RAX],
		.rbx = g[RBX],
		.rcx = g[RCX],
		.rdx = g[RDX],
		.rsi = g[RSI],
		.rdi = g[RDI],
		.rsp = g[RSP],
		.rbp = g[RBP],
		.r8 = g[R8],
		.r9 = g[R9],
		.r10 = g[R10],
		.r11 = g[R11],
		.r12 = g[R12],
		.r13 = g[R13],
		.r14 = g[R14],
		.r15 = g[R15],
		.rip = vcpu->cpu.rip,
		.rflags = cpu_rflags(&vcpu->cpu),
	};
	if (debug_hides_tf(vcpu))
		r->rflags &= ~FLAG_TF;
}

void regs_set(struct vcpu *vcpu, const struct kvm_regs *r)
{
	struct cpu *cpu = &vcpu->cpu;
	u64 *g = cpu->gpr;
	bool vm86;

	g[RAX] = r->rax;
	g[RBX] = r->rbx;
	g[RCX] = r->rcx;
	g[RDX] = r->rdx;
	g[RSI] = r->rsi;
	g[RDI] = r->rdi;
	g[RSP] = r->rsp;
	g[RBP] = r->rbp;
	g[R8] = r->r8;
	g[R9] = r->r9;
	g[R10] = r->r10;
	g[R11] = r->r11;
	g[R12] = r->r12;
	g[R13] = r->r13;
	g[R14] = r->r14;
	g[R15] = r->r15;
	cpu->rip = r->rip;
	vm86 = cpu->rflags & FLAG_VM;
	cpu_rflags_set(cpu, r->rflags | 2);
	if (vm86 != !!(cpu->rflags & FLAG_VM))
		sregs_cpl(cpu); /* it was set with the special registers, with the mode of before */
	/* A pending exception belongs to the old registers; an event whose delivery has begun stays. */
	if (cpu->exc.kind == EVENT_VMEXIT || (cpu->exc.kind == EVENT_HW_EXC && !cpu->exc.injected))
		cpu->exc.pending = false;
	vcpu_state_changed(vcpu);
}

int vcpu_get_regs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	regs_get(vcpu, data);
	return 0;
}

int vcpu_set_regs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	regs_set(vcpu, data);
	return 0;
}

u64 vcpu_cr8(const struct vcpu *vcpu)
{
	return vcpu->apic ? lapic_get_cr8(vcpu->apic) : vcpu->cr8;
}

void vcpu_set_cr8(struct vcpu *vcpu, u64 value)
{
	if (vcpu->apic)
		lapic_set_cr8(vcpu->apic, value & 15);
	else
		vcpu->cr8 = value & 15;
}

int vcpu_get_xcrs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_xcrs *x = data;

	x->nr_xcrs = 1;
	x->xcrs[0].value = vcpu->cpu.xcr0;
	return 0;
}

/* A guest without the leaf has the x87 FPU's alone. */
static bool xcr0_valid(const struct cpu *cpu, u64 v)
{
	return cpu_xcr0_valid(cpu, v) && (v == XSTATE_X87 || cpu_cpuid_find(cpu, 0xd, 0));
}

int vcpu_set_xcrs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_xcrs *x = data;

	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return -EINVAL;
	for (u32 i = 0; i < x->nr_xcrs; i++) {
		if (x->xcrs[i].xcr)
			continue;
		if (!xcr0_valid(&vcpu->cpu, x->xcrs[i].value))
			return -EINVAL;
		vcpu->cpu.xcr0 = x->xcrs[i].value;
		vcpu_state_changed(vcpu);
		break;
	}
	return 0;
}

int vcpu_get_debugregs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_debugregs *d = data;

	for (int i = 0; i < 4; i++)
		d->db[i] = vcpu->cpu.dr[i];
	d->dr6 = vcpu->cpu.dr6;
	d->dr7 = vcpu->cpu.dr7;
	/* The client finds what it has set; the guest never sees the fixed bits clear. */
	if (d->dr6 == (vcpu->dr6_set | DR_FIXED_1))
		d->dr6 = vcpu->dr6_set;
	if (d->dr7 == (vcpu->dr7_set | DR7_FIXED_1))
		d->dr7 = vcpu->dr7_set;
	return 0;
}

int vcpu_set_debugregs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_debugregs *d = data;

	if (d->flags || (d->dr6 >> 32) || (d->dr7 >> 32))
		return -EINVAL;
	/* What the TLB and the jump caches hold was let in with the old ones. */
	if ((vcpu->cpu.dr7 | d->dr7) & 0xff)
		mmu_flush_all(&vcpu->cpu);
	for (int i = 0; i < 4; i++)
		vcpu->cpu.dr[i] = d->db[i];
	vcpu->dr6_set = d->dr6;
	vcpu->dr7_set = d->dr7;
	vcpu->cpu.dr6 = d->dr6 | DR_FIXED_1;
	vcpu->cpu.dr7 = d->dr7 | DR7_FIXED_1;
	vcpu_state_changed(vcpu);
	return 0;
}

int vcpu_get_mp_state(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_mp_state *mp = data;

	/* INIT and SIPI that came while the vCPU was outside change what is seen here. */
	irqfd_drain(vcpu->vm);
	vcpu_accept_apic_events(vcpu);
	mp->mp_state = vcpu->mp_state;
	/* A kick that the vCPU has not seen yet has ended its HLT. */
	if (mp->mp_state == KVM_MP_STATE_HALTED &&
	    __atomic_load_n(&vcpu->latch.unhalted, __ATOMIC_ACQUIRE))
		mp->mp_state = KVM_MP_STATE_RUNNABLE;
	return 0;
}

int vcpu_set_mp_state(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_mp_state *mp = data;

	switch (mp->mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!vcpu->apic)
			return -EINVAL;
		break;
	case KVM_MP_STATE_RUNNABLE:
		break;
	default:
		return -EINVAL;
	}
	/* INIT is blocked in SMM. */
	if ((vcpu->cpu.smm || vcpu->cpu.smi_pending) &&
	    (mp->mp_state == KVM_MP_STATE_SIPI_RECEIVED ||
	     mp->mp_state == KVM_MP_STATE_INIT_RECEIVED))
		return -EINVAL;
	if (mp->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		vcpu->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		__atomic_fetch_or(&vcpu->latch.init_sipi, LATCH_SIPI, __ATOMIC_SEQ_CST);
	} else {
		vcpu->mp_state = mp->mp_state;
		/* HLT ends a shadow. QEMU restores none: one of before would keep interrupts out for ever. */
		if (mp->mp_state == KVM_MP_STATE_HALTED)
			vcpu->cpu.shadow = 0;
	}
	vcpu_request(vcpu, BIT64(REQ_EVENT));
	return 0;
}
