/* Guest debugging, KVM_TRANSLATE, statistics, hypercalls, SMM's address space, SIPI. */
#include "api.h"

#include <pthread.h>

API_CODE64(steps, "nop; nop; int3; nop; hlt");

static void guest_debug(void **state)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, steps_begin, API_SIZE(steps));
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_DEBUG);
	assert_int_equal(t.run[0]->debug.arch.exception, 1);
	assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + 1);
	assert_int_equal(t.run[0]->debug.arch.dr6, 0xffff4ff0);
	assert_int_equal(api_regs(&t, 0).rflags, 2); /* TF is the debugger's business */
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_DEBUG);
	assert_int_equal(t.run[0]->debug.arch.exception, 3);
	assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + 2);
	/* The client puts the instruction back, as a debugger does. */
	t.mem[API_CODE + 2] = 0x90;
	d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	d.arch.debugreg[0] = API_CODE + 4;
	d.arch.debugreg[7] = 0x402;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_DEBUG);
	assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + 4);
	memset(&d, 0, sizeof(d));
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	api_vm_free(&t);
}

static void translate(void **state)
{
	struct kvm_translation tr = {.linear_address = 0x123456};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64_at(&t, 0, API_CODE);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_TRANSLATE, &tr), 0);
	assert_int_equal(tr.valid, 1);
	assert_int_equal(tr.physical_address, 0x123456);
	tr.linear_address = 0x7f0000000000;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_TRANSLATE, &tr), 0);
	assert_int_equal(tr.valid, 0);
	assert_true(tr.physical_address == ~0ull);
	api_vm_free(&t);
}

/* The names that a statistics descriptor shows. */
static bool stat_is_named(int fd, const struct kvm_stats_header *h, const char *name)
{
	for (u32 i = 0; i < h->num_desc; i++) {
		char text[64] = "";
		off_t at = h->desc_offset + i * (sizeof(struct kvm_stats_desc) + h->name_size);

		anykvm_pread(fd, text, MIN(sizeof(text) - 1, h->name_size),
			     at + (off_t)sizeof(struct kvm_stats_desc));
		if (!strcmp(text, name))
			return true;
	}
	return false;
}

/* No vCPU runs on this thread: nothing is guest code. */
static void place(void **state)
{
	unsigned long rip = 1;
	unsigned cpl = 1;

	assert_int_equal(anykvm_place(0x1000, &rip, &cpl), ANYKVM_PLACE_OTHER);
	assert_int_equal(rip, 0);
	assert_int_equal(cpl, 0);
}

static void stats(void **state)
{
	struct kvm_stats_header h;
	struct api_vm t;
	int fd;
	char id[64];

	api_vm_make(&t, 1, 0);
	for (int vcpu = 0; vcpu < 2; vcpu++) {
		fd = api_ioctl_value(vcpu ? t.vcpu[0] : t.vm, KVM_GET_STATS_FD, 0);
		assert_true(fd >= 0);
		assert_int_equal(anykvm_kind(fd), ANYKVM_STATS);
		assert_int_equal(anykvm_read(fd, &h, sizeof(h)), sizeof(h));
		assert_true(h.num_desc > 0 && h.data_offset > h.desc_offset);
		assert_int_equal(anykvm_pread(fd, id, 8, h.id_offset), 8);
		assert_memory_equal(id, "kvm-", 4);
		assert_int_equal(anykvm_pread(fd, id, 8, 1 << 20), 0);
		assert_true(stat_is_named(fd, &h, "remote_tlb_flush") == !vcpu);
		assert_true(stat_is_named(fd, &h, "anykvm_tlb_miss_conflict") == vcpu);
		assert_true(stat_is_named(fd, &h, "anykvm_insn_CPUID") == vcpu);
		assert_int_equal(anykvm_pread(fd, (void *)16, 8, 0), -1);
		assert_int_equal(errno, EFAULT);
		assert_errno(api_ioctl_value(fd, KVM_RUN, 0), ENOTTY);
		anykvm_close(fd);
	}
	assert_int_equal(anykvm_read(t.vm, &h, sizeof(h)), -1);
	assert_int_equal(errno, EINVAL);
	api_vm_free(&t);
}

API_CODE64(calls, "mov $77, %eax; vmcall; mov %rax, %r8; mov $12, %eax; mov $0x4000, %ebx;"
		  "mov $2, %ecx; mov $0x10, %edx; vmcall; mov %rax, %r9; hlt");

