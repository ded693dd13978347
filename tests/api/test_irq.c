/* Interrupts: in-kernel, split and user-space controllers, irqfd, ioeventfd, coalesced I/O. */
#include "api.h"

#include <poll.h>
#include <sys/eventfd.h>

API_CODE64(isr, "mov $0x55, %eax; out %eax, $0x10; hlt; iretq");
API_CODE64(wait, "sti; nop; nop; 1: hlt; jmp 1b");
/* Enables the xAPIC by its spurious vector register, at 0xfee00000. */
API_CODE64(apic_wait, "mov $0xfee000f0, %edi; movl $0x1ff, (%rdi); out %al, $0x11;"
		      "sti; 1: hlt; jmp 1b");

static void map_apic(struct api_vm *t)
{
	*(u64 *)(t->mem + 0x2000 + 3 * 8) = 0xc0000083ull;
}

static void prepare(struct api_vm *t, unsigned flags, const u8 *code, size_t size, unsigned vector)
{
	api_vm_make(t, 1, flags);
	api_start64(t, 0, code, size);
	map_apic(t);
	memcpy(t->mem + 0x9000, isr_begin, API_SIZE(isr));
	api_idt64(t, vector, 0x9000);
}

static void order_of_creation(void **state)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	struct kvm_pit_config pit = {0};
	struct kvm_irq_level line = {.irq = 4, .level = 1};
	struct kvm_lapic_state lapic;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_errno(api_ioctl_value(t.vm, KVM_CREATE_IRQCHIP, 0), EINVAL); /* a vCPU exists */
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &split), EEXIST);
	assert_errno(api_ioctl(t.vm, KVM_CREATE_PIT2, &pit), ENOENT);
	assert_errno(api_ioctl(t.vm, KVM_IRQ_LINE, &line), ENXIO);
	assert_errno(api_ioctl(t.vcpu[0], KVM_GET_LAPIC, &lapic), EINVAL);
	api_vm_free(&t);
	api_vm_make(&t, 0, API_IRQCHIP);
	assert_errno(api_ioctl_value(t.vm, KVM_CREATE_IRQCHIP, 0), EEXIST);
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &split), EEXIST);
	assert_int_equal(api_ioctl(t.vm, KVM_CREATE_PIT2, &pit), 0);
	assert_errno(api_ioctl(t.vm, KVM_CREATE_PIT2, &pit), EEXIST);
	api_vm_free(&t);
}

static void user_space_controller(void **state)
{
	struct kvm_interrupt irq = {.irq = 0x40};
	struct api_vm t;

	prepare(&t, 0, wait_begin, API_SIZE(wait), 0x40);
	t.run[0]->request_interrupt_window = 1;
	api_run_expect(&t, 0, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(t.run[0]->ready_for_interrupt_injection, 1);
	assert_int_equal(t.run[0]->if_flag, 1);
	t.run[0]->request_interrupt_window = 0;
	irq.irq = 256;
	assert_errno(api_ioctl(t.vcpu[0], KVM_INTERRUPT, &irq), EINVAL);
	irq.irq = 0x40;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_INTERRUPT, &irq), 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x55);
	api_vm_free(&t);
}

static void msi(void **state)
{
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = 0x41};
	struct api_vm t;

	for (unsigned flags = API_IRQCHIP; flags <= API_SPLIT; flags++) {
		prepare(&t, flags, apic_wait_begin, API_SIZE(apic_wait), 0x41);
		api_run_to_out(&t, 0, 0x11);
		assert_int_equal(api_ioctl(t.vm, KVM_SIGNAL_MSI, &m), 1);
		assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x55);
		m.flags = 1u << 9;
		assert_errno(api_ioctl(t.vm, KVM_SIGNAL_MSI, &m), EINVAL);
		m.flags = 0;
		api_vm_free(&t);
	}
}

