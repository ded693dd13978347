/*
 * Halts and how they end: polling before the sleep (KVM_CAP_HALT_POLL), interrupts, kicks and signals in
 * the middle of it, and what idling costs.
 */
#include "api.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#define TICKS_AT     0x100000
#define POLL_CONTROL 0x4b564d05u
#define SECOND	     1000000000u
#define LEARN_NS     (10ull * SECOND)

/* x2APIC on; then a halt, and a port write behind the interrupt that ended it, forever. */
#define APIC_ON                                           \
	"mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr;" \
	"mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; wrmsr;"
API_CODE64(halts, APIC_ON "1: sti; hlt; cli; out %al, $0x10; jmp 1b");
/* LVT timer: periodic, vector 0x50; divided by 1; EBP: its period. */
API_CODE64(ticks, APIC_ON "mov $0x832, %ecx; mov $0x20050, %eax; xor %edx, %edx; wrmsr;"
			  "mov $0x83e, %ecx; mov $0xb, %eax; wrmsr;"
			  "mov $0x838, %ecx; mov %ebp, %eax; wrmsr; sti; 1: hlt; jmp 1b");
API_CODE64(isr, "push %rax; push %rcx; push %rdx; incq 0x100000;"
		"xor %eax, %eax; xor %edx, %edx; mov $0x80b, %ecx; wrmsr;"
		"pop %rdx; pop %rcx; pop %rax; iretq");

static u64 now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (u64)ts.tv_sec * SECOND + (u64)ts.tv_nsec;
}

/* A statistic, read in one piece: each read makes all of them. */
static u64 stat_of(int vcpu, const char *name)
{
	static _Alignas(8) u8 image[1 << 17];
	const struct kvm_stats_header *h = (const void *)image;
	int fd = api_ioctl_value(vcpu, KVM_GET_STATS_FD, 0);
	const struct kvm_stats_desc *d = NULL;
	ssize_t size;

	assert_true(fd >= 0);
	size = anykvm_pread(fd, image, sizeof(image), 0);
	anykvm_close(fd);
	assert_true(size > 0 && size < (ssize_t)sizeof(image));
	for (u32 i = 0; i < h->num_desc; i++) {
		d = (const void *)(image + h->desc_offset + i * (sizeof(*d) + h->name_size));
		if (!strcmp(d->name, name))
			break;
	}
	assert_string_equal(d->name, name);
	if (strstr(name, "_ns")) {
		assert_int_equal(d->exponent, -9);
		assert_int_equal(d->flags & KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_SECONDS);
	}
	return *(const u64 *)(image + h->data_offset + d->offset);
}

static int poll_set(struct api_vm *t, u64 ns)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_HALT_POLL, .args = {ns}};

	return api_ioctl(t->vm, KVM_ENABLE_CAP, &cap);
}

static void vm_make(struct api_vm *t, const u8 *code, size_t size)
{
	api_vm_make(t, 1, API_IRQCHIP);
	memcpy(t->mem + 0x9000, isr_begin, API_SIZE(isr));
	api_start64(t, 0, code, size);
	api_idt64(t, 0x50, 0x9000);
}

/* Polling needs a second CPU; a build host may be so small that there is none. */
static bool alone(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) < 2;
}

/* --- who ends the halts ---------------------------------------------------------------------------- */

struct sender {
	pthread_t thread;
	int vm;
	unsigned us;
	bool stop;
};

static void *sender(void *arg)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x50};
	struct sender *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		usleep(s->us);
		api_ioctl(s->vm, KVM_SIGNAL_MSI, &msi);
	}
	return NULL;
}

static void sender_start(struct sender *s, const struct api_vm *t, unsigned us)
{
	*s = (struct sender){.vm = t->vm, .us = us};
	pthread_create(&s->thread, NULL, sender, s);
}

static void sender_stop(struct sender *s)
{
	__atomic_store_n(&s->stop, true, __ATOMIC_RELAXED);
	pthread_join(s->thread, NULL);
}

/* So many halts of about `us` each. */
static void halt(struct api_vm *t, unsigned us, unsigned count)
{
	struct sender s;

	sender_start(&s, t, us);
	while (count--)
		api_run_to_out(t, 0, 0x10);
	sender_stop(&s);
}

/* Halts of about `us` each until the vCPU polls through whole ones. On a host with no time to spare that
 * may fail: whoever is not alone on a CPU stops polling. */
