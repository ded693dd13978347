/*
 * engine_anykvm.c - runs a case on an anykvm processor
 *
 * A small machine: page tables that map the case's memory for CPL 3 at the native addresses, a
 * GDT with Linux's selectors, and an IDT whose handlers are HLT. Whatever ends the case is an
 * exception, whose frame lies on the kernel stack when the processor has halted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "insn.h"
#include "memory.h"
#include "run.h"
#include "base/mem.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "jit/jit_internal.h"
#include "mmu/mmu.h"
#include "mmu/window_internal.h"

#define SYS_SIZE      0x60000
#define SYS_GDT	      0x1000
#define SYS_IDT	      0x2000
#define SYS_TSS	      0x3000
#define SYS_LDT	      0x3800
#define SYS_HANDLERS  0x4000
#define SYS_STACK_TOP 0x6000
#define SYS_STUB      0x7000
#define SYS_TABLES    (SYS_PAGES * PAGE_SIZE)
/* The same again for legacy protected mode. */
#define SYS_GDT32   0x1800
#define SYS_IDT32   0x2800
#define SYS_TSS32   0x3400
#define GPA_CODE    0x100000
#define GPA_DATA    0x200000
#define CACHE_BYTES (16u << 20)

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_NX (1ull << 63)

static struct machine {
	struct cpu *cpu;
	struct mmu_vm vm;
	u8 *sys;
	u64 next_table, legacy_cr3, kernel_cr3;
	enum machine_mode {
		MACHINE_LONG,
		MACHINE_LEGACY, /* legacy protected mode */
		MACHINE_KERNEL, /* long mode, CPL 0: no page is the user's */
	} mode;
	/* What the cases' data is to the processor; each way of access has its own code. */
	enum memory_kind {
		MEMORY_PLAIN,
		MEMORY_CODE, /* parts of it have been translated: stores to them are caught */
		MEMORY_MMIO, /* every access is a device's or the client's */
		MEMORY_COLD, /* nothing is in the TLB */
	} memory;
	struct mmu_map *map[2];			/* with the data area, without it */
	struct mmu_window *window[MMU_WINDOWS]; /* of different shapes */
	unsigned windows;			/* what the process could have of them */
	bool inside;				/* MMIO is answered without an exit */
	bool use_loop;				/* what the translator took for this host */
	volatile bool kicked;
} m;

static u64 *table_entry(u64 table, unsigned index)
{
	return (u64 *)(m.sys + table) + index;
}

static void map_page(u64 table, u64 va, u64 gpa, u64 bits)
{
	for (unsigned level = 3; level > 0; level--) {
		u64 *e = table_entry(table, va >> (12 + 9 * level) & 511);

		if (!*e) {
			m.next_table += PAGE_SIZE;
			*e = m.next_table | PTE_P | PTE_W | PTE_U;
		}
		table = *e & ~0xfffull;
	}
	*table_entry(table, va >> 12 & 511) = gpa | bits | PTE_P;
}

static void tables_build(u64 cr3, u64 user)
{
	for (u64 i = 0; i < INSN_CODE_SIZE; i += PAGE_SIZE) {
		map_page(cr3, INSN_CODE_VA + i, GPA_CODE + i, user);
		map_page(cr3, INSN_ALIAS_VA + i, GPA_CODE + i, user | PTE_W | PTE_NX);
	}
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++)
		if (memory_page(n) != PAGE_ABSENT)
			map_page(cr3, INSN_DATA_VA + n * PAGE_SIZE, GPA_DATA + n * PAGE_SIZE,
				 user | PTE_NX | (memory_page(n) == PAGE_RW ? PTE_W : 0));
	for (u64 i = 0; i < SYS_TABLES; i += PAGE_SIZE)
		map_page(cr3, KERNEL_VA + i, i, PTE_W);
	map_page(cr3, INSN_STUB_VA, SYS_STUB, user);
}

/* Three-level tables (PAE) with the same user memory. */
static void legacy_map(u64 va, u64 gpa, u64 bits)
{
	u64 *e = table_entry(m.legacy_cr3, va >> 30);

	if (!*e) {
		m.next_table += PAGE_SIZE;
		*e = m.next_table | PTE_P;
	}
	e = table_entry(*e & ~0xfffull, va >> 21 & 511);
	if (!*e) {
		m.next_table += PAGE_SIZE;
		*e = m.next_table | PTE_P | PTE_W | PTE_U;
	}
	*table_entry(*e & ~0xfffull, va >> 12 & 511) = gpa | bits | PTE_P;
}

