/*
 * emit.h - writing host instructions
 *
 * A small assembler: exactly the encodings that the translator composes itself. Guest
 * instructions that are copied are re-encoded by rewrite.c. Nothing here changes flags unless
 * its comment says so.
 */
#ifndef JIT_EMIT_H
#define JIT_EMIT_H

#include "base/mem.h"
#include "base/types.h"

/* Host registers by their encoding; the same numbers as the guest's in cpu.h. */
enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };

struct emit {
	u8 *p;     /* where the next byte goes (writable view) */
	u8 *end;   /* nothing is written from here on; `full` is set instead */
	s64 exec;  /* what to add to an address of the writable view for the executable one */
	bool full;
};

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

static inline bool fits_s32(s64 v)
{
	return v == (s32)v;
}

/** REX prefix; always emitted when `force` or any bit is set. */
static inline void emit_rex(struct emit *e, bool w, unsigned r, unsigned x, unsigned b, bool force)
{
	unsigned rex = 0x40 | (w ? 8 : 0) | ((r >> 3 & 1) << 2) | ((x >> 3 & 1) << 1) | (b >> 3 & 1);

	if (force || rex != 0x40)
		emit8(e, rex);
}

/** ModRM, SIB and displacement for [base + index * (1 << scale) + disp]; base, index may be -1. */
static inline void emit_mem(struct emit *e, unsigned reg, int base, int index, unsigned scale, s32 disp)
{
	reg = (reg & 7) << 3;
	if (base < 0) {
		emit8(e, 0x04 | reg);
		emit8(e, scale << 6 | (index < 0 ? 4 : index & 7) << 3 | 5);
		emit32(e, (u32)disp);
		return;
	}
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (s8)disp ? 0x40 : 0x80;

	if (index < 0 && (base & 7) != 4) {
		emit8(e, mod | reg | (base & 7));
	} else {
		emit8(e, mod | reg | 4);
		emit8(e, scale << 6 | (index < 0 ? 4 : index & 7) << 3 | (base & 7));
	}
	if (mod == 0x40)
		emit8(e, (u8)disp);
	else if (mod == 0x80)
		emit32(e, (u32)disp);
}

/** op reg, %gs:off (or the reverse, by opcode). */
static inline void emit_gs(struct emit *e, unsigned opcode, bool w, unsigned reg, u32 off)
{
	emit8(e, 0x65);
	emit_rex(e, w, reg, 0, 0, false);
	emit8(e, opcode);
	emit_mem(e, reg, -1, -1, 0, (s32)off);
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
	emit8(e, 0x65);
	emit_rex(e, true, reg, index, 0, false);
	emit8(e, 0x8b);
	emit_mem(e, reg, -1, (int)index, 3, (s32)off);
}

/** mov reg, %gs:off(base) */
static inline void emit_gs_load_at(struct emit *e, unsigned reg, unsigned base, u32 off)
{
	emit8(e, 0x65);
	emit_rex(e, true, reg, 0, base, false);
	emit8(e, 0x8b);
	emit_mem(e, reg, (int)base, -1, 0, (s32)off);
}

/** movb $imm, %gs:off */
static inline void emit_gs_store8_imm(struct emit *e, u8 imm, u32 off)
{
	emit8(e, 0x65);
	emit8(e, 0xc6);
	emit_mem(e, 0, -1, -1, 0, (s32)off);
	emit8(e, imm);
}

static inline void emit_mov(struct emit *e, bool w, unsigned dst, unsigned src)
{
	emit_rex(e, w, src, 0, dst, false);
	emit8(e, 0x89);
	emit8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}

/** bswap reg, 64 bits. */
static inline void emit_bswap(struct emit *e, unsigned reg)
{
	emit_rex(e, true, 0, 0, reg, false);
	emit8(e, 0x0f);
	emit8(e, 0xc8 | (reg & 7));
}

/** mov $imm, reg in the shortest form. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 imm)
{
	if (imm == (u32)imm) {
		emit_rex(e, false, 0, 0, reg, false);
		emit8(e, 0xb8 | (reg & 7));
		emit32(e, (u32)imm);
	} else if (fits_s32((s64)imm)) {
		emit_rex(e, true, 0, 0, reg, false);
		emit8(e, 0xc7);
		emit8(e, 0xc0 | (reg & 7));
		emit32(e, (u32)imm);
	} else {
		emit_rex(e, true, 0, 0, reg, false);
		emit8(e, 0xb8 | (reg & 7));
		emit64(e, imm);
	}
}

/** lea disp(base,index,1<<scale), reg; 32-bit result when !w. */
static inline void emit_lea(struct emit *e, bool w, unsigned reg, int base, int index, unsigned scale, s32 disp)
{
	emit_rex(e, w, reg, index < 0 ? 0 : index, base < 0 ? 0 : base, false);
	emit8(e, 0x8d);
	emit_mem(e, reg, base, index, scale, disp);
}

