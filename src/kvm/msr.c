#include "kvm/msr.h"

#include "cpu/feature.h"
#include "cpu/msr.h"
#include "cpu/tsc.h"
#include "kvm/clock.h"
#include "kvm/cpuid.h"
#include "kvm/ioctl.h"
#include "kvm/pv.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>

#define MSR_TSC_ADJUST	  0x3bu
#define MSR_PLATFORM_INFO 0xceu
#define MSR_UCODE_REV	  0x8bu
#define MSR_X2APIC_LAST	  0x8ffu
#define MSR_LIST_MAX	  1024u

/* Results of the functions here; beyond 1 only inside this file. */
enum { MSR_OK, MSR_REFUSED, MSR_NOT_OURS };

static bool is_x2apic(u32 index)
{
	return index >= APIC_MSR_FIRST && index <= MSR_X2APIC_LAST;
}

static bool is_pv(u32 index)
{
	return index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME ||
	       (index >= MSR_KVM_WALL_CLOCK_NEW && index <= MSR_KVM_MIGRATION_CONTROL);
}

u64 vcpu_apic_base(const struct vcpu *vcpu)
{
	return vcpu->apic ? lapic_base(vcpu->apic) : vcpu->apic_base_user;
}

int vcpu_set_apic_base(struct vcpu *vcpu, u64 value, bool host)
{
	u64 old = vcpu_apic_base(vcpu);

	if (vcpu->apic) {
		if (lapic_set_base(vcpu->apic, value, host))
			return 1;
	} else {
		if (value & ~(APIC_BASE_ADDRESS | APIC_BASE_BSP | APIC_BASE_X2APIC |
			      APIC_BASE_ENABLE) ||
		    ((value & APIC_BASE_X2APIC) && !(value & APIC_BASE_ENABLE)))
			return 1;
		vcpu->apic_base_user = value;
	}
	if ((old ^ value) & APIC_BASE_ENABLE)
		cpuid_update_dynamic(vcpu);
	/* The page of the APIC may have moved in or out of RAM. */
	if (old != value)
		vcpu_request(vcpu, BIT64(REQ_TLB_FLUSH));
	return 0;
}

static int own_get(struct vcpu *vcpu, u32 index, u64 *value, bool host)
{
	switch (index) {
	case MSR_IA32_APIC_BASE:
		*value = vcpu_apic_base(vcpu);
		return MSR_OK;
	case MSR_IA32_TSC_DEADLINE: /* as in KVM, whatever CPUID says */
		*value = vcpu->apic ? lapic_get_tsc_deadline(vcpu->apic) : 0;
		return MSR_OK;
	case MSR_PLATFORM_INFO:
		if (!host && vcpu->vm->platform_info_hidden)
			return MSR_REFUSED;
		*value = vcpu->cpu.platform_info;
		return MSR_OK;
	case MSR_IA32_TSC:
		*value = host ? clock_guest_tsc(vcpu, clock_host_tsc())
			      : cpu_tsc_visible(&vcpu->cpu);
		return MSR_OK;
	}
	if (is_x2apic(index))
		return vcpu->apic && !lapic_msr_read(vcpu->apic, index, value) ? MSR_OK
									       : MSR_REFUSED;
	if (is_pv(index))
		return pv_msr_get(vcpu, index, value, host);
	return MSR_NOT_OURS;
}

static int own_set(struct vcpu *vcpu, u32 index, u64 value, bool host)
{
	int ret;

	switch (index) {
	case MSR_IA32_APIC_BASE:
		return vcpu_set_apic_base(vcpu, value, host);
	case MSR_IA32_TSC_DEADLINE:
		if (vcpu->apic)
			lapic_set_tsc_deadline(vcpu->apic, value);
		return MSR_OK;
	case MSR_PLATFORM_INFO:
		if (!host)
			return MSR_REFUSED;
		vcpu->cpu.platform_info = value;
		return MSR_OK;
	case MSR_IA32_TSC:
		if (host)
			clock_tsc_write_host(vcpu, value);
		else
			clock_tsc_write_guest(vcpu, value);
		return MSR_OK;
	case MSR_TSC_ADJUST:
		ret = cpu_msr_write(&vcpu->cpu, index, value, host);
		if (!ret && vcpu->apic)
			lapic_tsc_changed(vcpu->apic);
		if (!ret)
			vcpu_request(vcpu, BIT64(REQ_CLOCK));
		return ret;
	}
	if (is_x2apic(index))
		return vcpu->apic && !lapic_msr_write(vcpu->apic, index, value) ? MSR_OK
										: MSR_REFUSED;
	if (is_pv(index))
		return pv_msr_set(vcpu, index, value, host);
	return MSR_NOT_OURS;
}

int msr_get(struct vcpu *vcpu, u32 index, u64 *value, bool host)
{
	int ret = own_get(vcpu, index, value, host);

	return ret == MSR_NOT_OURS ? cpu_msr_read(&vcpu->cpu, index, value, host) : ret;
}

int msr_set(struct vcpu *vcpu, u32 index, u64 value, bool host)
{
	int ret = own_set(vcpu, index, value, host);

	return ret == MSR_NOT_OURS ? cpu_msr_write(&vcpu->cpu, index, value, host) : ret;
}

/* --- what the guest does ---------------------------------------------------------------------- */

