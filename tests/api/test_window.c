/*
 * ANYKVM_CAP_WINDOW: a program's memory is mapped a second time, and still is what the guest's tables,
 * its dirty log and its invalidations say. No address leads a program out of it.
 */
#include "api.h"

#include <stdio.h>
#include <sys/mman.h>

/* Where the program is: its code, the page at API_CODE, and behind it its data. */
static const u64 homes[] = {0x555555554000ull, 0x7f0123456000ull, 0xc000001000ull};
static u64 home = 0x555555554000ull;
#define DATA(n)	    (home + 0x1000 * (n))
#define HOST	    0x12350000000ull /* where the window is in this process */
#define PART	    (1ull << 44)
#define STACK	    (7 * PART) /* where its code has RSP */
#define DATA_GPA(n) (0x100000ull + 0x1000 * (n))
#define TABLES	    0x20000u /* of the program: three pages */
#define TSS	    0x30000u
#define HANDLER	    0x9000u
#define FAULTS	    0xa000u
#define PTE_USER    7ull /* present, writable, user */
#define PTE_A	    0x20ull
#define PTE_D	    0x40ull

/* RDI is read, EBX stored at RSI, the kernel called: it tells what was read and flushes. */
API_CODE64(program, "1: mov (%rdi), %eax; mov %ebx, (%rsi); int $0x40; jmp 1b");
/* Code in another page, which is called directly, three times; between them its page is exchanged. */
API_CODE64(
	caller,
	"1: mov $3, %ebp; 2: call 1b + 0x3000; dec %ebp; jz 3f; int $0x41; jmp 2b; 3: int $0x40; jmp 1b");
API_CODE64(function, "mov $1, %eax; ret");
/* While it is called its own page is exchanged. */
API_CODE64(returner, "1: call 1b + 0x3000; mov $1, %eax; int $0x40; jmp 1b");
API_CODE64(exchanger, "int $0x41; ret");
/* A function; its page is exchanged without a flush, and met again from there; all is flushed; the function. */
API_CODE64(
	mixer,
	"1: call *%r12; mov $1, %ecx; int $0x41; call *%r13; call *%r14; xor %ecx, %ecx; mov %r15, %r10;"
	"int $0x41; call *%r12; int $0x40; jmp 1b");
API_CODE64(exchange, "xchg %r9, (%r10); test %ecx, %ecx; jz 2f; invlpg (%rdi); jmp 3f;"
		     "2: mov %cr3, %rdx; mov %rdx, %cr3; 3: iretq");
API_CODE64(handler, "out %eax, $0x80; test %ecx, %ecx; jz 2f; invlpg (%rdi); invlpg (%rsi); jmp 3f;"
		    "2: mov %cr3, %rdx; mov %rdx, %cr3; 3: iretq");
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
enum { STACK_WAYS = 8, STACK_DOWN = 8, STACK_UP, STACK_UP_MASKED, RDI_UP_MASKED };
/* A fault: its error code; the program goes on where the client says. */
API_CODE64(page_fault, "pop %rax; out %eax, $0x81; mov %r8, (%rsp); iretq");
API_CODE64(protection, "pop %rax; out %eax, $0x82; mov %r8, (%rsp); iretq");

static u64 *pte(struct api_vm *t, unsigned n)
{
	return (u64 *)(t->mem + TABLES + 0x2000) + (home >> 12 & 511) + n;
}

static void put(struct api_vm *t, u64 at, u64 v)
{
	memcpy(t->mem + at, &v, sizeof(v));
}

static void gate(struct api_vm *t, unsigned vector, u64 address, const void *code, size_t size)
{
	memcpy(t->mem + address, code, size);
	api_idt64(t, vector, address);
	t->mem[API_IDT + 16 * vector + 5] |= 0x60; /* for INT at CPL 3, too */
}

