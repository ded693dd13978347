/* One local APIC: modes, registers, priorities, EOI, external interrupts, errors. */
#include "fake.h"

static void test_reset_state(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];

	assert_int_equal(lapic_base(l), 0xfee00000 | APIC_BASE_ENABLE | APIC_BASE_BSP);
	assert_int_equal(lapic_base(f->l[1]), 0xfee00000 | APIC_BASE_ENABLE);
	assert_int_equal(fake_read(f->l[3], APIC_ID), 3u << 24);
	assert_int_equal(fake_read(l, APIC_LVR), 0x50014);
	assert_int_equal(fake_read(l, APIC_SPIV), 0xff);
	assert_int_equal(fake_read(l, APIC_DFR), 0xffffffff);
	assert_int_equal(fake_read(l, APIC_LVT0), 0x700);
	assert_int_equal(fake_read(f->l[1], APIC_LVT0), 0x10000);
	assert_int_equal(fake_read(l, APIC_LVTT), 0x10000);
	assert_false(lapic_pending(l));
	assert_int_equal(fake_take(l), -1);
	assert_int_equal(lapic_eoi(l), -1);
}

static void test_lint0_quirk(void **state)
{
	struct fake *f = *state;

	irqchip_disable_quirks(f->chip, KVM_X86_QUIRK_LINT0_REENABLED);
	lapic_reset(f->l[0], false);
	assert_int_equal(fake_read(f->l[0], APIC_LVT0), 0x10000);
}

static void test_base_transitions(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[1];
	const u64 x = 0xfee00000 | APIC_BASE_ENABLE, x2 = x | APIC_BASE_X2APIC;
	struct lapic_features plain = {.base_reserved = ~((1ull << 36) - 1)};

	assert_int_equal(lapic_set_base(l, x | 1, false), 1);
	assert_int_equal(lapic_set_base(l, x | BIT64(9), false), 1);
	assert_int_equal(lapic_set_base(l, x | BIT64(60), false), 1);
	assert_int_equal(lapic_set_base(l, 0xfee00000 | APIC_BASE_X2APIC, false), 1);
	assert_int_equal(lapic_set_base(l, 0xfee00000 | APIC_BASE_X2APIC, true), 1);
	assert_int_equal(lapic_set_base(l, x2, false), 0);
	assert_int_equal(lapic_mode(l), LAPIC_X2APIC);
	assert_int_equal(lapic_set_base(l, x, false), 1);
	assert_int_equal(lapic_set_base(l, 0xfee00000, false), 0);
	assert_int_equal(lapic_mode(l), LAPIC_DISABLED);
	assert_int_equal(lapic_set_base(l, x2, false), 1);
	assert_int_equal(lapic_set_base(l, x2, true), 0);
	assert_int_equal(lapic_set_base(l, x, true), 0);
	assert_int_equal(fake_read(l, APIC_ID), 1u << 24);
	assert_int_equal(fake_read(l, APIC_LDR), 0);
	lapic_set_features(l, &plain);
	assert_int_equal(lapic_set_base(l, x2, true), 1);
	assert_int_equal(lapic_set_base(l, x | BIT64(36), false), 1);
	assert_int_equal(lapic_set_base(l, x | BIT64(35), false), 0);
	assert_int_equal(lapic_mmio_base(l), 0xfee00000 | BIT64(35));
}

static void test_create_errors(void **state)
{
	struct fake *f = *state;
	struct lapic *l;

	assert_int_equal(lapic_create(f->chip, IRQCHIP_MAX_VCPUS, 9, false, &l), -EINVAL);
	assert_int_equal(lapic_create(f->chip, 9, IRQCHIP_MAX_APIC_IDS, false, &l), -EINVAL);
	assert_int_equal(lapic_create(f->chip, 1, 9, false, &l), -EEXIST);
	assert_int_equal(lapic_create(f->chip, 9, 1, false, &l), -EEXIST);
	lapic_destroy(f->l[1]);
	assert_int_equal(fake_msi(f, 1, 0, 0x30), 0);
	assert_int_equal(lapic_create(f->chip, 1, 1, false, &l), 0);
}

