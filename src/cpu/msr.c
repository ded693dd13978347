/*
 * msr.c - the table of MSRs and who may read and write what
 */
#include "base/mem.h"
#include "cpu/feature.h"
#include "cpu/insn.h"
#include "cpu/msr_internal.h"
#include "cpu/vmx.h"

enum vendors { ANY, INTEL, AMD };
enum list { HIDE = 0, SAVE = 1, FEAT = 2, BOTH = 3 };
enum check { MASK, TRUNC, CANON, RO, HOST, QUIET };
enum kind { KIND_FIELD, KIND_FN, KIND_CONST, KIND_ABOVE };
#define X86_FEATURE_NONE (-1)

/* Places of MSR_STORE rows in cpu->msr_store[]. */
enum {
#define MSR_STORE(index, name, vendors, list, feature, reset, check, mask) STORE_##name,
#include "cpu/msr.def"
	STORE_COUNT,
};
_Static_assert(STORE_COUNT <= ARRAY_SIZE(((struct cpu *)0)->msr_store), "cpu->msr_store too small");

static const struct msr_row {
	u32 first, count;
	const char *name;
	u8 vendors, list, kind, check;
	int feature;
	u32 offset; /* in struct cpu */
	u64 value;  /* at reset, or always */
	u64 mask;
	msr_get_fn get;
	msr_set_fn set;
} rows[] = {
#define MSR(index, name, vendors, list, feature, field, reset, check, mask) \
	{index,                                                             \
	 1,                                                                 \
	 #name,                                                             \
	 vendors,                                                           \
	 list,                                                              \
	 KIND_FIELD,                                                        \
	 check,                                                             \
	 X86_FEATURE_##feature,                                             \
	 offsetof(struct cpu, field),                                       \
	 reset,                                                             \
	 mask,                                                              \
	 NULL,                                                              \
	 NULL},
#define MSR_STORE(index, name, vendors, list, feature, reset, check, mask) \
	{index,                                                            \
	 1,                                                                \
	 #name,                                                            \
	 vendors,                                                          \
	 list,                                                             \
	 KIND_FIELD,                                                       \
	 check,                                                            \
	 X86_FEATURE_##feature,                                            \
	 offsetof(struct cpu, msr_store[STORE_##name]),                    \
	 reset,                                                            \
	 mask,                                                             \
	 NULL,                                                             \
	 NULL},
#define MSR_FN(first, count, name, vendors, list, feature, get, set)                          \
	{first, count, #name, vendors,	     list,	   KIND_FN, 0, X86_FEATURE_##feature, \
	 0,	0,     0,     msr_get_##get, msr_set_##set},
#define MSR_CONST(index, name, vendors, list, feature, value)                      \
	{index, 1,     #name, vendors, list, KIND_CONST, 0, X86_FEATURE_##feature, \
	 0,	value, 0,     NULL,    NULL},
#define MSR_ABOVE(first, count, name, vendors, list, feature)                      \
	{first, count, #name, vendors, list, KIND_ABOVE, 0, X86_FEATURE_##feature, \
	 0,	0,     0,     NULL,    NULL},
#include "cpu/msr.def"
};

static const struct msr_row *row_find(u32 index)
{
	unsigned lo = 0, hi = ARRAY_SIZE(rows);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (index < rows[mid].first)
			hi = mid;
		else if (index - rows[mid].first >= rows[mid].count)
			lo = mid + 1;
		else
			return &rows[mid];
	}
	return NULL;
}

static bool row_of_vendor(const struct msr_row *r, enum cpu_vendor vendor)
{
	return r->vendors == ANY || (r->vendors == AMD) == (vendor == CPU_VENDOR_AMD);
}

static bool row_visible(const struct cpu *cpu, const struct msr_row *r)
{
	return row_of_vendor(r, cpu->vendor) &&
	       (r->feature < 0 || cpu_has(cpu, (enum cpu_feature)r->feature));
}

bool cpu_msr_known(const struct cpu *cpu, u32 index)
{
	const struct msr_row *r = row_find(index);

	return r && row_visible(cpu, r);
}

const char *cpu_msr_name(u32 index)
{
	const struct msr_row *r = row_find(index);

	return r ? r->name : NULL;
}

static u64 *row_field(struct cpu *cpu, const struct msr_row *r)
{
	return (u64 *)((u8 *)cpu + r->offset);
}

int cpu_msr_read(struct cpu *cpu, u32 index, u64 *value, bool host)
{
	const struct msr_row *r = row_find(index);

	if (!r || r->kind == KIND_ABOVE || (!host && !row_visible(cpu, r)))
		return 1;
	switch (r->kind) {
	case KIND_CONST:
		*value = r->value;
		return 0;
	case KIND_FN:
		return r->get(cpu, index - r->first, index, value, host);
	default:
		if (r->check == HOST && !host)
			return 1;
		*value = *row_field(cpu, r);
		return 0;
	}
}

static int field_write(struct cpu *cpu, const struct msr_row *r, u64 value, bool host)
{
	switch (r->check) {
	case CANON:
		if (!cpu_is_canonical(cpu, value))
			return 1;
		break;
	case TRUNC:
		value &= r->mask;
		break;
	case QUIET:
		if (!host)
			return 0;
		break;
	case RO:
	case HOST:
		if (!host)
			return 1;
		break;
	}
	if (r->check != CANON && (value & ~r->mask))
		return 1;
	*row_field(cpu, r) = value;
	return 0;
}

int cpu_msr_write(struct cpu *cpu, u32 index, u64 value, bool host)
{
	const struct msr_row *r = row_find(index);

	if (!r || r->kind == KIND_ABOVE || (!host && !row_visible(cpu, r)))
		return 1;
	switch (r->kind) {
	case KIND_CONST:
		return 0;
	case KIND_FN:
		return r->set(cpu, index - r->first, index, value, host);
	default:
		return field_write(cpu, r, value, host);
	}
}

static unsigned list_rows(enum cpu_vendor vendor, enum list which, u32 *out, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!(rows[i].list & which) || !row_of_vendor(&rows[i], vendor))
			continue;
		for (unsigned at = 0; at < rows[i].count; at++, n++)
			if (n < max)
				out[n] = rows[i].first + at;
	}
	return n;
}