static void start(struct api_vm *t, unsigned flags)
{
	struct kvm_segment user = {.limit = ~0u,
				   .type = 3,
				   .dpl = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1,
				   .selector = 0x23};
	struct kvm_regs r = {
		.rip = home, .rsp = DATA(9), .rflags = 2, .rdi = DATA(1), .rsi = DATA(2)};
	struct kvm_sregs s;

	api_vm_make(t, 1, flags);
	api_start64(t, 0, program_begin, API_SIZE(program));
	gate(t, 0x40, HANDLER, handler_begin, API_SIZE(handler));
	gate(t, 14, FAULTS, page_fault_begin, API_SIZE(page_fault));
	gate(t, 13, FAULTS + 64, protection_begin, API_SIZE(protection));
	put(t, API_PML4 + 8 * (home >> 39), TABLES | PTE_USER);
	put(t, TABLES + 8 * (home >> 30 & 511), (TABLES + 0x1000) | PTE_USER);
	put(t, TABLES + 0x1000 + 8 * (home >> 21 & 511), (TABLES + 0x2000) | PTE_USER);
	*pte(t, 0) = API_CODE | PTE_USER;
	for (unsigned n = 1; n < 9; n++)
		*pte(t, n) = DATA_GPA(n) | PTE_USER;
	put(t, API_GDT + 24, 0x00affb000000ffffull);
	put(t, API_GDT + 32, 0x00cff3000000ffffull);
	put(t, TSS + 4, API_STACK);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_SREGS, &s), 0);
	s.gdt.limit = 63;
	s.ds = s.es = s.ss = user;
	s.cs = user;
	s.cs.selector = 0x1b;
	s.cs.type = 11;
	s.cs.l = 1;
	s.cs.db = 0;
	s.tr = (struct kvm_segment){
		.base = TSS, .limit = 103, .selector = 40, .type = 11, .present = 1};
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_SREGS, &s), 0);
	api_set_regs(t, 0, &r);
	api_run_to_out(t, 0, 0x80); /* which loads CR3: from here on the program has the window */
}

/* The host's mapping of a page of the program: 0 none, 1 to be read, 3 to be written. */
static unsigned mapped(u64 lin)
{
	unsigned part = (unsigned)(lin / PART);
	u64 at = HOST + (part == 7 ? 3 : part == 5) * PART + lin % PART, from, to;
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], prot[5] = "----";

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx %4s", (unsigned long long *)&from,
			   (unsigned long long *)&to, prot) == 3 &&
		    from <= at && at < to)
			break;
	fclose(maps);
	return (prot[0] == 'r') + 2 * (prot[1] == 'w');
}

static void set(struct api_vm *t, u64 rdi, u64 rsi, u32 ebx, bool invlpg)
{
	struct kvm_regs r = api_regs(t, 0);

	r.rdi = rdi;
	r.rsi = rsi;
	r.rbx = ebx;
	r.rcx = invlpg;
	api_set_regs(t, 0, &r);
}

static u32 word(struct api_vm *t, unsigned n)
{
	return *(volatile u32 *)(t->mem + DATA_GPA(n));
}

static void follows_invalidations(void **state)
{
	struct api_vm t;

	for (u32 i = 0; i < 60; i++) {
		if (i % 20 == 0) {
			home = homes[i / 20];
			start(&t, API_WINDOW);
		}
		unsigned from = 1 + i % 3, to = 4 + i % 4;

		*pte(&t, 1) = DATA_GPA(from) | PTE_USER;
		*pte(&t, 2) = DATA_GPA(to) | PTE_USER;
		*(u32 *)(t.mem + DATA_GPA(from)) = 1000 + i;
		set(&t, DATA(1), DATA(2), i, i % 20 & 4); /* the first loads CR3 */
		assert_int_equal(api_run_to_out(&t, 0, 0x80), 1000 + i);
		assert_int_equal(word(&t, to), i);
		assert_int_equal(mapped(DATA(2)), 3);
		if (i % 20 == 19)
			api_vm_free(&t);
	}
	home = homes[0];
}

/* The host allows a process some 65000 mappings: with hardly one left the window is of no use, and not wrong. */
static void host_refuses(void **state)
{
	const size_t size = 80000 * 4096ul;
	u8 *many = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct api_vm t;
	size_t n = 0;

	assert_ptr_not_equal(many, MAP_FAILED);
	start(&t, API_WINDOW);
	for (u32 i = 0; i < 400; i++) {
		unsigned from = 1 + i % 3, to = 4 + i % 4;

		/* from here on there is room for a few, then for none */
		if (i >= 20)
			while (n < size / 8192 * 8192 && !mprotect(many + n, 4096, PROT_READ))
				n += 8192;
		if (i == 200)
			assert_int_equal(munmap(many, 40960), 0);
		*pte(&t, 1) = DATA_GPA(from) | PTE_USER;
		*pte(&t, 2) = DATA_GPA(to) | PTE_USER;
		*(u32 *)(t.mem + DATA_GPA(from)) = 1000 + i;
		set(&t, DATA(1), DATA(2), i, i & 4);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), 1000 + i);
		assert_int_equal(word(&t, to), i);
	}
	api_vm_free(&t);
	munmap(many, size);
}