static void test_mmio_semantics(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[2];
	u8 bytes[8] = {0};
	u32 v = 0x5a;

	assert_int_equal(lapic_mmio_read(l, APIC_ID + 3, bytes, 1), 0);
	assert_int_equal(bytes[0], 2);
	assert_int_equal(lapic_mmio_read(l, APIC_ID + 2, bytes, 2), 0);
	assert_int_equal(bytes[1], 2);
	/* Across the register's 32 bits: nothing. */
	assert_int_equal(lapic_mmio_read(l, APIC_ID, bytes, 8), 0);
	assert_int_equal(bytes[3], 0);
	/* Narrow and unaligned writes have no effect. */
	assert_int_equal(lapic_mmio_write(l, APIC_TPR, &v, 1), 0);
	assert_int_equal(lapic_mmio_write(l, APIC_TPR + 4, &v, 4), 0);
	assert_int_equal(fake_read(l, APIC_TPR), 0);
	assert_int_equal(lapic_mmio_write(l, APIC_TPR, &v, 4), 0);
	assert_int_equal(fake_read(l, APIC_TPR), 0x5a);
	assert_int_equal(lapic_get_cr8(l), 5);
	/* The hole left by a disabled APIC. */
	assert_int_equal(lapic_set_base(l, 0xfee00000, false), 0);
	assert_int_equal(lapic_mmio_read(l, APIC_ID, bytes, 4), 0);
	assert_int_equal(bytes[0], 0xff);
	assert_int_equal(lapic_mmio_write(l, APIC_TPR, &v, 4), 0);
	irqchip_disable_quirks(f->chip, KVM_X86_QUIRK_LAPIC_MMIO_HOLE);
	assert_int_equal(lapic_mmio_read(l, APIC_ID, bytes, 4), -EOPNOTSUPP);
	assert_int_equal(lapic_mmio_write(l, APIC_TPR, &v, 4), -EOPNOTSUPP);
}

static void test_x2apic_msrs(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[3];
	u64 v;

	assert_int_equal(lapic_msr_read(l, 0x802, &v), 1); /* xAPIC mode */
	assert_int_equal(lapic_msr_write(l, 0x808, 0), 1);
	fake_x2apic(l);
	assert_int_equal(lapic_msr_read(l, 0x802, &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(lapic_msr_read(l, 0x80d, &v), 0);
	assert_int_equal(v, 8);
	/* Not in x2APIC, not at all, write-only, read-only. */
	static const u32 unreadable[] = {0x80e, 0x831, 0x809, 0x80b, 0x82f, 0x83a, 0x83f, 0x8ff};
	static const u32 unwritable[] = {0x80e, 0x831, 0x802, 0x803, 0x80d, 0x810,
					 0x820, 0x839, 0x82f, 0x83a, 0x8ff};
	for (unsigned i = 0; i < ARRAY_SIZE(unreadable); i++)
		assert_int_equal(lapic_msr_read(l, unreadable[i], &v), 1);
	for (unsigned i = 0; i < ARRAY_SIZE(unwritable); i++)
		assert_int_equal(lapic_msr_write(l, unwritable[i], 0), 1);
	assert_int_equal(lapic_msr_write(l, 0x808, BIT64(32)), 1);
	assert_int_equal(lapic_msr_write(l, 0x828, 1), 1);
	assert_int_equal(lapic_msr_write(l, 0x828, 0), 0);
	assert_int_equal(lapic_msr_write(l, 0x83f, 0x100), 1);
	assert_int_equal(lapic_msr_write(l, 0x83f, 0x41), 0);
	assert_int_equal(fake_take(l), 0x41);
	/* ICR is one 64-bit register; reserved bits fault, busy does not stick. */
	assert_int_equal(lapic_msr_write(l, 0x830, BIT64(13)), 1);
	assert_int_equal(lapic_msr_write(l, 0x830, BIT64(20)), 1);
	assert_int_equal(lapic_msr_write(l, 0x830, 0x200001050ull), 0);
	assert_int_equal(lapic_msr_read(l, 0x830, &v), 0);
	assert_int_equal(v, 0x200000050ull);
	/* The page is gone. */
	u32 word;
	assert_int_equal(lapic_mmio_read(l, APIC_ID, &word, 4), 0);
	assert_int_equal(word, 0xffffffff);
}

static void test_priorities(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];

	fake_write(l, APIC_LVT0, 0x10000);
	fake_enable(l);
	assert_int_equal(fake_msi(f, 0, 0, 0x31), 1);
	assert_int_equal(fake_msi(f, 0, 0, 0x62), 1);
	assert_int_equal(fake_msi(f, 0, 0, 0x3f), 1);
	assert_true(f->v[0].kicks >= 3);
	assert_int_equal(fake_take(l), 0x62);
	assert_int_equal(fake_read(l, APIC_PPR), 0x60);
	assert_int_equal(fake_take(l), -1);
	assert_false(lapic_pending(l));
	assert_int_equal(fake_msi(f, 0, 0, 0x6f), 1); /* same class waits */
	assert_int_equal(fake_take(l), -1);
	assert_int_equal(fake_msi(f, 0, 0, 0x70), 1); /* higher class nests */
	assert_int_equal(fake_take(l), 0x70);
	assert_int_equal(lapic_eoi(l), 0x70);
	assert_int_equal(fake_take(l), -1);
	assert_int_equal(lapic_eoi(l), 0x62);
	assert_int_equal(fake_take(l), 0x6f);
	fake_write(l, APIC_EOI, 0);
	lapic_set_cr8(l, 3);
	assert_int_equal(fake_read(l, APIC_TPR), 0x30);
	assert_int_equal(lapic_has_interrupt(l), -1);
	unsigned kicks = f->v[0].kicks;
	lapic_set_cr8(l, 2);
	assert_int_equal(f->v[0].kicks, kicks + 1);
	assert_int_equal(fake_take(l), 0x3f);
	lapic_eoi(l);
	assert_int_equal(fake_take(l), 0x31);
	fake_write(l, APIC_TPR, 0x3f);
	assert_int_equal(fake_read(l, APIC_PPR), 0x3f);
	lapic_eoi(l);
	assert_int_equal(fake_read(l, APIC_PPR), 0x3f);
}

static void test_coalesced_and_disabled(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[1];

	assert_int_equal(fake_msi(f, 1, 0, 0x40), 0); /* software-disabled */
	assert_int_equal(lapic_has_interrupt(l), -1);
	fake_enable(l);
	assert_int_equal(fake_msi(f, 1, 0, 0x40), 1);
	unsigned kicks = f->v[1].kicks;
	assert_int_equal(fake_msi(f, 1, 0, 0x40), 1);
	assert_int_equal(f->v[1].kicks, kicks);
	assert_int_equal(fake_take(l), 0x40);
	assert_int_equal(fake_msi(f, 1, 0, 0x40), 1); /* in service and pending */
	lapic_eoi(l);
	assert_int_equal(fake_take(l), 0x40);
	lapic_eoi(l);
	assert_int_equal(fake_msi(f, 1, 0, 0x40), 1);
	assert_int_equal(lapic_set_base(l, 0xfee00000, false), 0);
	assert_int_equal(lapic_has_interrupt(l), -1);
	assert_false(lapic_pending(l));
	assert_int_equal(fake_msi(f, 1, 0, 0x41), 0);
}

static void test_spiv_masks_lvt(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];

	fake_write(l, APIC_LVT1, 0x400);
	assert_int_equal(fake_read(l, APIC_LVT1), 0x10400); /* still disabled: stays masked */
	fake_enable(l);
	fake_write(l, APIC_LVT1, 0xffffffff);
	assert_int_equal(fake_read(l, APIC_LVT1), 0x1f7ff);
	fake_write(l, APIC_LVTERR, 0xfffeffff);
	assert_int_equal(fake_read(l, APIC_LVTERR), 0x010ff & ~0x10000);
	fake_write(l, APIC_LVT1, 0x400);
	fake_write(l, APIC_SPIV, 0x1ff | APIC_SPIV_DIRECTED_EOI);
	assert_int_equal(fake_read(l, APIC_SPIV), 0x1ff); /* no directed EOI with our IOAPIC */
	fake_write(l, APIC_SPIV, 0xff);
	assert_int_equal(fake_read(l, APIC_LVT1), 0x10400);
}

