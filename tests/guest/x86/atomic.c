/*
 * LOCK on 1 to 4 CPUs, across cache lines and pages, and memory ordering by litmus tests.
 * Source: SDM "Locked Atomic Operations", "Memory Ordering": examples.
 */
#include "x86/paging.h"
#include "x86/smp.h"

#define ROUNDS 20000u

static u8 *mem;

static void add_word(void *p)
{
	for (u32 i = 0; i < ROUNDS; i++)
		__asm__ volatile("lock addl $1, (%0)" : : "r"(p) : "memory", "cc");
}
static void inc_byte_xadd(void *p)
{
	for (u32 i = 0; i < ROUNDS; i++) {
		u32 one = 1;

		__asm__ volatile("lock xaddl %0, (%1)" : "+r"(one) : "r"(p) : "memory", "cc");
	}
}
static void add_cmpxchg(void *p)
{
	for (u32 i = 0; i < ROUNDS; i++)
		__asm__ volatile("mov (%0), %%eax\n"
				 "1: lea 1(%%eax), %%ecx\n"
				 "lock cmpxchgl %%ecx, (%0)\n"
				 "jnz 1b" : : "r"(p) : "eax", "ecx", "memory", "cc");
}
static void add_cmpxchg8b(void *p)
{
	for (u32 i = 0; i < ROUNDS / 4; i++)
		__asm__ volatile("mov (%0), %%eax; mov 4(%0), %%edx\n"
				 "1: mov %%eax, %%ebx; mov %%edx, %%ecx\n"
				 "add $1, %%ebx; adc $1, %%ecx\n"
				 "lock cmpxchg8b (%0)\n"
				 "jnz 1b" : : "D"(p) : "eax", "ebx", "ecx", "edx", "memory", "cc");
}
#if IS64
static void add_cmpxchg16b(void *p)
{
	for (u32 i = 0; i < ROUNDS / 4; i++)
		__asm__ volatile("mov (%0), %%rax; mov 8(%0), %%rdx\n"
				 "1: mov %%rax, %%rbx; mov %%rdx, %%rcx\n"
				 "add $1, %%rbx; adc $1, %%rcx\n"
				 "lock cmpxchg16b (%0)\n"
				 "jnz 1b" : : "D"(p) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}
#endif
static u32 lock_word, guarded;
static void spin_lock(void *p)
{
	for (u32 i = 0; i < ROUNDS / 4; i++) {
		u32 v;

		do {
			v = 1;
			__asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(lock_word) : : "memory");
			if (v)
				pause();
		} while (v);
		guarded++;
		__asm__ volatile("movl $0, %0" : "=m"(lock_word) : : "memory");
	}
}
static void bits(void *p)
{
	unsigned id = this_cpu()->id;

	for (u32 i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock btcl %1, (%0)" : : "r"(p), "r"(id) : "memory", "cc");
	}
}

