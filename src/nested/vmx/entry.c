/*
 * entry.c - from the hypervisor (L1) into its guest (L2)
 */
#include "base/mem.h"
#include "cpu/control.h"
#include "cpu/mode.h"
#include "cpu/msr.h"
#include "cpu/tsc.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

#define MSR_FS_BASE	0xc0000100u
#define MSR_GS_BASE	0xc0000101u
#define MSR_SMM_MONITOR 0x9bu
#define MSR_UCODE_WRITE 0x79u
#define MSR_UCODE_REV	0x8bu

/* --- MSR lists -------------------------------------------------------------------------------------- */

struct msr_entry {
	u32 index, reserved;
	u64 value;
};

static int msr_write(struct cpu *cpu, u32 index, u64 value)
{
	bool handled = false;
	int ret = CPU_OK;

	if (cpu->ops && cpu->ops->msr_write)
		ret = cpu->ops->msr_write(cpu, index, value, &handled);
	if (ret) {
		cpu->exc.pending = false; /* no #GP: the entry or exit fails */
		return 1;
	}
	return handled ? 0 : cpu_msr_write(cpu, index, value, false);
}

u32 vmx_msrs_load(struct cpu *cpu, u64 list, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		struct msr_entry e;

		if (i >= 512 || mmu_phys_read(cpu, list + i * 16ull, &e, sizeof(e)) || e.reserved)
			return i + 1;
		if (e.index == MSR_FS_BASE || e.index == MSR_GS_BASE ||
		    e.index == MSR_SMM_MONITOR || e.index == MSR_UCODE_WRITE ||
		    e.index == MSR_UCODE_REV || e.index >> 8 == 8)
			return i + 1;
		if (msr_write(cpu, e.index, e.value))
			return i + 1;
	}
	return 0;
}

/* --- registers --------------------------------------------------------------------------------------- */

static void segments_load(struct cpu *cpu, const struct vmcs *v)
{
	const u64 *base = &v->guest_es_base;
	const u32 *limit = &v->guest_es_limit, *attr = &v->guest_es_ar_bytes;
	const u16 *sel = &v->guest_es_selector;

	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = (struct cpu_seg){
			.base = base[i], .limit = limit[i], .attr = attr[i], .sel = sel[i]};
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		if (!(cpu->seg[i].attr & SEG_ATTR_UNUSABLE))
			continue;
		cpu->seg[i].attr &= SEG_ATTR_UNUSABLE | SEG_ATTR_DPL;
		if (i < SEG_FS || i > SEG_GS)
			cpu->seg[i].base = 0;
	}
	cpu->gdtr = (struct cpu_dtable){v->guest_gdtr_base, v->guest_gdtr_limit};
	cpu->idtr = (struct cpu_dtable){v->guest_idtr_base, v->guest_idtr_limit};
}

