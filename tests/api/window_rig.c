#include "window_rig.h"

#include <stdio.h>

_Static_assert(WIN_CPUS <= API_MAX_VCPUS && MMU_WINDOWS == 3, "WIN_EACH() names three windows");

const u64 win_homes[HOMES] = {0x555555554000ull, 0x7f0123456000ull, 0xc000001000ull,
			      0x561234567000ull};
u64 win_home = 0x555555554000ull;
unsigned win_nth;

/* The CR3 load has the vCPU take a window. */
API_CODE64(claimer, "mov %cr3, %rax; mov %rax, %cr3; out %eax, $0x80");
/* RDI is read, EBX stored at RSI, the kernel called: it tells what was read and flushes. */
API_CODE64(program, "1: mov (%rdi), %eax; mov %ebx, (%rsi); int $0x40; jmp 1b");
API_CODE64(handler, "out %eax, $0x80; test %ecx, %ecx; jz 2f; invlpg (%rdi); invlpg (%rsi); jmp 3f;"
		    "2: mov %cr3, %rdx; mov %rdx, %cr3; 3: iretq");
/* A fault: its error code; the program goes on where the client says. */
API_CODE64(page_fault, "pop %rax; out %eax, $0x81; mov %r8, (%rsp); iretq");
API_CODE64(protection, "pop %rax; out %eax, $0x82; mov %r8, (%rsp); iretq");

/* --- the guest ----------------------------------------------------------------------------------- */

static void put(struct api_vm *t, u64 at, u64 v)
{
	memcpy(t->mem + at, &v, sizeof(v));
}

/* The tables of win_map(): entries that were made, pages that these lead to. */
#define MORE_TABLES 0x200000ull
static u64 *made[16];
static unsigned made_count;

static u64 *entry_of(struct api_vm *t, u64 table, u64 lin, unsigned shift)
{
	return (u64 *)(t->mem + table) + (lin >> shift & 511);
}

void win_map(struct api_vm *t, u64 lin, u64 gpa)
{
	u64 table = TABLES, *e;

	assert_true(lin >= KERNEL_END);
	for (unsigned shift = 39; shift >= 12; shift -= 9) {
		e = entry_of(t, table, lin, shift);
		if (!*e) {
			u64 page = MORE_TABLES + 0x1000 * made_count;

			assert_true(made_count < ARRAY_SIZE(made));
			made[made_count++] = e;
			memset(t->mem + page, 0, 0x1000);
			*e = (shift == 12 ? gpa : page) | PTE_USER;
		}
		*e |= PTE_USER; /* the first may be the kernel's, too */
		table = *e & ~0xfffull;
	}
}

void win_unmap_all(struct api_vm *t)
{
	while (made_count)
		*made[--made_count] = 0;
}

u64 *win_pte(struct api_vm *t, unsigned n)
{
	return entry_of(t, TABLES + 0x3000, win_home, 12) + n;
}

void win_gate(struct api_vm *t, unsigned vector, u64 address, const void *code, size_t size)
{
	memcpy(t->mem + address, code, size);
	api_idt64(t, vector, address);
	t->mem[API_IDT + 16 * vector + 5] |= 0x60;
}

void win_restart(struct api_vm *t)
{
	put(t, KERNEL_STACK - 40, win_home);
}

/* The VM of a test that has failed, whose windows the next one needs. */
static struct api_vm left;
static bool is_left;

void win_kernel(struct api_vm *t)
{
	left = *t;
	is_left = true;
	win_gate(t, 0x40, HANDLER, handler_begin, API_SIZE(handler));
	win_gate(t, 14, FAULTS, page_fault_begin, API_SIZE(page_fault));
	win_gate(t, 13, FAULTS + 64, protection_begin, API_SIZE(protection));
	put(t, API_GDT + 24, 0x00affb000000ffffull);
	put(t, API_GDT + 32, 0x00cff3000000ffffull);
	made_count = 0;
}