static void legacy_build(void)
{
	u64 *gdt = (u64 *)(m.sys + SYS_GDT32);
	u32 tss = LEGACY_VA + SYS_TSS32, ldt = LEGACY_VA + SYS_LDT;

	m.next_table += PAGE_SIZE;
	m.legacy_cr3 = m.next_table;
	for (u64 i = 0; i < INSN_CODE_SIZE; i += PAGE_SIZE)
		legacy_map(INSN_CODE_VA + i, GPA_CODE + i, PTE_U);
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++)
		if (memory_page(n) != PAGE_ABSENT)
			legacy_map(INSN_DATA_VA + n * PAGE_SIZE, GPA_DATA + n * PAGE_SIZE,
				   PTE_U | PTE_NX | (memory_page(n) == PAGE_RW ? PTE_W : 0));
	for (u64 i = 0; i < SYS_TABLES; i += PAGE_SIZE)
		legacy_map(LEGACY_VA + i, i, PTE_W);
	gdt[2] = 0x00cf9b000000ffffull;
	gdt[3] = 0x00cf93000000ffffull;
	gdt[4] = 0x00cffb000000ffffull;
	gdt[5] = 0x00cff3000000ffffull;
	gdt[8] = 0x00008b0000000067ull | (u64)(tss & 0xffffff) << 16 | (u64)(tss >> 24) << 56;
	gdt[10] = 0x0000820000000000ull | (LDT_COUNT * 8 - 1) | (u64)(ldt & 0xffffff) << 16 |
		  (u64)(ldt >> 24) << 56;
	*(u32 *)(m.sys + SYS_TSS32 + 4) = LEGACY_VA + SYS_STACK_TOP;
	*(u32 *)(m.sys + SYS_TSS32 + 8) = 0x18;
	*(u16 *)(m.sys + SYS_TSS32 + 0x66) = 0x68;
	for (unsigned v = 0; v < 32; v++) {
		u64 to = LEGACY_VA + SYS_HANDLERS + 16 * v, dpl = v == 3 || v == 4 ? 3 : 0;

		((u64 *)(m.sys + SYS_IDT32))[v] =
			(to & 0xffff) | 0x10 << 16 | (0x8e00 | dpl << 13) << 32 | (to >> 16) << 48;
	}
}

static void descriptors_build(void)
{
	u64 *gdt = (u64 *)(m.sys + SYS_GDT), tss = KERNEL_VA + SYS_TSS;

	gdt[2] = 0x00af9b000000ffffull;	 /* kernel code */
	gdt[3] = 0x00cf93000000ffffull;	 /* kernel data */
	gdt[4] = 0x00cffb000000ffffull;	 /* 0x23: user code, 32 bits */
	gdt[5] = 0x00cff3000000ffffull;	 /* 0x2b: user data */
	gdt[6] = 0x00affb000000ffffull;	 /* 0x33: user code, 64 bits */
	gdt[15] = 0x0040f50000000000ull; /* 0x7b: Linux's CPU number, in the limit */
	gdt[8] = 0x00008b0000000067ull | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
	gdt[9] = tss >> 32;
	/* every gate switches to the first interrupt stack, also from CPL 0 */
	*(u64 *)(m.sys + SYS_TSS + 4) = KERNEL_VA + SYS_STACK_TOP;
	*(u64 *)(m.sys + SYS_TSS + 0x24) = KERNEL_VA + SYS_STACK_TOP;
	*(u16 *)(m.sys + SYS_TSS + 0x66) = 0x68; /* no I/O permission bitmap */
	for (unsigned v = 0; v < 32; v++) {
		u64 *gate = (u64 *)(m.sys + SYS_IDT) + 2 * v,
		    to = KERNEL_VA + SYS_HANDLERS + 16 * v;
		u64 dpl = v == 3 || v == 4 ? 3 : 0;

		gate[0] = (to & 0xffff) | 0x10 << 16 | (0x8e01 | dpl << 13) << 32 |
			  (to >> 16 & 0xffff) << 48;
		gate[1] = to >> 32;
	}
	for (unsigned n = 0; n < LDT_COUNT; n++)
		((u64 *)(m.sys + SYS_LDT))[n] = segment_descriptor(n);
	memset(m.sys + SYS_HANDLERS, 0xf4, PAGE_SIZE);
	memset(m.sys + SYS_STUB, 0xf4, PAGE_SIZE);
}

