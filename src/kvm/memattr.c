#include "kvm/memattr.h"

#include "kvm/ioctl.h"
#include "kvm/memslot.h"

#include <errno.h>
#include <stdlib.h>

u64 memattr_run(const struct memattr *a, u64 gpa, bool *is_private)
{
	u64 lo = 0, hi = a ? a->count : 0;

	/* The first private range that ends behind gpa. */
	while (lo < hi) {
		u64 mid = (lo + hi) / 2;

		if (a->private[mid].end <= gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	*is_private = false;
	if (!a || lo == a->count)
		return ~0ull;
	*is_private = a->private[lo].start <= gpa;
	return *is_private ? a->private[lo].end : a->private[lo].start;
}

bool memattr_is_private(struct vm *vm, u64 gpa)
{
	bool is_private;

	memattr_run(__atomic_load_n(&vm->attrs, __ATOMIC_ACQUIRE), gpa, &is_private);
	return is_private;
}

static void add(struct memattr *a, u64 start, u64 end)
{
	if (a->count && a->private[a->count - 1].end == start) {
		a->private[a->count - 1].end = end;
		return;
	}
	a->private[a->count].start = start;
	a->private[a->count++].end = end;
}

/* A copy of a set with one range set or cleared. */
static struct memattr *changed(const struct memattr *old, u64 start, u64 end, bool is_private)
{
	u64 count = old ? old->count : 0, i = 0;
	struct memattr *a = malloc(sizeof(*a) + (count + 2) * sizeof(a->private[0]));

	if (!a)
		return NULL;
	a->count = 0;
	for (; i < count && old->private[i].start < start; i++)
		add(a, old->private[i].start, MIN(old->private[i].end, start));
	if (is_private)
		add(a, start, end);
	/* What reaches beyond the range begins before it, inside it or behind it. */
	for (i -= i && old->private[i - 1].end > end; i < count; i++)
		if (old->private[i].end > end)
			add(a, MAX(old->private[i].start, end), old->private[i].end);
	return a;
}

int vm_set_memory_attributes(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_memory_attributes *r = data;
	u64 start = r->address, end = r->address + r->size;
	bool want = r->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE, is_private;
	struct memattr *attrs;
	int ret = 0;

	if (r->flags || (r->attributes & ~memattr_supported(vm)))
		return -EINVAL;
	if (!r->size || end < start || (start & ~PAGE_MASK) || (r->size & ~PAGE_MASK))
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	if (memattr_run(vm->attrs, start, &is_private) >= end && is_private == want)
		goto out;
	ret = -ENOMEM;
	attrs = changed(vm->attrs, start, end, want);
	if (!attrs)
		goto out;
	ret = memslot_reattribute(vm, attrs, start, end);
	if (ret)
		free(attrs);
out:
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}
