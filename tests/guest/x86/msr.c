/*
 * One table of MSRs: values that stay, reserved bits, canonical addresses, MSRs that only a 64-bit
 * processor has, and values that a failed write leaves alone.
 * Sources: SDM "Model-Specific Registers", APM "MSR Cross-Reference".
 */
#include "x86/probe.h"

enum kind {
	ANY = 1,       /* keeps every value of `mask` */
	CANONICAL = 2, /* an address: others fault */
	RESERVED = 4,  /* bits outside the mask fault */
	READ_ONLY = 8,
	ONLY64 = 16, /* faults without CPUID.LM */
	ONLY_INTEL = 32,
	HIGH_FAULTS = 64, /* 32 bits wide */
};

static const struct row {
	u32 msr;
	const char *name;
	unsigned kind;
	u64 mask;
	int feature; /* -1: always there */
} rows[] = {
	{MSR_SYSENTER_CS, "SYSENTER_CS", ANY, 0xffff, FEATURE_SEP},
	{MSR_SYSENTER_ESP, "SYSENTER_ESP", CANONICAL, 0, FEATURE_SEP},
	{MSR_SYSENTER_EIP, "SYSENTER_EIP", CANONICAL, 0, FEATURE_SEP},
	{MSR_STAR, "STAR", ANY, ~0ull, FEATURE_SYSCALL},
	{MSR_LSTAR, "LSTAR", CANONICAL | ONLY64, 0, FEATURE_LM},
	{MSR_CSTAR, "CSTAR", CANONICAL | ONLY64, 0, FEATURE_LM},
	{MSR_SFMASK, "SFMASK", ANY | ONLY64, 0xffffffff, FEATURE_LM},
	{MSR_FS_BASE, "FS_BASE", CANONICAL | ONLY64, 0, FEATURE_LM},
	{MSR_GS_BASE, "GS_BASE", CANONICAL | ONLY64, 0, FEATURE_LM},
	{MSR_KERNEL_GS_BASE, "KERNEL_GS_BASE", CANONICAL | ONLY64, 0, FEATURE_LM},
	{MSR_TSC_AUX, "TSC_AUX", ANY | HIGH_FAULTS, 0xffffffff, FEATURE_RDTSCP},
	{MSR_TSC_ADJUST, "TSC_ADJUST", ANY, ~0ull, FEATURE_TSC_ADJUST},
	{0xfe, "MTRRCAP", READ_ONLY, 0, FEATURE_MTRR},
	{MSR_MCG_CAP, "MCG_CAP", READ_ONLY, 0, FEATURE_MCA},
	{0x250, "MTRR_FIX64K", ANY, 0, FEATURE_MTRR},
	{0x200, "MTRR_PHYSBASE0", ANY, 0xfffff000, FEATURE_MTRR},
};

static void canonical(const struct row *r, u64 old)
{
	static const u64 good[] = {0, 0x00007ffffffff123, 0xffff800000000000, 0xfffffffffffff000,
				   0x12345678};
	static const u64 bad[] = {0x8000000000000000, 0x0100000000000000, 0x7fffffffffffffff};
	struct cases c = {0};
	u64 v = 0;
	/* A 32-bit kernel loads FS and GS, and so their bases, when it returns from an exception. */
	bool seg = r->msr == MSR_FS_BASE || r->msr == MSR_GS_BASE;
	/* AMD cuts SYSENTER's addresses to 32 bits and faults on none. */
	bool cut = cpu_is_amd() && (r->msr == MSR_SYSENTER_ESP || r->msr == MSR_SYSENTER_EIP);

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		c.run++;
		if ((!HAS(LM) || cut) && good[i] >> 32)
			continue;
		if (msr_write(r->msr, good[i]) != -1 || msr_read(r->msr, &v) != -1 || v != good[i])
			fail_case(&c, "%s: wrote %llx, got %llx, vector %d", r->name,
				  (unsigned long long)good[i], (unsigned long long)v,
				  trap_vector());
	}
	report_cases(&c, r->name);
	if (!HAS(LM) || cut)
		return;
	msr_write(r->msr, 0x1234);
	c = (struct cases){0};
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		c.run++;
		if (msr_write(r->msr, bad[i]) != EXC_GP || msr_read(r->msr, &v) != -1 ||
		    (v != 0x1234 && (IS64 || !seg)))
			fail_case(&c, "%s: %llx was taken", r->name, (unsigned long long)bad[i]);
		msr_write(r->msr, 0x1234);
	}
	report(!c.failed, "%s: non-canonical addresses fault and change nothing", r->name);
}

