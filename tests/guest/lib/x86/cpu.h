/*
 * Per-CPU data and exceptions.
 *
 * Each CPU owns a block of CPU_BLOCK bytes, aligned to its size, that holds struct cpu at its
 * bottom and all the CPU's stacks above it: so this_cpu() is a mask of the stack pointer, and
 * tests may do what they like with FS and GS.
 */
#ifndef GUEST_X86_CPU_H
#define GUEST_X86_CPU_H

#include "x86.h"

#define CPUS_MAX  16
#define CPU_BLOCK 0x10000ul

/* What an exception or interrupt pushed, lowest address first. */
struct regs {
#if IS64
	u64 r15, r14, r13, r12, r11, r10, r9, r8;
#else
	u32 gs, fs, es, ds;
#endif
	ulong di, si, bp, bx, dx, cx, ax;
	ulong vector, error;
	ulong ip, cs, flags;
	ulong sp, ss; /* 32-bit: only when the privilege level changed */
#if !IS64
	u32 v86_es, v86_ds, v86_fs, v86_gs; /* only from and to virtual-8086 mode */
#endif
};

/** What a caught exception was; vector is -1 when there was none. */
struct trap {
	int vector;
	u32 error;
	ulong ip, cs, flags, sp, ss, cr2, dr6;
};

typedef void irq_fn(struct regs *regs);

struct tss {
#if IS64
	u32 reserved0;
	u64 rsp[3];
	u64 ist[8]; /* [0] is reserved */
	u64 reserved2;
	u16 reserved3, iomap;
#else
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	u32 eax, ecx, edx, ebx, esp, ebp, esi, edi;
	u32 es, cs, ss, ds, fs, gs, ldt;
	u16 trap, iomap;
#endif
	u8 io[0x2001 + 7];
} __attribute__((packed));

struct gate {
	u16 low, sel;
	u8 ist, type;
	u16 mid;
#if IS64
	u32 high, reserved;
#endif
};

struct cpu {
	unsigned id; /* 0 … cpu_count - 1 */
	u32 apic_id;
	struct trap trap; /* the last one that was caught */
	ulong guard;	  /* context that catches what no fix-up does, or 0 */
	irq_fn *hook;	  /* asked first, for exceptions: sets regs and ends with hooked */
	bool hooked;
	volatile u32 irqs[256];
	void (*volatile work)(void *);
	void *volatile work_arg;
	volatile bool busy;
	u64 gdt[GDT_ENTRIES];
	struct tss tss, tss_df;
	u8 end[0];
};

/* Stacks inside the block, by their tops. */
#define STACK_TOP(cpu)	      ((ulong)(cpu) + CPU_BLOCK - 64)
#define TRAP_STACK_TOP(cpu)   ((ulong)(cpu) + 0xb000)
#define IST_STACK_TOP(cpu, n) ((ulong)(cpu) + 0xb000 - 0x1000 * (n)) /* 1 … 4 */

extern struct cpu *cpus[CPUS_MAX];
extern unsigned cpu_count;

static inline struct cpu *this_cpu(void)
{
	ulong sp;

	__asm__ volatile("mov %%" /* the stack pointer */
#if IS64
			 "rsp"
#else
			 "esp"
#endif
			 ", %0"
			 : "=r"(sp));
	return (struct cpu *)(sp & ~(CPU_BLOCK - 1));
}

/* One IDT for all CPUs. */
extern struct gate idt[256];
/** Points a vector at code; dpl: who may call it by INT. */
void idt_set(unsigned vector, void *code, unsigned dpl);
/** As the runtime has it. */
void idt_reset(unsigned vector);
/** Stack of a vector in 64-bit mode: 0 or IST 1 … 4. */
void idt_set_ist(unsigned vector, unsigned ist);
/** C function for an interrupt or (when no fix-up or guard took it) exception. NULL: none. */
void irq_set(unsigned vector, irq_fn *fn);

/** GDT descriptor from parts; flags: bits 40…55 of the descriptor as (type byte | G/D/L << 8). */
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
void gdt_set(unsigned selector, u64 value);

/* ---- exceptions ---- */

/*
 * One instruction that may fault, in an asm statement:
 *
 *	asm volatile(TRY("mov (%1), %0") : "=r"(v) : "r"(p) : "memory");
 *	if (trap_vector() == EXC_PF) ...
 *
 * trap_clear() goes before it. After a fault execution goes on behind the instruction.
 */
#define TRY(insn)               \
	"771: " insn "\n772:\n" \
	".pushsection .fixup, \"a\"\n" ASM_PTR " 771b, 772b\n.popsection\n"

static inline void trap_clear(void)
{
	((volatile struct cpu *)this_cpu())->trap.vector = -1;
	barrier();
}
static inline int trap_vector(void)
{
	return ((volatile struct cpu *)this_cpu())->trap.vector;
}
static inline struct trap *trap_last(void)
{
	barrier();
	return &this_cpu()->trap;
}

/**
 * Calls fn(arg) and catches any exception in it that no fix-up handles: execution goes on here.
 * Returns the vector, or -1 when fn returned. The flags and data segments are restored.
 */
int trap_guard(void (*fn)(void *), void *arg);

/**
 * Calls fn(arg) at privilege level 3 on a stack of its own; what it may touch must be mapped for
 * users (see user_map). Returns -1 when fn returned, or the vector of the exception that ended it.
 */
int trap_user(void (*fn)(void *), void *arg);
/** As trap_user() with every register given: enters at regs by IRET; any exception ends it. */
int trap_enter(const struct regs *regs);
/** Makes all memory below 1 GiB accessible to privilege level 3. */
void user_map(void);
/**
 * Makes only USER functions and the user stacks accessible, so that SMEP and SMAP may be on.
 * A USER function may call nothing.
 */
void user_map_code(void);
#define USER __attribute__((section(".user"), noinline))
/** Top of the user stack. */
ulong user_stack(void);

/* The interrupt vector by which trap_user()'s code comes back. */
#define VECTOR_RETURN 0x80

/* Code of a vector that is already being handled: the stubs are 16 bytes apart. */
extern char trap_stubs[];

/* ---- set up, in the order of use ---- */
void cpu_init(struct cpu *cpu, unsigned id);
void trap_init(void);

#endif
