/*
 * pio.c - IN, OUT, INS, OUTS
 *
 * A port goes to the devices inside first (cpu->ops->pio_*). When none of them answers, cpu->pio
 * describes the access for user space, and the instruction stops uncommitted. When it runs again, it finds
 * the answer, or that it is done, with cpu->pio.ready. OUTS commits before the exit, and OUT to port 0x7e, as in
 * KVM. Repeated forms hand over as many elements at once as lie in one page.
 */
#include <linux/kvm.h>
#include "base/mem.h"
#include "cpu/seg.h"
#include "cpu/str.h"
#include "mmu/mmu.h"

/* IOPL first, then the I/O permission bitmap, which virtual-8086 mode always asks. */
int cpu_port_check(struct cpu *cpu, u16 port, unsigned size)
{
	const struct cpu_seg *tr = &cpu->seg[SEG_TR];
	u16 map, bits;
	int ret;

	if (!(cpu->cr0 & CR0_PE) || ((cpu->mode & MODE_IOPL_OK) && !(cpu->rflags & FLAG_VM)))
		return CPU_OK;
	if ((tr->attr & SEG_ATTR_UNUSABLE) || (seg_type(tr->attr) | 2) != SEG_SYS_TSS32_BUSY ||
	    tr->limit < 103)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = mmu_read(cpu, tr->base + 102, &map, 2, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	/* Two bytes are always read: an access may straddle the first. */
	if ((u32)map + port / 8 + 1 > tr->limit)
		return cpu_raise_err(cpu, EXC_GP, 0);
	ret = mmu_read(cpu, tr->base + map + port / 8, &bits, 2, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	if (bits >> (port & 7) & ((1u << size) - 1))
		return cpu_raise_err(cpu, EXC_GP, 0);
	return CPU_OK;
}

/* I/O breakpoints are traps: the access is done, #DB follows. */
static int port_breakpoint(struct cpu *cpu, u16 port, unsigned size, int ret)
{
	u64 hit = 0;

	if (LIKELY(!(cpu->dr7 & 0xff)) || !(cpu->cr4 & CR4_DE))
		return ret;
	for (unsigned i = 0; i < 4; i++) {
		unsigned len = (cpu->dr7 >> (18 + 4 * i) & 3) + 1;
		u64 at = cpu->dr[i] & ~(u64)(len - 1);

		if ((cpu->dr7 >> (2 * i) & 3) && (cpu->dr7 >> (16 + 4 * i) & 3) == 2 &&
		    port < at + len && at < (u64)port + size)
			hit |= BIT64(i);
	}
	if (!hit)
		return ret;
	cpu_raise_db(cpu, hit);
	return ret == CPU_OK ? CPU_EXC : ret;
}

static int port_exit(struct cpu *cpu, bool in, u16 port, unsigned size, u32 count)
{
	cpu->pio.in = in;
	cpu->pio.ready = false;
	cpu->pio.rip = cpu->rip;
	cpu->pio.len = 0;
	cpu->pio.port = port;
	cpu->pio.size = (u8)size;
	cpu->pio.count = count;
	return cpu_exit_set(cpu, CPU_EXIT_PIO);
}

/* … of an instruction that has nothing to do afterwards but to load RAX, if that (answer.c). */
static int simple_exit(struct cpu *cpu, const struct cpu_insn *insn, bool in, u16 port,
		       unsigned size)
{
	int ret = port_exit(cpu, in, port, size, 1);

	cpu->pio.len = insn->len;
	return ret;
}

/* The quirk of KVM's: somebody's firmware looks at RIP there. */
static bool commits_first(const struct cpu *cpu, u16 port)
{
	return port == 0x7e && !(cpu->disabled_quirks & KVM_X86_QUIRK_OUT_7E_INC_RIP);
}

static u16 port_of(const struct cpu *cpu, const struct cpu_insn *in)
{
	return in->imm2 ? (u8)in->imm : (u16)cpu->gpr[RDX];
}

int insn_in(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 port = port_of(cpu, in);
	unsigned size = MIN((unsigned)in->opsize, 4u);
	u32 value = 0;
	int ret = cpu_port_check(cpu, port, size);

	if (ret)
		return ret;
	if (cpu->pio.ready) {
		cpu->pio.ready = false;
		value = (u32)mem_load(cpu->pio.data, size);
	} else if (!cpu->ops->pio_read(cpu, port, size, &value)) {
		return simple_exit(cpu, in, true, port, size);
	}
	cpu_reg_write(cpu, RAX, value, size, true);
	cpu_insn_done(cpu, in);
	return port_breakpoint(cpu, port, size, CPU_OK);
}

int insn_out(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 port = port_of(cpu, in);
	unsigned size = MIN((unsigned)in->opsize, 4u);
	u32 value = (u32)cpu_reg_read(cpu, RAX, size, true);
	int ret = cpu_port_check(cpu, port, size);

	if (ret)
		return ret;
	if (cpu->pio.ready) {
		cpu->pio.ready = false;
	} else if (!cpu->ops->pio_write(cpu, port, size, value)) {
		mem_store(cpu->pio.data, value, size);
		if (!commits_first(cpu, port))
			return simple_exit(cpu, in, false, port, size);
		ret = port_exit(cpu, false, port, size, 1);
	}
	cpu_insn_done(cpu, in);
	return port_breakpoint(cpu, port, size, ret);
}

/* Ports are at most 32 bits wide, whatever REX.W says. */
static int string_begin(struct cpu *cpu, const struct cpu_insn *in, struct str *s, bool *go)
{
	u16 port = (u16)cpu->gpr[RDX];
	int ret = cpu_port_check(cpu, port, MIN((unsigned)in->opsize, 4u));

	*go = !ret && str_begin(cpu, in, s);
	s->n = MIN((unsigned)in->opsize, 4u);
	return ret;
}

/* Elements to hand over at once: ascending, within one page and the buffer. */
static u32 batch(const struct cpu *cpu, const struct str *s, unsigned seg, u64 off)
{
	u64 lin = cpu->seg[seg].base + off, k;

	if (!s->rep || s->down || s->single)
		return 1;
	k = MIN((PAGE_SIZE - (lin & ~PAGE_MASK)) / s->n, sizeof(cpu->pio.data) / s->n);
	if (s->mask != ~0ull)
		k = MIN(k, (s->mask - off + 1) / s->n);
	k = MIN(k, s->count);
	return k ? (u32)k : 1;
}

/* Checks that k elements could be written, or just the first: how many may be asked for. */
static int ins_probe(struct cpu *cpu, const struct str *s, u64 off, u32 *k)
{
	u64 lin;
	int ret = cpu_linear(cpu, SEG_ES, off, *k * s->n, MMU_WRITE, &lin);

	if (ret && *k > 1) {
		*k = 1;
		cpu->exc.pending = false;
		ret = cpu_linear(cpu, SEG_ES, off, s->n, MMU_WRITE, &lin);
	}
	return ret ? ret : mmu_probe(cpu, lin, *k * s->n, MMU_WRITE | MMU_AS_VIEW);
}

int insn_ins(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 port = (u16)cpu->gpr[RDX];
	struct str s;
	bool go;
	int ret = string_begin(cpu, in, &s, &go);

	if (!go)
		return ret;
	for (;;) {
		u64 di = str_offset(cpu, &s, RDI);
		u32 k = batch(cpu, &s, SEG_ES, di), value = 0;

		ret = ins_probe(cpu, &s, di, &k);
		if (ret)
			return ret;
		if (cpu->pio.ready) {
			cpu->pio.ready = false;
			k = MIN(k, cpu->pio.count);
			ret = cpu_write(cpu, SEG_ES, di, cpu->pio.data, k * s.n);
		} else if (cpu->ops->pio_read(cpu, port, s.n, &value)) {
			k = 1;
			ret = cpu_write(cpu, SEG_ES, di, &value, s.n);
		} else {
			return port_exit(cpu, true, port, s.n, k);
		}
		if (ret)
			return ret;
		str_advance(cpu, &s, k, false, true);
		if (str_stop(cpu, &s, 0, &ret))
			return port_breakpoint(cpu, port, s.n, ret);
	}
}

/*
 * The first element has been read; the rest of the batch only from plain memory, because a device
 * must not be read twice.
 */
static u32 outs_gather(struct cpu *cpu, const struct str *s, unsigned seg, u64 off)
{
	u32 k = batch(cpu, s, seg, off);
	unsigned avail;
	u8 *host;
	u64 lin;

	if (k == 1)
		return 1;
	if (cpu_linear(cpu, seg, off, k * s->n, MMU_READ, &lin) ||
	    mmu_host(cpu, lin, MMU_READ | MMU_AS_VIEW, &host, &avail)) {
		cpu->exc.pending = false;
		return 1;
	}
	return host && !hostmem_copy(cpu->pio.data, host, k * s->n) ? k : 1;
}

int insn_outs(struct cpu *cpu, const struct cpu_insn *in)
{
	u16 port = (u16)cpu->gpr[RDX];
	struct str s;
	bool go;
	int ret = string_begin(cpu, in, &s, &go);

	if (!go)
		return ret;
	for (;;) {
		u64 si = str_offset(cpu, &s, RSI);
		u32 value = 0, k;

		ret = cpu_read(cpu, in->seg, si, &value, s.n);
		if (ret)
			return ret;
		if (cpu->ops->pio_write(cpu, port, s.n, value)) {
			str_advance(cpu, &s, 1, true, false);
			if (str_stop(cpu, &s, 0, &ret))
				return port_breakpoint(cpu, port, s.n, ret);
			continue;
		}
		mem_store(cpu->pio.data, value, s.n);
		k = outs_gather(cpu, &s, in->seg, si);
		ret = port_exit(cpu, false, port, s.n, k);
		str_advance(cpu, &s, k, true, false);
		if (s.count)
			cpu->rflags |= FLAG_RF;
		else
			cpu_insn_done(cpu, in);
		return port_breakpoint(cpu, port, s.n, ret);
	}
}
