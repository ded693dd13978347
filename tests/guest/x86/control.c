/*
 * Control registers: which values MOV, LMSW and WRMSR(EFER) take, and what the registers read as.
 * Sources: SDM "Control Registers", MOV to control registers, LMSW; EFER in "Extended Feature
 * Enable Register".
 */
#include "x86/mode.h"
#include "x86/paging.h"
#include "x86/probe.h"

static int set_cr0(ulong v)
{
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr0") : : "r"(v) : "memory");
	return trap_vector();
}
static int set_cr3(ulong v)
{
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr3") : : "r"(v) : "memory");
	return trap_vector();
}
static int set_cr4(ulong v)
{
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr4") : : "r"(v) : "memory");
	return trap_vector();
}
static void cr0(void)
{
	ulong old = read_cr0();

	report_eq(set_cr0(old | CR0_AM | CR0_NE), -1, "CR0: AM, NE");
	report(read_cr0() & CR0_AM, "CR0.AM reads back");
	report_eq(set_cr0(old & ~(ulong)CR0_ET), -1, "CR0.ET cleared");
	report(read_cr0() & CR0_ET, "CR0.ET stays set");
	report_eq(set_cr0(old | CR0_CD), -1, "CR0.CD");
	report_eq(set_cr0(old | CR0_CD | CR0_NW), -1, "CR0.CD and NW");
	write_cr0(old);
	report_eq(set_cr0(old | 0x40), -1, "CR0: a reserved low bit is ignored");
	report_eq(read_cr0(), old, "and reads 0");
	{
		u16 w = 0;

		__asm__ volatile("lmsw %w0" : : "r"(w) : "memory");
		report(read_cr0() & CR0_PE, "LMSW does not clear PE");
		report(!(read_cr0() & (CR0_MP | CR0_TS)), "LMSW clears MP, TS");
		w = 0xffff;
		__asm__ volatile("lmsw %w0" : : "r"(w) : "memory");
		report_eq(read_cr0() & ~(ulong)0xf, old & ~(ulong)0xf, "LMSW writes 4 bits");
		__asm__ volatile("clts");
		report(!(read_cr0() & CR0_TS), "CLTS");
	}
	write_cr0(old);
#if IS64
	for (unsigned bit = 32; bit < 64; bit += 5)
		report_eq(set_cr0(old | 1ul << bit), EXC_GP, "CR0 bit %u", bit);
#endif
}

static void cr4(void)
{
	ulong old = read_cr4();
	static const struct {
		enum feature f;
		u32 bit;
		const char *name;
	} bits[] = {
		{FEATURE_VME, CR4_VME, "VME"},
		{FEATURE_DE, CR4_DE, "DE"},
		{FEATURE_PSE, CR4_PSE, "PSE"},
		{FEATURE_MCE, CR4_MCE, "MCE"},
		{FEATURE_PGE, CR4_PGE, "PGE"},
		{FEATURE_UMIP, CR4_UMIP, "UMIP"},
		{FEATURE_SMEP, CR4_SMEP, "SMEP"},
		{FEATURE_SMAP, CR4_SMAP, "SMAP"},
		{FEATURE_XSAVE, CR4_OSXSAVE, "OSXSAVE"},
#if IS64
		{FEATURE_FSGSBASE, CR4_FSGSBASE, "FSGSBASE"},
		{FEATURE_PKU, CR4_PKE, "PKE"},
		{FEATURE_PCID, CR4_PCIDE, "PCIDE"},
#endif
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		bool has = cpu_has(bits[i].f);
		int v = set_cr4((old & ~(ulong)bits[i].bit) | bits[i].bit);
		ulong now = read_cr4();

		report(has ? v == -1 && (now & bits[i].bit) : v == EXC_GP,
		       "CR4.%s is what CPUID says", bits[i].name);
		write_cr4(old);
	}
	if (HAS(XSAVE)) {
		write_cr4(old | CR4_OSXSAVE);
		report(HAS(OSXSAVE), "CPUID.OSXSAVE follows CR4");
		write_cr4(old & ~(ulong)CR4_OSXSAVE);
		report(!HAS(OSXSAVE), "and back");
		write_cr4(old);
	}
	report_eq(set_cr4(old | 1u << 15), EXC_GP, "CR4 bit 15");
	report_eq(set_cr4(old | 1u << 19), EXC_GP, "CR4 bit 19");
	report_eq(set_cr4(old | 1u << 31), EXC_GP, "CR4 bit 31");
#if IS64
	report_eq(set_cr4(old | 1ul << 33), EXC_GP, "CR4 bit 33");
	report_eq(set_cr4(old & ~(ulong)CR4_PAE), EXC_GP, "CR4.PAE cleared in long mode");
	report_eq(set_cr4(old ^ CR4_LA57), EXC_GP, "CR4.LA57 changed in long mode");
#endif
	report_eq(read_cr4(), old, "CR4 is as before");
}