static void make_tables(struct api_vm *t)
{
	memset(t->mem + TABLES, 0, 0x4000);
	put(t, TABLES,
	    0x2000 | PTE_USER); /* which api_start64() has made; not the user's below that */
	*entry_of(t, TABLES, win_home, 39) = (TABLES + 0x1000) | PTE_USER;
	*entry_of(t, TABLES + 0x1000, win_home, 30) = (TABLES + 0x2000) | PTE_USER;
	*entry_of(t, TABLES + 0x2000, win_home, 21) = (TABLES + 0x3000) | PTE_USER;
	*win_pte(t, 0) = API_CODE | PTE_USER;
	for (unsigned n = 1; n < 9; n++)
		*win_pte(t, n) = DATA_GPA(n) | PTE_USER;
}

void win_program(struct api_vm *t)
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
		.rip = win_home, .rsp = DATA(9), .rflags = 2, .rdi = DATA(1), .rsi = DATA(2)};
	struct kvm_sregs s;

	api_start64(t, win_nth, program_begin, API_SIZE(program));
	make_tables(t);
	put(t, TSS + 4, KERNEL_STACK);
	assert_int_equal(api_ioctl(t->vcpu[win_nth], KVM_GET_SREGS, &s), 0);
	s.cr3 = TABLES;
	s.gdt.limit = 63;
	s.ds = s.es = s.ss = user;
	s.cs = user;
	s.cs.selector = 0x1b;
	s.cs.type = 11;
	s.cs.l = 1;
	s.cs.db = 0;
	s.tr = (struct kvm_segment){
		.base = TSS, .limit = 103, .selector = 40, .type = 11, .present = 1};
	assert_int_equal(api_ioctl(t->vcpu[win_nth], KVM_SET_SREGS, &s), 0);
	win_set_regs(t, &r);
	win_run(t); /* which loads CR3: from here on the program has the window */
	win_run(t);
}

void win_start(struct api_vm *t)
{
	api_vm_make(t, win_nth + 1, API_WINDOW);
	for (unsigned i = 0; i < win_nth; i++) {
		api_start64(t, i, claimer_begin, API_SIZE(claimer));
		api_run_to_out(t, i, 0x80);
	}
	win_kernel(t);
	win_program(t);
	/* this is the vCPU's window, and no other one */
	win_assert_mapped(DATA(1), 1);
	win_assert_mapped(DATA(2), 3);
}

void win_free(struct api_vm *t)
{
	is_left = false;
	api_vm_free(t);
}

struct kvm_regs win_regs(struct api_vm *t)
{
	return api_regs(t, win_nth);
}

void win_set_regs(struct api_vm *t, const struct kvm_regs *r)
{
	api_set_regs(t, win_nth, r);
}

void win_set(struct api_vm *t, u64 rdi, u64 rsi, u32 ebx, bool invlpg)
{
	struct kvm_regs r = win_regs(t);

	r.rdi = rdi;
	r.rsi = rsi;
	r.rbx = ebx;
	r.rcx = invlpg;
	win_set_regs(t, &r);
}

u32 win_run(struct api_vm *t)
{
	struct kvm_run *run = t->run[win_nth];
	u32 value;

	api_run_expect(t, win_nth, KVM_EXIT_IO);
	assert_int_equal(run->io.port, 0x80); /* or there was a fault */
	memcpy(&value, (u8 *)run + run->io.data_offset, sizeof(value));
	return value;
}

u32 win_word(struct api_vm *t, unsigned n)
{
	return *(volatile u32 *)(t->mem + DATA_GPA(n));
}

u32 win_fault_of(u64 lin, bool write)
{
	bool canonical = (u64)((s64)(lin << 16) >> 16) == lin;

	/* the last bytes may be the first ones that are not canonical; or wrap to address 0, which is too late */
	if (!canonical || (lin < WINDOW_USER && lin + 3 >= WINDOW_USER))
		return ~0u;
	return (write ? 6 : 4) | (lin < KERNEL_END);
}