/* --- a machine whose only device is memory -------------------------------------------------------------- */

__attribute__((target("general-regs-only"))) static bool device_read(struct cpu *cpu, u64 gpa,
								     unsigned len, void *data)
{
	if (!m.inside || gpa - GPA_DATA >= INSN_DATA_PAGES * PAGE_SIZE)
		return false;
	mem_copy(data, insn_memory.engine + (gpa - GPA_DATA), len);
	return true;
}
__attribute__((target("general-regs-only"))) static bool
device_write(struct cpu *cpu, u64 gpa, unsigned len, const void *data)
{
	if (!m.inside || gpa - GPA_DATA >= INSN_DATA_PAGES * PAGE_SIZE)
		return false;
	mem_copy(insn_memory.engine + (gpa - GPA_DATA), data, len);
	return true;
}
static bool no_pio_read(struct cpu *cpu, u16 port, unsigned size, u32 *value)
{
	return false;
}
static bool no_pio_write(struct cpu *cpu, u16 port, unsigned size, u32 value)
{
	return false;
}
static int no_msr_read(struct cpu *cpu, u32 index, u64 *value, bool *handled)
{
	*handled = false;
	return CPU_OK;
}
static int no_msr_write(struct cpu *cpu, u32 index, u64 value, bool *handled)
{
	*handled = false;
	return CPU_OK;
}
static u64 no_cr8_read(struct cpu *cpu)
{
	return 0;
}
static void no_cr8_write(struct cpu *cpu, u64 value)
{
}
static int no_hypercall(struct cpu *cpu)
{
	return CPU_OK;
}
static void no_smm(struct cpu *cpu, bool in_smm)
{
}

static const struct cpu_ops ops = {
	.mmio_read = device_read,
	.mmio_write = device_write,
	.pio_read = no_pio_read,
	.pio_write = no_pio_write,
	.msr_read = no_msr_read,
	.msr_write = no_msr_write,
	.cr8_read = no_cr8_read,
	.cr8_write = no_cr8_write,
	.hypercall = no_hypercall,
	.smm_changed = no_smm,
};

/* A segment register as the processor would load it from the guest's tables. */
static void segment_load(struct cpu_seg *s, u16 sel)
{
	const u8 *table = m.sys + (sel & 4 ? SYS_LDT : SYS_GDT);
	u64 d = *(const u64 *)(table + (sel & ~7u));
	u64 base = s->base;

	*s = (struct cpu_seg){.attr = SEG_ATTR_UNUSABLE, .base = base, .sel = sel};
	if (!(sel & ~3u))
		return;
	s->base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
	s->limit = (d & 0xffff) | (d >> 48 & 15) << 16;
	s->attr = (d >> 40 & 0xff) | (d >> 40 & 0xf000);
	if (s->attr & SEG_ATTR_G)
		s->limit = s->limit << 12 | 0xfff;
}

static int memory_slots(void)
{
	struct mmu_map *map = calloc(1, sizeof(*map) + 3 * sizeof(map->slot[0]));
	struct mmu_map *less = calloc(1, sizeof(*map) + 3 * sizeof(map->slot[0]));

	if (!map || !less || mmu_vm_init(&m.vm) < 0)
		return -1;
	map->count = 3;
	map->slot[0] = (struct mmu_slot){.gpa = 0, .size = SYS_SIZE, .hva = (u64)m.sys, .id = 0};
	map->slot[1] = (struct mmu_slot){
		.gpa = GPA_CODE, .size = INSN_CODE_SIZE, .hva = (u64)insn_memory.code, .id = 1};
	map->slot[2] = (struct mmu_slot){.gpa = GPA_DATA,
					 .size = INSN_DATA_PAGES * PAGE_SIZE,
					 .hva = (u64)insn_memory.engine,
					 .id = 2};
	memcpy(less, map, sizeof(*map) + 2 * sizeof(map->slot[0]));
	less->count = 2;
	m.map[0] = map;
	m.map[1] = less;
	mmu_vm_set_map(&m.vm, 0, map);
	return 0;
}