static void hypercalls(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_HYPERCALL, .args = {1 << 12}};
	struct kvm_run *run;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	run = t.run[0];
	api_start64(&t, 0, calls_begin, API_SIZE(calls));
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_true((s64)api_regs(&t, 0).r8 == -1000);
	assert_true((s64)api_regs(&t, 0).r9 == -1000);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	api_start64_at(&t, 0, API_CODE);
	api_run_expect(&t, 0, KVM_EXIT_HYPERCALL);
	assert_int_equal(run->hypercall.nr, 12);
	assert_int_equal(run->hypercall.args[0], 0x4000);
	assert_int_equal(run->hypercall.args[1], 2);
	assert_int_equal(run->hypercall.args[2], 0x10);
	run->hypercall.ret = 0x1122334455667788;
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(api_regs(&t, 0).r9, 0x1122334455667788);
	cap.args[0] = 1;
	assert_errno(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), EINVAL);
	api_vm_free(&t);
}

API_CODE64(ipi, "mov $10, %eax; mov $2, %ebx; xor %ecx, %ecx; xor %edx, %edx; mov $0x31, %esi;"
		"vmcall; out %eax, $0x10; hlt");

/* An IPI by hypercall counts the APICs that took it; it cannot, where the APICs are the client's. */
static void ipi_hypercall(void **state)
{
	struct kvm_lapic_state l;
	struct api_vm t;

	api_vm_make(&t, 2, API_IRQCHIP);
	api_start64(&t, 0, ipi_begin, API_SIZE(ipi));
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0); /* the APIC is off by software */
	assert_int_equal(api_ioctl(t.vcpu[1], KVM_GET_LAPIC, &l), 0);
	memcpy(l.regs + 0xf0, &(u32){0x1ff}, 4);
	assert_int_equal(api_ioctl(t.vcpu[1], KVM_SET_LAPIC, &l), 0);
	api_start64_at(&t, 0, API_CODE);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 1);
	api_vm_free(&t);
	api_vm_make(&t, 2, 0);
	assert_errno(api_ioctl(t.vcpu[0], KVM_GET_LAPIC, &l), EINVAL);
	api_start64(&t, 0, ipi_begin, API_SIZE(ipi));
	assert_int_equal((s32)api_run_to_out(&t, 0, 0x10), -EOPNOTSUPP);
	api_vm_free(&t);
}

/* SMM runs in the other address space and comes back with RSM. */
API_CODE16(smm, "mov $0x77, %al; out %al, $0x10; rsm");
API_CODE16(after, "1: inc %bx; out %al, $0x11; jmp 1b");

static void smi(void **state)
{
	struct kvm_vcpu_events e;
	struct api_vm t;
	u8 *smram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_slot(&t, 1u << 16, 0, 0x30000, 0x10000, smram), 0);
	memcpy(smram + 0x8000, smm_begin, API_SIZE(smm));
	api_start16(&t, 0, after_begin, API_SIZE(after));
	api_run_to_out(&t, 0, 0x11);
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_SMI, 0), 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x10), 0x77);
	assert_int_equal(t.run[0]->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM);
	api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.smi.smm, 1);
	api_run_to_out(&t, 0, 0x11);
	assert_int_equal(t.run[0]->flags & KVM_RUN_X86_SMM, 0);
	assert_true((api_regs(&t, 0).rbx & 0xffff) >= 1);
	api_vm_free(&t);
	munmap(smram, 0x10000);
}

/* An INIT that arrives in SMM waits for RSM; SMM's code goes on. */
API_CODE16(smm_twice, "out %al, $0x10; mov $0x66, %al; out %al, $0x13; rsm");

static void init_in_smm(void **state)
{
	u8 *smram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_vcpu_events e;
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_slot(&t, 1u << 16, 0, 0x30000, 0x10000, smram), 0);
	memcpy(smram + 0x8000, smm_twice_begin, API_SIZE(smm_twice));
	api_start16(&t, 0, after_begin, API_SIZE(after));
	api_run_to_out(&t, 0, 0x11);
	assert_int_equal(api_ioctl_value(t.vcpu[0], KVM_SMI, 0), 0);
	api_run_to_out(&t, 0, 0x10);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	e.smi.latched_init = 1;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(api_run_to_out(&t, 0, 0x13), 0x66);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.smi.smm, 1);
	assert_int_equal(e.smi.latched_init, 1);
	/* Behind RSM the processor starts where there is no memory here. */
	api_run(&t, 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.smi.smm, 0);
	assert_int_equal(e.smi.latched_init, 0);
	assert_int_equal(api_regs(&t, 0).rip, 0xfff0);
	api_vm_free(&t);
	munmap(smram, 0x10000);
}

API_CODE16(ap, "mov $0x99, %al; out %al, $0x10; hlt");

static void *ap_thread(void *arg)
{
	struct api_vm *t = arg;
	int ret;

	do
		ret = api_run(t, 1);
	while (ret == -EAGAIN);
	return (void *)(long)ret;
}

/* INIT and SIPI from the boot CPU's APIC start the other at vector << 12. */
API_CODE64(start_ap, "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); movl $0x1000000, 0x310(%rdi);"
		     "movl $0x4500, 0x300(%rdi); movl $0x1000000, 0x310(%rdi);"
		     "movl $0x460a, 0x300(%rdi); out %al, $0x12");

