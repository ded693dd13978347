/*
 * 32-bit protected mode: limits, expand-down, conforming code, call gates, privilege changes,
 * virtual-8086 and real mode. (Hardware task switches: task.c.)
 * Source: SDM "Protection", "8086 Emulation".
 */
#include "x86/cpu.h"
#include "x86/paging.h"

static u8 data[64];

static int load_at(u16 sel, u32 offset)
{
	trap_clear();
	__asm__ volatile(
		"mov %0, %%fs\n" TRY("movb %%fs:(%1), %%al") "xor %%eax, %%eax; mov %%eax, %%fs"
		:
		: "r"((u32)sel), "r"(offset)
		: "eax", "memory");
	return trap_vector();
}
static int load4_at(u16 sel, u32 offset)
{
	trap_clear();
	__asm__ volatile(
		"mov %0, %%fs\n" TRY("movl %%fs:(%1), %%eax") "xor %%eax, %%eax; mov %%eax, %%fs"
		:
		: "r"((u32)sel), "r"(offset)
		: "eax", "memory");
	return trap_vector();
}
static int store_at(u16 sel, u32 offset)
{
	trap_clear();
	__asm__ volatile(
		"mov %0, %%fs\n" TRY("movb $1, %%fs:(%1)") "xor %%eax, %%eax; mov %%eax, %%fs"
		:
		: "r"((u32)sel), "r"(offset)
		: "eax", "memory");
	return trap_vector();
}

static void limits(void)
{
	u16 s = SEL_FREE;

	gdt_set(s, descriptor((u32)data, 15, 0x93, 4));
	report_eq(load_at(s, 15), -1, "limit: the last byte");
	report_eq(load_at(s, 16), EXC_GP, "limit: one beyond");
	report_eq(trap_last()->error, 0, "its error code");
	report_eq(load4_at(s, 12), -1, "limit: 4 bytes at the end");
	report_eq(load4_at(s, 13), EXC_GP, "limit: 4 bytes across the end");
	report_eq(load4_at(s, 0xfffffffe), EXC_GP, "limit: 4 bytes around 4 GiB");
	gdt_set(s, descriptor((u32)data, 15, 0x91, 4));
	report_eq(load_at(s, 3), -1, "read-only: load");
	report_eq(store_at(s, 3), EXC_GP, "read-only: store");
	gdt_set(s, descriptor((u32)data - 0x1000, 0xfff, 0x97, 4));
	report_eq(load_at(s, 0xfff), EXC_GP, "expand-down: at the limit");
	report_eq(load_at(s, 0x1000), -1, "expand-down: above it");
	gdt_set(s, descriptor((u32)data - 0x1000, 0xfff, 0x97, 0));
	report_eq(load_at(s, 0xffff), -1, "expand-down, 16-bit: the top");
	report_eq(load_at(s, 0x10000), EXC_GP, "expand-down, 16-bit: beyond");
	gdt_set(s, descriptor((u32)data, 15, 0x99, 4));
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%fs") : : "r"((u32)s));
	report(trap_vector() == EXC_GP && trap_last()->error == s, "FS with execute-only code");
	gdt_set(s, descriptor((u32)data, 15, 0x92, 4));
	load_at(s, 0);
	report((this_cpu()->gdt[s >> 3] >> 40) & 1, "loading sets the accessed bit");
	trap_clear();
	__asm__ volatile("xor %%eax, %%eax; mov %%eax, %%fs\n" TRY("movb %%fs:0, %%al")
			 :
			 :
			 : "eax");
	report_eq(trap_vector(), EXC_GP, "a null FS");
	{
		u32 v = 0, w;
		bool z;

		__asm__ volatile("lsl %2, %0; setz %1" : "=r"(v), "=q"(z) : "r"((u32)s) : "cc");
		report(z && v == 15, "LSL");
		__asm__ volatile("lar %2, %0; setz %1" : "=r"(w), "=q"(z) : "r"((u32)s) : "cc");
		report(z && (w & 0xf0ff00) == 0x409300, "LAR");
		__asm__ volatile("lar %2, %0; setz %1" : "=r"(w), "=q"(z) : "r"(0xfff8) : "cc");
		report(!z, "LAR beyond the GDT");
		__asm__ volatile("verw %w1; setz %0" : "=q"(z) : "r"((u32)s) : "cc");
		report(z, "VERW");
		__asm__ volatile("verr %w1; setz %0" : "=q"(z) : "r"((u32)SEL_TSS) : "cc");
		report(!z, "VERR of a TSS");
	}
}

/* ---- call gate, from level 3 ---- */

__asm__(".text\n gate_entry: mov %cs, gate_cs; mov 8(%esp), %eax; mov %eax, gate_arg; lret $4\n"
	".section .user, \"ax\"\n through_gate: push $0x1234; lcall $0x83, $0; ret\n"
	"gate_user_cs: ret\n .text\n");
