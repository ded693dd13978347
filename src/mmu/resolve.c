/*
 * resolve.c - data accesses of generated code that the software TLB did not answer
 *
 * Most misses end as MMU_DIRECT with the TLB filled. What is not one plain range of host memory is
 * bounced: the instruction runs on cpu->bounce, and a store is carried out by mmu_bounce_commit().
 * Every page of the access has been walked and checked by then, so the commit cannot fault in the
 * guest; that the client's mapping takes the store is tried here too.
 *
 * A locked access is never bounced within RAM, or it would not be atomic. One that crosses a page
 * is bounced under a lock that all such accesses of the VM take.
 */
#include "mmu/mmu_internal.h"

static enum mmu_resolve_kind stopped(int ret)
{
	return ret == CPU_EXC ? MMU_STOP_EXC : MMU_STOP_EXIT;
}

static void count(struct cpu *cpu, unsigned stat)
{
	cpu->mmu->stat[stat]++;
}

/* Why an access to one page missed: what its slot holds. */
static void count_miss(struct cpu *cpu, unsigned view, u64 lin, unsigned access, u64 tracked)
{
	unsigned i = tlb_index(lin);
	u64 tag = cpu->tlb[view].rtag[i];

	if ((access & MMU_WRITE) && tracked)
		count(cpu, MMU_STAT_miss_code);
	else if (tag == mmu_tlb_tag(lin & PAGE_MASK))
		count(cpu, MMU_STAT_miss_write);
	else if (tag == mmu_tlb_empty(i))
		count(cpu, MMU_STAT_miss_empty);
	else
		count(cpu, MMU_STAT_miss_conflict);
}

static enum mmu_resolve_kind direct(struct cpu *cpu, u8 *host)
{
	cpu->jit_scratch[0] = (u64)host;
	return MMU_DIRECT;
}

/* A store that cannot be watched to its end may meet code that is translated just now. */
static void note_late(struct cpu *cpu, u64 gpa, unsigned n)
{
	cpu->mmu->late_gpa = gpa;
	cpu->mmu->late_len = n;
	__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
}

/* Does the client's mapping take stores? Tried without changing anything. */
static bool takes_stores(u8 *host)
{
	u64 v = 0;
	bool done;

	return !hostmem_cmpxchg(host, &v, 0, 1, &done);
}

static enum mmu_resolve_kind bounce(struct cpu *cpu, unsigned access, bool lock,
				    struct pend_part *part, unsigned count)
{
	struct mmu_cpu *mc = cpu->mmu;
	bool write = access & MMU_WRITE, all_ram = true, split;
	u8 *to = cpu->bounce;
	unsigned mark;
	int ret = CPU_OK;

	for (unsigned i = 0; i < count; i++) {
		struct pend_part *p = &part[i];

		all_ram &= p->host && !p->rom;
		if (!write || !p->host || p->rom)
			continue;
		if (UNLIKELY(code_tracked(cpu->mem, p->gpa)) && !cpu->mmu_stepping &&
		    (code_own_chunks(cpu, p->gpa) & code_chunks(p->gpa, p->len)))
			return MMU_STOP_STEP;
		if (!takes_stores(p->host))
			return stopped(memfault(cpu, p->gpa, p->len, access));
	}
	if (UNLIKELY(!all_ram && cpu->mem->mmio_ask && !mc->mmio_allowed && !cpu->restart)) {
		mc->mmio_asked = true;
		return stopped(mmu_internal(cpu, "instruction accesses no memory"));
	}
	if (write) {
		ret = mmio_room(cpu, part, count);
		if (ret)
			return stopped(ret);
	}
	split = lock && all_ram;
	if (split)
		futex_lock(&cpu->mem->split_lock);
	mark = mmio_begin(cpu);
	for (unsigned i = 0; i < count; to += part[i++].len) {
		struct pend_part *p = &part[i];

		to += p->gap;
		if (p->host) {
			if (!hostmem_get(to, p->host, p->len))
				ret = memfault(cpu, p->gpa, p->len, access);
		} else if (!write || (access & MMU_RMW)) {
			ret = mmio_read(cpu, p->gpa, to, p->len);
		} else {
			mem_set(to, 0, p->len);
		}
		if (UNLIKELY(ret)) {
			if (split)
				futex_unlock(&cpu->mem->split_lock);
			return stopped(ret);
		}
	}
	mmio_end(cpu, mark);
	/* A read leaves alone what an earlier operand of the same instruction has to commit. */
	if (write) {
		mc->pend_split = split;
		mc->pend_count = count;
		for (unsigned i = 0; i < count; i++)
			mc->pend[i] = part[i];
	}
	return MMU_BOUNCED;
}

