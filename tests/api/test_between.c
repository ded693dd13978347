/*
 * Between two KVM_RUNs: where RIP is, what the client's changes do, and in which order what it has made comes.
 */
#include "api.h"

#define HANDLER 0x9000u
#define WATCHED 0x200000u

static void registers_at(struct api_vm *t, u64 rflags)
{
	struct kvm_regs r = api_regs(t, 0);

	r.rsp = API_STACK;
	r.rflags = rflags;
	r.rdi = 0x20000000;
	api_set_regs(t, 0, &r);
}

API_CODE64(handler, "mov %dr6, %rax; mov (%rsp), %rbx; out %al, $0x90; iretq");

static void start(struct api_vm *t, unsigned flags, const u8 *code, size_t size, unsigned vector)
{
	api_vm_make(t, 1, flags);
	api_start64(t, 0, code, size);
	memcpy(t->mem + HANDLER, handler_begin, API_SIZE(handler));
	api_idt64(t, vector, HANDLER);
}

/* Runs to the handler and says where it was called from. */
static u64 called_from(struct api_vm *t)
{
	api_run_to_out(t, 0, 0x90);
	return api_regs(t, 0).rbx - API_CODE;
}

API_CODE64(outs_of_al,
	   "out %al, $0x40; out %al, $0x7e; mov $0x7fff, %esi; mov $0x40, %edx; outsb; hlt");

/* KVM leaves RIP at an OUT until it is re-entered; not at port 0x7e, not at OUTS. */
static void rip_at_out(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS2,
				     .args = {KVM_X86_QUIRK_OUT_7E_INC_RIP}};
	struct api_vm t;

	for (unsigned quirk = 0; quirk < 2; quirk++) {
		api_vm_make(&t, 1, 0);
		if (!quirk)
			assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
		api_start64(&t, 0, outs_of_al_begin, API_SIZE(outs_of_al));
		api_run_expect(&t, 0, KVM_EXIT_IO);
		assert_int_equal(api_regs(&t, 0).rip, API_CODE);
		api_run_expect(&t, 0, KVM_EXIT_IO);
		assert_int_equal(t.run[0]->io.port, 0x7e);
		assert_int_equal(api_regs(&t, 0).rip, API_CODE + 2 + 2 * quirk);
		api_run_expect(&t, 0, KVM_EXIT_IO);
		assert_int_equal(t.run[0]->io.port, 0x40);
		assert_int_equal(api_regs(&t, 0).rip, API_CODE + API_SIZE(outs_of_al) - 1);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		api_vm_free(&t);
	}
}

API_CODE64(in_in, "in $0x40, %al; hlt; in $0x50, %al; hlt");
API_CODE64(ins_in, "insl; nop; hlt; in $0x50, %al; hlt");

/* The answer to an IN or INS is nobody's when the client has moved RIP; to the same place is no move. */
static void answer_of_another(void **state)
{
	bool string = *state;
	struct api_vm t;
	struct kvm_regs r;

	api_vm_make(&t, 1, 0);
	if (string)
		api_start64(&t, 0, ins_in_begin, API_SIZE(ins_in));
	else
		api_start64(&t, 0, in_in_begin, API_SIZE(in_in));
	registers_at(&t, 2);
	if (string) {
		r = api_regs(&t, 0);
		r.rdi = 0x1f0000;
		r.rdx = 0x40;
		api_set_regs(&t, 0, &r);
	}
	api_run_expect(&t, 0, KVM_EXIT_IO);
	*((u8 *)t.run[0] + t.run[0]->io.data_offset) = 0x77;
	r = api_regs(&t, 0);
	r.rip = API_CODE + 3;
	api_set_regs(&t, 0, &r);
	t.run[0]->immediate_exit = 1;
	assert_errno(api_run(&t, 0), EINTR); /* and no instruction there runs */
	t.run[0]->immediate_exit = 0;
	assert_int_equal(api_regs(&t, 0).rip, API_CODE + 3);
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_int_equal(t.run[0]->io.port, 0x50);
	*((u8 *)t.run[0] + t.run[0]->io.data_offset) = 0x55;
	r = api_regs(&t, 0);
	api_set_regs(&t, 0, &r);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(api_regs(&t, 0).rax & 0xff, 0x55);
	api_vm_free(&t);
}

API_CODE64(read_in, "in $0x40, %al; hlt");
API_CODE64(read_load, "mov (%rdi), %al; hlt");
API_CODE64(read_add, "add (%rdi), %al; hlt");

/* An exception of the client's comes behind the instruction that it has answered, and no device is read twice. */
static void exception_behind(void **state)
{
	static const struct {
		const u8 *code, *end;
		u32 exit;
	} rows[] = {{read_in_begin, read_in_end, KVM_EXIT_IO},
		    {read_load_begin, read_load_end, KVM_EXIT_MMIO},
		    {read_add_begin, read_add_end, KVM_EXIT_MMIO}};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kvm_vcpu_events e;
		struct kvm_run *run;
		struct api_vm t;

		start(&t, 0, rows[i].code, (size_t)(rows[i].end - rows[i].code), 6);
		registers_at(&t, 2);
		run = t.run[0];
		api_run_expect(&t, 0, rows[i].exit);
		if (rows[i].exit == KVM_EXIT_IO)
			*((u8 *)run + run->io.data_offset) = 0x77;
		else
			run->mmio.data[0] = 0x77;
		api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
		e.exception.injected = 1;
		e.exception.nr = 6;
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), 0);
		assert_int_equal(called_from(&t), 2);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		api_vm_free(&t);
	}
}

