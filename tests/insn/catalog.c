/*
 * catalog.c - every encoding that Zydis knows
 *
 * All opcode maps are run through the decoder once: each combination of encoding, map, mandatory
 * prefix, W, vector length, opcode and ModRM extension that decodes becomes a template. Templates
 * drive the generator, and tell at the end what was covered and what was not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "insn.h"
#include "encode.h"

struct catalog catalog;
ZydisDecoder insn_decoder[INSN_MODES];

static const struct {
	u16 mnemonic;
	const char *why;
} excluded[] = {
#define EXCLUDE(m, why) {ZYDIS_MNEMONIC_##m, why},
#include "insn_exclude.def"
#undef EXCLUDE
};

const char *catalog_excluded(const ZydisDecodedInstruction *in)
{
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_RET:
		return "control flow: part of sequences";
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
		return "enters the host's kernel";
	default:
		break;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++)
		if (excluded[i].mnemonic == in->mnemonic)
			return excluded[i].why;
	if (in->mnemonic == ZYDIS_MNEMONIC_KMOVD && in->raw.vex.W &&
	    in->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
		return "a 64-bit move in 32-bit code: some silicon does it";
	/* MOV to a segment register, POP of one. */
	if (in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->opcode == 0x8e)
		return "segment load";
	if (in->mnemonic == ZYDIS_MNEMONIC_POP && in->opcode_map == ZYDIS_OPCODE_MAP_0F)
		return "segment load";
	if (in->mnemonic == ZYDIS_MNEMONIC_POP && in->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
	    (in->opcode & 7) == 7 && in->opcode < 0x20)
		return "segment load";
	return NULL;
}

static u8 class_of(const ZydisDecodedInstruction *in)
{
	if (in->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return CLASS_PRIV;
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return CLASS_EVEX;
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_MMX:
		return CLASS_X87;
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_BASE:
	case ZYDIS_ISA_EXT_LONGMODE:
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_RDWRFSGS:
		return CLASS_INT;
	default:
		break;
	}
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return CLASS_VEX;
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_SSE:
	case ZYDIS_CATEGORY_AES:
	case ZYDIS_CATEGORY_SHA:
	case ZYDIS_CATEGORY_CONVERT:
	case ZYDIS_CATEGORY_LOGICAL_FP:
		return CLASS_SSE;
	default:
		break;
	}
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSE4A:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
		return CLASS_SSE;
	default:
		return CLASS_INT;
	}
}

static enum insn_mode enum_mode; /* whose maps are being enumerated */

/* Tries the variants of the fields that do not tell instructions apart. */
static bool decode(struct encode *e, u8 modrm, ZydisDecodedInstruction *in)
{
	unsigned variants = e->enc == ENC_LEGACY ? 1 : e->enc == ENC_VEX ? 4 : 8;

	for (unsigned v = 0; v < variants; v++) {
		u8 buf[24] = {0};
		unsigned n;

		e->vvvv = v & 1 ? 4 : 0;
		e->aaa = v >> 2;
		n = encode_prefix(e, buf);
		buf[n] = modrm;
		buf[n + 1] = v & 2 ? 0x28 : 0x38;
		if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&insn_decoder[enum_mode], NULL, buf,
							       15, in)))
			return true;
	}
	return false;
}

static void add(const struct encode *e, const ZydisDecodedInstruction *in, int reg, int rm,
		bool mod3)
{
	static u32 room;
	struct tmpl *t;

	if (catalog.count == room) {
		room = room ? 2 * room : 16384;
		catalog.tmpl = realloc(catalog.tmpl, room * sizeof(*t));
		if (!catalog.tmpl)
			abort();
	}
	t = &catalog.tmpl[catalog.count++];
	*t = (struct tmpl){
		.enc = e->enc,
		.map = e->map,
		.pp = e->pp,
		.w = e->w,
		.ll = e->ll,
		.b = e->b,
		.opcode = e->opcode,
		.reg = reg,
		.rm = rm,
		.modrm = in->attributes & ZYDIS_ATTRIB_HAS_MODRM,
		.mod3 = mod3,
		.cls = class_of(in),
		.isa_set = in->meta.isa_set,
		.mode = enum_mode,
		.mnemonic = in->mnemonic,
		.reason = catalog_excluded(in),
	};
	t->vsib = in->meta.category == ZYDIS_CATEGORY_GATHER ||
		  in->meta.category == ZYDIS_CATEGORY_SCATTER ||
		  in->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
	t->excluded = t->reason != NULL;
}

