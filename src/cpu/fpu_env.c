/*
 * fpu_env.c - FNSTENV, FLDENV, FNSAVE, FRSTOR
 *
 * The environment has four layouts, by operand size and by real or protected mode. Here it is one
 * structure, converted at the edge. Control, status and full tag word come from the host's FNSTENV;
 * the pointers from its FXSAVE, which alone knows all 64 bits of them, but which AMD's processors
 * leave out of it unless an exception is pending: then from FNSTENV too. They survive as long as
 * the host's processor keeps them, which XSAVE does only on some.
 *
 * FNSTENV masks all exceptions when it is done and FNSAVE initializes the unit: the host executes
 * that part only when the guest's memory has taken the image.
 */
#include "base/mem.h"
#include "cpu/fpu_image.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"
#include "mmu/translator.h"

struct env {
	u16 fcw, fsw, ftw, fop, fcs, fds;
	u32 fip, fdp;
};

#define ENV_NATIVE 28u
#define REGS_BYTES 80u

static bool env_is_real(const struct cpu *cpu)
{
	return !(cpu->cr0 & CR0_PE) || (cpu->rflags & FLAG_VM);
}

static unsigned env_bytes(const struct cpu_insn *in)
{
	return in->opsize == 2 ? 14 : 28;
}

static int env_check(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!in->mem || (in->prefix & CPU_PREFIX_LOCK))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(cpu, EXC_NM);
	return CPU_OK;
}

/* #AC goes by the size of the fields. */
static int env_aligned(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 lin;
	int ret;

	if (LIKELY(!(cpu->mode & MODE_ALIGN)))
		return CPU_OK;
	ret = cpu_linear(cpu, in->seg, cpu_insn_offset(cpu, in), 1, MMU_READ, &lin);
	if (!ret && lin & (in->opsize == 2 ? 1 : 3))
		return cpu_raise_err(cpu, EXC_AC, 0);
	return ret;
}

enum field_action { FIELD_LOOK, FIELD_READ, FIELD_WRITE };

/* Bytes [at, at + size) of an image that wraps. Its alignment was checked. */
static int field_access(struct cpu *cpu, const struct cpu_insn *in, u8 *buf, unsigned at,
			unsigned size, bool write, enum field_action action)
{
	u64 mask = in->addrsize == 8 ? ~0ull : BIT64(8 * in->addrsize) - 1,
	    off = (cpu_insn_offset(cpu, in) + at) & mask, lin;
	unsigned access = write ? MMU_WRITE : MMU_READ, how = access | MMU_AS_VIEW | MMU_UNALIGNED;
	int ret = cpu_linear(cpu, in->seg, off, size, access, &lin);

	if (ret)
		return ret;
	return action == FIELD_LOOK   ? mmu_probe(cpu, lin, size, how)
	       : action == FIELD_READ ? mmu_read(cpu, lin, buf + at, size, how)
				      : mmu_write(cpu, lin, buf + at, size, how);
}

/* Every field of it, which have addresses of their own. */
static int fields_access(struct cpu *cpu, const struct cpu_insn *in, u8 *buf, unsigned regs,
			 bool write, enum field_action action)
{
	unsigned n = env_bytes(in), size;
	int ret = CPU_OK;

	for (unsigned i = 0; i < n + regs && !ret; i += size) {
		/* ten bytes of a register are eight and two */
		size = i < n ? n / 7 : (i - n) % 10 ? 2 : 8;
		ret = field_access(cpu, in, buf, i, size, write, action);
	}
	return ret;
}

/*
 * The image in memory, `regs` bytes of registers included. It is accessed by the field, and each of
 * them has an address of the address size: an image may wrap. The first field and the last byte are looked at
 * before the others.
 */
