/* Per-CPU blocks and their descriptor tables. */
#include "cpu.h"

u8 cpu_blocks[CPUS_MAX][CPU_BLOCK] __attribute__((aligned(0x10000)));
struct cpu *cpus[CPUS_MAX];
unsigned cpu_count = 1;

struct gate idt[256] __attribute__((aligned(4096)));

_Static_assert(sizeof(struct cpu) < 0x7000, "the stacks begin there");

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
	       (u64)((limit >> 16) & 15) << 48 | (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

void gdt_set(unsigned selector, u64 value)
{
	*(volatile u64 *)&this_cpu()->gdt[selector >> 3] = value;
}

void idt_set(unsigned vector, void *code, unsigned dpl)
{
	ulong at = (ulong)code;

	idt[vector] = (struct gate)
	{
		.low = (u16)at, .sel = SEL_KCODE, .type = (u8)(0x8e | dpl << 5),
		.mid = (u16)(at >> 16),
#if IS64
		.high = (u32)(at >> 32),
#endif
	};
}

void idt_reset(unsigned vector)
{
	bool user = vector == EXC_BP || vector == EXC_OF || vector == VECTOR_RETURN;

	idt_set(vector, trap_stubs + 16 * vector, user ? 3 : 0);
#if IS64
	if (vector == EXC_DF)
		idt_set_ist(vector, 1);
#else
	if (vector == EXC_DF)
		idt[vector] = (struct gate){.sel = SEL_TSS_DF, .type = 0x85};
#endif
}

void idt_set_ist(unsigned vector, unsigned ist)
{
	idt[vector].ist = (u8)ist;
}

static void gdt_init(struct cpu *cpu)
{
	u8 wide = IS64 ? 0xa : 0xc;
	u64 *gdt = cpu->gdt;
	u64 tss = descriptor((u32)(ulong)&cpu->tss, sizeof(cpu->tss) - 1, 0x89, 0);

	gdt[SEL_KCODE >> 3] = descriptor(0, 0xfffff, 0x9b, wide);
	gdt[SEL_KDATA >> 3] = descriptor(0, 0xfffff, 0x93, 0xc);
	gdt[SEL_UCODE32 >> 3] = descriptor(0, 0xfffff, 0xfb, 0xc);
	gdt[SEL_UDATA >> 3] = descriptor(0, 0xfffff, 0xf3, 0xc);
	gdt[SEL_UCODE >> 3] = descriptor(0, 0xfffff, 0xfb, wide);
	gdt[SEL_UDATA2 >> 3] = descriptor(0, 0xfffff, 0xf3, 0xc);
	gdt[SEL_KCODE32 >> 3] = descriptor(0, 0xfffff, 0x9b, 0xc);
	gdt[SEL_CODE16 >> 3] = descriptor(0, 0xffff, 0x9b, 0);
	gdt[SEL_DATA16 >> 3] = descriptor(0, 0xffff, 0x93, 0);
	gdt[SEL_TSS >> 3] = tss;
#if !IS64
	gdt[SEL_TSS_DF >> 3] = descriptor((u32)&cpu->tss_df, sizeof(cpu->tss_df) - 1, 0x89, 0);
#endif
}

void df_task(void);

static void tss_init(struct cpu *cpu)
{
	cpu->tss.iomap = offsetof(struct tss, io);
	memset(cpu->tss.io, 0xff, sizeof(cpu->tss.io));
#if IS64
	cpu->tss.rsp[0] = TRAP_STACK_TOP(cpu);
	for (unsigned i = 1; i <= 3; i++)
		cpu->tss.ist[i] = IST_STACK_TOP(cpu, i);
#else
	cpu->tss.esp0 = TRAP_STACK_TOP(cpu);
	cpu->tss.ss0 = SEL_KDATA;
	cpu->tss.cr3 = (u32)read_cr3(); /* loaded when a task returns here */
	cpu->tss_df.iomap = offsetof(struct tss, io);
	cpu->tss_df.cr3 = (u32)read_cr3();
	cpu->tss_df.eip = (u32)df_task;
	cpu->tss_df.esp = IST_STACK_TOP(cpu, 1);
	cpu->tss_df.eflags = 2;
	cpu->tss_df.cs = SEL_KCODE;
	cpu->tss_df.ss = cpu->tss_df.ds = cpu->tss_df.es = SEL_KDATA;
#endif
}

void cpu_init(struct cpu *cpu, unsigned id)
{
	struct table_reg gdtr = {sizeof(cpu->gdt) - 1, (ulong)cpu->gdt};
	struct table_reg idtr = {sizeof(idt) - 1, (ulong)idt};

	cpus[id] = cpu;
	cpu->id = id;
	gdt_init(cpu);
	tss_init(cpu);
	lgdt(&gdtr);
	lidt(&idtr);
	__asm__ volatile("ltr %w0\n"
			 "lldt %w1\n"
			 "mov %2, %%ss\n"
			 "mov %2, %%ds\n"
			 "mov %2, %%es\n"
			 :
			 : "r"(SEL_TSS), "r"(0), "r"(SEL_KDATA)
			 : "memory");
}
