/* Capabilities: what there is, and KVM_ENABLE_CAP. */
#include "cpu/cpuid.h"
#include "kvm/dirty.h"
#include "kvm/ioctl.h"
#include "kvm/memattr.h"
#include "kvm/nested.h"
#include "kvm/pages.h"
#include "kvm/request.h"

#include <errno.h>
#include <unistd.h>

#define CAPS_QUIRKS                                                              \
	(KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED |           \
	 KVM_X86_QUIRK_LAPIC_MMIO_HOLE | KVM_X86_QUIRK_OUT_7E_INC_RIP |          \
	 KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | KVM_X86_QUIRK_FIX_HYPERCALL_INSN | \
	 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | KVM_X86_QUIRK_SLOT_ZAP_ALL |      \
	 KVM_X86_QUIRK_STUFF_FEATURE_MSRS)

#ifndef KVM_CAP_STEAL_TIME
#define KVM_CAP_STEAL_TIME 187
#endif

static int caps_host_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > (long)KVM_ABI_MAX_VCPUS ? (int)KVM_ABI_MAX_VCPUS : (int)n;
}

static int caps_xsave_size(void)
{
	struct cpu_xcomp x[CPU_XCOMP_COUNT];
	u32 size;

	cpu_xcomp_init(x);
	size = cpu_xsave_size(x, cpu_xcr0_supported(), false);
	return (int)MAX(size, 4096u);
}

static int caps_check(const struct system *sys, const struct vm *vm, unsigned long cap)
{
	(void)sys;
	(void)vm;
	switch (cap) {
#define CAP(name, value) \
	case name:       \
		return (int)(value);
#include "kvm/caps.def"
#undef CAP
	default:
		return 0;
	}
}

int sys_check_extension(struct system *sys, void *data, unsigned long arg)
{
	return caps_check(sys, NULL, arg);
}

int vm_check_extension(struct vm *vm, void *data, unsigned long arg)
{
	return caps_check(vm->sys, vm, arg);
}

static int enable_split_irqchip(struct vm *vm, u64 reserved_pins)
{
	int ret;

	if (reserved_pins > KVM_ABI_MAX_IRQ_ROUTES)
		return -EINVAL;
	if (vm->irqchip)
		return -EEXIST;
	if (vm->vcpu_count)
		return -EEXIST; /* as the kernel has it */
	ret = vm_irqchip_create(vm, IRQCHIP_SPLIT);
	if (!ret)
		ret = irqchip_set_reserved_routes(vm->irqchip, (u32)reserved_pins);
	return ret;
}

static int enable_x2apic_api(struct vm *vm, u64 flags)
{
	if (flags & ~(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK))
		return -EINVAL;
	vm->x2apic_api |= flags;
	return vm->irqchip ? irqchip_set_x2apic_api(vm->irqchip, vm->x2apic_api) : 0;
}

static int enable_bus_cycles(struct vm *vm, u64 ns)
{
	if (!ns || ns > UINT32_MAX)
		return -EINVAL;
	if (!vm->irqchip)
		return -ENXIO;
	if (vm->vcpu_count)
		return -EINVAL;
	return irqchip_set_apic_bus_ns(vm->irqchip, ns);
}

