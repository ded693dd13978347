/*
 * --raw: system calls that the program makes without libc.
 *
 * The kernel's system-call user dispatch (Linux 5.11) turns system calls into SIGSYS whose
 * instruction is outside one range of addresses: libc's code. What comes from elsewhere is the
 * program's own work by hand (or liburing's, the dynamic linker's); the handler does it as
 * syscall() would do it, with the signal mask of the interrupted place, and returns behind it.
 * The library's own system calls are let through by the selector, a byte of each thread.
 *
 * Each such call costs a signal, so this is an option. The dispatch belongs to a thread and ends
 * with exec(); a thread that clones by hand goes on without it.
 */
#include "exec/exec.h"

#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define DISPATCH_ON 1
#define DISPATCHED  2 /* si_code SYS_USER_DISPATCH */

struct range {
	u64 start, size;
};

static struct range libc;

static int find_libc(struct dl_phdr_info *info, size_t size, void *data)
{
	struct range *range = data;

	(void)size;
	if (!info->dlpi_name || !strstr(info->dlpi_name, "/libc.so.6"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X)) {
			range->start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			range->size = info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

void exec_raw_thread(void)
{
	long ret;

	if (!exec_options.raw)
		return;
	if (!libc.size)
		dl_iterate_phdr(find_libc, &libc);
	if (!exec_thread.ready)
		exec_thread_prepare(); /* SIGSYS stays open */
	exec_raw_selector = EXEC_RAW_CATCH;
	ret = libc.size ? exec_raw(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, DISPATCH_ON,
				   (long)libc.start, (long)libc.size, (long)&exec_raw_selector, 0)
			: -1;
	if (!ret)
		return;
	exec_raw_selector = EXEC_RAW_PASS;
	exec_log("--raw does not work here: %s",
		 libc.size ? strerrordesc_np((int)-ret) : "libc.so.6 is not found");
	exec_options.raw = false;
}

static u64 *mask_of(ucontext_t *uc)
{
	return (u64 *)&uc->uc_sigmask;
}

/* The mask that counts is the frame's. */
static long change_mask(ucontext_t *uc, const greg_t *r)
{
	u64 *mask = mask_of(uc), before = *mask, set;

	if (r[REG_R10] != 8)
		return -EINVAL;
	if (r[REG_RSI]) {
		set = *(const u64 *)r[REG_RSI];
		if (r[REG_RDI] == SIG_BLOCK)
			*mask |= set;
		else if (r[REG_RDI] == SIG_UNBLOCK)
			*mask &= ~set;
		else if (r[REG_RDI] == SIG_SETMASK)
			*mask = set;
		else
			return -EINVAL;
		*mask &= ~EXEC_SYNC;
	}
	if (r[REG_RDX])
		*(u64 *)r[REG_RDX] = before;
	return 0;
}

/* SIGSYS of the dispatch: true if it was one. */
bool exec_raw_signal(siginfo_t *info, ucontext_t *uc)
{
	greg_t *r = uc->uc_mcontext.gregs;
	int error = errno;
	u64 inside;
	long ret;

	if (info->si_code != DISPATCHED)
		return false;
	switch (r[REG_RAX]) {
	case SYS_clone:
	case SYS_clone3:
	case SYS_vfork:
		exec_raw_selector = EXEC_RAW_PASS;
		r[REG_RIP] -= 2; /* once more */
		return true;
	case SYS_rt_sigreturn:
		/* Our own return takes the frame that the program wants to return to. */
		*uc = *(ucontext_t *)r[REG_RSP];
		return true;
	case SYS_rt_sigprocmask:
		r[REG_RAX] = change_mask(uc, r);
		return true;
	}
	inside = exec_sigmask_get();
	exec_sigmask_set(*mask_of(uc));
	errno = 0;
	ret = syscall(r[REG_RAX], r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8],
		      r[REG_R9]);
	if (ret == -1 && errno)
		ret = -errno;
	exec_sigmask_set(inside);
	r[REG_RAX] = ret;
	errno = error;
	return true;
}

/* Threads of the program are caught from their start on: system calls by hand, and CPUID. */
struct start {
	void *(*function)(void *);
	void *arg;
	u64 blocked_sync;
};

static void *thread_start(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	exec_raw_thread();
	if (!exec_thread.ready)
		exec_thread_prepare();
	exec_thread.blocked_sync = start.blocked_sync; /* in truth they are open */
	return start.function(start.arg);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*function)(void *),
			  void *arg)
{
	struct start *start;
	int ret;

	/* The engine's own threads are made inside an ioctl. */
	if (exec_options.raw ? exec_raw_selector == EXEC_RAW_PASS : !exec_cpuid_trapped())
		return REAL(pthread_create)(thread, attr, function, arg);
	start = malloc(sizeof(*start));
	if (!start)
		return EAGAIN;
	*start = (struct start){function, arg, exec_thread.blocked_sync};
	ret = REAL(pthread_create)(thread, attr, thread_start, start);
	if (ret)
		free(start);
	return ret;
}
