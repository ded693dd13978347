/*
 * dispatch.c - the loop around generated code
 *
 * Finds or makes the block for (RIP, mode), enters it, and looks at why it came back: to go on
 * elsewhere, to have an instruction executed in C, because an access could not complete, because
 * somebody wants this vCPU (poll), or because the host faulted. Exceptions are delivered here.
 *
 * Single steps (RFLAGS.TF, guest debugging, instruction breakpoints, interrupt shadows, restarts
 * after user-space I/O) use blocks of one instruction, keyed by MODE_STEP.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <asm/prctl.h>
#include <unistd.h>
#include "cpu/feature.h"
#include "cpu/fpu.h"
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* --- GS base -------------------------------------------------------------------------------- */

static bool have_fsgsbase(void)
{
	return getauxval(AT_HWCAP2) & 2;
}

static u64 gs_swap(const struct jit *jit, u64 base)
{
	u64 old;

	if (jit->fsgsbase) {
		__asm__ volatile("rdgsbase %0" : "=r"(old));
		__asm__ volatile("wrgsbase %0" : : "r"(base));
	} else {
		syscall(SYS_arch_prctl, ARCH_GET_GS, &old);
		syscall(SYS_arch_prctl, ARCH_SET_GS, base);
	}
	return old;
}

/* Where the running block begins. */
static u64 block_rip(const struct cpu *cpu, const struct jit_block *b)
{
	return b->relative ? cpu->code_base + (b->gpa & ~PAGE_MASK) : b->rip;
}

/* A PC of 32 bits is one whose upper half was lost; the cache is smaller than that. */
u64 jit_guest_pc(struct cpu *cpu, u64 host_pc)
{
	u64 rx = (u64)cpu->jit->rx, pc = host_pc >> 32 ? host_pc : rx + (u32)(host_pc - rx);
	struct jit_block *b = jit_block_by_host(cpu->jit, pc);
	const struct jit_mark *m = b ? jit_mark_find(cpu->jit, b, pc) : NULL;

	return m ? block_rip(cpu, b) + m->guest : 0;
}

/* --- finding code --------------------------------------------------------------------------- */

static u64 code_linear(const struct cpu *cpu, u64 rip)
{
	return cpu->mode & MODE_LONG ? rip : (u32)(cpu->seg[SEG_CS].base + rip);
}

/* What a search for a block found. */
struct found {
	struct jit_block *block; /* NULL: see ret */
	int ret;		 /* enum cpu_ret */
	bool global;		 /* every page of it is mapped globally */
};

/* A block whose instruction crosses pages: is its second half still where it was? */
static void check_second_page(struct cpu *cpu, u64 lin, struct found *f)
{
	struct jit_block *b = f->block;
	struct mmu_fetched second;

	f->ret = mmu_fetch(cpu, (lin & PAGE_MASK) + PAGE_SIZE, &second);
	if (f->ret) {
		f->block = NULL;
		return;
	}
	f->global &= second.global;
	if (second.gpa != b->gpa2)
		jit_invalidate(cpu, b->gpa, b->guest_len);
	else
		jit_page_check(cpu, jit_page_find(cpu->jit, second.gpa >> PAGE_SHIFT), second.host);
}

/* find_block() without a look at where CS ends. */
static struct found find_any(struct cpu *cpu, u32 mode)
{
	u64 lin = code_linear(cpu, cpu->rip);
	struct mmu_fetched at;
	struct found f = {.ret = mmu_fetch(cpu, lin, &at)};

	if (f.ret)
		return f;
	f.global = at.global;
	f.block = jit_block_find(cpu->jit, at.gpa, cpu->rip, mode);
	if (LIKELY(f.block)) {
		jit_page_check(cpu, f.block->page, at.host - (at.gpa & ~PAGE_MASK));
		if (UNLIKELY(f.block->gpa2 != ~0ull && !f.block->dead))
			check_second_page(cpu, lin, &f);
		if (LIKELY(f.ret || !f.block->dead))
			return f;
	}
	cpu_fpu_save(cpu);
	f.block = jit_translate(cpu, &at, cpu->rip, mode, &f.ret);
	if (!f.block && f.ret == CPU_OK) {
		jit_cache_reset(cpu);
		f.block = jit_translate(cpu, &at, cpu->rip, mode, &f.ret);
	}
	if (f.block && f.block->gpa2 != ~0ull)
		f.global = false;
	cpu_fpu_load(cpu);
	return f;
}