static int image_access(struct cpu *cpu, const struct cpu_insn *in, u8 *buf, unsigned regs,
			bool write)
{
	unsigned n = env_bytes(in), all = n + regs;
	u64 off = cpu_insn_offset(cpu, in), last = off + all - 1;
	int ret;

	if (LIKELY(last > off && (in->addrsize == 8 || !(last >> 8 * in->addrsize))))
		return write ? cpu_write(cpu, in->seg, off, buf, all)
			     : cpu_read(cpu, in->seg, off, buf, all);
	ret = field_access(cpu, in, buf, 0, n / 7, write, FIELD_LOOK);
	if (!ret)
		ret = field_access(cpu, in, buf, all - 1, 1, write, FIELD_LOOK);
	if (!ret && write)
		ret = fields_access(cpu, in, buf, regs, true, FIELD_LOOK);
	if (ret)
		return ret;
	return fields_access(cpu, in, buf, regs, write, write ? FIELD_WRITE : FIELD_READ);
}

/* Unused upper halves of 32-bit layouts read as ones. */
static void env_pack(const struct cpu *cpu, const struct cpu_insn *in, const struct env *e, u8 *p)
{
	bool real = env_is_real(cpu);

	if (in->opsize == 2) {
		const u16 w[7] = {
			e->fcw,
			e->fsw,
			e->ftw,
			(u16)e->fip,
			real ? (u16)((e->fip >> 16 & 0xf) << 12 | e->fop) : e->fcs,
			(u16)e->fdp,
			real ? (u16)((e->fdp >> 16 & 0xf) << 12) : e->fds,
		};

		mem_copy(p, w, sizeof(w));
		return;
	}
	const u32 d[7] = {
		0xffff0000 | e->fcw,
		0xffff0000 | e->fsw,
		0xffff0000 | e->ftw,
		real ? 0xffff0000 | (u16)e->fip : e->fip,
		real ? (e->fip >> 16) << 12 | e->fop : (u32)e->fop << 16 | e->fcs,
		real ? 0xffff0000 | (u16)e->fdp : e->fdp,
		real ? (e->fdp >> 16) << 12 : 0xffff0000 | e->fds,
	};
	mem_copy(p, d, sizeof(d));
}

static void env_unpack(const struct cpu *cpu, const struct cpu_insn *in, const u8 *p, struct env *e)
{
	bool real = env_is_real(cpu);
	u32 d[7];

	for (unsigned i = 0; i < 7; i++)
		d[i] = in->opsize == 2 ? (u32)mem_load(p + 2 * i, 2) : (u32)mem_load(p + 4 * i, 4);
	e->fcw = (u16)d[0];
	e->fsw = (u16)d[1];
	e->ftw = (u16)d[2];
	e->fcs = real ? 0 : (u16)d[4];
	e->fds = real ? 0 : (u16)d[6];
	if (in->opsize == 2) {
		e->fip = real ? (d[4] >> 12) << 16 | d[3] : d[3];
		e->fdp = real ? (d[6] >> 12) << 16 | d[5] : d[5];
		e->fop = real ? d[4] & 0x7ff : 0;
	} else {
		e->fip = real ? ((d[4] >> 12) & 0xffff) << 16 | (u16)d[3] : d[3];
		e->fdp = real ? ((d[6] >> 12) & 0xffff) << 16 | (u16)d[5] : d[5];
		e->fop = real ? d[4] & 0x7ff : d[4] >> 16 & 0x7ff;
	}
}

/*
 * Reads the environment without changing it: the host's FNSTENV masks exceptions, so the control
 * word is loaded again, which cannot fault while they are masked. Leaves FXSAVE's image behind.
 */
