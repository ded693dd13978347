/*
 * exit.c - from L2 back to the hypervisor (L1): SDM volume 3, "VM Exits"
 *
 * In this order: what happened is written to the VMCS, L2's registers are saved there, its MSRs are
 * stored, L1's registers are loaded from the host fields, and L1's MSRs from their list.
 */
#include "base/mem.h"
#include "cpu/mode.h"
#include "cpu/msr.h"
#include "cpu/seg.h"
#include "cpu/tsc.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

/* --- saving L2 ---------------------------------------------------------------------------------------- */

static void segments_save(const struct cpu *cpu, struct vmcs *v)
{
	u64 *base = &v->guest_es_base;
	u32 *limit = &v->guest_es_limit, *attr = &v->guest_es_ar_bytes;
	u16 *sel = &v->guest_es_selector;

	for (unsigned i = 0; i < SEG_COUNT; i++) {
		const struct cpu_seg *s = &cpu->seg[i];

		base[i] = s->base;
		limit[i] = s->limit;
		attr[i] = s->attr & 0x1f0ff;
		sel[i] = s->sel;
	}
	/* The current privilege level is where entry finds it. */
	attr[SEG_SS] = (attr[SEG_SS] & ~SEG_ATTR_DPL) | (u32)cpu->cpl << SEG_ATTR_DPL_SHIFT;
	v->guest_gdtr_base = cpu->gdtr.base;
	v->guest_gdtr_limit = (u16)cpu->gdtr.limit;
	v->guest_idtr_base = cpu->idtr.base;
	v->guest_idtr_limit = (u16)cpu->idtr.limit;
}

static u32 timer_left(const struct cpu *cpu)
{
	u64 deadline = cpu->nested->deadline >> MISC_TIMER_RATE,
	    now = cpu_tsc_read(cpu) >> MISC_TIMER_RATE;

	return cpu->nested->deadline == VMX_NONE || deadline <= now ? 0 : (u32)(deadline - now);
}

void vmx_guest_save(struct cpu *cpu, struct vmcs *v)
{
	segments_save(cpu, v);
	v->guest_cr0 = cpu->cr0;
	v->guest_cr3 = cpu->cr3;
	v->guest_cr4 = cpu->cr4;
	v->guest_rsp = cpu->gpr[RSP];
	v->guest_rip = cpu->rip;
	v->guest_rflags = cpu_rflags(cpu);
	v->guest_sysenter_cs = (u32)cpu->sysenter_cs;
	v->guest_sysenter_esp = cpu->sysenter_esp;
	v->guest_sysenter_eip = cpu->sysenter_eip;
	v->guest_interruptibility_info = (cpu->shadow & CPU_SHADOW_STI ? BLOCKED_STI : 0) |
					 (cpu->shadow & CPU_SHADOW_MOV_SS ? BLOCKED_MOV_SS : 0) |
					 (cpu->nmi_masked ? BLOCKED_NMI : 0);
	v->guest_activity_state = ACTIVITY_ACTIVE;
	v->guest_pending_dbg_exceptions = 0;
	/* A single step that waits behind a shadow. */
	if (cpu->shadow && (cpu->rflags & FLAG_TF))
		v->guest_pending_dbg_exceptions = BIT64(14);
	if (v->vm_exit_controls & EXIT_SAVE_DEBUG) {
		v->guest_dr7 = cpu->dr7;
		v->guest_ia32_debugctl = cpu->debugctl;
	}
	if (v->vm_exit_controls & EXIT_SAVE_PAT)
		v->guest_ia32_pat = cpu->pat;
	if (v->vm_exit_controls & EXIT_SAVE_EFER)
		v->guest_ia32_efer = cpu->efer;
	if ((v->vm_exit_controls & EXIT_SAVE_TIMER) &&
	    (v->pin_based_vm_exec_control & PIN_PREEMPTION_TIMER))
		v->vmx_preemption_timer_value = timer_left(cpu);
	if (vmcs_proc2(v) & PROC2_EPT)
		for (unsigned i = 0; i < 4; i++)
			(&v->guest_pdptr0)[i] = cpu->pdptr[i];
	v->vm_entry_controls =
		(v->vm_entry_controls & ~ENTRY_IA32E) | (cpu->efer & EFER_LMA ? ENTRY_IA32E : 0);
}

