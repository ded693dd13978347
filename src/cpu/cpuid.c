/*
 * cpuid.c - the CPUID instruction and the guest's feature bitmap
 *
 * The client's entries are shown to the guest as they are, save the bits that follow the
 * processor's own state. Whether an instruction works is decided by cpu->features, which holds
 * only what this processor really implements: a client that claims more gets #UD there.
 */
#include <errno.h>
#include <linux/kvm.h>
#include "base/mem.h"
#include "cpu/cpuid.h"
#include "cpu/cpuid_internal.h"
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/msr.h"

#define CPUID_FAULTING 1ull

const struct cpu_cpuid *cpu_cpuid_find(const struct cpu *cpu, u32 leaf, u32 index)
{
	for (unsigned i = 0; i < cpu->cpuid_count; i++) {
		const struct cpu_cpuid *e = &cpu->cpuid[i];

		if (e->leaf == leaf && (!(e->flags & CPUID_FLAG_INDEX) || e->index == index))
			return e;
	}
	return NULL;
}

u32 cpu_xsave_size(const struct cpu_xcomp *x, u64 mask, bool compacted)
{
	u32 end = 576, offset;

	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++) {
		if (!(mask & BIT64(i)))
			continue;
		offset = x[i].offset;
		if (compacted)
			offset = x[i].align ? (u32)align_up(end, 64) : end;
		end = MAX(end, offset + x[i].size);
	}
	return end;
}

static u32 reg_of(const struct cpu_cpuid *e, enum cpuid_reg reg)
{
	const u32 v[4] = {e->eax, e->ebx, e->ecx, e->edx};

	return v[reg];
}

/*
 * Intel answers a leaf beyond the highest with the highest basic leaf; AMD with zeros. Ranges of
 * their own (hypervisor leaves, 0x80000000, 0xc0000000) are measured by their own first leaf.
 */
static const struct cpu_cpuid *out_of_range(const struct cpu *cpu, u32 leaf, u32 index)
{
	const struct cpu_cpuid *basic = cpu_cpuid_find(cpu, 0, 0), *class;

	if (!basic || cpu->vendor == CPU_VENDOR_AMD)
		return NULL;
	if (leaf >= 0x40000000 && leaf <= 0x4fffffff)
		class = cpu_cpuid_find(cpu, leaf & 0xffffff00, 0);
	else if (leaf >= 0xc0000000)
		class = cpu_cpuid_find(cpu, 0xc0000000, 0);
	else
		class = cpu_cpuid_find(cpu, leaf & 0x80000000, 0);
	if (class && leaf <= class->eax)
		return NULL;
	return cpu_cpuid_find(cpu, basic->eax, index);
}

static void put_bit(u32 *v, unsigned feature, bool on)
{
	*v = (*v & ~BIT(feature_bit(feature))) | (u32)on << feature_bit(feature);
}

/*
 * Bits and sizes that the client's entry cannot know. (The APIC bit is not here: the layer that has
 * the APIC's base keeps it right in the entry.)
 */
static void query_dynamic(const struct cpu *cpu, u32 leaf, u32 index, u32 regs[4])
{
	switch (leaf) {
	case 1:
		put_bit(&regs[CPUID_ECX], X86_FEATURE_OSXSAVE, cpu->cr4 & CR4_OSXSAVE);
		if (cpu->disabled_quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT)
			put_bit(&regs[CPUID_ECX], X86_FEATURE_MWAIT,
				cpu->misc_enable & MISC_ENABLE_MWAIT);
		break;
	case 7:
		if (index == 0)
			put_bit(&regs[CPUID_ECX], X86_FEATURE_OSPKE, cpu->cr4 & CR4_PKE);
		break;
	case 0xd:
		if (index == 0)
			regs[CPUID_EBX] = cpu_xsave_size(cpu->xcomp, cpu->xcr0, false);
		else if (index == 1 && (regs[CPUID_EAX] & (BIT(1) | BIT(3))))
			regs[CPUID_EBX] = cpu_xsave_size(cpu->xcomp, cpu->xcr0 | cpu->xss, true);
		break;
	}
}

void cpu_cpuid_query(const struct cpu *cpu, u32 leaf, u32 index, u32 regs[4])
{
	const struct cpu_cpuid *e = cpu_cpuid_find(cpu, leaf, index);

	if (!e)
		e = out_of_range(cpu, leaf, index);
	regs[0] = regs[1] = regs[2] = regs[3] = 0;
	if (e) {
		for (unsigned i = 0; i < 4; i++)
			regs[i] = reg_of(e, i);
		query_dynamic(cpu, e->leaf, e->index, regs);
		return;
	}
	/* Topology levels past the last keep the index and the x2APIC ID. */
	if (leaf == 0xb || leaf == 0x1f) {
		e = cpu_cpuid_find(cpu, leaf, 1);
		if (e) {
			regs[CPUID_ECX] = index & 0xff;
			regs[CPUID_EDX] = e->edx;
		}
	}
}