/* Code that may run past CS's limit: one instruction at a time, #GP for the one that does. */
static struct found find_near_limit(struct cpu *cpu, u32 mode)
{
	u64 limit = cpu->seg[SEG_CS].limit, lin = code_linear(cpu, cpu->rip);
	struct found f = find_any(cpu, mode | MODE_STEP);
	bool beyond;

	if (f.block)
		beyond = cpu->rip + f.block->guest_len - 1 > limit;
	else /* a fault on its second page, which lies beyond the limit */
		beyond = f.ret == CPU_EXC && cpu->exc.vector == EXC_PF &&
			 (cpu->exc.payload ^ lin) >> PAGE_SHIFT &&
			 cpu->rip + PAGE_SIZE - (lin & ~PAGE_MASK) > limit;
	if (beyond)
		f = (struct found){NULL, cpu_raise_err(cpu, EXC_GP, 0), false};
	return f;
}

/* The block for cpu->rip in `mode`, translated if need be. */
static struct found find_block(struct cpu *cpu, u32 mode)
{
	u64 limit = cpu->seg[SEG_CS].limit;
	struct found f;

	if (mode & MODE_LONG)
		return find_any(cpu, mode);
	if (cpu->rip > limit)
		return (struct found){NULL, cpu_raise_err(cpu, EXC_GP, 0), false};
	if (UNLIKELY(limit - cpu->rip < 15))
		return find_near_limit(cpu, mode);
	f = find_any(cpu, mode);
	if (f.block && UNLIKELY(cpu->rip + f.block->guest_len - 1 > limit))
		f = find_near_limit(cpu, mode);
	return f;
}

/* --- reasons to stop ------------------------------------------------------------------------- */

/* The instruction that a return address into a cold stub belongs to. */
static const struct jit_mark *stopped_at(struct cpu *cpu)
{
	u64 pc = cpu->jit_scratch[1] - 1;
	struct jit *jit = cpu->jit;
	struct jit_stopped *s = &jit->stopped[(pc ^ pc >> 6) % JIT_STOPS];

	if (UNLIKELY(s->pc != pc)) {
		struct jit_block *b = jit_block_by_host(jit, pc);

		*s = (struct jit_stopped){pc, b, jit_mark_find(jit, b, pc)};
	}
	cpu->rip = block_rip(cpu, s->block) + s->mark->guest;
	return s->mark;
}

/* The instruction that faulted in the host; RSP as before it. */
static void faulted_at(struct cpu *cpu)
{
	u64 pc = cpu->jit->fault.pc;
	struct jit_block *b = jit_block_by_host(cpu->jit, pc);
	const struct jit_mark *m = jit_mark_find(cpu->jit, b, pc);

	cpu->rip = block_rip(cpu, b) + m->guest;
	cpu->gpr[RSP] += (u64)(s64)m->sp;
}

/* A host signal in generated code → the guest's exception. enum cpu_ret. */
static int host_fault(struct cpu *cpu)
{
	const struct jit *jit = cpu->jit;

	switch (jit->fault.trapno) {
	case EXC_DE:
		return cpu_raise(cpu, EXC_DE);
	case EXC_MF:
		return cpu_raise(cpu, EXC_MF);
	case EXC_XM:
		return cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
	case EXC_UD:
		return cpu_raise(cpu, EXC_UD);
	case EXC_AC:
		return cpu_raise_err(cpu, EXC_AC, 0);
	case EXC_GP:
	case EXC_SS:
		return cpu_raise_err(cpu, EXC_GP, 0);
	default:
		break;
	}
	cpu->exit.reason = CPU_EXIT_MEMFAULT;
	cpu->exit.mem.gpa = ~0ull;
	cpu->exit.mem.size = PAGE_SIZE;
	cpu->exit.mem.write = jit->fault.error & 2;
	cpu->exit.mem.exec = false;
	mmu_host_gpa(cpu, (const void *)jit->fault.address, &cpu->exit.mem.gpa);
	return CPU_EXIT;
}

