/*
 * A program that knows nothing of anykvm: opens /dev/kvm and uses it. `exec-client CASE` runs one
 * case and exits 0 when it holds; `exec-client list` names them. The guest is a loop in real mode.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define CAP_ANYKVM 0x616b766d
#define CHECK(condition)                                                                 \
	do {                                                                             \
		if (!(condition)) {                                                      \
			printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
			exit(1);                                                         \
		}                                                                        \
	} while (0)

struct machine {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	unsigned char *memory;
};

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(ioctl(fd, KVM_CHECK_EXTENSION, CAP_ANYKVM) > 0);
	return fd;
}

static struct machine make(const void *code, size_t size)
{
	struct machine m = {.kvm = open_kvm()};
	struct kvm_userspace_memory_region region = {.memory_size = 0x10000};
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};

	m.vm = ioctl(m.kvm, KVM_CREATE_VM, 0);
	CHECK(m.vm >= 0);
	m.memory = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(m.memory != MAP_FAILED);
	memcpy(m.memory + 0x1000, code, size);
	region.userspace_addr = (unsigned long)m.memory;
	CHECK(!ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	m.vcpu = ioctl(m.vm, KVM_CREATE_VCPU, 0);
	CHECK(m.vcpu >= 0);
	m.run = mmap(NULL, (size_t)ioctl(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		     MAP_SHARED, m.vcpu, 0);
	CHECK(m.run != MAP_FAILED);
	CHECK(!ioctl(m.vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	CHECK(!ioctl(m.vcpu, KVM_SET_SREGS, &sregs));
	CHECK(!ioctl(m.vcpu, KVM_SET_REGS, &regs));
	return m;
}

static const unsigned char loop_forever[] = {0xeb, 0xfe};
static const unsigned char out_hlt[] = {0xe6, 0x10, 0xf4};

static void in_time(int signo, long usec)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signo};
	struct itimerspec when = {.it_value = {.tv_nsec = usec * 1000}};
	timer_t timer;

	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &timer));
	CHECK(!timer_settime(timer, 0, &when, NULL));
}

/* ---- cases ---- */

static void case_identity(void)
{
	struct stat st;
	int fd = open_kvm();

	CHECK(ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION);
	CHECK(!access("/dev/kvm", R_OK | W_OK));
	CHECK(!stat("/dev/kvm", &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232));
	CHECK(!fstat(fd, &st) && S_ISCHR(st.st_mode));
	CHECK(access("/dev/sev", F_OK) && errno == ENOENT);
	fd = (int)syscall(SYS_openat, AT_FDCWD, "/dev/kvm", O_RDWR);
	CHECK(fd >= 0 && syscall(SYS_ioctl, fd, KVM_CHECK_EXTENSION, CAP_ANYKVM) > 0);
	CHECK(!syscall(SYS_close, fd));
	CHECK(ioctl(fd, KVM_GET_API_VERSION, 0) == -1 && errno == EBADF);
}

/* System calls by hand never reach a kernel's KVM. */
static void case_guard(void)
{
	long fd, ret, path = (long)"/dev/kvm";

	__asm__ volatile("syscall"
			 : "=a"(fd)
			 : "0"((long)SYS_open), "D"(path), "S"((long)O_RDWR), "d"(0l)
			 : "rcx", "r11", "memory");
	if (fd < 0)
		return; /* this machine has none */
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"((long)SYS_ioctl), "D"(fd), "S"((long)KVM_GET_API_VERSION), "d"(0l)
			 : "rcx", "r11", "memory");
	CHECK(ret == -ENOTTY);
}

static void case_run(void)
{
	struct machine m = make(out_hlt, sizeof(out_hlt));

	CHECK(!ioctl(m.vcpu, KVM_RUN, 0));
	CHECK(m.run->exit_reason == KVM_EXIT_IO && m.run->io.port == 0x10);
	CHECK(!ioctl(m.vcpu, KVM_RUN, 0));
	CHECK(m.run->exit_reason == KVM_EXIT_HLT);
}

