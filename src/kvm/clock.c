#include "kvm/clock.h"

#include "kvm/ioctl.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <time.h>

#define NS_PER_S    1000000000ull
#define RATE_NS	    12000000ull
#define RATE_MAX_NS (10 * NS_PER_S)
#define RATIO_ONE   BIT64(48)
/* A client may ask for a rate up to this far from the host's in thousandths without scaling. */
#define RATIO_MAX_SHIFT 16 /* highest scaling: 65536 times */
#define KHZ_END		0x7fffffffu

u64 clock_host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NS_PER_S + (u64)ts.tv_nsec;
}

/* A pair of readings taken close together: the best of a few. */
static void clock_pair(u64 *tsc, u64 *ns)
{
	u64 best = ~0ull;

	*tsc = *ns = 0;
	for (int i = 0; i < 8; i++) {
		u64 t0 = clock_host_tsc(), now = clock_host_ns(), t1 = clock_host_tsc();

		if (t1 - t0 < best) {
			best = t1 - t0;
			*tsc = t0 + (t1 - t0) / 2;
			*ns = now;
		}
	}
}

/*
 * The rate is a fact of the host, not state of ours. It is measured once in a process, over
 * RATE_NS; as many guests never ask, and nobody should wait for others' questions, that begins when
 * the system descriptor is opened and ends when somebody wants to know, who waits for the rest.
 */
static struct {
	u64 khz;
	u64 tsc, ns; /* the beginning */
	u32 begun;   /* 1: being noted; 2: noted */
} host_rate;

