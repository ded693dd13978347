/*
 * seg.h - descriptors, segment registers and stack frames
 *
 * Everything that loads a segment register follows the same order: read the descriptor, check it
 * (each check with its own exception and error code), mark it accessed, and only then let the
 * caller commit. `ext` is the EXT bit of error codes: 1 while an event that the program did not
 * ask for is being delivered.
 */
#ifndef CPU_SEG_H
#define CPU_SEG_H

#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "cpu/mode.h"

/* Types of system descriptors (S = 0). */
#define SEG_SYS_TSS16	   1u
#define SEG_SYS_LDT	   2u
#define SEG_SYS_TSS16_BUSY 3u
#define SEG_SYS_CALL16	   4u
#define SEG_SYS_TASK	   5u
#define SEG_SYS_INT16	   6u
#define SEG_SYS_TRAP16	   7u
#define SEG_SYS_TSS32	   9u
#define SEG_SYS_TSS32_BUSY 11u
#define SEG_SYS_CALL32	   12u
#define SEG_SYS_INT32	   14u
#define SEG_SYS_TRAP32	   15u
/* Bits of the type of code and data descriptors (S = 1). */
#define SEG_TYPE_ACCESSED 1u
#define SEG_TYPE_WRITE	  2u /* data: writable; code: readable */
#define SEG_TYPE_DOWN	  4u /* data: expand down; code: conforming */
#define SEG_TYPE_CODE	  8u

/* A descriptor as read from a table. */
struct seg_desc {
	u64 lo, hi;  /* hi: second half of the 16-byte forms, else 0 */
	u64 address; /* linear, of the descriptor */
	u32 attr;    /* SEG_ATTR_* */
};

/** Base, limit (granularity applied) and attributes of a code, data, LDT or TSS descriptor. */
u64 seg_desc_base(const struct seg_desc *d);
u32 seg_desc_limit(u64 lo);
u32 seg_desc_attr(u64 lo);

static inline unsigned seg_type(u32 attr)
{
	return attr & SEG_ATTR_TYPE;
}

