/* GSI routing: the default table, replacing it, what is refused, the split irqchip. */
#include "fake.h"

static struct kvm_irq_routing_entry pin(u32 gsi, u32 chip, u32 pin)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {chip, pin}};
}

static struct kvm_irq_routing_entry msi(u32 gsi, u32 dest, u32 data)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = 0xfee00000 | dest << 12, .data = data}};
}

static int set(struct fake *f, struct kvm_irq_routing_entry a, struct kvm_irq_routing_entry b)
{
	struct kvm_irq_routing_entry e[2] = {a, b};

	return irqchip_set_routing(f->chip, e, 2);
}

static void test_default(void **state)
{
	struct fake *f = *state;

	for (u32 gsi = 0; gsi < 24; gsi++) {
		struct kvm_irqchip pic = {.chip_id = gsi < 8 ? 0 : 1};
		struct kvm_irqchip io = {.chip_id = KVM_IRQCHIP_IOAPIC};

		irqchip_set_irq(f->chip, 0, gsi, true, false);
		irqchip_get_state(f->chip, &pic);
		irqchip_get_state(f->chip, &io);
		if (gsi < 16)
			assert_true(pic.chip.pic.irr & BIT(gsi & 7));
		assert_true(io.chip.ioapic.irr & BIT(gsi));
		irqchip_set_irq(f->chip, 0, gsi, false, false);
	}
	assert_int_equal(irqchip_set_irq(f->chip, 0, 24, true, false), -1);
	assert_int_equal(irqchip_set_irq(f->chip, 0, 4096, true, false), -1);
	assert_int_equal(irqchip_set_irq(f->chip, 0, ~0u, true, false), -1);
}

static void test_override(void **state)
{
	struct fake *f = *state;

	fake_enable(f->l[1]);
	fake_ioapic_entry(f, 2, 1ull << 56 | 0x52);
	assert_int_equal(set(f, pin(0, 2, 2), pin(0, 0, 0)), 0);
	/* One for the IOAPIC; the PIC's IMR is 0 after power-on and counts, too. */
	assert_int_equal(irqchip_set_irq(f->chip, 0, 0, true, false), 2);
	assert_int_equal(fake_take(f->l[1]), 0x52);
}

static void test_msi_route(void **state)
{
	struct fake *f = *state;

	fake_enable(f->l[1]);
	fake_enable(f->l[2]);
	assert_int_equal(set(f, msi(30, 1, 0x61), msi(4095, 2, 0x62)), 0);
	assert_int_equal(irqchip_set_irq(f->chip, 0, 30, true, false), 1);
	assert_int_equal(fake_take(f->l[1]), 0x61);
	assert_int_equal(irqchip_set_irq(f->chip, 0, 30, false, false), -1);
	assert_int_equal(irqchip_pulse_irq(f->chip, 0, 4095), 1);
	assert_int_equal(fake_take(f->l[2]), 0x62);
	assert_int_equal(irqchip_set_routing(f->chip, NULL, 0), 0);
	assert_int_equal(irqchip_pulse_irq(f->chip, 0, 30), -1);
}

