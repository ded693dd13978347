/*
 * Many threads at once, as in a running VM: vCPU threads take and end interrupts and send IPIs,
 * device threads raise lines and MSIs, another reprograms routes and takes states. No interrupt
 * may be lost; ThreadSanitizer watches.
 */
#include "fake.h"

#include <pthread.h>
#include <unistd.h>

#define VCPUS  4
#define ROUNDS 3000u

struct shared {
	struct fake *f;
	pthread_barrier_t start;
	unsigned stop;
	unsigned taken[VCPUS][256];
};

struct actor {
	struct shared *s;
	unsigned index;
};

static bool stopped(struct shared *s)
{
	return __atomic_load_n(&s->stop, __ATOMIC_ACQUIRE);
}

/* A vCPU: polls as the engine does, takes what comes, ends it. */
static void *vcpu_main(void *arg)
{
	struct actor *a = arg;
	struct lapic *l = a->s->f->l[a->index];
	unsigned quiet = 0;

	while (!stopped(a->s) || quiet < 100) {
		int vector;

		if (!lapic_pending(l)) {
			quiet++;
			if (quiet % 64 == 0)
				usleep(10);
			continue;
		}
		quiet = 0;
		vector = lapic_get_interrupt(l);
		if (vector < 0)
			continue;
		__atomic_fetch_add(&a->s->taken[a->index][vector], 1, __ATOMIC_RELAXED);
		lapic_eoi(l);
	}
	return NULL;
}

static unsigned taken(struct shared *s, unsigned vcpu, unsigned vector)
{
	return __atomic_load_n(&s->taken[vcpu][vector], __ATOMIC_RELAXED);
}

/* A device with an MSI of its own: the next one only when the last was taken, so each counts. */
static void *msi_main(void *arg)
{
	struct actor *a = arg;
	struct shared *s = a->s;

	for (unsigned i = 1; i <= ROUNDS; i++) {
		unsigned before = taken(s, a->index, 0x50 + a->index);

		fake_msi(s->f, a->index, 0, 0x50 + a->index);
		for (int j = 0; j < 20000 && taken(s, a->index, 0x50 + a->index) == before; j++)
			usleep(j < 1000 ? 0 : 1000);
		if (taken(s, a->index, 0x50 + a->index) == before)
			return "an MSI was lost";
	}
	return NULL;
}

/* Lines that go up and down, level and edge, from two sources. */
static void *line_main(void *arg)
{
	struct actor *a = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		irqchip_set_irq(a->s->f->chip, a->index & 1, 10, i & 1, true);
		irqchip_pulse_irq(a->s->f->chip, 0, 5);
	}
	irqchip_set_irq(a->s->f->chip, a->index & 1, 10, false, true);
	return NULL;
}

/* The administrator: routes, states, notifiers, the guest's IOAPIC and PIC accesses. */
static void on_ack(struct irqchip_ack *ack)
{
}

static void *admin_main(void *arg)
{
	struct actor *a = arg;
	struct fake *f = a->s->f;
	struct irqchip_ack ack = {.gsi = 10, .acked = on_ack};
	struct kvm_irq_routing_entry e[3] = {
		{.gsi = 10, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {2, 10}},
		{.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {2, 5}},
		{.gsi = 5, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {0, 5}},
	};

	for (unsigned i = 0; i < ROUNDS / 4; i++) {
		struct kvm_irqchip s = {.chip_id = i % 3};

		irqchip_ack_add(f->chip, &ack);
		irqchip_set_routing(f->chip, e, 2 + (i & 1));
		irqchip_get_state(f->chip, &s);
		fake_in(f, 0x20);
		fake_ioapic_write(f, 0x25, (i % VCPUS) << 24); /* moves GSI 10 around */
		irqchip_ack_remove(f->chip, &ack);
		irqchip_find_vcpu(f->chip, i % VCPUS);
	}
	return NULL;
}