/* #DB and #BP that the debugger of the VM wants. */
static bool debug_exit(struct cpu *cpu)
{
	const struct cpu_exc *exc = &cpu->exc;
	bool wanted = false;

	if (exc->injected)
		return false;
	if (exc->vector == EXC_BP && exc->kind != EVENT_INTR)
		wanted = cpu->guest_debug & KVM_GUESTDBG_USE_SW_BP;
	else if (exc->vector == EXC_DB && exc->kind != EVENT_INTR && exc->kind != EVENT_SW_INT)
		wanted = cpu->guest_debug & (KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_SINGLESTEP);
	if (!(cpu->guest_debug & KVM_GUESTDBG_ENABLE) || !wanted)
		return false;
	cpu->exit.reason = CPU_EXIT_DEBUG;
	cpu->exit.debug.vector = exc->vector;
	cpu->exit.debug.pc = code_linear(cpu, cpu->rip);
	cpu->exit.debug.dr6 = exc->vector == EXC_DB ? exc->payload | 0xffff0ff0 : 0;
	cpu->exit.debug.dr7 = cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP ? cpu->guest_dr7 : cpu->dr7;
	cpu->exc.pending = false;
	return true;
}

/* Bits of the instruction breakpoints whose addresses agree with RIP's but for `mask`; 0: none. */
static u64 code_breakpoint(const struct cpu *cpu, u64 mask)
{
	bool host = cpu->guest_debug & KVM_GUESTDBG_USE_HW_BP;
	u64 dr7 = host ? cpu->guest_dr7 : cpu->dr7, lin = code_linear(cpu, cpu->rip), hit = 0;

	for (unsigned i = 0; i < 4; i++)
		if ((dr7 >> (2 * i) & 3) && !(dr7 >> (16 + 4 * i) & 3) &&
		    !(((host ? cpu->guest_dr[i] : cpu->dr[i]) ^ lin) & ~mask))
			hit |= BIT64(i);
	return hit;
}

/*
 * Instructions that have to run alone: single steps, shadows, and pages with a breakpoint. No block
 * of such a page is in the jump cache, so every way into the page comes here.
 */
static bool wants_step(const struct cpu *cpu)
{
	return cpu->shadow || (cpu->mode & MODE_STEP) ||
	       ((cpu->mode & MODE_BREAK) && code_breakpoint(cpu, ~PAGE_MASK));
}

static void restart_done(struct cpu *cpu)
{
	cpu->mmio.done_count = cpu->mmio.done_next = 0;
	cpu->pio.ready = false;
	cpu->msr_ready = false;
	cpu->restart = false;
}

/* --- the loop -------------------------------------------------------------------------------- */

enum outcome {
	OUT_DONE,  /* an instruction (or a block) completed */
	OUT_AGAIN, /* nothing completed: an exception is pending, or try again */
	OUT_STEP,  /* the instruction has to run alone */
	OUT_EXIT,  /* cpu->exit is set */
};

static enum outcome from_ret(int ret)
{
	return ret == CPU_OK ? OUT_DONE : ret == CPU_EXC ? OUT_AGAIN : OUT_EXIT;
}

/*
 * A computed jump arrived at cpu->rip. In 64-bit mode a target that is not canonical faults on the
 * jump itself: what it did to RSP is taken back.
 */
static enum outcome computed_target(struct cpu *cpu)
{
	u64 target = cpu->rip;
	struct jit_block *b;

	if (LIKELY(!(cpu->mode & MODE_LONG) || cpu_is_canonical(cpu, target)))
		return OUT_DONE;
	b = jit_block_by_host(cpu->jit, cpu->jit_scratch[1] - 1);
	stopped_at(cpu);
	if (b->rsp_change < 0)
		mmu_write(cpu, cpu->gpr[RSP], &cpu->jit_scratch[10], 8, MMU_WRITE | MMU_AS_VIEW);
	cpu->gpr[RSP] -= (u64)(s64)b->rsp_change;
	cpu_raise_err(cpu, EXC_GP, 0);
	return OUT_AGAIN;
}

