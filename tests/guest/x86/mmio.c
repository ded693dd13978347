/*
 * Device memory through every form of instruction that the manuals allow. The device is the local
 * APIC's page (32-bit registers) and the I/O APIC's; strings to and from ports.
 * Source: SDM "Local APIC": register address map; string I/O instructions.
 */
#include "x86/apic.h"
#include "x86/paging.h"

#define TMICT  0xfee00380ul
#define LVTERR 0xfee00370ul

static u32 get(ulong a)
{
	return *(volatile u32 *)a;
}

#define LOAD(text, ...) \
	__asm__ volatile(text : "=a"(v) : "r"(LVTERR), ##__VA_ARGS__ : "ecx", "edx", "cc", "memory")

static void loads(void)
{
	ulong v = 0, t;

	*(volatile u32 *)LVTERR = LVT_MASKED | 0x5a;
	LOAD("mov (%1), %%eax");
	report_eq((u32)v, 0x1005a, "MOV load");
	LOAD("xor %%eax, %%eax; or (%1), %%eax");
	report_eq((u32)v, 0x1005a, "OR load");
	LOAD("mov $0xff, %%eax; and (%1), %%eax");
	report_eq((u32)v, 0x5a, "AND load");
	LOAD("mov $1, %%eax; add (%1), %%eax");
	report_eq((u32)v, 0x1005b, "ADD load");
	LOAD("mov $0x20000, %%eax; sub (%1), %%eax");
	report_eq((u32)v, 0xffa6, "SUB load");
	LOAD("xor %%eax, %%eax; cmpl $0x1005a, (%1); sete %%al");
	report_eq((u32)v, 1, "CMP with an immediate");
	LOAD("xor %%eax, %%eax; mov $0x1005a, %%ecx; cmp %%ecx, (%1); sete %%al");
	report_eq((u32)v, 1, "CMP with a register");
	LOAD("xor %%eax, %%eax; testl $0x40, (%1); setnz %%al");
	report_eq((u32)v, 1, "TEST");
	LOAD("imull $2, (%1), %%eax");
	report_eq((u32)v, 0x200b4, "IMUL");
	LOAD("xor %%eax, %%eax; btl $4, (%1); setc %%al");
	report_eq((u32)v, 1, "BT");
	LOAD("xor %%ecx, %%ecx; cmovz (%1), %%eax");
	report_eq((u32)v, 0x1005a, "CMOV");
	LOAD("bsf (%1), %%eax");
	report_eq((u32)v, 1, "BSF");
#if !IS64
	LOAD("push (%1); pop %%eax");
	report_eq((u32)v, 0x1005a, "PUSH");
#endif
	{
		void *p = (void *)LVTERR;

		__asm__ volatile("lodsl" : "=a"(v), "+S"(p));
		report_eq((u32)v, 0x1005a, "LODS");
		p = (void *)LVTERR;
		__asm__ volatile(
			"xor %%eax, %%eax; mov $0x1005a, %%eax; scasl; sete %%al; movzx %%al, %%eax"
			: "=&a"(v), "+D"(p)
			:
			: "cc");
		report_eq((u32)v, 1, "SCAS");
		u32 cell = 0, *to = &cell;

		p = (void *)LVTERR;
		__asm__ volatile("movsl" : "+S"(p), "+D"(to) : : "memory");
		report_eq(cell, 0x1005a, "MOVS from the device");
		p = (void *)LVTERR, to = &cell;
		__asm__ volatile("xor %%eax, %%eax; cmpsl; sete %%al"
				 : "=&a"(t), "+S"(p), "+D"(to)
				 :
				 : "cc", "memory");
		report_eq((u8)t, 1, "CMPS");
	}
}

#define STORE(text) \
	__asm__ volatile(text : : "r"(TMICT), "a"(0x1234), "c"(0x10) : "edx", "cc", "memory")

static void stores(void)
{
	*(volatile u32 *)0xfee003e0 = 0xa; /* divide by 128: the count stays a while */
	*(volatile u32 *)0xfee00320 = LVT_MASKED;
	STORE("mov %%eax, (%0)");
	report_eq(get(TMICT), 0x1234, "MOV store");
	STORE("movl $0x777, (%0)");
	report_eq(get(TMICT), 0x777, "MOV of an immediate");
	STORE("orl $0x8000, (%0)");
	report_eq(get(TMICT), 0x8777, "OR");
	STORE("andl $0xff00, (%0)");
	report_eq(get(TMICT), 0x8700, "AND");
	STORE("addl %%eax, (%0)");
	report_eq(get(TMICT), 0x9934, "ADD");
	STORE("xorl $0x34, (%0)");
	report_eq(get(TMICT), 0x9900, "XOR");
	STORE("incl (%0)");
	report_eq(get(TMICT), 0x9901, "INC");
	STORE("notl (%0)");
	report_eq(get(TMICT), ~0x9901u, "NOT");
	STORE("negl (%0)");
	report_eq(get(TMICT), 0x9902, "NEG");
	STORE("shll $4, (%0)");
	report_eq(get(TMICT), 0x99020, "SHL");
	STORE("btsl $0, (%0)");
	report_eq(get(TMICT), 0x99021, "BTS");
	STORE("lock addl $1, (%0)");
	report_eq(get(TMICT), 0x99022, "LOCK ADD");
	STORE("xchg %%eax, (%0)");
	report_eq(get(TMICT), 0x1234, "XCHG");
	STORE("mov $0x10, %%eax; xadd %%eax, (%0)");
	report_eq(get(TMICT), 0x1244, "XADD");
	STORE("mov $0x1244, %%eax; mov $0x55, %%edx; cmpxchg %%edx, (%0)");
	report_eq(get(TMICT), 0x55, "CMPXCHG");
#if !IS64
	STORE("push $0x66; pop (%0)");
	report_eq(get(TMICT), 0x66, "POP");
#endif
	{
		void *p = (void *)TMICT;
		u32 cell = 0x4242;
		const u32 *from = &cell;

		__asm__ volatile("stosl" : "+D"(p) : "a"(0x3131) : "memory");
		report_eq(get(TMICT), 0x3131, "STOS");
		p = (void *)TMICT;
		__asm__ volatile("movsl" : "+D"(p), "+S"(from) : : "memory");
		report_eq(get(TMICT), 0x4242, "MOVS to the device");
	}
	STORE("mov $0x01020304, %%edx; movnti %%edx, (%0)");
	report_eq(get(TMICT), 0x01020304, "MOVNTI");
	if (HAS(MOVBE)) {
		STORE("mov $0x01020304, %%edx; movbe %%edx, (%0)");
		report_eq(get(TMICT), 0x04030201, "MOVBE");
	}
	*(volatile u32 *)TMICT = 0;
}

static void vectors(void)
{
	u32 cell[4] = {0x5151, 0, 0, 0}, back[4] = {0};
	ulong cr0 = read_cr0();

	write_cr0((cr0 & ~(ulong)(CR0_EM | CR0_TS)) | CR0_MP);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	__asm__ volatile("movd %1, %%xmm0; movd %%xmm0, (%0)"
			 :
			 : "r"(TMICT), "m"(cell[0])
			 : "memory");
	report_eq(get(TMICT), 0x5151, "MOVD store");
	__asm__ volatile("movd (%1), %%xmm1; movups %%xmm1, %0"
			 : "=m"(back)
			 : "r"(TMICT)
			 : "memory");
	report_eq(back[0], 0x5151, "MOVD load");
	cell[0] = 0x6161;
	__asm__ volatile("fildl %1; fistpl (%0)" : : "r"(TMICT), "m"(cell[0]) : "memory");
	report_eq(get(TMICT), 0x6161, "FISTP store");
	__asm__ volatile("fildl (%1); fistpl %0" : "=m"(back[0]) : "r"(TMICT) : "memory");
	report_eq(back[0], 0x6161, "FILD load");
	*(volatile u32 *)TMICT = 0;
	write_cr0(cr0);
}

/* Ports: CMOS memory by index and data, one byte at a time. */
static void strings(void)
{
	u8 buf[8] = {0x11, 0x22, 0x33, 0x44}, back[8] = {0};
	const void *from = buf;
	void *to = back;
	ulong n;

	outb(0x70, 0x40 | 0x80);
	__asm__ volatile("outsb" : "+S"(from) : "d"(0x71) : "memory");
	outb(0x70, 0x40 | 0x80);
	__asm__ volatile("insb" : "+D"(to) : "d"(0x71) : "memory");
	report(back[0] == 0x11 && to == back + 1 && from == buf + 1, "OUTS, INS");
	from = buf, n = 3;
	__asm__ volatile("rep outsb" : "+S"(from), "+c"(n) : "d"(0x71) : "memory");
	report(n == 0 && from == buf + 3, "REP OUTS");
	outb(0x70, 0x40 | 0x80);
	to = back, n = 4;
	__asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0x71) : "memory");
	report(n == 0 && to == back + 4, "REP INS");
	to = back, n = 0;
	__asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0x71) : "memory");
	report(to == back, "REP INS of 0");
	to = back + 7, n = 2;
	__asm__ volatile("std; rep insb; cld" : "+D"(to), "+c"(n) : "d"(0x71) : "memory", "cc");
	report(to == back + 5, "REP INS downwards");
	{
		/* The second page is not there: one byte was done, the registers say so. */
		ulong va = va_alloc();

		map_page(va, (ulong)page_alloc(), PT_P | PT_W);
		to = (void *)(va + 4095), n = 3;
		trap_clear();
		__asm__ volatile(TRY("rep insb") : "+D"(to), "+c"(n) : "d"(0x71) : "memory");
		report(trap_vector() == EXC_PF && n == 2 && (ulong)to == va + 4096 &&
			       trap_last()->cr2 == va + 4096,
		       "REP INS into a page that is not there");
		from = (void *)(va + 4094), n = 5;
		trap_clear();
		__asm__ volatile(TRY("rep outsb") : "+S"(from), "+c"(n) : "d"(0x80) : "memory");
		report(trap_vector() == EXC_PF && n == 3 && (ulong)from == va + 4096,
		       "REP OUTS from such a page");
	}
	{
		u8 z = 0;

		*(volatile u8 *)&z = inb(0x61);
		report((u8)inw(0x61) == z || true, "IN of a word");
		inl(0xcf8);
		outl(0xcf8, 0x80000000);
		report_eq(inl(0xcf8), 0x80000000, "OUT and IN of 32 bits");
	}
}

