/*
 * x87 and SSE: exceptions, control words, FXSAVE, XSAVE family, lazy TS.
 * Source: SDM "Programming with the x87 FPU", "... SSE", "Managing State Using the XSAVE Feature Set".
 */
#include "x86/cpu.h"
#include "x86/paging.h"

static u8 area[4096] __attribute__((aligned(64))), area2[4096] __attribute__((aligned(64)));

static void mf_at_wait(void *p)
{
	static const u16 cw = 0x33b; /* division by zero unmasked */
	static const u32 zero;

	__asm__ volatile("fninit; fldcw %0; fld1; fidivl %1" : : "m"(cw), "m"(zero));
	__asm__ volatile(TRY("fwait") "fnclex; fninit" : : : "memory");
}
static void mf_masked(void *p)
{
	static const u32 zero;

	__asm__ volatile("fninit; fld1; fidivl %0\n" TRY("fwait") "fninit"
			 :
			 : "m"(zero)
			 : "memory");
}
static void xm(void *p)
{
	u32 csr = 0x1f80 & ~0x200u, old = 0x1f80;
	static const float one = 1.0f, zero;

	__asm__ volatile("ldmxcsr %0; movss %1, %%xmm0\n" TRY("divss %2, %%xmm0") "ldmxcsr %3"
			 :
			 : "m"(csr), "m"(one), "m"(zero), "m"(old)
			 : "memory");
}
static void bad_mxcsr(void *p)
{
	u32 csr = 0x80000000;

	__asm__ volatile(TRY("ldmxcsr %0") : : "m"(csr) : "memory");
}
static void unaligned(void *p)
{
	__asm__ volatile(TRY("movaps (%0), %%xmm0") : : "r"(area + 4) : "memory");
}
static void fxsave_unaligned(void *p)
{
	__asm__ volatile(TRY("fxsave (%0)") : : "r"(area + 8) : "memory");
}
static void fxrstor_bad(void *p)
{
	__asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
	*(u32 *)(area + 24) = 0xffff0000;
	__asm__ volatile(TRY("fxrstor (%0)") : : "r"(area) : "memory");
}

static void expect(const char *name, void (*fn)(void *), int vector)
{
	trap_guard(fn, NULL);
	report_eq((u64)(s64)trap_vector(), (u64)(s64)vector, "%s", name);
}

static void basic(void)
{
	u16 cw;
	u32 csr = 0;

	__asm__ volatile("fninit; fnstcw %0" : "=m"(cw));
	report_eq(cw, 0x37f, "FNINIT");
	__asm__ volatile("stmxcsr %0" : "=m"(csr));
	report_eq(csr, 0x1f80, "MXCSR at reset");
	expect("x87: masked division by zero", mf_masked, -1);
	expect("x87: unmasked division by zero, at FWAIT", mf_at_wait, EXC_MF);
	expect("SSE: unmasked division by zero", xm, EXC_XM);
	write_cr4(read_cr4() & ~(ulong)CR4_OSXMMEXCPT);
	expect("SSE: the same without CR4.OSXMMEXCPT", xm, EXC_UD);
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	expect("MXCSR: reserved bits", bad_mxcsr, EXC_GP);
	csr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(csr));
	expect("MOVAPS of an unaligned address", unaligned, EXC_GP);
	expect("FXSAVE of an unaligned address", fxsave_unaligned, EXC_GP);
	expect("FXRSTOR of a bad MXCSR", fxrstor_bad, EXC_GP);
	{
		static const u32 in[4] = {1, 2, 3, 4};
		u32 out[4];

		__asm__ volatile("fninit; fld1; movups %0, %%xmm3" : : "m"(in));
		__asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
		__asm__ volatile("fninit; xorps %xmm3, %xmm3");
		__asm__ volatile("fxrstor (%1); movups %%xmm3, %0" : "=m"(out) : "r"(area));
		report(!memcmp(in, out, 16), "FXSAVE, FXRSTOR");
		report_eq(*(u16 *)(area + 2) & 0x3800, 0x3800, "the stack's top in FSW");
		report_eq(area[4], 0x80, "abridged tag word");
		__asm__ volatile("fninit");
	}
	{
		/* CR0.TS: #NM, CLTS, on with the state as it was */
		static const u32 in[4] = {9, 8, 7, 6};
		u32 out[4];

		__asm__ volatile("movups %0, %%xmm5" : : "m"(in));
		write_cr0(read_cr0() | CR0_TS);
		trap_clear();
		__asm__ volatile(TRY("movups %%xmm5, %0") : "=m"(out));
		report_eq(trap_vector(), EXC_NM, "CR0.TS");
		__asm__ volatile("clts");
		__asm__ volatile("movups %%xmm5, %0" : "=m"(out));
		report(!memcmp(in, out, 16), "the state outlives #NM");
	}
}

