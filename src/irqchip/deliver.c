/*
 * Interrupt messages: from an ICR, an I/O APIC or an MSI to the local APICs they address.
 *
 * Most go through the APIC map: one physical destination, or up to sixteen logical ones.
 * Broadcasts, shorthands and ambiguous maps match every APIC (irq_match). Intel SDM, "Determining
 * IPI Destination" and "Logical Destination Mode in x2APIC Mode".
 *
 * Lowest-priority delivery is arbitrated as Linux KVM does it by default: the vector, modulo the
 * number of candidates, picks one. So one device's interrupt stays on one CPU.
 */
#include "irqchip/irqchip_internal.h"

#include <errno.h>

#define LOGICAL_MAX 16

static bool is_broadcast(const struct lapic *l, u32 dest)
{
	return dest == (lapic_mode(l) == LAPIC_X2APIC ? X2APIC_BROADCAST : APIC_BROADCAST);
}

static bool match_logical(const struct lapic *l, u32 dest)
{
	u32 ldr = lapic_reg(l->regs, APIC_LDR);
	u32 id = ldr >> 24;

	if (is_broadcast(l, dest))
		return true;
	if (lapic_mode(l) == LAPIC_X2APIC)
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	switch (lapic_reg(l->regs, APIC_DFR) >> 28) {
	case APIC_DFR_FLAT:
		return id & dest;
	case APIC_DFR_CLUSTER:
		return id >> 4 == dest >> 4 && (id & dest & 0xf);
	default:
		return false;
	}
}

static bool match_physical(const struct lapic *l, u32 dest)
{
	if (is_broadcast(l, dest))
		return true;
	if (lapic_mode(l) == LAPIC_X2APIC || dest > 0xff)
		return dest == l->id;
	return dest == lapic_reg(l->regs, APIC_ID) >> 24;
}

static bool irq_match(const struct lapic *l, const struct lapic *src, const struct irq_msg *m)
{
	u32 dest = m->dest;

	switch (m->shorthand) {
	case APIC_DEST_SELF:
		return l == src;
	case APIC_DEST_ALL:
		return true;
	case APIC_DEST_ALL_BUT:
		return l != src;
	}
	/* KVM's quirk: user space's and devices' 0xff is a broadcast even to x2APICs. */
	if (!src && dest == APIC_BROADCAST && !l->chip->broadcast_quirk_off &&
	    lapic_mode(l) == LAPIC_X2APIC)
		dest = X2APIC_BROADCAST;
	return m->logical ? match_logical(l, dest) : match_physical(l, dest);
}

static int accept(struct lapic *l, const struct irq_msg *m, struct irq_dest_map *map)
{
	return lapic_accept(l, m->mode, m->vector, m->assert, m->level, map);
}

static bool lowest_priority(const struct irq_msg *m)
{
	return m->mode == APIC_DM_LOWEST || m->redirect;
}

static bool can_take(const struct lapic *l)
{
	return lapic_mode(l) != LAPIC_DISABLED && lapic_sw_enabled(l);
}

/* Matches every APIC. */
static int deliver_slow(struct irqchip *c, struct lapic *src, const struct irq_msg *m,
			struct irq_dest_map *map)
{
	bool lowest = lowest_priority(m);
	u32 candidates = 0, pick;
	struct lapic *l;
	int ret = -1;

	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		if (lapic_mode(l) == LAPIC_DISABLED || !irq_match(l, src, m))
			continue;
		if (!lowest)
			ret = (ret < 0 ? 0 : ret) + accept(l, m, map);
		else if (can_take(l))
			candidates++;
	}
	if (!candidates)
		return ret;
	pick = m->vector % candidates;
	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		if (can_take(l) && irq_match(l, src, m) && !pick--)
			return accept(l, m, map);
	}
	return ret; /* an APIC was disabled meanwhile */
}

/* Fills `to` with the APICs a logical destination addresses; false: use the slow way. */
static bool map_logical_dest(struct irqchip *c, u32 dest, struct lapic *to[LOGICAL_MAX], u32 *bits)
{
	struct lapic **from;
	u32 n, first;

	switch (__atomic_load_n(&c->map.mode, __ATOMIC_ACQUIRE)) {
	case MAP_NONE: /* nobody has a logical id */
		*bits = 0;
		return true;
	case MAP_FLAT:
		from = c->map.flat;
		*bits = dest & 0xff;
		n = 8;
		break;
	case MAP_CLUSTER:
		from = c->map.cluster[dest >> 4 & 0xf];
		*bits = dest & 0xf;
		n = 4;
		break;
	case MAP_X2APIC:
		first = (dest >> 16) * 16;
		if (first >= IRQCHIP_MAX_APIC_IDS) {
			*bits = 0;
			return true;
		}
		from = &c->map.phys[first];
		*bits = dest & 0xffff;
		n = 16;
		break;
	default:
		return false;
	}
	for (u32 i = 0; i < n; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_ACQUIRE);
	return true;
}

/* Nth set bit of v; n is below the number of set bits. */
static u32 nth_bit(u32 v, u32 n)
{
	while (n--)
		v &= v - 1;
	return (u32)__builtin_ctz(v);
}

