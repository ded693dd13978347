/*
 * fpu_move.c - the guest's x87 and vector state in and out of the registers without XSAVE
 *
 * XRSTOR and XSAVEOPT are microcode that takes its time whatever there is to move: 115 and 40 to 70 ns
 * on Zen 4, twice at every exit to the client. XGETBV with ECX = 1 tells in 13 ns which components
 * are in use, and loads and stores move all of AVX-512 in 20. So:
 *
 * - a component that is in use is moved by ordinary instructions, the x87 by FXSAVE and FXRSTOR;
 * - one that is not is not touched;
 * - one that the guest does not use, but whoever had the registers before did, is put into its
 *   initial state by zeroing idioms. Processors need not notice that (XINUSE is what guests see of
 *   it, by XGETBV and in XSTATE_BV), so it is tried once. Where they do not, and for sets of
 *   components that wider registers would drag others into, there is XRSTOR.
 */
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/fpu_host.h"
#include "cpu/fpu_move.h"

#define ZMM_HI256 BIT64(6)
#define OPMASK	  BIT64(5)
#define HI16_ZMM  BIT64(7)
#define LOW	  (XSTATE_SSE | XSTATE_AVX | ZMM_HI256) /* registers 0 to 15 */

#define LOW_REGISTERS  ".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"
#define HIGH_REGISTERS ".irp r, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
#define MASK_REGISTERS ".irp r, 0,1,2,3,4,5,6,7\n\t"
#define END	       "\n\t.endr"

static u8 *component(const struct cpu *cpu, unsigned i)
{
	return (u8 *)cpu->xsave + cpu->xcomp[i].offset;
}

/* --- registers 0 to 15: three components of ever wider registers --------------------------------- */

static void low_load(const struct cpu *cpu, u64 used)
{
	const struct fpu_legacy *image = cpu->xsave;

	if (used & ZMM_HI256)
		__asm__ volatile(LOW_REGISTERS "vmovdqu 16*\\r(%0), %%xmm\\r\n\t"
					       "vinserti128 $1, 16*\\r(%1), %%ymm\\r, %%ymm\\r\n\t"
					       "vinserti64x4 $1, 32*\\r(%2), %%zmm\\r, %%zmm\\r" END
				 :
				 : "r"(image->xmm), "r"(component(cpu, 2)), "r"(component(cpu, 6))
				 : "memory");
	else if (used & XSTATE_AVX)
		__asm__ volatile(LOW_REGISTERS "vmovdqu 16*\\r(%0), %%xmm\\r\n\t"
					       "vinserti128 $1, 16*\\r(%1), %%ymm\\r, %%ymm\\r" END
				 :
				 : "r"(image->xmm), "r"(component(cpu, 2))
				 : "memory");
	else
		__asm__ volatile(LOW_REGISTERS "vmovdqu 16*\\r(%0), %%xmm\\r" END
				 :
				 : "r"(image->xmm)
				 : "memory");
}

static void low_save(const struct cpu *cpu, u64 used)
{
	struct fpu_legacy *image = cpu->xsave;

	if (used & ZMM_HI256)
		__asm__ volatile(LOW_REGISTERS "vextracti64x4 $1, %%zmm\\r, 32*\\r(%0)" END
				 :
				 : "r"(component(cpu, 6))
				 : "memory");
	if (used & XSTATE_AVX)
		__asm__ volatile(LOW_REGISTERS "vextracti128 $1, %%ymm\\r, 16*\\r(%0)" END
				 :
				 : "r"(component(cpu, 2))
				 : "memory");
	if (used & XSTATE_SSE)
		__asm__ volatile(LOW_REGISTERS "vmovdqu %%xmm\\r, 16*\\r(%0)" END
				 :
				 : "r"(image->xmm)
				 : "memory");
}

static void low_clear(void)
{
	__asm__ volatile("vzeroall");
}

/* A wider register brings all narrower ones into use. */
static bool low_nested(u64 used)
{
	used &= LOW;
	return !used || used == XSTATE_SSE || used == (XSTATE_SSE | XSTATE_AVX) || used == LOW;
}

/* --- registers 16 to 31, mask registers ------------------------------------------------------------ */

static void high_load(const u8 *from)
{
	__asm__ volatile(HIGH_REGISTERS "vmovdqu64 64*(\\r-16)(%0), %%zmm\\r" END
			 :
			 : "r"(from)
			 : "memory");
}

static void high_save(u8 *to)
{
	__asm__ volatile(HIGH_REGISTERS "vmovdqu64 %%zmm\\r, 64*(\\r-16)(%0)" END
			 :
			 : "r"(to)
			 : "memory");
}