static void cr3(void)
{
	ulong old = read_cr3();

	report_eq(set_cr3(old | 0x18), -1, "CR3: PWT, PCD");
	report_eq(read_cr3(), old | 0x18, "read back");
	write_cr3(old);
	report_eq(set_cr3(old | 0x7), -1, "CR3: low bits are ignored");
	write_cr3(old);
#if IS64
	if (cpu_maxphyaddr() < 52)
		report_eq(set_cr3(old | 1ul << 51), EXC_GP, "CR3 bit 51");
	report_eq(set_cr3(old | 1ul << cpu_maxphyaddr()), EXC_GP, "CR3 bit MAXPHYADDR");
	report_eq(set_cr3(old | 1ul << 60), EXC_GP, "CR3 bit 60");
	if (HAS(PCID)) {
		ulong v4 = read_cr4();

		report_eq(set_cr3(old | 1ul << 63), EXC_GP, "CR3 bit 63 without PCIDE");
		write_cr3(old | 1 << 3);
		report_eq(set_cr4(v4 | CR4_PCIDE), EXC_GP, "PCIDE on with bits 11:0 of CR3");
		write_cr4(v4);
		write_cr3(old);
		write_cr4(v4 | CR4_PCIDE);
		report_eq(set_cr3(old | 5), -1, "PCID 5");
		report_eq(read_cr3(), old | 5, "reads back");
		report_eq(set_cr3(old | 5 | 1ul << 63), -1, "no flush");
		report_eq(read_cr3(), old | 5, "bit 63 reads 0");
		report_eq(set_cr4(v4), -1, "PCIDE off with a PCID");
		write_cr3(old);
		report_eq(set_cr4(v4 | CR4_PCIDE), -1, "PCIDE on with PCID 0");
		write_cr4(v4);
	}
#endif
	write_cr3(old);
}

static void efer(void)
{
	u64 old = rdmsr(MSR_EFER);

	report_eq(msr_write(MSR_EFER, old | EFER_SCE), HAS(SYSCALL) ? -1 : EXC_GP, "EFER.SCE");
	report_eq(rdmsr(MSR_EFER), old | (HAS(SYSCALL) ? EFER_SCE : 0), "read back");
	wrmsr(MSR_EFER, old);
	report_eq(msr_write(MSR_EFER, old | EFER_NX), HAS(NX) ? -1 : EXC_GP, "EFER.NXE");
	wrmsr(MSR_EFER, old);
	report_eq(msr_write(MSR_EFER, old | BIT64(1)), EXC_GP, "EFER bit 1");
	report_eq(msr_write(MSR_EFER, old | BIT64(20)), EXC_GP, "EFER bit 20");
	report_eq(msr_write(MSR_EFER, old | BIT64(63)), EXC_GP, "EFER bit 63");
	report_eq(msr_write(MSR_EFER, old ^ EFER_LME), EXC_GP, "EFER.LME changed while paging");
	report_eq(rdmsr(MSR_EFER), old, "EFER is as before");
}