/* A store within one page that holds translated code. */
static enum mmu_resolve_kind store_code(struct cpu *cpu, unsigned size, unsigned access, bool lock,
					struct pend_part *p, u64 tracked)
{
	u64 chunks = code_chunks(p->gpa, size);

	if ((code_own_chunks(cpu, p->gpa) & chunks) && !cpu->mmu_stepping)
		return MMU_STOP_STEP;
	if (!lock) {
		/* With one vCPU nobody can translate between this look and the store. */
		if (!(tracked & chunks) && cpu->mem->cpu_count < 2)
			return direct(cpu, p->host);
		return bounce(cpu, access, false, p, 1);
	}
	if (tracked & chunks)
		code_changed(cpu, p->gpa, size);
	note_late(cpu, p->gpa, size);
	return direct(cpu, p->host);
}

static enum mmu_resolve_kind resolve_parts(struct cpu *cpu, u64 lin, unsigned size, unsigned access,
					   unsigned view, bool lock)
{
	struct pend_part part[PEND_PARTS];
	int count;

	if (size > sizeof(cpu->bounce))
		return stopped(mmu_internal(cpu, "access larger than the bounce buffer"));
	if (align_first(cpu, lin, size, access))
		return stopped(cpu_raise_err(cpu, EXC_AC, 0));
	count = parts_walk(cpu, lin, size, access, view, part);
	if (count < 0)
		return stopped(-count);
	if (misaligned(cpu, lin, size, access))
		return stopped(cpu_raise_err(cpu, EXC_AC, 0));
	return bounce(cpu, access, lock, part, (unsigned)count);
}

static inline enum mmu_resolve_kind resolve(struct cpu *cpu, u64 lin, unsigned size,
					    unsigned access, bool lock)
{
	unsigned view = access_view(cpu, access);
	bool write = access & MMU_WRITE;
	struct pend_part part;
	struct mmu_walk w;
	u64 tracked;
	int ret;

	if (UNLIKELY((lin & (PAGE_SIZE - 1)) + size > PAGE_SIZE)) {
		count(cpu, MMU_STAT_miss_cross);
		return resolve_parts(cpu, lin, size, access, view, lock);
	}

	if (UNLIKELY(align_first(cpu, lin, size, access)))
		return stopped(cpu_raise_err(cpu, EXC_AC, 0));
	ret = page_walk(cpu, lin, access, view, &w);
	if (UNLIKELY(ret)) {
		count(cpu, MMU_STAT_miss_stopped);
		return stopped(ret);
	}
	if (misaligned(cpu, lin, size, access))
		return stopped(cpu_raise_err(cpu, EXC_AC, 0));
	part.gpa = w.gpa;
	part.len = size;
	part.gap = 0;
	part.slot = slot_find(cpu, w.gpa);
	part.host = NULL;
	part.rom = false;
	if (UNLIKELY(!part.slot)) {
		count(cpu, MMU_STAT_miss_device);
		if (gpa_blocked(cpu, w.gpa, size, access))
			return MMU_STOP_EXIT;
		return bounce(cpu, access, lock, &part, 1);
	}
	part.host = mmu_slot_host(part.slot, w.gpa);
	if (UNLIKELY(write && (part.slot->flags & MMU_SLOT_READONLY))) {
		part.rom = true;
		count(cpu, MMU_STAT_miss_device);
		return bounce(cpu, access, lock, &part, 1);
	}
	tracked = code_tracked(cpu->mem, w.gpa);
	count_miss(cpu, view, lin, access, tracked);
	if (UNLIKELY(!page_enter(cpu, lin, access, view, &w, part.slot, tracked)))
		tracked = code_tracked(cpu->mem, w.gpa);
	if (UNLIKELY(write && tracked))
		return store_code(cpu, size, access, lock, &part, tracked);
	return direct(cpu, part.host);
}

/*
 * A dirty ring is nearly full: the instruction is left undone, so that the client empties it first. One that runs
 * alone has its place there.
 */
static bool log_full(struct cpu *cpu)
{
	if (LIKELY(!cpu->log_full) || cpu->mmu_stepping)
		return false;
	cpu->exit.reason = CPU_EXIT_POLL;
	return true;
}

/* Data breakpoints count only when the access itself goes through. */
static NOINLINE enum mmu_resolve_kind resolve_watched(struct cpu *cpu, u64 lin, unsigned size,
						      unsigned access, bool lock)
{
	u64 hits = watch_hits(cpu, lin, size, access & MMU_WRITE);
	enum mmu_resolve_kind kind;

	count(cpu, MMU_STAT_miss_watch);
	if (hits && !cpu->mmu_stepping)
		return MMU_STOP_STEP;
	kind = resolve(cpu, lin, size, access, lock);
	if (kind == MMU_DIRECT || kind == MMU_BOUNCED)
		cpu->pending_db |= hits;
	return kind;
}

