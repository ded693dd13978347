/* KVM_SET_USER_MEMORY_REGION: checks, read-only slots, deletion, moves, both address spaces. */
#include "api.h"

#include <pthread.h>

static void *pages(size_t n)
{
	void *p = mmap(NULL, n * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void refused(void **state)
{
	const u64 at = 0x10000000;
	struct api_vm t;
	u8 *p = pages(16);

	api_vm_make(&t, 1, 0);
	assert_errno(api_slot(&t, 1, 0, at + 1, 0x1000, p), EINVAL);
	assert_errno(api_slot(&t, 1, 0, at, 0x1001, p), EINVAL);
	assert_errno(api_slot(&t, 1, 0, at, 0x1000, p + 1), EINVAL);
	assert_errno(api_slot(&t, 1, 1 << 5, at, 0x1000, p), EINVAL);
	assert_errno(api_slot(&t, 32764, 0, at, 0x1000, p), EINVAL);
	assert_errno(api_slot(&t, 2u << 16, 0, at, 0x1000, p), EINVAL);
	assert_errno(api_slot(&t, 1, 0, ~0xfffull, 0x2000, p), EINVAL);
	assert_errno(api_slot(&t, 1, 0, at, 0x1000, (void *)0xffff800000000000ull), EINVAL);
	assert_errno(api_slot(&t, 1, 0, at, 0, p), EINVAL); /* deleting what is not there */
	assert_int_equal(api_slot(&t, 1, 0, at, 0x4000, p), 0);
	assert_errno(api_slot(&t, 2, 0, at + 0x3000, 0x1000, p), EEXIST);
	assert_errno(api_slot(&t, 2, 0, at - 0x1000, 0x8000, p), EEXIST);
	assert_int_equal(api_slot(&t, 2, 0, at + 0x4000, 0x1000, p), 0);
	/* An existing slot keeps its size, host address and read-only flag. */
	assert_errno(api_slot(&t, 1, 0, at, 0x2000, p), EINVAL);
	assert_errno(api_slot(&t, 1, 0, at, 0x4000, p + 4096), EINVAL);
	assert_errno(api_slot(&t, 1, KVM_MEM_READONLY, at, 0x4000, p), EINVAL);
	/* The other address space is apart. */
	assert_int_equal(api_slot(&t, 1u << 16 | 1, 0, at, 0x4000, p), 0);
	assert_int_equal(api_slot(&t, 1, 0, at, 0, NULL), 0);
	assert_errno(api_slot(&t, 1, 0, at, 0, NULL), EINVAL);
	api_vm_free(&t);
	munmap(p, 16 * 4096);
}

API_CODE16(peek, "mov $0x4000, %ax; mov %ax, %ds; movb (0), %al; out %al, $0x10;"
		 "mov $0x55, %al; movb %al, (1); hlt");

static void read_only(void **state)
{
	struct api_vm t;
	u8 *p = pages(1);

	api_vm_make(&t, 1, 0);
	munmap(t.mem, API_MEM_SIZE);
	/* Low memory in two slots around a read-only page. */
	api_slot(&t, 0, 0, 0, 0, NULL);
	t.mem = pages(API_MEM_SIZE / 4096);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x40000, t.mem), 0);
	p[0] = 0xa5;
	assert_int_equal(api_slot(&t, 1, KVM_MEM_READONLY, 0x40000, 0x1000, p), 0);
	api_start16(&t, 0, peek_begin, API_SIZE(peek));
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0xa5);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_int_equal(t.run[0]->mmio.phys_addr, 0x40001);
	assert_true(t.run[0]->mmio.is_write);
	assert_int_equal(t.run[0]->mmio.data[0], 0x55);
	assert_int_equal(p[1], 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	api_vm_free(&t);
	munmap(p, 4096);
}

static void moved_and_deleted(void **state)
{
	struct api_vm t;
	u8 *p = pages(1);

	api_vm_make(&t, 1, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x40000, t.mem), 0);
	p[0] = 0x11;
	assert_int_equal(api_slot(&t, 1, 0, 0x80000, 0x1000, p), 0);
	api_start16(&t, 0, peek_begin, API_SIZE(peek));
	api_run_expect(&t, 0, KVM_EXIT_MMIO); /* nothing at 0x40000 yet */
	assert_false(t.run[0]->mmio.is_write);
	t.run[0]->mmio.data[0] = 0x77;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x77);
	/* Now it is moved there. */
	assert_int_equal(api_slot(&t, 1, 0, 0x40000, 0x1000, p), 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(p[1], 0x55);
	api_start16(&t, 0, peek_begin, API_SIZE(peek));
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x11);
	assert_int_equal(api_slot(&t, 1, 0, 0, 0, NULL), 0);
	munmap(p, 4096);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_true(t.run[0]->mmio.is_write);
	api_vm_free(&t);
}