/* Goes to a mode as a kernel would have set it up. */
static int mode_set(struct cpu *cpu, enum machine_mode mode)
{
	bool legacy = mode == MACHINE_LEGACY;
	u64 at = legacy ? LEGACY_VA : KERNEL_VA;

	m.mode = mode;
	cpu->efer = EFER_SCE | EFER_NX | (legacy ? 0 : EFER_LME | EFER_LMA);
	cpu->gdtr = (struct cpu_dtable){at + (legacy ? SYS_GDT32 : SYS_GDT), 0x7f};
	cpu->idtr = (struct cpu_dtable){at + (legacy ? SYS_IDT32 : SYS_IDT),
					(legacy ? 8 : 16) * 32 - 1};
	cpu->seg[SEG_TR] = (struct cpu_seg){.base = at + (legacy ? SYS_TSS32 : SYS_TSS),
					    .limit = 0x67,
					    .attr = 0xb | SEG_ATTR_P,
					    .sel = 0x40};
	cpu->seg[SEG_LDTR] = (struct cpu_seg){.base = at + SYS_LDT,
					      .limit = LDT_COUNT * 8 - 1,
					      .attr = 2 | SEG_ATTR_P,
					      .sel = 0x50};
	cpu->cpl = 3;
	segment_load(&cpu->seg[SEG_CS], legacy ? 0x23 : 0x33);
	segment_load(&cpu->seg[SEG_SS], 0x2b);
	cpu_mode_update(cpu);
	cpu->cr3 = legacy ? m.legacy_cr3 : mode == MACHINE_KERNEL ? m.kernel_cr3 : SYS_TABLES;
	mmu_set_cr3(cpu, cpu->cr3);
	mmu_flush_all(cpu);
	return legacy ? mmu_load_pdptrs(cpu, cpu->cr3) : 0;
}

