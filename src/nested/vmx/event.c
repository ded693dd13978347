/*
 * event.c - events in L2 that may be the hypervisor's: exceptions, faults of the second stage,
 * interrupts; the time-stamp counter; SMM
 */
#include "cpu/mode.h"
#include "cpu/tsc.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

static int record(struct cpu *cpu, u32 reason, u64 qualification)
{
	return cpu_nested_exit(cpu,
			       &(struct cpu_nested_exit){.code = reason, .info = qualification});
}

/* #PF: the bitmap's bit is inverted when the error code does not match. */
static bool wanted(const struct vmcs *v, const struct cpu_exc *ev)
{
	bool bit = ev->vector < 32 && (v->exception_bitmap >> ev->vector & 1);

	if (ev->vector == EXC_PF &&
	    (ev->error & v->page_fault_error_code_mask) != v->page_fault_error_code_match)
		return !bit;
	return bit;
}

bool vmx_event(struct cpu *cpu, const struct cpu_exc *ev)
{
	struct cpu_nested_exit e = {.code = EXIT_EXCEPTION, .insn_len = ev->insn_len};

	if (ev->kind == EVENT_INTR || ev->kind == EVENT_NMI || ev->kind == EVENT_SW_INT ||
	    ev->kind == EVENT_VMEXIT || !wanted(vmcs_of(cpu), ev))
		return false;
	if (ev->vector == EXC_PF || ev->vector == EXC_DB)
		e.info = ev->payload;
	e.intr_info = vmx_event_info(ev);
	e.intr_error = (u16)ev->error;
	if (ev->kind == EVENT_HW_EXC && ev->vector != EXC_DB)
		cpu->rflags |= FLAG_RF;
	cpu_nested_exit(cpu, &e);
	return true;
}

void vmx_triple_fault(struct cpu *cpu)
{
	record(cpu, EXIT_TRIPLE_FAULT, 0);
}

void vmx_trap(struct cpu *cpu)
{
	record(cpu, EXIT_MONITOR_TRAP, 0);
}

int vmx_task_switch(struct cpu *cpu, u16 selector, unsigned source, unsigned insn_len)
{
	return cpu_nested_exit(cpu, &(struct cpu_nested_exit){
					    .code = EXIT_TASK_SWITCH,
					    .info = selector | (u64)source << 30,
					    .insn_len = insn_len,
				    });
}

int vmx_memory_fault(struct cpu *cpu, const struct mmu_fault *fault)
{
	struct cpu_nested_exit e = {
		.gpa = fault->gpa, .linear = fault->address, .info = fault->error};

	switch (fault->kind) {
	case MMU_FAULT_STAGE2:
		e.code = EXIT_EPT_VIOLATION;
		break;
	case MMU_FAULT_APIC:
		e.code = EXIT_APIC_ACCESS;
		e.info = (fault->address & (PAGE_SIZE - 1)) | (u64)fault->error << 12;
		break;
	default:
		e.code = EXIT_EPT_MISCONFIG;
		e.info = 0;
		break;
	}
	return cpu_nested_exit(cpu, &e);
}

#define APIC_DURING_DELIVERY 3ull

int vmx_leave_recorded(struct cpu *cpu, const struct cpu_exc *first)
{
	struct cpu_nested_exit e = cpu->nested_exit;

	cpu->exc.pending = false;
	if (first && e.code == EXIT_APIC_ACCESS)
		e.info = (e.info & 0xfff) | APIC_DURING_DELIVERY << 12;
	/* A task switch by a gate: the event that led there is its reason, whatever its privilege. */
	return vmx_exit(cpu, &e, first, false);
}

/* --- what the run loop asks -------------------------------------------------------------------------- */

bool vmx_wants_intr(const struct cpu *cpu)
{
	return vmcs_of(cpu)->pin_based_vm_exec_control & PIN_EXT_INTR;
}

bool vmx_wants_nmi(const struct cpu *cpu)
{
	return vmcs_of(cpu)->pin_based_vm_exec_control & PIN_NMI;
}

bool vmx_acks_intr(const struct cpu *cpu)
{
	return vmcs_of(cpu)->vm_exit_controls & EXIT_ACK_INTR;
}

bool vmx_wants_intr_window(const struct cpu *cpu)
{
	return vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_INTR_WINDOW;
}

bool vmx_wants_nmi_window(const struct cpu *cpu)
{
	return vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_NMI_WINDOW;
}

