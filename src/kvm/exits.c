/*
 * Exits: cpu->exit becomes kvm_run, and on re-entry the client's answers go back to where the
 * interrupted instruction, run again, finds them. kvm_run is the client's to write at any time:
 * every field is read once and checked.
 */
#include "base/mem.h"
#include "cpu/insn.h"
#include "jit/jit.h"
#include "kvm/abi.h"
#include "kvm/emulate.h"
#include "kvm/memattr.h"
#include "kvm/nested.h"
#include "kvm/request.h"
#include "kvm/run.h"
#include "kvm/trace.h"

#include <errno.h>

static int exit_pio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	const struct cpu_pio *pio = &vcpu->cpu.pio;
	u32 bytes = MIN(pio->size * pio->count, (u32)sizeof(pio->data));

	vcpu->stats.io_exits++;
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = pio->in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = pio->size;
	run->io.port = pio->port;
	run->io.count = pio->count;
	run->io.data_offset = PAGE_SIZE;
	vcpu->completion = COMPLETE_PIO;
	if (!pio->in) {
		mem_copy(vcpu->pio_page, pio->data, bytes);
		if (UNLIKELY(vcpu->cpu.trace))
			trace_pio(vcpu, false, pio->port, pio->size, pio->count, pio->data);
	}
	return RUN_USER;
}

static void fill_mmio(struct vcpu *vcpu, const struct cpu_mmio_frag *f, bool write)
{
	struct kvm_run *run = vcpu->run;

	vcpu->stats.mmio_exits++;
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = f->gpa;
	run->mmio.len = f->len;
	run->mmio.is_write = write;
	if (write)
		mem_copy(run->mmio.data, f->data, 8);
	if (UNLIKELY(vcpu->cpu.trace) && write)
		trace_mmio(vcpu, true, f->gpa, f->len, f->data);
	vcpu->completion = COMPLETE_MMIO;
}

/* Queued writes first, one exit each, then the read that stopped the instruction. */
static int exit_mmio(struct vcpu *vcpu)
{
	struct cpu_mmio *m = &vcpu->cpu.mmio;

	if (vcpu->mmio_sent < m->write_count) {
		fill_mmio(vcpu, &m->write[vcpu->mmio_sent++], true);
		return RUN_USER;
	}
	vcpu->mmio_sent = m->write_count = 0;
	if (!m->read_wanted)
		return RUN_GUEST;
	vcpu->mmio_rip = vcpu->cpu.rip;
	fill_mmio(vcpu, &m->want, false);
	return RUN_USER;
}

static int exit_msr(struct vcpu *vcpu, bool write)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	run->msr.error = 0;
	mem_set(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = (u32)vcpu->msr_exit_reason;
	run->msr.index = vcpu->cpu.exit.msr.index;
	run->msr.data = vcpu->cpu.exit.msr.data;
	vcpu->msr_exit_index = vcpu->cpu.exit.msr.index;
	vcpu->completion = COMPLETE_MSR;
	return RUN_USER;
}

static int exit_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	const struct cpu_exit *e = &vcpu->cpu.exit;
	bool wide = cpu_is_64bit(&vcpu->cpu);

	run->exit_reason = KVM_EXIT_HYPERCALL;
	run->hypercall.nr = e->hypercall.nr;
	mem_set(run->hypercall.args, 0, sizeof(run->hypercall.args));
	for (unsigned i = 0; i < 3; i++)
		run->hypercall.args[i] = e->hypercall.args[i];
	run->hypercall.ret = 0;
	/* The newer header calls it flags, 64 bits. */
	*(u64_una *)&run->hypercall.longmode = wide ? KVM_EXIT_HYPERCALL_LONG_MODE : 0;
	vcpu->completion = wide ? COMPLETE_HYPERCALL : COMPLETE_HYPERCALL_32;
	vcpu->hypercall_len = e->hypercall.len;
	return RUN_USER;
}

