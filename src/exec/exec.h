/*
 * The preload library: /dev/kvm for unmodified programs. docs/exec.md has the design.
 *
 * Every file here interposes libc functions of one subject. Rules:
 * - what is not ours goes to the function that would have been called without us (REAL());
 * - a function that libc calls async-signal-safe stays that;
 * - the engine's own calls arrive here too (one library, one name space), also while guest FPU
 *   state is live, so the layer is compiled for general registers only.
 */
#ifndef EXEC_H
#define EXEC_H

#include "base/types.h"

#include <anykvm.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* --- the functions behind ours ---------------------------------------------------------------- */

struct exec_real {
#define REAL_FN(name) __typeof__(&name) name;
#include "exec/real.def"
};
extern struct exec_real exec_real;
/** Fills exec_real; called by whoever comes first. */
void exec_real_load(void);

#define REAL(name) \
	(*(LIKELY(exec_real.name != NULL) ? exec_real.name : (exec_real_load(), exec_real.name)))

/* --raw (raw.c): what the kernel does with system calls of this thread outside libc. */
enum { EXEC_RAW_PASS, EXEC_RAW_CATCH };
extern _Thread_local u8 exec_raw_selector __attribute__((tls_model("initial-exec")));
/** This thread's system calls by hand are ours from here on, if --raw asks for it. */
void exec_raw_thread(void);

/** The system call itself: result or -errno, errno untouched. */
long exec_raw(long n, long a, long b, long c, long d, long e, long f);

/* --- settings (options.c) ------------------------------------------------------------------------ */

struct exec_options {
	char open[640];		       /* for anykvm_open() */
	const char *vendor;	       /* "intel" or "amd" */
	const struct cpu_model *model; /* or NULL */
	int log_fd;
	bool trace; /* of ioctls; the engine's is in `open` */
	bool stats, follow, raw;
	bool all_features; /* also those that the host's CPUID contradicts */
	bool host_cpuid;   /* the program's CPUID instruction is left alone */
	bool window;	   /* guests' memory is mapped a second time */
};
extern struct exec_options exec_options;
/** One line into the log, with the thread's number. */
void exec_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- threads and signals (signal.c, sigmask.c) ---------------------------------------------------- */

struct vcpu;

struct exec_thread {
	struct vcpu *running; /* inside KVM_RUN of this vCPU */
	u64 mask;	      /* to be restored when KVM_RUN ends */
	u64 blocked_sync;     /* of EXEC_SYNC, what the program thinks is blocked */
	bool deferred;	      /* a signal waits for KVM_RUN's end */
	bool ready;	      /* EXEC_SYNC is open, known to the registry */
	bool cancel_async;    /* pthread_setcanceltype */
	u8 inside;	      /* the engine is being set up: sigaction is the real one */
	pthread_t self;
	struct exec_thread *next;
};
extern _Thread_local struct exec_thread exec_thread __attribute__((tls_model("initial-exec")));

#define SIGBIT(n) (1ull << ((n)-1))
/** Signals by which the host tells of faults: the engine's come first, so they stay open. */
#define EXEC_SYNC                                                                               \
	(SIGBIT(SIGSEGV) | SIGBIT(SIGBUS) | SIGBIT(SIGFPE) | SIGBIT(SIGILL) | SIGBIT(SIGTRAP) | \
	 SIGBIT(SIGSYS))

/** The fault signals' handlers are ours from here on, and the program's are in a table. */
void exec_signals_own(void);
/** Opens the system descriptor with the engine's signal handlers behind the program's back. */
int exec_engine_open(void);
/** Before any ioctl: what a thread needs once. */
void exec_thread_prepare(void);
struct fd_file;
/** KVM_RUN on this thread of a vCPU's file that the caller holds: result or -1 and errno. */
int exec_run(struct fd_file *file, unsigned long arg);
/** Cancellation stays off between the two; the second may not return. */
int exec_cancel_off(void);
void exec_cancel_restore(int state);
/** A SIGSYS that stands for a system call by hand: true when it was one. */
bool exec_raw_signal(siginfo_t *info, ucontext_t *uc);
/** sigaction as the program sees it. */
int exec_sigaction(int signo, const struct sigaction *act, struct sigaction *old);
/** Makes sure that a signal open during KVM_RUN does not take its default action. */
void exec_signals_expose(u64 signals);
u64 exec_sigmask_get(void);
void exec_sigmask_set(u64 mask);
int exec_sigprocmask(int how, const sigset_t *set, sigset_t *old);

