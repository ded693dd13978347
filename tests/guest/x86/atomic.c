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
				 "jnz 1b"
				 :
				 : "r"(p)
				 : "eax", "ecx", "memory", "cc");
}
static void add_cmpxchg8b(void *p)
{
	for (u32 i = 0; i < ROUNDS / 4; i++)
		__asm__ volatile("mov (%0), %%eax; mov 4(%0), %%edx\n"
				 "1: mov %%eax, %%ebx; mov %%edx, %%ecx\n"
				 "add $1, %%ebx; adc $1, %%ecx\n"
				 "lock cmpxchg8b (%0)\n"
				 "jnz 1b"
				 :
				 : "D"(p)
				 : "eax", "ebx", "ecx", "edx", "memory", "cc");
}
#if IS64
static void add_cmpxchg16b(void *p)
{
	for (u32 i = 0; i < ROUNDS / 4; i++)
		__asm__ volatile("mov (%0), %%rax; mov 8(%0), %%rdx\n"
				 "1: mov %%rax, %%rbx; mov %%rdx, %%rcx\n"
				 "add $1, %%rbx; adc $1, %%rcx\n"
				 "lock cmpxchg16b (%0)\n"
				 "jnz 1b"
				 :
				 : "D"(p)
				 : "rax", "rbx", "rcx", "rdx", "memory", "cc");
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
		report(((u64 *)p)[0] == ROUNDS / 4 * cpu_count && ((u64 *)p)[1] == p[0],
		       "LOCK CMPXCHG16B");
		trap_clear();
		__asm__ volatile(TRY("cmpxchg16b 8(%0)")
				 :
				 : "r"(p), "a"(0), "b"(0), "c"(0), "d"(0)
				 : "memory", "cc");
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
		report(trap_vector() == EXC_PF && trap_last()->cr2 == va + 4096,
		       "across pages: the second is not there");
		report(mem[4094] == 0x55 && mem[4095] == 0x66, "nothing was written");
		trap_clear();
		__asm__ volatile(TRY("movl $-1, (%0)") : : "r"(q) : "memory", "cc");
		report(trap_vector() == EXC_PF && mem[4094] == 0x55, "nor by a plain store");
	}
}

/* ---- litmus ---- */

static volatile u32 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u32 r[4] __attribute__((aligned(64)));
static volatile u32 gate_a, gate_b, over;

#define LITMUS_MS 1000 /* hosts with fewer processors than we have CPUs need patience */

struct litmus {
	unsigned rounds;
	void (*body[2])(void);
};

static void sb0(void)
{
	__asm__ volatile("movl $1, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "=m"(x)
			 : "m"(y)
			 : "eax", "memory");
}
static void sb1(void)
{
	__asm__ volatile("movl $1, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[1]), "=m"(y)
			 : "m"(x)
			 : "eax", "memory");
}
static void sbf0(void)
{
	__asm__ volatile("movl $1, %1; mfence; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "=m"(x)
			 : "m"(y)
			 : "eax", "memory");
}
static void sbf1(void)
{
	__asm__ volatile("movl $1, %1; mfence; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[1]), "=m"(y)
			 : "m"(x)
			 : "eax", "memory");
}
static void sbx0(void)
{
	__asm__ volatile("movl $1, %%eax; xchgl %%eax, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "+m"(x)
			 : "m"(y)
			 : "eax", "memory");
}
static void sbx1(void)
{
	__asm__ volatile("movl $1, %%eax; xchgl %%eax, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[1]), "+m"(y)
			 : "m"(x)
			 : "eax", "memory");
}
static void mp0(void)
{
	__asm__ volatile("movl $1, %0; movl $1, %1" : "=m"(x), "=m"(y) : : "memory");
}
static void mp1(void)
{
	__asm__ volatile("movl %2, %%eax; movl %3, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[0]), "=m"(r[1])
			 : "m"(y), "m"(x)
			 : "eax", "ecx", "memory");
}
static void lb0(void)
{
	__asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0"
			 : "=m"(r[0])
			 : "m"(x), "m"(y)
			 : "eax", "memory");
}
static void lb1(void)
{
	__asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0"
			 : "=m"(r[1])
			 : "m"(y), "m"(x)
			 : "eax", "memory");
}