static int init(void)
{
	static struct cpu_cpuid cpuid[CPU_CPUID_MAX];
	enum cpu_vendor vendor = CPU_VENDOR_AMD;
	struct cpu *cpu;
	int n;

	m.sys = mmap(NULL, SYS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cpu = mmap(NULL, align_up(sizeof(*cpu), PAGE_SIZE), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m.sys == MAP_FAILED || cpu == MAP_FAILED)
		return -1;
	m.cpu = cpu;
	m.next_table = SYS_TABLES;
	tables_build(SYS_TABLES, PTE_U);
	m.next_table += PAGE_SIZE;
	m.kernel_cr3 = m.next_table;
	tables_build(m.kernel_cr3, 0);
	descriptors_build();
	legacy_build();
	if (memory_slots() < 0)
		return -1;
	cpu->ops = &ops;
	cpu->owner = &m;
	cpu->vendor = vendor;
	n = cpu_cpuid_supported(vendor, cpuid, CPU_CPUID_MAX);
	if (n < 0 || cpu_fpu_init(cpu) < 0 || cpu_cpuid_set(cpu, cpuid, n) < 0)
		return -1;
	if (mmu_cpu_init(cpu, &m.vm) < 0 || jit_cpu_init(cpu, CACHE_BYTES) < 0 ||
	    jit_signal_install() < 0)
		return -1;
	/* the data area, and not the code's */
	if (mmu_window_enable(&m.vm, true) < 0)
		return -1;
	for (unsigned i = 0; i < MMU_WINDOWS; i++)
		if (m.vm.window[i])
			m.window[m.windows++] = m.vm.window[i];
	m.use_loop = cpu->jit->use_loop;
	cpu_reset(cpu, false);
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE |
		   CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_DE | CR4_MCE;
	cpu->xcr0 = cpu_xcr0_supported() & insn_xsave_mask;
	return mode_set(cpu, MACHINE_LONG);
}

/* VARIANT_* of a case. */
static unsigned variant_bits(const struct insn_case *c)
{
	static const u8 bits[INSN_VARIANTS] = {
		0,
		VARIANT_OTHER_BRANCH,
		VARIANT_STEP,
		VARIANT_STEP | VARIANT_OTHER_BRANCH,
		VARIANT_NO_GROUPS,
		VARIANT_NO_GROUPS | VARIANT_OTHER_BRANCH,
		VARIANT_WINDOW,
		VARIANT_WINDOW | VARIANT_OTHER_BRANCH,
		VARIANT_WINDOW | VARIANT_NO_GROUPS,
	};

	return bits[c->variant];
}

/* Windows take turns by the chunk: each shape meets each of the variants that use one. */
static void window_choose(struct cpu *cpu, const struct insn_case *c)
{
	struct mmu_window *w = m.window[(c->number / RUN_CHUNK + c->variant) % m.windows];

	if (cpu->mmu->window != w) {
		window_cpu_destroy(cpu);
		cpu->mmu->window = NULL;
		m.vm.window[0] = w; /* the processor takes the first that is free */
	}
	mmu_window_switched(cpu);
}

static void state_in(struct cpu *cpu, const struct insn_case *c)
{
	memcpy(cpu->gpr, c->in.regs.gpr, sizeof(cpu->gpr));
	cpu->rip = c->ip;
	for (unsigned i = 0; i < 6; i++)
		segment_load(&cpu->seg[i], c->in.regs.sel[i]);
	cpu->seg[SEG_FS].base = c->in.regs.fs_base;
	cpu->seg[SEG_GS].base = c->in.regs.gs_base;
	cpu->cpl = 3;
	if (m.mode == MACHINE_KERNEL) {
		cpu->cpl = 0;
		segment_load(&cpu->seg[SEG_CS], 0x10);
		segment_load(&cpu->seg[SEG_SS], 0x18);
	}
	cpu_rflags_set(cpu, c->in.regs.rflags);
	cpu->cr2 = 0;
	cpu->dr6 = 0xffff0ff0;
	cpu->shadow = 0;
	cpu->exc.pending = false;
	cpu->restart = cpu->mmio.read_wanted = false;
	cpu->mmio.done_count = cpu->mmio.done_next = cpu->mmio.write_count = 0;
	cpu->poll = CPU_GO_ON;
	cpu->irq_window = 1;
	if (variant_bits(c) & VARIANT_WINDOW)
		window_choose(cpu, c);
	cpu->window_paused = !(variant_bits(c) & VARIANT_WINDOW);
	cpu_mode_update(cpu);
	memcpy(cpu->xsave, c->in.xsave, insn_xsave_size);
}

static void state_out(struct cpu *cpu, struct insn_result *out)
{
	static const u32 with_error = 1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 |
				      1u << 14 | 1u << 17 | 1u << 21 | 1u << 29 | 1u << 30;
	bool legacy = m.mode == MACHINE_LEGACY, kernel = m.mode == MACHINE_KERNEL;
	u64 handler = cpu->rip - 1 - ((legacy ? LEGACY_VA : KERNEL_VA) + SYS_HANDLERS);
	const u32 *frame32 = (const u32 *)(m.sys + SYS_STACK_TOP) - 5;
	const u64 *frame = (const u64 *)(m.sys + SYS_STACK_TOP) - 5;

	memcpy(out->regs.gpr, cpu->gpr, sizeof(out->regs.gpr));
	out->regs.fs_base = cpu->seg[SEG_FS].base;
	out->regs.gs_base = cpu->seg[SEG_GS].base;
	out->regs.rip = cpu->rip;
	out->regs.rflags = cpu_rflags(cpu);
	memcpy(out->xsave, cpu->xsave, insn_xsave_size);
	out->error = 0;
	out->cr2 = 0;
	for (unsigned i = 0; i < 6; i++)
		out->regs.sel[i] = cpu->seg[i].sel;
	if (kernel && cpu->exit.reason == CPU_EXIT_HLT && cpu->rip == INSN_STUB_VA + 1) {
		out->vector = INSN_VEC_DONE;
		out->regs.rip = INSN_STUB_VA;
		out->regs.sel[1] = out->regs.sel[1] == 0x10 ? 0x33 : out->regs.sel[1];
		out->regs.sel[2] = out->regs.sel[2] == 0x18 ? 0x2b : out->regs.sel[2];
		return;
	}
	if (cpu->exit.reason != CPU_EXIT_HLT || handler >= 32 * 16 || handler & 15) {
		out->vector = INSN_VEC_BROKEN;
		snprintf(out->why, sizeof(out->why), "%s at rip %llx (exit reason %u: %s)",
			 m.kicked ? "did not end" : "stopped", (unsigned long long)cpu->rip,
			 cpu->exit.reason,
			 cpu->exit.reason == CPU_EXIT_INTERNAL && cpu->exit.internal.why
				 ? cpu->exit.internal.why
				 : "");
		return;
	}
	out->vector = handler / 16;
	if (with_error >> out->vector & 1)
		out->error = legacy ? frame32[-1] : frame[-1];
	if (out->vector == 14)
		out->cr2 = cpu->cr2;
	if (legacy) {
		out->regs.rip = frame32[0];
		out->regs.sel[1] = frame32[1];
		out->regs.rflags = frame32[2];
		out->regs.gpr[RSP] = frame32[3];
		out->regs.sel[2] = frame32[4];
		return;
	}
	out->regs.rip = frame[0];
	out->regs.sel[1] = frame[1];
	out->regs.rflags = frame[2];
	out->regs.gpr[RSP] = frame[3];
	out->regs.sel[2] = frame[4];
	if (kernel) {
		/* what CPL 3 would have seen */
		out->regs.sel[1] = frame[1] == 0x10 ? 0x33 : frame[1];
		out->regs.sel[2] = frame[4] == 0x18 ? 0x2b : frame[4];
		out->error |= out->vector == 14 ? 4 : 0;
	}
	if (out->vector == 13 && frame[0] == INSN_STUB_VA) {
		out->vector = INSN_VEC_DONE;
		out->regs.rflags &= ~FLAG_RF;
		out->error = 0;
	}
}

/* Translates what lies about the case's pointers, and some more. */
static void memory_translate(struct cpu *cpu, const struct insn_case *c)
{
	struct rng r = rng_derive(c->seed, c->number);

	if (cpu->jit->flush_wanted)
		jit_cache_reset(cpu);
	for (unsigned i = 0; i < 20; i++) {
		u64 off = rng_below(&r, INSN_DATA_PAGES * PAGE_SIZE);
		struct mmu_fetched at = {0};
		int ret;

		if (i < 16 && !(c->ptr_mask >> i & 1))
			continue;
		if (i < 16)
			off = c->in.regs.gpr[i] - (mode_segmented(c->mode) ? 0 : INSN_DATA_VA) +
			      rng_below(&r, 128) - 64;
		if (off >= INSN_DATA_PAGES * PAGE_SIZE ||
		    memory_page(off >> PAGE_SHIFT) == PAGE_ABSENT)
			continue;
		at.gpa = GPA_DATA + off;
		at.host = insn_memory.engine + off;
		jit_translate(cpu, &at, INSN_DATA_VA + off, cpu->mode, &ret);
	}
}

static void memory_set(struct cpu *cpu, const struct insn_case *c, enum memory_kind kind)
{
	m.inside = c->number & 1;
	if ((m.memory == MEMORY_MMIO) != (kind == MEMORY_MMIO)) {
		mmu_vm_set_map(&m.vm, 0, m.map[kind == MEMORY_MMIO]);
		mmu_flush_all(cpu);
	}
	m.memory = kind;
	if (kind == MEMORY_COLD)
		mmu_flush_all(cpu);
	if (kind == MEMORY_CODE)
		memory_translate(cpu, c);
}

/* Does what a client of KVM does at an exit for MMIO. `again`: every instruction runs again for its answer. */
static void mmio_exit(struct cpu *cpu, bool again)
{
	struct cpu_mmio *mmio = &cpu->mmio;
	bool inside = m.inside;

	m.inside = true;
	for (unsigned i = 0; i < mmio->write_count; i++)
		device_write(cpu, mmio->write[i].gpa, mmio->write[i].len, mmio->write[i].data);
	mmio->write_count = 0;
	if (mmio->read_wanted && mmio->done_count < CPU_MMIO_FRAGS) {
		device_read(cpu, mmio->want.gpa, mmio->want.len, mmio->want.data);
		if (again || !cpu_mmio_answer(cpu, mmio->want.data)) {
			mmio->done[mmio->done_count++] = mmio->want;
			mmio->read_wanted = false;
			cpu->restart = true;
		}
	}
	m.inside = inside;
}

/* A device cannot be asked for more than CPU_MMIO_FRAGS pieces by one instruction. */
static bool mmio_too_large(const struct cpu *cpu)
{
	return m.memory == MEMORY_MMIO && cpu->exit.reason == CPU_EXIT_INTERNAL &&
	       cpu->exit.internal.why && strstr(cpu->exit.internal.why, "too large");
}

static void run(const struct insn_case *c, struct insn_result *out)
{
	struct cpu *cpu = m.cpu;
	unsigned variant = variant_bits(c);
	enum memory_kind kind = c->number >> 14 & 3;
	enum machine_mode mode = !(c->number >> 12 & 1)		       ? MACHINE_LONG
				 : c->mode != INSN_LONG && !c->far     ? MACHINE_LEGACY
				 : c->kernel && !(c->number >> 13 & 1) ? MACHINE_KERNEL
								       : MACHINE_LONG;

	/* a case that has changed its code cannot begin again (mmio_too_large) */
	if (c->smc && kind == MEMORY_MMIO)
		kind = MEMORY_PLAIN;
	m.kicked = false;
	if (m.mode != mode)
		mode_set(cpu, mode);
	if (cpu->jit->use_loop != (m.use_loop ^ (variant & VARIANT_OTHER_BRANCH)) ||
	    cpu->jit->no_groups != !!(variant & VARIANT_NO_GROUPS)) {
		cpu->jit->use_loop = m.use_loop ^ (variant & VARIANT_OTHER_BRANCH);
		cpu->jit->no_groups = variant & VARIANT_NO_GROUPS;
		jit_flush(cpu);
	}
again:
	memory_set(cpu, c, kind);
	state_in(cpu, c);
	cpu_fpu_load(cpu);
	do {
		cpu->exit.reason = CPU_EXIT_NONE;
		cpu->poll = CPU_GO_ON;
		if (variant & VARIANT_STEP || cpu->restart)
			jit_step(cpu);
		else
			jit_run(cpu);
		if (cpu->exit.reason == CPU_EXIT_MMIO) {
			cpu_fpu_save(cpu);
			mmio_exit(cpu, variant & VARIANT_STEP);
			cpu_fpu_load(cpu);
		}
	} while ((cpu->exit.reason == CPU_EXIT_POLL || cpu->exit.reason == CPU_EXIT_NONE ||
		  cpu->exit.reason == CPU_EXIT_MMIO) &&
		 !m.kicked);
	cpu_fpu_save(cpu);
	if (mmio_too_large(cpu)) {
		memory_restore_engine();
		kind = MEMORY_PLAIN;
		goto again;
	}
	state_out(cpu, out);
}

/* Which CPUID feature an ISA set needs; the engine's own table says it. */
static const u32 feature_of[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
#define ISA(set, feature) [ZYDIS_ISA_SET_##set] = X86_FEATURE_##feature,
#include "jit/isa.def"
#undef ISA
};

static bool masked(unsigned isa_set)
{
	static struct cpu_cpuid cpuid[CPU_CPUID_MAX];
	static struct cpu *cpu;
	int n;

	if (!cpu) {
		cpu = mmap(NULL, align_up(sizeof(*cpu), PAGE_SIZE), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (cpu == MAP_FAILED)
			abort();
		n = cpu_cpuid_supported(CPU_VENDOR_AMD, cpuid, CPU_CPUID_MAX);
		if (n < 0 || cpu_cpuid_set(cpu, cpuid, n) < 0)
			abort();
	}
	return feature_of[isa_set] && !cpu_has(cpu, feature_of[isa_set]);
}

static void flush(void)
{
	jit_flush(m.cpu);
	jit_jump_cache_flush(m.cpu);
}

static void kick(void)
{
	m.kicked = true;
	if (m.cpu)
		__atomic_store_n(&m.cpu->poll, 0, __ATOMIC_RELAXED);
}

const struct engine_ops engine_anykvm = {"anykvm", init, run, flush, kick, masked};
