/* The runtime itself: a test that fails here makes every other one doubtful. */
#include "x86/paging.h"
#include "x86/smp.h"
#include "x86/apic.h"

static void nothing(void *arg)
{
}

static void divide(void *arg)
{
	__asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx", "cc");
}

static void privileged(void *arg)
{
	__asm__ volatile("hlt");
}

static void count(void *arg)
{
	__atomic_fetch_add((u32 *)arg, 1, __ATOMIC_SEQ_CST);
}

static void test_format(void)
{
	char buf[80];

	snprintf(buf, sizeof(buf), "%d %5u|%-4x|%08llx %s %lld %c%%", -42, 7u, 0xabu,
		 0x123456789ull, "text", -10000000000ll, 'z');
	report(!strncmp(buf, "-42     7|ab  |123456789 text -10000000000 z%", 80), "printf: %s",
	       buf);
}

void test_main(void)
{
	u32 n = 0;
	ulong va = va_alloc();
	u32 v = 0;

	test_format();
	note("command line: %s", cmdline);
	report(this_cpu() == cpus[0], "per-CPU block");
	report_eq(trap_guard(nothing, NULL), -1, "guard without an exception");
	report_eq(trap_guard(divide, NULL), EXC_DE, "guard catches a division by zero");
	trap_clear();
	__asm__ volatile(TRY("mov (%1), %0") : "+r"(v) : "r"(va) : "memory");
	report(trap_vector() == EXC_PF && trap_last()->cr2 == va && !trap_last()->error,
	       "fix-up of a page fault");
	map_page(va, (ulong)page_alloc(), PT_P | PT_W);
	*(volatile u32 *)va = 5;
	report_eq(*(volatile u32 *)va, 5, "mapped page");
	user_map();
	if (!report_eq((u64)(s64)trap_user(nothing, NULL), ~0ull, "privilege level 3"))
		note("vector %d error %x ip %lx cr2 %lx cs %lx", trap_vector(), trap_last()->error,
		     trap_last()->ip, trap_last()->cr2, trap_last()->cs);
	report_eq(trap_user(privileged, NULL), EXC_GP, "a fault at privilege level 3");
	report(trap_last()->cs == (SEL_UCODE | 3), "its CS");
	smp_start();
	smp_all(count, &n);
	report_eq(n, cpu_count, "all of %u CPUs run", cpu_count);
	for (unsigned i = 0; i < cpu_count; i++)
		smp_call(i, count, &n);
	report_eq(n, 2 * cpu_count, "one after the other");
	note("TSC %llu kHz", (unsigned long long)tsc_khz());
}
