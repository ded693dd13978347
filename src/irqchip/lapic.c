/*
 * A local APIC's life: creation, reset, IA32_APIC_BASE, version, and saving its state in the
 * layout of struct kvm_lapic_state (the register page).
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>
#include <stdlib.h>

void lapic_update_version(struct lapic *l)
{
	u32 lvts = l->features.cmci ? 7 : 6;
	u32 v = APIC_VERSION_P4 | (lvts - 1) << 16;

	/* Our I/O APIC is an 82093AA without an EOI register, so no directed EOI with it. */
	if (l->features.x2apic && l->chip->mode == IRQCHIP_SPLIT)
		v |= APIC_LVR_DIRECTED_EOI;
	lapic_reg_set(l->regs, APIC_LVR, v);
}

void lapic_set_features(struct lapic *l, const struct lapic_features *f)
{
	bool had_cmci = l->features.cmci;

	l->features = *f;
	lapic_update_version(l);
	if (f->cmci && !had_cmci)
		lapic_reg_set(l->regs, APIC_LVTCMCI, APIC_LVT_MASKED);
	lapic_timer_lvtt(l);
}

void lapic_set_bsp(struct lapic *l, bool bsp)
{
	l->bsp = bsp;
}

void lapic_lint0_changed(struct lapic *l)
{
	u32 lvt = lapic_reg(l->regs, APIC_LVT0);
	u32 mode = lvt >> APIC_LVT_DM_SHIFT & 7;
	bool open = !(lvt & APIC_LVT_MASKED);
	bool enabled = lapic_mode(l) != LAPIC_DISABLED;
	bool nmi = open && mode == APIC_DM_NMI && enabled;

	/* A disabled APIC is not there: the PIC's wire reaches the CPU. */
	__atomic_store_n(&l->accept_pic, !enabled || (open && mode == APIC_DM_EXTINT),
			 __ATOMIC_RELAXED);
	if (nmi != l->lint0_nmi)
		__atomic_fetch_add(&l->chip->nmi_lint0, nmi ? 1 : -1u, __ATOMIC_RELAXED);
	l->lint0_nmi = nmi;
	lapic_recheck(l);
}

static void set_x2apic_id(struct lapic *l)
{
	lapic_reg_set(l->regs, APIC_ID, l->id);
	lapic_reg_set(l->regs, APIC_LDR, l->id >> 4 << 16 | BIT(l->id & 0xf));
}

/* Takes over a value of IA32_APIC_BASE that has been checked. */
static void base_apply(struct lapic *l, u64 value)
{
	u64 changed = l->base ^ value;

	__atomic_store_n(&l->base, value, __ATOMIC_RELAXED);
	if (changed & value & APIC_BASE_ENABLE)
		lapic_reg_set(l->regs, APIC_ID, l->id << 24);
	if (changed & value & APIC_BASE_X2APIC) {
		set_x2apic_id(l);
	} else if (changed & APIC_BASE_X2APIC) {
		lapic_reg_set(l->regs, APIC_ID, l->id << 24);
		lapic_reg_set(l->regs, APIC_LDR, 0);
	}
	if (changed & (APIC_BASE_ENABLE | APIC_BASE_X2APIC))
		lapic_lint0_changed(l);
}

int lapic_set_base(struct lapic *l, u64 value, bool host)
{
	static const u64 mode_bits = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	u64 old = l->base & mode_bits, new = value &mode_bits;
	u64 reserved = 0x2ff | ~(APIC_BASE_ADDRESS | 0xfff) | l->features.base_reserved;

	if (!l->features.x2apic)
		reserved |= APIC_BASE_X2APIC;
	if (value & reserved || new == APIC_BASE_X2APIC)
		return 1;
	if (!host && ((old == mode_bits && new == APIC_BASE_ENABLE) || (!old && new == mode_bits)))
		return 1;
	base_apply(l, value);
	apic_map_update(l->chip);
	return 0;
}

