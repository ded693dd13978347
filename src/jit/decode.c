/*
 * decode.c - what an instruction is, by Zydis, and where Zydis is mended
 */
#include "cpu/feature.h"
#include "jit/jit_internal.h"

/* Without its CPUID bit, F3 in front of BSF and BSR means nothing. */
static const ZydisDecoder *decoder_for(const struct cpu *cpu, u32 mode)
{
	ZydisDecoder *d = &cpu->jit->decoder[jit_decoder_index(mode)];

	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, cpu_has(cpu, X86_FEATURE_BMI1));
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, cpu_has(cpu, X86_FEATURE_ABM));
	return d;
}

/* SIB with base 101 and mod 00 has no base register, whatever REX.B says; Zydis 4.0 names R13. */
static void mend_base(struct trans *t)
{
	const ZydisDecodedInstruction *in = &t->in;

	if (!(in->attributes & ZYDIS_ATTRIB_HAS_SIB) || in->raw.modrm.mod != 0 ||
	    in->raw.sib.base != 5)
		return;
	for (unsigned i = 0; i < in->operand_count; i++)
		if (t->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    t->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
			t->op[i].mem.base = ZYDIS_REGISTER_NONE;
			t->op[i].mem.disp.value = in->raw.disp.value;
		}
}

static bool legacy_prefix(u8 b)
{
	return b == 0x66 || b == 0x67 || b == 0xf0 || (b & 0xfe) == 0xf2 || (b & 0xe7) == 0x26 ||
	       (b & 0xfe) == 0x64;
}

/* AMD's LOCK MOV to and from CR0, which is CR8; Zydis refuses it. True when it is one. */
static bool decode_lock_cr(struct trans *t, const ZydisDecoder *d, const u8 *p, u32 n)
{
	u8 copy[15];
	u32 at = 0, len = 0, locks;

	while (at < n && legacy_prefix(p[at])) {
		if (p[at] != 0xf0)
			copy[len++] = p[at];
		at++;
	}
	locks = at - len;
	if ((t->mode & MODE_LONG) && at < n && (p[at] & 0xf0) == 0x40)
		copy[len++] = p[at++];
	if (at + 3 > n || p[at] != 0x0f || (p[at + 1] & 0xfd) != 0x20)
		return false;
	mem_copy(copy + len, p + at, n - at);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, copy, n - locks, &t->in, t->op)))
		return false;
	t->in.raw.prefixes[t->in.raw.prefix_count++].value = 0xf0;
	t->in.length = (u8)(t->in.length + locks);
	return true;
}

/** Is this VEX opcode one of the mask registers' instructions? `map`: 1 and 3 have them. */
bool jit_vex_opmask(unsigned map, u8 opcode)
{
	if (map == 3)
		return (opcode & 0xfc) == 0x30;
	if (map != 1)
		return false;
	switch (opcode) {
	case 0x41:
	case 0x42:
	case 0x44 ... 0x47:
	case 0x4a:
	case 0x4b:
	case 0x90 ... 0x93:
	case 0x98:
	case 0x99:
		return true;
	default:
		return false;
	}
}

/*
 * AMD ignores the VEX prefix's fourth bit of a mask register's number, R or vvvv's highest; Zydis, as
 * Intel, refuses it. True when it was that.
 */
static bool decode_opmask(struct trans *t, const ZydisDecoder *d, const u8 *p, u32 n)
{
	u8 copy[15];
	u32 at = 0, vvvv, opcode;
	unsigned map;

	while (at < n && (p[at] == 0x67 || (p[at] & 0xe7) == 0x26 || (p[at] & 0xfe) == 0x64))
		at++;
	if (at + 4 > n || (p[at] & 0xfe) != 0xc4)
		return false;
	map = p[at] == 0xc5 ? 1 : p[at + 1] & 31;
	vvvv = p[at] == 0xc5 ? at + 1 : at + 2;
	opcode = vvvv + 1;
	if (!jit_vex_opmask(map, p[opcode]))
		return false;
	mem_copy(copy, p, n);
	copy[at + 1] |= 0x80;
	/* two sources: where vvvv names none, all of it has to be set */
	if (map == 1 && p[opcode] < 0x90 && p[opcode] != 0x44)
		copy[vvvv] |= 0x40;
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, copy, n, &t->in, t->op));
}

/**
 * jit_decode() without the cache. The EVEX prefix's bits for registers 8 and up are ignored outside
 * 64-bit mode, where Zydis refuses them.
 */
ZyanStatus jit_decode_uncached(struct trans *t, const u8 *p, u32 n)
{
	/* Zydis has no SYSENTER and SYSEXIT in real mode, where they are #GP. */
	bool known = n >= 2 && p[0] == 0x0f && (p[1] & 0xfe) == 0x34;
	const ZydisDecoder *d = decoder_for(t->cpu, known ? t->mode | MODE_PE : t->mode);
	ZyanStatus status = ZydisDecoderDecodeFull(d, p, n, &t->in, t->op);
	u8 copy[15];
	u32 at = 0;

	if (!ZYAN_SUCCESS(status) && status != ZYDIS_STATUS_NO_MORE_DATA &&
	    !(t->mode & MODE_LONG)) {
		while (at < n &&
		       (p[at] == 0x67 || (p[at] & 0xe7) == 0x26 || (p[at] & 0xfe) == 0x64))
			at++;
		if (at + 4 <= n && p[at] == 0x62 && (p[at + 1] & 0xc0) == 0xc0) {
			mem_copy(copy, p, n);
			copy[at + 1] |= 0x30;
			copy[at + 3] |= 0x08;
			status = ZydisDecoderDecodeFull(d, copy, n, &t->in, t->op);
		}
	}
	if (status == ZYDIS_STATUS_ILLEGAL_LOCK && decode_lock_cr(t, d, p, n))
		status = ZYAN_STATUS_SUCCESS;
	if (!ZYAN_SUCCESS(status) && status != ZYDIS_STATUS_NO_MORE_DATA && (t->mode & MODE_LONG) &&
	    t->cpu->vendor == CPU_VENDOR_AMD && decode_opmask(t, d, p, n))
		status = ZYAN_STATUS_SUCCESS;
	/* where there is no VMX, VMREAD's opcode is undefined, and longer */
	if (ZYAN_SUCCESS(status) &&
	    !(t->in.mnemonic == ZYDIS_MNEMONIC_VMREAD && t->cpu->vendor == CPU_VENDOR_AMD)) {
		mend_base(t);
	} else {
		u32 need = jit_insn_length(t->cpu, t->mode, p, n);

		status = need > n && n < 15 ? ZYDIS_STATUS_NO_MORE_DATA
			 : need > 15	    ? ZYDIS_STATUS_INSTRUCTION_TOO_LONG
					    : ZYDIS_STATUS_DECODING_ERROR;
		t->in.length = (u8)MIN(need, 15u);
	}
	return status;
}
