/*
 * signal.c - host faults
 *
 * Guest instructions that the host refuses (#DE, #MF, #XM, misaligned SSE operands, client memory
 * that is gone) arrive as signals whose PC lies in the running vCPU's code cache. The handler
 * notes what happened and continues at the fault thunk, which leaves with the guest's registers
 * as they were: one host instruction is one guest instruction, so they are precise.
 * A fault in hostmem's copy loops continues at its fix-up. Everything else belongs to the program
 * and goes on to the handler that was there before.
 *
 * The saved handlers are the one thing here that is global: signal dispositions are.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
static struct sigaction previous[ARRAY_SIZE(signals)];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int install_error;

static _Thread_local struct cpu *running __attribute__((tls_model("initial-exec")));

void jit_signal_enter(struct cpu *cpu)
{
	running = cpu;
}

void jit_signal_leave(void)
{
	running = NULL;
}

struct cpu *jit_signal_running(void)
{
	return running;
}

static void pass_on(int signo, siginfo_t *info, void *context)
{
	const struct sigaction *old = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		if (signals[i] == signo)
			old = &previous[i];
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(signo, info, context);
	} else if (old->sa_handler == SIG_IGN && info->si_code <= 0) {
		return;
	} else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
		/* Fault again, without us: the default action with the right core. */
		struct sigaction dfl = {.sa_handler = SIG_DFL};

		sigaction(signo, &dfl, NULL);
		if (info->si_code <= 0)
			raise(signo);
	} else {
		old->sa_handler(signo);
	}
}

static void handler(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	u64 pc = (u64)regs[REG_RIP];
	struct cpu *cpu = running;

	if (info->si_code > 0 || info->si_code == SI_KERNEL) {
		u64 fixup = hostmem_fixup(pc);

		if (fixup) {
			regs[REG_RIP] = (greg_t)fixup;
			return;
		}
		if (cpu) {
			struct jit *jit = cpu->jit;

			if (pc >= jit_exec(jit, jit->code_start) && pc < (u64)jit->rx + jit->size) {
				/* an address that is not canonical gives no si_addr; so does misalignment */
				bool window = (cpu->mode & MODE_WINDOW) && !cpu->mmu_stepping &&
					      (regs[REG_TRAPNO] == EXC_PF
						       ? mmu_window_has(cpu, (u64)info->si_addr)
						       : regs[REG_TRAPNO] == EXC_GP ||
								 regs[REG_TRAPNO] == EXC_SS);

				if (window)
					jit->fault.outcome = mmu_window_fault(
						cpu, (u64)info->si_addr, regs[REG_ERR] & 2);
				if (window && jit->fault.outcome == MMU_WINDOW_MAPPED)
					return;
				jit->fault.window = window;
				jit->fault.signo = signo;
				jit->fault.trapno = (int)regs[REG_TRAPNO];
				jit->fault.error = (u64)regs[REG_ERR];
				jit->fault.code = info->si_code;
				jit->fault.pc = pc;
				jit->fault.address = (u64)info->si_addr;
				regs[REG_RIP] = (greg_t)jit_exec(jit, jit->thunk.fault);
				return;
			}
		}
	}
	pass_on(signo, info, context);
}

static void install(void)
{
	struct sigaction sa = {.sa_sigaction = handler,
			       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], &sa, &previous[i]) < 0)
			install_error = -errno;
}

int jit_signal_install(void)
{
	pthread_once(&once, install);
	return install_error;
}
