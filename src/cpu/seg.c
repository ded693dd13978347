/*
 * seg.c - descriptor fetch, segment load checks, stack frames
 */
#include "base/mem.h"
#include "cpu/seg.h"
#include "mmu/mmu.h"

u64 seg_desc_base(const struct seg_desc *d)
{
	return bits_get(d->lo, 39, 16) | bits_get(d->lo, 63, 56) << 24 | d->hi << 32;
}

u32 seg_desc_limit(u64 lo)
{
	u32 limit = (u32)(bits_get(lo, 15, 0) | bits_get(lo, 51, 48) << 16);

	return (lo >> 55) & 1 ? limit << 12 | 0xfff : limit;
}

u32 seg_desc_attr(u64 lo)
{
	return (u32)(lo >> 40) & 0xf0ff;
}

bool seg_desc_locate(struct cpu *cpu, u16 sel, unsigned size, u64 *address)
{
	u64 base = cpu->gdtr.base;
	u32 limit = cpu->gdtr.limit, off = sel & 0xfff8;

	if (sel & 4) {
		const struct cpu_seg *ldt = &cpu->seg[SEG_LDTR];

		if (ldt->attr & SEG_ATTR_UNUSABLE || seg_is_null(ldt->sel))
			return false;
		base = ldt->base;
		limit = ldt->limit;
	}
	if (off + size - 1 > limit)
		return false;
	*address = base + off;
	if (!cpu_is_long(cpu))
		*address = (u32)*address;
	return true;
}

int seg_desc_fetch(struct cpu *cpu, u16 sel, unsigned vector, u32 ext, struct seg_desc *d)
{
	int ret;

	if (!seg_desc_locate(cpu, sel, 8, &d->address))
		return cpu_raise_err(cpu, vector, (sel & 0xfffc) | ext);
	d->hi = 0;
	ret = mmu_read(cpu, d->address, &d->lo, 8, MMU_READ | MMU_SYSTEM);
	if (ret)
		return ret;
	d->attr = seg_desc_attr(d->lo);
	return CPU_OK;
}

int seg_desc_fetch_high(struct cpu *cpu, u16 sel, unsigned vector, u32 ext, struct seg_desc *d)
{
	u64 address;

	if (!seg_desc_locate(cpu, sel, 16, &address))
		return cpu_raise_err(cpu, vector, (sel & 0xfffc) | ext);
	return mmu_read(cpu, address + 8, &d->hi, 8, MMU_READ | MMU_SYSTEM);
}

static int desc_type_change(struct cpu *cpu, struct seg_desc *d, u8 set, u8 clear)
{
	u64 old = (u8)(d->lo >> 40), new;
	bool done;
	int ret;

	do {
		new = (old | set) & (u8)~clear;
		ret = mmu_cmpxchg(cpu, d->address + 5, &old, new, 1, &done, MMU_WRITE | MMU_SYSTEM);
		if (ret)
			return ret;
	} while (!done);
	d->lo = (d->lo & ~(0xffull << 40)) | new << 40;
	d->attr = seg_desc_attr(d->lo);
	return CPU_OK;
}

int seg_desc_mark(struct cpu *cpu, struct seg_desc *d, unsigned type_bit)
{
	if (LIKELY(d->attr & type_bit))
		return CPU_OK;
	return desc_type_change(cpu, d, (u8)type_bit, 0);
}

int seg_desc_unmark(struct cpu *cpu, struct seg_desc *d, unsigned type_bit)
{
	return desc_type_change(cpu, d, 0, (u8)type_bit);
}

struct cpu_seg seg_from_desc(u16 sel, const struct seg_desc *d)
{
	return (struct cpu_seg){
		.base = seg_desc_base(d),
		.limit = seg_desc_limit(d->lo),
		.attr = d->attr,
		.sel = sel,
	};
}

struct cpu_seg seg_from_null(u16 sel, unsigned dpl)
{
	return (struct cpu_seg){
		.attr = SEG_ATTR_UNUSABLE | dpl << SEG_ATTR_DPL_SHIFT,
		.sel = sel,
	};
}

/* Real mode changes only the base, so that "unreal" limits survive. */
struct cpu_seg seg_from_real(const struct cpu *cpu, unsigned seg, u16 sel)
{
	struct cpu_seg s = cpu->seg[seg];

	s.sel = sel;
	s.base = (u64)sel << 4;
	if (cpu->rflags & FLAG_VM) {
		s.limit = 0xffff;
		s.attr = 0xf3;
	} else {
		if (s.attr & SEG_ATTR_UNUSABLE)
			s.limit = 0xffff;
		s.attr = (s.attr & (SEG_ATTR_DB | SEG_ATTR_G)) | 0x93;
	}
	return s;
}

