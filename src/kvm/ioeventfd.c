#include "kvm/ioeventfd.h"

#include "base/mem.h"
#include "kvm/ioctl.h"
#include "kvm/request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where a write must be to match; no guest of x86 writes to a CCW. */
enum bus { BUS_MMIO, BUS_PIO, BUS_CCW };

struct ioeventfd {
	u64 addr, match;
	u32 len;
	enum bus bus;
	bool datamatch;
	int fd; /* our own duplicate */
	int id; /* the eventfd's identity, see eventfd_id() */
};

struct ioeventfd_set {
	u32 count;
	struct ioeventfd e[];
};

/*
 * Two descriptors are of one eventfd when /proc says the same "eventfd-id"; the kernel gives no
 * other way to compare (kcmp() may be forbidden). -EINVAL: not an eventfd; another -errno: it cannot
 * be known now (no descriptor is free to ask with, …), which is not to be taken for "another one".
 */
static int eventfd_id(int fd)
{
	char path[64], text[256];
	const char *at;
	ssize_t n;
	int info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return -errno;
	n = read(info, text, sizeof(text) - 1);
	close(info);
	if (n <= 0)
		return -EIO;
	text[n] = 0;
	at = strstr(text, "eventfd-id:");
	return at ? atoi(at + 11) : -EINVAL;
}

int eventfd_hold(int fd, int *id)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (own < 0)
		return -errno;
	*id = eventfd_id(own);
	if (*id < 0) {
		close(own);
		return *id;
	}
	return own;
}

bool ioeventfd_signal(struct vm *vm, bool pio, u64 addr, unsigned len, const void *data)
{
	struct ioeventfd_set *set = __atomic_load_n(&vm->ioeventfds, __ATOMIC_ACQUIRE);
	enum bus bus = pio ? BUS_PIO : BUS_MMIO;
	u64 one = 1;

	if (LIKELY(!set))
		return false;
	for (u32 i = 0; i < set->count; i++) {
		const struct ioeventfd *e = &set->e[i];

		if (e->addr != addr || e->bus != bus || (e->len && e->len != len) ||
		    (e->datamatch && mem_load(data, len) != e->match))
			continue;
		/* A counter that is full has its reader's attention already. */
		syscall(SYS_write, e->fd, &one, sizeof(one));
		return true;
	}
	return false;
}

static int ioeventfd_check(const struct kvm_ioeventfd *a)
{
	switch (a->len) {
	case 0:
	case 1:
	case 2:
	case 4:
	case 8:
		break;
	default:
		return -EINVAL;
	}
	if (a->addr + a->len < a->addr)
		return -EINVAL;
	if (a->flags & ~(u32)KVM_IOEVENTFD_VALID_FLAG_MASK)
		return -EINVAL;
	if (!a->len && (a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return -EINVAL;
	return 0;
}

static enum bus bus_of(u32 flags)
{
	if (flags & KVM_IOEVENTFD_FLAG_PIO)
		return BUS_PIO;
	return flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY ? BUS_CCW : BUS_MMIO;
}

static struct ioeventfd wanted(const struct kvm_ioeventfd *a)
{
	bool match = a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	u64 mask = a->len && a->len < 8 ? BIT64(8 * a->len) - 1 : ~0ull;

	return (struct ioeventfd){
		.addr = a->addr,
		.len = a->len,
		.bus = bus_of(a->flags),
		.datamatch = match,
		.match = match ? a->datamatch & mask : 0,
	};
}

/* A guest's write could reach both. */
static bool collide(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->bus == b->bus && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len && (!a->datamatch || !b->datamatch || a->match == b->match)));
}

static void set_publish(struct vm *vm, struct ioeventfd_set *set)
{
	struct ioeventfd_set *old = __atomic_exchange_n(&vm->ioeventfds, set, __ATOMIC_ACQ_REL);

	vm_sync(vm);
	free(old);
}

static struct ioeventfd_set *set_copy(const struct ioeventfd_set *old, u32 extra)
{
	u32 count = old ? old->count : 0;
	struct ioeventfd_set *set = calloc(1, sizeof(*set) + (count + extra) * sizeof(set->e[0]));

	if (!set)
		return NULL;
	for (u32 i = 0; i < count; i++)
		set->e[i] = old->e[i];
	set->count = count;
	return set;
}

static int assign(struct vm *vm, const struct kvm_ioeventfd *a)
{
	struct ioeventfd_set *old = vm->ioeventfds, *set;
	struct ioeventfd e = wanted(a);

	for (u32 i = 0; old && i < old->count; i++)
		if (collide(&old->e[i], &e))
			return -EEXIST;
	e.fd = eventfd_hold(a->fd, &e.id);
	if (e.fd < 0)
		return e.fd;
	set = set_copy(old, 1);
	if (!set) {
		close(e.fd);
		return -ENOMEM;
	}
	set->e[set->count++] = e;
	set_publish(vm, set);
	return 0;
}

static int deassign(struct vm *vm, const struct kvm_ioeventfd *a)
{
	struct ioeventfd_set *old = vm->ioeventfds, *set;
	struct ioeventfd e = wanted(a);
	int id = eventfd_id(a->fd), fd;

	if (id < 0)
		return fcntl(a->fd, F_GETFD) < 0 ? -EBADF : id;
	for (u32 i = 0; old && i < old->count; i++) {
		const struct ioeventfd *o = &old->e[i];

		if (o->id != id || o->bus != e.bus || o->addr != e.addr || o->len != e.len ||
		    o->datamatch != e.datamatch || (e.datamatch && o->match != e.match))
			continue;
		set = set_copy(old, 0);
		if (!set)
			return -ENOMEM;
		fd = o->fd;
		set->e[i] = set->e[--set->count];
		set_publish(vm, set);
		close(fd);
		return 0;
	}
	return -ENOENT;
}

int vm_ioeventfd(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_ioeventfd *a = data;
	int ret;

	if (!(a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)) {
		ret = ioeventfd_check(a);
		if (ret)
			return ret;
	}
	pthread_mutex_lock(&vm->slots_lock);
	ret = a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? deassign(vm, a) : assign(vm, a);
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

void ioeventfd_destroy_all(struct vm *vm)
{
	struct ioeventfd_set *set = vm->ioeventfds;

	for (u32 i = 0; set && i < set->count; i++)
		close(set->e[i].fd);
	free(set);
	vm->ioeventfds = NULL;
}
