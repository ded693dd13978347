/* Operands in parts, at the end of what an address of 16 or 32 bits reaches: each part's address wraps for itself. */
#include "api.h"

/*
 * An x87 register in memory is eight bytes and two, each with an address of 16 bits: with the first at fff8 the
 * second is at 0, and at no other offset around the end of a segment is there room for both.
 */
API_CODE16(
	x87_parts,
	"mov $0x2000, %ax; mov %ax, %ds; fninit; fld1; mov $0xfff8, %di; fstpt (%di); fldt (%di);"
	"fstpt (0x100); fld1; fbstp (%di); fbld (%di); fbstp (0x110); mov (0), %ax; out %ax, $0x80;"
	"fld1; inc %di; fstpt (%di)");
API_CODE16(x87_refused, "mov %di, %ax; out %ax, $0x82;");

static void x87_parts_wrap(void **state)
{
	static const u8 one[10] = {[7] = 0x80, 0xff, 0x3f}, bcd[10] = {1};
	struct api_vm t;
	u8 *data;

	api_vm_make(&t, 1, 0);
	data = t.mem + 0x20000;
	memset(data, 0xee, 0x10010);
	api_start16(&t, 0, x87_parts_begin, API_SIZE(x87_parts));
	*(u32 *)(t.mem + 4 * 13) = 0x6000;
	memcpy(t.mem + 0x6000, x87_refused_begin, API_SIZE(x87_refused));
	assert_int_equal(api_run_to_out(&t, 0, 0x80), 0);
	assert_memory_equal(data + 0x100, one, 10);
	assert_memory_equal(data + 0x110, bcd, 10);
	assert_memory_equal(data + 0xfff8, bcd, 8);
	assert_int_equal(data[0x10000], 0xee);
	assert_int_equal(api_run_to_out(&t, 0, 0x82), 0xfff9);
	api_vm_free(&t);
}

/* Linear: the pages at both sides of 4 GiB, and the first one. */
#define BELOW_GPA  0x20000u
#define ABOVE_GPA  0x21000u
#define ABOVE_PTE  0xc000u
#define FIRST_PTE  0xf000u
#define FAULT_CODE 0x9000u
#define PTE_MAPS   3u

API_CODE64(plain, "vpternlogd $255, %zmm0, %zmm0, %zmm0; vmovdqu32 %zmm0, (%ebx); out %al, $0x80");
API_CODE64(masked, "kmovw %ecx, %k1; vpternlogd $255, %zmm0, %zmm0, %zmm0;"
		   "vmovdqu32 %zmm0, (%ebx){%k1}; out %al, $0x80");
API_CODE64(compress, "kmovw %ecx, %k1; vpternlogd $255, %zmm0, %zmm0, %zmm0;"
		     "vpcompressd %zmm0, (%ebx){%k1}; out %al, $0x80");
API_CODE64(load, "kmovw %ecx, %k1; vpmovm2d %k1, %ymm1; vpmaskmovd (%ebx), %ymm1, %ymm0;"
		 "vmovdqu %ymm0, 0x20800; out %al, $0x80");
API_CODE64(faulted, "mov %cr2, %rax; out %al, $0x81");

