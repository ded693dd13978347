/*
 * What the program's own CPUID instruction contradicts.
 *
 * Where the host cannot make CPUID fault, a program that asks the processor itself gets the host's
 * answers. QEMU takes the places of XSAVE's components from there, so a component that the engine
 * has and the host lays out otherwise, or lacks, is not offered to the program.
 */
#include "exec/exec.h"

#include <cpuid.h>
#include <linux/kvm.h>

#define LEAF_VERSION  1
#define LEAF_FEATURES 7
#define LEAF_XSAVE    0xd
#define XSAVE_PKRU    9
#define ECX_TSC_DEADLINE BIT(24)
#define ECX_PKU	      (BIT(3) | BIT(4)) /* and OSPKE */

static bool host_agrees(const struct kvm_cpuid_entry2 *e)
{
	u32 a, b, c, d;

	__cpuid_count(LEAF_XSAVE, e->index, a, b, c, d);
	return a == e->eax && b == e->ebx;
}

/*
 * KVM does not list the APIC timer's TSC deadline: it is there only with a local APIC of its own,
 * which the program knows and KVM_CAP_TSC_DEADLINE_TIMER says.
 */
static void hide_deadline(struct kvm_cpuid2 *list)
{
	for (u32 i = 0; i < list->nent; i++)
		if (list->entries[i].function == LEAF_VERSION)
			list->entries[i].ecx &= ~ECX_TSC_DEADLINE;
}

void exec_cpuid_filter(struct kvm_cpuid2 *list)
{
	u64 hide = 0;

	hide_deadline(list);
	if (exec_options.all_features)
		return;

	for (u32 i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		if (e->function != LEAF_XSAVE || e->index < 2 || e->index > 62 ||
		    (e->ecx & 1) || !e->eax || host_agrees(e))
			continue;
		hide |= BIT64(e->index);
		e->eax = e->ebx = e->ecx = e->edx = 0;
	}
	for (u32 i = 0; hide && i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		if (e->function == LEAF_XSAVE && !e->index) {
			e->eax &= ~(u32)hide;
			e->edx &= ~(u32)(hide >> 32);
		} else if (e->function == LEAF_FEATURES && !e->index && (hide & BIT64(XSAVE_PKRU))) {
			e->ecx &= ~ECX_PKU;
		}
	}
}
