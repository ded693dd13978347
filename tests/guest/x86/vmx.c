/*
 * VMX: its instructions and their errors, the checks of VM entry, exits with their information,
 * events, EPT, MSR lists, the time-stamp counter. Source: SDM volume 3, the chapters on
 * virtual-machine extensions.
 */
#include "x86/apic.h"
#include "x86/paging.h"
#include "x86/probe.h"
#include "x86/vmx.h"

/* Runs the guest: the reason of its exit, or ~0. */
static u64 left(void)
{
	return vmx_run() == VMX_OK ? vmread(EXIT_REASON) : ~0ull;
}

/* --- instructions ------------------------------------------------------------------------------------- */

static void error_is(enum vmx_result r, u64 number, const char *what)
{
	report_eq(r == VMX_FAIL_VALID ? vmread(INSN_ERROR) : 0, number, "%s: error %u", what,
		  (unsigned)number);
}

static void instructions_off(void)
{
	u64 cr4 = read_cr4();

	write_cr4(cr4 & ~(u64)CR4_VMXE);
	report(vmxon((u64)vmx_region) == VMX_FAULT && trap_vector() == EXC_UD,
	       "VMXON without CR4.VMXE: #UD");
	write_cr4(cr4);
	report(vmclear((u64)vmx_vmcs) == VMX_FAULT && trap_vector() == EXC_UD,
	       "VMCLEAR before VMXON: #UD");
	write_cr0(read_cr0() & ~(u64)CR0_NE);
	report(vmxon((u64)vmx_region) == VMX_FAULT && trap_vector() == EXC_GP,
	       "VMXON without CR0.NE: #GP");
	write_cr0(read_cr0() | CR0_NE);
	report(vmxon((u64)vmx_region + 8) == VMX_FAIL_INVALID, "VMXON: misaligned region");
	report(vmxon(1ull << 60) == VMX_FAIL_INVALID, "VMXON: address beyond MAXPHYADDR");
	report(vmxon((u64)vmx_msrs) == VMX_FAIL_INVALID, "VMXON: wrong revision");
	report(vmxon((u64)vmx_region) == VMX_OK, "VMXON");
	report(vmxon((u64)vmx_region) == VMX_FAIL_INVALID, "VMXON again, no VMCS: fails invalid");
	report_eq(vmptrst(), ~0ull, "VMPTRST without a VMCS");
}

static void instructions_on(void)
{
	u64 v, cr0 = read_cr0(), cr4 = read_cr4();

	report(vmread_try(GUEST_RIP, &v) == VMX_FAIL_INVALID,
	       "VMREAD without a VMCS: fails invalid");
	report(vmclear((u64)vmx_vmcs) == VMX_OK && vmptrld((u64)vmx_vmcs) == VMX_OK,
	       "VMCLEAR, VMPTRLD");
	report_eq(vmptrst(), (u64)vmx_vmcs, "VMPTRST");
	error_is(vmxon((u64)vmx_region), 15, "VMXON in VMX operation");
	error_is(vmclear((u64)vmx_vmcs + 1), 2, "VMCLEAR misaligned");
	error_is(vmclear(1ull << 60), 2, "VMCLEAR beyond MAXPHYADDR");
	error_is(vmclear((u64)vmx_region), 3, "VMCLEAR of the VMXON region");
	error_is(vmptrld((u64)vmx_vmcs + 1), 9, "VMPTRLD misaligned");
	error_is(vmptrld((u64)vmx_region), 10, "VMPTRLD of the VMXON region");
	error_is(vmptrld((u64)vmx_msrs), 11, "VMPTRLD: wrong revision");
	error_is(vmread_try(0x7ffe, &v), 12, "VMREAD: no such field");
	error_is(vmwrite(0x7ffe, 0), 12, "VMWRITE: no such field");
	error_is(vmread_try(GUEST_RIP + 1, &v), 12, "VMREAD: high half of a natural-width field");
	error_is(vmread_try(GUEST_RIP | 1ull << 32, &v), 12, "VMREAD: encoding beyond 32 bits");
	error_is(invept(0, 0), 28, "INVEPT: type");
	error_is(invept(1, 0), 28, "INVEPT: EPTP");
	error_is(invvpid(4, 1, 0), 28, "INVVPID: type");
	error_is(invvpid(1, 0, 0), 28, "INVVPID: VPID 0");
	error_is(invvpid(0, 1, 1ull << 63), 28, "INVVPID: address");
	report(invvpid(2, 0, 0) == VMX_OK && invept(2, 0) == VMX_OK,
	       "INVVPID, INVEPT of all contexts");
	vmwrite(TSC_OFFSET, 0x1122334455667788);
	report(vmread(TSC_OFFSET) == 0x1122334455667788 && vmread(TSC_OFFSET + 1) == 0x11223344,
	       "high half of a 64-bit field");
	vmwrite(TSC_OFFSET + 1, ~0ull);
	report_eq(vmread(TSC_OFFSET), 0xffffffff55667788, "high half written");
	vmwrite(GUEST_CS, 0x123456);
	report_eq(vmread(GUEST_CS), 0x3456, "a 16-bit field");
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr0") : : "r"(cr0 & ~(u64)CR0_NE));
	report_eq((u64)(s64)trap_vector(), EXC_GP, "CR0.NE cannot be cleared in VMX operation");
	trap_clear();
	__asm__ volatile(TRY("mov %0, %%cr4") : : "r"(cr4 & ~(u64)CR4_VMXE));
	report_eq((u64)(s64)trap_vector(), EXC_GP, "CR4.VMXE cannot be cleared in VMX operation");
}