unsigned cpu_msr_list(enum cpu_vendor vendor, u32 *out, unsigned max)
{
	return list_rows(vendor, SAVE, out, max);
}

unsigned cpu_msr_feature_list(enum cpu_vendor vendor, u32 *out, unsigned max)
{
	return list_rows(vendor, FEAT, out, max);
}

#define UCODE_REV_AMD 0x01000065ull

static u64 row_reset_value(const struct msr_row *r, enum cpu_vendor vendor)
{
	if (r->offset == offsetof(struct cpu, ucode_rev) && vendor == CPU_VENDOR_AMD)
		return UCODE_REV_AMD;
	if (r->offset == offsetof(struct cpu, pmu.caps) && vendor == CPU_VENDOR_AMD)
		return 0;
	return r->value;
}

int cpu_msr_feature_read(enum cpu_vendor vendor, u32 index, u64 *value)
{
	const struct msr_row *r = row_find(index);

	if (!r || !(r->list & FEAT) || !row_of_vendor(r, vendor))
		return 1;
	if (r->get == msr_get_vmx) {
		*value = vmx_msr_default((enum vmx_msr)(index - MSR_VMX_FIRST));
		return 0;
	}
	*value = row_reset_value(r, vendor);
	return 0;
}

void cpu_msr_reset(struct cpu *cpu)
{
	u64 efer = cpu->efer;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].kind == KIND_FIELD)
			*row_field(cpu, &rows[i]) = row_reset_value(&rows[i], cpu->vendor);
	cpu->efer = efer; /* cpu_reset()'s business */
	for (unsigned i = 0; i < CPU_VMX_MSRS; i++)
		cpu->vmx_msr[i] = vmx_msr_default((enum vmx_msr)i);
	if (!cpu->pmu.enabled)
		cpu->pmu.caps = 0;
	cpu_pmu_reset(cpu);
	cpu->pat = 0x0007040600070406ull;
	cpu->tsc_aux = cpu->tsc_adjust = 0;
	cpu->misc_enable = 0x1801; /* fast strings; no BTS, no PEBS */
	cpu->mtrr_def_type = 0;
	mem_set(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
	mem_set(cpu->mtrr_var, 0, sizeof(cpu->mtrr_var));
	cpu->spec_ctrl = cpu->misc_features_enables = cpu->debugctl = cpu->feature_control = 0;
	cpu->sysenter_esp = cpu->sysenter_eip = 0;
	cpu->hwcr = BIT64(24); /* the TSC counts at P0's frequency */
	cpu->s_cet = cpu->u_cet = 0;
	cpu->mcg_ctl = cpu->mcg_cap & BIT64(8) ? ~0ull : 0;
	cpu->mcg_ext_ctl = 0;
	for (unsigned i = 0; i < 32; i++) {
		cpu->mce_ctl2[i] = 0;
		cpu->mce_bank[4 * i] = ~0ull;
		cpu->mce_bank[4 * i + 1] = cpu->mce_bank[4 * i + 2] = cpu->mce_bank[4 * i + 3] = 0;
	}
	cpu->pkrs = 0;
}

