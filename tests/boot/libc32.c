/*
 * A 32-bit program with a C library, static: threads with their own storage and a lock, signals
 * with information and a stack of their own, timers, fork and pipe, the vDSO's clock, x87 and
 * SSE arithmetic kept apart between threads. Every part checks its own result; the last line is
 * "libc32: N parts good" and the status 33.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS	20000

static void check(int good, const char *what)
{
	if (good)
		return;
	printf("wrong: %s\n", what);
	exit(1);
}

/* ---- threads ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_there = PTHREAD_COND_INITIALIZER;
static unsigned long long locked_sum;
static unsigned atomic_sum, arrived;
static __thread unsigned mine;

struct thread_result {
	unsigned number, count;
	long double x87;
	double sse;
};

static void *work(void *opaque)
{
	struct thread_result *r = opaque;
	volatile long double x = 1.0L + r->number;
	volatile double y = 1.0 + r->number;

	pthread_mutex_lock(&lock);
	if (++arrived == THREADS)
		pthread_cond_broadcast(&all_there);
	while (arrived < THREADS)
		pthread_cond_wait(&all_there, &lock);
	pthread_mutex_unlock(&lock);
	for (unsigned i = 0; i < ROUNDS; i++) {
		mine++;
		__atomic_fetch_add(&atomic_sum, r->number + 1, __ATOMIC_RELAXED);
		pthread_mutex_lock(&lock);
		locked_sum += 0x100000001ull;
		pthread_mutex_unlock(&lock);
		x = x * 3.0L / 3.0L;
		y = sqrt(y * y);
	}
	r->count = mine;
	r->x87 = x;
	r->sse = y;
	return NULL;
}

static void threads(void)
{
	struct thread_result results[THREADS] = {{0}};
	pthread_t ids[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		results[i].number = i;
		check(!pthread_create(&ids[i], NULL, work, &results[i]), "pthread_create");
	}
	for (unsigned i = 0; i < THREADS; i++) {
		check(!pthread_join(ids[i], NULL), "pthread_join");
		check(results[i].count == ROUNDS, "thread-local storage");
		check(fabsl(results[i].x87 - (i + 1)) < 1e-12L, "x87 state of a thread");
		check(results[i].sse == i + 1, "SSE state of a thread");
	}
	check(atomic_sum == ROUNDS * (THREADS * (THREADS + 1) / 2), "atomic sum");
	check(locked_sum == 0x100000001ull * ROUNDS * THREADS, "locked sum");
}

/* ---- signals ---- */

static sigjmp_buf back;
static volatile sig_atomic_t ticks;
static void *volatile fault_address;
static char own_stack[1 << 16];
static volatile int on_own_stack;

static void on_fault(int number, siginfo_t *info, void *context)
{
	char here;

	(void)number;
	(void)context;
	on_own_stack = &here >= own_stack && &here < own_stack + sizeof(own_stack);
	fault_address = info->si_addr;
	siglongjmp(back, info->si_code);
}

static void on_tick(int number)
{
	volatile double f = 1.25;

	(void)number;
	f = f * f; /* must not disturb what was interrupted */
	ticks += f == 1.5625;
}

static void faults(void)
{
	stack_t stack = {.ss_sp = own_stack, .ss_size = sizeof(own_stack)};
	struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	volatile int zero = 0;
	volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int code;

	check(!sigaltstack(&stack, NULL), "sigaltstack");
	check(!sigaction(SIGSEGV, &act, NULL) && !sigaction(SIGFPE, &act, NULL), "sigaction");
	code = sigsetjmp(back, 1);
	if (!code)
		page[77] = 1;
	check(code == SEGV_ACCERR && fault_address == page + 77 && on_own_stack,
	      "SIGSEGV of a read-only page");
	code = sigsetjmp(back, 1);
	if (!code)
		ticks = 1000 / zero;
	check(code == FPE_INTDIV, "SIGFPE of a division");
}

static void timer(void)
{
	struct sigaction act = {.sa_handler = on_tick};
	struct itimerval every = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
	volatile double sum = 0;

	ticks = 0;
	check(!sigaction(SIGALRM, &act, NULL) && !setitimer(ITIMER_REAL, &every, NULL), "timer");
	while (ticks < 20)
		for (unsigned i = 0; i < 1000; i++) {
			double before = sum;

			sum = sum + 0.5;
			check(sum == before + 0.5, "floating point under signals");
		}
	setitimer(ITIMER_REAL, &off, NULL);
}

/* ---- the rest ---- */

static void processes(void)
{
	int pipe_fds[2], status;
	char text[6] = "";
	pid_t pid;

	check(!pipe(pipe_fds), "pipe");
	pid = fork();
	if (!pid) {
		check(write(pipe_fds[1], "hello", 5) == 5, "write");
		_exit(21);
	}
	check(read(pipe_fds[0], text, 5) == 5 && !strcmp(text, "hello"), "read");
	check(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 21, "waitpid");
	status = system("exit 9");
	check(WEXITSTATUS(status) == 9, "a 64-bit program started from here");
}

static void clocks(void)
{
	struct timespec a, b, raw;

	for (unsigned i = 0; i < 2000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		check(!syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw), "clock_gettime");
		clock_gettime(CLOCK_MONOTONIC, &b);
		check(a.tv_sec < raw.tv_sec || (a.tv_sec == raw.tv_sec && a.tv_nsec <= raw.tv_nsec),
		      "the kernel's clock is behind the vDSO's");
		check(raw.tv_sec < b.tv_sec || (raw.tv_sec == b.tv_sec && raw.tv_nsec <= b.tv_nsec),
		      "the vDSO's clock is behind the kernel's");
	}
}

static void old_system_call(void)
{
	int pid;

	__asm__ volatile("int $0x80" : "=a"(pid) : "a"(SYS_getpid) : "memory");
	check(pid == getpid(), "int 0x80");
	__asm__ volatile("call *%%gs:0x10" : "=a"(pid) : "a"(SYS_getpid) : "memory");
	check(pid == getpid(), "the system call entry of the vDSO");
}

static void arithmetic(void)
{
	volatile uint64_t a = 0xfedcba9876543210ull, b = 0x123456789ull;
	volatile long double x = 2.0L;
	volatile float f = 0.1f;
	char text[64];

	check(a / b * b + a % b == a && a % b < b, "64-bit division");
	check((a * b ^ a) == (a * b) + a - 2 * (a * b & a), "64-bit product");
	check(fabsl(sinl(x) * sinl(x) + cosl(x) * cosl(x) - 1.0L) < 1e-17L, "sine and cosine");
	check(fabsl(expl(logl(x)) - 2.0L) < 1e-17L, "logarithm");
	snprintf(text, sizeof(text), "%.6f %d %.20Lg", (double)f * 3, (int)-2.5f, x / 3.0L);
	check(!strcmp(text, "0.300000 -2 0.66666666666666666668"), text);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} parts[] = {
		{"threads", threads},	    {"faults", faults}, {"timer", timer},
		{"processes", processes},   {"clocks", clocks}, {"old", old_system_call},
		{"arithmetic", arithmetic},
	};
	unsigned n = sizeof(parts) / sizeof(parts[0]);

	_Static_assert(sizeof(void *) == 4, "this is a test of 32-bit code");
	setvbuf(stdout, NULL, _IONBF, 0);
	for (unsigned i = 0; i < n; i++)
		parts[i].run();
	printf("libc32: %u parts good\n", n);
	return 33;
}
