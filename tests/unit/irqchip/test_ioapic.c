/* The I/O APIC: registers, edge and level pins, Remote IRR, EOI, storms, notifiers, state. */
#include "fake.h"

#define LEVEL  BIT64(15)
#define MASKED BIT64(16)

static int line(struct fake *f, u32 gsi, bool level)
{
	return irqchip_set_irq(f->chip, IRQCHIP_SOURCE_USER, gsi, level, true);
}

/* A chip whose GSIs 0-23 go to the IOAPIC alone, with enabled APICs. */
static int setup(void **state)
{
	struct kvm_irq_routing_entry e[24] = {0};
	struct fake *f;

	fake_setup(state);
	f = *state;
	for (u32 i = 0; i < 24; i++) {
		e[i].gsi = i;
		e[i].type = KVM_IRQ_ROUTING_IRQCHIP;
		e[i].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		e[i].u.irqchip.pin = i;
	}
	assert_int_equal(irqchip_set_routing(f->chip, e, 24), 0);
	fake_write(f->l[0], APIC_LVT0, 0x10000);
	for (unsigned i = 0; i < 4; i++)
		fake_enable(f->l[i]);
	return 0;
}

static void test_registers(void **state)
{
	struct fake *f = *state;
	u64 wide = ~0ull;
	u16 narrow = 0xffff;

	assert_int_equal(fake_ioapic_read(f, 1), 0x170011);
	fake_ioapic_write(f, 0, 0xff000000);
	assert_int_equal(fake_ioapic_read(f, 0), 0x0f000000);
	assert_int_equal(fake_ioapic_read(f, 2), 0x0f000000);
	assert_int_equal(fake_ioapic_read(f, 0x10), 0x10000);
	assert_int_equal(fake_ioapic_read(f, 0x3f), 0);
	assert_int_equal(fake_ioapic_read(f, 0x40), 0xffffffff); /* beyond the pins */
	assert_int_equal(fake_ioapic_read(f, 0x03), 0xffffffff);
	fake_ioapic_write(f, 0x40, 0x1234);
	fake_ioapic_write(f, 1, 0);
	assert_int_equal(fake_ioapic_read(f, 1), 0x170011);
	/* Read-only bits of an entry. */
	fake_ioapic_write(f, 0x12, 0x1f0ff);
	assert_int_equal(fake_ioapic_read(f, 0x12), 0x1a0ff);
	/* Widths. */
	assert_true(irqchip_mmio_read(f->chip, 0xfec00010, &wide, 8));
	assert_int_equal(wide, 0x1a0ff);
	assert_true(irqchip_mmio_read(f->chip, 0xfec00010, &narrow, 2));
	assert_int_equal(narrow, 0xa0ff);
	assert_true(irqchip_mmio_read(f->chip, 0xfec00020, &wide, 8));
	assert_int_equal(wide, 0);
	assert_false(irqchip_mmio_read(f->chip, 0xfec00100, &wide, 4));
	assert_false(irqchip_mmio_read(f->chip, 0xfec000fe, &wide, 4));
	assert_false(irqchip_mmio_write(f->chip, 0xfebffffe, &wide, 4));
}

static void test_edge(void **state)
{
	struct fake *f = *state;

	assert_int_equal(line(f, 5, true), -1); /* masked */
	line(f, 5, false);
	fake_ioapic_entry(f, 5, 2ull << 56 | 0x45);
	assert_int_equal(line(f, 5, true), 1);
	assert_int_equal(line(f, 5, true), 0); /* no new edge */
	assert_int_equal(line(f, 5, false), 1);
	assert_int_equal(fake_take(f->l[2]), 0x45);
	assert_int_equal(fake_take(f->l[2]), -1);
	lapic_eoi(f->l[2]);
	assert_int_equal(line(f, 5, true), 1);
	assert_int_equal(fake_take(f->l[2]), 0x45);
	/* An edge while masked is lost when the pin is edge-triggered. */
	line(f, 5, false);
	fake_ioapic_write(f, 0x1a, 0x10045);
	lapic_eoi(f->l[2]);
	line(f, 5, true);
	fake_ioapic_write(f, 0x1a, 0x45);
	assert_int_equal(fake_take(f->l[2]), -1);
	/* Delivery modes. */
	fake_ioapic_entry(f, 6, 1ull << 56 | 0x400);
	assert_int_equal(line(f, 6, true), 1);
	assert_int_equal(f->v[1].nmis, 1);
	fake_ioapic_entry(f, 7, 1ull << 56 | 0x700);
	assert_int_equal(line(f, 7, true), 0); /* ExtINT: not ours to send */
	fake_ioapic_entry(f, 8, 0x33ull << 56 | 0x50);
	assert_int_equal(line(f, 8, true), 0); /* no such CPU */
}

