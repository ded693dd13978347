/*
 * One of many programs that differ in nothing but the constants in their code: same size, same
 * addresses, a page for each function. Whoever executes a page's old contents, or a mix of old and
 * new, gets another result than test_programs.py computes from SEED. -DSEED=N
 */
typedef unsigned int u32;
typedef unsigned long u64;

#define FACTOR(n) ((SEED * 0x9e3779b1u + (n)*0x85ebca6bu) | 1)
#define ADDEND(n) (SEED * 0xc2b2ae35u + (n)*0x27d4eb2fu)

#define STAGE(n)                                                           \
	__attribute__((noinline, aligned(4096))) static u32 step##n(u32 x) \
	{                                                                  \
		__asm__("imull %1, %0, %0\n\taddl %2, %0"                  \
			: "+r"(x)                                          \
			: "i"((int)FACTOR(n)), "i"((int)ADDEND(n))         \
			: "cc");                                           \
		return x ^ x >> 15;                                        \
	}
STAGE(0)
STAGE(1)
STAGE(2)
STAGE(3)
STAGE(4)
STAGE(5)
STAGE(6)
STAGE(7)

static long call(long number, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

__attribute__((used)) void start(void)
{
	char text[9];
	u32 x = 1;

	for (u32 i = 0; i < 500; i++)
		x = step7(step6(step5(step4(step3(step2(step1(step0(x + i))))))));
	for (int i = 0; i < 8; i++)
		text[i] = "0123456789abcdef"[x >> (28 - 4 * i) & 15];
	text[8] = '\n';
	call(1, 1, (long)text, sizeof(text));
	call(60, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tand $-16, %rsp\n\tcall start\n");
