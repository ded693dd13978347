/* Registers in and out: REGS, SREGS(2), FPU, XSAVE, XCRS, DEBUGREGS, MP_STATE, events. */
#include "api.h"

static void regs_round_trip(void **state)
{
	struct kvm_regs a, b;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	a = api_regs(&t, 0);
	assert_int_equal(a.rip, 0xfff0);
	assert_int_equal(a.rflags, 2);
	for (unsigned i = 0; i < 16; i++)
		((u64 *)&a)[i] = 0x0123456789abcd00ull + i;
	a.rip = 0x1234;
	a.rflags = 0x246;
	api_set_regs(&t, 0, &a);
	b = api_regs(&t, 0);
	assert_memory_equal(&a, &b, sizeof(a));
	api_vm_free(&t);
}

/* Reads a word in two address spaces in turn, neither of which it flushes. */
API_CODE64(reader,
	   "1: mov %r8, %cr3; mov (%rdi), %eax; out %eax, $0x80; mov %r9, %cr3; mov (%rdi), %eax;"
	   "out %eax, $0x81; jmp 1b");

/* A snapshot is loaded: the page tables are others, CR3 is the same. */
static void sregs_forget_translations(void **state)
{
	const u64 keep = 1ull << 63;
	struct kvm_regs r;
	struct kvm_sregs s;
	struct api_vm t;
	u64 *pte;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, reader_begin, API_SIZE(reader));
	pte = (u64 *)(t.mem + 0x21000);
	*(u64 *)(t.mem + 0x2008) = 0x20003;
	*(u64 *)(t.mem + 0x20000) = 0x21003;
	for (u32 n = 0; n < 2; n++)
		*(u32 *)(t.mem + 0x30000 + 0x1000 * n) = n;
	r = api_regs(&t, 0);
	r.rdi = 1u << 30;
	r.r8 = API_PML4 | 1 | keep;
	r.r9 = API_PML4 | 2 | keep;
	api_set_regs(&t, 0, &r);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s), 0);
	s.cr4 |= 1u << 17; /* PCIDE */
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
	for (u32 i = 0; i < 20; i++) {
		pte[0] = (0x30000 + 0x1000 * (i & 1)) | 3;
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s), 0);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), i & 1);
		assert_int_equal(api_run_to_out(&t, 0, 0x81), i & 1);
	}
	api_vm_free(&t);
}

static void sregs_refused(void **state)
{
	struct kvm_sregs good, s;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS, &good), 0);
	assert_int_equal(good.cs.selector, 0xf000);
	assert_int_equal(good.cs.base, 0xffff0000);
#define REFUSE(change)                                                         \
	do {                                                                   \
		s = good;                                                      \
		change;                                                        \
		assert_errno(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), EINVAL); \
	} while (0)
	REFUSE(s.cr0 |= 1ull << 40);
	REFUSE(s.cr0 = 0x80000000);		    /* PG without PE */
	REFUSE(s.cr0 = 0x20000000);		    /* NW without CD */
	REFUSE(s.cr4 |= 1ull << 30);		    /* reserved */
	REFUSE(s.efer = 0x500; s.cr0 = 0x80000001); /* long mode without PAE */
	REFUSE(s.efer = 0x400);			    /* LMA without LME */
	REFUSE(s.apic_base = 1 << 10);
#undef REFUSE
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &good), 0);
	api_vm_free(&t);
}

static void sregs2_pdptrs(void **state)
{
	struct kvm_sregs2 s;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS2, &s), 0);
	assert_int_equal(s.flags, 0);
	s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_SREGS2, &s), EINVAL); /* no PAE paging */
	s.cr0 = 0x80000011;
	s.cr4 = 0x20;
	s.cr3 = 0x1000;
	for (u64 i = 0; i < 4; i++)
		s.pdptrs[i] = (0x2000 + i * 0x1000) | 1;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS2, &s), 0);
	memset(&s, 0, sizeof(s));
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS2, &s), 0);
	assert_int_equal(s.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_int_equal(s.pdptrs[3], 0x5001);
	s.flags = 2;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_SREGS2, &s), EINVAL);
	api_vm_free(&t);
}

API_CODE64(vector, "movups %xmm3, 0x500; pcmpeqd %xmm3, %xmm3; fld1; hlt");

static void fpu_reaches_the_guest(void **state)
{
	struct kvm_fpu f;
	struct api_vm t;
	u8 ones[16];

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, vector_begin, API_SIZE(vector));
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_FPU, &f), 0);
	assert_int_equal(f.fcw, 0x37f);
	assert_int_equal(f.mxcsr, 0x1f80);
	memset(f.xmm[3], 0x5a, 16);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_FPU, &f), 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	memset(ones, 0x5a, 16);
	assert_memory_equal(t.mem + 0x500, ones, 16);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_FPU, &f), 0);
	memset(ones, 0xff, 16);
	assert_memory_equal(f.xmm[3], ones, 16);
	assert_memory_equal(f.fpr[0], "\0\0\0\0\0\0\0\x80\xff\x3f", 10);
	api_vm_free(&t);
}