static void test_level(void **state)
{
	struct fake *f = *state;

	fake_ioapic_entry(f, 10, 1ull << 56 | LEVEL | 0x60);
	assert_int_equal(line(f, 10, true), 1);
	assert_int_equal(fake_ioapic_read(f, 0x24), 0xc060); /* Remote IRR */
	assert_int_equal(line(f, 10, true), -1);
	assert_int_equal(fake_take(f->l[1]), 0x60);
	lapic_eoi(f->l[1]);
	/* Still high: sent again at once. */
	assert_int_equal(fake_ioapic_read(f, 0x24), 0xc060);
	assert_int_equal(fake_take(f->l[1]), 0x60);
	assert_int_equal(line(f, 10, false), 1);
	lapic_eoi(f->l[1]);
	assert_int_equal(fake_ioapic_read(f, 0x24), 0x8060);
	assert_int_equal(fake_take(f->l[1]), -1);
	/* High while masked: comes at unmasking. */
	fake_ioapic_write(f, 0x24, 0x18060);
	line(f, 10, true);
	assert_int_equal(fake_take(f->l[1]), -1);
	fake_ioapic_write(f, 0x24, 0x8060);
	assert_int_equal(fake_take(f->l[1]), 0x60);
	/* Switching to edge and back clears a stuck Remote IRR (Linux's and Xen's trick). */
	fake_ioapic_write(f, 0x24, 0x10060);
	assert_int_equal(fake_ioapic_read(f, 0x24), 0x10060);
	/* The EOI of a vector that another pin took over meanwhile does no harm. */
	lapic_eoi(f->l[1]);
}

static void test_eoi_of_moved_vector(void **state)
{
	struct fake *f = *state;

	/* The guest moves a level interrupt to another CPU while it is in service. */
	fake_ioapic_entry(f, 11, 1ull << 56 | LEVEL | 0x61);
	line(f, 11, true);
	assert_int_equal(fake_take(f->l[1]), 0x61);
	fake_ioapic_write(f, 0x27, 3u << 24);
	assert_int_equal(fake_ioapic_read(f, 0x26), 0xc061);
	lapic_eoi(f->l[1]);
	assert_int_equal(fake_take(f->l[3]), 0x61);
}

static void test_lowest_priority_logical(void **state)
{
	struct fake *f = *state;

	for (unsigned i = 0; i < 4; i++)
		fake_write(f->l[i], APIC_LDR, BIT(i) << 24);
	fake_ioapic_entry(f, 4, 0xffull << 56 | BIT64(11) | 0x140);
	assert_int_equal(line(f, 4, true), 1);
	int n = 0;
	for (unsigned i = 0; i < 4; i++)
		n += fake_take(f->l[i]) == 0x40;
	assert_int_equal(n, 1);
}

static void test_storm(void **state)
{
	struct fake *f = *state;

	fake_ioapic_entry(f, 10, 1ull << 56 | LEVEL | 0x60);
	line(f, 10, true);
	for (int i = 0; i < 10000; i++) {
		assert_int_equal(fake_take(f->l[1]), 0x60);
		lapic_eoi(f->l[1]);
	}
	assert_int_equal(fake_take(f->l[1]), -1); /* the guest gets time */
	fake_sleep(f, 10000000);
	assert_int_equal(fake_take(f->l[1]), 0x60);
}

static void test_rtc_coalescing(void **state)
{
	struct fake *f = *state;

	fake_ioapic_entry(f, 8, 0xffull << 56 | 0x70);
	assert_int_equal(line(f, 8, true), 4);
	line(f, 8, false);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(line(f, 8, true), 0); /* somebody has not ended it */
		line(f, 8, false);
		assert_int_equal(fake_take(f->l[i]), 0x70);
		if (i == 2)
			lapic_reset(f->l[i], true); /* will never end it */
		else
			lapic_eoi(f->l[i]);
	}
	assert_int_equal(line(f, 8, true), 3);
	line(f, 8, false);
	/* Nobody asks for the status: every edge goes out. */
	assert_int_equal(irqchip_set_irq(f->chip, 0, 8, true, false), 3);
}

struct counter {
	struct irqchip_ack ack;
	struct fake *f;
	int calls;
	bool lower;
};

