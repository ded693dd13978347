/*
 * Self- and cross-modifying code: through the same address, another address, ahead in the same
 * block, across pages, by string instructions, by another CPU, after a remap.
 * Source: SDM "Handling Self- and Cross-Modifying Code".
 */
#include "x86/paging.h"
#include "x86/smp.h"

typedef u32 fn(void);
static u8 *code;

/* mov $v, %eax; ret */
static void put(u8 *at, u32 v)
{
	at[0] = 0xb8;
	memcpy(at + 1, &v, 4);
	at[5] = 0xc3;
}

static u32 call(const void *at)
{
	u32 v;

	barrier();
	v = ((fn *)(ulong)at)();
	barrier();
	return v;
}

static void basic(void)
{
	struct cases c = {0};

	put(code, 1);
	report_eq(call(code), 1, "new code");
	for (u32 i = 0; i < 1000; i++) {
		*(volatile u32 *)(code + 1) = i;
		c.run++;
		if (call(code) != i)
			fail_case(&c, "round %u: %u", i, call(code));
	}
	report_cases(&c, "an immediate that changes, 1000 times");
	*(volatile u8 *)(code + 1) = 0x99;
	report_eq(call(code) & 0xff, 0x99, "one byte");
	put(code + 4094, 7); /* across a page */
	report_eq(call(code + 4094), 7, "across pages");
	*(volatile u8 *)(code + 4097) = 1;
	report_eq(call(code + 4094), 0x10007, "changed on the second page");
	*(volatile u8 *)(code + 4095) = 2;
	report_eq(call(code + 4094), 0x10002, "changed on the first page");
	{
		u8 image[6];
		void *to = code;
		const void *from = image;
		ulong n = 6;

		put(image, 0x1234);
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
		report_eq(call(code), 0x1234, "REP MOVS");
		to = code + 1, n = 4;
		__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x22) : "memory");
		report_eq(call(code), 0x22222222, "REP STOS");
		__asm__ volatile("lock addl $1, (%0)" : : "r"(code + 1) : "memory", "cc");
		report_eq(call(code), 0x22222223, "LOCK ADD");
		*(volatile u32 *)(code + 1) = 5;
		__asm__ volatile("mov $9, %%eax; xchg %%eax, (%0)"
				 :
				 : "r"(code + 1)
				 : "eax", "memory");
		report_eq(call(code), 9, "XCHG");
		__asm__ volatile(
			"mov %%"
#if IS64
			"rsp, %%rdx; lea 5(%0), %%rsp; mov (%%rsp), %%al; lea -3(%%rsp), %%rsp; push $0x123; mov %%rdx, %%rsp"
#else
			"esp, %%edx; lea 5(%0), %%esp; push $0x123; mov %%edx, %%esp"
#endif
			:
			: "r"(code)
			: "eax", "edx", "memory");
	}
	put(code, 0);
}

/* An instruction changes the one right behind it: seen at once. */
static void ahead(void)
{
	/* movb $imm, off(code); mov $0, %eax; ret : written to `code` with ECX/RCX = address */
	u32 v;
	/* mov %cl, 7(%rdx)  [88 4a 04]; nop; mov $0x11, %eax; ret */
	static const u8 text[] = {0x88, 0x4a, 0x04, 0xb8, 0x11, 0, 0, 0, 0xc3};
	struct cases c = {0};

	memcpy(code, text, sizeof(text));
	for (u32 i = 0; i < 100; i++) {
		__asm__ volatile("call *%1" : "=a"(v) : "r"(code), "c"(i), "d"(code) : "memory");
		c.run++;
		if (v != i)
			fail_case(&c, "wrote %u, executed %u", i, v);
	}
	report_cases(&c, "the next instruction");
	{
		/* rep stosb over the following instruction */
		static const u8 rep[] = {0xf3, 0xaa, 0xb8, 0x11, 0x11, 0x11, 0x11, 0xc3};
		void *to;
		ulong n;

		memcpy(code, rep, sizeof(rep));
		to = code + 3, n = 4;
		__asm__ volatile("call *%3" : "+a"(v), "+D"(to), "+c"(n) : "r"(code) : "memory");
		v = 0x44;
		to = code + 3, n = 4;
		__asm__ volatile("call *%3" : "+a"(v), "+D"(to), "+c"(n) : "r"(code) : "memory");
		report_eq(v, 0x44444444, "REP STOS over the next instruction");
	}
	{
		/* a loop that counts its own immediate up */
		static const u8 loop[] = {0xb8, 0,    0,    0, 0, /* mov $0, %eax */
					  0xff, 0x42, 0x01,	  /* incl 1(%rdx) */
					  0x49,			  /* dec %ecx: patched in 64-bit */
					  0x75, 0xf5, 0xc3};
#if IS64
		static const u8 loop64[] = {0xb8, 0,	0,    0,    0,	  0xff, 0x42,
					    0x01, 0xff, 0xc9, 0x75, 0xf4, 0xc3};

		memcpy(code, loop64, sizeof(loop64));
		(void)loop;
#else
		memcpy(code, loop, sizeof(loop));
#endif
		__asm__ volatile("call *%1"
				 : "=a"(v)
				 : "r"(code), "d"(code), "c"(50)
				 : "memory", "cc");
		report_eq(v, 49, "a loop that changes itself");
	}
}

