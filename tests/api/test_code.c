/*
 * Code that the client writes: what the guest executes is what memory holds, after every exit to
 * the client and after every interrupt that it makes. With a client that says nothing of its writes, and
 * with one that tells of each (ANYKVM_CAP_WRITES_TOLD, the tests whose state is not NULL).
 */
#include "api.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#define FUNCTION  0x9000u
#define FUNCTIONS 0x20000u /* of sum_code() */

API_CODE16(loop, "1: mov $1, %al; out %al, $0x80; jmp 1b");
API_CODE64(calls, "mov $0x9000, %ebx; 1: call *%rbx; out %al, $0x80; jmp 1b");
API_CODE64(function, "mov $1, %eax; ret");
/* Never leaves by itself; the MSI is only there for the guest to learn of the change. */
API_CODE64(spin, "mov $0xfee000f0, %edi; movl $0x1ff, (%rdi); out %al, $0x11; sti;"
		 "mov $0x9000, %ebx; 1: call *%rbx; mov %eax, 0x500; jmp 1b");
API_CODE64(isr, "movl $0, 0xfee000b0 - 0xfee000f0(%rdi); iretq");

static bool told;

static void vm_make(struct api_vm *t, void **state, unsigned flags)
{
	told = *state;
	api_vm_make(t, 1, flags | (told ? API_TOLD : 0));
}

static void wrote(struct api_vm *t, u64 gpa, u64 size)
{
	if (told)
		assert_int_equal(anykvm_memory_written(t->vm, gpa, size), 0);
}

static void within_a_page(void **state)
{
	struct api_vm t;

	vm_make(&t, state, 0);
	api_start16(&t, 0, loop_begin, API_SIZE(loop));
	for (u32 v = 1; v < 50; v++) {
		t.mem[API_CODE + 1] = (u8)v;
		wrote(&t, API_CODE + 1, 1);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), v);
	}
	api_vm_free(&t);
}

static void in_another_page(void **state)
{
	struct api_vm t;

	vm_make(&t, state, 0);
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	memcpy(t.mem + FUNCTION, function_begin, API_SIZE(function));
	for (u32 v = 1; v < 50; v++) {
		t.mem[FUNCTION + 1] = (u8)v;
		wrote(&t, FUNCTION + 1, 1);
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

	vm_make(&t, state, 0);
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	t.mem[API_CODE + 1] = (u8)(0x1000 - back); /* the address that is called */
	memcpy(t.mem + FUNCTION + 0x1000 - back, function_begin, API_SIZE(function));
	t.mem[API_CODE + 2] = (u8)((FUNCTION + 0x1000 - back) >> 8);
	for (u32 v = 0; v < 50; v++) {
		t.mem[FUNCTION + 0x1000] = (u8)v;
		wrote(&t, FUNCTION - 0x1000, 0x2001); /* its last byte */
		api_run_to_out(&t, 0, 0x80);
		assert_int_equal(api_regs(&t, 0).rax >> 24, v);
	}
	api_vm_free(&t);
}

static u8 *emit(u8 *p, const void *code, size_t size)
{
	memcpy(p, code, size);
	return p + size;
}

/*
 * A loop that calls a function in each of some pages, twice, and puts out the sum of what they add. Some
 * pages the engine compares at once when the guest goes on, of many each when it comes there. Between the
 * two turns CR4.PGE changes, so that all translations of addresses are forgotten.
 */
static size_t sum_code(u8 *begin, unsigned pages)
{
	u8 *p = emit(begin, "\x31\xc0", 2); /* xor %eax, %eax */
	u32 at;

	for (unsigned i = 0; i < 2 * pages; i++) {
		if (i == pages) {
			p = emit(p, "\x0f\x20\xe1", 3); /* mov %cr4, %rcx */
			p = emit(p, "\x80\xf1\x80", 3); /* xor $0x80, %cl */
			p = emit(p, "\x0f\x22\xe1", 3); /* mov %rcx, %cr4 */
		}
		at = FUNCTIONS + i % pages * 0x1000;
		p = emit(p, "\xbb", 1); /* mov $at, %ebx */
		p = emit(p, &at, 4);
		p = emit(p, "\xff\xd3", 2); /* call *%rbx */
	}
	p = emit(p, "\xe6\x80\xe9", 3); /* out %al, $0x80; jmp */
	at = (u32)(begin - (p + 4));
	return (size_t)(emit(p, &at, 4) - begin);
}

static void in_one_of_some_pages(void **state)
{
	static const unsigned some[] = {1, 2, 3, 40, 511, 512, 513, 800};
	u8 code[16384];

	for (unsigned k = 0; k < sizeof(some) / sizeof(some[0]); k++) {
		unsigned pages = some[k];
		struct api_vm t;
		u8 sum = 0;

		vm_make(&t, state, 0);
		api_start64(&t, 0, code, sum_code(code, pages));
		for (unsigned i = 0; i < pages; i++)
			memcpy(t.mem + FUNCTIONS + i * 0x1000, "\x04\x00\xc3",
			       3); /* add $0, %al; ret */
		for (unsigned v = 1; v < 200; v++) {
			u8 *value = t.mem + FUNCTIONS + v * 7 % pages * 0x1000 + 1;

			sum += 2 * (u8)(v - *value);
			*value = (u8)v;
			wrote(&t, (u64)(value - t.mem), 1);
			for (unsigned again = 0; again < v % 4; again++)
				assert_int_equal(api_run_to_out(&t, 0, 0x80), sum);
		}
		api_vm_free(&t);
	}
}

/* Other memory at the same guest-physical address, with other code; the former memory stays as it was. */
static void in_other_memory(void **state)
{
	u8 *memory =
		mmap(NULL, 2 * 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const u64 gpa = 0x10000000;
	struct api_vm t;

	assert_ptr_not_equal(memory, MAP_FAILED);
	vm_make(&t, state, 0);
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	memcpy(t.mem + API_CODE + 1, &gpa, 4);
	for (unsigned i = 0; i < 2; i++) {
		memcpy(memory + i * 0x1000, function_begin, API_SIZE(function));
		memory[i * 0x1000 + 1] = (u8)(i + 1);
	}
	for (unsigned v = 0; v < 20; v++) {
		if (v)
			assert_int_equal(api_slot(&t, 5, 0, gpa, 0, NULL), 0);
		assert_int_equal(api_slot(&t, 5, 0, gpa, 0x1000, memory + v % 2 * 0x1000), 0);
		for (unsigned again = 0; again < 3; again++)
			assert_int_equal(api_run_to_out(&t, 0, 0x80), v % 2 + 1);
	}
	api_vm_free(&t);
	munmap(memory, 2 * 0x1000);
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

/* A guest that goes round without an exit, while the client changes its code and says so by `tell`. */
static void changed_while_running(void **state, void (*tell)(struct api_vm *t))
{
	struct api_vm t;
	pthread_t thread;
	u32 *seen;

	vm_make(&t, state, API_IRQCHIP);
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
		tell(&t);
		assert_true(wait_for(seen, v));
	}
	memcpy(t.mem + FUNCTION, "\x0f\x0b", 2); /* ud2, without a handler */
	tell(&t);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(t.run[0]->exit_reason, KVM_EXIT_SHUTDOWN);
	api_vm_free(&t);
}

static void by_call(struct api_vm *t)
{
	wrote(t, FUNCTION, 2);
}

static void by_interrupt(struct api_vm *t)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x50};

	by_call(t);
	assert_int_equal(api_ioctl(t->vm, KVM_SIGNAL_MSI, &msi), 1);
}