/* Can AVX-512 be used? Maps the pages when it can. */
static bool begin(struct api_vm *t)
{
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs = {{.value = 0xe7}}};
	struct kvm_cpuid2 *c;
	struct kvm_sregs s;
	bool has = false;

	api_vm_make(t, 1, 0);
	c = api_supported_cpuid(t->kvm);
	for (u32 i = 0; i < c->nent; i++)
		has |= c->entries[i].function == 7 && !c->entries[i].index &&
		       (c->entries[i].ebx >> 16 & 1);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_CPUID2, c), 0);
	free(c);
	if (!has) {
		api_vm_free(t);
		return false;
	}
	api_start64_at(t, 0, API_CODE);
	*(u64 *)(t->mem + 0x2000) = 0xe000 | PTE_MAPS;
	*(u64 *)(t->mem + 0xe000) = FIRST_PTE | PTE_MAPS;
	for (unsigned i = 0; i < 512; i++)
		*(u64 *)(t->mem + FIRST_PTE + 8 * i) = i << 12 | PTE_MAPS;
	*(u64 *)(t->mem + 0x2000 + 8 * 3) = 0xa000 | PTE_MAPS;
	*(u64 *)(t->mem + 0xa000 + 8 * 511) = 0xb000 | PTE_MAPS;
	*(u64 *)(t->mem + 0xb000 + 8 * 511) = BELOW_GPA | PTE_MAPS;
	*(u64 *)(t->mem + 0x2000 + 8 * 4) = 0xd000 | PTE_MAPS;
	*(u64 *)(t->mem + 0xd000) = ABOVE_PTE | PTE_MAPS;
	*(u64 *)(t->mem + ABOVE_PTE) = ABOVE_GPA | PTE_MAPS;
	memcpy(t->mem + FAULT_CODE, faulted_begin, API_SIZE(faulted));
	api_idt64(t, 14, FAULT_CODE);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_SREGS, &s), 0);
	s.cr4 |= 0x40000;
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_SREGS, &s), 0);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_XCRS, &x), 0);
	return true;
}

/* Runs one of them at 4 GiB - back; the port that it ends with. */
static unsigned run_at(struct api_vm *t, const void *code, size_t size, unsigned back, u32 mask)
{
	struct kvm_regs r = api_regs(t, 0);

	memcpy(t->mem + API_CODE, code, size);
	r.rip = API_CODE;
	r.rsp = API_STACK;
	r.rbx = -(u64)back;
	r.rcx = mask;
	api_set_regs(t, 0, &r);
	api_run_expect(t, 0, KVM_EXIT_IO);
	return t->run[0]->io.port;
}

/* ... with no bits set in memory before. */
static unsigned store_at(struct api_vm *t, const void *code, size_t size, unsigned back, u32 mask)
{
	memset(t->mem + BELOW_GPA, 0, 0x2000);
	memset(t->mem, 0, 0x1000);
	return run_at(t, code, size, back, mask);
}

/* The byte at an address of up to 33 bits. */
static u8 *byte_at(struct api_vm *t, u64 lin)
{
	return t->mem + (lin >> 32 ? ABOVE_GPA : lin >> 31 ? BELOW_GPA : 0) + (lin & 0xfff);
}

/* Are just the bytes set that `mask` names, the second half's from `second` on? */
static void expect(struct api_vm *t, unsigned back, u32 mask, u64 second)
{
	unsigned all = 0;

	for (unsigned i = 0; i < 64; i++) {
		u64 at = i < 32 ? BIT64(32) - back + i : second + i - 32;

		assert_int_equal(*byte_at(t, at), mask >> i / 4 & 1 ? 0xff : 0);
	}
	for (unsigned i = 0; i < 0x1000; i++)
		all += (t->mem[i] == 0xff) + (t->mem[BELOW_GPA + i] == 0xff) +
		       (t->mem[ABOVE_GPA + i] == 0xff);
	assert_int_equal(all, 4 * __builtin_popcount(mask & 0xffff));
}

/*
 * A store of 64 bytes is two halves, whether masked or not; inside of one nothing wraps. One that compresses is no such
 * store.
 */
static void halves_wrap(void **state)
{
	static const u32 masks[] = {0xffff, 0x5555, 0xaa01, 0x8001, 0x0180, 0xff00, 0x00ff};
	struct api_vm t;

	if (!begin(&t))
		skip();
	for (unsigned back = 1; back <= 68; back++) {
		u64 second = back <= 32 ? 32 - back : BIT64(32) + 32 - back;

		assert_int_equal(store_at(&t, plain_begin, API_SIZE(plain), back, 0), 0x80);
		expect(&t, back, 0xffff, second);
		for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
			assert_int_equal(
				store_at(&t, masked_begin, API_SIZE(masked), back, masks[i]), 0x80);
			expect(&t, back, masks[i], second);
		}
		assert_int_equal(store_at(&t, compress_begin, API_SIZE(compress), back, 0xffff),
				 0x80);
		expect(&t, back, 0xffff, BIT64(32) + 32 - back);
	}
	api_vm_free(&t);
}