void vmx_guest_load(struct cpu *cpu, const struct vmcs *v, bool efer)
{
	const u64 cr0_kept = CR0_ET | CR0_CD | CR0_NW;
	const u64 long_bits = EFER_LMA | EFER_LME;

	segments_load(cpu, v);
	cpu->cr0 = (v->guest_cr0 & ~cr0_kept & 0xffffffff) | (cpu->cr0 & cr0_kept) | CR0_ET;
	cpu->cr3 = v->guest_cr3;
	cpu->cr4 = v->guest_cr4;
	if (v->vm_entry_controls & ENTRY_LOAD_DEBUG) {
		cpu->dr7 = (v->guest_dr7 & 0xffff2fff) | 0x400;
		cpu->debugctl = v->guest_ia32_debugctl & ~3ull;
	}
	cpu->sysenter_cs = v->guest_sysenter_cs;
	cpu->sysenter_esp = v->guest_sysenter_esp;
	cpu->sysenter_eip = v->guest_sysenter_eip;
	if (v->vm_entry_controls & ENTRY_LOAD_PAT)
		cpu->pat = v->guest_ia32_pat;
	if (efer && (v->vm_entry_controls & ENTRY_LOAD_EFER)) {
		cpu->efer = v->guest_ia32_efer;
	} else if (v->vm_entry_controls & ENTRY_IA32E) {
		cpu->efer |= long_bits;
	} else {
		cpu->efer &= ~EFER_LMA;
		if (cpu->cr0 & CR0_PG) /* with paging off, LME is as it was */
			cpu->efer &= ~EFER_LME;
	}
	cpu->gpr[RSP] = v->guest_rsp;
	cpu->rip = v->guest_rip;
	cpu_rflags_set(cpu, v->guest_rflags);
	cpu->cpl = !(cpu->cr0 & CR0_PE) ? 0
		   : v->guest_rflags & FLAG_VM
			   ? 3
			   : (v->guest_ss_ar_bytes & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
	cpu->shadow = (v->guest_interruptibility_info & BLOCKED_STI ? CPU_SHADOW_STI : 0) |
		      (v->guest_interruptibility_info & BLOCKED_MOV_SS ? CPU_SHADOW_MOV_SS : 0);
}

/* False: the pointers that CR3 leads to are not valid. */
static bool pdptrs_load(struct cpu *cpu, const struct vmcs *v)
{
	if (!(cpu->cr0 & CR0_PG) || !(cpu->cr4 & CR4_PAE) || (cpu->efer & EFER_LMA))
		return true;
	if (!(vmcs_proc2(v) & PROC2_EPT))
		return !mmu_load_pdptrs(cpu, cpu->cr3);
	for (unsigned i = 0; i < 4; i++)
		cpu->pdptr[i] = (&v->guest_pdptr0)[i];
	return true;
}

/* --- guest mode ---------------------------------------------------------------------------------------- */

static void stage2_set(struct cpu *cpu, const struct vmcs *v)
{
	u32 proc2 = vmcs_proc2(v);
	struct cpu_stage2 s = {.apic_page = ~0ull, .tpr_page = ~0ull};

	if (proc2 & PROC2_APIC_ACCESS) {
		s.kind = CPU_STAGE2_IDENTITY;
		s.apic_page = v->apic_access_addr;
		if (v->cpu_based_vm_exec_control & PROC_TPR_SHADOW)
			s.tpr_page = v->virtual_apic_page_addr;
	}
	if (proc2 & PROC2_EPT) {
		s.kind = CPU_STAGE2_EPT;
		s.root = v->ept_pointer & 0x000ffffffffff000ull;
		s.ad = v->ept_pointer & BIT64(6);
		if (cpu->nested->eptp != v->ept_pointer)
			mmu_stage2_flush(cpu);
		cpu->nested->eptp = v->ept_pointer;
	}
	cpu->stage2 = s;
}

static void shadow_load(struct cpu *cpu, const struct vmcs *v)
{
	struct nested *n = cpu->nested;

	n->shadow_loaded = (vmcs_proc2(v) & PROC2_SHADOW_VMCS) &&
			   v->vmcs_link_pointer != VMX_NONE &&
			   !mmu_phys_read(cpu, v->vmcs_link_pointer, &n->shadow, VMCS_BYTES);
}

struct vmx_space vmx_space_now(const struct cpu *cpu)
{
	struct vmx_space s = {
		.cr0 = cpu->cr0,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.efer = cpu->efer,
		.keys = cpu->pkru | (u64)cpu->pkrs << 32,
		.watch = cpu->dr7 & 0xff,
	};

	if (!cpu->guest_mode)
		return s;
	s.eptp = cpu->stage2.kind == CPU_STAGE2_EPT ? cpu->nested->eptp : 0;
	s.vpid = vmcs_proc2(vmcs_of(cpu)) & PROC2_VPID ? vmcs_of(cpu)->virtual_processor_id : 0;
	s.apic_page = cpu->stage2.apic_page;
	s.tpr_page = cpu->stage2.tpr_page;
	return s;
}

/*
 * The TLB has views of L2's own. They stay over exits as long as L2 keeps its VPID and what its
 * translations depend on; without a VPID every entry empties them.
 */
static void translations_enter(struct cpu *cpu)
{
	struct vmx_space now = vmx_space_now(cpu);

	mmu_guest_switch(cpu);
	if (!now.vpid || now.watch || !mem_equal(&now, &cpu->nested->l2, sizeof(now)))
		mmu_flush_guest(cpu);
}

static void translations_leave(struct cpu *cpu)
{
	struct vmx_space now = vmx_space_now(cpu);

	mmu_guest_switch(cpu);
	if (now.watch || !mem_equal(&now, &cpu->nested->l1, sizeof(now)))
		mmu_flush_all(cpu);
}

void vmx_mode_enter(struct cpu *cpu)
{
	const struct vmcs *v = vmcs_of(cpu);

	cpu->guest_mode = true;
	cpu->guest_trap = v->cpu_based_vm_exec_control & PROC_MONITOR_TRAP;
	if (vmcs_proc2(v) & PROC2_UNRESTRICTED)
		cpu->cr0_must &= ~(u64)(CR0_PE | CR0_PG);
	stage2_set(cpu, v);
	shadow_load(cpu, v);
	cpu->nested->l1_nmi_masked = cpu->nmi_masked;
	cpu->nmi_masked = v->guest_interruptibility_info & BLOCKED_NMI;
	cpu->monitor_armed = 0;
	translations_enter(cpu);
	cpu_mode_update(cpu);
}

void vmx_mode_leave(struct cpu *cpu)
{
	bool inside = cpu->guest_mode; /* not after an entry that failed its checks */

	vmx_shadow_put(cpu);
	cpu->guest_mode = cpu->guest_trap = false;
	cpu->cr0_must = cpu->vmx_msr[VMX_CR0_FIXED0];
	cpu->stage2 = (struct cpu_stage2){.kind = CPU_STAGE2_NONE};
	cpu->nested->deadline = VMX_NONE;
	if (inside && (vmcs_of(cpu)->pin_based_vm_exec_control & PIN_VIRTUAL_NMI))
		cpu->nmi_masked = cpu->nested->l1_nmi_masked;
	cpu->monitor_armed = 0;
	translations_leave(cpu);
	cpu_mode_update(cpu);
}

void vmx_timer_start(struct cpu *cpu, u64 ticks)
{
	u64 now = cpu_tsc_read(cpu) >> MISC_TIMER_RATE;

	cpu->nested->deadline = (now + ticks) << MISC_TIMER_RATE;
}

/* --- events ---------------------------------------------------------------------------------------------- */

void vmx_inject(struct cpu *cpu, const struct vmcs *v)
{
	static const u8 kind[8] = {
		[INTR_EXT] = EVENT_INTR,
		[INTR_NMI] = EVENT_NMI,
		[INTR_HW_EXC] = EVENT_HW_EXC,
		[INTR_SW_INT] = EVENT_SW_INT,
		[INTR_PRIV_SW_EXC] = EVENT_PRIV_SW_EXC,
		[INTR_SW_EXC] = EVENT_SW_EXC,
	};
	u32 info = v->vm_entry_intr_info_field;
	unsigned type = info >> INTR_TYPE_SHIFT & 7;

	if (!(info & INTR_VALID))
		return;
	if (type == INTR_OTHER) {
		cpu_nested_exit(cpu, &(struct cpu_nested_exit){.code = EXIT_MONITOR_TRAP});
		return;
	}
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = kind[type],
		.vector = (u8)info,
		.has_error = info & INTR_ERROR,
		.error = v->vm_entry_exception_error_code,
		.payload = (u8)info == EXC_PF ? cpu->cr2 : 0,
		.insn_len = (u8)v->vm_entry_instruction_len,
		.injected = true,
	};
	cpu->shadow = 0;
}