static void bad_routes(struct api_vm *t)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e;
	} r = {.head = {.nr = 1, .flags = 1}, .e.type = KVM_IRQ_ROUTING_MSI};

	assert_errno(api_ioctl(t->vm, KVM_SET_GSI_ROUTING, &r), EINVAL);
	r.head.flags = 0;
	r.head.nr = 100000;
	assert_errno(api_ioctl(t->vm, KVM_SET_GSI_ROUTING, &r), EINVAL);
}

static void irqfd(void **state)
{
	struct kvm_irqfd fd = {.gsi = 30};
	struct api_vm t;
	u64 one = 1;
	int ev = eventfd(0, EFD_CLOEXEC), other = dup(2);

	prepare(&t, API_SPLIT, apic_wait_begin, API_SIZE(apic_wait), 0x42);
	api_run_to_out(&t, 0, 0x11);
	api_route_msi(&t, 30, 0x42);
	bad_routes(&t);
	fd.fd = (u32)ev;
	assert_int_equal(api_ioctl(t.vm, KVM_IRQFD, &fd), 0);
	assert_errno(api_ioctl(t.vm, KVM_IRQFD, &fd), EBUSY);
	assert_int_equal(write(ev, &one, 8), 8);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x55);
	fd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(api_ioctl(t.vm, KVM_IRQFD, &fd), 0);
	fd.flags = 0;
	fd.fd = (u32)other;
	assert_errno(api_ioctl(t.vm, KVM_IRQFD, &fd), EINVAL); /* no eventfd */
	fd.fd = 98765;
	assert_errno(api_ioctl(t.vm, KVM_IRQFD, &fd), EBADF);
	fd.fd = (u32)ev;
	fd.flags = 0x80;
	assert_errno(api_ioctl(t.vm, KVM_IRQFD, &fd), EINVAL);
	fd.flags = KVM_IRQFD_FLAG_RESAMPLE;
	assert_errno(api_ioctl(t.vm, KVM_IRQFD, &fd), EINVAL); /* no IOAPIC inside */
	api_vm_free(&t);
	close(ev);
	close(other);
}

API_CODE64(notify, "mov $0x1234, %eax; mov $0x300, %dx; out %ax, %dx; mov $0x7, %eax;"
		   "out %ax, %dx; mov $0xd0000000, %edi; movl $1, (%rdi); movb $1, (%rdi); hlt");

static u64 drain(int ev)
{
	struct pollfd p = {.fd = ev, .events = POLLIN};
	u64 n = 0;

	if (poll(&p, 1, 0) == 1)
		assert_int_equal(read(ev, &n, 8), 8);
	return n;
}

static void ioeventfd(void **state)
{
	struct kvm_ioeventfd a = {.addr = 0x300,
				  .len = 2,
				  .datamatch = 0x1234,
				  .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH};
	struct kvm_ioeventfd m = {.addr = 0xd0000000, .len = 0};
	int ev = eventfd(0, EFD_CLOEXEC), ev2 = eventfd(0, EFD_CLOEXEC);
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, notify_begin, API_SIZE(notify));
	map_apic(&t);
	a.fd = ev;
	m.fd = ev2;
	assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &a), 0);
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), EEXIST);
	assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &m), 0);
	/* The first write matches; the second has other data; any length matches the last two. */
	assert_int_equal(api_run_to_out(&t, 0, 0x300), 7);
	assert_int_equal(drain(ev), 1);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(drain(ev2), 2);
	a.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(api_ioctl(t.vm, KVM_IOEVENTFD, &a), 0);
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), ENOENT);
	a.flags = KVM_IOEVENTFD_FLAG_PIO;
	a.len = 3;
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), EINVAL);
	a.len = 0;
	a.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), EINVAL);
	a.flags = 1u << 10;
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), EINVAL);
	a.flags = 0;
	a.fd = -1;
	assert_errno(api_ioctl(t.vm, KVM_IOEVENTFD, &a), EBADF);
	api_vm_free(&t);
	close(ev);
	close(ev2);
}

