/*
 * Whatever a guest or a client does: no crash, no endless loop, no deadlock. Random port, memory,
 * MSR and API accesses with values that hit the interesting bits; sanitizers watch.
 */
#include "fake.h"

struct rng {
	u64 x;
};

static u64 next(struct rng *r)
{
	r->x ^= r->x << 13;
	r->x ^= r->x >> 7;
	r->x ^= r->x << 17;
	return r->x;
}

static u64 value(struct rng *r)
{
	u64 v = next(r);

	switch (next(r) % 6) {
	case 0:
		return 0;
	case 1:
		return ~0ull;
	case 2:
		return BIT64(v & 63);
	case 3:
		return v & 0xff;
	case 4:
		return v & 0x1ffff;
	default:
		return v;
	}
}

static void guest_step(struct fake *f, struct rng *r)
{
	static const u16 ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
				    0x40, 0x41, 0x42, 0x43, 0x61};
	struct lapic *l = f->l[next(r) & 3];
	unsigned len = 1u << next(r) % 4;
	u64 v = value(r), out;

	switch (next(r) % 12) {
	case 0:
		irqchip_pio_write(f->chip, ports[next(r) % ARRAY_SIZE(ports)], &v,
				  len & 7 ? len : 4);
		break;
	case 1:
		irqchip_pio_read(f->chip, ports[next(r) % ARRAY_SIZE(ports)], &out,
				 len & 7 ? len : 4);
		break;
	case 2:
		lapic_mmio_write(l, next(r) & 0xfff, &v, len);
		break;
	case 3:
		lapic_mmio_write(l, next(r) & 0x3f0, &v, 4);
		break;
	case 4:
		lapic_mmio_read(l, next(r) & 0xfff, &out, len);
		break;
	case 5:
		lapic_msr_write(l, 0x800 + (next(r) & 0xff), v);
		break;
	case 6:
		lapic_msr_read(l, 0x800 + (next(r) & 0xff), &out);
		break;
	case 7:
		irqchip_mmio_write(f->chip, 0xfec00000 + (next(r) & 0x1ff), &v, len);
		break;
	case 8:
		out = next(r) & 0x3f; /* a restored state may have moved the base */
		irqchip_mmio_write(f->chip, 0xfec00000, &out, 4);
		irqchip_mmio_write(f->chip, 0xfec00010, &v, 4);
		break;
	case 9:
		lapic_set_tsc_deadline(l, v);
		break;
	case 10:
		lapic_set_base(l, next(r) & 1 ? v : (v & 0xd00) | 0xfee00000, next(r) & 1);
		break;
	default:
		lapic_get_interrupt(l);
		lapic_eoi(l);
		break;
	}
}

static void client_step(struct fake *f, struct rng *r)
{
	struct lapic *l = f->l[next(r) & 3];
	struct kvm_irq_routing_entry e[4];
	struct kvm_lapic_state state;
	struct kvm_pit_state2 pit;
	struct kvm_irqchip chip;
	struct kvm_msi msi;

	switch (next(r) % 8) {
	case 0:
		irqchip_set_irq(f->chip, next(r) & 1, next(r) % 30, next(r) & 1, next(r) & 1);
		break;
	case 1:
		msi = (struct kvm_msi){(u32)value(r), (u32)value(r), (u32)value(r), next(r) & 1};
		irqchip_send_msi(f->chip, &msi);
		break;
	case 2:
		for (unsigned i = 0; i < 4; i++) {
			e[i] = (struct kvm_irq_routing_entry){.gsi = next(r) % 30,
							      .type = 1 + (next(r) & 1)};
			e[i].u.msi.address_lo = (u32)next(r) % 4;
			e[i].u.msi.address_hi = (u32)next(r) % 26;
			e[i].u.msi.data = (u32)value(r);
		}
		irqchip_set_routing(f->chip, e, next(r) % 5);
		break;
	case 3:
		for (unsigned i = 0; i < sizeof(state); i += 8)
			*(u64 *)(state.regs + i) = value(r);
		lapic_set_state(l, &state);
		lapic_get_state(l, &state);
		break;
	case 4:
		for (unsigned i = 0; i < sizeof(pit) / 8; i++)
			((u64 *)&pit)[i] = value(r);
		irqchip_set_pit(f->chip, &pit);
		break;
	case 5:
		for (unsigned i = 0; i < sizeof(chip) / 8; i++)
			((u64 *)&chip)[i] = value(r);
		chip.chip_id = next(r) % 4;
		if (next(r) % 4)
			chip.chip.ioapic.base_address = 0xfec00000;
		irqchip_set_state(f->chip, &chip);
		chip.chip_id = next(r) % 4;
		irqchip_get_state(f->chip, &chip);
		break;
	case 6:
		irqchip_send_pv_ipi(f->chip, value(r), value(r), (u32)value(r), (u32)value(r),
				    next(r) & 1 ? 64 : 32);
		break;
	default:
		lapic_reset(l, next(r) & 1);
		irqchip_set_pit_reinject(f->chip, next(r) & 1);
		break;
	}
}

static void run(enum irqchip_mode mode, u64 seed)
{
	struct fake *f = fake_new(mode, 4, TIMER_MANUAL);
	struct rng r = {seed};

	irqchip_create_pit(f->chip, KVM_PIT_SPEAKER_DUMMY);
	for (int i = 0; i < 30000; i++) {
		if (mode == IRQCHIP_SPLIT && next(&r) % 4)
			client_step(f, &r);
		else if (next(&r) % 16)
			mode == IRQCHIP_SPLIT ? (void)lapic_get_interrupt(f->l[1])
					      : guest_step(f, &r);
		else
			client_step(f, &r);
		if (next(&r) % 8 == 0)
			fake_sleep(f, next(&r) % 1000000);
	}
	fake_free(f);
}

static void test_full(void **state)
{
	for (u64 seed = 1; seed <= 8; seed++)
		run(IRQCHIP_FULL, seed * 0x9e3779b97f4a7c15ull);
}

static void test_split(void **state)
{
	for (u64 seed = 1; seed <= 4; seed++)
		run(IRQCHIP_SPLIT, seed * 0x9e3779b97f4a7c15ull);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_split),
	};

	return cmocka_run_group_tests_name("random", tests, NULL, NULL);
}