/* The access failed for a reason that user space may want to know: an exit, or #GP. */
static int refuse(struct vcpu *vcpu, u32 index, u64 value, bool write, u64 reason)
{
	struct cpu *cpu = &vcpu->cpu;

	if (!(vcpu->vm->user_msr_mask & reason))
		return cpu_raise_err(cpu, EXC_GP, 0);
	vcpu->msr_exit_reason = reason;
	cpu->exit.reason = write ? CPU_EXIT_WRMSR : CPU_EXIT_RDMSR;
	cpu->exit.msr.index = index;
	cpu->exit.msr.data = value;
	return CPU_EXIT;
}

static u64 refuse_reason(struct vcpu *vcpu, u32 index)
{
	return cpu_msr_known(&vcpu->cpu, index) ? KVM_MSR_EXIT_REASON_INVAL
						: KVM_MSR_EXIT_REASON_UNKNOWN;
}

int msr_ops_read(struct cpu *cpu, u32 index, u64 *value, bool *handled)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	*handled = true;
	if (UNLIKELY(!msr_allowed(vcpu, index, false)))
		return refuse(vcpu, index, 0, false, KVM_MSR_EXIT_REASON_FILTER);
	if (LIKELY(!msr_get(vcpu, index, value, false)))
		return CPU_OK;
	return refuse(vcpu, index, 0, false, refuse_reason(vcpu, index));
}

int msr_ops_write(struct cpu *cpu, u32 index, u64 value, bool *handled)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	*handled = true;
	if (UNLIKELY(!msr_allowed(vcpu, index, true)))
		return refuse(vcpu, index, value, true, KVM_MSR_EXIT_REASON_FILTER);
	if (LIKELY(!msr_set(vcpu, index, value, false)))
		return CPU_OK;
	return refuse(vcpu, index, value, true, refuse_reason(vcpu, index));
}

/* --- the client's lists -------------------------------------------------------------------------- */

/* Copies a list of MSR numbers by the rules of KVM_GET_MSR_INDEX_LIST. */
static int list_out(unsigned long arg, const u32 *list, u32 n)
{
	struct kvm_msr_list head;
	u32 room;

	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	room = head.nmsrs;
	head.nmsrs = n;
	if (user_copy_out(arg, &head, sizeof(head)))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return user_copy_out(arg + sizeof(head), list, n * sizeof(u32));
}

int sys_get_msr_index_list(struct system *sys, void *data, unsigned long arg)
{
	u32 list[MSR_LIST_MAX];
	u32 n = cpu_msr_list(sys->vendor, list, MSR_LIST_MAX);

	return list_out(arg, list, MIN(n, MSR_LIST_MAX));
}

int sys_get_msr_feature_list(struct system *sys, void *data, unsigned long arg)
{
	u32 list[MSR_LIST_MAX];
	u32 n = cpu_msr_feature_list(sys->vendor, list, MSR_LIST_MAX);

	return list_out(arg, list, MIN(n, MSR_LIST_MAX));
}

/* Runs a batch; `one` returns 0 to go on. Returns the number of entries done, or -errno. */
static int batch(unsigned long arg, int (*one)(void *ctx, struct kvm_msr_entry *e), void *ctx,
		 bool out)
{
	struct kvm_msrs head;
	struct kvm_msr_entry *entries;
	void *p;
	u32 done = 0;
	int ret;

	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	ret = user_array_in(&p, arg + sizeof(head), head.nmsrs, sizeof(*entries), 255);
	if (ret)
		return ret;
	entries = p;
	while (done < head.nmsrs && !one(ctx, &entries[done]))
		done++;
	if (out && user_copy_out(arg + sizeof(head), entries, head.nmsrs * sizeof(*entries)))
		ret = -EFAULT;
	free(entries);
	return ret ? ret : (int)done;
}

static int one_feature(void *ctx, struct kvm_msr_entry *e)
{
	u64 value = 0;
	int ret = cpu_msr_feature_read(((struct system *)ctx)->vendor, e->index, &value);

	if (!ret)
		e->data = value;
	return ret;
}

static int one_get(void *ctx, struct kvm_msr_entry *e)
{
	u64 value = 0;
	int ret = msr_get(ctx, e->index, &value, true);

	if (!ret)
		e->data = value;
	return ret;
}

/* What the processor is stays as it is once the guest could see it; all but its microcode's revision. */
static bool is_fixed(const struct vcpu *vcpu, u32 index)
{
	u64 ignored;

	return vcpu->ran && index != MSR_UCODE_REV &&
	       !cpu_msr_feature_read(vcpu->cpu.vendor, index, &ignored);
}

static int one_set(void *ctx, struct kvm_msr_entry *e)
{
	u64 value;

	if (is_fixed(ctx, e->index))
		return msr_get(ctx, e->index, &value, true) || value != e->data;
	return msr_set(ctx, e->index, e->data, true);
}

int sys_get_msrs(struct system *sys, void *data, unsigned long arg)
{
	return batch(arg, one_feature, sys, true);
}

int vcpu_get_msrs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return batch(arg, one_get, vcpu, true);
}

int vcpu_set_msrs(struct vcpu *vcpu, void *data, unsigned long arg)
{
	int ret = batch(arg, one_set, vcpu, false);

	vcpu_state_changed(vcpu);
	return ret;
}