static void test_cmci(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];
	struct lapic_features with = {.cmci = true};

	fake_enable(l);
	assert_int_equal(fake_read(l, APIC_LVTCMCI), 0);
	lapic_set_features(l, &with);
	assert_int_equal(fake_read(l, APIC_LVR) >> 16 & 0xff, 6);
	assert_int_equal(fake_read(l, APIC_LVTCMCI), 0x10000);
	fake_write(l, APIC_LVTCMCI, 0xf4);
	assert_true(lapic_local_deliver(l, APIC_LVTCMCI));
	assert_int_equal(fake_take(l), 0xf4);
}

static void test_local_deliver(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[1];

	fake_enable(l);
	fake_write(l, APIC_LVT1, 0x400);
	assert_true(lapic_local_deliver(l, APIC_LVT1));
	assert_int_equal(f->v[1].nmis, 1);
	fake_write(l, APIC_LVTPC, 0x400);
	assert_true(lapic_local_deliver(l, APIC_LVTPC));
	assert_int_equal(f->v[1].nmis, 2);
	assert_int_equal(fake_read(l, APIC_LVTPC), 0x10400); /* masks itself */
	assert_false(lapic_local_deliver(l, APIC_LVTPC));
	fake_write(l, APIC_LVTTHMR, 0xfa);
	assert_true(lapic_local_deliver(l, APIC_LVTTHMR));
	assert_int_equal(fake_take(l), 0xfa);
	fake_write(l, APIC_LVT1, 0x200);
	assert_true(lapic_local_deliver(l, APIC_LVT1));
	assert_int_equal(f->v[1].smis, 1);
}