/* 0, or 1: a MSR cannot be read or its place not written. */
static int msrs_store(struct cpu *cpu, u64 list, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		u64 at = list + i * 16ull, value = 0;
		bool handled = false;
		u32 head[2];
		int ret = CPU_OK;

		if (i >= 512 || mmu_phys_read(cpu, at, head, 8) || head[1] || head[0] >> 8 == 8)
			return 1;
		if (head[0] == MSR_IA32_TSC) { /* L1's, not L2's */
			value = cpu_tsc_read(cpu);
			handled = true;
		} else if (cpu->ops && cpu->ops->msr_read)
			ret = cpu->ops->msr_read(cpu, head[0], &value, &handled);
		if (!ret && !handled)
			ret = cpu_msr_read(cpu, head[0], &value, false);
		cpu->exc.pending = false;
		if (ret || mmu_phys_write(cpu, at + 8, &value, 8))
			return 1;
	}
	return 0;
}

/* --- loading L1 ------------------------------------------------------------------------------------------ */

static struct cpu_seg host_seg(u16 sel, u64 base)
{
	if (!sel)
		return (struct cpu_seg){.base = base, .attr = SEG_ATTR_UNUSABLE};
	return (struct cpu_seg){
		.base = base,
		.limit = 0xffffffff,
		.attr = SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_DB | SEG_ATTR_G | 3,
		.sel = sel,
	};
}

static void host_segments(struct cpu *cpu, const struct vmcs *v)
{
	bool wide = v->vm_exit_controls & EXIT_HOST64;

	cpu->seg[SEG_CS] = (struct cpu_seg){
		.limit = 0xffffffff,
		.attr = SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | 11 |
			(wide ? SEG_ATTR_L : SEG_ATTR_DB),
		.sel = v->host_cs_selector,
	};
	cpu->seg[SEG_SS] = host_seg(v->host_ss_selector, 0);
	cpu->seg[SEG_DS] = host_seg(v->host_ds_selector, 0);
	cpu->seg[SEG_ES] = host_seg(v->host_es_selector, 0);
	cpu->seg[SEG_FS] = host_seg(v->host_fs_selector, v->host_fs_base);
	cpu->seg[SEG_GS] = host_seg(v->host_gs_selector, v->host_gs_base);
	cpu->seg[SEG_TR] = (struct cpu_seg){
		.base = v->host_tr_base,
		.limit = 0x67,
		.attr = SEG_ATTR_P | 11,
		.sel = v->host_tr_selector,
	};
	cpu->seg[SEG_LDTR] = (struct cpu_seg){.attr = SEG_ATTR_UNUSABLE};
	cpu->gdtr = (struct cpu_dtable){v->host_gdtr_base, 0xffff};
	cpu->idtr = (struct cpu_dtable){v->host_idtr_base, 0xffff};
}

/* False: VMX abort. */
static bool host_load(struct cpu *cpu, const struct vmcs *v)
{
	const u64 cr0_kept = CR0_ET | CR0_CD | CR0_NW;
	bool wide = v->vm_exit_controls & EXIT_HOST64;

	cpu->cr0 = (v->host_cr0 & ~cr0_kept & 0xffffffff) | (cpu->cr0 & cr0_kept) | CR0_ET;
	cpu->cr3 = v->host_cr3;
	cpu->cr4 = v->host_cr4;
	cpu->dr7 = 0x400;
	cpu->debugctl = 0;
	cpu->sysenter_cs = v->host_ia32_sysenter_cs;
	cpu->sysenter_esp = v->host_ia32_sysenter_esp;
	cpu->sysenter_eip = v->host_ia32_sysenter_eip;
	if (v->vm_exit_controls & EXIT_LOAD_EFER)
		cpu->efer = v->host_ia32_efer;
	else if (wide)
		cpu->efer |= EFER_LMA | EFER_LME;
	else
		cpu->efer &= ~(EFER_LMA | EFER_LME);
	if (v->vm_exit_controls & EXIT_LOAD_PAT)
		cpu->pat = v->host_ia32_pat;
	host_segments(cpu, v);
	cpu->gpr[RSP] = v->host_rsp;
	cpu->rip = v->host_rip;
	cpu_rflags_set(cpu, 2);
	cpu->cpl = 0;
	cpu->shadow = 0;
	cpu->pending_db = 0;
	cpu->exc.pending = false;
	vmx_mode_leave(cpu);
	return wide || !(cpu->cr4 & CR4_PAE) || !mmu_load_pdptrs(cpu, cpu->cr3);
}

