/*
 * operand.c - registers, memory operands and the stack, as C instructions see them
 *
 * Fast cases first: 64-bit mode and flat segments cost an addition and a canonical check; only
 * real, virtual-8086 and truly segmented code reaches the descriptor checks of seg.c.
 */
#include "base/mem.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

const cpu_insn_fn cpu_insn_table[CPU_OP_COUNT] = {
#define INSN(name, fn) [CPU_OP_##name] = fn,
#include "cpu/insn.def"
#undef INSN
};

const char *const cpu_insn_name[CPU_OP_COUNT] = {
#define INSN(name, fn) [CPU_OP_##name] = #name,
#include "cpu/insn.def"
#undef INSN
};

void cpu_insn_done(struct cpu *cpu, const struct cpu_insn *in)
{
	cpu->rip = seg_next_rip(cpu, in->len);
	cpu->rflags &= ~FLAG_RF;
	cpu->shadow = 0;
}

u64 cpu_insn_offset(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 off = (u64)in->disp + (in->rip_relative ? cpu->rip : 0);

	if (in->base >= 0)
		off += cpu->gpr[in->base];
	if (in->index >= 0)
		off += cpu->gpr[in->index] * in->scale;
	if (in->addrsize == 2)
		return (u16)off;
	if (in->addrsize == 4)
		return (u32)off;
	return off;
}

int cpu_linear(struct cpu *cpu, unsigned seg, u64 offset, unsigned n, unsigned access, u64 *lin)
{
	u32 mode = cpu->mode;
	u64 a;

	if (mode & MODE_LONG) {
		a = offset + (seg >= SEG_FS ? cpu->seg[seg].base : 0);
		if (UNLIKELY(!cpu_is_canonical(cpu, a) || !cpu_is_canonical(cpu, a + n - 1) ||
			     (seg >= SEG_FS && !cpu_offset_ok(cpu, offset, n))))
			return cpu_raise_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
	} else {
		if (!((mode & MODE_FLAT) && seg <= SEG_DS && seg != SEG_CS) &&
		    !((mode & MODE_FS_FLAT) && seg == SEG_FS) &&
		    !((mode & MODE_GS_FLAT) && seg == SEG_GS) &&
		    !seg_access_ok(cpu, seg, offset, n, access))
			return cpu_raise_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
		else if (UNLIKELY(offset + n - 1 > 0xffffffff))
			return cpu_raise_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
		a = (u32)(cpu->seg[seg].base + offset);
	}
	*lin = a;
	return CPU_OK;
}

int cpu_read(struct cpu *cpu, unsigned seg, u64 offset, void *buf, unsigned n)
{
	u64 lin = 0;
	int ret = cpu_linear(cpu, seg, offset, n, MMU_READ, &lin);

	return ret ? ret : mmu_read(cpu, lin, buf, n, MMU_READ | MMU_AS_VIEW);
}

int cpu_write(struct cpu *cpu, unsigned seg, u64 offset, const void *buf, unsigned n)
{
	u64 lin = 0;
	int ret = cpu_linear(cpu, seg, offset, n, MMU_WRITE, &lin);

	return ret ? ret : mmu_write(cpu, lin, buf, n, MMU_WRITE | MMU_AS_VIEW);
}

/* The offset's page fault comes before what the selector behind it raises. */
int cpu_read_far(struct cpu *cpu, const struct cpu_insn *in, u8 *buf, unsigned size)
{
	u64 off = cpu_insn_offset(cpu, in);
	unsigned part = cpu->mode & MODE_ALIGN ? MIN(size, 4u) : size;
	int ret = CPU_OK;

	for (unsigned i = 0; i < size && !ret; i += part)
		ret = cpu_read(cpu, in->seg, off + i, buf + i, part);
	return ret ? ret : cpu_read(cpu, in->seg, off + size, buf + size, 2);
}

u64 cpu_reg_read(const struct cpu *cpu, unsigned reg, unsigned size, bool rex)
{
	switch (size) {
	case 1:
		if (!rex && reg >= 4 && reg < 8)
			return (u8)(cpu->gpr[reg - 4] >> 8);
		return (u8)cpu->gpr[reg];
	case 2:
		return (u16)cpu->gpr[reg];
	case 4:
		return (u32)cpu->gpr[reg];
	default:
		return cpu->gpr[reg];
	}
}

/* Outside 64-bit mode a 32-bit write clears the upper half too: it cannot be seen there. */
void cpu_reg_write(struct cpu *cpu, unsigned reg, u64 value, unsigned size, bool rex)
{
	u64 *r = &cpu->gpr[reg];

	switch (size) {
	case 1:
		if (!rex && reg >= 4 && reg < 8) {
			r -= 4;
			*r = (*r & ~0xff00ull) | (u64)(u8)value << 8;
		} else {
			*r = (*r & ~0xffull) | (u8)value;
		}
		break;
	case 2:
		*r = (*r & ~0xffffull) | (u16)value;
		break;
	case 4:
		*r = (u32)value;
		break;
	default:
		*r = value;
		break;
	}
}

int cpu_rm_read(struct cpu *cpu, const struct cpu_insn *in, u64 *value)
{
	if (!in->mem) {
		*value = cpu_reg_read(cpu, in->rm, in->opsize, in->rex);
		return CPU_OK;
	}
	*value = 0;
	return cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), value, in->opsize);
}

int cpu_rm_write(struct cpu *cpu, const struct cpu_insn *in, u64 value)
{
	if (!in->mem) {
		cpu_reg_write(cpu, in->rm, value, in->opsize, in->rex);
		return CPU_OK;
	}
	return cpu_write(cpu, in->seg, cpu_insn_offset(cpu, in), &value, in->opsize);
}

int cpu_push(struct cpu *cpu, u64 value, unsigned size)
{
	u64 mask = seg_sp_mask(cpu), off = (cpu->gpr[RSP] - size) & mask;
	int ret = cpu_write(cpu, SEG_SS, off, &value, size);

	if (ret)
		return ret;
	seg_sp_set(cpu, off);
	return CPU_OK;
}

int cpu_pop(struct cpu *cpu, u64 *value, unsigned size)
{
	u64 off = cpu->gpr[RSP] & seg_sp_mask(cpu), v = 0;
	int ret = cpu_read(cpu, SEG_SS, off, &v, size);

	if (ret)
		return ret;
	*value = v;
	seg_sp_set(cpu, off + size);
	return CPU_OK;
}
