/*
 * layout.h - where things lie in memory, for C and for the assembly
 *
 * The stub and what is native only lies at an odd place far from everything, so that a random
 * address does not meet it by chance.
 */
#ifndef INSN_LAYOUT_H
#define INSN_LAYOUT_H

#define INSN_DATA_VA 0x10000000
/* Some of them are absent: 64 KiB lie between the first present page and the last. */
#define INSN_DATA_PAGES 17
#define INSN_CODE_VA	0x20000000
#define INSN_CODE_SIZE	0x100000
#define INSN_SLOT_SIZE	512
#define INSN_SLOT_FIRST 256 /* the bytes before hold the stub's address at offset 0 */
#define INSN_STUB_VA	0x4b1d57000000
#define INSN_CTX_VA	(INSN_STUB_VA + 0x1000) /* struct native_ctx, native only */
#define INSN_ALT_VA	(INSN_STUB_VA + 0x100000)
#define INSN_ALT_SIZE	0x10000

#define INSN_ALIAS_VA (INSN_STUB_VA + 0x10000000) /* the code area again, writable */

/* The guest's own pages, for CPL 0: the first in legacy protected mode. */
#define LEGACY_VA 0x70000000u
#define KERNEL_VA 0xffffa3b1d5700000ull
#define SYS_PAGES 8

/* Offsets in struct native_ctx. */
#define CTX_IN	     0 /* struct insn_regs */
#define CTX_OUT	     176
#define CTX_HOST_RSP 352
#define CTX_HOST_FS  360
#define CTX_HOST_GS  368
#define CTX_ACTIVE   376
#define CTX_MASK     384
#define CTX_XIN	     0x400
#define CTX_XOUT     0x1400
#define REGS_RIP     128
#define REGS_RFLAGS  136
#define REGS_FS	     144
#define REGS_GS	     152
#define REGS_SEL     160 /* ES CS SS DS FS GS, 16 bits each */

/* Offset of native_enter in the stub page; the exit is at its beginning. */
#define STUB_ENTER   0x400
#define STUB_ENTER32 0x800

/*
 * Segments of the local descriptor table, for the modes with segmentation. The code segments cover
 * the code area in 64K pieces; the data segments are described in segment.c.
 */
#define LDT_CODE16	0 /* 16 of them */
#define LDT_CODE32	16
#define LDT_DATA	17
#define LDT_DATA_COUNT	8
#define LDT_COUNT	(LDT_DATA + LDT_DATA_COUNT)
#define LDT_SELECTOR(n) ((n) << 3 | 7)
#define CODE32_BASE	(INSN_CODE_VA - 0x3000)

#endif
