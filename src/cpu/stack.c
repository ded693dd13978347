/*
 * stack.c - PUSHA, POPA, ENTER
 *
 * PUSHA and POPA are all or nothing: every element is checked before one is written.
 */
#include "cpu/seg.h"
#include "mmu/mmu.h"

int insn_pusha(struct cpu *cpu, const struct cpu_insn *in)
{
	struct seg_frame f;
	int ret;

	seg_frame_init(&f, &cpu->seg[SEG_SS], cpu->gpr[RSP], false, in->opsize, MMU_AS_VIEW);
	for (unsigned i = RAX; i <= RDI; i++)
		seg_frame_push(&f, cpu->gpr[i]);
	ret = seg_frame_write(cpu, &f);
	if (ret)
		return ret;
	cpu->gpr[RSP] = seg_frame_sp(&f);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_popa(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 v[8];
	int ret = seg_stack_peek(cpu, 0, in->opsize, 8, v);

	if (ret)
		return ret;
	for (unsigned i = 0; i < 8; i++)
		if (i != 7 - RSP)
			cpu_reg_write(cpu, 7 - i, v[i], in->opsize, true);
	seg_sp_set(cpu, cpu->gpr[RSP] + 8 * in->opsize);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/*
 * ENTER size, level: pushes BP, then (level > 0) level - 1 frame pointers of the enclosing
 * procedures and the new one, and makes room. The final stack pointer must be writable. As on
 * hardware each push is carried out at once, because the frames may overlap; a fault leaves the
 * registers as they were.
 */
int insn_enter(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned level = in->imm2 & 31, n = in->opsize;
	u64 mask = seg_sp_mask(cpu), frame, sp = cpu->gpr[RSP], bp = cpu->gpr[RBP], v = bp, lin;
	int ret;

	sp = frame = (sp - n) & mask;
	if (mask == 0xffff)
		frame |= cpu->gpr[RSP] & ~mask;
	ret = cpu_write(cpu, SEG_SS, sp, &v, n);
	for (unsigned i = 1; i < level && !ret; i++) {
		bp -= n;
		v = 0;
		ret = cpu_read(cpu, SEG_SS, bp & mask, &v, n);
		if (ret)
			break;
		sp = (sp - n) & mask;
		ret = cpu_write(cpu, SEG_SS, sp, &v, n);
	}
	if (level && !ret) {
		sp = (sp - n) & mask;
		ret = cpu_write(cpu, SEG_SS, sp, &frame, n);
	}
	sp = (sp - (u16)in->imm) & mask;
	if (!ret)
		ret = cpu_linear(cpu, SEG_SS, sp, n, MMU_WRITE, &lin);
	if (!ret)
		ret = mmu_probe(cpu, lin, n, MMU_WRITE | MMU_AS_VIEW);
	if (ret)
		return ret;
	cpu_reg_write(cpu, RBP, frame, n, true);
	seg_sp_set(cpu, sp);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