/* All ModRM forms of one opcode; merges those that mean the same. */
static void opcode(struct encode *e)
{
	ZydisDecodedInstruction in[8], first;
	bool ok[8];

	if (e->enc == ENC_LEGACY) {
		if (decode(e, 0xc0, &in[0]) && !(in[0].attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
			if (in[0].raw.prefix_count >= in[0].length)
				return;
			add(e, &in[0], -1, -1, false);
			return;
		}
	}
	for (unsigned form = 0; form < 2; form++) {
		bool same = true;

		for (unsigned reg = 0; reg < 8; reg++) {
			bool same_rm = true;

			ok[reg] = decode(e, (form ? 0xc0 : 4) | reg << 3, &in[reg]);
			if (form && e->enc == ENC_LEGACY) {
				ZydisDecodedInstruction other[8];
				bool ook[8];

				for (unsigned rm = 0; rm < 8; rm++) {
					ook[rm] = decode(e, 0xc0 | reg << 3 | rm, &other[rm]);
					if (ook[rm] != ok[reg] ||
					    (ok[reg] && other[rm].mnemonic != in[reg].mnemonic))
						same_rm = false;
				}
				if (!same_rm) {
					for (unsigned rm = 0; rm < 8; rm++)
						if (ook[rm])
							add(e, &other[rm], reg, rm, true);
					same = ok[reg] = false;
				}
			}
			if (reg && (!ok[0] || !ok[reg] || in[reg].mnemonic != in[0].mnemonic))
				same = false;
		}
		if (same && ok[0]) {
			first = in[0];
			add(e, &first, -1, -1, form);
			continue;
		}
		for (unsigned reg = 0; reg < 8; reg++)
			if (ok[reg])
				add(e, &in[reg], reg, -1, form);
	}
}

static bool is_prefix(unsigned op)
{
	if (enum_mode != INSN_LONG &&
	    ((op & 0xf0) == 0x40 || op == 0xc4 || op == 0xc5 || op == 0x62))
		return false;
	return (op & 0xe7) == 0x26 || (op & 0xfc) == 0x64 || (op & 0xf0) == 0x40 || op == 0xf0 ||
	       op == 0xf2 || op == 0xf3 || op == 0xc4 || op == 0xc5 || op == 0x62;
}

static int by_class(const void *a, const void *b)
{
	const struct tmpl *x = &catalog.tmpl[*(const u32 *)a], *y = &catalog.tmpl[*(const u32 *)b];

	if (x->mode != y->mode)
		return x->mode - y->mode;
	if (x->cls != y->cls)
		return x->cls - y->cls;
	if (x->mnemonic != y->mnemonic)
		return x->mnemonic - y->mnemonic;
	return *(const u32 *)a < *(const u32 *)b ? -1 : 1;
}

/* Sorts templates into classes and mnemonics, leaving out what is not to be generated. */
static void index_build(void)
{
	u32 n = 0;

	free(catalog.order);
	free(catalog.undefined);
	catalog.undefined = calloc(catalog.count, sizeof(u32));
	catalog.undefined_count = 0;
	for (unsigned c = 0; c < INSN_MODES * CLASS_COUNT; c++) {
		__auto_type cls = &catalog.cls[c / CLASS_COUNT][c % CLASS_COUNT];

		free(cls->mnem);
		cls->mnem = calloc(4096, sizeof(struct catalog_mnem));
		cls->count = 0;
	}
	catalog.order = calloc(catalog.count, sizeof(u32));
	for (u32 i = 0; i < catalog.count; i++)
		if (!catalog.tmpl[i].excluded) {
			if (!catalog.tmpl[i].unsupported && !catalog.tmpl[i].masked)
				catalog.order[n++] = i;
			else
				catalog.undefined[catalog.undefined_count++] = i;
		}
	qsort(catalog.order, n, sizeof(u32), by_class);
	for (u32 i = 0; i < n; i++) {
		const struct tmpl *t = &catalog.tmpl[catalog.order[i]];
		__auto_type cls = &catalog.cls[t->mode][t->cls];

		if (!cls->count || cls->mnem[cls->count - 1].mnemonic != t->mnemonic)
			cls->mnem[cls->count++] =
				(struct catalog_mnem){.mnemonic = t->mnemonic, .first = i};
		cls->mnem[cls->count - 1].count++;
	}
}

static void legacy_maps(enum insn_mode mode)
{
	enum_mode = mode;
	for (unsigned map = 0; map < 4; map++)
		for (unsigned pp = 0; pp < 6; pp++)
			for (unsigned w = 0; w < (mode == INSN_LONG ? 2 : 1); w++)
				for (unsigned op = 0; op < 256; op++) {
					struct encode e = {.map = map,
							   .pp = pp,
							   .w = w,
							   .opcode = op,
							   .no_rex = mode != INSN_LONG};

					if ((map == 0 && (is_prefix(op) || op == 0x0f ||
							  op == 0x66 || op == 0x67)) ||
					    (map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f)))
						continue;
					opcode(&e);
				}
}

