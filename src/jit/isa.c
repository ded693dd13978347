/*
 * isa.c - may the guest execute this instruction now?
 *
 * The host could run it, but the guest's CPUID may not offer it, or CR0, CR4 and XCR0 may not
 * enable it (decision D7).
 */
#include "cpu/feature.h"
#include "jit/jit_internal.h"

static const u32 required[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
#define ISA(set, feature) [ZYDIS_ISA_SET_##set] = X86_FEATURE_##feature,
#include "jit/isa.def"
#undef ISA
};

/* Extensions that neither the translator nor C implements, and that CPUID never offers. */
static bool never(const ZydisDecodedInstruction *in)
{
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW:
	case ZYDIS_ISA_EXT_AMD_INVLPGB:
	case ZYDIS_ISA_EXT_AMX_BF16:
	case ZYDIS_ISA_EXT_AMX_INT8:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_ENQCMD:
	case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
	case ZYDIS_ISA_EXT_KNC:
	case ZYDIS_ISA_EXT_KNCE:
	case ZYDIS_ISA_EXT_KNCV:
	case ZYDIS_ISA_EXT_MOVDIR:
	case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_PT:
	case ZYDIS_ISA_EXT_SGX:
	case ZYDIS_ISA_EXT_SGX_ENCLV:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_TSX_LDTRK:
	case ZYDIS_ISA_EXT_UINTR:
	case ZYDIS_ISA_EXT_WAITPKG:
	case ZYDIS_ISA_EXT_MONITORX:
	case ZYDIS_ISA_EXT_RTM:
		return true;
	default:
		return false;
	}
}

/* Which register file it works on. */
enum unit { UNIT_NONE, UNIT_X87, UNIT_MMX, UNIT_SSE, UNIT_AVX, UNIT_AVX512, UNIT_WAIT };

static bool uses(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
		 bool (*is)(ZydisRegister))
{
	for (unsigned i = 0; i < in->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is(op[i].reg.value))
			return true;
	return false;
}

static enum unit unit_of(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	if (in->mnemonic == ZYDIS_MNEMONIC_FWAIT)
		return UNIT_WAIT;
	switch (in->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		return UNIT_AVX512;
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
	case ZYDIS_INSTRUCTION_ENCODING_XOP:
		if (in->meta.isa_ext == ZYDIS_ISA_EXT_BMI1 ||
		    in->meta.isa_ext == ZYDIS_ISA_EXT_BMI2 || in->meta.isa_ext == ZYDIS_ISA_EXT_TBM)
			return UNIT_NONE;
		return in->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX ? UNIT_AVX512 : UNIT_AVX;
	default:
		break;
	}
	if (in->meta.isa_ext == ZYDIS_ISA_EXT_X87 || in->mnemonic == ZYDIS_MNEMONIC_FISTTP ||
	    in->meta.isa_set == ZYDIS_ISA_SET_FCMOV)
		return UNIT_X87;
	if (uses(in, op, jit_is_xmm))
		return UNIT_SSE;
	if (in->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || in->mnemonic == ZYDIS_MNEMONIC_STMXCSR)
		return UNIT_SSE;
	if (uses(in, op, jit_is_mmx) || in->mnemonic == ZYDIS_MNEMONIC_EMMS)
		return UNIT_MMX;
	return UNIT_NONE;
}

/* PREFETCHW's opcode with a register is undefined on AMD, a NOP on Intel. */
static bool prefetch_opcode(const ZydisDecodedInstruction *in)
{
	return in->opcode_map == ZYDIS_OPCODE_MAP_0F && in->opcode == 0x0d;
}

bool jit_isa_always(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	return !required[in->meta.isa_set] && !never(in) && in->meta.isa_ext != ZYDIS_ISA_EXT_CET &&
	       in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && !prefetch_opcode(in) &&
	       unit_of(in, op) == UNIT_NONE;
}

unsigned jit_isa_check(const struct cpu *cpu, u32 mode, const ZydisDecodedInstruction *in,
		       const ZydisDecodedOperand *op)
{
	u32 need = required[in->meta.isa_set];

	/* Without CET, ENDBR and RDSSP are NOPs and the rest does not exist. */
	if (in->meta.isa_ext == ZYDIS_ISA_EXT_CET)
		return in->mnemonic == ZYDIS_MNEMONIC_ENDBR32 ||
				       in->mnemonic == ZYDIS_MNEMONIC_ENDBR64 ||
				       in->mnemonic == ZYDIS_MNEMONIC_RDSSPD ||
				       in->mnemonic == ZYDIS_MNEMONIC_RDSSPQ
			       ? CPU_OP_NONE
			       : CPU_OP_UD;
	if (cpu->vendor == CPU_VENDOR_AMD && prefetch_opcode(in) && in->raw.modrm.mod == 3)
		return CPU_OP_UD;
	if (never(in) || (need && !cpu_has(cpu, need)))
		return CPU_OP_UD;
	/* A 128- or 256-bit EVEX form needs VL beside its own feature. */
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && in->avx.vector_length != 512 &&
	    !cpu_has(cpu, X86_FEATURE_AVX512VL)) {
		const char *set = ZydisISASetGetString(in->meta.isa_set);
		size_t n = 0;

		while (set[n])
			n++;
		/* the sets of scalar forms end in SCALAR or 128N */
		if (n > 3 && (set[n - 1] == '8' || set[n - 1] == '6'))
			return CPU_OP_UD;
	}
	switch (unit_of(in, op)) {
	case UNIT_WAIT:
		return (mode & MODE_MP) && (mode & MODE_TS) ? CPU_OP_NM : CPU_OP_NONE;
	case UNIT_X87:
		return mode & (MODE_EM | MODE_TS) ? CPU_OP_NM : CPU_OP_NONE;
	case UNIT_MMX:
		if (mode & MODE_EM)
			return CPU_OP_UD;
		break;
	case UNIT_SSE:
		if ((mode & MODE_EM) || !(mode & MODE_SSE))
			return CPU_OP_UD;
		break;
	case UNIT_AVX:
		if (!(mode & MODE_AVX))
			return CPU_OP_UD;
		break;
	case UNIT_AVX512:
		if (!(mode & MODE_AVX512))
			return CPU_OP_UD;
		break;
	default:
		return CPU_OP_NONE;
	}
	return mode & MODE_TS ? CPU_OP_NM : CPU_OP_NONE;
}