bool seg_range_ok(const struct cpu_seg *s, u64 offset, unsigned n)
{
	u64 last = offset + n - 1;

	if ((s->attr & (SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_DOWN)) ==
	    (SEG_ATTR_S | SEG_TYPE_DOWN))
		return offset > s->limit &&
		       last <= (s->attr & SEG_ATTR_DB ? 0xffffffffull : 0xffffull);
	return last <= s->limit;
}

bool seg_access_ok(const struct cpu *cpu, unsigned seg, u64 offset, unsigned n, unsigned access)
{
	const struct cpu_seg *s = &cpu->seg[seg];

	if (cpu_is_protected(cpu) && !(access & MMU_EXEC)) {
		if ((s->attr & SEG_ATTR_UNUSABLE) || !(s->attr & SEG_ATTR_P))
			return false;
		if (access & MMU_WRITE) {
			if (!seg_is_writable_data(s->attr))
				return false;
		} else if ((s->attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE)) == SEG_TYPE_CODE) {
			return false;
		}
	}
	return seg_range_ok(s, offset, n);
}

int seg_stack_check(struct cpu *cpu, u16 sel, unsigned cpl, unsigned vector, u32 ext,
		    struct cpu_seg *out)
{
	u32 error = (sel & 0xfffc) | ext;
	struct seg_desc d;
	int ret;

	if (seg_is_null(sel))
		return cpu_raise_err(cpu, vector, ext);
	ret = seg_desc_fetch(cpu, sel, vector, ext, &d);
	if (ret)
		return ret;
	if ((sel & 3) != cpl || !seg_is_writable_data(d.attr) || seg_dpl(d.attr) != cpl)
		return cpu_raise_err(cpu, vector, error);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_SS, error);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	*out = seg_from_desc(sel, &d);
	return CPU_OK;
}

int seg_load_check(struct cpu *cpu, unsigned seg, u16 sel, struct cpu_seg *out)
{
	struct seg_desc d;
	int ret;

	if (!cpu_is_protected(cpu)) {
		*out = seg_from_real(cpu, seg, sel);
		return CPU_OK;
	}
	if (seg == SEG_SS) {
		if (seg_is_null(sel) && (cpu->mode & MODE_LONG) && cpu->cpl < 3 &&
		    (sel & 3) == cpu->cpl) {
			*out = seg_from_null(sel, cpu->cpl);
			return CPU_OK;
		}
		return seg_stack_check(cpu, sel, cpu->cpl, EXC_GP, 0, out);
	}
	if (seg_is_null(sel)) {
		*out = seg_from_null(sel, 0);
		return CPU_OK;
	}
	ret = seg_desc_fetch(cpu, sel, EXC_GP, 0, &d);
	if (ret)
		return ret;
	/* Data or readable code; conforming code is open to everyone. */
	if (!(d.attr & SEG_ATTR_S) ||
	    (d.attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE)) == SEG_TYPE_CODE ||
	    ((d.attr & (SEG_TYPE_CODE | SEG_TYPE_DOWN)) != (SEG_TYPE_CODE | SEG_TYPE_DOWN) &&
	     MAX((unsigned)(sel & 3), (unsigned)cpu->cpl) > seg_dpl(d.attr)))
		return cpu_raise_err(cpu, EXC_GP, sel & 0xfffc);
	if (!(d.attr & SEG_ATTR_P))
		return cpu_raise_err(cpu, EXC_NP, sel & 0xfffc);
	ret = seg_desc_mark(cpu, &d, SEG_TYPE_ACCESSED);
	if (ret)
		return ret;
	*out = seg_from_desc(sel, &d);
	return CPU_OK;
}

int seg_load(struct cpu *cpu, unsigned seg, u16 sel)
{
	struct cpu_seg s;
	int ret = seg_load_check(cpu, seg, sel, &s);

	if (ret)
		return ret;
	cpu->seg[seg] = s;
	cpu_mode_update(cpu);
	return CPU_OK;
}

/*
 * Only the selector goes: the base stays, because in 64-bit mode FS and GS are used through
 * bases that were loaded by MSR while their selectors were null.
 */
void seg_drop_privileged(struct cpu *cpu)
{
	static const u8 which[4] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < 4; i++) {
		struct cpu_seg *s = &cpu->seg[which[i]];

		if (s->attr & SEG_ATTR_UNUSABLE) {
			s->sel = 0; /* a null selector loses its RPL */
			continue;
		}
		if (seg_dpl(s->attr) < cpu->cpl && (s->attr & (SEG_TYPE_CODE | SEG_TYPE_DOWN)) !=
							   (SEG_TYPE_CODE | SEG_TYPE_DOWN)) {
			s->sel = 0;
			s->attr = SEG_ATTR_UNUSABLE;
		}
	}
}

