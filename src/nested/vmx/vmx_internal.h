/*
 * vmx_internal.h - what the files of src/nested/vmx share
 */
#ifndef VMX_INTERNAL_H
#define VMX_INTERNAL_H

#include "cpu/insn.h"
#include "nested/vmx/vmcs.h"
#include "nested/vmx/vmx.h"

/* Exit reasons: SDM volume 3, appendix "VMX Basic Exit Reasons". */
enum {
	EXIT_EXCEPTION = 0,
	EXIT_INTR = 1,
	EXIT_TRIPLE_FAULT = 2,
	EXIT_INIT = 3,
	EXIT_INTR_WINDOW = 7,
	EXIT_NMI_WINDOW = 8,
	EXIT_TASK_SWITCH = 9,
	EXIT_CPUID = 10,
	EXIT_HLT = 12,
	EXIT_INVD = 13,
	EXIT_INVLPG = 14,
	EXIT_RDPMC = 15,
	EXIT_RDTSC = 16,
	EXIT_VMCALL = 18,
	EXIT_VMCLEAR = 19,
	EXIT_VMLAUNCH = 20,
	EXIT_VMPTRLD = 21,
	EXIT_VMPTRST = 22,
	EXIT_VMREAD = 23,
	EXIT_VMRESUME = 24,
	EXIT_VMWRITE = 25,
	EXIT_VMXOFF = 26,
	EXIT_VMXON = 27,
	EXIT_CR = 28,
	EXIT_DR = 29,
	EXIT_IO = 30,
	EXIT_RDMSR = 31,
	EXIT_WRMSR = 32,
	EXIT_BAD_GUEST = 33,
	EXIT_BAD_MSR = 34,
	EXIT_MWAIT = 36,
	EXIT_MONITOR_TRAP = 37,
	EXIT_MONITOR = 39,
	EXIT_PAUSE = 40,
	EXIT_TPR = 43,
	EXIT_APIC_ACCESS = 44,
	EXIT_GDTR_IDTR = 46,
	EXIT_LDTR_TR = 47,
	EXIT_EPT_VIOLATION = 48,
	EXIT_EPT_MISCONFIG = 49,
	EXIT_INVEPT = 50,
	EXIT_RDTSCP = 51,
	EXIT_TIMER = 52,
	EXIT_INVVPID = 53,
	EXIT_WBINVD = 54,
	EXIT_XSETBV = 55,
	EXIT_INVPCID = 58,
	EXIT_XSAVES = 63,
	EXIT_XRSTORS = 64,
};
#define EXIT_ENTRY_FAILED BIT(31)

/* Numbers of VMfailValid: SDM volume 3, "VM-Instruction Error Numbers". */
enum {
	VMX_ERR_VMCLEAR_ADDRESS = 2,
	VMX_ERR_VMCLEAR_VMXON = 3,
	VMX_ERR_VMLAUNCH_NOT_CLEAR = 4,
	VMX_ERR_VMRESUME_NOT_LAUNCHED = 5,
	VMX_ERR_CONTROLS = 7,
	VMX_ERR_HOST = 8,
	VMX_ERR_VMPTRLD_ADDRESS = 9,
	VMX_ERR_VMPTRLD_VMXON = 10,
	VMX_ERR_VMPTRLD_REVISION = 11,
	VMX_ERR_FIELD = 12,
	VMX_ERR_READ_ONLY = 13,
	VMX_ERR_VMXON_IN_ROOT = 15,
	VMX_ERR_MOV_SS = 26,
	VMX_ERR_INVALIDATE = 28,
};

/* Interruption information: entry, exit and IDT-vectoring alike. */
#define INTR_VECTOR	0xffu
#define INTR_TYPE_SHIFT 8
#define INTR_ERROR	BIT(11)
#define INTR_UNBLOCKED	BIT(12)
#define INTR_VALID	BIT(31)
enum {
	INTR_EXT = 0,
	INTR_NMI = 2,
	INTR_HW_EXC = 3,
	INTR_SW_INT = 4,
	INTR_PRIV_SW_EXC = 5,
	INTR_SW_EXC = 6,
	INTR_OTHER = 7
};

/* Interruptibility state. */
#define BLOCKED_STI    BIT(0)
#define BLOCKED_MOV_SS BIT(1)
#define BLOCKED_SMI    BIT(2)
#define BLOCKED_NMI    BIT(3)

enum { ACTIVITY_ACTIVE = 0, ACTIVITY_HLT = 1 };

/* Qualification of exit reason 33. */
enum { BAD_GUEST_OTHER = 0, BAD_GUEST_PDPTE = 2, BAD_GUEST_NMI = 3, BAD_GUEST_LINK = 4 };

