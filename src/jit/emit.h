/*
 * emit.h - writing host instructions
 *
 * A small assembler: exactly the encodings that the translator composes itself. Guest
 * instructions that are copied are re-encoded by encode.c. Nothing here changes flags unless
 * its comment says so.
 */
#ifndef JIT_EMIT_H
#define JIT_EMIT_H

#include "base/mem.h"
#include "base/types.h"

/* Host registers by their encoding; the same numbers as the guest's in cpu.h. */
enum {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15
};

struct emit {
	u8 *p;	  /* where the next byte goes (writable view) */
	u8 *end;  /* nothing is written from here on; `full` is set instead */
	s64 exec; /* what to add to an address of the writable view for the executable one */
	bool full;
};

/* Up to 8 bytes that are stored at once: one by one, each would wait for the one before to have moved p. */
struct bytes {
	u64 v;
	unsigned n;
};

static inline __attribute__((always_inline)) void put8(struct bytes *b, unsigned v)
{
	b->v |= (u64)(u8)v << 8 * b->n++;
}

static inline void emit_bytes(struct emit *e, struct bytes b)
{
	if (UNLIKELY(e->p + 8 > e->end)) {
		e->full = true;
		return;
	}
	*(u64_una *)e->p = b.v;
	e->p += b.n;
}

static inline void emit8(struct emit *e, unsigned v)
{
	if (UNLIKELY(e->p >= e->end)) {
		e->full = true;
		return;
	}
	*e->p++ = (u8)v;
}

static inline void emit_n(struct emit *e, u64 v, unsigned n)
{
	if (UNLIKELY(e->p + n > e->end)) {
		e->full = true;
		return;
	}
	mem_store(e->p, v, n);
	e->p += n;
}

static inline void emit32(struct emit *e, u32 v)
{
	emit_n(e, v, 4);
}

static inline void emit64(struct emit *e, u64 v)
{
	emit_n(e, v, 8);
}

/** n bytes that were made before; 8 behind them can be read. */
static inline void emit_copy(struct emit *e, const u8 *from, unsigned n)
{
	for (; n > 8; n -= 8, from += 8)
		emit64(e, *(const u64_una *)from);
	emit_bytes(e, (struct bytes){.v = *(const u64_una *)from, .n = n});
}

static inline bool fits_s32(s64 v)
{
	return v == (s32)v;
}

static inline __attribute__((always_inline)) void put_rex(struct bytes *q, bool w, unsigned r,
							  unsigned x, unsigned b, bool force)
{
	unsigned rex =
		0x40 | (w ? 8 : 0) | ((r >> 3 & 1) << 2) | ((x >> 3 & 1) << 1) | (b >> 3 & 1);

	if (force || rex != 0x40)
		put8(q, rex);
}

/** REX prefix; always emitted when `force` or any bit is set. */
static inline void emit_rex(struct emit *e, bool w, unsigned r, unsigned x, unsigned b, bool force)
{
	struct bytes q = {0};

	put_rex(&q, w, r, x, b, force);
	if (q.n)
		emit8(e, (unsigned)q.v);
}

/** What is in `q`, at most 5 bytes, and behind it what emit_mem() emits. */
static inline __attribute__((always_inline)) void emit_op_mem(struct emit *e, struct bytes q,
							      unsigned reg, int base, int index,
							      unsigned scale, s32 disp)
{
	unsigned mod = base < 0 || (disp == 0 && (base & 7) != 5) ? 0
		       : disp == (s8)disp			  ? 0x40
								  : 0x80;

	reg = (reg & 7) << 3;
	if (base >= 0 && index < 0 && (base & 7) != 4) {
		put8(&q, mod | reg | (base & 7));
	} else {
		put8(&q, mod | reg | 4);
		put8(&q, scale << 6 | (index < 0 ? 4 : index & 7) << 3 | (base < 0 ? 5 : base & 7));
	}
	if (mod == 0x40)
		put8(&q, (u8)disp);
	emit_bytes(e, q);
	if (base < 0 || mod == 0x80)
		emit32(e, (u32)disp);
}