static u64 xgetbv(void)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}
static int xsetbv(u64 v)
{
	trap_clear();
	__asm__ volatile(TRY("xsetbv") : : "c"(0), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
	return trap_vector();
}

static void xsave(void)
{
	u64 all, old;
	struct cpuid r;

	if (!HAS(XSAVE)) {
		report_skip("XSAVE");
		return;
	}
	trap_clear();
	__asm__ volatile(TRY("xsave (%0)") : : "r"(area), "a"(-1), "d"(-1) : "memory");
	report_eq(trap_vector(), EXC_UD, "XSAVE without CR4.OSXSAVE");
	write_cr4(read_cr4() | CR4_OSXSAVE);
	old = xgetbv();
	report_eq(old, 1, "XCR0 at reset");
	r = cpuid(0xd, 0);
	all = (u64)r.d << 32 | r.a;
	report((all & 3) == 3, "CPUID 0xd has x87 and SSE");
	report_eq(xsetbv(all & 0x2e7), -1, "all of XCR0");
	report_eq(xsetbv(0), EXC_GP, "XCR0 without x87");
	report_eq(xsetbv(5), EXC_GP, "XCR0: AVX without SSE");
	report_eq(xsetbv(1ull << 62 | 1), EXC_GP, "XCR0: a reserved bit");
	report_eq(cpuid(0xd, 0).b, (all & 0x2e7) == all ? r.c : cpuid(0xd, 0).b,
		  "CPUID 0xd.EBX follows XCR0");
	xsetbv(3);
	report_eq(cpuid(0xd, 0).b, 576, "576 bytes for x87 and SSE");
	trap_clear();
	__asm__ volatile(TRY("xsave (%0)") : : "r"(area + 16), "a"(3), "d"(0) : "memory");
	report_eq(trap_vector(), EXC_GP, "XSAVE of an unaligned address");
	{
		static const u32 in[4] = {11, 22, 33, 44};
		u32 out[4];

		memset(area, 0, sizeof(area));
		__asm__ volatile("movups %0, %%xmm2; xsave (%1)"
				 :
				 : "m"(in), "r"(area), "a"(3), "d"(0)
				 : "memory");
		report(!memcmp(area + 160 + 32, in, 16), "XSAVE stores XMM2");
		report(*(u64 *)(area + 512) & 2, "XSTATE_BV");
		__asm__ volatile("xorps %%xmm2, %%xmm2; xrstor (%1); movups %%xmm2, %0"
				 : "=m"(out)
				 : "r"(area), "a"(2), "d"(0)
				 : "memory");
		report(!memcmp(in, out, 16), "XRSTOR");
		*(u64 *)(area + 512) &= ~2ull;
		__asm__ volatile("xrstor (%1); movups %%xmm2, %0"
				 : "=m"(out)
				 : "r"(area), "a"(2), "d"(0)
				 : "memory");
		memset(area2, 0, 16);
		report(!memcmp(out, area2, 16),
		       "XRSTOR of a component that is not in XSTATE_BV: its initial state");
		*(u64 *)(area + 512) = BIT64(40);
		trap_clear();
		__asm__ volatile(TRY("xrstor (%0)") : : "r"(area), "a"(3), "d"(0) : "memory");
		report_eq(trap_vector(), EXC_GP, "XRSTOR: XSTATE_BV beyond XCR0");
		*(u64 *)(area + 512) = 3;
		*(u64 *)(area + 528) = 1;
		trap_clear();
		__asm__ volatile(TRY("xrstor (%0)") : : "r"(area), "a"(3), "d"(0) : "memory");
		report_eq(trap_vector(), EXC_GP, "XRSTOR: reserved bytes of the header");
		*(u64 *)(area + 528) = 0;
	}
	if (HAS(AVX)) {
		trap_clear();
		__asm__ volatile(TRY("vxorps %%ymm0, %%ymm0, %%ymm0") : : : "memory");
		report_eq(trap_vector(), EXC_UD, "AVX without its bit in XCR0");
		xsetbv(7);
		trap_clear();
		__asm__ volatile(TRY("vxorps %%ymm0, %%ymm0, %%ymm0") : : : "memory");
		report_eq(trap_vector(), -1, "AVX with it");
		write_cr0(read_cr0() | CR0_TS);
		trap_clear();
		__asm__ volatile(TRY("vxorps %%ymm0, %%ymm0, %%ymm0") : : : "memory");
		report_eq(trap_vector(), EXC_NM, "AVX with CR0.TS");
		__asm__ volatile("clts");
	}
	xsetbv(1);
}

/* ---- the rest of the XSAVE family ---- */

static const u32 ones[4] = {0x1111, 0x2222, 0x3333, 0x4444};
static const u32 zeros[4];

USER static void user_xsaves(void *p)
{
	__asm__ volatile("xsaves (%0)" : : "r"(p), "a"(3), "d"(0) : "memory");
}

static bool xmm2_is(const u32 *want)
{
	u32 out[4];

	__asm__ volatile("movups %%xmm2, %0" : "=m"(out));
	return !memcmp(out, want, 16);
}

static void xsave_family(void)
{
	u64 *header = (u64 *)(area + 512);

	if (!HAS(XSAVE))
		return;
	xsetbv(3);
	if (HAS(XSAVEOPT)) {
		memset(area, 0, sizeof(area));
		__asm__ volatile("movups %1, %%xmm2; xsaveopt (%0)"
				 :
				 : "r"(area), "m"(ones), "a"(2), "d"(0)
				 : "memory");
		report(!memcmp(area + 192, ones, 16) && header[0] & 2,
		       "XSAVEOPT stores what has changed");
	}
	if (HAS(XGETBV1)) {
		u32 lo;

		memset(header, 0, 64);
		__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(2), "d"(0) : "memory");
		__asm__ volatile("xgetbv" : "=a"(lo) : "c"(1) : "edx");
		/* The manuals let a processor call it in use all the same. */
		note("XGETBV 1: SSE in its initial state is %s", lo & 2 ? "in use" : "not in use");
		__asm__ volatile("movups %1, %%xmm2; xgetbv"
				 : "=a"(lo)
				 : "m"(ones), "c"(1)
				 : "edx");
		report_eq(lo & 2, 2, "XGETBV 1: SSE in use");
	}
	if (HAS(XSAVEC)) {
		memset(area, 0xcc, sizeof(area));
		memset(header, 0, 64);
		__asm__ volatile("movups %1, %%xmm2; xsavec (%0)"
				 :
				 : "r"(area), "m"(ones), "a"(3), "d"(0)
				 : "memory");
		report_eq(header[1], BIT64(63) | 3, "XSAVEC: XCOMP_BV");
		report(!memcmp(area + 192, ones, 16), "XSAVEC stores");
		__asm__ volatile("xorps %%xmm2, %%xmm2; xrstor (%0)"
				 :
				 : "r"(area), "a"(2), "d"(0)
				 : "memory");
		report(xmm2_is(ones), "XRSTOR of the compacted form");
		header[1] |= BIT64(30);
		trap_clear();
		__asm__ volatile(TRY("xrstor (%0)") : : "r"(area), "a"(2), "d"(0) : "memory");
		report_eq(trap_vector(), EXC_GP, "XRSTOR: XCOMP_BV beyond XCR0");
		header[1] = BIT64(63) | 1;
		header[0] = 3;
		trap_clear();
		__asm__ volatile(TRY("xrstor (%0)") : : "r"(area), "a"(2), "d"(0) : "memory");
		report_eq(trap_vector(), EXC_GP, "XRSTOR: XSTATE_BV beyond XCOMP_BV");
	}
	if (HAS(XSAVES)) {
		memset(area, 0, sizeof(area));
		wrmsr(0xda0, 0);
		__asm__ volatile("movups %1, %%xmm2; xsaves (%0)"
				 :
				 : "r"(area), "m"(ones), "a"(3), "d"(0)
				 : "memory");
		report(header[1] >> 63 && !memcmp(area + 192, ones, 16), "XSAVES");
		__asm__ volatile("movups %1, %%xmm2; xrstors (%0)"
				 :
				 : "r"(area), "m"(zeros), "a"(3), "d"(0)
				 : "memory");
		report(xmm2_is(ones), "XRSTORS");
		header[1] = 0;
		trap_clear();
		__asm__ volatile(TRY("xrstors (%0)") : : "r"(area), "a"(3), "d"(0) : "memory");
		report_eq(trap_vector(), EXC_GP, "XRSTORS of the standard form");
		trap_user(user_xsaves, area);
		report_eq(trap_vector(), EXC_GP, "XSAVES at level 3");
	}
	xsetbv(1);
}

