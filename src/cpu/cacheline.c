/*
 * cacheline.c - CLZERO
 *
 * The line is that of the linear address, so in a segment whose base is not aligned it may begin
 * before the segment does, which is a limit violation.
 */
#include "cpu/insn.h"
#include "cpu/mode.h"

#define LINE 64u

int insn_clzero(struct cpu *cpu, const struct cpu_insn *in)
{
	static const u8 zero[LINE];
	bool lng = cpu->mode & MODE_LONG;
	u64 base = lng && in->seg < SEG_FS ? 0 : cpu->seg[in->seg].base, off = cpu->gpr[RAX];
	int ret;

	if (in->addrsize == 2)
		off = (u16)off;
	else if (in->addrsize == 4)
		off = (u32)off;
	off = ((base + off) & ~(u64)(LINE - 1)) - base;
	ret = cpu_write(cpu, in->seg, lng ? off : (u32)off, zero, LINE);
	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
