/*
 * CPUID: what the program sees with its own instruction, where that is trapped (cpuid_trap.c), and
 * what the answer of KVM_GET_SUPPORTED_CPUID must leave out where it is not.
 *
 * The program sees a host of the emulated kind. What KVM_GET_SUPPORTED_CPUID offers is nearly that:
 * all of it works in guests, and what is an instruction of user programs is executed by this host,
 * except for few features that the engine emulates; those are masked here. Whatever describes this
 * machine rather than its kind stays this machine's: which CPU a thread runs on and how CPUs share
 * caches, the hypervisor that we may run under, what the kernel has enabled in CR4 and XCR0, and so
 * how large the image is that XSAVE stores here.
 */
#include "exec/exec.h"

#include "cpu/cpuid.h"
#include "cpu/feature.h"

#include <cpuid.h>
#include <linux/kvm.h>
#include <string.h>

#define XSAVE_PKRU	 9
#define LEAF_VERSION	 1
#define LEAF_CACHES	 4
#define LEAF_FEATURES	 7
#define LEAF_TOPOLOGY	 0xb
#define LEAF_XSAVE	 0xd
#define LEAF_TOPOLOGY_V2 0x1f
#define LEAF_HYPERVISOR	 0x40000000
#define LEAF_SIZES	 0x80000008
#define LEAF_AMD_CACHES	 0x8000001d
#define LEAF_AMD_CORES	 0x8000001e

static struct cpu_cpuid view[CPU_CPUID_MAX];
static unsigned view_count;

/* Instructions of user programs that the engine emulates in guests; nobody does it here. */
static const unsigned native_only[] = {X86_FEATURE_FSGSBASE, X86_FEATURE_RDPID, X86_FEATURE_RDTSCP};
/* Bits by which the kernel tells what it has enabled. */
static const unsigned enabled[] = {X86_FEATURE_OSXSAVE, X86_FEATURE_OSPKE, X86_FEATURE_HYPERVISOR};

static bool host_has(u32 leaf)
{
	u32 r[4];

	exec_cpuid_native(leaf & 0xf0000000, 0, r);
	return r[CPUID_EAX] >= leaf;
}

/* The host's leaf, zeros if it has none. */
static void host_leaf(u32 leaf, u32 index, u32 r[4])
{
	if (host_has(leaf))
		exec_cpuid_native(leaf, index, r);
	else
		r[0] = r[1] = r[2] = r[3] = 0;
}

static bool host_bit(unsigned feature)
{
	u32 r[4];

	host_leaf(feature_leaf(feature), feature_index(feature), r);
	return r[feature_reg(feature)] >> feature_bit(feature) & 1;
}

static u32 *view_reg(unsigned feature)
{
	for (unsigned i = 0; i < view_count; i++) {
		struct cpu_cpuid *e = &view[i];
		u32 *regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

		if (e->leaf == feature_leaf(feature) && e->index == feature_index(feature))
			return regs[feature_reg(feature)];
	}
	return NULL;
}

static void view_set(unsigned feature, bool on)
{
	u32 *reg = view_reg(feature);

	if (reg)
		*reg = (*reg & ~BIT(feature_bit(feature))) | (u32)on << feature_bit(feature);
}

static void view_mask_natives(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(native_only); i++)
		if (!host_bit(native_only[i]))
			view_set(native_only[i], false);
}

void exec_cpuid_view_init(void)
{
	bool amd = !strcmp(exec_options.vendor, "amd");
	int n = cpu_cpuid_supported_by(amd ? CPU_VENDOR_AMD : CPU_VENDOR_INTEL, exec_options.model,
				       view, CPU_CPUID_MAX);
	u32 *pku;

	view_count = n > 0 ? (unsigned)n : 0;
	view_mask_natives();
	/* A processor has it; KVM offers it to guests by KVM_CAP_X86_DISABLE_EXITS only. */
	view_set(X86_FEATURE_MWAIT, true);
	for (unsigned i = 0; i < ARRAY_SIZE(enabled); i++)
		view_set(enabled[i], host_bit(enabled[i]));
	pku = view_reg(X86_FEATURE_PKU);
	if (pku && !(*pku & BIT(feature_bit(X86_FEATURE_PKU))))
		view_set(X86_FEATURE_OSPKE, false);
}

