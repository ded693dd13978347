/*
 * code.c - which guest bytes have been translated, and what happens when they change
 *
 * A page that holds translated code is recorded in the VM (struct code_page), with a bit for each
 * 64-byte chunk that code was read from. While any bit is set no vCPU caches write permission to
 * the page: every store comes through mmu_resolve() or a helper, which look at the bits. A store
 * that touches no tracked chunk just happens. One that does, and changes bytes, drops the blocks
 * made from these chunks on this vCPU and tells the others by message. Nobody waits: a vCPU
 * answers its messages before it enters guest code again and at polls.
 *
 * Two races need care, both between a reader R (translating) and a writer W:
 *
 * 1. W has write permission cached from before the page was a code page. R marks the page, sends
 *    "stop writing" and only then reads the bytes. W finds on handling the message that it had
 *    permission, cannot know whether it stored after R's read, and answers "invalidate". When W
 *    forgets a permission for other reasons (flush, eviction), it handles such messages first;
 *    a fence orders its stores before that look (code_settle).
 * 2. W stores to a code page outside tracked chunks while R adds just that chunk. W looks at the
 *    bits again behind the store and a fence; R marks, fences, reads. One of the two sees the
 *    other. Bounced stores re-check in the commit; a direct (locked) one cannot, so it leaves a
 *    note (late_gpa) and makes its own vCPU poll.
 *
 * Chunks are counted per vCPU, so that a page goes back to ordinary use when its code is gone -
 * memory is reused for data. The page structures stay until the VM ends.
 */
#include "mmu/mmu_internal.h"
#include "mmu/translator.h"

#include <errno.h>

static unsigned bucket_of(u64 gfn)
{
	return (unsigned)((gfn * 0x9e3779b97f4a7c15ull) >> 50);
}
_Static_assert(CODE_BUCKETS == 1u << 14, "bucket_of() yields 14 bits");

int code_vm_init(struct mmu_vm *vm)
{
	vm->code = pages_map(sizeof(*vm->code));
	return vm->code ? 0 : -ENOMEM;
}

void code_vm_destroy(struct mmu_vm *vm)
{
	struct mmu_code *c = vm->code;
	u8 *slab, *next;

	if (!c)
		return;
	/* A slab's first word links to the slab before it. */
	for (slab = c->slab_end ? c->slab_end - CODE_SLAB_BYTES : NULL; slab; slab = next) {
		next = *(u8 **)slab;
		if (slab != c->first_slab)
			pages_unmap(slab, CODE_SLAB_BYTES);
	}
	pages_unmap(c, sizeof(*c));
	vm->code = NULL;
}

struct code_page *code_find(struct mmu_vm *vm, u64 gfn)
{
	struct code_page *p = __atomic_load_n(&vm->code->bucket[bucket_of(gfn)], __ATOMIC_ACQUIRE);

	while (p && p->gfn != gfn)
		p = __atomic_load_n(&p->next, __ATOMIC_ACQUIRE);
	return p;
}

/* Called with the lock held. */
static struct code_page *page_new(struct mmu_code *c, u64 gfn)
{
	struct code_page **head = &c->bucket[bucket_of(gfn)];
	struct code_page *p;

	if (!c->slab || c->slab + sizeof(*p) > c->slab_end) {
		u8 *slab = c->slab ? pages_map(CODE_SLAB_BYTES) : c->first_slab;

		if (!slab)
			return NULL;
		*(u8 **)slab = c->slab_end ? c->slab_end - CODE_SLAB_BYTES : NULL;
		c->slab = slab + 64;
		c->slab_end = slab + CODE_SLAB_BYTES;
		c->bytes += CODE_SLAB_BYTES;
	}
	p = (struct code_page *)c->slab;
	c->slab += sizeof(*p);
	c->pages++;
	p->gfn = gfn;
	p->next = *head;
	__atomic_fetch_or(&c->filter[(gfn & (CODE_FILTER_BITS - 1)) >> 6], BIT64(gfn & 63),
			  __ATOMIC_SEQ_CST);
	__atomic_store_n(head, p, __ATOMIC_RELEASE);
	return p;
}

/* --- own code --------------------------------------------------------------------------------- */

static struct code_own *own_find(struct mmu_cpu *mc, u64 gfn)
{
	unsigned i;

	if (!mc->own_size)
		return NULL;
	for (i = bucket_of(gfn) & (mc->own_size - 1); mc->own[i].page;
	     i = (i + 1) & (mc->own_size - 1))
		if (mc->own[i].page->gfn == gfn)
			return &mc->own[i];
	return NULL;
}

