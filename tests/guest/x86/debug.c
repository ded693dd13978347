/*
 * Debug: single step, breakpoints, watchpoints, RF, MOV SS, general detect, DR4/5, fixed bits.
 * Sources: SDM "Debug, Branch Profile, TSC ...": debug exceptions; "Masking Exceptions and
 * Interrupts When Switching Stacks".
 */
#include "x86/cpu.h"

#define DR6_BASE 0xffff0ff0u
#define DR6_BS	 0x4000u
#define DR6_BD	 0x2000u

static volatile unsigned count;
static ulong ips[32];
static ulong dr6s[32];
static bool set_rf = true;

static void on_debug(struct regs *r)
{
	if (r->vector != EXC_DB)
		return;
	if (count < 32) {
		ips[count] = r->ip;
		dr6s[count] = read_dr6();
	}
	count++;
	write_dr6(DR6_BASE);
	if (set_rf)
		r->flags |= FL_RF;
	if (count > 100)
		r->flags &= ~(ulong)FL_TF;
	this_cpu()->hooked = true;
}

static void begin(void)
{
	count = 0;
	write_dr6(DR6_BASE);
	this_cpu()->hook = on_debug;
}

#define SET_TF	 "pushf; orl $0x100, (%%" SP "); popf\n"
#define CLEAR_TF "pushf; andl $~0x100, (%%" SP "); popf\n"
#if IS64
#define SP  "rsp"
#define C   "rcx"
#define LEA "lea 1f(%%rip), %0; lea 2f(%%rip), %1; lea 3f(%%rip), %2\n"
#else
#define SP  "esp"
#define C   "ecx"
#define LEA "lea 1f, %0; lea 2f, %1; lea 3f, %2\n"
#endif

static void single_step(void)
{
	ulong a, b, c;

	begin();
	__asm__ volatile(LEA SET_TF "nop\n1: nop\n2: nop\n3:" CLEAR_TF
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "memory", "cc");
	report(count == 6 && ips[0] == a && ips[1] == b && ips[2] == c, "TF: a trap after each");
	if (count != 6)
		note("count %u: %lx %lx %lx", count, ips[0], ips[1], ips[2]);
	report((dr6s[0] & ~0xf0000ul) == (DR6_BASE | DR6_BS) - 0xf0000u ||
		       dr6s[0] == (DR6_BASE | DR6_BS),
	       "DR6.BS");
	begin();
	__asm__ volatile("mov %%ss, %%ecx\n" LEA SET_TF
			 "nop\n1: mov %%ecx, %%ss\n2: nop\n3:" CLEAR_TF
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "ecx", "memory", "cc");
	report(count == 5 && ips[0] == a && ips[1] == c, "TF: none between MOV SS and the next");
	begin();
	__asm__ volatile(LEA SET_TF "nop\n1: sti\n2: nop\n3:cli;" CLEAR_TF
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "memory", "cc");
	report(ips[0] == a && ips[1] == b && ips[2] == c, "TF: STI does not delay it");
	{
		static u8 buf[8];
		void *d = buf;
		const void *s = buf;
		ulong n = 4;

		begin();
		__asm__ volatile(LEA SET_TF "1: rep movsb\n2: nop\n3:" CLEAR_TF
				 : "=&r"(a), "=&r"(b), "=&r"(c), "+D"(d), "+S"(s), "+c"(n)
				 :
				 : "memory", "cc");
		report(ips[0] == a && ips[1] == a && ips[2] == a && ips[3] == b && ips[4] == c,
		       "TF: each iteration of REP MOVS");
	}
	begin();
	__asm__ volatile(LEA SET_TF "jmp 1f; ud2\n1: call 2f\n3: " CLEAR_TF "jmp 4f\n2: ret\n4:"
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "memory", "cc");
	report(ips[0] == a && ips[1] == b && ips[2] == c, "TF: jump, call, return");
	begin();
	__asm__ volatile(LEA SET_TF
			 "xor %%ecx, %%ecx; cpuid\n1: rdtsc\n2: in $0x80, %%al\n3:" CLEAR_TF
			 : "=&S"(a), "=&D"(b), "=&r"(c)
			 :
			 : "eax", "ebx", "ecx", "edx", "memory", "cc");
	report(ips[1] == a && ips[2] == b && ips[3] == c, "TF: CPUID, RDTSC, IN");
	begin();
	trap_clear();
	__asm__ volatile(LEA SET_TF "1:" TRY("ud2") "2: nop\n3:" CLEAR_TF
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "memory", "cc");
	report(count == 0, "TF: none for an instruction that faults");
	this_cpu()->hook = NULL;
}