static bool learn(struct api_vm *t, unsigned us)
{
	u64 end = now_ns(CLOCK_MONOTONIC) + LEARN_NS;
	struct sender s;

	assert_int_equal(poll_set(t, SECOND), 0);
	sender_start(&s, t, us);
	while (stat_of(t->vcpu[0], "halt_successful_poll") < 3 && now_ns(CLOCK_MONOTONIC) < end)
		for (unsigned i = 0; i < 8; i++)
			api_run_to_out(t, 0, 0x10);
	sender_stop(&s);
	return stat_of(t->vcpu[0], "halt_successful_poll") >= 3;
}

/* --- tests ------------------------------------------------------------------------------------------ */

static void capability(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_HALT_POLL, .flags = 1};
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_ioctl_value(t.vm, KVM_CHECK_EXTENSION, KVM_CAP_HALT_POLL), 1);
	assert_int_equal(api_ioctl_value(t.kvm, KVM_CHECK_EXTENSION, KVM_CAP_HALT_POLL), 1);
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	assert_errno(poll_set(&t, 1ull << 32), EINVAL);
	assert_int_equal(poll_set(&t, UINT32_MAX), 0);
	assert_int_equal(poll_set(&t, 0), 0);
	assert_int_equal(poll_set(&t, 200000), 0);
	cap.flags = 0;
	assert_errno(api_ioctl(t.vcpu[0], KVM_ENABLE_CAP, &cap), EINVAL);
	api_vm_free(&t);
}

/* An interrupt that comes while the vCPU polls ends the halt; it has not slept. */
static void interrupt_polling(void **state)
{
	struct api_vm t;

	if (alone())
		skip();
	vm_make(&t, halts_begin, API_SIZE(halts));
	assert_true(learn(&t, 2000));
	assert_true(stat_of(t.vcpu[0], "halt_attempted_poll") >=
		    stat_of(t.vcpu[0], "halt_successful_poll"));
	assert_true(stat_of(t.vcpu[0], "halt_poll_success_ns") > 0);
	assert_true(stat_of(t.vcpu[0], "halt_wait_ns") > 0); /* the first halts */
	assert_true(stat_of(t.vcpu[0], "halt_wakeup") +
			    stat_of(t.vcpu[0], "halt_successful_poll") <=
		    stat_of(t.vcpu[0], "halt_exits"));
	assert_int_equal(stat_of(t.vcpu[0], "halt_poll_invalid"), 0);
	assert_int_equal(stat_of(t.vcpu[0], "blocking"), 0);
	api_vm_free(&t);
}

static void attempts_none(struct api_vm *t)
{
	u64 before = stat_of(t->vcpu[0], "halt_attempted_poll");

	halt(t, 1000, 30);
	assert_int_equal(stat_of(t->vcpu[0], "halt_attempted_poll"), before);
}

/* Nobody polls: the client does not want it, the guest does not, there is one CPU only. */
static void no_polling(void **state)
{
	cpu_set_t set, one;
	struct api_vm t;

	vm_make(&t, halts_begin, API_SIZE(halts));
	assert_int_equal(poll_set(&t, 0), 0);
	attempts_none(&t);

	assert_int_equal(poll_set(&t, SECOND), 0);
	assert_int_equal((int)api_msr(&t, 0, POLL_CONTROL), 1);
	assert_int_equal(api_set_msr(&t, 0, POLL_CONTROL, 2), 0); /* refused */
	assert_int_equal(api_set_msr(&t, 0, POLL_CONTROL, 0), 1);
	attempts_none(&t);
	assert_int_equal(api_set_msr(&t, 0, POLL_CONTROL, 1), 1);

	sched_getaffinity(0, sizeof(set), &set);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
		if (CPU_ISSET(i, &set))
			CPU_SET(i, &one);
	sched_setaffinity(0, sizeof(one), &one);
	usleep(20000); /* CPUs are counted every 10 ms */
	attempts_none(&t);
	sched_setaffinity(0, sizeof(set), &set);
	api_vm_free(&t);
}

