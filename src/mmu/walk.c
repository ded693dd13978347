/*
 * walk.c - guest page tables
 *
 * One walker, written once and expanded by the compiler for each format of table: the constants
 * (levels, entry size) fold, so the 4-level walk of a running kernel is straight code with one
 * slot lookup and one load a level.
 *
 * The order is that of the manuals' "Paging" chapters: at every level first present, then
 * reserved bits; permissions are the sum over the levels and are looked at only when the walk
 * has arrived. Accessed and dirty bits are set only after every check has passed, each by a
 * compare-and-exchange against the entry as it was read; when one has changed meanwhile, the
 * walk starts again. So a page whose D bit another vCPU has just cleared is never written
 * without it, and a failed walk leaves no trace.
 *
 * The last table of a 4- or 5-level walk is remembered, as processors do in their paging-structure
 * caches, and forgotten at every invalidation, INVLPG included. Only entries with A set get there.
 *
 * A table that lies in no slot reads as not present, as in KVM. A table in a read-only slot keeps
 * its A and D bits as they are (ROM).
 */
#include "cpu/feature.h"
#include "mmu/mmu_internal.h"

#define PTE_P  0x1ull
#define PTE_W  0x2ull
#define PTE_U  0x4ull
#define PTE_A  0x20ull
#define PTE_D  0x40ull
#define PTE_PS 0x80ull
#define PTE_G  0x100ull
#define PTE_NX BIT64(63)

#define ADDR_MASK 0x000ffffffffff000ull /* bits 51..12 */

#define PF_P	0x1u
#define PF_W	0x2u
#define PF_U	0x4u
#define PF_RSVD 0x8u
#define PF_I	0x10u
#define PF_PK	0x20u

enum walk_format { WALK_32, WALK_PAE, WALK_LONG };

/* One walk's question. */
struct walk_req {
	u64 lin;
	unsigned access, view;
	bool debug;
};

/* The error code without the bits that the failure adds. */
static u32 walk_error(const struct cpu *cpu, const struct walk_req *rq)
{
	u32 e = 0;

	if (rq->access & MMU_WRITE)
		e |= PF_W;
	if (rq->view == MMU_TLB_USER)
		e |= PF_U;
	if ((rq->access & MMU_EXEC) &&
	    ((cpu->cr4 & CR4_SMEP) || ((cpu->efer & EFER_NX) && (cpu->cr4 & CR4_PAE))))
		e |= PF_I;
	return e;
}

static NOINLINE int walk_fail(const struct cpu *cpu, const struct walk_req *rq, u64 gpa, u32 error,
			      struct mmu_fault *fault)
{
	fault->kind = MMU_FAULT_PF;
	fault->address = rq->lin;
	fault->gpa = gpa;
	fault->error = walk_error(cpu, rq) | error;
	return -1;
}

static NOINLINE int walk_host_fault(const struct walk_req *rq, u64 gpa, struct mmu_fault *fault)
{
	fault->kind = MMU_FAULT_HOST;
	fault->address = rq->lin;
	fault->gpa = gpa;
	fault->error = 0;
	return -1;
}

/* Protection-key rights that forbid this access: nonzero when they do. */
static bool walk_pkey(const struct cpu *cpu, const struct walk_req *rq, u64 leaf, bool user_page)
{
	unsigned key = (leaf >> 59) & 15;
	u32 rights;

	if (rq->access & MMU_EXEC)
		return false;
	if (user_page) {
		if (!(cpu->cr4 & CR4_PKE))
			return false;
		rights = cpu->pkru >> (2 * key);
	} else {
		if (!(cpu->cr4 & CR4_PKS))
			return false;
		rights = cpu->pkrs >> (2 * key);
	}
	if (rights & 1)
		return true;
	return (rights & 2) && (rq->access & MMU_WRITE) &&
	       (rq->view == MMU_TLB_USER || (cpu->cr0 & CR0_WP));
}

NOINLINE int walk_mark(struct cpu *cpu, u64 gpa, u64 old, u64 bits, unsigned size)
{
	struct mmu_slot *s = slot_find(cpu, gpa);
	bool done;

	if (!s || (s->flags & MMU_SLOT_READONLY))
		return 1;
	slot_dirty(cpu, s, gpa);
	if (hostmem_cmpxchg(mmu_slot_host(s, gpa), &old, old | bits, size, &done))
		return -1;
	return done;
}