static void any(const struct row *r, u64 old)
{
	static const u64 patterns[] = {0, 0x5a5a5a5a5a5a5a5a, ~0ull, 0x123456789abcdef0};
	struct cases c = {0};
	u64 v = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(patterns); i++) {
		u64 want = patterns[i] & r->mask;

		c.run++;
		if (msr_write(r->msr, want) != -1 || msr_read(r->msr, &v) != -1 || v != want)
			fail_case(&c, "%s: wrote %llx, got %llx, vector %d", r->name,
				  (unsigned long long)want, (unsigned long long)v, trap_vector());
	}
	report_cases(&c, r->name);
	if (r->kind & HIGH_FAULTS)
		report_eq(msr_write(r->msr, BIT64(32)), cpu_is_amd() ? -1 : EXC_GP, "%s: bit 32",
			  r->name);
}

static void row(const struct row *r)
{
	bool has = r->feature < 0 || cpu_has((enum feature)r->feature);
	u64 old, v;

	if (!has) {
		report_eq(msr_read(r->msr, &v), EXC_GP, "%s: not there, RDMSR faults", r->name);
		report_eq(msr_write(r->msr, 0), EXC_GP, "%s: not there, WRMSR faults", r->name);
		return;
	}
	if (!report(msr_read(r->msr, &old) == -1, "%s: readable", r->name))
		return;
	if (r->kind & READ_ONLY) {
		report_eq(msr_write(r->msr, old), EXC_GP, "%s: read-only", r->name);
		return;
	}
	if (r->kind & CANONICAL)
		canonical(r, old);
	else
		any(r, old);
	report(msr_write(r->msr, old) == -1 && msr_read(r->msr, &v) == -1 && v == old,
	       "%s: restored", r->name);
}

static void pat_mtrr(void)
{
	u64 old = rdmsr(MSR_PAT), v;

	report_eq(old, 0x0007040600070406, "PAT at reset");
	report_eq(msr_write(MSR_PAT, 0x0706050401000706), -1, "PAT: all types");
	report_eq(msr_write(MSR_PAT, 0x0706050401000702), EXC_GP, "PAT: type 2");
	report_eq(msr_write(MSR_PAT, 0x0806050401000706), EXC_GP, "PAT: type 8");
	wrmsr(MSR_PAT, old);
	v = rdmsr(MSR_MTRR_DEF);
	report_eq(msr_write(MSR_MTRR_DEF, 0xc02), EXC_GP, "MTRR default type 2");
	report_eq(msr_write(MSR_MTRR_DEF, 0x1c06), EXC_GP, "MTRR default: reserved bits");
	report_eq(rdmsr(MSR_MTRR_DEF), v, "MTRR default is as before");
	report_eq(msr_write(0x200, 2), EXC_GP, "MTRR_PHYSBASE0: type 2");
	report_eq(msr_write(0x250, 2), EXC_GP, "MTRR_FIX64K: type 2");
}

/* EFER's bits are those that CPUID has; the 32-bit kernel sets SCE as well. */
static void efer(void)
{
	u64 old = rdmsr(MSR_EFER), v;

	report(msr_write(MSR_EFER, old ^ EFER_SCE) == (HAS(SYSCALL) || HAS(LM) ? -1 : EXC_GP),
	       "EFER.SCE");
	report(msr_read(MSR_EFER, &v) == -1 &&
		       (v ^ old) == (HAS(SYSCALL) || HAS(LM) ? EFER_SCE : 0),
	       "EFER.SCE reads back");
	msr_write(MSR_EFER, old);
	if (!HAS(LM)) {
		report_eq(msr_write(MSR_EFER, old | EFER_LME), EXC_GP,
			  "EFER.LME without long mode");
		report_eq(msr_write(MSR_EFER, old | EFER_LMA), EXC_GP,
			  "EFER.LMA without long mode");
	}
	report_eq(rdmsr(MSR_EFER), old, "EFER is as before");
}