static void l2_vmcall(void)
{
	vmcall(1);
	vmcall(2);
	vmcall(3);
}

static void launch_state(void)
{
	vmx_setup(l2_vmcall);
	__asm__ volatile("vmresume" : : : "cc", "memory");
	report_eq(vmread(INSN_ERROR), 5, "VMRESUME of a clear VMCS");
	report(left() == 18 && vmread(EXIT_LEN) == 3 && vmx_rax == 1, "VMLAUNCH, VMCALL");
	__asm__ volatile("vmlaunch" : : : "cc", "memory");
	report_eq(vmread(INSN_ERROR), 4, "VMLAUNCH of a launched VMCS");
	vmx_skip();
	report(vmx_run() == VMX_OK && vmx_rax == 2, "VMRESUME");
	report(vmclear((u64)vmx_vmcs) == VMX_OK && vmptrst() == ~0ull &&
		       vmptrld((u64)vmx_vmcs) == VMX_OK,
	       "VMCLEAR of the current VMCS");
	vmx_skip();
	report_eq(vmread(GUEST_RIP) > (u64)l2_vmcall, 1, "fields survive VMCLEAR");
	__asm__ volatile("mov %0, %%ss; vmlaunch" : : "r"(SEL_KDATA) : "cc", "memory");
	report_eq(vmread(INSN_ERROR), 26, "VMLAUNCH behind MOV SS");
}

/* --- checks of VM entry ----------------------------------------------------------------------------------- */

struct bad_field {
	u32 field;
	u64 value, flip; /* flip: bits to invert instead */
	const char *what;
};

static const struct bad_field bad_controls[] = {
	{PIN_CTLS, 0, 0, "pin-based controls 0"},
	{PIN_CTLS, 0, 0x80, "posted interrupts"},
	{PIN_CTLS, 0, PIN_VIRTUAL_NMI, "virtual NMIs without NMI exiting"},
	{PROC_CTLS, 0, 0, "processor-based controls 0"},
	{PROC_CTLS, 0, PROC_NMI_WINDOW, "NMI window without virtual NMIs"},
	{PROC_CTLS, 0, 1, "reserved processor-based control"},
	{MSR_BITMAP, 1, 0, "misaligned MSR bitmap"},
	{MSR_BITMAP, 1ull << 60, 0, "MSR bitmap beyond MAXPHYADDR"},
	{CR3_TARGETS, 5, 0, "CR3 targets"},
	{EXIT_CTLS, 0, 0, "exit controls 0"},
	{EXIT_CTLS, 0, EXIT_SAVE_TIMER, "saved timer without a timer"},
	{ENTRY_CTLS, 0, 0, "entry controls 0"},
	{ENTRY_CTLS, 0, 0x400, "entry to SMM"},
	{ENTRY_INTR, 0x80000102, 0, "injection of a reserved type"},
	{ENTRY_INTR, 0x80000203, 0, "injection of an NMI with vector 3"},
	{ENTRY_INTR, 0x80000320, 0, "injection of exception 32"},
	{ENTRY_INTR, 0x8000030d, 0, "injection of #GP without an error code"},
	{ENTRY_INTR, 0x80000b06, 0, "injection of #UD with an error code"},
	{ENTRY_INTR, 0x80001306, 0, "injection with a reserved bit"},
	{ENTRY_INTR, 0x80000603, 0, "injection of #BP without a length"},
};

static const struct bad_field bad_host[] = {
	{HOST_CR0, 0, CR0_PE, "host CR0.PE"},
	{HOST_CR4, 0, CR4_VMXE, "host CR4.VMXE"},
	{HOST_CR4, 0, CR4_PAE, "host CR4.PAE"},
	{HOST_CR3, 1ull << 60, 0, "host CR3"},
	{HOST_CS, 0, 0, "host CS 0"},
	{HOST_CS, SEL_KCODE | 3, 0, "host CS with an RPL"},
	{HOST_ES, 4, 0, "host ES in an LDT"},
	{HOST_TR, 0, 0, "host TR 0"},
	{HOST_FS_BASE, 1ull << 63, 0, "host FS base"},
	{HOST_GDTR_BASE, 1ull << 62, 0, "host GDTR base"},
	{HOST_SYSENTER_ESP, 1ull << 62, 0, "host SYSENTER_ESP"},
	{EXIT_CTLS, 0, EXIT_HOST64, "32-bit host"},
};

