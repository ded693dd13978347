/*
 * Machine check: the banks' registers, CR4.MCE, the exception's gate; errors that the VMM injects
 * (KVM_X86_SET_MCE, on anykvm and on a real KVM): what banks keep, #MC and its handler, overflow,
 * CMCI, and the shutdown of a machine that cannot take one (CR4.MCE clear, MCIP still set).
 * Source: SDM "Machine-Check Architecture", APM "Machine Check Architecture".
 */
#include "x86/apic.h"
#include "x86/paging.h"
#include "x86/probe.h"

#define MCG_CTL 0x17b
#define BANK(n) (0x400u + 4 * (n))
#define HWCR	0xc0010015u

static void bank(unsigned n)
{
	u64 v = 0, old = 0;

	if (!report(msr_read(BANK(n), &old) == -1, "bank %u: CTL", n))
		return;
	report(msr_write(BANK(n), 0) == -1 && msr_read(BANK(n), &v) == -1 && !v,
	       "bank %u: CTL takes 0", n);
	report(msr_write(BANK(n), ~0ull) == -1 && msr_read(BANK(n), &v) == -1 && v,
	       "bank %u: CTL takes all ones", n);
	msr_write(BANK(n), old);
	report(msr_read(BANK(n) + 1, &v) == -1 && !(v >> 63), "bank %u: STATUS holds no error", n);
	report_eq((u64)(s64)msr_write(BANK(n) + 1, 0), ~0ull, "bank %u: STATUS takes 0", n);
	report_eq((u64)(s64)msr_write(BANK(n) + 1, 1), EXC_GP, "bank %u: STATUS takes nothing else",
		  n);
	report(msr_read(BANK(n) + 1, &v) == -1 && !v, "bank %u: and is as before", n);
}

static void status_write(void)
{
	u64 hwcr = 0, v = 0;

	/* AMD: HWCR.McStatusWrEn lets software write errors, to test its handlers. */
	if (cpu_is_intel())
		return;
	if (msr_read(HWCR, &hwcr) != -1 || msr_write(HWCR, hwcr | BIT64(18)) != -1) {
		report_skip("McStatusWrEn");
		return;
	}
	report_eq((u64)(s64)msr_write(BANK(0) + 1, 0x8000000000000135), ~0ull,
		  "McStatusWrEn: STATUS can be written");
	msr_read(BANK(0) + 1, &v);
	report_eq(v, 0x8000000000000135, "and holds it");
	msr_write(BANK(0) + 1, 0);
	msr_write(HWCR, hwcr);
}

/* ---- errors that the machine's owner injects: anykvm's VMM, on anykvm or a real KVM ---- */

#define ERROR_PORT 0x5f8
#define S_VAL	   BIT64(63)
#define S_OVER	   BIT64(62)
#define S_UC	   BIT64(61)
#define S_EN	   BIT64(60)
#define S_MISCV	   BIT64(59)
#define S_ADDRV	   BIT64(58)
#define S_PCC	   BIT64(57)
#define G_RIPV	   1ull
#define G_MCIP	   4ull
#define FATAL	   (S_VAL | S_UC | S_EN | S_MISCV | S_ADDRV | S_PCC)

static struct {
	u64 status, addr, misc, mcg_status;
	u8 bank, pad[7];
	u64 more[3];
} error; /* as KVM_X86_SET_MCE takes it */

static volatile u32 taken;
static u64 mcg_seen, status_seen;
static ulong cs_seen, flags_seen;
static bool again;

static bool inject(unsigned n, u64 status, u64 mcg_status)
{
	error.bank = (u8)n;
	error.status = status;
	error.addr = 0x12345000;
	error.misc = 0x8c;
	error.mcg_status = mcg_status;
	barrier();
	outl(ERROR_PORT, (u32)(ulong)&error);
	return !inl(ERROR_PORT);
}

static void on_mc(struct regs *r)
{
	if (r->vector != EXC_MC)
		return;
	taken++;
	mcg_seen = rdmsr(MSR_MCG_STATUS);
	status_seen = rdmsr(BANK(1) + 1);
	cs_seen = r->cs;
	flags_seen = read_flags();
	if (again) {
		again = false;
		inject(1, FATAL, G_MCIP);
	}
	wrmsr(MSR_MCG_STATUS, 0);
	this_cpu()->hooked = true;
}

static bool bank_is(unsigned n, u64 status)
{
	u64 v = rdmsr(BANK(n) + 1);

	if (v == status && rdmsr(BANK(n) + 2) == 0x12345000 && rdmsr(BANK(n) + 3) == 0x8c)
		return true;
	note("bank %u: STATUS %llx ADDR %llx MISC %llx", n, (unsigned long long)v,
	     (unsigned long long)rdmsr(BANK(n) + 2), (unsigned long long)rdmsr(BANK(n) + 3));
	return false;
}

