/*
 * ANYKVM_CAP_WINDOW: no address leads a program out of its window, whichever it has.
 */
#include "window_rig.h"

/* The stack goes to RDI in one of the ways that R11 chooses, or RSP walks by RBX steps; what is there is read. */
API_CODE64(
	stacker,
	"1: int $0x40; cmp $1, %r11d; jb 10f; je 11f; cmp $3, %r11d; jb 12f; je 13f; cmp $5, %r11d;"
	"jb 14f; je 15f; cmp $7, %r11d; jb 16f; je 25f; cmp $9, %r11d; jb 17f; je 18f; cmp $11, %r11d;"
	"jb 19f; je 20f;"
	"25: wrfsbase %rdi; rdfsbase %rsp; mov (%rsp), %eax; jmp 1b;"
	"10: mov %rdi, %rsp; pop %rax; jmp 1b;"
	"11: push %rdi; pop %rsp; movzwl 2(%rsp), %ebx; movzwl (%rsp), %eax; shl $16, %ebx; or %ebx, %eax;"
	"jmp 1b;"
	"12: mov %rdi, %rbp; leave; mov %ebp, %eax; jmp 1b;"
	"13: push %rax; sub %rsp, %rdi; add %rdi, %rsp; mov (%rsp), %eax; jmp 1b;"
	"14: push %rax; xchg %rdi, %rsp; cld; lea -4(%rsp), %rdi; lods (%rsi), %eax; pop %rax; jmp 1b;"
	"15: lea 8(%rdi), %rsp; sub $8, %rsp; mov (%rsp), %eax; jmp 1b;"
	"16: lea 8(%rdi), %rsp; mov $77, %eax; push %rax; mov (%rsp), %eax; jmp 1b;"
	"17: sub $0xff000, %rsp; dec %rbx; jnz 17b; mov (%rsp), %eax; jmp 1b;"
	"18: add $0xff000, %rsp; dec %rbx; jnz 18b; mov (%rsp), %eax; jmp 1b;"
	/* the same with accesses that access nothing; and RDI */
	"19: vpxor %xmm0, %xmm0, %xmm0;"
	"21: vmaskmovps (%rsp), %ymm0, %ymm1; add $0xff000, %rsp; dec %rbx; jnz 21b; mov (%rsp), %eax; jmp 1b;"
	"20: vpxor %xmm0, %xmm0, %xmm0; jmp 22f;"
	"22: vmaskmovps (%rdi), %ymm0, %ymm1; add $0xff000, %rdi; dec %rbx; jnz 22b; mov (%rdi), %eax;"
	"jmp 1b");
/* The handler of #SS: as that of #GP. */
API_CODE64(protection, "pop %rax; out %eax, $0x82; mov %r8, (%rsp); iretq");
enum { STACK_PUSH = 6, STACK_WAYS = 8, STACK_DOWN = 8, STACK_UP, STACK_UP_MASKED, RDI_UP_MASKED };

/* Bases that are far from what is accessed: by as much as serves a near access, too (jit/group.c), and by all of it. */
API_CODE64(program_off,
	   "1: mov 0x100000(%rdi), %eax; mov %ebx, -0x100000(%rsi); int $0x40; jmp 1b");
API_CODE64(program_far,
	   "1: mov 0x7ffffff0(%rdi), %eax; mov %ebx, -0x80000000(%rsi); int $0x40; jmp 1b");

/* The window's shape; where there is none, one that is as good as another. */
static const struct window_shape *shape(void)
{
	return window_shape(win_nth % MMU_WINDOWS);
}

/* Addresses that would lead to one of the process's, if their part were this. */
static u64 leads_to(u64 own, unsigned part)
{
	return own - window_addend(shape(), part);
}

static void assert_faults(struct api_vm *t, u64 lin)
{
	assert_int_equal(win_fault_at(t, lin, DATA(2)), win_fault_of(lin, false));
	assert_int_equal(win_fault_at(t, DATA(1), lin), win_fault_of(lin, true));
}