static const struct bad_field bad_guest[] = {
	{GUEST_CR0, 0, CR0_PE, "guest CR0.PE"},
	{GUEST_CR0, 0, CR0_PG, "guest CR0.PG"},
	{GUEST_CR4, 0, CR4_VMXE, "guest CR4.VMXE"},
	{GUEST_CR4, 0, CR4_PAE, "guest CR4.PAE"},
	{GUEST_CR3, 1ull << 60, 0, "guest CR3"},
	{GUEST_RFLAGS, 0, 0, "guest RFLAGS bit 1"},
	{GUEST_RFLAGS, 0x8002, 0, "guest RFLAGS bit 15"},
	{GUEST_RFLAGS, 0x20002, 0, "guest RFLAGS.VM in long mode"},
	{GUEST_RIP, 1ull << 62, 0, "guest RIP"},
	{GUEST_CS_AR, 0, 0x8, "guest CS is data"},
	{GUEST_CS_AR, 0, 0x80, "guest CS absent"},
	{GUEST_CS_AR, 0, 0x4000, "guest CS with L and D"},
	{GUEST_CS_AR, 0, 0x60, "guest CS DPL"},
	{GUEST_SS_AR, 0, 0x2, "guest SS read-only"},
	{GUEST_SS, SEL_KDATA | 3, 0, "guest SS RPL"},
	{GUEST_ES_AR, 0, 0x1, "guest ES not accessed"},
	{GUEST_ES_AR, 0, 0x8000, "guest ES limit and granularity"},
	{GUEST_ES_BASE, 1ull << 32, 0, "guest ES base"},
	{GUEST_TR_AR, 0, 0x2, "guest TR not busy"},
	{GUEST_TR_AR, 0, 0x10000, "guest TR unusable"},
	{GUEST_TR, SEL_TSS | 4, 0, "guest TR in an LDT"},
	{GUEST_TR_BASE, 1ull << 63, 0, "guest TR base"},
	{GUEST_GDTR_LIMIT, 0x10000, 0, "guest GDTR limit"},
	{GUEST_IDTR_BASE, 1ull << 63, 0, "guest IDTR base"},
	{GUEST_SYSENTER_ESP, 1ull << 62, 0, "guest SYSENTER_ESP"},
	{ACTIVITY, 5, 0, "activity state 5"},
	{INTERRUPTIBILITY, 1, 0, "blocking by STI without IF"},
	{INTERRUPTIBILITY, 0x20, 0, "reserved interruptibility"},
	{PENDING_DBG, 0x20, 0, "reserved pending debug exception"},
	{ENTRY_INTR, 0x80000041, 0, "interrupt injected with IF 0"},
	{GUEST_DR7, 1ull << 32, 0, "guest DR7"},
};

static void spoil(const struct bad_field *f)
{
	vmx_setup(l2_vmcall);
	vmwrite(f->field, f->flip ? vmread(f->field) ^ f->flip : f->value);
}

static void entry_checks(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bad_controls); i++) {
		spoil(&bad_controls[i]);
		error_is(vmx_run(), 7, bad_controls[i].what);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad_host); i++) {
		spoil(&bad_host[i]);
		error_is(vmx_run(), 8, bad_host[i].what);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad_guest); i++) {
		spoil(&bad_guest[i]);
		report(left() == 0x80000021 && !vmread(QUALIFICATION), "%s", bad_guest[i].what);
	}
	vmx_setup(l2_vmcall);
	vmwrite(LINK_POINTER, (u64)vmx_msrs);
	report(left() == 0x80000021 && vmread(QUALIFICATION) == 4, "link pointer: qualification 4");
	vmx_setup(l2_vmcall);
	report(left() == 18, "and what was not spoiled enters");
}

/* --- instructions that leave ---------------------------------------------------------------------------------- */

u32 l2_memory[4];
struct table_reg l2_table;

#define L2(name, insn)                                                                 \
	static void l2_##name(void)                                                    \
	{                                                                              \
		__asm__ volatile(insn "\n\tvmcall"                                     \
				 :                                                     \
				 :                                                     \
				 : "memory", "cc", "rax", "rbx", "rcx", "rdx", "rdi"); \
	}
