/*
 * cpu.h - the state of one software x86-64 processor
 *
 * Everything the architecture calls state hangs from struct cpu; nothing is global. While guest
 * code runs, the host's GS base points at this structure and translated code reaches its fields
 * by %gs:offset (decision D2), so the fields that generated code touches come first.
 *
 * Who may touch it: the vCPU's own thread (the one inside KVM_RUN, or any thread while the vCPU
 * is not running, under the vCPU's mutex in src/kvm). Other threads write only `poll` (to 0).
 *
 * RFLAGS is kept in pieces, because generated code must change IF and DF without disturbing the
 * arithmetic flags, which live in the host's own flags register:
 *   hflags   AH:AL as LAHF/SETO leave them (SF ZF AF PF CF in bits 15..8, OF in bit 0)
 *   df, intf DF and IF, one byte each, 0 or 1
 *   rflags   all others (TF, IOPL, NT, RF, VM, AC, VIF, VIP, ID; bit 1 is always set)
 * Use cpu_rflags()/cpu_rflags_set().
 *
 * Return convention of everything that executes on behalf of the guest: enum cpu_ret.
 * CPU_EXC: an exception is recorded in cpu->exc and nothing of the instruction was committed
 * (except completed iterations of a REP). CPU_EXIT: cpu->exit says what the run loop must do.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "base/trace.h"
#include "base/types.h"
#include "cpu/nested.h"
#include "cpu/pmu.h"
#include "mmu/tlb.h"

/* General registers by their encoding. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* Segment registers by their encoding, then the two system segments. */
enum cpu_sreg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* Segment attributes, in the format of the VMCS access-rights fields. */
#define SEG_ATTR_TYPE	   0x000fu
#define SEG_ATTR_S	   0x0010u
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_DPL	   0x0060u
#define SEG_ATTR_P	   0x0080u
#define SEG_ATTR_AVL	   0x1000u
#define SEG_ATTR_L	   0x2000u
#define SEG_ATTR_DB	   0x4000u
#define SEG_ATTR_G	   0x8000u
#define SEG_ATTR_UNUSABLE  0x10000u

struct cpu_seg {
	u64 base;
	u32 limit; /* last valid byte, granularity already applied */
	u32 attr;
	u16 sel;
};

struct cpu_dtable {
	u64 base;
	u32 limit;
};

enum cpu_ret {
	CPU_OK = 0,
	CPU_EXC = 1,
	CPU_EXIT = 2,
};

/* What the run loop has to do when the engine comes back to it. */
enum cpu_exit_reason {
	CPU_EXIT_NONE,
	CPU_EXIT_POLL,	    /* cpu->poll was cleared: look at requests and interrupts */
	CPU_EXIT_HLT,	    /* RIP is behind the HLT */
	CPU_EXIT_PIO,	    /* cpu->pio holds a port access that nobody inside took */
	CPU_EXIT_MMIO,	    /* cpu->mmio holds a read to be answered, or writes to be sent */
	CPU_EXIT_RDMSR,	    /* cpu->exit.msr: to be answered by user space, instruction restarts */
	CPU_EXIT_WRMSR,	    /* likewise */
	CPU_EXIT_HYPERCALL, /* cpu->exit.hypercall; RIP is at the instruction */
	CPU_EXIT_SHUTDOWN,  /* triple fault */
	CPU_EXIT_DEBUG,	    /* guest debugging stopped here: cpu->exit.debug */
	CPU_EXIT_MWAIT,	    /* RIP is behind the MWAIT */
	CPU_EXIT_MEMFAULT,  /* the client's mapping faulted: cpu->exit.mem */
	CPU_EXIT_INTERNAL,  /* cannot go on: cpu->exit.internal */
};

struct cpu_exit {
	enum cpu_exit_reason reason;
	union {
		struct {
			u32 index;
			u64 data;
		} msr;
		struct {
			u64 nr, args[4];
			u8 len; /* bytes of the instruction */
		} hypercall;
		struct {
			u32 vector;
			u64 pc, dr6, dr7;
		} debug;
		struct {
			u64 gpa, size;
			bool write, exec;
		} mem;
		struct {
			const char *why; /* static text */
			u8 bytes[15], len;
		} internal;
	};
};

