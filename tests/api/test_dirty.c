/* The dirty log: bitmap, manual clear, initially set, ring; nothing is lost under a running vCPU. */
#include "api.h"

#include <pthread.h>

#define LOG_GPA	  0x200000u
#define LOG_PAGES 64u

API_CODE64(touch, "mov $0x200000, %edi; movb $1, (%rdi); movb $1, 0x3000(%rdi);"
		  "out %al, $0x10; movb $2, 0x3000(%rdi); movb $1, 0x5000(%rdi); hlt");

static void log_vm(struct api_vm *t, u32 flags)
{
	api_vm_make(t, 1, 0);
	api_slot(t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(t, 0, 0, 0, LOG_GPA, t->mem), 0);
	assert_int_equal(api_slot(t, 1, flags, LOG_GPA, LOG_PAGES * 4096, t->mem + LOG_GPA), 0);
	api_start64(t, 0, touch_begin, API_SIZE(touch));
}

static u64 get_log(struct api_vm *t)
{
	u64 bits = ~0ull;
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = &bits};

	assert_int_equal(api_ioctl(t->vm, KVM_GET_DIRTY_LOG, &log), 0);
	return bits;
}

static void bitmap(void **state)
{
	struct kvm_dirty_log log = {.slot = 0};
	struct api_vm t;
	u64 bits;

	log_vm(&t, KVM_MEM_LOG_DIRTY_PAGES);
	assert_int_equal(get_log(&t), 0);
	api_run_to_out(&t, 0, 0x10);
	assert_int_equal(get_log(&t), 1 | 1 << 3);
	assert_int_equal(get_log(&t), 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(get_log(&t), 1 << 3 | 1 << 5);
	log.dirty_bitmap = &bits;
	assert_errno(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), ENOENT); /* does not log */
	log.slot = 7;
	assert_errno(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), ENOENT);
	log.slot = 2u << 16;
	assert_errno(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), EINVAL);
	log.slot = 1;
	log.dirty_bitmap = NULL;
	assert_errno(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), EFAULT);
	api_vm_free(&t);
}

