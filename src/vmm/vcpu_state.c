/* The state in which vCPUs start: MSRs as firmware leaves them, registers as the loader asks. */
#include "vmm/vcpu.h"

#include <errno.h>
#include <string.h>

#include "vmm/error.h"

#define MSR_MISC_ENABLE		0x1a0
#define MSR_MTRR_DEF_TYPE	0x2ff
#define MSR_K7_HWCR		0xc0010015
#define MISC_ENABLE_FAST_STRING 1
#define HWCR_TSC_FREQ_SEL	BIT(24) /* the TSC counts at the P0 frequency */
#define MTRR_ENABLE_WRITE_BACK	(1 << 11 | 6)
#define SELECTOR_CODE		0x10 /* Linux __BOOT_CS */
#define SELECTOR_DATA		0x18 /* Linux __BOOT_DS */

/*
 * One MSR a call: a register that a vendor or an accelerator does not have must not keep the
 * others from being set.
 */
static void set_msr(const struct vcpu *vcpu, u32 index, u64 data)
{
	struct kvm_msrs *msrs = g_malloc0(sizeof(*msrs) + sizeof(msrs->entries[0]));

	msrs->nmsrs = 1;
	msrs->entries[0].index = index;
	msrs->entries[0].data = data;
	accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_SET_MSRS, msrs);
	g_free(msrs);
}

static struct kvm_segment flat_segment(u16 selector, bool code, bool wide)
{
	return (struct kvm_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.type = code ? 0xb : 0x3,
		.present = 1,
		.s = 1,
		.db = !wide,
		.l = wide,
		.g = 1,
	};
}

static void set_protected(struct kvm_sregs *s, bool wide)
{
	struct kvm_segment code = flat_segment(SELECTOR_CODE, true, wide);
	struct kvm_segment data = flat_segment(SELECTOR_DATA, false, false);

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
	s->ldt = (struct kvm_segment){.unusable = 1, .type = 2};
	s->gdt.base = BOOT_GDT;
	s->gdt.limit = 4 * 8 - 1;
	s->idt.base = 0;
	s->idt.limit = 0;
	s->cr0 = (s->cr0 & ~0x60000000ull) | 1; /* PE, caches on */
	if (!wide)
		return;
	s->cr3 = BOOT_PML4;
	s->cr4 |= 0x20;		 /* PAE */
	s->cr0 |= 0x80000000ull; /* PG */
	s->efer |= 0x500;	 /* LME, LMA */
}

bool vcpu_boot_state(struct vcpu *vcpu, const struct boot_entry *entry, GError **error)
{
	struct kvm_regs regs = {
		.rflags = 2,
		.rip = entry->rip,
		.rsp = entry->rsp,
		.rbx = entry->rbx,
		.rsi = entry->rsi,
	};
	struct kvm_sregs sregs;
	const char *what = "KVM_GET_SREGS";
	int r;

	set_msr(vcpu, MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
	set_msr(vcpu, MSR_K7_HWCR, HWCR_TSC_FREQ_SEL); /* AMD only */
	set_msr(vcpu, MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK);
	if (vcpu->id)
		return true; /* waits for INIT and SIPI in the state that KVM gives */
	r = accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_GET_SREGS, &sregs);
	if (r < 0)
		goto fail;
	set_protected(&sregs, entry->mode == BOOT_LONG64);
	what = "KVM_SET_SREGS";
	r = accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_SET_SREGS, &sregs);
	if (r < 0)
		goto fail;
	what = "KVM_SET_REGS";
	r = accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_SET_REGS, &regs);
	if (r >= 0)
		return true;
fail:
	vmm_error(error, "%s refuses the kernel's start state (%s): %s",
		  vcpu->set->accel->ops->name, what, g_strerror(-r));
	return false;
}