u32 win_fault_at(struct api_vm *t, u64 rdi, u64 rsi)
{
	struct kvm_regs r = win_regs(t);
	struct kvm_run *run = t->run[win_nth];
	u32 error;

	r.rdi = rdi;
	r.rsi = rsi;
	r.r8 = win_home;
	win_set_regs(t, &r);
	api_run_expect(t, win_nth, KVM_EXIT_IO);
	memcpy(&error, (u8 *)run + run->io.data_offset, 4);
	assert_true(run->io.port == 0x81 || run->io.port == 0x82);
	if (run->io.port == 0x82)
		error = ~0u;
	/* out of the fault, with good addresses */
	win_set(t, DATA(1), DATA(2), 0, true);
	win_run(t);
	return error;
}

/* --- the process --------------------------------------------------------------------------------- */

/* Calls f for each line of /proc/self/maps, until it is true. */
static void each_mapping(bool (*f)(u64 from, u64 to, const char *prot, void *arg), void *arg)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4400], prot[5];
	u64 from, to;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%llx-%llx %4s", (unsigned long long *)&from,
			   (unsigned long long *)&to, prot) == 3 &&
		    f(from, to, prot, arg))
			break;
	fclose(maps);
}

struct mapping {
	u64 at;
	unsigned how;
};

static bool is_at(u64 from, u64 to, const char *prot, void *arg)
{
	struct mapping *m = arg;

	if (m->at < from || m->at >= to)
		return false;
	m->how = (prot[0] == 'r') + 2 * (prot[1] == 'w');
	return true;
}

unsigned win_host_mapping(u64 host)
{
	struct mapping m = {.at = host};

	each_mapping(is_at, &m);
	return m.how;
}

void win_assert_mapped(u64 lin, unsigned how)
{
	u64 host;

	for (unsigned i = 0; i < MMU_WINDOWS; i++)
		if (window_host(window_shape(i), lin, &host))
			assert_int_equal(win_host_mapping(host), i == win_nth ? how : 0);
		else
			assert_true(i != win_nth || !how);
}

static bool takes(u64 from, u64 to, const char *prot, void *arg)
{
	unsigned *places = arg;

	for (unsigned i = 0; i < MMU_WINDOWS; i++) {
		const struct window_shape *s = window_shape(i);

		if (from < window_room(s) + window_room_size(s) && to > window_room(s))
			*places |= 1u << i;
		if (from < window_mask(s) + WINDOW_FRAME && to > window_mask(s) - WINDOW_STACK)
			*places |= 0x100u << i;
	}
	return false;
}

unsigned win_places_taken(void)
{
	unsigned places = 0;

	each_mapping(takes, &places);
	return places;
}

struct whole {
	u64 next; /* all before it is mapped */
};

static bool goes_on(u64 from, u64 to, const char *prot, void *arg)
{
	struct whole *w = arg;

	if (from <= w->next && w->next < to)
		w->next = to;
	return false;
}

bool win_room_is_whole(unsigned window)
{
	const struct window_shape *s = window_shape(window);
	struct whole w = {.next = window_room(s)};

	each_mapping(goes_on, &w);
	return w.next >= window_room(s) + window_room_size(s);
}

/* --- the tests ------------------------------------------------------------------------------------ */

int win_choose(void **state)
{
	win_nth = (unsigned)(uintptr_t)*state;
	win_home = win_homes[0];
	return 0;
}

int win_clean(void **state)
{
	if (is_left)
		win_free(&left);
	return 0;
}

int win_main(const char *name, const struct CMUnitTest *tests, size_t count)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("1..0 # SKIP the sanitizer's own memory is where the windows would be");
	return 0;
#else
	return _cmocka_run_group_tests(name, tests, count, NULL, NULL);
#endif
}
