/*
 * machine.c - the fake memory, ports and the fixed tables
 */
#include <errno.h>
#include "machine.h"

static struct machine *of(struct cpu *cpu)
{
	return CONTAINER_OF(cpu, struct machine, cpu);
}

/* No counters. */
u32 cpu_pmu_mode(struct cpu *cpu)
{
	return 0;
}

/* --- memory ------------------------------------------------------------------------------------ */

static int check(struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	struct machine *m = of(cpu);
	u32 user = !(access & MMU_SYSTEM) && cpu->cpl == 3 ? 4 : 0;

	for (unsigned i = 0; i < n; i++) {
		u64 a = lin + i;

		if (a >= MEM_SIZE || (m->page[a >> 12] & PAGE_ABSENT))
			return cpu_raise_pf(cpu, a, (access & MMU_WRITE ? 2 : 0) | user);
		if ((access & MMU_WRITE) && (m->page[a >> 12] & PAGE_READONLY))
			return cpu_raise_pf(cpu, a, 3 | user);
		if (m->page[a >> 12] & PAGE_HOSTFAULT)
			return cpu_exit_set(cpu, CPU_EXIT_MEMFAULT);
	}
	return CPU_OK;
}

int mmu_probe(struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	return check(cpu, lin, n, access);
}

int mmu_read(struct cpu *cpu, u64 lin, void *buf, unsigned n, unsigned access)
{
	struct machine *m = of(cpu);
	int ret = check(cpu, lin, n, access);

	if (ret)
		return ret;
	if (m->page[lin >> 12] & PAGE_DEVICE) {
		if (cpu->mmio.done_next < cpu->mmio.done_count) {
			memcpy(buf, cpu->mmio.done[cpu->mmio.done_next++].data, n);
			return CPU_OK;
		}
		cpu->mmio.read_wanted = true;
		return cpu_exit_set(cpu, CPU_EXIT_MMIO);
	}
	memcpy(buf, m->mem + lin, n);
	return CPU_OK;
}

int mmu_write(struct cpu *cpu, u64 lin, const void *buf, unsigned n, unsigned access)
{
	struct machine *m = of(cpu);
	int ret = check(cpu, lin, n, access);

	if (ret)
		return ret;
	if (m->page[lin >> 12] & PAGE_DEVICE) {
		struct cpu_mmio_frag *f = &cpu->mmio.write[cpu->mmio.write_count++];

		assert_true(cpu->mmio.write_count <= CPU_MMIO_FRAGS);
		f->gpa = lin;
		f->len = (u8)n;
		memcpy(f->data, buf, n);
		cpu->exit.reason = CPU_EXIT_MMIO;
		return CPU_OK;
	}
	m->writes++;
	memcpy(m->mem + lin, buf, n);
	return CPU_OK;
}

int mmu_cmpxchg(struct cpu *cpu, u64 lin, u64 *old, u64 new, unsigned n, bool *done,
		unsigned access)
{
	struct machine *m = of(cpu);
	int ret = check(cpu, lin, n, access | MMU_WRITE);
	u64 now = 0;

	if (ret)
		return ret;
	memcpy(&now, m->mem + lin, n);
	*done = now == *old;
	*old = now;
	if (*done)
		memcpy(m->mem + lin, &new, n);
	return CPU_OK;
}

int mmu_host(struct cpu *cpu, u64 lin, unsigned access, u8 **host, unsigned *avail)
{
	struct machine *m = of(cpu);
	int ret = check(cpu, lin, 1, access);

	if (ret)
		return ret;
	m->host_calls++;
	*host = m->page[lin >> 12] & (PAGE_SLOW | PAGE_DEVICE) ? NULL : m->mem + lin;
	*avail = 4096 - (lin & 4095);
	return CPU_OK;
}

/* Slow pages are memory that holds code; devices are in no slot. */
int mmu_walk(struct cpu *cpu, u64 lin, unsigned access, bool debug, struct mmu_walk *out,
	     struct mmu_fault *fault)
{
	out->gpa = lin;
	return lin >= MEM_SIZE || (of(cpu)->page[lin >> 12] & PAGE_ABSENT) ? -1 : 0;
}

struct mmu_slot *mmu_slot_find(struct cpu *cpu, u64 gpa)
{
	struct machine *m = of(cpu);

	m->slot = (struct mmu_slot){.size = MEM_SIZE, .hva = (u64)m->mem};
	return m->page[gpa >> 12] & PAGE_DEVICE ? NULL : &m->slot;
}

