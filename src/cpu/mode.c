/*
 * mode.c - the facts that translated code was built on, gathered from the registers
 */
#include <linux/kvm.h>
#include "cpu/mode.h"
#include "cpu/seg.h"
#include "mmu/tlb.h"

/* Instruction breakpoints want single steps in their pages, data breakpoints checked accesses. */
static u32 dr7_bits(u64 dr7)
{
	u32 m = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned rw = (dr7 >> (16 + 4 * i)) & 3;

		if (!((dr7 >> (2 * i)) & 3))
			continue;
		if (rw == 0)
			m |= MODE_BREAK;
		else if (rw != 2)
			m |= MODE_WATCH;
	}
	return m;
}

static u32 debug_bits(const struct cpu *cpu)
{
	u32 m = 0;

	if (cpu->guest_debug & KVM_GUESTDBG_ENABLE) {
		if (cpu->guest_debug & KVM_GUESTDBG_SINGLESTEP)
			m |= MODE_STEP;
		if (cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP)
			return m | dr7_bits(cpu->guest_dr7);
	}
	return m | dr7_bits(cpu->dr7);
}

/* Base is the caller's; the rest of "flat": the whole 4 GiB, present, readable and writable. */
static inline bool seg_is_full(const struct cpu_seg *s, bool prot)
{
	if (s->limit != 0xffffffff)
		return false;
	if (!prot)
		return !(s->attr & SEG_TYPE_DOWN) || (s->attr & SEG_TYPE_CODE);
	return (s->attr & (SEG_ATTR_UNUSABLE | SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_CODE |
			   SEG_TYPE_DOWN | SEG_TYPE_WRITE)) ==
	       (SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_WRITE);
}

static inline bool code_is_full(const struct cpu_seg *s, bool prot)
{
	if (s->limit != 0xffffffff || s->base)
		return false;
	return !prot || (s->attr & (SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_WRITE)) ==
				(SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_WRITE);
}

static u32 legacy_bits(const struct cpu *cpu)
{
	const struct cpu_seg *s = cpu->seg;
	bool prot = cpu->cr0 & CR0_PE;
	u32 m = 0;

	if (s[SEG_CS].attr & SEG_ATTR_DB)
		m |= MODE_CS32;
	if (s[SEG_SS].attr & SEG_ATTR_DB)
		m |= MODE_SS32;
	if (!(s[SEG_ES].base | s[SEG_SS].base | s[SEG_DS].base) && code_is_full(&s[SEG_CS], prot) &&
	    seg_is_full(&s[SEG_ES], prot) && seg_is_full(&s[SEG_SS], prot) &&
	    seg_is_full(&s[SEG_DS], prot))
		m |= MODE_FLAT;
	if (seg_is_full(&s[SEG_FS], prot))
		m |= MODE_FS_FLAT;
	if (seg_is_full(&s[SEG_GS], prot))
		m |= MODE_GS_FLAT;
	return m;
}

void cpu_mode_update(struct cpu *cpu)
{
	u64 cr0 = cpu->cr0, cr4 = cpu->cr4, fl = cpu->rflags;
	u32 cpl = cpu->cpl, view = MMU_TLB_USER;
	u32 m = cpl << MODE_CPL_SHIFT | (cpu->guest_mode ? MODE_GUEST : 0);
	bool ac = fl & FLAG_AC;

	if (LIKELY(cpu_is_64bit(cpu)))
		m |= MODE_LONG | MODE_FLAT | MODE_FS_FLAT | MODE_GS_FLAT;
	else
		m |= legacy_bits(cpu);
	if (cr0 & CR0_PE)
		m |= MODE_PE;
	if (fl & FLAG_VM)
		m |= MODE_V86;
	if (cr0 & CR0_TS)
		m |= MODE_TS;
	if (cr0 & CR0_EM)
		m |= MODE_EM;
	if (cr0 & CR0_MP)
		m |= MODE_MP;
	if (cr4 & CR4_OSFXSR)
		m |= MODE_SSE;
	if ((cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6) {
		m |= MODE_AVX;
		if ((cpu->xcr0 & 0xe0) == 0xe0)
			m |= MODE_AVX512;
	}
	if (cr4 & CR4_LA57)
		m |= MODE_LA57;
	if ((!(cr4 & CR4_TSD) || !cpl) && !(m & MODE_GUEST))
		m |= MODE_TSC;
	if (cpl <= ((fl & FLAG_IOPL) >> FLAG_IOPL_SHIFT))
		m |= MODE_IOPL_OK;
	if (cpl < 3) {
		view = (cr4 & CR4_SMAP) && !ac ? MMU_TLB_KERNEL : MMU_TLB_KERNEL_AC;
		if (ac)
			m |= MODE_AC;
	} else if (ac && (cr0 & CR0_AM)) {
		m |= MODE_ALIGN;
	}
	m |= view << MODE_VIEW_SHIFT;
	if ((fl & FLAG_TF) || UNLIKELY(cpu->guest_trap))
		m |= MODE_STEP;
	if (UNLIKELY((cpu->dr7 & 0xff) | cpu->guest_debug))
		m |= debug_bits(cpu);
	if (UNLIKELY(cpu->pmu.on))
		m |= cpu_pmu_mode(cpu);
	if (UNLIKELY(cpu->window_cr3 == cpu->cr3) && cpl == 3 && !cpu->window_paused &&
	    (m & MODE_LONG) && !(m & (MODE_STEP | MODE_WATCH | MODE_ALIGN | MODE_GUEST)))
		m |= MODE_WINDOW;
	cpu->mode = m;
}
