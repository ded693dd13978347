/*
 * stage2.c - a nested guest's physical memory, as its hypervisor's extended page tables have it
 *
 * EPT's rules are those of the SDM's "The Extended Page Table Mechanism": at every level first
 * presence (any of read, write, execute), then misconfiguration; permissions are the sum. A and D flags are
 * set when EPTP enables them, by compare-and-exchange as in walk.c. What was translated is remembered by
 * page until mmu_stage2_flush(), as processors remember guest-physical mappings until INVEPT.
 */
#include "mmu/mmu_internal.h"

#define EPT_PERMS      7ull
#define EPT_MEMTYPE(e) ((e) >> 3 & 7)
#define EPT_PS	       0x80ull
#define EPT_A	       0x100ull
#define EPT_D	       0x200ull
#define EPT_ADDR       0x000ffffffffff000ull
#define EPT_LEVELS     4

/* Exit qualification of EPT violations. */
#define QUAL_PERMS_SHIFT 3
#define QUAL_LINEAR	 BIT(7)
#define QUAL_FINAL	 BIT(8)

void mmu_stage2_flush(struct cpu *cpu)
{
	cpu->mmu->stage2_gen++;
}

static int refuse(const struct stage2_req *rq, struct mmu_fault *fault, unsigned perms)
{
	fault->kind = MMU_FAULT_STAGE2;
	fault->address = rq->lin;
	fault->gpa = rq->gpa;
	fault->error =
		rq->need | perms << QUAL_PERMS_SHIFT | QUAL_LINEAR | (rq->table ? 0 : QUAL_FINAL);
	return -1;
}

static int misconfigured(const struct stage2_req *rq, struct mmu_fault *fault)
{
	fault->kind = MMU_FAULT_STAGE2_BAD;
	fault->address = rq->lin;
	fault->gpa = rq->gpa;
	fault->error = 0;
	return -1;
}

static int host_fault(u64 gpa, struct mmu_fault *fault)
{
	fault->kind = MMU_FAULT_HOST;
	fault->gpa = gpa;
	fault->error = 0;
	return -1;
}

static bool entry_bad(const struct cpu *cpu, u64 e, unsigned level, bool leaf)
{
	u64 size = 1ull << (12 + 9 * (level - 1));

	if ((e & 3) == STAGE2_WRITE || (e & cpu->phys_reserved & EPT_ADDR))
		return true;
	if (!leaf)
		return e & 0xf8;
	if (level > 1 && (e & (size - 1) & EPT_ADDR))
		return true;
	return BIT(EPT_MEMTYPE(e)) & (BIT(2) | BIT(3) | BIT(7));
}

static int ept_walk(struct cpu *cpu, const struct stage2_req *rq, struct stage2_entry *out,
		    struct mmu_fault *fault)
{
	bool write = rq->need & STAGE2_WRITE, leaf;
	u64 at[EPT_LEVELS + 1], entry[EPT_LEVELS + 1], e, table, perms;
	unsigned level;

	if (rq->gpa >> 48)
		return refuse(rq, fault, 0);
again:
	perms = EPT_PERMS;
	table = cpu->stage2.root;
	for (level = EPT_LEVELS;; level--) {
		struct mmu_slot *s;

		at[level] = table + (rq->gpa >> (12 + 9 * (level - 1)) & 511) * 8;
		s = slot_find(cpu, at[level]);
		if (!s)
			return refuse(rq, fault, 0);
		if (!hostmem_load64(mmu_slot_host(s, at[level]), &e))
			return host_fault(at[level], fault);
		entry[level] = e;
		if (!(e & EPT_PERMS))
			return refuse(rq, fault, 0);
		leaf = level == 1 || (level <= 3 && (e & EPT_PS));
		if (entry_bad(cpu, e, level, leaf))
			return misconfigured(rq, fault);
		perms &= e;
		if (leaf)
			break;
		table = e & EPT_ADDR;
	}
	if (rq->need & ~perms)
		return refuse(rq, fault, (unsigned)perms);
	if (cpu->stage2.ad && !rq->debug) {
		for (unsigned l = EPT_LEVELS; l >= level; l--) {
			u64 want = EPT_A | (l == level && write ? EPT_D : 0);
			int r;

			if ((entry[l] & want) == want)
				continue;
			r = walk_mark(cpu, at[l], entry[l], want, 8);
			if (r < 0)
				return host_fault(at[l], fault);
			if (!r)
				goto again;
			e |= l == level ? want : 0;
		}
	}
	out->page = e & EPT_ADDR;
	if (level > 1)
		out->page |= rq->gpa & ((1ull << (12 + 9 * (level - 1))) - 1) & PAGE_MASK;
	out->perms = (u8)perms;
	out->dirty = !cpu->stage2.ad || (e & EPT_D);
	return 0;
}

int stage2_walk(struct cpu *cpu, const struct stage2_req *rq, struct stage2_entry *out,
		struct mmu_fault *fault)
{
	u64 gfn = rq->gpa >> PAGE_SHIFT;
	struct mmu_cpu *mc = cpu->mmu;
	struct stage2_entry *c = &mc->stage2[gfn & (STAGE2_SIZE - 1)];

	if (cpu->stage2.kind == CPU_STAGE2_IDENTITY) {
		*out = (struct stage2_entry){
			.page = rq->gpa & PAGE_MASK, .perms = EPT_PERMS, .dirty = true};
		return 0;
	}
	if (LIKELY(c->gfn == gfn && c->gen == mc->stage2_gen && !(rq->need & ~(unsigned)c->perms) &&
		   (c->dirty || !(rq->need & STAGE2_WRITE)))) {
		*out = *c;
		return 0;
	}
	if (ept_walk(cpu, rq, out, fault))
		return -1;
	if (!rq->debug) {
		out->gfn = gfn;
		out->gen = mc->stage2_gen;
		*c = *out;
	}
	return 0;
}
