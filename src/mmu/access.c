/*
 * access.c - guest memory for the processor's own C code
 *
 * Helpers (system instructions, exception delivery, task switches) read and write the guest
 * through these. They look into the same software TLB as generated code first. A write checks all
 * of its pages before it changes a byte, so an instruction either happens or faults.
 */
#include "mmu/mmu_internal.h"

int page_walk(struct cpu *cpu, u64 lin, unsigned access, unsigned view, struct mmu_walk *w)
{
	struct mmu_fault fault;

	if (cpu_is_long(cpu) && UNLIKELY(!cpu_is_canonical(cpu, lin)))
		return cpu_raise_err(cpu, (access & MMU_STACK) ? EXC_SS : EXC_GP, 0);
	if (UNLIKELY(walk_view(cpu, lin, access, view, false, w, &fault)))
		return mmu_raise(cpu, &fault);
	return CPU_OK;
}

bool page_enter(struct cpu *cpu, u64 lin, unsigned access, unsigned view, const struct mmu_walk *w,
		struct mmu_slot *slot, bool tracked)
{
	bool write = access & MMU_WRITE, writable;
	u8 *host = mmu_slot_host(slot, w->gpa & PAGE_MASK);

	pages_note(cpu, slot, w->gpa, access);
	if (UNLIKELY(w->uncached)) {
		if (write)
			slot_dirty(cpu, slot, w->gpa);
		return !write;
	}
	if (write) {
		slot_dirty(cpu, slot, w->gpa);
		writable = true;
	} else {
		/* A page that is dirty already may be cached for writing by its first read. */
		writable = w->writable && w->dirty && !slot->dirty;
	}
	writable = writable && !tracked && !(slot->flags & MMU_SLOT_READONLY);
	if (UNLIKELY(cpu->mode & MODE_WATCH) && watch_page(cpu, lin))
		return !write;
	return tlb_fill(cpu, view, lin, w, host, writable) || !write;
}

int parts_walk(struct cpu *cpu, u64 lin, unsigned n, unsigned access, unsigned view,
	       struct pend_part *part)
{
	unsigned count = 0;

	if (UNLIKELY(n > (PEND_PARTS - 1) * PAGE_SIZE))
		return -mmu_internal(cpu, "access of more than 16 KiB");
	for (u64 at = lin; n;) {
		struct pend_part *p = &part[count++];
		struct mmu_walk w;
		int ret;

		p->len = (u32)MIN((u64)n, PAGE_SIZE - (at & (PAGE_SIZE - 1)));
		p->gap = 0;
		ret = page_walk(cpu, at, access, view, &w);
		if (ret)
			return -ret;
		p->gpa = w.gpa;
		p->slot = slot_find(cpu, w.gpa);
		p->rom = false;
		p->host = NULL;
		if (p->slot) {
			p->host = mmu_slot_host(p->slot, w.gpa);
			p->rom = p->slot->flags & MMU_SLOT_READONLY;
			if (!((access & MMU_WRITE) && p->rom))
				page_enter(cpu, at, access, view, &w, p->slot,
					   code_tracked(cpu->mem, w.gpa));
		} else if (gpa_blocked(cpu, w.gpa, p->len, access)) {
			return -CPU_EXIT;
		}
		n -= p->len;
		at = lin_wrap(cpu, at + p->len);
	}
	return (int)count;
}

bool ram_store(struct cpu *cpu, struct mmu_slot *slot, u64 gpa, u8 *host, const void *src,
	       unsigned n)
{
	u64 chunks;
	int same;

	slot_dirty(cpu, slot, gpa);
	if (LIKELY(!code_tracked(cpu->mem, gpa)))
		return hostmem_put(host, src, n);
	chunks = code_chunks(gpa, n);
	if (code_tracked(cpu->mem, gpa) & chunks) {
		same = hostmem_same(host, src, n);
		if (same)
			return same > 0;
	}
	if (!hostmem_put(host, src, n))
		return false;
	fence_full();
	if (code_tracked(cpu->mem, gpa) & chunks)
		code_changed(cpu, gpa, n);
	return true;
}

/* What an instruction's own accesses are checked for besides paging. CPU_OK or CPU_EXC. */
static int access_checks(struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	if (access & MMU_SYSTEM)
		return CPU_OK;
	if (misaligned(cpu, lin, n, access))
		return cpu_raise_err(cpu, EXC_AC, 0);
	if (cpu->mode & MODE_WATCH)
		cpu->pending_db |= watch_hits(cpu, lin, n, access & MMU_WRITE);
	return CPU_OK;
}

