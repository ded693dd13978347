/* x87 and vector state in the API's structures. */
#include "cpu/cpuid.h"
#include "cpu/fpu.h"
#include "kvm/ioctl.h"
#include "kvm/user.h"

#include <errno.h>
#include <string.h>

#define XSAVE_BYTES  sizeof(struct kvm_xsave) /* 4096, the size before XSAVE2 */
#define XSAVE_LEGACY 576

/*
 * Images lie on the stack: clients do not expect these calls to fail (QEMU goes on with registers
 * that it has not read). All components that guests can have fit (CPU_XCR0_MASK).
 */
struct image {
	u8 bytes[XSAVE_BYTES];
} __attribute__((aligned(64)));

/* The start of an XSAVE image: the FXSAVE area and the header. */
struct legacy {
	u16 fcw, fsw;
	u8 ftw, pad0;
	u16 fop;
	u64 fip, fdp;
	u32 mxcsr, mxcsr_mask;
	u8 st[8][16];
	u8 xmm[16][16];
	u8 pad1[96];
	u64 xstate_bv, xcomp_bv, pad2[6];
};
_Static_assert(sizeof(struct legacy) == XSAVE_LEGACY, "FXSAVE area and XSAVE header");

int vcpu_get_fpu(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_fpu *f = data;
	struct legacy l;

	cpu_fpu_image_get(&vcpu->cpu, &l, sizeof(l));
	memcpy(f->fpr, l.st, sizeof(f->fpr));
	f->fcw = l.fcw;
	f->fsw = l.fsw;
	f->ftwx = l.ftw;
	f->last_opcode = l.fop;
	f->last_ip = l.fip;
	f->last_dp = l.fdp;
	memcpy(f->xmm, l.xmm, sizeof(f->xmm));
	f->mxcsr = l.mxcsr;
	return 0;
}

int vcpu_set_fpu(struct vcpu *vcpu, void *data, unsigned long arg)
{
	const struct kvm_fpu *f = data;
	struct image image;
	struct legacy *l = (struct legacy *)image.bytes;

	cpu_fpu_image_get(&vcpu->cpu, image.bytes, XSAVE_BYTES);
	memcpy(l->st, f->fpr, sizeof(l->st));
	l->fcw = f->fcw;
	l->fsw = f->fsw;
	l->ftw = f->ftwx;
	l->fop = f->last_opcode;
	l->fip = f->last_ip;
	l->fdp = f->last_dp;
	memcpy(l->xmm, f->xmm, sizeof(l->xmm));
	/* KVM_SET_FPU keeps MXCSR out of its checks; reserved bits would fault later. */
	l->mxcsr = f->mxcsr & l->mxcsr_mask;
	l->xstate_bv |= XSTATE_X87 | XSTATE_SSE;
	return cpu_fpu_image_set(&vcpu->cpu, image.bytes, XSAVE_BYTES);
}

static u32 xsave2_size(const struct vcpu *vcpu)
{
	u32 size = cpu_xsave_size(vcpu->cpu.xcomp, cpu_xcr0_supported(), false);

	return MAX(size, (u32)XSAVE_BYTES);
}

static int xsave_out(struct vcpu *vcpu, unsigned long arg, u32 size)
{
	struct image image = {{0}};

	if (size > sizeof(image))
		return -E2BIG;
	cpu_fpu_image_get(&vcpu->cpu, image.bytes, size);
	return user_copy_out(arg, image.bytes, size);
}

int vcpu_get_xsave(struct vcpu *vcpu, void *data, unsigned long arg)
{
	if (xsave2_size(vcpu) > XSAVE_BYTES)
		return -EINVAL;
	return xsave_out(vcpu, arg, XSAVE_BYTES);
}

int vcpu_get_xsave2(struct vcpu *vcpu, void *data, unsigned long arg)
{
	return xsave_out(vcpu, arg, xsave2_size(vcpu));
}

int vcpu_set_xsave(struct vcpu *vcpu, void *data, unsigned long arg)
{
	u32 size = xsave2_size(vcpu);
	struct image image;

	if (size > sizeof(image))
		return -E2BIG;
	if (user_copy_in(image.bytes, arg, size))
		return -EFAULT;
	return cpu_fpu_image_set(&vcpu->cpu, image.bytes, size);
}