extern char gate_entry[], through_gate[];
u32 gate_cs, gate_arg;

static void gates(void)
{
	u32 at = (u32)gate_entry;

	gdt_set(0x80, (at & 0xffff) | (u64)SEL_KCODE << 16 | (u64)1 << 32 | (u64)0xec << 40 |
			      (u64)(at >> 16) << 48);
	gate_cs = 0;
	trap_user((void (*)(void *))through_gate, NULL);
	report(trap_vector() == -1 && (gate_cs & 0xffff) == SEL_KCODE,
	       "call gate to level 0 and back");
	report_eq(gate_arg, 0x1234, "its parameter");
	gdt_set(0x80, (at & 0xffff) | (u64)SEL_KCODE << 16 | (u64)1 << 32 | (u64)0x8c << 40 |
			      (u64)(at >> 16) << 48);
	trap_user((void (*)(void *))through_gate, NULL);
	report(trap_vector() == EXC_GP && trap_last()->error == 0x80,
	       "call gate of level 0 from level 3");
	gdt_set(0x80, (at & 0xffff) | (u64)SEL_KCODE << 16 | (u64)1 << 32 | (u64)0x6c << 40 |
			      (u64)(at >> 16) << 48);
	trap_user((void (*)(void *))through_gate, NULL);
	report(trap_vector() == EXC_NP && trap_last()->error == 0x80, "call gate not present");
}

/* ---- virtual-8086 mode ---- */

static int v86(const u8 *code, unsigned len, u32 flags)
{
	struct regs r;

	memcpy((void *)0x20000, code, len);
	memset(&r, 0, sizeof(r));
	r.cs = 0x2000;
	r.ss = 0x2100;
	r.sp = 0xff0;
	r.flags = FL_VM | 2 | flags;
	r.v86_ds = r.v86_es = 0x2200;
	return trap_enter(&r);
}

#define V86(...)      v86((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), 0)
#define V86_IOPL(...) v86((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), FL_IOPL)

static void virtual8086(void)
{
	volatile u8 *mem = (u8 *)0x22000;

	/* movb $0x5a, [0x10]; int3 */
	report_eq(V86(0xc6, 0x06, 0x10, 0x00, 0x5a, 0xcc), EXC_BP, "v8086: INT3");
	report_eq(mem[0x10], 0x5a, "v8086: a store by DS << 4");
	report(trap_last()->flags & FL_VM, "VM in the pushed flags");
	report_eq(V86(0xfa, 0xf4), EXC_GP, "v8086: CLI with IOPL 0");
	report_eq(V86_IOPL(0xfa, 0xf4), EXC_GP, "v8086: HLT");
	report_eq(trap_last()->ip, 1, "CLI with IOPL 3 is fine");
	report_eq(V86(0x9c, 0xf4), EXC_GP, "v8086: PUSHF with IOPL 0");
	report_eq(trap_last()->ip, 0, "its address");
	report_eq(V86(0xcd, 0x21), EXC_GP, "v8086: INT n with IOPL 0");
	report_eq(V86(0xe4, 0x80, 0xf4), EXC_GP, "v8086: IN by the I/O map");
	report_eq(V86(0x0f, 0x0b), EXC_UD, "v8086: UD2");
	report_eq(V86(0xb8, 0x00, 0x30, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x00, 0x77, 0xf4), EXC_GP,
		  "v8086: load of DS");
	report_eq(*(volatile u8 *)0x30000, 0x77, "a store through it");
	report_eq(V86(0x0f, 0x01, 0x16, 0, 0), EXC_GP, "v8086: LGDT");
	report_eq(V86(0x0f, 0x00, 0xc8), EXC_UD, "v8086: STR");
	/* limit: word at 0xffff */
	report_eq(V86(0xa1, 0xff, 0xff), EXC_GP, "v8086: a word at 0xffff");
}

/* ---- virtual-8086 mode extensions: VIF instead of IF, and INT by the redirection map ---- */

static struct regs vme_seen;
static void vme_hook(struct regs *r)
{
	vme_seen = *r;
}