/* Runs generated code of a mode at a host address until it comes back. */
static enum outcome enter_code(struct cpu *cpu, u32 mode, u64 code, struct jit_link **link)
{
	struct jit *jit = cpu->jit;
	u64 thunk = jit_exec(jit, mode & MODE_WINDOW ? jit->thunk.enter_window : jit->thunk.enter);
	const struct cpu_insn *in;
	const struct jit_mark *m;
	unsigned stop;

resume:
	stop = ((unsigned (*)(struct cpu *, u64))thunk)(cpu, code);
	switch ((enum jit_stop)stop) {
	case JIT_NEXT:
		return OUT_DONE;
	case JIT_LINK:
		*link = (struct jit_link *)cpu->jit_scratch[2];
		cpu->rip = (*link)->target;
		if ((*link)->from->relative)
			cpu->rip += cpu->code_base;
		return OUT_DONE;
	case JIT_INSN:
		in = (const struct cpu_insn *)cpu->jit_scratch[2];
		jit->stat_cinsn[in->op]++;
		if (UNLIKELY(cpu->guest_mode)) {
			int ret = cpu->nested_ops->intercept(cpu, in);

			if (ret != CPU_NOT_INTERCEPTED)
				return from_ret(ret);
		}
		return from_ret(cpu_insn_table[in->op](cpu, in));
	case JIT_CALLED:
		return from_ret((int)cpu->jit_scratch[3]);
	case JIT_RESOLVE:
		m = stopped_at(cpu);
		switch ((enum mmu_resolve_kind)cpu->jit_scratch[3]) {
		case MMU_STOP_EXC:
			return OUT_AGAIN;
		case MMU_STOP_STEP:
			return OUT_STEP;
		default:
			if (cpu->mmio.load.size) {
				cpu->mmio.load.rip = cpu->rip;
				cpu->mmio.load.len = m->len;
			}
			return OUT_EXIT;
		}
	case JIT_COMMIT:
		m = stopped_at(cpu);
		if (m->len & JIT_MARK_FLOW) {
			__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
			code = cpu->jit_scratch[1];
			goto resume;
		}
		cpu->rip += m->len;
		if (!(cpu->mode & MODE_LONG))
			cpu->rip = (u32)cpu->rip;
		return cpu->exit.reason == CPU_EXIT_MEMFAULT ? OUT_EXIT : OUT_DONE;
	case JIT_FAULT:
		faulted_at(cpu);
		if (cpu->jit->fault.window) {
			if (cpu->jit->fault.outcome == MMU_WINDOW_FAULT)
				return from_ret(mmu_window_raise(cpu));
			cpu_mode_update(cpu); /* the window may have been given up */
			return OUT_STEP;
		}
		return from_ret(host_fault(cpu));
	case JIT_POLL:
		stopped_at(cpu);
		return OUT_AGAIN;
	case JIT_TARGET:
		return computed_target(cpu);
	}
	__builtin_unreachable();
}

/* After a completed single instruction: traps. True: cpu->exc is pending. */
static void after_step(struct cpu *cpu, bool tf, u8 shadow)
{
	u64 bits = cpu->pending_db;

	if (cpu->shadow == shadow)
		cpu->shadow = 0;
	if (cpu->shadow & CPU_SHADOW_MOV_SS)
		return; /* a data breakpoint waits behind the next instruction, a single step is lost */
	cpu->pending_db = 0;
	if (tf)
		bits |= DR6_BS;
	if (bits)
		cpu_raise_db(cpu, bits);
}

/* An exit behind the instruction, not in its middle: what comes between instructions is due. */
static bool exits_behind(const struct cpu *cpu)
{
	return cpu->exit.reason == CPU_EXIT_HLT || cpu->exit.reason == CPU_EXIT_MWAIT ||
	       (cpu->exit.reason == CPU_EXIT_PIO && !cpu->pio.in && !cpu->pio.len);
}