static void clear(unsigned n)
{
	wrmsr(BANK(n) + 1, 0);
	wrmsr(BANK(n) + 2, 0);
	wrmsr(BANK(n) + 3, 0);
}

USER static void user_error(void *p)
{
	__asm__ volatile("outl %%eax, %%dx; nop; nop" : : "a"(p), "d"(ERROR_PORT) : "memory");
}

static void injected(unsigned banks)
{
	const u64 corrected = S_VAL | S_EN | S_MISCV | S_ADDRV | 0x135, ucna = corrected | S_UC;

	this_cpu()->hook = on_mc;
	/* As kernels do: KVM's banks are off until someone opens them. */
	wrmsr(BANK(1), ~0ull);
	wrmsr(BANK(banks - 1), ~0ull);
	/* corrected: kept, not told */
	report(inject(1, corrected, 0) && !taken && bank_is(1, corrected),
	       "a corrected error is kept in its bank");
	report(inject(1, corrected | 1, 0) && bank_is(1, S_OVER | corrected | 1),
	       "a second one: overflow");
	clear(1);
	report(!rdmsr(BANK(1) + 1) && !rdmsr(BANK(1) + 2), "and it can be cleared");
	report(inject(banks - 1, corrected, 0) && bank_is(banks - 1, corrected), "the last bank");
	clear(banks - 1);
	report(!inject(banks, corrected, 0), "none in a bank that is not there");
	report(!inject(1, corrected & ~S_VAL, 0), "none that is not valid");
	/* uncorrected: #MC, whatever IF is */
	report(inject(1, FATAL | 0x110, G_MCIP | G_RIPV), "an uncorrected error");
	report(taken == 1, "MC, with IF clear");
	report_eq(mcg_seen, G_MCIP | G_RIPV, "MCG_STATUS in the handler");
	report_eq(status_seen, FATAL | 0x110, "the bank's STATUS in the handler");
	report(!trap_last()->error && (cs_seen & 3) == 0 && !(flags_seen & FL_IF),
	       "no error code, IF clear in the handler");
	report(bank_is(1, FATAL | 0x110) && !rdmsr(MSR_MCG_STATUS),
	       "the bank stays as it is, MCG_STATUS is cleared");
	report(inject(1, corrected, 0) && taken == 1 && bank_is(1, S_OVER | FATAL | 0x110),
	       "a corrected error does not replace it: overflow");
	report(inject(1, FATAL | 0x220, G_MCIP) && taken == 2 && bank_is(1, S_OVER | FATAL | 0x220),
	       "another uncorrected one does");
	clear(1);
	report(inject(1, ucna, 0) && taken == 2 && bank_is(1, ucna),
	       "uncorrected, no action required: not told");
	clear(1);
	wrmsr(BANK(1), 0);
	report(inject(1, FATAL, G_MCIP) && taken == 2, "a bank that is off tells nothing");
	wrmsr(BANK(1), ~0ull);
	clear(1);
	/* level 3, with the port open to it */
	user_map();
	error.status = FATAL;
	error.mcg_status = G_MCIP | G_RIPV;
	{
		struct regs r;

		memset(&r, 0, sizeof(r));
		r.ip = (ulong)user_error;
		r.cs = SEL_UCODE | 3;
		r.ss = SEL_UDATA | 3;
		r.sp = user_stack();
		r.flags = 2 | FL_IOPL;
#if IS64
		r.di = (ulong)&error;
#else
		r.ds = r.es = SEL_UDATA | 3;
		r.sp -= 8;
		((ulong *)r.sp)[1] = (ulong)&error;
#endif
		this_cpu()->hook = NULL;
		report(trap_enter(&r) == EXC_MC && (trap_last()->cs & 3) == 3 &&
			       trap_last()->ss == (SEL_UDATA | 3),
		       "MC at level 3");
	}
	report_eq(rdmsr(MSR_MCG_STATUS), G_MCIP | G_RIPV, "MCIP stays until it is cleared");
	wrmsr(MSR_MCG_STATUS, 0);
	clear(1);
}

/* ---- errors told by an interrupt ---- */

#define CTL2(n)	    (0x280u + (n))
#define CTL2_EN	    BIT64(30)
#define CMCI_VECTOR 0x5a

static volatile u32 told;
static void on_cmci(struct regs *r)
{
	told++;
	apic_eoi();
}

static bool inject_open(unsigned n, u64 status)
{
	bool good;

	__asm__ volatile("sti; nop");
	good = inject(n, status, 0);
	__asm__ volatile("nop; cli");
	return good;
}

