/*
 * The client's answers to loads and to IN: what becomes of the register, that nothing else changes, and that whatever
 * looks behind the instruction still does (src/cpu/answer.c completes most of them without running them again).
 */
#include "api.h"

#define DEVICE	0x20000000u
#define BEFORE	0x1122334455667788ull
#define ANSWER	0x8192a3b4c5d6e7f8ull
#define HANDLER 0x9000u

/* Completes the instruction that waits, and runs no other. */
static struct kvm_regs finish(struct api_vm *t)
{
	t->run[0]->immediate_exit = 1;
	assert_errno(api_run(t, 0), EINTR);
	t->run[0]->immediate_exit = 0;
	return api_regs(t, 0);
}

static void expect_read(struct api_vm *t, u64 gpa, unsigned len)
{
	api_run_expect(t, 0, KVM_EXIT_MMIO);
	assert_false(t->run[0]->mmio.is_write);
	assert_int_equal(t->run[0]->mmio.phys_addr, gpa);
	assert_int_equal(t->run[0]->mmio.len, len);
}

static void answer(struct api_vm *t, u64 value)
{
	memcpy(t->run[0]->mmio.data, &value, 8);
}

/* All registers but RDI, which points at the device. */
static void registers_set(struct api_vm *t)
{
	struct kvm_regs r = api_regs(t, 0);

	r.rax = r.rbx = r.rcx = r.rdx = r.rsi = r.rbp = BEFORE;
	r.r8 = r.r9 = r.r10 = r.r11 = r.r12 = r.r13 = r.r14 = r.r15 = BEFORE;
	r.rsp = API_STACK;
	r.rdi = DEVICE;
	r.rflags = 0xcd5;
	api_set_regs(t, 0, &r);
}

API_CODE64(loads,
	   "mov (%rdi), %rax; mov (%rdi), %ecx; mov (%rdi), %dx; mov (%rdi), %bl; mov (%rdi), %ah;"
	   "mov (%rdi), %bh; mov (%rdi), %bpl; mov (%rdi), %r13b; mov (%rdi), %r14;"
	   "movzbw (%rdi), %ax; movzbl (%rdi), %r15d; movzbq (%rdi), %rsi; movzwl (%rdi), %ecx;"
	   "movzwq (%rdi), %r8; movsbw (%rdi), %dx; movsbl (%rdi), %ebp; movsbq (%rdi), %r9;"
	   "movswl (%rdi), %ebx; movswq (%rdi), %r10; movslq (%rdi), %r11;"
	   "movabs 0x20000000, %al; movabs 0x20000000, %rax; mov 5(%rdi, %rax, 8), %r12;"
	   "mov (%rdi), %edi; hlt");

#define REG(name) offsetof(struct kvm_regs, name)
static const struct load {
	size_t reg;
	unsigned size;
	u64 after; /* with BEFORE in the register and ANSWER for it */
} loads[] = {
	{REG(rax), 8, ANSWER},
	{REG(rcx), 4, 0xc5d6e7f8},
	{REG(rdx), 2, 0x112233445566e7f8},
	{REG(rbx), 1, 0x11223344556677f8},
	{REG(rax), 1, 0x112233445566f888},
	{REG(rbx), 1, 0x112233445566f888},
	{REG(rbp), 1, 0x11223344556677f8},
	{REG(r13), 1, 0x11223344556677f8},
	{REG(r14), 8, ANSWER},
	{REG(rax), 1, 0x11223344556600f8},
	{REG(r15), 1, 0xf8},
	{REG(rsi), 1, 0xf8},
	{REG(rcx), 2, 0xe7f8},
	{REG(r8), 2, 0xe7f8},
	{REG(rdx), 1, 0x112233445566fff8},
	{REG(rbp), 1, 0xfffffff8},
	{REG(r9), 1, 0xfffffffffffffff8},
	{REG(rbx), 2, 0xffffe7f8},
	{REG(r10), 2, 0xffffffffffffe7f8},
	{REG(r11), 4, 0xffffffffc5d6e7f8},
	{REG(rax), 1, 0x11223344556677f8},
	{REG(rax), 8, ANSWER},
	{REG(r12), 8, ANSWER},
	{REG(rdi), 4, 0xc5d6e7f8},
};