L2(cpuid, "xor %%eax, %%eax; cpuid")
L2(hlt, "hlt")
L2(invlpg, "invlpg 0x12345(%%rip)")
L2(rdtsc, "rdtsc")
L2(rdtscp, "rdtscp")
L2(rdpmc, "xor %%ecx, %%ecx; rdpmc")
L2(mov_to_cr3, "mov %%cr3, %%rdx; mov %%rdx, %%cr3")
L2(mov_from_cr3, "mov %%cr3, %%rbx")
L2(mov_to_cr8, "xor %%ecx, %%ecx; mov %%rcx, %%cr8")
L2(mov_from_cr8, "mov %%cr8, %%rdi")
L2(mov_to_dr, "xor %%edx, %%edx; mov %%rdx, %%dr3")
L2(mov_from_dr, "mov %%dr7, %%rcx")
L2(in, "in $0x61, %%al")
L2(out, "mov $0x1234, %%edx; out %%eax, %%dx")
L2(outs, "mov $0x70, %%edx; lea l2_memory(%%rip), %%rsi; mov $2, %%ecx; rep outsw")
L2(rdmsr, "mov $0x10, %%ecx; rdmsr")
L2(wrmsr, "mov $0xc0000102, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr")
L2(pause, "pause")
L2(wbinvd, "wbinvd")
L2(invd, "invd")
L2(vmread, "vmread %%rbx, l2_memory(%%rip)")
L2(vmptrst, "vmptrst l2_memory(%%rip)")
L2(vmlaunch, "vmlaunch")
L2(sgdt, "sgdt l2_table(%%rip)")
L2(sldt, "sldt %%ecx")
L2(ud, "ud2")
L2(bp, "int3")
L2(clts, "clts")
L2(nothing, "nop")

static const struct leave {
	void (*code)(void);
	u32 proc, proc2;
	u32 reason;
	u64 qualification, mask; /* mask: bits that are compared */
	u32 len;
	int feature; /* -1: always there */
	const char *what;
} leaves[] = {
	{l2_cpuid, 0, 0, 10, 0, ~0ull, 2, -1, "CPUID"},
	{l2_hlt, PROC_HLT, 0, 12, 0, ~0ull, 1, -1, "HLT"},
	{l2_invlpg, PROC_INVLPG, 0, 14, (u64)0, 0, 7, -1, "INVLPG"},
	{l2_rdtsc, PROC_RDTSC, 0, 16, 0, ~0ull, 2, -1, "RDTSC"},
	{l2_rdtscp, PROC_RDTSC, PROC2_RDTSCP, 51, 0, ~0ull, 3, FEATURE_RDTSCP, "RDTSCP"},
	{l2_rdpmc, PROC_RDPMC, 0, 15, 0, ~0ull, 2, -1, "RDPMC"},
	{l2_mov_to_cr3, PROC_CR3_LOAD, 0, 28, 0x203, ~0ull, 3, -1, "MOV to CR3"},
	{l2_mov_from_cr3, PROC_CR3_STORE, 0, 28, 0x313, ~0ull, 3, -1, "MOV from CR3"},
	{l2_mov_to_cr8, PROC_CR8_LOAD, 0, 28, 0x108, ~0ull, 4, -1, "MOV to CR8"},
	{l2_mov_from_cr8, PROC_CR8_STORE, 0, 28, 0x718, ~0ull, 4, -1, "MOV from CR8"},
	{l2_mov_to_dr, PROC_MOV_DR, 0, 29, 0x203, ~0ull, 3, -1, "MOV to DR3"},
	{l2_mov_from_dr, PROC_MOV_DR, 0, 29, 0x117, ~0ull, 3, -1, "MOV from DR7"},
	{l2_in, PROC_IO, 0, 30, 0x610048, ~0ull, 2, -1, "IN"},
	{l2_out, PROC_IO, 0, 30, 0x12340003, ~0ull, 1, -1, "OUT"},
	{l2_outs, PROC_IO, 0, 30, 0x700031, ~0ull, 3, -1, "REP OUTS"},
	{l2_pause, PROC_PAUSE, 0, 40, 0, ~0ull, 2, -1, "PAUSE"},
	{l2_wbinvd, 0, PROC2_WBINVD, 54, 0, ~0ull, 2, -1, "WBINVD"},
	{l2_invd, 0, 0, 13, 0, ~0ull, 2, -1, "INVD"},
	{l2_vmread, 0, 0, 23, 0, 0, 7, -1, "VMREAD"},
	{l2_vmptrst, 0, 0, 22, 0, 0, 7, -1, "VMPTRST"},
	{l2_vmlaunch, 0, 0, 20, 0, ~0ull, 3, -1, "VMLAUNCH"},
	{l2_sgdt, 0, PROC2_DESC, 46, 0, 0, 7, -1, "SGDT"},
	{l2_sldt, 0, PROC2_DESC, 47, 0, 0, 3, -1, "SLDT"},
	{l2_nothing, 0, 0, 18, 0, ~0ull, 3, -1, "NOP does not leave"},
	{l2_rdtsc, 0, 0, 18, 0, ~0ull, 3, -1, "RDTSC does not leave unless asked"},
	{l2_wbinvd, 0, 0, 18, 0, ~0ull, 3, -1, "WBINVD does not leave unless asked"},
	{l2_rdmsr, 0, 0, 18, 0, ~0ull, 3, -1, "RDMSR of a clear bit does not leave"},
	{l2_in, PROC_IO_BITMAPS, 0, 18, 0, ~0ull, 3, -1, "IN of a clear bit does not leave"},
	{l2_pause, 0, 0, 18, 0, ~0ull, 3, -1, "PAUSE does not leave unless asked"},
};

