/* The two 8259s: initialisation, priorities, cascade, EOI kinds, modes, ELCR, state. */
#include "fake.h"

static void init_pics(struct fake *f, u8 icw4)
{
	static const u16 base[] = {0x20, 0xa0};

	for (int i = 0; i < 2; i++) {
		fake_out(f, base[i], 0x11);
		fake_out(f, base[i] + 1, i ? 0x28 : 0x20);
		fake_out(f, base[i] + 1, i ? 2 : 4);
		fake_out(f, base[i] + 1, icw4);
		fake_out(f, base[i] + 1, 0);
	}
}

static int line(struct fake *f, u32 gsi, bool level)
{
	/* Keep the IOAPIC's share of the status out: its pins are masked. */
	return irqchip_set_irq(f->chip, IRQCHIP_SOURCE_USER, gsi, level, true);
}

static void pulse(struct fake *f, u32 gsi)
{
	line(f, gsi, true);
	line(f, gsi, false);
}

static void test_basic(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	unsigned kicks = f->v[0].kicks;
	pulse(f, 3);
	assert_int_equal(f->v[0].kicks, kicks + 1);
	assert_int_equal(f->v[1].kicks, 0); /* its LINT0 is masked */
	assert_true(lapic_has_extint(f->l[0]));
	assert_false(lapic_has_extint(f->l[1]));
	assert_int_equal(fake_in(f, 0x20), 0x08);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	assert_false(lapic_has_extint(f->l[0]));
	fake_out(f, 0x20, 0x0b); /* read ISR */
	assert_int_equal(fake_in(f, 0x20), 0x08);
	pulse(f, 5); /* less important: waits */
	assert_false(lapic_pending(f->l[0]));
	pulse(f, 1); /* more important: nests */
	assert_int_equal(fake_take(f->l[0]), 0x21);
	fake_out(f, 0x20, 0x20);
	assert_int_equal(fake_in(f, 0x20), 0x08);
	fake_out(f, 0x20, 0x20);
	assert_int_equal(fake_take(f->l[0]), 0x25);
	fake_out(f, 0x20, 0x65); /* specific EOI */
	assert_int_equal(fake_in(f, 0x20), 0);
	fake_out(f, 0x20, 0x0a);
	assert_int_equal(fake_in(f, 0x20), 0);
}

static void test_cascade(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	pulse(f, 12);
	assert_int_equal(fake_in(f, 0xa0), 0x10);
	assert_int_equal(fake_in(f, 0x20), 0x04);
	assert_int_equal(fake_take(f->l[0]), 0x2c);
	pulse(f, 9); /* more important on the slave, but the master is busy with pin 2 */
	assert_false(lapic_pending(f->l[0]));
	fake_out(f, 0xa0, 0x20);
	fake_out(f, 0x20, 0x20);
	assert_int_equal(fake_take(f->l[0]), 0x29);
}

static void test_special_fully_nested(void **state)
{
	struct fake *f = *state;

	init_pics(f, 0x11);
	pulse(f, 12);
	assert_int_equal(fake_take(f->l[0]), 0x2c);
	pulse(f, 9);
	assert_int_equal(fake_take(f->l[0]), 0x29);
}

static void test_spurious(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_out(f, 0x4d0, 0x20);
	line(f, 5, true);
	line(f, 5, false); /* the level went before the acknowledge */
	assert_false(lapic_pending(f->l[0]));
	line(f, 12, true);
	fake_out(f, 0xa1, 0x10); /* masked on the slave, but the master has latched pin 2 */
	assert_int_equal(fake_take(f->l[0]), 0x2f);
	fake_out(f, 0x20, 0x0b);
	assert_int_equal(fake_in(f, 0x20), 0x04);
}

static void test_level(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_out(f, 0x4d0, 0xff);
	fake_out(f, 0x4d1, 0xff);
	assert_int_equal(fake_in(f, 0x4d0), 0xf8); /* pins 0-2, 8 and 13 are edge */
	assert_int_equal(fake_in(f, 0x4d1), 0xde);
	line(f, 10, true);
	assert_int_equal(fake_take(f->l[0]), 0x2a);
	fake_out(f, 0xa0, 0x20);
	fake_out(f, 0x20, 0x20);
	assert_int_equal(fake_take(f->l[0]), 0x2a); /* still high */
	line(f, 10, false);
	fake_out(f, 0xa0, 0x20);
	fake_out(f, 0x20, 0x20);
	assert_false(lapic_pending(f->l[0]));
	/* Shared by two sources: high while either is. */
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_USER, 10, true, false);
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_RESAMPLE, 10, true, false);
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_USER, 10, false, false);
	assert_true(lapic_pending(f->l[0]));
	irqchip_set_irq(f->chip, IRQCHIP_SOURCE_RESAMPLE, 10, false, false);
	assert_int_equal(fake_in(f, 0xa0), 0);
}

