#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct rig rig;

/* --- the layers that are not here ------------------------------------------------------------- */

int cpu_raise_err(struct cpu *cpu, unsigned vector, u32 error)
{
	cpu->exc = (struct cpu_exc){
		.pending = true, .vector = (u8)vector, .has_error = true, .error = error};
	return CPU_EXC;
}

int cpu_raise_pf(struct cpu *cpu, u64 address, u32 error)
{
	cpu_raise_err(cpu, EXC_PF, error);
	cpu->exc.payload = address;
	return CPU_EXC;
}

void jit_flush(struct cpu *cpu)
{
	rig.jit_flushes++;
}

void jit_invalidate(struct cpu *cpu, u64 gpa, unsigned n)
{
	if (rig.on_invalidate) {
		rig.on_invalidate(cpu, gpa, n);
		return;
	}
	rig.invalidated++;
	rig.inv_cpu = cpu;
	rig.inv_gpa = gpa;
	rig.inv_len = n;
}

/* No test here has a window. */
void jit_cross_links_drop(struct cpu *cpu)
{
}

void jit_cross_links_drop_page(struct cpu *cpu, u64 page)
{
}

void jit_jump_cache_flush(struct cpu *cpu)
{
	rig.jc_flushes++;
}

void jit_jump_cache_flush_guest(struct cpu *cpu)
{
}

void jit_jump_cache_flush_window(struct cpu *cpu)
{
}

void jit_jump_cache_flush_local(struct cpu *cpu)
{
	rig.jc_flushes++;
}

void jit_jump_cache_flush_page(struct cpu *cpu, u64 page, unsigned shift)
{
	rig.jc_flushes++;
}

static bool device_read(struct cpu *cpu, u64 gpa, unsigned len, void *data)
{
	if (!rig.device_inside || gpa - RIG_DEVICE >= 0x100)
		return false;
	rig.device_reads++;
	rig.dev_gpa = gpa;
	memset(data, rig.dev_byte, len);
	return true;
}

static bool device_write(struct cpu *cpu, u64 gpa, unsigned len, const void *data)
{
	if (!rig.device_inside || gpa - RIG_DEVICE >= 0x100)
		return false;
	rig.device_writes++;
	rig.dev_gpa = gpa;
	return true;
}

static const struct cpu_ops ops = {.mmio_read = device_read, .mmio_write = device_write};

/* ------------------------------------------------------------------------------------------------ */

static void *pages(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

void rig_feature(struct cpu *cpu, enum cpu_feature f, bool on)
{
	unsigned n = feature_number(f);

	cpu->features[n >> 6] = (cpu->features[n >> 6] & ~BIT64(n & 63)) | (u64)on << (n & 63);
}

void rig_make(unsigned cpus)
{
	memset(&rig, 0, sizeof(rig));
	assert_int_equal(mmu_vm_init(&rig.vm), 0);
	rig.ram = pages(RIG_RAM);
	rig.rom = pages(RIG_ROM_SIZE);
	rig.map = calloc(1, sizeof(*rig.map) + 3 * sizeof(rig.map->slot[0]));
	rig.map->count = 3;
	rig.map->slot[0] = (struct mmu_slot){0, RIG_RAM / 2, (u64)rig.ram, 0, 0, NULL, NULL};
	rig.map->slot[1] = (struct mmu_slot){RIG_ROM_GPA,	RIG_ROM_SIZE, (u64)rig.rom, 1,
					     MMU_SLOT_READONLY, NULL,	      NULL};
	rig.map->slot[2] = (struct mmu_slot){
		RIG_HIGH_GPA, RIG_RAM / 2, (u64)rig.ram + RIG_RAM / 2, 2, 0, NULL, NULL};
	assert_null(mmu_vm_set_map(&rig.vm, 0, rig.map));
	for (unsigned i = 0; i < cpus; i++) {
		struct cpu *cpu = rig.cpu[i] = pages(sizeof(*cpu));

		cpu->index = i;
		cpu->ops = &ops;
		cpu->poll = CPU_GO_ON;
		cpu->phys_reserved = 0x000fff0000000000ull; /* MAXPHYADDR 40 */
		cpu->rflags = 2;
		rig_feature(cpu, X86_FEATURE_GBPAGES, true);
		rig_feature(cpu, X86_FEATURE_PSE36, true);
		assert_int_equal(mmu_cpu_init(cpu, &rig.vm), 0);
		rig_cpl(cpu, 0);
	}
	rig.next_table = RIG_PT;
}

void rig_free(void)
{
	for (unsigned i = 0; i < RIG_CPUS; i++)
		if (rig.cpu[i]) {
			mmu_cpu_destroy(rig.cpu[i]);
			munmap(rig.cpu[i], sizeof(struct cpu));
		}
	mmu_vm_destroy(&rig.vm);
	free(rig.map);
	munmap(rig.ram, RIG_RAM);
	munmap(rig.rom, RIG_ROM_SIZE);
}

void rig_cpl(struct cpu *cpu, unsigned cpl)
{
	unsigned view = cpl == 3					    ? MMU_TLB_USER
			: (cpu->cr4 & CR4_SMAP) && !(cpu->rflags & FLAG_AC) ? MMU_TLB_KERNEL
									    : MMU_TLB_KERNEL_AC;

	cpu->cpl = (u8)cpl;
	cpu->mode = (cpu->mode & ~MODE_VIEW) | view << MODE_VIEW_SHIFT;
}

static u64 new_table(void)
{
	u64 t = rig.next_table;

	rig.next_table += 4096;
	memset(rig.ram + t, 0, 4096);
	return t;
}

void rig_long(struct cpu *cpu)
{
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	cpu->cr4 = CR4_PAE | CR4_PGE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NX;
	cpu->cr3 = new_table();
	rig_cpl(cpu, 0);
}

static u64 *walk_to(struct cpu *cpu, u64 lin, unsigned to)
{
	u64 table = cpu->cr3 & PAGE_MASK;

	for (unsigned level = 4;; level--) {
		u64 *e = (u64 *)(rig.ram + table) + ((lin >> (12 + 9 * (level - 1))) & 511);

		if (level == to || (level < 4 && (*e & PS) && (*e & P)))
			return e;
		if (!(*e & P))
			*e = new_table() | P | W | U;
		table = *e & 0x000ffffffffff000ull;
	}
}

void rig_map(struct cpu *cpu, u64 lin, u64 gpa, u64 size, u64 flags)
{
	unsigned level = size == PAGE_SIZE ? 1 : size == 2 << 20 ? 2 : 3;

	*walk_to(cpu, lin, level) = gpa | flags | (level > 1 ? PS : 0);
}

u64 *rig_pte(struct cpu *cpu, u64 lin)
{
	return walk_to(cpu, lin, 1);
}

bool rig_hit(struct cpu *cpu, u64 lin, unsigned n, bool write)
{
	struct mmu_tlb *t = &cpu->tlb[cpu_mode_view(cpu)];
	unsigned i = (lin >> 12) & (MMU_TLB_SIZE - 1);

	mmu_view_begin(
		cpu,
		cpu_mode_view(cpu)); /* as the translator does before there is code that asks */
	return ((write ? t->wtag[i] : t->rtag[i]) + lin + n - 1) >> 12 == 1;
}