static void env_read(struct cpu *cpu, struct env *e, struct fpu_legacy *image)
{
	u32 native[7];
	u64 host_fip;

	host_fxsave(image);
	host_fip = image->fip;
	__asm__ volatile("fnstenv %0\n\tfldcw %1" : "=m"(native) : "m"(image->fcw));
	fpu_pointers_guest(cpu, image);
	e->fcw = image->fcw;
	e->fsw = image->fsw;
	e->ftw = (u16)native[2];
	e->fop = image->fop & 0x7ff;
	e->fip = (u32)image->fip;
	e->fdp = (u32)image->fdp;
	e->fcs = image->fip == host_fip ? (u16)native[4] : cpu->seg[SEG_CS].sel;
	e->fds = (u16)native[6];
	if (!host_fip && native[3]) {
		u64 pc = jit_guest_pc(cpu, native[3]);

		e->fop = native[4] >> 16 & 0x7ff;
		e->fip = pc ? (u32)pc : native[3];
		e->fdp = pc ? 0 : native[5];
		/* the opcode of a memory form is the translator's */
		if (pc && (e->fop & 0xc0) != 0xc0)
			e->fop = 0;
		if (pc)
			e->fcs = cpu->seg[SEG_CS].sel;
	}
	/* A pointer into translated code came back as RIP; real mode keeps linear addresses. */
	if (env_is_real(cpu) && (u32)native[3] != e->fip)
		e->fip += (u32)cpu->seg[SEG_CS].base;
}

int insn_fnstenv(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = (struct fpu_legacy *)cpu->fpu_scratch;
	u32 native[7];
	u8 out[ENV_NATIVE];
	struct env e;
	int ret = env_check(cpu, in);

	if (!ret)
		ret = env_aligned(cpu, in);
	if (ret)
		return ret;
	env_read(cpu, &e, image);
	env_pack(cpu, in, &e, out);
	ret = image_access(cpu, in, out, 0, true);
	if (ret)
		return ret;
	__asm__ volatile("fnstenv %0" : "=m"(native));
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_fnsave(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = (struct fpu_legacy *)cpu->fpu_scratch;
	u8 out[ENV_NATIVE + REGS_BYTES];
	unsigned n = env_bytes(in);
	struct env e;
	int ret = env_check(cpu, in);

	if (!ret)
		ret = env_aligned(cpu, in);
	if (ret)
		return ret;
	env_read(cpu, &e, image);
	env_pack(cpu, in, &e, out);
	for (unsigned i = 0; i < 8; i++)
		mem_copy(out + n + 10 * i, image->st[i], 10);
	ret = image_access(cpu, in, out, REGS_BYTES, true);
	if (ret)
		return ret;
	__asm__ volatile("fninit");
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* Waiting instructions: an exception that is pending comes first. */
#define FSW_ES 0x80u

static int env_load(struct cpu *cpu, const struct cpu_insn *in, unsigned regs)
{
	struct {
		u32 d[7];
		u8 st[REGS_BYTES];
	} __attribute__((packed)) native;
	u8 guest[ENV_NATIVE + REGS_BYTES];
	unsigned n = env_bytes(in);
	struct env e;
	int ret = env_check(cpu, in);

	if (ret)
		return ret;
	if (host_fsw() & FSW_ES)
		return cpu_raise(cpu, EXC_MF);
	ret = env_aligned(cpu, in);
	if (ret)
		return ret;
	/* the beginning faults before the end is found to be beyond the segment */
	ret = cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), guest, 2);
	if (!ret)
		ret = image_access(cpu, in, guest, regs, false);
	if (ret)
		return ret;
	env_unpack(cpu, in, guest, &e);
	native.d[0] = 0xffff0000 | e.fcw;
	native.d[1] = 0xffff0000 | e.fsw;
	native.d[2] = 0xffff0000 | e.ftw;
	native.d[3] = e.fip;
	native.d[4] = (u32)e.fop << 16 | e.fcs;
	native.d[5] = e.fdp;
	native.d[6] = 0xffff0000 | e.fds;
	if (regs) {
		mem_copy(native.st, guest + n, REGS_BYTES);
		__asm__ volatile("frstor %0" : : "m"(native));
	} else {
		__asm__ volatile("fldenv %0" : : "m"(native));
	}
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_fldenv(struct cpu *cpu, const struct cpu_insn *in)
{
	return env_load(cpu, in, 0);
}

int insn_frstor(struct cpu *cpu, const struct cpu_insn *in)
{
	return env_load(cpu, in, REGS_BYTES);
}
