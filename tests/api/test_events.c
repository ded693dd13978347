/*
 * What is under way between two KVM_RUNs: injected and pending events, kicks, requests; what of it an INIT and
 * the client's writes leave.
 */
#include "api.h"

#include <linux/kvm_para.h>
#include <signal.h>

#define HANDLER 0x9000u

static void msi(struct api_vm *t, u32 data)
{
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = data};

	assert_int_equal(api_ioctl(t->vm, KVM_SIGNAL_MSI, &m), 1);
}

static u32 mp_state(struct api_vm *t)
{
	struct kvm_mp_state mp;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_MP_STATE, &mp), 0);
	return mp.mp_state;
}

static struct kvm_vcpu_events events(struct api_vm *t)
{
	struct kvm_vcpu_events e;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	return e;
}

static void set_events(struct api_vm *t, const struct kvm_vcpu_events *e)
{
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_VCPU_EVENTS, (void *)e), 0);
}

API_CODE16(outs, "out %al, $0x40; out %al, $0x41; hlt");

/* INIT takes the records of before away, and nothing is written to where they were. */
static void init_ends_records(void **state)
{
	static const struct {
		u32 msr;
		u64 value, after;
	} rows[] = {
		{MSR_KVM_SYSTEM_TIME_NEW, 0x20001, 0}, {MSR_KVM_STEAL_TIME, 0x21001, 0},
		{MSR_KVM_PV_EOI_EN, 0x22001, 0},       {MSR_KVM_ASYNC_PF_EN, 0x23009, 0},
		{MSR_KVM_ASYNC_PF_INT, 0x51, 0},       {MSR_KVM_POLL_CONTROL, 0, 0},
	};
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(api_set_msr(&t, 0, rows[i].msr, rows[i].value), 1);
	api_start16(&t, 0, outs_begin, API_SIZE(outs));
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_true(*(u32 *)(t.mem + 0x20000)); /* the clock's version */
	msi(&t, 0x500);
	assert_int_equal(mp_state(&t), KVM_MP_STATE_RUNNABLE);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(api_msr(&t, 0, rows[i].msr), rows[i].after);
	memset(t.mem + 0x20000, 0xcc, 0x4000);
	api_start16(&t, 0, outs_begin, API_SIZE(outs));
	api_run_expect(&t, 0, KVM_EXIT_IO);
	for (unsigned i = 0; i < 0x4000; i++)
		assert_int_equal(t.mem[0x20000 + i], 0xcc);
	api_vm_free(&t);
}

/* KVM_SET_REGS drops an exception that is only pending; what has been injected stays. */
static void injected_survives_registers(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e = {.exception = {.injected = 1, .nr = 13, .has_error_code = 1}};
	struct kvm_regs r;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	r = api_regs(&t, 0);
	set_events(&t, &e);
	api_set_regs(&t, 0, &r);
	e = events(&t);
	assert_int_equal(e.exception.injected, 1);
	assert_int_equal(e.exception.nr, 13);
	assert_int_equal(e.exception.has_error_code, 1);
	e = (struct kvm_vcpu_events){.nmi.injected = 1, .interrupt = {.injected = 1, .nr = 0x40}};
	set_events(&t, &e);
	api_set_regs(&t, 0, &r);
	e = events(&t);
	assert_int_equal(e.exception.injected, 0);
	assert_int_equal(e.nmi.injected, 1);
	assert_int_equal(e.interrupt.injected, 1);
	e = (struct kvm_vcpu_events){.flags = KVM_VCPUEVENT_VALID_PAYLOAD,
				     .exception = {.pending = 1, .nr = 6}};
	set_events(&t, &e);
	api_set_regs(&t, 0, &r);
	e = events(&t);
	assert_int_equal(e.exception.pending, 0);
	assert_int_equal(e.exception.injected, 0);
	api_vm_free(&t);
}

API_CODE64(sti_hlt, "cli; out %al, $0x40; sti; hlt; out %al, $0x41; hlt");
API_CODE64(handler_out, "out %al, $0x90; iretq");

static void stuck(int signal)
{
	_exit(99);
}

