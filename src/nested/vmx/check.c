/*
 * check.c - what VM entry checks: SDM volume 3, "Checks on VMX Controls and Host-State Area" and
 * "Checks on the Guest State Area"
 *
 * Each function is a list of conditions. The first that does not hold is remembered as text for
 * whoever traces an entry that fails.
 */
#include "cpu/feature.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

#define WANT(condition)               \
	do {                          \
		if (!(condition))     \
			return false; \
	} while (0)

bool vmx_address_ok(const struct cpu *cpu, u64 pa, u64 mask)
{
	return !(pa & mask) && !(pa & ~((1ull << (cpu->maxphyaddr ? cpu->maxphyaddr : 36)) - 1));
}

static bool page_ok(const struct cpu *cpu, u64 pa)
{
	return vmx_address_ok(cpu, pa, PAGE_SIZE - 1);
}

/* Lists of 16-byte entries. */
static bool list_ok(const struct cpu *cpu, u64 pa, u32 count)
{
	return !count ||
	       (vmx_address_ok(cpu, pa, 15) && vmx_address_ok(cpu, pa + count * 16ull - 1, 0));
}

static bool within(u32 v, u64 capability)
{
	return vmx_fixed_ok(v, (u32)capability, capability >> 32);
}

static bool pat_ok(u64 v)
{
	for (unsigned i = 0; i < 8; i++)
		if (!(0xf3u >> (v >> (8 * i) & 0xff) & 1) || (v >> (8 * i) & 0xff) > 7)
			return false;
	return true;
}

/* --- controls ------------------------------------------------------------------------------------- */

static bool eptp_ok(const struct cpu *cpu, u64 eptp)
{
	u64 cap = cpu->vmx_msr[VMX_EPT_VPID_CAP];

	return (eptp & 7) == 6 && (eptp >> 3 & 7) == 3 && (!(eptp & BIT64(6)) || (cap & EPT_AD)) &&
	       !(eptp & 0xf80) && vmx_address_ok(cpu, eptp & PAGE_MASK, 0);
}

/* Without virtual-interrupt delivery and APIC accesses the shadow must not begin below its threshold. */
static bool tpr_ok(struct cpu *cpu, const struct vmcs *v)
{
	u32 tpr;

	WANT(page_ok(cpu, v->virtual_apic_page_addr));
	WANT(!(v->tpr_threshold >> 4));
	if (vmcs_proc2(v) & PROC2_APIC_ACCESS)
		return true;
	if (mmu_phys_read(cpu, v->virtual_apic_page_addr + 0x80, &tpr, 4))
		return true;
	return (v->tpr_threshold & 15) <= (tpr >> 4 & 15);
}

static bool exec_ok(struct cpu *cpu, const struct vmcs *v)
{
	u32 pin = v->pin_based_vm_exec_control, proc = v->cpu_based_vm_exec_control,
	    proc2 = vmcs_proc2(v);

	WANT(within(pin, cpu->vmx_msr[VMX_TRUE_PINBASED_CTLS]));
	WANT(within(proc, cpu->vmx_msr[VMX_TRUE_PROCBASED_CTLS]));
	WANT(within(proc2, cpu->vmx_msr[VMX_PROCBASED_CTLS2]));
	WANT(!v->cr3_target_count);
	if (proc & PROC_IO_BITMAPS)
		WANT(page_ok(cpu, v->io_bitmap_a) && page_ok(cpu, v->io_bitmap_b));
	if (proc & PROC_MSR_BITMAPS)
		WANT(page_ok(cpu, v->msr_bitmap));
	if (proc & PROC_TPR_SHADOW)
		WANT(tpr_ok(cpu, v));
	WANT((pin & PIN_NMI) || !(pin & PIN_VIRTUAL_NMI));
	WANT((pin & PIN_VIRTUAL_NMI) || !(proc & PROC_NMI_WINDOW));
	if (proc2 & PROC2_APIC_ACCESS)
		WANT(page_ok(cpu, v->apic_access_addr));
	if (proc2 & PROC2_VPID)
		WANT(v->virtual_processor_id);
	if (proc2 & PROC2_EPT)
		WANT(eptp_ok(cpu, v->ept_pointer));
	WANT((proc2 & PROC2_EPT) || !(proc2 & PROC2_UNRESTRICTED));
	if (proc2 & PROC2_SHADOW_VMCS)
		WANT(page_ok(cpu, v->vmread_bitmap) && page_ok(cpu, v->vmwrite_bitmap));
	return true;
}