/** ModRM, SIB and displacement for [base + index * (1 << scale) + disp]; base, index may be -1. */
static inline void emit_mem(struct emit *e, unsigned reg, int base, int index, unsigned scale,
			    s32 disp)
{
	emit_op_mem(e, (struct bytes){0}, reg, base, index, scale, disp);
}

/** op reg, %gs:off (or the reverse, by opcode). */
static inline void emit_gs(struct emit *e, unsigned opcode, bool w, unsigned reg, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put_rex(&q, w, reg, 0, 0, false);
	put8(&q, opcode);
	emit_op_mem(e, q, reg, -1, -1, 0, (s32)off);
}

static inline void emit_gs_load(struct emit *e, unsigned reg, u32 off)
{
	emit_gs(e, 0x8b, true, reg, off);
}

static inline void emit_gs_load32(struct emit *e, unsigned reg, u32 off)
{
	emit_gs(e, 0x8b, false, reg, off);
}

static inline void emit_gs_store(struct emit *e, unsigned reg, u32 off)
{
	emit_gs(e, 0x89, true, reg, off);
}

/** mov reg, %gs:off(,index,8) */
static inline void emit_gs_load_index(struct emit *e, unsigned reg, unsigned index, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put_rex(&q, true, reg, index, 0, false);
	put8(&q, 0x8b);
	emit_op_mem(e, q, reg, -1, (int)index, 3, (s32)off);
}

/** mov reg, %gs:off(base) */
static inline void emit_gs_load_at(struct emit *e, unsigned reg, unsigned base, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put_rex(&q, true, reg, 0, base, false);
	put8(&q, 0x8b);
	emit_op_mem(e, q, reg, (int)base, -1, 0, (s32)off);
}

/** movb $imm, %gs:off */
static inline void emit_gs_store8_imm(struct emit *e, u8 imm, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put8(&q, 0xc6);
	emit_op_mem(e, q, 0, -1, -1, 0, (s32)off);
	emit8(e, imm);
}

static inline void emit_mov(struct emit *e, bool w, unsigned dst, unsigned src)
{
	struct bytes q = {0};

	put_rex(&q, w, src, 0, dst, false);
	put8(&q, 0x89);
	put8(&q, 0xc0 | (src & 7) << 3 | (dst & 7));
	emit_bytes(e, q);
}

/** bswap reg, 64 bits. */
static inline void emit_bswap(struct emit *e, unsigned reg)
{
	struct bytes q = {0};

	put_rex(&q, true, 0, 0, reg, false);
	put8(&q, 0x0f);
	put8(&q, 0xc8 | (reg & 7));
	emit_bytes(e, q);
}

/** mov $imm, reg in the shortest form. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 imm)
{
	struct bytes q = {0};

	if (imm == (u32)imm) {
		put_rex(&q, false, 0, 0, reg, false);
		put8(&q, 0xb8 | (reg & 7));
		q.v |= imm << 8 * q.n;
		q.n += 4;
		emit_bytes(e, q);
	} else if (fits_s32((s64)imm)) {
		put_rex(&q, true, 0, 0, reg, false);
		put8(&q, 0xc7);
		put8(&q, 0xc0 | (reg & 7));
		q.v |= imm << 8 * q.n;
		q.n += 4;
		emit_bytes(e, q);
	} else {
		put_rex(&q, true, 0, 0, reg, false);
		put8(&q, 0xb8 | (reg & 7));
		emit_bytes(e, q);
		emit64(e, imm);
	}
}

/** lea disp(base,index,1<<scale), reg; 32-bit result when !w. */
static inline void emit_lea(struct emit *e, bool w, unsigned reg, int base, int index,
			    unsigned scale, s32 disp)
{
	struct bytes q = {0};

	put_rex(&q, w, reg, index < 0 ? 0 : index, base < 0 ? 0 : base, false);
	put8(&q, 0x8d);
	emit_op_mem(e, q, reg, base, index, scale, disp);
}

