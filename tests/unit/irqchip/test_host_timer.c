/* base/timer: the manual clock's order, and the real service thread. */
#include "fake.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct probe {
	struct timer t;
	struct timer_service *s;
	unsigned fired;
	u64 when;
	u64 again; /* ns to rearm by, once */
	u64 hold;  /* ns to stay in the callback */
	unsigned entered, left;
	bool signals_open;
};

static u32 sequence;

static void fire(void *arg)
{
	struct probe *p = arg;
	sigset_t mask;

	__atomic_fetch_add(&p->entered, 1, __ATOMIC_SEQ_CST);
	p->when = timer_service_now(p->s);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	p->signals_open = !sigismember(&mask, SIGUSR1);
	if (p->hold)
		usleep((useconds_t)(p->hold / 1000));
	if (p->again) {
		timer_arm(&p->t, p->when + p->again);
		p->again = 0;
	}
	__atomic_store_n(&p->fired, __atomic_add_fetch(&sequence, 1, __ATOMIC_SEQ_CST),
			 __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&p->left, 1, __ATOMIC_SEQ_CST);
}

static void probe_init(struct probe *p, struct timer_service *s)
{
	*p = (struct probe){.s = s};
	assert_int_equal(timer_init(s, &p->t, fire, p), 0);
}

static unsigned left(struct probe *p)
{
	return __atomic_load_n(&p->left, __ATOMIC_SEQ_CST);
}

static void wait_for(unsigned *n, unsigned least)
{
	for (int i = 0; i < 5000 && __atomic_load_n(n, __ATOMIC_SEQ_CST) < least; i++)
		usleep(1000);
	assert_true(__atomic_load_n(n, __ATOMIC_SEQ_CST) >= least);
}

static void test_manual_order(void **state)
{
	struct timer_service *s;
	struct probe p[40];
	u64 now;

	assert_int_equal(timer_service_create(&s, TIMER_MANUAL), 0);
	now = timer_service_now(s);
	for (unsigned i = 0; i < 40; i++)
		probe_init(&p[i], s);
	for (unsigned i = 0; i < 40; i++)
		timer_arm(&p[i].t, now + 1000 + (i * 17) % 40);
	timer_arm(&p[3].t, now + 2000); /* moved later */
	timer_arm(&p[4].t, now + 1);	/* moved earlier */
	assert_true(timer_disarm(&p[5].t));
	assert_false(timer_disarm(&p[5].t));
	timer_service_advance(s, now + 1500);
	assert_int_equal(p[3].left, 0);
	assert_int_equal(p[5].left, 0);
	assert_int_equal(p[4].when, now + 1);
	for (unsigned i = 0; i < 40; i++)
		for (unsigned j = 0; j < 40; j++)
			if (p[i].left && p[j].left && p[i].when < p[j].when)
				assert_true(p[i].fired < p[j].fired);
	p[3].again = 5;
	timer_service_advance(s, now + 3000);
	assert_int_equal(p[3].left, 2);
	assert_int_equal(p[3].when, now + 2005);
	for (unsigned i = 0; i < 40; i++)
		timer_destroy(&p[i].t);
	timer_service_destroy(s);
}

static void test_thread_fires(void **state)
{
	struct timer_service *s;
	struct probe a, b;
	u64 now;

	assert_int_equal(timer_service_create(&s, TIMER_MONOTONIC), 0);
	probe_init(&a, s);
	probe_init(&b, s);
	now = timer_service_now(s);
	timer_arm(&a.t, now + 50000000);
	timer_arm(&b.t, now + 5000000); /* earlier than what the thread sleeps for */
	wait_for(&b.left, 1);
	assert_int_equal(left(&a), 0);
	assert_true(b.when >= now + 5000000);
	wait_for(&a.left, 1);
	assert_true(a.when >= now + 50000000);
	assert_false(a.signals_open);
	timer_arm(&a.t, 0); /* in the past: now */
	wait_for(&a.left, 2);
	timer_arm(&a.t, UINT64_MAX); /* never */
	usleep(5000);
	assert_int_equal(left(&a), 2);
	timer_destroy(&a.t);
	timer_destroy(&b.t);
	timer_service_destroy(s);
}

static void test_cancel_waits(void **state)
{
	struct timer_service *s;
	struct probe a;

	assert_int_equal(timer_service_create(&s, TIMER_MONOTONIC), 0);
	probe_init(&a, s);
	a.hold = 30000000;
	timer_arm(&a.t, 0);
	wait_for(&a.entered, 1);
	timer_cancel(&a.t);
	assert_int_equal(left(&a), 1);
	a.again = 1; /* rearms from its callback: cancelled all the same */
	timer_arm(&a.t, 0);
	wait_for(&a.entered, 2);
	timer_cancel(&a.t);
	usleep(2000);
	assert_int_equal(left(&a), 2);
	timer_destroy(&a.t);
	timer_destroy(&a.t); /* harmless */
	timer_service_destroy(s);
	timer_service_destroy(NULL);
}

static void *hammer(void *arg)
{
	struct probe *p = arg;

	for (int i = 0; i < 3000; i++) {
		timer_arm(&p->t, timer_service_now(p->s) + (u64)(i % 7) * 3000);
		if (i % 3 == 0)
			timer_disarm(&p->t);
		if (i % 50 == 0)
			timer_cancel(&p->t);
	}
	timer_arm(&p->t, 0);
	return NULL;
}

static void test_hammer(void **state)
{
	struct timer_service *s;
	struct probe p[4];
	pthread_t thread[4];

	assert_int_equal(timer_service_create(&s, TIMER_MONOTONIC), 0);
	for (int i = 0; i < 4; i++) {
		probe_init(&p[i], s);
		pthread_create(&thread[i], NULL, hammer, &p[i]);
	}
	for (int i = 0; i < 4; i++) {
		unsigned before;

		pthread_join(thread[i], NULL);
		timer_cancel(&p[i].t);
		before = left(&p[i]);
		timer_arm(&p[i].t, 0);
		wait_for(&p[i].left, before + 1);
		timer_destroy(&p[i].t);
	}
	timer_service_destroy(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_manual_order),
		cmocka_unit_test(test_thread_fires),
		cmocka_unit_test(test_cancel_waits),
		cmocka_unit_test(test_hammer),
	};

	return cmocka_run_group_tests_name("host_timer", tests, NULL, NULL);
}