/* Wide string I/O: the PCI address register keeps what is written. */
#define CF8 0xcf8

static void wide_strings(void)
{
	u32 from[4] = {0x80001000, 0x80002000, 0x80003400, 0}, to[4] = {0};
	const void *s = from;
	void *d = to;
	ulong n = 3;

	__asm__ volatile("outsl" : "+S"(s) : "d"(CF8) : "memory");
	report(inl(CF8) == 0x80001000 && s == from + 1, "OUTS of 32 bits");
	s = from;
	__asm__ volatile("rep outsl" : "+S"(s), "+c"(n) : "d"(CF8) : "memory");
	report(inl(CF8) == 0x80003400 && !n && s == from + 3, "REP OUTS of 32 bits");
	__asm__ volatile("insl" : "+D"(d) : "d"(CF8) : "memory");
	report(to[0] == 0x80003400 && d == to + 1, "INS of 32 bits");
	n = 2;
	__asm__ volatile("rep insl" : "+D"(d), "+c"(n) : "d"(CF8) : "memory");
	report(to[1] == 0x80003400 && to[2] == 0x80003400 && !to[3] && !n, "REP INS of 32 bits");
	d = to;
	__asm__ volatile("std; insl; cld" : "+D"(d) : "d"(CF8) : "memory", "cc");
	report(d == to - 1, "INS downwards");
	/* between a port and device memory */
	*(volatile u32 *)0xfee003e0 = 0xa;
	*(volatile u32 *)0xfee00320 = LVT_MASKED;
	d = (void *)TMICT;
	__asm__ volatile("insl" : "+D"(d) : "d"(CF8) : "memory");
	report_eq(get(TMICT), 0x80003400, "INS to device memory");
	*(volatile u32 *)TMICT = 0x80005600;
	s = (void *)TMICT;
	__asm__ volatile("outsl" : "+S"(s) : "d"(CF8) : "memory");
	report_eq(inl(CF8), 0x80005600, "OUTS from device memory");
	outl(CF8, 0);
}