#if IS64
/* MAXPHYADDR counts however deep the tables are, and with PCIDs. */
static void cr3_modes(void)
{
	ulong cr3 = read_cr3(), cr4 = read_cr4(), bit = 1ul << cpu_maxphyaddr(),
	      *top = page_alloc();

	if (HAS(PCID)) {
		write_cr4(cr4 | CR4_PCIDE);
		report_eq(set_cr3(cr3 | bit), EXC_GP, "CR3 bit MAXPHYADDR with PCIDs");
		report_eq(set_cr3(cr3 | bit | 1ul << 63), EXC_GP, "and without a flush");
		write_cr3(cr3);
		write_cr4(cr4);
	}
	if (!HAS(LA57)) {
		report_skip("5 levels");
		return;
	}
	top[0] = cr3 | PT_P | PT_W | PT_U;
	mode_switch((ulong)top, cr4 | CR4_LA57);
	report(read_cr4() & CR4_LA57, "5 levels");
	report_eq(set_cr3((ulong)top | bit), EXC_GP, "5 levels: CR3 bit MAXPHYADDR");
	report_eq(set_cr3((ulong)top | 1ul << 60), EXC_GP, "5 levels: CR3 bit 60");
	report_eq(set_cr4(cr4), EXC_GP, "5 levels: CR4.LA57 cleared in long mode");
	report_eq(read_cr3(), (ulong)top, "5 levels: CR3 is as before");
	mode_switch(cr3, cr4);
}
#else
/* PAE: the four entries that CR3 points at are checked when CR3, CR0 or CR4 are loaded. */
static void pdptes(void)
{
	u64 *root = page_alloc(), *bad = page_alloc(), *pd = pages_alloc(4);
	ulong cr3 = read_cr3(), cr4 = read_cr4(), cr0 = read_cr0();
	static const u8 reserved[] = {1, 2, 5, 6, 7, 8, 51, 52, 62, 63};
	struct cases c = {0}, absent = {0};

	for (unsigned i = 0; i < 4; i++)
		bad[i] = root[i] = (ulong)pd + i * PAGE_SIZE + PT_P;
	for (unsigned i = 0; i < 2048; i++)
		pd[i] = ((u64)i << 21) | PT_P | PT_W | PT_PS;
	mode_switch((ulong)root, cr4 | CR4_PAE);
	report_eq(set_cr3((ulong)bad), -1, "PAE: CR3");
	for (unsigned entry = 0; entry < 4; entry++)
		for (unsigned i = 0; i < ARRAY_SIZE(reserved) + 1; i++) {
			unsigned bit = i ? reserved[i - 1] : cpu_maxphyaddr();

			if (i && bit >= 51 && bit < cpu_maxphyaddr())
				continue;
			write_cr3((ulong)root);
			bad[entry] = root[entry] | BIT64(bit);
			c.run++;
			if (set_cr3((ulong)bad) != EXC_GP || trap_last()->error ||
			    read_cr3() != (ulong)root)
				fail_case(&c, "entry %u, bit %u: vector %d", entry, bit,
					  trap_vector());
			/* No reserved bits in an entry that is not present; the last one maps devices only. */
			if (entry == 3) {
				bad[entry] &= ~PT_P;
				absent.run++;
				if (set_cr3((ulong)bad) != -1)
					fail_case(&absent, "bit %u", bit);
			}
			bad[entry] = root[entry];
		}
	report_cases(&c, "PAE: reserved bits of the page-directory pointers fault, CR3 stays");
	report_cases(&absent, "PAE: but not of those that are not present");
	write_cr3((ulong)root);
	root[3] |= 2;
	report_eq(set_cr4(read_cr4() ^ CR4_PGE), EXC_GP, "PAE: MOV to CR4 looks at them, too");
	report_eq(set_cr0(read_cr0() ^ CR0_CD), EXC_GP, "PAE: MOV to CR0 that changes CD does");
	report_eq(read_cr0(), cr0, "PAE: CR0 is as before");
	root[3] &= ~2ull;
	report_eq(set_cr3((ulong)root | 0x18), -1, "PAE: CR3's PWT and PCD");
	mode_switch(cr3, cr4);
}
#endif

#if IS64
/* CR8 is the task priority. */
static void cr8(void)
{
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr8") : : "r"(16ul) : "memory");
	report_eq(trap_vector(), EXC_GP, "CR8 = 16");
	write_cr8(9);
	report_eq(read_cr8(), 9, "CR8 = 9");
	report_eq(*(volatile u32 *)0xfee00080, 0x90, "TPR follows");
	*(volatile u32 *)0xfee00080 = 0x35;
	report_eq(read_cr8(), 3, "CR8 follows TPR");
	write_cr8(0);
}
#endif

void test_main(void)
{
	ulong old = read_cr0();

	cr0();
	cr4();
	cr3();
	efer();
#if IS64
	cr8();
	cr3_modes();
#else
	pdptes();
#endif
	trap_clear();
	__asm__ volatile(TRY("ltr %%ax") : : "a"(0));
	report_eq(trap_vector(), EXC_GP, "LTR of 0");
	/* Last: a machine that takes these is lost. */
	report_eq(set_cr0((old | CR0_NW) & ~(ulong)CR0_CD), EXC_GP, "CR0.NW without CD");
	write_cr0(old);
	report_eq(set_cr0(old & ~(ulong)CR0_PE), EXC_GP, "CR0.PG without PE");
}