static void nothing_else_is_reached(void **state)
{
	static const u64 bad[] = {
		0x400000,
		0x3fffffffffffull,
		0x7ffffffff000ull,
		0x800000000000ull,
		0x7fffffffffffull,
		0xffff800000000000ull,
		0xffffffffffffffffull,
		0x8000000000000000ull,
		0x455555555000ull,
		0x655555555000ull,
		0x655555554ffeull,
		0xffff955555555000ull,
		0xffffd55555555000ull,
	};
	struct api_vm t;
	u64 own[] = {0, (u64)&own, (u64)&shape, (u64)malloc, 0xffffffffff600000ull};

	win_start(&t);
	own[0] = (u64)t.mem;
	for (u64 part = 0; part < window_parts(shape()); part++) {
		u64 first = part << shape()->part_shift;

		for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
			assert_faults(&t, leads_to(own[i], (unsigned)part));
		assert_faults(&t, first - 2);
		assert_faults(&t, first);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_faults(&t, bad[i]);
	for (unsigned h = 0; h < HOMES; h++)
		for (unsigned bit = 47; bit < 64; bit++) {
			assert_faults(&t, (win_homes[h] + 0x2000) ^ BIT64(bit));
			assert_faults(&t, (win_homes[h] + 0x2000) | ~0ull << bit);
		}
	*win_pte(&t, 3) &= ~2ull; /* not writable */
	*win_pte(&t, 4) &= ~4ull; /* the kernel's */
	win_set(&t, DATA(3), DATA(2), 0, true);
	win_run(&t);
	assert_int_equal(win_fault_at(&t, DATA(1), DATA(3)), 7);
	assert_int_equal(win_fault_at(&t, DATA(4), DATA(2)), 5);
	win_free(&t);
}

/* As win_fault_at(), by way of the stack: what was read, or 1 << 32 and the error code, or ~0 for #SS. */
static u64 stack_at(struct api_vm *t, unsigned way, u64 rdi, u64 rsp, u64 steps)
{
	struct kvm_regs r = win_regs(t);
	struct kvm_run *run = t->run[win_nth];
	u32 told, port;

	r.r11 = way;
	r.rdi = rdi;
	r.rsi = DATA(2);
	*(u64 *)(t->mem + KERNEL_STACK - 16) = rsp; /* where IRET will find it */
	r.rbx = steps;
	r.rcx = 1;
	r.r8 = win_home;
	win_set_regs(t, &r);
	api_run_expect(t, win_nth, KVM_EXIT_IO);
	memcpy(&told, (u8 *)run + run->io.data_offset, 4);
	port = run->io.port;
	if (port == 0x80)
		return told;
	win_run(t);
	return port == 0x82 ? ~0ull : BIT64(32) | told;
}

static void user_features(struct api_vm *t)
{
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0].value = 7};
	struct kvm_sregs s;

	assert_int_equal(api_ioctl(t->vcpu[win_nth], KVM_GET_SREGS, &s), 0);
	s.cr4 |= 1 << 18 | 1 << 16 | 1 << 9; /* OSXSAVE, FSGSBASE, OSFXSR */
	assert_int_equal(api_ioctl(t->vcpu[win_nth], KVM_SET_SREGS, &s), 0);
	assert_int_equal(api_ioctl(t->vcpu[win_nth], KVM_SET_XCRS, &x), 0);
}

static const u64 step = 0xff000;

static u64 stack_fault_of(unsigned way, u64 lin)
{
	u32 error = win_fault_of(lin, way == STACK_PUSH);

	return error == ~0u ? ~0ull : BIT64(32) | error;
}

/* Steps without an access: from anywhere to what is there, and from there to nothing. */
static void walk(struct api_vm *t, u64 steps)
{
	u64 far = step * steps;

	assert_int_equal(stack_at(t, STACK_DOWN, 0, DATA(3) + far, steps), 4711);
	assert_int_equal(stack_at(t, STACK_UP, 0, DATA(3) - far, steps), 4711);
	assert_int_equal(stack_at(t, STACK_UP_MASKED, 0, DATA(3) - far, steps), 4711);
	assert_int_equal(stack_at(t, RDI_UP_MASKED, DATA(3) - far, DATA(9), steps), 4711);
	assert_int_equal(stack_at(t, STACK_DOWN, 0, DATA(3), steps),
			 stack_fault_of(STACK_DOWN, DATA(3) - far));
	assert_int_equal(stack_at(t, STACK_UP, 0, DATA(3), steps),
			 stack_fault_of(STACK_UP, DATA(3) + far));
}

static void stack_leads_nowhere(void **state)
{
	const u64 walks[] = {1, 47, 3000, 70000, window_part_size(shape()) / step + 1};
	u64 own[] = {0, (u64)&own, (u64)&stack_at, (u64)malloc};
	struct api_vm t;

	for (unsigned h = 0; h < HOMES; h++) {
		win_home = win_homes[h];
		win_start(&t);
		win_gate(&t, 12, FAULTS + 128, protection_begin, API_SIZE(protection));
		user_features(&t);
		memcpy(t.mem + DATA_GPA(6), stacker_begin, API_SIZE(stacker));
		*win_pte(&t, 0) = DATA_GPA(6) | PTE_USER;
		win_restart(&t);
		win_set(&t, DATA(1), DATA(2), 0, false);
		win_run(&t);
		own[0] = (u64)t.mem;
		for (unsigned round = 0; round < 3; round++) {
			for (unsigned way = 0; way < STACK_WAYS; way++) {
				*(u32 *)(t.mem + DATA_GPA(3) + 16) = 100 * round + way;
				assert_int_equal(stack_at(&t, way, DATA(3) + 16, DATA(9), 0),
						 way == STACK_PUSH ? 77 : 100 * round + way);
			}
			for (unsigned i = 0; i < window_parts(shape()) * ARRAY_SIZE(own); i++) {
				u64 lin = leads_to(own[i % ARRAY_SIZE(own)] & ~7ull,
						   i / ARRAY_SIZE(own));

				for (unsigned way = 0; way < STACK_WAYS; way++)
					assert_int_equal(stack_at(&t, way, lin, DATA(9), 0),
							 stack_fault_of(way, lin));
			}
		}
		*(u32 *)(t.mem + DATA_GPA(3)) = 4711;
		for (unsigned i = 0; i < ARRAY_SIZE(walks); i++)
			walk(&t, walks[i]);
		win_free(&t);
	}
}