static void test_errors(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];

	fake_write(l, APIC_LVT0, 0x10000);
	fake_enable(l);
	fake_write(l, APIC_LVTERR, 0xfe);
	assert_int_equal(fake_read(l, APIC_ESR), 0);
	fake_write(l, APIC_ICR, APIC_DEST_SELF << 18 | 0x0f); /* illegal vector sent */
	assert_int_equal(fake_take(l), 0xfe);
	assert_int_equal(fake_read(l, APIC_ESR), 0);
	fake_write(l, APIC_ESR, 0);
	assert_int_equal(fake_read(l, APIC_ESR), APIC_ESR_SEND_VECTOR);
	fake_write(l, APIC_ESR, 0);
	assert_int_equal(fake_read(l, APIC_ESR), 0);
	lapic_eoi(l);
	assert_int_equal(fake_msi(f, 0, 0, 0x05), 0); /* illegal vector received */
	assert_int_equal(fake_take(l), 0xfe);
	lapic_eoi(l);
	fake_write(l, 0x3f0, 0); /* no such register in xAPIC mode */
	fake_write(l, APIC_ESR, 0);
	assert_int_equal(fake_read(l, APIC_ESR), APIC_ESR_RECV_VECTOR | APIC_ESR_REGISTER);
	fake_write(l, APIC_LVTERR, 0x3); /* its own illegal vector does not recurse */
	fake_write(l, 0x3f0, 0);
}

static void test_split_extint(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[0];

	assert_int_equal(lapic_set_user_extint(l, 0x08), 0);
	assert_true(lapic_pending(l));
	assert_true(lapic_has_extint(l));
	assert_int_equal(lapic_set_user_extint(l, 0x09), -EEXIST);
	assert_int_equal(fake_take(l), 0x08);
	assert_false(lapic_pending(l));
	/* Directed EOI is offered when the IOAPIC is not ours. */
	assert_true(fake_read(l, APIC_LVR) & APIC_LVR_DIRECTED_EOI);
	fake_write(l, APIC_SPIV, 0x1ff | APIC_SPIV_DIRECTED_EOI);
	assert_int_equal(fake_read(l, APIC_SPIV), 0x1ff | APIC_SPIV_DIRECTED_EOI);
}

static void test_pv_eoi(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[1];

	fake_enable(l);
	assert_false(lapic_pv_eoi_eligible(l));
	fake_msi(f, 1, 0, 0x50);
	assert_int_equal(fake_take(l), 0x50);
	assert_true(lapic_pv_eoi_eligible(l));
	fake_msi(f, 1, 0, 0x40);
	assert_false(lapic_pv_eoi_eligible(l)); /* another one waits for the EOI */
	lapic_eoi(l);
	assert_int_equal(fake_take(l), 0x40);
	assert_int_equal(lapic_eoi(l), 0x40);
	fake_msi(f, 1, 0, 0x8051); /* level: somebody waits for the EOI */
	assert_int_equal(fake_take(l), 0x51);
	assert_false(lapic_pv_eoi_eligible(l));
}

static void test_init_keeps_mode(void **state)
{
	struct fake *f = *state;
	struct lapic *l = f->l[2];

	fake_x2apic(l);
	fake_write(l, APIC_TPR, 0x40);
	fake_msi(f, 2, 0, 0x99);
	lapic_reset(l, true);
	assert_int_equal(lapic_mode(l), LAPIC_X2APIC);
	assert_int_equal(fake_read(l, APIC_ID), 2);
	assert_int_equal(fake_read(l, APIC_LDR), 4);
	assert_int_equal(fake_read(l, APIC_SPIV), 0xff);
	assert_int_equal(fake_read(l, APIC_TPR), 0);
	assert_int_equal(fake_take(l), -1);
	lapic_reset(l, false);
	assert_int_equal(lapic_mode(l), LAPIC_XAPIC);
	assert_int_equal(fake_read(l, APIC_ID), 2u << 24);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		FAKE_TEST(test_reset_state),	    FAKE_TEST(test_lint0_quirk),
		FAKE_TEST(test_base_transitions),   FAKE_TEST(test_create_errors),
		FAKE_TEST(test_mmio_semantics),	    FAKE_TEST(test_x2apic_msrs),
		FAKE_TEST(test_priorities),	    FAKE_TEST(test_coalesced_and_disabled),
		FAKE_TEST(test_spiv_masks_lvt),	    FAKE_TEST(test_cmci),
		FAKE_TEST(test_local_deliver),	    FAKE_TEST(test_errors),
		FAKE_TEST_SPLIT(test_split_extint), FAKE_TEST(test_pv_eoi),
		FAKE_TEST(test_init_keeps_mode),
	};

	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
