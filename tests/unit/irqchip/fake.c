#include "fake.h"

static void count(unsigned *n)
{
	__atomic_fetch_add(n, 1, __ATOMIC_RELAXED);
}

static void op_kick(void *owner, unsigned vcpu)
{
	struct fake *f = owner;

	count(&f->v[vcpu].kicks);
	if (f->on_kick)
		f->on_kick(f);
}

static void op_nmi(void *owner, unsigned vcpu)
{
	count(&((struct fake *)owner)->v[vcpu].nmis);
}

static void op_smi(void *owner, unsigned vcpu)
{
	count(&((struct fake *)owner)->v[vcpu].smis);
}

static void op_init(void *owner, unsigned vcpu)
{
	count(&((struct fake *)owner)->v[vcpu].inits);
}

static void op_sipi(void *owner, unsigned vcpu, u8 vector)
{
	struct fake *f = owner;

	count(&f->v[vcpu].sipis);
	__atomic_store_n(&f->v[vcpu].sipi_vector, vector, __ATOMIC_RELAXED);
}

static void op_unhalt(void *owner, unsigned vcpu)
{
	count(&((struct fake *)owner)->v[vcpu].unhalts);
}

static u64 op_tsc_now(void *owner, unsigned vcpu)
{
	struct fake *f = owner;

	return 2 * timer_service_now(f->timers) + f->tsc_offset;
}

static u64 op_tsc_to_ns(void *owner, unsigned vcpu, u64 ticks)
{
	return ticks / 2 + (ticks & 1);
}

static void op_ioapic_eoi(void *owner, unsigned vcpu, u8 vector)
{
	struct fake *f = owner;

	count(&f->v[vcpu].eois);
	f->v[vcpu].eoi_vector = vector;
}

static const struct irqchip_ops ops = {
	.kick = op_kick,
	.nmi = op_nmi,
	.smi = op_smi,
	.init = op_init,
	.sipi = op_sipi,
	.unhalt = op_unhalt,
	.tsc_now = op_tsc_now,
	.tsc_to_ns = op_tsc_to_ns,
	.ioapic_eoi = op_ioapic_eoi,
};

struct lapic *fake_add(struct fake *f, unsigned index, unsigned id)
{
	static const struct lapic_features features = {.x2apic = true, .tsc_deadline = true};

	assert_int_equal(lapic_create(f->chip, index, id, index == 0, &f->l[index]), 0);
	lapic_set_features(f->l[index], &features);
	return f->l[index];
}

struct fake *fake_new(enum irqchip_mode mode, unsigned n, enum timer_clock clock)
{
	struct fake *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(timer_service_create(&f->timers, clock), 0);
	assert_int_equal(irqchip_create(&f->chip, mode, &ops, f, f->timers), 0);
	for (unsigned i = 0; i < n; i++)
		fake_add(f, i, i);
	return f;
}

void fake_free(struct fake *f)
{
	irqchip_destroy(f->chip);
	timer_service_destroy(f->timers);
	free(f);
}

void fake_sleep(struct fake *f, u64 ns)
{
	timer_service_advance(f->timers, timer_service_now(f->timers) + ns);
}

u32 fake_read(struct lapic *l, u32 reg)
{
	u32 value = 0;
	u64 wide = 0;

	if (lapic_mode(l) == LAPIC_X2APIC) {
		assert_int_equal(lapic_msr_read(l, 0x800 + (reg >> 4), &wide), 0);
		return (u32)wide;
	}
	assert_int_equal(lapic_mmio_read(l, reg, &value, 4), 0);
	return value;
}

void fake_write(struct lapic *l, u32 reg, u32 value)
{
	if (lapic_mode(l) == LAPIC_X2APIC)
		assert_int_equal(lapic_msr_write(l, 0x800 + (reg >> 4), value), 0);
	else
		assert_int_equal(lapic_mmio_write(l, reg, &value, 4), 0);
}

void fake_enable(struct lapic *l)
{
	fake_write(l, APIC_SPIV, APIC_SPIV_ENABLED | 0xff);
}

void fake_x2apic(struct lapic *l)
{
	assert_int_equal(lapic_set_base(l, lapic_base(l) | APIC_BASE_X2APIC, false), 0);
	fake_enable(l);
}

int fake_take(struct lapic *l)
{
	int vector = lapic_has_interrupt(l);

	if (vector >= 0 || lapic_has_extint(l))
		assert_true(lapic_pending(l));
	return lapic_get_interrupt(l);
}

int fake_msi(struct fake *f, u32 dest, u32 lo_bits, u32 data)
{
	struct kvm_msi msi = {
		.address_lo = 0xfee00000 | (dest & 0xff) << 12 | lo_bits,
		.address_hi = dest & 0xffffff00,
		.data = data,
	};

	return irqchip_send_msi(f->chip, &msi);
}

void fake_ioapic_write(struct fake *f, u32 reg, u32 value)
{
	assert_true(irqchip_mmio_write(f->chip, 0xfec00000, &reg, 4));
	assert_true(irqchip_mmio_write(f->chip, 0xfec00010, &value, 4));
}

u32 fake_ioapic_read(struct fake *f, u32 reg)
{
	u32 value;

	assert_true(irqchip_mmio_write(f->chip, 0xfec00000, &reg, 4));
	assert_true(irqchip_mmio_read(f->chip, 0xfec00010, &value, 4));
	return value;
}

void fake_ioapic_entry(struct fake *f, unsigned pin, u64 entry)
{
	fake_ioapic_write(f, 0x10 + 2 * pin, 0x10000);
	fake_ioapic_write(f, 0x11 + 2 * pin, (u32)(entry >> 32));
	fake_ioapic_write(f, 0x10 + 2 * pin, (u32)entry);
}

void fake_out(struct fake *f, u16 port, u8 value)
{
	assert_true(irqchip_pio_write(f->chip, port, &value, 1));
}

u8 fake_in(struct fake *f, u16 port)
{
	u8 value = 0xaa;

	assert_true(irqchip_pio_read(f->chip, port, &value, 1));
	return value;
}

int fake_setup(void **state)
{
	*state = fake_new(IRQCHIP_FULL, 4, TIMER_MANUAL);
	return 0;
}

int fake_setup_split(void **state)
{
	*state = fake_new(IRQCHIP_SPLIT, 4, TIMER_MANUAL);
	return 0;
}

int fake_teardown(void **state)
{
	fake_free(*state);
	return 0;
}
