/*
 * A 32-bit program without a C library, for a 64-bit kernel's compatibility mode: system calls
 * by int 0x80 and by the vDSO's way (sysenter or syscall), a signal and its return, fork, a
 * thread area in %gs, x87, SSE and 64-bit arithmetic. Ends with status 32.
 */
typedef unsigned int u32;

static int syscall80(int nr, int a, int b, int c, int d, int e)
{
	int ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return ret;
}

#define SYS(nr, a, b, c) syscall80(nr, (int)(a), (int)(b), (int)(c), 0, 0)

enum {
	NR_exit = 1,
	NR_fork = 2,
	NR_write = 4,
	NR_getpid = 20,
	NR_kill = 37,
	NR_wait4 = 114,
	NR_sigaction = 67,
	NR_mmap2 = 192,
	NR_munmap = 91,
	NR_set_thread_area = 243,
};

static unsigned length(const char *s)
{
	unsigned n = 0;

	while (s[n])
		n++;
	return n;
}

static void say(const char *s)
{
	SYS(NR_write, 1, s, length(s));
}

static void check(int good, const char *what)
{
	if (good)
		return;
	say("wrong: ");
	say(what);
	say("\n");
	SYS(NR_exit, 1, 0, 0);
}

static volatile int signals;

static void on_signal(int number)
{
	signals += number;
}

struct old_sigaction {
	void (*handler)(int);
	u32 mask, flags;
	void (*restorer)(void);
};

struct user_desc {
	u32 entry, base, limit, flags;
};

static u32 area[4] = {0x11223344, 0x55667788, 3, 4};

static int vdso_getpid(u32 entry)
{
	int ret;

	__asm__ volatile("call *%1" : "=a"(ret) : "r"(entry), "a"(NR_getpid) : "memory");
	return ret;
}

static u32 auxiliary(u32 *stack, u32 type)
{
	u32 *p = stack + 1 + stack[0] + 1;

	while (*p)
		p++;
	for (p++; p[0]; p += 2)
		if (p[0] == type)
			return p[1];
	return 0;
}

__attribute__((used)) static void start(u32 *stack)
{
	struct old_sigaction act = {on_signal, 0, 0, 0};
	struct user_desc desc = {0xffffffff, (u32)area, 0xfffff, 0x51};
	volatile double x = 2.0;
	volatile float f = 1.5f;
	volatile unsigned long long big = 0x123456789abcdefull;
	u32 value, entry = auxiliary(stack, 32);
	int status = 0, pid;
	char *page;

	check(stack[0] == 3, "arguments");
	check(SYS(NR_getpid, 0, 0, 0) > 1, "getpid");
	check(entry, "no system call entry in the auxiliary vector");
	check(vdso_getpid(entry) == SYS(NR_getpid, 0, 0, 0), "the vDSO's system call");

	check(!SYS(NR_sigaction, 10, &act, 0), "sigaction");
	SYS(NR_kill, SYS(NR_getpid, 0, 0, 0), 10, 0);
	check(signals == 10, "signal");

	page = (char *)syscall80(NR_mmap2, 0, 8192, 3, 0x22, -1);
	check((u32)page < 0xfffff000u, "mmap");
	for (u32 i = 0; i < 8192; i++)
		page[i] = (char)i;
	check(page[4099] == 3, "memory");
	check(!SYS(NR_munmap, page, 8192, 0), "munmap");

	pid = SYS(NR_fork, 0, 0, 0);
	if (!pid)
		SYS(NR_exit, 77, 0, 0);
	check(pid > 0 && syscall80(NR_wait4, pid, (int)&status, 0, 0, 0) == pid, "wait");
	check(status == 77 << 8, "status of the child");

	check(!SYS(NR_set_thread_area, &desc, 0, 0), "set_thread_area");
	__asm__ volatile("mov %1, %%gs\n\tmov %%gs:4, %0" : "=r"(value) : "r"(desc.entry * 8 + 3));
	check(value == 0x55667788, "%gs");

	__asm__ volatile("fldl %1\n\tfsqrt\n\tfmul %%st(0), %%st(0)\n\tfstpl %0"
			 : "=m"(x)
			 : "m"(x));
	check(x > 1.9999999 && x < 2.0000001, "x87");
	check(f * 4.0f == 6.0f, "SSE");
	check(big * 3 == 0x369d0369d0369cdull, "64-bit arithmetic");
	__asm__ volatile("mov $0x7fffffff, %0\n\tadd $1, %0\n\tseto %b0\n\tmovzbl %b0, %0"
			 : "=q"(value));
	check(value == 1, "flags");

	say("all good\n");
	SYS(NR_exit, 32, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %esp, %eax\n\tand $-16, %esp\n\tsub $12, %esp\n"
	"\tpush %eax\n\tcall start\n");