/* With the client's PIC: a vCPU does not fall asleep with the window open that the client waits for. */
static void window_in_hlt(void **state)
{
	struct kvm_interrupt interrupt = {.irq = 0x40};
	struct api_vm t;

	signal(SIGALRM, stuck);
	alarm(5);
	api_vm_make(&t, 1, API_SPLIT);
	api_start64(&t, 0, sti_hlt_begin, API_SIZE(sti_hlt));
	memcpy(t.mem + HANDLER, handler_out_begin, API_SIZE(handler_out));
	api_idt64(&t, 0x40, HANDLER);
	api_run_to_out(&t, 0, 0x40);
	t.run[0]->request_interrupt_window = 1;
	api_run_expect(&t, 0, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(api_regs(&t, 0).rip, API_CODE + 5);
	assert_int_equal(mp_state(&t), KVM_MP_STATE_HALTED);
	assert_int_equal(t.run[0]->ready_for_interrupt_injection, 1);
	assert_int_equal(t.run[0]->if_flag, 1);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_INTERRUPT, &interrupt), 0);
	t.run[0]->request_interrupt_window = 0;
	api_run_to_out(&t, 0, 0x90);
	api_run_to_out(&t, 0, 0x41);
	alarm(0);
	api_vm_free(&t);
}

#define MSI_REMOTE_READ 0x300u /* KVM's kick */

static void kick_ends_hlt(void **state)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(mp_state(&t), KVM_MP_STATE_HALTED);
	msi(&t, MSI_REMOTE_READ);
	assert_int_equal(mp_state(&t), KVM_MP_STATE_RUNNABLE);
	api_vm_free(&t);
}

/* Two NMIs may wait, one while another is handled; the client's count is kept. */
static void pending_nmis(void **state)
{
	struct kvm_vcpu_events e;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_NMI, 0), 0);
	e = events(&t);
	assert_int_equal(e.nmi.pending, 2);
	set_events(&t, &e);
	assert_int_equal(events(&t).nmi.pending, 2);
	e.nmi.pending = 200;
	set_events(&t, &e);
	assert_int_equal(events(&t).nmi.pending, 2);
	e.nmi.masked = 1;
	set_events(&t, &e);
	assert_int_equal(events(&t).nmi.pending, 1);
	api_vm_free(&t);
}

API_CODE64(plain, "out %al, $0x55; hlt");
API_CODE64(tell_ud, "out %al, $0x06; iretq");
API_CODE64(tell_nmi, "mov (%rsp), %rbx; out %al, $0x02; iretq");
API_CODE64(tell_interrupt, "out %al, $0x40; iretq");

#define HANDLER_UD	  0x9000u
#define HANDLER_NMI	  0x9100u
#define HANDLER_INTERRUPT 0x9200u

static void start_telling(struct api_vm *t)
{
	api_vm_make(t, 1, 0);
	api_start64(t, 0, plain_begin, API_SIZE(plain));
	memcpy(t->mem + HANDLER_UD, tell_ud_begin, API_SIZE(tell_ud));
	memcpy(t->mem + HANDLER_NMI, tell_nmi_begin, API_SIZE(tell_nmi));
	memcpy(t->mem + HANDLER_INTERRUPT, tell_interrupt_begin, API_SIZE(tell_interrupt));
	api_idt64(t, 6, HANDLER_UD);
	api_idt64(t, 2, HANDLER_NMI);
	api_idt64(t, 0x40, HANDLER_INTERRUPT);
}

static void several_injected(void **state)
{
	struct kvm_vcpu_events e = {.exception = {.injected = 1, .nr = 6}, .nmi.injected = 1};
	struct api_vm t;

	/* the exception is delivered, and the NMI behind it */
	start_telling(&t);
	set_events(&t, &e);
	e = events(&t);
	assert_int_equal(e.exception.injected, 1);
	assert_int_equal(e.nmi.injected, 1);
	api_run_to_out(&t, 0, 0x02);
	assert_int_equal(api_regs(&t, 0).rbx, HANDLER_UD);
	assert_int_equal(events(&t).nmi.injected, 0);
	api_run_to_out(&t, 0, 0x06);
	api_run_to_out(&t, 0, 0x55);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	api_vm_free(&t);
	/* the NMI, and the interrupt behind its handler, whatever RFLAGS.IF is; a masked NMI is delivered, too */
	for (unsigned masked = 0; masked < 2; masked++) {
		start_telling(&t);
		e = (struct kvm_vcpu_events){.nmi = {.injected = 1, .masked = (u8)masked},
					     .interrupt = {.injected = 1, .nr = 0x40}};
		set_events(&t, &e);
		e = events(&t);
		assert_int_equal(e.nmi.injected, 1);
		assert_int_equal(e.interrupt.injected, 1);
		api_run_to_out(&t, 0, 0x02);
		assert_int_equal(api_regs(&t, 0).rbx, API_CODE);
		assert_int_equal(events(&t).interrupt.injected, 1);
		api_run_to_out(&t, 0, 0x40);
		api_run_to_out(&t, 0, 0x55);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		api_vm_free(&t);
	}
}