static void every_load(void **state)
{
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, loads_begin, API_SIZE(loads));
	for (unsigned i = 0; i < ARRAY_SIZE(loads); i++) {
		const struct load *l = &loads[i];
		struct kvm_regs want, got;
		u64 at = DEVICE;

		registers_set(&t);
		want = api_regs(&t, 0);
		if (l->reg ==
		    REG(r12)) { /* the address has a part that the one-to-one map has not */
			want.rax = 2;
			api_set_regs(&t, 0, &want);
			at += 5 + 2 * 8;
		}
		expect_read(&t, at, l->size);
		answer(&t, ANSWER);
		got = finish(&t);
		assert_in_range(got.rip, want.rip + 2, want.rip + 10);
		want.rip = got.rip;
		*(u64 *)((u8 *)&want + l->reg) = l->after;
		assert_memory_equal(&got, &want, sizeof(got));
	}
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	assert_int_equal(api_regs(&t, 0).rip, API_CODE + API_SIZE(loads));
	api_vm_free(&t);
}

API_CODE64(ins, "in $0x40, %al; in $0x40, %ax; in $0x40, %eax; in %dx, %al; in %dx, %ax;"
		"in %dx, %eax; hlt");

static void every_in(void **state)
{
	static const u64 after[] = {0x11223344556677f8, 0x112233445566e7f8, 0xc5d6e7f8};
	static const u64 answers = ANSWER;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, ins_begin, API_SIZE(ins));
	for (unsigned i = 0; i < 6; i++) {
		struct kvm_run *run = t.run[0];
		struct kvm_regs want, got;

		registers_set(&t);
		want = api_regs(&t, 0);
		api_run_expect(&t, 0, KVM_EXIT_IO);
		assert_int_equal(run->io.direction, KVM_EXIT_IO_IN);
		assert_int_equal(run->io.port, i < 3 ? 0x40 : BEFORE & 0xffff);
		assert_int_equal(run->io.size, 1 << i % 3);
		memcpy((u8 *)run + run->io.data_offset, &answers, run->io.size);
		got = finish(&t);
		assert_in_range(got.rip, want.rip + 1, want.rip + 3);
		want.rip = got.rip;
		want.rax = after[i % 3];
		assert_memory_equal(&got, &want, sizeof(got));
	}
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	api_vm_free(&t);
}

API_CODE64(crossing, "mov $0x20000000, %edi; mov 0x3ffffd, %rax; mov 0xffa(%rdi), %rbx;"
		     "mov 0xfff(%rdi), %cx; hlt");

/* Reads that are memory in part, and of two pages of a device. */
static void loads_in_parts(void **state)
{
	struct api_vm t;
	struct kvm_regs r;

	api_vm_make(&t, 1, 0);
	memcpy(t.mem + API_MEM_SIZE - 3, "abc", 3);
	api_start64(&t, 0, crossing_begin, API_SIZE(crossing));
	expect_read(&t, API_MEM_SIZE, 5);
	memcpy(t.run[0]->mmio.data, "defgh", 5);
	expect_read(&t, 0x20000ffa, 6);
	assert_memory_equal(&(u64){api_regs(&t, 0).rax}, "abcdefgh", 8);
	memcpy(t.run[0]->mmio.data, "ABCDEF", 6);
	expect_read(&t, 0x20001000, 2);
	memcpy(t.run[0]->mmio.data, "GH", 2);
	expect_read(&t, 0x20000fff, 1);
	assert_memory_equal(&(u64){api_regs(&t, 0).rbx}, "ABCDEFGH", 8);
	answer(&t, 'x');
	expect_read(&t, 0x20001000, 1);
	answer(&t, 'y');
	r = finish(&t);
	assert_int_equal(r.rcx & 0xffff, 'x' | 'y' << 8);
	api_run_expect(&t, 0, KVM_EXIT_HLT);
	api_vm_free(&t);
}

#define AMONG(name, text) \
	API_CODE64(name, "push %rax; pop %rax;" text "; mov 0x20(%rsp), %rbx; hlt")

