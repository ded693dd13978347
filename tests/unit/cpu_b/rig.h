/* rig.h - one processor with RAM at 0, in 64-bit mode with identity paging or without paging */
#ifndef TESTS_CPU_B_RIG_H
#define TESTS_CPU_B_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cpu/control.h"
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/fpu.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "cpu/msr.h"
#include "mmu/mmu.h"

#define RIG_RAM	 (8u << 20)
#define RIG_DATA 0x200000u /* a good place for operands */

struct rig {
	struct mmu_vm vm;
	struct cpu *cpu;
	struct mmu_map *map;
	u8 *ram;
	struct cpu_ops ops;
	u64 cr8;
};
extern struct rig rig;

int rig_setup(void **state);
int rig_teardown(void **state);
/** Power-on reset and the supported CPUID of a vendor. */
void rig_vendor(enum cpu_vendor vendor);
/** 64-bit mode, CPL 0, identity paging. */
void rig_long(void);
/** Flat 32-bit protected mode without paging. */
void rig_flat32(void);
void rig_cpl(unsigned cpl);
/** An instruction with a register operand. */
struct cpu_insn rig_reg_insn(unsigned reg, unsigned rm);
/** An instruction with its memory operand at an address. */
struct cpu_insn rig_mem_insn(u64 address, unsigned opsize);

/** Asserts that a call raised a vector (and clears it), or that it succeeded. */
#define EXPECT_EXC(call, v)                               \
	do {                                              \
		assert_int_equal((call), CPU_EXC);        \
		assert_true(rig.cpu->exc.pending);        \
		assert_int_equal(rig.cpu->exc.vector, v); \
		rig.cpu->exc.pending = false;             \
	} while (0)
#define EXPECT_OK(call) assert_int_equal((call), CPU_OK)

#endif