/** movzx of a 16-bit register: reg = (u16)reg. */
static inline void emit_zext16(struct emit *e, unsigned dst, unsigned src)
{
	struct bytes q = {0};

	put_rex(&q, false, dst, 0, src, false);
	put8(&q, 0x0f);
	put8(&q, 0xb7);
	put8(&q, 0xc0 | (dst & 7) << 3 | (src & 7));
	emit_bytes(e, q);
}

static inline __attribute__((always_inline)) void put_vex3(struct bytes *q, unsigned reg,
							   unsigned x, unsigned b, unsigned map,
							   bool w, unsigned vvvv, unsigned pp)
{
	put8(q, 0xc4);
	put8(q, (reg & 8 ? 0 : 0x80) | (x & 8 ? 0 : 0x40) | (b & 8 ? 0 : 0x20) | map);
	put8(q, (w ? 0x80 : 0) | (~vvvv & 15) << 3 | pp);
}

/* A BMI2 instruction with a quadword of struct cpu; pp tells those of one opcode apart. */
static inline void emit_vex_gs(struct emit *e, unsigned opcode, unsigned pp, unsigned reg,
			       unsigned vvvv, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put_vex3(&q, reg, 0, 0, 2, true, vvvv, pp);
	put8(&q, opcode);
	emit_op_mem(e, q, reg, -1, -1, 0, (s32)off);
}

/* MOVZX of a byte (B6) or a word (B7) of struct cpu. */
static inline void emit_gs_zext(struct emit *e, unsigned opcode, unsigned dst, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put_rex(&q, false, dst, 0, 0, false);
	put8(&q, 0x0f);
	put8(&q, opcode);
	emit_op_mem(e, q, dst, -1, -1, 0, (s32)off);
}

/** pext mask, src, dst */
static inline void emit_pext(struct emit *e, unsigned dst, unsigned src, unsigned mask)
{
	struct bytes q = {0};

	put_vex3(&q, dst, 0, mask, 2, true, src, 2);
	put8(&q, 0xf5);
	put8(&q, 0xc0 | (dst & 7) << 3 | (mask & 7));
	emit_bytes(e, q);
}

/** pext disp(%rsp), src, dst */
static inline void emit_pext_stack(struct emit *e, unsigned dst, unsigned src, s32 disp)
{
	struct bytes q = {0};

	put_vex3(&q, dst, 0, 0, 2, true, src, 2);
	put8(&q, 0xf5);
	emit_op_mem(e, q, dst, H_RSP, -1, 0, disp);
}

/** op reg, disp(%rsp) (or the reverse, by opcode). */
static inline void emit_stack(struct emit *e, unsigned opcode, bool w, unsigned reg, s32 disp)
{
	struct bytes q = {0};

	put_rex(&q, w, reg, 0, 0, false);
	put8(&q, opcode);
	emit_op_mem(e, q, reg, H_RSP, -1, 0, disp);
}

static inline void emit_load_stack(struct emit *e, unsigned reg, s32 disp)
{
	emit_stack(e, 0x8b, true, reg, disp);
}

static inline void emit_store_stack(struct emit *e, unsigned reg, s32 disp)
{
	emit_stack(e, 0x89, true, reg, disp);
}

/** mov disp(%rsp,index,8), reg */
static inline void emit_load_stack_index(struct emit *e, unsigned reg, unsigned index, s32 disp)
{
	struct bytes q = {0};

	put_rex(&q, true, reg, index, 0, false);
	put8(&q, 0x8b);
	emit_op_mem(e, q, reg, H_RSP, (int)index, 3, disp);
}

/** pext %gs:off, src, dst */
static inline void emit_pext_gs(struct emit *e, unsigned dst, unsigned src, u32 off)
{
	emit_vex_gs(e, 0xf5, 2, dst, src, off);
}

/** pdep %gs:off, src, dst */
static inline void emit_pdep_gs(struct emit *e, unsigned dst, unsigned src, u32 off)
{
	emit_vex_gs(e, 0xf5, 3, dst, src, off);
}

