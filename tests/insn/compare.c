/*
 * compare.c - are the two outcomes the same?
 */
#include <stdio.h>
#include <string.h>
#include "insn.h"
#include "memory.h"

static const struct {
	u16 mnemonic;
	u32 flags;
} undefined[] = {
#define UNDEF(m, flags, why) {ZYDIS_MNEMONIC_##m, flags},
#include "insn_undef.def"
#undef UNDEF
};

#define LOOSE_CR2    1
#define LOOSE_ERROR  2
#define LOOSE_MEMORY 4
#define LOOSE_GPRS   8 /* all but RSP */
#define LOOSE_VECTOR 16
#define LOOSE_FAULT  32
static const struct {
	u16 mnemonic;
	u32 what;
} loose[] = {
#define LOOSE(m, what, why) {ZYDIS_MNEMONIC_##m, what},
#include "insn_loose.def"
#undef LOOSE
};

u32 compare_undefined(unsigned mnemonic)
{
	for (unsigned k = 0; k < ARRAY_SIZE(undefined) && !__builtin_cpu_is("amd"); k++)
		if (mnemonic == undefined[k].mnemonic)
			return undefined[k].flags;
	return 0;
}

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					 "r8",	"r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/*
 * A component that is in its initial state may be left out of the image; and what does not take
 * part in the comparison is cleared: reserved bytes, and the x87's last instruction and data
 * pointers and opcode, which point into translated code on the engine's side when the last x87
 * instruction was copied from there.
 */
static void xsave_normalize(u8 *x)
{
	u64 bv;

	memcpy(&bv, x + 512, 8);
	if (!(bv & 1)) {
		memset(x, 0, 24);
		x[0] = 0x7f;
		x[1] = 0x03;
		memset(x + 32, 0, 128);
	}
	memset(x + 5, 0, 19);
	for (unsigned i = 0; i < 8; i++)
		memset(x + 32 + 16 * i + 10, 0, 6);
	if (!(bv & 2))
		memset(x + 160, 0, 256);
	if (!(bv & 4) && insn_xsave_offset[2])
		memset(x + insn_xsave_offset[2], 0, 256);
	if (!(bv & 0x20) && insn_xsave_offset[5])
		memset(x + insn_xsave_offset[5], 0, 64);
	if (!(bv & 0x40) && insn_xsave_offset[6])
		memset(x + insn_xsave_offset[6], 0, 512);
	if (!(bv & 0x80) && insn_xsave_offset[7])
		memset(x + insn_xsave_offset[7], 0, 1024);
	memset(x + 28, 0, 4);
	memset(x + 416, 0, 160);
	memset(x + 512, 0xff, 8); /* all components are there now: another time changes nothing */
}

static const char *xsave_differ(const u8 *a, const u8 *b, char *text, size_t size)
{
	unsigned i = 0;
	const char *name = "?";
	unsigned n = 0, unit = 1;

	while (i < insn_xsave_size && a[i] == b[i])
		i++;
	if (i == insn_xsave_size)
		return NULL;
	if (i < 32) {
		name = i < 2 ? "fcw" : i < 4 ? "fsw" : i < 6 ? "ftw" : i < 24 ? "fip/fdp" : "mxcsr";
		i &= i < 6 ? ~1u : ~3u;
		unit = i < 6 ? 2 : 4;
	} else if (i < 160) {
		name = "st(phys)";
		n = (i - 32) / 16;
		i = 32 + 16 * n;
		unit = 10;
	} else if (i < 416) {
		name = "xmm";
		n = (i - 160) / 16;
		i = 160 + 16 * n;
		unit = 16;
	} else {
		static const u8 comp[] = {2, 5, 6, 7}, each[] = {16, 8, 32, 64},
				count[] = {16, 8, 16, 16};
		static const char *const names[] = {"ymm high ", "k", "zmm high ", "zmm 16+"};

		for (unsigned c = 0; c < 4; c++) {
			unsigned off = insn_xsave_offset[comp[c]];

			if (!off || i < off || i >= off + each[c] * count[c])
				continue;
			name = names[c];
			unit = each[c];
			n = (i - off) / unit;
			i = off + n * unit;
		}
	}
	n = snprintf(text, size, "%s%u: native ", name, n);
	for (unsigned k = unit; k-- && n < size;)
		n += snprintf(text + n, size - n, "%02x", a[i + k]);
	if (n < size)
		n += snprintf(text + n, size - n, " engine ");
	for (unsigned k = unit; k-- && n < size;)
		n += snprintf(text + n, size - n, "%02x", b[i + k]);
	return text;
}