/* The instruction at RIP alone, with everything that is looked at between instructions. */
static enum outcome run_step(struct cpu *cpu)
{
	bool tf = cpu->rflags & FLAG_TF;
	bool debug = (cpu->guest_debug & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_ENABLE)) ==
		     (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_ENABLE);
	u64 rf = cpu->rflags & FLAG_RF, rip = cpu->rip;
	struct jit_link *link = NULL;
	u8 shadow = cpu->shadow, retires;
	u64 counters = cpu->pmu.by_insn;
	bool trap = cpu->guest_trap, nested = cpu->guest_mode;
	enum outcome out;
	u32 mode = (cpu->mode & ~MODE_WINDOW) | MODE_STEP;
	struct found f;

	if (!rf && !cpu->restart && !(shadow & CPU_SHADOW_MOV_SS)) {
		u64 hit = code_breakpoint(cpu, 0);

		if (hit) {
			cpu_raise_db(cpu, hit);
			return OUT_AGAIN;
		}
	}
	f = find_block(cpu, mode);
	if (!f.block)
		return f.ret == CPU_EXIT ? OUT_EXIT : OUT_AGAIN;
	retires = f.block->retires;
	cpu->mmu_stepping = true;
	cpu->trap_by_new_tf = 0;
	out = enter_code(cpu, mode, jit_exec(cpu->jit, f.block->code), &link);
	cpu->mmu_stepping = false;
	if (UNLIKELY(cpu->trap_by_new_tf))
		tf = cpu->rflags & FLAG_TF;
	if (out != OUT_DONE &&
	    !(out == OUT_EXIT && exits_behind(cpu) && nested == cpu->guest_mode)) {
		cpu->pending_db = 0;
		return out;
	}
	if (UNLIKELY(counters))
		cpu_pmu_retired(cpu, counters, retires);
	if (rf && cpu->rip != rip)
		cpu->rflags &= ~FLAG_RF;
	after_step(cpu, tf || debug, shadow);
	if (UNLIKELY(trap) && cpu->guest_trap && !cpu->exc.pending)
		cpu->nested_ops->trap(cpu);
	if (cpu->irq_window == 0 && cpu->intf && !cpu->shadow)
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
	return out;
}

/*
 * Blocks from RIP on, until one of them has a reason to come back. *link is the jump that led
 * here and could be patched; it is replaced by the one that was left through.
 */
static enum outcome run_block(struct cpu *cpu, struct jit_link **link)
{
	struct jit *jit = cpu->jit;

	if (UNLIKELY(cpu->window_stale) && (cpu->mode & MODE_WINDOW)) {
		mmu_window_refresh(cpu);
		cpu_mode_update(cpu);
	}
	u32 mode = cpu->mode;
	unsigned view = (mode & MODE_VIEW) >> MODE_VIEW_SHIFT;
	u64 code = jit->jc_mode[view] == mode ? jit_jc_find(cpu, view, cpu->rip) : 0;
	struct jit_link *from = *link;
	u64 flushes = jit->stat_flushes;
	struct jit_block *b;
	struct found f;

	jit->stat_dispatch++;
	*link = NULL;
	if (!from && code) {
		cpu->rflags &= ~FLAG_RF;
		return enter_code(cpu, mode, code, link);
	}
	f = find_block(cpu, mode);
	b = f.block;
	if (!b)
		return f.ret == CPU_EXIT ? OUT_EXIT : OUT_AGAIN;
	if (jit->jc_mode[view] != mode)
		jit_jc_take(cpu, view, mode);
	if (mode & MODE_FLAT)
		jit_jc_fill(cpu, view, cpu->rip, b, f.global);
	if (from && flushes == jit->stat_flushes && !from->to && !from->from->dead &&
	    from->mode == mode && (from->cross || from->from->page == b->page)) {
		if (b->gpa2 == ~0ull && from->cross)
			jit_cross_patch(jit, from, b);
		else if (b->gpa2 == ~0ull)
			jit_link_patch(from, b);
		else if (from->from->mode == mode)
			jit_link_cross(jit, from);
		jit->stat_links++;
	}
	cpu->rflags &= ~FLAG_RF;
	return enter_code(cpu, mode, jit_exec(jit, b->code), link);
}

