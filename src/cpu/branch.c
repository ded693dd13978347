/*
 * branch.c - near branches that generated code does not do
 *
 * Those whose operand size is not the code's own, so that IP may lose its upper half; computed ones
 * where CS has a limit; and in 64-bit mode those to a fixed address that is not canonical. All of
 * them fault, if they do, at the branch, with nothing changed.
 */
#include "cpu/branch.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

static u64 truncated(u64 value, unsigned size)
{
	return size == 2 ? (u16)value : size == 4 ? (u32)value : value;
}

static int arrive(struct cpu *cpu, const struct cpu_insn *in, u64 target)
{
	cpu_insn_done(cpu, in);
	cpu->rip = target;
	return CPU_OK;
}

/* Operand of JMP and CALL. */
static int operand(struct cpu *cpu, const struct cpu_insn *in, u64 *target)
{
	int ret = CPU_OK;

	if (in->has_modrm)
		ret = cpu_rm_read(cpu, in, target);
	else
		*target = seg_next_rip(cpu, in->len) + in->imm;
	*target = truncated(*target, in->opsize);
	return ret;
}

static int call(struct cpu *cpu, const struct cpu_insn *in, u64 target)
{
	u64 off = (cpu->gpr[RSP] - in->opsize) & seg_sp_mask(cpu), lin;
	int ret = cpu_linear(cpu, SEG_SS, off, in->opsize, MMU_WRITE, &lin);

	if (!ret)
		ret = mmu_probe(cpu, lin, in->opsize, MMU_WRITE | MMU_AS_VIEW);
	if (!ret)
		ret = seg_target_check(cpu, &cpu->seg[SEG_CS], target, 0);
	if (!ret)
		ret = cpu_push(cpu, seg_next_rip(cpu, in->len), in->opsize);
	return ret ? ret : arrive(cpu, in, target);
}

static int ret_near(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 mask = seg_sp_mask(cpu), off = cpu->gpr[RSP] & mask, target = 0;
	int ret = cpu_read(cpu, SEG_SS, off, &target, in->opsize);

	if (!ret)
		ret = seg_target_check(cpu, &cpu->seg[SEG_CS], target, 0);
	if (ret)
		return ret;
	seg_sp_set(cpu, off + in->opsize + (u16)in->imm);
	return arrive(cpu, in, target);
}

/* Jcc's condition, by the low bits of its opcode ("Condition Codes"). */
static bool condition(struct cpu *cpu, u8 opcode)
{
	u64 f = cpu_rflags(cpu);
	bool of = f & FLAG_OF, sf = f & FLAG_SF, zf = f & FLAG_ZF, yes;

	switch (opcode >> 1 & 7) {
	case 0:
		yes = of;
		break;
	case 1:
		yes = f & FLAG_CF;
		break;
	case 2:
		yes = zf;
		break;
	case 3:
		yes = f & FLAG_CF || zf;
		break;
	case 4:
		yes = sf;
		break;
	case 5:
		yes = f & FLAG_PF;
		break;
	case 6:
		yes = sf != of;
		break;
	default:
		yes = zf || sf != of;
		break;
	}
	return yes != (opcode & 1);
}

/* LOOPNE, LOOPE, LOOP, JCXZ. */
static int counted(struct cpu *cpu, const struct cpu_insn *in, u64 target)
{
	bool loop = in->opcode != 0xe3, taken, zf = cpu_rflags(cpu) & FLAG_ZF;
	u64 count = truncated(cpu->gpr[RCX] - loop, in->addrsize);
	int ret = CPU_OK;

	taken = loop ? count != 0 : count == 0;
	if (loop && in->opcode != 0xe2)
		taken &= zf == (in->opcode == 0xe1);
	if (taken)
		ret = seg_target_check(cpu, &cpu->seg[SEG_CS], target, 0);
	if (ret)
		return ret;
	if (loop)
		cpu_reg_write(cpu, RCX, count, in->addrsize, true);
	cpu_insn_done(cpu, in);
	if (taken)
		cpu->rip = target;
	return CPU_OK;
}

int insn_branch(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 target = 0;
	int ret;

	if (in->imm2 == BRANCH_RET)
		return ret_near(cpu, in);
	ret = operand(cpu, in, &target);
	if (ret)
		return ret;
	switch (in->imm2) {
	case BRANCH_CALL:
		return call(cpu, in, target);
	case BRANCH_COUNT:
		return counted(cpu, in, target);
	case BRANCH_CONDITION:
		if (!condition(cpu, in->opcode)) {
			cpu_insn_done(cpu, in);
			return CPU_OK;
		}
		break;
	default:
		break;
	}
	ret = seg_target_check(cpu, &cpu->seg[SEG_CS], target, 0);
	return ret ? ret : arrive(cpu, in, target);
}