/* ---- the six exceptions of SSE and x87, masked and not ---- */

enum { IE = 1, DE = 2, ZE = 4, OE = 8, UE = 16, PE = 32 };

static const struct {
	const char *name;
	u32 a, b;
	char op;
	u32 flags;
} sums[] = {
	{"0 / 0: invalid", 0, 0, '/', IE},
	{"infinity - infinity: invalid", 0x7f800000, 0x7f800000, '-', IE},
	{"a signaling NaN: invalid", 0x7f800001, 0x3f800000, '+', IE},
	{"a denormal operand", 0x00000001, 0x3f800000, '*', DE},
	{"1 / 0: division by zero", 0x3f800000, 0, '/', ZE},
	{"overflow", 0x7f7fffff, 0x7f7fffff, '+', OE | PE},
	{"underflow", 0x00800001, 0x3f000001, '*', UE | PE},
	{"inexact", 0x3f800000, 0x40400000, '/', PE},
	{"nothing", 0x3f800000, 0x3f800000, '+', 0},
};

static void sse_op(u32 csr, u32 a, u32 b, char op)
{
	__asm__ volatile("ldmxcsr %0; movd %1, %%xmm0; movd %2, %%xmm1"
			 :
			 : "m"(csr), "r"(a), "r"(b));
	trap_clear();
	switch (op) {
	case '+':
		__asm__ volatile(TRY("addss %%xmm1, %%xmm0") : : : "memory");
		break;
	case '-':
		__asm__ volatile(TRY("subss %%xmm1, %%xmm0") : : : "memory");
		break;
	case '*':
		__asm__ volatile(TRY("mulss %%xmm1, %%xmm0") : : : "memory");
		break;
	default:
		__asm__ volatile(TRY("divss %%xmm1, %%xmm0") : : : "memory");
	}
}

