/*
 * int.c - instructions that are nothing but an exception
 *
 * They record the event and leave delivery to cpu_exc_deliver(), which pushes the address behind
 * them. The one exception is INT n in virtual-8086 mode with CR4.VME, which the TSS's redirection
 * bitmap may send straight through the virtual-8086 task's own vector table.
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

static int raise_soft(struct cpu *cpu, const struct cpu_insn *in, enum cpu_event_kind kind,
		      unsigned vector)
{
	cpu->rflags &= ~FLAG_RF; /* as behind any instruction; a fault of the delivery sets it */
	cpu->exc = (struct cpu_exc){
		.pending = true,
		.kind = (u8)kind,
		.vector = (u8)vector,
		.insn_len = in->len,
	};
	return CPU_EXC;
}

/* Bit of the interrupt redirection bitmap, which ends where the I/O bitmap begins. */
static int vme_redirected(struct cpu *cpu, unsigned vector, bool *yes)
{
	const struct cpu_seg *tr = &cpu->seg[SEG_TR];
	u16 iomap;
	u8 bits;
	int ret;

	*yes = false;
	if (seg_type(tr->attr) != SEG_SYS_TSS32_BUSY || tr->limit < 103)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = mmu_read(cpu, tr->base + 102, &iomap, 2, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	if (iomap < 32 || iomap - 32u + vector / 8 > tr->limit)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = mmu_read(cpu, tr->base + iomap - 32 + vector / 8, &bits, 1, MMU_READ | MMU_SYSTEM);
	*yes = !(bits >> (vector & 7) & 1);
	return ret;
}

/* INT n of virtual-8086 mode through the vector table at linear 0. */
static int vme_interrupt(struct cpu *cpu, const struct cpu_insn *in, unsigned vector)
{
	bool iopl3 = (cpu->rflags & FLAG_IOPL) == FLAG_IOPL;
	u64 flags = cpu_rflags(cpu) & ~FLAG_RF;
	struct seg_frame f;
	u32 entry;
	int ret = mmu_read(cpu, vector * 4u, &entry, 4, MMU_READ | MMU_AS_VIEW);

	if (ret)
		return ret;
	if (!iopl3)
		flags = (flags & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	seg_frame_init(&f, &cpu->seg[SEG_SS], cpu->gpr[RSP], false, 2, MMU_AS_VIEW);
	seg_frame_push(&f, flags);
	seg_frame_push(&f, cpu->seg[SEG_CS].sel);
	seg_frame_push(&f, seg_next_rip(cpu, in->len));
	ret = seg_frame_write(cpu, &f);
	if (ret)
		return ret;
	cpu_insn_done(cpu, in);
	cpu->gpr[RSP] = seg_frame_sp(&f);
	cpu->seg[SEG_CS] = seg_from_real(cpu, SEG_CS, (u16)(entry >> 16));
	cpu->rip = (u16)entry;
	cpu->rflags &= ~(FLAG_TF | FLAG_NT);
	if (iopl3)
		cpu->intf = 0;
	else
		cpu->rflags &= ~FLAG_VIF;
	cpu_mode_update(cpu);
	return CPU_OK;
}

int insn_int(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned vector = (u8)in->imm;
	bool redirected = false;

	if (cpu->rflags & FLAG_VM) {
		if (cpu->cr4 & CR4_VME) {
			int ret = vme_redirected(cpu, vector, &redirected);

			if (ret)
				return ret;
			if (redirected)
				return vme_interrupt(cpu, in, vector);
		}
		if ((cpu->rflags & FLAG_IOPL) != FLAG_IOPL)
			return cpu_raise_err(cpu, EXC_GP, 0);
	}
	return raise_soft(cpu, in, EVENT_SW_INT, vector);
}

int insn_int3(struct cpu *cpu, const struct cpu_insn *in)
{
	return raise_soft(cpu, in, EVENT_SW_EXC, EXC_BP);
}

int insn_int1(struct cpu *cpu, const struct cpu_insn *in)
{
	return raise_soft(cpu, in, EVENT_PRIV_SW_EXC, EXC_DB);
}

int insn_into(struct cpu *cpu, const struct cpu_insn *in)
{
	if (cpu->mode & MODE_LONG)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->hflags & 1)
		return raise_soft(cpu, in, EVENT_SW_EXC, EXC_OF);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* BOUND: a signed index against two signed bounds, read one by one, in memory. */
int insn_bound(struct cpu *cpu, const struct cpu_insn *in)
{
	unsigned n = in->opsize == 2 ? 2 : 4;
	s32 index, low, high;
	u64 at;
	u8 buf[8];
	int ret;

	if ((cpu->mode & MODE_LONG) || !in->mem)
		return cpu_raise(cpu, EXC_UD);
	at = cpu_insn_offset(cpu, in);
	ret = cpu_read(cpu, in->seg, at, buf, n);
	if (!ret) /* an address of its own */
		ret = cpu_read(cpu, in->seg, in->addrsize == 2 ? (u16)(at + n) : (u32)(at + n),
			       buf + n, n);
	if (ret)
		return ret;
	if (n == 2) {
		index = (s16)cpu->gpr[in->reg];
		low = (s16)mem_load(buf, 2);
		high = (s16)mem_load(buf + 2, 2);
	} else {
		index = (s32)cpu->gpr[in->reg];
		low = (s32)mem_load(buf, 4);
		high = (s32)mem_load(buf + 4, 4);
	}
	if (index < low || index > high)
		return cpu_raise(cpu, EXC_BR);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_ud(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise(cpu, EXC_UD);
}

int insn_gp(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise_err(cpu, EXC_GP, 0);
}

int insn_nm(struct cpu *cpu, const struct cpu_insn *in)
{
	return cpu_raise(cpu, EXC_NM);
}