static void sets_bits_again(void **state)
{
	struct api_vm t;

	start(&t, API_WINDOW);
	for (u32 i = 0; i < 20; i++) {
		*pte(&t, 1) &= ~(PTE_A | PTE_D);
		*pte(&t, 2) &= i & 1 ? ~PTE_D : ~(PTE_A | PTE_D);
		set(&t, DATA(1), DATA(2), i, i & 2);
		api_run_to_out(&t, 0, 0x80);
		assert_int_equal(*pte(&t, 1) & (PTE_A | PTE_D), PTE_A);
		assert_int_equal(*pte(&t, 2) & (PTE_A | PTE_D), PTE_A | PTE_D);
		assert_int_equal(word(&t, 2), i);
	}
	assert_int_equal(mapped(DATA(1)), 1);
	api_vm_free(&t);
}

static void calls_what_is_there(void **state)
{
	struct kvm_regs r;
	struct api_vm t;

	start(&t, API_WINDOW);
	gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(6), caller_begin, API_SIZE(caller));
	for (unsigned n = 3; n < 5; n++)
		memcpy(t.mem + DATA_GPA(n), function_begin, API_SIZE(function));
	*pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	r = api_regs(&t, 0);
	r.rcx = 0;
	r.r9 = *pte(&t, 3);
	r.r10 = TABLES + 0x2000 + ((home >> 12 & 511) + 3) * 8;
	api_set_regs(&t, 0, &r);
	*(u64 *)(t.mem + API_STACK - 40) = home; /* the other program from its beginning */
	api_run_to_out(&t, 0, 0x80);
	for (u32 i = 0; i < 120; i++) {
		unsigned v = (i + 3) /
			     4; /* the code is new every fourth time, behind one without a flush */
		u64 other = (*pte(&t, 3) & ~0xfffull) ^ DATA_GPA(3) ^ DATA_GPA(4);

		t.mem[DATA_GPA(3) + 1] = (u8)v;
		t.mem[DATA_GPA(4) + 1] = (u8)(100 + v);
		r = api_regs(&t, 0);
		r.rdi = i & 2 ? DATA(3) : DATA(1);
		r.rcx = i % 4 != 3; /* the page, or all; else another page */
		r.r9 = i & 2 ? other | PTE_USER : *pte(&t, 3);
		api_set_regs(&t, 0, &r);
		api_run_to_out(&t, 0, 0x80);
		r = api_regs(&t, 0);
		assert_int_equal(r.rax, (*pte(&t, 3) & ~0xfffull) == DATA_GPA(3) ? v : 100 + v);
	}
	api_vm_free(&t);
}

static void returns_to_what_is_there(void **state)
{
	struct kvm_regs r;
	struct api_vm t;

	start(&t, API_WINDOW);
	gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(3), exchanger_begin, API_SIZE(exchanger));
	for (unsigned n = 6; n < 8; n++) {
		memcpy(t.mem + DATA_GPA(n), returner_begin, API_SIZE(returner));
		t.mem[DATA_GPA(n) + 6] = (u8)n;
	}
	*pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	r = api_regs(&t, 0);
	r.rcx = 0;
	r.rdi = r.rsi = home;
	r.r10 = TABLES + 0x2000 + (home >> 12 & 511) * 8;
	api_set_regs(&t, 0, &r);
	*(u64 *)(t.mem + API_STACK - 40) = home;
	for (u32 i = 0; i < 100; i++) {
		unsigned was = (*pte(&t, 0) & ~0xfffull) == DATA_GPA(6) ? 6 : 7,
			 is = i % 3 ? was : 13 - was;

		/* not always exchanged; by the page and by all of it */
		r = api_regs(&t, 0);
		r.rcx = i & 1;
		r.r9 = DATA_GPA(is) | PTE_USER;
		api_set_regs(&t, 0, &r);
		assert_int_equal(api_run_to_out(&t, 0, 0x80), is);
	}
	api_vm_free(&t);
}

