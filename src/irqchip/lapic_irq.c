/*
 * Interrupts inside one local APIC: acceptance, priority, acknowledge, EOI.
 *
 * IRR and TMR take bits from any thread. Order of a sender: TMR bit, IRR bit, summary bit, kick.
 * Order of the owner when an IRR word turned out empty: clear the summary bit, then look at the
 * word again. One of the two always sees the other (all four are sequentially consistent), so no
 * interrupt is left in a word without its summary bit. Intel SDM, "Handling Interrupts".
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>

static void summary_set(u32 *summary, unsigned word)
{
	__atomic_fetch_or(summary, BIT(word), __ATOMIC_SEQ_CST);
}

/* Highest vector in the IRR, or -1. Repairs the summary. Own thread. */
static int irr_highest(struct lapic *l)
{
	for (;;) {
		u32 summary = __atomic_load_n(&l->irr_summary, __ATOMIC_SEQ_CST);
		unsigned word;
		u32 *w, bits;

		if (!summary)
			return -1;
		word = 31 - (unsigned)__builtin_clz(summary);
		w = lapic_vector_word(l->regs, APIC_IRR, 32 * word);
		bits = __atomic_load_n(w, __ATOMIC_SEQ_CST);
		if (bits)
			return (int)(32 * word + 31 - (unsigned)__builtin_clz(bits));
		__atomic_fetch_and(&l->irr_summary, ~BIT(word), __ATOMIC_SEQ_CST);
		if (__atomic_load_n(w, __ATOMIC_SEQ_CST))
			summary_set(&l->irr_summary, word);
	}
}

/* Highest vector in service, or -1. Own thread. */
static int isr_highest(struct lapic *l)
{
	unsigned word;

	if (!l->isr_summary)
		return -1;
	word = 31 - (unsigned)__builtin_clz(l->isr_summary);
	return (int)(32 * word + 31 -
		     (unsigned)__builtin_clz(*lapic_vector_word(l->regs, APIC_ISR, 32 * word)));
}

static void isr_set(struct lapic *l, unsigned vector)
{
	u32 *w = lapic_vector_word(l->regs, APIC_ISR, vector);

	__atomic_store_n(w, *w | BIT(vector & 31), __ATOMIC_RELAXED);
	l->isr_summary |= BIT(vector >> 5);
}

static void isr_clear(struct lapic *l, unsigned vector)
{
	u32 *w = lapic_vector_word(l->regs, APIC_ISR, vector);

	__atomic_store_n(w, *w & ~BIT(vector & 31), __ATOMIC_RELAXED);
	if (!*w)
		l->isr_summary &= ~BIT(vector >> 5);
}

void lapic_summaries_rebuild(struct lapic *l)
{
	u32 isr = 0;

	for (unsigned word = 0; word < 8; word++)
		if (*lapic_vector_word(l->regs, APIC_ISR, 32 * word))
			isr |= BIT(word);
	l->isr_summary = isr;
	/* Too many bits is allowed: irr_highest() clears those it finds empty. */
	__atomic_store_n(&l->irr_summary, 0xff, __ATOMIC_SEQ_CST);
	irr_highest(l);
	lapic_update_ppr(l);
}

void lapic_update_ppr(struct lapic *l)
{
	u32 tpr = lapic_reg(l->regs, APIC_TPR) & 0xff;
	int isr = isr_highest(l);
	u32 in_service = isr < 0 ? 0 : (u32)isr & 0xf0;

	lapic_reg_set(l->regs, APIC_PPR, (tpr & 0xf0) >= in_service ? tpr : in_service);
}

void lapic_recheck(struct lapic *l)
{
	if (l->linked && lapic_pending(l))
		l->chip->ops->kick(l->chip->owner, l->index);
}

int lapic_has_interrupt(struct lapic *l)
{
	int vector;

	if (lapic_mode(l) == LAPIC_DISABLED)
		return -1;
	vector = irr_highest(l);
	if (vector < 0 || ((u32)vector & 0xf0) <= (lapic_reg(l->regs, APIC_PPR) & 0xf0))
		return -1;
	return vector;
}