static bool has_error_code(unsigned vector)
{
	return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

static bool injection_ok(struct cpu *cpu, const struct vmcs *v)
{
	u32 info = v->vm_entry_intr_info_field;
	unsigned type = info >> INTR_TYPE_SHIFT & 7, vector = info & INTR_VECTOR;
	bool prot = !(vmcs_proc2(v) & PROC2_UNRESTRICTED) || (v->guest_cr0 & CR0_PE);
	bool mtf = cpu->vmx_msr[VMX_TRUE_PROCBASED_CTLS] >> 32 & PROC_MONITOR_TRAP;

	if (!(info & INTR_VALID))
		return true;
	WANT(type != 1 && (type != INTR_OTHER || mtf));
	WANT(type != INTR_NMI || vector == EXC_NMI);
	WANT(type != INTR_HW_EXC || vector <= 31);
	WANT(type != INTR_OTHER || vector == 0);
	WANT(!!(info & INTR_ERROR) == (type == INTR_HW_EXC && prot && has_error_code(vector)));
	WANT(!(info & 0x7ffff000));
	if (info & INTR_ERROR)
		WANT(!(v->vm_entry_exception_error_code >> 16));
	if (type >= INTR_SW_INT && type <= INTR_SW_EXC)
		WANT(v->vm_entry_instruction_len >= 1 && v->vm_entry_instruction_len <= 15);
	return true;
}

bool vmx_controls_ok(struct cpu *cpu, const struct vmcs *v)
{
	WANT(exec_ok(cpu, v));
	WANT(within(v->vm_exit_controls, cpu->vmx_msr[VMX_TRUE_EXIT_CTLS]));
	WANT((v->pin_based_vm_exec_control & PIN_PREEMPTION_TIMER) ||
	     !(v->vm_exit_controls & EXIT_SAVE_TIMER));
	WANT(list_ok(cpu, v->vm_exit_msr_store_addr, v->vm_exit_msr_store_count));
	WANT(list_ok(cpu, v->vm_exit_msr_load_addr, v->vm_exit_msr_load_count));
	WANT(within(v->vm_entry_controls, cpu->vmx_msr[VMX_TRUE_ENTRY_CTLS]));
	WANT(list_ok(cpu, v->vm_entry_msr_load_addr, v->vm_entry_msr_load_count));
	return injection_ok(cpu, v);
}

/* --- host state ------------------------------------------------------------------------------------- */

static bool canonical(const struct vmcs *v, u64 cr4, u64 a)
{
	unsigned shift = cr4 & CR4_LA57 ? 7 : 16;

	(void)v;
	return (u64)((s64)(a << shift) >> shift) == a;
}

static u64 efer_known(const struct cpu *cpu)
{
	return (cpu_has(cpu, X86_FEATURE_SYSCALL) ? EFER_SCE : 0) | EFER_LME | EFER_LMA |
	       (cpu_has(cpu, X86_FEATURE_NX) ? EFER_NX : 0);
}

static bool host_segments_ok(const struct vmcs *v, bool wide)
{
	const u16 all = v->host_es_selector | v->host_cs_selector | v->host_ss_selector |
			v->host_ds_selector | v->host_fs_selector | v->host_gs_selector |
			v->host_tr_selector;

	WANT(!(all & 7));
	WANT(v->host_cs_selector && v->host_tr_selector);
	WANT(wide || v->host_ss_selector);
	WANT(canonical(v, v->host_cr4, v->host_fs_base) &&
	     canonical(v, v->host_cr4, v->host_gs_base));
	WANT(canonical(v, v->host_cr4, v->host_tr_base));
	return canonical(v, v->host_cr4, v->host_gdtr_base) &&
	       canonical(v, v->host_cr4, v->host_idtr_base);
}

bool vmx_host_ok(struct cpu *cpu, const struct vmcs *v)
{
	bool wide = v->vm_exit_controls & EXIT_HOST64;

	WANT(vmx_fixed_ok(v->host_cr0, cpu->vmx_msr[VMX_CR0_FIXED0], cpu->vmx_msr[VMX_CR0_FIXED1]));
	WANT(vmx_fixed_ok(v->host_cr4, cpu->vmx_msr[VMX_CR4_FIXED0],
			  vmx_msr_get(cpu, VMX_CR4_FIXED1)));
	WANT(vmx_address_ok(cpu, v->host_cr3, 0));
	WANT(canonical(v, v->host_cr4, v->host_ia32_sysenter_esp));
	WANT(canonical(v, v->host_cr4, v->host_ia32_sysenter_eip));
	if (v->vm_exit_controls & EXIT_LOAD_PAT)
		WANT(pat_ok(v->host_ia32_pat));
	WANT(!!cpu_is_long(cpu) == wide);
	WANT(wide || !(v->vm_entry_controls & ENTRY_IA32E));
	if (wide)
		WANT((v->host_cr4 & CR4_PAE) && canonical(v, v->host_cr4, v->host_rip));
	else
		WANT(!(v->host_cr4 & CR4_PCIDE) && !(v->host_rip >> 32));
	WANT(host_segments_ok(v, wide));
	if (!(v->vm_exit_controls & EXIT_LOAD_EFER))
		return true;
	WANT(!(v->host_ia32_efer & ~efer_known(cpu)));
	return !!(v->host_ia32_efer & EFER_LMA) == wide && !!(v->host_ia32_efer & EFER_LME) == wide;
}

/* --- guest state --------------------------------------------------------------------------------------- */

/* One segment register, gathered from the fields. */
static struct cpu_seg seg_at(const struct vmcs *v, unsigned i)
{
	const u64 *base = &v->guest_es_base;
	const u32 *limit = &v->guest_es_limit, *attr = &v->guest_es_ar_bytes;
	const u16 *sel = &v->guest_es_selector;

	return (struct cpu_seg){.base = base[i], .limit = limit[i], .attr = attr[i], .sel = sel[i]};
}

static bool usable(const struct cpu_seg *s)
{
	return !(s->attr & SEG_ATTR_UNUSABLE);
}

static bool attr_common_ok(const struct cpu_seg *s)
{
	WANT(!(s->attr & 0xfffe0f00u) && (s->attr & SEG_ATTR_P));
	WANT((s->limit & 0xfff) == 0xfff || !(s->attr & SEG_ATTR_G));
	return !(s->limit >> 20) || (s->attr & SEG_ATTR_G);
}

static bool code_ok(const struct vmcs *v, const struct cpu_seg *cs, const struct cpu_seg *ss,
		    bool free)
{
	unsigned type = seg_type(cs->attr), dpl = seg_dpl(cs->attr);

	WANT(attr_common_ok(cs) && (cs->attr & SEG_ATTR_S) && usable(cs));
	switch (type) {
	case 3:
		WANT(free && !dpl);
		break;
	case 9:
	case 11:
		WANT(dpl == seg_dpl(ss->attr));
		break;
	case 13:
	case 15:
		WANT(dpl <= seg_dpl(ss->attr));
		break;
	default:
		return false;
	}
	return !(v->vm_entry_controls & ENTRY_IA32E) || !(cs->attr & SEG_ATTR_L) ||
	       !(cs->attr & SEG_ATTR_DB);
}

static bool stack_ok(const struct vmcs *v, const struct cpu_seg *ss, const struct cpu_seg *cs,
		     bool free)
{
	unsigned type = seg_type(ss->attr), dpl = seg_dpl(ss->attr);

	if (!free)
		WANT((ss->sel & 3) == (cs->sel & 3) && dpl == (ss->sel & 3));
	if (seg_type(cs->attr) == 3 || !(v->guest_cr0 & CR0_PE))
		WANT(!dpl);
	if (!usable(ss))
		return true;
	return (type == 3 || type == 7) && (ss->attr & SEG_ATTR_S) && attr_common_ok(ss) &&
	       !(ss->base >> 32);
}

static bool data_ok(const struct cpu_seg *s, bool free)
{
	unsigned type = seg_type(s->attr);

	if (!usable(s))
		return true;
	WANT((type & 1) && (s->attr & SEG_ATTR_S) && attr_common_ok(s));
	WANT(!(type & SEG_TYPE_CODE) || (type & 2));
	return free || type > 11 || seg_dpl(s->attr) >= (s->sel & 3u);
}

static bool v86_ok(const struct vmcs *v)
{
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		struct cpu_seg s = seg_at(v, i);

		WANT(s.base == (u64)s.sel << 4 && s.limit == 0xffff && s.attr == 0xf3);
	}
	return true;
}