static void apic_base(void)
{
	u64 old = rdmsr(MSR_APIC_BASE);

	report(old & BIT64(8), "APIC_BASE: this is the boot processor");
	report_eq(msr_write(MSR_APIC_BASE, old | BIT64(cpu_maxphyaddr())), EXC_GP,
		  "APIC_BASE bit MAXPHYADDR");
	report_eq(msr_write(MSR_APIC_BASE, old | 1), EXC_GP, "APIC_BASE bit 0");
	report_eq(rdmsr(MSR_APIC_BASE), old, "APIC_BASE is as before");
}

#if IS64
static void bases(void)
{
	static u64 cell[2] = {0x1111, 0x2222};
	u64 v, gs = rdmsr(MSR_GS_BASE);

	wrmsr(MSR_FS_BASE, (ulong)&cell[0]);
	wrmsr(MSR_GS_BASE, (ulong)&cell[1]);
	__asm__ volatile("mov %%fs:0, %0" : "=r"(v));
	report_eq(v, 0x1111, "FS_BASE is used");
	__asm__ volatile("mov %%gs:0, %0" : "=r"(v));
	report_eq(v, 0x2222, "GS_BASE is used");
	wrmsr(MSR_KERNEL_GS_BASE, (ulong)&cell[0]);
	__asm__ volatile("swapgs; mov %%gs:0, %0; swapgs" : "=r"(v) : : "memory");
	report_eq(v, 0x1111, "SWAPGS");
	report_eq(rdmsr(MSR_GS_BASE), (ulong)&cell[1], "and back");
	__asm__ volatile("mov %0, %%fs" : : "r"(SEL_KDATA));
	report_eq(rdmsr(MSR_FS_BASE), 0, "loading FS clears its base");
	wrmsr(MSR_GS_BASE, 0x123456789000);
	report_eq(rdmsr(MSR_GS_BASE), 0x123456789000, "GS_BASE above 4 GiB");
	if (HAS(FSGSBASE)) {
		trap_clear();
		__asm__ volatile(TRY("rdfsbase %0") : "=r"(v));
		report_eq(trap_vector(), EXC_UD, "RDFSBASE without CR4.FSGSBASE");
		write_cr4(read_cr4() | CR4_FSGSBASE);
		__asm__ volatile("wrgsbase %0" : : "r"(0x7fff12345678ul));
		report_eq(rdmsr(MSR_GS_BASE), 0x7fff12345678, "WRGSBASE");
		__asm__ volatile("rdgsbase %0" : "=r"(v));
		report_eq(v, 0x7fff12345678, "RDGSBASE");
		__asm__ volatile("wrfsbase %k0" : : "r"(0x7fff87654321ul));
		report_eq(rdmsr(MSR_FS_BASE), 0x87654321, "WRFSBASE of 32 bits");
		trap_clear();
		__asm__ volatile(TRY("wrgsbase %0") : : "r"(1ul << 63));
		report_eq(trap_vector(), EXC_GP, "WRGSBASE is canonical");
		write_cr4(read_cr4() & ~(ulong)CR4_FSGSBASE);
	}
	wrmsr(MSR_GS_BASE, gs);
	if (HAS(RDTSCP)) {
		u32 aux;

		wrmsr(MSR_TSC_AUX, 0xabcd1234);
		__asm__ volatile("rdtscp" : "=c"(aux) : : "eax", "edx");
		report_eq(aux, 0xabcd1234, "RDTSCP reads TSC_AUX");
		if (HAS(RDPID)) {
			__asm__ volatile("rdpid %0" : "=r"(v));
			report_eq(v, 0xabcd1234, "RDPID reads TSC_AUX");
		}
	}
}
#endif

void test_main(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		row(&rows[i]);
	pat_mtrr();
	apic_base();
	efer();
#if IS64
	bases();
#endif
	{
		u64 v;

		/* The index is ECX: RCX's upper half does not count. */
#if IS64
		__asm__ volatile("rdmsr" : "=a"(v) : "c"(0xffffffff00000000ul | MSR_EFER) : "rdx");
		report_eq((u32)v, (u32)rdmsr(MSR_EFER), "RDMSR ignores RCX's upper half");
#else
		(void)v;
#endif
	}
}
