/* Time: KVM_GET/SET_CLOCK, TSC rate and offset, synchronisation, the kvmclock page. */
#include "api.h"

#include <time.h>

#define MSR_TSC		    0x10
#define MSR_SYSTEM_TIME_NEW 0x4b564d01

static void clock_data(void **state)
{
	struct kvm_clock_data d = {0};
	struct api_vm t;
	u64 before;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_GET_CLOCK, &d), 0);
	assert_in_range(d.clock, 0, 60000000000ull);
	assert_int_equal(d.flags & KVM_CLOCK_HOST_TSC, KVM_CLOCK_HOST_TSC);
	before = d.clock;
	usleep(2000);
	api_ioctl(t.vm, KVM_GET_CLOCK, &d);
	assert_true(d.clock >= before + 1000000);
	d = (struct kvm_clock_data){.clock = 3600000000000ull};
	assert_int_equal(api_ioctl(t.vm, KVM_SET_CLOCK, &d), 0);
	api_ioctl(t.vm, KVM_GET_CLOCK, &d);
	assert_in_range(d.clock, 3600000000000ull, 3660000000000ull);
	d.flags = KVM_CLOCK_HOST_TSC;
	assert_int_equal(api_ioctl(t.vm, KVM_SET_CLOCK, &d), 0); /* has no meaning, may come back */
	d.flags = 1u << 20;
	assert_errno(api_ioctl(t.vm, KVM_SET_CLOCK, &d), EINVAL);
	api_vm_free(&t);
}

static void tsc_sync(void **state)
{
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};
	u64 offset[2];
	struct api_vm t;

	api_vm_make(&t, 2, 0);
	assert_int_equal(api_set_msr(&t, 0, MSR_TSC, 1ull << 40), 1);
	usleep(1000);
	assert_int_equal(api_set_msr(&t, 1, MSR_TSC, 1ull << 40), 1);
	for (unsigned i = 0; i < 2; i++) {
		attr.addr = (u64)&offset[i];
		assert_int_equal(api_ioctl(t.vcpu[i], KVM_HAS_DEVICE_ATTR, &attr), 0);
		assert_int_equal(api_ioctl(t.vcpu[i], KVM_GET_DEVICE_ATTR, &attr), 0);
	}
	assert_true(offset[0] == offset[1]);
	/* Far away: a value of its own. */
	assert_int_equal(api_set_msr(&t, 1, MSR_TSC, 1ull << 50), 1);
	assert_true(api_msr(&t, 1, MSR_TSC) > api_msr(&t, 0, MSR_TSC) + (1ull << 49));
	attr.attr = 9;
	assert_errno(api_ioctl(t.vcpu[0], KVM_HAS_DEVICE_ATTR, &attr), ENXIO);
	attr.attr = KVM_VCPU_TSC_OFFSET;
	attr.addr = 0;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_DEVICE_ATTR, &attr), EFAULT);
	api_vm_free(&t);
}

API_CODE64(two_tsc, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; out %al, $0x10;"
		    "rdtsc; shl $32, %rdx; or %rdx, %rax; sub %rbx, %rax; hlt");

static void tsc_scaling(void **state)
{
	struct timespec a, b, wait = {.tv_nsec = 50000000};
	struct api_vm t;
	u64 ns, ticks, khz;
	int host;

	api_vm_make(&t, 1, 0);
	host = api_ioctl_value(t.vcpu[0], KVM_GET_TSC_KHZ, 0);
	assert_true(host > 100000);
	khz = (u64)host / 2;
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_SET_TSC_KHZ, khz), 0);
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_GET_TSC_KHZ, 0), khz);
	api_start64(&t, 0, two_tsc_begin, API_SIZE(two_tsc));
	api_run_to_out(&t, 0, 0x10);
	clock_gettime(CLOCK_MONOTONIC, &a);
	nanosleep(&wait, NULL);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = (u64)(b.tv_sec - a.tv_sec) * 1000000000u + (u64)b.tv_nsec - (u64)a.tv_nsec;
	ticks = api_regs(&t, 0).rax;
	assert_in_range(ticks, 50 * khz, ns * khz / 1000000 * 13 / 10 + khz);
	assert_errno(api_ioctl_value(t.vcpu[0], KVM_SET_TSC_KHZ, 0x7fffffff), EINVAL);
	api_vm_free(&t);
}

struct pvclock {
	u32 version, pad;
	u64 tsc, time;
	u32 mul;
	s8 shift;
	u8 flags, pad2[2];
};

static void kvmclock_page(void **state)
{
	struct pvclock *p;
	struct kvm_clock_data d;
	struct api_vm t;
	u64 delta, ns;

	api_vm_make(&t, 1, 0);
	p = (struct pvclock *)(t.mem + 0x20000);
	assert_errno(api_ioctl_value(t.vcpu[0], KVM_KVMCLOCK_CTRL, 0), EINVAL); /* not set up */
	assert_int_equal(api_set_msr(&t, 0, MSR_SYSTEM_TIME_NEW, 0x20000 | 1), 1);
	api_start16(&t, 0, (const u8 *)"\xf4", 1);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_true(p->version && !(p->version & 1));
	assert_int_equal(p->flags & 1, 1);
	api_ioctl(t.vm, KVM_GET_CLOCK, &d);
	delta = api_msr(&t, 0, MSR_TSC) - p->tsc;
	delta = p->shift < 0 ? delta >> -p->shift : delta << p->shift;
	ns = p->time + (u64)((unsigned __int128)delta * p->mul >> 32);
	assert_in_range(ns, d.clock, d.clock + 1000000000);
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_KVMCLOCK_CTRL, 0), 0);
	api_start16(&t, 0, (const u8 *)"\xf4", 1);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(p->flags & 2, 2); /* "the guest was stopped" */
	api_vm_free(&t);
}

static void clock_page_again(struct api_vm *t)
{
	struct kvm_clock_data d = {.clock = 1000000000};

	assert_int_equal(api_ioctl(t->vm, KVM_SET_CLOCK, &d), 0);
	api_start16(t, 0, (const u8 *)"\xf4", 1);
	api_run_expect(t, 0, KVM_EXIT_HLT);
}

/* The page's version goes on from what is there; "stopped" is the guest's to clear. */
static void kvmclock_page_goes_on(void **state)
{
	static const struct {
		u32 before, after;
	} rows[] = {{0, 2}, {100, 102}, {101, 104}, {~1u, 0}, {~0u, 2}};
	struct pvclock *p;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	p = (struct pvclock *)(t.mem + 0x20000);
	assert_int_equal(api_set_msr(&t, 0, MSR_SYSTEM_TIME_NEW, 0x20000 | 1), 1);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		p->version = rows[i].before;
		clock_page_again(&t);
		assert_int_equal(p->version, rows[i].after);
		assert_int_equal(p->flags & 2, 0);
	}
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_KVMCLOCK_CTRL, 0), 0);
	for (unsigned i = 0; i < 3; i++) {
		clock_page_again(&t);
		assert_int_equal(p->flags & 2, 2);
	}
	p->flags = 0xfd;
	clock_page_again(&t);
	assert_int_equal(p->flags, 1);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clock_data),
		cmocka_unit_test(tsc_sync),
		cmocka_unit_test(tsc_scaling),
		cmocka_unit_test(kvmclock_page),
		cmocka_unit_test(kvmclock_page_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