static int enable_quirks(struct vm *vm, u64 mask, bool strict)
{
	if (strict && (mask & ~(u64)CAPS_QUIRKS))
		return -EINVAL;
	vm->disabled_quirks = mask & CAPS_QUIRKS;
	for (u32 i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->cpu.disabled_quirks = (u32)vm->disabled_quirks;
	if (vm->irqchip)
		irqchip_disable_quirks(vm->irqchip, vm->disabled_quirks);
	return 0;
}

static int enable_locked(struct vm *vm, const struct kvm_enable_cap *cap)
{
	u64 a = cap->args[0];

	switch (cap->cap) {
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		if (a & ~(u64)(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET))
			return -EINVAL;
		if (!(a & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) && a)
			return -EINVAL;
		vm->manual_dirty = a;
		return 0;
	case KVM_CAP_SPLIT_IRQCHIP:
		return enable_split_irqchip(vm, a);
	case KVM_CAP_X2APIC_API:
		return enable_x2apic_api(vm, a);
	case KVM_CAP_X86_APIC_BUS_CYCLES_NS:
		return enable_bus_cycles(vm, a);
	case KVM_CAP_DISABLE_QUIRKS:
		return enable_quirks(vm, a, false);
	case KVM_CAP_DISABLE_QUIRKS2:
		return enable_quirks(vm, a, true);
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (a & ~(u64)(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
			       KVM_MSR_EXIT_REASON_FILTER))
			return -EINVAL;
		vm->user_msr_mask = a;
		return 0;
	case KVM_CAP_X86_DISABLE_EXITS:
		if (a & ~(u64)KVM_X86_DISABLE_VALID_EXITS)
			return -EINVAL;
		vm->disabled_exits |= a;
		return 0;
	case KVM_CAP_EXIT_HYPERCALL:
		if (a & ~BIT64(KVM_HC_MAP_GPA_RANGE))
			return -EINVAL;
		vm->hypercall_exits = a;
		return 0;
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (a & ~1ull)
			return -EINVAL;
		vm->mem.mmio_ask = a;
		return 0;
	case ANYKVM_CAP_WINDOW:
		if ((a != ANYKVM_WINDOW_AUTO && a != ANYKVM_WINDOW_ALWAYS) || vm->vcpu_count)
			return -EINVAL;
		return mmu_window_enable(&vm->mem, a == ANYKVM_WINDOW_ALWAYS);
	case ANYKVM_CAP_WRITES_TOLD:
		if (a || vm->vcpu_count)
			return -EINVAL;
		vm->mem.writes_told = true;
		return 0;
	case KVM_CAP_HALT_POLL:
		if (a != (u32)a)
			return -EINVAL;
		__atomic_store_n(&vm->halt_poll_ns, (u32)a, __ATOMIC_RELAXED);
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		vm->exception_payload = a;
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		vm->triple_fault_event = a;
		return 0;
	case KVM_CAP_PMU_CAPABILITY:
		if (a & ~(u64)KVM_PMU_CAP_DISABLE || vm->vcpu_count)
			return -EINVAL;
		vm->pmu_disabled = a & KVM_PMU_CAP_DISABLE;
		return 0;
	case KVM_CAP_MSR_PLATFORM_INFO:
		vm->platform_info_hidden = !a;
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		if (!a || a < vm->bsp_id || a > KVM_ABI_MAX_VCPU_IDS)
			return -EINVAL;
		if (vm->max_vcpu_id)
			return a == vm->max_vcpu_id ? 0 : -EINVAL;
		if (vm->vcpu_count)
			return -EINVAL;
		vm->max_vcpu_id = (u32)a;
		return 0;
	default:
		return -EINVAL;
	}
}

int vm_enable_cap(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_enable_cap *cap = data;
	int ret;

	if (cap->flags)
		return -EINVAL;
	if (cap->cap == KVM_CAP_DIRTY_LOG_RING || cap->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
		return dirty_ring_enable(vm, cap->args[0]);
	if (cap->cap == KVM_CAP_VM_DISABLE_NX_HUGE_PAGES)
		return pages_nx_disable(vm, cap->args[0]);
	pthread_mutex_lock(&vm->lock);
	ret = enable_locked(vm, cap);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int vcpu_enable_cap(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_enable_cap *cap = data;

	if (cap->flags)
		return -EINVAL;
	if (cap->cap == KVM_CAP_ENFORCE_PV_FEATURE_CPUID) {
		vcpu->pv_cpuid_enforced = cap->args[0];
		return 0;
	}
	return -EINVAL;
}