void catalog_init(void)
{
	struct encode e;

	ZydisDecoderInit(&insn_decoder[INSN_LONG], ZYDIS_MACHINE_MODE_LONG_64,
			 ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&insn_decoder[INSN_COMPAT32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&insn_decoder[INSN_SEG32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&insn_decoder[INSN_SEG16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
			 ZYDIS_STACK_WIDTH_16);
	legacy_maps(INSN_LONG);
	for (unsigned map = 1; map < 4; map++)
		for (unsigned pp = 0; pp < 4; pp++)
			for (unsigned w = 0; w < 2; w++)
				for (unsigned ll = 0; ll < 2; ll++)
					for (unsigned op = 0; op < 256; op++) {
						e = (struct encode){.enc = ENC_VEX,
								    .map = map,
								    .pp = pp,
								    .w = w,
								    .ll = ll,
								    .opcode = op};
						opcode(&e);
					}
	for (unsigned map = 1; map < 7; map++)
		for (unsigned bits = 0; bits < 64; bits++)
			for (unsigned op = 0; op < 256; op++) {
				e = (struct encode){.enc = ENC_EVEX,
						    .map = map,
						    .pp = bits & 3,
						    .w = bits >> 2 & 1,
						    .ll = bits >> 3 & 3,
						    .b = bits >> 5,
						    .opcode = op};
				if (map != 4 && e.ll < 4)
					opcode(&e);
			}
	legacy_maps(INSN_COMPAT32);
	index_build();
}

void catalog_probe(const struct engine_ops *engine)
{
	static struct insn_case c;
	static struct insn_result out;
	struct rng r = {0x1234567};

	for (u32 i = 0; i < catalog.count; i++) {
		struct tmpl *t = &catalog.tmpl[i];
		bool seen = false, made = false;

		if (t->excluded)
			continue;
		if (engine->masked && engine->masked(t->isa_set)) {
			t->masked = true;
			t->reason = "not offered to guests";
		}
		for (unsigned k = 0; k < 12 && !seen; k++) {
			gen_state(&r, &c, t->mode);
			c.trap_end = false;
			c.count = 1;
			if (!gen_insn(&r, &c, i, &c.item[0]))
				continue;
			made = true;
			gen_layout(&c, INSN_CODE_VA + INSN_SLOT_FIRST);
			native_run(&c, &out);
			seen = out.vector != 6;
		}
		if (!seen) {
			t->unsupported = true;
			t->reason = made ? "#UD on this host" : "no legal form found";
		}
	}
	compare_restore();
	index_build();
}

u32 catalog_usable(const u32 *hits, u32 *missed)
{
	u32 n = 0;

	*missed = 0;
	for (u32 i = 0; i < catalog.count; i++) {
		const struct tmpl *t = &catalog.tmpl[i];

		if (t->excluded || t->unsupported || t->masked)
			continue;
		n++;
		*missed += !hits[i];
	}
	return n;
}

void catalog_coverage(const u32 *hits, const u64 *mnemonic)
{
	u32 executed = 0, missing = 0, absent = 0;

	printf("# %-16s %-18s %9s %9s %12s\n", "mnemonic", "instruction set", "encodings",
	       "covered", "cases");
	for (unsigned m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		const struct tmpl *first = NULL;
		u32 n = 0, covered = 0;

		for (u32 i = 0; i < catalog.count; i++) {
			const struct tmpl *t = &catalog.tmpl[i];

			if (t->mnemonic != m)
				continue;
			if (!t->excluded && !t->unsupported && !t->masked) {
				n++;
				covered += hits[i] != 0;
			}
			if (!first || (first->unsupported && !t->unsupported))
				first = t;
		}
		if (!first)
			continue;
		if (first->unsupported) {
			absent++;
			continue;
		}
		executed += mnemonic[m] != 0;
		missing += !mnemonic[m];
		printf("# %-16s %-18s %9u %9u %12llu%s%s\n", ZydisMnemonicGetString(m),
		       ZydisISASetGetString(first->isa_set), n, covered,
		       (unsigned long long)mnemonic[m], mnemonic[m] ? "" : "  ",
		       mnemonic[m]     ? ""
		       : first->reason ? first->reason
				       : "NOT COVERED");
	}
	printf("# mnemonics: %u on this host, of which %u executed, %u not (reasons above); %u not on this host\n",
	       executed + missing, executed, missing, absent);
}

void catalog_report(const u32 *hits, bool verbose)
{
	u32 missed, n = catalog_usable(hits, &missed), left_out = 0, unsupported = 0, mnemonics = 0;
	bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {false}; /* many are of several classes */

	for (u32 i = 0; i < catalog.count; i++) {
		const struct tmpl *t = &catalog.tmpl[i];

		if (t->excluded)
			left_out++;
		else if (t->unsupported || t->masked)
			unsupported++;
		else if (!seen[t->mnemonic]) {
			seen[t->mnemonic] = true;
			mnemonics++;
		}
		if (verbose && !hits[i] && (t->reason || !t->unsupported))
			printf("# %-14s mode %u enc %u map %u pp %u W%u L%u b%u op %02x /%d rm %d mod3 %d: %s\n",
			       ZydisMnemonicGetString(t->mnemonic), t->mode, t->enc, t->map, t->pp,
			       t->w, t->ll, t->b, t->opcode, t->reg, t->rm, t->mod3,
			       t->reason ? t->reason : "not covered");
	}
	printf("# encodings: %u of %u on this host covered (of %u mnemonics); %u not comparable, %u not on this host or masked\n",
	       n - missed, n, mnemonics, left_out, unsupported);
}