int hostmem_copy(void *dst, const void *src, size_t n)
{
	memmove(dst, src, n);
	return 0;
}

int mmu_load_pdptrs(struct cpu *cpu, u64 cr3)
{
	return cr3 == 0xbad000 ? -1 : 0;
}

void mmu_set_cr3(struct cpu *cpu, u64 value)
{
	cpu->cr3 = value;
}

/* The instructions that other files of src/cpu hold. */
#define INSN(name, fn)                                                           \
	__attribute__((weak)) int fn(struct cpu *cpu, const struct cpu_insn *in) \
	{                                                                        \
		return cpu_raise(cpu, EXC_UD);                                   \
	}
#include "cpu/insn.def"
#undef INSN

static bool port_read(struct cpu *cpu, u16 port, unsigned size, u32 *value)
{
	struct machine *m = of(cpu);

	if (m->port_answers) {
		m->port_reads++;
		*value = m->port_value++;
	}
	return m->port_answers;
}

static bool port_write(struct cpu *cpu, u16 port, unsigned size, u32 value)
{
	struct machine *m = of(cpu);

	if (m->port_answers) {
		m->port_writes++;
		m->port_value = value;
	}
	return m->port_answers;
}

static const struct cpu_ops ops = {.pio_read = port_read, .pio_write = port_write};

u64 machine_get(struct machine *m, u32 at, unsigned n)
{
	u64 v = 0;

	memcpy(&v, m->mem + at, n);
	return v;
}

void machine_put(struct machine *m, u32 at, u64 v, unsigned n)
{
	memcpy(m->mem + at, &v, n);
}

/* --- tables ------------------------------------------------------------------------------------ */

u64 machine_desc(u32 base, u32 limit, u32 attr)
{
	if (attr & SEG_ATTR_G)
		limit >>= 12;
	return (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 |
	       (u64)(limit >> 16 & 15) << 48 | (u64)(base >> 24) << 56;
}

void machine_gdt(struct machine *m, u16 sel, u64 lo, u64 hi)
{
	machine_put(m, AT_GDT + (sel & ~7u), lo, 8);
	if (hi != ~0ull)
		machine_put(m, AT_GDT + (sel & ~7u) + 8, hi, 8);
}

u64 machine_gdt_get(struct machine *m, u16 sel)
{
	return machine_get(m, AT_GDT + (sel & ~7u), 8);
}

void machine_gate(struct machine *m, unsigned vector, u16 sel, u64 off, u8 type_dpl_p, u8 ist)
{
	u64 lo = (off & 0xffff) | (u64)sel << 16 | (u64)ist << 32 | (u64)type_dpl_p << 40 |
		 (off >> 16 & 0xffff) << 48;

	if (cpu_is_long(&m->cpu)) {
		machine_put(m, AT_IDT + 16 * vector, lo, 8);
		machine_put(m, AT_IDT + 16 * vector + 8, off >> 32, 8);
	} else {
		machine_put(m, AT_IDT + 8 * vector, lo, 8);
	}
}

static struct cpu_seg load(struct machine *m, u16 sel)
{
	struct seg_desc d = {.lo = machine_gdt_get(m, sel)};

	d.attr = seg_desc_attr(d.lo);
	return seg_from_desc(sel, &d);
}

static struct machine *machine_new(void)
{
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) & ~63ul);

	assert_non_null(m);
	memset(m, 0, sizeof(*m));
	m->cpu.ops = &ops;
	m->cpu.poll = 1;
	m->cpu.irq_window = 1;
	m->cpu.rip = AT_CODE;
	m->cpu.gpr[RSP] = AT_STACK0 - 0x100;
	m->cpu.dr6 = 0xffff0ff0;
	m->cpu.dr7 = 0x400;
	m->cpu.vendor = CPU_VENDOR_INTEL;
	cpu_rflags_set(&m->cpu, 2 | FLAG_IF);
	return m;
}

struct machine *machine_real(void)
{
	struct machine *m = machine_new();

	for (unsigned i = 0; i < 6; i++)
		m->cpu.seg[i] = (struct cpu_seg){.limit = 0xffff, .attr = 0x93};
	m->cpu.seg[SEG_CS].attr = 0x9b;
	m->cpu.rip = 0x100;
	m->cpu.seg[SEG_CS].sel = AT_CODE >> 4;
	m->cpu.seg[SEG_CS].base = AT_CODE;
	m->cpu.idtr.limit = 0x3ff;
	cpu_mode_update(&m->cpu);
	return m;
}