static void partner(void *arg)
{
	struct litmus *l = arg;

	for (u32 i = 1; i <= l->rounds; i++) {
		while (gate_a != i && !over)
			pause();
		if (over)
			return;
		l->body[1]();
		gate_b = i;
	}
}

static unsigned seen[4];

static void litmus(void (*a)(void), void (*b)(void))
{
	struct litmus l = {3000, {a, b}};
	u64 end = rdtsc() + tsc_khz() * LITMUS_MS;

	memset(seen, 0, sizeof(seen));
	gate_a = gate_b = over = 0;
	smp_post(1, partner, &l);
	for (u32 i = 1; i <= l.rounds && rdtsc() < end; i++) {
		x = y = 0;
		r[0] = r[1] = 0;
		__sync_synchronize();
		gate_a = i;
		a();
		while (gate_b != i)
			pause();
		seen[(r[0] & 1) * 2 + (r[1] & 1)]++;
	}
	over = 1;
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

/* ---- litmus on three and four CPUs: each body is one CPU's program, run at the same time ---- */

static volatile u32 turn, arrived;
static void (*volatile programs[4])(void);

#define ROUNDS_N 1500u /* as many as fit into the time */

static void party(void *arg)
{
	unsigned id = this_cpu()->id;

	for (u32 i = 1; i <= ROUNDS_N; i++) {
		while (turn != i && !over)
			pause();
		if (over)
			return;
		if (programs[id])
			programs[id]();
		__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	}
}

static u32 out[8]; /* what was read, a copy */

/* Runs the programs; returns how often `bad` held. */
static unsigned run_n(unsigned n, void (*const p[])(void), bool (*bad)(void))
{
	u64 end = rdtsc() + tsc_khz() * LITMUS_MS;
	unsigned found = 0;

	turn = arrived = over = 0;
	for (unsigned i = 0; i < 4; i++)
		programs[i] = i < n ? p[i] : NULL;
	for (unsigned i = 1; i < n; i++)
		smp_post(i, party, NULL);
	for (u32 i = 1; i <= ROUNDS_N && rdtsc() < end; i++) {
		x = y = 0;
		for (unsigned k = 0; k < 4; k++)
			r[k] = 0;
		arrived = 0;
		__sync_synchronize();
		turn = i;
		programs[0]();
		while (arrived != n - 1)
			pause();
		for (unsigned k = 0; k < 4; k++)
			out[k] = r[k];
		found += bad();
	}
	over = 1;
	for (unsigned i = 1; i < n; i++)
		smp_wait(i);
	return found;
}

static void wx(void)
{
	__asm__ volatile("movl $1, %0" : "=m"(x) : : "memory");
}
static void wy(void)
{
	__asm__ volatile("movl $1, %0" : "=m"(y) : : "memory");
}
static void rxy(void)
{
	__asm__ volatile("movl %2, %%eax; movl %3, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[0]), "=m"(r[1])
			 : "m"(x), "m"(y)
			 : "eax", "ecx", "memory");
}
static void ryx(void)
{
	__asm__ volatile("movl %3, %%eax; movl %2, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[2]), "=m"(r[3])
			 : "m"(x), "m"(y)
			 : "eax", "ecx", "memory");
}
static void rx_wy(void)
{
	__asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0"
			 : "=m"(r[0])
			 : "m"(x), "m"(y)
			 : "eax", "memory");
}
static void ryx2(void)
{
	__asm__ volatile("movl %3, %%eax; movl %2, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[1]), "=m"(r[2])
			 : "m"(x), "m"(y)
			 : "eax", "ecx", "memory");
}
static void wx1y2(void)
{
	__asm__ volatile("movl $1, %0; movl $2, %1" : "=m"(x), "=m"(y) : : "memory");
}
static void wy1x2(void)
{
	__asm__ volatile("movl $1, %1; movl $2, %0" : "=m"(x), "=m"(y) : : "memory");
}
static void rx_twice(void)
{
	__asm__ volatile("movl %2, %%eax; movl %2, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[0]), "=m"(r[1])
			 : "m"(x)
			 : "eax", "ecx", "memory");
}
static void own_store(void)
{
	__asm__ volatile("movl $1, %1; movl %1, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "=m"(x)
			 :
			 : "eax", "memory");
}
static void xx(void)
{
	__asm__ volatile("movl $1, %%eax; xchgl %%eax, %0" : "+m"(x) : : "eax", "memory");
}
static void xy(void)
{
	__asm__ volatile("movl $1, %%eax; xchgl %%eax, %0" : "+m"(y) : : "eax", "memory");
}

