/*
 * KVM_IRQFD.
 *
 * The kernel's KVM hangs itself into the eventfd's wait queue. Here one thread a VM waits for all
 * of them with epoll, started by the first irqfd. With KVM_IRQFD_FLAG_RESAMPLE the line stays high
 * until the guest ends the interrupt; then it falls and the client's resample descriptor is
 * signalled, so that a device that still wants attention can raise it again.
 *
 * `lock` protects the list. It is taken after slots_lock and before any lock of the irqchip.
 */
#include "kvm/irqfd.h"

#include "base/thread.h"
#include "kvm/ioctl.h"
#include "kvm/ioeventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define IRQFDS_MAX 4096u

struct irqfd {
	struct irqfd *next;
	struct irqfd_set *set;
	int fd, resample_fd; /* our own duplicates; -1: none */
	int id;		     /* of the eventfd behind fd: eventfd_hold() */
	u32 gsi;
	struct irqchip_ack ack;
	bool gone; /* deassigned: the thread frees it */
};

struct irqfd_set {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_t thread;
	int epoll, stop; /* stop: an eventfd that ends a wait */
	bool stopping;
	struct irqfd *list;
	struct irqfd *graves; /* freed between two waits, when no event can point there */
	u32 count;
};

static void irqfd_raise(struct irqfd *f)
{
	struct irqchip *chip = vm_irqchip(f->set->vm);
	u64 count;

	if (read(f->fd, &count, sizeof(count)) != sizeof(count))
		return;
	mmu_client_event(&f->set->vm->mem);
	if (f->resample_fd >= 0)
		irqchip_set_irq(chip, IRQCHIP_SOURCE_RESAMPLE, f->gsi, true, false);
	else
		irqchip_pulse_irq(chip, IRQCHIP_SOURCE_USER, f->gsi);
}

static void irqfd_acked(struct irqchip_ack *ack)
{
	struct irqfd *f = CONTAINER_OF(ack, struct irqfd, ack);
	u64 one = 1;
	ssize_t n;

	irqchip_set_irq(vm_irqchip(f->set->vm), IRQCHIP_SOURCE_RESAMPLE, f->gsi, false, false);
	n = write(f->resample_fd, &one, sizeof(one));
	(void)n;
}

static void irqfd_free(struct irqfd *f)
{
	if (f->fd >= 0)
		close(f->fd);
	if (f->resample_fd >= 0)
		close(f->resample_fd);
	free(f);
}

static void graves_free(struct irqfd_set *set)
{
	while (set->graves) {
		struct irqfd *f = set->graves;

		set->graves = f->next;
		irqfd_free(f);
	}
}

static void *irqfd_main(void *arg)
{
	struct irqfd_set *set = arg;
	struct epoll_event ev[32];
	bool stop = false;

	pthread_setname_np(pthread_self(), "anykvm-irqfd");
	while (!stop) {
		int n = epoll_wait(set->epoll, ev, ARRAY_SIZE(ev), -1);

		pthread_mutex_lock(&set->lock);
		for (int i = 0; i < n; i++) {
			struct irqfd *f = ev[i].data.ptr;
			u64 count;

			if (f && !f->gone)
				irqfd_raise(f);
			else if (!f && read(set->stop, &count, sizeof(count)) < 0)
				break;
		}
		graves_free(set);
		stop = set->stopping;
		pthread_mutex_unlock(&set->lock);
	}
	return NULL;
}

static int set_start(struct irqfd_set *set)
{
	struct epoll_event ev = {.events = EPOLLIN};

	set->epoll = epoll_create1(EPOLL_CLOEXEC);
	set->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (set->epoll < 0 || set->stop < 0 || epoll_ctl(set->epoll, EPOLL_CTL_ADD, set->stop, &ev))
		return -errno;
	return thread_start(&set->thread, irqfd_main, set);
}

static void set_free(struct irqfd_set *set)
{
	if (set->epoll >= 0)
		close(set->epoll);
	if (set->stop >= 0)
		close(set->stop);
	pthread_mutex_destroy(&set->lock);
	free(set);
}

/* The VM's set, made when first needed. slots_lock held. */
static int set_get(struct vm *vm, struct irqfd_set **out)
{
	struct irqfd_set *set = vm->irqfds;
	int ret;

	if (!set) {
		set = calloc(1, sizeof(*set));
		if (!set)
			return -ENOMEM;
		set->vm = vm;
		set->epoll = set->stop = -1;
		pthread_mutex_init(&set->lock, NULL);
		ret = set_start(set);
		if (ret) {
			set_free(set);
			return ret;
		}
		vm->irqfds = set;
	}
	*out = set;
	return 0;
}

