/* KVM_X86_SET_MSR_FILTER. A filter is immutable; a new one is published whole. */
#include "kvm/ioctl.h"
#include "kvm/msr.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>

#define BITMAP_MAX 0x600u /* bytes */

struct msr_range {
	u32 flags, base, count;
	u8 *bitmap;
};

struct msr_filter {
	bool default_deny;
	u32 count;
	struct msr_range range[KVM_MSR_FILTER_MAX_RANGES];
};

static void filter_free(struct msr_filter *f)
{
	if (!f)
		return;
	for (u32 i = 0; i < f->count; i++)
		free(f->range[i].bitmap);
	free(f);
}

void msr_filter_destroy(struct vm *vm)
{
	filter_free(vm->msr_filter);
	vm->msr_filter = NULL;
}

bool msr_allowed(struct vcpu *vcpu, u32 index, bool write)
{
	struct msr_filter *f = __atomic_load_n(&vcpu->vm->msr_filter, __ATOMIC_ACQUIRE);
	u32 type = write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ;

	/* x2APIC MSRs are never filtered. */
	if (LIKELY(!f) || (index >= APIC_MSR_FIRST && index < APIC_MSR_FIRST + 0x100))
		return true;
	for (u32 i = 0; i < f->count; i++) {
		const struct msr_range *r = &f->range[i];
		u32 n = index - r->base;

		if (index >= r->base && n < r->count && (r->flags & type))
			return r->bitmap[n / 8] >> (n % 8) & 1;
	}
	return !f->default_deny;
}

static int range_add(struct msr_filter *f, const struct kvm_msr_filter_range *r)
{
	struct msr_range *to = &f->range[f->count];
	size_t bytes;

	if (!r->nmsrs)
		return 0;
	if (r->flags & ~(u32)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE))
		return -EINVAL;
	bytes = ((size_t)r->nmsrs + 63) / 64 * 8;
	if (bytes > BITMAP_MAX || !r->flags)
		return -EINVAL;
	to->bitmap = malloc(bytes);
	if (!to->bitmap)
		return -ENOMEM;
	if (user_copy_in(to->bitmap, (u64)r->bitmap, bytes)) {
		free(to->bitmap);
		return -EFAULT;
	}
	to->flags = r->flags;
	to->base = r->base;
	to->count = r->nmsrs;
	f->count++;
	return 0;
}

int vm_set_msr_filter(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_msr_filter *in = data;
	struct msr_filter *f, *old;
	bool any = false;
	int ret = 0;

	if (in->flags & ~(u32)KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	for (u32 i = 0; i < ARRAY_SIZE(in->ranges); i++)
		any |= in->ranges[i].nmsrs != 0;
	if (!any && (in->flags & KVM_MSR_FILTER_DEFAULT_DENY))
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->default_deny = in->flags & KVM_MSR_FILTER_DEFAULT_DENY;
	for (u32 i = 0; i < ARRAY_SIZE(in->ranges) && !ret; i++)
		ret = range_add(f, &in->ranges[i]);
	if (ret) {
		filter_free(f);
		return ret;
	}
	pthread_mutex_lock(&vm->lock);
	old = __atomic_exchange_n(&vm->msr_filter, f, __ATOMIC_ACQ_REL);
	vm_sync(vm);
	pthread_mutex_unlock(&vm->lock);
	filter_free(old);
	return 0;
}