API_CODE64(steps, "out %al, $0x40; nop; hlt; nop; hlt");

/* The trap of a single step behind OUT and HLT; with the APIC inside it ends the waiting. */
static void single_steps(void **state)
{
	for (unsigned flags = 0; flags <= API_IRQCHIP; flags += API_IRQCHIP) {
		static const u8 at[] = {3, 4, 5, 6};
		struct api_vm t;

		start(&t, flags, steps_begin, API_SIZE(steps), 1);
		registers_at(&t, 0x102);
		if (!flags) {
			api_run_expect(&t, 0, KVM_EXIT_IO);
			assert_int_equal(t.run[0]->io.port, 0x40);
			assert_int_equal(called_from(&t), 2);
		} else {
			struct kvm_regs r = api_regs(&t, 0);

			r.rip += 2;
			api_set_regs(&t, 0, &r);
		}
		for (unsigned i = 0; i < 3; i++) {
			if (i == 1 && !flags)
				api_run_expect(&t, 0, KVM_EXIT_HLT);
			assert_int_equal(called_from(&t), at[i]);
			assert_true(api_regs(&t, 0).rax & 0x4000);
		}
		api_vm_free(&t);
	}
}

static void debugger_steps(void **state)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct api_vm t;

	start(&t, 0, steps_begin, API_SIZE(steps), 1);
	registers_at(&t, 2);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_IO);
	for (unsigned at = 2; at < 4; at++) {
		api_run_expect(&t, 0, KVM_EXIT_DEBUG);
		assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + at);
	}
	api_vm_free(&t);
}

API_CODE64(watched, "1: mov 0x200000, %rax; mov 0x200000, %rax; out %al, $0x60; jmp 1b");

/* What KVM_SET_DEBUGREGS asks for concerns pages and code that are in use already. */
static void debug_registers(void **state)
{
	struct kvm_debugregs d = {.db = {WATCHED}, .dr6 = 0xffff0ff0, .dr7 = 0x400 | 1 | 0xf0000};
	struct api_vm t;

	start(&t, 0, watched_begin, API_SIZE(watched), 1);
	registers_at(&t, 2);
	for (unsigned i = 0; i < 3; i++)
		api_run_to_out(&t, 0, 0x60);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
	assert_int_equal(called_from(&t), 8);
	/* an instruction breakpoint, with another one there before */
	d = (struct kvm_debugregs){.db = {0x300000}, .dr6 = 0xffff0ff0, .dr7 = 0x400 | 1};
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
	for (unsigned i = 0; i < 3; i++)
		api_run_to_out(&t, 0, 0x60);
	d.db[0] = API_CODE + 8;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
	assert_int_equal(called_from(&t), 8);
	api_vm_free(&t);
}

API_CODE64(privileged, "mov %cr0, %rax; out %al, $0x60; hlt");

/* Out of virtual-8086 mode, in either order of the two calls. */
static void privilege(void **state)
{
	for (unsigned order = 0; order < 2; order++) {
		struct kvm_regs r, vm86;
		struct kvm_sregs s;
		struct api_vm t;

		start(&t, 0, privileged_begin, API_SIZE(privileged), 13);
		registers_at(&t, 2);
		api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
		r = vm86 = api_regs(&t, 0);
		vm86.rflags = 0x20002;
		api_set_regs(&t, 0, &vm86);
		if (order)
			api_set_regs(&t, 0, &r);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
		api_set_regs(&t, 0, &r);
		api_run_to_out(&t, 0, 0x60);
		api_vm_free(&t);
	}
}

API_CODE64(spin, "1: nop; nop; out %al, $0x60; jmp 1b");

/* An interrupt that was being delivered when the state was saved, with an APIC and without one, masked or not. */
static void injected_interrupt(void **state)
{
	for (unsigned i = 0; i < 8; i++) {
		struct kvm_vcpu_events e;
		struct kvm_sregs s;
		struct api_vm t;

		start(&t, i & 1 ? API_IRQCHIP : 0, spin_begin, API_SIZE(spin), 0x30);
		registers_at(&t, i & 2 ? 0x202 : 2);
		if (i & 4) {
			api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
			s.interrupt_bitmap[0] = 1ull << 0x30;
			assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
		} else {
			api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
			e.interrupt.injected = 1;
			e.interrupt.nr = 0x30;
			assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), 0);
		}
		assert_int_equal(called_from(&t), 0);
		for (unsigned k = 0; k < 3; k++)
			api_run_to_out(&t, 0, 0x60);
		api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
		assert_int_equal(e.interrupt.injected, 0);
		api_vm_free(&t);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(rip_at_out),
		cmocka_unit_test(answer_of_another),
		cmocka_unit_test_prestate(answer_of_another, (void *)1),
		cmocka_unit_test(exception_behind),
		cmocka_unit_test(single_steps),
		cmocka_unit_test(debugger_steps),
		cmocka_unit_test(debug_registers),
		cmocka_unit_test(privilege),
		cmocka_unit_test(injected_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