/* An event being raised or delivered. */
enum cpu_event_kind {
	EVENT_HW_EXC,
	EVENT_INTR,
	EVENT_NMI,
	EVENT_SW_INT,
	EVENT_SW_EXC,
	EVENT_PRIV_SW_EXC,
	EVENT_VMEXIT, /* no event: cpu->nested_exit is to be carried out */
};

struct cpu_exc {
	bool pending;
	u8 kind; /* enum cpu_event_kind */
	u8 vector;
	bool has_error;
	u32 error;
	u64 payload;   /* CR2 of a #PF; the DR6 bits of a #DB */
	u8 insn_len;   /* of INT n, INT3, INTO, INT1 */
	bool injected; /* by the client: a debugger does not get it once more */
};

/*
 * Memory-mapped I/O that user space must do. A read makes the instruction stop uncommitted; when
 * the answer is there the instruction runs again and finds it in done[]. Writes are queued, the
 * instruction commits, and the run loop sends the queue before it goes on.
 */
#define CPU_MMIO_FRAGS 64
struct cpu_mmio_frag {
	u64 gpa;
	u8 len; /* 1..8 */
	u8 data[8];
};
/* A load that stopped for one such read, and what it has left to do (answer.c). */
struct cpu_mmio_load {
	u64 rip;
	u8 len;	 /* bytes of the instruction; 0: it is something else */
	u8 size; /* of the read, bytes; 0 likewise */
	u8 reg;	 /* as encoded; a high byte's is 4 to 7 */
	u8 to;	 /* bytes of the register that are written */
	bool sign, high;
};
struct cpu_mmio {
	bool read_wanted;
	struct cpu_mmio_frag want;
	struct cpu_mmio_load load;
	unsigned done_count, done_next;
	struct cpu_mmio_frag done[CPU_MMIO_FRAGS];
	unsigned write_count;
	struct cpu_mmio_frag write[CPU_MMIO_FRAGS];
};

/* A port access that user space must do; an instruction that has more left than to load RAX runs again and finds it here. */
struct cpu_pio {
	bool in;
	bool ready; /* the instruction that is being restarted is answered, by data[] if it reads */
	u8 len;	    /* bytes of the instruction, IN or OUT; 0: INS, or what is committed */
	u64 rip;    /* of the instruction */
	u8 size;
	u16 port;
	u32 count;
	u8 data[1024];
};

struct cpu;

/*
 * What the layer above offers to the processor. Called on the vCPU's thread with the guest's FPU
 * state live in the host's registers: implementations touch no vector register.
 */
struct cpu_ops {
	/* Device accesses; false: nobody inside answers, user space must. len is 1, 2, 4 or 8. */
	bool (*mmio_read)(struct cpu *cpu, u64 gpa, unsigned len, void *data);
	bool (*mmio_write)(struct cpu *cpu, u64 gpa, unsigned len, const void *data);
	bool (*pio_read)(struct cpu *cpu, u16 port, unsigned size, u32 *value);
	bool (*pio_write)(struct cpu *cpu, u16 port, unsigned size, u32 value);
	/*
	 * MSRs that are not the processor's own (APIC, paravirtual, TSC deadline …) and the
	 * filter. CPU_OK; CPU_EXC after cpu_raise_err(); CPU_EXIT with cpu->exit set.
	 * *handled is false when the index belongs to the processor's own table.
	 */
	int (*msr_read)(struct cpu *cpu, u32 index, u64 *value, bool *handled);
	int (*msr_write)(struct cpu *cpu, u32 index, u64 value, bool *handled);
	u64 (*cr8_read)(struct cpu *cpu);
	void (*cr8_write)(struct cpu *cpu, u64 value);
	/* VMCALL/VMMCALL at any CPL; sets RAX or cpu->exit; RIP is at it. */
	int (*hypercall)(struct cpu *cpu);
	/* The guest left SMM, changed a mode that the layer above mirrors, hit CR writes, …*/
	void (*smm_changed)(struct cpu *cpu, bool in_smm);
	/* Performance counters; any may be NULL. fixed: number, or -1 for an event by selector. */
	bool (*pmu_allowed)(struct cpu *cpu, int fixed, u64 sel);
	void (*pmu_interrupt)(struct cpu *cpu);
	void (*pmu_changed)(struct cpu *cpu); /* cpu_pmu_next() may have another answer */
	/* An interrupt window opened (IF became 1) while cpu->irq_window was 0. */
};