static int deliver_logical(struct irqchip *c, struct lapic *src, const struct irq_msg *m,
			   struct irq_dest_map *map)
{
	struct lapic *to[LOGICAL_MAX];
	u32 bits, rest;
	int ret = 0;

	if (!map_logical_dest(c, m->dest, to, &bits))
		return deliver_slow(c, src, m, map);
	if (lowest_priority(m)) {
		u32 present = 0;

		for (rest = bits; rest; rest &= rest - 1) {
			u32 i = (u32)__builtin_ctz(rest);

			if (to[i] && can_take(to[i]))
				present |= BIT(i);
		}
		if (!present)
			return 0;
		bits = BIT(nth_bit(present, m->vector % (u32)__builtin_popcount(present)));
	}
	for (rest = bits; rest; rest &= rest - 1) {
		struct lapic *l = to[__builtin_ctz(rest)];

		if (l)
			ret += accept(l, m, map);
	}
	return ret;
}

/* True when the destination is a broadcast to anyone, which the map does not hold. */
static bool needs_slow(struct irqchip *c, const struct lapic *src, const struct irq_msg *m)
{
	if (m->shorthand != APIC_DEST_NONE || !__atomic_load_n(&c->map.usable, __ATOMIC_ACQUIRE))
		return true;
	return m->dest == X2APIC_BROADCAST || m->dest == APIC_BROADCAST;
}

int irq_deliver(struct irqchip *c, struct lapic *src, const struct irq_msg *msg,
		struct irq_dest_map *map)
{
	struct irq_msg m = *msg;
	struct lapic *l;

	if (m.shorthand == APIC_DEST_SELF)
		return src ? accept(src, &m, map) : -1;
	/* A physical broadcast has no single lowest-priority CPU: everybody gets it. */
	if (!m.logical && m.dest == APIC_BROADCAST && lowest_priority(&m) &&
	    m.shorthand == APIC_DEST_NONE) {
		m.mode = APIC_DM_FIXED;
		m.redirect = false;
	}
	if (needs_slow(c, src, &m))
		return deliver_slow(c, src, &m, map);
	if (m.logical)
		return deliver_logical(c, src, &m, map);
	if (m.dest >= IRQCHIP_MAX_APIC_IDS)
		return 0;
	l = __atomic_load_n(&c->map.phys[m.dest], __ATOMIC_ACQUIRE);
	return l ? accept(l, &m, map) : 0;
}

void lapic_send_icr(struct lapic *l, u32 low, u32 high)
{
	struct irq_msg m = {
		.dest = lapic_mode(l) == LAPIC_X2APIC ? high : high >> 24,
		.vector = low & APIC_ICR_VECTOR,
		.mode = (low >> 8) & 7,
		.shorthand = (low >> 18) & 3,
		.logical = low & APIC_ICR_LOGICAL,
		.assert = low & APIC_ICR_ASSERT,
		.level = low & APIC_ICR_LEVEL,
	};

	if (m.mode <= APIC_DM_LOWEST && m.vector < 16) {
		lapic_error(l, APIC_ESR_SEND_VECTOR);
		return;
	}
	irq_deliver(l->chip, l, &m, NULL);
}

static int pv_ipi_half(struct irqchip *c, u64 bitmap, u64 min, const struct irq_msg *m)
{
	int count = 0;

	for (; bitmap; bitmap &= bitmap - 1) {
		u64 id = min + (u64)__builtin_ctzll(bitmap);
		struct lapic *l;

		if (id >= IRQCHIP_MAX_APIC_IDS)
			break;
		l = __atomic_load_n(&c->map.phys[id], __ATOMIC_ACQUIRE);
		if (l)
			count += accept(l, m, NULL);
	}
	return count;
}

int irqchip_send_pv_ipi(struct irqchip *c, u64 low, u64 high, u32 min, u32 icr, unsigned bits)
{
	struct irq_msg m = {
		.vector = icr & APIC_ICR_VECTOR,
		.mode = (icr >> 8) & 7,
		.assert = icr & APIC_ICR_ASSERT,
		.level = icr & APIC_ICR_LEVEL,
	};

	if (icr & (APIC_ICR_LOGICAL | APIC_ICR_SHORTHAND))
		return -EINVAL;
	if (bits < 64) {
		low &= BIT64(bits) - 1;
		high &= BIT64(bits) - 1;
	}
	return pv_ipi_half(c, low, min, &m) + pv_ipi_half(c, high, (u64)min + bits, &m);
}

void irq_msg_from_msi(const struct irqchip *c, u32 lo, u32 hi, u32 data, struct irq_msg *m)
{
	*m = (struct irq_msg){
		.dest = lo >> 12 & 0xff,
		.vector = data & 0xff,
		.mode = data >> 8 & 7,
		.logical = lo & BIT(2),
		.redirect = lo & BIT(3),
		.level = data & BIT(15),
		.assert = true,
	};
	if (c->x2apic_ids)
		m->dest |= hi & 0xffffff00;
}