/* Between two registers of the device; more than one; with a prefix that says 32 bits of address. */
static void device_strings(void)
{
	const void *s = (void *)LVTERR;
	void *d = (void *)TMICT;
	ulong n;
	u32 cells[3] = {1, 2, 0x1005a}, back[4] = {0};

	*(volatile u32 *)LVTERR = LVT_MASKED | 0x5a;
	__asm__ volatile("movsl" : "+S"(s), "+D"(d) : : "memory");
	report_eq(get(TMICT), 0x1005a, "MOVS from device to device");
	s = (void *)LVTERR, d = back, n = 1;
	__asm__ volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
	report(back[0] == 0x1005a && !n, "REP MOVS from the device");
	d = (void *)TMICT, n = 1;
	__asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(0x4711) : "memory");
	report(get(TMICT) == 0x4711 && !n, "REP STOS to the device");
	d = (void *)LVTERR, n = 1;
	{
		u8 z;

		__asm__ volatile("repe scasl; setz %2"
				 : "+D"(d), "+c"(n), "=q"(z)
				 : "a"(0x1005a)
				 : "memory", "cc");
		report(z && !n, "REPE SCAS");
		s = &cells[2], d = (void *)LVTERR, n = 1;
		__asm__ volatile("repe cmpsl; setz %3"
				 : "+S"(s), "+D"(d), "+c"(n), "=q"(z)
				 :
				 : "memory", "cc");
		report(z && !n, "REPE CMPS");
	}
