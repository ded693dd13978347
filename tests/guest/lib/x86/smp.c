/* Starting the other CPUs, and giving them work. Time by the PIT. */
#include "smp.h"

#include "apic.h"

#define TRAMPOLINE 0x10000ul

extern u8 ap_trampoline[], ap_trampoline_end[];
extern u8 cpu_blocks[CPUS_MAX][CPU_BLOCK];
void ap_main(void);

static volatile u32 alive = 1;

/* ---- time ---- */

/* Counts PIT channel 2 down from v; its output goes high at the end. */
static void pit_wait(u16 v)
{
	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0); /* channel 2, both bytes, mode 0 */
	outb(0x42, (u8)v);
	outb(0x42, (u8)(v >> 8));
	while (!(inb(0x61) & 0x20))
		pause();
}

static u32 div64(u64 v, u32 by)
{
	u32 hi = (u32)(v >> 32) % by, lo, rest;

	__asm__("divl %4" : "=a"(lo), "=d"(rest) : "a"((u32)v), "d"(hi), "rm"(by) : "cc");
	return lo;
}

u64 tsc_khz(void)
{
	static u64 khz;
	u64 best = ~0ull;

	if (khz)
		return khz;
	for (unsigned i = 0; i < 3; i++) {
		u64 t = rdtsc();

		pit_wait(11932); /* 10 ms */
		t = rdtsc() - t;
		if (t < best)
			best = t;
	}
	khz = div64(best, 10);
	return khz;
}

void delay_us(unsigned us)
{
	u64 end = rdtsc() + (u64)div64(tsc_khz(), 1000) * us;

	while (rdtsc() < end)
		pause();
}

u64 arch_ticks(void)
{
	return rdtsc();
}

bool wait_change(volatile u32 *p, u32 old, unsigned ms)
{
	u64 end = rdtsc() + tsc_khz() * ms;

	while (*p == old) {
		if (rdtsc() > end)
			return *p != old;
		pause();
	}
	return true;
}

/* ---- work ---- */

static void on_wake(struct regs *r)
{
	apic_eoi();
}

static void idle(struct cpu *cpu)
{
	for (unsigned i = 0;; i++) {
		cli();
		if (cpu->busy) {
			cpu->work(cpu->work_arg);
			barrier();
			cpu->busy = false;
			i = 0;
		} else if (i < 2000) {
			pause();
		} else {
			__asm__ volatile("sti; hlt" ::: "memory");
			i = 0;
		}
	}
}

void ap_main(void)
{
	struct cpu *cpu = this_cpu();
	unsigned id = (unsigned)((ulong)cpu - (ulong)cpu_blocks) / CPU_BLOCK;

	cpu_init(cpu, id);
	apic_init();
	cpu->apic_id = apic_id();
	__atomic_fetch_add(&alive, 1, __ATOMIC_SEQ_CST);
	idle(cpu);
}

void smp_start(void)
{
	unsigned want = (unsigned)param("cpus", 1);

	if (cpu_count > 1)
		return;
	if (want > CPUS_MAX)
		want = CPUS_MAX;
	irq_set(VECTOR_WAKE, on_wake);
	if (want == 1)
		return;
	memcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	apic_icr(ICR_OTHERS | ICR_INIT | ICR_ASSERT, 0);
	delay_us(10000);
	apic_icr(ICR_OTHERS | ICR_SIPI | ICR_ASSERT | TRAMPOLINE >> 12, 0);
	delay_us(200);
	for (unsigned i = 0; i < 20000 && alive < want; i++)
		delay_us(1000);
	if (alive < want)
		die("%u of %u CPUs started", alive, want);
	cpu_count = want;
}

void smp_post(unsigned id, void (*fn)(void *), void *arg)
{
	struct cpu *cpu = cpus[id];

	if (!smp_wait(id))
		die("CPU %u hangs", id);
	cpu->work = fn;
	cpu->work_arg = arg;
	barrier();
	cpu->busy = true;
	__sync_synchronize();
	apic_icr(VECTOR_WAKE | ICR_ASSERT, cpu->apic_id);
}

bool smp_wait(unsigned id)
{
	u64 end = rdtsc() + tsc_khz() * 30000;

	while (cpus[id]->busy) {
		if (rdtsc() > end)
			return false;
		pause();
	}
	barrier();
	return true;
}

void smp_call(unsigned id, void (*fn)(void *), void *arg)
{
	if (id == this_cpu()->id) {
		fn(arg);
		return;
	}
	smp_post(id, fn, arg);
	if (!smp_wait(id))
		die("CPU %u hangs", id);
}

void smp_all(void (*fn)(void *), void *arg)
{
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, fn, arg);
	fn(arg);
	for (unsigned i = 1; i < cpu_count; i++)
		if (!smp_wait(i))
			die("CPU %u hangs", i);
}
