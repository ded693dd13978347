/*
 * ANYKVM_CAP_WINDOW: which vCPU has which window, what each has in it, and what happens where there is none.
 */
#include "window_rig.h"

#include <pthread.h>

#define ROUNDS 40

/* A VM with programs on all vCPUs, at the same addresses, each in memory of its own. */
static void start_all(struct api_vm *t)
{
	api_vm_make(t, WIN_CPUS, API_WINDOW);
	win_kernel(t);
	for (win_nth = 0; win_nth < WIN_CPUS; win_nth++)
		win_program(t);
}

/* A round of vCPU win_nth's program, whose pages move. */
static void round_of(struct api_vm *t, u32 i)
{
	unsigned from = 1 + i % 3, to = 4 + i % 4;
	u32 v = 1000 * i + win_nth;

	*win_pte(t, 1) = DATA_GPA(from) | PTE_USER;
	*win_pte(t, 2) = DATA_GPA(to) | PTE_USER;
	memcpy(t->mem + DATA_GPA(from), &v, sizeof(v));
	win_set(t, DATA(1), DATA(2), ~v, i & 4);
	assert_int_equal(win_run(t), v);
	assert_int_equal(win_word(t, to), ~v);
}

/* What the process has where a window has the page that programs store to. */
static u32 found_in(unsigned window)
{
	u64 host = 0;

	assert_true(window_host(window_shape(window), DATA(2), &host));
	assert_int_equal(win_host_mapping(host), 3);
	return *(volatile u32 *)host;
}

/* What vCPU win_nth has stored last is in this window. */
static void assert_has_window(struct api_vm *t, u32 i, unsigned window)
{
	assert_int_equal(found_in(window), win_word(t, 4 + i % 4));
}

static void each_has_its_own(void **state)
{
	struct api_vm t;

	for (unsigned h = 0; h < HOMES; h++) {
		win_home = win_homes[h];
		start_all(&t);
		assert_int_equal(win_places_taken(), WIN_ALL_PLACES);
		for (u32 i = 0; i < ROUNDS; i++) {
			for (win_nth = 0; win_nth < WIN_CPUS; win_nth++)
				round_of(&t, i);
			for (win_nth = 0; win_nth < MMU_WINDOWS; win_nth++)
				assert_has_window(&t, i, win_nth);
		}
		for (unsigned i = 0; i < MMU_WINDOWS; i++)
			assert_true(win_room_is_whole(i));
		win_free(&t);
		assert_int_equal(win_places_taken(), 0);
	}
}

/* --- at the same time ----------------------------------------------------------------------------- */

struct worker {
	pthread_t thread;
	struct api_vm *t;
	unsigned vcpu;
	u8 *from, *to; /* what its program reads and stores */
	unsigned rounds;
};

/* The same, without a cmocka that knows of one thread. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct kvm_run *run = w->t->run[w->vcpu];
	int fd = w->t->vcpu[w->vcpu];
	struct kvm_regs r;

	for (u32 i = 0, v, got; i < 3000; i++) {
		v = 4 * i + w->vcpu;
		memcpy(w->from, &v, sizeof(v));
		if (api_ioctl(fd, KVM_GET_REGS, &r))
			break;
		r.rbx = ~v;
		r.rcx = i % 16 != 0;
		if (api_ioctl(fd, KVM_SET_REGS, &r) || api_run(w->t, w->vcpu) ||
		    run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80)
			break;
		memcpy(&got, (u8 *)run + run->io.data_offset, sizeof(got));
		if (got != v)
			break;
		memcpy(&got, w->to, sizeof(got));
		if (got != ~v)
			break;
		w->rounds++;
	}
	return NULL;
}

static void all_at_the_same_time(void **state)
{
	struct worker w[WIN_CPUS];
	struct api_vm t;

	start_all(&t);
	for (win_nth = 0; win_nth < WIN_CPUS; win_nth++) {
		w[win_nth] = (struct worker){.t = &t,
					     .vcpu = win_nth,
					     .from = t.mem + DATA_GPA(1),
					     .to = t.mem + DATA_GPA(2)};
		assert_int_equal(pthread_create(&w[win_nth].thread, NULL, work, &w[win_nth]), 0);
	}
	for (unsigned i = 0; i < WIN_CPUS; i++)
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
	for (unsigned i = 0; i < WIN_CPUS; i++)
		assert_int_equal(w[i].rounds, 3000);
	win_free(&t);
}

/* --- taken, and given back ------------------------------------------------------------------------ */

