/*
 * ANYKVM_CAP_WINDOW: a program's memory is mapped a second time, and still is what the guest's tables,
 * its dirty log and its invalidations say. In each of the windows, and without.
 */
#include "window_rig.h"

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

static void follows_invalidations(void **state)
{
	struct api_vm t;

	for (u32 i = 0; i < 20 * HOMES; i++) {
		if (i % 20 == 0) {
			win_home = win_homes[i / 20];
			win_start(&t);
		}
		unsigned from = 1 + i % 3, to = 4 + i % 4;

		*win_pte(&t, 1) = DATA_GPA(from) | PTE_USER;
		*win_pte(&t, 2) = DATA_GPA(to) | PTE_USER;
		*(u32 *)(t.mem + DATA_GPA(from)) = 1000 + i;
		win_set(&t, DATA(1), DATA(2), i, i % 20 & 4); /* the first loads CR3 */
		assert_int_equal(win_run(&t), 1000 + i);
		assert_int_equal(win_word(&t, to), i);
		win_assert_mapped(DATA(2), 3);
		if (i % 20 == 19)
			win_free(&t);
	}
}

/* The host allows a process some 65000 mappings: with hardly one left the window is of no use, and not wrong. */
static void host_refuses(void **state)
{
	const size_t size = 80000 * 4096ul;
	u8 *many = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct api_vm t;
	size_t n = 0;

	assert_ptr_not_equal(many, MAP_FAILED);
	win_start(&t);
	for (u32 i = 0; i < 400; i++) {
		unsigned from = 1 + i % 3, to = 4 + i % 4;

		/* from here on there is room for a few, then for none */
		if (i >= 20)
			while (n < size / 8192 * 8192 && !mprotect(many + n, 4096, PROT_READ))
				n += 8192;
		if (i == 200)
			assert_int_equal(munmap(many, 40960), 0);
		*win_pte(&t, 1) = DATA_GPA(from) | PTE_USER;
		*win_pte(&t, 2) = DATA_GPA(to) | PTE_USER;
		*(u32 *)(t.mem + DATA_GPA(from)) = 1000 + i;
		win_set(&t, DATA(1), DATA(2), i, i & 4);
		assert_int_equal(win_run(&t), 1000 + i);
		assert_int_equal(win_word(&t, to), i);
	}
	win_free(&t);
	munmap(many, size);
}

static void sets_bits_again(void **state)
{
	struct api_vm t;

	win_start(&t);
	for (u32 i = 0; i < 20; i++) {
		*win_pte(&t, 1) &= ~(PTE_A | PTE_D);
		*win_pte(&t, 2) &= i & 1 ? ~PTE_D : ~(PTE_A | PTE_D);
		win_set(&t, DATA(1), DATA(2), i, i & 2);
		win_run(&t);
		assert_int_equal(*win_pte(&t, 1) & (PTE_A | PTE_D), PTE_A);
		assert_int_equal(*win_pte(&t, 2) & (PTE_A | PTE_D), PTE_A | PTE_D);
		assert_int_equal(win_word(&t, 2), i);
	}
	win_assert_mapped(DATA(1), 1);
	win_free(&t);
}

static void calls_what_is_there(void **state)
{
	struct kvm_regs r;
	struct api_vm t;

	win_start(&t);
	win_gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(6), caller_begin, API_SIZE(caller));
	for (unsigned n = 3; n < 5; n++)
		memcpy(t.mem + DATA_GPA(n), function_begin, API_SIZE(function));
	*win_pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	r = win_regs(&t);
	r.rcx = 0;
	r.r9 = *win_pte(&t, 3);
	r.r10 = TABLES + 0x3000 + ((win_home >> 12 & 511) + 3) * 8;
	win_set_regs(&t, &r);
	win_restart(&t); /* the other program from its beginning */
	win_run(&t);
	for (u32 i = 0; i < 120; i++) {
		unsigned v = (i + 3) /
			     4; /* the code is new every fourth time, behind one without a flush */
		u64 other = (*win_pte(&t, 3) & ~0xfffull) ^ DATA_GPA(3) ^ DATA_GPA(4);

		t.mem[DATA_GPA(3) + 1] = (u8)v;
		t.mem[DATA_GPA(4) + 1] = (u8)(100 + v);
		r = win_regs(&t);
		r.rdi = i & 2 ? DATA(3) : DATA(1);
		r.rcx = i % 4 != 3; /* the page, or all; else another page */
		r.r9 = i & 2 ? other | PTE_USER : *win_pte(&t, 3);
		win_set_regs(&t, &r);
		win_run(&t);
		r = win_regs(&t);
		assert_int_equal(r.rax, (*win_pte(&t, 3) & ~0xfffull) == DATA_GPA(3) ? v : 100 + v);
	}
	win_free(&t);
}

