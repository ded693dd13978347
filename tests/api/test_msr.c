/* MSRs: lists, batches, the filter, exits to user space. */
#include "api.h"

#define TSC	0x10
#define STAR	0xc0000081
#define UNKNOWN 0x12345

static void index_list(void **state)
{
	int kvm = api_open(NULL);
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + 1024 * 4);
	bool star = false, tsc = false;

	assert_errno(api_ioctl(kvm, KVM_GET_MSR_INDEX_LIST, l), E2BIG);
	assert_in_range(l->nmsrs, 10, 1024);
	assert_int_equal(api_ioctl(kvm, KVM_GET_MSR_INDEX_LIST, l), 0);
	for (u32 i = 0; i < l->nmsrs; i++) {
		star |= l->indices[i] == STAR;
		tsc |= l->indices[i] == TSC;
	}
	assert_true(star && tsc);
	l->nmsrs = 0;
	assert_errno(api_ioctl(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, l), E2BIG);
	assert_int_equal(api_ioctl(kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, l), 0);
	free(l);
	anykvm_close(kvm);
}

/* A batch ends at the first entry that fails, and says how far it came. */
static void batches(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[3];
	} m = {.head.nmsrs = 3,
	       .e = {{.index = STAR, .data = 0x1111},
		     {.index = UNKNOWN},
		     {.index = 0xc0000082, .data = 0x2222}}};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_MSRS, &m), 1);
	assert_int_equal(api_msr(&t, 0, STAR), 0x1111);
	assert_int_equal(api_msr(&t, 0, 0xc0000082), 0);
	m.head.nmsrs = 257;
	assert_errno(api_ioctl(t.vcpu[0], KVM_GET_MSRS, &m), E2BIG);
	api_vm_free(&t);
}

API_CODE64(stop, "hlt");

/* What the guest's processor is can be set until it runs; then only what is there already, but for the
 * microcode. */
static void fixed_by_running(void **state)
{
	static const u32 index[] = {0x10a, 0x345, 0x480, 0x48b};
	u64 value[ARRAY_SIZE(index)];
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, stop_begin, API_SIZE(stop));
	assert_int_equal(api_set_msr(&t, 0, 0x10a, 0x2b), 1);
	for (unsigned i = 0; i < ARRAY_SIZE(index); i++)
		value[i] = api_msr(&t, 0, index[i]);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	for (unsigned i = 0; i < ARRAY_SIZE(index); i++) {
		assert_int_equal(api_set_msr(&t, 0, index[i], value[i]), 1);
		assert_int_equal(api_set_msr(&t, 0, index[i], value[i] ^ BIT64(31)), 0);
		assert_true(api_msr(&t, 0, index[i]) == value[i]);
	}
	assert_int_equal(api_set_msr(&t, 0, 0x8b, 0x700000000), 1);
	assert_true(api_msr(&t, 0, 0x8b) == 0x700000000);
	assert_int_equal(api_set_msr(&t, 0, 0xce, 0x8000ff00), 1); /* the client's, as in KVM */
	assert_true(api_msr(&t, 0, 0xce) == 0x8000ff00);
	api_vm_free(&t);
}

API_CODE64(rdmsr, "mov $0x12345, %ecx; rdmsr; out %eax, $0x10; mov $0x77, %eax; wrmsr; hlt");
API_CODE64(gp, "mov $0x6770, %eax; out %eax, $0x10; hlt");

static void start_rdmsr(struct api_vm *t, unsigned flags)
{
	api_vm_make(t, 1, flags);
	api_start64(t, 0, rdmsr_begin, API_SIZE(rdmsr));
	memcpy(t->mem + 0x9000, gp_begin, API_SIZE(gp));
	api_idt64(t, 13, 0x9000);
}

static void unknown_is_gp(void **state)
{
	struct api_vm t;

	start_rdmsr(&t, 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x6770);
	api_vm_free(&t);
}