bool compare_strict;

static u32 flags_mask(const struct insn_case *c)
{
	u32 mask = ~0u;

	for (unsigned i = 0; i < c->count && !compare_strict; i++)
		mask &= ~compare_undefined(c->item[i].mnemonic);
	return mask;
}

/* What the faulting instruction leaves open. */
static u32 loose_mask(const struct insn_case *c, const struct insn_result *r)
{
	u64 at = c->ip;

	if (r->vector >= 32 || compare_strict)
		return 0;
	for (unsigned i = 0; i < c->count; at += c->item[i++].len)
		for (unsigned k = 0; at == r->regs.rip && k < ARRAY_SIZE(loose); k++)
			if (loose[k].mnemonic == c->item[i].mnemonic)
				return loose[k].what;
	return 0;
}

/*
 * The memory differs only where an x87 environment was stored, in its pointers: the host's XSAVE
 * keeps them only while an exception is pending, and the data pointer is not the guest's. Where
 * it was stored is not known here, but the pointers are within 16 bytes of each other.
 */
static bool pointers_only(const struct insn_case *c)
{
	unsigned stores = 0;
	s64 first = -1, last = -1;

	for (unsigned i = 0; i < c->count; i++)
		stores += c->item[i].mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
			  c->item[i].mnemonic == ZYDIS_MNEMONIC_FNSAVE ||
			  c->item[i].mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
			  c->item[i].mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
	if (!stores || c->count == 1 || compare_strict)
		return false;
	for (s64 i = 0; i < INSN_DATA_PAGES * (s64)PAGE_SIZE; i++) {
		if (memory_page(i >> PAGE_SHIFT) == PAGE_ABSENT ||
		    insn_memory.native[i] == insn_memory.engine[i])
			continue;
		first = first < 0 ? i : first;
		last = i;
	}
	/* A loop, or several of them, may have stored more than one. */
	return last - first < 16 || stores > 1 || c->item[c->count - 1].link_size;
}

/* Decodes what lies at an address of the code area, which may end there. */
static ZyanStatus decode_at(const struct insn_case *c, u64 va, ZydisDecoderContext *ctx, u8 *bytes,
			    ZydisDecodedInstruction *in)
{
	u64 off = va - INSN_CODE_VA;

	memset(bytes, 0, 15);
	if (off < INSN_CODE_SIZE)
		memcpy(bytes, insn_memory.code + off, MIN(15, INSN_CODE_SIZE - off));
	return ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], ctx, bytes, 15, in);
}

/* The instruction at an offset in the case's code goes through FS or GS. */
static bool uses_fs_gs(const struct insn_case *c, u64 rip)
{
	ZydisDecodedInstruction in;
	u8 bytes[15];

	return rip - c->ip < c->code_len &&
	       ZYAN_SUCCESS(decode_at(c, c->code_va + (rip - c->ip), NULL, bytes, &in)) &&
	       in.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS);
}

/*
 * Both sides fault at the same instruction, with different vectors, and both may be right: of
 * several reasons to fault each takes another one. AMD processors also want the offset alone, not
 * only its sum with FS's or GS's base, to be canonical.
 */
static bool other_fault(const struct insn_case *c, const struct insn_result *nat,
			const struct insn_result *eng, u32 open)
{
	const u64 kinds = BIT(12) | BIT(13) | BIT(14) | BIT(17);

	if (nat->vector >= 32 || eng->vector >= 32 || nat->regs.rip != eng->regs.rip ||
	    !(kinds >> nat->vector & 1) || !(kinds >> eng->vector & 1))
		return false;
	if (open & LOOSE_FAULT)
		return true;
	return c->mode == INSN_LONG && !compare_strict && nat->vector == 13 && eng->vector == 14 &&
	       !(eng->error & 1) && uses_fs_gs(c, nat->regs.rip);
}

static const char *vector_name(u32 v, char *buf, size_t size)
{
	if (v == INSN_VEC_DONE)
		return "end";
	if (v == INSN_VEC_TIMEOUT)
		return "timeout";
	snprintf(buf, size, "vector %u", v);
	return buf;
}

