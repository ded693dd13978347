/* Registers and instructions of the x86 processor, one inline function each. */
#ifndef GUEST_X86_H
#define GUEST_X86_H

#include "../lib.h"

#ifdef __x86_64__
#define IS64	1
#define W	"q" /* suffix of a register-wide instruction */
#define ASM_PTR ".quad"
#else
#define IS64	0
#define W	"l"
#define ASM_PTR ".long"
#endif

/* ---- selectors of every CPU's GDT; the order is what SYSCALL and SYSENTER ask for ---- */
enum {
	SEL_KCODE = 0x08,
	SEL_KDATA = 0x10,
	SEL_UCODE32 = 0x18,
	SEL_UDATA = 0x20,
	SEL_UCODE = 0x28, /* 64-bit code in 64-bit kernels, 32-bit code in 32-bit ones */
	SEL_UDATA2 = 0x30,
	SEL_KCODE32 = 0x38,
	SEL_CODE16 = 0x40,
	SEL_DATA16 = 0x48,
	SEL_TSS = 0x50, /* two entries */
	SEL_TSS_DF = 0x60,
	SEL_FREE = 0x68, /* from here on: for tests */
	GDT_ENTRIES = 32,
};

enum {
	EXC_DE,
	EXC_DB,
	EXC_NMI,
	EXC_BP,
	EXC_OF,
	EXC_BR,
	EXC_UD,
	EXC_NM,
	EXC_DF,
	EXC_CSO,
	EXC_TS,
	EXC_NP,
	EXC_SS,
	EXC_GP,
	EXC_PF,
	EXC_MF = 16,
	EXC_AC,
	EXC_MC,
	EXC_XM,
	EXC_VE,
	EXC_CP,
};

#define FL_CF	0x1u
#define FL_PF	0x4u
#define FL_AF	0x10u
#define FL_ZF	0x40u
#define FL_SF	0x80u
#define FL_TF	0x100u
#define FL_IF	0x200u
#define FL_DF	0x400u
#define FL_OF	0x800u
#define FL_IOPL 0x3000u
#define FL_NT	0x4000u
#define FL_RF	0x10000u
#define FL_VM	0x20000u
#define FL_AC	0x40000u
#define FL_VIF	0x80000u
#define FL_VIP	0x100000u
#define FL_ID	0x200000u

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_VME	       0x1u
#define CR4_PVI	       0x2u
#define CR4_TSD	       0x4u
#define CR4_DE	       0x8u
#define CR4_PSE	       0x10u
#define CR4_PAE	       0x20u
#define CR4_MCE	       0x40u
#define CR4_PGE	       0x80u
#define CR4_PCE	       0x100u
#define CR4_OSFXSR     0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP       0x800u
#define CR4_LA57       0x1000u
#define CR4_FSGSBASE   0x10000u
#define CR4_PCIDE      0x20000u
#define CR4_OSXSAVE    0x40000u
#define CR4_SMEP       0x100000u
#define CR4_SMAP       0x200000u
#define CR4_PKE	       0x400000u
#define CR4_PKS	       0x1000000u

#define MSR_TSC		   0x10
#define MSR_APIC_BASE	   0x1b
#define MSR_TSC_ADJUST	   0x3b
#define MSR_SYSENTER_CS	   0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_MCG_CAP	   0x179
#define MSR_MCG_STATUS	   0x17a
#define MSR_MISC_ENABLE	   0x1a0
#define MSR_DEBUGCTL	   0x1d9
#define MSR_PAT		   0x277
#define MSR_MTRR_DEF	   0x2ff
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_PKRS	   0x6e1
#define MSR_EFER	   0xc0000080
#define MSR_STAR	   0xc0000081
#define MSR_LSTAR	   0xc0000082
#define MSR_CSTAR	   0xc0000083
#define MSR_SFMASK	   0xc0000084
#define MSR_FS_BASE	   0xc0000100
#define MSR_GS_BASE	   0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX	   0xc0000103

#define EFER_SCE 0x1u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u
#define EFER_NX	 0x800u

/* ---- ports ---- */

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline u16 inw(u16 port)
{
	u16 v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline u32 inl(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* ---- control, debug registers, MSRs ---- */

#define REGISTER(name)                                                          \
	static inline ulong read_##name(void)                                   \
	{                                                                       \
		ulong v;                                                        \
                                                                                \
		__asm__ volatile("mov %%" #name ", %0" : "=r"(v) : : "memory"); \
		return v;                                                       \
	}                                                                       \
	static inline void write_##name(ulong v)                                \
	{                                                                       \
		__asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory");     \
	}
REGISTER(cr0)
REGISTER(cr2)
REGISTER(cr3)
REGISTER(cr4)
REGISTER(dr0)
REGISTER(dr1)
REGISTER(dr2)
REGISTER(dr3)
REGISTER(dr6)
REGISTER(dr7)
#if IS64
REGISTER(cr8)
#endif

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

struct cpuid {
	u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 index)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
			 : "a"(leaf), "c"(index)
			 : "memory");
	return r;
}

static inline ulong read_flags(void)
{
	ulong v;

	__asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
	return v;
}
static inline void write_flags(ulong v)
{
	__asm__ volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}
static inline void cli(void)
{
	__asm__ volatile("cli" ::: "memory");
}
static inline void sti(void)
{
	__asm__ volatile("sti" ::: "memory");
}
static inline void sti_nop(void)
{
	__asm__ volatile("sti; nop" ::: "memory");
}
static inline void hlt(void)
{
	__asm__ volatile("hlt" ::: "memory");
}
static inline void pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}
static inline void invlpg(const void *p)
{
	__asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}

struct table_reg {
	u16 limit;
	ulong base;
} __attribute__((packed));
static inline struct table_reg sgdt(void)
{
	struct table_reg t;

	__asm__ volatile("sgdt %0" : "=m"(t));
	return t;
}
static inline struct table_reg sidt(void)
{
	struct table_reg t;

	__asm__ volatile("sidt %0" : "=m"(t));
	return t;
}
static inline void lgdt(const struct table_reg *t)
{
	__asm__ volatile("lgdt %0" : : "m"(*t) : "memory");
}
static inline void lidt(const struct table_reg *t)
{
	__asm__ volatile("lidt %0" : : "m"(*t) : "memory");
}

/* ---- features by name; the rows are the engine's own, src/cpu/feature.def ---- */

enum feature {
#define FEATURE(name, word, bit, policy, reason) FEATURE_##name,
#include "cpu/feature.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

/** True when CPUID shows a feature: HAS(SMEP). */
#define HAS(name) cpu_has(FEATURE_##name)
bool cpu_has(enum feature f);
bool cpu_is_intel(void);
bool cpu_is_amd(void);
unsigned cpu_maxphyaddr(void);
/** The hypervisor's leaves are KVM's. */
bool cpu_has_kvm(void);

#endif