static const struct cpu_cpuid *find(u32 leaf, u32 index)
{
	for (unsigned i = 0; i < view_count; i++) {
		const struct cpu_cpuid *e = &view[i];

		if (e->leaf == leaf && (!(e->flags & CPUID_FLAG_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

/* Intel answers a leaf beyond the last with the last basic one. */
static const struct cpu_cpuid *find_any(u32 leaf, u32 index)
{
	const struct cpu_cpuid *e = find(leaf, index), *range;

	if (e || !strcmp(exec_options.vendor, "amd"))
		return e;
	range = find(leaf & 0x80000000, 0);
	if (range && leaf <= range->eax)
		return NULL;
	range = find(0, 0);
	return range ? find(range->eax, index) : NULL;
}

/* Caches: both vendors' leaves have one format but for Intel's number of cores. */
static void caches(u32 index, u32 r[4], bool intel)
{
	u32 version[4];
	bool own = host_has(LEAF_AMD_CACHES);

	host_leaf(own ? LEAF_AMD_CACHES : LEAF_CACHES, index, r);
	if (!(r[CPUID_EAX] & 0x1f))
		return;
	r[CPUID_EAX] &= 0x03ffffff;
	exec_cpuid_native(LEAF_VERSION, 0, version);
	if (intel)
		r[CPUID_EAX] |= (MIN(MAX(version[CPUID_EBX] >> 16 & 0xff, 1u), 64u) - 1) << 26;
}

/* Leaves that are this machine's. True if `leaf` is one. */
static bool machine_leaf(u32 leaf, u32 index, u32 r[4])
{
	bool intel = strcmp(exec_options.vendor, "amd");

	if (leaf >> 28 == LEAF_HYPERVISOR >> 28 && host_bit(X86_FEATURE_HYPERVISOR)) {
		exec_cpuid_native(leaf, index, r);
		return true;
	}
	switch (leaf) {
	case LEAF_CACHES:
		if (intel)
			caches(index, r, true);
		return intel;
	case LEAF_AMD_CACHES:
		if (!intel)
			caches(index, r, false);
		return !intel;
	case LEAF_TOPOLOGY_V2:
		if (!intel || !find(leaf, 0))
			return false;
		host_leaf(host_has(leaf) ? leaf : LEAF_TOPOLOGY, index, r);
		return true;
	case LEAF_AMD_CORES:
		if (!intel)
			host_leaf(leaf, index, r);
		return !intel;
	case LEAF_TOPOLOGY:
		host_leaf(leaf, index, r);
		return true;
	}
	return false;
}

/* What of a leaf is this machine's. */
static void machine_parts(u32 leaf, u32 index, u32 r[4])
{
	u32 host[4];

	switch (leaf) {
	case LEAF_VERSION: /* cache line, CPUs, this CPU's number */
		exec_cpuid_native(leaf, index, host);
		r[CPUID_EBX] = host[CPUID_EBX];
		break;
	case LEAF_XSAVE: /* what XSAVE stores under the kernel's XCR0, however few are shown */
		host_leaf(leaf, index, host);
		if (index < 2 && r[CPUID_EBX])
			r[CPUID_EBX] = host[CPUID_EBX];
		if (!index)
			r[CPUID_ECX] = MAX(r[CPUID_ECX], host[CPUID_EBX]);
		break;
	case LEAF_SIZES:
		host_leaf(leaf, index, host);
		if (host_has(LEAF_AMD_CORES) && !strcmp(exec_options.vendor, "amd"))
			r[CPUID_ECX] = host[CPUID_ECX];
		break;
	}
}

void exec_cpuid_view(u32 leaf, u32 index, u32 regs[4])
{
	const struct cpu_cpuid *e;

	regs[0] = regs[1] = regs[2] = regs[3] = 0;
	if (machine_leaf(leaf, index, regs))
		return;
	e = find_any(leaf, index);
	if (!e)
		return;
	if (e->leaf != leaf && machine_leaf(e->leaf, index, regs))
		return;
	regs[CPUID_EAX] = e->eax;
	regs[CPUID_EBX] = e->ebx;
	regs[CPUID_ECX] = e->ecx;
	regs[CPUID_EDX] = e->edx;
	machine_parts(e->leaf, index, regs);
}

/* ---- KVM_GET_SUPPORTED_CPUID for a program that finds the host's own CPUID ---- */

static bool host_agrees(const struct kvm_cpuid_entry2 *e)
{
	u32 a, b, c, d;

	__cpuid_count(LEAF_XSAVE, e->index, a, b, c, d);
	return a == e->eax && b == e->ebx;
}

/*
 * QEMU takes the places of XSAVE's components from its own CPUID instruction, so a component that
 * the engine has and the host lays out otherwise, or lacks, is not offered.
 */
void exec_cpuid_filter(struct kvm_cpuid2 *list)
{
	const u32 pku = BIT(feature_bit(X86_FEATURE_PKU)) | BIT(feature_bit(X86_FEATURE_OSPKE));
	u64 hide = 0;

	if (exec_options.all_features || exec_cpuid_trapped())
		return;
	for (u32 i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		if (e->function != LEAF_XSAVE || e->index < 2 || e->index > 62 || (e->ecx & 1) ||
		    !e->eax || host_agrees(e))
			continue;
		hide |= BIT64(e->index);
		e->eax = e->ebx = e->ecx = e->edx = 0;
	}
	for (u32 i = 0; hide && i < list->nent; i++) {
		struct kvm_cpuid_entry2 *e = &list->entries[i];

		if (e->function == LEAF_XSAVE && !e->index) {
			e->eax &= ~(u32)hide;
			e->edx &= ~(u32)(hide >> 32);
		} else if (e->function == LEAF_FEATURES && !e->index &&
			   (hide & BIT64(XSAVE_PKRU))) {
			e->ecx &= ~pku;
		}
	}
}
