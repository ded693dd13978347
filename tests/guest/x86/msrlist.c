/*
 * Every MSR of the API's index list (KVM_GET_MSR_INDEX_LIST), one row each: its value after reset,
 * the bits that may be set, those whose setting faults, and that what was read can be written back.
 * The rows are from the manuals and from Linux's description of KVM's own MSRs; the engine's table
 * is only asked which MSRs there are, so that none is forgotten.
 *
 * Sources: SDM "Model-Specific Registers"; APM "MSR Cross-Reference"; Linux,
 * Documentation/virt/kvm/x86/msr.
 */
#include "x86/probe.h"

#define NO_RESET 1u /* firmware or the machine sets it before us */
#define RO	 2u /* writes fault */
#define COUNTS	 4u /* moves by itself */
#define CANON	 8u
#define INTEL	 16u
#define AMD	 32u
#define HIDDEN	 64u  /* the client's only: faults */
#define NO_BAD	 128u /* no bit faults */
#define IGNORED	 256u /* reads its constant whatever is written */

static const struct row {
	u32 msr;
	const char *name;
	int feature; /* -1: always there */
	unsigned flags;
	u64 reset, good, bad; /* a value to hold; a bit that faults */
} rows[] = {
	{0x10, "TSC", FEATURE_TSC, COUNTS | NO_BAD, 0, 0, 0},
	{0x11, "KVM wall clock, old", FEATURE_KVM_CLOCKSOURCE, NO_BAD, 0, 0, 0},
	{0x12, "KVM system time, old", FEATURE_KVM_CLOCKSOURCE, NO_BAD, 0, 0, 0},
	{0x34, "SMI_COUNT", -1, RO, 0, 0, 0},
	{0x3a, "FEATURE_CONTROL", -1, INTEL | NO_RESET, 0, 0, BIT64(40)},
	{0x3b, "TSC_ADJUST", FEATURE_TSC_ADJUST, NO_BAD | NO_RESET, 0, 0x12345678, 0},
	{0x48, "SPEC_CTRL", FEATURE_SPEC_CTRL, INTEL, 0, 1, BIT64(63)},
	{0x8b, "UCODE_REV", -1, NO_RESET | NO_BAD | IGNORED, 0, 0, 0},
	{0x9e, "SMBASE", -1, HIDDEN, 0, 0, 0},
	{0xce, "PLATFORM_INFO", -1, RO | NO_RESET, 0, 0, 0},
	{0x10a, "ARCH_CAPABILITIES", FEATURE_ARCH_CAPABILITIES, RO | NO_RESET, 0, 0, 0},
	{0x140, "MISC_FEATURES_ENABLES", -1, NO_RESET, 0, 0, BIT64(5)},
	{0x174, "SYSENTER_CS", FEATURE_SEP, NO_BAD, 0, 0x1234, 0},
	{0x175, "SYSENTER_ESP", FEATURE_SEP, CANON, 0, 0x12345678, 0},
	{0x176, "SYSENTER_EIP", FEATURE_SEP, CANON, 0, 0x12345678, 0},
	{0x17a, "MCG_STATUS", FEATURE_MCA, NO_BAD, 0, 0, 0},
	{0x17b, "MCG_CTL", FEATURE_MCA, NO_RESET | NO_BAD, 0, 0, 0},
	{0x1a0, "MISC_ENABLE", -1, NO_RESET | NO_BAD, 0, 0, 0},
	{0x1d9, "DEBUGCTL", -1, 0, 0, 0, BIT64(40)},
	{0x1fc, "POWER_CTL", -1, NO_RESET | NO_BAD, 0, 0, 0},
	{0x250, "MTRR_FIX64K_00000", FEATURE_MTRR, NO_RESET, 0, 0x0606060606060606, BIT64(3)},
	{0x258, "MTRR_FIX16K_80000", FEATURE_MTRR, NO_RESET, 0, 0x0506040100060606, BIT64(3)},
	{0x259, "MTRR_FIX16K_A0000", FEATURE_MTRR, NO_RESET, 0, 0, BIT64(7)},
	{0x268, "MTRR_FIX4K_C0000", FEATURE_MTRR, NO_RESET, 0, 0x0505050505050505, BIT64(3)},
	{0x269, "MTRR_FIX4K_C8000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(11)},
	{0x26a, "MTRR_FIX4K_D0000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(19)},
	{0x26b, "MTRR_FIX4K_D8000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(27)},
	{0x26c, "MTRR_FIX4K_E0000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(35)},
	{0x26d, "MTRR_FIX4K_E8000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(43)},
	{0x26e, "MTRR_FIX4K_F0000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(51)},
	{0x26f, "MTRR_FIX4K_F8000", FEATURE_MTRR, NO_RESET, 0, 6, BIT64(59)},
	{0x277, "PAT", FEATURE_PAT, NO_RESET, 0, 0x0007040600070406, BIT64(3)},
	{0x2ff, "MTRR_DEF_TYPE", FEATURE_MTRR, NO_RESET, 0, 0xc06, BIT64(9)},
	{0x345, "PERF_CAPABILITIES", FEATURE_PDCM, RO | NO_RESET, 0, 0, 0},
	{0x480, "VMX_BASIC", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x485, "VMX_MISC", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x486, "VMX_CR0_FIXED0", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x488, "VMX_CR4_FIXED0", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48a, "VMX_VMCS_ENUM", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48b, "VMX_PROCBASED_CTLS2", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48c, "VMX_EPT_VPID_CAP", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48d, "VMX_TRUE_PINBASED_CTLS", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48e, "VMX_TRUE_PROCBASED_CTLS", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x48f, "VMX_TRUE_EXIT_CTLS", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x490, "VMX_TRUE_ENTRY_CTLS", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x491, "VMX_VMFUNC", FEATURE_VMX, INTEL | RO | NO_RESET, 0, 0, 0},
	{0x4d0, "MCG_EXT_CTL", FEATURE_MCA, INTEL | NO_RESET | NO_BAD, 0, 0, 0},
	{0x6e0, "TSC_DEADLINE", FEATURE_TSC_DEADLINE, NO_BAD, 0, 0, 0},
	{0x6e1, "PKRS", FEATURE_PKS, 0, 0, 0x55555550, BIT64(32)},
	{0xda0, "XSS", FEATURE_XSAVES, 0, 0, 0, BIT64(63)},
	{0x4b564d00, "KVM wall clock", FEATURE_KVM_CLOCKSOURCE2, NO_BAD, 0, 0, 0},
	{0x4b564d01, "KVM system time", FEATURE_KVM_CLOCKSOURCE2, NO_BAD, 0, 0, 0},
	{0x4b564d02, "KVM asynchronous faults", FEATURE_KVM_ASYNC_PF, 0, 0, 0, BIT64(4)},
	{0x4b564d03, "KVM steal time", FEATURE_KVM_STEAL_TIME, 0, 0, 0, BIT64(1)},
	{0x4b564d04, "KVM PV EOI", FEATURE_KVM_PV_EOI, 0, 0, 0, BIT64(1)},
	{0x4b564d05, "KVM poll control", FEATURE_KVM_POLL_CONTROL, 0, 1, 0, BIT64(1)},
	{0x4b564d06, "KVM asynchronous faults, vector", FEATURE_KVM_ASYNC_PF_INT, 0, 0, 0xf3,
	 BIT64(8)},
	{0xc0000080, "EFER", -1, NO_RESET, 0, 0, BIT64(1)},
	{0xc0000081, "STAR", FEATURE_SYSCALL, NO_BAD, 0, 0x123456789abcdef0, 0},
	{0xc0000082, "LSTAR", FEATURE_LM, CANON, 0, 0xffff800012345678, 0},
	{0xc0000083, "CSTAR", FEATURE_LM, CANON, 0, 0xffff800012345678, 0},
	{0xc0000084, "SFMASK", FEATURE_LM, NO_BAD, 0, 0x47700, 0},
	{0xc0000102, "KERNEL_GS_BASE", FEATURE_LM, CANON, 0, 0xffff800012345678, 0},
	{0xc0000103, "TSC_AUX", FEATURE_RDTSCP, NO_BAD, 0, 0x12345678, 0},
	{0xc0000104, "AMD TSC ratio", FEATURE_SVM_TSC_RATE, AMD, 0x100000000, 0x100000000,
	 BIT64(40)},
	{0xc0010015, "HWCR", -1, AMD | NO_RESET, 0, 0, BIT64(45)},
	{0xc0010117, "VM_HSAVE_PA", FEATURE_SVM, AMD, 0, 0x1000, BIT64(0)},
	{0xc001011f, "VIRT_SPEC_CTRL", FEATURE_VIRT_SSBD, AMD, 0, 4, BIT64(63)},
	{0xc0010140, "OSVW_ID_LENGTH", FEATURE_OSVW, AMD | RO | NO_RESET, 0, 0, 0},
	{0xc0010141, "OSVW_STATUS", FEATURE_OSVW, AMD | RO | NO_RESET, 0, 0, 0},
	{0xc0011029, "DE_CFG", -1, AMD | NO_RESET | NO_BAD, 0, 0, 0},
};

static void variable_mtrrs(void)
{
	unsigned n = (unsigned)(rdmsr(0xfe) & 0xff);
	struct cases c = {0};
	u64 v = 0;

	for (u32 i = 0; i < 2 * n; i++) {
		u64 old = 0, want = i & 1 ? 0xfffff800 : 0x80000006;

		c.run++;
		if (msr_read(0x200 + i, &old) != -1 || msr_write(0x200 + i, want) != -1 ||
		    msr_read(0x200 + i, &v) != -1 || v != want ||
		    msr_write(0x200 + i, want | BIT64(i & 1 ? 0 : 9)) != EXC_GP ||
		    msr_write(0x200 + i, BIT64(63)) != EXC_GP || msr_read(0x200 + i, &v) != -1 ||
		    v != want || msr_write(0x200 + i, old) != -1)
			fail_case(&c, "MSR %x: %llx", 0x200 + i, (unsigned long long)v);
	}
	report_cases(&c, "the variable MTRRs");
	report_eq((u64)(s64)msr_read(0x200 + 2 * n, &v), EXC_GP, "the one after the last");
}

/* ---- performance counters: as many as CPUID says ---- */

static const struct {
	u32 first, count;
} counter_msrs[] = {{0xc1, 8},	{0x186, 8},	 {0x309, 3},
		    {0x38d, 4}, {0xc0010000, 8}, {0xc0010200, 12}};

static void holds(u32 msr, u64 value)
{
	u64 old = 0, v = 0;

	report(msr_read(msr, &old) == -1 && msr_write(msr, value) == -1 &&
		       msr_read(msr, &v) == -1 && v == value && msr_write(msr, old) == -1,
	       "counter MSR %x holds a value", msr);
}

static void counters(void)
{
	struct cpuid c = {0};
	unsigned n;

	if (cpu_is_intel() && cpuid(0, 0).a >= 0xa)
		c = cpuid(0xa, 0);
	n = (c.a >> 8) & 0xff;
	for (unsigned i = 0; (c.a & 0xff) && i < n && i < 8; i++) {
		holds(0xc1 + i, 0x12345678);
		holds(0x186 + i, 0x300c0);
		report(msr_write(0x186 + i, BIT64(40)) == EXC_GP,
		       "counter MSR %x: reserved bits fault", 0x186 + i);
	}
	if ((c.a & 0xff) >= 2) {
		for (unsigned i = 0; i < (c.d & 31) && i < 3; i++)
			holds(0x309 + i, 0x12345678);
		holds(0x38d, 0);
		report(msr_write(0x38d, BIT64(63)) == EXC_GP,
		       "counter MSR 38d: reserved bits fault");
		report(msr_write(0x38e, 0) == EXC_GP, "counter MSR 38e: read-only");
		holds(0x38f, 0);
		report(msr_write(0x38f, BIT64(63)) == EXC_GP,
		       "counter MSR 38f: reserved bits fault");
		report(msr_write(0x390, 0) == -1, "counter MSR 390 takes 0");
	}
	if (!cpu_is_amd() || !HAS(PERFCTR_CORE))
		return;
	for (u32 i = 0; i < 4; i++) {
		holds(0xc0010000 + i, 0x300c0);
		holds(0xc0010004 + i, 0x12345678);
	}
	for (u32 i = 0; i < 6; i++) {
		holds(0xc0010200 + 2 * i, 0x300c0);
		holds(0xc0010201 + 2 * i, 0x12345678);
	}
}

static void row(const struct row *r)
{
	u64 old = 0, v = 0;

	if ((r->flags & INTEL && !cpu_is_intel()) || (r->flags & AMD && !cpu_is_amd()) ||
	    (r->feature >= 0 && !cpu_has((enum feature)r->feature)))
		return;
	if (r->msr == 0x3b && !HAS(TSC_ADJUST))
		return;
	if (msr_read(r->msr, &old) != -1) {
		if (r->flags & HIDDEN)
			report(true, "%s: hidden", r->name);
		else if (r->msr == 0x17b || r->msr == 0x4d0) /* only with their bits of MCG_CAP */
			report(msr_write(r->msr, 0) == EXC_GP, "%s: not there", r->name);
		else
			report(false, "%s: readable", r->name);
		return;
	}
	report(!(r->flags & HIDDEN), "%s: readable", r->name);
	if (!(r->flags & (NO_RESET | COUNTS | RO)))
		report_eq(old, r->reset, "%s: after reset", r->name);
	if (r->flags & RO) {
		report(msr_write(r->msr, old) == EXC_GP, "%s: read-only", r->name);
		report(msr_read(r->msr, &v) == -1 && v == old, "%s: as before", r->name);
		return;
	}
	if (r->good) {
		/* AMD's SYSENTER addresses, and everybody's in 32 bits, end at bit 31. */
		u64 want = r->good;

		report(msr_write(r->msr, want) == -1 && msr_read(r->msr, &v) == -1 && v == want,
		       "%s: holds a value", r->name);
		if (v != want)
			note("wrote %llx, read %llx", (unsigned long long)want,
			     (unsigned long long)v);
	}
	if (r->flags & CANON && !(cpu_is_amd() && r->msr < 0xc0000000) && HAS(LM)) {
		msr_read(r->msr, &v);
		report(msr_write(r->msr, BIT64(63)) == EXC_GP &&
			       msr_write(r->msr, 0x00ffffffffffffff) == EXC_GP,
		       "%s: addresses are canonical", r->name);
		report(msr_read(r->msr, &old) == -1 && old == v, "%s: as before", r->name);
		old = 0;
	} else if (r->bad) {
		msr_read(r->msr, &v);
		report(msr_write(r->msr, v | r->bad) == EXC_GP, "%s: reserved bits fault", r->name);
		{
			u64 now = ~v;

			report(msr_read(r->msr, &now) == -1 && now == v, "%s: and change nothing",
			       r->name);
		}
	}
	if (r->flags & COUNTS)
		return;
	report(msr_write(r->msr, old) == -1 && msr_read(r->msr, &v) == -1 && v == old,
	       "%s: restored", r->name);
	if (r->msr == 0x3b) /* the TSC has moved by what we wrote */
		msr_write(r->msr, 0);
}

/* ---- the API's list, from the engine's table: nothing is missing here ---- */

enum list { HIDE = 0, SAVE = 1, FEAT = 2, BOTH = 3 };
static const struct {
	u32 first;
	u16 count;
	u8 list;
} listed[] = {
#define MSR(index, name, vendors, list, ...)		  {index, 1, list},
#define MSR_STORE(index, name, vendors, list, ...)	  {index, 1, list},
#define MSR_FN(first, count, name, vendors, list, ...)	  {first, count, list},
#define MSR_CONST(index, name, vendors, list, ...)	  {index, 1, list},
#define MSR_ABOVE(first, count, name, vendors, list, ...) {first, count, list},
#include "cpu/msr.def"
};

static void complete(void)
{
	struct cases c = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(listed); i++)
		for (u32 at = 0; (listed[i].list & SAVE) && at < listed[i].count; at++) {
			u32 msr = listed[i].first + at;
			bool found = msr >= 0x200 && msr < 0x210; /* variable_mtrrs() */

			for (unsigned k = 0; k < ARRAY_SIZE(rows); k++)
				found |= rows[k].msr == msr;
			for (unsigned k = 0; k < ARRAY_SIZE(counter_msrs); k++)
				found |= msr - counter_msrs[k].first < counter_msrs[k].count;
			c.run++;
			if (!found)
				fail_case(&c, "MSR %x is in the API's list and has no row here",
					  msr);
		}
	report_cases(&c, "every MSR of the API's list has a row");
}

void test_main(void)
{
	cli();
	complete();
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		row(&rows[i]);
	if (HAS(MTRR))
		variable_mtrrs();
	counters();
}