static void own_free(struct mmu_cpu *mc)
{
	if (mc->own != mc->own_first)
		pages_unmap(mc->own, mc->own_size * sizeof(*mc->own));
}

static bool own_grow(struct mmu_cpu *mc)
{
	unsigned size = mc->own_size ? mc->own_size * 2 : ARRAY_SIZE(mc->own_first);
	struct code_own *own = mc->own_size ? pages_map(size * sizeof(*own)) : mc->own_first;

	if (!own)
		return false;
	for (unsigned k = 0; k < mc->own_size; k++) {
		unsigned i;

		if (!mc->own[k].page)
			continue;
		i = bucket_of(mc->own[k].page->gfn) & (size - 1);
		while (own[i].page)
			i = (i + 1) & (size - 1);
		own[i] = mc->own[k];
	}
	own_free(mc);
	mc->own = own;
	mc->own_size = size;
	return true;
}

static struct code_own *own_add(struct mmu_cpu *mc, struct code_page *page)
{
	unsigned i;

	if (mc->own_count * 2 >= mc->own_size && !own_grow(mc))
		return NULL;
	i = bucket_of(page->gfn) & (mc->own_size - 1);
	while (mc->own[i].page)
		i = (i + 1) & (mc->own_size - 1);
	mc->own[i].page = page;
	mc->own[i].chunks = 0;
	mc->own_count++;
	return &mc->own[i];
}

/* Removes a row; rows behind it that were displaced move up. */
static void own_remove(struct mmu_cpu *mc, struct code_own *o)
{
	unsigned mask = mc->own_size - 1, hole = (unsigned)(o - mc->own), i = hole;

	for (;;) {
		unsigned home;

		i = (i + 1) & mask;
		if (!mc->own[i].page)
			break;
		home = bucket_of(mc->own[i].page->gfn) & mask;
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			mc->own[hole] = mc->own[i];
			hole = i;
		}
	}
	mc->own[hole].page = NULL;
	mc->own_count--;
}

u64 code_own_chunks(struct cpu *cpu, u64 gpa)
{
	struct code_own *o = own_find(cpu->mmu, gpa >> PAGE_SHIFT);

	return o ? o->chunks : 0;
}

/* This vCPU has no more code in these chunks. */
static void own_clear(struct cpu *cpu, struct code_own *o, u64 chunks)
{
	struct mmu_code *c = cpu->mem->code;
	struct code_page *p = o->page;
	u64 gone = 0;

	chunks &= o->chunks;
	o->chunks &= ~chunks;
	futex_lock(&c->lock);
	for (u64 m = chunks; m; m &= m - 1) {
		unsigned k = (unsigned)__builtin_ctzll(m);

		if (--p->users[k] == 0)
			gone |= BIT64(k);
	}
	if (gone)
		__atomic_store_n(&p->chunks, p->chunks & ~gone, __ATOMIC_SEQ_CST);
	futex_unlock(&c->lock);
	if (!o->chunks) {
		__atomic_fetch_and(&p->vcpus[(cpu->index >> 6) & 3], ~BIT64(cpu->index & 63),
				   __ATOMIC_SEQ_CST);
		own_remove(cpu->mmu, o);
	}
}

/* --- messages ------------------------------------------------------------------------------------ */

static void msg_post(struct cpu *to, enum code_msg_kind kind, u64 gfn, u64 chunks)
{
	struct mmu_cpu *mc = to->mmu;

	futex_lock(&mc->msg_lock);
	for (unsigned i = 0; i < mc->msg_count; i++)
		if (mc->msg[i].gfn == gfn && mc->msg[i].kind == kind) {
			mc->msg[i].chunks |= chunks;
			goto posted;
		}
	if (mc->msg_count < CODE_MSGS)
		mc->msg[mc->msg_count++] = (struct code_msg){gfn, chunks, kind};
	else
		mc->msg_overflow = true;
posted:
	__atomic_store_n(&mc->msg_waiting, 1, __ATOMIC_SEQ_CST);
	futex_unlock(&mc->msg_lock);
	__atomic_store_n(&to->poll, 0, __ATOMIC_SEQ_CST);
}