static u32 target[4] __attribute__((aligned(16)));

static void breakpoints(void)
{
	ulong a, b, c;

	/* instruction */
	begin();
	__asm__ volatile(LEA "mov %0, %%dr0; mov $0x1, %%ecx; mov %%" C ", %%dr7\n"
			     "nop\n1: nop\n2: nop\n3: xor %%ecx, %%ecx; mov %%" C ", %%dr7"
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "ecx", "memory", "cc");
	report(count == 1 && ips[0] == a && (dr6s[0] & 0xf) == 1 && !(dr6s[0] & DR6_BS),
	       "instruction breakpoint, RF lets it pass");
	report(!(trap_last()->flags & FL_RF), "RF is clear in the pushed flags");
	trap_clear();
	this_cpu()->hook = NULL;
	__asm__ volatile(TRY("ud2"));
	report(trap_last()->flags & FL_RF, "RF is set in the pushed flags of a fault");

	/* RF is cleared by the instruction that it let pass: a loop is caught twice */
	begin();
	__asm__ volatile(LEA "mov %0, %%dr0; mov $0x1, %%ecx; mov %%" C ", %%dr7\n mov $3, %%ecx\n"
			     "1: dec %%ecx\n2: jnz 1b\n3: xor %%ecx, %%ecx; mov %%" C ", %%dr7"
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 :
			 : "ecx", "memory", "cc");
	report_eq(count, 3, "RF lasts one instruction");

	/* data */
	write_dr1((ulong)&target[1]);
	begin();
	write_dr7(0xd00004); /* L1, write, 4 bytes */
	target[1] = 5;
	barrier();
	__asm__ volatile("mov %0, %%eax" : : "m"(target[1]) : "eax");
	report(count == 1 && (dr6s[0] & 0xf) == 2, "write watchpoint: a write, not a read");
	begin();
	((volatile u8 *)target)[7] = 1;
	((volatile u8 *)target)[3] = 1;
	((volatile u8 *)target)[8] = 1;
	report_eq(count, 1, "byte at its end, not before and behind");
	begin();
	*(volatile u16 *)((u8 *)target + 3) = 1;
	report_eq(count, 1, "partial overlap");
	begin();
	write_dr7(0xf00004); /* read or write */
	__asm__ volatile("mov %0, %%eax" : : "m"(target[1]) : "eax");
	report_eq(count, 1, "read watchpoint");
	begin();
	__asm__ volatile(LEA "1: incl %3\n2: nop\n3:"
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 : "m"(target[1])
			 : "memory", "cc");
	report(count == 1 && ips[0] == b, "a trap: after the instruction");
	begin();
	__asm__ volatile("mov %%ss, %%ecx; mov %%ecx, %0" : "=m"(target[0]) : : "ecx");
	__asm__ volatile("mov %%ss, %%ecx; mov %%ecx, %0" : "=m"(target[1]) : : "ecx");
	begin();
	__asm__ volatile(LEA "1: mov %3, %%ss\n2: nop\n3:"
			 : "=&r"(a), "=&r"(b), "=&r"(c)
			 : "m"(target[1])
			 : "memory", "cc");
	if (!report(count == 1 && ips[0] == c, "MOV SS delays a data breakpoint"))
		note("count %u at %lx %lx, labels %lx %lx %lx", count, ips[0], ips[1], a, b, c);
	{
		u32 n = 4;
		void *d = target;

		begin();
		__asm__ volatile(LEA "1: rep stosl\n2: nop\n3:"
				 : "=&r"(a), "=&r"(b), "=&r"(c), "+D"(d), "+c"(n)
				 : "a"(0)
				 : "memory", "cc");
		if (!report(count == 1 && ips[0] == a, "watchpoint inside REP STOS"))
			note("count %u at %lx %lx, labels %lx %lx %lx", count, ips[0], ips[1], a, b,
			     c);
	}
	write_dr7(0);
#if IS64
	write_dr1((ulong)&target[0]);
	write_dr7(0x900004); /* write, 8 bytes */
	begin();
	target[1] = 3;
	barrier();
	report_eq(count, 1, "8-byte watchpoint");
	write_dr7(0);
#endif
	/* I/O */
	write_cr4(read_cr4() | CR4_DE);
	write_dr2(0x80);
	write_dr7(0x2000010 | 0); /* L2, I/O, 1 byte */
	begin();
	outb(0x80, 0);
	inb(0x80);
	outb(0x61, inb(0x61));
	report(count == 2 && (dr6s[0] & 0xf) == 4, "I/O breakpoint");
	write_dr7(0);
	write_cr4(read_cr4() & ~(ulong)CR4_DE);
	/* not enabled, but hit together with an enabled one: only what matters is required */
	begin();
	target[1] = 1;
	report_eq(count, 0, "none enabled");
	this_cpu()->hook = NULL;
}