API_CODE64(spin, "1: mov 0x200000, %rax; incq 0x300000; cmpq $0, 0x300008; je 1b; hlt");

static void *spinner(void *arg)
{
	struct api_vm *t = arg;

	for (;;) {
		if (anykvm_ioctl(t->vcpu[0], KVM_RUN, 0))
			return (void *)(long)errno;
		if (t->run[0]->exit_reason != KVM_EXIT_MMIO)
			return NULL;
		memset(t->run[0]->mmio.data, 0, 8);
	}
}

/* Slots come and go, and their memory with them, under a running vCPU. */
static void while_running(void **state)
{
	struct api_vm t;
	pthread_t thread;
	void *result;

	api_vm_make(&t, 1, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x200000, t.mem), 0);
	assert_int_equal(api_slot(&t, 1, 0, 0x300000, 0x1000, t.mem + 0x300000), 0);
	api_start64(&t, 0, spin_begin, API_SIZE(spin));
	pthread_create(&thread, NULL, spinner, &t);
	for (int i = 0; i < 300; i++) {
		u8 *p = pages(1);

		assert_int_equal(api_slot(&t, 2, 0, 0x200000, 0x1000, p), 0);
		if (i % 3 == 0)
			usleep(100);
		assert_int_equal(api_slot(&t, 2, 0, 0, 0, NULL), 0);
		munmap(p, 4096);
	}
	__atomic_store_n((u64 *)(t.mem + 0x300008), 1, __ATOMIC_SEQ_CST);
	pthread_join(thread, &result);
	assert_null(result);
	assert_int_equal(t.run[0]->exit_reason, KVM_EXIT_HLT);
	assert_true(*(u64 *)(t.mem + 0x300000) > 0);
	api_vm_free(&t);
}

/* All memory goes and comes back, tables and code with it, as by QEMU 7.2: a running vCPU does not notice. */
static void everything_comes_back(void **state)
{
	struct api_vm t;
	pthread_t thread;
	void *result;

	api_vm_make(&t, 1, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x400000, t.mem), 0);
	api_start64(&t, 0, spin_begin, API_SIZE(spin));
	pthread_create(&thread, NULL, spinner, &t);
	for (int i = 0; i < 100; i++) {
		usleep(100);
		assert_int_equal(api_slot(&t, 0, 0, 0, 0, NULL), 0);
		usleep(i % 4 * 100);
		assert_int_equal(api_slot(&t, 0, 0, 0, 0x400000, t.mem), 0);
	}
	__atomic_store_n((u64 *)(t.mem + 0x300008), 1, __ATOMIC_SEQ_CST);
	pthread_join(thread, &result);
	assert_null(result);
	assert_int_equal(t.run[0]->exit_reason, KVM_EXIT_HLT);
	api_vm_free(&t);
}

/* The client's mapping refuses: -EFAULT, and the process lives. */
static void client_mapping_gone(void **state)
{
	struct api_vm t;
	u8 *p = pages(1);

	api_vm_make(&t, 1, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x40000, t.mem), 0);
	assert_int_equal(api_slot(&t, 1, 0, 0x40000, 0x1000, p), 0);
	mprotect(p, 4096, PROT_NONE);
	api_start16(&t, 0, peek_begin, API_SIZE(peek));
	assert_errno(api_run(&t, 0), EFAULT);
	mprotect(p, 4096, PROT_READ | PROT_WRITE);
	p[0] = 0x3c;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x3c);
	mprotect(p, 4096, PROT_READ);
	assert_errno(api_run(&t, 0), EFAULT);
	assert_int_equal(p[1], 0);
	mprotect(p, 4096, PROT_READ | PROT_WRITE);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(p[1], 0x55);
	api_vm_free(&t);
	munmap(p, 4096);
}

/* Address 0 of the client is as good as any, until somebody looks there. */
static void client_address_0(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x40000, t.mem), 0);
	assert_int_equal(api_slot(&t, 1, 0, 0x40000, 0x2000, NULL), 0);
	api_start16(&t, 0, peek_begin, API_SIZE(peek));
	assert_errno(api_run(&t, 0), EFAULT);
	assert_int_equal(api_slot(&t, 1, 0, 0, 0, NULL), 0);
	assert_int_equal(api_slot(&t, 1, 0, 0x40000, 0x1000, t.mem + 0x40000), 0);
	t.mem[0x40000] = 0x3c;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x3c);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused),
		cmocka_unit_test(read_only),
		cmocka_unit_test(moved_and_deleted),
		cmocka_unit_test(while_running),
		cmocka_unit_test(everything_comes_back),
		cmocka_unit_test(client_mapping_gone),
		cmocka_unit_test(client_address_0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