static bool system_segments_ok(const struct vmcs *v)
{
	struct cpu_seg tr = seg_at(v, SEG_TR), ldtr = seg_at(v, SEG_LDTR);

	WANT(!(tr.sel & 4) && canonical(v, v->guest_cr4, tr.base) && usable(&tr));
	WANT(seg_type(tr.attr) == 11 ||
	     (seg_type(tr.attr) == 3 && !(v->vm_entry_controls & ENTRY_IA32E)));
	WANT(!(tr.attr & SEG_ATTR_S) && attr_common_ok(&tr));
	if (!usable(&ldtr))
		return true;
	WANT(!(ldtr.sel & 4) && canonical(v, v->guest_cr4, ldtr.base));
	return seg_type(ldtr.attr) == 2 && !(ldtr.attr & SEG_ATTR_S) && attr_common_ok(&ldtr);
}

static bool segments_ok(const struct vmcs *v)
{
	struct cpu_seg cs = seg_at(v, SEG_CS), ss = seg_at(v, SEG_SS);
	bool free = vmcs_proc2(v) & PROC2_UNRESTRICTED;
	static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	WANT(system_segments_ok(v));
	WANT(canonical(v, v->guest_cr4, v->guest_fs_base) &&
	     canonical(v, v->guest_cr4, v->guest_gs_base));
	WANT(!(cs.base >> 32));
	if (v->guest_rflags & FLAG_VM)
		return v86_ok(v);
	WANT(code_ok(v, &cs, &ss, free) && stack_ok(v, &ss, &cs, free));
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct cpu_seg s = seg_at(v, data[i]);

		WANT(data_ok(&s, free));
		WANT(data[i] > SEG_DS || !usable(&s) || !(s.base >> 32));
	}
	return true;
}