static void before_an_interrupt(void **state)
{
	changed_while_running(state, by_interrupt);
}

static void told_only(void **state)
{
	changed_while_running(state, by_call);
}

static void not_told(int fd, u64 gpa, u64 size, int error)
{
	assert_int_equal(anykvm_memory_written(fd, gpa, size), -1);
	assert_int_equal(errno, error);
}

static void refused(void **state)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WRITES_TOLD, .args = {1}};
	struct api_vm t;

	api_vm_make(&t, 0, 0);
	assert_true(api_ioctl_value(t.kvm, KVM_CHECK_EXTENSION, ANYKVM_CAP_WRITES_TOLD) > 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), -EINVAL);
	cap.args[0] = 0;
	cap.flags = 1;
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), -EINVAL);
	api_vm_free(&t);
	api_vm_make(&t, 1, 0);
	cap.flags = 0;
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), -EINVAL); /* there is a vCPU */
	not_told(-1, 0, 1, EBADF);
	not_told(1, 0, 1, EBADF);
	not_told(t.vcpu[0], 0, 1, EINVAL);
	not_told(t.vm, 1ull << 52, 1, EINVAL);
	not_told(t.vm, 1, 1ull << 52, EINVAL);
	not_told(t.vm, ~0ull, 1, EINVAL);
	/* of a client that did not promise anything, and of what is not memory */
	assert_int_equal(anykvm_memory_written(t.vm, 0, API_MEM_SIZE), 0);
	assert_int_equal(anykvm_memory_written(t.vm, 0x80000000, 0x100000), 0);
	assert_int_equal(anykvm_memory_written(t.vm, (1ull << 52) - 1, 1), 0);
	assert_int_equal(anykvm_memory_written(t.vm, 0, 0), 0);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(within_a_page),
		cmocka_unit_test(in_another_page),
		cmocka_unit_test(across_pages),
		cmocka_unit_test(in_one_of_some_pages),
		cmocka_unit_test(in_other_memory),
		cmocka_unit_test(before_an_interrupt),
		cmocka_unit_test(refused),
		{"within_a_page_told", within_a_page, NULL, NULL, &told},
		{"in_another_page_told", in_another_page, NULL, NULL, &told},
		{"across_pages_told", across_pages, NULL, NULL, &told},
		{"in_one_of_some_pages_told", in_one_of_some_pages, NULL, NULL, &told},
		{"in_other_memory_told", in_other_memory, NULL, NULL, &told},
		{"before_an_interrupt_told", before_an_interrupt, NULL, NULL, &told},
		{"told_only", told_only, NULL, NULL, &told},
	};

	return cmocka_run_group_tests_name("code written by the client", tests, NULL, NULL);
}
