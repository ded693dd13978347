/*
 * translate.c - one block: decode, emit, record
 *
 * A block begins at one guest address and goes on, past conditional branches that are not taken,
 * until something leaves it for good, the page ends, or it is long enough. An instruction that
 * crosses into the next page is a block of its own, checked against both pages at every entry.
 *
 * User code is position-independent: its blocks are shared by all processes that map the page,
 * wherever they have it.
 *
 * This runs with the guest's FPU state saved: Zydis and libc use vector registers.
 */
#include <string.h>
#include "cpu/feature.h"
#include "jit/jit_internal.h"
#include "jit/perfmap.h"
#include "jit/retire.h"
#include "mmu/mmu.h"

/* Code bytes as they are read, a chunk at a time. */
struct fetch {
	struct cpu *cpu;
	const u8 *host;			   /* of the first byte of the page */
	struct jit_page *record, *record2; /* record2: of an instruction that crosses */
	u32 end; /* page[] is filled from the block's first chunk up to here */
	u8 page[PAGE_SIZE +
		16]; /* what is behind the page: of an instruction that crosses; jit_decode() looks at 16 bytes */
};

static int fetch_more(struct fetch *f)
{
	int ret = jit_page_read(f->cpu, f->record, f->host, f->end / 64, f->page + f->end);

	if (ret == CPU_OK)
		f->end += 64;
	return ret;
}

/* An instruction that C executes, or an exception in its place. */
static void emit_c_insn(struct trans *t, const struct cpu_insn *in)
{
	struct cpu_insn *copy = jit_meta_alloc(t->jit, sizeof(*copy));

	if (!copy) {
		t->e.full = true;
		return;
	}
	*copy = *in;
	jit_emit_store_rip(t, t->pc);
	emit_mov_imm(&t->e, REG_A, (u64)copy);
	emit_rel32(&t->e, 0xe9, t->jit->thunk.insn);
	t->ended = true;
}

static void emit_raise(struct trans *t, unsigned op, unsigned len)
{
	struct cpu_insn in = {.op = (u16)op, .len = (u8)len, .base = -1, .index = -1};

	emit_c_insn(t, &in);
}

/* The current instruction is none of a row of pushes, after all (stack.c). */
static void end_row(struct trans *t)
{
	if (t->sp_ahead)
		t->mark[t->insn_count - 1].sp = 0;
	jit_emit_sp(t);
}

static void emit_insn(struct trans *t)
{
	struct cpu_insn c;
	unsigned op;

	t->keeps_b = t->keeps_a = false;
	op = t->allowed ? CPU_OP_NONE : jit_isa_check(t->cpu, t->mode, &t->in, t->op);
	if (op != CPU_OP_NONE) {
		end_row(t);
		emit_raise(t, op, t->in.length);
		return;
	}
	op = t->copied ? CPU_OP_NONE : jit_classify(t, &c);
	if (op != CPU_OP_NONE) {
		end_row(t);
		if (!jit_emit_inline(t, &c))
			emit_c_insn(t, &c);
		return;
	}
	if (jit_emit_flow(t) || jit_emit_stack(t))
		return;
	u8 *start = t->e.p;
	unsigned colds = t->cold_count;

	if (!jit_emit_ordinary(t)) {
		t->e.p = start;
		t->cold_count = colds;
		emit_raise(t, CPU_OP_UD, t->in.length);
	}
}

static void emit_one(struct trans *t)
{
	emit_insn(t);
	if ((t->mode & MODE_WINDOW) && !t->ended)
		jit_group_stack(t);
}

/* A side exit to another page, from inside the cold stubs: its own stubs are appended to the list. */
static void cold_jump(struct trans *t, const struct cold *c)
{
	unsigned insn = c->insn, count = t->insn_count;

	t->insn_count = insn + 1;
	jit_emit_jump_cache(t);
	t->insn_count = count;
}

static void cold_mark(struct trans *t, unsigned insn)
{
	t->mark[t->mark_count] = t->mark[insn];
	t->mark[t->mark_count].sp = 0;
	t->mark[t->mark_count++].host = (u32)(t->e.p - t->block->cold);
}