static void returns_to_what_is_there(void **state)
{
	struct kvm_regs r;
	struct api_vm t;

	win_start(&t);
	win_gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(3), exchanger_begin, API_SIZE(exchanger));
	for (unsigned n = 6; n < 8; n++) {
		memcpy(t.mem + DATA_GPA(n), returner_begin, API_SIZE(returner));
		t.mem[DATA_GPA(n) + 6] = (u8)n;
	}
	*win_pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	r = win_regs(&t);
	r.rcx = 0;
	r.rdi = r.rsi = win_home;
	r.r10 = TABLES + 0x3000 + (win_home >> 12 & 511) * 8;
	win_set_regs(&t, &r);
	win_restart(&t);
	for (u32 i = 0; i < 100; i++) {
		unsigned was = (*win_pte(&t, 0) & ~0xfffull) == DATA_GPA(6) ? 6 : 7,
			 is = i % 3 ? was : 13 - was;

		/* not always exchanged; by the page and by all of it */
		r = win_regs(&t);
		r.rcx = i & 1;
		r.r9 = DATA_GPA(is) | PTE_USER;
		win_set_regs(&t, &r);
		assert_int_equal(win_run(&t), is);
	}
	win_free(&t);
}

/* Code of one page from two translations, an old one and the tables', does not outlive a flush. */
static void forgets_both(void **state)
{
	const u64 apart =
		256 * 0x1000; /* the translation of a fetch is thrown out by this neighbour's */
	struct kvm_regs r;
	struct api_vm t;

	win_start(&t);
	win_gate(&t, 0x41, HANDLER + 64, exchange_begin, API_SIZE(exchange));
	memcpy(t.mem + DATA_GPA(6), mixer_begin, API_SIZE(mixer));
	for (unsigned n = 3; n < 6; n++)
		for (unsigned at = 0; at < 0x180; at += 0x80) {
			memcpy(t.mem + DATA_GPA(n) + at, function_begin, API_SIZE(function));
			t.mem[DATA_GPA(n) + at + 1] = (u8)n;
		}
	*win_pte(&t, 0) = DATA_GPA(6) | PTE_USER;
	win_pte(&t, 3)[-256] = DATA_GPA(5) | PTE_USER;
	win_restart(&t);
	for (u32 i = 0; i < 20; i++) {
		unsigned is = i & 1 ? 3 : 4;

		r = win_regs(&t);
		r.rcx = 0;
		r.rdi = DATA(1);
		r.r9 = DATA_GPA(is) | PTE_USER;
		r.r10 = TABLES + 0x3000 + ((win_home >> 12 & 511) + 3) * 8;
		r.r12 = DATA(3);
		r.r13 = DATA(3) - apart + 0x80; /* another slot of the jump cache */
		r.r14 = DATA(3) + 0x100;
		r.r15 = 0xb000;
		win_set_regs(&t, &r);
		win_run(&t);
		assert_int_equal(win_regs(&t).rax, is);
	}
	win_free(&t);
}

static void every_round_is_logged(void **state)
{
	u64 bits[API_MEM_SIZE / 0x1000 / 64];
	struct kvm_dirty_log log = {.dirty_bitmap = bits};
	struct api_vm t;

	win_start(&t);
	/* from here on; some of the pages are mapped to be written */
	assert_int_equal(api_slot(&t, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, API_MEM_SIZE, t.mem), 0);
	for (u32 i = 0; i < 20; i++) {
		unsigned n = 2 + i % 3;

		win_set(&t, DATA(1), DATA(n), i, true);
		win_run(&t);
		assert_int_equal(api_ioctl(t.vm, KVM_GET_DIRTY_LOG, &log), 0);
		for (unsigned k = 1; k < 8; k++)
			assert_int_equal(bits[DATA_GPA(k) >> 18] >> (DATA_GPA(k) >> 12 & 63) & 1,
					 k == n);
	}
	win_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		WIN_EACH(follows_invalidations),    WIN_EACH(host_refuses),
		WIN_EACH(sets_bits_again),	    WIN_EACH(calls_what_is_there),
		WIN_EACH(returns_to_what_is_there), WIN_EACH(forgets_both),
		WIN_EACH(every_round_is_logged),
	};

	return win_main("window", tests, ARRAY_SIZE(tests));
}
