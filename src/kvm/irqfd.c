/*
 * KVM_IRQFD.
 *
 * The kernel's KVM hangs itself into the eventfd's wait queue. Here one thread a VM waits for all
 * of them with epoll, started by the first irqfd. So that nobody sees the difference, what has been
 * signalled is taken and raised before state is read or replaced, and before an irqfd goes
 * (irqfd_drain()).
 *
 * With KVM_IRQFD_FLAG_RESAMPLE the line stays high until the guest ends the interrupt; then it falls
 * and the client's resample descriptor is signalled, so that a device that still wants attention can
 * raise it again. All irqfds of one GSI share the line (struct resampler): it falls once for all of
 * them, and when the last one goes.
 *
 * `lock` protects the list. It is taken after slots_lock and before any lock of the irqchip.
 * `resample_lock` protects the resamplers' lists, and is taken with ack_lock held.
 */
#include "kvm/irqfd.h"

#include "base/futex.h"
#include "base/thread.h"
#include "kvm/ioctl.h"
#include "kvm/ioeventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

struct irqfd {
	struct irqfd *next;
	struct irqfd_set *set;
	int fd, resample_fd; /* our own duplicates; -1: none */
	int id;		     /* of the eventfd behind fd: eventfd_hold() */
	u32 gsi;
	struct resampler *resampler; /* or NULL */
	struct irqfd *sibling;	     /* the next one of the resampler */
	bool gone;		     /* deassigned: the thread frees it */
};

struct resampler {
	struct resampler *next;
	struct irqfd_set *set;
	struct irqchip_ack ack;
	struct irqfd *list; /* resample_lock */
};

struct irqfd_set {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_t thread;
	int epoll, stop; /* stop: an eventfd that ends a wait */
	bool stopping;
	struct irqfd *list;
	struct irqfd *graves; /* freed between two waits, when no event can point there */
	struct futex_lock resample_lock;
	struct resampler *resamplers; /* slots_lock */
};

/*
 * Takes an eventfd's count; false: there is none. It never waits, though the descriptor may be a
 * blocking one and others may read it too.
 */
static bool eventfd_take(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	u64 count;
	struct iovec v = {.iov_base = &count, .iov_len = sizeof(count)};
	ssize_t n = preadv2(fd, &v, 1, -1, RWF_NOWAIT);

	/* Old kernels cannot do that to an eventfd. */
	if (n < 0 && errno != EAGAIN && poll(&p, 1, 0) == 1)
		n = read(fd, &count, sizeof(count));
	return n == sizeof(count);
}

/* Raises what has been signalled, if anything. set->lock held. */
static void irqfd_raise(struct irqfd *f)
{
	struct irqchip *chip = vm_irqchip(f->set->vm);

	if (!eventfd_take(f->fd))
		return;
	mmu_client_event(&f->set->vm->mem);
	if (f->resampler)
		irqchip_set_irq(chip, IRQCHIP_SOURCE_RESAMPLE, f->gsi, true, false);
	else
		irqchip_pulse_irq(chip, IRQCHIP_SOURCE_USER, f->gsi);
}

void irqfd_drain(struct vm *vm)
{
	struct irqfd_set *set = __atomic_load_n(&vm->irqfds, __ATOMIC_ACQUIRE);

	if (!set)
		return;
	pthread_mutex_lock(&set->lock);
	for (struct irqfd *f = set->list; f; f = f->next)
		irqfd_raise(f);
	pthread_mutex_unlock(&set->lock);
}

static void lower(struct resampler *r)
{
	irqchip_set_irq(vm_irqchip(r->set->vm), IRQCHIP_SOURCE_RESAMPLE, r->ack.gsi, false, false);
}

/* First the line, then everybody: a device that hears of it may raise it at once. */
static void resampler_acked(struct irqchip_ack *ack)
{
	struct resampler *r = CONTAINER_OF(ack, struct resampler, ack);
	u64 one = 1;

	lower(r);
	futex_lock(&r->set->resample_lock);
	for (struct irqfd *f = r->list; f; f = f->sibling) {
		ssize_t n = write(f->resample_fd, &one, sizeof(one));

		(void)n;
	}
	futex_unlock(&r->set->resample_lock);
}

/* Joins the resampler of the irqfd's GSI. slots_lock held. */
static int resampler_join(struct irqfd *f)
{
	struct irqfd_set *set = f->set;
	struct resampler *r = set->resamplers;

	while (r && r->ack.gsi != f->gsi)
		r = r->next;
	if (!r) {
		r = calloc(1, sizeof(*r));
		if (!r)
			return -ENOMEM;
		r->set = set;
		r->ack.gsi = f->gsi;
		r->ack.acked = resampler_acked;
		r->next = set->resamplers;
		set->resamplers = r;
		irqchip_ack_add(vm_irqchip(set->vm), &r->ack);
	}
	futex_lock(&set->resample_lock);
	f->sibling = r->list;
	r->list = f;
	futex_unlock(&set->resample_lock);
	f->resampler = r;
	return 0;
}

/* Leaves it; the last one takes the line down. slots_lock held. */
static void resampler_leave(struct irqfd *f)
{
	struct irqfd_set *set = f->set;
	struct resampler *r = f->resampler, **at;
	struct irqfd **p;
	bool last;

	futex_lock(&set->resample_lock);
	for (p = &r->list; *p != f; p = &(*p)->sibling)
		;
	*p = f->sibling;
	last = !r->list;
	futex_unlock(&set->resample_lock);
	if (!last)
		return;
	irqchip_ack_remove(vm_irqchip(set->vm), &r->ack);
	lower(r);
	for (at = &set->resamplers; *at != r; at = &(*at)->next)
		;
	*at = r->next;
	free(r);
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
		__atomic_store_n(&vm->irqfds, set, __ATOMIC_RELEASE);
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

	if (!vm_irqchip(vm) || ((a->flags & KVM_IRQFD_FLAG_RESAMPLE) && !vm_pic_inside(vm)))
		return -EINVAL;
	ret = set_get(vm, &set);
	if (ret)
		return ret;
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
	if (!ret && f->resample_fd >= 0)
		ret = resampler_join(f);
	if (ret)
		goto out;
	ev.data.ptr = f;
	pthread_mutex_lock(&set->lock);
	if (epoll_ctl(set->epoll, EPOLL_CTL_ADD, f->fd, &ev)) {
		ret = -errno;
	} else {
		f->next = set->list;
		set->list = f;
	}
	pthread_mutex_unlock(&set->lock);
	if (!ret)
		return 0;
	if (f->resampler)
		resampler_leave(f);
out:
	irqfd_free(f);
	return ret;
}

/* What was signalled before still counts; nothing is raised after. slots_lock held. */
static void drop(struct irqfd_set *set, struct irqfd **at)
{
	struct irqfd *f = *at;

	pthread_mutex_lock(&set->lock);
	irqfd_raise(f);
	*at = f->next;
	epoll_ctl(set->epoll, EPOLL_CTL_DEL, f->fd, NULL);
	f->gone = true;
	pthread_mutex_unlock(&set->lock);
	if (f->resampler)
		resampler_leave(f);
	pthread_mutex_lock(&set->lock);
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
