/* The system descriptor: options, and what needs no VM. */
#include "cpu/cpuid.h"
#include "cpu/model.h"
#include "jit/jit.h"
#include "kvm/clock.h"
#include "kvm/cpuid.h"
#include "kvm/ioctl.h"
#include "kvm/msr.h"
#include "kvm/pages.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHE_MB_MIN 8
#define CACHE_MB_MAX 1024

/* FD, or FD:NAME+NAME… */
static int trace_parse(struct trace *t, const char *o, size_t n)
{
	const char *end = o + n;

	for (t->fd = 0; o < end && *o >= '0' && *o <= '9' && t->fd < 1 << 20; o++)
		t->fd = t->fd * 10 + (*o - '0');
	if (o == end && n) {
		t->points = ~0ull;
		return 0;
	}
	while (o < end && (*o == ':' || *o == '+')) {
		const char *name = ++o;
		int point;

		while (o < end && *o != '+')
			o++;
		point = trace_find(name, (size_t)(o - name));
		if (point < 0)
			return -EINVAL;
		t->points |= BIT64(point);
	}
	return o == end && t->points ? 0 : -EINVAL;
}

/* One option of the list; `n` is its length. */
static int option_parse(struct system *sys, const char *o, size_t n)
{
	if (!n)
		return 0;
	if (n == 12 && !memcmp(o, "vendor=intel", n)) {
		sys->vendor = CPU_VENDOR_INTEL;
	} else if (n == 10 && !memcmp(o, "vendor=amd", n)) {
		sys->vendor = CPU_VENDOR_AMD;
	} else if (n > 6 && n < 12 && !memcmp(o, "cache=", 6)) {
		u32 mb = 0;

		for (size_t i = 6; i < n; i++) {
			if (o[i] < '0' || o[i] > '9')
				return -EINVAL;
			mb = mb * 10 + (u32)(o[i] - '0');
		}
		if (mb < CACHE_MB_MIN || mb > CACHE_MB_MAX)
			return -EINVAL;
		sys->cache_bytes = (size_t)mb << 20;
	} else if (n > 4 && !memcmp(o, "cpu=", 4)) {
		sys->model = cpu_model_find(o + 4, n - 4);
		if (!sys->model)
			return -EINVAL;
		sys->vendor = sys->model->vendor;
	} else if (n > 6 && !memcmp(o, "trace=", 6)) {
		return trace_parse(&sys->trace, o + 6, n - 6);
	} else if (n == 7 && !memcmp(o, "perfmap", n)) {
		sys->perfmap = true;
	} else {
		return -EINVAL;
	}
	return 0;
}

static int options_parse(struct system *sys, const char *options)
{
	while (options && *options) {
		size_t n = strcspn(options, ",");
		int ret = option_parse(sys, options, n);

		if (ret)
			return ret;
		options += n;
		options += *options == ',';
	}
	return 0;
}

void system_get(struct system *sys)
{
	__atomic_fetch_add(&sys->refs, 1, __ATOMIC_RELAXED);
}

void system_put(struct system *sys)
{
	if (__atomic_fetch_sub(&sys->refs, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	free(sys->supported);
	free(sys);
}

static int fail(int error)
{
	errno = error;
	return -1;
}

int anykvm_open(const char *options)
{
	struct system *sys = calloc(1, sizeof(*sys));
	int ret;

	if (!sys)
		return fail(ENOMEM);
	sys->refs = 1;
	sys->vendor = CPU_VENDOR_INTEL;
	sys->cache_bytes = 256u << 20;
	sys->parameters = pages_parameters;
	clock_host_begin();
	ret = options_parse(sys, options);
	if (!ret)
		ret = jit_signal_install();
	if (!ret)
		ret = cpuid_system_init(sys);
	if (!ret)
		ret = fd_create(&fd_system_ops, sys);
	if (ret < 0) {
		system_put(sys);
		return fail(-ret);
	}
	return ret;
}

int sys_get_api_version(struct system *sys, void *data, unsigned long arg)
{
	return arg ? -EINVAL : KVM_API_VERSION;
}

int sys_create_vm(struct system *sys, void *data, unsigned long arg)
{
	return vm_create(sys, arg);
}

int sys_get_vcpu_mmap_size(struct system *sys, void *data, unsigned long arg)
{
	return arg ? -EINVAL : (int)(VCPU_RUN_PAGES * PAGE_SIZE);
}

int sys_get_mce_cap(struct system *sys, void *data, unsigned long arg)
{
	*(u64 *)data = mce_cap_supported(sys);
	return 0;
}

int sys_has_device_attr(struct system *sys, void *data, unsigned long arg)
{
	const struct kvm_device_attr *attr = data;

	if (attr->group || attr->attr != KVM_X86_XCOMP_GUEST_SUPP)
		return -ENXIO;
	return 0;
}

int sys_get_device_attr(struct system *sys, void *data, unsigned long arg)
{
	const struct kvm_device_attr *attr = data;
	u64 value = cpu_xcr0_supported();

	if (sys_has_device_attr(sys, data, arg))
		return -ENXIO;
	return user_copy_out(attr->addr, &value, sizeof(value));
}