const char *compare(const struct insn_case *c, struct insn_result *nat, struct insn_result *eng,
		    char *text, size_t size)
{
	u32 err = ~0u, mask;
	char v1[24], v2[24];
	u32 open;

	if (eng->vector == INSN_VEC_BROKEN) {
		snprintf(text, size, "engine: %s", eng->why);
		return text;
	}
	open = loose_mask(c, nat);
	if (nat->vector != eng->vector && other_fault(c, nat, eng, open)) {
		eng->vector = nat->vector;
		eng->error = nat->error;
		eng->cr2 = nat->cr2;
	}
	if (nat->vector != eng->vector) {
		snprintf(
			text, size,
			"outcome native %s engine %s: at %llx (error %x cr2 %llx), at %llx (error %x cr2 %llx)",
			vector_name(nat->vector, v1, sizeof(v1)),
			vector_name(eng->vector, v2, sizeof(v2)), (unsigned long long)nat->regs.rip,
			nat->error, (unsigned long long)nat->cr2, (unsigned long long)eng->regs.rip,
			eng->error, (unsigned long long)eng->cr2);
		return text;
	}
	if (nat->regs.rip != eng->regs.rip) {
		snprintf(text, size, "rip: native %llx engine %llx",
			 (unsigned long long)nat->regs.rip, (unsigned long long)eng->regs.rip);
		return text;
	}
	if (open & LOOSE_ERROR)
		err = 0;
	/* The host's kernel hides whether its own part of the address space is mapped. */
	if (nat->vector == 14 && nat->cr2 >= 0x7ffffffff000)
		err &= ~1u;
	/* A random address has met the guest's kernel. */
	if (nat->vector == 14 && c->mode != INSN_LONG &&
	    nat->cr2 - LEGACY_VA < SYS_PAGES * PAGE_SIZE)
		err &= ~1u;
	if ((nat->error ^ eng->error) & err) {
		snprintf(text, size, "error code of vector %u: native %x engine %x", nat->vector,
			 nat->error, eng->error);
		return text;
	}
	if (nat->cr2 != eng->cr2 && !(open & LOOSE_CR2)) {
		snprintf(text, size, "cr2: native %llx engine %llx (error %x)",
			 (unsigned long long)nat->cr2, (unsigned long long)eng->cr2, nat->error);
		return text;
	}
	/*
	 * Upper halves are undefined outside 64-bit mode: KMOV with W writes them, an interrupt on a
	 * 16-bit stack leaves some of the host kernel's in RSP's.
	 */
	for (unsigned i = 0; i < 8 && c->mode != INSN_LONG; i++) {
		nat->regs.gpr[i] = (u32)nat->regs.gpr[i];
		eng->regs.gpr[i] = (u32)eng->regs.gpr[i];
	}
	for (unsigned i = 0; i < 16; i++)
		if (nat->regs.gpr[i] != eng->regs.gpr[i] && (i == 4 || !(open & LOOSE_GPRS))) {
			snprintf(text, size, "%s: native %llx engine %llx", gpr_name[i],
				 (unsigned long long)nat->regs.gpr[i],
				 (unsigned long long)eng->regs.gpr[i]);
			return text;
		}
	mask = flags_mask(c);
	if ((nat->regs.rflags ^ eng->regs.rflags) & mask) {
		snprintf(text, size, "rflags: native %llx engine %llx",
			 (unsigned long long)nat->regs.rflags,
			 (unsigned long long)eng->regs.rflags);
		return text;
	}
	if (nat->regs.fs_base != eng->regs.fs_base || nat->regs.gs_base != eng->regs.gs_base) {
		snprintf(text, size, "fs/gs base: native %llx/%llx engine %llx/%llx",
			 (unsigned long long)nat->regs.fs_base,
			 (unsigned long long)nat->regs.gs_base,
			 (unsigned long long)eng->regs.fs_base,
			 (unsigned long long)eng->regs.gs_base);
		return text;
	}
	for (unsigned i = 0; i < 6; i++)
		/* The host's return to a signal handler turns any null selector into 0. */
		if ((nat->regs.sel[i] ^ eng->regs.sel[i]) &&
		    (nat->regs.sel[i] > 3 || eng->regs.sel[i] > 3)) {
			snprintf(text, size, "segment register %u: native %x engine %x", i,
				 nat->regs.sel[i], eng->regs.sel[i]);
			return text;
		}
	xsave_normalize(nat->xsave);
	xsave_normalize(eng->xsave);
	if (!(open & LOOSE_VECTOR) && memcmp(nat->xsave, eng->xsave, insn_xsave_size))
		return xsave_differ(nat->xsave, eng->xsave, text, size);
	for (unsigned n = 0; n < INSN_DATA_PAGES && !(open & LOOSE_MEMORY); n++) {
		const u8 *a = insn_memory.native + n * PAGE_SIZE;
		const u8 *b = insn_memory.engine + n * PAGE_SIZE;
		unsigned i = 0;

		if (memory_page(n) == PAGE_ABSENT || !memcmp(a, b, PAGE_SIZE))
			continue;
		if (pointers_only(c))
			break;
		while (a[i] == b[i])
			i++;
		snprintf(text, size, "memory at %llx: native %02x engine %02x (before: %02x)",
			 (unsigned long long)INSN_DATA_VA + n * PAGE_SIZE + i, a[i], b[i],
			 insn_memory.baseline[n * PAGE_SIZE + i]);
		return text;
	}
	return NULL;
}

