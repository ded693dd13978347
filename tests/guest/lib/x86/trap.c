/* Exceptions: hooks, fix-ups, guards; interrupts: one C function a vector. */
#include "cpu.h"

struct fixup {
	ulong from, to;
};
extern const struct fixup fixups_start[], fixups_end[];

static irq_fn *irq_fns[256];

int guard_enter(ulong *slot, void (*fn)(void *), void *arg);
int guard_enter_regs(ulong *slot, const struct regs *regs);
void guard_leave(ulong *slot, ulong context, int value) __attribute__((noreturn));
extern char user_return[];
void trap_handle(struct regs *regs);

void irq_set(unsigned vector, irq_fn *fn)
{
	irq_fns[vector] = fn;
}

void trap_init(void)
{
	for (unsigned i = 0; i < 256; i++)
		idt_reset(i);
}

static void record(struct cpu *cpu, const struct regs *r)
{
	bool outer = IS64 || (r->cs & 3);

	cpu->trap = (struct trap){
		.vector = (int)r->vector,
		.error = (u32)r->error,
		.ip = r->ip,
		.cs = r->cs & 0xffff,
		.flags = r->flags,
		.sp = outer ? r->sp : (ulong)&r->sp,
		.ss = outer ? r->ss & 0xffff : 0,
		.cr2 = r->vector == EXC_PF ? read_cr2() : 0,
		.dr6 = r->vector == EXC_DB ? read_dr6() : 0,
	};
}

static void unexpected(struct cpu *cpu, const struct regs *r)
{
	note("CPU %u: vector %u error %lx at %lx:%lx flags %lx sp %lx cr2 %lx", cpu->id,
	     (unsigned)r->vector, r->error, r->cs, r->ip, r->flags, cpu->trap.sp, read_cr2());
	note("ax %lx bx %lx cx %lx dx %lx si %lx di %lx bp %lx", r->ax, r->bx, r->cx, r->dx, r->si,
	     r->di, r->bp);
	note("cr0 %lx cr3 %lx cr4 %lx", read_cr0(), read_cr3(), read_cr4());
	die("unexpected exception %u", (unsigned)r->vector);
}

static bool fix_up(struct regs *r)
{
	if (r->cs & 3)
		return false;
	for (const struct fixup *f = fixups_start; f < fixups_end; f++)
		if (f->from == r->ip) {
			r->ip = f->to;
			r->flags &= ~(ulong)FL_TF;
			return true;
		}
	return false;
}

void trap_handle(struct regs *r)
{
	struct cpu *cpu = this_cpu();
	unsigned vector = r->vector & 0xff;

	if (vector == VECTOR_RETURN && (r->cs & 3) && cpu->guard) {
		cpu->trap.vector = -1;
		guard_leave(&cpu->guard, cpu->guard, -1);
	}
	if (vector < 32 && vector != EXC_NMI) {
		record(cpu, r);
		if (cpu->hook) {
			cpu->hooked = false;
			cpu->hook(r);
			if (cpu->hooked)
				return;
		}
		if (fix_up(r))
			return;
		if (cpu->guard)
			guard_leave(&cpu->guard, cpu->guard, (int)vector);
	}
	((volatile u32 *)cpu->irqs)[vector]++;
	if (irq_fns[vector])
		irq_fns[vector](r);
	else if (vector < 32)
		unexpected(cpu, r);
}

#if !IS64
/* Runs as a task of its own: the interrupted state is in the previous task's TSS. */
void df_handle(void);
void df_handle(void)
{
	struct cpu *cpu = this_cpu();
	struct tss *old = &cpu->tss;

	/* Back to the main task: not busy, and loaded by hand. */
	cpu->trap = (struct trap){.vector = EXC_DF,
				  .ip = old->eip,
				  .cs = old->cs,
				  .flags = old->eflags,
				  .sp = old->esp,
				  .ss = old->ss};
	gdt_set(SEL_TSS, descriptor((u32)&cpu->tss, sizeof(cpu->tss) - 1, 0x89, 0));
	gdt_set(SEL_TSS_DF, descriptor((u32)&cpu->tss_df, sizeof(cpu->tss_df) - 1, 0x89, 0));
	cpu->tss_df.eip = 0;
	cpu_init(cpu, cpu->id);
	__asm__ volatile("pushf; andl $~0x4000, (%%esp); popf" ::: "memory", "cc");
	write_cr0(read_cr0() & ~CR0_TS);
	if (cpu->guard)
		guard_leave(&cpu->guard, cpu->guard, EXC_DF);
	die("double fault at %lx", cpu->trap.ip);
}
#endif

int trap_guard(void (*fn)(void *), void *arg)
{
	trap_clear();
	return guard_enter(&this_cpu()->guard, fn, arg);
}

int trap_enter(const struct regs *regs)
{
	trap_clear();
	return guard_enter_regs(&this_cpu()->guard, regs);
}

/* ---- privilege level 3 ---- */

u8 user_stacks[CPUS_MAX][0x4000] __attribute__((aligned(4096)));

ulong user_stack(void)
{
	return (ulong)user_stacks[this_cpu()->id] + sizeof(user_stacks[0]) - 64;
}

int trap_user(void (*fn)(void *), void *arg)
{
	struct regs r;
	ulong *sp = (ulong *)user_stack();
	ulong flags = read_flags();

	memset(&r, 0, sizeof(r));
	write_flags(flags | FL_AC); /* SMAP may be on */
#if IS64
	r.di = (ulong)arg;
#else
	*--sp = (ulong)arg;
	r.ds = r.es = SEL_UDATA | 3;
#endif
	*--sp = (ulong)user_return;
	write_flags(flags);
	r.ip = (ulong)fn;
	r.cs = SEL_UCODE | 3;
	r.flags = 2 | (flags & FL_IF);
	r.sp = (ulong)sp;
	r.ss = SEL_UDATA | 3;
	return trap_enter(&r);
}
