/*
 * nested.h - hardware virtualization as a feature of the guest's processor: what cpu, mmu and jit
 * know of it
 *
 * src/nested stands above these layers and is reached through struct cpu_nested_ops. While
 * cpu->guest_mode is set, the registers are those of a nested guest, and whatever may belong to the
 * guest's hypervisor is offered to the table first. docs: nested virtualization.
 */
#ifndef CPU_NESTED_H
#define CPU_NESTED_H

#include "base/types.h"

struct cpu;
struct cpu_exc;
struct cpu_insn;
struct mmu_fault;

/* An exit to the guest's hypervisor that is recorded and not yet carried out. */
struct cpu_nested_exit {
	u64 code;   /* VMX: exit reason */
	u64 info;   /* VMX: exit qualification */
	u64 gpa;    /* of a second-stage fault */
	u64 linear; /* VMX: guest-linear address */
	u32 insn_info, insn_len;
	u32 intr_info, intr_error; /* VMX: VM-exit interruption information */
};

/* The second stage of a nested guest's address translation. */
enum cpu_stage2_kind { CPU_STAGE2_NONE, CPU_STAGE2_IDENTITY, CPU_STAGE2_EPT };
struct cpu_stage2 {
	u8 kind; /* enum cpu_stage2_kind; anything but NONE: walks ask it */
	bool ad; /* EPT's accessed and dirty flags are in use */
	u64 root;
	u64 apic_page; /* accesses to it are the hypervisor's to see; ~0: none */
	u64 tpr_page;  /* where its task-priority register is instead; ~0: nowhere */
};

/* What intercept() answers besides enum cpu_ret: the instruction is nobody's business. */
#define CPU_NOT_INTERCEPTED (-1)

/* On the vCPU's thread, the guest's FPU state live. */
struct cpu_nested_ops {
	/* An instruction of VMX or SVM outside of guest mode. enum cpu_ret. */
	int (*insn)(struct cpu *cpu, const struct cpu_insn *in);
	/*
	 * Guest mode: an instruction that C executes is next. CPU_NOT_INTERCEPTED, or what became of
	 * it: CPU_EXC after an exit was recorded, CPU_OK when it was carried out here.
	 */
	int (*intercept)(struct cpu *cpu, const struct cpu_insn *in);
	/* Guest mode: an exception (not injected) is about to be delivered. True: an exit is recorded. */
	bool (*event)(struct cpu *cpu, const struct cpu_exc *ev);
	/* Guest mode: delivery failed for good, or a task switch begins: an exit is recorded. */
	void (*triple_fault)(struct cpu *cpu);
	/* `source` as in the VMX qualification: 0 CALL, 1 IRET, 2 JMP, 3 gate of the IDT. */
	int (*task_switch)(struct cpu *cpu, u16 selector, unsigned source, unsigned insn_len);
	/* Guest mode with cpu->guest_trap: an instruction has completed: records the exit. */
	void (*trap)(struct cpu *cpu);
	/* A walk met the second stage's refusal: records the exit. Returns CPU_EXC. */
	int (*memory_fault)(struct cpu *cpu, const struct mmu_fault *fault);
	/* Carries out the recorded exit; `first` (or NULL) was being delivered. CPU_OK or CPU_EXIT. */
	int (*leave)(struct cpu *cpu, const struct cpu_exc *first);
	/* Guest mode: the time-stamp counter as the nested guest sees it. */
	u64 (*tsc)(const struct cpu *cpu, u64 host);
	/* SMM begins (registers are saved already) or ended (they are restored). */
	void (*smm)(struct cpu *cpu, bool in);
};

/** Records an exit: a pending event of the kind EVENT_VMEXIT. Returns CPU_EXC. */
int cpu_nested_exit(struct cpu *cpu, const struct cpu_nested_exit *exit);

#endif