static void test_status(void **state)
{
	struct fake *f = *state;
	struct kvm_irq_routing_entry e = {.gsi = 3,
					  .type = KVM_IRQ_ROUTING_IRQCHIP,
					  .u.irqchip = {KVM_IRQCHIP_PIC_MASTER, 3}};

	assert_int_equal(irqchip_set_routing(f->chip, &e, 1), 0);
	init_pics(f, 1);
	assert_int_equal(line(f, 3, true), 1);
	assert_int_equal(line(f, 3, false), 1);
	assert_int_equal(line(f, 3, true), 0); /* still pending: coalesced */
	line(f, 3, false);
	fake_out(f, 0x4d0, 0x08); /* a level that is asked for already */
	assert_int_equal(line(f, 3, false), 1);
	assert_int_equal(line(f, 3, true), 1);
	assert_int_equal(line(f, 3, true), 0);
	line(f, 3, false);
	fake_out(f, 0x21, 0x08);
	assert_int_equal(line(f, 3, true), -1); /* masked */
	assert_int_equal(line(f, 4, true), -1); /* not routed */
}

static void test_mask(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_out(f, 0x21, 0xfe);
	assert_int_equal(fake_in(f, 0x21), 0xfe);
	pulse(f, 4);
	assert_false(lapic_pending(f->l[0]));
	fake_out(f, 0x21, 0xee);
	assert_int_equal(fake_take(f->l[0]), 0x24); /* was remembered */
	/* Special mask mode: masking the one in service lets less important ones in. */
	fake_out(f, 0x21, 0x00);
	pulse(f, 6);
	assert_false(lapic_pending(f->l[0]));
	fake_out(f, 0x20, 0x68);
	fake_out(f, 0x21, 0x10);
	assert_int_equal(fake_take(f->l[0]), 0x26);
	fake_out(f, 0x20, 0x48);
}

static void test_rotation(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	pulse(f, 3);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	fake_out(f, 0x20, 0xa0); /* rotate on non-specific EOI: 3 becomes the least important */
	pulse(f, 3);
	pulse(f, 4);
	assert_int_equal(fake_take(f->l[0]), 0x24);
	fake_out(f, 0x20, 0xe4); /* rotate on specific EOI */
	pulse(f, 5);
	assert_int_equal(fake_take(f->l[0]), 0x25);
	fake_out(f, 0x20, 0x20);
	fake_out(f, 0x20, 0xc2); /* set priority: 3 is the most important */
	pulse(f, 0);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	fake_out(f, 0x20, 0x20);
	assert_int_equal(fake_take(f->l[0]), 0x20);
}

static void test_auto_eoi(void **state)
{
	struct fake *f = *state;

	init_pics(f, 3);
	pulse(f, 3);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	fake_out(f, 0x20, 0x0b);
	assert_int_equal(fake_in(f, 0x20), 0);
	fake_out(f, 0x20, 0x80); /* rotate in automatic EOI mode */
	pulse(f, 3);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	pulse(f, 3);
	pulse(f, 4);
	assert_int_equal(fake_take(f->l[0]), 0x24);
}

static void test_poll(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_out(f, 0x20, 0x0c);
	assert_int_equal(fake_in(f, 0x20), 0x07);
	pulse(f, 4);
	fake_out(f, 0x20, 0x0c);
	assert_int_equal(fake_in(f, 0x20), 0x84);
	assert_false(lapic_pending(f->l[0]));
	pulse(f, 11);
	fake_out(f, 0xa0, 0x0c);
	assert_int_equal(fake_in(f, 0xa0), 0x83);
	assert_false(lapic_pending(f->l[0]));
}

