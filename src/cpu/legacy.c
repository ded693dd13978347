/*
 * legacy.c - decimal adjustment and other instructions that 64-bit mode lost
 *
 * The host runs in 64-bit mode and cannot execute them. Flags that the manuals leave undefined
 * are those of Zen 4, measured for all inputs: AAA and AAS set them by the 16-bit sum that the adjustment makes of
 * AX, before AL loses its upper half; AAD, DAA and DAS by the 8-bit sum that makes AL; AAM clears them.
 */
#include "cpu/seg.h"

#define HF_OF  0x0001u
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

/* The sum a + b, or the difference, of 8 or 16 bits; SF, ZF, PF and OF by it, CF and AF as given. */
static int finish(struct cpu *cpu, const struct cpu_insn *in, unsigned bits, u32 a, u32 b,
		  bool minus, bool cf, bool af)
{
	u32 top = 1u << (bits - 1), sum = (minus ? a - b : a + b) & (2 * top - 1);
	u32 overflow = (minus ? a ^ b : ~(a ^ b)) & (a ^ sum) & top;

	cpu->hflags = (u16)(HF_ONE | (overflow ? HF_OF : 0) | (cf ? HF_CF : 0) | (af ? HF_AF : 0) |
			    (sum ? 0 : HF_ZF) | (sum & top ? HF_SF : 0) |
			    (__builtin_parity(sum & 0xff) ? 0 : HF_PF));
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

static int adjust_ascii(struct cpu *cpu, const struct cpu_insn *in, bool minus)
{
	bool adjust = (al(cpu) & 15) > 9 || (cpu->hflags & HF_AF);
	u32 ax = (u16)cpu->gpr[RAX], by = adjust ? 0x106 : 0, sum = minus ? ax - by : ax + by;

	ax_set(cpu, (u8)(sum >> 8), sum & 15);
	return finish(cpu, in, 16, ax, by, minus, adjust, adjust);
}

int insn_aaa(struct cpu *cpu, const struct cpu_insn *in)
{
	return adjust_ascii(cpu, in, false);
}

int insn_aas(struct cpu *cpu, const struct cpu_insn *in)
{
	return adjust_ascii(cpu, in, true);
}

int insn_aam(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 base = (u8)in->imm, v = al(cpu);

	if (!base)
		return cpu_raise(cpu, EXC_DE);
	ax_set(cpu, v / base, v % base);
	return finish(cpu, in, 8, v % base, 0, false, false, false);
}

int insn_aad(struct cpu *cpu, const struct cpu_insn *in)
{
	u8 a = al(cpu), b = (u8)(ah(cpu) * (u8)in->imm);

	ax_set(cpu, 0, a + b);
	return finish(cpu, in, 8, a, b, false, a + b > 0xff, (a & 15) + (b & 15) > 15);
}

/* DAA, DAS: whether the lower, and the upper digit is adjusted, and so by how much. */
static u8 decimal_adjustment(const struct cpu *cpu, bool *low, bool *high)
{
	*low = (al(cpu) & 15) > 9 || (cpu->hflags & HF_AF);
	*high = al(cpu) > 0x99 || (cpu->hflags & HF_CF);
	return (*low ? 6 : 0) + (*high ? 0x60 : 0);
}

int insn_daa(struct cpu *cpu, const struct cpu_insn *in)
{
	bool low, high;
	u8 old = al(cpu), by = decimal_adjustment(cpu, &low, &high);

	cpu_reg_write(cpu, RAX, (u8)(old + by), 1, true);
	return finish(cpu, in, 8, old, by, false, high, low);
}

int insn_das(struct cpu *cpu, const struct cpu_insn *in)
{
	bool low, high;
	u8 old = al(cpu), by = decimal_adjustment(cpu, &low, &high);

	cpu_reg_write(cpu, RAX, (u8)(old - by), 1, true);
	return finish(cpu, in, 8, old, by, true, high || (low && old < 6), low);
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