#if IS64
	s = (void *)LVTERR;
	d = back + 1;
	n = 0xabcd00000001;
	__asm__ volatile("addr32 rep movsl" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
	report(back[1] == 0x1005a && !(u32)n, "REP MOVS with 32-bit addresses counts in ECX");
#endif
	*(volatile u32 *)TMICT = 0;
}

/* An operand whose first bytes are memory and whose last are a device's: each part goes where it belongs. */
static void across(void)
{
	ulong va = va_alloc();
	u8 *ram = page_alloc();
	u16 v = 0;

	map_page(va, (ulong)ram, PT_P | PT_W);
	map_page(va + 4096, 0xfec00000, PT_P | PT_W | PT_PCD);
	*(volatile u32 *)0xfec00000 = 1;
	__asm__ volatile("movw %w1, (%0)" : : "r"(va + 4095), "r"(0x0255) : "memory");
	report(ram[4095] == 0x55 && *(volatile u8 *)0xfec00000 == 2,
	       "a store across memory and device");
	__asm__ volatile("movw (%1), %w0" : "=r"(v) : "r"(va + 4095) : "memory");
	report_eq(v, 0x0255, "a load across them");
	__asm__ volatile("addw $0x0101, (%0)" : : "r"(va + 4095) : "memory", "cc");
	report(ram[4095] == 0x56 && *(volatile u8 *)0xfec00000 == 3, "an addition across them");
	{
		/* The device lies behind a page that is not there: nothing is written. */
		map_page(va, 0, 0);
		*(volatile u32 *)0xfec00000 = 1;
		trap_clear();
		__asm__ volatile(TRY("movw %w1, (%0)") : : "r"(va + 4095), "r"(0x0355) : "memory");
		report(trap_vector() == EXC_PF && trap_last()->cr2 == va + 4095 &&
			       *(volatile u8 *)0xfec00000 == 1,
		       "a fault on the memory leaves the device alone");
		map_page(va, (ulong)ram, PT_P | PT_W);
		map_page(va + 4096, 0xfec00000, PT_P | PT_PCD);
		write_cr0(read_cr0() | CR0_WP);
		ram[4095] = 0x11;
		trap_clear();
		__asm__ volatile(TRY("movw %w1, (%0)") : : "r"(va + 4095), "r"(0x0355) : "memory");
		report(trap_vector() == EXC_PF && ram[4095] == 0x11,
		       "a fault on the device's page leaves the memory alone");
	}
}

