/*
 * answer.c - the end of a load, or of an IN, that user space had to answer
 *
 * An instruction whose read nobody inside answers stops uncommitted and in general runs again to find the
 * answer (cpu->mmio, cpu->pio): it may have other operands, and parts of this one elsewhere. That is a lookup of its
 * code, a page walk and the translated instruction. Most reads of devices are plain loads of one general register,
 * though: generated code says at the stop which (cpu->mmio.load), IN is known anyway, and the answer goes
 * straight into the register.
 *
 * An OUT likewise has nothing left to do but to end.
 *
 * Not when something looks between two instructions (steps, breakpoints, a shadow, a nested guest's
 * hypervisor): then it runs again. An exception that the client has made meanwhile comes behind it.
 */
#include <linux/kvm.h>
#include "base/mem.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "cpu/seg.h"

static bool alone(const struct cpu *cpu, u64 rip)
{
	return cpu->rip == rip && !(cpu->mode & (MODE_STEP | MODE_GUEST)) && !cpu->shadow &&
	       !(cpu->dr7 & 0xff) && !cpu->guest_debug;
}

static void done(struct cpu *cpu, unsigned len)
{
	cpu->rip = seg_next_rip(cpu, len);
	cpu->rflags &= ~FLAG_RF;
}

bool cpu_mmio_answer(struct cpu *cpu, const void *data)
{
	struct cpu_mmio *m = &cpu->mmio;
	const struct cpu_mmio_load *l = &m->load;
	unsigned unused;
	u64 value;

	if (!l->len || m->want.len != l->size || !alone(cpu, l->rip))
		return false;
	m->read_wanted = false;
	value = mem_load(data, l->size);
	if (l->sign) {
		unused = 64 - 8 * l->size;
		value = (u64)((s64)(value << unused) >> unused);
	}
	cpu_reg_write(cpu, l->reg, value, l->to, !l->high);
	done(cpu, l->len);
	return true;
}

bool cpu_pio_answer(struct cpu *cpu)
{
	const struct cpu_pio *p = &cpu->pio;

	if (!p->len || !alone(cpu, p->rip))
		return false;
	if (p->in)
		cpu_reg_write(cpu, RAX, mem_load(p->data, p->size), p->size, true);
	done(cpu, p->len);
	return true;
}

void cpu_insn_skip(struct cpu *cpu, unsigned len)
{
	bool step = (cpu->rflags & FLAG_TF) || (cpu->guest_debug & KVM_GUESTDBG_SINGLESTEP);

	done(cpu, len);
	cpu->shadow = 0;
	if (step)
		cpu_raise_db(cpu, DR6_BS);
}
