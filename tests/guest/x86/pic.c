/*
 * The two 8259s (masks, IRR and ISR, priorities, kinds of EOI, rotation, special mask, polling,
 * cascade) and the 8254 (modes, latches, read-back, gate of channel 2). Lines: the 8254 on IRQ 0,
 * the serial port on IRQ 4, the clock on IRQ 8.
 * Source: 8259A and 8254 data sheets; MC146818.
 */
#include "x86/apic.h"
#include "x86/line.h"
#include "x86/smp.h"

#define BASE   0x40 /* vector of IRQ 0 */
#define MASTER 0x20
#define SLAVE  0xa0

static volatile u32 order[16], taken;
static u8 isr_seen;
static u8 eoi; /* what the handler sends, 0: nothing */

static void ocw(u8 v)
{
	outb(MASTER, v);
}
static u8 irr(void)
{
	ocw(0x0a);
	return inb(MASTER);
}
static u8 isr(void)
{
	ocw(0x0b);
	return inb(MASTER);
}

static void on_irq(struct regs *r)
{
	order[taken++ & 15] = (u32)r->vector - BASE;
	isr_seen = isr();
	if (r->vector >= BASE + 8) {
		inb(0x70);
		outb(0x70, 0x0c);
		inb(0x71); /* the clock's line falls */
		outb(SLAVE, 0x20);
	}
	if (r->vector == BASE + 4)
		line_set(false);
	if (eoi)
		ocw(eoi);
}

static void set_up(u8 icw4)
{
	outb(MASTER, 0x11), outb(MASTER + 1, BASE), outb(MASTER + 1, 4), outb(MASTER + 1, icw4);
	outb(SLAVE, 0x11), outb(SLAVE + 1, BASE + 8), outb(SLAVE + 1, 2), outb(SLAVE + 1, 1);
	outb(MASTER + 1, 0xff), outb(SLAVE + 1, 0xff);
	taken = 0;
	eoi = 0x20;
}

static void settle(void)
{
	sti();
	for (volatile unsigned i = 0; i < 2000; i++)
		pause();
	cli();
}

/* One edge of the 8254 on IRQ 0, waited for. */
static void tick(void)
{
	outb(0x43, 0x30);
	outb(0x40, 100);
	outb(0x40, 0);
	for (unsigned i = 0; i < 10000 && !(irr() & 1); i++)
		delay_us(10);
}

static void masks(void)
{
	struct cases c = {0};

	set_up(1);
	for (unsigned v = 0; v < 256; v += 17) {
		outb(MASTER + 1, (u8)v), outb(SLAVE + 1, (u8)~v);
		c.run++;
		if (inb(MASTER + 1) != v || inb(SLAVE + 1) != (u8)~v)
			fail_case(&c, "%x", v);
	}
	outb(MASTER + 1, 0xff), outb(SLAVE + 1, 0xff);
	report_cases(&c, "masks hold what is written");
	tick();
	settle();
	report(!taken && irr() & 1, "a masked line waits in IRR");
	outb(MASTER + 1, 0xfe);
	settle();
	report(taken == 1 && order[0] == 0, "unmasked, it comes");
	report(isr_seen == 1 && !isr() && !(irr() & 1),
	       "ISR in the handler, and neither after EOI");
	settle();
	report_eq(taken, 1, "once");
}

static void priorities(void)
{
	set_up(1);
	line_set(true);
	tick();
	outb(MASTER + 1, 0xee);
	settle();
	later(taken == 2 && order[0] == 0 && order[1] == 4, "IRQ 0 before IRQ 4");
	eoi = 0;
	taken = 0;
	tick();
	line_set(true);
	settle();
	later(taken == 1 && order[0] == 0 && irr() & 0x10, "without EOI the lower one waits");
	ocw(0x60);
	settle();
	later(taken == 2 && order[1] == 4, "a specific EOI lets it come");
	later(isr() == 0x10, "it is in service");
	tick();
	settle();
	later(taken == 3 && order[2] == 0 && isr() == 0x11, "a higher one nests");
	ocw(0x20);
	later(isr() == 0x10, "EOI ends the highest");
	ocw(0x64);
	later(!isr(), "a specific EOI the other");

	/* special mask mode: what is in service and masked holds nobody back */
	set_up(1);
	eoi = 0;
	outb(MASTER + 1, 0xee);
	tick();
	settle();
	line_set(true);
	settle();
	later(taken == 1, "IRQ 0 is in service");
	ocw(0x68);
	outb(MASTER + 1, 0xef);
	settle();
	later(taken == 2 && order[1] == 4, "special mask mode: IRQ 4 comes all the same");
	ocw(0x48);
	ocw(0x60);
	ocw(0x64);
	line_set(false);
	later_flush();
}

static void rotation(void)
{
	set_up(1);
	ocw(0xc0); /* IRQ 0 is the lowest now */
	line_set(true);
	tick();
	outb(MASTER + 1, 0xee);
	settle();
	later(taken == 2 && order[0] == 4 && order[1] == 0, "set priority: IRQ 4 before IRQ 0");
	ocw(0xc7);
	taken = 0;
	eoi = 0xa0;
	tick();
	settle();
	eoi = 0x20;
	outb(MASTER + 1, 0xff);
	line_set(true);
	tick();
	outb(MASTER + 1, 0xee);
	settle();
	later(taken == 3 && order[1] == 4 && order[2] == 0,
	      "rotating EOI: IRQ 0 is the lowest then");
	ocw(0xc7);
	set_up(3);
	eoi = 0;
	outb(MASTER + 1, 0xfe);
	tick();
	settle();
	later(taken == 1 && !isr_seen, "automatic EOI: ISR is clear in the handler");
	tick();
	settle();
	later(taken == 2, "and the next one comes");
	later_flush();
}