AMONG(push_pop, "push %rcx; pop %rdx");
AMONG(push_16, "pushw %cx");
AMONG(push_imm, "push $1");
AMONG(push_flags, "pushf");
AMONG(push_segment, "push %fs");
AMONG(push_memory, "push (%rdi)");
AMONG(push_stack, "push 8(%rsp)");
AMONG(pop_memory, "push %rcx; pop (%rdi)");
AMONG(pop_memory_16, "pushw %cx; popw (%rdi)");
AMONG(pop_stack, "push %rcx; pop -0x10(%rsp)");
AMONG(pop_pops, "pop (%rdi); pop (%rdi)");
AMONG(called, "call 1f; 1:");
AMONG(frame, "enter $0x10, $0");
AMONG(leaves, "enter $0x10, $0; leave");
AMONG(added, "sub $0x18, %rsp");

/*
 * What moves RSP, and then a load through RSP that begins in memory and ends behind it: the check that the
 * accesses through RSP share (src/jit/group.c) has to know by how much RSP moved. The first turn finds no translated
 * address.
 */
static void stack_in_parts(void **state)
{
#define CASE(name, pushed)                           \
	{                                            \
		name##_begin, API_SIZE(name), pushed \
	}
	const struct {
		const u8 *code;
		size_t size;
		int pushed;
	} cases[] = {
		CASE(push_pop, 0),     CASE(push_16, 2),      CASE(push_imm, 8),
		CASE(push_flags, 8),   CASE(push_segment, 8), CASE(push_memory, 8),
		CASE(push_stack, 8),   CASE(pop_memory, 0),   CASE(pop_memory_16, 0),
		CASE(pop_stack, 0),    CASE(pop_pops, -16),   CASE(called, 8),
		CASE(frame, 8 + 0x10), CASE(leaves, 0),	      CASE(added, 0x18),
	};
#undef CASE
	struct api_vm t;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		api_vm_make(&t, 1, 0);
		api_start64(&t, 0, cases[i].code, cases[i].size);
		for (unsigned turn = 0; turn < 3; turn++) {
			struct kvm_regs r = api_regs(&t, 0);

			memcpy(t.mem + API_MEM_SIZE - 3, "abc", 3);
			r.rip = API_CODE;
			r.rdi = 0x20000;
			r.rsp = API_MEM_SIZE - 3 - 0x20 + (u64)(s64)cases[i].pushed;
			api_set_regs(&t, 0, &r);
			expect_read(&t, API_MEM_SIZE, 5);
			memcpy(t.run[0]->mmio.data, "defgh", 5);
			api_run_expect(&t, 0, KVM_EXIT_HLT);
			assert_memory_equal(&(u64){api_regs(&t, 0).rbx}, "abcdefgh", 8);
		}
		api_vm_free(&t);
	}
}

API_CODE64(two, "mov (%rdi), %eax; in $0x40, %al; hlt; mov $7, %ebx; hlt");

/* A client that has put RIP elsewhere meanwhile gets what it asked for: the instruction there. */
static void rip_moved(void **state)
{
	struct api_vm t;
	struct kvm_regs r;

	for (unsigned port = 0; port < 2; port++) {
		api_vm_make(&t, 1, 0);
		api_start64(&t, 0, two_begin, API_SIZE(two));
		registers_set(&t);
		expect_read(&t, DEVICE, 4);
		answer(&t, ANSWER);
		if (port)
			api_run_expect(&t, 0, KVM_EXIT_IO);
		r = api_regs(&t, 0);
		r.rip = API_CODE + API_SIZE(two) - 6;
		api_set_regs(&t, 0, &r);
		api_run_expect(&t, 0, KVM_EXIT_HLT);
		assert_int_equal(api_regs(&t, 0).rax, r.rax);
		assert_int_equal(api_regs(&t, 0).rbx, 7);
		api_vm_free(&t);
	}
}