/** movzbl %gs:off, dst */
static inline void emit_gs_load8(struct emit *e, unsigned dst, u32 off)
{
	emit_gs_zext(e, 0xb6, dst, off);
}

/** movl $imm, %gs:off */
static inline void emit_gs_store32_imm(struct emit *e, u32 imm, u32 off)
{
	struct bytes q = {0};

	put8(&q, 0x65);
	put8(&q, 0xc7);
	emit_op_mem(e, q, 0, -1, -1, 0, (s32)off);
	emit32(e, imm);
}

/** rorx $imm, src, dst */
static inline void emit_rorx(struct emit *e, unsigned dst, unsigned src, unsigned imm)
{
	struct bytes q = {0};

	put_vex3(&q, dst, 0, src, 3, true, 0, 3);
	put8(&q, 0xf0);
	put8(&q, 0xc0 | (dst & 7) << 3 | (src & 7));
	put8(&q, imm);
	emit_bytes(e, q);
}

/* Prefixes that tell the BMI2 shifts apart. */
enum { SHIFT_SHLX = 1, SHIFT_SARX = 2, SHIFT_SHRX = 3 };

/** shlx/sarx/shrx count, src, dst (64-bit) */
static inline void emit_shiftx(struct emit *e, unsigned kind, unsigned dst, unsigned src,
			       unsigned count)
{
	struct bytes q = {0};

	put_vex3(&q, dst, 0, src, 2, true, count, kind);
	put8(&q, 0xf7);
	put8(&q, 0xc0 | (dst & 7) << 3 | (src & 7));
	emit_bytes(e, q);
}

/** mulx %gs:off: high and low half of %rdx times the word */
static inline void emit_mulx_gs(struct emit *e, unsigned high, unsigned low, u32 off)
{
	emit_vex_gs(e, 0xf6, 3, high, low, off);
}

/** movzwl %gs:off, dst */
static inline void emit_gs_load16(struct emit *e, unsigned dst, u32 off)
{
	emit_gs_zext(e, 0xb7, dst, off);
}

/** Load or store of 1, 2, 4 or 8 bytes at [base + index + disp]; loads of 1 and 2 bytes zero-extend. */
static inline void emit_load_at(struct emit *e, unsigned size, unsigned reg, int base, int index,
				s32 disp)
{
	struct bytes q = {0};

	put_rex(&q, size == 8, reg, index < 0 ? 0 : index, base, false);
	if (size < 4) {
		put8(&q, 0x0f);
		put8(&q, size == 1 ? 0xb6 : 0xb7);
	} else {
		put8(&q, 0x8b);
	}
	emit_op_mem(e, q, reg, base, index, 0, disp);
}

static inline void emit_load(struct emit *e, unsigned size, unsigned reg, int base, int index)
{
	emit_load_at(e, size, reg, base, index, 0);
}

static inline void emit_store_at(struct emit *e, unsigned size, unsigned reg, int base, int index,
				 s32 disp)
{
	struct bytes q = {0};

	if (size == 2)
		put8(&q, 0x66);
	put_rex(&q, size == 8, reg, index < 0 ? 0 : index, base, size == 1);
	put8(&q, size == 1 ? 0x88 : 0x89);
	emit_op_mem(e, q, reg, base, index, 0, disp);
}

static inline void emit_store(struct emit *e, unsigned size, unsigned reg, int base, int index)
{
	emit_store_at(e, size, reg, base, index, 0);
}

/** jmp or call rel32 to an address of the writable view. */
static inline void emit_rel32(struct emit *e, unsigned opcode, const u8 *target)
{
	u64 field = (u32)(target - (e->p + 5));

	emit_bytes(e, (struct bytes){.v = field << 8 | opcode, .n = 5});
}

/** Fills in the rel32 field at `at` (writable view). */
static inline void emit_patch_rel32(u8 *at, const u8 *target)
{
	/* One aligned or unaligned 4-byte store: the vCPU that runs this code is the one that patches. */
	*(u32_una *)at = (u32)(target - (at + 4));
}

#endif
