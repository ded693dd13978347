/*
 * The cache of decode_cache.c says what Zydis says: random prefixes, opcodes, registers, displacements and
 * immediates, so that most answers come from one that was kept for another instruction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "jit/jit_internal.h"

#define COUNT 1000000

static u64 rng = 20261122;

static u64 rand64(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n)
{
	return (unsigned)(rand64() >> 33) % n;
}

/* Bytes that begin like an instruction and go on at random; often like the ones before. */
static void make(u8 *p, bool lng)
{
	static const u8 prefix[] = {0x66, 0x66, 0xf2, 0xf3, 0x65, 0x64,
				    0xf0, 0x67, 0x2e, 0x36, 0x3e};
	unsigned at = 0;

	if (below(4)) {
		/* another register or number, which may be anywhere */
		for (unsigned i = below(3); i < 3; i++)
			p[1 + below(14)] ^= (u8)(below(2) ? 1 << below(8) : rand64() >> 40);
		return;
	}
	for (unsigned i = 0; i < 15; i++)
		p[i] = (u8)(below(8) ? rand64() >> 40 : below(2) ? 0xff : 0);
	while (at < 4 && !below(3))
		p[at++] = prefix[below(sizeof(prefix))];
	if (lng && below(2))
		p[at++] = (u8)(0x40 | below(16));
	switch (below(8)) {
	case 0 ... 2:
		break;
	case 3 ... 5:
		p[at] = 0x0f;
		break;
	case 6:
		p[at++] = 0x0f;
		p[at] = below(2) ? 0x38 : 0x3a;
		break;
	default:
		p[at] = (u8[]){0xc5, 0xc4, 0x62}[below(3)];
		if (p[at] != 0xc5) /* a map that exists */
			p[at + 1] = (u8)((p[at + 1] & 0xe0) | (1 + below(3)));
		break;
	}
}

static void fail_at(const u8 *p, unsigned n, u32 mode, const char *what)
{
	char text[64];

	for (unsigned i = 0; i < 15; i++)
		sprintf(text + 3 * i, "%02x ", p[i]);
	fail_msg("%s differs: mode %x, %u bytes of %s", what, mode, n, text);
}

#define SAME(field) (a->field == b->field ? true : (*what = #field, false))

static bool same_operand(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b,
			 const char **what)
{
	if (!(SAME(type) && SAME(encoding) && SAME(visibility) && SAME(actions) && SAME(size) &&
	      SAME(element_size) && SAME(element_count)))
		return false;
	switch (a->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		return SAME(reg.value);
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return SAME(mem.type) && SAME(mem.segment) && SAME(mem.base) && SAME(mem.index) &&
		       SAME(mem.scale) && SAME(mem.disp.value);
	case ZYDIS_OPERAND_TYPE_POINTER:
		return SAME(ptr.offset) && SAME(ptr.segment);
	default:
		return SAME(imm.value.u);
	}
}

static bool same_raw(const ZydisDecodedInstruction *a, const ZydisDecodedInstruction *b,
		     const char **what)
{
	for (unsigned i = 0; i < a->raw.prefix_count; i++)
		if (!SAME(raw.prefixes[i].type) || !SAME(raw.prefixes[i].value))
			return false;
	for (unsigned i = 0; i < 2; i++)
		if (!SAME(raw.imm[i].size) ||
		    (a->raw.imm[i].size && !(SAME(raw.imm[i].is_signed) &&
					     SAME(raw.imm[i].offset) && SAME(raw.imm[i].value.u))))
			return false;
	switch (a->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		return SAME(raw.rex.W) && SAME(raw.rex.R) && SAME(raw.rex.X) && SAME(raw.rex.B);
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		return SAME(raw.vex.offset) && SAME(raw.vex.W);
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		return SAME(raw.evex.offset);
	case ZYDIS_INSTRUCTION_ENCODING_XOP:
		return SAME(raw.xop.offset);
	default:
		return true;
	}
}

