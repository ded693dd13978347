/*
 * Four vCPUs on their threads: IPIs through HLT, while the client changes what it can change. Two, that store side by
 * side.
 */
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

/* Stores of one or two elements under a mask, across two pages, until the other is done. */
API_CODE64(masked_bytes, "mov $0x80, %eax; movd %eax, %xmm1; movd %eax, %xmm0; mov $0x200ff8, %edi;"
			 "1: maskmovdqu %xmm1, %xmm0; cmpl $0, 0x210000; je 1b; hlt");
API_CODE64(masked_words, "mov $0x80000000, %eax; movd %eax, %xmm1; pslldq $12, %xmm1;"
			 "movd %eax, %xmm0; por %xmm0, %xmm1; mov $0x200ff8, %edi;"
			 "1: vmaskmovps %xmm0, %xmm1, (%rdi); cmpl $0, 0x210000; je 1b; hlt");
API_CODE64(counting, "mov $300000, %ecx; 1: lock incl 0x200ffc; dec %ecx; jnz 1b;"
		     "movl $1, 0x210000; hlt");

struct runner {
	struct api_vm *t;
	unsigned vcpu;
};

static void *run_to_halt(void *arg)
{
	struct runner *r = arg;

	return api_run(r->t, r->vcpu) || r->t->run[r->vcpu]->exit_reason != KVM_EXIT_HLT ? r : NULL;
}

/* What the mask leaves out is not written, not even with what was there a moment before. */
static void masked_stores(void **state)
{
	static const struct {
		const u8 *code, *end;
	} rows[] = {{masked_bytes_begin, masked_bytes_end}, {masked_words_begin, masked_words_end}};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct api_vm t;
		struct runner storing = {.t = &t, .vcpu = 0}, other = {.t = &t, .vcpu = 1};
		void *failed[2];
		pthread_t a, b;

		api_vm_make(&t, 2, 0);
		api_start64(&t, 0, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		memcpy(t.mem + 0x9000, counting_begin, API_SIZE(counting));
		api_start64_at(&t, 1, 0x9000);
		for (unsigned n = 0; n < 2; n++) {
			struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.value = 7}}};
			struct kvm_sregs s;

			api_ioctl(t.vcpu[n], KVM_GET_SREGS, &s);
			s.cr4 |= 0x40600; /* OSXSAVE, OSXMMEXCPT, OSFXSR */
			s.cr0 = (s.cr0 & ~0xcull) | 2;
			assert_int_equal(api_ioctl(t.vcpu[n], KVM_SET_SREGS, &s), 0);
			assert_int_equal(api_ioctl(t.vcpu[n], KVM_SET_XCRS, &x), 0);
		}
		pthread_create(&a, NULL, run_to_halt, &storing);
		pthread_create(&b, NULL, run_to_halt, &other);
		pthread_join(a, &failed[0]);
		pthread_join(b, &failed[1]);
		assert_null(failed[0]);
		assert_null(failed[1]);
		assert_int_equal(*(u32 *)(t.mem + 0x200ffc), 300000);
		api_vm_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ipis_in_a_ring),
		cmocka_unit_test(masked_stores),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
