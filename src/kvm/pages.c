/*
 * Statistics of the memory given to vCPUs, and NX huge pages.
 *
 * KVM's recovery of split pages is a thread of each VM that wakes up in each period, gives up one
 * part in `ratio` of the splits there are, the oldest first, and sleeps again. Nothing but the
 * statistics shows what it did, so here the periods that have gone by are made up for when these are
 * read: a split counts in the periods that ended after it was made. What was given up is forgotten,
 * and the vCPUs come back for it as their TLBs are flushed.
 */
#include "kvm/pages.h"

#include "base/syscall.h"
#include "kvm/fd.h"
#include "kvm/memslot.h"
#include "kvm/request.h"
#include "mmu/pages.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>

const struct anykvm_parameters pages_parameters = {
	.nx_recovery_ratio = 60,
	.eager_page_split = 1,
};

static void nx_set(struct vm *vm)
{
	bool on = vm->parameters.nx_huge_pages &&
		  !__atomic_load_n(&vm->nx_disabled, __ATOMIC_SEQ_CST);

	__atomic_store_n(&vm->mem.nx_huge_pages, on, __ATOMIC_SEQ_CST);
}

void pages_vm_init(struct vm *vm)
{
	futex_lock(&vm->sys->parameters_lock);
	vm->parameters = vm->sys->parameters;
	futex_unlock(&vm->sys->parameters_lock);
	vm->nx_recovered = pages_now();
	nx_set(vm);
}

static bool may_reboot(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

	return !sys_call(SYS_capget, (u64)&head, (u64)data, 0, 0, 0) &&
	       (data[CAP_TO_INDEX(CAP_SYS_BOOT)].effective & CAP_TO_MASK(CAP_SYS_BOOT));
}

int pages_nx_disable(struct vm *vm, u64 arg)
{
	int ret = 0;

	if (!may_reboot())
		return -EPERM;
	if (arg)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count)
		ret = -EINVAL;
	else
		__atomic_store_n(&vm->nx_disabled, true, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vm->lock);
	if (!ret) {
		pthread_mutex_lock(&vm->slots_lock);
		nx_set(vm);
		pthread_mutex_unlock(&vm->slots_lock);
	}
	return ret;
}

/* Walks the slots of both address spaces; *at begins with 0. */
static struct memslot *slot_next(struct vm *vm, u32 *at)
{
	u32 total = vm->slot_count[0] + vm->slot_count[1];

	while (*at < total) {
		u32 n = (*at)++;
		struct memslot *s = n < vm->slot_count[0] ? vm->slots[0][n]
							  : vm->slots[1][n - vm->slot_count[0]];

		if (s)
			return s;
	}
	return NULL;
}

/* --- parameters ---------------------------------------------------------------------------------- */

static void vm_parameters(struct vm *vm, const struct anykvm_parameters *p)
{
	bool changes;
	u32 at = 0;

	pthread_mutex_lock(&vm->slots_lock);
	changes = vm->parameters.nx_huge_pages != p->nx_huge_pages;
	vm->parameters = *p;
	if (changes) {
		nx_set(vm);
		/* Nobody gives anything by the old rule behind this; and what was given is void. */
		vm_request_all(vm, BIT64(REQ_TLB_FLUSH), true);
		for (struct memslot *s; (s = slot_next(vm, &at));)
			pages_forget(s->given, s->gpa, s->pages << PAGE_SHIFT);
		vm_request_all(vm, BIT64(REQ_TLB_FLUSH), false);
	}
	pthread_mutex_unlock(&vm->slots_lock);
}

int anykvm_set_parameters(int fd, const struct anykvm_parameters *p)
{
	struct fd_file *file = fd_get(fd);
	int error = 0;

	if (!file) {
		errno = EBADF;
		return -1;
	}
	if (p->nx_huge_pages > 1 || p->eager_page_split > 1) {
		error = EINVAL;
	} else if (file->ops->kind == ANYKVM_VM) {
		vm_parameters(file->object, p);
	} else if (file->ops->kind == ANYKVM_SYSTEM) {
		struct system *sys = file->object;

		futex_lock(&sys->parameters_lock);
		sys->parameters = *p;
		futex_unlock(&sys->parameters_lock);
	} else {
		error = EINVAL;
	}
	fd_put(file);
	if (!error)
		return 0;
	errno = error;
	return -1;
}

/* --- recovery ------------------------------------------------------------------------------------ */

/* In ms; 0: never. */
static u32 recovery_period(const struct anykvm_parameters *p)
{
	if (!p->nx_huge_pages || !p->nx_recovery_ratio)
		return 0;
	/* By default all splits are looked at in an hour, but not more often than once a second. */
	return p->nx_recovery_period ? p->nx_recovery_period
				     : 3600 * 1000 / MIN(p->nx_recovery_ratio, 3600u);
}

static int by_age(const void *a, const void *b)
{
	s32 d = (s32)(((const struct pages_nx *)a)->when - ((const struct pages_nx *)b)->when);

	return d < 0 ? -1 : d > 0;
}

static struct pages_nx *nx_list(struct vm *vm, u64 *count)
{
	struct pages_nx *list;
	u64 room = 0;
	u32 at = 0;

	for (struct memslot *s; (s = slot_next(vm, &at));)
		room += pages_nx_list(s->given, NULL, 0);
	*count = 0;
	list = room ? malloc(room * sizeof(*list)) : NULL;
	at = 0;
	for (struct memslot *s; list && (s = slot_next(vm, &at));) {
		u64 from = *count;

		*count += MIN(pages_nx_list(s->given, list + from, room - from), room - from);
		/* They would only be given in 4 KiB again. */
		for (u64 i = from; i < *count; i++)
			list[i].keep = s->dirty;
	}
	if (list)
		qsort(list, *count, sizeof(*list), by_age);
	return list;
}

/* The periods that have ended since the last look. slots_lock held. */
static void recover(struct vm *vm)
{
	u32 period = recovery_period(&vm->parameters), now = pages_now(), ratio;
	u64 count, head = 0, old = 0;
	struct pages_nx *list;

	if (!period || now - vm->nx_recovered < period)
		return;
	ratio = vm->parameters.nx_recovery_ratio;
	list = nx_list(vm, &count);
	while (head < count && now - vm->nx_recovered >= period) {
		u32 tick = vm->nx_recovered + period;

		while (old < count && (s32)(tick - list[old].when) >= 0)
			old++;
		for (u64 n = (old - head + ratio - 1) / ratio; n; n--)
			pages_nx_recover(&list[head++]);
		/* Periods without any. */
		if (old == head && old < count)
			tick += (list[old].when - tick) / period * period;
		vm->nx_recovered = (s32)(now - tick) < 0 ? now : tick;
	}
	vm->nx_recovered += (now - vm->nx_recovered) / period * period;
	free(list);
	if (head)
		vm_request_all(vm, BIT64(REQ_TLB_FLUSH), false);
}

void pages_stats(struct vm *vm, struct vm_stats *out)
{
	struct mmu_pages_sum sum = {0};
	u32 at = 0;

	pthread_mutex_lock(&vm->slots_lock);
	recover(vm);
	for (struct memslot *s; (s = slot_next(vm, &at));)
		pages_add(s->given, &sum);
	*out = vm->stats;
	pthread_mutex_unlock(&vm->slots_lock);
	out->pages_4k = sum.small;
	out->pages_2m = sum.large;
	out->pages_1g = sum.huge;
	out->nx_lpage_splits = sum.nx_splits;
}