bool vmx_tpr_below(struct cpu *cpu)
{
	const struct vmcs *v = vmcs_of(cpu);
	u32 tpr;

	if (!(v->cpu_based_vm_exec_control & PROC_TPR_SHADOW) || !(v->tpr_threshold & 15))
		return false;
	if (mmu_phys_read(cpu, v->virtual_apic_page_addr + 0x80, &tpr, 4))
		return false;
	return (tpr >> 4 & 15) < (v->tpr_threshold & 15);
}

u64 vmx_timer_deadline(const struct cpu *cpu)
{
	return cpu->nested->deadline;
}

int vmx_leave(struct cpu *cpu, enum vmx_event event, int vector, bool halted)
{
	static const u8 reason[] = {
		[VMX_EVENT_INTR] = EXIT_INTR,
		[VMX_EVENT_NMI] = EXIT_EXCEPTION,
		[VMX_EVENT_INIT] = EXIT_INIT,
		[VMX_EVENT_INTR_WINDOW] = EXIT_INTR_WINDOW,
		[VMX_EVENT_NMI_WINDOW] = EXIT_NMI_WINDOW,
		[VMX_EVENT_TPR] = EXIT_TPR,
		[VMX_EVENT_TIMER] = EXIT_TIMER,
		[VMX_EVENT_TRIPLE_FAULT] = EXIT_TRIPLE_FAULT,
	};
	struct cpu_nested_exit e = {.code = reason[event]};
	int ret;

	if (event == VMX_EVENT_INTR && vector >= 0)
		e.intr_info = (u32)vector | INTR_EXT << INTR_TYPE_SHIFT | INTR_VALID;
	if (event == VMX_EVENT_NMI)
		e.intr_info = EXC_NMI | INTR_NMI << INTR_TYPE_SHIFT | INTR_VALID;
	ret = vmx_exit(cpu, &e, NULL, halted);
	if (event == VMX_EVENT_NMI)
		cpu->nmi_masked = true;
	return ret;
}

/* --- time ------------------------------------------------------------------------------------------------ */

/*
 * L1's: host × ratio >> 48, + offset. L2's: L1's × multiplier >> 48, + its own offset; the two
 * multiplications are made one, as a processor with one multiplier does.
 */
u64 vmx_tsc(const struct cpu *cpu, u64 host)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 multiplier = 1ull << 48, ratio = cpu->tsc_ratio;
	s64 offset = cpu->tsc_offset;

	if (!(v->cpu_based_vm_exec_control & PROC_TSC_OFFSET))
		return cpu_tsc_at(cpu, host);
	if (vmcs_proc2(v) & PROC2_TSC_SCALING) {
		multiplier = v->tsc_multiplier;
		offset = (s64)(((s128)offset * multiplier) >> 48);
		ratio = (u64)(((u128)ratio * multiplier) >> 48);
	}
	offset += (s64)v->tsc_offset;
	if (ratio == 1ull << 48)
		return host + (u64)offset;
	return (u64)(((u128)host * ratio) >> 48) + (u64)offset;
}

/* --- SMM ---------------------------------------------------------------------------------------------------- */

/*
 * SMM runs outside of VMX operation ("Default Treatment of SMIs and SMM with VMX Operation"). L2's
 * registers are in SMRAM already, RSM brings them back; what the VMCS holds of them is kept, too, for
 * a client that saves the state meanwhile.
 */
void vmx_smm(struct cpu *cpu, bool in)
{
	struct nested *n = cpu->nested;

	if (in) {
		n->smm_vmxon = cpu->vmx_on;
		n->smm_guest = cpu->guest_mode;
		if (cpu->guest_mode) {
			u64 deadline = n->deadline;

			vmx_guest_save(cpu, vmcs_of(cpu));
			vmx_mode_leave(cpu);
			n->deadline = deadline;
		}
		cpu->vmx_on = false;
		cpu->cr0_must = cpu->cr4_must = 0;
		return;
	}
	if (n->smm_vmxon) {
		cpu->vmx_on = true;
		cpu->cr0_must = cpu->vmx_msr[VMX_CR0_FIXED0];
		cpu->cr4_must = cpu->vmx_msr[VMX_CR4_FIXED0];
	}
	if (n->smm_guest)
		vmx_mode_enter(cpu);
	n->smm_vmxon = n->smm_guest = false;
}

const struct cpu_nested_ops vmx_nested_ops = {
	.insn = vmx_insn,
	.intercept = vmx_intercept,
	.event = vmx_event,
	.triple_fault = vmx_triple_fault,
	.task_switch = vmx_task_switch,
	.trap = vmx_trap,
	.memory_fault = vmx_memory_fault,
	.leave = vmx_leave_recorded,
	.tsc = vmx_tsc,
	.smm = vmx_smm,
};
