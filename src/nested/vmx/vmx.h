/*
 * vmx.h - nested VMX: what the layer above (src/kvm) uses
 *
 * All functions run on the vCPU's thread, or with its mutex held.
 */
#ifndef NESTED_VMX_H
#define NESTED_VMX_H

#include "cpu/cpu.h"
#include "cpu/vmx.h"

#define VMX_NONE (~0ull) /* no VMXON region, no current VMCS */

extern const struct cpu_nested_ops vmx_nested_ops;

/** Gives back what VMXON allocated. Set-up path. */
void vmx_destroy(struct cpu *cpu);
/** Power-on reset or INIT: VMX operation ends without a trace. */
void vmx_reset(struct cpu *cpu);

/* --- what the run loop asks while cpu->guest_mode ---------------------------------------------------- */

/** External interrupts, or NMIs, are L1's: they leave L2 whatever L2 has masked. */
bool vmx_wants_intr(const struct cpu *cpu);
bool vmx_wants_nmi(const struct cpu *cpu);
/** L1 wants the vector of an interrupt that leaves L2 ("acknowledge interrupt on exit"). */
bool vmx_acks_intr(const struct cpu *cpu);

/** L1 wants to hear when L2 can take interrupts, or NMIs. */
bool vmx_wants_intr_window(const struct cpu *cpu);
bool vmx_wants_nmi_window(const struct cpu *cpu);
/** The shadowed task priority is below its threshold. */
bool vmx_tpr_below(struct cpu *cpu);
/** TSC of L1 at which the preemption timer runs out; ~0: it does not run. */
u64 vmx_timer_deadline(const struct cpu *cpu);

enum vmx_event {
	VMX_EVENT_INTR, /* vector, or -1: not acknowledged */
	VMX_EVENT_NMI,
	VMX_EVENT_INIT,
	VMX_EVENT_INTR_WINDOW,
	VMX_EVENT_NMI_WINDOW,
	VMX_EVENT_TPR,
	VMX_EVENT_TIMER,
	VMX_EVENT_TRIPLE_FAULT,
};
/** Leaves L2 for an event. `halted`: L2 was waiting in HLT. CPU_OK, or CPU_EXIT (VMX abort). */
int vmx_leave(struct cpu *cpu, enum vmx_event event, int vector, bool halted);

/* --- KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE ------------------------------------------------------- */

struct vmx_state {
	u64 vmxon_pa, vmcs_pa;
	bool guest_mode, run_pending;
	bool smm_guest_mode, smm_vmxon;
	bool has_deadline;
	u64 deadline; /* of the preemption timer, in its ticks of L1's TSC */
	bool has_vmcs, has_shadow;
	const u8 *vmcs, *shadow; /* VMCS_BYTES each */
};

/** The state now; vmcs and shadow point into the vCPU until something changes. */
void vmx_state_get(struct cpu *cpu, struct vmx_state *out);
/** Takes a state over. 0, -EINVAL, -ENOMEM. */
int vmx_state_set(struct cpu *cpu, const struct vmx_state *in);
/** Leaves guest mode and VMX operation's current VMCS, as a client does before it sets another state. */
void vmx_state_drop(struct cpu *cpu);

#endif
