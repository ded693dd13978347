/*
 * I/O APIC: its registers, edge and level lines, remote IRR, the EOI broadcast and its
 * suppression, polarity, destinations. The lines are those of the serial port (pin 4: its
 * transmitter is always empty, so enabling that interrupt raises the line and reading IIR drops
 * it) and of the PIT (pin 2).
 *
 * Sources: 82093AA "Functional Description"; SDM "Signaling Interrupt Servicing Completion".
 */
#include "x86/apic.h"
#include "x86/line.h"
#include "x86/smp.h"

#define PIN	   4
#define LEVEL	   0x8000ull
#define MASKED	   0x10000ull
#define REMOTE_IRR 0x4000ull
#define LOGICAL	   0x800ull
#define LOWEST	   0x100ull
#define DEST(id)   ((u64)(id) << 56)
#define VECTOR	   0x62

static volatile u32 hits, hit_cpu[CPUS_MAX];
static volatile bool hold, drop;

static void on_irq(struct regs *r)
{
	hits++;
	hit_cpu[this_cpu()->id]++;
	if (drop)
		line_set(false);
	if (!hold)
		apic_eoi();
}

static void settle(void)
{
	sti();
	for (volatile unsigned i = 0; i < 2000; i++)
		pause();
	cli();
}

static bool in_tmr(void)
{
	return (apic_read(APIC_TMR + (VECTOR >> 5) * 0x10) >> (VECTOR & 31)) & 1;
}

static void registers(void)
{
	u32 pins = ((ioapic_read(1) >> 16) & 0xff) + 1;
	struct cases c = {0};

	report(pins == 24, "24 pins");
	report((ioapic_read(1) & 0xff) >= 0x11, "version");
	ioapic_write(1, 0);
	report_eq(((ioapic_read(1) >> 16) & 0xff) + 1, pins, "the version register is read-only");
	ioapic_write(0, 0x05000000);
	report_eq((ioapic_read(0) >> 24) & 15, 5, "id");
	ioapic_write(0, 0);
	for (unsigned i = 0; i < pins; i++) {
		u64 old = ioapic_get(i),
		    v = MASKED | (0x40 + i) | LEVEL | 0x2000 | LOGICAL | DEST(0xa5);

		c.run++;
		ioapic_set(i, v);
		if ((ioapic_get(i) & ~REMOTE_IRR) != v)
			fail_case(&c, "pin %u: %llx", i, (unsigned long long)ioapic_get(i));
		ioapic_set(i, old | MASKED);
	}
	report_cases(&c, "every redirection entry holds what was written");
	ioapic_set(PIN, MASKED | VECTOR | REMOTE_IRR | 0x1000);
	report_eq(ioapic_get(PIN) & (REMOTE_IRR | 0x1000), 0,
		  "remote IRR and delivery status are read-only");
	*(volatile u8 *)0xfec00000 = 1;
	report_eq((*(volatile u32 *)0xfec00010 >> 16) & 0xff, pins - 1, "the index by a byte");
}

static void edge(void)
{
	drop = hold = false;
	hits = 0;
	line_set(false);
	ioapic_set(PIN, VECTOR | DEST(apic_id()));
	line_set(true);
	settle();
	later(hits == 1, "edge: one interrupt while the line stays up");
	later((ioapic_get(PIN) & REMOTE_IRR) == 0, "edge: no remote IRR");
	later(!in_tmr(), "edge: TMR is clear");
	line_set(false);
	settle();
	later(hits == 1, "edge: none when it falls");
	line_set(true);
	settle();
	later(hits == 2, "edge: one more when it rises");
	line_set(false);
	/* An edge while the pin is masked is lost. */
	ioapic_set(PIN, MASKED | VECTOR | DEST(apic_id()));
	line_set(true);
	line_set(false);
	ioapic_set(PIN, VECTOR | DEST(apic_id()));
	settle();
	later(hits == 2, "edge: one that comes and goes while masked is lost");
}

static void level(void)
{
	drop = true;
	hold = false;
	hits = 0;
	line_set(false);
	ioapic_set(PIN, VECTOR | LEVEL | DEST(apic_id()));
	line_set(true);
	settle();
	later(hits == 1, "level: one interrupt when the handler drops the line");
	later((ioapic_get(PIN) & REMOTE_IRR) == 0, "level: remote IRR is clear after EOI");

	hold = true;
	line_set(true);
	settle();
	later(hits == 2, "level: again");
	later(ioapic_get(PIN) & REMOTE_IRR, "level: remote IRR until EOI");
	later(in_tmr(), "level: TMR is set");
	line_set(true);
	settle();
	later(hits == 2, "level: nothing more before EOI");
	hold = false;
	apic_eoi();
	settle();
	later(hits == 3, "level: EOI finds the line up: again");
	later((ioapic_get(PIN) & REMOTE_IRR) == 0, "level: and is done");

	/* The line stays up: an interrupt after each EOI. */
	drop = false;
	hits = 0;
	hold = true;
	line_set(true);
	settle();
	apic_eoi();
	settle();
	apic_eoi();
	settle();
	later(hits == 3, "level: one for each EOI while the line is up");
	line_set(false);
	apic_eoi();
	settle();
	later(hits == 3, "level: none when it is down");

	/* Masked while the line is up: delivered when unmasked. */
	drop = true;
	hold = false;
	ioapic_set(PIN, MASKED | VECTOR | LEVEL | DEST(apic_id()));
	line_set(true);
	settle();
	later(hits == 3, "level: masked");
	ioapic_set(PIN, VECTOR | LEVEL | DEST(apic_id()));
	settle();
	later(hits == 4, "level: unmasked, the line is still up");
	/* Masked and dropped: nothing. */
	ioapic_set(PIN, MASKED | VECTOR | LEVEL | DEST(apic_id()));
	line_set(true);
	line_set(false);
	ioapic_set(PIN, VECTOR | LEVEL | DEST(apic_id()));
	settle();
	later(hits == 4, "level: not when it has fallen meanwhile");
}

