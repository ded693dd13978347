/* Exits: port and memory I/O in all widths and as strings, HLT, shutdown, immediate_exit, kick. */
#include "api.h"

#include <pthread.h>
#include <signal.h>

API_CODE16(pio, "mov $0x12345678, %eax; mov $0x3f8, %dx; out %al, %dx; out %ax, %dx;"
		"out %eax, %dx; in %dx, %eax; mov %eax, (0x500); hlt");

static void port_widths(void **state)
{
	struct api_vm t;
	struct kvm_run *run;

	api_vm_make(&t, 1, 0);
	run = t.run[0];
	api_start16(&t, 0, pio_begin, API_SIZE(pio));
	for (u32 size = 1; size <= 4; size *= 2) {
		u32 v = 0;

		api_run_expect(&t, 0, KVM_EXIT_IO);
		assert_int_equal(run->io.direction, KVM_EXIT_IO_OUT);
		assert_int_equal(run->io.port, 0x3f8);
		assert_int_equal(run->io.size, size);
		assert_int_equal(run->io.count, 1);
		memcpy(&v, (u8 *)run + run->io.data_offset, size);
		assert_int_equal(v, size == 4 ? 0x12345678 : size == 2 ? 0x5678 : 0x78);
	}
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_int_equal(run->io.direction, KVM_EXIT_IO_IN);
	memcpy((u8 *)run + run->io.data_offset, "\xef\xbe\xad\xde", 4);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(*(u32 *)(t.mem + 0x500), 0xdeadbeef);
	api_vm_free(&t);
}

API_CODE16(strings, "cld; mov $0x500, %si; mov $5, %cx; mov $0x80, %dx; rep outsb;"
		    "mov $0x600, %di; mov $3, %cx; rep insw; hlt");

static void port_strings(void **state)
{
	struct api_vm t;
	struct kvm_run *run;
	char got[16];
	unsigned n = 0, in = 0;

	api_vm_make(&t, 1, 0);
	run = t.run[0];
	memcpy(t.mem + 0x500, "hello", 5);
	api_start16(&t, 0, strings_begin, API_SIZE(strings));
	for (;;) {
		assert_int_equal(api_run(&t, 0), 0);
		if (run->exit_reason != KVM_EXIT_IO)
			break;
		u8 *data = (u8 *)run + run->io.data_offset;

		for (u32 i = 0; i < run->io.count; i++) {
			if (run->io.direction == KVM_EXIT_IO_OUT)
				got[n++] = (char)data[i];
			else
				((u16 *)data)[i] = (u16)(0x1110 + in++);
		}
	}
	assert_int_equal(run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(n, 5);
	assert_memory_equal(got, "hello", 5);
	assert_int_equal(in, 3);
	assert_memory_equal(t.mem + 0x600, "\x10\x11\x11\x11\x12\x11", 6);
	api_vm_free(&t);
}

API_CODE64(mmio, "mov $0xd0000000, %edi; movl $0x11223344, (%rdi); mov 8(%rdi), %rax;"
		 "movups 0x10(%rdi), %xmm0; movups %xmm0, 0x500; addl $5, 0x40(%rdi);"
		 "mov %rax, 0x510; hlt");

static void memory(void **state)
{
	struct api_vm t;
	struct kvm_run *run;

	api_vm_make(&t, 1, 0);
	run = t.run[0];
	/* Page directory entries for the devices' gigabyte. */
	api_start64(&t, 0, mmio_begin, API_SIZE(mmio));
	*(u64 *)(t.mem + 0x2000 + 3 * 8) = 0xc0000083ull;
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.phys_addr, 0xd0000000);
	assert_int_equal(run->mmio.len, 4);
	assert_true(run->mmio.is_write);
	assert_memory_equal(run->mmio.data, "\x44\x33\x22\x11", 4);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_int_equal(run->mmio.phys_addr, 0xd0000008);
	assert_int_equal(run->mmio.len, 8);
	assert_false(run->mmio.is_write);
	memcpy(run->mmio.data, "abcdefgh", 8);
	for (int i = 0; i < 2; i++) {
		api_run_expect(&t, 0, KVM_EXIT_MMIO);
		assert_int_equal(run->mmio.phys_addr, 0xd0000010 + 8 * i);
		assert_int_equal(run->mmio.len, 8);
		assert_false(run->mmio.is_write);
		memset(run->mmio.data, '0' + i, 8);
	}
	/* Read-modify-write: a read and then a write. */
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_false(run->mmio.is_write);
	memcpy(run->mmio.data, "\x01\0\0\0", 4);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_true(run->mmio.is_write);
	assert_int_equal(run->mmio.data[0], 6);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_memory_equal(t.mem + 0x500, "0000000011111111", 16);
	assert_memory_equal(t.mem + 0x510, "abcdefgh", 8);
	api_vm_free(&t);
}

