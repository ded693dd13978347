/* Accesses that may fault. */
#include "probe.h"

int msr_read(u32 msr, u64 *v)
{
	u32 lo = 0, hi = 0;

	trap_clear();
	__asm__ volatile(TRY("rdmsr") : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");
	*v = (u64)hi << 32 | lo;
	return trap_vector();
}

int msr_write(u32 msr, u64 v)
{
	trap_clear();
	__asm__ volatile(TRY("wrmsr") : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
	return trap_vector();
}

USER static void user_read(void *p)
{
	__asm__ volatile("movb (%0), %%al" : : "r"(p) : "eax", "memory");
}
USER static void user_write(void *p)
{
	__asm__ volatile("movb $0xc3, (%0)" : : "r"(p) : "memory");
}
USER static void user_fetch(void *p)
{
	__asm__ volatile("call *%0" : : "r"(p) : "memory");
}
static void kernel_fetch(void *p)
{
	__asm__ volatile("call *%0" : : "r"(p) : "memory");
}

int access_kernel(enum access a, ulong va, bool ac)
{
	ulong flags = 2 | (ac ? FL_AC : 0);

	trap_clear();
	if (a == READ) {
		__asm__ volatile("push %1; popf\n" TRY("movb (%0), %%al") "push $2; popf"
				 :
				 : "r"(va), "r"(flags)
				 : "eax", "memory", "cc");
	} else if (a == WRITE) {
		__asm__ volatile("push %1; popf\n" TRY("movb $0xc3, (%0)") "push $2; popf"
				 :
				 : "r"(va), "r"(flags)
				 : "memory", "cc");
	} else {
		write_flags(flags);
		trap_guard(kernel_fetch, (void *)va);
		write_flags(2);
	}
	return trap_vector();
}

int access_user(enum access a, ulong va)
{
	void (*const fns[])(void *) = {user_read, user_write, user_fetch};

	return trap_user(fns[a], (void *)va);
}