/* Reserved bits of a table entry that is not a leaf, and of leaves, common part. */
ALWAYS_INLINE u64 walk_reserved(const struct cpu *cpu, enum walk_format f)
{
	u64 r;

	if (f == WALK_32)
		return 0;
	r = cpu->phys_reserved & ADDR_MASK;
	if (f == WALK_PAE)
		r |= 0x7ff0000000000000ull;
	if (!(cpu->efer & EFER_NX))
		r |= PTE_NX;
	return r;
}

/* 4 MiB pages carry physical address bits 39..32 in bits 20..13 (PSE-36). */
ALWAYS_INLINE u64 walk_reserved_4m(const struct cpu *cpu)
{
	u64 above = cpu_has(cpu, X86_FEATURE_PSE36) ? (cpu->phys_reserved >> 32) & 0xff : 0xff;

	return BIT64(21) | above << 13;
}

/* May an entry of this level map a page? */
ALWAYS_INLINE bool walk_large(const struct cpu *cpu, enum walk_format f, unsigned level)
{
	return level == 2 || (level == 3 && f == WALK_LONG && cpu_has(cpu, X86_FEATURE_GBPAGES));
}

/* The second stage of a paging-structure entry's address. 0, or -1. */
static NOINLINE int walk_stage2(struct cpu *cpu, const struct walk_req *rq, u64 *gpa, bool write,
				struct mmu_fault *fault)
{
	struct stage2_req s = {.gpa = *gpa,
			       .lin = rq->lin,
			       .need = STAGE2_READ,
			       .table = true,
			       .debug = rq->debug};
	struct stage2_entry e;

	/* With A and D flags of its own EPT takes these accesses for writes. */
	if (write || cpu->stage2.ad)
		s.need |= STAGE2_WRITE;
	if (stage2_walk(cpu, &s, &e, fault))
		return -1;
	*gpa = e.page | (*gpa & (PAGE_SIZE - 1));
	return 0;
}

/* `nested`: tables lie in a nested guest's memory, behind its second stage. */
ALWAYS_INLINE int walk_tables(struct cpu *cpu, const struct walk_req *rq, enum walk_format f,
			      unsigned top, u64 root, bool nested, struct mmu_walk *out,
			      struct mmu_fault *fault)
{
	const unsigned esize = f == WALK_32 ? 4 : 8;
	const unsigned bits = f == WALK_32 ? 10 : 9;
	const u64 reserved = walk_reserved(cpu, f);
	const u64 nonleaf_g = f == WALK_LONG && cpu->vendor == CPU_VENDOR_AMD ? PTE_G : 0;
	u64 gpa[6], gpa2[6], entry[6];
	struct mmu_cpu *mc = cpu->mmu;
	struct psc_entry *psc =
		f == WALK_LONG && !nested ? &mc->psc[(rq->lin >> 21) & (PSC_SIZE - 1)] : NULL;
	u64 all, none, pte, table, leaf_reserved, page_size;
	unsigned level, shift, first;
	bool user, fail, write = rq->access & MMU_WRITE;

again:
	all = ~0ull;
	none = 0;
	table = root;
	first = top;
	if (psc && LIKELY(psc->key == rq->lin >> 21 && psc->gen == mc->psc_gen)) {
		all = psc->all;
		none = psc->none;
		table = psc->table;
		first = 1;
	}
	for (level = first;; level--) {
		u64 offset;
		u8 *host;

		shift = 12 + bits * (level - 1);
		offset = ((rq->lin >> shift) & ((1u << bits) - 1)) * esize;
		gpa[level] = table + offset;
		if (nested) {
			gpa2[level] = gpa[level];
			if (walk_stage2(cpu, rq, &gpa[level], false, fault))
				return -1;
		}
		if (psc && level == 1 && first == 1) {
			host = psc->host + offset;
		} else {
			struct mmu_slot *s = slot_find(cpu, gpa[level]);

			if (UNLIKELY(!s)) {
				walk_fail(cpu, rq, gpa[level], 0, fault);
				if (!rq->debug && slot_may_return(cpu))
					fault->kind = MMU_FAULT_AGAIN;
				return -1;
			}
			host = mmu_slot_host(s, gpa[level]);
			if (psc && level == 1 && (all & PTE_A)) {
				*psc = (struct psc_entry){.gen = mc->psc_gen,
							  .key = rq->lin >> 21,
							  .all = all,
							  .none = none,
							  .table = table,
							  .host = host - offset};
			}
		}
		if (f == WALK_32) {
			u32 v;

			if (!hostmem_load32(host, &v))
				return walk_host_fault(rq, gpa[level], fault);
			pte = v;
		} else if (!hostmem_load64(host, &pte)) {
			return walk_host_fault(rq, gpa[level], fault);
		}
		entry[level] = pte;
		if (!(pte & PTE_P))
			return walk_fail(cpu, rq, gpa[level], 0, fault);
		if (UNLIKELY(pte & reserved))
			return walk_fail(cpu, rq, gpa[level], PF_P | PF_RSVD, fault);
		all &= pte;
		none |= pte;
		if (level == 1)
			break;
		if (pte & PTE_PS) {
			if (f == WALK_32 ? (cpu->cr4 & CR4_PSE) != 0 : walk_large(cpu, f, level))
				break;
			if (f != WALK_32)
				return walk_fail(cpu, rq, gpa[level], PF_P | PF_RSVD, fault);
		}
		if (level >= 3 && UNLIKELY(pte & nonleaf_g))
			return walk_fail(cpu, rq, gpa[level], PF_P | PF_RSVD, fault);
		table = f == WALK_32 ? pte & 0xfffff000ull : pte & ADDR_MASK;
	}