/* … and a vCPU for which there is no CPU. */
static void too_many_vcpus(void **state)
{
	struct api_vm t;
	cpu_set_t set;
	unsigned vcpus;

	sched_getaffinity(0, sizeof(set), &set);
	vcpus = (unsigned)CPU_COUNT(&set) + 1;
	if (vcpus > API_MAX_VCPUS)
		skip();
	api_vm_make(&t, vcpus, API_IRQCHIP);
	memcpy(t.mem + 0x9000, isr_begin, API_SIZE(isr));
	api_start64(&t, 0, halts_begin, API_SIZE(halts));
	api_idt64(&t, 0x50, 0x9000);
	assert_int_equal(poll_set(&t, SECOND), 0);
	attempts_none(&t);
	api_vm_free(&t);
}

enum ending { BY_KICK, BY_IMMEDIATE_EXIT, BY_MASKED_SIGNAL, ENDINGS };

struct ender {
	struct api_vm *t;
	pthread_t target;
	enum ending how;
};

static struct kvm_run *handler_run;

static void handler(int sig)
{
	handler_run->immediate_exit = 1;
}

static void *end(void *arg)
{
	struct ender *e = arg;

	usleep(10000);
	if (e->how == BY_KICK)
		anykvm_kick(e->t->vcpu[0]);
	else
		pthread_kill(e->target, e->how == BY_MASKED_SIGNAL ? SIGUSR2 : SIGUSR1);
	return NULL;
}

/* KVM_RUN ends at once, not when the polling is over, and the vCPU stays halted. */
static void interrupted_polling(void **state)
{
	struct sigaction sa = {.sa_handler = handler}, old_action;
	struct {
		struct kvm_signal_mask head;
		u64 mask;
	} __attribute__((packed)) m = {.head.len = 8, .mask = ~(1ull << (SIGUSR2 - 1))};
	sigset_t block, old;
	int sig, ret;

	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	sigaction(SIGUSR1, &sa, &old_action);
	for (enum ending how = 0; how < ENDINGS; how++) {
		struct kvm_mp_state mp;
		struct ender e = {.how = how, .target = pthread_self()};
		struct api_vm t;
		pthread_t thread;
		u64 begin;

		vm_make(&t, halts_begin, API_SIZE(halts));
		if (!alone())
			learn(&t, 20000); /* polls longer than end() waits */
		e.t = &t;
		handler_run = t.run[0];
		if (how == BY_MASKED_SIGNAL)
			assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SIGNAL_MASK, &m), 0);
		pthread_create(&thread, NULL, end, &e);
		begin = now_ns(CLOCK_MONOTONIC);
		do
			ret = api_run(&t, 0); /* 0: an interrupt that was on its way */
		while (!ret);
		assert_errno(ret, EINTR);
		assert_true(now_ns(CLOCK_MONOTONIC) - begin < SECOND / 2);
		pthread_join(thread, NULL);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
		if (how == BY_MASKED_SIGNAL)
			assert_int_equal(sigwait(&block, &sig), 0);
		api_vm_free(&t);
	}
	sigaction(SIGUSR1, &old_action, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void *kick_late(void *arg)
{
	usleep(300000);
	anykvm_kick(*(int *)arg);
	return NULL;
}

/* A guest with a timer's ticks and nothing to do, and one without ticks: what their thread uses. */
static void idle(void **state)
{
	for (unsigned ticking = 0; ticking < 2; ticking++) {
		struct api_vm t;
		struct kvm_regs r;
		pthread_t thread;
		u64 used;

		vm_make(&t, ticks_begin, API_SIZE(ticks));
		r = api_regs(&t, 0);
		r.rbp = ticking ? 4000000 : 0; /* the bus' nanoseconds: 250 ticks a second */
		api_set_regs(&t, 0, &r);
		pthread_create(&thread, NULL, kick_late, &t.vcpu[0]);
		used = now_ns(CLOCK_THREAD_CPUTIME_ID);
		assert_errno(api_run(&t, 0), EINTR);
		used = now_ns(CLOCK_THREAD_CPUTIME_ID) - used;
		pthread_join(thread, NULL);
		print_message("# idle, ticks %u: %u us of 300000\n",
			      (unsigned)*(u64 *)(t.mem + TICKS_AT), (unsigned)(used / 1000));
		assert_true(used < 30000000);
		if (ticking)
			assert_true(*(u64 *)(t.mem + TICKS_AT) > 10);
		assert_true(stat_of(t.vcpu[0], "halt_poll_fail_ns") < 1000000);
		api_vm_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capability),	       cmocka_unit_test(interrupt_polling),
		cmocka_unit_test(no_polling),	       cmocka_unit_test(too_many_vcpus),
		cmocka_unit_test(interrupted_polling), cmocka_unit_test(idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