/* To every other vCPU; with `page`, only to those that have code in it. */
static void msg_send(struct cpu *cpu, enum code_msg_kind kind, u64 gfn, u64 chunks,
		     const struct code_page *page)
{
	struct mmu_vm *vm = cpu->mem;

	if (vm->cpu_count < 2)
		return;
	futex_lock(&vm->cpu_lock);
	for (unsigned i = 0; i < vm->cpu_count; i++) {
		struct cpu *to = vm->cpus[i];

		if (to == cpu)
			continue;
		if (page &&
		    !(__atomic_load_n(&page->vcpus[(to->index >> 6) & 3], __ATOMIC_SEQ_CST) &
		      BIT64(to->index & 63)))
			continue;
		msg_post(to, kind, gfn, chunks);
	}
	futex_unlock(&vm->cpu_lock);
}

static void tell_changed(struct cpu *cpu, u64 gfn, u64 chunks)
{
	struct code_page *p = code_find(cpu->mem, gfn);

	if (p && (chunks & __atomic_load_n(&p->chunks, __ATOMIC_SEQ_CST)))
		msg_send(cpu, CODE_MSG_INVALIDATE, gfn, chunks, p);
}

/* Drops this vCPU's blocks from some chunks of a page. */
static void drop_own(struct cpu *cpu, u64 gfn, u64 chunks)
{
	struct code_own *o = own_find(cpu->mmu, gfn);

	if (!o)
		return;
	chunks &= o->chunks;
	while (chunks) {
		unsigned first = (unsigned)__builtin_ctzll(chunks);
		u64 run = ~(chunks >> first);
		unsigned n = run ? (unsigned)__builtin_ctzll(run) : 64;
		u64 part = bits_get(~0ull, 63, 0) >> (64 - n) << first;

		jit_invalidate(cpu, (gfn << PAGE_SHIFT) + (first << CODE_CHUNK_SHIFT),
			       n << CODE_CHUNK_SHIFT);
		/* The translator may have called mmu_code_remove(), or flushed everything. */
		o = own_find(cpu->mmu, gfn);
		if (!o)
			return;
		own_clear(cpu, o, part);
		o = own_find(cpu->mmu, gfn);
		if (!o)
			return;
		chunks &= o->chunks & ~part;
	}
}

void code_changed(struct cpu *cpu, u64 gpa, unsigned n)
{
	u64 gfn = gpa >> PAGE_SHIFT, chunks = code_chunks(gpa, n);

	tell_changed(cpu, gfn, chunks);
	drop_own(cpu, gfn, chunks);
}

void code_late_check(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;
	unsigned n = mc->late_len;

	if (!n)
		return;
	mc->late_len = 0;
	fence_full();
	if (code_tracked(cpu->mem, mc->late_gpa) & code_chunks(mc->late_gpa, n))
		code_changed(cpu, mc->late_gpa, n);
}

/* A page became a code page: permission goes, and if there was one, its use is admitted. */
static void stop_writing(struct cpu *cpu, u64 gfn)
{
	if (tlb_drop_write(cpu, gfn))
		tell_changed(cpu, gfn, ~0ull);
}

/* Too many messages to be kept: all code pages are suspect. */
static void stop_writing_all(struct cpu *cpu)
{
	unsigned at = 0;
	u64 gfn;

	for (unsigned v = 0; v < cpu_views(cpu); v++) {
		struct tlb_log *log = &cpu->mmu->log[v];

		for (unsigned i = 0; i < MMU_TLB_SIZE; i++) {
			gfn = log->info[i] >> 8;
			if ((log->info[i] & TLB_VALID) && code_tracked(cpu->mem, gfn << PAGE_SHIFT))
				stop_writing(cpu, gfn);
		}
	}
	for (unsigned k = 0; k < STASH_COUNT; k++) {
		struct stash *s = &cpu->mmu->stash[k];

		for (unsigned i = 0; s->valid && i < s->count; i++) {
			gfn = s->entry[i].info >> 8;
			if (s->entry[i].writable && code_tracked(cpu->mem, gfn << PAGE_SHIFT))
				stop_writing(cpu, gfn);
		}
	}
	while (window_next_write(cpu, &at, &gfn))
		if (code_tracked(cpu->mem, gfn << PAGE_SHIFT))
			stop_writing(cpu, gfn);
}

/* Takes one message of a kind (or any kind) off the queue. */
static bool msg_take(struct mmu_cpu *mc, bool writes_only, struct code_msg *out)
{
	bool found = false;

	futex_lock(&mc->msg_lock);
	for (unsigned i = 0; i < mc->msg_count; i++) {
		if (writes_only && mc->msg[i].kind != CODE_MSG_DROP_WRITE)
			continue;
		*out = mc->msg[i];
		mc->msg[i] = mc->msg[--mc->msg_count];
		found = true;
		break;
	}
	futex_unlock(&mc->msg_lock);
	return found;
}

