#include "kvm/cpuid.h"

#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "kvm/ioctl.h"
#include "kvm/pmu.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CPUID_HEAD sizeof(struct kvm_cpuid2)

static struct kvm_cpuid_entry2 entry_of(const struct cpu_cpuid *c)
{
	return (struct kvm_cpuid_entry2){
		.function = c->leaf,
		.index = c->index,
		.flags = c->flags & CPUID_FLAG_INDEX ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = c->eax,
		.ebx = c->ebx,
		.ecx = c->ecx,
		.edx = c->edx,
	};
}

int sys_get_supported_cpuid(struct system *sys, void *data, unsigned long arg)
{
	const struct cpu_cpuid *list = sys->supported;
	int n = sys->supported_count, ret = 0;
	struct kvm_cpuid2 head;

	if (user_copy_in(&head, arg, CPUID_HEAD))
		return -EFAULT;
	if (!head.nent)
		return -E2BIG;
	if (head.nent < (u32)n)
		ret = -E2BIG;
	for (int i = 0; i < n && !ret; i++) {
		struct kvm_cpuid_entry2 e = entry_of(&list[i]);

		ret = user_copy_out(arg + CPUID_HEAD + (u32)i * sizeof(e), &e, sizeof(e));
	}
	head.nent = (u32)n;
	if (!ret)
		ret = user_copy_out(arg, &head, CPUID_HEAD);
	return ret;
}

/* Features that the processor can do although the host cannot: MOVBE and RDPID always work here,
 * so they are in the supported list; what is left is a list of leaves without bits. */
int sys_get_emulated_cpuid(struct system *sys, void *data, unsigned long arg)
{
	static const u32 leaves[] = {0, 1, 7};
	struct kvm_cpuid2 head;
	int ret = 0;

	if (user_copy_in(&head, arg, CPUID_HEAD))
		return -EFAULT;
	if (head.nent < ARRAY_SIZE(leaves))
		return -E2BIG;
	for (u32 i = 0; i < ARRAY_SIZE(leaves) && !ret; i++) {
		struct kvm_cpuid_entry2 e = {
			.function = leaves[i],
			.flags = leaves[i] == 7 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = leaves[i] ? 0 : 7,
		};

		ret = user_copy_out(arg + CPUID_HEAD + i * sizeof(e), &e, sizeof(e));
	}
	head.nent = ARRAY_SIZE(leaves);
	return ret ? ret : user_copy_out(arg, &head, CPUID_HEAD);
}

int cpuid_system_init(struct system *sys)
{
	sys->supported = calloc(KVM_ABI_MAX_CPUID, sizeof(*sys->supported));
	if (!sys->supported)
		return -ENOMEM;
	sys->supported_count =
		cpu_cpuid_supported_by(sys->vendor, sys->model, sys->supported, KVM_ABI_MAX_CPUID);
	if (sys->supported_count < 0)
		return sys->supported_count;
	/* There only with a local APIC inside, so the client adds it: KVM_CAP_TSC_DEADLINE_TIMER. */
	for (int i = 0; i < sys->supported_count; i++)
		if (sys->supported[i].leaf == 1)
			sys->supported[i].ecx &= ~BIT(feature_bit(X86_FEATURE_TSC_DEADLINE));
	return 0;
}

bool cpuid_supports(const struct system *sys, unsigned feature)
{
	for (int i = 0; i < sys->supported_count; i++) {
		const struct cpu_cpuid *c = &sys->supported[i];
		const u32 regs[] = {c->eax, c->ebx, c->ecx, c->edx};

		if (c->leaf == feature_leaf(feature) && c->index == feature_index(feature))
			return regs[feature_reg(feature)] >> feature_bit(feature) & 1;
	}
	return false;
}

int cpuid_init(struct vcpu *vcpu)
{
	return cpu_cpuid_set(&vcpu->cpu, NULL, 0);
}

void cpuid_update_dynamic(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;
	struct lapic_features f = {
		.x2apic = cpu_has(cpu, X86_FEATURE_X2APIC),
		.tsc_deadline = cpu_has(cpu, X86_FEATURE_TSC_DEADLINE),
		.cmci = cpu->mcg_cap & BIT64(10),
		.base_reserved = cpu->phys_reserved & APIC_BASE_ADDRESS,
	};
	bool on = vcpu_apic_base(vcpu) & APIC_BASE_ENABLE;

	/* CPUID.1:EDX.APIC follows the enable bit of IA32_APIC_BASE. */
	for (u32 i = 0; i < cpu->cpuid_count; i++) {
		struct cpu_cpuid *c = &cpu->cpuid[i];

		if (c->leaf != 1)
			continue;
		c->edx = on ? c->edx | BIT(9) : c->edx & ~BIT(9);
	}
	if (vcpu->apic)
		lapic_set_features(vcpu->apic, &f);
}

static int cpuid_apply(struct vcpu *vcpu, struct kvm_cpuid_entry2 *entries, u32 n)
{
	struct cpu_cpuid *list = calloc(n + 1, sizeof(*list));
	int ret;

	if (!list)
		return -ENOMEM;
	for (u32 i = 0; i < n; i++)
		list[i] = (struct cpu_cpuid){
			.leaf = entries[i].function,
			.index = entries[i].index,
			.flags = entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX
					 ? CPUID_FLAG_INDEX
					 : 0,
			.eax = entries[i].eax,
			.ebx = entries[i].ebx,
			.ecx = entries[i].ecx,
			.edx = entries[i].edx,
		};
	ret = cpu_cpuid_set(&vcpu->cpu, list, n);
	free(list);
	if (ret)
		return ret;
	free(vcpu->cpuid);
	vcpu->cpuid = entries;
	vcpu->cpuid_count = n;
	cpuid_update_dynamic(vcpu);
	ret = pmu_cpuid_changed(vcpu);
	if (ret)
		return ret;
	/* MAXPHYADDR and features decide what translations and translated code may do. */
	vcpu_request(vcpu, BIT64(REQ_MEMORY));
	vcpu_state_changed(vcpu);
	return 0;
}