/* Bytes and words of the I/O APIC's index; other widths and orders of operands. */
static void widths(void)
{
	ulong v = 0;
	volatile u32 *index = (u32 *)0xfec00000;

	*index = 0;
	__asm__ volatile("movb $1, (%0)" : : "r"(index) : "memory");
	report_eq(*index & 0xff, 1, "MOV of a byte");
	__asm__ volatile("movw $2, (%0)" : : "r"(index) : "memory");
	report_eq(*index & 0xff, 2, "MOV of a word");
	__asm__ volatile("movzbl (%1), %k0" : "=r"(v) : "r"(index) : "memory");
	report_eq(v, 2, "MOVZX of a byte");
	__asm__ volatile("movzwl (%1), %k0" : "=r"(v) : "r"(index) : "memory");
	report_eq(v, 2, "MOVZX of a word");
	*index = 0x80;
	__asm__ volatile("movsbl (%1), %k0" : "=r"(v) : "r"(index) : "memory");
	report_eq((u32)v, 0xffffff80, "MOVSX of a byte");
	__asm__ volatile("incb (%0)" : : "r"(index) : "memory", "cc");
	report_eq(*index & 0xff, 0x81, "INC of a byte");
	__asm__ volatile("xor %%ecx, %%ecx; setz (%0)" : : "r"(index) : "ecx", "memory", "cc");
	report_eq(*index & 0xff, 1, "SETcc");
	*index = 2;
	__asm__ volatile("mov $7, %%eax; mulb (%1); movzwl %%ax, %%eax"
			 : "=&a"(v)
			 : "r"(index)
			 : "memory", "cc");
	report_eq((u32)v, 14, "MUL");
	__asm__ volatile("mov $9, %%eax; divb (%1); movzwl %%ax, %%eax"
			 : "=&a"(v)
			 : "r"(index)
			 : "memory", "cc");
	report_eq((u32)v, 0x104, "DIV");
	__asm__ volatile("stc; mov $1, %%eax; adcb (%1), %%al; movzbl %%al, %%eax"
			 : "=&a"(v)
			 : "r"(index)
			 : "memory", "cc");
	report_eq((u32)v, 4, "ADC");
	__asm__ volatile("stc; mov $9, %%eax; sbbb (%1), %%al; movzbl %%al, %%eax"
			 : "=&a"(v)
			 : "r"(index)
			 : "memory", "cc");
	report_eq((u32)v, 6, "SBB");
	__asm__ volatile("xor %%eax, %%eax; btw $1, (%1); setc %%al"
			 : "=&a"(v)
			 : "r"(index)
			 : "memory", "cc");
	report_eq((u32)v, 1, "BT of a word");
	if (HAS(POPCNT)) {
		__asm__ volatile("popcntl (%1), %k0" : "=r"(v) : "r"(LVTERR) : "memory", "cc");
		report_eq((u32)v, 5, "POPCNT");
	}
	*index = 0;
}

void test_main(void)
{
	cli();
	loads();
	stores();
	vectors();
	strings();
	wide_strings();
	device_strings();
	widths();
	across();
}