struct cpu_cpuid {
	u32 leaf, index, flags, eax, ebx, ecx, edx;
};
#define CPU_CPUID_MAX 256

/* Where a state component of XSAVE lies, as the host lays it out. */
struct cpu_xcomp {
	u16 offset, size; /* in the standard format, bytes */
	bool align;	  /* 64-byte aligned in the compacted format */
};
#define CPU_XCOMP_COUNT	  10 /* x87, SSE … PKRU */
#define CPU_FEATURE_WORDS 16 /* 64 features each */
#define CPU_VMX_MSRS	  18

enum cpu_vendor { CPU_VENDOR_INTEL, CPU_VENDOR_AMD };

/* Reasons not to inject at the next instruction boundary. */
#define CPU_SHADOW_STI	  1
#define CPU_SHADOW_MOV_SS 2

/*
 * cpu.poll while nobody wants the vCPU. It is the PDEP mask that turns an address into the offset in
 * the jump cache, so that a cleared one sends every computed jump to slot 0, which is never filled.
 */
#define CPU_GO_ON 0x1ffff0ull

struct jit;
struct mmu_vm;

struct cpu {
	/* --- reached by generated code; keep together ------------------------------------- */
	u64 gpr[16];	/* RSP and the memory-homed registers are current here while running */
	u64 rip;	/* of the current or next instruction; current only outside blocks */
	u64 poll;	/* CPU_GO_ON, or 0: leave at the next poll. Cleared by any thread */
	u64 irq_window; /* 1: nobody waits; 0: leave when IF becomes 1 */
	u16 hflags;	/* see above */
	u8 df, intf;
	u8 shadow; /* CPU_SHADOW_* in force for the next instruction */
	u8 cpl;
	u32 mode;      /* MODE_* of mode.h, the part of a block's key; see cpu_mode_update() */
	u64 rflags;    /* the rest of RFLAGS */
	u64 tlb_mask;  /* PEXT mask that selects the TLB index from an address */
	u64 page_mask; /* constant ~0xfff, PEXT operand */
	u64 flag_mask; /* constant FLAG_ARITH, PEXT operand */
	u64 pauses;    /* PAUSE instructions until the thread yields */
	u64 code_base; /* linear address of the page that runs, for position-independent blocks */
	struct cpu_seg seg[SEG_COUNT];
	s64 tsc_offset; /* guest TSC = (host * tsc_ratio >> 48) + tsc_offset */
	u64 tsc_ratio;	/* 1 << 48: unscaled */
	u64 kernel_gs_base, star, lstar, cstar, sfmask;
	u64 host_rsp;	/* host stack pointer while generated code runs */
	u64 window_rsp; /* where code of the window has it (mmu/window.h) */
	u64 client_rsp; /* ... of who entered it, behind the registers it pushed */
	u64 jit_scratch[16];

	/* --- control state ----------------------------------------------------------------- */
	struct cpu_dtable gdtr, idtr;
	u64 cr0, cr2, cr3, cr4; /* CR8 lives in the APIC: cpu_ops */
	u64 pdptr[4];		/* PAE's page-directory-pointer registers */
	u64 efer, xcr0, xss;
	u64 dr[4], dr6, dr7;
	u32 pkru, pkrs;
	u64 window_cr3; /* the address space that has the window (mmu/window.c), or WINDOW_NONE */
	bool window_paused; /* it has cost too much lately */
	u8 window_stale;    /* not 0: mmu_window_refresh() before it is used */
	u8 maxphyaddr;	    /* from CPUID */
	u64 phys_reserved;  /* address bits above MAXPHYADDR */