static enum cpu_vendor vendor_of(const struct cpu *cpu, enum cpu_vendor def)
{
	const struct cpu_cpuid *e = cpu_cpuid_find(cpu, 0, 0);

	if (!e)
		return def;
	if (e->ebx == 0x68747541 && e->edx == 0x69746e65 && e->ecx == 0x444d4163)
		return CPU_VENDOR_AMD; /* AuthenticAMD */
	if (e->ebx == 0x6f677948 && e->edx == 0x6e65476e && e->ecx == 0x656e6975)
		return CPU_VENDOR_AMD; /* HygonGenuine */
	if (e->ebx == 0x756e6547 && e->edx == 0x49656e69 && e->ecx == 0x6c65746e)
		return CPU_VENDOR_INTEL; /* GenuineIntel */
	return def;
}

/*
 * A client that sets no CPUID at all still gets a processor that executes the host's instructions,
 * as with KVM; only what is emulated needs to be shown to work.
 */
static void features_native(struct cpu *cpu)
{
	u32 words[FEATURE_WORD_COUNT];

	cpuid_words_native(words);
	for (unsigned w = 0; w < FEATURE_WORD_COUNT; w++)
		cpu->features[w / 2] |= (u64)words[w] << (w % 2 * 32);
}

/* KVM's leaves are where their signature is: other hypervisors' may come first. */
static u32 kvm_leaf(const struct cpu *cpu, u32 leaf)
{
	for (unsigned i = 0; i < cpu->cpuid_count; i++) {
		const struct cpu_cpuid *e = &cpu->cpuid[i];

		if ((e->leaf & 0xffff00ff) == 0x40000000 && e->ebx == 0x4b4d564b &&
		    e->ecx == 0x564b4d56 && e->edx == 0x4d)
			return e->leaf + (leaf & 0xff);
	}
	return leaf;
}

static void features_set(struct cpu *cpu)
{
	mem_set(cpu->features, 0, sizeof(cpu->features));
	if (!cpu->cpuid_count) {
		features_native(cpu);
		return;
	}
	for (unsigned w = 0; w < FEATURE_WORD_COUNT; w++) {
		unsigned f = cpuid_words[w];
		u32 leaf = feature_leaf(f), have;
		const struct cpu_cpuid *e;

		if (leaf >> 28 == 4)
			leaf = kvm_leaf(cpu, leaf);
		e = cpu_cpuid_find(cpu, leaf, feature_index(f));

		if (!e)
			continue;
		have = cpuid_word_supported(CPU_VENDOR_INTEL, w, true) |
		       cpuid_word_supported(CPU_VENDOR_AMD, w, true);
		cpu->features[w / 2] |= (u64)(reg_of(e, feature_reg(f)) & have) << (w % 2 * 32);
	}
}

int cpu_cpuid_set(struct cpu *cpu, const struct cpu_cpuid *entries, unsigned n)
{
	const struct cpu_cpuid *ext, *addr;

	if (n > CPU_CPUID_MAX)
		return -E2BIG;
	for (unsigned i = 0; i < n; i++) {
		u32 bits = (entries[i].eax >> 8) & 0xff;

		if (entries[i].leaf == 0x80000008 && bits && bits != 48 && bits != 57)
			return -EINVAL;
	}
	mem_copy(cpu->cpuid, entries, n * sizeof(*entries));
	cpu->cpuid_count = n;
	cpu->vendor = vendor_of(cpu, cpu->vendor);
	ext = cpu_cpuid_find(cpu, 0x80000000, 0);
	addr = cpu_cpuid_find(cpu, 0x80000008, 0);
	cpu->maxphyaddr = 36;
	if (ext && ext->eax >= 0x80000008 && addr)
		cpu->maxphyaddr = (u8)MIN(addr->eax & 0xff, 52u);
	cpu->phys_reserved = (BIT64(52) - 1) & ~(BIT64(cpu->maxphyaddr) - 1);
	cpu_xcomp_init(cpu->xcomp);
	features_set(cpu);
	return 0;
}

int insn_cpuid(struct cpu *cpu, const struct cpu_insn *in)
{
	u32 regs[4];

	if (UNLIKELY(cpu->misc_features_enables & CPUID_FAULTING) && cpu->cpl && !cpu->smm)
		return cpu_raise_err(cpu, EXC_GP, 0);
	cpu_cpuid_query(cpu, (u32)cpu->gpr[RAX], (u32)cpu->gpr[RCX], regs);
	TRACE(cpu->trace, kvm_cpuid, cpu->index, (u32)cpu->gpr[RAX], (u32)cpu->gpr[RCX],
	      regs[CPUID_EAX], regs[CPUID_EBX], regs[CPUID_ECX], regs[CPUID_EDX]);
	cpu->gpr[RAX] = regs[CPUID_EAX];
	cpu->gpr[RBX] = regs[CPUID_EBX];
	cpu->gpr[RCX] = regs[CPUID_ECX];
	cpu->gpr[RDX] = regs[CPUID_EDX];
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
