/* See vmx.h. */
#include "vmx.h"

#include "paging.h"

#if IS64

u8 *vmx_region, *vmx_vmcs, *vmx_msrs, *vmx_ports;
u64 vmx_rax;
static bool launched;

/* One VMX instruction that may fault. */
#define INSN(insn, ...)                                         \
	({                                                      \
		u8 cf_, zf_;                                    \
                                                                \
		trap_clear();                                   \
		__asm__ volatile(TRY(insn) "setc %0\n\tsetz %1" \
				 : "=&r"(cf_), "=&r"(zf_)       \
				 : __VA_ARGS__                  \
				 : "memory", "cc");             \
		trap_vector() != -1 ? VMX_FAULT                 \
		: cf_		    ? VMX_FAIL_INVALID          \
		: zf_		    ? VMX_FAIL_VALID            \
				    : VMX_OK;                                 \
	})

enum vmx_result vmxon(u64 pa)
{
	return INSN("vmxon %2", "m"(pa));
}
enum vmx_result vmxoff(void)
{
	return INSN("vmxoff", "m"(launched));
}
enum vmx_result vmclear(u64 pa)
{
	return INSN("vmclear %2", "m"(pa));
}
enum vmx_result vmptrld(u64 pa)
{
	return INSN("vmptrld %2", "m"(pa));
}
enum vmx_result vmwrite(u64 field, u64 value)
{
	return INSN("vmwrite %3, %2", "r"(field), "r"(value));
}
enum vmx_result invept(u64 type, u64 eptp)
{
	u64 desc[2] = {eptp, 0};

	return INSN("invept %2, %3", "m"(desc), "r"(type));
}
enum vmx_result invvpid(u64 type, u64 vpid, u64 address)
{
	u64 desc[2] = {vpid, address};

	return INSN("invvpid %2, %3", "m"(desc), "r"(type));
}

u64 vmptrst(void)
{
	u64 pa = 0;

	__asm__ volatile("vmptrst %0" : "=m"(pa) : : "cc", "memory");
	return pa;
}

enum vmx_result vmread_try(u64 field, u64 *value)
{
	return INSN("vmread %3, (%2)", "r"(value), "r"(field));
}

u64 vmread(u64 field)
{
	u64 v = 0;

	if (vmread_try(field, &v) != VMX_OK)
		die("VMREAD %llx failed", (unsigned long long)field);
	return v;
}

static void put(u64 field, u64 value)
{
	if (vmwrite(field, value) != VMX_OK)
		die("VMWRITE %llx failed", (unsigned long long)field);
}

bool vmx_init(void)
{
	u64 control;

	if (!HAS(VMX))
		return false;
	vmx_region = page_alloc();
	vmx_vmcs = page_alloc();
	vmx_msrs = page_alloc();
	vmx_ports = pages_alloc(2);
	*(u32 *)vmx_region = *(u32 *)vmx_vmcs = (u32)rdmsr(MSR_VMX_BASIC);
	control = rdmsr(MSR_FEATURE_CONTROL);
	if (!(control & 1))
		wrmsr(MSR_FEATURE_CONTROL, control | 5);
	write_cr0(read_cr0() | rdmsr(MSR_VMX_CR0_FIXED0));
	write_cr4(read_cr4() | rdmsr(MSR_VMX_CR4_FIXED0));
	return true;
}

/* --- the VMCS --------------------------------------------------------------------------------------- */

static u32 allowed(u32 msr, u32 want)
{
	u64 v = rdmsr(msr);

	return (want | (u32)v) & (u32)(v >> 32);
}

static void setup_host(void)
{
	put(HOST_CR0, read_cr0());
	put(HOST_CR3, read_cr3());
	put(HOST_CR4, read_cr4());
	for (unsigned i = 0; i < 6; i++)
		put(HOST_ES + 2 * i, i == 1 ? SEL_KCODE : i == 4 || i == 5 ? 0 : SEL_KDATA);
	put(HOST_TR, SEL_TSS);
	put(HOST_FS_BASE, rdmsr(MSR_FS_BASE));
	put(HOST_FS_BASE + 2, rdmsr(MSR_GS_BASE));
	put(HOST_TR_BASE, (u64)&this_cpu()->tss);
	put(HOST_GDTR_BASE, (u64)sgdt().base);
	put(HOST_IDTR_BASE, (u64)sidt().base);
	put(HOST_SYSENTER_CS, 0);
	put(HOST_SYSENTER_ESP, 0);
	put(HOST_SYSENTER_ESP + 2, 0);
}

static void setup_guest(void (*code)(void))
{
	put(GUEST_CR0, read_cr0());
	put(GUEST_CR3, read_cr3());
	put(GUEST_CR4, read_cr4());
	for (unsigned i = 0; i < 8; i++) {
		bool cs = i == 1, none = i == 4 || i == 5 || i == 6, tr = i == 7;

		put(GUEST_ES + 2 * i, cs ? SEL_KCODE : none ? 0 : tr ? SEL_TSS : SEL_KDATA);
		put(GUEST_ES_LIMIT + 2 * i, tr ? sizeof(struct tss) - 1 : ~0u);
		put(GUEST_ES_AR + 2 * i, cs ? 0xa09b : none ? 0x10000 : tr ? 0x8b : 0xc093);
		put(GUEST_ES_BASE + 2 * i, tr ? (u64)&this_cpu()->tss : 0);
	}
	put(GUEST_GDTR_LIMIT, sgdt().limit);
	put(GUEST_IDTR_LIMIT, sidt().limit);
	put(GUEST_GDTR_BASE, (u64)sgdt().base);
	put(GUEST_IDTR_BASE, (u64)sidt().base);
	put(GUEST_DR7, 0x400);
	put(GUEST_RIP, (u64)code);
	put(GUEST_RFLAGS, 2);
	put(GUEST_SYSENTER_CS, 0);
	put(GUEST_SYSENTER_ESP, 0);
	put(GUEST_SYSENTER_ESP + 2, 0);
	put(GUEST_DEBUGCTL, 0);
	put(LINK_POINTER, ~0ull);
	put(INTERRUPTIBILITY, 0);
	put(ACTIVITY, 0);
	put(PENDING_DBG, 0);
}

