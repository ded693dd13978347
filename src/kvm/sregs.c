/* Segments, tables and control registers. */
#include "kvm/regs.h"

#include "cpu/control.h"
#include "cpu/feature.h"
#include "kvm/clock.h"
#include "kvm/cpuid.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"

#include <errno.h>
#include <string.h>

static void seg_get(const struct cpu_seg *s, struct kvm_segment *k)
{
	*k = (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEG_ATTR_TYPE,
		.s = !!(s->attr & SEG_ATTR_S),
		.dpl = (s->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT,
		.present = !!(s->attr & SEG_ATTR_P),
		.avl = !!(s->attr & SEG_ATTR_AVL),
		.l = !!(s->attr & SEG_ATTR_L),
		.db = !!(s->attr & SEG_ATTR_DB),
		.g = !!(s->attr & SEG_ATTR_G),
		.unusable = !!(s->attr & SEG_ATTR_UNUSABLE) || !(s->attr & SEG_ATTR_P),
	};
}

static void seg_set(struct cpu_seg *s, const struct kvm_segment *k)
{
	s->base = k->base;
	s->limit = k->limit;
	s->sel = k->selector;
	s->attr = (k->type & 15u) | (k->s ? SEG_ATTR_S : 0) |
		  (u32)(k->dpl & 3) << SEG_ATTR_DPL_SHIFT | (k->present ? SEG_ATTR_P : 0) |
		  (k->avl ? SEG_ATTR_AVL : 0) | (k->l ? SEG_ATTR_L : 0) |
		  (k->db ? SEG_ATTR_DB : 0) | (k->g ? SEG_ATTR_G : 0) |
		  (k->unusable || !k->present ? SEG_ATTR_UNUSABLE : 0);
}

/* The part that kvm_sregs and kvm_sregs2 have in common: everything before the bitmap. */
#define SREGS_COMMON offsetof(struct kvm_sregs, interrupt_bitmap)
_Static_assert(offsetof(struct kvm_sregs2, flags) == SREGS_COMMON, "kvm_sregs2 begins alike");

static void common_get(struct vcpu *vcpu, struct kvm_sregs *s)
{
	const struct cpu *cpu = &vcpu->cpu;

	seg_get(&cpu->seg[SEG_CS], &s->cs);
	seg_get(&cpu->seg[SEG_DS], &s->ds);
	seg_get(&cpu->seg[SEG_ES], &s->es);
	seg_get(&cpu->seg[SEG_FS], &s->fs);
	seg_get(&cpu->seg[SEG_GS], &s->gs);
	seg_get(&cpu->seg[SEG_SS], &s->ss);
	seg_get(&cpu->seg[SEG_TR], &s->tr);
	seg_get(&cpu->seg[SEG_LDTR], &s->ldt);
	s->gdt.base = cpu->gdtr.base;
	s->gdt.limit = (u16)cpu->gdtr.limit;
	s->idt.base = cpu->idtr.base;
	s->idt.limit = (u16)cpu->idtr.limit;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = vcpu_cr8(vcpu);
	s->efer = cpu->efer;
	s->apic_base = vcpu_apic_base(vcpu);
}

void sregs_get(struct vcpu *vcpu, struct kvm_sregs *s)
{
	memset(s, 0, sizeof(*s));
	common_get(vcpu, s);
	if (vcpu->interrupt_injected && !vcpu->interrupt_soft)
		s->interrupt_bitmap[vcpu->interrupt_vector / 64] |=
			BIT64(vcpu->interrupt_vector % 64);
}

/* CR4 bits that need a CPUID feature. */
static u64 cr4_allowed(const struct vcpu *vcpu)
{
	static const struct {
		u64 bit;
		enum cpu_feature feature;
	} rows[] = {
		{CR4_UMIP, X86_FEATURE_UMIP},	      {CR4_LA57, X86_FEATURE_LA57},
		{CR4_FSGSBASE, X86_FEATURE_FSGSBASE}, {CR4_PCIDE, X86_FEATURE_PCID},
		{CR4_OSXSAVE, X86_FEATURE_XSAVE},     {CR4_SMEP, X86_FEATURE_SMEP},
		{CR4_SMAP, X86_FEATURE_SMAP},	      {CR4_PKE, X86_FEATURE_PKU},
		{CR4_PKS, X86_FEATURE_PKS},	      {CR4_VMXE, X86_FEATURE_VMX},
	};
	u64 mask = 0x7ff;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		/* Before the client sets CPUID everything that could be set in it counts. */
		if (vcpu->cpuid_count ? cpu_has(&vcpu->cpu, rows[i].feature)
				      : cpuid_supports(vcpu->vm->sys, rows[i].feature))
			mask |= rows[i].bit;
	return mask;
}

/* Combinations that no processor can be in. */
static bool common_valid(struct vcpu *vcpu, const struct kvm_sregs *s)
{
	const struct cpu *cpu = &vcpu->cpu;

	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG)) {
		if (!(s->cr4 & CR4_PAE) || !(s->efer & EFER_LMA))
			return false;
		if (s->cr3 & cpu_cr3_reserved(cpu))
			return false;
	} else if ((s->efer & EFER_LMA) || s->cs.l) {
		return false;
	}
	if (s->cr4 & ~cr4_allowed(vcpu))
		return false;
	if ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE))
		return false;
	if ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD))
		return false;
	if (s->cr0 >> 32)
		return false;
	return true;
}