	page_size = 1ull << shift;
	if (level > 1) {
		leaf_reserved =
			f == WALK_32 ? walk_reserved_4m(cpu) : (page_size - 1) & 0x3fffe000ull;
		if (UNLIKELY(pte & leaf_reserved))
			return walk_fail(cpu, rq, gpa[level], PF_P | PF_RSVD, fault);
	}

	user = all & PTE_U;
	out->writable = (all & PTE_W) || (rq->view != MMU_TLB_USER && !(cpu->cr0 & CR0_WP));
	out->executable = f == WALK_32 || !(none & PTE_NX);
	if (rq->access & MMU_EXEC) {
		fail = !out->executable ||
		       (rq->view == MMU_TLB_USER ? !user : user && (cpu->cr4 & CR4_SMEP));
	} else {
		fail = write && !out->writable;
		if (rq->view == MMU_TLB_USER)
			fail |= !user;
		else if (rq->view == MMU_TLB_KERNEL)
			fail |= user && (cpu->cr4 & CR4_SMAP);
	}
	if (f == WALK_LONG && UNLIKELY(cpu->cr4 & (CR4_PKE | CR4_PKS))) {
		u32 pk = walk_pkey(cpu, rq, pte, user) ? PF_PK : 0;

		if (fail || pk)
			return walk_fail(cpu, rq, gpa[level], PF_P | pk, fault);
		/* What the key forbids to writes must not be cached as writable by a read. */
		if (out->writable && !write) {
			struct walk_req w = *rq;

			w.access |= MMU_WRITE;
			out->writable = !walk_pkey(cpu, &w, pte, user);
		}
	} else if (UNLIKELY(fail)) {
		return walk_fail(cpu, rq, gpa[level], PF_P, fault);
	}

	if (UNLIKELY(!(all & PTE_A) || (write && !(pte & PTE_D))) && !rq->debug) {
		for (unsigned l = first; l >= level; l--) {
			u64 want = PTE_A | (l == level && write ? PTE_D : 0);
			int r;

			if ((entry[l] & want) == want)
				continue;
			if (nested && walk_stage2(cpu, rq, &gpa2[l], true, fault))
				return -1;
			r = walk_mark(cpu, gpa[l], entry[l], want, esize);
			if (r < 0)
				return walk_host_fault(rq, gpa[l], fault);
			if (!r)
				goto again;
			if (l == level)
				pte |= want;
		}
	}

	if (f == WALK_32)
		out->gpa = level == 2 ? (pte & 0xffc00000ull) | ((pte >> 13) & 0xff) << 32
				      : pte & 0xfffff000ull;
	else
		out->gpa = pte & ADDR_MASK & ~(page_size - 1);
	out->gpa |= rq->lin & (page_size - 1);
	out->page_size = page_size;
	out->user = user;
	out->global = (pte & PTE_G) && (cpu->cr4 & CR4_PGE);
	out->dirty = pte & PTE_D;
	out->accessed = (all & PTE_A) || !rq->debug;
	out->pkey = f == WALK_LONG ? (pte >> 59) & 15 : 0;
	out->uncached = false;
	return 0;
}

