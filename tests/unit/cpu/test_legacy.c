/*
 * Instructions that 64-bit mode lost, against the host in compatibility mode: every AL, AH, CF,
 * AF of the decimal instructions. And PUSHA, POPA, ENTER, XLAT.
 */
#include <sys/mman.h>
#include "machine.h"

/*
 * The oracle: a page below 4 GiB holds the instruction, a far jump back to 64-bit code, and a
 * stack. User code segments of Linux: 0x23 is 32-bit, 0x33 64-bit.
 */
struct oracle {
	u8 code[16];
	u8 back[16];
	u8 stack[4096] __attribute__((aligned(4096)));
};

static struct oracle *oracle_new(void)
{
	struct oracle *o = mmap(NULL, sizeof(*o), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	return o == MAP_FAILED ? NULL : o;
}

static void oracle_set(struct oracle *o, const u8 *insn, unsigned n)
{
	u32 back = (u32)(u64)o->back;

	assert_int_equal(mprotect(o, 4096, PROT_READ | PROT_WRITE), 0);
	memcpy(o->code, insn, n);
	o->code[n] = 0xea; /* ljmp 0x33:back */
	memcpy(o->code + n + 1, &back, 4);
	o->code[n + 5] = 0x33;
	o->code[n + 6] = 0;
	memcpy(o->back, "\x41\xff\xe0", 3); /* jmp *%r8 */
	assert_int_equal(mprotect(o, 4096, PROT_READ | PROT_EXEC), 0);
}

static void oracle_run(struct oracle *o, u32 *eax, u64 *flags)
{
	u64 a = *eax, fl = *flags;
	u8 *top = o->stack + sizeof(o->stack) - 64;

	__asm__ volatile("mov %%rsp, %%r9\n\t"
			 "mov %[top], %%rsp\n\t"
			 "lea 1f(%%rip), %%r8\n\t"
			 "pushq %[fl]\n\t"
			 "popfq\n\t"
			 "pushq $0x23\n\t"
			 "pushq %[code]\n\t"
			 "lretq\n"
			 "1:\tpushfq\n\t"
			 "popq %[fl]\n\t"
			 "mov %%r9, %%rsp"
			 : "+a"(a), [fl] "+b"(fl)
			 : [top] "d"(top), [code] "c"(o->code)
			 : "r8", "r9", "r10", "r11", "cc", "memory");
	*eax = (u32)a;
	*flags = fl;
}

static void decimal_like_the_host(void **state)
{
	static const struct {
		u8 code[2];
		unsigned len;
		int (*fn)(struct cpu *, const struct cpu_insn *);
		u64 defined;
	} row[] = {
		{{0x27}, 1, insn_daa, FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_PF},
		{{0x2f}, 1, insn_das, FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_PF},
		{{0x37}, 1, insn_aaa, FLAG_CF | FLAG_AF},
		{{0x3f}, 1, insn_aas, FLAG_CF | FLAG_AF},
		{{0xd4, 10}, 2, insn_aam, FLAG_ZF | FLAG_SF | FLAG_PF},
		{{0xd4, 7}, 2, insn_aam, FLAG_ZF | FLAG_SF | FLAG_PF},
		{{0xd5, 10}, 2, insn_aad, FLAG_ZF | FLAG_SF | FLAG_PF},
		{{0xd6}, 1, insn_salc, FLAG_ARITH},
	};
	struct oracle *o = oracle_new();
	struct machine *m = machine_prot(0);

	if (!o) {
		machine_free(m);
		skip();
	}
	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		struct cpu_insn in = machine_insn(m, 1);

		in.imm = row[i].code[1];
		oracle_set(o, row[i].code, row[i].len);
		for (u32 v = 0; v < 0x10000; v += row[i].fn == insn_daa ? 1 : 3)
			for (unsigned f = 0; f < 4; f++) {
				u64 flags = (f & 1 ? FLAG_CF : 0) | (f & 2 ? FLAG_AF : 0) | 2, got;
				u32 eax = v | 0xabcd0000;

				m->cpu.gpr[RAX] = eax;
				cpu_rflags_set(&m->cpu, flags);
				assert_int_equal(row[i].fn(&m->cpu, &in), CPU_OK);
				oracle_run(o, &eax, &flags);
				assert_int_equal(m->cpu.gpr[RAX], eax);
				got = cpu_rflags(&m->cpu);
				assert_int_equal(got & row[i].defined, flags & row[i].defined);
			}
	}
	munmap(o, sizeof(*o));
	machine_free(m);
}