static void registers(void)
{
	ulong v;

	write_dr7(0);
	report_eq(read_dr7(), 0x400, "DR7 bit 10 is fixed");
	write_dr6(0);
	report_eq(read_dr6(), DR6_BASE, "DR6's fixed bits");
	write_dr6(DR6_BASE | 0xe00f);
	report_eq(read_dr6(), DR6_BASE | 0xe00f, "DR6 is written");
	write_dr6(DR6_BASE);
	write_cr4(read_cr4() & ~(ulong)CR4_DE);
	write_dr3(0x1234);
	report_eq(read_dr3(), 0x1234, "DR3");
	trap_clear();
	__asm__ volatile(TRY("mov %%dr4, %0") : "=r"(v));
	report(trap_vector() == -1 && v == read_dr6(), "DR4 is DR6");
	__asm__ volatile(TRY("mov %%dr5, %0") : "=r"(v));
	report(trap_vector() == -1 && v == read_dr7(), "DR5 is DR7");
	write_cr4(read_cr4() | CR4_DE);
	trap_clear();
	__asm__ volatile(TRY("mov %%dr4, %0") : "=r"(v));
	report_eq(trap_vector(), EXC_UD, "DR4 with CR4.DE");
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%dr5") : : "r"(v));
	report_eq(trap_vector(), EXC_UD, "DR5 with CR4.DE");
	write_cr4(read_cr4() & ~(ulong)CR4_DE);
#if IS64
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%dr7") : : "r"(1ul << 32));
	report_eq(trap_vector(), EXC_GP, "DR7 bit 32");
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%dr6") : : "r"(1ul << 32));
	report_eq(trap_vector(), EXC_GP, "DR6 bit 32");
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%dr0") : : "r"(0x123456789abcul));
	report(trap_vector() == -1 && read_dr0() == 0x123456789abc, "DR0 is 64 bits wide");
#endif
	/* general detect */
	write_dr7(0x2000);
	trap_clear();
	__asm__ volatile(TRY("mov %%dr0, %0") : "=r"(v));
	report(trap_vector() == EXC_DB && (trap_last()->dr6 & DR6_BD), "general detect");
	report_eq(read_dr7(), 0x400, "and clears DR7.GD");
	write_dr6(DR6_BASE);
}

void test_main(void)
{
	registers();
	single_step();
	breakpoints();
}