/* The bits of leaf 1, 7 and 0xd that the processor computes are shown as the guest sees them. */
static struct kvm_cpuid_entry2 entry_now(struct vcpu *vcpu, u32 i)
{
	struct kvm_cpuid_entry2 e = vcpu->cpuid[i];
	u32 regs[4];

	if (e.function == 1 || (e.function == 7 && !e.index) || e.function == 0xd ||
	    e.function == 0x80000001) {
		cpu_cpuid_query(&vcpu->cpu, e.function, e.index, regs);
		e.eax = regs[0];
		e.ebx = regs[1];
		e.ecx = regs[2];
		e.edx = regs[3];
	}
	return e;
}

static bool entry_equal(const struct kvm_cpuid_entry2 *a, const struct kvm_cpuid_entry2 *b)
{
	return a->function == b->function && a->index == b->index && a->flags == b->flags &&
	       a->eax == b->eax && a->ebx == b->ebx && a->ecx == b->ecx && a->edx == b->edx;
}

/*
 * After the first KVM_RUN only the same CPUID may be set again: as it was set, or as
 * KVM_GET_CPUID2 shows it.
 */
static int cpuid_same(struct vcpu *vcpu, const struct kvm_cpuid_entry2 *e, u32 n)
{
	if (n != vcpu->cpuid_count)
		return -EINVAL;
	for (u32 i = 0; i < n; i++) {
		struct kvm_cpuid_entry2 now = entry_now(vcpu, i);

		if (!entry_equal(&e[i], &vcpu->cpuid[i]) && !entry_equal(&e[i], &now))
			return -EINVAL;
	}
	return 0;
}

/* A guest whose HLT does not exit has nobody who could be asked to wake it. */
static void hide_pv_unhalt(struct vcpu *vcpu, struct kvm_cpuid_entry2 *e, u32 n)
{
	u32 base = 0;

	if (!(vcpu->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT))
		return;
	for (u32 i = 0; i < n && !base; i++)
		if ((e[i].function & 0xffff00ff) == KVM_CPUID_SIGNATURE &&
		    !memcmp(&e[i].ebx, KVM_SIGNATURE, 4) &&
		    !memcmp(&e[i].ecx, &KVM_SIGNATURE[4], 4) &&
		    !memcmp(&e[i].edx, &KVM_SIGNATURE[8], 4))
			base = e[i].function;
	for (u32 i = 0; i < n; i++)
		if (base && e[i].function == base + 1)
			e[i].eax &= ~BIT(KVM_FEATURE_PV_UNHALT);
}

static int cpuid_set(struct vcpu *vcpu, struct kvm_cpuid_entry2 *entries, u32 n)
{
	int ret;

	hide_pv_unhalt(vcpu, entries, n);
	if (vcpu->ran) {
		ret = cpuid_same(vcpu, entries, n);
		free(entries);
		return ret;
	}
	ret = cpuid_apply(vcpu, entries, n);
	if (ret)
		free(entries);
	return ret;
}

int vcpu_set_cpuid2(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_cpuid2 head;
	void *entries;
	int ret;

	if (user_copy_in(&head, arg, CPUID_HEAD))
		return -EFAULT;
	ret = user_array_in(&entries, arg + CPUID_HEAD, head.nent, sizeof(struct kvm_cpuid_entry2),
			    KVM_ABI_MAX_CPUID);
	return ret ? ret : cpuid_set(vcpu, entries, head.nent);
}

int vcpu_set_cpuid(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_cpuid head;
	struct kvm_cpuid_entry *old;
	struct kvm_cpuid_entry2 *entries;
	void *p;
	int ret;

	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	ret = user_array_in(&p, arg + sizeof(head), head.nent, sizeof(*old), KVM_ABI_MAX_CPUID);
	if (ret)
		return ret;
	old = p;
	entries = calloc(head.nent + 1, sizeof(*entries));
	if (!entries) {
		free(old);
		return -ENOMEM;
	}
	for (u32 i = 0; i < head.nent; i++)
		entries[i] = (struct kvm_cpuid_entry2){
			.function = old[i].function,
			.eax = old[i].eax,
			.ebx = old[i].ebx,
			.ecx = old[i].ecx,
			.edx = old[i].edx,
		};
	free(old);
	return cpuid_set(vcpu, entries, head.nent);
}

int vcpu_get_cpuid2(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_cpuid2 head;

	if (user_copy_in(&head, arg, CPUID_HEAD))
		return -EFAULT;
	if (head.nent < vcpu->cpuid_count)
		return -E2BIG;
	for (u32 i = 0; i < vcpu->cpuid_count; i++) {
		struct kvm_cpuid_entry2 e = entry_now(vcpu, i);

		if (user_copy_out(arg + CPUID_HEAD + i * sizeof(e), &e, sizeof(e)))
			return -EFAULT;
	}
	head.nent = vcpu->cpuid_count;
	return user_copy_out(arg, &head, CPUID_HEAD);
}