	/* --- model-specific registers (msr.def names them) ---------------------------------- */
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, tsc_aux, tsc_adjust, smbase, misc_enable;
	u64 mtrr_def_type, mtrr_fixed[11], mtrr_var[2 * 16];
	u64 spec_ctrl, virt_spec_ctrl, arch_capabilities, platform_info, ucode_rev;
	u64 misc_features_enables, debugctl, hwcr, vm_hsave_pa, feature_control;
	u64 s_cet, u_cet; /* always 0 unless CET is offered */
	u64 mcg_cap, mcg_status, mcg_ctl, mcg_ext_ctl, mce_bank[32 * 4], mce_ctl2[32];
	u64 msr_store[128]; /* rows of msr.def that are plain storage */

	/* --- events -------------------------------------------------------------------------- */
	struct cpu_exc exc;	       /* raised, to be delivered before the next instruction */
	bool nmi_masked;	       /* an NMI handler runs */
	bool smm;		       /* in system-management mode */
	bool smm_nmi_masked;	       /* NMIs were masked when SMM began */
	u64 smi_count;		       /* SMIs taken, as MSR_SMI_COUNT shows */
	bool smi_pending, nmi_pending; /* kept by the run loop */
	u8 monitor_armed;
	u8 trap_by_new_tf; /* SYSCALL: its single-step trap goes by the RFLAGS.TF that it leaves */
	u64 monitor_gpa;
	struct cpu_exit exit;
	bool msr_ready; /* cpu->exit.msr answers the RDMSR/WRMSR that is being restarted */
	bool msr_error; /* … with #GP */
	bool restart;	/* the next instruction finds answers above; one instruction only */
	bool mmu_stepping; /* jit_step() runs one instruction: stores to running code, watchpoints proceed */
	bool log_full; /* the dirty ring has room for one instruction: who misses the TLB leaves before it */
	u64 pending_db; /* DR6 bits of data watchpoints hit by this instruction: #DB behind it */

	/* --- identity ------------------------------------------------------------------------ */
	enum cpu_vendor vendor;
	unsigned cpuid_count;		 /* entries of cpuid[] */
	u64 features[CPU_FEATURE_WORDS]; /* guest CPUID as a bitmap over enum cpu_feature */
	u32 index;			 /* vCPU number within the VM */
	u64 disabled_quirks;		 /* KVM_X86_QUIRK_* that the client switched off */
	const struct trace *trace;	 /* or NULL */

	/* --- guest debugging (KVM_SET_GUEST_DEBUG) -------------------------------------------- */
	u32 guest_debug; /* KVM_GUESTDBG_* */
	u64 guest_dr[4], guest_dr7;

	/* --- FPU ------------------------------------------------------------------------------ */
	void *xsave; /* the guest's x87…AVX-512 state while it is not in the registers */
	bool fpu_loaded;
	u64 fpu_mask;	     /* cpu_fpu_mask() */
	u64 fpu_moves;	     /* fpu_move_supported() */
	u16 xsave_offset[8]; /* of the image's components; filled by gather.c when first needed */
	struct cpu_xcomp xcomp[CPU_XCOMP_COUNT]; /* 0 and 1 are the legacy area */
	u32 host_mxcsr;
	u32 mxcsr_mask; /* bits that this host's MXCSR has */
	u16 host_fcw;

	/* --- owners ---------------------------------------------------------------------------- */
	struct cpu_pmu pmu;
	const struct cpu_ops *ops;
	void *owner;	     /* the layer above's vCPU */
	struct mmu_vm *mem;  /* guest-physical memory */
	struct jit *jit;     /* translator state and code cache */
	struct mmu_cpu *mmu; /* software TLB bookkeeping beyond the tables below */

	/* --- nested virtualization (nested.h) --------------------------------------------------- */
	bool guest_mode;	/* the registers are a nested guest's */
	bool guest_trap;	/* … that leaves behind each instruction (monitor trap flag) */
	bool vmx_on;		/* in VMX operation */
	u64 cr0_must, cr4_must; /* bits that VMX operation fixes to 1 */
	const struct cpu_nested_ops *nested_ops; /* or NULL: this processor has no such feature */
	struct nested *nested;			 /* made when first needed */
	struct cpu_stage2 stage2;
	struct cpu_nested_exit nested_exit; /* of a pending EVENT_VMEXIT */
	u64 vmx_msr[CPU_VMX_MSRS]; /* IA32_VMX_BASIC and following, as the client left them */