/** movzx of a 16-bit register: reg = (u16)reg. */
static inline void emit_zext16(struct emit *e, unsigned dst, unsigned src)
{
	emit_rex(e, false, dst, 0, src, false);
	emit8(e, 0x0f);
	emit8(e, 0xb7);
	emit8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

static inline void emit_vex3(struct emit *e, unsigned reg, unsigned x, unsigned b, unsigned map, bool w,
			     unsigned vvvv, unsigned pp)
{
	emit8(e, 0xc4);
	emit8(e, (reg & 8 ? 0 : 0x80) | (x & 8 ? 0 : 0x40) | (b & 8 ? 0 : 0x20) | map);
	emit8(e, (w ? 0x80 : 0) | (~vvvv & 15) << 3 | pp);
}

/* A BMI2 instruction with a quadword of struct cpu; pp tells those of one opcode apart. */
static inline void emit_vex_gs(struct emit *e, unsigned opcode, unsigned pp, unsigned reg, unsigned vvvv, u32 off)
{
	emit8(e, 0x65);
	emit_vex3(e, reg, 0, 0, 2, true, vvvv, pp);
	emit8(e, opcode);
	emit_mem(e, reg, -1, -1, 0, (s32)off);
}

/* MOVZX of a byte (B6) or a word (B7) of struct cpu. */
static inline void emit_gs_zext(struct emit *e, unsigned opcode, unsigned dst, u32 off)
{
	emit8(e, 0x65);
	emit_rex(e, false, dst, 0, 0, false);
	emit8(e, 0x0f);
	emit8(e, opcode);
	emit_mem(e, dst, -1, -1, 0, (s32)off);
}

/** pext disp(%rsp), src, dst */
static inline void emit_pext_stack(struct emit *e, unsigned dst, unsigned src, s32 disp)
{
	emit_vex3(e, dst, 0, 0, 2, true, src, 2);
	emit8(e, 0xf5);
	emit_mem(e, dst, H_RSP, -1, 0, disp);
}

/** mov disp(%rsp), reg */
static inline void emit_load_stack(struct emit *e, unsigned reg, s32 disp)
{
	emit_rex(e, true, reg, 0, 0, false);
	emit8(e, 0x8b);
	emit_mem(e, reg, H_RSP, -1, 0, disp);
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
	emit8(e, 0x65);
	emit8(e, 0xc7);
	emit_mem(e, 0, -1, -1, 0, (s32)off);
	emit32(e, imm);
}

/** rorx $imm, src, dst */
static inline void emit_rorx(struct emit *e, unsigned dst, unsigned src, unsigned imm)
{
	emit_vex3(e, dst, 0, src, 3, true, 0, 3);
	emit8(e, 0xf0);
	emit8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
	emit8(e, imm);
}

/* Prefixes that tell the BMI2 shifts apart. */
enum { SHIFT_SHLX = 1, SHIFT_SARX = 2, SHIFT_SHRX = 3 };

/** shlx/sarx/shrx count, src, dst (64-bit) */
static inline void emit_shiftx(struct emit *e, unsigned kind, unsigned dst, unsigned src, unsigned count)
{
	emit_vex3(e, dst, 0, src, 2, true, count, kind);
	emit8(e, 0xf7);
	emit8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
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
static inline void emit_load_at(struct emit *e, unsigned size, unsigned reg, int base, int index, s32 disp)
{
	emit_rex(e, size == 8, reg, index < 0 ? 0 : index, base, false);
	if (size < 4) {
		emit8(e, 0x0f);
		emit8(e, size == 1 ? 0xb6 : 0xb7);
	} else {
		emit8(e, 0x8b);
	}
	emit_mem(e, reg, base, index, 0, disp);
}

static inline void emit_load(struct emit *e, unsigned size, unsigned reg, int base, int index)
{
	emit_load_at(e, size, reg, base, index, 0);
}

static inline void emit_store_at(struct emit *e, unsigned size, unsigned reg, int base, int index, s32 disp)
{
	if (size == 2)
		emit8(e, 0x66);
	emit_rex(e, size == 8, reg, index < 0 ? 0 : index, base, size == 1);
	emit8(e, size == 1 ? 0x88 : 0x89);
	emit_mem(e, reg, base, index, 0, disp);
}

static inline void emit_store(struct emit *e, unsigned size, unsigned reg, int base, int index)
{
	emit_store_at(e, size, reg, base, index, 0);
}

/** jmp or call rel32 to an address of the writable view. */
static inline void emit_rel32(struct emit *e, unsigned opcode, const u8 *target)
{
	emit8(e, opcode);
	emit32(e, (u32)(target - (e->p + 4)));
}

/** Fills in the rel32 field at `at` (writable view). */
static inline void emit_patch_rel32(u8 *at, const u8 *target)
{
	/* One aligned or unaligned 4-byte store: the vCPU that runs this code is the one that patches. */
	*(u32_una *)at = (u32)(target - (at + 4));
}

#endif