/* A VM's vCPUs stay as long as it, closed or not, and it as long as one of its descriptors. */
static void stay_with_the_vm(void **state)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW, .args[0] = ANYKVM_WINDOW_ALWAYS};
	struct api_vm t, next;
	int vm;

	start_all(&t);
	anykvm_munmap(t.run[1], t.run_size);
	anykvm_close(t.vcpu[1]);
	t.vcpu[1] = -1;
	for (u32 i = 0; i < ROUNDS; i++)
		for (win_nth = 0; win_nth < WIN_CPUS; win_nth++)
			if (win_nth != 1)
				round_of(&t, i);
	win_nth = 0;
	assert_has_window(&t, ROUNDS - 1, 0);
	win_nth = 2;
	assert_has_window(&t, ROUNDS - 1, 2);
	anykvm_close(t.vm);
	for (unsigned i = 0; i < WIN_CPUS; i++) {
		if (t.vcpu[i] < 0)
			continue;
		vm = api_ioctl_value(t.kvm, KVM_CREATE_VM, 0);
		assert_true(vm >= 0);
		assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EBUSY);
		anykvm_close(vm);
		assert_int_equal(win_places_taken(), WIN_ALL_PLACES);
		anykvm_munmap(t.run[i], t.run_size);
		anykvm_close(t.vcpu[i]);
	}
	assert_int_equal(win_places_taken(), 0);
	anykvm_close(t.kvm);
	munmap(t.mem, API_MEM_SIZE);
	start_all(&next);
	for (win_nth = 0; win_nth < MMU_WINDOWS; win_nth++) {
		round_of(&next, 0);
		assert_has_window(&next, 0, win_nth);
	}
	win_free(&next);
}

/* Something of the client's at an address; it is not touched. */
static u32 *put_there(u64 at)
{
	u32 *p = mmap((void *)at, 4096, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	assert_ptr_equal(p, (void *)at);
	*p = 0x600d;
	return p;
}

static void take_away(u32 *p)
{
	assert_int_equal(*p, 0x600d);
	assert_int_equal(munmap(p, 4096), 0);
}

/* Addresses that a window cannot do without: its first and last page, one in the middle; those of its stack. */
static u64 page_of(unsigned window, unsigned n)
{
	const struct window_shape *s = window_shape(window);
	const u64 at[] = {window_room(s),
			  window_room(s) + window_room_size(s) - 4096,
			  s->host + window_part_size(s),
			  window_mask(s),
			  window_mask(s) - 4096,
			  window_mask(s) - WINDOW_STACK};

	return n < ARRAY_SIZE(at) ? at[n] : 0;
}

/* A VM with only some of the windows: the first vCPUs have them, the others none, and all are right. */
static void run_with(const unsigned *windows, unsigned count)
{
	unsigned places = 0;
	struct api_vm t;

	start_all(&t);
	for (unsigned i = 0; i < count; i++)
		places |= 0x101u << windows[i];
	assert_int_equal(win_places_taken() & places, places);
	for (u32 i = 0; i < ROUNDS; i++) {
		for (win_nth = 0; win_nth < WIN_CPUS; win_nth++)
			round_of(&t, i);
		for (win_nth = 0; win_nth < count; win_nth++)
			assert_has_window(&t, i, windows[win_nth]);
	}
	win_free(&t);
}

static void some_are_not_free(void **state)
{
	for (unsigned n = 0; page_of(0, n); n++) {
		u32 *second = put_there(page_of(1, n)), *third;

		run_with((const unsigned[]){0, 2}, 2);
		third = put_there(page_of(2, n));
		run_with((const unsigned[]){0}, 1);
		take_away(second);
		run_with((const unsigned[]){0, 1}, 2);
		take_away(third);
		assert_int_equal(win_places_taken(), 0);
	}
	run_with((const unsigned[]){0, 1, 2}, 3);
}

/* Without the first there is no window, and nothing of it stays. */
static void the_first_is_not_free(void **state)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW, .args[0] = ANYKVM_WINDOW_AUTO};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	for (unsigned n = 0; page_of(0, n); n++) {
		u32 *there = put_there(page_of(0, n));
		unsigned before = win_places_taken();
		int vm = api_ioctl_value(t.kvm, KVM_CREATE_VM, 0);

		assert_true(vm >= 0);
		assert_true(before == 1 || before == 0x100);
		assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EBUSY);
		assert_int_equal(win_places_taken(), before);
		take_away(there);
		assert_int_equal(api_ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
		assert_int_equal(win_places_taken(), WIN_ALL_PLACES);
		anykvm_close(vm);
		assert_int_equal(win_places_taken(), 0);
	}
	api_vm_free(&t);
}

static void is_refused(void **state)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW};
	struct api_vm one, two;
	int vm;

	api_vm_make(&one, 1, API_WINDOW);
	assert_int_equal(api_ioctl_value(one.vm, KVM_CHECK_EXTENSION, ANYKVM_CAP_WINDOW), 1);
	cap.args[0] = ANYKVM_WINDOW_AUTO;
	assert_errno(api_ioctl(one.vm, KVM_ENABLE_CAP, &cap), EINVAL); /* it has vCPUs */
	vm = api_ioctl_value(one.kvm, KVM_CREATE_VM, 0);
	assert_true(vm >= 0);
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EBUSY);
	cap.args[0] = 0;
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 3;
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	anykvm_close(vm);
	api_vm_free(&one);
	api_vm_make(&two, 1, API_WINDOW);
	api_vm_free(&two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_has_its_own, win_choose, win_clean),
		cmocka_unit_test_setup_teardown(all_at_the_same_time, win_choose, win_clean),
		cmocka_unit_test_setup_teardown(stay_with_the_vm, win_choose, win_clean),
		cmocka_unit_test_setup_teardown(some_are_not_free, win_choose, win_clean),
		cmocka_unit_test_setup_teardown(the_first_is_not_free, win_choose, win_clean),
		cmocka_unit_test_setup_teardown(is_refused, win_choose, win_clean),
	};

	return win_main("window owners", tests, ARRAY_SIZE(tests));
}