bool lapic_has_extint(const struct lapic *l)
{
	return __atomic_load_n(&l->user_extint, __ATOMIC_RELAXED) >= 0 ||
	       (l->accept_pic && __atomic_load_n(l->pic_output, __ATOMIC_ACQUIRE));
}

void lapic_ack_interrupt(struct lapic *l, u8 vector)
{
	__atomic_fetch_and(lapic_vector_word(l->regs, APIC_IRR, vector), ~BIT(vector & 31),
			   __ATOMIC_SEQ_CST);
	isr_set(l, vector);
	lapic_update_ppr(l);
}

int lapic_get_interrupt(struct lapic *l)
{
	int vector;

	if (UNLIKELY(l->user_extint >= 0)) {
		vector = l->user_extint;
		__atomic_store_n(&l->user_extint, -1, __ATOMIC_RELAXED);
		return vector;
	}
	if (UNLIKELY(lapic_has_extint(l)))
		return pic_acknowledge(l->chip);
	vector = lapic_has_interrupt(l);
	if (vector >= 0)
		lapic_ack_interrupt(l, (u8)vector);
	return vector;
}

int lapic_set_user_extint(struct lapic *l, u8 vector)
{
	if (l->user_extint >= 0)
		return -EEXIST;
	__atomic_store_n(&l->user_extint, vector, __ATOMIC_RELAXED);
	l->chip->ops->kick(l->chip->owner, l->index);
	return 0;
}

/* True when an I/O APIC, ours or user space's, has to hear of the end of this vector. */
static bool eoi_concerns_ioapic(struct lapic *l, unsigned vector, bool level)
{
	struct irqchip *c = l->chip;
	u64 word = __atomic_load_n(&c->ioapic.eoi_vectors[vector >> 6], __ATOMIC_RELAXED);
	bool listed = word >> (vector & 63) & 1;

	/* The TMR remembers what was sent, also after its pin was given another vector. */
	return c->mode == IRQCHIP_FULL ? listed || level : listed && level;
}

int lapic_eoi(struct lapic *l)
{
	struct irqchip *c = l->chip;
	int vector = isr_highest(l);
	bool level;

	if (vector < 0)
		return -1;
	TRACE(c->trace, kvm_eoi, l->index, (u64)vector);
	isr_clear(l, (unsigned)vector);
	lapic_update_ppr(l);
	level = lapic_vector_test(l->regs, APIC_TMR, (unsigned)vector);
	if (UNLIKELY(eoi_concerns_ioapic(l, (unsigned)vector, level))) {
		if (c->mode == IRQCHIP_FULL)
			ioapic_eoi(c, l, (u8)vector, level);
		else
			c->ops->ioapic_eoi(c->owner, l->index, (u8)vector);
	}
	lapic_recheck(l);
	return vector;
}

bool lapic_pv_eoi_eligible(struct lapic *l)
{
	int vector = isr_highest(l);

	if (vector < 0 || irr_highest(l) >= 0)
		return false;
	return !eoi_concerns_ioapic(l, (unsigned)vector,
				    lapic_vector_test(l->regs, APIC_TMR, (unsigned)vector));
}

void lapic_write_tpr(struct lapic *l, u32 tpr)
{
	if ((tpr & 0xff) == lapic_reg(l->regs, APIC_TPR))
		return;
	lapic_reg_set(l->regs, APIC_TPR, tpr & 0xff);
	lapic_update_ppr(l);
	lapic_recheck(l);
}

u64 lapic_get_cr8(const struct lapic *l)
{
	return lapic_reg(l->regs, APIC_TPR) >> 4 & 0xf;
}

void lapic_set_cr8(struct lapic *l, u64 cr8)
{
	lapic_write_tpr(l, (u32)(cr8 & 0xf) << 4);
}