/* Code of one page from two translations, an old one and the tables', does not outlive a flush. */
static void forgets_both(void **state)
{
	const u64 apart =
		256 * 0x1000; /* the translation of a fetch is thrown out by this neighbour's */
	struct kvm_regs r;
	struct api_vm t;

	start(&t, API_WINDOW);
	gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(6), mixer_begin, API_SIZE(mixer));
	for (unsigned n = 3; n < 6; n++)
		for (unsigned at = 0; at < 0x180; at += 0x80) {
			memcpy(t.mem + DATA_GPA(n) + at, function_begin, API_SIZE(function));
			t.mem[DATA_GPA(n) + at + 1] = (u8)n;
		}
	*pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	pte(&t, 3)[-256] = DATA_GPA(5) | PTE_USER;
	*(u64 *)(t.mem + API_STACK - 40) = home;
	for (u32 i = 0; i < 20; i++) {
		unsigned is = i & 1 ? 3 : 4;

		r = api_regs(&t, 0);
		r.rcx = 0;
		r.rdi = DATA(1);
		r.r9 = DATA_GPA(is) | PTE_USER;
		r.r10 = TABLES + 0x2000 + ((home >> 12 & 511) + 3) * 8;
		r.r12 = DATA(3);
		r.r13 = DATA(3) - apart + 0x80; /* another slot of the jump cache */
		r.r14 = DATA(3) + 0x100;
		r.r15 = 0xb000;
		api_set_regs(&t, 0, &r);
		api_run_to_out(&t, 0, 0x80);
		assert_int_equal(api_regs(&t, 0).rax, is);
	}
	api_vm_free(&t);
}

static void every_round_is_logged(void **state)
{
	u64 bits[API_MEM_SIZE / 0x1000 / 64];
	struct kvm_dirty_log log = {.dirty_bitmap = bits};
	struct api_vm t;

	start(&t, API_WINDOW);
	assert_int_equal(api_slot(&t, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, API_MEM_SIZE, t.mem), 0);
	for (u32 i = 0; i < 20; i++) {
		unsigned n = 2 + i % 3;

		set(&t, DATA(1), DATA(n), i, true);
		api_run_to_out(&t, 0, 0x80);
		assert_int_equal(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), 0);
		for (unsigned k = 1; k < 8; k++)
			assert_int_equal(bits[DATA_GPA(k) >> 18] >> (DATA_GPA(k) >> 12 & 63) & 1,
					 k == n);
	}
	api_vm_free(&t);
}

/* Reads and stores at an address fault: the error code, or ~0 when it was #GP. */
static u32 fault_at(struct api_vm *t, u64 rdi, u64 rsi)
{
	struct kvm_regs r = api_regs(t, 0);
	u32 error;

	r.rdi = rdi;
	r.rsi = rsi;
	r.r8 = home;
	api_set_regs(t, 0, &r);
	api_run_expect(t, 0, KVM_EXIT_IO);
	memcpy(&error, (u8 *)t->run[0] + t->run[0]->io.data_offset, 4);
	assert_true(t->run[0]->io.port == 0x81 || t->run[0]->io.port == 0x82);
	if (t->run[0]->io.port == 0x82)
		error = ~0u;
	/* out of the fault, with good addresses */
	set(t, DATA(1), DATA(2), 0, true);
	api_run_to_out(t, 0, 0x80);
	return error;
}