static void aam_by_zero(void **state)
{
	struct machine *m = machine_prot(0);
	struct cpu_insn in = machine_insn(m, 1);

	assert_int_equal(insn_aam(&m->cpu, &in), CPU_EXC);
	assert_exc_plain(m, EXC_DE);
	machine_free(m);
}

static void xlat(void **state)
{
	struct machine *m = machine_real();
	struct cpu_insn in = machine_insn(m, 1);

	m->cpu.seg[SEG_DS].base = 0x40000;
	m->cpu.gpr[RBX] = 0xfff0;
	m->cpu.gpr[RAX] = 0x1220;
	m->mem[0x40010] = 0x77; /* BX + AL wraps */
	assert_int_equal(insn_xlat(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RAX], 0x1277);
	machine_free(m);
}

static void pusha_popa(void **state)
{
	for (unsigned size = 2; size <= 4; size += 2) {
		struct machine *m = machine_prot(0);
		struct cpu_insn in = machine_insn(m, size);
		u64 sp = m->cpu.gpr[RSP];

		for (unsigned i = 0; i < 8; i++)
			if (i != RSP)
				m->cpu.gpr[i] = 0x11110000 + i;
		assert_int_equal(insn_pusha(&m->cpu, &in), CPU_OK);
		assert_int_equal(m->cpu.gpr[RSP], sp - 8 * size);
		assert_int_equal(machine_get(m, (u32)sp - size, 2), RAX);
		assert_int_equal(machine_get(m, (u32)sp - 5 * size, 2), sp & 0xffff);
		assert_int_equal(machine_get(m, (u32)sp - 8 * size, 2), RDI);
		for (unsigned i = 0; i < 8; i++)
			if (i != RSP)
				m->cpu.gpr[i] = 0x22220000;
		assert_int_equal(insn_popa(&m->cpu, &in), CPU_OK);
		assert_int_equal(m->cpu.gpr[RSP], sp);
		for (unsigned i = 0; i < 8; i++)
			if (i != RSP)
				assert_int_equal(m->cpu.gpr[i],
						 (size == 2 ? 0x22220000 : 0x11110000) + i);
		/* All or nothing. */
		m->page[0x7f] = PAGE_ABSENT;
		m->cpu.gpr[RSP] = 0x80004;
		m->page[0x7f] = PAGE_ABSENT;
		memset(m->mem + 0x80000, 0xcc, 4);
		assert_int_equal(insn_pusha(&m->cpu, &in), CPU_EXC);
		assert_int_equal(m->cpu.gpr[RSP], 0x80004);
		assert_int_equal(m->mem[0x80003], 0xcc);
		machine_free(m);
	}
}

static void enter(void **state)
{
	struct machine *m = machine_long(0);
	struct cpu_insn in = machine_insn(m, 8);
	u64 sp = m->cpu.gpr[RSP];

	m->cpu.gpr[RBP] = 0x6000;
	in.imm = 0x20;
	assert_int_equal(insn_enter(&m->cpu, &in), CPU_OK);
	assert_int_equal(m->cpu.gpr[RBP], sp - 8);
	assert_int_equal(m->cpu.gpr[RSP], sp - 8 - 0x20);
	assert_int_equal(machine_get(m, (u32)sp - 8, 8), 0x6000);
	/* Level 3: two old frame pointers and the new one. */
	machine_put(m, 0x6000 - 8, 0x1111, 8);
	machine_put(m, 0x6000 - 16, 0x2222, 8);
	m->cpu.gpr[RSP] = sp;
	m->cpu.gpr[RBP] = 0x6000;
	in.imm2 = 3;
	assert_int_equal(insn_enter(&m->cpu, &in), CPU_OK);
	assert_int_equal(machine_get(m, (u32)sp - 16, 8), 0x1111);
	assert_int_equal(machine_get(m, (u32)sp - 24, 8), 0x2222);
	assert_int_equal(machine_get(m, (u32)sp - 32, 8), sp - 8);
	assert_int_equal(m->cpu.gpr[RSP], sp - 32 - 0x20);
	/* The room itself must be writable. */
	m->page[0x7f] = PAGE_READONLY;
	m->cpu.gpr[RSP] = 0x80100;
	in.imm = 0x200;
	in.imm2 = 0;
	assert_int_equal(insn_enter(&m->cpu, &in), CPU_EXC);
	assert_exc(m, EXC_PF, 3);
	assert_int_equal(m->cpu.gpr[RSP], 0x80100);
	machine_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decimal_like_the_host),
		cmocka_unit_test(aam_by_zero),
		cmocka_unit_test(xlat),
		cmocka_unit_test(pusha_popa),
		cmocka_unit_test(enter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