static void test_all_at_once(void **state)
{
	struct shared s = {.f = fake_new(IRQCHIP_FULL, VCPUS, TIMER_MONOTONIC)};
	pthread_t vcpu[VCPUS], msi[VCPUS], line[2], admin;
	struct actor a[VCPUS];
	void *error;

	for (unsigned i = 0; i < VCPUS; i++) {
		fake_enable(s.f->l[i]);
		a[i] = (struct actor){&s, i};
	}
	fake_write(s.f->l[0], APIC_LVT0, 0x10000);
	fake_ioapic_entry(s.f, 10, BIT64(15) | 0x60);
	fake_ioapic_entry(s.f, 5, 1ull << 56 | 0x61);
	assert_int_equal(irqchip_create_pit(s.f->chip, 0), 0);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_create(&vcpu[i], NULL, vcpu_main, &a[i]);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_create(&msi[i], NULL, msi_main, &a[i]);
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&line[i], NULL, line_main, &a[i]);
	pthread_create(&admin, NULL, admin_main, &a[0]);
	fake_out(s.f, 0x43, 0x34);
	fake_out(s.f, 0x40, 0x00);
	fake_out(s.f, 0x40, 0x01);
	for (unsigned i = 0; i < VCPUS; i++) {
		pthread_join(msi[i], &error);
		assert_null(error);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(line[i], NULL);
	pthread_join(admin, NULL);
	__atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < VCPUS; i++) {
		pthread_join(vcpu[i], NULL);
		assert_int_equal(taken(&s, i, 0x50 + i), ROUNDS);
	}
	fake_free(s.f);
}

/* vCPU threads that program their own APICs, timers and ids while IPIs fly. */
static void *guest_main(void *arg)
{
	struct actor *a = arg;
	struct shared *s = a->s;
	struct lapic *l = s->f->l[a->index];
	unsigned other = (a->index + 1) % VCPUS;

	pthread_barrier_wait(&s->start);
	for (unsigned i = 0; i < ROUNDS; i++) {
		fake_write(l, APIC_LDR, BIT(a->index) << 24);
		fake_write(l, APIC_ICR2, other << 24);
		fake_write(l, APIC_ICR, 0x70 + a->index);
		fake_write(l, APIC_ICR, APIC_DEST_ALL_BUT << 18 | 0x78);
		lapic_set_tsc_deadline(l,
				       2 * timer_service_now(s->f->timers) + 2 * (i % 50) * 1000);
		lapic_set_cr8(l, i & 0xf);
		if (i % 256 == 0) {
			struct kvm_lapic_state st;

			lapic_get_state(l, &st);
			lapic_set_state(l, &st);
		}
		lapic_set_cr8(l, 0);
		while (lapic_pending(l)) {
			int vector = lapic_get_interrupt(l);

			if (vector < 0)
				break;
			__atomic_fetch_add(&s->taken[a->index][vector], 1, __ATOMIC_RELAXED);
			lapic_eoi(l);
		}
	}
	return NULL;
}

static void test_guests(void **state)
{
	struct shared s = {.f = fake_new(IRQCHIP_FULL, VCPUS, TIMER_MONOTONIC)};
	pthread_t vcpu[VCPUS];
	struct actor a[VCPUS];
	unsigned broadcasts = 0;

	for (unsigned i = 0; i < VCPUS; i++) {
		fake_enable(s.f->l[i]);
		fake_write(s.f->l[i], APIC_LVT0, 0x10000);
		fake_write(s.f->l[i], APIC_LVTT, 0x40090);
		a[i] = (struct actor){&s, i};
	}
	pthread_barrier_init(&s.start, NULL, VCPUS);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_create(&vcpu[i], NULL, guest_main, &a[i]);
	for (unsigned i = 0; i < VCPUS; i++)
		pthread_join(vcpu[i], NULL);
	for (unsigned i = 0; i < VCPUS; i++) {
		assert_true(taken(&s, i, 0x90) > 0);
		broadcasts += taken(&s, i, 0x78);
	}
	assert_true(broadcasts > 0);
	pthread_barrier_destroy(&s.start);
	fake_free(s.f);
}

/* A timer interrupt every time, with the host's clock: nothing is early, nothing is lost. */
static void test_real_timer(void **state)
{
	struct shared s = {.f = fake_new(IRQCHIP_FULL, 1, TIMER_MONOTONIC)};
	struct lapic *l = s.f->l[0];
	pthread_t vcpu;
	struct actor a = {&s, 0};

	fake_enable(l);
	fake_write(l, APIC_LVT0, 0x10000);
	fake_write(l, APIC_LVTT, 0x20090);
	fake_write(l, APIC_TDCR, 0xb);
	fake_write(l, APIC_TMICT, 1000000);
	u64 start = timer_service_now(s.f->timers);
	pthread_create(&vcpu, NULL, vcpu_main, &a);
	for (int i = 0; i < 5000 && taken(&s, 0, 0x90) < 20; i++)
		usleep(1000);
	assert_true(timer_service_now(s.f->timers) - start >= 20 * 1000000ull);
	assert_true(taken(&s, 0, 0x90) >= 20);
	__atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
	pthread_join(vcpu, NULL);
	fake_free(s.f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_at_once),
		cmocka_unit_test(test_guests),
		cmocka_unit_test(test_real_timer),
	};

	return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
