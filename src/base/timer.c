/*
 * The timer service: a binary heap of deadlines and one thread that sleeps on a futex.
 *
 * `sleep_until` is the moment the thread sleeps for, 0 while it is awake: an arm that comes
 * earlier bumps `seq` (so that a sleep about to begin does not) and wakes it. The heap's array is
 * grown by timer_init(), one place for each timer in existence, so arming cannot fail.
 */
#include "base/timer.h"

#include "base/futex.h"
#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#define NEVER UINT64_MAX

struct timer_service {
	struct futex_lock lock;
	u32 seq;	     /* futex: the thread sleeps on it */
	u64 sleep_until;     /* ns; 0: awake */
	struct timer **heap; /* heap[1] is the earliest */
	u32 armed;	     /* entries in the heap */
	u32 timers;	     /* timers in existence */
	u32 capacity;
	struct timer *running;
	u64 runner; /* thread running the callback */
	u32 done;   /* futex: bumped after a callback somebody waits for */
	u32 waiters;
	bool stop;
	bool started;
	enum timer_clock clock;
	u64 manual_now;
	pthread_t thread;
};

u64 timer_service_now(const struct timer_service *s)
{
	struct timespec ts;

	if (UNLIKELY(s->clock == TIMER_MANUAL))
		return __atomic_load_n(&s->manual_now, __ATOMIC_RELAXED);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

/* The heap; all with the lock held. */

static void heap_put(struct timer_service *s, u32 slot, struct timer *t)
{
	s->heap[slot] = t;
	t->slot = slot;
}

static void heap_up(struct timer_service *s, struct timer *t)
{
	u32 i = t->slot;

	while (i > 1 && s->heap[i / 2]->deadline > t->deadline) {
		heap_put(s, i, s->heap[i / 2]);
		i /= 2;
	}
	heap_put(s, i, t);
}

static void heap_down(struct timer_service *s, struct timer *t)
{
	u32 i = t->slot;

	for (;;) {
		u32 child = 2 * i;

		if (child > s->armed)
			break;
		if (child < s->armed && s->heap[child + 1]->deadline < s->heap[child]->deadline)
			child++;
		if (s->heap[child]->deadline >= t->deadline)
			break;
		heap_put(s, i, s->heap[child]);
		i = child;
	}
	heap_put(s, i, t);
}

static void heap_remove(struct timer_service *s, struct timer *t)
{
	u32 slot = t->slot;
	struct timer *last = s->heap[s->armed--];

	t->slot = 0;
	if (last == t)
		return;
	heap_put(s, slot, last);
	heap_up(s, last);
	heap_down(s, last);
}

static u64 heap_first(const struct timer_service *s)
{
	return s->armed ? s->heap[1]->deadline : NEVER;
}

/* Runs everything due at `now`. Called and returns with the lock held, drops it for callbacks. */
static void run_due(struct timer_service *s, u64 now)
{
	while (s->armed && s->heap[1]->deadline <= now && !s->stop) {
		struct timer *t = s->heap[1];

		heap_remove(s, t);
		s->running = t;
		s->runner = (u64)pthread_self();
		futex_unlock(&s->lock);
		t->fire(t->arg);
		futex_lock(&s->lock);
		s->running = NULL;
		if (s->waiters) {
			__atomic_fetch_add(&s->done, 1, __ATOMIC_RELAXED);
			futex_wake(&s->done, INT32_MAX);
		}
	}
}

static void *service_main(void *arg)
{
	struct timer_service *s = arg;

	/* The default slack of 50 us would be added to every guest timer. */
	prctl(PR_SET_TIMERSLACK, 1ul, 0, 0, 0);
	pthread_setname_np(pthread_self(), "anykvm-timer");
	futex_lock(&s->lock);
	while (!s->stop) {
		u64 until;
		u32 seq;

		run_due(s, timer_service_now(s));
		until = heap_first(s);
		if (s->stop || until <= timer_service_now(s))
			continue;
		seq = __atomic_load_n(&s->seq, __ATOMIC_RELAXED);
		s->sleep_until = until;
		futex_unlock(&s->lock);
		futex_wait(&s->seq, seq, until);
		futex_lock(&s->lock);
		s->sleep_until = 0;
	}
	futex_unlock(&s->lock);
	return NULL;
}

int timer_service_create(struct timer_service **out, enum timer_clock clock)
{
	struct timer_service *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->clock = clock;
	s->manual_now = 1000000000u;
	*out = s;
	return 0;
}

void timer_service_destroy(struct timer_service *s)
{
	if (!s)
		return;
	if (s->started) {
		futex_lock(&s->lock);
		s->stop = true;
		__atomic_fetch_add(&s->seq, 1, __ATOMIC_RELAXED);
		futex_unlock(&s->lock);
		futex_wake(&s->seq, 1);
		pthread_join(s->thread, NULL);
	}
	free(s->heap);
	free(s);
}

/* Starts the thread with every signal blocked: the client's signals are not ours to take. */
static int service_start(struct timer_service *s)
{
	return thread_start(&s->thread, service_main, s);
}

int timer_init(struct timer_service *s, struct timer *t, void (*fire)(void *arg), void *arg)
{
	int ret = 0;

	futex_lock(&s->lock);
	if (s->timers == TIMER_MAX) {
		ret = -EAGAIN;
		goto out;
	}
	if (s->timers + 1 >= s->capacity) {
		u32 capacity = s->capacity ? 2 * s->capacity : 16;
		struct timer **heap = realloc(s->heap, capacity * sizeof(*heap));

		if (!heap) {
			ret = -ENOMEM;
			goto out;
		}
		s->heap = heap;
		s->capacity = capacity;
	}
	if (!s->started && s->clock == TIMER_MONOTONIC) {
		ret = service_start(s);
		if (ret)
			goto out;
		s->started = true;
	}
	s->timers++;
	*t = (struct timer){.service = s, .fire = fire, .arg = arg};
out:
	futex_unlock(&s->lock);
	return ret;
}

void timer_arm(struct timer *t, u64 ns)
{
	struct timer_service *s = t->service;
	bool wake = false;

	futex_lock(&s->lock);
	if (UNLIKELY(t->cancelling)) {
		futex_unlock(&s->lock);
		return;
	}
	t->deadline = ns;
	if (!t->slot) {
		t->slot = ++s->armed;
		heap_up(s, t);
	} else {
		heap_up(s, t);
		heap_down(s, t);
	}
	if (ns < s->sleep_until) {
		s->sleep_until = ns;
		__atomic_fetch_add(&s->seq, 1, __ATOMIC_RELAXED);
		wake = true;
	}
	futex_unlock(&s->lock);
	if (wake)
		futex_wake(&s->seq, 1);
}

bool timer_disarm(struct timer *t)
{
	struct timer_service *s = t->service;
	bool armed;

	futex_lock(&s->lock);
	armed = t->slot != 0;
	if (armed)
		heap_remove(s, t);
	futex_unlock(&s->lock);
	return armed;
}

void timer_cancel(struct timer *t)
{
	struct timer_service *s = t->service;

	futex_lock(&s->lock);
	t->cancelling++;
	for (;;) {
		u32 done;

		if (t->slot)
			heap_remove(s, t);
		if (s->running != t || s->runner == (u64)pthread_self())
			break;
		s->waiters++;
		done = __atomic_load_n(&s->done, __ATOMIC_RELAXED);
		futex_unlock(&s->lock);
		futex_wait(&s->done, done, FUTEX_NEVER);
		futex_lock(&s->lock);
		s->waiters--;
	}
	t->cancelling--;
	futex_unlock(&s->lock);
}

void timer_destroy(struct timer *t)
{
	struct timer_service *s = t->service;

	if (!s)
		return;
	timer_cancel(t);
	futex_lock(&s->lock);
	s->timers--;
	futex_unlock(&s->lock);
	t->service = NULL;
}

void timer_service_advance(struct timer_service *s, u64 ns)
{
	futex_lock(&s->lock);
	for (;;) {
		u64 next = heap_first(s);

		if (next > ns)
			break;
		if (next > s->manual_now)
			__atomic_store_n(&s->manual_now, next, __ATOMIC_RELAXED);
		run_due(s, s->manual_now);
	}
	__atomic_store_n(&s->manual_now, ns, __ATOMIC_RELAXED);
	futex_unlock(&s->lock);
}