static void exits(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
		const struct leave *l = &leaves[i];

		if (l->feature >= 0 && !cpu_has((enum feature)l->feature)) {
			report_skip("%s: not in CPUID", l->what);
			continue;
		}
		vmx_try(l->code, 0, l->proc, l->proc2);
		if (!report(vmread(EXIT_REASON) == l->reason &&
				    !((vmread(QUALIFICATION) ^ l->qualification) & l->mask) &&
				    vmread(EXIT_LEN) == l->len,
			    "%s", l->what))
			note("reason %u, qualification %llx, length %u",
			     (unsigned)vmread(EXIT_REASON),
			     (unsigned long long)vmread(QUALIFICATION), (unsigned)vmread(EXIT_LEN));
	}
	vmx_try(l2_outs, 0, PROC_IO, 0);
	report(vmread(GUEST_LINEAR) == (u64)l2_memory && (vmread(EXIT_INSN) >> 7 & 7) == 2 &&
		       (vmread(EXIT_INSN) >> 15 & 7) == 3,
	       "REP OUTS: address, size and segment");
	vmx_try(l2_vmread, 0, 0, 0);
	report((vmread(EXIT_INSN) >> 28) == 3 && (vmread(EXIT_INSN) & 0x8400400) == 0x8400000 &&
		       vmread(QUALIFICATION) == (u64)l2_memory,
	       "VMREAD: register, no base, displacement");
	vmx_try(l2_sldt, 0, 0, PROC2_DESC);
	report((vmread(EXIT_INSN) >> 28) == 0 && (vmread(EXIT_INSN) >> 3 & 15) == 1 &&
		       (vmread(EXIT_INSN) & 0x400),
	       "SLDT: register operand");
}

static void bitmaps(void)
{
	vmx_setup(l2_rdmsr);
	vmx_msrs[0x10 / 8] = 1 << (0x10 & 7);
	report(left() == 31, "RDMSR of a set bit");
	vmx_setup(l2_wrmsr);
	vmx_msrs[2048 + 1024 + 0x102 / 8] = 1 << 2;
	report(left() == 32, "WRMSR of a set bit of the high range");
	vmx_setup(l2_rdmsr);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) & ~(u64)PROC_MSR_BITMAPS);
	report(left() == 31, "RDMSR without bitmaps");
	vmx_setup(l2_out);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_IO_BITMAPS);
	vmx_ports[0x1237 / 8] = 1 << 7;
	report(left() == 30, "OUT of four bytes, the last one's bit set");
}

static void l2_cr0(void)
{
	u64 v = read_cr0();

	if (v & CR0_TS)
		vmcall(1);
	write_cr0(v); /* what it was shown: no exit */
	vmcall(2);
	write_cr0(v | CR0_TS);
	vmcall(3);
}

static void masks(void)
{
	vmx_setup(l2_cr0);
	vmwrite(CR0_MASK, CR0_TS);
	vmwrite(CR0_SHADOW, 0);
	vmwrite(GUEST_CR0, vmread(GUEST_CR0) | CR0_TS);
	report(vmx_run() == VMX_OK && vmx_rax == 2,
	       "CR0 reads as its shadow, and may be written so");
	report(vmread(GUEST_CR0) & CR0_TS, "the masked bit keeps its value");
	vmx_skip();
	report(left() == 28 && (vmread(QUALIFICATION) & 0x3f) == 0, "another value leaves");
	vmx_setup(l2_clts);
	vmwrite(CR0_MASK, CR0_TS);
	vmwrite(CR0_SHADOW, CR0_TS);
	report(left() == 28 && vmread(QUALIFICATION) == 0x20, "CLTS of a shadowed TS");
}

/* --- events ---------------------------------------------------------------------------------------------------- */

static volatile u64 *fault_at;
static void l2_read(void)
{
	vmcall(*fault_at);
}
static void l2_write(void)
{
	*fault_at = 0x55;
	vmcall(0);
}

static void exceptions(void)
{
	vmx_setup(l2_ud);
	vmwrite(EXCEPTIONS, 1 << EXC_UD);
	report(left() == 0 && vmread(EXIT_INTR) == 0x80000306, "#UD of the bitmap");
	vmx_setup(l2_bp);
	vmwrite(EXCEPTIONS, 1 << EXC_BP);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR) == 0x80000603 && vmread(EXIT_LEN) == 1,
	       "#BP: a software exception, with its length");
	fault_at = (volatile u64 *)va_alloc();
	vmx_setup(l2_read);
	vmwrite(EXCEPTIONS, 1 << EXC_PF);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR) == 0x80000b0e &&
		       vmread(EXIT_INTR_ERROR) == 0 && vmread(QUALIFICATION) == (u64)fault_at,
	       "#PF: error code and address");
	vmx_setup(l2_write);
	vmwrite(EXCEPTIONS, 0);
	vmwrite(PF_MASK, 2);
	vmwrite(PF_MATCH, 0);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR) == 0x80000b0e &&
		       vmread(EXIT_INTR_ERROR) == 2,
	       "#PF that does not match, bit clear");
	vmx_setup(l2_ud);
	vmwrite(GUEST_IDTR_LIMIT, 0);
	report(left() == 2, "triple fault");
	vmx_setup(l2_ud);
	vmwrite(GUEST_IDTR_LIMIT, 0);
	vmwrite(EXCEPTIONS, 1 << EXC_GP);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR) == 0x80000b0d &&
		       vmread(EXIT_INTR_ERROR) == (EXC_UD * 8 | 3) &&
		       vmread(VECTORING) == 0x80000306,
	       "#GP while #UD is delivered: vectoring information");
	vmx_setup(l2_bp);
	vmwrite(GUEST_IDTR_LIMIT, 0);
	vmwrite(EXCEPTIONS, 1 << EXC_GP);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR_ERROR) == (EXC_BP * 8 | 2) &&
		       vmread(VECTORING) == 0x80000603 && vmread(EXIT_LEN) == 1,
	       "#GP while #BP is delivered");
}