void lapic_reset(struct lapic *l, bool init)
{
	static const u32 lvts[] = {APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC,
				   APIC_LVT0, APIC_LVT1,    APIC_LVTERR};
	struct irqchip *c = l->chip;

	lapic_timer_stop(l);
	if (!init) {
		base_apply(l, APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (l->bsp ? APIC_BASE_BSP : 0));
		lapic_reg_set(l->regs, APIC_ID, l->id << 24);
	}
	lapic_update_version(l);
	for (unsigned i = 0; i < ARRAY_SIZE(lvts); i++)
		lapic_reg_set(l->regs, lvts[i], APIC_LVT_MASKED);
	if (l->features.cmci)
		lapic_reg_set(l->regs, APIC_LVTCMCI, APIC_LVT_MASKED);
	/* KVM's quirk: firmware that knows no APIC gets the boot CPU's PIC wire open. */
	if (l->bsp && !(c->disabled_quirks & KVM_X86_QUIRK_LINT0_REENABLED))
		lapic_reg_set(l->regs, APIC_LVT0, APIC_DM_EXTINT << APIC_LVT_DM_SHIFT);
	lapic_reg_set(l->regs, APIC_DFR, 0xffffffff);
	lapic_reg_set(l->regs, APIC_SPIV, 0xff);
	lapic_reg_set(l->regs, APIC_TPR, 0);
	if (lapic_mode(l) != LAPIC_X2APIC)
		lapic_reg_set(l->regs, APIC_LDR, 0);
	lapic_reg_set(l->regs, APIC_ESR, 0);
	__atomic_store_n(&l->esr_pending, 0, __ATOMIC_RELAXED);
	lapic_reg_set(l->regs, APIC_ICR, 0);
	lapic_reg_set(l->regs, APIC_ICR + 4, 0);
	lapic_reg_set(l->regs, APIC_ICR2, 0);
	lapic_reg_set(l->regs, APIC_TDCR, 0);
	lapic_reg_set(l->regs, APIC_TMICT, 0);
	for (unsigned vector = 0; vector < 256; vector += 32) {
		__atomic_store_n(lapic_vector_word(l->regs, APIC_IRR, vector), 0, __ATOMIC_RELAXED);
		__atomic_store_n(lapic_vector_word(l->regs, APIC_ISR, vector), 0, __ATOMIC_RELAXED);
		__atomic_store_n(lapic_vector_word(l->regs, APIC_TMR, vector), 0, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&l->user_extint, -1, __ATOMIC_RELAXED);
	lapic_timer_lvtt(l);
	lapic_timer_tdcr(l);
	lapic_summaries_rebuild(l);
	lapic_lint0_changed(l);
	ioapic_forget(c, l);
	apic_map_update(c);
}

int lapic_create(struct irqchip *c, u32 index, u32 id, bool bsp, struct lapic **out)
{
	struct lapic *l;
	int ret = 0;

	if (index >= IRQCHIP_MAX_VCPUS || id >= IRQCHIP_MAX_APIC_IDS)
		return -EINVAL;
	l = aligned_alloc(64, align_up(sizeof(*l), 64));
	if (!l)
		return -ENOMEM;
	mem_set(l, 0, sizeof(*l));
	l->chip = c;
	l->index = index;
	l->id = id;
	l->bsp = bsp;
	l->user_extint = -1;
	l->pic_output = &c->pic.output;
	l->timer_divide = 2;
	ret = timer_init(c->timers, &l->timer, lapic_timer_fire, l);
	if (ret)
		goto out;
	futex_lock(&c->map_lock);
	if (c->lapics[index])
		ret = -EEXIST;
	for (u32 i = 0; i < c->lapic_limit && !ret; i++)
		if (c->lapics[i] && c->lapics[i]->id == id)
			ret = -EEXIST;
	futex_unlock(&c->map_lock);
	if (ret)
		goto out;
	lapic_reset(l, false);
	futex_lock(&c->map_lock);
	__atomic_store_n(&c->lapics[index], l, __ATOMIC_RELEASE);
	if (index >= c->lapic_limit)
		__atomic_store_n(&c->lapic_limit, index + 1, __ATOMIC_RELEASE);
	futex_unlock(&c->map_lock);
	apic_map_update(c);
	l->linked = true;
	*out = l;
	return 0;
out:
	timer_destroy(&l->timer);
	free(l);
	return ret;
}

void lapic_destroy(struct lapic *l)
{
	struct irqchip *c = l->chip;

	lapic_timer_stop(l);
	timer_destroy(&l->timer);
	if (l->lint0_nmi)
		__atomic_fetch_add(&c->nmi_lint0, -1u, __ATOMIC_RELAXED);
	futex_lock(&c->map_lock);
	__atomic_store_n(&c->lapics[l->index], NULL, __ATOMIC_RELEASE);
	l->grave = c->graves;
	c->graves = l;
	futex_unlock(&c->map_lock);
	apic_map_update(c);
}

/* State. */

void lapic_get_state(struct lapic *l, struct kvm_lapic_state *state)
{
	u32 *out = (u32 *)state->regs;

	for (unsigned i = 0; i < KVM_APIC_REG_SIZE / 4; i++)
		out[i] = __atomic_load_n(&l->regs[i], __ATOMIC_RELAXED);
	lapic_reg_set(out, APIC_TMCCT, lapic_timer_current(l));
	if (lapic_mode(l) != LAPIC_X2APIC)
		return;
	if (!l->chip->x2apic_ids)
		lapic_reg_set(out, APIC_ID, lapic_reg(out, APIC_ID) << 24);
	/* The 64-bit ICR is saved where xAPIC keeps its upper half. */
	lapic_reg_set(out, APIC_ICR2, lapic_reg(out, APIC_ICR + 4));
}

/* What the APIC map depends on; unchanged, a restore (a snapshot's reset) need not rebuild it. */
struct identity {
	u32 id, ldr, dfr;
	bool enabled;
};

static struct identity identity_of(const struct lapic *l)
{
	return (struct identity){lapic_reg(l->regs, APIC_ID), lapic_reg(l->regs, APIC_LDR),
				 lapic_reg(l->regs, APIC_DFR), lapic_sw_enabled(l)};
}

int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *state)
{
	const u32 *in = (const u32 *)state->regs;
	bool x2apic = lapic_mode(l) == LAPIC_X2APIC;
	struct identity was = identity_of(l), is;

	if (x2apic && l->chip->x2apic_ids && lapic_reg(in, APIC_ID) != l->id)
		return -EINVAL;
	lapic_timer_pause(l);
	for (unsigned i = 0; i < KVM_APIC_REG_SIZE / 4; i++)
		__atomic_store_n(&l->regs[i], in[i], __ATOMIC_RELAXED);
	if (x2apic) {
		set_x2apic_id(l);
		lapic_reg_set(l->regs, APIC_ICR + 4, lapic_reg(in, APIC_ICR2));
	}
	lapic_update_version(l);
	lapic_timer_lvtt(l);
	lapic_timer_tdcr(l);
	lapic_timer_start(l, true);
	lapic_reg_set(l->regs, APIC_TMCCT, 0);
	lapic_summaries_rebuild(l);
	lapic_lint0_changed(l);
	is = identity_of(l);
	if (was.id != is.id || was.ldr != is.ldr || was.dfr != is.dfr || was.enabled != is.enabled)
		apic_map_update(l->chip);
	lapic_recheck(l);
	return 0;
}