/* --- VMLAUNCH, VMRESUME --------------------------------------------------------------------------------------- */

/* KVM cannot run a guest whose APIC-access page is no memory, and neither can we. */
static bool apic_page_missing(struct cpu *cpu, const struct vmcs *v)
{
	return (vmcs_proc2(v) & PROC2_APIC_ACCESS) && !mmu_slot_find(cpu, v->apic_access_addr);
}

/* Windows, timers and thresholds may be due already, and interrupts that L1 has masked are not in L2. */
static bool looks_at_once(const struct cpu *cpu, const struct vmcs *v)
{
	return !cpu->irq_window || (v->pin_based_vm_exec_control & PIN_PREEMPTION_TIMER) ||
	       (v->cpu_based_vm_exec_control & (PROC_INTR_WINDOW | PROC_NMI_WINDOW)) ||
	       ((v->cpu_based_vm_exec_control & PROC_TPR_SHADOW) && v->tpr_threshold);
}

int vmx_enter(struct cpu *cpu, const struct cpu_insn *in, bool launch)
{
	struct vmcs *v = vmcs_of(cpu);
	u64 qualification;
	u32 bad;

	if (apic_page_missing(cpu, v)) {
		cpu->exit.reason = CPU_EXIT_INTERNAL;
		cpu->exit.internal.why = "the APIC-access page of a nested guest is no memory";
		cpu->exit.internal.len = 0;
		return CPU_EXIT;
	}
	cpu_insn_done(cpu, in);
	cpu->nested->l1 = vmx_space_now(cpu);
	if (!vmx_guest_ok(cpu, v, &qualification))
		return vmx_entry_failed(cpu, EXIT_BAD_GUEST, qualification);
	vmx_guest_load(cpu, v, true);
	vmx_mode_enter(cpu);
	cpu->nested->l2 = (struct vmx_space){0}; /* until it has left */
	if (!pdptrs_load(cpu, v)) {
		cpu->exc.pending = false;
		return vmx_entry_failed(cpu, EXIT_BAD_GUEST, BAD_GUEST_PDPTE);
	}
	bad = vmx_msrs_load(cpu, v->vm_entry_msr_load_addr, v->vm_entry_msr_load_count);
	if (bad)
		return vmx_entry_failed(cpu, EXIT_BAD_MSR, bad);
	if (launch)
		v->launch_state = 1;
	if (v->pin_based_vm_exec_control & PIN_PREEMPTION_TIMER)
		vmx_timer_start(cpu, v->vmx_preemption_timer_value);
	cpu->trap_by_new_tf = 1; /* L1's single step ends here */
	vmx_inject(cpu, v);
	if (!cpu->exc.pending && (v->guest_pending_dbg_exceptions & 0x500f) &&
	    !(cpu->shadow & CPU_SHADOW_MOV_SS))
		cpu_raise_db(cpu, v->guest_pending_dbg_exceptions & 0x400f);
	cpu_mode_update(cpu);
	if (looks_at_once(cpu, v))
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
	if (v->guest_activity_state == ACTIVITY_HLT && !cpu->exc.pending) {
		cpu->exit.reason = CPU_EXIT_HLT;
		return CPU_EXIT;
	}
	return CPU_OK;
}