static volatile u32 irq_taken;
static void count_irq(struct regs *regs)
{
	irq_taken++;
}

static void injection(void)
{
	irq_set(0x44, count_irq);
	vmx_setup(l2_vmcall);
	vmwrite(GUEST_RFLAGS, 0x202);
	vmwrite(ENTRY_INTR, 0x80000044);
	irq_taken = 0;
	report(left() == 18 && irq_taken == 1, "an interrupt injected reaches the guest's handler");
	report(!(vmread(ENTRY_INTR) >> 31), "and is not valid any more");
	vmx_setup(l2_vmcall);
	vmwrite(GUEST_IDTR_LIMIT, 0);
	vmwrite(ENTRY_INTR, 0x80000b0d);
	vmwrite(ENTRY_ERROR, 0x1234);
	vmwrite(EXCEPTIONS, 1 << EXC_DF | 1 << EXC_GP);
	report(vmx_run() == VMX_OK && vmread(EXIT_INTR) == 0x80000b0d &&
		       vmread(VECTORING) == 0x80000b0d && vmread(VECTORING_ERROR) == 0x1234,
	       "#GP injected passes the bitmap, #GP of its delivery does not");
	vmx_setup(l2_vmcall);
	vmwrite(ENTRY_INTR, 0x80000700);
	report(left() == 37 && vmread(GUEST_RIP) == (u64)l2_vmcall,
	       "a pending monitor trap injected");
}

static void l2_loop(void)
{
	for (;;)
		__asm__ volatile("pause");
}
static void l2_nmi(void)
{
	apic_icr(ICR_NMI | ICR_SELF, 0);
	l2_loop();
}
static void l2_sti(void)
{
	__asm__ volatile("nop; sti; nop; nop");
	vmcall(0);
}

static void interrupts(void)
{
	apic_init();
	irq_set(0x45, count_irq);
	vmx_setup(l2_loop);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_EXT_INTR);
	vmwrite(EXIT_CTLS, vmread(EXIT_CTLS) | EXIT_ACK_INTR);
	apic_icr(ICR_SELF | 0x45, 0);
	report(left() == 1 && vmread(EXIT_INTR) == 0x80000045,
	       "an interrupt leaves L2 although IF is 0");
	apic_eoi();
	vmx_setup(l2_loop);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_EXT_INTR);
	irq_taken = 0;
	apic_icr(ICR_SELF | 0x45, 0);
	report(left() == 1 && !(vmread(EXIT_INTR) >> 31), "not acknowledged: no vector");
	sti();
	__asm__ volatile("nop; nop");
	cli();
	report_eq(irq_taken, 1, "and it is still there");
	apic_eoi();
	vmx_setup(l2_sti);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_INTR_WINDOW);
	report(left() == 7 && vmread(GUEST_RIP) == (u64)l2_sti + 3 && !vmread(INTERRUPTIBILITY),
	       "interrupt window: behind STI's shadow");
	vmx_setup(l2_loop);
	vmwrite(GUEST_RIP, (u64)l2_nmi);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_NMI);
	report(left() == 0 && vmread(EXIT_INTR) == 0x80000202, "an NMI leaves L2");
	{
		/* NMIs are blocked now; IRET opens them */
		__asm__ volatile(
			"mov %%rsp, %%rax; push %0; push %%rax; pushf; push %1; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
			:
			: "i"((u64)SEL_KDATA), "i"((u64)SEL_KCODE)
			: "rax", "memory", "cc");
	}
	vmx_setup(l2_loop);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_NMI | PIN_VIRTUAL_NMI);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_NMI_WINDOW);
	report(left() == 8 && vmread(GUEST_RIP) == (u64)l2_loop, "NMI window: at once");
}