/* --- files and descriptors -------------------------------------------------------------------------- */

/** What a path is to us. */
enum exec_path { PATH_OTHER, PATH_KVM, PATH_MODULE, PATH_ABSENT };
enum exec_path exec_path_kind(const char *path);
/** Opens a path of ours. */
int exec_path_open(const char *path, enum exec_path kind, int flags);
/** As stat() of a path of ours. */
int exec_path_stat(const char *path, enum exec_path kind, struct stat *st);
int exec_path_access(const char *path, enum exec_path kind, int mode);
/**
 * A module's parameter file as text (until this thread's next call), or NULL; "" for a folder.
 * *writable: its number among those that can be written, or -1.
 */
const char *exec_module_file(const char *path, int *writable);
/** What the launcher has made: NAME:DESCRIPTOR,… or NULL. */
void exec_parameters_start(const char *list);
/** The number of a parameter that can be written, or -1. */
int exec_parameter_find(const char *name);
void exec_parameter_text(int i, char *text, size_t size);
/** Opens one for writing. */
int exec_parameter_open(int i, int flags);
/** A new descriptor of /dev/kvm or of a VM gets what is set. */
void exec_parameters_apply(int fd);
/** Statistics are about to be read: all VMs get what may have been written since. */
void exec_parameters_refresh(void);

/** A descriptor of ours as this process may use it (not one of before fork). */
bool exec_fd_usable(int fd);
void exec_fd_created(int fd);
/** No descriptor of ours is as large as this. */
int exec_fd_end(void);
int exec_close(int fd);
int exec_ioctl(int fd, enum anykvm_kind kind, unsigned long request, unsigned long arg);

/* --- the program's CPUID (cpuid.c, cpuid_trap.c, cpuid_find.c) ---------------------------------------- */

struct exec_cpuid_insn {
	u64 addr;
	u32 length;
};

/** KVM_GET_SUPPORTED_CPUID's answer without what the program would find contradicted. */
struct kvm_cpuid2;
void exec_cpuid_filter(struct kvm_cpuid2 *list);
/** What the program sees; the table behind it is made once, before the first question. */
void exec_cpuid_view_init(void);
void exec_cpuid_view(u32 leaf, u32 index, u32 regs[4]);
/** The host's own answer, wherever it is asked. */
void exec_cpuid_native(u32 leaf, u32 index, u32 regs[4]);
/** The program's CPUID instructions are answered here from now on, as far as that can be. */
void exec_cpuid_start(void);
bool exec_cpuid_trapped(void);
/** A SIGILL or SIGSEGV that stands for CPUID: true when it was one. */
bool exec_cpuid_signal(int signo, const siginfo_t *info, ucontext_t *uc);
/** Puts the program's instructions back in memory that becomes a guest's. */
void exec_cpuid_restore(u64 start, u64 size);
/** CPUID instructions in functions of the program, by address; at most `max`. Their number. */
unsigned exec_cpuid_find(struct exec_cpuid_insn *out, unsigned max);
/** The executable segment that `addr` lies in. */
void exec_segment_of(u64 addr, u64 *start, u64 *size);

/* --- --window (window.c) ------------------------------------------------------------------------------ */

/** Switches it on for a VM that was just made; the log tells when that cannot be. */
void exec_window_enable(int vm);
/** Tells of a guest's memory that the window cannot have. */
struct kvm_userspace_memory_region;
void exec_window_check(const struct kvm_userspace_memory_region *region);

/* --- reports ------------------------------------------------------------------------------------------ */

void exec_trace_ioctl(int fd, enum anykvm_kind kind, u32 request, unsigned long arg, int ret);
void exec_stats_count(enum anykvm_kind kind, u32 request);
void exec_stats_exit(u32 reason);
void exec_stats_print(void);

#endif