static void unknown_to_user_space(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args = {KVM_MSR_EXIT_REASON_UNKNOWN}};
	struct api_vm t;

	start_rdmsr(&t, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	api_run_expect(&t, 0, KVM_EXIT_X86_RDMSR);
	assert_int_equal(t.run[0]->msr.index, UNKNOWN);
	assert_int_equal(t.run[0]->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
	t.run[0]->msr.data = 0xcafe;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0xcafe);
	api_run_expect(&t, 0, KVM_EXIT_X86_WRMSR);
	assert_int_equal(t.run[0]->msr.data & 0xffffffff, 0x77);
	t.run[0]->msr.error = 1;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x6770); /* #GP */
	cap.args[0] = 1 << 20;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	api_vm_free(&t);
}

API_CODE64(rdstar, "mov $0xc0000081, %ecx; rdmsr; out %eax, $0x10; hlt");

static void filter(void **state)
{
	u8 bitmap[8] = {0xfd};
	struct kvm_msr_filter f = {
		.ranges[0] = {.flags = KVM_MSR_FILTER_READ,
			      .base = 0xc0000080,
			      .nmsrs = 64,
			      .bitmap = bitmap},
	};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				     .args = {KVM_MSR_EXIT_REASON_FILTER}};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, rdstar_begin, API_SIZE(rdstar));
	memcpy(t.mem + 0x9000, gp_begin, API_SIZE(gp));
	api_idt64(&t, 13, 0x9000);
	assert_int_equal(api_set_msr(&t, 0, STAR, 0xbeef), 1);
	assert_int_equal(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), 0);
	/* The client is not filtered; the guest is. */
	assert_int_equal(api_msr(&t, 0, STAR), 0xbeef);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x6770);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	api_start64_at(&t, 0, API_CODE);
	api_run_expect(&t, 0, KVM_EXIT_X86_RDMSR);
	assert_int_equal(t.run[0]->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	t.run[0]->msr.data = 0xf00d;
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0xf00d);
	/* Without ranges everything is allowed again. */
	memset(&f, 0, sizeof(f));
	assert_int_equal(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), 0);
	api_start64_at(&t, 0, API_CODE);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0xbeef);
	f.flags = KVM_MSR_FILTER_DEFAULT_DENY;
	assert_errno(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f.flags = 2;
	assert_errno(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f.flags = 0;
	f.ranges[0] =
		(struct kvm_msr_filter_range){.flags = 1, .nmsrs = 0x600 * 8 + 1, .bitmap = bitmap};
	assert_errno(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f.ranges[0].nmsrs = 8;
	f.ranges[0].bitmap = NULL;
	assert_errno(api_ioctl(t.vm, KVM_X86_SET_MSR_FILTER, &f), EFAULT);
	api_vm_free(&t);
}

/* What a guest may switch on of KVM's own registers where the APICs are the client's. */
static void without_apic(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_PV_EOI_EN, 0x2000 | KVM_MSR_ENABLED), 1);
	assert_int_equal(api_msr(&t, 0, MSR_KVM_PV_EOI_EN), 0x2000 | KVM_MSR_ENABLED);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_PV_EOI_EN, 0x2002 | KVM_MSR_ENABLED), 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_PV_EOI_EN, API_MEM_SIZE | KVM_MSR_ENABLED), 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_EN, 0x2000 | KVM_ASYNC_PF_ENABLED), 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_EN, 0x2000), 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_EN, 0), 1);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_INT, 0xec), 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_INT, 0), 1);
	api_vm_free(&t);
	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_PV_EOI_EN, 0x2000 | KVM_MSR_ENABLED), 1);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_EN, 0x2000 | KVM_ASYNC_PF_ENABLED), 1);
	assert_int_equal(api_set_msr(&t, 0, MSR_KVM_ASYNC_PF_INT, 0xec), 1);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(index_list),
		cmocka_unit_test(batches),
		cmocka_unit_test(fixed_by_running),
		cmocka_unit_test(unknown_is_gp),
		cmocka_unit_test(unknown_to_user_space),
		cmocka_unit_test(filter),
		cmocka_unit_test(without_apic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
