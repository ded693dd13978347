/*
 * cpuid.h - what the CPUID instruction tells, and what may be offered to a guest
 */
#ifndef CPU_CPUID_H
#define CPU_CPUID_H

#include "cpu/cpu.h"

/* cpu_cpuid.flags, as in struct kvm_cpuid_entry2. */
#define CPUID_FLAG_INDEX 1u /* the index is significant */

/* Components that XCR0 may have in a guest, of those the host has; PKRU is kept in software. */
#define CPU_XCR0_MASK 0x2e7ull
#define XSTATE_X87    0x1ull
#define XSTATE_SSE    0x2ull
#define XSTATE_AVX    0x4ull
#define XSTATE_AVX512 0xe0ull
#define XSTATE_PKRU   0x200ull

/**
 * The CPUID that a guest of one vendor can be given on this host: what KVM_GET_SUPPORTED_CPUID
 * returns. Writes at most max entries. Returns their number, or -E2BIG when there are more.
 */
int cpu_cpuid_supported(enum cpu_vendor vendor, struct cpu_cpuid *out, unsigned max);
/** The same on a host that is taken for `model`, whose vendor is `vendor`; NULL as above. */
struct cpu_model;
int cpu_cpuid_supported_by(enum cpu_vendor vendor, const struct cpu_model *model,
			   struct cpu_cpuid *out, unsigned max);
/** The XCR0 bits that a guest may have on this host. */
u64 cpu_xcr0_supported(void);

/**
 * Gives the guest its CPUID (KVM_SET_CPUID2), and derives vendor, features and MAXPHYADDR.
 * 0, -E2BIG, or -EINVAL when it asks for a linear address width that does not exist.
 */
int cpu_cpuid_set(struct cpu *cpu, const struct cpu_cpuid *entries, unsigned n);
/**
 * What CPUID returns for a leaf and index with the bits that follow the processor's state, and
 * with the vendor's rule for leaves that do not exist. regs: EAX, EBX, ECX, EDX.
 */
void cpu_cpuid_query(const struct cpu *cpu, u32 leaf, u32 index, u32 regs[4]);
/** The client's entry for a leaf and index, or NULL. */
const struct cpu_cpuid *cpu_cpuid_find(const struct cpu *cpu, u32 leaf, u32 index);
/** Bytes of an XSAVE image with these components, standard or compacted. */
u32 cpu_xsave_size(const struct cpu_xcomp *x, u64 mask, bool compacted);
/** Fills in the layout of XSAVE's components as the host has it. */
void cpu_xcomp_init(struct cpu_xcomp x[CPU_XCOMP_COUNT]);

#endif
