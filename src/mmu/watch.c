/*
 * watch.c - data breakpoints
 *
 * A page with an enabled data breakpoint is never cached, so every access to it arrives here. The
 * #DB is a trap: it comes behind the instruction, and the dispatcher finds it in cpu->pending_db.
 * While the client debugs with hardware breakpoints its registers stand in for the guest's.
 */
#include "mmu/mmu_internal.h"

#define GUESTDBG_USE_HW_BP 0x00020000u /* KVM_GUESTDBG_USE_HW_BP */

ALWAYS_INLINE bool watch_get(const struct cpu *cpu, unsigned i, u64 *addr, unsigned *len,
			     bool *reads)
{
	bool own = !(cpu->guest_debug & GUESTDBG_USE_HW_BP);
	u64 dr7 = own ? cpu->dr7 : cpu->guest_dr7;
	unsigned type = (dr7 >> (16 + 4 * i)) & 3, size = (dr7 >> (18 + 4 * i)) & 3;

	if (!(dr7 >> (2 * i) & 3) || !(type & 1))
		return false;
	*reads = type == 3;
	*len = size == 2 ? 8 : size + 1; /* 1, 2, 8, 4 */
	*addr = (own ? cpu->dr[i] : cpu->guest_dr[i]) & ~(u64)(*len - 1);
	return true;
}

u64 watch_hits(const struct cpu *cpu, u64 lin, unsigned n, bool write)
{
	u64 hits = 0, addr;
	unsigned len;
	bool reads;

	for (unsigned i = 0; i < 4; i++)
		if (watch_get(cpu, i, &addr, &len, &reads) && (write || reads) &&
		    lin < addr + len && addr < lin + n)
			hits |= BIT64(i);
	return hits;
}

bool watch_page(const struct cpu *cpu, u64 lin)
{
	u64 addr;
	unsigned len;
	bool reads;

	for (unsigned i = 0; i < 4; i++)
		if (watch_get(cpu, i, &addr, &len, &reads) && !((addr ^ lin) >> PAGE_SHIFT))
			return true;
	return false;
}
