/* Four vCPUs on their threads: IPIs through HLT, while the client changes what it can change. */
#include "api.h"

#include <pthread.h>

#define CPUS 4

/*
 * Each CPU counts the interrupts it gets at 0x100000 + 64 × id, sends one to the next CPU and
 * halts, until the flag at 0x110000 is set. x2APIC: ICR is MSR 0x830. EBP: own id.
 */
API_CODE64(ring,
	   "mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr;"
	   "mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; wrmsr;"
	   "mov $0x802, %ecx; rdmsr; mov %eax, %ebp;"
	   "lock incl 0x110008; 3: pause; cmpl $4, 0x110008; jb 3b; sti;"
	   "test %ebp, %ebp; jnz 1f;"
	   "2: lea 1(%rbp), %edx; and $3, %edx; mov $0x4050, %eax; mov $0x830, %ecx; wrmsr;"
	   "1: cmpq $0, 0x110000; jne 9f; hlt; cmpq $0, 0x110000; je 2b; 9: cli; 8: hlt; jmp 8b");
API_CODE64(isr, "push %rax; push %rcx; push %rdx; mov %ebp, %eax; shl $6, %eax;"
		"incq 0x100000(%rax); xor %eax, %eax; xor %edx, %edx; mov $0x80b, %ecx; wrmsr;"
		"pop %rdx; pop %rcx; pop %rax; iretq");

struct worker {
	struct api_vm *t;
	unsigned vcpu;
	bool stop;
};

static void *worker(void *arg)
{
	struct worker *w = arg;

	while (!__atomic_load_n(&w->stop, __ATOMIC_SEQ_CST)) {
		int ret = api_ioctl_value(w->t->vcpu[w->vcpu], KVM_RUN, 0);

		if (ret && ret != -EINTR && ret != -EAGAIN)
			return w;
		if (!ret && w->t->run[w->vcpu]->exit_reason == KVM_EXIT_SHUTDOWN)
			return w;
	}
	return NULL;
}

static void disturb(struct api_vm *t, unsigned i)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000 | (i % CPUS) << 12, .data = 0x50};
	u64 bits[API_MEM_SIZE / 4096 / 64];
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	struct kvm_clock_data clock;

	switch (i % 5) {
	case 0:
		api_slot(t, 2, 0, 0x40000000, 0x1000, t->mem);
		break;
	case 1:
		api_slot(t, 2, 0, 0, 0, NULL);
		break;
	case 2:
		api_ioctl(t->vm, KVM_GET_DIRTY_LOG, &log);
		break;
	case 3:
		anykvm_kick(t->vcpu[i % CPUS]);
		api_ioctl(t->vm, KVM_GET_CLOCK, &clock);
		break;
	default:
		assert_true(api_ioctl(t->vm, KVM_SIGNAL_MSI, &msi) >= 0);
	}
}

static void ipis_in_a_ring(void **state)
{
	struct worker w[CPUS];
	pthread_t thread[CPUS];
	struct api_vm t;
	u64 before = 0, total = 0;

	api_vm_make(&t, CPUS, API_IRQCHIP);
	api_slot(&t, 0, 0, 0, 0, NULL);
	assert_int_equal(api_slot(&t, 0, 0, 0, 0x100000, t.mem), 0);
	assert_int_equal(api_slot(&t, 1, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, API_MEM_SIZE - 0x100000,
				  t.mem + 0x100000),
			 0);
	memcpy(t.mem + API_CODE, ring_begin, API_SIZE(ring));
	memcpy(t.mem + 0x9000, isr_begin, API_SIZE(isr));
	for (unsigned i = 0; i < CPUS; i++) {
		struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};

		api_start64_at(&t, i, API_CODE);
		assert_int_equal(api_ioctl(t.vcpu[i], KVM_SET_MP_STATE, &mp), 0);
	}
	api_idt64(&t, 0x50, 0x9000);
	for (unsigned i = 0; i < CPUS; i++) {
		w[i] = (struct worker){.t = &t, .vcpu = i};
		pthread_create(&thread[i], NULL, worker, &w[i]);
	}
	for (unsigned i = 0; i < 600; i++) {
		disturb(&t, i);
		if (i % 20 == 0)
			usleep(2000);
		if (i == 300)
			for (unsigned c = 0; c < CPUS; c++)
				before += __atomic_load_n((u64 *)(t.mem + 0x100000 + 64 * c),
							  __ATOMIC_RELAXED);
	}
	__atomic_store_n((u64 *)(t.mem + 0x110000), 1, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < CPUS; i++) {
		void *ret;

		__atomic_store_n(&w[i].stop, true, __ATOMIC_SEQ_CST);
		anykvm_kick(t.vcpu[i]);
		pthread_join(thread[i], &ret);
		assert_null(ret);
		total += *(u64 *)(t.mem + 0x100000 + 64 * i);
	}
	assert_true(before > 0 && total > before);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ipis_in_a_ring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