static void debugger(void **state)
{
	struct kvm_guest_debug d = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, two_begin, API_SIZE(two));
	registers_set(&t);
	expect_read(&t, DEVICE, 4);
	answer(&t, ANSWER);
	assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_GUEST_DEBUG, &d), 0);
	api_run_expect(&t, 0, KVM_EXIT_DEBUG);
	assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + 2);
	assert_int_equal(api_regs(&t, 0).rax, (u32)ANSWER);
	api_run_expect(&t, 0, KVM_EXIT_IO);
	*((u8 *)t.run[0] + t.run[0]->io.data_offset) = 0x42;
	api_run_expect(&t, 0, KVM_EXIT_DEBUG);
	assert_int_equal(t.run[0]->debug.arch.pc, API_CODE + 4);
	assert_int_equal(api_regs(&t, 0).rax & 0xff, 0x42);
	api_vm_free(&t);
}

API_CODE64(trap, "mov %dr6, %rax; mov (%rsp), %rbx; out %al, $0x10; iretq");

/* TF, data breakpoints, I/O breakpoints: #DB behind the instruction. */
static void traps(void **state)
{
	enum { TF, DATA, PORT };
	static const struct {
		unsigned what, at;
		u8 dr6;
	} rows[] = {{TF, 2, 0}, {DATA, 2, 1}, {PORT, 4, 2}};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct kvm_debugregs d = {.db = {DEVICE, 0x40}};
		struct kvm_sregs s;
		struct kvm_regs r;
		struct api_vm t;

		api_vm_make(&t, 1, 0);
		api_start64(&t, 0, two_begin, API_SIZE(two));
		memcpy(t.mem + HANDLER, trap_begin, API_SIZE(trap));
		api_idt64(&t, 1, HANDLER);
		api_ioctl(t.vcpu[0], KVM_GET_SREGS, &s);
		s.cr4 |= 8; /* DE */
		api_ioctl(t.vcpu[0], KVM_SET_SREGS, &s);
		registers_set(&t);
		r = api_regs(&t, 0);
		r.rflags = rows[i].what == TF ? 0x102 : 2;
		api_set_regs(&t, 0, &r);
		d.dr6 = 0xffff0ff0;
		d.dr7 = rows[i].what == DATA   ? 0x400 | 1 | 0xf0000
			: rows[i].what == PORT ? 0x400 | 4 | 0x200000
					       : 0x400;
		assert_int_equal(api_ioctl(t.vcpu[0], KVM_SET_DEBUGREGS, &d), 0);
		expect_read(&t, DEVICE, 4);
		answer(&t, ANSWER);
		if (rows[i].what == PORT) {
			api_run_expect(&t, 0, KVM_EXIT_IO);
			assert_int_equal(t.run[0]->io.port, 0x40);
		}
		api_run_to_out(&t, 0, 0x10);
		r = api_regs(&t, 0);
		assert_int_equal(r.rbx, API_CODE + rows[i].at);
		assert_int_equal(r.rax & 0xf, rows[i].dr6);
		assert_int_equal(!!(r.rax & 0x4000), rows[i].what == TF);
		api_vm_free(&t);
	}
}

API_CODE64(shadow, "mov %ss, %ecx; mov %ecx, %ss; mov (%rdi), %eax; hlt");

/* The shadow of MOV SS covers the load, and ends with it. */
static void shadow_ends(void **state)
{
	struct kvm_vcpu_events e;
	struct api_vm t;

	api_vm_make(&t, 1, 0);
	api_start64(&t, 0, shadow_begin, API_SIZE(shadow));
	registers_set(&t);
	expect_read(&t, DEVICE, 4);
	api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
	answer(&t, ANSWER);
	assert_int_equal(finish(&t).rax, (u32)ANSWER);
	api_ioctl(t.vcpu[0], KVM_GET_VCPU_EVENTS, &e);
	assert_int_equal(e.interrupt.shadow, 0);
	api_vm_free(&t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_load),	  cmocka_unit_test(every_in),
		cmocka_unit_test(loads_in_parts), cmocka_unit_test(rip_moved),
		cmocka_unit_test(debugger),	  cmocka_unit_test(traps),
		cmocka_unit_test(shadow_ends),	  cmocka_unit_test(stack_in_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
