/*
 * vmx_msr.c - the VMX capability MSRs
 *
 * What is offered here is there; what is not there is not offered. A client may restrict a vCPU
 * (KVM_SET_MSRS) by KVM's rules: it can take features away and give back what it took, nothing more.
 * The registers of controls without "TRUE" in their names are computed from those with it.
 */
#include "cpu/control.h"
#include "cpu/feature.h"
#include "cpu/msr_internal.h"
#include "cpu/vmx.h"

/* Bits that are 1 in controls unless the TRUE registers allow 0. */
#define PIN_DEFAULT1   0x16ull
#define PROC_DEFAULT1  0x0401e172ull
#define EXIT_DEFAULT1  0x00036dffull
#define ENTRY_DEFAULT1 0x000011ffull

#define PIN_MAY (PIN_EXT_INTR | PIN_NMI | PIN_VIRTUAL_NMI | PIN_PREEMPTION_TIMER)
#define PROC_MAY                                                                                 \
	(PROC_INTR_WINDOW | PROC_TSC_OFFSET | PROC_HLT | PROC_INVLPG | PROC_MWAIT | PROC_RDPMC | \
	 PROC_RDTSC | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_CR8_LOAD | PROC_CR8_STORE |          \
	 PROC_TPR_SHADOW | PROC_NMI_WINDOW | PROC_MOV_DR | PROC_IO | PROC_IO_BITMAPS |           \
	 PROC_MONITOR_TRAP | PROC_MSR_BITMAPS | PROC_MONITOR | PROC_PAUSE | PROC_SECONDARY)
#define PROC2_MAY                                                                                \
	(PROC2_APIC_ACCESS | PROC2_EPT | PROC2_DESC | PROC2_RDTSCP | PROC2_VPID | PROC2_WBINVD | \
	 PROC2_UNRESTRICTED | PROC2_INVPCID | PROC2_SHADOW_VMCS | PROC2_XSAVES |                 \
	 PROC2_TSC_SCALING)
#define EXIT_MAY                                                                         \
	(EXIT_SAVE_DEBUG | EXIT_HOST64 | EXIT_ACK_INTR | EXIT_SAVE_PAT | EXIT_LOAD_PAT | \
	 EXIT_SAVE_EFER | EXIT_LOAD_EFER | EXIT_SAVE_TIMER)
#define ENTRY_MAY (ENTRY_LOAD_DEBUG | ENTRY_IA32E | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER)

#define CR0_FIXED0 (CR0_PE | CR0_NE | CR0_PG)
#define CR4_KNOWN                                                                             \
	(0x7ffull | CR4_UMIP | CR4_LA57 | CR4_VMXE | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | \
	 CR4_SMEP | CR4_SMAP | CR4_PKE)

#define BASIC_MEMORY_WB	   (6ull << 50)
#define BASIC_INOUT	   BIT64(54)
#define BASIC_TRUE	   BIT64(55)
#define BASIC_DUAL_MONITOR BIT64(49)
#define BASIC_FEATURES	   (BIT64(48) | BASIC_DUAL_MONITOR | BASIC_INOUT | BASIC_TRUE)
#define BASIC_RESERVED	   (BIT64(31) | 7ull << 45 | 0xffull << 56)

/* Low half: must be 1; high half: may be 1. */
static u64 controls(u64 must, u64 may)
{
	return must | (may | must) << 32;
}

u64 vmx_msr_default(enum vmx_msr which)
{
	switch (which) {
	case VMX_BASIC:
		return VMCS_REVISION | (u64)VMCS_BYTES << 32 | BASIC_MEMORY_WB | BASIC_INOUT |
		       BASIC_TRUE;
	case VMX_PINBASED_CTLS:
	case VMX_TRUE_PINBASED_CTLS:
		return controls(PIN_DEFAULT1, PIN_MAY);
	case VMX_PROCBASED_CTLS:
		return controls(PROC_DEFAULT1, PROC_MAY);
	case VMX_TRUE_PROCBASED_CTLS:
		return controls(PROC_DEFAULT1 & ~(u64)(PROC_CR3_LOAD | PROC_CR3_STORE), PROC_MAY);
	case VMX_EXIT_CTLS:
		return controls(EXIT_DEFAULT1, EXIT_MAY);
	case VMX_TRUE_EXIT_CTLS:
		return controls(EXIT_DEFAULT1 & ~(u64)EXIT_SAVE_DEBUG, EXIT_MAY);
	case VMX_ENTRY_CTLS:
		return controls(ENTRY_DEFAULT1, ENTRY_MAY);
	case VMX_TRUE_ENTRY_CTLS:
		return controls(ENTRY_DEFAULT1 & ~(u64)ENTRY_LOAD_DEBUG, ENTRY_MAY);
	case VMX_MISC:
		return MISC_TIMER_RATE | MISC_SAVE_LMA | MISC_ACTIVITY_HLT | MISC_WRITE_ANY;
	case VMX_CR0_FIXED0:
		return CR0_FIXED0;
	case VMX_CR0_FIXED1:
		return 0xffffffff;
	case VMX_CR4_FIXED0:
		return CR4_VMXE;
	case VMX_CR4_FIXED1:
		return CR4_KNOWN;
	case VMX_VMCS_ENUM:
		return 0x19 << 1; /* the TSC multiplier has the highest index */
	case VMX_PROCBASED_CTLS2:
		return controls(0, PROC2_MAY);
	case VMX_EPT_VPID_CAP:
		return EPT_EXEC_ONLY | EPT_WALK_4 | EPT_WB | EPT_2M | EPT_1G | EPT_INVEPT | EPT_AD |
		       EPT_INVEPT_SINGLE | EPT_INVEPT_ALL | VPID_INVVPID | VPID_ADDRESS |
		       VPID_SINGLE | VPID_ALL | VPID_SINGLE_GLOBALS;
	case VMX_VMFUNC:
		break;
	}
	return 0;
}

