/* --trace: the API's calls, and exits under the names of KVM's trace points. */
#include "exec/exec.h"

#include "kvm/ioctl.h"

#include <string.h>

static const char *const exit_names[] = {
#define EXIT(name) [KVM_EXIT_##name] = #name
	EXIT(UNKNOWN),	       EXIT(EXCEPTION),	  EXIT(IO),	       EXIT(HYPERCALL),
	EXIT(DEBUG),	       EXIT(HLT),	  EXIT(MMIO),	       EXIT(IRQ_WINDOW_OPEN),
	EXIT(SHUTDOWN),	       EXIT(FAIL_ENTRY),  EXIT(INTR),	       EXIT(SET_TPR),
	EXIT(TPR_ACCESS),      EXIT(NMI),	  EXIT(INTERNAL_ERROR), EXIT(SYSTEM_EVENT),
	EXIT(IOAPIC_EOI),      EXIT(HYPERV),	  EXIT(DIRTY_RING_FULL), EXIT(X86_RDMSR),
	EXIT(X86_WRMSR),       EXIT(X86_BUS_LOCK), EXIT(XEN),	       EXIT(NOTIFY),
#undef EXIT
};

static const char *exit_name(u32 reason)
{
	const char *name = reason < ARRAY_SIZE(exit_names) ? exit_names[reason] : NULL;

	return name ? name : "?";
}

void exec_trace_ioctl(int fd, enum anykvm_kind kind, u32 request, unsigned long arg, int ret)
{
	static const char *const kinds[] = {"?", "system", "vm", "vcpu", "stats", "device"};
	const char *name = ioctl_name(kind, request);
	char number[24];

	snprintf(number, sizeof(number), "0x%x", request);
	exec_log("ioctl: fd %d (%s) %s arg 0x%lx = %d%s%s", fd,
		 (unsigned)kind < ARRAY_SIZE(kinds) ? kinds[kind] : "?", name ? name : number, arg,
		 ret, ret < 0 ? " " : "", ret < 0 ? strerrorname_np(-ret) : "");
}

static u64 data_value(const void *data, size_t size)
{
	u64 value = 0;

	memcpy(&value, data, MIN(size, sizeof(value)));
	return value;
}

void exec_trace_run(struct vcpu *vcpu, int ret, int error)
{
	const struct kvm_run *run = vcpu->run;

	if (ret) {
		exec_log("kvm_userspace_exit: vcpu %u %s", vcpu->id, strerrorname_np(error));
		return;
	}
	exec_log("kvm_userspace_exit: vcpu %u reason KVM_EXIT_%s (%u) rip 0x%llx", vcpu->id,
		 exit_name(run->exit_reason), run->exit_reason, (unsigned long long)vcpu->cpu.rip);
	if (run->exit_reason == KVM_EXIT_IO)
		exec_log("kvm_pio: pio_%s at 0x%x size %u count %u val 0x%llx",
			 run->io.direction ? "write" : "read", run->io.port, run->io.size,
			 run->io.count,
			 run->io.direction ? (unsigned long long)data_value(vcpu->pio_page,
									    run->io.size) : 0ull);
	else if (run->exit_reason == KVM_EXIT_MMIO)
		exec_log("kvm_mmio: mmio %s len %u gpa 0x%llx val 0x%llx",
			 run->mmio.is_write ? "write" : "read", run->mmio.len,
			 (unsigned long long)run->mmio.phys_addr,
			 run->mmio.is_write ? (unsigned long long)data_value(run->mmio.data,
									     run->mmio.len) : 0ull);
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		exec_log("internal error, suberror %u", run->internal.suberror);
	else if (run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR)
		exec_log("kvm_msr: index 0x%x data 0x%llx", run->msr.index,
			 (unsigned long long)run->msr.data);
}
