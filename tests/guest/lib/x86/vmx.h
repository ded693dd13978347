/*
 * A hypervisor for tests: VMX operation, one VMCS, and a guest that runs functions of this kernel in
 * this kernel's address space. 64-bit kernels only.
 */
#ifndef GUEST_X86_VMX_H
#define GUEST_X86_VMX_H

#include "cpu.h"

#define MSR_FEATURE_CONTROL	    0x3a
#define MSR_VMX_BASIC		    0x480
#define MSR_VMX_MISC		    0x485
#define MSR_VMX_CR0_FIXED0	    0x486
#define MSR_VMX_CR4_FIXED0	    0x488
#define MSR_VMX_PROCBASED_CTLS2	    0x48b
#define MSR_VMX_TRUE_PINBASED_CTLS  0x48d
#define MSR_VMX_TRUE_PROCBASED_CTLS 0x48e
#define MSR_VMX_TRUE_EXIT_CTLS	    0x48f
#define MSR_VMX_TRUE_ENTRY_CTLS	    0x490

#define CR4_VMXE 0x2000u

/* Fields of a VMCS: SDM volume 3, appendix "Field Encoding in VMCS". */
enum {
	VPID = 0,
	GUEST_ES = 0x800,
	GUEST_CS = 0x802,
	GUEST_SS = 0x804,
	GUEST_LDTR = 0x80c,
	GUEST_TR = 0x80e,
	HOST_ES = 0xc00,
	HOST_CS = 0xc02,
	HOST_TR = 0xc0c,
	IO_BITMAP_A = 0x2000,
	IO_BITMAP_B = 0x2002,
	MSR_BITMAP = 0x2004,
	EXIT_STORE_ADDR = 0x2006,
	EXIT_LOAD_ADDR = 0x2008,
	ENTRY_LOAD_ADDR = 0x200a,
	TSC_OFFSET = 0x2010,
	VAPIC_ADDR = 0x2012,
	APIC_ACCESS_ADDR = 0x2014,
	EPT_POINTER = 0x201a,
	VMREAD_BITMAP = 0x2026,
	VMWRITE_BITMAP = 0x2028,
	TSC_MULTIPLIER = 0x2032,
	GUEST_PHYSICAL = 0x2400,
	LINK_POINTER = 0x2800,
	GUEST_DEBUGCTL = 0x2802,
	GUEST_PAT = 0x2804,
	GUEST_EFER = 0x2806,
	HOST_PAT = 0x2c00,
	HOST_EFER = 0x2c02,
	PIN_CTLS = 0x4000,
	PROC_CTLS = 0x4002,
	EXCEPTIONS = 0x4004,
	PF_MASK = 0x4006,
	PF_MATCH = 0x4008,
	CR3_TARGETS = 0x400a,
	EXIT_CTLS = 0x400c,
	EXIT_STORE_COUNT = 0x400e,
	EXIT_LOAD_COUNT = 0x4010,
	ENTRY_CTLS = 0x4012,
	ENTRY_LOAD_COUNT = 0x4014,
	ENTRY_INTR = 0x4016,
	ENTRY_ERROR = 0x4018,
	ENTRY_LEN = 0x401a,
	TPR_THRESHOLD = 0x401c,
	PROC2_CTLS = 0x401e,
	INSN_ERROR = 0x4400,
	EXIT_REASON = 0x4402,
	EXIT_INTR = 0x4404,
	EXIT_INTR_ERROR = 0x4406,
	VECTORING = 0x4408,
	VECTORING_ERROR = 0x440a,
	EXIT_LEN = 0x440c,
	EXIT_INSN = 0x440e,
	GUEST_ES_LIMIT = 0x4800,
	GUEST_GDTR_LIMIT = 0x4810,
	GUEST_IDTR_LIMIT = 0x4812,
	GUEST_ES_AR = 0x4814,
	GUEST_CS_AR = 0x4816,
	GUEST_SS_AR = 0x4818,
	GUEST_LDTR_AR = 0x4820,
	GUEST_TR_AR = 0x4822,
	INTERRUPTIBILITY = 0x4824,
	ACTIVITY = 0x4826,
	GUEST_SYSENTER_CS = 0x482a,
	TIMER = 0x482e,
	HOST_SYSENTER_CS = 0x4c00,
	CR0_MASK = 0x6000,
	CR4_MASK = 0x6002,
	CR0_SHADOW = 0x6004,
	CR4_SHADOW = 0x6006,
	QUALIFICATION = 0x6400,
	GUEST_LINEAR = 0x640a,
	GUEST_CR0 = 0x6800,
	GUEST_CR3 = 0x6802,
	GUEST_CR4 = 0x6804,
	GUEST_ES_BASE = 0x6806,
	GUEST_CS_BASE = 0x6808,
	GUEST_TR_BASE = 0x6814,
	GUEST_GDTR_BASE = 0x6816,
	GUEST_IDTR_BASE = 0x6818,
	GUEST_DR7 = 0x681a,
	GUEST_RSP = 0x681c,
	GUEST_RIP = 0x681e,
	GUEST_RFLAGS = 0x6820,
	PENDING_DBG = 0x6822,
	GUEST_SYSENTER_ESP = 0x6824,
	HOST_CR0 = 0x6c00,
	HOST_CR3 = 0x6c02,
	HOST_CR4 = 0x6c04,
	HOST_FS_BASE = 0x6c06,
	HOST_TR_BASE = 0x6c0a,
	HOST_GDTR_BASE = 0x6c0c,
	HOST_IDTR_BASE = 0x6c0e,
	HOST_SYSENTER_ESP = 0x6c10,
	HOST_RSP = 0x6c14,
	HOST_RIP = 0x6c16,
};