static void switched_on_late(void **state)
{
	struct api_vm t;

	log_vm(&t, 0);
	api_run_to_out(&t, 0, 0x10);
	assert_int_equal(api_slot(&t, 1, KVM_MEM_LOG_DIRTY_PAGES, LOG_GPA, LOG_PAGES * 4096,
				  t.mem + LOG_GPA),
			 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(get_log(&t), 1 << 3 | 1 << 5);
	api_vm_free(&t);
}

static void manual(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				     .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
	u64 bits = 1;
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = 64, .dirty_bitmap = &bits};
	struct api_vm t;

	log_vm(&t, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(api_slot(&t, 1, KVM_MEM_LOG_DIRTY_PAGES, LOG_GPA, LOG_PAGES * 4096,
				  t.mem + LOG_GPA),
			 0);
	api_run_to_out(&t, 0, 0x10);
	assert_int_equal(get_log(&t), 1 | 1 << 3);
	assert_int_equal(get_log(&t), 1 | 1 << 3);
	assert_int_equal(api_ioctl(t.vm, KVM_CLEAR_DIRTY_LOG, &clear), 0);
	assert_int_equal(get_log(&t), 1 << 3);
	clear.first_page = 1;
	assert_errno(api_ioctl(t.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	clear.first_page = 64;
	assert_errno(api_ioctl(t.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	clear.first_page = 0;
	clear.num_pages = 33; /* neither a multiple of 64 nor to the end */
	assert_errno(api_ioctl(t.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	cap.args[0] = KVM_DIRTY_LOG_INITIALLY_SET;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 8;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	api_vm_free(&t);
}

static void initially_set(void **state)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET}};
	struct api_vm t;

	log_vm(&t, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(api_slot(&t, 1, KVM_MEM_LOG_DIRTY_PAGES, LOG_GPA, LOG_PAGES * 4096,
				  t.mem + LOG_GPA),
			 0);
	assert_true(get_log(&t) == ~0ull);
	api_vm_free(&t);
}

/* A VM whose only vCPU has a ring of 256 entries; memory in slot 0 below the log, in slot 1 from there. */
static struct kvm_dirty_gfn *ring_vm(struct api_vm *t, u32 flags, u64 pages)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = {4096}};
	struct kvm_dirty_gfn *r;
	struct kvm_cpuid2 *cpuid;

	assert_int_equal(api_ioctl(t->vm, KVM_ENABLE_CAP, &cap), 0);
	assert_errno(api_ioctl(t->vm, KVM_ENABLE_CAP, &cap), EINVAL);
	t->vcpu[0] = api_ioctl_value(t->vm, KVM_CREATE_VCPU, 0);
	t->run[0] = anykvm_mmap(t->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu[0], 0);
	cpuid = api_supported_cpuid(t->kvm);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
	assert_ptr_equal(anykvm_mmap(4096, PROT_READ, MAP_PRIVATE, t->vcpu[0], 64 * 4096),
			 MAP_FAILED);
	r = anykvm_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, t->vcpu[0], 64 * 4096);
	assert_ptr_not_equal(r, MAP_FAILED);
	assert_int_equal(api_slot(t, 0, 0, 0, LOG_GPA, t->mem), 0);
	assert_int_equal(api_slot(t, 1, flags, LOG_GPA, pages * 4096, t->mem + LOG_GPA), 0);
	return r;
}

static void ring(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = {4095}};
	struct kvm_dirty_gfn *r;
	struct kvm_dirty_log log = {.slot = 1};
	struct kvm_regs regs = {.rip = API_CODE, .rsp = API_STACK, .rflags = 2};
	struct api_vm t;

	api_vm_make(&t, 0, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 1 << 24;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), E2BIG);
	assert_errno(api_ioctl_value(t.vm, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
	r = ring_vm(&t, KVM_MEM_LOG_DIRTY_PAGES, LOG_PAGES);
	api_start64(&t, 0, touch_begin, API_SIZE(touch));
	api_set_regs(&t, 0, &regs);
	assert_errno(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), ENXIO);
	api_run_to_out(&t, 0, 0x10);
	assert_int_equal(r[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	assert_int_equal(r[0].slot, 1);
	assert_int_equal(r[0].offset, 0);
	assert_int_equal(r[1].offset, 3);
	assert_int_equal(r[2].flags, 0);
	r[0].flags = r[1].flags = KVM_DIRTY_GFN_F_RESET;
	assert_int_equal(api_ioctl_value(t.vm, KVM_RESET_DIRTY_RINGS, 0), 2);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(r[2].offset, 3); /* written again after the reset */
	assert_int_equal(r[3].offset, 5);
	/* An entry that the client spoiled is ignored. */
	r[2].slot = 0xffffffff;
	r[3].offset = ~0ull;
	r[2].flags = r[3].flags = KVM_DIRTY_GFN_F_RESET;
	assert_int_equal(api_ioctl_value(t.vm, KVM_RESET_DIRTY_RINGS, 0), 2);
	anykvm_munmap(r, 4096);
	api_vm_free(&t);
}

/* Each page counts its writes; every count must be matched by a report that follows it. */
API_CODE64(storm, "mov $0x200000, %edi; 1: mov %rdi, %rax; mov $64, %ecx;"
		  "2: incq (%rax); add $0x1000, %rax; dec %ecx; jnz 2b;"
		  "cmpq $0, 0x1f0000; je 1b; hlt");

static void *runner(void *arg)
{
	struct api_vm *t = arg;

	while (!api_ioctl_value(t->vcpu[0], KVM_RUN, 0))
		if (t->run[0]->exit_reason == KVM_EXIT_HLT)
			return t;
	return NULL;
}

static void nothing_lost(void **state)
{
	u64 copy[LOG_PAGES] = {0};
	struct api_vm t;
	pthread_t thread;
	void *ok;

	log_vm(&t, KVM_MEM_LOG_DIRTY_PAGES);
	api_start64(&t, 0, storm_begin, API_SIZE(storm));
	pthread_create(&thread, NULL, runner, &t);
	for (int i = 0; i <= 2000; i++) {
		u64 bits;

		if (i == 2000) {
			__atomic_store_n((u64 *)(t.mem + 0x1f0000), 1, __ATOMIC_SEQ_CST);
			pthread_join(thread, &ok);
			assert_non_null(ok);
		}
		bits = get_log(&t);
		for (unsigned p = 0; p < LOG_PAGES; p++)
			if (bits >> p & 1)
				copy[p] = __atomic_load_n((u64 *)(t.mem + LOG_GPA + 4096 * p),
							  __ATOMIC_SEQ_CST);
	}
	for (unsigned p = 0; p < LOG_PAGES; p++)
		assert_int_equal(copy[p], *(u64 *)(t.mem + LOG_GPA + 4096 * p));
	api_vm_free(&t);
}

/*
 * Stores to more pages than the ring has entries, in a row of code with nothing in it that comes back to the dispatcher, translated
 * before the log began: none is lost, and the ring takes what comes after it was emptied.
 */
static void ring_long_row(void **state)
{
	enum { PAGES = 480, ENTRIES = 256 };
	struct kvm_regs regs = {.rip = API_CODE, .rsp = API_STACK, .rflags = 2};
	u8 code[8 * PAGES + 16], *p = code, seen[PAGES];
	struct kvm_dirty_gfn *r;
	struct api_vm t;
	unsigned at = 0;
	s32 back;

	for (u32 i = 0; i < PAGES; i++) { /* movb $1, LOG_GPA + i * 4096 */
		u32 to = LOG_GPA + i * 4096;

		memcpy(p, "\xc6\x04\x25", 3);
		memcpy(p + 3, &to, 4);
		p[7] = 1;
		p += 8;
	}
	memcpy(p, "\xe6\x50\xe9", 3); /* out %al, $0x50; jmp code */
	back = -(s32)(p + 7 - code);
	memcpy(p + 3, &back, 4);
	api_vm_make(&t, 0, 0);
	api_slot(&t, 0, 0, 0, 0, NULL);
	r = ring_vm(&t, 0, PAGES);
	api_start64(&t, 0, code, (size_t)(p + 7 - code));
	api_set_regs(&t, 0, &regs);
	for (unsigned i = 0; i < 3; i++)
		api_run_to_out(&t, 0, 0x50);
	assert_int_equal(
		api_slot(&t, 1, KVM_MEM_LOG_DIRTY_PAGES, LOG_GPA, PAGES * 4096, t.mem + LOG_GPA),
		0);
	for (unsigned pass = 0; pass < 3; pass++) {
		unsigned full = 0;
		u32 exit;

		memset(seen, 0, sizeof(seen));
		do {
			int n = 0;

			assert_int_equal(api_run(&t, 0), 0);
			exit = t.run[0]->exit_reason;
			for (; r[at].flags & KVM_DIRTY_GFN_F_DIRTY; at = (at + 1) % ENTRIES, n++) {
				assert_in_range(r[at].offset, 0, PAGES - 1);
				seen[r[at].offset]++;
				r[at].flags = KVM_DIRTY_GFN_F_RESET;
			}
			assert_int_equal(api_ioctl_value(t.vm, KVM_RESET_DIRTY_RINGS, 0), n);
			full += exit == KVM_EXIT_DIRTY_RING_FULL;
		} while (exit == KVM_EXIT_DIRTY_RING_FULL && full < 10);
		assert_int_equal(exit, KVM_EXIT_IO);
		assert_in_range(full, 1, 3);
		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(seen[i], 1);
	}
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bitmap),	cmocka_unit_test(switched_on_late),
		cmocka_unit_test(manual),	cmocka_unit_test(initially_set),
		cmocka_unit_test(ring),		cmocka_unit_test(ring_long_row),
		cmocka_unit_test(nothing_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
