/*
 * machine.h - a processor on a flat fake memory, for tests of src/cpu alone
 *
 * Linear addresses are indices into mem[]; every page may be made absent, read-only, slow (no
 * mmu_host()) or a device. The tables that the modes need lie at fixed addresses.
 */
#ifndef TESTS_UNIT_CPU_MACHINE_H
#define TESTS_UNIT_CPU_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

#define MEM_SIZE   0x200000u
#define AT_GDT	   0x1000u
#define AT_IDT	   0x2000u
#define AT_TSS	   0x3000u
#define AT_TSS2	   0x3400u
#define AT_STACK0  0x8000u /* top */
#define AT_STACK3  0x9000u
#define AT_IST1	   0xa000u
#define AT_CODE	   0x10000u
#define AT_HANDLER 0x20000u

/* Selectors of the fixed GDT. */
#define CS0	 0x08
#define DS0	 0x10
#define CS3	 0x1b
#define DS3	 0x23
#define SEL_TSS	 0x28 /* 16 bytes */
#define CS0C	 0x38 /* conforming, DPL 0 */
#define SEL_NP	 0x40 /* data, not present */
#define SEL_LDT	 0x48 /* 16 bytes */
#define SEL_TSS2 0x58 /* 16 bytes */
#define SEL_GATE 0x68 /* 16 bytes */
#define CS16	 0x78 /* 16-bit code, DPL 0 */
#define SEL_RO	 0x80 /* read-only data, DPL 3 */
#define SEL_XO	 0x88 /* execute-only code, DPL 0 */
#define SEL_DOWN 0x90 /* expand-down data, limit 0xfff */
#define SEL_FREE 0x98

enum { PAGE_ABSENT = 1, PAGE_READONLY = 2, PAGE_SLOW = 4, PAGE_DEVICE = 8, PAGE_HOSTFAULT = 16 };

struct machine {
	struct cpu cpu;
	u8 page[MEM_SIZE / 4096];
	unsigned port_reads, port_writes;
	u32 port_value;
	bool port_answers;
	unsigned host_calls, writes;
	struct mmu_slot slot;
	u8 mem[MEM_SIZE];
};

struct machine *machine_real(void);
struct machine *machine_prot(unsigned cpl);
struct machine *machine_long(unsigned cpl);
struct machine *machine_v86(unsigned iopl);
void machine_free(struct machine *m);

/* A code or data descriptor: attr as in struct cpu_seg. */
u64 machine_desc(u32 base, u32 limit, u32 attr);
void machine_gdt(struct machine *m, u16 sel, u64 lo, u64 hi);
u64 machine_gdt_get(struct machine *m, u16 sel);
/* A gate in the IDT (8 or 16 bytes by mode); type_dpl_p: bits 47..40. */
void machine_gate(struct machine *m, unsigned vector, u16 sel, u64 off, u8 type_dpl_p, u8 ist);
u64 machine_get(struct machine *m, u32 at, unsigned n);
void machine_put(struct machine *m, u32 at, u64 v, unsigned n);
/* An instruction of 2 bytes with the given fields zero or default. */
struct cpu_insn machine_insn(struct machine *m, unsigned opsize);

/* The last exception is this one. */
#define assert_exc(m, vec, err)                             \
	do {                                                \
		assert_true((m)->cpu.exc.pending);          \
		assert_int_equal((m)->cpu.exc.vector, vec); \
		assert_true((m)->cpu.exc.has_error);        \
		assert_int_equal((m)->cpu.exc.error, err);  \
	} while (0)
#define assert_exc_plain(m, vec)                            \
	do {                                                \
		assert_true((m)->cpu.exc.pending);          \
		assert_int_equal((m)->cpu.exc.vector, vec); \
		assert_false((m)->cpu.exc.has_error);       \
	} while (0)

#endif