static void xsave_refused(void **state)
{
	int size;
	struct api_vm t;
	u64 *x;

	api_vm_make(&t, 1, 0);
	size = api_ioctl_value(t.vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	assert_true(size >= 4096);
	x = calloc(1, (size_t)size);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_XSAVE2, x), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XSAVE, x), 0);
	x[64] |= 1ull << 62; /* XSTATE_BV */
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XSAVE, x), EINVAL);
	x[64] &= ~(1ull << 62);
	((u32 *)x)[6] = 0xffff0000; /* MXCSR */
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XSAVE, x), EINVAL);
	free(x);
	api_vm_free(&t);
}

static void xcrs(void **state)
{
	struct kvm_xcrs x = {.nr_xcrs = 1};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	x.xcrs[0].value = 3;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
	x.xcrs[0].value = 2;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), EINVAL);
	x.xcrs[0].value = 5;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), EINVAL);
	x.nr_xcrs = KVM_MAX_XCRS + 1;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), EINVAL);
	memset(&x, 0, sizeof(x));
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_XCRS, &x), 0);
	assert_int_equal(x.nr_xcrs, 1);
	assert_int_equal(x.xcrs[0].value, 3);
	api_vm_free(&t);
}

static void debugregs(void **state)
{
	struct kvm_debugregs d;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(d.dr6, 0xffff0ff0);
	assert_int_equal(d.dr7, 0x400);
	d.db[2] = 0x1234;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
	memset(&d, 0, sizeof(d));
	api_ioctl(t.vcpu[0], KVM_GET_DEBUGREGS, &d);
	assert_int_equal(d.db[2], 0x1234);
	d.dr7 = 1ull << 32;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), EINVAL);
	d.dr7 = 0x400;
	d.flags = 1;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), EINVAL);
	api_vm_free(&t);
}

static void mp_states(void **state)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};
	struct api_vm t;

	api_vm_make(&t, 2, 0);
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), EINVAL); /* no APIC inside */
	api_ioctl(t.vcpu[1], KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	api_vm_free(&t);
	api_vm_make(&t, 2, API_IRQCHIP);
	api_ioctl(t.vcpu[0], KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	api_ioctl(t.vcpu[1], KVM_GET_MP_STATE, &mp);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	mp.mp_state = 99;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), EINVAL);
	api_vm_free(&t);
}

API_CODE64(handler_df, "mov (%rsp), %rax; mov %cr2, %rbx; hlt");

/* A page fault set as a pending event is delivered with its error code and CR2. */
static void events_deliver(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_vcpu_events e;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	assert_int_equal(api_ioctl(t.vm, KVM_ENABLE_CAP, &cap), 0);
	api_start64(&t, 0, handler_df_begin, API_SIZE(handler_df));
	api_idt64(&t, 14, API_CODE);
	api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.exception.pending | e.exception.injected, 0);
	e.exception.pending = 1;
	e.exception.nr = 14;
	e.exception.has_error_code = 1;
	e.exception.error_code = 6;
	e.exception_has_payload = 1;
	e.exception_payload = 0xabcd000;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), 0);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(api_regs(&t, 0).rax, 6);
	assert_int_equal(api_regs(&t, 0).rbx, 0xabcd000);
	e.exception.nr = 2;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), EINVAL);
	e.exception.nr = 14;
	e.flags |= 1u << 20;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), EINVAL);
	api_vm_free(&t);
}

API_CODE16(out_hlt, "inc %ax; out %al, $0x10; hlt");

static void sync_regs(void **state)
{
	struct kvm_run *run;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	run = t.run[0];
	api_start16(&t, 0, out_hlt_begin, API_SIZE(out_hlt));
	run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_int_equal(run->s.regs.regs.rax, 1);
	assert_int_equal(run->s.regs.sregs.cr0 & 1, 0);
	run->s.regs.regs.rip = API_CODE;
	run->s.regs.regs.rax = 0x41;
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	api_run_expect(&t, 0, KVM_EXIT_IO);
	assert_int_equal(run->s.regs.regs.rax, 0x42);
	run->kvm_valid_regs = 1u << 20;
	assert_errno(api_run(&t, 0), EINVAL);
	run->kvm_valid_regs = 0;
	run->kvm_dirty_regs = 1u << 20;
	assert_errno(api_run(&t, 0), EINVAL);
	api_vm_free(&t);
}

/* A snapshot of a halted processor is loaded into one that was stopped behind STI. */
static void halted_without_shadow(void **state)
{
	struct kvm_vcpu_events e = {.flags = KVM_VCPUEVENT_VALID_SHADOW,
				    .interrupt.shadow = KVM_X86_SHADOW_INT_STI};
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct api_vm t;

	api_vm_make(&t, 1, API_IRQCHIP);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.interrupt.shadow, KVM_X86_SHADOW_INT_STI);
	mp.mp_state = KVM_MP_STATE_HALTED;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.interrupt.shadow, 0);
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(halted_without_shadow),
		cmocka_unit_test(regs_round_trip),
		cmocka_unit_test(sregs_forget_translations),
		cmocka_unit_test(sregs_refused),
		cmocka_unit_test(sregs2_pdptrs),
		cmocka_unit_test(fpu_reaches_the_guest),
		cmocka_unit_test(xsave_refused),
		cmocka_unit_test(xcrs),
		cmocka_unit_test(debugregs),
		cmocka_unit_test(mp_states),
		cmocka_unit_test(events_deliver),
		cmocka_unit_test(sync_regs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
