/*
 * Signals.
 *
 * In the kernel a signal ends KVM_RUN and its handler runs behind it. Here guest code runs inside
 * the program's own ioctl() call, so the handler of the program would run in the middle of guest
 * code. Every handler is therefore installed behind a trampoline. While its thread is inside
 * KVM_RUN the trampoline asks the vCPU to stop, queues the very same signal to its own thread
 * again and returns with all signals blocked. When KVM_RUN has ended, the thread's mask is restored
 * and the kernel delivers the signal for good, with everything the program asked of sigaction.
 *
 * KVM_SET_SIGNAL_MASK comes out of the same: the mask is in force during KVM_RUN; a signal that it
 * opens and that the thread blocks is queued again and stays pending when the thread's mask is
 * back. Its disposition may be the default action, so such signals get the trampoline too, which
 * performs the default action wherever it is not inside KVM_RUN.
 *
 * Fault signals belong to the engine first. Its handler passes on what is not its own to the
 * handler from before, which is the trampoline. Later wishes of the program change the table only.
 */
#include "exec/exec.h"

#include "kvm/request.h"
#include "kvm/vcpu.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define SIGNALS 65

_Thread_local struct exec_thread exec_thread;

/* What the program set, for signals whose real handler is the trampoline (`managed`). Readers in
 * signal handlers use the sequence; writers have all signals blocked and hold the lock. */
static struct sigaction wanted[SIGNALS];
static u64 managed;
static u32 wanted_sequence, wanted_lock;
static bool engine_owns; /* the engine's handlers are in front */

static u64 writer_enter(void)
{
	u64 all = ~EXEC_SYNC, old;

	exec_raw(SYS_rt_sigprocmask, SIG_BLOCK, (long)&all, (long)&old, 8, 0, 0);
	while (__atomic_exchange_n(&wanted_lock, 1, __ATOMIC_ACQUIRE))
		exec_raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	__atomic_fetch_add(&wanted_sequence, 1, __ATOMIC_SEQ_CST);
	return old;
}

static void writer_leave(u64 old)
{
	__atomic_fetch_add(&wanted_sequence, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&wanted_lock, 0, __ATOMIC_RELEASE);
	exec_raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, 8, 0, 0);
}

static struct sigaction wanted_read(int signo)
{
	struct sigaction act;
	u32 seq;

	do {
		seq = __atomic_load_n(&wanted_sequence, __ATOMIC_ACQUIRE);
		act = wanted[signo];
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while ((seq & 1) || seq != __atomic_load_n(&wanted_sequence, __ATOMIC_RELAXED));
	return act;
}

static bool is_function(const struct sigaction *act)
{
	return act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN;
}

static bool queue_again(int signo, siginfo_t *info)
{
	long pid = exec_raw(SYS_getpid, 0, 0, 0, 0, 0, 0);

	return !exec_raw(SYS_rt_tgsigqueueinfo, pid, exec_raw(SYS_gettid, 0, 0, 0, 0, 0, 0), signo,
			 (long)info, 0, 0);
}

/* The kernel's own set is the first word of the structure; behind it may be something else. */
static u64 *frame_mask(ucontext_t *uc)
{
	return (u64 *)&uc->uc_sigmask;
}

static bool defer(struct exec_thread *t, int signo, siginfo_t *info, ucontext_t *uc)
{
	vcpu_kick(t->running);
	if (!queue_again(signo, info))
		return false;
	if (!t->deferred) {
		if (!t->running->sigmask_set)
			t->mask = *frame_mask(uc);
		t->deferred = true;
	}
	*frame_mask(uc) = ~EXEC_SYNC;
	return true;
}

static void default_action(int signo, siginfo_t *info, ucontext_t *uc)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};

	if (signo == SIGCHLD || signo == SIGURG || signo == SIGWINCH || signo == SIGCONT)
		return;
	REAL(sigaction)(signo, &dfl, NULL);
	__atomic_fetch_and(&managed, ~SIGBIT(signo), __ATOMIC_SEQ_CST);
	if (info->si_code > 0 && (SIGBIT(signo) & EXEC_SYNC) && signo != SIGSYS)
		return; /* faults again */
	*frame_mask(uc) &= ~SIGBIT(signo);
	queue_again(signo, info);
}

static void call(const struct sigaction *act, int signo, siginfo_t *info, void *context)
{
	u64 mask = *(const u64 *)&act->sa_mask;

	/* The kernel did as the real handler's flags say; these are left. */
	if ((SIGBIT(signo) & EXEC_SYNC) && engine_owns) {
		if (!(act->sa_flags & SA_NODEFER) && info->si_code <= 0)
			mask |= SIGBIT(signo);
		mask &= ~EXEC_SYNC;
		exec_raw(SYS_rt_sigprocmask, SIG_BLOCK, (long)&mask, 0, 8, 0, 0);
	} else if (act->sa_flags & SA_NODEFER) {
		mask = SIGBIT(signo);
		exec_raw(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&mask, 0, 8, 0, 0);
	}
	if (act->sa_flags & SA_RESETHAND) {
		u64 old = writer_enter();

		wanted[signo].sa_handler = SIG_DFL;
		wanted[signo].sa_flags &= ~SA_SIGINFO;
		writer_leave(old);
	}
	if (act->sa_flags & SA_SIGINFO)
		act->sa_sigaction(signo, info, context);
	else
		act->sa_handler(signo);
}

