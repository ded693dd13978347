/* Trace points around KVM_RUN, with names for what ended it. */
#include "kvm/trace.h"

#include "base/mem.h"

#include <errno.h>
#include <linux/kvm.h>

static const char *const user_reasons[] = {
#define EXIT(name) [KVM_EXIT_##name] = "KVM_EXIT_" #name
	EXIT(UNKNOWN),
	EXIT(EXCEPTION),
	EXIT(IO),
	EXIT(HYPERCALL),
	EXIT(DEBUG),
	EXIT(HLT),
	EXIT(MMIO),
	EXIT(IRQ_WINDOW_OPEN),
	EXIT(SHUTDOWN),
	EXIT(FAIL_ENTRY),
	EXIT(INTR),
	EXIT(SET_TPR),
	EXIT(TPR_ACCESS),
	EXIT(NMI),
	EXIT(INTERNAL_ERROR),
	EXIT(SYSTEM_EVENT),
	EXIT(IOAPIC_EOI),
	EXIT(HYPERV),
	EXIT(DIRTY_RING_FULL),
	EXIT(X86_RDMSR),
	EXIT(X86_WRMSR),
	EXIT(X86_BUS_LOCK),
	EXIT(XEN),
	EXIT(NOTIFY),
	[KVM_EXIT_MEMORY_FAULT] = "KVM_EXIT_MEMORY_FAULT",
#undef EXIT
};

static const char *const guest_reasons[] = {
	[CPU_EXIT_NONE] = "none",
	[CPU_EXIT_POLL] = "external_interrupt",
	[CPU_EXIT_MWAIT] = "mwait",
	[CPU_EXIT_HLT] = "hlt",
	[CPU_EXIT_PIO] = "io",
	[CPU_EXIT_MMIO] = "mmio",
	[CPU_EXIT_RDMSR] = "rdmsr",
	[CPU_EXIT_WRMSR] = "wrmsr",
	[CPU_EXIT_HYPERCALL] = "hypercall",
	[CPU_EXIT_SHUTDOWN] = "triple_fault",
	[CPU_EXIT_DEBUG] = "debug",
	[CPU_EXIT_MEMFAULT] = "memory_fault",
	[CPU_EXIT_INTERNAL] = "emulation_failure",
};

void trace_entry(struct vcpu *vcpu)
{
	TRACE(vcpu->cpu.trace, kvm_entry, vcpu->id, vcpu->cpu.rip);
}

void trace_exit(struct vcpu *vcpu)
{
	u32 reason = vcpu->cpu.exit.reason;
	const char *name = reason < ARRAY_SIZE(guest_reasons) ? guest_reasons[reason] : NULL;

	TRACE(vcpu->cpu.trace, kvm_exit, vcpu->id, TRACE_STRING(name ? name : "?"), vcpu->cpu.rip);
}

void trace_userspace_exit(struct vcpu *vcpu, int ret)
{
	u32 reason = ret ? (u32)-ret : vcpu->run->exit_reason;
	const char *name;

	if (ret)
		name = ret == -EINTR ? "restart" : "error";
	else
		name = reason < ARRAY_SIZE(user_reasons) ? user_reasons[reason] : NULL;
	TRACE(vcpu->cpu.trace, kvm_userspace_exit, vcpu->id, TRACE_STRING(name ? name : "?"),
	      reason);
}

void trace_pio(struct vcpu *vcpu, bool in, u16 port, unsigned size, u32 count, const void *data)
{
	TRACE(vcpu->cpu.trace, kvm_pio, vcpu->id, TRACE_STRING(in ? "read" : "write"), port, size,
	      count, mem_load(data, MIN(size, 4u)));
}

void trace_mmio(struct vcpu *vcpu, bool write, u64 gpa, unsigned len, const void *data)
{
	TRACE(vcpu->cpu.trace, kvm_mmio, vcpu->id, TRACE_STRING(write ? "write" : "read"), len, gpa,
	      mem_load(data, MIN(len, 8u)));
}