/* Acceptance; any thread. */

static void accept_vector(struct lapic *l, u8 vector, bool level)
{
	u32 bit = BIT(vector & 31);
	u32 *tmr = lapic_vector_word(l->regs, APIC_TMR, vector);
	u32 *irr = lapic_vector_word(l->regs, APIC_IRR, vector);

	if (lapic_vector_test(l->regs, APIC_TMR, vector) != level) {
		if (level)
			__atomic_fetch_or(tmr, bit, __ATOMIC_SEQ_CST);
		else
			__atomic_fetch_and(tmr, ~bit, __ATOMIC_SEQ_CST);
	}
	if (__atomic_fetch_or(irr, bit, __ATOMIC_SEQ_CST) & bit)
		return; /* whoever set it kicks */
	summary_set(&l->irr_summary, vector >> 5);
	l->chip->ops->kick(l->chip->owner, l->index);
}

void lapic_error(struct lapic *l, u32 esr)
{
	u32 lvt = lapic_reg(l->regs, APIC_LVTERR);

	__atomic_fetch_or(&l->esr_pending, esr, __ATOMIC_RELAXED);
	/* Always delivered as fixed; an illegal vector of its own is not an error again. */
	if (!(lvt & APIC_LVT_MASKED) && (lvt & 0xff) >= 16 && lapic_mode(l) && lapic_sw_enabled(l))
		accept_vector(l, lvt & 0xff, false);
}

bool lapic_raise(struct lapic *l, u8 vector)
{
	return lapic_accept(l, APIC_DM_FIXED, vector, true, false, NULL);
}

int lapic_accept(struct lapic *l, u8 mode, u8 vector, bool assert, bool level,
		 struct irq_dest_map *map)
{
	const struct irqchip_ops *ops = l->chip->ops;
	void *owner = l->chip->owner;

	TRACE(l->chip->trace, kvm_apic_accept_irq, l->index, vector, mode,
	      TRACE_STRING(level ? "level" : "edge"));
	switch (mode) {
	case APIC_DM_FIXED:
	case APIC_DM_LOWEST:
		if ((level && !assert) || lapic_mode(l) == LAPIC_DISABLED || !lapic_sw_enabled(l))
			return 0;
		if (vector < 16) {
			lapic_error(l, APIC_ESR_RECV_VECTOR);
			return 0;
		}
		if (map)
			__atomic_fetch_or(&map->bits[l->index / 64], BIT64(l->index % 64),
					  __ATOMIC_RELAXED);
		accept_vector(l, vector, level);
		return 1;
	case APIC_DM_SMI:
		ops->smi(owner, l->index);
		return 1;
	case APIC_DM_REMRD:
		ops->unhalt(owner, l->index);
		return 1;
	case APIC_DM_NMI:
		ops->nmi(owner, l->index);
		return 1;
	case APIC_DM_INIT:
		if (level && !assert)
			return 0; /* INIT level de-assert is not supported since the P4 */
		ops->init(owner, l->index);
		return 1;
	case APIC_DM_STARTUP:
		ops->sipi(owner, l->index, vector);
		return 1;
	default: /* ExtINT is the PIC's output, not a message */
		return 0;
	}
}

bool lapic_local_deliver(struct lapic *l, u32 lvt)
{
	u32 v = lapic_reg(l->regs, lvt);
	u8 mode = v >> APIC_LVT_DM_SHIFT & 7;
	bool done;

	if (lapic_mode(l) == LAPIC_DISABLED || (v & APIC_LVT_MASKED))
		return false;
	if (lvt == APIC_LVTT)
		mode = APIC_DM_FIXED;
	done = lapic_accept(l, mode, v & 0xff, true, v & APIC_LVT_LEVEL, NULL);
	if (done && lvt == APIC_LVTPC)
		lapic_reg_set(l->regs, APIC_LVTPC, v | APIC_LVT_MASKED);
	return done;
}