static void high_clear(void)
{
	__asm__ volatile(HIGH_REGISTERS "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r" END : :);
}

static void masks_load(const u8 *from)
{
	__asm__ volatile(MASK_REGISTERS "kmovq 8*\\r(%0), %%k\\r" END : : "r"(from) : "memory");
}

static void masks_save(u8 *to)
{
	__asm__ volatile(MASK_REGISTERS "kmovq %%k\\r, 8*\\r(%0)" END : : "r"(to) : "memory");
}

static void masks_clear(void)
{
	__asm__ volatile(MASK_REGISTERS "kxorq %%k\\r, %%k\\r, %%k\\r" END : :);
}

/* --- all of it ---------------------------------------------------------------------------------------- */

static void clear(u64 which)
{
	if (which & LOW)
		low_clear();
	if (which & OPMASK)
		masks_clear();
	if (which & HI16_ZMM)
		high_clear();
}

void fpu_move_load(struct cpu *cpu)
{
	const struct fpu_legacy *image = cpu->xsave;
	u64 used = image->xstate_bv & cpu->fpu_mask;
	u64 stale = host_xinuse() & cpu->fpu_mask & ~used;

	if (UNLIKELY((stale & ~cpu->fpu_moves) || !low_nested(used))) {
		host_xrstor(image, cpu->fpu_mask);
		return;
	}
	if ((used | stale) & XSTATE_X87) {
		host_fxrstor(image); /* the XMM registers, too */
		stale |= ~used & XSTATE_SSE;
	} else if (image->mxcsr != cpu->host_mxcsr) {
		host_set_mxcsr(image->mxcsr);
	}
	if (used & LOW)
		low_load(cpu, used);
	if (used & OPMASK)
		masks_load(component(cpu, 5));
	if (used & HI16_ZMM)
		high_load(component(cpu, 7));
	/* Narrower registers have taken the upper parts of wider ones with them. */
	clear(used & LOW ? stale & ~LOW : stale);
}

void fpu_move_save(struct cpu *cpu)
{
	struct fpu_legacy *image = cpu->xsave;
	u64 used = host_xinuse() & cpu->fpu_mask;

	if (used & XSTATE_X87)
		host_fxsave(image);
	image->mxcsr = host_mxcsr();
	if (used & LOW)
		low_save(cpu, used);
	if (used & OPMASK)
		masks_save(component(cpu, 5));
	if (used & HI16_ZMM)
		high_save(component(cpu, 7));
	image->xstate_bv = used;
}

/* The instructions above exist, for the components that there are. */
static bool host_can(u64 mask)
{
	u32 leaf0[4], leaf7[4], leafd[4];

	cpuid_host(0, 0, leaf0);
	if (leaf0[0] < 0xd)
		return false;
	cpuid_host(7, 0, leaf7);
	cpuid_host(0xd, 1, leafd);
	return (leafd[0] & BIT(2)) && /* XGETBV with ECX = 1 */
	       (mask & LOW & ~ZMM_HI256) == (XSTATE_SSE | XSTATE_AVX) &&
	       (leaf7[1] & BIT(5)) &&				  /* AVX2 */
	       (!(mask & XSTATE_AVX512) || (leaf7[1] & BIT(30))); /* AVX512BW */
}

/* Every register in use for certain. */
static void fill(u64 mask)
{
	__asm__ volatile("fninit; fld1; fstp %st(0)");
	if (mask & XSTATE_AVX512)
		__asm__ volatile(LOW_REGISTERS "vpternlogd $0xff, %%zmm\\r, %%zmm\\r, %%zmm\\r" END
					       "\n\t" HIGH_REGISTERS
					       "vpternlogd $0xff, %%zmm\\r, %%zmm\\r, %%zmm\\r" END
					       "\n\t" MASK_REGISTERS
					       "kxnorq %%k\\r, %%k\\r, %%k\\r" END
				 :
				 :);
	else
		__asm__ volatile(LOW_REGISTERS "vpcmpeqd %%ymm\\r, %%ymm\\r, %%ymm\\r" END : :);
}

u64 fpu_move_supported(const struct cpu *cpu)
{
	u64 mask = cpu->fpu_mask, used, stale;
	u32 mxcsr = host_mxcsr();
	u16 fcw = host_fcw();

	if (!host_can(mask))
		return 0;
	fill(mask);
	used = host_xinuse();
	host_fxrstor(cpu->xsave);
	clear(mask);
	stale = host_xinuse();
	host_x87_init(fcw);
	host_set_mxcsr(mxcsr);
	return (used & mask) == mask ? mask & ~stale : 0;
}
