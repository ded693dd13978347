/*
 * control.h - control registers, for neighbours and for the API's checks of sregs
 */
#ifndef CPU_CONTROL_H
#define CPU_CONTROL_H

#include "cpu/cpu.h"

/** Writes CR0, CR3 or CR4 with all checks and consequences, as MOV does. CPU_OK or CPU_EXC (#GP). */
int cpu_cr0_write(struct cpu *cpu, u64 v);
int cpu_cr3_write(struct cpu *cpu, u64 v);
int cpu_cr4_write(struct cpu *cpu, u64 v);
/** True when a CR0 value has no reserved bits and no impossible combination. */
bool cpu_cr0_valid(u64 v);
/** The CR4 bits that the guest's CPUID allows. */
u64 cpu_cr4_allowed(const struct cpu *cpu);
/** The CR3 bits above MAXPHYADDR, 63 included. */
u64 cpu_cr3_reserved(const struct cpu *cpu);
/** The XCR0 bits that the guest may set, and whether a value may be loaded. */
u64 cpu_xcr0_allowed(const struct cpu *cpu);
bool cpu_xcr0_valid(const struct cpu *cpu, u64 v);
/** Sets PKRU and drops cached permissions that depend on it. */
void cpu_pkru_write(struct cpu *cpu, u32 v);

#endif