/* Drops all blocks when somebody asked for it, or made them wrong. */
static bool flush_pending(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;

	if (LIKELY(!jit->flush_wanted && ((cpu->cr4 & JIT_CR4) == jit->cr4 || cpu->guest_mode)))
		return false;
	jit->cr4 = cpu->cr4 & JIT_CR4;
	jit_cache_reset(cpu);
	return true;
}

/* The client was there, or has made interrupts: it may have written code before (page.c). */
static void client_check(struct cpu *cpu)
{
	u64 events = __atomic_load_n(&cpu->mem->client_events, __ATOMIC_ACQUIRE);
	struct jit *jit = cpu->jit;

	if (LIKELY(!jit->client_came && jit->client_events == events))
		return;
	jit->client_came = false;
	jit->client_events = events;
	jit_pages_recheck(cpu);
}

/*
 * Somebody wants this processor while it is between a fault and its delivery: it leaves there, as
 * KVM does, and the client may look at the exception. Re-entry delivers it first. Not when it has an
 * error code: KVM on hardware lets the guest have its own page faults, so no client meets one there, and
 * QEMU's snapshots and migrations would lose the code.
 */
static bool leaves_faulting(struct cpu *cpu)
{
	if (LIKELY(__atomic_load_n(&cpu->poll, __ATOMIC_SEQ_CST)) ||
	    cpu->exc.kind != EVENT_HW_EXC || cpu->exc.vector == EXC_DB || cpu->exc.has_error ||
	    cpu->guest_debug || cpu->mmio.write_count)
		return false;
	cpu->exit.reason = CPU_EXIT_POLL;
	return true;
}

static void run(struct cpu *cpu)
{
	struct jit_link *link = NULL;
	bool alone = false, entering = true;

	client_check(cpu);
	cpu->exit.reason = CPU_EXIT_NONE;
	for (;; entering = false) {
		enum outcome out;

		if (UNLIKELY(cpu->exc.pending)) {
			link = NULL;
			if (!entering && leaves_faulting(cpu))
				break;
			if (debug_exit(cpu) || cpu_exc_deliver(cpu) == CPU_EXIT)
				break;
			continue;
		}
		if (UNLIKELY(!__atomic_load_n(&cpu->poll, __ATOMIC_SEQ_CST))) {
			cpu->exit.reason = CPU_EXIT_POLL;
			break;
		}
		if (UNLIKELY(flush_pending(cpu)))
			link = NULL;
		if (UNLIKELY(alone || wants_step(cpu))) {
			link = NULL;
			out = run_step(cpu);
		} else {
			out = run_block(cpu, &link);
		}
		alone = out == OUT_STEP;
		if (UNLIKELY(cpu->pending_db) && out != OUT_STEP &&
		    !(cpu->shadow & CPU_SHADOW_MOV_SS)) {
			/* an instruction that C executed hit a data breakpoint */
			u64 bits = cpu->pending_db;

			cpu->pending_db = 0;
			if (out == OUT_DONE || (out == OUT_EXIT && exits_behind(cpu)))
				cpu_raise_db(cpu, bits);
		}
		if (out == OUT_EXIT)
			break;
		/* what a faulting instruction has stored goes out before its exception is delivered */
		if (out != OUT_STEP && UNLIKELY(cpu->mmio.write_count)) {
			cpu->exit.reason = CPU_EXIT_MMIO;
			break;
		}
	}
}

static void run_one(struct cpu *cpu)
{
	struct cpu_exc later = cpu->exc;
	enum outcome out;

	/* What the client has made since comes behind the instruction that it has answered. */
	if (cpu->restart)
		cpu->exc.pending = false;
	else
		later.pending = false;
	cpu->exit.reason = CPU_EXIT_NONE;
	cpu->mmio.done_next = 0;
	cpu->mmio.read_wanted = false;
	do {
		if (cpu->exc.pending) {
			if (!debug_exit(cpu))
				cpu_exc_deliver(cpu);
			break;
		}
		flush_pending(cpu);
		out = run_step(cpu);
		if (out != OUT_EXIT && cpu->mmio.write_count)
			cpu->exit.reason = CPU_EXIT_MMIO;
	} while (out != OUT_EXIT && !cpu->mmio.write_count &&
		 (out != OUT_DONE || cpu->exc.pending));
	if (cpu->exit.reason != CPU_EXIT_MMIO || !cpu->mmio.read_wanted)
		restart_done(cpu);
	if (UNLIKELY(later.pending) && !cpu->exc.pending)
		cpu->exc = later;
	if (cpu->exit.reason == CPU_EXIT_NONE)
		cpu->exit.reason = CPU_EXIT_POLL;
}

