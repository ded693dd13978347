/* irqfd and ioeventfd beyond the first: what is signalled is there at once, shared lines, many of them. */
#include "api.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define PIN    20u
#define VECTOR 0x60u

/* Software-enables the APIC and empties its IRR and ISR. */
static void apic_clean(struct api_vm *t, unsigned vcpu)
{
	static const u32 enabled = 0x1ff;
	struct kvm_lapic_state s;

	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_LAPIC, &s), 0);
	memset(s.regs + 0x100, 0, 0x180);
	memcpy(s.regs + 0xf0, &enabled, sizeof(enabled));
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_SET_LAPIC, &s), 0);
}

static bool requested(struct api_vm *t)
{
	return api_apic_reg(t, 0, 0x200 + VECTOR / 32 * 16) & 1u << VECTOR % 32;
}

static int irqfd(struct api_vm *t, int fd, u32 gsi, u32 flags, int resample)
{
	struct kvm_irqfd a = {
		.fd = (u32)fd, .gsi = gsi, .flags = flags, .resamplefd = (u32)resample};

	return api_ioctl(t->vm, KVM_IRQFD, &a);
}

static void signal_fd(int fd)
{
	u64 one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static u64 taken(int fd)
{
	u64 n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

/* Whatever looks or changes something after the write to the eventfd comes after its interrupt. */
static void at_once(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	struct api_vm t;

	api_vm_make(&t, 1, API_SPLIT);
	api_route_msi(&t, 30, VECTOR);
	assert_int_equal(irqfd(&t, fd, 30, 0, 0), 0);
	for (unsigned i = 0; i < 200; i++) {
		apic_clean(&t, 0);
		signal_fd(fd);
		assert_true(requested(&t));
	}
	for (unsigned i = 0; i < 200; i++) { /* a restored state is the last word */
		signal_fd(fd);
		apic_clean(&t, 0);
		assert_false(requested(&t));
	}
	for (unsigned i = 0; i < 200; i++) {
		apic_clean(&t, 0);
		signal_fd(fd);
		assert_int_equal(irqfd(&t, fd, 30, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
		assert_true(requested(&t));
		assert_int_equal(taken(fd), 0);
		signal_fd(fd); /* nobody's any more */
		assert_int_equal(taken(fd), 1);
		assert_int_equal(irqfd(&t, fd, 30, 0, 0), 0);
	}
	for (unsigned i = 0; i < 200; i++) { /* by the route of that moment */
		apic_clean(&t, 0);
		signal_fd(fd);
		api_route_msi(&t, 30, VECTOR + 1);
		assert_true(requested(&t));
		api_route_msi(&t, 30, VECTOR);
	}
	api_vm_free(&t);
	close(fd);
}

#define MSI_NMI	 0x400u
#define MSI_INIT 0x4500u

/* … an NMI and an INIT too, and what the I/O APIC shows. */
static void at_once_elsewhere(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK), pin = eventfd(0, EFD_NONBLOCK);
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_vcpu_events e;
	struct kvm_mp_state mp;
	struct api_vm t;

	for (unsigned i = 0; i < 100; i++) {
		api_vm_make(&t, 2, API_SPLIT);
		api_route_msi(&t, 30, MSI_NMI);
		assert_int_equal(irqfd(&t, fd, 30, 0, 0), 0);
		signal_fd(fd);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
		assert_true(e.nmi.pending || e.nmi.injected);
		mp.mp_state = KVM_MP_STATE_HALTED;
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), 0);
		api_route_msi(&t, 30, MSI_INIT); /* the boot CPU starts anew */
		signal_fd(fd);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
		api_vm_free(&t);
		api_vm_make(&t, 1, API_IRQCHIP);
		assert_int_equal(irqfd(&t, pin, PIN, KVM_IRQFD_FLAG_RESAMPLE, fd), 0);
		signal_fd(pin);
		assert_int_equal(api_ioctl(t.vm, KVM_GET_IRQCHIP, &chip), 0);
		assert_int_equal(chip.chip.ioapic.irr >> PIN & 1, 1);
		api_vm_free(&t);
	}
	close(fd);
	close(pin);
}

static bool line_up(struct api_vm *t)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	assert_int_equal(api_ioctl(t->vm, KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.ioapic.irr >> PIN & 1;
}

static void pin_entry(struct api_vm *t, u64 bits)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};

	assert_int_equal(api_ioctl(t->vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[PIN].bits = bits;
	assert_int_equal(api_ioctl(t->vm, KVM_SET_IRQCHIP, &chip), 0);
}

/* Ends each interrupt; its EOI is at 0xfee000b0. */
API_CODE64(ender,
	   "mov $0x77, %eax; out %eax, $0x10; mov $0xfee000b0, %edi; movl $0, (%rdi); iretq");
API_CODE64(wait, "sti; 1: out %al, $0x11; jmp 1b");

/* Two devices on one line: it falls once for both, and when the last one goes. */
static void shared_line(void **state)
{
	static const u32 resample = KVM_IRQFD_FLAG_RESAMPLE;
	int fd[2], back[2];
	struct api_vm t;

	for (unsigned i = 0; i < 2; i++) {
		fd[i] = eventfd(0, EFD_NONBLOCK);
		back[i] = eventfd(0, EFD_NONBLOCK);
	}
	api_vm_make(&t, 1, API_IRQCHIP);
	api_start64(&t, 0, wait_begin, API_SIZE(wait));
	*(u64 *)(t.mem + 0x2000 + 3 * 8) = 0xc0000083ull;
	memcpy(t.mem + 0x9000, ender_begin, API_SIZE(ender));
	api_idt64(&t, VECTOR, 0x9000);
	pin_entry(&t, 0x18000 | VECTOR); /* level, masked */
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(irqfd(&t, fd[i], PIN, resample, back[i]), 0);
	signal_fd(fd[0]);
	assert_true(line_up(&t));
	assert_int_equal(irqfd(&t, fd[1], PIN, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_true(line_up(&t));
	assert_int_equal(irqfd(&t, fd[0], PIN, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_false(line_up(&t));
	/* An acknowledgement tells both, and no one who has gone. */
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(irqfd(&t, fd[i], PIN, resample, back[i]), 0);
	apic_clean(&t, 0);
	pin_entry(&t, 0x8000 | VECTOR);
	for (unsigned i = 0; i < 2; i++) {
		signal_fd(fd[0]);
		assert_true(line_up(&t));
		api_run_to_out(&t, 0, 0x10);
		api_run_to_out(&t, 0, 0x11);
		assert_false(line_up(&t));
		assert_int_equal(taken(back[0]), 1);
		assert_int_equal(taken(back[1]), !i);
		if (!i)
			assert_int_equal(irqfd(&t, fd[1], PIN, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	}
	api_vm_free(&t);
	for (unsigned i = 0; i < 2; i++) {
		close(fd[i]);
		close(back[i]);
	}
}

struct rival {
	int fd;
	bool stop;
};

static ssize_t take_now(int fd)
{
	u64 n;
	struct iovec v = {.iov_base = &n, .iov_len = sizeof(n)};

	return preadv2(fd, &v, 1, -1, RWF_NOWAIT);
}

static void *rival_main(void *arg)
{
	struct rival *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED))
		take_now(r->fd);
	return NULL;
}

/* A blocking eventfd whose count somebody else takes holds nobody up. */
static void read_by_others(void **state)
{
	struct rival r = {.fd = eventfd(0, 0)};
	pthread_t thread;
	struct api_vm t;

	if (take_now(r.fd) < 0 && errno != EAGAIN)
		skip(); /* an old kernel: it cannot be read safely */
	api_vm_make(&t, 1, API_SPLIT);
	api_route_msi(&t, 30, VECTOR);
	assert_int_equal(pthread_create(&thread, NULL, rival_main, &r), 0);
	alarm(60);
	for (unsigned i = 0; i < 20000; i++) {
		assert_int_equal(irqfd(&t, r.fd, 30, 0, 0), 0);
		signal_fd(r.fd);
		assert_int_equal(irqfd(&t, r.fd, 30, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	}
	alarm(0);
	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	api_vm_free(&t);
	close(r.fd);
}

#define MANY_IRQFDS	4200u
#define MANY_IOEVENTFDS 1200u

/* As many as there are descriptors. */
static void many(void **state)
{
	struct rlimit old, limit;
	struct api_vm t;
	int *fd = calloc(MANY_IRQFDS, sizeof(*fd));

	assert_non_null(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	limit = old;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 2 * MANY_IRQFDS + MANY_IOEVENTFDS + 100)
		skip();
	api_vm_make(&t, 1, API_IRQCHIP);
	for (u32 i = 0; i < MANY_IRQFDS; i++) {
		fd[i] = eventfd(0, EFD_NONBLOCK);
		assert_true(fd[i] >= 0);
		assert_int_equal(irqfd(&t, fd[i], 5, 0, 0), 0);
	}
	for (u32 i = 0; i < MANY_IOEVENTFDS; i++) {
		struct kvm_ioeventfd a = {.addr = 0x10000000 + i * 8, .len = 4, .fd = fd[0]};

		assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &a), 0);
	}
	api_vm_free(&t);
	for (u32 i = 0; i < MANY_IRQFDS; i++)
		close(fd[i]);
	free(fd);
	setrlimit(RLIMIT_NOFILE, &old);
}

/* A GSI beyond the table is as one that leads nowhere; what leads nowhere can be taken back. */
static void accepted_as_in_kvm(void **state)
{
	struct kvm_ioeventfd ccw = {
		.addr = 0xd0000000, .len = 4, .flags = KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY};
	int fd = eventfd(0, EFD_NONBLOCK), other = dup(2);
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(irqfd(&t, fd, 5000, 0, 0), 0);
	signal_fd(fd);
	assert_int_equal(irqfd(&t, fd, 5000, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_int_equal(taken(fd), 0);
	assert_int_equal(irqfd(&t, fd, ~0u, KVM_IRQFD_FLAG_RESAMPLE, fd), 0);
	assert_int_equal(irqfd(&t, fd, ~0u, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	ccw.fd = fd;
	assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &ccw), 0);
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &ccw), EEXIST);
	ccw.flags = KVM_IOEVENTFD_FLAG_DEASSIGN; /* there is none for memory */
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &ccw), ENOENT);
	ccw.flags |= KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY;
	assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &ccw), 0);
	api_vm_free(&t);
	api_vm_make(&t, 1, 0);
	assert_errno(irqfd(&t, fd, 5, 0, 0), EINVAL);
	assert_int_equal(irqfd(&t, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), 0);
	assert_errno(irqfd(&t, other, 5, KVM_IRQFD_FLAG_DEASSIGN, 0), EINVAL);
	api_vm_free(&t);
	close(fd);
	close(other);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_once),     cmocka_unit_test(at_once_elsewhere),
		cmocka_unit_test(shared_line), cmocka_unit_test(read_by_others),
		cmocka_unit_test(many),	       cmocka_unit_test(accepted_as_in_kvm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