void sregs_cpl(struct cpu *cpu)
{
	if (!(cpu->cr0 & CR0_PE))
		cpu->cpl = 0;
	else if (cpu->rflags & FLAG_VM)
		cpu->cpl = 3;
	else
		cpu->cpl = (cpu->seg[SEG_SS].attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}

static int common_set(struct vcpu *vcpu, const struct kvm_sregs *s)
{
	struct cpu *cpu = &vcpu->cpu;

	if (!common_valid(vcpu, s))
		return -EINVAL;
	if (vcpu_set_apic_base(vcpu, s->apic_base, true))
		return -EINVAL;
	cpu->gdtr.base = s->gdt.base;
	cpu->gdtr.limit = s->gdt.limit;
	cpu->idtr.base = s->idt.base;
	cpu->idtr.limit = s->idt.limit;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	vcpu_set_cr8(vcpu, s->cr8);
	cpu->efer = s->efer;
	cpu->cr0 = s->cr0 | CR0_ET;
	cpu->cr4 = s->cr4;
	seg_set(&cpu->seg[SEG_CS], &s->cs);
	seg_set(&cpu->seg[SEG_DS], &s->ds);
	seg_set(&cpu->seg[SEG_ES], &s->es);
	seg_set(&cpu->seg[SEG_FS], &s->fs);
	seg_set(&cpu->seg[SEG_GS], &s->gs);
	seg_set(&cpu->seg[SEG_SS], &s->ss);
	seg_set(&cpu->seg[SEG_TR], &s->tr);
	seg_set(&cpu->seg[SEG_LDTR], &s->ldt);
	sregs_cpl(cpu);
	/* Old clients put the boot CPU into this state instead of setting its MP state. */
	if (vcpu->id == vcpu->vm->bsp_id && vcpu->cpu.rip == 0xfff0 && s->cs.selector == 0xf000 &&
	    s->cs.base == 0xffff0000 && !(s->cr0 & CR0_PE))
		vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
	return 0;
}

/* Paging without long mode but with PAE keeps four pointers in registers. */
static bool is_pae_paging(const struct cpu *cpu)
{
	return (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA);
}

/*
 * Whatever was set: a client that goes back to a snapshot has written other page tables below the CR3
 * that was there. A processor's TLB would hardly hold anything of before that long; ours holds it all.
 */
static void translations_changed(struct vcpu *vcpu)
{
	mmu_flush_all(&vcpu->cpu);
	vcpu_state_changed(vcpu);
}

int sregs_set(struct vcpu *vcpu, const struct kvm_sregs *s)
{
	int ret = common_set(vcpu, s);

	if (ret)
		return ret;
	if (is_pae_paging(&vcpu->cpu))
		mmu_load_pdptrs(&vcpu->cpu, vcpu->cpu.cr3);
	for (int v = 0; v < 256; v++) {
		if (!(s->interrupt_bitmap[v / 64] >> (v % 64) & 1))
			continue;
		vcpu->interrupt_injected = true;
		vcpu->interrupt_soft = false;
		vcpu->interrupt_vector = (u8)v;
		break;
	}
	translations_changed(vcpu);
	return 0;
}

int vcpu_get_sregs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	sregs_get(vcpu, data);
	return 0;
}

int vcpu_set_sregs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return sregs_set(vcpu, data);
}

int vcpu_get_sregs2(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_sregs2 *s2 = data;
	struct kvm_sregs s;

	memset(&s, 0, sizeof(s));
	common_get(vcpu, &s);
	memcpy(s2, &s, SREGS_COMMON);
	if (is_pae_paging(&vcpu->cpu)) {
		s2->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
		for (int i = 0; i < 4; i++)
			s2->pdptrs[i] = vcpu->cpu.pdptr[i];
	}
	return 0;
}

int vcpu_set_sregs2(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_sregs2 *s2 = data;
	bool valid = s2->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
	bool pae = (s2->cr0 & CR0_PG) && (s2->cr4 & CR4_PAE) && !(s2->efer & EFER_LMA);
	struct kvm_sregs s;
	int ret;

	if (s2->flags & ~(u64)KVM_SREGS2_FLAGS_PDPTRS_VALID)
		return -EINVAL;
	if (valid && !pae)
		return -EINVAL;
	memset(&s, 0, sizeof(s));
	memcpy(&s, s2, SREGS_COMMON);
	ret = common_set(vcpu, &s);
	if (ret)
		return ret;
	if (valid) {
		for (int i = 0; i < 4; i++)
			vcpu->cpu.pdptr[i] = s2->pdptrs[i];
	} else if (pae) {
		mmu_load_pdptrs(&vcpu->cpu, vcpu->cpu.cr3);
	}
	translations_changed(vcpu);
	return 0;
}
