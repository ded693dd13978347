/* CPUID: the supported list, setting it, and what the guest sees. */
#include "api.h"

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *c, u32 leaf)
{
	for (u32 i = 0; i < c->nent; i++)
		if (c->entries[i].function == leaf)
			return &c->entries[i];
	return NULL;
}

static void supported(void **state)
{
	static const struct {
		const char *options;
		u32 ebx; /* of leaf 0 */
	} vendors[] = {{"vendor=intel", 0x756e6547}, {"vendor=amd", 0x68747541}};

	for (size_t i = 0; i < ARRAY_SIZE(vendors); i++) {
		int kvm = api_open(vendors[i].options);
		struct kvm_cpuid2 *c = api_supported_cpuid(kvm);

		assert_non_null(find(c, 0));
		assert_int_equal(find(c, 0)->ebx, vendors[i].ebx);
		assert_true(find(c, 0x80000001)->edx >> 29 & 1); /* long mode */
		assert_non_null(find(c, 0x40000000));
		assert_int_equal(find(c, 0x40000000)->ebx, 0x4b4d564b);
		c->nent = 1;
		assert_errno(api_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), E2BIG);
		c->nent = 0;
		assert_errno(api_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), E2BIG);
		c->nent = 256;
		assert_int_equal(api_ioctl(kvm, KVM_GET_EMULATED_CPUID, c), 0);
		free(c);
		anykvm_close(kvm);
	}
}

API_CODE64(ask, "mov $0x40000010, %eax; xor %ecx, %ecx; cpuid; hlt");

static void guest_sees(void **state)
{
	struct kvm_cpuid2 *c;
	struct api_vm t;
	u32 n;

	api_vm_make(&t, 1, 0);
	c = api_supported_cpuid(t.kvm);
	n = c->nent;
	find(c, 0x40000000)->eax = 0x40000010;
	c->entries[n] = (struct kvm_cpuid_entry2){
		.function = 0x40000010, .eax = 0xa, .ebx = 0xb, .ecx = 0xc, .edx = 0xd};
	c->nent = n + 1;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), 0);
	api_start64(&t, 0, ask_begin, API_SIZE(ask));
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(api_regs(&t, 0).rax, 0xa);
	assert_int_equal(api_regs(&t, 0).rdx, 0xd);
	/* It is fixed now: the same is allowed, another is not. */
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), 0);
	c->entries[n].eax++;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), EINVAL);
	c->nent = 257;
	assert_errno(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), E2BIG);
	c->nent = 3;
	assert_errno(api_ioctl(t.vcpu[0], KVM_GET_CPUID2, c), E2BIG);
	assert_int_equal(c->nent, 3);
	c->nent = 256;
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_CPUID2, c), 0);
	assert_int_equal(c->nent, n + 1);
	free(c);
	api_vm_free(&t);
}

API_CODE64(lzcnt, "mov $0x10000, %eax; lzcnt %eax, %ebx; hlt");
API_CODE64(ud, "mov $0xbad, %ebx; hlt");

/* A masked feature's instruction is undefined although the host could run it. */
static void masked_is_ud(void **state)
{
	struct kvm_cpuid2 *c;
	struct api_vm t;

	for (int masked = 0; masked < 2; masked++) {
		api_vm_make(&t, 1, 0);
		c = api_supported_cpuid(t.kvm);
		if (!(find(c, 0x80000001)->ecx >> 5 & 1))
			skip();
		if (masked)
			find(c, 0x80000001)->ecx &= ~(1u << 5);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), 0);
		api_start64(&t, 0, lzcnt_begin, API_SIZE(lzcnt));
		memcpy(t.mem + 0x9000, ud_begin, API_SIZE(ud));
		api_idt64(&t, 6, 0x9000);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		/* On Intel a masked LZCNT is BSR; what it must not be is LZCNT. */
		assert_int_not_equal(api_regs(&t, 0).rbx, masked ? 15 : 0);
		if (!masked)
			assert_int_equal(api_regs(&t, 0).rbx, 15);
		free(c);
		api_vm_free(&t);
	}
}

API_CODE64(mask_load, ".byte 0xc5, 0x78, 0x90, 0x0f; kmovw %k1, %eax; hlt");
API_CODE64(mask_and, "mov $0xffff, %ecx; kmovw (%rdi), %k2; kmovw %ecx, %k3;"
		     ".byte 0xc5, 0x2c, 0x41, 0xcb; kmovw %k1, %eax; hlt");
API_CODE64(mask_move, "kmovw (%rdi), %k2; .byte 0xc5, 0x38, 0x90, 0xca; hlt");

/* There are eight mask registers: a fourth bit of their number AMD ignores, and Intel does not. */
static void mask_registers(void **state)
{
	const struct {
		const u8 *code;
		size_t size;
		bool ud; /* with AMD, too: the field names no register */
	} cases[] = {
		{mask_load_begin, API_SIZE(mask_load), false},
		{mask_and_begin, API_SIZE(mask_and), false},
		{mask_move_begin, API_SIZE(mask_move), true},
	};
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.value = 0xe7}}};
	struct kvm_cpuid2 *c;
	struct kvm_sregs s;
	struct api_vm t;

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		bool amd = i & 1;
		struct kvm_regs r;

		api_vm_make(&t, 1, amd ? API_AMD : 0);
		c = api_supported_cpuid(t.kvm);
		if (!(find(c, 7)->ebx >> 16 & 1))
			skip();
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_CPUID2, c), 0);
		free(c);
		api_start64(&t, 0, cases[i / 2].code, cases[i / 2].size);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s), 0);
		s.cr4 |= 0x40000;
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s), 0);
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_XCRS, &x), 0);
		memcpy(t.mem + 0x9000, ud_begin, API_SIZE(ud));
		api_idt64(&t, 6, 0x9000);
		*(u16 *)(t.mem + 0x20000) = 0x1234;
		r = api_regs(&t, 0);
		r.rdi = 0x20000;
		r.rbx = 0;
		api_set_regs(&t, 0, &r);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		r = api_regs(&t, 0);
		if (amd && !cases[i / 2].ud) {
			assert_int_equal(r.rbx, 0);
			assert_int_equal(r.rax, 0x1234);
		} else {
			assert_int_equal(r.rbx, 0xbad);
		}
		api_vm_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(supported),
		cmocka_unit_test(guest_sees),
		cmocka_unit_test(masked_is_ud),
		cmocka_unit_test(mask_registers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