static void test_icw1_resets(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_out(f, 0x21, 0xff);
	pulse(f, 4);
	fake_out(f, 0x20, 0x11);
	assert_int_equal(fake_in(f, 0x21), 0);
	assert_int_equal(fake_in(f, 0x20), 0);
	/* Without ICW4: three words, normal mode. */
	fake_out(f, 0x20, 0x10);
	fake_out(f, 0x21, 0x40);
	fake_out(f, 0x21, 0x04);
	fake_out(f, 0x21, 0x00);
	pulse(f, 4);
	assert_int_equal(fake_take(f->l[0]), 0x44);
}

static void test_lint0(void **state)
{
	struct fake *f = *state;

	init_pics(f, 1);
	fake_enable(f->l[0]);
	fake_write(f->l[0], APIC_LVT0, 0x10700);
	pulse(f, 3);
	assert_false(lapic_pending(f->l[0]));
	unsigned kicks = f->v[0].kicks;
	fake_write(f->l[0], APIC_LVT0, 0x700);
	assert_int_equal(f->v[0].kicks, kicks + 1);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	fake_out(f, 0x20, 0x20);
	/* The external interrupt goes before the APIC's own, whatever its vector. */
	pulse(f, 3);
	fake_msi(f, 0, 0, 0xf0);
	assert_int_equal(fake_take(f->l[0]), 0x23);
	assert_int_equal(fake_take(f->l[0]), 0xf0);
	/* A disabled APIC leaves the wire connected. */
	fake_out(f, 0x20, 0x20);
	assert_int_equal(lapic_set_base(f->l[2], 0xfee00000, false), 0);
	pulse(f, 1);
	assert_int_equal(fake_take(f->l[2]), 0x21);
}

static void test_wide_access(void **state)
{
	struct fake *f = *state;
	u32 v = 0xffffffff;

	init_pics(f, 1);
	assert_true(irqchip_pio_write(f->chip, 0x21, &v, 2));
	assert_int_equal(fake_in(f, 0x21), 0);
	fake_out(f, 0x21, 0x12);
	assert_true(irqchip_pio_read(f->chip, 0x21, &v, 4));
	assert_int_equal(v, 0);
	assert_false(irqchip_pio_read(f->chip, 0x22, &v, 1));
	assert_false(irqchip_pio_write(f->chip, 0x4d2, &v, 1));
}

static void test_state(void **state)
{
	struct fake *f = *state;
	struct kvm_irqchip s = {.chip_id = KVM_IRQCHIP_PIC_MASTER}, back;

	init_pics(f, 1);
	pulse(f, 3);
	fake_take(f->l[0]);
	pulse(f, 4);
	assert_int_equal(irqchip_get_state(f->chip, &s), 0);
	assert_int_equal(s.chip.pic.isr, 0x08);
	assert_int_equal(s.chip.pic.irr, 0x10);
	assert_int_equal(s.chip.pic.irq_base, 0x20);
	assert_int_equal(s.chip.pic.elcr_mask, 0xf8);
	struct fake *g = fake_new(IRQCHIP_FULL, 1, TIMER_MANUAL);
	assert_int_equal(irqchip_set_state(g->chip, &s), 0);
	back = s;
	memset(&back.chip, 0, sizeof(back.chip));
	assert_int_equal(irqchip_get_state(g->chip, &back), 0);
	assert_memory_equal(&s.chip.pic, &back.chip.pic, sizeof(s.chip.pic));
	fake_out(g, 0x20, 0x20);
	assert_int_equal(fake_take(g->l[0]), 0x24);
	memset(&s.chip, 0xff, sizeof(s.chip)); /* garbage */
	assert_int_equal(irqchip_set_state(g->chip, &s), 0);
	pulse(g, 1);
	fake_take(g->l[0]);
	s.chip_id = 3;
	assert_int_equal(irqchip_get_state(g->chip, &s), -EINVAL);
	assert_int_equal(irqchip_set_state(g->chip, &s), -EINVAL);
	fake_free(g);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_basic),
		FAKE_TEST(test_cascade),
		FAKE_TEST(test_special_fully_nested),
		FAKE_TEST(test_spurious),
		FAKE_TEST(test_level),
		FAKE_TEST(test_status),
		FAKE_TEST(test_mask),
		FAKE_TEST(test_rotation),
		FAKE_TEST(test_auto_eoi),
		FAKE_TEST(test_poll),
		FAKE_TEST(test_icw1_resets),
		FAKE_TEST(test_lint0),
		FAKE_TEST(test_wide_access),
		FAKE_TEST(test_state),
	};

	return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
