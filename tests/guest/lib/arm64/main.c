/* Console (PL011), exit (semihosting), exceptions, other CPUs by PSCI. */
#include "arm64.h"

#define UART 0x09000000ul

struct trap trap_last;
bool trap_expected;
unsigned cpu_count = 1;

static struct {
	void (*volatile work)(void *);
	void *volatile arg;
	volatile bool alive, busy;
} cpus[CPUS_MAX];
static u8 stacks[CPUS_MAX][16384] __attribute__((aligned(16)));

void cpu_start(u64 dtb);
void secondary_main(void);
void trap_handle(unsigned index, struct regs *r);
void secondary_entry(void);

void arch_puts(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		while (*(volatile u32 *)(UART + 0x18) & 0x20)
			;
		*(volatile u32 *)UART = (u8)text[i];
	}
}

void arch_exit(unsigned status)
{
	static u64 block[2];
	register u64 x0 __asm__("x0") = 0x20; /* SYS_EXIT_EXTENDED */
	register void *x1 __asm__("x1") = block;

	block[0] = 0x20026; /* ADP_Stopped_ApplicationExit */
	block[1] = status;
	__asm__ volatile("hlt #0xf000" : "+r"(x0) : "r"(x1) : "memory");
	psci(0x84000008, 0, 0, 0);
	for (;;)
		__asm__ volatile("wfi");
}

u64 arch_ticks(void)
{
	return sys_read(cntvct_el0);
}

long psci(u64 fn, u64 a, u64 b, u64 c)
{
	register u64 x0 __asm__("x0") = fn;
	register u64 x1 __asm__("x1") = a;
	register u64 x2 __asm__("x2") = b;
	register u64 x3 __asm__("x3") = c;

	__asm__ volatile("hvc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3) : "memory");
	return (long)x0;
}

void trap_handle(unsigned index, struct regs *r)
{
	trap_last = (struct trap){true, (u32)(sys_read(esr_el1) >> 26), sys_read(esr_el1),
				  sys_read(far_el1), r->pc};
	if (!trap_expected || (index & 3))
		die("unexpected exception %u: esr %lx far %lx pc %lx", index, (ulong)trap_last.esr,
		    (ulong)trap_last.far, (ulong)r->pc);
	if (trap_last.class != 0x15) /* SVC returns behind itself */
		r->pc += 4;
}

bool trap_try(void (*fn)(void *), void *arg)
{
	trap_last.taken = false;
	trap_expected = true;
	barrier();
	fn(arg);
	barrier();
	trap_expected = false;
	return trap_last.taken;
}

void secondary_main(void)
{
	unsigned id = (unsigned)(sys_read(mpidr_el1) & 0xff);

	__atomic_store_n(&cpus[id].alive, true, __ATOMIC_SEQ_CST);
	for (;;) {
		if (!__atomic_load_n(&cpus[id].busy, __ATOMIC_ACQUIRE)) {
			__asm__ volatile("yield");
			continue;
		}
		cpus[id].work(cpus[id].arg);
		__atomic_store_n(&cpus[id].busy, false, __ATOMIC_RELEASE);
	}
}

void smp_start(void)
{
	unsigned want = (unsigned)param("cpus", 1);

	for (unsigned i = 1; i < want && i < CPUS_MAX; i++) {
		long r = psci(0xc4000003, i, (u64)secondary_entry,
			      (u64)stacks[i + 0] + sizeof(stacks[0]));

		if (r)
			die("CPU_ON of CPU %u: %d", i, (int)r);
		while (!__atomic_load_n(&cpus[i].alive, __ATOMIC_SEQ_CST))
			__asm__ volatile("yield");
		cpu_count = i + 1;
	}
}

static void post(unsigned id, void (*fn)(void *), void *arg)
{
	cpus[id].work = fn;
	cpus[id].arg = arg;
	__atomic_store_n(&cpus[id].busy, true, __ATOMIC_RELEASE);
}

static void wait(unsigned id)
{
	while (__atomic_load_n(&cpus[id].busy, __ATOMIC_ACQUIRE))
		__asm__ volatile("yield");
}

void smp_call(unsigned id, void (*fn)(void *), void *arg)
{
	if (!id) {
		fn(arg);
		return;
	}
	post(id, fn, arg);
	wait(id);
}

void smp_all(void (*fn)(void *), void *arg)
{
	for (unsigned i = 1; i < cpu_count; i++)
		post(i, fn, arg);
	fn(arg);
	for (unsigned i = 1; i < cpu_count; i++)
		wait(i);
}

/* The command line: /chosen bootargs in the device tree, found by its text. */
static void command_line(const u8 *dtb)
{
	u32 size = 0;

	if (dtb)
		size = (u32)dtb[4] << 24 | (u32)dtb[5] << 16 | (u32)dtb[6] << 8 | dtb[7];
	if (!dtb || dtb[0] != 0xd0 || dtb[1] != 0x0d || size > 0x200000)
		return;
	for (u32 i = 0; i + 5 < size; i++) {
		if (memcmp(dtb + i, "cpus=", 5))
			continue;
		for (u32 k = 0; dtb[i + k] && k + 1 < sizeof(cmdline); k++)
			cmdline[k] = (char)dtb[i + k];
		return;
	}
}

void cpu_start(u64 dtb)
{
	/* An ELF kernel gets no x0: QEMU puts the tree at the start of memory. */
	command_line((const u8 *)0x40000000ul);
	test_main();
	report_done();
}
