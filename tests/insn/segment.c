/*
 * segment.c - the local descriptor table, for 16- and 32-bit code with real segmentation
 *
 * Linux lets a process have segments with any base and limit, 16-bit ones too (modify_ldt). The
 * guest gets the same table. All data segments begin near INSN_DATA_VA, so offsets are small.
 */
#include <asm/ldt.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "insn.h"

/* Types, as struct user_desc has them. */
enum { DATA_UP, DATA_DOWN, CODE };

static struct user_desc describe(unsigned n)
{
	static const struct {
		u32 base, limit;
		u8 contents, big, pages, readonly;
	} data[LDT_DATA_COUNT] = {
		{INSN_DATA_VA, 0xffff, DATA_UP, 0, 0, 0},
		{INSN_DATA_VA, 0xa7f3, DATA_UP, 0, 0, 0},	   /* ends within a page */
		{INSN_DATA_VA + 0x1004, 0x9ff5, DATA_UP, 1, 0, 0}, /* not aligned to pages */
		{INSN_DATA_VA, 0xffff, DATA_UP, 0, 0, 1},	   /* read-only */
		{INSN_DATA_VA, 0x2fff, DATA_DOWN, 0, 0, 0},	   /* 0x3000..0xffff */
		{INSN_DATA_VA - 0x800, 0xfffff, DATA_UP, 1, 1, 0}, /* 4 GiB */
		{INSN_DATA_VA, 0x0, DATA_DOWN, 1, 1, 0},	   /* 0x1000..4 GiB */
		{INSN_DATA_VA + 0x1000, 0xffff, DATA_UP, 0, 0, 0}, /* present at both ends */
	};
	struct user_desc d = {.entry_number = n, .limit = 0xffff, .contents = CODE};

	if (n < LDT_CODE32) {
		d.base_addr = INSN_CODE_VA + (n - LDT_CODE16) * 0x10000;
	} else if (n == LDT_CODE32) {
		d.base_addr = CODE32_BASE;
		d.limit = 0xfffff;
		d.limit_in_pages = 1;
		d.seg_32bit = 1;
	} else {
		n -= LDT_DATA;
		d.base_addr = data[n].base;
		d.limit = data[n].limit;
		d.contents = data[n].contents;
		d.seg_32bit = data[n].big;
		d.limit_in_pages = data[n].pages;
		d.read_exec_only = data[n].readonly;
	}
	return d;
}

u64 segment_descriptor(unsigned n)
{
	struct user_desc d = describe(n);
	u64 type = d.contents << 2 | !d.read_exec_only << 1 | 1;

	return (d.limit & 0xffff) | (u64)(d.base_addr & 0xffffff) << 16 | (0xf0 | type) << 40 |
	       (u64)(d.limit >> 16) << 48 | (u64)d.seg_32bit << 54 | (u64)d.limit_in_pages << 55 |
	       (u64)(d.base_addr >> 24) << 56;
}

u64 segment_code_linear(u16 sel, u64 ip)
{
	return sel & 4 ? describe(sel >> 3).base_addr + (u32)ip : ip;
}

bool segment_available;

void segment_init(void)
{
	segment_available = true;
	for (unsigned n = 0; n < LDT_COUNT; n++) {
		struct user_desc d = describe(n);

		if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) != 0)
			segment_available = false;
	}
}

void segment_random(struct rng *r, struct insn_case *c)
{
	static const u8 stacks[] = {0, 0, 1, 2, 4, 5, 6, 7};
	u16 *sel = c->in.regs.sel;

	sel[2] = LDT_SELECTOR(LDT_DATA + stacks[rng_below(r, sizeof(stacks))]);
	for (unsigned i = 0; i < 4; i += 3) {
		sel[i] = LDT_SELECTOR(LDT_DATA + rng_below(r, LDT_DATA_COUNT));
		if (rng_percent(r, 6))
			sel[i] = rng_percent(r, 50) ? 0 : 0x2b;
	}
	for (unsigned i = 4; i < 6; i++) {
		unsigned n = LDT_DATA + rng_below(r, LDT_DATA_COUNT);

		if (rng_percent(r, 30))
			continue;
		sel[i] = LDT_SELECTOR(n);
		*(i == 4 ? &c->in.regs.fs_base : &c->in.regs.gs_base) = describe(n).base_addr;
	}
}