int seg_target_check(struct cpu *cpu, const struct cpu_seg *cs, u64 rip, u32 ext)
{
	if (cpu_is_long(cpu) && (cs->attr & SEG_ATTR_L)) {
		if (!cpu_is_canonical(cpu, rip))
			return cpu_raise_err(cpu, EXC_GP, ext);
	} else if (rip > cs->limit) {
		return cpu_raise_err(cpu, EXC_GP, ext);
	}
	return CPU_OK;
}

int seg_tss_read(struct cpu *cpu, u32 offset, void *buf, unsigned n, u32 ext)
{
	const struct cpu_seg *tr = &cpu->seg[SEG_TR];

	if ((tr->attr & SEG_ATTR_UNUSABLE) || (u64)offset + n - 1 > tr->limit)
		return cpu_raise_err(cpu, EXC_TS, (tr->sel & 0xfffc) | ext);
	return mmu_read(cpu, tr->base + offset, buf, n, MMU_READ | MMU_SYSTEM);
}

/* --- frames ------------------------------------------------------------------------------------ */

void seg_frame_init(struct seg_frame *f, const struct cpu_seg *ss, u64 sp, bool long_mode,
		    unsigned size, unsigned access)
{
	f->ss = *ss;
	f->sp = sp;
	f->long_mode = long_mode;
	f->size = (u8)size;
	f->error = 0;
	f->access = access | MMU_WRITE;
	f->used = 0;
}

static u64 frame_mask(const struct seg_frame *f)
{
	if (f->long_mode)
		return ~0ull;
	return f->ss.attr & SEG_ATTR_DB ? 0xffffffffull : 0xffffull;
}

u64 seg_frame_sp(const struct seg_frame *f)
{
	u64 mask = frame_mask(f), sp = (f->sp - f->used) & mask;

	return mask == 0xffff ? (f->sp & ~mask) | sp : sp;
}

static int frame_linear(struct cpu *cpu, const struct seg_frame *f, u64 off, unsigned n, u64 *lin)
{
	if (f->long_mode) {
		*lin = off;
		if (cpu_is_canonical(cpu, off) && cpu_is_canonical(cpu, off + n - 1))
			return CPU_OK;
	} else {
		*lin = (u32)(f->ss.base + off);
		if (seg_range_ok(&f->ss, off, n))
			return CPU_OK;
	}
	return cpu_raise_err(cpu, EXC_SS, f->error);
}

int seg_frame_write(struct cpu *cpu, const struct seg_frame *f)
{
	const u8 *data = f->buf + sizeof(f->buf) - f->used;
	u64 mask = frame_mask(f), sp = (f->sp - f->used) & mask, lin;
	int ret;

	if (sp <= ((f->sp - 1) & mask) && !(cpu->mode & MODE_ALIGN)) {
		ret = frame_linear(cpu, f, sp, f->used, &lin);
		if (!ret)
			ret = mmu_write(cpu, lin, data, f->used, f->access);
		if (ret != CPU_EXC || f->used == f->size)
			return ret;
		cpu->exc.pending = false; /* of its elements' faults the first one's counts */
	}
	/*
	 * The stack pointer wraps inside the frame, each element's alignment counts, or something
	 * faults: element by element as pushed, all checked first.
	 */
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = f->used; i;) {
			i -= f->size;
			ret = frame_linear(cpu, f, (sp + i) & mask, f->size, &lin);
			if (!ret)
				ret = pass ? mmu_write(cpu, lin, data + i, f->size, f->access)
					   : mmu_probe(cpu, lin, f->size, f->access);
			if (ret)
				return ret;
		}
	return CPU_OK;
}

int seg_stack_peek(struct cpu *cpu, unsigned skip, unsigned size, unsigned count, u64 *values)
{
	u64 mask = seg_sp_mask(cpu), off = (cpu->gpr[RSP] + skip) & mask;
	unsigned n = size * count;
	u8 buf[16 * 8];
	int ret;

	if (n > sizeof(buf))
		n = sizeof(buf), count = n / size;
	if (((off + n - 1) & mask) >= off && !(cpu->mode & MODE_ALIGN)) {
		ret = cpu_read(cpu, SEG_SS, off, buf, n);
		if (ret)
			return ret;
	} else {
		for (unsigned i = 0; i < n; i += size) {
			ret = cpu_read(cpu, SEG_SS, (off + i) & mask, buf + i, size);
			if (ret)
				return ret;
		}
	}
	for (unsigned i = 0; i < count; i++)
		values[i] = mem_load(buf + i * size, size);
	return CPU_OK;
}

int seg_stack_blame(struct cpu *cpu, unsigned size, const u8 *order, unsigned count)
{
	struct cpu_exc whole = cpu->exc;
	u64 v;
	int ret = CPU_OK;

	cpu->exc.pending = false;
	for (unsigned i = 0; i < count && !ret; i++)
		ret = seg_stack_peek(cpu, order[i] * size, size, 1, &v);
	if (ret)
		return ret;
	cpu->exc = whole;
	return CPU_EXC;
}