static void nothing_else_is_reached(void **state)
{
	struct api_vm t;
	u64 own[] = {0, (u64)&own, (u64)&fault_at, (u64)malloc, 0xffffffffff600000ull};
	static const u64 bad[] = {
		0x400000,
		0x3fffffffffffull,
		0x7ffffffff000ull,
		0x800000000000ull,
		0x7fffffffffffull,
		0xffff800000000000ull,
		0xffffffffffffffffull,
		0x8000000000000000ull,
		0x400000000000ull,
		0x100000000000ull,
		0x455555555000ull,
		0x655555555000ull,
		0x655555554ffeull,
		0x4ffffffffffeull,
		0x5ffffffffffeull,
		0x6ffffffffffeull,
		0xffff955555555000ull,
		0xffffd55555555000ull,
		0xd55555555000ull,
		0x1555555555000ull,
		0x10c000002000ull,
		0x8000c000002000ull,
	};

	start(&t, API_WINDOW);
	own[0] = (u64)t.mem;
	for (unsigned i = 0; i < 8 * ARRAY_SIZE(own); i++) {
		static const u8 place[] = {0, 2, 2, 2, 2, 1, 2, 3};
		u64 lin = own[i / 8] - HOST - place[i % 8] * PART + i % 8 * PART;
		bool canonical = (u64)((s64)(lin << 16) >> 16) == lin;

		assert_int_equal(fault_at(&t, lin, DATA(2)), canonical ? 4 : ~0u);
		assert_int_equal(fault_at(&t, DATA(1), lin), canonical ? 6 : ~0u);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		/* the last bytes may be the first ones that are not canonical, or wrap to address 0 */
		bool canonical =
			(u64)((s64)(bad[i] << 16) >> 16) == bad[i] && bad[i] != 0x7fffffffffffull;
		u32 present = bad[i] < 1u << 30; /* the kernel's */

		assert_int_equal(fault_at(&t, bad[i], DATA(2)), canonical ? 4 | present : ~0u);
		assert_int_equal(fault_at(&t, DATA(1), bad[i]), canonical ? 6 | present : ~0u);
	}
	*pte(&t, 3) &= ~2ull; /* not writable */
	*pte(&t, 4) &= ~4ull; /* the kernel's */
	set(&t, DATA(3), DATA(2), 0, true);
	api_run_to_out(&t, 0, 0x80);
	assert_int_equal(fault_at(&t, DATA(1), DATA(3)), 7);
	assert_int_equal(fault_at(&t, DATA(4), DATA(2)), 5);
	api_vm_free(&t);
}

/* As fault_at(), by way of the stack: what was read, or 1 << 32 and the error code, or ~0 for #SS. */
static u64 stack_at(struct api_vm *t, unsigned way, u64 rdi, u64 rsp, u64 steps)
{
	struct kvm_regs r = api_regs(t, 0);
	struct kvm_run *run = t->run[0];
	u32 told, port;

	r.r11 = way;
	r.rdi = rdi;
	r.rsi = DATA(2);
	*(u64 *)(t->mem + API_STACK - 16) = rsp; /* where IRET will find it */
	r.rbx = steps;
	r.rcx = 1;
	r.r8 = home;
	api_set_regs(t, 0, &r);
	api_run_expect(t, 0, KVM_EXIT_IO);
	memcpy(&told, (u8 *)run + run->io.data_offset, 4);
	port = run->io.port;
	if (port == 0x80)
		return told;
	api_run_to_out(t, 0, 0x80);
	return port == 0x82 ? ~0ull : BIT64(32) | told;
}

static void user_features(struct api_vm *t)
{
	struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0].value = 7};
	struct kvm_sregs s;

	assert_int_equal(api_ioctl(t->vcpu[0], KVM_GET_SREGS, &s), 0);
	s.cr4 |= 1 << 18 | 1 << 16 | 1 << 9; /* OSXSAVE, FSGSBASE, OSFXSR */
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_SREGS, &s), 0);
	assert_int_equal(api_ioctl(t->vcpu[0], KVM_SET_XCRS, &x), 0);
}

