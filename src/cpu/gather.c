/*
 * gather.c - vector gathers and scatters
 *
 * Their elements have addresses of their own, so the host cannot execute them on guest addresses.
 * The guest's vector state is taken out of the registers, elements are moved one by one in order,
 * and a fault leaves the lower elements done and their mask bits cleared, as the manuals demand.
 * A single-step trap that those owe comes before the fault, with RIP still at the instruction.
 * Alignment is not checked.
 *
 * in->reg: data vector; in->rm: index vector; in->imm2: mask vector (VEX) or opmask (EVEX);
 * in->opsize: bytes of a data element; in->imm: see the macros.
 */
#include "base/mem.h"
#include "cpu/fpu.h"
#include "cpu/gather.h"
#include "cpu/insn.h"
#include "mmu/mmu.h"

#define COMP_AVX       2
#define COMP_OPMASK    5
#define COMP_ZMM_HI256 6
#define COMP_HI16_ZMM  7

static void find_offsets(struct cpu *cpu)
{
	for (u32 i = COMP_AVX; i <= COMP_HI16_ZMM; i++) {
		u32 a = 0xd, b, c = i, d;

		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		cpu->xsave_offset[i] = (u16)b;
	}
}

/* Bytes [byte, …) of a vector register in the saved image, to the end of their 16-byte part. */
static u8 *vector_at(struct cpu *cpu, unsigned reg, unsigned byte)
{
	u8 *image = cpu->xsave;

	if (reg >= 16)
		return image + cpu->xsave_offset[COMP_HI16_ZMM] + 64 * (reg - 16) + byte;
	if (byte < 16)
		return image + 160 + 16 * reg + byte;
	if (byte < 32)
		return image + cpu->xsave_offset[COMP_AVX] + 16 * reg + byte - 16;
	return image + cpu->xsave_offset[COMP_ZMM_HI256] + 32 * reg + byte - 32;
}

static bool mask_get(struct cpu *cpu, const struct cpu_insn *in, unsigned i)
{
	if (in->imm & GATHER_EVEX)
		return mem_load((u8 *)cpu->xsave + cpu->xsave_offset[COMP_OPMASK] + 8 * in->imm2,
				8) >>
			       i &
		       1;
	return *(vector_at(cpu, in->imm2, i * in->opsize) + in->opsize - 1) & 0x80;
}

static void mask_clear(struct cpu *cpu, const struct cpu_insn *in, unsigned i)
{
	if (in->imm & GATHER_EVEX) {
		u8 *k = (u8 *)cpu->xsave + cpu->xsave_offset[COMP_OPMASK] + 8 * in->imm2;

		mem_store(k, mem_load(k, 8) & ~BIT64(i), 8);
	} else {
		mem_store(vector_at(cpu, in->imm2, i * in->opsize), 0, in->opsize);
	}
}

static void zero_from(struct cpu *cpu, unsigned reg, unsigned byte)
{
	for (; byte < 64; byte += 4)
		if (byte < 32 || cpu->xsave_offset[COMP_ZMM_HI256])
			mem_store(vector_at(cpu, reg, byte), 0, 4);
}

static int element(struct cpu *cpu, const struct cpu_insn *in, unsigned i)
{
	unsigned index_size = GATHER_INDEX_SIZE(in->imm);
	u64 index = mem_load(vector_at(cpu, in->rm, i * index_size), index_size);
	u64 off = (in->base < 0 ? 0 : cpu->gpr[in->base]) + (u64)in->disp;
	u8 *data = vector_at(cpu, in->reg, i * in->opsize);
	u64 lin;
	int ret;

	if (index_size == 4)
		index = (u64)(s64)(s32)index;
	off += index * in->scale;
	if (in->addrsize == 4)
		off = (u32)off;
	if (in->imm & GATHER_SCATTER) {
		ret = cpu_linear(cpu, in->seg, off, in->opsize, MMU_WRITE, &lin);
		return ret ? ret
			   : mmu_write(cpu, lin, data, in->opsize,
				       MMU_WRITE | MMU_AS_VIEW | MMU_UNALIGNED);
	}
	ret = cpu_linear(cpu, in->seg, off, in->opsize, MMU_READ, &lin);
	return ret ? ret
		   : mmu_read(cpu, lin, data, in->opsize, MMU_READ | MMU_AS_VIEW | MMU_UNALIGNED);
}

int insn_gather(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned width = GATHER_WIDTH(in->imm);
	unsigned n = width / MAX((unsigned)in->opsize, GATHER_INDEX_SIZE(in->imm));
	bool touched = false;
	int ret = CPU_OK;

	if (!cpu->xsave_offset[COMP_AVX])
		find_offsets(cpu);
	cpu_fpu_save(cpu);
	/* the components that are written below are in use from now on */
	u8 *bv = (u8 *)cpu->xsave + 512;

	mem_store(bv, mem_load(bv, 8) | (cpu_fpu_mask() & (in->imm & GATHER_EVEX ? 0xe6 : 0x46)),
		  8);
	for (unsigned i = 0; i < n && !ret; i++) {
		if (mask_get(cpu, in, i)) {
			ret = element(cpu, in, i);
			touched |= !ret;
			/* devices' answers belong to the element that asked */
			if (!ret)
				cpu->mmio.done_count = cpu->mmio.done_next = 0;
		}
		if (!ret)
			mask_clear(cpu, in, i);
	}
	if ((!ret || touched) && !(in->imm & GATHER_SCATTER))
		zero_from(cpu, in->reg, n * in->opsize);
	if (!ret) {
		if (in->imm & GATHER_EVEX)
			mem_store((u8 *)cpu->xsave + cpu->xsave_offset[COMP_OPMASK] + 8 * in->imm2,
				  0, 8);
		else
			zero_from(cpu, in->imm2, 0);
		cpu_insn_done(cpu, in);
	}
	cpu_fpu_load(cpu);
	if (ret == CPU_EXC && touched && (cpu->rflags & FLAG_TF)) {
		cpu->exc.pending = false;
		cpu->rflags &= ~FLAG_RF;
		return CPU_OK;
	}
	return ret;
}