static bool control_registers_ok(struct cpu *cpu, const struct vmcs *v)
{
	u64 must = cpu->vmx_msr[VMX_CR0_FIXED0];
	bool ia32e = v->vm_entry_controls & ENTRY_IA32E;

	if (vmcs_proc2(v) & PROC2_UNRESTRICTED)
		must &= ~(u64)(CR0_PE | CR0_PG);
	WANT(vmx_fixed_ok(v->guest_cr0, must, cpu->vmx_msr[VMX_CR0_FIXED1]));
	WANT(!(v->guest_cr0 & CR0_PG) || (v->guest_cr0 & CR0_PE));
	WANT(vmx_fixed_ok(v->guest_cr4, cpu->vmx_msr[VMX_CR4_FIXED0],
			  vmx_msr_get(cpu, VMX_CR4_FIXED1)));
	if (ia32e)
		WANT((v->guest_cr0 & CR0_PG) && (v->guest_cr4 & CR4_PAE));
	else
		WANT(!(v->guest_cr4 & CR4_PCIDE));
	WANT(vmx_address_ok(cpu, v->guest_cr3, 0));
	if (v->vm_entry_controls & ENTRY_LOAD_DEBUG)
		WANT(!(v->guest_dr7 >> 32) && !(v->guest_ia32_debugctl & ~0xffc3ull));
	WANT(canonical(v, v->guest_cr4, v->guest_sysenter_esp));
	WANT(canonical(v, v->guest_cr4, v->guest_sysenter_eip));
	if (v->vm_entry_controls & ENTRY_LOAD_PAT)
		WANT(pat_ok(v->guest_ia32_pat));
	if (!(v->vm_entry_controls & ENTRY_LOAD_EFER))
		return true;
	WANT(!(v->guest_ia32_efer & ~efer_known(cpu)));
	WANT(!!(v->guest_ia32_efer & EFER_LMA) == ia32e);
	return !(v->guest_cr0 & CR0_PG) || !!(v->guest_ia32_efer & EFER_LME) == ia32e;
}

static bool rip_flags_ok(const struct vmcs *v)
{
	bool ia32e = v->vm_entry_controls & ENTRY_IA32E;
	u32 info = v->vm_entry_intr_info_field;

	if (ia32e && (v->guest_cs_ar_bytes & SEG_ATTR_L))
		WANT(canonical(v, v->guest_cr4, v->guest_rip));
	else
		WANT(!(v->guest_rip >> 32));
	WANT(!(v->guest_rflags & 0xffffffffffc08028ull) && (v->guest_rflags & 2));
	WANT(!(v->guest_rflags & FLAG_VM) || (!ia32e && (v->guest_cr0 & CR0_PE)));
	return !(info & INTR_VALID) || (info >> INTR_TYPE_SHIFT & 7) != INTR_EXT ||
	       (v->guest_rflags & FLAG_IF);
}