void compare_restore(void)
{
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++) {
		const u8 *base = insn_memory.baseline + n * PAGE_SIZE;
		u8 *a = insn_memory.native + n * PAGE_SIZE, *b = insn_memory.engine + n * PAGE_SIZE;

		if (memory_page(n) == PAGE_RW && memcmp(a, base, PAGE_SIZE))
			memcpy(a, base, PAGE_SIZE);
		if (memory_page(n) != PAGE_ABSENT && memcmp(b, base, PAGE_SIZE))
			memcpy(b, base, PAGE_SIZE);
	}
}

static void print_regs(const char *name, const struct insn_regs *g)
{
	printf("#  %s\n", name);
	for (unsigned i = 0; i < 16; i++)
		printf("%s%3s=%016llx%s", i % 4 ? " " : "#    ", gpr_name[i],
		       (unsigned long long)g->gpr[i], i % 4 == 3 ? "\n" : "");
	printf("#    rip=%llx rflags=%llx fs=%llx gs=%llx es,cs,ss,ds=%x,%x,%x,%x\n",
	       (unsigned long long)g->rip, (unsigned long long)g->rflags,
	       (unsigned long long)g->fs_base, (unsigned long long)g->gs_base, g->sel[0], g->sel[1],
	       g->sel[2], g->sel[3]);
}

void report_case(const struct insn_case *c, const struct insn_result *nat,
		 const struct insn_result *eng, const char *what)
{
	ZydisFormatter f;
	u64 at = c->code_va;
	u32 mxcsr;

	memcpy(&mxcsr, c->in.xsave + 24, 4);
	ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
	static const char *const modes[] = {"64-bit", "32-bit", "32-bit segmented",
					    "16-bit segmented"};

	printf("# DIFFERENCE %s\n#  replay: --seed %#llx --case %#llx --variant %u (%s%s)\n", what,
	       (unsigned long long)c->seed, (unsigned long long)c->number, c->variant,
	       modes[c->mode], c->kernel ? ", CPL 0" : "");
	while (at < c->code_va + c->code_len) {
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction in;
		ZydisDecoderContext ctx;
		char text[128] = "?";
		u8 p[15];

		if (!ZYAN_SUCCESS(decode_at(c, at, &ctx, p, &in)) ||
		    !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&insn_decoder[c->mode], &ctx, &in, op,
							     in.operand_count))) {
			printf("#    %llx  undecodable", (unsigned long long)at);
			for (unsigned i = 0; i < 15; i++)
				printf(" %02x", p[i]);
			printf("\n");
			break;
		}
		ZydisFormatterFormatInstruction(&f, &in, op, in.operand_count_visible, text,
						sizeof(text), at, NULL);
		printf("#    %llx ", (unsigned long long)at);
		for (unsigned i = 0; i < in.length; i++)
			printf(" %02x", p[i]);
		printf("%*s%s\n", (int)(36 - 3 * in.length > 0 ? 36 - 3 * in.length : 1), "", text);
		at += in.length;
	}
	print_regs("before", &c->in.regs);
	printf("#    fcw=%02x%02x fsw=%02x%02x ftw=%02x mxcsr=%x\n", c->in.xsave[1], c->in.xsave[0],
	       c->in.xsave[3], c->in.xsave[2], c->in.xsave[4], mxcsr);
	print_regs("native", &nat->regs);
	printf("#    vector %x error %x cr2 %llx\n", nat->vector, nat->error,
	       (unsigned long long)nat->cr2);
	print_regs("engine", &eng->regs);
	printf("#    vector %x error %x cr2 %llx %s\n", eng->vector, eng->error,
	       (unsigned long long)eng->cr2, eng->why);
	fflush(stdout);
}