	/*
	 * --- buffers: behind all the rest, which then fills two pages; a new processor touches few
	 */
	struct cpu_mmio mmio;
	struct cpu_pio pio;
	struct cpu_cpuid cpuid[CPU_CPUID_MAX];
	u8 fpu_scratch[4096] __attribute__((aligned(64))); /* images of FXSAVE, XSAVE, … */
	u8 bounce[16384]
		__attribute__((aligned(64))); /* an access that is not one plain host range */

	/* --- software TLB and jump cache: large, last ------------------------------------------- */
	struct mmu_tlb tlb[MMU_TLB_COUNT];
	struct jit_jump_cache {
		struct jit_jump {
			u64 ntag; /* 1 - pc */
			u64 code; /* host address */
		} __attribute__((aligned(16))) to[JIT_JC_SIZE];
	} jc[MMU_TLB_COUNT];
};

/* DR6: a single step. */
#define DR6_BS BIT64(14)

/* RFLAGS bits. */
#define FLAG_CF		0x1ull
#define FLAG_PF		0x4ull
#define FLAG_AF		0x10ull
#define FLAG_ZF		0x40ull
#define FLAG_SF		0x80ull
#define FLAG_TF		0x100ull
#define FLAG_IF		0x200ull
#define FLAG_DF		0x400ull
#define FLAG_OF		0x800ull
#define FLAG_IOPL	0x3000ull
#define FLAG_IOPL_SHIFT 12
#define FLAG_NT		0x4000ull
#define FLAG_RF		0x10000ull
#define FLAG_VM		0x20000ull
#define FLAG_AC		0x40000ull
#define FLAG_VIF	0x80000ull
#define FLAG_VIP	0x100000ull
#define FLAG_ID		0x200000ull
#define FLAG_ARITH	(FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/** The whole RFLAGS register. */
static inline u64 cpu_rflags(const struct cpu *cpu)
{
	return cpu->rflags |
	       ((cpu->hflags >> 8) & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) |
	       ((u64)(cpu->hflags & 1) << 11) | ((u64)cpu->df << 10) | ((u64)cpu->intf << 9) | 2;
}

/** Sets the whole RFLAGS register; the caller updates the mode when TF, VM or AC changed. */
static inline void cpu_rflags_set(struct cpu *cpu, u64 v)
{
	cpu->hflags = (u16)((((v & 0xd5) | 2) << 8) | ((v >> 11) & 1));
	cpu->df = (v >> 10) & 1;
	cpu->intf = (v >> 9) & 1;
	cpu->rflags = (v & (FLAG_TF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF |
			    FLAG_VIP | FLAG_ID)) |
		      2;
}

/* CR0, CR4, EFER bits. */
#define CR0_PE	       0x1ull
#define CR0_MP	       0x2ull
#define CR0_EM	       0x4ull
#define CR0_TS	       0x8ull
#define CR0_ET	       0x10ull
#define CR0_NE	       0x20ull
#define CR0_WP	       0x10000ull
#define CR0_AM	       0x40000ull
#define CR0_NW	       0x20000000ull
#define CR0_CD	       0x40000000ull
#define CR0_PG	       0x80000000ull
#define CR4_VME	       0x1ull
#define CR4_PVI	       0x2ull
#define CR4_TSD	       0x4ull
#define CR4_DE	       0x8ull
#define CR4_PSE	       0x10ull
#define CR4_PAE	       0x20ull
#define CR4_MCE	       0x40ull
#define CR4_PGE	       0x80ull
#define CR4_PCE	       0x100ull
#define CR4_OSFXSR     0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define CR4_UMIP       0x800ull
#define CR4_LA57       0x1000ull
#define CR4_VMXE       0x2000ull
#define CR4_SMXE       0x4000ull
#define CR4_FSGSBASE   0x10000ull
#define CR4_PCIDE      0x20000ull
#define CR4_OSXSAVE    0x40000ull
#define CR4_SMEP       0x100000ull
#define CR4_SMAP       0x200000ull
#define CR4_PKE	       0x400000ull
#define CR4_CET	       0x800000ull
#define CR4_PKS	       0x1000000ull
#define EFER_SCE       0x1ull
#define EFER_LME       0x100ull
#define EFER_LMA       0x400ull
#define EFER_NX	       0x800ull
#define EFER_SVME      0x1000ull
#define EFER_LMSLE     0x2000ull
#define EFER_FFXSR     0x4000ull
#define EFER_TCE       0x8000ull