static int walk_none(const struct walk_req *rq, struct mmu_walk *out)
{
	out->gpa = (u32)rq->lin;
	out->page_size = PAGE_SIZE;
	out->writable = out->user = out->executable = out->dirty = out->accessed = true;
	out->global = out->uncached = false;
	out->pkey = 0;
	return 0;
}

static NOINLINE int walk_pae(struct cpu *cpu, const struct walk_req *rq, struct mmu_walk *out,
			     struct mmu_fault *fault)
{
	u64 pdpte = cpu->pdptr[(rq->lin >> 30) & 3];

	if (!(pdpte & PTE_P))
		return walk_fail(cpu, rq, 0, 0, fault);
	return walk_tables(cpu, rq, WALK_PAE, 2, pdpte & ADDR_MASK, false, out, fault);
}

static NOINLINE int walk_32(struct cpu *cpu, const struct walk_req *rq, struct mmu_walk *out,
			    struct mmu_fault *fault)
{
	return walk_tables(cpu, rq, WALK_32, 2, cpu->cr3 & 0xfffff000ull, false, out, fault);
}

static NOINLINE int walk_5(struct cpu *cpu, const struct walk_req *rq, struct mmu_walk *out,
			   struct mmu_fault *fault)
{
	return walk_tables(cpu, rq, WALK_LONG, 5, cpu->cr3 & ADDR_MASK, false, out, fault);
}

/* The first stage of a nested guest's walk: out->gpa is its own. */
static int walk_first(struct cpu *cpu, const struct walk_req *rq, struct mmu_walk *out,
		      struct mmu_fault *fault)
{
	u64 pdpte;

	if (!(cpu->cr0 & CR0_PG))
		return walk_none(rq, out);
	if (cpu->efer & EFER_LMA)
		return walk_tables(cpu, rq, WALK_LONG, cpu->cr4 & CR4_LA57 ? 5 : 4,
				   cpu->cr3 & ADDR_MASK, true, out, fault);
	if (!(cpu->cr4 & CR4_PAE))
		return walk_tables(cpu, rq, WALK_32, 2, cpu->cr3 & 0xfffff000ull, true, out, fault);
	pdpte = cpu->pdptr[(rq->lin >> 30) & 3];
	if (!(pdpte & PTE_P))
		return walk_fail(cpu, rq, 0, 0, fault);
	return walk_tables(cpu, rq, WALK_PAE, 2, pdpte & ADDR_MASK, true, out, fault);
}

#define APIC_TPR 0x80u

/* The APIC-access page is the hypervisor's, but for a task-priority register that it shadows. */
static int walk_apic(struct cpu *cpu, const struct walk_req *rq, u64 gpa, struct mmu_walk *out,
		     struct mmu_fault *fault)
{
	out->uncached = true;
	if ((rq->lin & 0xffc) == APIC_TPR && cpu->stage2.tpr_page != ~0ull &&
	    !(rq->access & MMU_EXEC)) {
		out->gpa = cpu->stage2.tpr_page | (rq->lin & (PAGE_SIZE - 1));
		if ((rq->access & MMU_WRITE) && !rq->debug) /* it may fall below its threshold */
			__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
		return 0;
	}
	fault->kind = MMU_FAULT_APIC;
	fault->address = rq->lin;
	fault->gpa = gpa;
	fault->error = rq->access & MMU_WRITE ? 1 : rq->access & MMU_EXEC ? 2 : 0;
	return -1;
}

static NOINLINE int walk_nested(struct cpu *cpu, const struct walk_req *rq, struct mmu_walk *out,
				struct mmu_fault *fault)
{
	struct stage2_req s = {.lin = rq->lin, .debug = rq->debug};
	struct stage2_entry e;

