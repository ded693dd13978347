/*
 * Triple faults: a fault while #DF is delivered shuts the processor down, and the machine with it.
 * Each way is a machine of its own (case=N); the runner expects its shutdown. A test that goes on
 * has failed. Source: SDM "Double Fault Exception".
 */
#include "x86/paging.h"
#include "x86/smp.h"

static void no_idt(void *arg)
{
	struct table_reg none = {0, 0};

	lidt(&none);
	__asm__ volatile("ud2");
}

static void no_df_gate(void *arg)
{
	idt[EXC_DF].type &= 0x7f;
	idt[EXC_PF].type &= 0x7f;
	*(volatile u32 *)va_alloc();
}

/* No stack for any handler: a fault from level 3 needs one. */
USER static void user_ud(void *p)
{
	__asm__ volatile("ud2");
}
static void no_stack(void *arg)
{
	user_map();
#if IS64
	idt_set_ist(EXC_DF, 0);
	this_cpu()->tss.rsp[0] = 1ul << 63;
#else
	/* #DF's task has no code */
	this_cpu()->tss.esp0 = (u32)va_alloc() + 4096;
	this_cpu()->tss_df.cs = 0;
#endif
	trap_user(user_ud, NULL);
}

static void stack_gone(void *arg)
{
	ulong at = va_alloc() + 4096; /* below is nothing */

#if IS64
	idt_set_ist(EXC_DF, 0);
	__asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(at) : "memory");
#else
	idt[EXC_DF] = idt[EXC_UD];
	__asm__ volatile("mov %0, %%esp; push %%eax" : : "r"(at) : "memory");
#endif
}

void test_main(void)
{
	static const struct {
		const char *name;
		void (*fn)(void *);
	} ways[] = {
		{"no IDT", no_idt},
		{"no gate for a double fault", no_df_gate},
		{"no stack at level 0", no_stack},
		{"the stack is gone", stack_gone},
		{"no IDT, on another CPU", no_idt},
	};
	unsigned n = (unsigned)param("case", 0);

	smp_start();
	if (n >= ARRAY_SIZE(ways))
		die("no case %u", n);
	report(true, "%s", ways[n].name);
	printf("1..1\n");
	if (n == 4)
		smp_call(1, ways[n].fn, NULL);
	else
		ways[n].fn(NULL);
	delay_us(100000);
	die("the machine goes on");
}