static void test_refused(void **state)
{
	struct fake *f = *state;
	struct kvm_irq_routing_entry ok = pin(20, 2, 20), bad;

	assert_int_equal(set(f, ok, pin(4096, 2, 0)), -EINVAL);
	assert_int_equal(set(f, ok, pin(~0u, 2, 0)), -EINVAL);
	assert_int_equal(set(f, ok, pin(1, 2, 24)), -EINVAL);
	assert_int_equal(set(f, ok, pin(1, 0, 8)), -EINVAL);
	assert_int_equal(set(f, ok, pin(1, 1, 8)), -EINVAL);
	assert_int_equal(set(f, ok, pin(1, 3, 0)), -EINVAL);
	assert_int_equal(set(f, ok, pin(20, 2, 21)), -EINVAL); /* same chip twice */
	assert_int_equal(set(f, ok, msi(20, 0, 0x50)), -EINVAL);
	assert_int_equal(set(f, msi(20, 0, 0x51), msi(20, 0, 0x50)), -EINVAL);
	bad = pin(1, 2, 1);
	bad.flags = 1;
	assert_int_equal(set(f, ok, bad), -EINVAL);
	bad = msi(1, 0, 0x50);
	bad.flags = 2;
	assert_int_equal(set(f, ok, bad), -EINVAL);
	bad.flags = KVM_MSI_VALID_DEVID;
	assert_int_equal(set(f, ok, bad), 0);
	bad.type = KVM_IRQ_ROUTING_HV_SINT;
	bad.flags = 0;
	assert_int_equal(set(f, ok, bad), -EINVAL);
	bad = msi(1, 0, 0x50);
	bad.u.msi.address_hi = 0x1;
	assert_int_equal(set(f, ok, bad), 0);
	assert_int_equal(irqchip_set_x2apic_api(f->chip, KVM_X2APIC_API_USE_32BIT_IDS), 0);
	assert_int_equal(set(f, ok, bad), -EINVAL);
	assert_int_equal(irqchip_set_routing(f->chip, &ok, 4097), -EINVAL);
	/* A refused table leaves the old one. */
	fake_enable(f->l[0]);
	fake_ioapic_entry(f, 20, 0x54);
	assert_int_equal(irqchip_set_irq(f->chip, 0, 20, true, false), 1);
}

static void test_split(void **state)
{
	struct fake *f = *state;
	struct kvm_irqchip s = {0};
	u32 v;

	assert_int_equal(irqchip_get_state(f->chip, &s), -ENXIO);
	assert_int_equal(irqchip_set_state(f->chip, &s), -ENXIO);
	assert_false(irqchip_mmio_read(f->chip, 0xfec00000, &v, 4));
	assert_false(irqchip_pio_read(f->chip, 0x20, &v, 1));
	assert_int_equal(irqchip_set_irq(f->chip, 0, 5, true, false), -1);
	assert_int_equal(set(f, pin(1, 2, 1), msi(2, 0, 0x50)), -EINVAL);
	assert_int_equal(irqchip_set_reserved_routes(f->chip, 4097), -EINVAL);
	assert_int_equal(irqchip_set_reserved_routes(f->chip, 24), 0);
}

static void test_split_eoi(void **state)
{
	struct fake *f = *state;

	assert_int_equal(irqchip_set_reserved_routes(f->chip, 24), 0);
	fake_enable(f->l[1]);
	assert_int_equal(set(f, msi(10, 1, 0x8061), msi(11, 1, 0x72)), 0);
	irqchip_set_irq(f->chip, 0, 10, true, false);
	assert_int_equal(fake_take(f->l[1]), 0x61);
	assert_false(lapic_pv_eoi_eligible(f->l[1]));
	lapic_eoi(f->l[1]);
	assert_int_equal(f->v[1].eois, 1);
	assert_int_equal(f->v[1].eoi_vector, 0x61);
	irqchip_set_irq(f->chip, 0, 11, true, false);
	assert_int_equal(fake_take(f->l[1]), 0x72);
	lapic_eoi(f->l[1]);
	assert_int_equal(f->v[1].eois, 1); /* edge: nobody waits */
	/* A level route beyond the reserved ones belongs to no IOAPIC. */
	assert_int_equal(set(f, msi(24, 1, 0x8063), msi(11, 1, 0x72)), 0);
	irqchip_set_irq(f->chip, 0, 24, true, false);
	assert_int_equal(fake_take(f->l[1]), 0x63);
	lapic_eoi(f->l[1]);
	assert_int_equal(f->v[1].eois, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_default),     FAKE_TEST(test_override),
		FAKE_TEST(test_msi_route),   FAKE_TEST(test_refused),
		FAKE_TEST_SPLIT(test_split), FAKE_TEST_SPLIT(test_split_eoi),
	};

	return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