static void init_sipi(void **state)
{
	struct api_vm t;
	pthread_t thread;
	void *ret;

	api_vm_make(&t, 2, API_IRQCHIP);
	api_start64(&t, 0, start_ap_begin, API_SIZE(start_ap));
	*(u64 *)(t.mem + 0x2000 + 3 * 8) = 0xc0000083ull;
	memcpy(t.mem + 0xa000, ap_begin, API_SIZE(ap));
	pthread_create(&thread, NULL, ap_thread, &t);
	api_run_to_out(&t, 0, 0x12);
	pthread_join(thread, &ret);
	assert_null(ret);
	assert_int_equal(t.run[1]->exit_reason, KVM_EXIT_IO);
	assert_int_equal(*((u8 *)t.run[1] + t.run[1]->io.data_offset), 0x99);
	api_vm_free(&t);
}

static void mce(void **state)
{
	struct kvm_x86_mce m = {.status = 1ull << 63 | 1ull << 61, .bank = 0, .mcg_status = 4};
	u64 cap = 0, bad = 99;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap), 0);
	cap |= 10;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SETUP_MCE, &cap), 0);
	assert_errno(api_ioctl(t.vcpu[0], KVM_X86_SETUP_MCE, &bad), EINVAL);
	m.bank = 10;
	assert_errno(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &m), EINVAL);
	m.bank = 0;
	/* CR4.MCE is clear: the guest cannot take it. */
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &m), 0);
	api_start16(&t, 0, (const u8 *)"\xeb\xfe", 2);
	api_run_expect(&t, 0, KVM_EXIT_SHUTDOWN);
	api_vm_free(&t);
}

static u32 *lapic_word(struct kvm_lapic_state *s, u32 reg)
{
	return (u32 *)(s->regs + reg);
}

/* Whether vector 0xa9 waits in the local APIC. */
static bool cmci_waits(struct api_vm *t)
{
	struct kvm_lapic_state s;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_LAPIC, &s), 0);
	return *lapic_word(&s, 0x200 + 0xa9 / 32 * 16) >> (0xa9 % 32) & 1;
}

/* An error that needs no action is recorded in any case, and told by CMCI where the bank allows it. */
static void ucna(void **state)
{
	const u64 status = 1ull << 63 | 1ull << 61 | 1ull << 60 | 1ull << 58 | 0x10090;
	struct kvm_x86_mce m = {.status = status, .addr = 0xdeadbeef, .bank = 7};
	struct kvm_lapic_state s;
	struct api_vm t;
	u64 cap = 0;

	/* AMD's processors have none. */
	api_vm_make(&t, 1, API_AMD | API_IRQCHIP);
	assert_int_equal(api_ioctl(t.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap), 0);
	assert_int_equal(cap & 1 << 10, 0);
	cap = 1 << 10 | 10;
	assert_errno(api_ioctl(t.vcpu[0], KVM_X86_SETUP_MCE, &cap), EINVAL);
	api_vm_free(&t);

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_ioctl(t.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap), 0);
	assert_int_equal(cap & 1 << 10, 1 << 10);
	/* Without the capability the bank has no such register, and the local APIC no entry. */
	cap = 10;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(api_set_msr(&t, 0, 0x287, 1 << 30), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &m), 0);
	assert_false(cmci_waits(&t));
	cap = 1 << 10 | 10;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_LAPIC, &s), 0);
	assert_int_equal(*lapic_word(&s, 0x30) >> 16 & 0xff, 6); /* one entry more */
	assert_int_equal(*lapic_word(&s, 0x2f0), 0x10000);
	*lapic_word(&s, 0xf0) = 0x1ff;
	*lapic_word(&s, 0x2f0) = 0xa9;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_LAPIC, &s), 0);
	assert_int_equal(api_set_msr(&t, 0, 0x287, 1 << 29), 0); /* a reserved bit */
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &m), 0);
	assert_false(cmci_waits(&t));
	assert_int_equal(api_msr(&t, 0, 0x41d), status);
	assert_int_equal(api_msr(&t, 0, 0x41e), 0xdeadbeef);
	assert_int_equal(api_set_msr(&t, 0, 0x287, 1 << 30 | 1), 1);
	m.addr = 0xcafeb0ba;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_X86_SET_MCE, &m), 0);
	assert_true(cmci_waits(&t));
	assert_int_equal(api_msr(&t, 0, 0x41e), 0xcafeb0ba);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_debug), cmocka_unit_test(translate),
		cmocka_unit_test(place),       cmocka_unit_test(stats),
		cmocka_unit_test(hypercalls),  cmocka_unit_test(ipi_hypercall),
		cmocka_unit_test(smi),	       cmocka_unit_test(init_sipi),
		cmocka_unit_test(init_in_smm), cmocka_unit_test(mce),
		cmocka_unit_test(ucna),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