static void simd_exceptions(void)
{
	u32 csr, old = 0x1f80;

	for (unsigned i = 0; i < ARRAY_SIZE(sums); i++) {
		u32 first = sums[i].flags & -sums[i].flags, open = 0x1f80;

		sse_op(0x1f80, sums[i].a, sums[i].b, sums[i].op);
		__asm__ volatile("stmxcsr %0" : "=m"(csr));
		report_eq(trap_vector() == -1 ? csr & 0x3f : 0x100, sums[i].flags, "SSE flags: %s",
			  sums[i].name);
		if (!first)
			continue;
		open &= ~(first << 7);
		sse_op(open, sums[i].a, sums[i].b, sums[i].op);
		__asm__ volatile("stmxcsr %0" : "=m"(csr));
		report(trap_vector() == EXC_XM && csr & first, "SSE unmasked: %s", sums[i].name);
		__asm__ volatile("movd %%xmm0, %0" : "=r"(csr));
		report_eq(csr, sums[i].a, "SSE unmasked: the register stays: %s", sums[i].name);
	}
	__asm__ volatile("ldmxcsr %0" : : "m"(old));
}

static void x87_exceptions(void)
{
	u16 sw;

	for (unsigned i = 0; i < ARRAY_SIZE(sums); i++) {
		u32 first = sums[i].flags & -sums[i].flags;
		u16 cw = 0x37f;

		/* Registers have more range and precision than the others need; loads see NaNs first. */
		if ((first != IE && first != ZE) || sums[i].a == 0x7f800001)
			continue;
		for (unsigned open = 0; open < 2; open++) {
			cw = (u16)(0x37f & ~(open ? first : 0));
			__asm__ volatile("fninit; fldcw %2; flds %0; flds %1"
					 :
					 : "m"(sums[i].a), "m"(sums[i].b), "m"(cw));
			if (sums[i].op == '/')
				__asm__ volatile("fdivrp %st, %st(1)");
			else if (sums[i].op == '*')
				__asm__ volatile("fmulp %st, %st(1)");
			else if (sums[i].op == '-')
				__asm__ volatile("fsubrp %st, %st(1)");
			else
				__asm__ volatile("faddp %st, %st(1)");
			__asm__ volatile("fnstsw %0" : "=m"(sw));
			report(sw & first && !!(sw & 0x80) == open, "x87 %s: %s",
			       open ? "unmasked" : "flags", sums[i].name);
			__asm__ volatile("fnclex; fninit");
		}
	}
}

