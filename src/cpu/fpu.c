/*
 * fpu.c - moving the guest's x87 and vector state into and out of the host's registers
 *
 * Entering and leaving the engine happens at every exit to the client. How that is done fast is
 * fpu_move.c's; where the host does not allow it, leaving uses XSAVEOPT, which skips components in
 * their initial state and those unchanged since the XRSTOR from the same place. What is skipped for
 * being initial is cleared here once, when it becomes so.
 */
#include <errno.h>
#include <stdlib.h>
#include "base/mem.h"
#include "cpu/control.h"
#include "cpu/cpuid.h"
#include "cpu/fpu.h"
#include "cpu/fpu_host.h"
#include "cpu/fpu_move.h"

#define MXCSR_MASK_OLD 0xffbfu /* of processors that store no mask */

u64 cpu_fpu_mask(void)
{
	u32 lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	lo &= (u32)(CPU_XCR0_MASK & ~XSTATE_PKRU);
	if ((lo & XSTATE_AVX512) != XSTATE_AVX512)
		lo &= ~(u32)XSTATE_AVX512;
	return lo;
}

void cpu_fpu_reset(struct cpu *cpu)
{
	struct fpu_legacy *image = cpu->xsave;

	mem_set(image, 0, CPU_XSAVE_SIZE);
	image->fcw = FCW_INIT;
	image->mxcsr = MXCSR_INIT;
	image->mxcsr_mask = cpu->mxcsr_mask;
}

int cpu_fpu_init(struct cpu *cpu)
{
	struct fpu_legacy now __attribute__((aligned(16)));

	cpu_xcomp_init(cpu->xcomp);
	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++)
		if (cpu->xcomp[i].offset + cpu->xcomp[i].size > CPU_XSAVE_SIZE)
			return -ENOMEM;
	cpu->xsave = aligned_alloc(64, CPU_XSAVE_SIZE);
	if (!cpu->xsave)
		return -ENOMEM;
	mem_set(&now, 0, sizeof(now));
	host_fxsave(&now);
	cpu->mxcsr_mask = now.mxcsr_mask ? now.mxcsr_mask : MXCSR_MASK_OLD;
	cpu->fpu_loaded = false;
	cpu->fpu_mask = cpu_fpu_mask();
	cpu_fpu_reset(cpu);
	cpu->fpu_moves = fpu_move_supported(cpu);
	return 0;
}

void cpu_fpu_destroy(struct cpu *cpu)
{
	free(cpu->xsave);
	cpu->xsave = NULL;
}

void cpu_fpu_load(struct cpu *cpu)
{
	if (cpu->fpu_loaded)
		return;
	cpu->host_mxcsr = host_mxcsr();
	cpu->host_fcw = host_fcw();
	if (LIKELY(cpu->fpu_moves))
		fpu_move_load(cpu);
	else
		host_xrstor(cpu->xsave, cpu->fpu_mask);
	cpu->fpu_loaded = true;
}

/* Gives components that have become initial their initial data. */
static void clear_components(struct cpu *cpu, u64 which)
{
	struct fpu_legacy *image = cpu->xsave;

	if (which & XSTATE_X87) {
		mem_set(image, 0, offsetof(struct fpu_legacy, mxcsr));
		mem_set(image->st, 0, sizeof(image->st));
		image->fcw = FCW_INIT;
	}
	if (which & XSTATE_SSE)
		mem_set(image->xmm, 0, sizeof(image->xmm));
	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++)
		if (which & BIT64(i))
			mem_set((u8 *)image + cpu->xcomp[i].offset, 0, cpu->xcomp[i].size);
}

void cpu_fpu_save(struct cpu *cpu)
{
	struct fpu_legacy *image = cpu->xsave;
	u64 before = image->xstate_bv;
	u32 mxcsr;

	if (!cpu->fpu_loaded)
		return;
	if (LIKELY(cpu->fpu_moves)) {
		fpu_move_save(cpu);
		mxcsr = image->mxcsr;
	} else {
		host_xsaveopt(image, cpu->fpu_mask);
		mxcsr = host_mxcsr();
	}
	if (UNLIKELY(before & ~image->xstate_bv))
		clear_components(cpu, before & ~image->xstate_bv);
	/* What is initial is as the host wants it. */
	if ((image->xstate_bv & XSTATE_X87) || cpu->host_fcw != FCW_INIT)
		host_x87_init(cpu->host_fcw);
	if (image->xstate_bv & ~(u64)(XSTATE_X87 | XSTATE_SSE))
		__asm__ volatile("vzeroupper");
	if (mxcsr != cpu->host_mxcsr)
		host_set_mxcsr(cpu->host_mxcsr);
	cpu->fpu_loaded = false;
}

void cpu_fpu_image_get(struct cpu *cpu, void *image, size_t size)
{
	u32 at = cpu->xcomp[9].offset;
	u64 pkru = cpu->pkru;

	mem_copy(image, cpu->xsave, MIN(size, (size_t)CPU_XSAVE_SIZE));
	if (size > CPU_XSAVE_SIZE)
		mem_set((u8 *)image + CPU_XSAVE_SIZE, 0, size - CPU_XSAVE_SIZE);
	if (size < sizeof(struct fpu_legacy))
		return;
	if (size >= at + 8u) {
		mem_copy((u8 *)image + at, &pkru, 8);
		if (pkru)
			((struct fpu_legacy *)image)->xstate_bv |= XSTATE_PKRU;
	}
}

int cpu_fpu_image_set(struct cpu *cpu, const void *image, size_t size)
{
	/* As KVM: everything that is supported, whatever the guest's CPUID says. */
	u64 allowed = cpu_fpu_mask() | XSTATE_PKRU, bv;
	struct fpu_legacy head, *own = cpu->xsave;
	u32 at = cpu->xcomp[9].offset;

	if (size < sizeof(head))
		return -EINVAL;
	mem_copy(&head, image, sizeof(head));
	bv = head.xstate_bv;
	if ((bv & ~allowed) || head.xcomp_bv || (head.mxcsr & ~cpu->mxcsr_mask))
		return -EINVAL;
	for (unsigned i = 0; i < ARRAY_SIZE(head.reserved2); i++)
		if (head.reserved2[i])
			return -EINVAL;
	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++)
		if ((bv & BIT64(i)) && cpu->xcomp[i].offset + cpu->xcomp[i].size > size)
			return -EINVAL;
	mem_copy(own, image, MIN(size, (size_t)CPU_XSAVE_SIZE));
	own->mxcsr_mask = cpu->mxcsr_mask;
	cpu_pkru_write(cpu, bv & XSTATE_PKRU ? (u32)mem_load((const u8 *)image + at, 4) : 0);
	own->xstate_bv = bv & ~XSTATE_PKRU;
	clear_components(cpu, cpu_fpu_mask() & ~own->xstate_bv);
	return 0;
}
