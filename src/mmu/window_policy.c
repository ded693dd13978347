/*
 * window_policy.c - which program has the window, and when it goes without
 *
 * The window pays for a program that runs for long and whose memory is used more than once: a page costs
 * some microseconds before its first access, an address space that loses the window all of its pages. So
 * each interrupt looks at what it met. An address space that several in a row have met gets the window; one
 * that has it keeps it against others that run less. Its faults are paid from a credit that each of its
 * interrupts fills up; without credit it is paused: its code goes through the software TLB, its pages
 * stay. The same goes for a program while it grows fast: each of its new pages would be a fault of the
 * host's, too. What pauses too often, or has its memory where the window does not reach, loses it.
 */
#include "mmu/window_internal.h"

/*
 * Interrupts that meet one program and no third one, until it has the window. Where another has it, that
 * one's pages count, at so many for an interrupt, and each interrupt that meets it takes some back: of two
 * programs that take turns at a pipe, the one that runs more keeps it.
 */
#define HOT_TICKS      3
#define HOT_PAGES      256
#define HOT_TICKS_MORE 12
#define HOT_TICKS_BACK 2
/*
 * What the window may cost, in ns: so much at once, and so much more with each interrupt that meets the
 * program. When that is used up the program goes on without it until half of it has come together again,
 * and after some times for long.
 */
#define CREDIT_MAX  12000000
#define CREDIT_TICK 1200000
#define COST_FAULT  9000
#define COST_PAGE   350
#define COST_MISS   70
/* Accesses elsewhere between two interrupts, in ns, that show a program which lies elsewhere. */
#define MISSED_MAX 700000
#define PAUSES_MAX 16
/* #PFs between two interrupts while a program grows too fast, and when it does no more. */
#define GROWS	   160
#define GROWS_NOT  80
#define COLD_TICKS 1000

/* The window goes to the current address space, when this vCPU can have it. */
static void claim(struct cpu *cpu)
{
	struct mmu_window *w = window_take(cpu);

	if (!w || w->broken)
		return;
	if (window_own(cpu))
		window_drop_all(cpu, w);
	cpu->mmu->stat[MMU_STAT_window_claims]++;
	w->credit = CREDIT_MAX;
	w->missed = 0;
	w->pauses = 0;
	w->lost = false;
	w->readonly_wanted = false;
	cpu->window_cr3 = cpu->cr3;
	cpu->window_paused = false;
	cpu->window_stale = 0;
}

/*
 * Something was done that would be cheaper without a window. A program whose memory is mostly elsewhere
 * will not do better. The window's code may be running, so it is not given up here.
 */
static void pay(struct cpu *cpu, s64 ns)
{
	struct mmu_window *w = window_own(cpu);

	w->credit -= ns;
	if ((LIKELY(w->credit > 0) && w->missed < MISSED_MAX) || cpu->mem->window_always ||
	    cpu->window_paused)
		return;
	cpu->window_paused = true;
	w->lost = w->broken || ++w->pauses >= PAUSES_MAX || w->missed >= MISSED_MAX;
}

static void give_up(struct cpu *cpu)
{
	cpu->mmu->window_cold_cr3 = cpu->window_cr3;
	cpu->mmu->window_cold_ticks = COLD_TICKS;
	cpu->mmu->stat[MMU_STAT_window_given_up]++;
	window_release(cpu);
}

/* What the current program's interrupts have to come to, until it gets the window. */
static unsigned hot_ticks(struct cpu *cpu)
{
	const struct mmu_window *w = window_own(cpu);

	return HOT_TICKS + (w ? MIN(w->count / HOT_PAGES, HOT_TICKS_MORE) : 0);
}

void mmu_window_tick(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;
	struct mmu_window *w = mc->window;
	u64 grown;

	if (LIKELY(!cpu->mem->window[0]) || cpu->mem->window_always || cpu->guest_mode)
		return;
	code_settle(cpu);
	grown = mc->user_faults - mc->window_user_faults;
	mc->window_user_faults = mc->user_faults;
	if (mc->window_cold_ticks)
		mc->window_cold_ticks--;
	if (window_own(cpu) && w->lost)
		give_up(cpu);
	if (window_own(cpu)) {
		if (cpu->cr3 == cpu->window_cr3) {
			w->credit = MIN(w->credit + CREDIT_TICK, CREDIT_MAX);
			w->missed = 0;
			if (grown > GROWS)
				cpu->window_paused = true;
			else if (grown < GROWS_NOT && w->credit > CREDIT_MAX / 2)
				cpu->window_paused = false;
			mc->window_hot_ticks -= MIN(mc->window_hot_ticks, HOT_TICKS_BACK);
			if (cpu->cpl == 3)
				mc->stat[cpu->window_paused ? MMU_STAT_window_paused
							    : MMU_STAT_window_ticks]++;
			return;
		}
	}
	if (cpu->cpl != 3)
		return;
	mc->stat[MMU_STAT_window_without]++;
	if (mc->window_hot_cr3 != cpu->cr3 || grown > GROWS || !cpu_is_64bit(cpu)) {
		mc->window_hot_cr3 = cpu->cr3;
		mc->window_hot_ticks = 0;
	}
	mc->window_hot_ticks += cpu_is_64bit(cpu);
	if (mc->window_hot_ticks >= hot_ticks(cpu) &&
	    !(cpu->cr3 == mc->window_cold_cr3 && mc->window_cold_ticks))
		claim(cpu);
}

void window_miss(struct cpu *cpu)
{
	struct mmu_window *w = window_own(cpu);

	if (!w)
		return;
	w->missed += COST_MISS;
	pay(cpu, COST_MISS);
}

void window_paid_fault(struct cpu *cpu, bool served)
{
	if (!served)
		window_own(cpu)->missed += COST_FAULT;
	pay(cpu, COST_FAULT);
}

void window_paid_pages(struct cpu *cpu, u64 pages)
{
	pay(cpu, (s64)pages * COST_PAGE);
}

int mmu_window_raise(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;

	if (mc->user_faults - mc->window_user_faults > GROWS && !cpu->mem->window_always)
		cpu->window_paused = true;
	return mmu_raise(cpu, &cpu->mmu->window_fault);
}

void mmu_window_switched(struct cpu *cpu)
{
	if (UNLIKELY(cpu->mem->window_always) && cpu->cr3 != cpu->window_cr3 && !cpu->guest_mode)
		claim(cpu);
}
