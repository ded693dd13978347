/*
 * legacy.c - decimal adjustment and other instructions that 64-bit mode lost
 *
 * The host runs in 64-bit mode and cannot execute them. Flags that the manuals leave undefined
 * are set from the result in AL, or cleared, as processors do.
 */
#include "cpu/seg.h"

#define HF_CF  0x0100u
#define HF_PF  0x0400u
#define HF_AF  0x1000u
#define HF_ZF  0x4000u
#define HF_SF  0x8000u
#define HF_ONE 0x0200u /* RFLAGS bit 1 */

static u8 al(const struct cpu *cpu)
{
	return (u8)cpu->gpr[RAX];
}

static u8 ah(const struct cpu *cpu)
{
	return (u8)(cpu->gpr[RAX] >> 8);
}

static void ax_set(struct cpu *cpu, u8 high, u8 low)
{
	cpu_reg_write(cpu, RAX, (u64)high << 8 | low, 2, true);
}

/* SF, ZF, PF of AL; OF clear; CF and AF as given. */
static int finish(struct cpu *cpu, const struct cpu_insn *in, bool cf, bool af)
{
	u8 v = al(cpu);
	u16 h = HF_ONE | (cf ? HF_CF : 0) | (af ? HF_AF : 0);

	if (!v)
		h |= HF_ZF;
	if (v & 0x80)
		h |= HF_SF;
	if (!__builtin_parity(v))
		h |= HF_PF;
	cpu->hflags = h;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_aaa(struct cpu *cpu, const struct cpu_insn *in)
{
	bool adjust = (al(cpu) & 15) > 9 || (cpu->hflags & HF_AF);
	u64 ax = cpu->gpr[RAX] + (adjust ? 0x106 : 0);

	ax_set(cpu, (u8)(ax >> 8), ax & 15);
	return finish(cpu, in, adjust, adjust);
}

int insn_aas(struct cpu *cpu, const struct cpu_insn *in)
{
	bool adjust = (al(cpu) & 15) > 9 || (cpu->hflags & HF_AF);
	u64 ax = cpu->gpr[RAX] - (adjust ? 0x106 : 0);

	ax_set(cpu, (u8)(ax >> 8), ax & 15);
	return finish(cpu, in, adjust, adjust);
}

int insn_aam(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 base = (u8)in->imm, v = al(cpu);

	if (!base)
		return cpu_raise(cpu, EXC_DE);
	ax_set(cpu, v / base, v % base);
	return finish(cpu, in, false, false);
}

int insn_aad(struct cpu *cpu, const struct cpu_insn *in)
{
	ax_set(cpu, 0, (u8)(al(cpu) + ah(cpu) * (u8)in->imm));
	return finish(cpu, in, false, false);
}

int insn_daa(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 old = al(cpu), v = old;
	bool old_cf = cpu->hflags & HF_CF, cf = false, af = false;

	if ((old & 15) > 9 || (cpu->hflags & HF_AF)) {
		v += 6;
		af = true;
	}
	if (old > 0x99 || old_cf) {
		v += 0x60;
		cf = true;
	}
	cpu_reg_write(cpu, RAX, v, 1, true);
	return finish(cpu, in, cf, af);
}

int insn_das(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 old = al(cpu), v = old;
	bool old_cf = cpu->hflags & HF_CF, cf = false, af = false;

	if ((old & 15) > 9 || (cpu->hflags & HF_AF)) {
		cf = old_cf || v < 6;
		v -= 6;
		af = true;
	}
	if (old > 0x99 || old_cf) {
		v -= 0x60;
		cf = true;
	}
	cpu_reg_write(cpu, RAX, v, 1, true);
	return finish(cpu, in, cf, af);
}

int insn_salc(struct cpu *cpu, const struct cpu_insn *in)
{
	cpu_reg_write(cpu, RAX, cpu->hflags & HF_CF ? 0xff : 0, 1, true);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_xlat(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 off = cpu->gpr[RBX] + al(cpu);
	u8 v;
	int ret;

	if (in->addrsize == 2)
		off = (u16)off;
	else if (in->addrsize == 4)
		off = (u32)off;
	ret = cpu_read(cpu, in->seg, off, &v, 1);
	if (ret)
		return ret;
	cpu_reg_write(cpu, RAX, v, 1, true);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