static int exit_hlt(struct vcpu *vcpu)
{
	vcpu->stats.halt_exits++;
	if (UNLIKELY(vcpu->cpu.guest_mode)) {
		vcpu->l2_halted = true;
		nested_timer_arm(vcpu);
	}
	if (!vcpu->apic) {
		vcpu->run->exit_reason = KVM_EXIT_HLT;
		return RUN_USER;
	}
	if (inject_has_work(vcpu))
		__atomic_store_n(&vcpu->latch.unhalted, 0, __ATOMIC_RELEASE);
	else
		vcpu->mp_state = KVM_MP_STATE_HALTED;
	return RUN_GUEST;
}

static int exit_debug(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	const struct cpu_exit *e = &vcpu->cpu.exit;

	run->exit_reason = KVM_EXIT_DEBUG;
	run->debug.arch.exception = e->debug.vector;
	run->debug.arch.pad = 0;
	run->debug.arch.pc = e->debug.pc;
	run->debug.arch.dr6 = e->debug.dr6;
	run->debug.arch.dr7 = e->debug.dr7;
	return RUN_USER;
}

static int exit_memory(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct {
		u64 flags, gpa, size;
	} *fault = (void *)&run->hw; /* the union's start; older headers lack the name */

	run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	fault->flags = memattr_is_private(vcpu->vm, vcpu->cpu.exit.mem.gpa)
			       ? KVM_MEMORY_EXIT_FLAG_PRIVATE
			       : 0;
	fault->gpa = align_down(vcpu->cpu.exit.mem.gpa, PAGE_SIZE);
	fault->size = PAGE_SIZE;
	return -EFAULT;
}

/* An instruction is about to reach a device. True: the emulator would not know it. */
static bool emulation_fails(struct vcpu *vcpu)
{
	struct cpu_exit *e = &vcpu->cpu.exit;
	u8 bytes[EMULATE_BYTES];
	unsigned n = emulate_fetch(vcpu, bytes);

	if (emulate_known(vcpu, bytes, n))
		return false;
	e->internal.len = (u8)MIN(n, (unsigned)sizeof(e->internal.bytes));
	mem_copy(e->internal.bytes, bytes, e->internal.len);
	return true;
}

int exit_emulation_failure(struct vcpu *vcpu, const u8 *bytes, unsigned n)
{
	struct kvm_run *run = vcpu->run;
	u8 len = (u8)MIN(n, (unsigned)sizeof(run->emulation_failure.insn_bytes));

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.ndata = 3;
	run->emulation_failure.flags =
		len ? KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES : 0;
	run->emulation_failure.insn_size = len;
	mem_set(run->emulation_failure.insn_bytes, 0x90, sizeof(run->emulation_failure.insn_bytes));
	if (len)
		mem_copy(run->emulation_failure.insn_bytes, bytes, len);
	return RUN_USER;
}

static int exit_internal(struct vcpu *vcpu)
{
	const struct cpu_exit *e = &vcpu->cpu.exit;

	if (mmu_mmio_asked(&vcpu->cpu) && !emulation_fails(vcpu)) {
		mmu_mmio_allow(&vcpu->cpu, true);
		jit_step(&vcpu->cpu);
		mmu_mmio_allow(&vcpu->cpu, false);
		return exit_handle(vcpu);
	}
	return exit_emulation_failure(vcpu, e->internal.bytes, e->internal.len);
}

int exit_handle(struct vcpu *vcpu)
{
	vcpu->stats.exits++;
	/* Writes that an instruction queued go out whatever else stopped it. */
	if (UNLIKELY(vcpu->cpu.mmio.write_count) && vcpu->cpu.exit.reason == CPU_EXIT_POLL)
		return exit_mmio(vcpu);
	switch (vcpu->cpu.exit.reason) {
	case CPU_EXIT_NONE:
	case CPU_EXIT_POLL:
	case CPU_EXIT_MWAIT: /* returns at once, which the architecture allows */
		return RUN_GUEST;
	case CPU_EXIT_HLT:
		return exit_hlt(vcpu);
	case CPU_EXIT_PIO:
		return exit_pio(vcpu);
	case CPU_EXIT_MMIO:
		return exit_mmio(vcpu);
	case CPU_EXIT_RDMSR:
		return exit_msr(vcpu, false);
	case CPU_EXIT_WRMSR:
		return exit_msr(vcpu, true);
	case CPU_EXIT_HYPERCALL:
		return exit_hypercall(vcpu);
	case CPU_EXIT_SHUTDOWN:
		vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
		return RUN_USER;
	case CPU_EXIT_DEBUG:
		return exit_debug(vcpu);
	case CPU_EXIT_MEMFAULT:
		return exit_memory(vcpu);
	case CPU_EXIT_INTERNAL:
		break;
	}
	return exit_internal(vcpu);
}