void jit_enter(struct cpu *cpu)
{
	cpu->jit->client_gs = gs_swap(cpu->jit, (u64)cpu);
	cpu->jit->entered = true;
}

void jit_leave(struct cpu *cpu)
{
	if (!cpu->jit->entered)
		return; /* a thread is cancelled: it may not have come far */
	cpu->jit->entered = false;
	gs_swap(cpu->jit, cpu->jit->client_gs);
}

static void run_guarded(struct cpu *cpu, bool once)
{
	bool entered = cpu->jit->entered;

	if (UNLIKELY(!entered))
		jit_enter(cpu);
	jit_signal_enter(cpu);
	if (once)
		run_one(cpu);
	else
		run(cpu);
	jit_signal_leave();
	if (UNLIKELY(!entered))
		jit_leave(cpu);
}

void jit_run(struct cpu *cpu)
{
	run_guarded(cpu, false);
}

void jit_step(struct cpu *cpu)
{
	run_guarded(cpu, true);
}

void jit_flush(struct cpu *cpu)
{
	cpu->jit->flush_wanted = true;
}

/* --- life -------------------------------------------------------------------------------------- */

static void decoders_init(struct cpu *cpu)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} kind[] = {
		{ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
		{ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
		{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
		{ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(kind); i++) {
		ZydisDecoder *d = &cpu->jit->decoder[i];

		ZydisDecoderInit(d, kind[i].mode, kind[i].stack);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES,
				       cpu->vendor == CPU_VENDOR_AMD);
	}
}

static bool host_is_amd(void)
{
	u32 r[4];

	cpuid_host(0, 0, r);
	return r[1] == 0x68747541 || r[1] == 0x6f677948; /* "Auth", "Hygo" */
}

static bool host_has_bmi2(void)
{
	u32 r[4];

	cpuid_host(7, 0, r);
	return r[1] & BIT(8);
}

int jit_cpu_init(struct cpu *cpu, size_t cache_bytes)
{
	struct jit *jit;
	int err;

	if (!host_has_bmi2())
		return -EOPNOTSUPP;
	/* mapped: most of it is never touched by a small guest */
	jit = mmap(NULL, sizeof(*jit), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (jit == MAP_FAILED)
		return -ENOMEM;
	err = jit_cache_init(jit, cache_bytes);
	if (err) {
		munmap(jit, sizeof(*jit));
		return err;
	}
	cpu->jit = jit;
	jit->use_loop = host_is_amd();
	jit->fsgsbase = have_fsgsbase();
	cpu->page_mask = PAGE_MASK;
	cpu->flag_mask = FLAG_ARITH;
	cpu->pauses = 1;
	decoders_init(cpu);
	jit_thunks_emit(cpu);
	for (unsigned v = 0; v < MMU_TLB_COUNT; v++) {
		jit->jc_log[v].local = jit->jc_log_room[v].local;
		jit->jc_log[v].global = jit->jc_log_room[v].global;
		jit->jc_log[v].state = jit->jc_log_room[v].state;
		jit->jc_mode[v] = JIT_JC_NO_MODE;
	}
	jit->code_next = jit->code_start;
	jit->code_end = jit->rw + align_up(jit->size / 2, 64);
	jit->cold_next = jit->code_end;
	return 0;
}

void jit_cpu_destroy(struct cpu *cpu)
{
	if (!cpu->jit)
		return;
	jit_cache_destroy(cpu->jit);
	munmap(cpu->jit, sizeof(*cpu->jit));
	cpu->jit = NULL;
}
