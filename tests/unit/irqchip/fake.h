/*
 * A VM for the interrupt controllers' tests: counts what goes up through the ops, and has a clock
 * that stands still unless a test moves it. The guest's TSC runs at two ticks a nanosecond.
 */
#ifndef TESTS_IRQCHIP_FAKE_H
#define TESTS_IRQCHIP_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "irqchip/irqchip.h"
#include "irqchip/lapic.h"

#define FAKE_VCPUS 64

/** What one vCPU was told; atomic counters. */
struct fake_vcpu {
	unsigned kicks, nmis, smis, inits, sipis, unhalts, eois;
	unsigned sipi_vector, eoi_vector;
};

struct fake {
	struct timer_service *timers;
	struct irqchip *chip;
	struct lapic *l[FAKE_VCPUS];
	struct fake_vcpu v[FAKE_VCPUS];
	u64 tsc_offset;
	void (*on_kick)(struct fake *f); /* or NULL; on the thread that kicks */
};

/** Makes a VM with n vCPUs (index = id, 0 boots), APICs as after reset, features x2APIC etc. */
struct fake *fake_new(enum irqchip_mode mode, unsigned n, enum timer_clock clock);
void fake_free(struct fake *f);
/** Adds one vCPU. */
struct lapic *fake_add(struct fake *f, unsigned index, unsigned id);
/** Moves the manual clock. */
void fake_sleep(struct fake *f, u64 ns);
/** Software-enables an APIC. */
void fake_enable(struct lapic *l);
/** Puts an APIC into x2APIC mode and software-enables it. */
void fake_x2apic(struct lapic *l);
u32 fake_read(struct lapic *l, u32 reg);
void fake_write(struct lapic *l, u32 reg, u32 value);
/** Vector that the CPU takes now, or -1. */
int fake_take(struct lapic *l);
/** One message as an MSI. */
int fake_msi(struct fake *f, u32 dest, u32 lo_bits, u32 data);
void fake_ioapic_write(struct fake *f, u32 reg, u32 value);
u32 fake_ioapic_read(struct fake *f, u32 reg);
/** Programs a redirection entry. */
void fake_ioapic_entry(struct fake *f, unsigned pin, u64 entry);
void fake_out(struct fake *f, u16 port, u8 value);
u8 fake_in(struct fake *f, u16 port);

/** Group set-up and tear-down: a full chip with four vCPUs and the manual clock. */
int fake_setup(void **state);
int fake_setup_split(void **state);
int fake_teardown(void **state);

#define FAKE_TEST(fn)	    cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)
#define FAKE_TEST_SPLIT(fn) cmocka_unit_test_setup_teardown(fn, fake_setup_split, fake_teardown)

#endif
