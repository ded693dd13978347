/*
 * state.c - nested state as a client saves and restores it (KVM_GET_NESTED_STATE)
 */
#include "base/mem.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

#include <errno.h>

void vmx_state_get(struct cpu *cpu, struct vmx_state *out)
{
	struct nested *n = cpu->nested;

	*out = (struct vmx_state){.vmxon_pa = VMX_NONE, .vmcs_pa = VMX_NONE};
	if (!n || (!cpu->vmx_on && !n->smm_vmxon))
		return;
	out->vmxon_pa = n->vmxon_pa;
	out->vmcs_pa = n->vmcs_pa;
	out->smm_vmxon = n->smm_vmxon;
	out->smm_guest_mode = n->smm_guest;
	out->guest_mode = cpu->guest_mode;
	if (n->vmcs_pa == VMX_NONE)
		return;
	if (cpu->guest_mode) {
		/* L2's registers are the client's to save, too; both shall agree. */
		vmx_guest_save(cpu, &n->vmcs);
		out->has_shadow = n->shadow_loaded;
		out->has_deadline = n->deadline != VMX_NONE;
		out->deadline = n->deadline >> MISC_TIMER_RATE;
	}
	out->has_vmcs = true;
	out->vmcs = n->vmcs.bytes;
	out->shadow = n->shadow.bytes;
}

void vmx_state_drop(struct cpu *cpu)
{
	vmx_reset(cpu);
}

static bool addresses_ok(const struct cpu *cpu, const struct vmx_state *in)
{
	if (!vmx_address_ok(cpu, in->vmxon_pa, PAGE_SIZE - 1))
		return false;
	return in->vmcs_pa == VMX_NONE ||
	       (vmx_address_ok(cpu, in->vmcs_pa, PAGE_SIZE - 1) && in->vmcs_pa != in->vmxon_pa);
}

/* L2 runs: its registers come from the VMCS, as after an entry, but what was done by it is not done again. */
static int guest_resume(struct cpu *cpu, const struct vmx_state *in)
{
	struct nested *n = cpu->nested;
	u64 qualification;

	if (in->has_shadow) {
		mem_copy(&n->shadow, in->shadow, VMCS_BYTES);
		if (n->shadow.revision != (VMCS_REVISION | VMCS_SHADOW))
			return -EINVAL;
	}
	if (!vmx_controls_ok(cpu, &n->vmcs) || !vmx_host_ok(cpu, &n->vmcs) ||
	    !vmx_guest_ok(cpu, &n->vmcs, &qualification))
		return -EINVAL;
	n->l1 = n->l2 = (struct vmx_space){0};
	vmx_guest_load(cpu, &n->vmcs, in->run_pending);
	vmx_mode_enter(cpu);
	if (in->has_shadow) {
		mem_copy(&n->shadow, in->shadow, VMCS_BYTES);
		n->shadow_loaded = true;
	}
	if (vmcs_proc2(&n->vmcs) & PROC2_EPT)
		for (unsigned i = 0; i < 4; i++)
			cpu->pdptr[i] = (&n->vmcs.guest_pdptr0)[i];
	if (n->vmcs.pin_based_vm_exec_control & PIN_PREEMPTION_TIMER) {
		if (in->has_deadline)
			n->deadline = in->deadline << MISC_TIMER_RATE;
		else
			vmx_timer_start(cpu, n->vmcs.vmx_preemption_timer_value);
	}
	if (in->run_pending)
		vmx_inject(cpu, &n->vmcs);
	cpu_mode_update(cpu);
	return 0;
}

int vmx_state_set(struct cpu *cpu, const struct vmx_state *in)
{
	struct nested *n;

	if (in->vmxon_pa == VMX_NONE) {
		vmx_state_drop(cpu);
		return 0;
	}
	if (!cpu_has(cpu, X86_FEATURE_VMX) || !addresses_ok(cpu, in))
		return -EINVAL;
	if (in->has_vmcs && (*(const u32 *)in->vmcs & ~VMCS_SHADOW) != VMCS_REVISION)
		return -EINVAL;
	if (in->smm_guest_mode && !in->has_vmcs)
		return -EINVAL;
	n = vmx_alloc(cpu);
	if (!n)
		return -ENOMEM;
	vmx_state_drop(cpu);
	mmu_stage2_flush(cpu);
	n->vmxon_pa = in->vmxon_pa;
	if (in->smm_vmxon)
		n->smm_vmxon = true;
	else
		cpu->vmx_on = true;
	if (cpu->vmx_on) {
		cpu->cr0_must = cpu->vmx_msr[VMX_CR0_FIXED0];
		cpu->cr4_must = cpu->vmx_msr[VMX_CR4_FIXED0];
	}
	if (in->has_vmcs) {
		n->vmcs_pa = in->vmcs_pa;
		mem_copy(&n->vmcs, in->vmcs, VMCS_BYTES);
	}
	n->smm_guest = in->smm_guest_mode;
	return in->guest_mode ? guest_resume(cpu, in) : 0;
}
