/*
 * The local APIC's registers as the guest reaches them: the xAPIC page and the x2APIC MSRs.
 * Which register exists, which bits of it can be written and what a write sets off are here;
 * Intel SDM, "Local APIC Register Address Map" and "x2APIC Register Address Space".
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>

static u32 lvt_mask(const struct lapic *l, u32 lvt)
{
	switch (lvt) {
	case APIC_LVTT:
		return APIC_LVT_BASE |
		       (l->features.tsc_deadline ? APIC_TIMER_MASK : APIC_TIMER_PERIODIC);
	case APIC_LVTTHMR:
	case APIC_LVTPC:
		return APIC_LVT_BASE | APIC_LVT_DM;
	case APIC_LVTCMCI:
		return l->features.cmci ? APIC_LVT_BASE | APIC_LVT_DM : 0;
	case APIC_LVT0:
	case APIC_LVT1:
		return APIC_LVT_BASE | APIC_LVT_DM | APIC_LVT_PIN;
	case APIC_LVTERR:
		return APIC_LVT_BASE;
	default:
		return 0;
	}
}

static bool is_readable(const struct lapic *l, u32 reg)
{
	switch (reg) {
	case APIC_ID:
	case APIC_LVR:
	case APIC_TPR:
	case APIC_PPR:
	case APIC_LDR:
	case APIC_SPIV:
	case APIC_ISR ... APIC_ESR:
	case APIC_ICR:
	case APIC_LVTT ... APIC_TMCCT:
	case APIC_TDCR:
		return true;
	case APIC_LVTCMCI:
		return l->features.cmci;
	case APIC_APR:
	case APIC_DFR:
	case APIC_ICR2:
		return lapic_mode(l) != LAPIC_X2APIC;
	default:
		return false;
	}
}

/*
 * Exists, though it may be write-only or have no content: touching it is no error. Nor is the
 * space from 0x400 on, where AMD's extended registers would be.
 */
static bool is_known(const struct lapic *l, u32 reg)
{
	return reg == APIC_EOI || reg == APIC_RRD || reg >= KVM_APIC_REG_SIZE ||
	       is_readable(l, reg);
}

static u32 read_reg(struct lapic *l, u32 reg)
{
	switch (reg) {
	case APIC_APR:
		return 0;
	case APIC_TMCCT:
		return lapic_timer_current(l);
	default:
		return lapic_reg(l->regs, reg);
	}
}

static const u32 lvts[] = {APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC,	 APIC_LVT0,
			   APIC_LVT1, APIC_LVTERR,  APIC_LVTCMCI};

static void write_spiv(struct lapic *l, u32 value)
{
	u32 mask = 0x3ff;
	bool was = lapic_sw_enabled(l), is = value & APIC_SPIV_ENABLED;

	if (lapic_reg(l->regs, APIC_LVR) & APIC_LVR_DIRECTED_EOI)
		mask |= APIC_SPIV_DIRECTED_EOI;
	lapic_reg_set(l->regs, APIC_SPIV, value & mask);
	if (!is) {
		for (unsigned i = 0; i < ARRAY_SIZE(lvts); i++)
			if (lvt_mask(l, lvts[i]))
				lapic_reg_set(l->regs, lvts[i],
					      lapic_reg(l->regs, lvts[i]) | APIC_LVT_MASKED);
		lapic_lint0_changed(l);
	}
	if (was != is)
		apic_map_update(l->chip);
}

static int write_lvt(struct lapic *l, u32 lvt, u32 value)
{
	u32 mask = lvt_mask(l, lvt);

	if (!mask)
		return 1;
	if (!lapic_sw_enabled(l))
		value |= APIC_LVT_MASKED;
	lapic_reg_set(l->regs, lvt, value & mask);
	if (lvt == APIC_LVTT)
		lapic_timer_lvtt(l);
	if (lvt == APIC_LVT0)
		lapic_lint0_changed(l);
	return 0;
}

/* Registers that only xAPIC lets software write; 1 in x2APIC mode. */
static int write_xapic_only(struct lapic *l, u32 reg, u32 value)
{
	if (lapic_mode(l) == LAPIC_X2APIC)
		return 1;
	switch (reg) {
	case APIC_ID:
	case APIC_LDR:
	case APIC_ICR2:
		value &= 0xff000000;
		break;
	default: /* DFR */
		value |= 0x0fffffff;
		break;
	}
	if (lapic_reg(l->regs, reg) == value)
		return 0;
	lapic_reg_set(l->regs, reg, value);
	if (reg != APIC_ICR2)
		apic_map_update(l->chip);
	return 0;
}