static void timers(void)
{
	vmx_setup(l2_loop);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_TIMER);
	vmwrite(TIMER, 0);
	report(left() == 52 && vmread(GUEST_RIP) == (u64)l2_loop,
	       "timer 0: before the first instruction");
	vmwrite(TIMER, 1000);
	report(left() == 52, "timer 1000");
	vmx_setup(l2_vmcall);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_TIMER);
	vmwrite(EXIT_CTLS, vmread(EXIT_CTLS) | EXIT_SAVE_TIMER);
	vmwrite(TIMER, 0x70000000);
	report(left() == 18 && vmread(TIMER) < 0x70000000 && vmread(TIMER) > 0x10000000,
	       "the timer's rest is saved");
	vmx_setup(l2_nothing);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_MTF);
	report(left() == 37 && vmread(GUEST_RIP) == (u64)l2_nothing + 1,
	       "monitor trap behind one instruction");
	vmx_setup(l2_vmcall);
	vmwrite(ACTIVITY, 1);
	vmwrite(PIN_CTLS, vmread(PIN_CTLS) | PIN_TIMER);
	vmwrite(TIMER, 1000);
	report(left() == 52 && vmread(ACTIVITY) == 1 && vmread(GUEST_RIP) == (u64)l2_vmcall,
	       "entered in HLT: the timer leaves it");
}

/* --- EPT ------------------------------------------------------------------------------------------------------------ */

#define EPT_VIOLATION 48
#define EPT_MISCONFIG 49

static enum vmx_result ept_run(void (*code)(void), u64 eptp)
{
	vmx_setup(code);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_SECONDARY);
	vmwrite(PROC2_CTLS, PROC2_EPT);
	vmwrite(EPT_POINTER, eptp);
	return vmx_run();
}