/* Exception vectors. */
enum {
	EXC_DE,
	EXC_DB,
	EXC_NMI,
	EXC_BP,
	EXC_OF,
	EXC_BR,
	EXC_UD,
	EXC_NM,
	EXC_DF,
	EXC_MP,
	EXC_TS,
	EXC_NP,
	EXC_SS,
	EXC_GP,
	EXC_PF,
	EXC_MF = 16,
	EXC_AC,
	EXC_MC,
	EXC_XM,
	EXC_VE,
	EXC_CP,
	EXC_VC = 29,
	EXC_SX = 30,
};

/** Records a hardware exception without an error code. Returns CPU_EXC. */
int cpu_raise(struct cpu *cpu, unsigned vector);
/** Records a hardware exception with an error code. Returns CPU_EXC. */
int cpu_raise_err(struct cpu *cpu, unsigned vector, u32 error);
/** Records #PF with its address (goes to CR2 at delivery). Returns CPU_EXC. */
int cpu_raise_pf(struct cpu *cpu, u64 address, u32 error);
/** True while an exit of a nested guest is recorded: what was recorded must not be replaced. */
static inline bool cpu_leaving_guest(const struct cpu *cpu)
{
	return UNLIKELY(cpu->exc.pending) && cpu->exc.kind == EVENT_VMEXIT;
}
/** Records #DB with the DR6 bits that describe it. Returns CPU_EXC. */
int cpu_raise_db(struct cpu *cpu, u64 dr6_bits);

/**
 * Delivers cpu->exc through the guest's IDT or vector table: double and triple fault rules,
 * privilege change, IST, task gates. cpu->rip is the faulting instruction (faults) or the next
 * one (traps). CPU_OK, or CPU_EXIT with CPU_EXIT_SHUTDOWN on a triple fault or with another
 * reason (a stack in MMIO space …).
 */
int cpu_exc_deliver(struct cpu *cpu);
/** Delivers an external interrupt or (kind EVENT_NMI) an NMI, with the same rules. */
int cpu_intr_deliver(struct cpu *cpu, unsigned vector, enum cpu_event_kind kind);

/** Power-on reset: registers as the SDM's "Processor State After Reset" has them. */
void cpu_reset(struct cpu *cpu, bool init_only);
/** Enters SMM: saves state at SMBASE (layout by vendor and mode). CPU_OK or CPU_EXIT (shutdown). */
int cpu_smm_enter(struct cpu *cpu);

/** True in 64-bit mode (not compatibility mode). */
static inline bool cpu_is_64bit(const struct cpu *cpu)
{
	return (cpu->efer & EFER_LMA) && (cpu->seg[SEG_CS].attr & SEG_ATTR_L);
}

/** True in IA-32e mode (64-bit or compatibility). */
static inline bool cpu_is_long(const struct cpu *cpu)
{
	return cpu->efer & EFER_LMA;
}

/** True in protected mode, virtual-8086 mode excluded. */
static inline bool cpu_is_protected(const struct cpu *cpu)
{
	return (cpu->cr0 & CR0_PE) && !(cpu->rflags & FLAG_VM);
}

/** True when v sign-extends from bit 47 (or 56 with CR4.LA57). */
static inline bool cpu_is_canonical(const struct cpu *cpu, u64 v)
{
	unsigned shift = (cpu->cr4 & CR4_LA57) ? 7 : 16;

	return (u64)((s64)(v << shift) >> shift) == v;
}

#endif