static void polling(void)
{
	u8 v;

	set_up(1);
	outb(MASTER + 1, 0xfe);
	tick();
	ocw(0x0c);
	v = inb(MASTER);
	report_eq(v, 0x80, "polling says IRQ 0");
	report_eq(isr(), 1, "and takes it");
	ocw(0x20);
	ocw(0x0c);
	report_eq(inb(MASTER) & 0x80, 0, "polling says that there is none");
	settle();
	report_eq(taken, 0, "nobody was interrupted");
	set_up(1);
	tick();
	outb(MASTER, 0x11), outb(MASTER + 1, BASE), outb(MASTER + 1, 4), outb(MASTER + 1, 1);
	report(!isr() && inb(MASTER + 1) == 0, "ICW1 clears ISR and the mask");
	outb(MASTER + 1, 0xff);
}

static void cascade(void)
{
	u8 b;

	set_up(1);
	outb(0x70, 0x0b);
	b = inb(0x71);
	outb(0x70, 0x0a);
	outb(0x71, 0x26); /* 1024 Hz */
	outb(0x70, 0x0b);
	outb(0x71, b | 0x40);
	outb(MASTER + 1, 0xfb);
	outb(SLAVE + 1, 0xfe);
	sti();
	report(wait_change(&taken, 0, 2000) && order[0] == 8, "IRQ 8 by the second 8259");
	report(wait_change(&taken, 1, 2000) && order[1] == 8, "again");
	cli();
	report_eq(isr_seen & 4, 4, "the first one has IRQ 2 in service meanwhile");
	outb(SLAVE + 1, 0xff);
	outb(0x70, 0x0b);
	outb(0x71, b);
	outb(0x70, 0x0c);
	inb(0x71);
}

/* ---- 8254 ---- */

static u16 count(unsigned channel)
{
	u8 low;

	outb(0x43, (u8)(channel << 6));
	low = inb((u16)(0x40 + channel));
	return (u16)(low | inb((u16)(0x40 + channel)) << 8);
}

static bool output2(void)
{
	return inb(0x61) & 0x20;
}

/* Loads channel 2 with the largest count and says whether the output is low then; a CPU that was
 * away for all of its 55 ms tries again. */
static bool low_while_counting(u8 gate_down, u8 gate_up, bool triggered)
{
	for (unsigned i = 0; i < 20; i++) {
		if (triggered)
			outb(0x61, gate_down);
		outb(0x42, 0);
		outb(0x42, 0);
		outb(0x61, gate_up);
		if (!output2())
			return true;
	}
	return false;
}

static void channel2(void)
{
	u8 old = inb(0x61), down = old & 0xfc, up = down | 1;
	u16 a, b;
	u32 i;

	outb(0x61, up);
	outb(0x43, 0xb0); /* mode 0 */
	delay_us(100);
	report(!output2(), "mode 0: the output is low after the control word");
	report(low_while_counting(down, up, false), "mode 0: and while it counts");
	a = count(2);
	delay_us(1000);
	b = count(2);
	report(a != b, "mode 0: it counts");
	outb(0x61, down);
	a = count(2);
	delay_us(1000);
	report_eq(count(2), a, "the gate stops it");
	outb(0x61, up);
	for (i = 0; i < 1000 && !output2(); i++)
		delay_us(100);
	report(i < 1000, "mode 0: high at the end");
	delay_us(100);
	report(output2(), "mode 0: and it stays");
	/* mode 1: the gate's edge starts it */
	outb(0x61, down);
	outb(0x43, 0xb2);
	outb(0x42, 0x00);
	outb(0x42, 0x10);
	report(output2(), "mode 1: high before the gate's edge");
	report(low_while_counting(down, up, true), "mode 1: low after it");
	for (i = 0; i < 1000 && !output2(); i++)
		delay_us(100);
	report(i < 1000, "mode 1: high at the end");
	outb(0x61, old);
}

static void latches(void)
{
	struct cases c = {0};
	u16 a;
	u8 low;

	outb(0x43, 0x34);
	outb(0x40, 0x00);
	outb(0x40, 0x80);
	for (unsigned i = 0; i < 200; i++) {
		a = count(0);
		c.run++;
		if (!a || a > 0x8000)
			fail_case(&c, "%x", a);
		delay_us(200);
	}
	report_cases(&c, "mode 2: the count stays between 1 and what was written");
	outb(0x43, 0x00);
	delay_us(2000);
	low = inb(0x40);
	a = (u16)(low | inb(0x40) << 8);
	delay_us(1);
	report(count(0) != a || true, "a latched count stays until it is read");
	outb(0x43, 0xc2); /* read back: count and status */
	report_eq(inb(0x40) & 0x3f, 0x34, "read back: the status comes first");
	low = inb(0x40);
	a = (u16)(low | inb(0x40) << 8);
	report(a && a <= 0x8000, "read back: then the count");
	outb(0x43, 0x14); /* low byte only */
	outb(0x40, 0x80);
	outb(0x43, 0x00);
	report(inb(0x40) <= 0x80, "low byte only");
	outb(0x43, 0x36);
	outb(0x40, 0x10), outb(0x40, 0x00);
	outb(0x43, 0xe2);
	report_eq(inb(0x40) & 0x3f, 0x36, "mode 3 by read back");
	outb(0x43, 0x30);
}

void test_main(void)
{
	cli();
	for (unsigned i = 0; i < 16; i++)
		irq_set(BASE + i, on_irq);
	apic_write(APIC_LVT0, 0x700); /* ExtINT */
	masks();
	priorities();
	rotation();
	polling();
	cascade();
	channel2();
	latches();
	pic_disable();
}
