/*
 * Signal masks. A fault signal that is blocked when it is needed kills the process, so these stay
 * open in truth; what the program thinks is remembered for its next question.
 */
#include "exec/exec.h"

#include <errno.h>
#include <sys/syscall.h>

u64 exec_sigmask_get(void)
{
	u64 mask = 0;

	exec_raw(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&mask, 8, 0, 0);
	return mask;
}

void exec_sigmask_set(u64 mask)
{
	exec_raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&mask, 0, 8, 0, 0);
}

/* -errno or 0 */
static int change(int how, const u64 *set, u64 *old)
{
	struct exec_thread *t = &exec_thread;
	u64 before = t->blocked_sync, part, mask, was = 0;
	long ret;

	if (!set) {
		ret = exec_raw(SYS_rt_sigprocmask, how, 0, (long)&was, 8, 0, 0);
	} else {
		part = *set & EXEC_SYNC;
		mask = *set;
		if (t->ready && how != SIG_UNBLOCK)
			mask &= ~EXEC_SYNC;
		/* glibc never lets a program block its two. */
		mask &= ~(SIGBIT(32) | SIGBIT(33));
		ret = exec_raw(SYS_rt_sigprocmask, how, (long)&mask, (long)&was, 8, 0, 0);
		if (!ret && t->ready)
			t->blocked_sync = how == SIG_BLOCK     ? before | part
					  : how == SIG_UNBLOCK ? before & ~part
							       : part;
	}
	if (!ret && old)
		*old = was | before;
	return (int)ret;
}

int exec_sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	u64 was = 0, wish = set ? *(const u64 *)set : 0;
	int ret = change(how, set ? &wish : NULL, &was);

	if (!ret && old) {
		sigemptyset(old);
		*(u64 *)old = was;
	}
	return ret;
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return -exec_sigprocmask(how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	int ret = exec_sigprocmask(how, set, old);

	if (!ret)
		return 0;
	errno = -ret;
	return -1;
}