void clock_host_begin(void)
{
	u32 none = 0;

	if (!__atomic_compare_exchange_n(&host_rate.begun, &none, 1, false, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return;
	clock_pair(&host_rate.tsc, &host_rate.ns);
	__atomic_store_n(&host_rate.begun, 2, __ATOMIC_RELEASE);
}

static u64 host_rate_measure(void)
{
	u64 t0, n0, t1, n1, none = 0;

	clock_pair(&t1, &n1);
	t0 = t1;
	n0 = n1;
	/* Not when it is long ago: the host may have slept in between, and one clock with it. */
	if (__atomic_load_n(&host_rate.begun, __ATOMIC_ACQUIRE) == 2 &&
	    n1 - host_rate.ns < RATE_MAX_NS) {
		t0 = host_rate.tsc;
		n0 = host_rate.ns;
	}
	while (n1 - n0 < RATE_NS) {
		struct timespec wait = {.tv_nsec = (long)(RATE_NS - (n1 - n0))};

		nanosleep(&wait, NULL);
		clock_pair(&t1, &n1);
	}
	__atomic_compare_exchange_n(&host_rate.khz, &none,
				    MAX((u64)((u128)(t1 - t0) * 1000000u / (n1 - n0)), 1ull), false,
				    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	return __atomic_load_n(&host_rate.khz, __ATOMIC_RELAXED);
}

u64 clock_host_tsc_khz(void)
{
	u64 khz = __atomic_load_n(&host_rate.khz, __ATOMIC_RELAXED);

	return LIKELY(khz) ? khz : host_rate_measure();
}

u64 clock_vcpu_khz(const struct vcpu *vcpu)
{
	u64 khz = __atomic_load_n(&vcpu->tsc_khz, __ATOMIC_RELAXED);

	return khz ? khz : clock_host_tsc_khz();
}

void clock_vm_init(struct vm *vm)
{
	struct vm_clock *c = &vm->clock;

	clock_pair(&c->tsc_base, &c->ns_base);
	c->offset = -(s64)c->ns_base;
	c->tsc_write_host = c->tsc_base;
	c->tsc_write = 0;
	c->tsc_offset = -(s64)c->tsc_base;
	vm->default_tsc_khz = c->tsc_write_khz = 0;
}

/*
 * Host time now by the host's own clock, not by the TSC: the two drift apart when NTP slews the
 * clock, so the base of the guests' computation is renewed whenever a kvmclock page is written.
 */
u64 clock_vm_now(struct vm *vm, u64 *tsc)
{
	struct vm_clock *c = &vm->clock;
	u64 host = clock_host_tsc();

	if (tsc)
		*tsc = host;
	return c->ns_base + (u64)c->offset +
	       (u64)((u128)(host - c->tsc_base) * 1000000u / clock_host_tsc_khz());
}

u64 clock_guest_tsc(const struct vcpu *vcpu, u64 host)
{
	u64 ratio = __atomic_load_n(&vcpu->cpu.tsc_ratio, __ATOMIC_RELAXED);
	u64 offset = (u64)__atomic_load_n(&vcpu->cpu.tsc_offset, __ATOMIC_RELAXED);

	return (u64)(((u128)host * ratio) >> 48) + offset;
}

u64 clock_tsc_to_ns(const struct vcpu *vcpu, u64 ticks)
{
	u64 khz = clock_vcpu_khz(vcpu);
	u64 whole = ticks / khz, rest = ticks % khz;

	if (whole > UINT64_MAX / 2000000u)
		return UINT64_MAX / 2;
	return whole * 1000000u + (rest * 1000000u + khz - 1) / khz;
}

static void offset_set(struct vcpu *vcpu, s64 offset)
{
	__atomic_store_n(&vcpu->cpu.tsc_offset, offset, __ATOMIC_RELAXED);
	if (vcpu->apic)
		lapic_tsc_changed(vcpu->apic);
	vcpu_request(vcpu, BIT64(REQ_CLOCK));
}

static u64 scaled(const struct vcpu *vcpu, u64 host)
{
	return (u64)(((u128)host * vcpu->cpu.tsc_ratio) >> 48);
}

void clock_vcpu_init(struct vcpu *vcpu)
{
	struct vm_clock *c = &vcpu->vm->clock;

	vcpu->cpu.tsc_ratio = RATIO_ONE;
	clock_set_tsc_khz(vcpu, vcpu->vm->default_tsc_khz);
	futex_lock(&c->lock);
	if (c->tsc_write_khz != vcpu->tsc_khz) {
		c->tsc_write = 0;
		c->tsc_write_host = c->tsc_base;
		c->tsc_write_khz = vcpu->tsc_khz;
		c->tsc_offset = -(s64)scaled(vcpu, c->tsc_base);
	}
	vcpu->cpu.tsc_offset = c->tsc_offset;
	futex_unlock(&c->lock);
}

int clock_set_tsc_khz(struct vcpu *vcpu, u64 khz)
{
	u64 host = khz ? clock_host_tsc_khz() : 0, diff;
	u128 ratio;

	if (khz == host)
		khz = host = 0;
	/* The kernel leaves a rate within 250 parts in a million to the guest's NTP. */
	diff = khz > host ? khz - host : host - khz;
	if (diff * 4000 <= host) {
		vcpu->cpu.tsc_ratio = RATIO_ONE;
		vcpu->tsc_scaled = false;
	} else {
		ratio = ((u128)khz << 48) / host;
		if (!ratio || ratio >> (48 + RATIO_MAX_SHIFT))
			return -EINVAL;
		vcpu->cpu.tsc_ratio = (u64)ratio;
		vcpu->tsc_scaled = true;
	}
	__atomic_store_n(&vcpu->tsc_khz, khz, __ATOMIC_RELAXED);
	if (vcpu->apic)
		lapic_tsc_changed(vcpu->apic);
	vcpu_request(vcpu, BIT64(REQ_CLOCK));
	return 0;
}

/*
 * Clients restore or synchronise TSCs by writing nearly equal values to all vCPUs one after the
 * other. A write of 0, or one within a second of what the last write has become by now, means
 * "the same as the others": it gets the same offset, so that the TSCs are exactly equal.
 */
void clock_tsc_write_host(struct vcpu *vcpu, u64 value)
{
	struct vm_clock *c = &vcpu->vm->clock;
	u64 host = clock_host_tsc(), hz = clock_vcpu_khz(vcpu) * 1000;
	s64 offset = (s64)(value - scaled(vcpu, host));
	bool same = false;

	futex_lock(&c->lock);
	if (!value) {
		same = true;
	} else if (c->tsc_user_set) {
		u64 expected = c->tsc_write + scaled(vcpu, host - c->tsc_write_host);

		same = value < expected + hz && value + hz > expected;
	}
	if (value)
		c->tsc_user_set = true;
	if (same && c->tsc_write_khz == vcpu->tsc_khz) {
		offset = c->tsc_offset;
	} else if (same) {
		offset = (s64)(c->tsc_write + scaled(vcpu, host - c->tsc_write_host) -
			       scaled(vcpu, host));
	} else {
		c->tsc_write = value;
		c->tsc_write_host = host;
		c->tsc_write_khz = vcpu->tsc_khz;
		c->tsc_offset = offset;
	}
	futex_unlock(&c->lock);
	offset_set(vcpu, offset);
}

void clock_tsc_write_guest(struct vcpu *vcpu, u64 value)
{
	s64 delta = (s64)(value - clock_guest_tsc(vcpu, clock_host_tsc()));

	vcpu->cpu.tsc_adjust += (u64)delta;
	offset_set(vcpu, vcpu->cpu.tsc_offset + delta);
}

void clock_pv_factors(u64 khz, u32 *mul, s8 *shift)
{
	u64 ticks = MAX(khz, 1ull) * 1000;
	s8 s = 0;

	/* ns = (ticks << shift) × mul >> 32, with mul below 2^32 and as large as can be. */
	while (ticks > 2 * NS_PER_S) {
		ticks >>= 1;
		s--;
	}
	while (ticks <= NS_PER_S) {
		ticks <<= 1;
		s++;
	}
	*mul = (u32)((NS_PER_S << 32) / ticks);
	*shift = s;
}

int vm_get_clock(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_clock_data *d = data;
	struct timespec real;
	u64 tsc;

	futex_lock(&vm->clock.lock);
	d->clock = clock_vm_now(vm, &tsc);
	futex_unlock(&vm->clock.lock);
	clock_gettime(CLOCK_REALTIME, &real);
	d->realtime = (u64)real.tv_sec * NS_PER_S + (u64)real.tv_nsec;
	d->host_tsc = tsc;
	d->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	return 0;
}

int vm_set_clock(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_clock_data *d = data;
	struct timespec real;
	u64 value = d->clock;

	/* Only one of them is used, but what KVM_GET_CLOCK gave may come back. */
	if (d->flags & ~(u32)(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	if (d->flags & KVM_CLOCK_REALTIME) {
		u64 now;

		clock_gettime(CLOCK_REALTIME, &real);
		now = (u64)real.tv_sec * NS_PER_S + (u64)real.tv_nsec;
		if (now > d->realtime)
			value += now - d->realtime;
	}
	futex_lock(&vm->clock.lock);
	vm->clock.offset += (s64)(value - clock_vm_now(vm, NULL));
	futex_unlock(&vm->clock.lock);
	vm_request_all(vm, BIT64(REQ_CLOCK), false);
	return 0;
}

int vm_set_tsc_khz(struct vm *vm, void *data, unsigned long arg)
{
	u64 khz = (u32)arg; /* 32 bits, as in the kernel */

	if (khz >= KHZ_END ||
	    (khz && ((u128)khz << 48) / clock_host_tsc_khz() >> (48 + RATIO_MAX_SHIFT)))
		return -EINVAL;
	vm->default_tsc_khz = khz;
	return 0;
}

int vm_get_tsc_khz(struct vm *vm, void *data, unsigned long arg)
{
	return (int)(vm->default_tsc_khz ? vm->default_tsc_khz : clock_host_tsc_khz());
}

int vcpu_set_tsc_khz(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return (u32)arg >= KHZ_END ? -EINVAL : clock_set_tsc_khz(vcpu, (u32)arg);
}

int vcpu_get_tsc_khz(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return (int)clock_vcpu_khz(vcpu);
}

/* KVM_VCPU_TSC_CTRL: the offset as a device attribute. */

int vcpu_has_device_attr(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_device_attr *attr = data;

	return attr->group == KVM_VCPU_TSC_CTRL && attr->attr == KVM_VCPU_TSC_OFFSET ? 0 : -ENXIO;
}

int vcpu_get_device_attr(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_device_attr *attr = data;

	if (vcpu_has_device_attr(vcpu, data, arg))
		return -ENXIO;
	return user_copy_out(attr->addr, &vcpu->cpu.tsc_offset, sizeof(u64));
}

int vcpu_set_device_attr(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_device_attr *attr = data;
	struct vm_clock *c = &vcpu->vm->clock;
	u64 offset;

	if (vcpu_has_device_attr(vcpu, data, arg))
		return -ENXIO;
	if (user_copy_in(&offset, attr->addr, sizeof(offset)))
		return -EFAULT;
	futex_lock(&c->lock);
	c->tsc_write_host = clock_host_tsc();
	c->tsc_write = scaled(vcpu, c->tsc_write_host) + offset;
	c->tsc_write_khz = vcpu->tsc_khz;
	c->tsc_offset = (s64)offset;
	c->tsc_user_set = true;
	futex_unlock(&c->lock);
	offset_set(vcpu, (s64)offset);
	return 0;
}