/* Controls. */
enum { PIN_EXT_INTR = 1, PIN_NMI = 8, PIN_VIRTUAL_NMI = 0x20, PIN_TIMER = 0x40 };
#define PROC_INTR_WINDOW   0x4u
#define PROC_TSC_OFFSET	   0x8u
#define PROC_HLT	   0x80u
#define PROC_INVLPG	   0x200u
#define PROC_MWAIT	   0x400u
#define PROC_RDPMC	   0x800u
#define PROC_RDTSC	   0x1000u
#define PROC_CR3_LOAD	   0x8000u
#define PROC_CR3_STORE	   0x10000u
#define PROC_CR8_LOAD	   0x80000u
#define PROC_CR8_STORE	   0x100000u
#define PROC_TPR_SHADOW	   0x200000u
#define PROC_NMI_WINDOW	   0x400000u
#define PROC_MOV_DR	   0x800000u
#define PROC_IO		   0x1000000u
#define PROC_IO_BITMAPS	   0x2000000u
#define PROC_MTF	   0x8000000u
#define PROC_MSR_BITMAPS   0x10000000u
#define PROC_MONITOR	   0x20000000u
#define PROC_PAUSE	   0x40000000u
#define PROC_SECONDARY	   0x80000000u
#define PROC2_APIC_ACCESS  0x1u
#define PROC2_EPT	   0x2u
#define PROC2_DESC	   0x4u
#define PROC2_RDTSCP	   0x8u
#define PROC2_VPID	   0x20u
#define PROC2_WBINVD	   0x40u
#define PROC2_UNRESTRICTED 0x80u
#define PROC2_INVPCID	   0x1000u
#define PROC2_SHADOW	   0x4000u
#define PROC2_TSC_SCALING  0x2000000u
#define EXIT_HOST64	   0x200u
#define EXIT_ACK_INTR	   0x8000u
#define EXIT_SAVE_TIMER	   0x400000u
#define ENTRY_LOAD_DEBUG   0x4u
#define ENTRY_IA32E	   0x200u

/** How a VMX instruction ended. */
enum vmx_result { VMX_OK, VMX_FAIL_INVALID, VMX_FAIL_VALID, VMX_FAULT };

enum vmx_result vmxon(u64 pa);
enum vmx_result vmxoff(void);
enum vmx_result vmclear(u64 pa);
enum vmx_result vmptrld(u64 pa);
u64 vmptrst(void);
enum vmx_result vmread_try(u64 field, u64 *value);
enum vmx_result vmwrite(u64 field, u64 value);
enum vmx_result invept(u64 type, u64 eptp);
enum vmx_result invvpid(u64 type, u64 vpid, u64 address);
/** A field that exists. */
u64 vmread(u64 field);

/** Enables VMX (feature control, CR0, CR4) and makes the pages; false: there is no VMX. */
bool vmx_init(void);
/** Pages of vmx_init(): VMXON region, VMCS, MSR and I/O bitmaps. */
extern u8 *vmx_region, *vmx_vmcs, *vmx_msrs, *vmx_ports;

/** All fields afresh: a guest that runs code() on a stack below the present one; no control that may be 0. */
void vmx_setup(void (*code)(void));
/**
 * VMLAUNCH the first time after vmx_setup(), else VMRESUME. VMX_OK: an exit happened (or a failed
 * entry, see EXIT_REASON), vmx_rax is the guest's RAX.
 */
enum vmx_result vmx_run(void);
extern u64 vmx_rax;
/** vmx_setup() and vmx_run(), with these controls more. */
enum vmx_result vmx_try(void (*code)(void), u32 pin, u32 proc, u32 proc2);
/** The guest goes on behind the instruction that left it. */
void vmx_skip(void);
/** Ends a guest function: VMCALL. */
static inline void vmcall(u64 rax)
{
	__asm__ volatile("vmcall" : : "a"((ulong)rax) : "memory");
}

/** Identity EPT of 4 GiB by 2 MiB pages; the last-level entry of a 4 KiB page of it. */
u64 ept_make(void);
volatile u64 *ept_of(u64 gpa);

#endif