static void wx_ry(void)
{
	__asm__ volatile("movl $1, %1; lock addl $0, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "+m"(x)
			 : "m"(y)
			 : "eax", "memory", "cc");
}
static void wy_rx(void)
{
	__asm__ volatile("movl $1, %1; lock addl $0, %1; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[1]), "+m"(y)
			 : "m"(x)
			 : "eax", "memory", "cc");
}
static void wx_wy1(void)
{
	__asm__ volatile("movl $1, %0; movl $1, %1" : "=m"(x), "=m"(y) : : "memory");
}
static void wy2_rx(void)
{
	__asm__ volatile("movl $2, %1; mfence; movl %2, %%eax; movl %%eax, %0"
			 : "=m"(r[0]), "=m"(y)
			 : "m"(x)
			 : "eax", "memory");
}
static void wx2_wy1(void)
{
	__asm__ volatile("movl $2, %0; movl $1, %1" : "=m"(x), "=m"(y) : : "memory");
}
static void ry_wx1(void)
{
	__asm__ volatile("movl %1, %%eax; movl $1, %2; movl %%eax, %0"
			 : "=m"(r[0])
			 : "m"(y), "m"(x)
			 : "eax", "memory");
}
static void nt_mp(void)
{
	__asm__ volatile("movnti %2, %0; sfence; movl $1, %1"
			 : "=m"(x), "=m"(y)
			 : "r"(1)
			 : "memory");
}
static void ry_rx(void)
{
	__asm__ volatile("movl %2, %%eax; movl %3, %%ecx; movl %%eax, %0; movl %%ecx, %1"
			 : "=m"(r[0]), "=m"(r[1])
			 : "m"(y), "m"(x)
			 : "eax", "ecx", "memory");
}
static void rep_mp(void)
{
	/* String stores become visible before the store behind them. */
	volatile u32 *to = &x;
	ulong n = 1;

	__asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(1) : "memory");
	y = 1;
}

static bool bad_sb(void)
{
	return !out[0] && !out[1];
}
static bool bad_r(void)
{
	return y == 2 && !out[0];
}
static bool bad_s(void)
{
	return out[0] && x == 2;
}
static bool bad_mp(void)
{
	return out[0] && !out[1];
}
static bool bad_iriw(void)
{
	return out[0] && !out[1] && out[2] && !out[3];
} /* x then y; y then x */
static bool bad_wrc(void)
{
	return out[0] && out[1] && !out[2];
}
static bool bad_2w2(void)
{
	return x == 1 && y == 1;
}
static bool bad_corr(void)
{
	return out[0] && !out[1];
}
static bool bad_own(void)
{
	return !out[0];
}

static void ordering_many(void)
{
	static void (*const w2[])(void) = {wx1y2, wy1x2}, (*const corr[])(void) = {wx, rx_twice},
			    (*const own[])(void) = {own_store, wx},
			    (*const sb[])(void) = {wx_ry, wy_rx},
			    (*const rr[])(void) = {wx_wy1, wy2_rx},
			    (*const ss[])(void) = {wx2_wy1, ry_wx1},
			    (*const nt[])(void) = {nt_mp, ry_rx},
			    (*const rep[])(void) = {rep_mp, ry_rx},
			    (*const wrc[])(void) = {wx, rx_wy, ryx2},
			    (*const iriw[])(void) = {wx, wy, rxy, ryx},
			    (*const iriw_locked[])(void) = {xx, xy, rxy, ryx};

	if (cpu_count < 2)
		return;
	report_eq(run_n(2, w2, bad_2w2), 0, "two writers of two words: one order");
	report_eq(run_n(2, corr, bad_corr), 0, "a word does not go back");
	report_eq(run_n(2, own, bad_own), 0, "a CPU sees its own store");
	report_eq(run_n(2, sb, bad_sb), 0, "store buffering with LOCK ADD");
	report_eq(run_n(2, rr, bad_r), 0,
		  "stores in order against a store and a load behind MFENCE (R)");
	report_eq(run_n(2, ss, bad_s), 0, "stores in order against a load and a later store (S)");
	report_eq(run_n(2, nt, bad_mp), 0, "MOVNTI and SFENCE before a store");
	report_eq(run_n(2, rep, bad_mp), 0, "REP STOS before a store");
	if (cpu_count < 3)
		return;
	report_eq(run_n(3, wrc, bad_wrc), 0, "what a CPU has seen and passed on is there (WRC)");
	if (cpu_count < 4)
		return;
	report_eq(run_n(4, iriw, bad_iriw), 0, "all CPUs see two stores in one order (IRIW)");
	report_eq(run_n(4, iriw_locked, bad_iriw), 0, "and two locked ones");
}

