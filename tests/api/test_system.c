/* The system descriptor: version, extensions, options, life of descriptors. */
#include "api.h"

#include <fcntl.h>

static void version_and_size(void **state)
{
	int kvm = api_open(NULL);

	assert_int_equal(api_ioctl_value(kvm, KVM_GET_API_VERSION, 0), 12);
	assert_errno(api_ioctl_value(kvm, KVM_GET_API_VERSION, 1), EINVAL);
	assert_int_equal(api_ioctl_value(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 3 * 4096);
	assert_errno(api_ioctl_value(kvm, KVM_GET_VCPU_MMAP_SIZE, 1), EINVAL);
	anykvm_close(kvm);
}

static void extensions(void **state)
{
	int kvm = api_open(NULL), vm = api_ioctl_value(kvm, KVM_CREATE_VM, 0);

	assert_int_equal(api_ioctl_value(kvm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
	assert_int_equal(api_ioctl_value(kvm, KVM_CHECK_EXTENSION, 0x7fffffff), 0);
	assert_int_equal(api_ioctl_value(vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS), 1024);
	assert_int_equal(api_ioctl_value(vm, KVM_CHECK_EXTENSION, ANYKVM_CAP_VERSION), 1);
	anykvm_close(vm);
	anykvm_close(kvm);
}

static void bad_options(void **state)
{
	static const char *const bad[] = {"vendor=via", "nonsense",	     "cache=0",
					  "cache=x",	"cache=99999999999", "vendor=intel,bogus"};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		errno = 0;
		assert_int_equal(anykvm_open(bad[i]), -1);
		assert_int_equal(errno, EINVAL);
	}
}

static void wrong_descriptor(void **state)
{
	int kvm = api_open(NULL), vm = api_ioctl_value(kvm, KVM_CREATE_VM, 0);
	int vcpu = api_ioctl_value(vm, KVM_CREATE_VCPU, 0);
	int other = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_errno(api_ioctl_value(-1, KVM_GET_API_VERSION, 0), EBADF);
	assert_errno(api_ioctl_value(other, KVM_GET_API_VERSION, 0), EBADF);
	assert_errno(api_ioctl_value(kvm, KVM_RUN, 0), EINVAL);
	assert_errno(api_ioctl_value(vm, KVM_RUN, 0), ENOTTY);
	assert_errno(api_ioctl_value(vm, KVM_GET_API_VERSION, 0), ENOTTY);
	assert_errno(api_ioctl_value(vcpu, KVM_CREATE_VCPU, 1), EINVAL);
	assert_errno(api_ioctl_value(vcpu, 0xdeadbeef, 0), EINVAL);
	assert_errno(api_ioctl_value(vcpu, KVM_RUN, 1), EINVAL);
	close(other);
	anykvm_close(vcpu);
	anykvm_close(vm);
	anykvm_close(kvm);
	assert_errno(api_ioctl_value(kvm, KVM_GET_API_VERSION, 0), EBADF);
	assert_int_equal(anykvm_close(kvm), -1);
	assert_int_equal(errno, EBADF);
}

static void create_vm_type(void **state)
{
	int kvm = api_open(NULL);

	assert_errno(api_ioctl_value(kvm, KVM_CREATE_VM, 99), EINVAL);
	anykvm_close(kvm);
}

static void vcpu_ids(void **state)
{
	int kvm = api_open("cache=16"), vm = api_ioctl_value(kvm, KVM_CREATE_VM, 0), a;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MAX_VCPU_ID, .args = {4}};

	assert_int_equal(api_ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
	a = api_ioctl_value(vm, KVM_CREATE_VCPU, 3);
	assert_true(a >= 0);
	assert_errno(api_ioctl_value(vm, KVM_CREATE_VCPU, 3), EEXIST);
	assert_errno(api_ioctl_value(vm, KVM_CREATE_VCPU, 4), EINVAL);
	assert_errno(api_ioctl_value(vm, KVM_CREATE_VCPU, 1ul << 32), EINVAL);
	anykvm_close(a);
	/* A closed vCPU is still the VM's. */
	assert_errno(api_ioctl_value(vm, KVM_CREATE_VCPU, 3), EEXIST);
	anykvm_close(vm);
	anykvm_close(kvm);
}

/* A vCPU's descriptor keeps the VM, and its mapping outlives them. */
static void life(void **state)
{
	struct api_vm t;
	struct kvm_regs r;
	int copy;

	api_vm_make(&t, 1, 0);
	copy = anykvm_dup(t.vcpu[0], -1);
	assert_true(copy >= 0);
	assert_int_equal(anykvm_kind(copy), ANYKVM_VCPU);
	anykvm_close(t.vm);
	anykvm_close(t.kvm);
	anykvm_close(t.vcpu[0]);
	assert_int_equal(anykvm_kind(t.vcpu[0]), ANYKVM_NONE);
	assert_int_equal(api_ioctl(copy, KVM_GET_REGS, &r), 0);
	anykvm_close(copy);
	t.run[0]->immediate_exit = 1;
	anykvm_munmap(t.run[0], t.run_size);
	munmap(t.mem, API_MEM_SIZE);
}

static void bad_pointers(void **state)
{
	struct api_vm t;
	void *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *const bad[] = {NULL, hole, (void *)~0xfffull, (void *)0x8000000000000000ull,
			     (void *)0x0000800000000000ull};

	api_vm_make(&t, 1, API_IRQCHIP);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_errno(api_ioctl(t.vcpu[0], KVM_GET_REGS, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vcpu[0], KVM_SET_REGS, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vcpu[0], KVM_GET_MSRS, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XSAVE, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vcpu[0], KVM_GET_XSAVE, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vm, KVM_SET_USER_MEMORY_REGION, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vm, KVM_SET_GSI_ROUTING, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.vm, KVM_GET_IRQCHIP, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.kvm, KVM_GET_SUPPORTED_CPUID, bad[i]), EFAULT);
		assert_errno(api_ioctl(t.kvm, KVM_GET_MSR_INDEX_LIST, bad[i]), EFAULT);
	}
	api_vm_free(&t);
	munmap(hole, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(version_and_size),
		cmocka_unit_test(extensions),
		cmocka_unit_test(bad_options),
		cmocka_unit_test(wrong_descriptor),
		cmocka_unit_test(create_vm_type),
		cmocka_unit_test(vcpu_ids),
		cmocka_unit_test(life),
		cmocka_unit_test(bad_pointers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