static bool halted_event_ok(u32 info)
{
	unsigned type = info >> INTR_TYPE_SHIFT & 7, vector = info & INTR_VECTOR;

	if (!(info & INTR_VALID) || type == INTR_EXT || type == INTR_NMI || type == INTR_OTHER)
		return true;
	return type == INTR_HW_EXC && (vector == EXC_DB || vector == EXC_MC);
}

static bool non_register_state_ok(const struct cpu *cpu, const struct vmcs *v)
{
	u32 blocked = v->guest_interruptibility_info, info = v->vm_entry_intr_info_field;
	unsigned type = info >> INTR_TYPE_SHIFT & 7;
	u64 pending = v->guest_pending_dbg_exceptions;
	bool shadow = blocked & (BLOCKED_STI | BLOCKED_MOV_SS), step;

	if (v->guest_activity_state == ACTIVITY_HLT) {
		WANT(cpu->vmx_msr[VMX_MISC] & MISC_ACTIVITY_HLT);
		WANT(!seg_dpl(v->guest_ss_ar_bytes) && !shadow && halted_event_ok(info));
	} else {
		WANT(v->guest_activity_state == ACTIVITY_ACTIVE);
	}
	WANT(!(blocked >> 4) && !(blocked & BLOCKED_SMI));
	WANT((blocked & 3) != 3);
	WANT(!(blocked & BLOCKED_STI) || (v->guest_rflags & FLAG_IF));
	if (info & INTR_VALID) {
		WANT(type != INTR_EXT || !shadow);
		WANT(type != INTR_NMI || !(blocked & BLOCKED_MOV_SS));
		WANT(type != INTR_NMI || !(v->pin_based_vm_exec_control & PIN_VIRTUAL_NMI) ||
		     !(blocked & BLOCKED_NMI));
	}
	WANT(!(pending & ~0x1500full) || (pending & ~0x1500full) == BIT64(12));
	if (!shadow && v->guest_activity_state != ACTIVITY_HLT)
		return true;
	step = (v->guest_rflags & FLAG_TF) && !(v->guest_ia32_debugctl & 2);
	return !!(pending & BIT64(14)) == step;
}

static bool link_ok(struct cpu *cpu, const struct vmcs *v)
{
	bool wants = vmcs_proc2(v) & PROC2_SHADOW_VMCS;
	u32 revision;

	if (v->vmcs_link_pointer == VMX_NONE)
		return true;
	WANT(page_ok(cpu, v->vmcs_link_pointer));
	WANT(!mmu_phys_read(cpu, v->vmcs_link_pointer, &revision, 4));
	return (revision & ~VMCS_SHADOW) == VMCS_REVISION && !!(revision & VMCS_SHADOW) == wants;
}

static bool pdptes_ok(const struct cpu *cpu, const struct vmcs *v)
{
	const u64 *p = &v->guest_pdptr0;
	const u64 reserved = (cpu->phys_reserved & 0x000ffffffffff000ull) | 0xfff00000000001e6ull;
	bool pae = (v->guest_cr0 & CR0_PG) && (v->guest_cr4 & CR4_PAE) &&
		   !(v->vm_entry_controls & ENTRY_IA32E);

	if (!pae || !(vmcs_proc2(v) & PROC2_EPT))
		return true;
	for (unsigned i = 0; i < 4; i++)
		WANT(!(p[i] & 1) || !(p[i] & reserved));
	return true;
}

bool vmx_guest_ok(struct cpu *cpu, const struct vmcs *v, u64 *qualification)
{
	*qualification = BAD_GUEST_OTHER;
	WANT(control_registers_ok(cpu, v));
	WANT(segments_ok(v));
	WANT(canonical(v, v->guest_cr4, v->guest_gdtr_base) && !(v->guest_gdtr_limit >> 16));
	WANT(canonical(v, v->guest_cr4, v->guest_idtr_base) && !(v->guest_idtr_limit >> 16));
	WANT(rip_flags_ok(v));
	WANT(non_register_state_ok(cpu, v));
	*qualification = BAD_GUEST_LINK;
	WANT(link_ok(cpu, v));
	*qualification = BAD_GUEST_PDPTE;
	return pdptes_ok(cpu, v);
}
