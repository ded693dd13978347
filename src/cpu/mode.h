/*
 * mode.h - the part of processor state that a translated block depends on
 *
 * A block is valid for one value of cpu->mode. Whatever changes one of these facts calls
 * cpu_mode_update(); the dispatcher compares nothing else.
 */
#ifndef CPU_MODE_H
#define CPU_MODE_H

#include "cpu/cpu.h"

#define MODE_LONG	BIT(0) /* 64-bit code segment */
#define MODE_CS32	BIT(1) /* default operand and address size 32 (never with MODE_LONG) */
#define MODE_SS32	BIT(2) /* stack pointer is ESP, not SP (64-bit mode: RSP) */
#define MODE_PE		BIT(3)
#define MODE_V86	BIT(4)
#define MODE_CPL_SHIFT	5
#define MODE_CPL	(3u << MODE_CPL_SHIFT)
#define MODE_FLAT	BIT(7) /* ES, CS, SS, DS: base 0, limit 4G, present, read/write, expand up */
#define MODE_FS_FLAT	BIT(8)	/* FS: any base, limit 4G, present, read/write */
#define MODE_AC		BIT(9)	/* RFLAGS.AC overrides SMAP (CPL < 3) */
#define MODE_TS		BIT(10) /* CR0.TS */
#define MODE_EM		BIT(11) /* CR0.EM */
#define MODE_MP		BIT(12) /* CR0.MP */
#define MODE_SSE	BIT(13) /* CR4.OSFXSR */
#define MODE_AVX	BIT(14) /* CR4.OSXSAVE and XCR0 has SSE and AVX */
#define MODE_AVX512	BIT(15) /* … and the three AVX-512 components */
#define MODE_STEP	BIT(16) /* TF, guest-debug single step: one instruction a block */
#define MODE_ALIGN	BIT(17) /* CPL 3 with CR0.AM and RFLAGS.AC: #AC on misaligned accesses */
#define MODE_TSC	BIT(18) /* RDTSC may run inline (CR4.TSD clear or CPL 0, no intercept) */
#define MODE_LA57	BIT(19)
#define MODE_VIEW_SHIFT 20 /* MMU_TLB_* view of ordinary data accesses */
#define MODE_VIEW \
	(7u << MODE_VIEW_SHIFT) /* MODE_GUEST is its highest bit: L2 has views of its own */
#define MODE_GUEST \
	BIT(22) /* nested guest with instruction intercepts: privileged paths ask first */
#define MODE_IOPL_OK BIT(23) /* CPL <= IOPL: CLI, STI, POPF change IF */
#define MODE_GS_FLAT BIT(25) /* GS likewise */
#define MODE_BREAK \
	BIT(26) /* DR7 or guest debug has instruction breakpoints: their pages are stepped */
#define MODE_WINDOW BIT(27) /* user memory is reached through the window (mmu/window.c) */
#define MODE_WATCH  BIT(24) /* DR7 or guest debug has data breakpoints */

/** Recomputes cpu->mode from the registers. */
void cpu_mode_update(struct cpu *cpu);

/** How many views there is something in. */
static inline unsigned cpu_views(const struct cpu *cpu)
{
	return UNLIKELY(cpu->nested != NULL) ? MMU_TLB_COUNT : MMU_TLB_OWN;
}

static inline unsigned cpu_mode_view(const struct cpu *cpu)
{
	return (cpu->mode & MODE_VIEW) >> MODE_VIEW_SHIFT;
}

#endif