/* --- re-entry ---------------------------------------------------------------------------------- */

/* The instruction runs again, alone, and finds its answers. */
static int restart(struct vcpu *vcpu)
{
	vcpu->cpu.restart = true;
	vcpu->has_code = true;
	jit_step(&vcpu->cpu);
	return exit_handle(vcpu);
}

static int complete_mmio(struct vcpu *vcpu)
{
	struct cpu_mmio *m = &vcpu->cpu.mmio;
	struct cpu_mmio_frag *f;

	if (vcpu->mmio_sent)
		return exit_mmio(vcpu);
	if (!m->read_wanted || m->done_count >= CPU_MMIO_FRAGS)
		return RUN_GUEST;
	/* The client has moved it: the answer goes nowhere. */
	if (vcpu->cpu.rip != vcpu->mmio_rip) {
		m->read_wanted = false;
		vcpu->cpu.restart = false;
		return RUN_GUEST;
	}
	f = &m->done[m->done_count];
	*f = m->want;
	mem_copy(f->data, vcpu->run->mmio.data, 8);
	if (UNLIKELY(vcpu->cpu.trace))
		trace_mmio(vcpu, false, f->gpa, f->len, f->data);
	if (LIKELY(cpu_mmio_answer(&vcpu->cpu, f->data)))
		return RUN_GUEST;
	m->done_count++;
	m->read_wanted = false;
	return restart(vcpu);
}

static int complete_pio(struct vcpu *vcpu)
{
	struct cpu_pio *pio = &vcpu->cpu.pio;

	if (pio->in) {
		mem_copy(pio->data, vcpu->pio_page,
			 MIN(pio->size * pio->count, (u32)sizeof(pio->data)));
		if (UNLIKELY(vcpu->cpu.trace))
			trace_pio(vcpu, true, pio->port, pio->size, pio->count, pio->data);
	} else if (!pio->len) {
		return RUN_GUEST; /* it was committed before the exit */
	}
	if (vcpu->cpu.rip != pio->rip)
		return RUN_GUEST; /* the client has moved it: the answer goes nowhere, as in KVM */
	if (LIKELY(cpu_pio_answer(&vcpu->cpu)))
		return RUN_GUEST;
	pio->ready = true;
	return restart(vcpu);
}

static int complete_msr(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;

	cpu->exit.msr.index = vcpu->msr_exit_index;
	cpu->exit.msr.data = __atomic_load_n(&vcpu->run->msr.data, __ATOMIC_RELAXED);
	cpu->msr_error = __atomic_load_n(&vcpu->run->msr.error, __ATOMIC_RELAXED) != 0;
	cpu->msr_ready = true;
	return restart(vcpu);
}

int exit_complete(struct vcpu *vcpu)
{
	enum vcpu_completion how = vcpu->completion;
	u64 ret;

	vcpu->completion = COMPLETE_NOTHING;
	switch (how) {
	case COMPLETE_NOTHING:
		break;
	case COMPLETE_PIO:
		return complete_pio(vcpu);
	case COMPLETE_MMIO:
		return complete_mmio(vcpu);
	case COMPLETE_MSR:
		return complete_msr(vcpu);
	case COMPLETE_HYPERCALL:
	case COMPLETE_HYPERCALL_32:
		ret = __atomic_load_n(&vcpu->run->hypercall.ret, __ATOMIC_RELAXED);
		vcpu->cpu.gpr[RAX] = how == COMPLETE_HYPERCALL ? ret : (u32)ret;
		cpu_insn_skip(&vcpu->cpu, vcpu->hypercall_len);
		break;
	}
	return RUN_GUEST;
}