/* A triple fault that is asked for can be taken back, and one by a machine check is shown. */
static void triple_fault_request(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};
	struct kvm_x86_mce mce = {.status = 0xa200000000000000, .mcg_status = 5, .bank = 1};
	struct kvm_vcpu_events e;
	struct api_vm t;

	start_telling(&t);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	e = events(&t);
	assert_int_equal(e.triple_fault.pending, 0);
	e.triple_fault.pending = 1;
	set_events(&t, &e);
	assert_int_equal(events(&t).triple_fault.pending, 1);
	e.triple_fault.pending = 0;
	set_events(&t, &e);
	assert_int_equal(events(&t).triple_fault.pending, 0);
	api_run_to_out(&t, 0, 0x55);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &mce), 0);
	assert_int_equal(events(&t).triple_fault.pending, 1);
	api_run_expect(&t, 0, KVM_EXIT_SHUTDOWN);
	assert_int_equal(events(&t).triple_fault.pending, 0);
	api_vm_free(&t);
}

/* "Pending" rules "injected" out; without "pending" there is no payload. */
static void pending_and_injected(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e = {.flags = KVM_VCPUEVENT_VALID_PAYLOAD,
				    .exception = {.pending = 1, .injected = 1, .nr = 14},
				    .exception_has_payload = 1,
				    .exception_payload = 0x1234};
	struct api_vm t;

	start_telling(&t);
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), EINVAL);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	set_events(&t, &e);
	e = events(&t);
	assert_int_equal(e.exception.pending, 1);
	assert_int_equal(e.exception.injected, 0);
	assert_int_equal(e.exception_has_payload, 1);
	assert_int_equal(e.exception_payload, 0x1234);
	/* a vector that nobody uses is not looked at */
	e = (struct kvm_vcpu_events){.exception = {.pending = 1, .nr = 32}};
	set_events(&t, &e);
	assert_int_equal(events(&t).exception.pending, 0);
	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), EINVAL);
	api_vm_free(&t);
}

/* XCR0 is checked against the guest's CPUID, and a run that runs nothing leaves that open. */
static void cpuid_and_xcr0(void **state)
{
	struct kvm_xcrs x = {.nr_xcrs = 1};
	struct kvm_cpuid2 *cpuid;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, plain_begin, API_SIZE(plain));
	cpuid = api_supported_cpuid(t.kvm);
	x.xcrs[0].value = 7;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
	x.xcrs[0].value = 1;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
	t.run[0]->immediate_exit = 1;
	assert_errno(api_run(&t, 0), EINTR);
	t.run[0]->immediate_exit = 0;
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0xd && !cpuid->entries[i].index)
			cpuid->entries[i].eax = 3;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	x.xcrs[0].value = 7;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), EINVAL);
	x.xcrs[0].value = 3;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
	cpuid->nent = 0;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), EINVAL);
	x.xcrs[0].value = 1;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
	free(cpuid);
	cpuid = api_supported_cpuid(t.kvm);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, cpuid), 0);
	api_run_to_out(&t, 0, 0x55);
	cpuid->nent--;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, cpuid), EINVAL);
	free(cpuid);
	api_vm_free(&t);
}

static void special_registers(void **state)
{
	struct kvm_debugregs d = {0};
	struct kvm_sregs s;
	struct api_vm t;

	start_telling(&t);
	api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
	s.cr3 |= 1ull << 63;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), EINVAL);
	/* of several interrupts the lowest */
	api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
	s.interrupt_bitmap[1] = 1 | 1ull << 40;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
	api_run_to_out(&t, 0, 0x40);
	/* what the client sets is what it gets */
	api_ioctl(t.vcpu[0], KVM_GET_DEBUGREGS, &d);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	d.dr6 = d.dr7 = 0;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
	api_ioctl(t.vcpu[0], KVM_GET_DEBUGREGS, &d);
	assert_int_equal(d.dr6, 0);
	assert_int_equal(d.dr7, 0);
	api_vm_free(&t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(init_ends_records),
		cmocka_unit_test(injected_survives_registers),
		cmocka_unit_test(window_in_hlt),
		cmocka_unit_test(kick_ends_hlt),
		cmocka_unit_test(pending_nmis),
		cmocka_unit_test(several_injected),
		cmocka_unit_test(triple_fault_request),
		cmocka_unit_test(pending_and_injected),
		cmocka_unit_test(cpuid_and_xcr0),
		cmocka_unit_test(special_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
