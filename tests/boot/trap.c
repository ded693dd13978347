/* A program with an INT3 and a handler for it: the address that the handler is told is behind it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

extern char behind[];

static void on_trap(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)number;
	(void)info;
	exit(uc->uc_mcontext.gregs[REG_RIP] == (long)behind ? 0 : 1);
}

int main(void)
{
	struct sigaction act = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

	sigaction(SIGTRAP, &act, NULL);
	__asm__ volatile("int3\nbehind:");
	return 2;
}
