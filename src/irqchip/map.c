/*
 * The APIC map: from a destination to the local APIC, without looking at every vCPU.
 *
 * Senders read it without a lock. That is safe because an entry is one pointer, replaced only
 * when it differs (an unrelated change never makes an entry flicker), and because a local APIC's
 * memory lives as long as the chip. A sender that reads an entry while its APIC is being
 * reprogrammed may deliver by the old or the new state, as on hardware.
 *
 * Where destinations are ambiguous (two APICs with one id, APICs in different logical modes, a
 * logical id with several bits) the map says so and senders match every APIC instead.
 */
#include "irqchip/irqchip_internal.h"

static void map_physical(struct irqchip *c, struct apic_map *map, struct lapic *l)
{
	u32 xapic_id = lapic_reg(l->regs, APIC_ID) >> 24;

	/* Two with one id, and it is both that a message means. */
	if (lapic_mode(l) == LAPIC_X2APIC && map->phys[l->id] && !c->x2apic_ids)
		map->usable = 0;
	/* vCPUs with ids beyond 8 bits are reachable by their x2APIC id even in xAPIC mode,
	   so that a guest can start CPUs plugged in later. */
	if (lapic_mode(l) == LAPIC_X2APIC || l->id > 0xff)
		map->phys[l->id] = l;
	if (lapic_mode(l) == LAPIC_X2APIC)
		return;
	/* With 32-bit ids the truncated id of such a vCPU is not its own: the first one has it. */
	if (!map->phys[xapic_id])
		map->phys[xapic_id] = l;
	else if (map->phys[xapic_id] != l && !c->x2apic_ids)
		map->usable = 0;
}

static void map_logical(struct apic_map *map, struct lapic *l)
{
	u32 ldr = lapic_reg(l->regs, APIC_LDR);
	enum apic_map_mode mode;
	struct lapic **entry;
	u32 bits;

	if (!lapic_sw_enabled(l) || !ldr)
		return;
	if (lapic_mode(l) == LAPIC_X2APIC)
		mode = MAP_X2APIC;
	else if (lapic_reg(l->regs, APIC_DFR) >> 28 == APIC_DFR_FLAT)
		mode = MAP_FLAT;
	else
		mode = MAP_CLUSTER;
	if (map->mode == MAP_NONE)
		map->mode = mode;
	if (map->mode != mode) {
		map->mode = MAP_MIXED;
		return;
	}
	if (mode == MAP_X2APIC)
		return; /* logical ids follow from physical ones */
	bits = ldr >> 24;
	if (mode == MAP_CLUSTER)
		bits &= 0xf;
	if (!bits)
		return;
	entry = mode == MAP_FLAT ? &map->flat[__builtin_ctz(bits)]
				 : &map->cluster[ldr >> 28][__builtin_ctz(bits)];
	if ((bits & (bits - 1)) || *entry)
		map->mode = MAP_MIXED;
	*entry = l;
}

static void publish(struct lapic **to, struct lapic **from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (__atomic_load_n(&to[i], __ATOMIC_RELAXED) != from[i])
			__atomic_store_n(&to[i], from[i], __ATOMIC_RELEASE);
}

void apic_map_update(struct irqchip *c)
{
	struct apic_map *new = &c->scratch;
	struct lapic *l;

	futex_lock(&c->map_lock);
	mem_set(new, 0, sizeof(*new));
	new->usable = 1;
	IRQCHIP_FOR_EACH_LAPIC(c, i, l)
	{
		if (lapic_mode(l) == LAPIC_DISABLED)
			continue;
		map_physical(c, new, l);
		map_logical(new, l);
	}
	/* Senders that already chose a mode read an array of that mode: each keeps its meaning. */
	if (c->map.usable != new->usable)
		__atomic_store_n(&c->map.usable, new->usable, __ATOMIC_RELEASE);
	publish(c->map.phys, new->phys, ARRAY_SIZE(new->phys));
	publish(c->map.flat, new->flat, ARRAY_SIZE(new->flat));
	publish(&c->map.cluster[0][0], &new->cluster[0][0], 16 * 4);
	__atomic_store_n(&c->map.mode, new->mode, __ATOMIC_RELEASE);
	futex_unlock(&c->map_lock);
}

int irqchip_find_vcpu(struct irqchip *c, u32 apic_id)
{
	struct lapic *l;

	if (apic_id >= IRQCHIP_MAX_APIC_IDS)
		return -1;
	l = __atomic_load_n(&c->map.phys[apic_id], __ATOMIC_ACQUIRE);
	return l ? (int)l->index : -1;
}
