/*
 * Guest-virtual to guest-physical addresses for people: the monitor and the debugger. Our own walk
 * of the guest's page tables, because KVM_TRANSLATE is bound by the access rights that the guest
 * has set for itself: with SMAP it does not find the pages of programs.
 */
#include "vmm/vcpu.h"

#define CR0_PG	   BIT(31)
#define CR4_PSE	   BIT(4)
#define CR4_PAE	   BIT(5)
#define CR4_LA57   BIT(12)
#define EFER_LMA   BIT(10)
#define PTE_P	   BIT(0)
#define PTE_PS	   BIT(7)
#define PTE_ADDR   0x000ffffffffff000ull
#define PSE36_ADDR 0xffc00000ull

/* The shape of the tables: how many levels, bits of an address a level, bytes of an entry. */
struct shape {
	unsigned levels, bits, bytes;
	bool large; /* entries of level 2 may be pages */
};

static struct shape shape_of(const struct kvm_sregs *s)
{
	if (s->efer & EFER_LMA)
		return (struct shape){s->cr4 & CR4_LA57 ? 5 : 4, 9, 8, true};
	if (s->cr4 & CR4_PAE)
		return (struct shape){3, 9, 8, true};
	return (struct shape){2, 10, 4, (s->cr4 & CR4_PSE) != 0};
}

static u64 large_page(const struct shape *shape, u64 entry)
{
	/* 4 MiB pages keep bits 32 to 39 of the address in bits 13 to 20. */
	if (shape->bytes == 4)
		return (entry & PSE36_ADDR) | (entry & 0x1fe000) << 19;
	return entry & PTE_ADDR;
}

bool vcpu_virt_to_phys(const struct vcpu *vcpu, const struct guest_memory *mem, u64 va, u64 *pa)
{
	struct kvm_sregs s = {0};
	struct shape shape;
	u64 table;

	if (accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_GET_SREGS, &s) < 0)
		return false;
	*pa = va;
	if (!(s.cr0 & CR0_PG))
		return true;
	shape = shape_of(&s);
	if (!(s.efer & EFER_LMA))
		va &= 0xffffffff;
	table = s.cr3 & (shape.levels == 3 ? 0xffffffe0ull : PTE_ADDR);
	for (unsigned level = shape.levels; level; level--) {
		unsigned shift = 12 + (level - 1) * shape.bits;
		u64 entry = 0, index = va >> shift & (BIT64(shape.bits) - 1);

		if (!memory_read(mem, table + index * shape.bytes, &entry, shape.bytes) ||
		    !(entry & PTE_P))
			return false;
		/* PAE's top level has no large pages, and neither has level 4 or 5. */
		if ((level == 2 && shape.large && (entry & PTE_PS)) ||
		    (level == 3 && shape.levels > 3 && (entry & PTE_PS))) {
			u64 mask = BIT64(shift) - 1;

			*pa = (large_page(&shape, entry) & ~mask) | (va & mask);
			return true;
		}
		table = entry & PTE_ADDR;
	}
	*pa = table | (va & 0xfff);
	return true;
}
