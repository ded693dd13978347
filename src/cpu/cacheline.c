/*
 * cacheline.c - CLZERO
 *
 * The line is that of the linear address, so in a segment whose base is not aligned it may begin
 * before the segment does, which is a limit violation.
 */
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"

#define LINE 64u

int insn_clzero(struct cpu *cpu, const struct cpu_insn *in)
{
	static const u8 zero[LINE];
	u64 base = cpu->seg[in->seg].base, off = cpu->gpr[RAX], lin;
	int ret;

	if (in->addrsize == 2)
		off = (u16)off;
	else if (in->addrsize == 4)
		off = (u32)off;
	if (!(cpu->mode & MODE_LONG))
		off = (u32)(((base + off) & ~(u64)(LINE - 1)) - base);
	ret = cpu_linear(cpu, in->seg, off, cpu->mode & MODE_LONG ? 1 : LINE, MMU_WRITE, &lin);
	if (!ret)
		ret = mmu_write(cpu, lin & ~(u64)(LINE - 1), zero, LINE, MMU_WRITE | MMU_AS_VIEW);
	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