/* From an instruction to the end of its region once more, each access with a check of its own. */
static void cold_region(struct trans *t, unsigned from, unsigned last, u8 **at)
{
	unsigned count = t->insn_count;
	bool ended = t->ended;

	t->ended = t->shadow = false;
	for (unsigned i = from; i <= last && !t->e.full; i++) {
		t->bytes = t->guest + t->mark[i].guest;
		jit_decode(t, t->bytes, t->mark[i].len & ~JIT_MARK_FLOW);
		t->pc = t->start + t->mark[i].guest;
		t->next_pc = t->pc + t->in.length;
		t->insn_count = i + 1;
		cold_mark(t, i);
		at[i] = t->e.p;
		emit_one(t);
	}
	if (!t->ended)
		emit_rel32(&t->e, 0xe9,
			   last + 1 < count ? t->block->code + t->mark[last + 1].host : t->tail);
	t->insn_count = count;
	t->ended = ended;
}

/* A miss. A becomes the address for the thunk, and then again what the instruction's operand is based on. */
static void cold_access(struct trans *t, const struct cold *c)
{
	bool write = c->desc & DESC_WRITE, restore = c->base == REG_A && c->disp;
	struct emit *e = &t->e;
	u8 *direct;

	if (c->base != REG_A || c->disp)
		emit_lea(e, true, REG_A, c->base, -1, 0, c->disp);
	emit_mov_imm(e, REG_T, c->desc);
	emit_rel32(e, 0xe8, write ? t->jit->thunk.resolve_write : t->jit->thunk.resolve_read);
	if (!write) {
		if (restore)
			emit_lea(e, true, REG_A, REG_A, -1, 0, -c->disp);
		emit_rel32(e, 0xe9, c->hot);
		return;
	}
	emit_rel32(e, 0xe9,
		   c->hot); /* the thunk returns behind these 5 bytes when the store is bounced */
	direct = e->p - 4;
	if (restore)
		emit_lea(e, true, REG_A, REG_A, -1, 0, -c->disp);
	emit_copy(e, c->hot, (unsigned)(c->hot_end - c->hot));
	emit_rel32(e, 0xe8, t->jit->thunk.commit);
	emit_rel32(e, 0xe9, c->hot_end);
	if (restore && !e->full) {
		emit_patch_rel32(direct, e->p);
		emit_lea(e, true, REG_A, REG_A, -1, 0, -c->disp);
		emit_rel32(e, 0xe9, c->hot);
	}
}

static void emit_cold(struct trans *t)
{
	struct emit *e = &t->e;
	s16 region[JIT_BLOCK_INSNS]; /* the last instruction of the region that one is in */
	u8 *again[JIT_BLOCK_INSNS];  /* where its second translation is */

	t->plain = true;
	for (unsigned i = 0; i < t->insn_count; i++)
		again[i] = NULL;
	jit_group_regions(t, region);
	for (unsigned i = 0; i < t->cold_count && !e->full; i++) {
		struct cold *c = &t->cold[i];

		if (c->kind == COLD_AGAIN ||
		    (c->kind == COLD_ACCESS && !c->plain && region[c->insn] >= 0)) {
			u8 *from = c->from;
			unsigned insn = c->insn;

			if (!again[insn])
				cold_region(t, insn, (unsigned)MAX(region[insn], (s16)insn), again);
			if (again[insn])
				emit_patch_rel32(from, again[insn]);
			continue;
		}
		emit_patch_rel32(c->from, e->p);
		cold_mark(t, c->insn);
		switch (c->kind) {
		case COLD_ACCESS:
			cold_access(t, c);
			break;
		case COLD_AGAIN:
			break; /* done above */
		case COLD_POLL:
			emit_rel32(e, 0xe8, t->jit->thunk.poll);
			break;
		case COLD_INSN:
			jit_emit_store_rip(t, c->rip);
			emit_mov_imm(e, REG_A, c->target);
			emit_rel32(e, 0xe9, t->jit->thunk.insn);
			break;
		case COLD_TARGET:
			emit_rel32(e, 0xe8, t->jit->thunk.lookup);
			break;
		case COLD_LINK:
			if (c->link) {
				c->link->stub = e->p;
				emit_mov_imm(e, REG_A, (u64)c->link);
				if (c->link->cross)
					emit_rel32(e, 0xe9, t->jit->thunk.again);
				else
					emit_rel32(e, 0xe9, t->jit->thunk.link);
			} else {
				jit_emit_rip(t, REG_A, c->target);
				if ((t->mode & MODE_FLAT) && !(t->mode & MODE_STEP))
					cold_jump(t, c);
				else
					emit_rel32(e, 0xe8, t->jit->thunk.target);
			}
			break;
		}
	}
}

