#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "jit/jit.h"

struct rig rig;

#define PML4 0x100000u
#define PDPT 0x101000u

static u64 cr8_read(struct cpu *cpu)
{
	return rig.cr8;
}

static void cr8_write(struct cpu *cpu, u64 v)
{
	rig.cr8 = v;
}

static void *pages(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

int rig_setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	assert_int_equal(mmu_vm_init(&rig.vm), 0);
	rig.ram = pages(RIG_RAM);
	for (unsigned as = 0; as < 2; as++) {
		rig.map = calloc(1, sizeof(*rig.map) + sizeof(rig.map->slot[0]));
		rig.map->count = 1;
		rig.map->slot[0] =
			(struct mmu_slot){.gpa = 0, .size = RIG_RAM, .hva = (u64)rig.ram};
		assert_null(mmu_vm_set_map(&rig.vm, as, rig.map));
	}
	rig.ops = (struct cpu_ops){.cr8_read = cr8_read, .cr8_write = cr8_write};
	rig.cpu = pages(sizeof(*rig.cpu));
	rig.cpu->ops = &rig.ops;
	rig.cpu->smbase = 0x30000;
	assert_int_equal(cpu_fpu_init(rig.cpu), 0);
	assert_int_equal(jit_cpu_init(rig.cpu, 1 << 20), 0);
	assert_int_equal(mmu_cpu_init(rig.cpu, &rig.vm), 0);
	rig_vendor(CPU_VENDOR_INTEL);
	return 0;
}

int rig_teardown(void **state)
{
	jit_cpu_destroy(rig.cpu);
	cpu_fpu_destroy(rig.cpu);
	mmu_cpu_destroy(rig.cpu);
	munmap(rig.cpu, sizeof(*rig.cpu));
	for (unsigned as = 0; as < 2; as++)
		free(mmu_vm_set_map(&rig.vm, as, NULL));
	mmu_vm_destroy(&rig.vm);
	munmap(rig.ram, RIG_RAM);
	return 0;
}

void rig_vendor(enum cpu_vendor vendor)
{
	struct cpu_cpuid list[CPU_CPUID_MAX];
	int n = cpu_cpuid_supported(vendor, list, CPU_CPUID_MAX);

	assert_true(n > 0);
	assert_int_equal(cpu_cpuid_set(rig.cpu, list, (unsigned)n), 0);
	assert_int_equal(rig.cpu->vendor, vendor);
	cpu_reset(rig.cpu, false);
}

static void segments(u32 code)
{
	struct cpu_seg s = {.limit = 0xffffffff, .attr = 0xc093, .sel = 0x10};

	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		rig.cpu->seg[i] = s;
	rig.cpu->seg[SEG_CS].attr = code;
	rig.cpu->seg[SEG_CS].sel = 8;
}

void rig_long(void)
{
	struct cpu *cpu = rig.cpu;
	u64 e = PDPT | 7, leaf = 0x87;

	memcpy(rig.ram + PML4, &e, 8);
	memcpy(rig.ram + PDPT, &leaf, 8);
	segments(0xa09b);
	cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_SCE;
	cpu->cr3 = PML4;
	cpu->xcr0 = cpu_xcr0_allowed(cpu);
	cpu->rip = 0x1000;
	mmu_set_cr3(cpu, PML4);
	mmu_flush_all(cpu);
	cpu_mode_update(cpu);
}

void rig_flat32(void)
{
	struct cpu *cpu = rig.cpu;

	segments(0xc09b);
	cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
	cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu->efer = 0;
	cpu->xcr0 = cpu_xcr0_allowed(cpu);
	cpu->rip = 0x1000;
	mmu_flush_all(cpu);
	cpu_mode_update(cpu);
}

void rig_cpl(unsigned cpl)
{
	rig.cpu->cpl = (u8)cpl;
	cpu_mode_update(rig.cpu);
}

struct cpu_insn rig_reg_insn(unsigned reg, unsigned rm)
{
	return (struct cpu_insn){.len = 3,
				 .opsize = 8,
				 .addrsize = 8,
				 .reg = (u8)reg,
				 .rm = (u8)rm,
				 .has_modrm = true,
				 .seg = SEG_DS,
				 .base = -1,
				 .index = -1};
}

struct cpu_insn rig_mem_insn(u64 address, unsigned opsize)
{
	struct cpu_insn in = rig_reg_insn(0, 0);

	in.mem = true;
	in.opsize = (u8)opsize;
	in.disp = (s64)address;
	return in;
}