static void ept(void)
{
	u64 eptp = ept_make();
	u64 *a = page_alloc(), *b = page_alloc();
	volatile u64 *e;

	*a = 0xaaaa;
	*b = 0xbbbb;
	fault_at = a;
	e = ept_of((u64)a);
	report(ept_run(l2_read, eptp) == VMX_OK && vmread(EXIT_REASON) == 18 && vmx_rax == 0xaaaa,
	       "EPT: identity");
	*e = 0;
	invept(1, eptp);
	report(ept_run(l2_read, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_VIOLATION &&
		       vmread(QUALIFICATION) == 0x181 && vmread(GUEST_PHYSICAL) == (u64)a &&
		       vmread(GUEST_LINEAR) == (u64)a,
	       "read of an absent page");
	*e = (u64)b | 0x37;
	vmwrite(GUEST_RIP, (u64)l2_read); /* general registers are not kept for the guest */
	report(left() == 18 && vmx_rax == 0xbbbb, "and goes on in the page that is mapped then");
	*e = (u64)b | 0x35;
	invept(2, 0);
	report(ept_run(l2_write, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_VIOLATION &&
		       vmread(QUALIFICATION) == 0x1aa,
	       "write to a page without W");
	report_eq(*b, 0xbbbb, "nothing was written");
	*e = (u64)b | 0x32;
	invept(2, 0);
	report(ept_run(l2_read, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_MISCONFIG &&
		       vmread(GUEST_PHYSICAL) == (u64)a,
	       "W without R");
	*e = (u64)b | 0x1f;
	invept(2, 0);
	report(ept_run(l2_read, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_MISCONFIG,
	       "memory type 3");
	*e = (u64)b | 0x37;
	{
		volatile u64 *code = ept_of((u64)l2_vmcall);
		u64 was = *code;

		*code &= ~4ull;
		invept(2, 0);
		report(ept_run(l2_vmcall, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_VIOLATION &&
			       vmread(QUALIFICATION) == 0x19c,
		       "fetch from a page without X");
		*code = was;
	}
	{
		/* the guest's own tables */
		volatile u64 *root = ept_of(read_cr3() & ~0xfffull);
		u64 was = *root;

		*root = 0;
		invept(2, 0);
		report(ept_run(l2_vmcall, eptp) == VMX_OK && vmread(EXIT_REASON) == EPT_VIOLATION &&
			       (vmread(QUALIFICATION) & 0x181) == 0x81 &&
			       (vmread(GUEST_PHYSICAL) & ~0xfffull) == (read_cr3() & ~0xfffull),
		       "a paging-structure entry");
		*root = was;
	}
	invept(2, 0);
	*e = (u64)b | 0x37;
	report(ept_run(l2_read, eptp | 0x40) == VMX_OK && vmread(EXIT_REASON) == 18 &&
		       (*e & 0x300) == 0x100,
	       "A flag");
	report(ept_run(l2_write, eptp | 0x40) == VMX_OK && vmread(EXIT_REASON) == 18 &&
		       (*e & 0x300) == 0x300 && *b == 0x55,
	       "D flag");
	ept_run(l2_vmcall, eptp ^ 0x10);
	report_eq(vmread(INSN_ERROR), 7, "EPTP: walk length");
}

/* --- unrestricted guest ------------------------------------------------------------------------------------------------ */

static void unrestricted(void)
{
	u64 eptp = ept_make();
	u8 *code = page_alloc();

	/* mov $0x1234, %eax (16 bits); vmcall */
	memcpy(code, "\xb8\x34\x12\x0f\x01\xc1", 6);
	if ((u64)code >> 20) { /* real mode reaches the first MiB: alias it */
		*ept_of(0x7000) = (u64)code | 0x37;
		invept(2, 0);
	}
	vmx_setup(l2_vmcall);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_SECONDARY);
	vmwrite(PROC2_CTLS, PROC2_EPT | PROC2_UNRESTRICTED);
	vmwrite(EPT_POINTER, eptp);
	vmwrite(ENTRY_CTLS, vmread(ENTRY_CTLS) & ~(u64)ENTRY_IA32E);
	vmwrite(GUEST_CR0, CR0_NE | CR0_ET);
	vmwrite(GUEST_CR4, CR4_VMXE);
	for (unsigned i = 0; i < 6; i++) {
		vmwrite(GUEST_ES + 2 * i, i == 1 ? 0x700 : 0);
		vmwrite(GUEST_ES_BASE + 2 * i, i == 1 ? 0x7000 : 0);
		vmwrite(GUEST_ES_LIMIT + 2 * i, 0xffff);
		vmwrite(GUEST_ES_AR + 2 * i, i == 1 ? 0x9b : 0x93);
	}
	vmwrite(GUEST_RIP, 0);
	report(left() == 18 && (u16)vmx_rax == 0x1234 && vmread(GUEST_RIP) == 3, "real mode");
}

/* --- MSR lists, time --------------------------------------------------------------------------------------------------------- */

static u64 msr_list[8] __attribute__((aligned(16)));

static void msr_lists(void)
{
	u64 old = rdmsr(MSR_KERNEL_GS_BASE);

	msr_list[0] = MSR_KERNEL_GS_BASE;
	msr_list[1] = 0x1234;
	vmx_setup(l2_vmcall);
	vmwrite(ENTRY_LOAD_ADDR, (u64)msr_list);
	vmwrite(ENTRY_LOAD_COUNT, 1);
	report(vmx_run() == VMX_OK && rdmsr(MSR_KERNEL_GS_BASE) == 0x1234,
	       "an MSR loaded on entry");
	msr_list[2] = MSR_KERNEL_GS_BASE;
	msr_list[4] = MSR_KERNEL_GS_BASE;
	msr_list[5] = old;
	vmx_setup(l2_vmcall);
	vmwrite(EXIT_STORE_ADDR, (u64)&msr_list[2]);
	vmwrite(EXIT_STORE_COUNT, 1);
	vmwrite(EXIT_LOAD_ADDR, (u64)&msr_list[4]);
	vmwrite(EXIT_LOAD_COUNT, 1);
	report(vmx_run() == VMX_OK && msr_list[3] == 0x1234 && rdmsr(MSR_KERNEL_GS_BASE) == old,
	       "stored and loaded on exit");
	msr_list[0] = MSR_FS_BASE;
	vmx_setup(l2_vmcall);
	vmwrite(ENTRY_LOAD_ADDR, (u64)msr_list);
	vmwrite(ENTRY_LOAD_COUNT, 1);
	report(left() == 0x80000022 && vmread(QUALIFICATION) == 1,
	       "FS base in a list: the entry fails");
}

static void l2_tsc(void)
{
	vmcall(rdtsc());
}

static void tsc(void)
{
	const u64 offset = 1ull << 50;
	u64 before, after;

	vmx_setup(l2_tsc);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_TSC_OFFSET);
	vmwrite(TSC_OFFSET, offset);
	before = rdtsc();
	vmx_run();
	after = rdtsc();
	report(vmx_rax - offset >= before && vmx_rax - offset <= after, "TSC offset");
	if (!(rdmsr(MSR_VMX_PROCBASED_CTLS2) >> 32 & PROC2_TSC_SCALING)) {
		report_skip("no TSC scaling");
		return;
	}
	vmx_setup(l2_tsc);
	vmwrite(PROC_CTLS, vmread(PROC_CTLS) | PROC_TSC_OFFSET | PROC_SECONDARY);
	vmwrite(PROC2_CTLS, PROC2_TSC_SCALING);
	vmwrite(TSC_OFFSET, offset);
	vmwrite(TSC_MULTIPLIER, 3ull << 47); /* 1.5 */
	before = rdtsc();
	vmx_run();
	after = rdtsc();
	report(vmx_rax - offset >= before + before / 2 - 2 &&
		       vmx_rax - offset <= after + after / 2 + 2,
	       "TSC multiplier and offset");
}

void test_main(void)
{
	cli();
	if (!vmx_init()) {
		report_skip("this processor has no VMX");
		return;
	}
	instructions_off();
	instructions_on();
	launch_state();
	entry_checks();
	exits();
	bitmaps();
	masks();
	exceptions();
	injection();
	interrupts();
	timers();
	ept();
	unrestricted();
	msr_lists();
	tsc();
	report(vmxoff() == VMX_OK, "VMXOFF");
}