/* --- what is served ------------------------------------------------------------------------------- */

/* The program reads at one address and stores at another; how the pages are mapped then. */
static void assert_used(struct api_vm *t, u64 from, u64 to, u32 value, u64 read_disp,
			u64 store_disp)
{
	win_set(t, from - read_disp, to - store_disp, ~value, false);
	assert_int_equal(win_run(t), value);
}

/* It was stored to; a base that is not canonical has that done without the window. */
static void assert_page(struct api_vm *t, u64 lin, u64 store)
{
	u64 host;

	if (lin + 0x1000 - store < WINDOW_USER)
		win_assert_mapped(lin, window_host(shape(), lin, &host) ? 3 : 0);
}

/* Two pages of the program's at an address: they are what they should be, also for an access of both. */
static void use_pages(struct api_vm *t, u64 lin, u64 read, u64 store)
{
	u8 *low = t->mem + DATA_GPA(3), *high = t->mem + DATA_GPA(5);
	bool both = lin + 0x1000 < WINDOW_USER;
	u32 value = (u32)(lin >> 12) * 2654435761u, got;

	win_map(t, lin, DATA_GPA(3));
	if (both)
		win_map(t, lin + 0x1000, DATA_GPA(5));
	memcpy(low + 8, &value, 4);
	assert_used(t, lin + 8, lin + 16, value, read, store);
	memcpy(&got, low + 16, 4);
	assert_int_equal(got, ~value);
	assert_page(t, lin, store);
	if (both) {
		value++;
		memcpy(low + 0xffe, &value, 2);
		memcpy(high, (u8 *)&value + 2, 2);
		assert_used(t, lin + 0xffe, lin + 0xffd, value, read, store);
		value = ~value;
		assert_memory_equal(low + 0xffd, &value, 3);
		assert_int_equal(*high, value >> 24);
		value = 4712;
		memcpy(high + 8, &value, 4);
		assert_used(t, lin + 0x1008, lin + 0x1010, value, read, store);
		memcpy(&got, high + 16, 4);
		assert_int_equal(got, ~value);
		assert_page(t, lin + 0x1000, store);
	}
	win_unmap_all(t);
}

/* All of a program's addresses are right, those that the window serves and those around them. */
static void use_borders(struct api_vm *t, u64 read, u64 store)
{
	static const u64 off[] = {0, 1ull << 19, 1ull << 30, WINDOW_GUARD, 1ull << 32, 1ull << 40};

	for (u64 part = 0; part <= window_parts(shape()); part++)
		for (unsigned i = 0; i < 2 * ARRAY_SIZE(off); i++) {
			u64 lin = (part << shape()->part_shift) +
				  (i & 1 ? off[i / 2] : 0 - off[i / 2] - 0x1000);

			for (unsigned before = 0; before < 2; before++, lin -= 0x1000)
				if (lin >= KERNEL_END && lin < WINDOW_USER)
					use_pages(t, lin, read, store);
		}
}

static void change_program(struct api_vm *t, const void *code, size_t size, u64 read, u64 store)
{
	memset(t->mem + DATA_GPA(6), 0, 0x1000);
	memcpy(t->mem + DATA_GPA(6), code, size);
	*win_pte(t, 0) = DATA_GPA(6) | PTE_USER;
	win_restart(t);
	win_set(t, DATA(1) - read, DATA(2) - store, 0, false);
	win_run(t);
}

static void borders_are_right(void **state)
{
	const u64 off = 1ull << 20, far = 1ull << 31;
	struct api_vm t;

	win_start(&t);
	use_borders(&t, 0, 0);
	change_program(&t, program_off_begin, API_SIZE(program_off), off, 0 - off);
	use_borders(&t, off, 0 - off);
	change_program(&t, program_far_begin, API_SIZE(program_far), far - 16, 0 - far);
	use_borders(&t, far - 16, 0 - far);
	win_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WIN_EACH(nothing_else_is_reached),
		WIN_EACH(stack_leads_nowhere),
		WIN_EACH(borders_are_right),
	};

	return win_main("window bounds", tests, ARRAY_SIZE(tests));
}
