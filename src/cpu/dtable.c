/*
 * dtable.c - the descriptor-table registers, and the instructions that drop cached translations
 */
#include "base/mem.h"
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "mmu/mmu.h"

static int gp(struct cpu *cpu)
{
	return cpu_raise_err(cpu, EXC_GP, 0);
}

/* Limit and base: 8 bytes of base in 64-bit mode, else 4, of which a 16-bit LGDT takes 3. */
static int dtable_load(struct cpu *cpu, const struct cpu_insn *in, struct cpu_dtable *table)
{
	bool wide = cpu_is_64bit(cpu);
	u8 image[10];
	u64 base;
	int ret;

	if (!in->mem)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	ret = cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), image, wide ? 10 : 6);
	if (ret)
		return ret;
	base = mem_load(image + 2, wide ? 8 : 4);
	if (wide && !cpu_is_canonical(cpu, base))
		return gp(cpu);
	if (!wide && in->opsize == 2)
		base &= 0xffffff;
	table->limit = (u16)mem_load(image, 2);
	table->base = base;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

static int dtable_store(struct cpu *cpu, const struct cpu_insn *in, const struct cpu_dtable *table)
{
	bool wide = cpu_is_64bit(cpu);
	u8 image[10];
	int ret;

	if (!in->mem)
		return cpu_raise(cpu, EXC_UD);
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl)
		return gp(cpu);
	mem_store(image, table->limit, 2);
	mem_store(image + 2, table->base, 8);
	ret = cpu_write(cpu, in->seg, cpu_insn_offset(cpu, in), image, wide ? 10 : 6);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

int insn_lgdt(struct cpu *cpu, const struct cpu_insn *in)
{
	return dtable_load(cpu, in, &cpu->gdtr);
}

int insn_lidt(struct cpu *cpu, const struct cpu_insn *in)
{
	return dtable_load(cpu, in, &cpu->idtr);
}

int insn_sgdt(struct cpu *cpu, const struct cpu_insn *in)
{
	return dtable_store(cpu, in, &cpu->gdtr);
}

int insn_sidt(struct cpu *cpu, const struct cpu_insn *in)
{
	return dtable_store(cpu, in, &cpu->idtr);
}

/* --- translations ---------------------------------------------------------------------------- */

/* The operand is an address, not an access: no limit or type is checked. */
int insn_invlpg(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 lin = cpu_insn_offset(cpu, in);

	if (!in->mem)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	if (!cpu_is_64bit(cpu))
		lin = (u32)(lin + cpu->seg[in->seg].base);
	else if (in->seg >= SEG_FS)
		lin += cpu->seg[in->seg].base;
	if (cpu_is_canonical(cpu, lin))
		mmu_flush_page(cpu, lin);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

int insn_invpcid(struct cpu *cpu, const struct cpu_insn *in)
{
	bool wide = cpu_is_64bit(cpu);
	u64 type = wide ? cpu->gpr[in->reg] : (u32)cpu->gpr[in->reg], desc[2];
	int ret;

	if (!cpu_has(cpu, X86_FEATURE_INVPCID) || !in->mem)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	ret = cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), desc, 16);
	if (ret)
		return ret;
	if (type > INVPCID_ALL_NONGLOBAL || desc[0] >> 12)
		return gp(cpu);
	if (type <= INVPCID_CONTEXT && desc[0] && !(cpu->cr4 & CR4_PCIDE))
		return gp(cpu);
	switch (type) {
	case INVPCID_ADDRESS:
		if (!cpu_is_canonical(cpu, desc[1]))
			return gp(cpu);
		mmu_flush_page_pcid(cpu, desc[1], (unsigned)desc[0]);
		break;
	case INVPCID_CONTEXT:
		mmu_flush_pcid(cpu, (unsigned)desc[0]);
		break;
	case INVPCID_ALL:
		mmu_flush_all(cpu);
		break;
	case INVPCID_ALL_NONGLOBAL:
		mmu_flush_nonglobal(cpu);
		break;
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* Guest memory is coherent host memory: there is nothing to write back or to lose. */
int insn_wbinvd(struct cpu *cpu, const struct cpu_insn *in)
{
	if (cpu->cpl)
		return gp(cpu);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_invd(struct cpu *cpu, const struct cpu_insn *in)
{
	return insn_wbinvd(cpu, in);
}
