/* fpu_host.h - the host's own state-saving instructions */
#ifndef CPU_FPU_HOST_H
#define CPU_FPU_HOST_H

#include "base/types.h"

static inline void host_xsave(void *image, u64 mask)
{
	__asm__ volatile("xsave64 (%0)"
			 :
			 : "r"(image), "a"((u32)mask), "d"((u32)(mask >> 32))
			 : "memory");
}

static inline void host_xsaveopt(void *image, u64 mask)
{
	__asm__ volatile("xsaveopt64 (%0)"
			 :
			 : "r"(image), "a"((u32)mask), "d"((u32)(mask >> 32))
			 : "memory");
}

static inline void host_xrstor(const void *image, u64 mask)
{
	__asm__ volatile("xrstor64 (%0)"
			 :
			 : "r"(image), "a"((u32)mask), "d"((u32)(mask >> 32))
			 : "memory");
}

static inline void host_fxsave(void *image)
{
	__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
}

static inline void host_fxrstor(const void *image)
{
	__asm__ volatile("fxrstor64 (%0)" : : "r"(image) : "memory");
}

static inline u32 host_mxcsr(void)
{
	u32 v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static inline void host_set_mxcsr(u32 v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

/* The components of XCR0 that are not in their initial state, or may not be (XGETBV, ECX = 1). */
static inline u64 host_xinuse(void)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
	return lo | (u64)hi << 32;
}

static inline u16 host_fcw(void)
{
	u16 v;

	__asm__ volatile("fnstcw %0" : "=m"(v));
	return v;
}

/* Empties the x87 registers. FNINIT does not wait for a pending exception. */
static inline void host_x87_init(u16 fcw)
{
	__asm__ volatile("fninit\n\t"
			 "fldcw %0"
			 :
			 : "m"(fcw));
}

static inline u16 host_fsw(void)
{
	u16 v;

	__asm__ volatile("fnstsw %0" : "=m"(v));
	return v;
}

/* The image of FXSAVE and of XSAVE's first 576 bytes. */
struct fpu_legacy {
	u16 fcw, fsw;
	u8 ftw, reserved0;
	u16 fop;
	u64 fip, fdp;
	u32 mxcsr, mxcsr_mask;
	u8 st[8][16];
	u8 xmm[16][16];
	u8 reserved1[96];
	u64 xstate_bv, xcomp_bv, reserved2[6];
};
_Static_assert(sizeof(struct fpu_legacy) == 576, "FXSAVE area and XSAVE header");

#define MXCSR_INIT	0x1f80u
#define FCW_INIT	0x37fu
#define XCOMP_COMPACTED BIT64(63)

#endif