/* ---- split locks: every locked instruction across a line and across a page ---- */

static void split_forms(void)
{
	struct cases c = {0};

	for (unsigned at = 0; at < 2; at++) {
		u8 *p = mem + (at ? 4096 : 64);

		for (unsigned back = 1; back < 8; back++) {
			volatile u32 *q = (u32 *)(p - back);
			volatile u64 *w = (u64 *)(p - back);
			u32 eax, v;
			u8 z;

			*w = 0x1122334455667788;
			__asm__ volatile("lock addl $1, %0" : "+m"(*q) : : "cc");
			c.run++;
			if (*w != 0x1122334455667789)
				fail_case(&c, "LOCK ADD at -%u", back);
			v = 5;
			__asm__ volatile("lock xaddl %0, %1" : "+r"(v), "+m"(*q) : : "cc");
			if (v != 0x55667789 || *w != 0x112233445566778e)
				fail_case(&c, "LOCK XADD at -%u", back);
			v = 0x99;
			__asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(*q));
			if (v != 0x5566778e || *w != 0x1122334400000099)
				fail_case(&c, "XCHG at -%u", back);
			eax = 0x98;
			__asm__ volatile("lock cmpxchgl %3, %1; setz %2"
					 : "+a"(eax), "+m"(*q), "=q"(z)
					 : "r"(7)
					 : "cc");
			if (z || eax != 0x99 || *q != 0x99)
				fail_case(&c, "LOCK CMPXCHG of another value at -%u", back);
			__asm__ volatile("lock cmpxchgl %3, %1; setz %2"
					 : "+a"(eax), "+m"(*q), "=q"(z)
					 : "r"(7)
					 : "cc");
			if (!z || *q != 7)
				fail_case(&c, "LOCK CMPXCHG at -%u", back);
			__asm__ volatile("lock btsl $31, %0; setc %1" : "+m"(*q), "=q"(z) : : "cc");
			if (z || *q != 0x80000007)
				fail_case(&c, "LOCK BTS at -%u", back);
			__asm__ volatile("lock notl %0" : "+m"(*q));
			if (*q != 0x7ffffff8)
				fail_case(&c, "LOCK NOT at -%u", back);
			__asm__ volatile("lock negl %0" : "+m"(*q) : : "cc");
			if (*q != 0x80000008)
				fail_case(&c, "LOCK NEG at -%u", back);
			__asm__ volatile(
				"lock incl %0; lock decl %0; lock orl $1, %0; lock andl $9, %0; lock xorl $3, %0; lock subl $1, %0"
				: "+m"(*q)
				:
				: "cc");
			if (*q != 9)
				fail_case(&c, "LOCK INC, DEC, OR, AND, XOR, SUB at -%u: %x", back,
					  *q);
			*w = 0x1122334455667788;
			{
				u32 lo = 0x55667788, hi = 0x11223344;

				__asm__ volatile("lock cmpxchg8b %2; setz %3"
						 : "+a"(lo), "+d"(hi), "+m"(*w), "=q"(z)
						 : "b"(1), "c"(2)
						 : "cc");
				if (!z || *w != 0x200000001)
					fail_case(&c, "LOCK CMPXCHG8B at -%u", back);
			}
		}
	}
	report_cases(&c, "locked instructions across lines and pages");
}

void test_main(void)
{
	mem = pages_alloc(2);
	smp_start();
	locked();
	split_forms();
	ordering();
	ordering_many();
}