static void set_wake(struct irqfd_set *set)
{
	u64 one = 1;
	ssize_t n = write(set->stop, &one, sizeof(one));

	(void)n;
}

/* The descriptor is read by our thread only; a blocking one must not stop it. */
static int irqfd_open(struct irqfd *f, const struct kvm_irqfd *a)
{
	int resample_id;

	f->fd = eventfd_hold((int)a->fd, &f->id);
	if (f->fd < 0)
		return f->fd;
	if (a->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		f->resample_fd = eventfd_hold((int)a->resamplefd, &resample_id);
		if (f->resample_fd < 0)
			return f->resample_fd;
	}
	return 0;
}

static int assign(struct vm *vm, const struct kvm_irqfd *a)
{
	struct epoll_event ev = {.events = EPOLLIN};
	struct irqfd_set *set;
	struct irqfd *f, *o;
	int ret;

	if ((a->flags & KVM_IRQFD_FLAG_RESAMPLE) && !vm_pic_inside(vm))
		return -EINVAL;
	ret = set_get(vm, &set);
	if (ret)
		return ret;
	if (set->count >= IRQFDS_MAX)
		return -ENOSPC;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->set = set;
	f->fd = f->resample_fd = -1;
	f->gsi = a->gsi;
	ret = irqfd_open(f, a);
	for (o = set->list; o && !ret; o = o->next)
		if (o->id == f->id)
			ret = -EBUSY;
	if (ret)
		goto out;
	if (f->resample_fd >= 0) {
		f->ack.gsi = f->gsi;
		f->ack.acked = irqfd_acked;
		irqchip_ack_add(vm_irqchip(vm), &f->ack);
	}
	ev.data.ptr = f;
	pthread_mutex_lock(&set->lock);
	if (epoll_ctl(set->epoll, EPOLL_CTL_ADD, f->fd, &ev)) {
		ret = -errno;
	} else {
		f->next = set->list;
		set->list = f;
		set->count++;
	}
	pthread_mutex_unlock(&set->lock);
	if (!ret)
		return 0;
	if (f->resample_fd >= 0)
		irqchip_ack_remove(vm_irqchip(vm), &f->ack);
out:
	irqfd_free(f);
	return ret;
}

static void drop(struct irqfd_set *set, struct irqfd **at)
{
	struct irqfd *f = *at;

	if (f->resample_fd >= 0) {
		irqchip_ack_remove(vm_irqchip(set->vm), &f->ack);
		irqchip_set_irq(vm_irqchip(set->vm), IRQCHIP_SOURCE_RESAMPLE, f->gsi, false, false);
	}
	pthread_mutex_lock(&set->lock);
	*at = f->next;
	set->count--;
	epoll_ctl(set->epoll, EPOLL_CTL_DEL, f->fd, NULL);
	f->gone = true;
	f->next = set->graves;
	set->graves = f;
	pthread_mutex_unlock(&set->lock);
	set_wake(set);
}

static int deassign(struct vm *vm, const struct kvm_irqfd *a)
{
	struct irqfd_set *set = vm->irqfds;
	struct irqfd **at;
	int id, own = eventfd_hold((int)a->fd, &id);

	if (own < 0)
		return own;
	for (at = set ? &set->list : NULL; at && *at;) {
		if ((*at)->gsi == a->gsi && (*at)->id == id)
			drop(set, at);
		else
			at = &(*at)->next;
	}
	close(own);
	return 0;
}

int vm_irqfd(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_irqfd *a = data;
	int ret;

	if (a->flags & ~(u32)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (!vm_irqchip(vm))
		return -EINVAL;
	if (a->gsi >= KVM_ABI_MAX_IRQ_ROUTES)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	ret = a->flags & KVM_IRQFD_FLAG_DEASSIGN ? deassign(vm, a) : assign(vm, a);
	pthread_mutex_unlock(&vm->slots_lock);
	return ret;
}

void irqfd_destroy_all(struct vm *vm)
{
	struct irqfd_set *set = vm->irqfds;

	if (!set)
		return;
	while (set->list)
		drop(set, &set->list);
	pthread_mutex_lock(&set->lock);
	set->stopping = true;
	pthread_mutex_unlock(&set->lock);
	set_wake(set);
	pthread_join(set->thread, NULL);
	graves_free(set);
	set_free(set);
	vm->irqfds = NULL;
}