void vmx_setup(void (*code)(void))
{
	static const u16 zeros[] = {
		VPID,	     TSC_OFFSET,       EXCEPTIONS,	PF_MASK,
		CR3_TARGETS, EXIT_STORE_COUNT, EXIT_LOAD_COUNT, ENTRY_LOAD_COUNT,
		ENTRY_INTR,  TPR_THRESHOLD,    PROC2_CTLS,	CR0_MASK,
		CR4_MASK,    CR0_SHADOW,       CR4_SHADOW,	TIMER,
		EPT_POINTER};
	u64 sp;

	if (vmclear((u64)vmx_vmcs) != VMX_OK || vmptrld((u64)vmx_vmcs) != VMX_OK)
		die("no VMCS");
	launched = false;
	for (unsigned i = 0; i < ARRAY_SIZE(zeros); i++)
		put(zeros[i], 0);
	put(PF_MATCH, 0);
	put(PIN_CTLS, allowed(MSR_VMX_TRUE_PINBASED_CTLS, 0));
	put(PROC_CTLS, allowed(MSR_VMX_TRUE_PROCBASED_CTLS, PROC_MSR_BITMAPS));
	put(EXIT_CTLS, allowed(MSR_VMX_TRUE_EXIT_CTLS, EXIT_HOST64));
	put(ENTRY_CTLS, allowed(MSR_VMX_TRUE_ENTRY_CTLS, ENTRY_IA32E | ENTRY_LOAD_DEBUG));
	put(MSR_BITMAP, (u64)vmx_msrs);
	put(IO_BITMAP_A, (u64)vmx_ports);
	put(IO_BITMAP_B, (u64)vmx_ports + 4096);
	memset(vmx_msrs, 0, 4096);
	memset(vmx_ports, 0, 8192);
	setup_host();
	setup_guest(code);
	__asm__ volatile("mov %%rsp, %0" : "=r"(sp));
	put(GUEST_RSP, ((sp - 0x1800) & ~15ull) - 8);
}

/* Returns 0 after an exit, else the flags of the failed instruction. */
__asm__(".text\n"
	"vmx_switch:\n"
	"	push %rbp\n	push %rbx\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov $0x6c14, %eax\n	vmwrite %rsp, %rax\n"
	"	lea 1f(%rip), %rcx\n	mov $0x6c16, %eax\n	vmwrite %rcx, %rax\n"
	"	test %edi, %edi\n	jne 2f\n"
	"	vmlaunch\n	jmp 3f\n"
	"2:	vmresume\n"
	"3:	pushf\n	pop %rax\n	jmp 4f\n"
	"1:	mov %rax, vmx_rax(%rip)\n	xor %eax, %eax\n"
	"4:	cld\n	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbx\n	pop %rbp\n	ret\n");
u64 vmx_switch(unsigned resume);

enum vmx_result vmx_run(void)
{
	u64 flags = vmx_switch(launched);

	if (!flags) {
		launched |= !(vmread(EXIT_REASON) >> 31);
		return VMX_OK;
	}
	return flags & FL_CF ? VMX_FAIL_INVALID : flags & FL_ZF ? VMX_FAIL_VALID : VMX_FAULT;
}

enum vmx_result vmx_try(void (*code)(void), u32 pin, u32 proc, u32 proc2)
{
	vmx_setup(code);
	put(PIN_CTLS, vmread(PIN_CTLS) | pin);
	put(PROC_CTLS, vmread(PROC_CTLS) | proc | (proc2 ? PROC_SECONDARY : 0));
	put(PROC2_CTLS, proc2);
	return vmx_run();
}

void vmx_skip(void)
{
	put(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_LEN));
}

/* --- EPT ---------------------------------------------------------------------------------------------- */

#define EPT_RWX	    7ull
#define EPT_WB	    0x30ull
#define EPT_LARGE   0x80ull
#define EPT_ADDRESS 0xffffffffff000ull

static u64 *ept_root;

u64 ept_make(void)
{
	u64 *pdpt = page_alloc();

	ept_root = page_alloc();
	ept_root[0] = (u64)pdpt | EPT_RWX;
	for (unsigned i = 0; i < 4; i++) {
		u64 *pd = page_alloc();

		pdpt[i] = (u64)pd | EPT_RWX;
		for (u64 k = 0; k < 512; k++)
			pd[k] = ((u64)i << 30) | k << 21 | EPT_RWX | EPT_WB | EPT_LARGE;
	}
	return (u64)ept_root | 3 << 3 | 6;
}

volatile u64 *ept_of(u64 gpa)
{
	u64 *pdpt = (u64 *)(ept_root[0] & EPT_ADDRESS);
	u64 *pd = (u64 *)(pdpt[gpa >> 30 & 3] & EPT_ADDRESS), *pde = &pd[gpa >> 21 & 511];

	if (*pde & EPT_LARGE) {
		u64 *pt = page_alloc();

		for (u64 k = 0; k < 512; k++)
			pt[k] = (gpa & ~0x1fffffull) | k << 12 | EPT_RWX | EPT_WB;
		*pde = (u64)pt | EPT_RWX;
	}
	return (volatile u64 *)(*pde & EPT_ADDRESS) + (gpa >> 12 & 511);
}

#endif