static int decode(struct trans *t, struct fetch *f, u32 off, ZyanStatus *status)
{
	for (;;) {
		*status = jit_decode(t, f->page + off, MIN(f->end - off, 15u));
		if (*status != ZYDIS_STATUS_NO_MORE_DATA || f->end - off >= 15 ||
		    f->end == PAGE_SIZE)
			return CPU_OK;
		int ret = fetch_more(f);

		if (ret)
			return ret;
	}
}

/* The instruction at the end of the page: bytes from both pages. */
static int decode_crossing(struct trans *t, struct fetch *f, u32 off, ZyanStatus *status)
{
	u32 first = (u32)PAGE_SIZE - off;
	u64 lin = t->pc + (t->mode & MODE_LONG ? 0 : t->cpu->seg[SEG_CS].base) + first;
	u8 chunk[64];
	struct mmu_fetched at;
	int ret = mmu_fetch(t->cpu, t->mode & MODE_LONG ? lin : (u32)lin, &at);

	if (ret)
		return ret;
	f->record2 = jit_page_get(t->cpu, at.gpa >> PAGE_SHIFT, at.host);
	if (!f->record2) {
		t->e.full = true;
		return CPU_OK;
	}
	f->record2->busy = true;
	ret = jit_page_read(t->cpu, f->record2, at.host, 0, chunk);
	if (ret)
		return ret;
	memcpy(f->page + PAGE_SIZE, chunk, 15 - first);
	*status = jit_decode(t, f->page + off, 15);
	t->block->gpa2 = at.gpa;
	return CPU_OK;
}

/* One instruction at `off`; *stop when the block ends before it. */
static int translate_insn(struct trans *t, struct fetch *f, u32 off, bool *stop)
{
	ZyanStatus status;
	int ret;

	if (off >= f->end) {
		ret = fetch_more(f);
		if (ret)
			return ret;
	}
	ret = decode(t, f, off, &status);
	if (ret)
		return ret;
	t->bytes = f->page + off;
	if (status == ZYDIS_STATUS_NO_MORE_DATA) {
		if (t->insn_count) {
			*stop = true;
			return CPU_OK;
		}
		ret = decode_crossing(t, f, off, &status);
		if (ret)
			return ret;
	}
	bool good = ZYAN_SUCCESS(status);

	t->next_pc = t->pc + t->in.length;
	if (!(t->mode & MODE_LONG))
		t->next_pc = (u32)t->next_pc;
	t->shadow = t->sti;
	t->sti = false;
	if (!good || !jit_sp_runs(t))
		jit_emit_sp(t);
	t->mark[t->insn_count++] = (struct jit_mark){
		.host = (u32)(t->e.p - t->block->code),
		.guest = (u16)t->block->guest_len,
		.len = (u8)(t->in.length |
			    (good && t->in.meta.category == ZYDIS_CATEGORY_CALL ? JIT_MARK_FLOW
										: 0)),
		.sp = (s8)t->sp_ahead,
	};
	if (good) {
		emit_one(t);
		jit_group_next(t);
	} else {
		emit_raise(t, status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? CPU_OP_GP : CPU_OP_UD,
			   1);
	}
	t->block->guest_len += t->in.length;
	return CPU_OK;
}

static void translate_insns(struct trans *t, struct fetch *f, u32 off, int *ret)
{
	unsigned limit = t->mode & MODE_STEP ? 1 : JIT_BLOCK_INSNS;

	while (!t->ended && t->insn_count < limit && t->cold_count < JIT_COLD_MAX / 2 &&
	       off + t->block->guest_len < PAGE_SIZE) {
		bool stop = false;

		*ret = translate_insn(t, f, off + t->block->guest_len, &stop);
		if (*ret || stop || t->e.full)
			break;
		t->pc = t->next_pc;
	}
	jit_emit_sp(t);
	if (*ret == CPU_EXC && t->insn_count)
		*ret = CPU_OK; /* the fault comes when its instruction does */
}

/**
 * Makes a direct jump lead to the jump cache: its target crosses into another page, and there is
 * checked against both. Nothing when the cache is full: the dispatcher goes on doing it.
 */