static void stack_leads_nowhere(void **state)
{
	static const u64 step = 0xff000, walks[] = {1, 47, 3000, 70000, PART / step + 1};
	u64 own[] = {0, (u64)&own, (u64)&stack_at, (u64)malloc};
	struct api_vm t;

	for (unsigned h = 0; h < ARRAY_SIZE(homes); h++) {
		home = homes[h];
		start(&t, API_WINDOW);
		gate(&t, 12, FAULTS + 128, protection_begin, API_SIZE(protection));
		user_features(&t);
		memcpy(t.mem + DATA_GPA(6), stacker_begin, API_SIZE(stacker));
		*pte(&t, 0) = DATA_GPA(6) | PTE_USER;
		*(u64 *)(t.mem + API_STACK - 40) = home;
		set(&t, DATA(1), DATA(2), 0, false);
		api_run_to_out(&t, 0, 0x80);
		own[0] = (u64)t.mem;
		for (unsigned round = 0; round < 3; round++) {
			for (unsigned way = 0; way < STACK_WAYS; way++) {
				*(u32 *)(t.mem + DATA_GPA(3) + 16) = 100 * round + way;
				assert_int_equal(stack_at(&t, way, DATA(3) + 16, DATA(9), 0),
						 way == 6 ? 77 : 100 * round + way);
			}
			for (unsigned i = 0; i < 8 * ARRAY_SIZE(own); i++) {
				static const u8 place[] = {0, 2, 2, 2, 2, 1, 2, 3};
				u64 lin = (own[i / 8] & ~7ull) - HOST - place[i % 8] * PART +
					  i % 8 * PART;
				bool canonical = (u64)((s64)(lin << 16) >> 16) == lin;

				for (unsigned way = 0; way < STACK_WAYS; way++)
					assert_int_equal(stack_at(&t, way, lin, DATA(9), 0),
							 canonical ? BIT64(32) | (way == 6 ? 6 : 4)
								   : ~0ull);
			}
		}
		/* Steps without an access: from anywhere to what is there, and from there to nothing. */
		*(u32 *)(t.mem + DATA_GPA(3)) = 4711;
		for (unsigned i = 0; i < ARRAY_SIZE(walks); i++) {
			u64 far = step * walks[i];

			assert_int_equal(stack_at(&t, STACK_DOWN, 0, DATA(3) + far, walks[i]),
					 4711);
			assert_int_equal(stack_at(&t, STACK_UP, 0, DATA(3) - far, walks[i]), 4711);
			assert_int_equal(stack_at(&t, STACK_UP_MASKED, 0, DATA(3) - far, walks[i]),
					 4711);
			assert_int_equal(
				stack_at(&t, RDI_UP_MASKED, DATA(3) - far, DATA(9), walks[i]),
				4711);
			for (unsigned up = 0; up < 2; up++) {
				u64 end = up ? DATA(3) + far : DATA(3) - far;
				bool canonical = (u64)((s64)(end << 16) >> 16) == end;

				assert_int_equal(
					stack_at(&t, STACK_DOWN + up, 0, DATA(3), walks[i]),
					canonical ? BIT64(32) | 4 : ~0ull);
			}
		}
		api_vm_free(&t);
	}
	home = homes[0];
}

/* Something is where the stack would be: there is no window, and nothing of it stays. */
static void assert_stack_is_refused(void)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW, .args[0] = ANYKVM_WINDOW_AUTO};
	void *there = mmap((void *)STACK, 4096, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	struct api_vm t;
	int vm;

	assert_ptr_equal(there, (void *)STACK);
	api_vm_make(&t, 1, 0);
	vm = api_ioctl_value(t.kvm, KVM_CREATE_VM, 0);
	assert_true(vm >= 0);
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EBUSY);
	assert_int_equal(munmap(there, 4096), 0);
	assert_int_equal(api_ioctl(vm, KVM_ENABLE_CAP, &cap), 0);
	anykvm_close(vm);
	api_vm_free(&t);
}

static void is_refused(void **state)
{
	struct kvm_enable_cap cap = {.cap = ANYKVM_CAP_WINDOW};
	struct api_vm one, two;
	int vm;

	api_vm_make(&one, 1, API_WINDOW);
	assert_int_equal(api_ioctl_value(one.vm, KVM_CHECK_EXTENSION, ANYKVM_CAP_WINDOW), 1);
	cap.args[0] = ANYKVM_WINDOW_AUTO;
	assert_errno(api_ioctl(one.vm, KVM_ENABLE_CAP, &cap), EINVAL); /* it has vCPUs */
	vm = api_ioctl_value(one.kvm, KVM_CREATE_VM, 0);
	assert_true(vm >= 0);
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EBUSY);
	cap.args[0] = 0;
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	cap.args[0] = 3;
	assert_errno(api_ioctl(vm, KVM_ENABLE_CAP, &cap), EINVAL);
	anykvm_close(vm);
	api_vm_free(&one);
	assert_stack_is_refused();
	api_vm_make(&two, 1, API_WINDOW);
	api_vm_free(&two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(follows_invalidations),
		cmocka_unit_test(host_refuses),
		cmocka_unit_test(sets_bits_again),
		cmocka_unit_test(calls_what_is_there),
		cmocka_unit_test(returns_to_what_is_there),
		cmocka_unit_test(forgets_both),
		cmocka_unit_test(every_round_is_logged),
		cmocka_unit_test(nothing_else_is_reached),
		cmocka_unit_test(stack_leads_nowhere),
		cmocka_unit_test(is_refused),
	};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("1..0 # SKIP the sanitizer's own memory is where the window would be");
	return 0;
#endif
	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