static inline unsigned seg_dpl(u32 attr)
{
	return (attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}

/** True for a code or data descriptor with the Code bit. */
static inline bool seg_is_code(u32 attr)
{
	return (attr & (SEG_ATTR_S | SEG_TYPE_CODE)) == (SEG_ATTR_S | SEG_TYPE_CODE);
}

static inline bool seg_is_writable_data(u32 attr)
{
	return (attr & (SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_WRITE)) ==
	       (SEG_ATTR_S | SEG_TYPE_WRITE);
}

static inline bool seg_is_conforming(u32 attr)
{
	return attr & SEG_TYPE_DOWN;
}

/** True when a selector names nothing. */
static inline bool seg_is_null(u16 sel)
{
	return !(sel & 0xfffc);
}

/** Where a selector's descriptor lies in the GDT or LDT. False: beyond the table's limit. */
bool seg_desc_locate(struct cpu *cpu, u16 sel, unsigned size, u64 *address);
/** Reads the descriptor of a non-null selector. Beyond the table: `vector` with the selector. */
int seg_desc_fetch(struct cpu *cpu, u16 sel, unsigned vector, u32 ext, struct seg_desc *d);
/** Reads the second half of a 16-byte descriptor, with the same errors. */
int seg_desc_fetch_high(struct cpu *cpu, u16 sel, unsigned vector, u32 ext, struct seg_desc *d);
/** Sets the accessed bit (or, for TSS descriptors with SEG_TYPE_WRITE, busy) in memory and in d. */
int seg_desc_mark(struct cpu *cpu, struct seg_desc *d, unsigned type_bit);
/** Clears the busy bit of a TSS descriptor in memory. */
int seg_desc_unmark(struct cpu *cpu, struct seg_desc *d, unsigned type_bit);
/** The register contents for a descriptor. */
struct cpu_seg seg_from_desc(u16 sel, const struct seg_desc *d);
/** The register contents after a null selector was loaded. */
struct cpu_seg seg_from_null(u16 sel, unsigned dpl);

/** Limit check of n bytes at a 32-bit offset, expand-down included. */
bool seg_range_ok(const struct cpu_seg *s, u64 offset, unsigned n);
/** All checks of an access through a segment register outside 64-bit mode. */
bool seg_access_ok(const struct cpu *cpu, unsigned seg, u64 offset, unsigned n, unsigned access);

/** Checks a data or stack segment load in any mode and prepares its contents. */
int seg_load_check(struct cpu *cpu, unsigned seg, u16 sel, struct cpu_seg *out);
/** Checks a stack segment for privilege `cpl`; failures raise `vector` (#TS, #GP), absence #SS. */
int seg_stack_check(struct cpu *cpu, u16 sel, unsigned cpl, unsigned vector, u32 ext,
		    struct cpu_seg *out);
/** seg_load_check(), then commits and updates the mode. */
int seg_load(struct cpu *cpu, unsigned seg, u16 sel);
/** Contents of a segment register loaded in real or virtual-8086 mode. */
struct cpu_seg seg_from_real(const struct cpu *cpu, unsigned seg, u16 sel);
/** Empties DS, ES, FS, GS that the new, less privileged CPL may not keep. */
void seg_drop_privileged(struct cpu *cpu);
/** Offset of a transfer's target: #GP(ext) beyond CS's limit or, in 64-bit mode, not canonical. */
int seg_target_check(struct cpu *cpu, const struct cpu_seg *cs, u64 rip, u32 ext);
/** Reads from the TSS of TR; beyond its limit: #TS(TR). */
int seg_tss_read(struct cpu *cpu, u32 offset, void *buf, unsigned n, u32 ext);

/** Reads SS:ESP for an inner ring from a 16- or 32-bit TSS. */
int seg_tss_stack(struct cpu *cpu, unsigned cpl, u32 ext, u16 *ss, u32 *esp);

/** Checks the code segment that IRET or far RET returns to (privilege: the selector's RPL). */
int seg_return_code(struct cpu *cpu, u16 sel, struct cpu_seg *cs);
/** Checks the stack segment that goes with it. */
int seg_return_stack(struct cpu *cpu, u16 sel, const struct cpu_seg *cs, struct cpu_seg *ss);

/** RIP of the next instruction. 16-bit code runs past 64 KiB too, into its segment's limit. */
static inline u64 seg_next_rip(const struct cpu *cpu, unsigned len)
{
	u64 rip = cpu->rip + len;

	return cpu->mode & MODE_LONG ? rip : (u32)rip;
}

/** Mask of the stack pointer's significant bits. */
static inline u64 seg_sp_mask(const struct cpu *cpu)
{
	if (cpu->mode & MODE_LONG)
		return ~0ull;
	return (cpu->mode & MODE_SS32) ? 0xffffffffull : 0xffffull;
}

/** The same under segments that are about to be loaded: what a return moves the pointer by. */
static inline u64 seg_sp_mask_of(const struct cpu *cpu, const struct cpu_seg *cs,
				 const struct cpu_seg *ss)
{
	if ((cs->attr & SEG_ATTR_L) && cpu_is_long(cpu))
		return ~0ull;
	return ss->attr & SEG_ATTR_DB ? 0xffffffffull : 0xffffull;
}

/** Sets the stack pointer's bits in mask; of a narrow one the others stay as they are. */
static inline void seg_sp_put(struct cpu *cpu, u64 sp, u64 mask)
{
	if (mask == 0xffff)
		cpu->gpr[RSP] = (cpu->gpr[RSP] & ~mask) | (sp & mask);
	else
		cpu->gpr[RSP] = sp & mask;
}

/** Sets the significant bits of the stack pointer. */
static inline void seg_sp_set(struct cpu *cpu, u64 sp)
{
	seg_sp_put(cpu, sp, seg_sp_mask(cpu));
}

/** Sets cpu->exit.reason; returns CPU_EXIT. */
static inline int cpu_exit_set(struct cpu *cpu, enum cpu_exit_reason reason)
{
	cpu->exit.reason = reason;
	return CPU_EXIT;
}

/**
 * After an instruction turned IF on: leave when somebody waits for that. The instruction is
 * complete and may owe a single-step trap, so it does not exit itself but makes the dispatcher
 * poll, which comes after the trap is recorded.
 */
static inline int cpu_irq_window_check(struct cpu *cpu)
{
	if (UNLIKELY(!cpu->irq_window) && cpu->intf)
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
	return CPU_OK;
}

/*
 * A frame to be pushed: built in a buffer, checked as a whole, written, then the caller commits
 * SS and RSP. All elements have one size.
 */
struct seg_frame {
	struct cpu_seg ss;
	u64 sp;		 /* before the pushes */
	bool long_mode;	 /* no limit, canonical check instead */
	u8 size;	 /* of an element: 2, 4, 8 */
	u32 error;	 /* error code of the #SS */
	unsigned access; /* MMU_* for the writes */
	unsigned used;	 /* bytes */
	u8 buf[48 * 8];
};

void seg_frame_init(struct seg_frame *f, const struct cpu_seg *ss, u64 sp, bool long_mode,
		    unsigned size, unsigned access);

static inline void seg_frame_push(struct seg_frame *f, u64 value)
{
	f->used += f->size;
	switch (f->size) {
	case 2:
		*(u16 *)(f->buf + sizeof(f->buf) - f->used) = (u16)value;
		break;
	case 4:
		*(u32 *)(f->buf + sizeof(f->buf) - f->used) = (u32)value;
		break;
	default:
		*(u64 *)(f->buf + sizeof(f->buf) - f->used) = value;
		break;
	}
}

/** Writes the frame; #SS(error) or #PF leave memory as it was. */
int seg_frame_write(struct cpu *cpu, const struct seg_frame *f);
/** The stack pointer behind the pushes, upper bits kept as the stack's size says. */
u64 seg_frame_sp(const struct seg_frame *f);
/** Reads `count` elements at `skip` bytes above the current stack pointer. */
int seg_stack_peek(struct cpu *cpu, unsigned skip, unsigned size, unsigned count, u64 *values);
/**
 * That has raised an exception, and the processor reads the elements in this order: raises the first one's
 * that faults, or exits for a device that has to be asked before. CPU_EXC or CPU_EXIT.
 */
int seg_stack_blame(struct cpu *cpu, unsigned size, const u8 *order, unsigned count);

/* Who asks for a task switch. */
enum seg_task_source { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };

/* What a task switch needs to know besides the new task. */
struct seg_task {
	enum seg_task_source source;
	bool has_error; /* push `error` on the new task's stack */
	u32 error, ext;
	u64 next_rip; /* what the outgoing task resumes at */
	u64 flags;    /* its RFLAGS image */
};

/**
 * Hardware task switch to a TSS descriptor that has passed the caller's privilege checks.
 * CPU_OK, CPU_EXC (before the switch: old task; after: new task), CPU_EXIT.
 */
int cpu_task_switch(struct cpu *cpu, u16 sel, struct seg_desc *tss, const struct seg_task *t);
/** Follows a task gate: reads and checks the TSS selector in it. */
int cpu_task_gate(struct cpu *cpu, u64 gate, u32 ext, u16 *sel, struct seg_desc *tss);

#endif