	if (walk_first(cpu, rq, out, fault))
		return -1;
	s.gpa = out->gpa;
	s.need = rq->access & MMU_WRITE	 ? STAGE2_READ | STAGE2_WRITE
		 : rq->access & MMU_EXEC ? STAGE2_EXEC
					 : STAGE2_READ;
	if ((rq->access & MMU_WRITE) && !(rq->access & MMU_RMW))
		s.need = STAGE2_WRITE;
	if (stage2_walk(cpu, &s, &e, fault))
		return -1;
	out->gpa = e.page | (out->gpa & (PAGE_SIZE - 1));
	if (UNLIKELY(e.page == cpu->stage2.apic_page))
		return walk_apic(cpu, rq, s.gpa, out, fault);
	/* What the second stage refuses must not be cached with what it allows. */
	out->writable = out->writable && (e.perms & STAGE2_WRITE);
	out->executable = out->executable && (e.perms & STAGE2_EXEC);
	out->dirty = out->dirty && e.dirty;
	if (UNLIKELY(!(e.perms & STAGE2_READ)))
		out->uncached = true;
	return 0;
}

int walk_view(struct cpu *cpu, u64 lin, unsigned access, unsigned view, bool debug,
	      struct mmu_walk *out, struct mmu_fault *fault)
{
	const struct walk_req rq = {
		.lin = lin, .access = access, .view = view & MMU_TLB_RIGHTS, .debug = debug};

	if (UNLIKELY(cpu->stage2.kind))
		return walk_nested(cpu, &rq, out, fault);
	if (LIKELY((cpu->efer & EFER_LMA) && (cpu->cr0 & CR0_PG))) {
		if (UNLIKELY(cpu->cr4 & CR4_LA57))
			return walk_5(cpu, &rq, out, fault);
		return walk_tables(cpu, &rq, WALK_LONG, 4, cpu->cr3 & ADDR_MASK, false, out, fault);
	}
	if (!(cpu->cr0 & CR0_PG))
		return walk_none(&rq, out);
	if (cpu->cr4 & CR4_PAE)
		return walk_pae(cpu, &rq, out, fault);
	return walk_32(cpu, &rq, out, fault);
}

int mmu_walk(struct cpu *cpu, u64 lin, unsigned access, bool debug, struct mmu_walk *out,
	     struct mmu_fault *fault)
{
	unsigned view = access_view(cpu, access);

	fault->kind = MMU_FAULT_NONE;
	if (cpu_is_long(cpu)) {
		if (!cpu_is_canonical(cpu, lin)) {
			fault->kind = MMU_FAULT_NONCANONICAL;
			fault->address = lin;
			fault->gpa = 0;
			fault->error = (access & MMU_STACK) ? 1 : 0;
			return -1;
		}
	} else {
		lin = (u32)lin;
	}
	return walk_view(cpu, lin, access, view, debug, out, fault);
}

int mmu_raise(struct cpu *cpu, const struct mmu_fault *fault)
{
	switch (fault->kind) {
	case MMU_FAULT_NONCANONICAL:
		return cpu_raise_err(cpu, fault->error ? EXC_SS : EXC_GP, 0);
	case MMU_FAULT_HOST:
		return memfault(cpu, fault->gpa, 8, MMU_READ);
	case MMU_FAULT_AGAIN:
		cpu->exit.reason = CPU_EXIT_POLL;
		return CPU_EXIT;
	case MMU_FAULT_STAGE2:
	case MMU_FAULT_STAGE2_BAD:
	case MMU_FAULT_APIC:
		return cpu->nested_ops->memory_fault(cpu, fault);
	default:
		cpu->mmu->user_faults += cpu->cpl == 3;
		return cpu_raise_pf(cpu, fault->address, fault->error);
	}
}

int mmu_load_pdptrs(struct cpu *cpu, u64 cr3)
{
	u64 reserved = (cpu->phys_reserved & ADDR_MASK) | 0xfff00000000001e6ull;
	u64 p[4], at = cr3 & 0xffffffe0ull;

	if (UNLIKELY(cpu->stage2.kind)) {
		struct walk_req rq = {.lin = at};
		struct mmu_fault fault;

		if (walk_stage2(cpu, &rq, &at, false, &fault)) {
			mmu_raise(cpu, &fault);
			return -1;
		}
	}
	for (unsigned i = 0; i < 4; i++) {
		if (mmu_phys_read(cpu, at + i * 8, &p[i], 8))
			return -1;
		if ((p[i] & PTE_P) && (p[i] & reserved))
			return -1;
	}
	for (unsigned i = 0; i < 4; i++)
		cpu->pdptr[i] = p[i];
	return 0;
}