static u64 tlb_gpa(const struct cpu *cpu, unsigned view, u64 lin)
{
	return (cpu->mmu->log[view].info[tlb_index(lin)] >> 8) << PAGE_SHIFT |
	       (lin & (PAGE_SIZE - 1));
}

static NOINLINE int read_slow(struct cpu *cpu, u64 lin, u8 *buf, unsigned n, unsigned access,
			      unsigned view)
{
	struct pend_part part[PEND_PARTS];
	unsigned mark;
	int count, ret;

	if (align_first(cpu, lin, n, access))
		return cpu_raise_err(cpu, EXC_AC, 0);
	count = parts_walk(cpu, lin, n, access, view, part);
	if (count < 0)
		return -count;
	ret = access_checks(cpu, lin, n, access);
	if (ret)
		return ret;
	mark = mmio_begin(cpu);
	for (int i = 0; i < count; i++) {
		struct pend_part *p = &part[i];

		if (!p->host) {
			ret = mmio_read(cpu, p->gpa, buf, p->len);
			if (ret)
				return ret;
		} else if (!hostmem_get(buf, p->host, p->len)) {
			return memfault(cpu, p->gpa, p->len, access);
		}
		buf += p->len;
	}
	mmio_end(cpu, mark);
	return CPU_OK;
}

int mmu_read(struct cpu *cpu, u64 lin, void *buf, unsigned n, unsigned access)
{
	unsigned view = access_view(cpu, access);
	struct mmu_tlb *t = &cpu->tlb[view];
	unsigned i;

	lin = lin_wrap(cpu, lin);
	i = tlb_index(lin);
	if (LIKELY((t->rtag[i] + lin + n - 1) >> PAGE_SHIFT == 1 && !(cpu->mode & MODE_ALIGN))) {
		if (LIKELY(hostmem_get(buf, (u8 *)(lin + t->addend[i]), n)))
			return CPU_OK;
		return memfault(cpu, tlb_gpa(cpu, view, lin), n, access);
	}
	return read_slow(cpu, lin, buf, n, access, view);
}

static NOINLINE int write_slow(struct cpu *cpu, u64 lin, const u8 *buf, unsigned n, unsigned access,
			       unsigned view)
{
	struct pend_part part[PEND_PARTS];
	int count, ret;

	if (align_first(cpu, lin, n, access))
		return cpu_raise_err(cpu, EXC_AC, 0);
	count = parts_walk(cpu, lin, n, access, view, part);
	if (count < 0)
		return -count;
	ret = mmio_room(cpu, part, (unsigned)count);
	if (ret)
		return ret;
	ret = access_checks(cpu, lin, n, access);
	if (ret)
		return ret;
	for (int i = 0; i < count; i++) {
		struct pend_part *p = &part[i];

		if (!p->host || p->rom)
			mmio_write(cpu, p->gpa, buf, p->len);
		else if (!ram_store(cpu, p->slot, p->gpa, p->host, buf, p->len))
			return memfault(cpu, p->gpa, p->len, access);
		buf += p->len;
	}
	return CPU_OK;
}

int mmu_write(struct cpu *cpu, u64 lin, const void *buf, unsigned n, unsigned access)
{
	unsigned view = access_view(cpu, access |= MMU_WRITE);
	struct mmu_tlb *t = &cpu->tlb[view];
	unsigned i;

	lin = lin_wrap(cpu, lin);
	i = tlb_index(lin);
	if (LIKELY((t->wtag[i] + lin + n - 1) >> PAGE_SHIFT == 1 && !(cpu->mode & MODE_ALIGN))) {
		if (LIKELY(hostmem_put((u8 *)(lin + t->addend[i]), buf, n)))
			return CPU_OK;
		return memfault(cpu, tlb_gpa(cpu, view, lin), n, access);
	}
	return write_slow(cpu, lin, buf, n, access, view);
}

int mmu_probe(struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	unsigned view = access_view(cpu, access);
	struct mmu_tlb *t = &cpu->tlb[view];
	struct pend_part part[PEND_PARTS];
	unsigned i;
	int count;

	lin = lin_wrap(cpu, lin);
	i = tlb_index(lin);
	if (LIKELY((((access & MMU_WRITE) ? t->wtag[i] : t->rtag[i]) + lin + n - 1) >> PAGE_SHIFT ==
			   1 &&
		   !(cpu->mode & MODE_ALIGN)))
		return CPU_OK;
	if (align_first(cpu, lin, n, access))
		return cpu_raise_err(cpu, EXC_AC, 0);
	count = parts_walk(cpu, lin, n, access, view, part);
	if (count < 0)
		return -count;
	if (misaligned(cpu, lin, n, access))
		return cpu_raise_err(cpu, EXC_AC, 0);
	return CPU_OK;
}

