/*
 * The guest's CPUID: what the accelerator supports, with the leaves that differ from vCPU to
 * vCPU. Topology: one package with as many single-thread cores as there are vCPUs; APIC id =
 * vCPU number.
 */
#include "vmm/vcpu.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <linux/kvm_para.h>
#include <string.h>

#include "vmm/error.h"

#define CPUID_ENTRIES_MAX 1024
#define TOPOLOGY_LEVELS	  3 /* threads, cores, and the empty one that ends the list */

/* The timer's bit belongs to the in-kernel APIC, so older kernels tell it by a capability. */
static void add_deadline_timer(const struct accel *accel, struct kvm_cpuid2 *cpuid)
{
	bool there = accel_extension(accel, accel->fd, KVM_CAP_TSC_DEADLINE_TIMER);

	for (unsigned i = 0; there && i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx |= BIT(24);
}

/*
 * Leaf 0xb in full: KVM names at most its first level, since the rest is the VMM's business.
 * Leaf 0x1f would say the same once more and is left out. The table has room for the levels.
 */
static void add_topology_levels(struct kvm_cpuid2 *cpuid)
{
	unsigned n = 0;
	u32 max_leaf = 0;

	for (unsigned i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 0)
			max_leaf = e->eax;
		if (e->function != 0xb && e->function != 0x1f)
			cpuid->entries[n++] = *e;
	}
	for (unsigned i = 0; max_leaf >= 0xb && i < TOPOLOGY_LEVELS; i++)
		cpuid->entries[n++] = (struct kvm_cpuid_entry2){
			.function = 0xb,
			.index = i,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		};
	cpuid->nent = n;
}

bool cpuid_reports_pages(const struct accel *accel)
{
	return (accel_extension(accel, accel->fd, KVM_CAP_EXIT_HYPERCALL) &
		BIT(KVM_HC_MAP_GPA_RANGE)) != 0;
}

/* Guests may report which pages they share, and that they are ready to be moved. */
static void add_page_reports(const struct accel *accel, struct kvm_cpuid2 *cpuid)
{
	bool there = cpuid_reports_pages(accel);

	for (unsigned i = 0; there && i < cpuid->nent; i++)
		if (cpuid->entries[i].function == KVM_CPUID_FEATURES)
			cpuid->entries[i].eax |= BIT(KVM_FEATURE_HC_MAP_GPA_RANGE) |
						 BIT(KVM_FEATURE_MIGRATION_CONTROL);
}

/* A hypervisor is present; --cpu may say that it hides. */
static void add_hypervisor(struct kvm_cpuid2 *cpuid)
{
	for (unsigned i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx |= BIT(31);
}

struct kvm_cpuid2 *cpuid_supported(const struct accel *accel, GError **error)
{
	unsigned n = 128;
	int r;

	do {
		struct kvm_cpuid2 *cpuid = g_malloc0(
			sizeof(*cpuid) + (n + TOPOLOGY_LEVELS) * sizeof(cpuid->entries[0]));

		cpuid->nent = n;
		r = accel_ioctl(accel, accel->fd, KVM_GET_SUPPORTED_CPUID, cpuid);
		if (r >= 0) {
			add_deadline_timer(accel, cpuid);
			add_page_reports(accel, cpuid);
			add_hypervisor(cpuid);
			add_topology_levels(cpuid);
			return cpuid;
		}
		g_free(cpuid);
		n *= 2;
	} while (r == -E2BIG && n <= CPUID_ENTRIES_MAX);
	vmm_error(error, "%s does not tell its CPUID: %s", accel->ops->name, g_strerror(-r));
	return NULL;
}

static unsigned order_of(unsigned count)
{
	unsigned order = 0;

	while ((1u << order) < count)
		order++;
	return order;
}

/* Leaf 4 and 0x8000001d: which threads share a cache. Levels 1 and 2 are a core's own. */
static u32 cache_sharing(u32 eax, unsigned count, bool intel)
{
	unsigned level = (eax >> 5) & 7;

	if (!(eax & 0x1f))
		return eax; /* no more caches */
	eax &= intel ? 0x3fff : 0xfc003fffu;
	if (level >= 3)
		eax |= ((1u << order_of(count)) - 1) << 14;
	if (intel)
		eax |= ((1u << order_of(count)) - 1) << 26;
	return eax;
}

/* Leaf 0xb: level 0 threads, level 1 cores. */
static void set_extended_topology(struct kvm_cpuid_entry2 *e, unsigned id, unsigned count)
{
	e->edx = id;
	e->ecx = e->index & 0xff;
	e->eax = e->ebx = 0;
	if (e->index == 0) {
		e->ebx = 1;
		e->ecx |= 1 << 8;
	} else if (e->index == 1) {
		e->eax = order_of(count);
		e->ebx = count;
		e->ecx |= 2 << 8;
	}
}

void cpuid_set_topology(struct kvm_cpuid2 *cpuid, unsigned id, unsigned count)
{
	for (unsigned i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		switch (e->function) {
		case 1:
			e->ebx = (e->ebx & 0xffff) | id << 24 | MIN(count, 255u) << 16;
			e->edx = count > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28);
			break;
		case 4:
			e->eax = cache_sharing(e->eax, count, true);
			break;
		case 0xb:
			set_extended_topology(e, id, count);
			break;
		case 0x80000001: /* legacy "more than one core" */
			e->ecx = count > 1 ? e->ecx | BIT(1) : e->ecx & ~BIT(1);
			break;
		case 0x80000008:
			e->ecx = (e->ecx & ~0xf0ffu) | order_of(count) << 12 | (count - 1);
			break;
		case 0x8000001d:
			e->eax = cache_sharing(e->eax, count, false);
			break;
		case 0x8000001e:
			e->eax = id;
			e->ebx = id & 0xff; /* core id, one thread a core */
			e->ecx = 0;
			break;
		}
	}
}