static void case_descriptors(void)
{
	struct machine m = make(out_hlt, sizeof(out_hlt));
	int a = dup(m.vcpu), b = fcntl(m.vcpu, F_DUPFD_CLOEXEC, 100), c = dup2(m.vcpu, 200);

	CHECK(a >= 0 && b >= 100 && c == 200);
	CHECK(!close(m.vcpu) && !close(m.vm) && !close(m.kvm));
	CHECK(ioctl(m.vcpu, KVM_RUN, 0) == -1 && errno == EBADF);
	CHECK(!ioctl(a, KVM_RUN, 0) && m.run->exit_reason == KVM_EXIT_IO);
	CHECK(!close(a) && !close(c));
	CHECK(!ioctl(b, KVM_RUN, 0) && m.run->exit_reason == KVM_EXIT_HLT);
	CHECK(!close_range(3, ~0u, 0));
	CHECK(ioctl(b, KVM_RUN, 0) == -1 && errno == EBADF);
	/* A number that was ours and is something else now. */
	c = open("/dev/null", O_RDWR);
	CHECK(c >= 0 && ioctl(c, KVM_GET_API_VERSION, 0) == -1 && errno == ENOTTY);
}

static void case_fork(void)
{
	struct machine m = make(out_hlt, sizeof(out_hlt));
	int status;
	pid_t child = fork();

	if (!child) {
		CHECK(ioctl(m.vcpu, KVM_RUN, 0) == -1 && errno == EIO);
		CHECK(ioctl(m.kvm, KVM_GET_API_VERSION, 0) == KVM_API_VERSION);
		CHECK(!close(m.vcpu) && !close(m.vm));
		m = make(out_hlt, sizeof(out_hlt));
		CHECK(!ioctl(m.vcpu, KVM_RUN, 0) && m.run->exit_reason == KVM_EXIT_IO);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
	CHECK(!ioctl(m.vcpu, KVM_RUN, 0) && m.run->exit_reason == KVM_EXIT_IO);
}

static volatile sig_atomic_t hits, inside;
static struct machine shared;

/* Runs behind KVM_RUN: the vCPU is free for ioctls here. */
static void on_signal(int signo)
{
	struct kvm_regs regs;

	(void)signo;
	hits++;
	inside = ioctl(shared.vcpu, KVM_GET_REGS, &regs);
}

static void case_handler(void)
{
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;

	shared = make(loop_forever, sizeof(loop_forever));
	CHECK(!sigaction(SIGUSR1, &act, NULL));
	CHECK(!sigaction(SIGUSR1, NULL, &old) && old.sa_handler == on_signal &&
	      old.sa_flags & SA_RESTART);
	in_time(SIGUSR1, 20000);
	CHECK(ioctl(shared.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
	CHECK(hits == 1 && inside == 0 && shared.run->exit_reason == KVM_EXIT_INTR);
	CHECK(raise(SIGUSR1) == 0 && hits == 2);
}

static void set_mask(int vcpu, const sigset_t *set)
{
	union {
		struct kvm_signal_mask head;
		unsigned char bytes[sizeof(struct kvm_signal_mask) + 8];
	} mask = {.head.len = 8};

	memcpy(mask.bytes + sizeof(struct kvm_signal_mask), set, 8);
	CHECK(!ioctl(vcpu, KVM_SET_SIGNAL_MASK, &mask));
}

/* Blocked in the thread, open in the mask: -EINTR, and it stays pending. */
static void case_mask(void)
{
	sigset_t block, open, pending;
	struct timespec now = {0};
	struct sigaction act;

	shared = make(loop_forever, sizeof(loop_forever));
	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	CHECK(!pthread_sigmask(SIG_BLOCK, &block, NULL));
	sigemptyset(&open);
	set_mask(shared.vcpu, &open);
	for (int i = 0; i < 3; i++) {
		in_time(SIGUSR2, 20000);
		CHECK(ioctl(shared.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
		CHECK(!sigpending(&pending) && sigismember(&pending, SIGUSR2));
		/* Still pending: no guest code runs. */
		CHECK(ioctl(shared.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
		CHECK(sigtimedwait(&block, NULL, &now) == SIGUSR2);
	}
	CHECK(!sigaction(SIGUSR2, NULL, &act) && act.sa_handler == SIG_DFL);
}

static void case_immediate_exit(void)
{
	struct machine m = make(loop_forever, sizeof(loop_forever));

	m.run->immediate_exit = 1;
	CHECK(ioctl(m.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
}

static void on_segv(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)context;
	hits++;
	mprotect((void *)((unsigned long)info->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}

/* The program's own fault handler, set after the engine's, works and is what sigaction reports. */
static void case_segv(void)
{
	struct sigaction act = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO}, old;
	struct machine m = make(out_hlt, sizeof(out_hlt));
	volatile char *p = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t all, seen;

	CHECK(!sigaction(SIGSEGV, NULL, &old) && old.sa_handler == SIG_DFL);
	CHECK(!sigaction(SIGSEGV, &act, NULL));
	CHECK(!sigaction(SIGSEGV, NULL, &old) && old.sa_sigaction == on_segv);
	sigfillset(&all);
	CHECK(!pthread_sigmask(SIG_SETMASK, &all, NULL));
	CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &seen) && sigismember(&seen, SIGSEGV));
	*p = 1;
	CHECK(hits == 1);
	CHECK(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, 8) == -1 && errno == EFAULT && hits == 1);
	CHECK(!ioctl(m.vcpu, KVM_RUN, 0) && m.run->exit_reason == KVM_EXIT_IO);
	signal(SIGSEGV, SIG_DFL);
	if (!fork()) {
		raise(SIGSEGV);
		_exit(0);
	}
	int status;

	CHECK(wait(&status) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void *run_thread(void *unused)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	ioctl(shared.vcpu, KVM_RUN, 0);
	return unused;
}

static void case_cancel(void)
{
	struct kvm_regs regs;
	pthread_t thread;
	void *result;

	shared = make(loop_forever, sizeof(loop_forever));
	CHECK(!pthread_create(&thread, NULL, run_thread, NULL));
	usleep(50000);
	CHECK(!pthread_cancel(thread) && !pthread_join(thread, &result) &&
	      result == PTHREAD_CANCELED);
	CHECK(!ioctl(shared.vcpu, KVM_GET_REGS, &regs) && regs.rip == 0x1000);
}

/* Children get /dev/kvm only with --follow, which the argument says. */
static void case_child(void)
{
	const char *follow = getenv("EXPECT_FOLLOW");
	int status = system("test -z \"$LD_PRELOAD\"");

	CHECK(WIFEXITED(status) && (WEXITSTATUS(status) != 0) == (follow && *follow));
}

/* A system call without libc: result or -errno. */
static long by_hand(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static void *raw_thread(void *unused)
{
	unsigned long usr1 = 1ul << (SIGUSR1 - 1), old = 0;
	long kvm, vm, vcpu, size, run, again;

	CHECK(by_hand(SYS_getpid, 0, 0, 0, 0, 0, 0) == getpid());
	CHECK(by_hand(SYS_close, 12345, 0, 0, 0, 0, 0) == -EBADF);
	CHECK(!by_hand(SYS_rt_sigprocmask, SIG_BLOCK, (long)&usr1, 0, 8, 0, 0));
	CHECK(!by_hand(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&usr1, (long)&old, 8, 0, 0));
	CHECK(old & usr1);
	kvm = by_hand(SYS_openat, AT_FDCWD, (long)"/dev/kvm", O_RDWR, 0, 0, 0);
	CHECK(kvm >= 0);
	CHECK(by_hand(SYS_ioctl, kvm, KVM_CHECK_EXTENSION, CAP_ANYKVM, 0, 0, 0) > 0);
	CHECK(by_hand(SYS_ioctl, kvm, KVM_CHECK_EXTENSION, 12345, 0, 0, 0) == 0);
	CHECK(ioctl((int)kvm, KVM_RUN, 0) == -1);
	CHECK(by_hand(SYS_ioctl, kvm, KVM_RUN, 0, 0, 0, 0) == -errno);
	vm = by_hand(SYS_ioctl, kvm, KVM_CREATE_VM, 0, 0, 0, 0);
	CHECK(vm >= 0);
	vcpu = by_hand(SYS_ioctl, vm, KVM_CREATE_VCPU, 0, 0, 0, 0);
	CHECK(vcpu >= 0);
	size = by_hand(SYS_ioctl, kvm, KVM_GET_VCPU_MMAP_SIZE, 0, 0, 0, 0);
	run = by_hand(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	CHECK(run > 0);
	((struct kvm_run *)run)->immediate_exit = 1;
	CHECK(by_hand(SYS_ioctl, vcpu, KVM_RUN, 0, 0, 0, 0) == -EINTR);
	again = by_hand(SYS_dup, vm, 0, 0, 0, 0, 0);
	CHECK(again >= 0 && !by_hand(SYS_close, vm, 0, 0, 0, 0, 0));
	CHECK(ioctl((int)again, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS) > 0);
	return unused;
}

/* System calls by hand are caught with --raw, which the environment says. */
static void case_raw(void)
{
	const char *raw = getenv("EXPECT_RAW");
	pthread_t thread;
	int status;
	pid_t pid;

	if (!raw || !*raw) {
		CHECK(by_hand(SYS_ioctl, open_kvm(), KVM_GET_API_VERSION, 0, 0, 0, 0) == -ENOTTY);
		return;
	}
	raw_thread(NULL);
	CHECK(!pthread_create(&thread, NULL, raw_thread, NULL) && !pthread_join(thread, NULL));
	pid = fork();
	if (!pid) {
		raw_thread(NULL);
		_exit(42);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42);
	pid = (int)by_hand(SYS_fork, 0, 0, 0, 0, 0, 0);
	if (!pid)
		by_hand(SYS_exit_group, 43, 0, 0, 0, 0, 0);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 43);
}

/* ---- the program's own CPUID instruction: it tells what KVM_GET_SUPPORTED_CPUID does ---- */

struct cpuid {
	unsigned a, b, c, d;
};

#define CPUID_FORM(name, prefix)                                                          \
	static __attribute__((noinline)) struct cpuid name(unsigned leaf, unsigned index) \
	{                                                                                 \
		struct cpuid r;                                                           \
                                                                                          \
		__asm__ volatile(prefix "cpuid"                                           \
				 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)             \
				 : "a"(leaf), "c"(index));                                \
		return r;                                                                 \
	}

CPUID_FORM(cpuid_plain, "")
CPUID_FORM(cpuid_wide, ".byte 0x48;")
CPUID_FORM(cpuid_prefixed, ".byte 0x66, 0xf3;")
CPUID_FORM(cpuid_marked, ".globl cpuid_place; cpuid_place: ")
extern const unsigned char cpuid_place[];

static struct cpuid cpuid_early, cpuid_signal;

static __attribute__((constructor)) void cpuid_constructor(void)
{
	cpuid_early = cpuid_plain(0, 0);
}

static void cpuid_handler(int signo)
{
	cpuid_signal = cpuid_plain(0, (unsigned)signo);
}

static void *cpuid_thread(void *result)
{
	*(struct cpuid *)result = cpuid_plain(0, 0);
	return NULL;
}

static struct kvm_cpuid_entry2 supported(unsigned leaf)
{
	static struct kvm_cpuid2 *list;
	int kvm = open_kvm();

	if (!list)
		list = calloc(1, sizeof(*list) + 256 * sizeof(list->entries[0]));
	CHECK(list);
	list->nent = 256;
	CHECK(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list));
	close(kvm);
	for (unsigned i = 0; i < list->nent; i++)
		if (list->entries[i].function == leaf)
			return list->entries[i];
	CHECK(!"the leaf is there");
	return list->entries[0];
}

static bool same_vendor(struct cpuid r)
{
	struct kvm_cpuid_entry2 want = supported(0);

	return r.b == want.ebx && r.c == want.ecx && r.d == want.edx;
}

static volatile sig_atomic_t traps;
static void *volatile trap_at;

static void trap_handler(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	CHECK(signo == SIGILL || signo == SIGTRAP);
	traps++;
	trap_at = info->si_addr;
	if (signo == SIGILL)
		uc->uc_mcontext.gregs[REG_RIP] += 2;
}

extern const unsigned char own_trap[];

static __attribute__((noinline)) void trap_by_hand(void)
{
	__asm__ volatile(".globl own_trap; own_trap: ud2; int3");
}

/* The program's own SIGILL and SIGTRAP stay its own. */
static void check_own_traps(void)
{
	struct sigaction act = {.sa_sigaction = trap_handler, .sa_flags = SA_SIGINFO};
	int status;
	pid_t pid = fork();

	if (!pid) {
		trap_by_hand();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGILL);
	CHECK(!sigaction(SIGILL, &act, NULL) && !sigaction(SIGTRAP, &act, NULL));
	trap_by_hand();
	CHECK(traps == 2);
	CHECK(!raise(SIGILL) && traps == 3);
	CHECK(same_vendor(cpuid_plain(0, 0)) && traps == 3);
	traps = 0;
	act.sa_sigaction = trap_handler;
	CHECK(!sigaction(SIGTRAP, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
}

static __attribute__((noinline)) unsigned long bytes_in_number(void)
{
	unsigned long v;

	__asm__ volatile("movabs $0xa20fa20fa20fa20f, %0" : "=r"(v));
	return v;
}

/* Memory that becomes a guest's is as the program's file has it. */
static void check_guest_text(void)
{
	struct kvm_userspace_memory_region region = {
		.memory_size = 0x1000,
		.userspace_addr = (unsigned long)cpuid_place & ~0xffful,
	};
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	CHECK(vm >= 0);
	if (region.userspace_addr + 0x1000 < (unsigned long)cpuid_place + 2)
		region.memory_size = 0x2000;
	CHECK(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
	CHECK(cpuid_place[0] == 0x0f && cpuid_place[1] == 0xa2);
}

static void case_cpuid(void)
{
	static const unsigned char data[] = {0x0f, 0xa2, 0x0f, 0xa2};
	struct sigaction act = {.sa_handler = cpuid_handler};
	struct cpuid r;
	pthread_t thread;
	sigset_t all;
	int status;
	pid_t pid;

	CHECK(same_vendor(cpuid_early) && same_vendor(cpuid_plain(0, 0)));
	CHECK(same_vendor(cpuid_wide(0, 0)) && same_vendor(cpuid_prefixed(0, 0)));
	CHECK(same_vendor(cpuid_marked(0, 0)));
	CHECK(cpuid_plain(1, 0).a == supported(1).eax);
	CHECK(cpuid_plain(7, 0).b == supported(7).ebx);
	CHECK(cpuid_plain(0x80000000, 0).a == supported(0x80000000).eax);
	sigfillset(&act.sa_mask);
	CHECK(!sigaction(SIGUSR1, &act, NULL) && !raise(SIGUSR1) && same_vendor(cpuid_signal));
	pid = fork();
	if (!pid)
		_exit(same_vendor(cpuid_plain(0, 0)) ? 42 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 42);
	/* A thread that begins, and stays, with everything blocked. */
	sigfillset(&all);
	CHECK(!pthread_sigmask(SIG_SETMASK, &all, NULL));
	CHECK(!pthread_create(&thread, NULL, cpuid_thread, &r) && !pthread_join(thread, NULL));
	CHECK(same_vendor(r) && same_vendor(cpuid_plain(0, 0)));
	CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &all) && sigismember(&all, SIGILL) == 1);
	sigemptyset(&all);
	CHECK(!pthread_sigmask(SIG_SETMASK, &all, NULL));
	CHECK(bytes_in_number() == 0xa20fa20fa20fa20f);
	CHECK(((const volatile unsigned char *)data)[1] == 0xa2);
	check_own_traps();
	check_guest_text();
}

/* --host-cpuid: the vendor that the kernel tells. */
static void case_host_cpuid(void)
{
	struct cpuid r = cpuid_plain(0, 0);
	char line[256] = "", name[13];
	FILE *info = fopen("/proc/cpuinfo", "r");

	CHECK(info);
	memcpy(name, &r.b, 4);
	memcpy(name + 4, &r.d, 4);
	memcpy(name + 8, &r.c, 4);
	name[12] = 0;
	while (!strstr(line, "vendor_id"))
		CHECK(fgets(line, sizeof(line), info));
	CHECK(strstr(line, name));
	fclose(info);
}

/* CPUID faulting reaches what the program generates. */
static void case_generated_cpuid(void)
{
	static const unsigned char code[] = {0x0f, 0xa2, 0xc3};
	void *page = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct cpuid r;

	CHECK(page != MAP_FAILED);
	memcpy(page, code, sizeof(code));
	__asm__ volatile("call *%4"
			 : "=a"(r.a), "=&b"(r.b), "=c"(r.c), "=d"(r.d)
			 : "r"(page), "a"(0), "c"(0)
			 : "memory");
	CHECK(same_vendor(r));
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"identity", case_identity}, {"guard", case_guard},
	{"run", case_run},	     {"descriptors", case_descriptors},
	{"fork", case_fork},	     {"handler", case_handler},
	{"mask", case_mask},	     {"immediate-exit", case_immediate_exit},
	{"segv", case_segv},	     {"cancel", case_cancel},
	{"child", case_child},	     {"raw", case_raw},
	{"cpuid", case_cpuid},
};

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "host-cpuid")) { /* these two are not in the list */
		case_host_cpuid();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "generated-cpuid")) {
		case_generated_cpuid();
		return 0;
	}
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (argc > 1 && !strcmp(argv[1], "list"))
			puts(cases[i].name);
		else if (argc > 1 && !strcmp(argv[1], cases[i].name)) {
			alarm(20);
			cases[i].run();
			return 0;
		}
	}
	return argc > 1 && !strcmp(argv[1], "list") ? 0 : 2;
}