/* What translations depend on, of one level. All zeros: nothing is remembered. */
struct vmx_space {
	u64 cr0, cr3, cr4, efer, keys, watch;
	u64 eptp, vpid, apic_page, tpr_page; /* of L2 */
};

struct nested {
	u64 vmxon_pa, vmcs_pa;	   /* VMX_NONE: none */
	bool smm_vmxon, smm_guest; /* kept while SMM runs */
	bool l1_nmi_masked;	   /* while L2 has virtual NMIs */
	u64 deadline;		   /* of the preemption timer, TSC of L1; ~0: it does not run */
	struct vmx_space l1, l2;   /* when each ran last */
	u64 eptp;		   /* of the remembered second-stage translations */
	struct vmcs vmcs;	   /* the current one */
	struct vmcs shadow;	   /* the one that it links to, while L2 runs */
	bool shadow_loaded;
};

static inline struct vmcs *vmcs_of(const struct cpu *cpu)
{
	return &cpu->nested->vmcs;
}

static inline u32 vmcs_proc2(const struct vmcs *v)
{
	return v->cpu_based_vm_exec_control & PROC_SECONDARY ? v->secondary_vm_exec_control : 0;
}

/* check.c: true when everything is as VM entry wants it. */
bool vmx_controls_ok(struct cpu *cpu, const struct vmcs *v);
bool vmx_host_ok(struct cpu *cpu, const struct vmcs *v);
bool vmx_guest_ok(struct cpu *cpu, const struct vmcs *v, u64 *qualification);
/* An address of n bytes, or of a page, within MAXPHYADDR and aligned as `mask` says. */
bool vmx_address_ok(const struct cpu *cpu, u64 pa, u64 mask);

/* entry.c */
/* Checks and enters L2; the instruction fails as it must. enum cpu_ret. */
int vmx_enter(struct cpu *cpu, const struct cpu_insn *in, bool launch);
/* Loads L2's registers; efer: as the entry controls say, else it stays. */
void vmx_guest_load(struct cpu *cpu, const struct vmcs *v, bool efer);
struct vmx_space vmx_space_now(const struct cpu *cpu);
/* What guest mode changes besides registers. */
void vmx_mode_enter(struct cpu *cpu);
void vmx_mode_leave(struct cpu *cpu);
/* VM-entry event injection from the VMCS. */
void vmx_inject(struct cpu *cpu, const struct vmcs *v);
void vmx_timer_start(struct cpu *cpu, u64 ticks);
/* Loads MSRs from a list. 0, or the number (from 1) of the entry that failed. */
u32 vmx_msrs_load(struct cpu *cpu, u64 list, u32 count);

/* exit.c */
void vmx_guest_save(struct cpu *cpu, struct vmcs *v);
/* Leaves L2: everything that an exit does. CPU_OK, or CPU_EXIT. */
int vmx_exit(struct cpu *cpu, const struct cpu_nested_exit *e, const struct cpu_exc *first,
	     bool halted);
/* An entry that failed after L1's last word: reason 33 or 34. */
int vmx_entry_failed(struct cpu *cpu, u32 reason, u64 qualification);

/* insn.c */
int vmx_insn(struct cpu *cpu, const struct cpu_insn *in);
/* The exit reason of a VMX instruction; -1: it is none (#UD). */
int vmx_insn_reason(const struct cpu_insn *in);
bool vmx_insn_mode_ok(const struct cpu *cpu);
int vmx_vmread(struct cpu *cpu, const struct cpu_insn *in, struct vmcs *v);
int vmx_vmwrite(struct cpu *cpu, const struct cpu_insn *in, struct vmcs *v);
/* Writes the cached shadow VMCS back and forgets it. */
void vmx_shadow_put(struct cpu *cpu);
struct nested *vmx_alloc(struct cpu *cpu);

/* intercept.c */
int vmx_intercept(struct cpu *cpu, const struct cpu_insn *in);

/* event.c */
bool vmx_event(struct cpu *cpu, const struct cpu_exc *ev);
void vmx_triple_fault(struct cpu *cpu);
void vmx_trap(struct cpu *cpu);
int vmx_task_switch(struct cpu *cpu, u16 selector, unsigned source, unsigned insn_len);
int vmx_memory_fault(struct cpu *cpu, const struct mmu_fault *fault);
int vmx_leave_recorded(struct cpu *cpu, const struct cpu_exc *first);
u32 vmx_event_info(const struct cpu_exc *ev);
u64 vmx_tsc(const struct cpu *cpu, u64 host);
void vmx_smm(struct cpu *cpu, bool in);

#endif