u64 vmx_msr_get(const struct cpu *cpu, enum vmx_msr which)
{
	switch (which) {
	case VMX_PINBASED_CTLS:
		return cpu->vmx_msr[VMX_TRUE_PINBASED_CTLS] | PIN_DEFAULT1;
	case VMX_PROCBASED_CTLS:
		return cpu->vmx_msr[VMX_TRUE_PROCBASED_CTLS] | PROC_DEFAULT1;
	case VMX_EXIT_CTLS:
		return cpu->vmx_msr[VMX_TRUE_EXIT_CTLS] | EXIT_DEFAULT1;
	case VMX_ENTRY_CTLS:
		return cpu->vmx_msr[VMX_TRUE_ENTRY_CTLS] | ENTRY_DEFAULT1;
	case VMX_CR4_FIXED1:
		return cpu_cr4_allowed(cpu);
	default:
		return cpu->vmx_msr[which];
	}
}

/* --- access ------------------------------------------------------------------------------------- */

int msr_get_vmx(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host)
{
	*value = vmx_msr_get(cpu, (enum vmx_msr)(index - MSR_VMX_FIRST));
	return 0;
}

/* Every 1 of a under the mask is in b. */
static bool subset(u64 a, u64 b, u64 mask)
{
	return !(a & mask & ~b);
}

static bool basic_ok(u64 v)
{
	u64 can = vmx_msr_default(VMX_BASIC);

	return subset(v, can, BASIC_FEATURES | BASIC_RESERVED) && (u32)v == (u32)can &&
	       (v >> 32 & 0x1fff) >= VMCS_BYTES;
}

static bool misc_ok(const struct cpu *cpu, u64 v)
{
	const u64 features = BIT64(5) | BIT64(14) | BIT64(15) | 7ull << 28 | 7ull << 6;
	const u64 reserved = 0x1full << 9 | BIT64(31);
	u64 can = vmx_msr_default(VMX_MISC);
	bool timer = cpu->vmx_msr[VMX_TRUE_PINBASED_CTLS] >> 32 & PIN_PREEMPTION_TIMER;

	if (!subset(v, can, features | reserved))
		return false;
	if (timer && (v & 0x1f) != MISC_TIMER_RATE)
		return false;
	/* CR3 targets, MSR list lengths, MSEG revision: there are none. */
	return !(v >> 16 & 0x1ff) && !(v >> 25 & 7) && !(v >> 32);
}

static bool controls_ok(u64 v, u64 can)
{
	return subset(can, v, 0xffffffff) && subset(v, can, ~0ull << 32);
}

int msr_set_vmx(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host)
{
	enum vmx_msr which = (enum vmx_msr)(index - MSR_VMX_FIRST);
	u64 can = vmx_msr_default(which);
	bool ok;

	if (!host || cpu->vmx_on)
		return 1;
	switch (which) {
	case VMX_BASIC:
		ok = basic_ok(value);
		break;
	case VMX_TRUE_PINBASED_CTLS:
	case VMX_TRUE_PROCBASED_CTLS:
	case VMX_TRUE_EXIT_CTLS:
	case VMX_TRUE_ENTRY_CTLS:
	case VMX_PROCBASED_CTLS2:
		ok = controls_ok(value, can);
		break;
	case VMX_MISC:
		ok = misc_ok(cpu, value);
		break;
	case VMX_CR0_FIXED0:
	case VMX_CR4_FIXED0:
		ok = subset(can, value, ~0ull);
		break;
	case VMX_VMCS_ENUM:
		ok = true;
		break;
	case VMX_EPT_VPID_CAP:
	case VMX_VMFUNC:
		ok = subset(value, can, ~0ull);
		break;
	default:
		ok = false; /* computed from others */
		break;
	}
	if (ok)
		cpu->vmx_msr[which] = value;
	return !ok;
}

/* --- IA32_FEATURE_CONTROL --------------------------------------------------------------------------- */

#define MCG_LMCE_P BIT64(27)

int msr_get_feature_control(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host)
{
	*value = cpu->feature_control;
	return 0;
}

int msr_set_feature_control(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host)
{
	u64 ok = FEATURE_CONTROL_LOCK;

	if (host) /* what any model has, whatever CPUID says */
		ok |= FEATURE_CONTROL_VMX_INSIDE_SMX | FEATURE_CONTROL_VMX |
		      FEATURE_CONTROL_SGX_LC | FEATURE_CONTROL_SGX | FEATURE_CONTROL_LMCE;
	if (cpu_has(cpu, X86_FEATURE_VMX))
		ok |= FEATURE_CONTROL_VMX_INSIDE_SMX | FEATURE_CONTROL_VMX;
	if (cpu->mcg_cap & MCG_LMCE_P)
		ok |= FEATURE_CONTROL_LMCE;
	if (value & ~ok)
		return 1;
	if (!host && (cpu->feature_control & FEATURE_CONTROL_LOCK))
		return 1;
	cpu->feature_control = value;
	return 0;
}