/* --- the instructions --------------------------------------------------------------------------- */

/*
 * An access that user space answered: the instruction runs again and finds the result in
 * cpu->exit.msr. True when it did.
 */
static bool answered(struct cpu *cpu, u32 index)
{
	if (LIKELY(!cpu->msr_ready))
		return false;
	cpu->msr_ready = false;
	return cpu->exit.msr.index == index;
}

static void trace_msr(struct cpu *cpu, const char *what, u32 index, u64 value, bool fault)
{
	TRACE(cpu->trace, kvm_msr, cpu->index, TRACE_STRING(what), index, value,
	      TRACE_STRING(fault ? " (#GP)" : ""));
}

int insn_rdmsr(struct cpu *cpu, const struct cpu_insn *in)
{
	u32 index = (u32)cpu->gpr[RCX];
	bool handled = false;
	u64 value = 0;
	int ret;

	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (answered(cpu, index)) {
		if (cpu->msr_error)
			return cpu_raise_err(cpu, EXC_GP, 0);
		value = cpu->exit.msr.data;
		handled = true;
	} else if (cpu->ops && cpu->ops->msr_read) {
		ret = cpu->ops->msr_read(cpu, index, &value, &handled);
		if (ret)
			return ret;
	}
	if (!handled && cpu_msr_read(cpu, index, &value, false)) {
		trace_msr(cpu, "read", index, 0, true);
		return cpu_raise_err(cpu, EXC_GP, 0);
	}
	trace_msr(cpu, "read", index, value, false);
	cpu->gpr[RAX] = (u32)value;
	cpu->gpr[RDX] = value >> 32;
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

int insn_wrmsr(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 value = (u32)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;
	u32 index = (u32)cpu->gpr[RCX];
	bool handled = false;
	int ret;

	if (cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (answered(cpu, index)) {
		if (cpu->msr_error)
			return cpu_raise_err(cpu, EXC_GP, 0);
		handled = true;
	} else if (cpu->ops && cpu->ops->msr_write) {
		ret = cpu->ops->msr_write(cpu, index, value, &handled);
		if (ret)
			return ret;
	}
	if (!handled && cpu_msr_write(cpu, index, value, false)) {
		trace_msr(cpu, "write", index, value, true);
		return cpu_raise_err(cpu, EXC_GP, 0);
	}
	trace_msr(cpu, "write", index, value, false);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