static void vme(void)
{
	struct tss *tss = &this_cpu()->tss;
	volatile u16 *frame = (u16 *)(0x21000 + 0xfea);
	u8 *map = tss->io + 32; /* below the I/O map that we say begins 64 bytes in */
	u16 iomap = tss->iomap;

	if (!HAS(VME)) {
		report_skip("VME");
		return;
	}
	report_eq(V86(0xfb, 0xf4), EXC_GP, "without CR4.VME: STI with IOPL 0");
	report_eq(trap_last()->ip, 0, "without CR4.VME: it faults");
	write_cr4(read_cr4() | CR4_VME);
	tss->iomap = offsetof(struct tss, io) + 64;
	memset(map, 0, 32);
	this_cpu()->hook = vme_hook;
	report(V86(0xfb, 0xf4) == EXC_GP && vme_seen.ip == 1, "VME: STI with IOPL 0");
	report((vme_seen.flags & (FL_VIF | FL_IF)) == FL_VIF, "VME: it sets VIF, not IF");
	report(V86(0xfb, 0xfa, 0xf4) == EXC_GP && vme_seen.ip == 2 && !(vme_seen.flags & FL_VIF),
	       "VME: CLI clears VIF");
	report(v86((const u8[]){0xfb, 0xf4}, 2, FL_VIP) == EXC_GP && vme_seen.ip == 0,
	       "VME: STI with VIP faults");
	report(v86((const u8[]){0xfa, 0xf4}, 2, FL_VIP) == EXC_GP && vme_seen.ip == 1,
	       "VME: CLI with VIP does not");
	report(V86(0xfb, 0x9c, 0x58, 0xf4) == EXC_GP && vme_seen.ip == 3, "VME: PUSHF with IOPL 0");
	report_eq(vme_seen.ax & (FL_IF | FL_IOPL), FL_IF | FL_IOPL,
		  "VME: it shows VIF as IF, and IOPL 3");
	report(V86(0x66, 0x9c, 0xf4) == EXC_GP && vme_seen.ip == 0, "VME: PUSHFD faults");
	report(V86(0x68, 0x02, 0x02, 0x9d, 0xf4) == EXC_GP && vme_seen.ip == 4 &&
		       (vme_seen.flags & (FL_VIF | FL_IF)) == FL_VIF,
	       "VME: POPF sets VIF");
	report(V86(0xfb, 0x68, 0x02, 0x00, 0x9d, 0xf4) == EXC_GP && vme_seen.ip == 5 &&
		       !(vme_seen.flags & FL_VIF),
	       "VME: POPF clears VIF");
	report(V86(0x68, 0x02, 0x03, 0x9d, 0xf4) == EXC_GP && vme_seen.ip == 3,
	       "VME: POPF of TF faults");
	report(v86((const u8[]){0x68, 0x02, 0x02, 0x9d, 0xf4}, 5, FL_VIP) == EXC_GP &&
		       vme_seen.ip == 3,
	       "VME: POPF of IF with VIP faults");

	*(volatile u16 *)(0x21 * 4) = 0x100;
	*(volatile u16 *)(0x21 * 4 + 2) = 0x2000;
	*(volatile u8 *)0x20100 = 0xf4;
	report(V86(0xfb, 0xcd, 0x21) == EXC_GP && vme_seen.ip == 0x100 && vme_seen.cs == 0x2000,
	       "VME: INT goes by the interrupt vector table");
	report(frame[0] == 3 && frame[1] == 0x2000, "VME: its return address");
	report_eq(frame[2] & (FL_IF | FL_IOPL), FL_IF | FL_IOPL,
		  "VME: its flags show VIF and IOPL 3");
	report(!(vme_seen.flags & FL_VIF), "VME: VIF is clear in the handler");
	map[0x21 / 8] = 1 << (0x21 % 8);
	report(V86(0xcd, 0x21) == EXC_GP && vme_seen.ip == 0 && !vme_seen.error,
	       "VME: INT that the map keeps back, IOPL 0");
	report(V86_IOPL(0xcd, 0x21) == EXC_GP && vme_seen.ip == 0 && vme_seen.error == 0x21 * 8 + 2,
	       "VME: the same with IOPL 3: by the IDT");
	map[0x21 / 8] = 0;
	report(V86_IOPL(0xcd, 0x21) == EXC_GP && vme_seen.ip == 0x100,
	       "VME: by the table with IOPL 3");
	this_cpu()->hook = NULL;
	tss->iomap = iomap;
	memset(map, 0xff, 32);
	write_cr4(read_cr4() & ~(ulong)CR4_VME);
}

/* ---- real mode: a trip and back ---- */