/* Where it faulted. */
static u64 faulted_at(struct api_vm *t)
{
	struct kvm_sregs s;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_SREGS, &s), 0);
	return s.cr2;
}

/*
 * Without the page above, then without the first one. Under a mask a store goes by halves only when all of both can be
 * written; if not, element by element, and no address wraps.
 */
static void half_faults(void **state)
{
	struct api_vm t;

	if (!begin(&t))
		skip();
	*(u64 *)(t.mem + ABOVE_PTE) = 0;
	assert_int_equal(store_at(&t, plain_begin, API_SIZE(plain), 32, 0), 0x80);
	expect(&t, 32, 0xffff, 0);
	assert_int_equal(store_at(&t, plain_begin, API_SIZE(plain), 16, 0), 0x81);
	expect(&t, 16, 0, 16);
	assert_int_equal(store_at(&t, masked_begin, API_SIZE(masked), 16, 0xff0f), 0x81);
	expect(&t, 16, 0, 16);
	assert_true(faulted_at(&t) == BIT64(32) + 16);
	assert_int_equal(store_at(&t, masked_begin, API_SIZE(masked), 16, 0xff4f), 0x81);
	expect(&t, 16, 0, 16);
	assert_true(faulted_at(&t) == BIT64(32) + 8);
	assert_int_equal(store_at(&t, masked_begin, API_SIZE(masked), 16, 0x000f), 0x80);
	expect(&t, 16, 0x000f, 0);
	api_vm_free(&t);

	begin(&t);
	*(u64 *)(t.mem + FIRST_PTE) = 0;
	assert_int_equal(store_at(&t, plain_begin, API_SIZE(plain), 16, 0), 0x81);
	expect(&t, 16, 0, 16);
	for (unsigned back = 1; back <= 64; back++) {
		assert_int_equal(store_at(&t, masked_begin, API_SIZE(masked), back, 0xf3cf), 0x80);
		expect(&t, back, 0xf3cf, BIT64(32) + 32 - back);
	}
	api_vm_free(&t);
}

/* VMASKMOV reads the whole where that can be done, then nothing wraps; else its elements, which do. */
static void load_wraps(void **state)
{
	struct api_vm t;

	if (!begin(&t))
		skip();
	for (unsigned above = 0; above < 2; above++)
		for (unsigned back = 4; back < 32; back += 4) {
			u32 mask = 0xb5, *got = (u32 *)(t.mem + BELOW_GPA + 0x800);

			*(u64 *)(t.mem + ABOVE_PTE) = above ? ABOVE_GPA | PTE_MAPS : 0;
			for (unsigned i = 0; i < 8; i++) {
				*(u32 *)(t.mem + 4 * i) = 0x100 + i;
				*(u32 *)(t.mem + ABOVE_GPA + 4 * i) = 0x200 + i;
				*(u32 *)(t.mem + BELOW_GPA + 0xfe0 + 4 * i) = 0x300 + i;
			}
			assert_int_equal(run_at(&t, load_begin, API_SIZE(load), back, mask), 0x80);
			for (unsigned i = 0; i < 8; i++) {
				u32 there = i < back / 4 ? 0x300 + 8 - back / 4 + i
					    : above	 ? 0x200 + i - back / 4
							 : 0x100 + i - back / 4;

				assert_int_equal(got[i], mask >> i & 1 ? there : 0);
			}
		}
	api_vm_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(x87_parts_wrap),
		cmocka_unit_test(halves_wrap),
		cmocka_unit_test(half_faults),
		cmocka_unit_test(load_wraps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
