/* KVM_RUN on the program's thread, and what reaches it there: signals and cancellation. */
#include "exec/exec.h"

#include "kvm/fd.h"
#include "kvm/request.h"
#include "kvm/vcpu.h"

#include <errno.h>
#include <sys/syscall.h>

/* Threads that have used our descriptors; pthread_cancel() looks here. */
static struct exec_thread *threads;
static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t threads_key;
static pthread_once_t threads_once = PTHREAD_ONCE_INIT;

static void thread_gone(void *thread)
{
	struct exec_thread **p;

	pthread_mutex_lock(&threads_lock);
	for (p = &threads; *p; p = &(*p)->next)
		if (*p == thread) {
			*p = (*p)->next;
			break;
		}
	pthread_mutex_unlock(&threads_lock);
}

static void threads_init(void)
{
	pthread_key_create(&threads_key, thread_gone);
}

void exec_thread_prepare(void)
{
	struct exec_thread *t = &exec_thread;
	u64 open = EXEC_SYNC, old = 0;

	exec_raw(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&open, (long)&old, 8, 0, 0);
	t->blocked_sync = old & EXEC_SYNC;
	t->self = pthread_self();
	t->ready = true;
	pthread_once(&threads_once, threads_init);
	pthread_setspecific(threads_key, t);
	pthread_mutex_lock(&threads_lock);
	t->next = threads;
	threads = t;
	pthread_mutex_unlock(&threads_lock);
}

/*
 * A thread must not end in the middle of guest code or with locks held. So cancellation is off
 * during every ioctl, and a cancelled thread is kicked out of KVM_RUN.
 */
int exec_cancel_off(void)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	return state;
}

void exec_cancel_restore(int state)
{
	int error = errno, type;

	if (LIKELY(!exec_thread.cancel_async)) {
		pthread_setcancelstate(state, NULL);
	} else {
		/* glibc 2.36 forgets the thread's result when this call itself cancels. */
		REAL(pthread_setcanceltype)(PTHREAD_CANCEL_DEFERRED, &type);
		pthread_setcancelstate(state, NULL);
		pthread_testcancel();
		REAL(pthread_setcanceltype)(type, NULL);
	}
	errno = error;
}

EXPORT int pthread_setcanceltype(int type, int *old)
{
	exec_thread.cancel_async = type == PTHREAD_CANCEL_ASYNCHRONOUS;
	return REAL(pthread_setcanceltype)(type, old);
}

EXPORT int pthread_cancel(pthread_t thread)
{
	int ret = REAL(pthread_cancel)(thread);

	pthread_mutex_lock(&threads_lock);
	for (struct exec_thread *t = threads; t; t = t->next) {
		struct vcpu *vcpu = __atomic_load_n(&t->running, __ATOMIC_ACQUIRE);

		if (t->self == thread && vcpu)
			vcpu_kick(vcpu);
	}
	pthread_mutex_unlock(&threads_lock);
	return ret;
}

/* The vCPU's signal mask comes into force. */
static void mask_enter(struct exec_thread *t, struct vcpu *vcpu)
{
	u64 mask = *(const u64 *)&vcpu->sigmask & ~EXEC_SYNC;

	t->mask = exec_sigmask_get();
	exec_signals_expose(t->mask & ~mask);
	__atomic_store_n(&t->running, vcpu, __ATOMIC_SEQ_CST);
	exec_sigmask_set(mask);
}

int exec_run(struct fd_file *file, unsigned long arg)
{
	struct exec_thread *t = &exec_thread;
	struct vcpu *vcpu = file->object;
	bool masked = vcpu->sigmask_set;
	int ret;

	if (UNLIKELY(masked))
		mask_enter(t, vcpu);
	else
		__atomic_store_n(&t->running, vcpu, __ATOMIC_RELEASE);
	ret = fd_ioctl(file, KVM_RUN, arg);
	if (UNLIKELY(masked || __atomic_load_n(&t->deferred, __ATOMIC_RELAXED))) {
		int error = errno;

		/* No handler may see us inside from here on; what comes now is delivered late. */
		exec_sigmask_set(~EXEC_SYNC);
		__atomic_store_n(&t->running, NULL, __ATOMIC_SEQ_CST);
		t->deferred = false;
		__atomic_store_n(&vcpu->latch.kicked, 0, __ATOMIC_SEQ_CST);
		exec_sigmask_set(t->mask);
		errno = error;
	} else {
		/* Handlers that look run on this thread, so order of the program is enough. */
		__atomic_store_n(&t->running, NULL, __ATOMIC_RELEASE);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		/* One may have come between the two: its mask is already in force. */
		if (UNLIKELY(__atomic_load_n(&t->deferred, __ATOMIC_RELAXED))) {
			int error = errno;

			t->deferred = false;
			__atomic_store_n(&vcpu->latch.kicked, 0, __ATOMIC_SEQ_CST);
			exec_sigmask_set(t->mask);
			errno = error;
		}
	}
	return ret;
}