static void alias(void)
{
	ulong va = va_alloc();
	u8 *other = pages_alloc(1);

	put(code, 1);
	put(other, 2);
	map_page(va, (ulong)code, PT_P | PT_W);
	report_eq(call((void *)va), 1, "another address");
	*(volatile u32 *)(code + 1) = 3;
	report_eq(call((void *)va), 3, "changed through the first");
	*(volatile u32 *)(va + 1) = 4;
	report_eq(call(code), 4, "changed through the other");
	map_page(va, (ulong)other, PT_P | PT_W);
	report_eq(call((void *)va), 2, "remapped");
	map_page(va, (ulong)code, PT_P | PT_W);
	report_eq(call((void *)va), 4, "and back");
	map_page(va, 0, 0);
	report_eq(trap_guard((void (*)(void *))va, NULL), EXC_PF, "unmapped code faults");
#if IS64
	if (HAS(NX)) {
		map_page(va, (ulong)code, PT_P | PT_W | PT_NX);
		report_eq(trap_guard((void (*)(void *))va, NULL), EXC_PF, "NX");
		report_eq(trap_last()->error, PF_P | PF_I, "its error code");
	}
#endif
	/* bytes behind the code in the same page are data */
	{
		struct cases c = {0};

		put(code, 6);
		for (u32 i = 0; i < 3000; i++) {
			*(volatile u32 *)(code + 64 + (i & 31) * 4) = i;
			c.run++;
			if (call(code) != 6)
				fail_case(&c, "round %u", i);
		}
		report_cases(&c, "data beside code");
	}
}

/* ---- cross-modifying ---- */

static volatile u32 go, done;

static void run_changed(void *arg)
{
	struct cases *c = arg;

	for (u32 i = 1; i <= 500; i++) {
		while (go != i)
			pause();
		cpuid(0, 0); /* serialize */
		c->run++;
		if (call(code) != i)
			fail_case(c, "round %u: %u", i, call(code));
		done = i;
	}
}

static volatile bool stop;
static void spin_call(void *arg)
{
	u32 *bad = arg;

	while (!stop) {
		u32 v = call(code);

		if (v != 0x11111111 && v != 0x22222222)
			__atomic_fetch_add(bad, 1, __ATOMIC_SEQ_CST);
	}
}

static void cross(void)
{
	struct cases c = {0};
	u32 bad = 0;

	if (cpu_count < 2)
		return;
	put(code, 0);
	go = done = 0;
	smp_post(1, run_changed, &c);
	for (u32 i = 1; i <= 500; i++) {
		*(volatile u32 *)(code + 1) = i;
		go = i;
		while (done != i)
			pause();
	}
	smp_wait(1);
	report_cases(&c, "code changed by another CPU");

	/* An aligned immediate changes while others run it: old or new, nothing else. */
	put(code + 3, 0x11111111);
	code += 3;
	stop = false;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_post(i, spin_call, &bad);
	for (u32 i = 0; i < 3000; i++)
		*(volatile u32 *)(code + 1) = i & 1 ? 0x11111111 : 0x22222222;
	stop = true;
	for (unsigned i = 1; i < cpu_count; i++)
		smp_wait(i);
	code -= 3;
	report_eq(bad, 0, "an immediate changed under running CPUs");
}

void test_main(void)
{
	code = pages_alloc(2);
	smp_start();
	basic();
	ahead();
	alias();
	cross();
}
