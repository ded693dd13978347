/*
 * Code that the client writes: what the guest executes is what memory holds, after every exit to
 * the client and after every interrupt that it makes.
 */
#include "api.h"

#include <pthread.h>
#include <time.h>

#define FUNCTION 0x9000u

API_CODE16(loop, "1: mov $1, %al; out %al, $0x80; jmp 1b");
API_CODE64(calls, "mov $0x9000, %ebx; 1: call *%rbx; out %al, $0x80; jmp 1b");
API_CODE64(function, "mov $1, %eax; ret");
/* Never leaves by itself; the MSI is only there for the guest to learn of the change. */
API_CODE64(spin, "mov $0xfee000f0, %edi; movl $0x1ff, (%rdi); out %al, $0x11; sti;"
		 "mov $0x9000, %ebx; 1: call *%rbx; mov %eax, 0x500; jmp 1b");
API_CODE64(isr, "movl $0, 0xfee000b0 - 0xfee000f0(%rdi); iretq");

static void within_a_page(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start16(&t, 0, loop_begin, API_SIZE(loop));
	for (u32 v = 1; v < 50; v++) {
		t.mem[API_CODE + 1] = (u8)v;
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
	}
	api_vm_free(&t);
}

static void in_another_page(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	memcpy(t.mem + FUNCTION, function_begin, API_SIZE(function));
	for (u32 v = 1; v < 50; v++) {
		t.mem[FUNCTION + 1] = (u8)v;
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
	}
	api_vm_free(&t);
}

/* An instruction whose last byte, in the next page, changes. */
static void across_pages(void **state)
{
	const unsigned back = 4; /* of MOV's five bytes before the page */
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	t.mem[API_CODE + 1] = (u8)(0x1000 - back); /* the address that is called */
	memcpy(t.mem + FUNCTION + 0x1000 - back, function_begin, API_SIZE(function));
	t.mem[API_CODE + 2] = (u8)((FUNCTION + 0x1000 - back) >> 8);
	for (u32 v = 0; v < 50; v++) {
		t.mem[FUNCTION + 0x1000] = (u8)v;
		api_run_to_out(&t, 0, 0x80);
		assert_int_equal(api_regs(&t, 0).rax >> 24, v);
	}
	api_vm_free(&t);
}

static void *spinner(void *arg)
{
	struct api_vm *t = arg;

	while (api_run(t, 0) == 0 && t->run[0]->exit_reason == KVM_EXIT_IO)
		;
	return NULL;
}

static bool wait_for(const u32 *p, u32 v)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (__atomic_load_n(p, __ATOMIC_SEQ_CST) == v)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return false;
}

static void told_by_interrupt(void **state)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x50};
	struct api_vm t;
	pthread_t thread;
	u32 *seen;

	api_vm_make(&t, 1, API_IRQCHIP);
	api_start64(&t, 0, spin_begin, API_SIZE(spin));
	*(u64 *)(t.mem + 0x2000 + 3 * 8) = 0xc0000083ull; /* the APIC's gigabyte */
	memcpy(t.mem + FUNCTION, function_begin, API_SIZE(function));
	memcpy(t.mem + 0xa000, isr_begin, API_SIZE(isr));
	api_idt64(&t, 0x50, 0xa000);
	seen = (u32 *)(t.mem + 0x500);
	assert_int_equal(pthread_create(&thread, NULL, spinner, &t), 0);
	assert_true(wait_for(seen, 1));
	for (u32 v = 2; v < 20; v++) {
		t.mem[FUNCTION + 1] = (u8)v;
		assert_int_equal(api_ioctl(t.vm, KVM_SIGNAL_MSI, &msi), 1);
		assert_true(wait_for(seen, v));
	}
	memcpy(t.mem + FUNCTION, "\x0f\x0b", 2); /* ud2, without a handler */
	assert_int_equal(api_ioctl(t.vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(t.run[0]->exit_reason, KVM_EXIT_SHUTDOWN);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(within_a_page),
		cmocka_unit_test(in_another_page),
		cmocka_unit_test(across_pages),
		cmocka_unit_test(told_by_interrupt),
	};

	return cmocka_run_group_tests_name("code written by the client", tests, NULL, NULL);
}