/* Switching an entry to edge clears remote IRR: how kernels end a stuck interrupt. */
static void to_edge(void)
{
	drop = hold = true;
	hits = 0;
	ioapic_set(PIN, VECTOR | LEVEL | DEST(apic_id()));
	line_set(true);
	settle();
	later(hits == 1 && (ioapic_get(PIN) & REMOTE_IRR), "remote IRR is set");
	ioapic_set(PIN, MASKED | VECTOR | DEST(apic_id()));
	ioapic_set(PIN, MASKED | VECTOR | LEVEL | DEST(apic_id()));
	later((ioapic_get(PIN) & REMOTE_IRR) == 0, "edge and back clears remote IRR");
	hold = false;
	apic_eoi();
	line_set(false);
}

static void suppression(void)
{
	if (!(apic_read(APIC_VERSION) & BIT(24))) {
		report_skip("suppression of the EOI broadcast");
		return;
	}
	drop = hold = true;
	hits = 0;
	ioapic_set(PIN, VECTOR | LEVEL | DEST(apic_id()));
	apic_write(APIC_SVR, 0x11ff);
	line_set(true);
	settle();
	apic_eoi();
	later(hits == 1 && (ioapic_get(PIN) & REMOTE_IRR),
	      "EOI without broadcast leaves remote IRR");
	*(volatile u32 *)0xfec00040 = VECTOR;
	later((ioapic_get(PIN) & REMOTE_IRR) == 0, "the I/O APIC's EOI register");
	apic_write(APIC_SVR, 0x1ff);
	hold = false;
}

static void logical(void)
{
	drop = true;
	hold = false;
	ioapic_set(PIN, VECTOR | LOGICAL | DEST(1));
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << 24);
	line_set(false);
	hits = 0;
	line_set(true);
	settle();
	later(hits == 1, "a logical destination");
	ioapic_set(PIN, VECTOR | LOGICAL | DEST(2));
	line_set(true);
	settle();
	later(hits == 1, "a logical destination of nobody");
	line_set(false);
	ioapic_set(PIN, MASKED);
}

static void nap(void *arg)
{
	volatile u32 *stop = arg;
	u64 end = rdtsc() + tsc_khz() * 5000;

	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << (24 + this_cpu()->id));
	while (!*stop && rdtsc() < end) {
		__asm__ volatile("sti; nop; nop; cli" ::: "memory");
	}
}

static void others(void)
{
	volatile u32 stop = 0;
	u32 all = 0;

	if (cpu_count < 2)
		return;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, nap, (void *)&stop);
	drop = true;
	hold = false;
	for (unsigned i = 1; i < cpu_count; i++) {
		u32 old = hit_cpu[i];

		line_set(false);
		ioapic_set(PIN, VECTOR | LEVEL | DEST(cpus[i]->apic_id));
		line_set(true);
		later(wait_change(&hit_cpu[i], old, 2000), "level to CPU %u", i);
		for (unsigned k = 0; k < 1000 && (ioapic_get(PIN) & REMOTE_IRR); k++)
			delay_us(10);
		later((ioapic_get(PIN) & REMOTE_IRR) == 0, "CPU %u's EOI clears remote IRR", i);
	}
	/* Lowest priority among the others: one of them. */
	memset((void *)hit_cpu, 0, sizeof(hit_cpu));
	hits = 0;
	for (unsigned i = 0; i < 10; i++) {
		u32 old = hits;

		line_set(false);
		ioapic_set(PIN, VECTOR | LOWEST | LOGICAL | DEST((1u << cpu_count) - 2));
		line_set(true);
		wait_change(&hits, old, 1000);
		delay_us(100);
	}
	for (unsigned i = 1; i < cpu_count; i++)
		all += hit_cpu[i];
	later(all == 10 && !hit_cpu[0], "lowest priority: one CPU for each");
	/* Fixed with several destinations: all of them. */
	memset((void *)hit_cpu, 0, sizeof(hit_cpu));
	line_set(false);
	drop = false;
	ioapic_set(PIN, VECTOR | LOGICAL | DEST((1u << cpu_count) - 2));
	line_set(true);
	all = 0;
	for (unsigned i = 1; i < cpu_count; i++)
		all += wait_change(&hit_cpu[i], 0, 1000);
	later(all == cpu_count - 1, "fixed with several destinations: all of them");
	line_set(false);
	ioapic_set(PIN, MASKED);
	stop = 1;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_wait(i);
}

void test_main(void)
{
	static void (*const parts[])(void) = {edge, level, to_edge, suppression, logical, others};

	cli();
	irq_set(VECTOR, on_irq);
	smp_start();
	registers();
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		parts[i]();
		line_set(false);
		ioapic_set(PIN, MASKED);
		later_flush();
	}
}