void jit_link_cross(struct jit *jit, struct jit_link *link)
{
	struct trans t;

	t.e = (struct emit){.p = jit->cold_next, .end = jit->rw + jit->size};
	t.jit = jit;
	t.mode = link->mode;
	t.relative = link->from->relative;
	t.start = 0; /* the target is an offset in the page when position-independent */
	t.cold_count = 0;
	t.insn_count = 1;
	t.plain = true;
	jit_emit_rip(&t, REG_A, link->target);
	jit_emit_jump_cache(&t);
	for (unsigned i = 0; i < t.cold_count; i++) {
		emit_patch_rel32(t.cold[i].from, t.e.p);
		emit_rel32(&t.e, 0xe8, jit->thunk.lookup);
	}
	if (t.e.full)
		return;
	link->stub = jit->cold_next;
	jit->cold_next = t.e.p;
	emit_patch_rel32(link->site, link->stub);
}

/* Where computed jumps arrive: A is the block's address. */
static void emit_entry(struct trans *t, u32 off)
{
	if (t->relative) {
		emit_lea(&t->e, true, REG_A, REG_A, -1, 0, -(s32)off);
		emit_gs_store(&t->e, REG_A, GS(code_base));
	}
	t->block->body = t->e.p;
}

struct jit_block *jit_translate(struct cpu *cpu, const struct mmu_fetched *at, u64 rip, u32 mode,
				int *ret)
{
	struct jit *jit = cpu->jit;
	struct jit_block *b = jit_meta_alloc_line(jit, sizeof(*b));
	u32 off = (u32)(at->gpa & ~PAGE_MASK);
	struct fetch f;
	struct trans t;
	u8 *hot_end;

	*ret = CPU_OK;
	mmu_view_begin(cpu, (mode & MODE_VIEW) >> MODE_VIEW_SHIFT);
	if (!b || jit->block_count == jit->block_max)
		return NULL;
	f.cpu = cpu;
	f.host = at->host - off;
	f.record = jit_page_get(cpu, at->gpa >> PAGE_SHIFT, f.host);
	f.record2 = NULL;
	f.end = off & ~63u;
	if (!f.record)
		return NULL;
	t.e = (struct emit){.p = jit->code_next, .end = jit->code_end};
	t.cpu = cpu;
	t.jit = jit;
	t.block = b;
	t.mode = mode;
	t.relative = jit_is_relative(mode, rip);
	t.start = t.pc = rip;
	t.cold_count = t.insn_count = t.mark_count = 0;
	t.ended = t.sti = false;
	t.group_count = 0;
	t.b_group = NULL;
	t.a_guest = A_NOTHING;
	t.plain = (mode & MODE_STEP) || jit->no_groups;
	t.window = mode & MODE_WINDOW;
	t.stack_used = false;
	t.sp_ahead = 0;
	t.guest = f.page + off;
	*b = (struct jit_block){.gpa = at->gpa,
				.rip = t.relative ? 0 : rip,
				.mode = mode,
				.relative = t.relative,
				.code = jit->code_next,
				.cold = jit->cold_next,
				.page = f.record,
				.b_reg = JIT_NO_B,
				.gpa2 = ~0ull};
	emit_entry(&t, off);
	f.record->busy = true;
	translate_insns(&t, &f, off, ret);
	f.record->busy = false;
	if (f.record2)
		f.record2->busy = false;
	if (*ret || t.e.full)
		return NULL;
	t.tail = t.e.p;
	if (!t.ended)
		jit_emit_goto(&t, t.pc);
	hot_end = t.e.p;
	b->hot_marks = t.mark_count = t.insn_count;
	t.e.p = jit->cold_next;
	t.e.end = jit->rw + jit->size;
	emit_cold(&t);
	b->mark = jit_meta_alloc(jit, t.mark_count * sizeof(*b->mark));
	if (t.e.full || !b->mark)
		return NULL;
	memcpy(b->mark, t.mark, t.mark_count * sizeof(*b->mark));
	b->mark_count = t.mark_count;
	b->host_len = (u32)(hot_end - b->code);
	b->cold_len = (u32)(t.e.p - b->cold);
	jit->code_next = (u8 *)align_up((u64)hot_end, 16);
	jit->cold_next = t.e.p;
	jit_cache_prepare(jit);
	jit_block_add(jit, b);
	if (b->gpa2 != ~0ull) {
		b->cross_next = jit->crossing;
		jit->crossing = b;
	}
	jit->stat_blocks++;
	jit->stat_insns += t.insn_count;
	if (mode & MODE_STEP)
		b->retires = jit_retire_class(&t);
	if (UNLIKELY(jit->perfmap))
		jit_perfmap_add(cpu, b);
	return b;
}