__asm__(".text\n"
	"real_trip: pusha; sidt real_idt; lidt real_ivt; mov %esp, real_sp\n"
	"ljmp $0x40, $(real16 - real_base)\n"
	".code16\n real_base:\n"
	"real16: mov $0x48, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs\n"
	"mov %cr0, %eax; and $0x7ffffffe, %eax; mov %eax, %cr0\n"
	"ljmp $0x3000, $(1f - real_base)\n"
	"1: mov %cs, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x8000, %sp\n"
	"movw $0x1111, 0x4000\n"
	"movw %cs, 0x4002\n"
	"int $0x60\n"
	"mov $0xffff, %bx; mov %bx, %ax; add $2, %bx; mov %bx, 0x4006\n"
	"mov $0x7000, %ax; mov %ax, %es; movl $0x12345678, %es:0x10\n"
	"push $0x4242; pop %ax; mov %ax, 0x4008\n"
	"smsw %ax; mov %ax, 0x400a\n"
	/* exceptions by the interrupt vector table: no error code, the faulting IP; they go on at 0x4010 */
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"2: mov 0xffff, %ax\n 3: mov 0x4014, %ax; mov %ax, 0x4020\n"
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"2: .byte 0x67, 0xa0; .long 0x10000\n 3: mov 0x4014, %ax; mov %ax, 0x4022\n"
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"2: str %ax\n 3: mov 0x4014, %ax; mov %ax, 0x4024\n"
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"xor %cx, %cx\n2: div %cx\n 3: mov 0x4014, %ax; mov %ax, 0x4026\n"
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"2: sysenter\n 3: mov 0x4014, %ax; mov %ax, 0x4028\n"
	"movw $(2f - real_base), 0x4010; movw $(3f - real_base), 0x4012\n"
	"2: lldt %ax\n 3: mov 0x4014, %ax; mov %ax, 0x402a\n"
	"movw $0x77, 0x4014; cli; mov %cr3, %eax; mov %eax, %cr3; lgdt 0x4030; mov 0x4014, %ax; mov %ax, 0x402c\n"
	"mov %cr0, %eax; or $0x80000001, %eax; mov %eax, %cr0\n"
	"ljmpl $0x08, $real_back\n"
	"real_de: push $0; jmp 1f\n real_ud: push $6; jmp 1f\n real_gp: push $13\n"
	"1: mov %sp, %bp; pop %ax; mov 2(%bp), %bx; cmp 0x4010, %bx; je 1f; mov $0xbad, %ax\n"
	"1: mov %ax, 0x4014; mov 0x4012, %bx; mov %bx, 2(%bp); iretw\n"
	"real_int: movw $0x2222, 0x4004; iretw\n"
	"real_end:\n .code32\n"
	"real_back: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; xor %eax, %eax; mov %eax, %fs\n"
	"mov real_sp, %esp; lidt real_idt; popa; ret\n"
	".data\n real_sp: .long 0\n real_idt: .word 0, 0, 0, 0\n real_ivt: .word 0x3ff, 0, 0\n .text\n");
void real_trip(void);
extern u8 real_base[], real_end[], real_int[], real_de[], real_ud[], real_gp[];

static void vector_set(unsigned vector, const u8 *code)
{
	*(volatile u16 *)(vector * 4) = (u16)(code - real_base);
	*(volatile u16 *)(vector * 4 + 2) = 0x3000;
}

static void real_mode(void)
{
	volatile u16 *out = (u16 *)0x34000;

	memcpy((void *)0x30000, real_base, (size_t)(real_end - real_base));
	gdt_set(SEL_CODE16, descriptor(0x30000, 0xffff, 0x9b, 0));
	gdt_set(SEL_DATA16, descriptor(0x30000, 0xffff, 0x93, 0));
	vector_set(0x60, real_int);
	vector_set(EXC_DE, real_de);
	vector_set(EXC_UD, real_ud);
	vector_set(EXC_GP, real_gp);
	{
		struct table_reg gdt = sgdt();

		memcpy((void *)0x34030, &gdt, 6);
	}
	cli();
	real_trip();
	report_eq(out[0], 0x1111, "real mode: a store");
	report_eq(out[1], 0x3000, "real mode: CS");
	report_eq(out[2], 0x2222, "real mode: INT, IRET");
	report_eq(out[3], 1, "real mode: 16-bit addition");
	report_eq(*(volatile u32 *)0x70010, 0x12345678, "real mode: 32-bit operand");
	report_eq(out[4], 0x4242, "real mode: PUSH, POP");
	report_eq(out[5] & 1, 0, "real mode: SMSW says PE is clear");
	report_eq(out[16], EXC_GP, "real mode: a word at 0xffff");
	report_eq(out[17], EXC_GP, "real mode: an address beyond 64 KiB");
	report_eq(out[18], EXC_UD, "real mode: STR");
	report_eq(out[19], EXC_DE, "real mode: DIV by 0");
	report_eq(out[20], EXC_GP, "real mode: SYSENTER");
	report_eq(out[21], EXC_UD, "real mode: LLDT");
	report_eq(out[22], 0x77, "real mode: CLI, MOV to CR3, LGDT");
	report_eq(read_cr0() & 0x80000001, 0x80000001, "and back");
}

void test_main(void)
{
	user_map();
	limits();
	gates();
	virtual8086();
	vme();
	real_mode();
}
