/*
 * engine_fake.c - engines that test the test
 *
 * engine_native runs the case natively a second time: no difference may appear, or the harness
 * itself is not repeatable. engine_broken does the same and then spoils one thing, a different
 * one for each case number: every case must be found different.
 */
#include <string.h>
#include "insn.h"
#include "memory.h"

static int init(void)
{
	return 0;
}

static void nothing(void)
{
}

static void run_native(const struct insn_case *c, struct insn_result *out)
{
	static u8 first[INSN_DATA_PAGES][PAGE_SIZE];

	for (unsigned n = 0; n < INSN_DATA_PAGES; n++) {
		u8 *p = insn_memory.native + n * PAGE_SIZE;

		if (memory_page(n) != PAGE_RW)
			continue;
		memcpy(first[n], p, PAGE_SIZE);
		memcpy(p, insn_memory.baseline + n * PAGE_SIZE, PAGE_SIZE);
	}
	native_run(c, out);
	out->why[0] = 0;
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++) {
		u8 *p = insn_memory.native + n * PAGE_SIZE;

		if (memory_page(n) != PAGE_RW)
			continue;
		memcpy(insn_memory.engine + n * PAGE_SIZE, p, PAGE_SIZE);
		memcpy(p, first[n], PAGE_SIZE);
	}
}

static void run_broken(const struct insn_case *c, struct insn_result *out)
{
	struct rng r = {c->seed + c->number};
	unsigned n = rng_below(&r, 16);

	run_native(c, out);
	/* The x87 and vector state is in the image, not implied to be initial. */
	switch (c->number % 13) {
	case 0:
		out->regs.gpr[n] ^= 1ull << rng_below(&r, 32);
		break;
	case 1:
		out->regs.rflags ^= 1ull << (n & 1 ? 0 : 11);
		break;
	case 2:
		out->regs.rip++;
		break;
	case 3:
		insn_memory.engine[PAGE_SIZE + rng_below(&r, 2 * PAGE_SIZE)] ^= 0x40;
		break;
	case 4:
		out->vector ^= 1;
		break;
	case 5:
		out->cr2 ^= 8;
		break;
	case 6:
		out->error ^= 2;
		break;
	case 7:
		out->regs.fs_base += 16;
		break;
	default:
		memcpy(out->xsave + 512, &insn_xsave_mask, 8);
		n = (u8[]){0, 2, 3, 24, 32}[c->number % 13 - 8];
		out->xsave[n] ^= 2;
		break;
	}
}

const struct engine_ops engine_native = {"native", init, run_native, nothing, nothing, NULL};
const struct engine_ops engine_broken = {"broken", init, run_broken, nothing, nothing, NULL};