static bool same(const struct trans *t, const struct trans *u, const char **what)
{
	const ZydisDecodedInstruction *a = &t->in, *b = &u->in;

	if (!(SAME(mnemonic) && SAME(length) && SAME(encoding) && SAME(opcode_map) &&
	      SAME(opcode) && SAME(operand_width) && SAME(address_width) && SAME(operand_count) &&
	      SAME(attributes) && SAME(avx.vector_length) && SAME(avx.mask.reg) &&
	      SAME(avx.broadcast.is_static) && SAME(avx.broadcast.mode) && SAME(meta.category) &&
	      SAME(meta.isa_set) && SAME(meta.isa_ext) && SAME(meta.branch_type) &&
	      SAME(meta.exception_class) && SAME(raw.prefix_count) && SAME(raw.modrm.offset) &&
	      SAME(raw.modrm.mod) && SAME(raw.modrm.reg) && SAME(raw.modrm.rm) &&
	      SAME(raw.disp.value) && SAME(raw.disp.size) && same_raw(a, b, what)))
		return false;
	for (unsigned i = 0; i < t->in.operand_count; i++)
		if (!same_operand(&t->op[i], &u->op[i], what))
			return false;
	*what = "what need not be asked";
	return (!t->allowed || jit_isa_always(&u->in, u->op)) &&
	       (!t->copied || jit_classify_never(u));
}

static void like_zydis(enum cpu_vendor vendor)
{
	static const u32 modes[] = {MODE_LONG | MODE_PE,
				    MODE_LONG | MODE_PE,
				    MODE_LONG | MODE_PE,
				    MODE_PE | MODE_CS32,
				    MODE_PE,
				    0};
	struct cpu *cpu = aligned_alloc(4096, align_up(sizeof(*cpu), 4096));
	struct trans *t = calloc(1, sizeof(*t)), *u = calloc(1, sizeof(*u));
	char *end, *count = getenv("COUNT");
	u8 p[16] = {0x90};
	u64 n = count ? strtoull(count, &end, 0) : COUNT, good = 0;

	assert_true(cpu && t && u);
	memset(cpu, 0, sizeof(*cpu));
	cpu->vendor = vendor;
	assert_int_equal(jit_cpu_init(cpu, 1 << 20), 0);
	t->cpu = u->cpu = cpu;
	t->jit = u->jit = cpu->jit;
	t->mode = u->mode = modes[0];
	for (u64 i = 0; i < n; i++) {
		unsigned size = below(8) ? 15 : 1 + below(15);
		const char *what = "status";
		ZyanStatus mine, theirs;

		if (!below(16))
			t->mode = u->mode = modes[below(ARRAY_SIZE(modes))];
		make(p, t->mode & MODE_LONG);
		mine = jit_decode(t, p, size);
		theirs = jit_decode_uncached(u, p, size);
		if (mine != theirs || (ZYAN_SUCCESS(mine) && !same(t, u, &what)))
			fail_at(p, size, t->mode, what);
		good += ZYAN_SUCCESS(mine);
	}
	print_message("# %llu instructions, %llu of them by Zydis alone\n",
		      (unsigned long long)good, (unsigned long long)cpu->jit->stat_decodes);
	/* the bytes are not all nonsense, and the cache is used */
	assert_true(good > n / 4);
	assert_true(cpu->jit->stat_decodes < good * 3 / 4);
	jit_cpu_destroy(cpu);
	free(cpu);
	free(t);
	free(u);
}

static void amd(void **state)
{
	like_zydis(CPU_VENDOR_AMD);
}

static void intel(void **state)
{
	like_zydis(CPU_VENDOR_INTEL);
}

int main(void)
{
	static const struct CMUnitTest test[] = {cmocka_unit_test(amd), cmocka_unit_test(intel)};

	return cmocka_run_group_tests_name("jit decode", test, NULL, NULL);
}