/* One 32-bit register write; 1 when there is no such register (or value). */
static int write_reg(struct lapic *l, u32 reg, u32 value)
{
	bool x2apic = lapic_mode(l) == LAPIC_X2APIC;

	switch (reg) {
	case APIC_TPR:
		lapic_write_tpr(l, value);
		return 0;
	case APIC_EOI:
		lapic_eoi(l);
		return 0;
	case APIC_ID:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_ICR2:
		return write_xapic_only(l, reg, value);
	case APIC_SPIV:
		write_spiv(l, value);
		return 0;
	case APIC_ICR:
		value &= ~APIC_ICR_BUSY;
		lapic_reg_set(l->regs, APIC_ICR, value);
		lapic_send_icr(l, value, lapic_reg(l->regs, APIC_ICR2));
		return 0;
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
	case APIC_LVTCMCI:
		return write_lvt(l, reg, value);
	case APIC_TMICT:
		if (l->timer_mode == APIC_TIMER_DEADLINE)
			return 0;
		lapic_reg_set(l->regs, APIC_TMICT, value);
		lapic_timer_start(l, false);
		return 0;
	case APIC_TDCR:
		lapic_reg_set(l->regs, APIC_TDCR, value & 0xb);
		lapic_timer_tdcr(l);
		return 0;
	case APIC_ESR:
		if (x2apic && value)
			return 1;
		lapic_reg_set(l->regs, APIC_ESR,
			      __atomic_exchange_n(&l->esr_pending, 0, __ATOMIC_RELAXED));
		return 0;
	case APIC_SELF_IPI:
		if (!x2apic || value & ~0xffu)
			return 1;
		lapic_send_icr(l, APIC_DEST_SELF << 18 | value, 0);
		return 0;
	default:
		return 1;
	}
}

/* The page answers: 0; passes the access on: -EOPNOTSUPP; reads as ones: 1. */
static int mmio_mode(const struct lapic *l)
{
	if (lapic_mode(l) == LAPIC_XAPIC)
		return 0;
	return l->chip->disabled_quirks & KVM_X86_QUIRK_LAPIC_MMIO_HOLE ? -EOPNOTSUPP : 1;
}

int lapic_mmio_read(struct lapic *l, u32 offset, void *data, unsigned len)
{
	int mode = mmio_mode(l);
	u32 reg = offset & 0xff0, part = offset & 0xf;

	if (mode < 0)
		return mode;
	mem_set(data, mode ? 0xff : 0, len);
	if (mode)
		return 0;
	if (part + len > 4 || (len & (len - 1)))
		return 0;
	if (!is_readable(l, reg)) {
		if (!is_known(l, reg))
			lapic_error(l, APIC_ESR_REGISTER);
		return 0;
	}
	mem_store(data, read_reg(l, reg) >> 8 * part, len);
	return 0;
}

int lapic_mmio_write(struct lapic *l, u32 offset, const void *data, unsigned len)
{
	int mode = mmio_mode(l);

	if (mode)
		return mode < 0 ? mode : 0;
	if (len != 4 || offset & 0xf)
		return 0;
	if (write_reg(l, offset & 0xff0, (u32)mem_load(data, 4)) && !is_known(l, offset & 0xff0))
		lapic_error(l, APIC_ESR_REGISTER);
	return 0;
}

int lapic_msr_read(struct lapic *l, u32 msr, u64 *value)
{
	u32 reg = (msr - APIC_MSR_FIRST) << 4;

	if (lapic_mode(l) != LAPIC_X2APIC || reg > APIC_SELF_IPI || !is_readable(l, reg))
		return 1;
	*value = read_reg(l, reg);
	if (reg == APIC_ICR)
		*value |= (u64)lapic_reg(l->regs, APIC_ICR + 4) << 32;
	return 0;
}

/* Bits that WRMSR refuses in x2APIC mode: "x2APIC Register Address Space", reserved bit checking. */
static u64 x2apic_reserved(u32 reg)
{
	switch (reg) {
	case APIC_EOI:
		return ~0ull;
	case APIC_TPR:
		return ~0xffull;
	case APIC_SPIV:
		return ~0x13ffull;
	default:
		return ~0xffffffffull;
	}
}

int lapic_msr_write(struct lapic *l, u32 msr, u64 value)
{
	u32 reg = (msr - APIC_MSR_FIRST) << 4;

	if (lapic_mode(l) != LAPIC_X2APIC || reg > APIC_SELF_IPI)
		return 1;
	if (reg == APIC_ICR) {
		if (value & APIC_X2ICR_RESERVED)
			return 1;
		value &= ~(u64)APIC_ICR_BUSY;
		lapic_reg_set(l->regs, APIC_ICR, (u32)value);
		lapic_reg_set(l->regs, APIC_ICR + 4, (u32)(value >> 32));
		lapic_send_icr(l, (u32)value, (u32)(value >> 32));
		return 0;
	}
	if (value & x2apic_reserved(reg))
		return 1;
	return write_reg(l, reg, (u32)value);
}