static void locked(void)
{
	u32 *p = (u32 *)mem, *line = (u32 *)(mem + 62), *page = (u32 *)(mem + 4094);

	*p = 0;
	smp_all(add_word, p);
	report_eq(*p, ROUNDS * cpu_count, "LOCK ADD");
	*p = 0;
	smp_all(inc_byte_xadd, p);
	report_eq(*p, ROUNDS * cpu_count, "LOCK XADD");
	*p = 0;
	smp_all(add_cmpxchg, p);
	report_eq(*p, ROUNDS * cpu_count, "LOCK CMPXCHG");
	memset(p, 0, 16);
	smp_all(add_cmpxchg8b, p);
	report(p[0] == ROUNDS / 4 * cpu_count && p[1] == p[0], "LOCK CMPXCHG8B");
#if IS64
	if (HAS(CX16)) {
		memset(p, 0, 16);
		smp_all(add_cmpxchg16b, p);
		report(((u64 *)p)[0] == ROUNDS / 4 * cpu_count && ((u64 *)p)[1] == p[0], "LOCK CMPXCHG16B");
		trap_clear();
		__asm__ volatile(TRY("cmpxchg16b 8(%0)") : : "r"(p), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc");
		report_eq(trap_vector(), EXC_GP, "CMPXCHG16B is aligned");
	}
#endif
	guarded = 0;
	smp_all(spin_lock, NULL);
	report_eq(guarded, ROUNDS / 4 * cpu_count, "a spin lock by XCHG");
	*p = 0;
	smp_all(bits, p);
	report_eq(*p, 0, "LOCK BTC");
	*line = 0;
	smp_all(add_word, line);
	report_eq(*line, ROUNDS * cpu_count, "LOCK ADD across cache lines");
	*page = 0;
	smp_all(add_word, page);
	report_eq(*page, ROUNDS * cpu_count, "LOCK ADD across pages");
	*page = 0;
	smp_all(add_cmpxchg, page);
	report_eq(*page, ROUNDS * cpu_count, "LOCK CMPXCHG across pages");
	{
		/* A fault on the second page leaves the first alone. */
		ulong va = va_alloc();
		volatile u32 *q = (u32 *)(va + 4094);

		map_page(va, (ulong)mem, PT_P | PT_W);
		mem[4094] = 0x55, mem[4095] = 0x66;
		trap_clear();
		__asm__ volatile(TRY("lock addl $1, (%0)") : : "r"(q) : "memory", "cc");
		report(trap_vector() == EXC_PF && trap_last()->cr2 == va + 4096, "across pages: the second is not there");
		report(mem[4094] == 0x55 && mem[4095] == 0x66, "nothing was written");
		trap_clear();
		__asm__ volatile(TRY("movl $-1, (%0)") : : "r"(q) : "memory", "cc");
		report(trap_vector() == EXC_PF && mem[4094] == 0x55, "nor by a plain store");
	}
}

/* ---- litmus ---- */

static volatile u32 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u32 r[4] __attribute__((aligned(64)));
static volatile u32 gate_a, gate_b;

struct litmus {
	unsigned rounds;
	void (*body[2])(void);
};

static void sb0(void) { __asm__ volatile("movl $1, %1; movl %2, %%eax; movl %%eax, %0" : "=m"(r[0]), "=m"(x) : "m"(y) : "eax", "memory"); }
static void sb1(void) { __asm__ volatile("movl $1, %1; movl %2, %%eax; movl %%eax, %0" : "=m"(r[1]), "=m"(y) : "m"(x) : "eax", "memory"); }
static void sbf0(void) { __asm__ volatile("movl $1, %1; mfence; movl %2, %%eax; movl %%eax, %0" : "=m"(r[0]), "=m"(x) : "m"(y) : "eax", "memory"); }
static void sbf1(void) { __asm__ volatile("movl $1, %1; mfence; movl %2, %%eax; movl %%eax, %0" : "=m"(r[1]), "=m"(y) : "m"(x) : "eax", "memory"); }
static void sbx0(void) { __asm__ volatile("movl $1, %%eax; xchgl %%eax, %1; movl %2, %%eax; movl %%eax, %0" : "=m"(r[0]), "+m"(x) : "m"(y) : "eax", "memory"); }
static void sbx1(void) { __asm__ volatile("movl $1, %%eax; xchgl %%eax, %1; movl %2, %%eax; movl %%eax, %0" : "=m"(r[1]), "+m"(y) : "m"(x) : "eax", "memory"); }
static void mp0(void) { __asm__ volatile("movl $1, %0; movl $1, %1" : "=m"(x), "=m"(y) : : "memory"); }
static void mp1(void) { __asm__ volatile("movl %2, %%eax; movl %3, %%ecx; movl %%eax, %0; movl %%ecx, %1" : "=m"(r[0]), "=m"(r[1]) : "m"(y), "m"(x) : "eax", "ecx", "memory"); }
static void lb0(void) { __asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0" : "=m"(r[0]) : "m"(x), "m"(y) : "eax", "memory"); }
static void lb1(void) { __asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0" : "=m"(r[1]) : "m"(y), "m"(x) : "eax", "memory"); }

static void partner(void *arg)
{
	struct litmus *l = arg;

	for (u32 i = 1; i <= l->rounds; i++) {
		while (gate_a != i)
			barrier();
		l->body[1]();
		gate_b = i;
	}
}

static unsigned seen[4];

static void litmus(void (*a)(void), void (*b)(void))
{
	struct litmus l = {3000, {a, b}};

	memset(seen, 0, sizeof(seen));
	gate_a = gate_b = 0;
	smp_post(1, partner, &l);
	for (u32 i = 1; i <= l.rounds; i++) {
		x = y = 0;
		r[0] = r[1] = 0;
		__sync_synchronize();
		gate_a = i;
		a();
		while (gate_b != i)
			barrier();
		seen[(r[0] & 1) * 2 + (r[1] & 1)]++;
	}
	smp_wait(1);
}

static void ordering(void)
{
	if (cpu_count < 2)
		return;
	litmus(sb0, sb1);
	note("store buffering: %u %u %u %u (0/0 is allowed)", seen[0], seen[1], seen[2], seen[3]);
	litmus(sbf0, sbf1);
	report_eq(seen[0], 0, "store buffering with MFENCE");
	litmus(sbx0, sbx1);
	report_eq(seen[0], 0, "store buffering with XCHG");
	litmus(mp0, mp1);
	report_eq(seen[2], 0, "stores are seen in order");
	litmus(lb0, lb1);
	report_eq(seen[3], 0, "loads are not passed by later stores");
}

void test_main(void)
{
	mem = pages_alloc(2);
	smp_start();
	locked();
	ordering();
}