/* Not one plain range of RAM: read, compare, write. Crossing RAM is done under the VM's lock. */
static int cmpxchg_parts(struct cpu *cpu, const struct pend_part *part, unsigned count, u64 *old,
			 u64 new, bool *done)
{
	unsigned mark = mmio_begin(cpu), at = 0;
	bool split = count > 1 && part[0].host && part[1].host;
	u64 seen = 0;
	int ret;

	ret = mmio_room(cpu, part, count);
	if (ret)
		return ret;
	if (split)
		futex_lock(&cpu->mem->split_lock);
	for (unsigned i = 0; i < count; at += part[i++].len) {
		u8 *to = (u8 *)&seen + at;

		if (!part[i].host)
			ret = mmio_read(cpu, part[i].gpa, to, part[i].len);
		else if (!hostmem_get(to, part[i].host, part[i].len))
			ret = memfault(cpu, part[i].gpa, part[i].len, MMU_WRITE);
		if (ret)
			goto out;
	}
	mmio_end(cpu, mark);
	*done = mem_equal(&seen, old, at);
	if (!*done)
		new = seen;
	*old = seen;
	at = 0;
	for (unsigned i = 0; i < count; at += part[i++].len) {
		const u8 *from = (const u8 *)&new + at;

		if (!part[i].host || part[i].rom)
			mmio_write(cpu, part[i].gpa, from, part[i].len);
		else if (!ram_store(cpu, part[i].slot, part[i].gpa, part[i].host, from,
				    part[i].len))
			ret = memfault(cpu, part[i].gpa, part[i].len, MMU_WRITE);
	}
out:
	if (split)
		futex_unlock(&cpu->mem->split_lock);
	return ret;
}

int mmu_cmpxchg(struct cpu *cpu, u64 lin, u64 *old, u64 new, unsigned n, bool *done,
		unsigned access)
{
	unsigned view = access_view(cpu, access |= MMU_WRITE);
	struct pend_part part[PEND_PARTS];
	int count, ret;

	lin = lin_wrap(cpu, lin);
	count = parts_walk(cpu, lin, n, access, view, part);
	if (count < 0)
		return -count;
	ret = access_checks(cpu, lin, n, access);
	if (ret)
		return ret;
	if (count > 1 || !part[0].host || part[0].rom)
		return cmpxchg_parts(cpu, part, (unsigned)count, old, new, done);
	slot_dirty(cpu, part[0].slot, part[0].gpa);
	if (hostmem_cmpxchg(part[0].host, old, new, n, done))
		return memfault(cpu, part[0].gpa, n, access);
	if (*done && (code_tracked(cpu->mem, part[0].gpa) & code_chunks(part[0].gpa, n)))
		code_changed(cpu, part[0].gpa, n);
	return CPU_OK;
}

int mmu_host(struct cpu *cpu, u64 lin, unsigned access, u8 **host, unsigned *avail)
{
	unsigned view = access_view(cpu, access);
	bool write = access & MMU_WRITE, tracked;
	struct mmu_tlb *t = &cpu->tlb[view];
	struct mmu_slot *slot;
	struct mmu_walk w;
	unsigned i;
	int ret;

	lin = lin_wrap(cpu, lin);
	i = tlb_index(lin);
	*avail = (unsigned)(PAGE_SIZE - (lin & (PAGE_SIZE - 1)));
	if (LIKELY(((write ? t->wtag[i] : t->rtag[i]) + lin) >> PAGE_SHIFT == 1)) {
		*host = (u8 *)(lin + t->addend[i]);
		return CPU_OK;
	}
	*host = NULL;
	ret = page_walk(cpu, lin, access, view, &w);
	if (ret)
		return ret;
	slot = slot_find(cpu, w.gpa);
	if (!slot)
		return gpa_blocked(cpu, w.gpa, 1, access) ? CPU_EXIT : CPU_OK;
	if (write && (slot->flags & MMU_SLOT_READONLY))
		return CPU_OK;
	tracked = code_tracked(cpu->mem, w.gpa);
	if (!page_enter(cpu, lin, access, view, &w, slot, tracked) || (write && tracked))
		return CPU_OK;
	if (UNLIKELY(cpu->mode & MODE_WATCH) && watch_page(cpu, lin))
		return CPU_OK;
	*host = mmu_slot_host(slot, w.gpa);
	return CPU_OK;
}