void code_poll_writes(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;
	struct code_msg m;

	while (msg_take(mc, true, &m))
		stop_writing(cpu, m.gfn);
	if (__atomic_load_n(&mc->msg_overflow, __ATOMIC_SEQ_CST))
		stop_writing_all(cpu);
}

void mmu_code_poll(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;
	bool overflow;
	struct code_msg m;

	code_late_check(cpu);
	if (!__atomic_load_n(&mc->msg_waiting, __ATOMIC_SEQ_CST))
		return;
	futex_lock(&mc->msg_lock);
	overflow = mc->msg_overflow;
	mc->msg_overflow = false;
	__atomic_store_n(&mc->msg_waiting, 0, __ATOMIC_SEQ_CST);
	futex_unlock(&mc->msg_lock);

	while (msg_take(mc, false, &m)) {
		if (m.kind == CODE_MSG_DROP_WRITE)
			stop_writing(cpu, m.gfn);
		else
			drop_own(cpu, m.gfn, m.chunks);
	}
	if (overflow) {
		stop_writing_all(cpu);
		jit_flush(cpu);
		mmu_code_reset(cpu);
	}
}

/* --- the translator's calls ------------------------------------------------------------------------ */

void mmu_code_add(struct cpu *cpu, u64 gpa, unsigned n)
{
	struct mmu_code *c = cpu->mem->code;
	struct mmu_cpu *mc = cpu->mmu;
	u64 gfn = gpa >> PAGE_SHIFT, chunks = code_chunks(gpa, n), new;
	struct code_own *o = own_find(mc, gfn);
	struct code_page *p;
	bool first, own = o;

	if (o && !(chunks & ~o->chunks))
		return;
	p = o ? o->page : code_find(cpu->mem, gfn);
	futex_lock(&c->lock);
	if (!p)
		p = code_find(cpu->mem, gfn);
	if (!p)
		p = page_new(c, gfn);
	if (p && !o)
		o = own_add(mc, p);
	if (!o) {
		/* No memory to track it: the code stays correct only while nobody writes. */
		futex_unlock(&c->lock);
		return;
	}
	new = chunks & ~o->chunks;
	o->chunks |= new;
	for (u64 m = new; m; m &= m - 1)
		p->users[__builtin_ctzll(m)]++;
	first = !p->chunks;
	__atomic_fetch_or(&p->vcpus[(cpu->index >> 6) & 3], BIT64(cpu->index & 63),
			  __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->chunks, p->chunks | new, __ATOMIC_SEQ_CST);
	/* Under the lock: whoever adds the next chunk may rely on the messages being posted. */
	if (first)
		msg_send(cpu, CODE_MSG_DROP_WRITE, gfn, 0, NULL);
	futex_unlock(&c->lock);
	/* Another's first chunk: its message may be unread here. */
	if (first || !own)
		tlb_drop_write(cpu, gfn);
}

void mmu_code_remove(struct cpu *cpu, u64 gpa)
{
	struct code_own *o = own_find(cpu->mmu, gpa >> PAGE_SHIFT);

	if (o)
		own_clear(cpu, o, ~0ull);
}

void mmu_code_reset(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;

	/* Removing a row may move another one into its place. */
	for (unsigned i = 0; i < mc->own_size; i++)
		while (mc->own[i].page)
			own_clear(cpu, &mc->own[i], ~0ull);
}

void code_cpu_destroy(struct cpu *cpu)
{
	mmu_code_reset(cpu);
	own_free(cpu->mmu);
	cpu->mmu->own = NULL;
	cpu->mmu->own_size = cpu->mmu->own_count = 0;
}

/* In more than this there is some code. */
#define CLIENT_BYTES_MAX (64ull << 20)

/* A translator marks a chunk, then reads it (mmu_code_add()); here it was written before the look. */
bool mmu_client_wrote_at(struct mmu_vm *vm, u64 gpa, u64 bytes)
{
	bool huge = bytes > CLIENT_BYTES_MAX;
	u64 at = gpa & PAGE_MASK;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	while (!huge && at < gpa + bytes && !code_tracked(vm, at))
		at += PAGE_SIZE;
	if (!huge && at >= gpa + bytes)
		return false;
	mmu_client_wrote(vm);
	__atomic_fetch_add(&vm->client_events, 1, __ATOMIC_SEQ_CST);
	return true;
}