enum mmu_resolve_kind mmu_resolve(struct cpu *cpu, u64 lin, unsigned size, unsigned access,
				  bool lock)
{
	lin = lin_wrap(cpu, lin);
	if (log_full(cpu))
		return MMU_STOP_EXIT;
	if (UNLIKELY(cpu->mmu->late_len))
		code_late_check(cpu);
	if (UNLIKELY(cpu->mode & MODE_WINDOW))
		window_miss(cpu);
	if (UNLIKELY(cpu->mode & MODE_WATCH))
		return resolve_watched(cpu, lin, size, access, lock);
	return resolve(cpu, lin, size, access, lock);
}

enum mmu_resolve_kind mmu_resolve_two(struct cpu *cpu, const u64 lin[2], const unsigned size[2],
				      unsigned gap, unsigned access)
{
	unsigned view = access_view(cpu, access), have = 0;
	struct pend_part part[PEND_PARTS];
	enum mmu_resolve_kind kind;
	u64 hits = 0;

	count(cpu, MMU_STAT_miss_cross);
	if (log_full(cpu))
		return MMU_STOP_EXIT;
	if (UNLIKELY(cpu->mmu->late_len))
		code_late_check(cpu);
	if (UNLIKELY(cpu->mode & MODE_WINDOW))
		window_miss(cpu);
	for (unsigned i = 0; i < 2 && UNLIKELY(cpu->mode & MODE_WATCH); i++)
		hits |= watch_hits(cpu, lin_wrap(cpu, lin[i]), size[i], access & MMU_WRITE);
	if (hits && !cpu->mmu_stepping)
		return MMU_STOP_STEP;
	for (unsigned i = 0; i < 2; i++) {
		u64 at = lin_wrap(cpu, lin[i]);
		int n;

		if (align_first(cpu, at, size[i], access))
			return stopped(cpu_raise_err(cpu, EXC_AC, 0));
		n = parts_walk(cpu, at, size[i], access, view, part + have);
		if (n < 0)
			return stopped(-n);
		if (misaligned(cpu, at, size[i], access))
			return stopped(cpu_raise_err(cpu, EXC_AC, 0));
		part[have].gap = i ? gap : 0;
		have += (unsigned)n;
	}
	kind = bounce(cpu, access, false, part, have);
	if (kind == MMU_BOUNCED)
		cpu->pending_db |= hits;
	return kind;
}

/* Bytes [from, from + n) of the bounce buffer go to their place. False: the client's mapping does not take them. */
static bool store(struct cpu *cpu, const struct pend_part *p, unsigned i, unsigned from, unsigned n,
		  bool *leave)
{
	if (!p->host || p->rom) {
		*leave |= mmio_write(cpu, p->gpa + i, cpu->bounce + from + i, n);
		return true;
	}
	return ram_store(cpu, p->slot, p->gpa + i, p->host + i, cpu->bounce + from + i, n);
}

/* … as far as `bytes` names them: what is between is somebody else's, who may write it now. */
static bool store_bytes(struct cpu *cpu, const struct pend_part *p, unsigned from, u64 bytes,
			bool *leave)
{
	if (LIKELY(bytes == ~0ull))
		return store(cpu, p, 0, from, p->len, leave);
	for (unsigned i = 0, end; i < p->len; i = end + 1) {
		for (end = i; end < p->len && bytes >> (from + end) & 1; end++)
			;
		if (end > i && !store(cpu, p, i, from, end - i, leave))
			return false;
	}
	return true;
}

int mmu_bounce_commit(struct cpu *cpu)
{
	return mmu_bounce_commit_bytes(cpu, ~0ull);
}

int mmu_bounce_commit_bytes(struct cpu *cpu, u64 bytes)
{
	struct mmu_cpu *mc = cpu->mmu;
	unsigned from = 0;
	bool leave = false;

	for (unsigned i = 0; i < mc->pend_count && bytes; from += mc->pend[i++].len) {
		struct pend_part *p = &mc->pend[i];

		from += p->gap;
		if (UNLIKELY(!store_bytes(cpu, p, from, bytes, &leave))) {
			memfault(cpu, p->gpa, p->len, MMU_WRITE);
			leave = true;
		}
	}
	mc->pend_count = 0;
	if (mc->pend_split) {
		mc->pend_split = false;
		futex_unlock(&cpu->mem->split_lock);
	}
	return leave;
}