static void coalesced(void **state)
{
	struct kvm_coalesced_mmio_zone z = {.addr = 0x300, .size = 2, .pio = 1};
	struct kvm_coalesced_mmio_ring *ring;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	ring = (void *)((u8 *)t.run[0] + 2 * 4096);
	api_start64(&t, 0, notify_begin, API_SIZE(notify));
	map_apic(&t);
	assert_int_equal(api_ioctl(t.vm, KVM_REGISTER_COALESCED_MMIO, &z), 0);
	api_run_expect(&t, 0, KVM_EXIT_MMIO);
	assert_int_equal(ring->first, 0);
	assert_int_equal(ring->last, 2);
	assert_int_equal(ring->coalesced_mmio[0].phys_addr, 0x300);
	assert_int_equal(ring->coalesced_mmio[0].len, 2);
	assert_int_equal(ring->coalesced_mmio[0].pio, 1);
	assert_memory_equal(ring->coalesced_mmio[0].data, "\x34\x12", 2);
	/* Indices that the client spoils do no harm. */
	ring->first = 0xffffffff;
	ring->last = 0xfffffff0;
	api_start64_at(&t, 0, API_CODE);
	assert_int_equal(api_run(&t, 0), 0);
	assert_int_equal(api_ioctl(t.vm, KVM_UNREGISTER_COALESCED_MMIO, &z), 0);
	api_start64_at(&t, 0, API_CODE);
	assert_int_equal(api_run_to_out(&t, 0, 0x300), 0x1234);
	z.pio = 2;
	assert_errno(api_ioctl(t.vm, KVM_REGISTER_COALESCED_MMIO, &z), EINVAL);
	api_vm_free(&t);
}

static void nmi(void **state)
{
	struct api_vm t;

	prepare(&t, API_IRQCHIP, (const u8 *)"\xf4\xf4", 2, 2);
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_NMI, 0), 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x55);
	api_vm_free(&t);
}

static void apic_reg_set(struct api_vm *t, unsigned vcpu, unsigned reg, u32 value)
{
	struct kvm_lapic_state s;

	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_GET_LAPIC, &s), 0);
	memcpy(s.regs + reg, &value, sizeof(value));
	assert_int_equal(api_ioctl(t->vcpu[vcpu], KVM_SET_LAPIC, &s), 0);
}

/* KVM_SET_LAPIC leaves an armed deadline alone: it reads as before and comes. */
static void deadline_survives(void **state)
{
	struct kvm_cpuid2 *cpuid;
	struct api_vm t;
	u64 when;

	api_vm_make(&t, 1, API_IRQCHIP);
	cpuid = api_supported_cpuid(t.kvm);
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 1)
			cpuid->entries[i].ecx |= 1u << 24;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
	apic_reg_set(&t, 0, 0xf0, 0x1ff);
	apic_reg_set(&t, 0, 0x320, 0x40000 | 0x50);
	assert_int_equal(api_set_msr(&t, 0, 0x6e0, ~0ull >> 2), 1);
	apic_reg_set(&t, 0, 0xf0, 0x1ff);
	assert_true(api_msr(&t, 0, 0x6e0) == ~0ull >> 2);
	when = api_msr(&t, 0, 0x10) + 300000000;
	assert_int_equal(api_set_msr(&t, 0, 0x6e0, when), 1);
	apic_reg_set(&t, 0, 0xf0, 0x1ff);
	assert_int_equal(api_apic_reg(&t, 0, 0x220), 0);
	for (unsigned i = 0; i < 2000 && !api_apic_reg(&t, 0, 0x220); i++)
		usleep(1000);
	assert_int_equal(api_apic_reg(&t, 0, 0x220), 1u << 16);
	assert_true(api_msr(&t, 0, 0x10) >= when);
	assert_int_equal(api_msr(&t, 0, 0x6e0), 0);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_of_creation),
		cmocka_unit_test(user_space_controller),
		cmocka_unit_test(msi),
		cmocka_unit_test(irqfd),
		cmocka_unit_test(ioeventfd),
		cmocka_unit_test(coalesced),
		cmocka_unit_test(nmi),
		cmocka_unit_test(deadline_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