API_CODE64(triple, "ud2");

static void shutdown(void **state)
{
	struct api_vm t;
	struct kvm_sregs s;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, triple_begin, API_SIZE(triple));
	api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
	s.idt.limit = 0;
	api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s);
	api_run_expect(&t, 0, KVM_EXIT_SHUTDOWN);
	api_vm_free(&t);
}

API_CODE16(in_then_spin, "in $0x40, %al; mov %al, (0x500); 1: jmp 1b");

/* immediate_exit finishes the exit before, and runs no guest code. */
static void immediate_exit(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start16(&t, 0, in_then_spin_begin, API_SIZE(in_then_spin));
	api_run_expect(&t, 0, KVM_EXIT_IO);
	*((u8 *)t.run[0] + t.run[0]->io.data_offset) = 0x42;
	t.run[0]->immediate_exit = 1;
	assert_errno(api_run(&t, 0), EINTR);
	assert_int_equal(api_regs(&t, 0).rax & 0xff, 0x42);
	assert_int_equal(t.mem[0x500], 0);
	api_vm_free(&t);
}

static void *kicker(void *arg)
{
	usleep(20000);
	anykvm_kick(*(int *)arg);
	return NULL;
}

static void kick_running(void **state)
{
	struct api_vm t;
	pthread_t thread;

	api_vm_make(&t, 1, 0);
	api_start16(&t, 0, (const u8 *)"\xeb\xfe", 2);
	pthread_create(&thread, NULL, kicker, &t.vcpu[0]);
	assert_errno(api_run(&t, 0), EINTR);
	assert_int_equal(t.run[0]->exit_reason, KVM_EXIT_INTR);
	pthread_join(thread, NULL);
	assert_int_equal(api_regs(&t, 0).rip, API_CODE);
	assert_int_equal(anykvm_kick(t.vm), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(anykvm_kick(12345), -1);
	assert_int_equal(errno, EBADF);
	api_vm_free(&t);
}

static void kick_halted(void **state)
{
	struct api_vm t;
	struct kvm_mp_state mp;
	pthread_t thread;

	api_vm_make(&t, 1, API_IRQCHIP);
	api_start16(&t, 0, (const u8 *)"\xf4", 1);
	pthread_create(&thread, NULL, kicker, &t.vcpu[0]);
	assert_errno(api_run(&t, 0), EINTR);
	pthread_join(thread, NULL);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
	api_vm_free(&t);
}

static int handler_fd, handler_stop;

static void handler(int sig)
{
	(void)sig;
	anykvm_kick(handler_fd);
}

static void *signaller(void *arg)
{
	/* Signals merge while their thread is not scheduled, so their number is not fixed. */
	while (!__atomic_load_n(&handler_stop, __ATOMIC_RELAXED)) {
		usleep(1000);
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
	}
	return NULL;
}

/* A handler of the client's that kicks, while guest code runs on the thread it interrupts. */
static void kick_from_handler(void **state)
{
	struct sigaction sa = {.sa_handler = handler}, old;
	pthread_t thread, self = pthread_self();
	struct api_vm t;
	unsigned n = 0;

	api_vm_make(&t, 1, 0);
	handler_fd = t.vcpu[0];
	sigaction(SIGUSR1, &sa, &old);
	api_start16(&t, 0, (const u8 *)"\xeb\xfe", 2);
	pthread_create(&thread, NULL, signaller, &self);
	while (n < 20) {
		assert_errno(api_run(&t, 0), EINTR);
		n++;
	}
	__atomic_store_n(&handler_stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	sigaction(SIGUSR1, &old, NULL);
	api_vm_free(&t);
}

API_CODE64(faulter, "mov $0x40000000, %ebx; 1: mov (%rbx), %eax; jmp 1b");
API_CODE64(fault_handler, "add $8, %rsp; iretq");

/*
 * A guest that faults all the time is interrupted: no page fault is under way then. Clients keep what they are told of
 * one without its error code (QEMU's snapshots), as on hardware they never meet it.
 */
static void kick_faulting(void **state)
{
	struct sigaction sa = {.sa_handler = handler}, old;
	pthread_t thread, self = pthread_self();
	struct kvm_vcpu_events e;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	handler_fd = t.vcpu[0];
	__atomic_store_n(&handler_stop, 0, __ATOMIC_RELAXED);
	sigaction(SIGUSR1, &sa, &old);
	api_start64(&t, 0, faulter_begin, API_SIZE(faulter));
	memcpy(t.mem + 0x9000, fault_handler_begin, API_SIZE(fault_handler));
	api_idt64(&t, 14, 0x9000);
	pthread_create(&thread, NULL, signaller, &self);
	for (unsigned n = 0; n < 200; n++) {
		assert_errno(api_run(&t, 0), EINTR);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
		assert_int_equal(e.exception.pending | e.exception.injected, 0);
	}
	__atomic_store_n(&handler_stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	sigaction(SIGUSR1, &old, NULL);
	api_vm_free(&t);
}

/* Row 10 of the mission: blocked in the thread, open in the mask: ends KVM_RUN, stays pending. */
static void signal_mask(void **state)
{
	struct {
		struct kvm_signal_mask head;
		u64 mask;
	} __attribute__((packed)) m = {.head.len = 8, .mask = ~(1ull << (SIGUSR2 - 1))};
	sigset_t block, old;
	struct api_vm t;
	int sig;

	api_vm_make(&t, 1, 0);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SIGNAL_MASK, &m), 0);
	api_start16(&t, 0, (const u8 *)"\xeb\xfe", 2);
	pthread_kill(pthread_self(), SIGUSR2);
	assert_errno(api_run(&t, 0), EINTR);
	assert_errno(api_run(&t, 0), EINTR);
	assert_int_equal(sigwait(&block, &sig), 0);
	assert_int_equal(sig, SIGUSR2);
	m.head.len = 4;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_SIGNAL_MASK, &m), EINVAL);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SIGNAL_MASK, NULL), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	api_vm_free(&t);
}

