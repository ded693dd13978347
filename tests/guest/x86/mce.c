/*
 * Machine check as far as a guest sees it: the banks' registers, CR4.MCE, the exception's gate.
 * (Injected errors: tests/api, since only the machine's owner can cause them.)
 * Source: SDM "Machine-Check Architecture", APM "Machine Check Architecture".
 */
#include "x86/paging.h"

#define MCG_CTL 0x17b
#define BANK(n) (0x400u + 4 * (n))
#define HWCR 0xc0010015u

static int rd(u32 msr, u64 *v)
{
	u32 lo = 0, hi = 0;

	trap_clear();
	__asm__ volatile(TRY("rdmsr") : "+a"(lo), "=d"(hi) : "c"(msr) : "memory");
	*v = (u64)hi << 32 | lo;
	return trap_vector();
}
static int wr(u32 msr, u64 v)
{
	trap_clear();
	__asm__ volatile(TRY("wrmsr") : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
	return trap_vector();
}

static void bank(unsigned n)
{
	u64 v = 0, old = 0;

	if (!report(rd(BANK(n), &old) == -1, "bank %u: CTL", n))
		return;
	report(wr(BANK(n), 0) == -1 && rd(BANK(n), &v) == -1 && !v, "bank %u: CTL takes 0", n);
	report(wr(BANK(n), ~0ull) == -1 && rd(BANK(n), &v) == -1 && v, "bank %u: CTL takes all ones", n);
	wr(BANK(n), old);
	report(rd(BANK(n) + 1, &v) == -1 && !(v >> 63), "bank %u: STATUS holds no error", n);
	report_eq((u64)(s64)wr(BANK(n) + 1, 0), ~0ull, "bank %u: STATUS takes 0", n);
	report_eq((u64)(s64)wr(BANK(n) + 1, 1), EXC_GP, "bank %u: STATUS takes nothing else", n);
	report(rd(BANK(n) + 1, &v) == -1 && !v, "bank %u: and is as before", n);
}

static void status_write(void)
{
	u64 hwcr = 0, v = 0;

	/* AMD: HWCR.McStatusWrEn lets software write errors, to test its handlers. */
	if (!cpu_is_amd() || rd(HWCR, &hwcr) != -1 || wr(HWCR, hwcr | BIT64(18)) != -1) {
		report_skip("McStatusWrEn");
		return;
	}
	report_eq((u64)(s64)wr(BANK(0) + 1, 0x8000000000000135), ~0ull, "McStatusWrEn: STATUS can be written");
	rd(BANK(0) + 1, &v);
	report_eq(v, 0x8000000000000135, "and holds it");
	wr(BANK(0) + 1, 0);
	wr(HWCR, hwcr);
}

static volatile u32 taken;
static void on_mc(struct regs *r)
{
	taken++;
}

void test_main(void)
{
	u64 cap = 0, v = 0;
	unsigned banks;

	if (!HAS(MCE) || !HAS(MCA)) {
		report_skip("no machine check");
		return;
	}
	write_cr4(read_cr4() | CR4_MCE);
	report(read_cr4() & CR4_MCE, "CR4.MCE");
	report_eq((u64)(s64)rd(MSR_MCG_CAP, &cap), ~0ull, "MCG_CAP");
	banks = cap & 0xff;
	note("%u banks, MCG_CAP %llx", banks, (unsigned long long)cap);
	report(banks >= 1 && banks <= 32, "1 to 32 banks");
	report(rd(MSR_MCG_STATUS, &v) == -1 && !(v & 4), "MCG_STATUS: nothing in progress");
	report(wr(MSR_MCG_STATUS, 0) == -1, "MCG_STATUS takes 0");
	if (cap & BIT(8)) {
		report(wr(MCG_CTL, 0) == -1 && wr(MCG_CTL, ~0ull) == -1, "MCG_CTL takes 0 and all ones");
	} else {
		report(rd(MCG_CTL, &v) == EXC_GP && wr(MCG_CTL, 0) == EXC_GP, "MCG_CTL: not there");
	}
	for (unsigned i = 0; i < banks && i < 32; i += i ? banks - 1 > i ? banks - 1 - i : 1 : 1)
		bank(i);
	if (banks < 32) {
		report_eq((u64)(s64)rd(BANK(banks), &v), EXC_GP, "the bank after the last: RDMSR");
		report_eq((u64)(s64)wr(BANK(banks), 0), EXC_GP, "the bank after the last: WRMSR");
	}
	status_write();
	irq_set(EXC_MC, on_mc);
	trap_clear();
	__asm__ volatile(TRY("int $18"));
	report(trap_vector() == EXC_MC, "INT 18 goes through its gate");
	write_cr4(read_cr4() & ~(ulong)CR4_MCE);
}
