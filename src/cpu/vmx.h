/*
 * vmx.h - VMX controls and capability MSRs: SDM volume 3, "Virtual Machine Control Structures" and
 * the appendix "VMX Capability Reporting Facility"
 */
#ifndef CPU_VMX_H
#define CPU_VMX_H

#include "cpu/cpu.h"

#define VMCS_REVISION 0x11e57ed0u
#define VMCS_BYTES    4096u

/* The capability MSRs, by their places behind IA32_VMX_BASIC. */
#define MSR_VMX_FIRST 0x480u
enum vmx_msr {
	VMX_BASIC,
	VMX_PINBASED_CTLS,
	VMX_PROCBASED_CTLS,
	VMX_EXIT_CTLS,
	VMX_ENTRY_CTLS,
	VMX_MISC,
	VMX_CR0_FIXED0,
	VMX_CR0_FIXED1,
	VMX_CR4_FIXED0,
	VMX_CR4_FIXED1,
	VMX_VMCS_ENUM,
	VMX_PROCBASED_CTLS2,
	VMX_EPT_VPID_CAP,
	VMX_TRUE_PINBASED_CTLS,
	VMX_TRUE_PROCBASED_CTLS,
	VMX_TRUE_EXIT_CTLS,
	VMX_TRUE_ENTRY_CTLS,
	VMX_VMFUNC,
};

/* IA32_FEATURE_CONTROL. */
#define FEATURE_CONTROL_LOCK	       1ull
#define FEATURE_CONTROL_VMX_INSIDE_SMX 2ull
#define FEATURE_CONTROL_VMX	       4ull
#define FEATURE_CONTROL_SGX_LC	       BIT64(17)
#define FEATURE_CONTROL_SGX	       BIT64(18)
#define FEATURE_CONTROL_LMCE	       BIT64(20)

/* Pin-based controls. */
#define PIN_EXT_INTR	     BIT(0)
#define PIN_NMI		     BIT(3)
#define PIN_VIRTUAL_NMI	     BIT(5)
#define PIN_PREEMPTION_TIMER BIT(6)
/* Primary processor-based controls. */
#define PROC_INTR_WINDOW  BIT(2)
#define PROC_TSC_OFFSET	  BIT(3)
#define PROC_HLT	  BIT(7)
#define PROC_INVLPG	  BIT(9)
#define PROC_MWAIT	  BIT(10)
#define PROC_RDPMC	  BIT(11)
#define PROC_RDTSC	  BIT(12)
#define PROC_CR3_LOAD	  BIT(15)
#define PROC_CR3_STORE	  BIT(16)
#define PROC_CR8_LOAD	  BIT(19)
#define PROC_CR8_STORE	  BIT(20)
#define PROC_TPR_SHADOW	  BIT(21)
#define PROC_NMI_WINDOW	  BIT(22)
#define PROC_MOV_DR	  BIT(23)
#define PROC_IO		  BIT(24)
#define PROC_IO_BITMAPS	  BIT(25)
#define PROC_MONITOR_TRAP BIT(27)
#define PROC_MSR_BITMAPS  BIT(28)
#define PROC_MONITOR	  BIT(29)
#define PROC_PAUSE	  BIT(30)
#define PROC_SECONDARY	  BIT(31)
/* Secondary processor-based controls. */
#define PROC2_APIC_ACCESS  BIT(0)
#define PROC2_EPT	   BIT(1)
#define PROC2_DESC	   BIT(2)
#define PROC2_RDTSCP	   BIT(3)
#define PROC2_VPID	   BIT(5)
#define PROC2_WBINVD	   BIT(6)
#define PROC2_UNRESTRICTED BIT(7)
#define PROC2_INVPCID	   BIT(12)
#define PROC2_SHADOW_VMCS  BIT(14)
#define PROC2_XSAVES	   BIT(20)
#define PROC2_TSC_SCALING  BIT(25)
/* Exit controls. */
#define EXIT_SAVE_DEBUG BIT(2)
#define EXIT_HOST64	BIT(9)
#define EXIT_ACK_INTR	BIT(15)
#define EXIT_SAVE_PAT	BIT(18)
#define EXIT_LOAD_PAT	BIT(19)
#define EXIT_SAVE_EFER	BIT(20)
#define EXIT_LOAD_EFER	BIT(21)
#define EXIT_SAVE_TIMER BIT(22)
/* Entry controls. */
#define ENTRY_LOAD_DEBUG BIT(2)
#define ENTRY_IA32E	 BIT(9)
#define ENTRY_LOAD_PAT	 BIT(14)
#define ENTRY_LOAD_EFER	 BIT(15)
/* IA32_VMX_MISC. */
#define MISC_TIMER_RATE	  5u
#define MISC_SAVE_LMA	  BIT64(5)
#define MISC_ACTIVITY_HLT BIT64(6)
#define MISC_WRITE_ANY	  BIT64(29)
/* IA32_VMX_EPT_VPID_CAP. */
#define EPT_EXEC_ONLY	    BIT64(0)
#define EPT_WALK_4	    BIT64(6)
#define EPT_WB		    BIT64(14)
#define EPT_2M		    BIT64(16)
#define EPT_1G		    BIT64(17)
#define EPT_INVEPT	    BIT64(20)
#define EPT_AD		    BIT64(21)
#define EPT_INVEPT_SINGLE   BIT64(25)
#define EPT_INVEPT_ALL	    BIT64(26)
#define VPID_INVVPID	    BIT64(32)
#define VPID_ADDRESS	    BIT64(40)
#define VPID_SINGLE	    BIT64(41)
#define VPID_ALL	    BIT64(42)
#define VPID_SINGLE_GLOBALS BIT64(43)

/** What this processor can, before a client restricts it. */
u64 vmx_msr_default(enum vmx_msr which);
/** The register as this vCPU shows it. */
u64 vmx_msr_get(const struct cpu *cpu, enum vmx_msr which);
/** True when every 1 of fixed0 is in v and no 1 beyond fixed1. */
static inline bool vmx_fixed_ok(u64 v, u64 fixed0, u64 fixed1)
{
	return (v & fixed0) == fixed0 && !(v & ~fixed1);
}

#endif