static void cmci(unsigned banks, u64 cap)
{
	const u64 ucna = S_VAL | S_UC | S_EN | S_MISCV | S_ADDRV | 0x135;
	u64 v = 0;

	if (!(cap & BIT(10))) {
		report(msr_read(CTL2(0), &v) == EXC_GP && msr_write(CTL2(0), 0) == EXC_GP,
		       "CTL2 of a bank: not there");
		return;
	}
	report(msr_read(CTL2(1), &v) == -1 && !v, "CTL2 of a bank is 0");
	report(msr_write(CTL2(1), CTL2_EN | 0x7fff) == -1 && rdmsr(CTL2(1)) == (CTL2_EN | 0x7fff),
	       "and takes the threshold and the enable bit");
	report(msr_write(CTL2(1), BIT64(29)) == EXC_GP && rdmsr(CTL2(1)) == (CTL2_EN | 0x7fff),
	       "but nothing else");
	if (banks < 32)
		report(msr_read(CTL2(banks), &v) == EXC_GP, "CTL2 of a bank that is not there");
	apic_init();
	report_eq(apic_read(APIC_VERSION) >> 16 & 0xff, 6ull,
		  "the local APIC has seven local vectors");
	report(apic_read(APIC_CMCI) & LVT_MASKED, "CMCI's is masked");
	if (inl(ERROR_PORT))
		return;
	irq_set(CMCI_VECTOR, on_cmci);
	taken = 0;
	this_cpu()->hook = on_mc;
	report(inject_open(1, ucna) && !told && bank_is(1, ucna),
	       "masked: an error is kept, not told");
	apic_write(APIC_CMCI, CMCI_VECTOR);
	report(inject_open(1, ucna) && told == 1 && !taken,
	       "open: it comes as an interrupt, not as MC");
	wrmsr(CTL2(1), 0);
	report(inject_open(1, ucna) && told == 1 && bank_is(1, ucna),
	       "the bank's enable bit is clear: not told");
	apic_write(APIC_CMCI, LVT_MASKED);
	clear(1);
}

/* Ways to a shutdown: runs of their own. */
static void shut_down(unsigned how)
{
	printf("1..1\n");
	wrmsr(BANK(1), ~0ull);
	if (how == 2) {
		write_cr4(read_cr4() & ~(ulong)CR4_MCE);
		inject(1, FATAL, G_MCIP);
	} else {
		again = true;
		this_cpu()->hook = on_mc;
		inject(1, FATAL, G_MCIP);
	}
	die("the machine goes on");
}

static volatile u32 calls;
static void on_int18(struct regs *r)
{
	calls++;
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
	if (param("shutdown", 0)) {
		report(!inl(ERROR_PORT), "errors can be injected");
		shut_down((unsigned)param("shutdown", 0));
	}
	report(read_cr4() & CR4_MCE, "CR4.MCE");
	report_eq((u64)(s64)msr_read(MSR_MCG_CAP, &cap), ~0ull, "MCG_CAP");
	banks = cap & 0xff;
	note("%u banks, MCG_CAP %llx", banks, (unsigned long long)cap);
	report(banks >= 1 && banks <= 32, "1 to 32 banks");
	report(msr_read(MSR_MCG_STATUS, &v) == -1 && !(v & 4), "MCG_STATUS: nothing in progress");
	report(msr_write(MSR_MCG_STATUS, 0) == -1, "MCG_STATUS takes 0");
	if (cap & BIT(8)) {
		report(msr_write(MCG_CTL, 0) == -1 && msr_write(MCG_CTL, ~0ull) == -1,
		       "MCG_CTL takes 0 and all ones");
	} else {
		report(msr_read(MCG_CTL, &v) == EXC_GP && msr_write(MCG_CTL, 0) == EXC_GP,
		       "MCG_CTL: not there");
	}
	for (unsigned i = 0; i < banks && i < 32; i += i ? banks - 1 > i ? banks - 1 - i : 1 : 1)
		bank(i);
	if (banks < 32) {
		report_eq((u64)(s64)msr_read(BANK(banks), &v), EXC_GP,
			  "the bank after the last: RDMSR");
		report_eq((u64)(s64)msr_write(BANK(banks), 0), EXC_GP,
			  "the bank after the last: WRMSR");
	}
	status_write();
	if (inl(ERROR_PORT))
		report_skip("nobody injects errors on this machine");
	else
		injected(banks);
	cmci(banks, cap);
	this_cpu()->hook = NULL;
	irq_set(EXC_MC, on_int18);
	trap_clear();
	__asm__ volatile(TRY("int $18"));
	report(trap_vector() == EXC_MC, "INT 18 goes through its gate");
	write_cr4(read_cr4() & ~(ulong)CR4_MCE);
}