static void trampoline(int signo, siginfo_t *info, void *context)
{
	struct exec_thread *t = &exec_thread;
	struct sigaction act;

	if (signo == SIGSYS && exec_raw_signal(info, context))
		return;
	if ((signo == SIGILL || signo == SIGSEGV) && exec_cpuid_signal(signo, info, context))
		return;
	if (t->running) {
		if (!(SIGBIT(signo) & EXEC_SYNC)) {
			if (defer(t, signo, info, context))
				return;
		} else if (info->si_code <= 0) {
			vcpu_kick(t->running);
		}
	}
	act = wanted_read(signo);
	if (is_function(&act))
		call(&act, signo, info, context);
	else if (act.sa_handler == SIG_DFL)
		default_action(signo, info, context);
}

/* Puts the trampoline in front of what wanted[] says. Called by a writer. */
static int trampoline_install(int signo)
{
	struct sigaction act = wanted[signo];
	int ret;

	act.sa_sigaction = trampoline;
	act.sa_flags = (act.sa_flags & ~(SA_RESETHAND | SA_NODEFER)) | SA_SIGINFO;
	if (SIGBIT(signo) & EXEC_SYNC)
		act.sa_flags |= SA_ONSTACK | SA_NODEFER;
	*(u64 *)&act.sa_mask &= ~EXEC_SYNC;
	ret = REAL(sigaction)(signo, &act, NULL);
	if (!ret)
		__atomic_fetch_or(&managed, SIGBIT(signo), __ATOMIC_SEQ_CST);
	return ret;
}

static int action_set(int signo, const struct sigaction *act)
{
	struct sigaction before = wanted[signo];
	int ret = 0;

	wanted[signo] = *act;
	if (engine_owns && (SIGBIT(signo) & EXEC_SYNC))
		return 0;
	if (is_function(act)) {
		ret = trampoline_install(signo);
	} else {
		ret = REAL(sigaction)(signo, act, NULL);
		if (!ret)
			__atomic_fetch_and(&managed, ~SIGBIT(signo), __ATOMIC_SEQ_CST);
	}
	if (ret)
		wanted[signo] = before;
	return ret;
}

int exec_sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	struct sigaction before, next;
	int ret = 0;
	u64 mask;

	if (exec_thread.inside || signo < 1 || signo >= SIGNALS || signo == SIGKILL ||
	    signo == SIGSTOP)
		return REAL(sigaction)(signo, act, old);
	if (act)
		next = *act; /* a bad pointer faults here, with no lock held */
	mask = writer_enter();
	if (__atomic_load_n(&managed, __ATOMIC_SEQ_CST) & SIGBIT(signo))
		before = wanted[signo];
	else
		ret = REAL(sigaction)(signo, NULL, &before);
	if (!ret && act)
		ret = action_set(signo, &next);
	writer_leave(mask);
	if (!ret && old)
		*old = before;
	return ret;
}

void exec_signals_expose(u64 signals)
{
	u64 mask;

	signals &= ~(__atomic_load_n(&managed, __ATOMIC_SEQ_CST) | EXEC_SYNC | SIGBIT(SIGKILL) |
		     SIGBIT(SIGSTOP) | SIGBIT(32) | SIGBIT(33));
	if (LIKELY(!signals))
		return;
	mask = writer_enter();
	for (int signo = 1; signo < SIGNALS; signo++)
		if ((signals & SIGBIT(signo)) && !REAL(sigaction)(signo, NULL, &wanted[signo]))
			trampoline_install(signo);
	writer_leave(mask);
}

void exec_signals_own(void)
{
	u64 mask = writer_enter();

	if (!engine_owns) {
		for (int signo = 1; signo < SIGNALS; signo++) {
			if (!(SIGBIT(signo) & EXEC_SYNC))
				continue;
			if (!(managed & SIGBIT(signo)))
				REAL(sigaction)(signo, NULL, &wanted[signo]);
			trampoline_install(signo);
		}
		engine_owns = true;
	}
	writer_leave(mask);
}

int exec_engine_open(void)
{
	int fd;

	exec_signals_own();
	exec_thread.inside++;
	fd = anykvm_open(exec_options.open);
	exec_thread.inside--;
	if (fd >= 0)
		exec_parameters_apply(fd);
	return fd;
}

EXPORT int sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	return exec_sigaction(signo, act, old);
}

EXPORT int __sigaction(int signo, const struct sigaction *act, struct sigaction *old);
EXPORT int __sigaction(int signo, const struct sigaction *act, struct sigaction *old)
{
	return exec_sigaction(signo, act, old);
}

static sighandler_t signal_flags(int signo, sighandler_t handler, int flags)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = flags}, old;

	return exec_sigaction(signo, &act, &old) ? SIG_ERR : old.sa_handler;
}

EXPORT sighandler_t signal(int signo, sighandler_t handler)
{
	return signal_flags(signo, handler, SA_RESTART);
}

EXPORT sighandler_t bsd_signal(int signo, sighandler_t handler);
EXPORT sighandler_t bsd_signal(int signo, sighandler_t handler)
{
	return signal_flags(signo, handler, SA_RESTART);
}

EXPORT sighandler_t ssignal(int signo, sighandler_t handler)
{
	return signal_flags(signo, handler, SA_RESTART);
}

EXPORT sighandler_t sysv_signal(int signo, sighandler_t handler)
{
	return signal_flags(signo, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT sighandler_t __sysv_signal(int signo, sighandler_t handler)
{
	return sysv_signal(signo, handler);
}

EXPORT int siginterrupt(int signo, int interrupt)
{
	struct sigaction act;

	if (exec_sigaction(signo, NULL, &act))
		return -1;
	act.sa_flags = interrupt ? act.sa_flags & ~SA_RESTART : act.sa_flags | SA_RESTART;
	return exec_sigaction(signo, &act, NULL);
}