static void tables(struct machine *m, bool lma)
{
	u32 code = lma ? 0xa09b : 0xc09b;

	m->cpu.gdtr = (struct cpu_dtable){AT_GDT, 0xff};
	m->cpu.idtr = (struct cpu_dtable){AT_IDT, lma ? 0xfff : 0x7ff};
	machine_gdt(m, CS0, machine_desc(0, ~0u, code), ~0ull);
	machine_gdt(m, DS0, machine_desc(0, ~0u, 0xc093), ~0ull);
	machine_gdt(m, CS3, machine_desc(0, ~0u, code | 0x60), ~0ull);
	machine_gdt(m, DS3, machine_desc(0, ~0u, 0xc0f3), ~0ull);
	machine_gdt(m, SEL_TSS, machine_desc(AT_TSS, 0x3ff, 0x8b), 0);
	machine_gdt(m, CS0C, machine_desc(0, ~0u, code | 4), ~0ull);
	machine_gdt(m, SEL_NP, machine_desc(0, ~0u, 0xc013), ~0ull);
	machine_gdt(m, SEL_LDT, machine_desc(0x5000, 0xff, 0x82), 0);
	machine_gdt(m, SEL_TSS2, machine_desc(AT_TSS2, 103, 0x89), 0);
	machine_gdt(m, CS16, machine_desc(0, 0xffff, 0x9b), ~0ull);
	machine_gdt(m, SEL_RO, machine_desc(0, ~0u, 0xc0f1), ~0ull);
	machine_gdt(m, SEL_XO, machine_desc(0, ~0u, 0xc099), ~0ull);
	machine_gdt(m, SEL_DOWN, machine_desc(0, 0xfff, 0x4097), ~0ull);
	m->cpu.seg[SEG_TR] = load(m, SEL_TSS);
	m->cpu.seg[SEG_LDTR] = seg_from_null(0, 0);
	m->cpu.cr0 = CR0_PE | CR0_ET | CR0_NE;
	if (lma) {
		machine_put(m, AT_TSS + 4, AT_STACK0, 8);
		machine_put(m, AT_TSS + 36, AT_IST1, 8);
	} else {
		machine_put(m, AT_TSS + 4, AT_STACK0, 4);
		machine_put(m, AT_TSS + 8, DS0, 2);
	}
}

static void enter(struct machine *m, unsigned cpl)
{
	struct cpu *cpu = &m->cpu;
	u16 ds = cpl ? DS3 : DS0;

	cpu->seg[SEG_CS] = load(m, cpl ? CS3 : CS0);
	cpu->seg[SEG_SS] = cpu->seg[SEG_DS] = cpu->seg[SEG_ES] = load(m, ds);
	cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = load(m, ds);
	cpu->cpl = (u8)cpl;
	if (cpl)
		cpu->gpr[RSP] = AT_STACK3 - 0x100;
	cpu_mode_update(cpu);
}

struct machine *machine_prot(unsigned cpl)
{
	struct machine *m = machine_new();

	tables(m, false);
	enter(m, cpl);
	return m;
}

struct machine *machine_long(unsigned cpl)
{
	struct machine *m = machine_new();

	m->cpu.efer = EFER_LMA | EFER_LME | EFER_SCE;
	m->cpu.cr4 = CR4_PAE;
	tables(m, true);
	m->cpu.cr0 |= CR0_PG;
	enter(m, cpl);
	return m;
}

struct machine *machine_v86(unsigned iopl)
{
	struct machine *m = machine_new();
	struct cpu *cpu = &m->cpu;

	tables(m, false);
	cpu->rflags |= FLAG_VM | (u64)iopl << FLAG_IOPL_SHIFT;
	for (unsigned i = 0; i < 6; i++)
		cpu->seg[i] = seg_from_real(cpu, i, (u16)(0x600 + i));
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, AT_CODE >> 4);
	cpu->rip = 0x100;
	cpu->gpr[RSP] = 0x800;
	cpu->cpl = 3;
	cpu_mode_update(cpu);
	return m;
}

void machine_free(struct machine *m)
{
	free(m);
}

struct cpu_insn machine_insn(struct machine *m, unsigned opsize)
{
	return (struct cpu_insn){
		.len = 2,
		.opsize = (u8)opsize,
		.addrsize = m->cpu.mode & MODE_LONG   ? 8
			    : m->cpu.mode & MODE_CS32 ? 4
						      : 2,
		.seg = SEG_DS,
		.base = -1,
		.index = -1,
	};
}