static void *late_signaller(void *arg)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)arg, SIGUSR2);
	return NULL;
}

static void signal_mask_while_running(void **state)
{
	struct {
		struct kvm_signal_mask head;
		u64 mask;
	} __attribute__((packed)) m = {.head.len = 8, .mask = ~(1ull << (SIGUSR2 - 1))};
	pthread_t thread, self = pthread_self();
	sigset_t block, old;
	int sig;

	sigemptyset(&block);
	sigaddset(&block, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	for (int halted = 0; halted < 2; halted++) {
		struct api_vm t;

		api_vm_make(&t, 1, halted ? API_IRQCHIP : 0);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SIGNAL_MASK, &m), 0);
		api_start16(&t, 0, (const u8 *)(halted ? "\xf4\xf4" : "\xeb\xfe"), 2);
		pthread_create(&thread, NULL, late_signaller, &self);
		assert_errno(api_run(&t, 0), EINTR);
		assert_int_equal(sigwait(&block, &sig), 0);
		pthread_join(thread, NULL);
		api_vm_free(&t);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

API_CODE64(devices, "mov $0x20000000, %ebx; mov (%rbx), %al; mov %eax, (%rbx);"
		    "movd %eax, %xmm0; movups %xmm0, (%rbx); flds (%rbx); hlt");

/* KVM_CAP_EXIT_ON_EMULATION_FAILURE: what the kernel's emulator does not know stops before it has
 * done anything; without it every instruction may access devices. */
static void emulation_failure(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {2}};
	struct kvm_regs r;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	for (unsigned on = 0; on < 2; on++) {
		cap.args[0] = on;
		assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
		api_start64(&t, 0, devices_begin, API_SIZE(devices));
		for (unsigned i = 0; i < 4; i++) { /* MOV, MOV, MOVUPS in two parts */
			api_run_expect(&t, 0, KVM_EXIT_MMIO);
			assert_int_equal(t.run[0]->mmio.phys_addr, i < 3 ? 0x20000000 : 0x20000008);
		}
		if (!on) {
			api_run_expect(&t, 0, KVM_EXIT_MMIO);
			api_run_expect(&t, 0, KVM_EXIT_HLT);
			continue;
		}
		api_run_expect(&t, 0, KVM_EXIT_INTERNAL_ERROR);
		assert_int_equal(t.run[0]->emulation_failure.suberror,
				 KVM_INTERNAL_ERROR_EMULATION);
		assert_true(t.run[0]->emulation_failure.insn_size >= 2);
		assert_memory_equal(t.run[0]->emulation_failure.insn_bytes, "\xd9\x03", 2);
		r = api_regs(&t, 0);
		r.rip += 2;
		api_set_regs(&t, 0, &r);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
	}
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(port_widths),	  cmocka_unit_test(port_strings),
		cmocka_unit_test(memory),	  cmocka_unit_test(shutdown),
		cmocka_unit_test(immediate_exit), cmocka_unit_test(kick_running),
		cmocka_unit_test(kick_halted),	  cmocka_unit_test(kick_from_handler),
		cmocka_unit_test(kick_faulting),  cmocka_unit_test(emulation_failure),
		cmocka_unit_test(signal_mask),	  cmocka_unit_test(signal_mask_while_running),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