static void on_ack(struct irqchip_ack *ack)
{
	struct counter *c = CONTAINER_OF(ack, struct counter, ack);

	c->calls++;
	if (c->lower)
		irqchip_set_irq(c->f->chip, IRQCHIP_SOURCE_RESAMPLE, ack->gsi, false, false);
}

static void test_ack_notifier(void **state)
{
	struct fake *f = *state;
	struct counter c = {.ack = {.gsi = 10, .acked = on_ack}, .f = f, .lower = true};
	struct counter edge = {.ack = {.gsi = 5, .acked = on_ack}, .f = f};

	fake_ioapic_entry(f, 10, 1ull << 56 | LEVEL | 0x60);
	fake_ioapic_entry(f, 5, 1ull << 56 | 0x61);
	irqchip_ack_add(f->chip, &c.ack);
	irqchip_ack_add(f->chip, &edge.ack);
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_RESAMPLE, 10, true, false);
	assert_int_equal(fake_take(f->l[1]), 0x60);
	lapic_eoi(f->l[1]);
	assert_int_equal(c.calls, 1);
	assert_int_equal(edge.calls, 0);
	assert_int_equal(fake_take(f->l[1]), -1); /* the notifier lowered the line in time */
	/* Edge pins tell their notifiers, too. */
	irqchip_pulse_irq(f->chip, 0, 5);
	assert_int_equal(fake_take(f->l[1]), 0x61);
	assert_false(lapic_pv_eoi_eligible(f->l[1]));
	lapic_eoi(f->l[1]);
	assert_int_equal(edge.calls, 1);
	irqchip_ack_remove(f->chip, &edge.ack);
	irqchip_pulse_irq(f->chip, 0, 5);
	assert_int_equal(fake_take(f->l[1]), 0x61);
	assert_true(lapic_pv_eoi_eligible(f->l[1]));
	lapic_eoi(f->l[1]);
	assert_int_equal(edge.calls, 1);
	/* Unmasking with the line high asks the owner first. */
	fake_ioapic_write(f, 0x24, 0x18060);
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_RESAMPLE, 10, true, false);
	fake_ioapic_write(f, 0x24, 0x8060);
	assert_int_equal(c.calls, 2);
	assert_int_equal(fake_take(f->l[1]), -1);
	irqchip_ack_remove(f->chip, &c.ack);
}

static void test_state(void **state)
{
	struct fake *f = *state;
	struct kvm_irqchip s = {.chip_id = KVM_IRQCHIP_IOAPIC}, back = s;

	fake_ioapic_entry(f, 10, 1ull << 56 | LEVEL | 0x60);
	fake_ioapic_entry(f, 5, 1ull << 56 | 0x45);
	fake_ioapic_entry(f, 7, 1ull << 56 | LEVEL | MASKED | 0x47);
	line(f, 10, true);
	line(f, 5, true);
	line(f, 7, true);
	assert_int_equal(irqchip_get_state(f->chip, &s), 0);
	assert_int_equal(s.chip.ioapic.base_address, 0xfec00000);
	assert_int_equal(s.chip.ioapic.irr, BIT(10) | BIT(7)); /* the edge has gone out */
	assert_int_equal(s.chip.ioapic.redirtbl[10].fields.remote_irr, 1);
	struct fake *g = fake_new(IRQCHIP_FULL, 2, TIMER_MANUAL);
	fake_enable(g->l[1]);
	assert_int_equal(irqchip_set_state(g->chip, &s), 0);
	assert_int_equal(irqchip_get_state(g->chip, &back), 0);
	assert_memory_equal(&s.chip.ioapic, &back.chip.ioapic, sizeof(s.chip.ioapic));
	assert_int_equal(fake_take(g->l[1]), -1); /* Remote IRR: it is in the LAPIC's state */
	fake_ioapic_write(g, 0x1e, 0x8047);
	assert_int_equal(fake_take(g->l[1]), 0x47);
	memset(&s.chip, 0xff, sizeof(s.chip));
	assert_int_equal(irqchip_set_state(g->chip, &s), 0);
	line(g, 3, true);
	fake_free(g);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, fake_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_registers),
		TEST(test_edge),
		TEST(test_level),
		TEST(test_eoi_of_moved_vector),
		TEST(test_lowest_priority_logical),
		TEST(test_storm),
		TEST(test_rtc_coalescing),
		TEST(test_ack_notifier),
		TEST(test_state),
	};

	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