static int abort_vmx(struct cpu *cpu, u32 why)
{
	struct nested *n = cpu->nested;

	n->vmcs.abort = why;
	mmu_phys_write(cpu, n->vmcs_pa + __builtin_offsetof(struct vmcs, abort), &why, 4);
	return cpu_exit_set(cpu, CPU_EXIT_SHUTDOWN);
}

enum { ABORT_STORE = 1, ABORT_PDPTE = 2, ABORT_LOAD = 4 };

static int to_host(struct cpu *cpu, bool store)
{
	struct vmcs *v = vmcs_of(cpu);

	if (store && msrs_store(cpu, v->vm_exit_msr_store_addr, v->vm_exit_msr_store_count))
		return abort_vmx(cpu, ABORT_STORE);
	if (!host_load(cpu, v))
		return abort_vmx(cpu, ABORT_PDPTE);
	if (vmx_msrs_load(cpu, v->vm_exit_msr_load_addr, v->vm_exit_msr_load_count))
		return abort_vmx(cpu, ABORT_LOAD);
	cpu_mode_update(cpu);
	return CPU_OK;
}

/* --- exits ------------------------------------------------------------------------------------------------- */

u32 vmx_event_info(const struct cpu_exc *ev)
{
	static const u8 type[] = {
		[EVENT_HW_EXC] = INTR_HW_EXC, [EVENT_INTR] = INTR_EXT,
		[EVENT_NMI] = INTR_NMI,	      [EVENT_SW_INT] = INTR_SW_INT,
		[EVENT_SW_EXC] = INTR_SW_EXC, [EVENT_PRIV_SW_EXC] = INTR_PRIV_SW_EXC,
	};

	return ev->vector | (u32)type[ev->kind] << INTR_TYPE_SHIFT |
	       (ev->has_error ? INTR_ERROR : 0) | INTR_VALID;
}

int vmx_exit(struct cpu *cpu, const struct cpu_nested_exit *e, const struct cpu_exc *first,
	     bool halted)
{
	struct vmcs *v = vmcs_of(cpu);

	vmx_guest_save(cpu, v);
	cpu->nested->l2 = vmx_space_now(cpu);
	if (halted)
		v->guest_activity_state = ACTIVITY_HLT;
	v->vm_exit_reason = (u32)e->code;
	v->exit_qualification = e->info;
	v->guest_linear_address = e->linear;
	v->guest_physical_address = e->gpa;
	v->vm_exit_intr_info = e->intr_info;
	v->vm_exit_intr_error_code = e->intr_error;
	v->vm_exit_instruction_len = e->insn_len;
	v->vmx_instruction_info = e->insn_info;
	v->idt_vectoring_info_field = 0;
	if (first) {
		v->idt_vectoring_info_field = vmx_event_info(first);
		v->idt_vectoring_error_code = first->error;
		if (first->kind >= EVENT_SW_INT)
			v->vm_exit_instruction_len = first->insn_len;
	}
	v->vm_entry_intr_info_field &= ~INTR_VALID;
	return to_host(cpu, true);
}

int vmx_entry_failed(struct cpu *cpu, u32 reason, u64 qualification)
{
	struct vmcs *v = vmcs_of(cpu);

	v->vm_exit_reason = reason | EXIT_ENTRY_FAILED;
	v->exit_qualification = qualification;
	return to_host(cpu, false);
}