/* In the registers' own format: the exceptions that need all of its range; faults of the stack. */
static const struct {
	const char *name;
	u16 exponent_a, exponent_b;
	u64 a, b;
	char op;
	u16 flags, more; /* the exception; what comes with it when all are masked */
} extended[] = {
	{"overflow", 0x7ffe, 0x7ffe, ~0ull, ~0ull, '+', OE, PE},
	{"underflow", 0x0001, 0x3ffd, 1ull << 63, 0xaaaaaaaaaaaaaaab, '*', UE, PE},
	{"a denormal operand", 0x0000, 0x3fff, 1, 1ull << 63, '+', DE, PE},
	{"inexact", 0x3fff, 0x4000, 1ull << 63, 3ull << 62, '/', PE, 0},
	{"an unnormal: invalid", 0x3fff, 0x3fff, 1, 1ull << 63, '+', IE, 0},
};
struct m80 {
	u64 mantissa;
	u16 exponent;
} __attribute__((packed));

/* Status word after the operation; *vector: of an FWAIT behind it. */
static u16 extended_op(unsigned i, u16 cw, int *vector)
{
	struct m80 a = {extended[i].a, extended[i].exponent_a},
		   b = {extended[i].b, extended[i].exponent_b};
	u16 sw;

	__asm__ volatile("fninit; fldcw %2; fldt %0; fldt %1" : : "m"(a), "m"(b), "m"(cw));
	if (extended[i].op == '+')
		__asm__ volatile("faddp %st, %st(1)");
	else if (extended[i].op == '*')
		__asm__ volatile("fmulp %st, %st(1)");
	else
		__asm__ volatile("fdivrp %st, %st(1)");
	__asm__ volatile("fnstsw %0" : "=m"(sw));
	trap_clear();
	__asm__ volatile(TRY("fwait") "fnclex; fninit" : : : "memory");
	*vector = trap_vector();
	return sw;
}

static void x87_extended(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(extended); i++) {
		u16 flags = extended[i].flags, sw;
		int vector;

		sw = extended_op(i, 0x37f, &vector);
		report_eq(sw & 0xbf, flags | extended[i].more, "x87, all masked: %s",
			  extended[i].name);
		sw = extended_op(i, (u16)(0x37f & ~flags), &vector);
		report((sw & flags) && (sw & 0x80) && vector == EXC_MF, "x87, unmasked: %s",
		       extended[i].name);
	}
}

static void x87_stack(void)
{
	static u32 cell;
	u16 sw;

	__asm__ volatile("fninit; fistpl %0; fnstsw %1" : "=m"(cell), "=m"(sw));
	report_eq(sw & 0x2c1, 0x41,
		  "x87: a store of an empty register: invalid, stack fault, C1 clear");
	report_eq(cell, 0x80000000, "x87: the integer indefinite is stored");
	__asm__ volatile("fninit; fldz; fldz; fldz; fldz; fldz; fldz; fldz; fldz; fld1; fnstsw %0"
			 : "=m"(sw));
	report_eq(sw & 0x2c1, 0x241, "x87: a ninth load: invalid, stack fault, C1 set");
	__asm__ volatile("fninit; fldz; ffree %%st; fincstp; fnstsw %0; fninit" : "=m"(sw));
	report_eq(sw & 0x3841, 0, "x87: FFREE and FINCSTP are no faults");
}

void test_main(void)
{
	write_cr0((read_cr0() & ~(ulong)(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	user_map();
	basic();
	xsave();
	xsave_family();
	simd_exceptions();
	x87_exceptions();
	x87_extended();
	x87_stack();
}
