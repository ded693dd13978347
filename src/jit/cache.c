/*
 * cache.c - the code cache and what is known about the blocks in it
 *
 * One memfd, mapped twice: writable at rw, executable at rx (decision D9). Code and the records
 * about it (blocks, links, marks, decoded instructions) are only ever appended; when any area is
 * full everything is dropped at once. A block's stubs lie apart from what it usually runs, so
 * that the host's instruction cache holds what runs. A block that is invalidated leaves the tables at once,
 * the jumps to it are turned back to their stubs, but its bytes stay, because it may be running.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* What the cache gets of memory at once; page faults in the executable view take as much. */
#define AHEAD ((size_t)64 << 10)
#define HUGE  ((size_t)2 << 20)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What is known about the blocks: mapped, so that a small guest touches few pages of it. */
static size_t tables_bytes(const struct jit *jit)
{
	return (JIT_HASH_SIZE + jit->block_max) * sizeof(void *) + jit->size;
}

int jit_cache_init(struct jit *jit, size_t size)
{
	int fd = memfd_create("anykvm-code", MFD_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	jit->size = size;
	if (ftruncate(fd, (off_t)size) < 0) {
		err = -errno;
		goto out;
	}
	jit->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (jit->rw == MAP_FAILED) {
		jit->rw = NULL;
		err = -errno;
		goto out;
	}
	jit->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (jit->rx == MAP_FAILED) {
		jit->rx = NULL;
		err = -errno;
		goto out;
	}
	jit->block_max = (u32)(size / 128);
	jit->tables = mmap(NULL, tables_bytes(jit), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (jit->tables == MAP_FAILED) {
		jit->tables = NULL;
		err = -errno;
		goto out;
	}
	jit->hash = (struct jit_block **)jit->tables;
	jit->by_address = jit->hash + JIT_HASH_SIZE;
	jit->meta = jit->meta_next = (u8 *)(jit->by_address + jit->block_max);
	jit->meta_end = jit->meta + size;
	jit->code_ready = jit->rw + AHEAD;
	jit->cold_ready = jit->rw + align_up(size / 2, AHEAD) + AHEAD;
	jit->page = calloc(JIT_PAGE_HASH_SIZE, sizeof(*jit->page));
	if (!jit->page)
		err = -ENOMEM;
out:
	close(fd);
	if (err)
		jit_cache_destroy(jit);
	return err;
}

void jit_cache_destroy(struct jit *jit)
{
	if (jit->rw)
		munmap(jit->rw, jit->size);
	if (jit->rx)
		munmap(jit->rx, jit->size);
	if (jit->tables)
		munmap(jit->tables, tables_bytes(jit));
	free(jit->page);
	jit->rw = jit->rx = NULL;
	jit->tables = NULL;
	jit->page = NULL;
}

/* Room for what is written next, in one call for many pages. */
static void prepare(struct jit *jit, u8 **ready, const u8 *next, const u8 *end)
{
	if (LIKELY(next + AHEAD / 4 < *ready) || *ready + AHEAD > end)
		return;
	madvise(*ready, AHEAD, MADV_POPULATE_WRITE);
	*ready += AHEAD;
	/* a small guest should neither wait for 2 MiB to be cleared nor keep them */
	if (!jit->meta_huge)
		madvise((void *)align_up((u64)jit->meta, HUGE), jit->size - HUGE, MADV_HUGEPAGE);
	jit->meta_huge = true;
}

/** Called when a block is complete: makes room for the next ones. */
void jit_cache_prepare(struct jit *jit)
{
	prepare(jit, &jit->code_ready, jit->code_next, jit->code_end);
	prepare(jit, &jit->cold_ready, jit->cold_next, jit->rw + jit->size);
}

/** Memory that lives as long as the code; NULL when the area is full. */
void *jit_meta_alloc(struct jit *jit, size_t n)
{
	u8 *p = jit->meta_next;

	n = align_up(n, 16);
	if ((size_t)(jit->meta_end - p) < n)
		return NULL;
	jit->meta_next = p + n;
	return p;
}

void *jit_meta_alloc_line(struct jit *jit, size_t n)
{
	size_t pad = -(u64)jit->meta_next & 63;
	u8 *p = jit_meta_alloc(jit, pad + n);

	return p ? p + pad : NULL;
}

/* The blocks of a page are near each other in the table, in 64 slots: their addresses are used together. */
static u32 hash_of(u64 gpa, u64 rip, u32 mode)
{
	u64 h = (gpa >> PAGE_SHIFT ^ (u64)mode << 32 ^ rip >> PAGE_SHIFT << 20) *
		0x9e3779b97f4a7c15ull;
	u32 off = (u32)(gpa & ~PAGE_MASK);

	return (u32)(h >> (64 - JIT_HASH_BITS)) >> 6 << 6 | ((off >> 3 ^ off >> 9 ^ off << 3) & 63);
}

/** Drops all blocks. The caller is not inside generated code. */
void jit_cache_reset(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;

	/* not the whole table: a small guest has touched little of it */
	for (u32 i = 0; i < jit->block_count; i++) {
		const struct jit_block *b = jit->by_address[i];

		jit->hash[hash_of(b->gpa, b->rip, b->mode)] = NULL;
	}
	for (u32 i = 0; i < JIT_PAGE_HASH_SIZE; i++)
		jit->page[i] = NULL;
	jit->code_next = jit->code_start;
	jit->cold_next = jit->code_end;
	jit->meta_next = jit->meta;
	jit->block_count = 0;
	jit->crossing = NULL;
	jit->mode_links = NULL;
	mem_set(jit->cross_links, 0, sizeof(jit->cross_links));
	jit->cross_any = false;
	mem_set(jit->stopped, 0, sizeof(jit->stopped));
	jit->flush_wanted = false;
	jit->stat_flushes++;
	jit_jump_cache_flush(cpu);
	mmu_code_reset(cpu);
}

struct jit_block *jit_block_find(struct jit *jit, u64 gpa, u64 rip, u32 mode)
{
	struct jit_block *b;

	if (jit_is_relative(mode, rip))
		rip = 0;
	b = jit->hash[hash_of(gpa, rip, mode)];

	while (b && (b->gpa != gpa || b->rip != rip || b->mode != mode))
		b = b->hash_next;
	return b;
}

void jit_block_add(struct jit *jit, struct jit_block *b)
{
	struct jit_block **head = &jit->hash[hash_of(b->gpa, b->rip, b->mode)];

	b->hash_next = *head;
	*head = b;
	b->page_next = b->page->blocks;
	b->page->blocks = b;
	jit->by_address[jit->block_count++] = b;
}

struct jit_block *jit_block_by_host(struct jit *jit, u64 host_pc)
{
	u8 *p = jit->rw + (host_pc - (u64)jit->rx);
	bool cold = p >= jit->code_end;
	u32 lo = 0, hi = jit->block_count;
	struct jit_block *b;

	if (host_pc < (u64)jit->rx || host_pc >= (u64)jit->rx + jit->size)
		return NULL;
	/* Both halves are filled in the same order. */
	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		b = jit->by_address[mid];
		if ((cold ? b->cold : b->code) <= p)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return NULL;
	b = jit->by_address[lo - 1];
	return p < (cold ? b->cold + b->cold_len : b->code + b->host_len) ? b : NULL;
}

const struct jit_mark *jit_mark_find(const struct jit *jit, const struct jit_block *b, u64 host_pc)
{
	const u8 *p = jit->rw + (host_pc - (u64)jit->rx);
	bool cold = p >= jit->code_end;
	u32 off = (u32)(p - (cold ? b->cold : b->code));
	u32 first = cold ? b->hot_marks : 0;
	u32 lo = first, hi = cold ? b->mark_count : b->hot_marks;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (b->mark[mid].host <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > first ? &b->mark[lo - 1] : NULL;
}

/** Makes a link's jump lead straight to a block of the link's mode. */
void jit_link_patch(struct jit_link *link, struct jit_block *to)
{
	bool brings = link->b_reg != JIT_NO_B && link->b_reg == to->b_reg;

	emit_patch_rel32(link->site, brings ? to->body_b : to->body);
	link->to = to;
	link->next_in = to->in;
	link->prev_in = &to->in;
	if (to->in)
		to->in->prev_in = &link->next_in;
	to->in = link;
}

/** Makes a link's jump lead to its stub again. */
void jit_link_unpatch(struct jit_link *link)
{
	if (!link->to)
		return;
	emit_patch_rel32(link->site, link->stub);
	*link->prev_in = link->next_in;
	if (link->next_in)
		link->next_in->prev_in = link->prev_in;
	link->to = NULL;
}

void jit_mode_links_drop(struct jit *jit)
{
	for (struct jit_link *l = jit->mode_links; l; l = l->next_mode)
		jit_link_unpatch(l);
}

static void block_kill(struct cpu *cpu, struct jit_block *b)
{
	struct jit *jit = cpu->jit;
	struct jit_block **p = &jit->hash[hash_of(b->gpa, b->rip, b->mode)];

	while (*p != b)
		p = &(*p)->hash_next;
	*p = b->hash_next;
	while (b->in)
		jit_link_unpatch(b->in);
	for (struct jit_link *l = b->out; l; l = l->next_out)
		jit_link_unpatch(l);
	jit_jc_drop_block(cpu, b);
	b->dead = true;
}

static void page_unlist(struct jit_block *b)
{
	struct jit_block **p = &b->page->blocks;

	while (*p != b)
		p = &(*p)->page_next;
	*p = b->page_next;
}

/** Drops the blocks translated from any byte of [gpa, gpa + n), which lies in one page. */
void jit_invalidate(struct cpu *cpu, u64 gpa, unsigned n)
{
	struct jit *jit = cpu->jit;
	struct jit_page *page = jit->page ? jit_page_find(jit, gpa >> PAGE_SHIFT) : NULL;
	bool left = false;

	if (!page)
		return;
	for (struct jit_block **p = &page->blocks; *p;) {
		struct jit_block *b = *p;

		if (b->gpa < gpa + n && gpa < b->gpa + b->guest_len) {
			*p = b->page_next;
			block_kill(cpu, b);
		} else {
			left = true;
			p = &b->page_next;
		}
	}
	/* Blocks whose one instruction reaches into this page are few: they hang on a list. */
	for (struct jit_block **p = &jit->crossing; *p;) {
		struct jit_block *b = *p;
		u32 first = (u32)(PAGE_SIZE - (b->gpa & ~PAGE_MASK));

		if (b->dead) {
			*p = b->cross_next;
		} else if ((b->gpa2 & PAGE_MASK) == (gpa & PAGE_MASK) && b->gpa2 < gpa + n &&
			   gpa < b->gpa2 + b->guest_len - first) {
			*p = b->cross_next;
			page_unlist(b);
			block_kill(cpu, b);
		} else {
			left |= (b->gpa2 & PAGE_MASK) == (gpa & PAGE_MASK);
			p = &b->cross_next;
		}
	}
	/* Chunks that only a part was invalidated of keep their sums: they differ now, which is safe. */
	for (u64 k = align_up(gpa & ~PAGE_MASK, 64) / 64; (k + 1) * 64 <= (gpa & ~PAGE_MASK) + n;
	     k++)
		page->chunks &= ~BIT64(k);
	if (!left && !page->busy) {
		page->chunks = 0;
		mmu_code_remove(cpu, gpa & PAGE_MASK);
	}
}
