/* The functions behind ours, and the system call itself. */
#include "exec/exec.h"

#include <dlfcn.h>

struct exec_real exec_real;
_Thread_local u8 exec_raw_selector __attribute__((tls_model("initial-exec")));

void exec_real_load(void)
{
#define REAL_FN(name) \
	__atomic_store_n((void **)&exec_real.name, dlsym(RTLD_NEXT, #name), __ATOMIC_RELAXED);
#include "exec/real.def"
}

long exec_raw(long n, long a, long b, long c, long d, long e, long f)
{
	u8 *catches = &exec_raw_selector, selector = *catches;
	long ret;

	*catches = EXEC_RAW_PASS;
	/* Nothing between these and their use: what the compiler calls may not keep them. */
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	*catches = selector;
	return ret;
}
