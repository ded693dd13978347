/*
 * resolve.c - data accesses of generated code that leave it
 *
 * The order of checks is the processor's: a pending x87 exception, alignment of operands that must
 * be aligned, the segment (or in 64-bit mode the canonical form) of every byte, then paging. An
 * operand under a mask is checked element by element, and only its active ones count.
 */
#include "jit/jit_internal.h"
#include "mmu/mmu.h"

/* What is touched of an operand: bytes [skip, skip + size). */
struct part {
	u64 desc, active;
	unsigned skip, size, shift, seg, access;
};

static bool x87_pending(void)
{
	u16 sw;

	__asm__ volatile("fnstsw %0" : "=a"(sw));
	return sw & 0x80;
}

/* MXCSR.MM, of AMD's processors. */
static bool misalignment_masked(void)
{
	u32 mxcsr;

	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	return mxcsr & BIT(17);
}

/* After a store: invalid, overflow or underflow, unmasked. It would not have begun with one pending. */
static bool x87_store_stopped(void)
{
	u16 sw, cw;

	__asm__ volatile("fnstsw %0\n\tfnstcw %1" : "=a"(sw), "=m"(cw));
	return sw & ~cw & 0x19;
}

/* The bytes of a masked operand that are touched, from the first one on. */
static u64 active_bytes(const struct part *p)
{
	u64 element = p->shift >= 6 ? ~0ull : BIT64(1u << p->shift) - 1, bytes = 0;

	for (unsigned i = 0; i < 64u >> p->shift; i++)
		if (p->active >> i & 1)
			bytes |= element << (i << p->shift);
	return bytes >> p->skip;
}

static int bad_address(struct cpu *cpu, unsigned seg)
{
	return cpu_raise_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

/* Segment and canonical checks of n bytes. `at` is an offset under DESC_CHECK, else linear. */
static int address_check(struct cpu *cpu, const struct part *p, u64 at, unsigned n, u64 *lin)
{
	if (p->desc & DESC_CHECK)
		return cpu_linear(cpu, p->seg, at, n, p->access, lin);
	*lin = at;
	if (cpu->mode & MODE_LONG) {
		if (UNLIKELY(!cpu_is_canonical(cpu, at) || !cpu_is_canonical(cpu, at + n - 1) ||
			     (p->seg >= SEG_FS &&
			      !cpu_offset_ok(cpu, at - cpu->seg[p->seg].base, n))))
			return bad_address(cpu, p->seg);
	} else if (UNLIKELY(at + n - 1 > 0xffffffff)) {
		return bad_address(cpu, p->seg); /* flat segments end at 4 GiB */
	}
	return CPU_OK;
}

/* The linear address without checks, for its alignment. */
static u64 address_raw(const struct cpu *cpu, const struct part *p, u64 at)
{
	if ((p->desc & DESC_CHECK) && (!(cpu->mode & MODE_LONG) || p->seg >= SEG_FS))
		return cpu->seg[p->seg].base + at;
	return at;
}

/* Where the addresses of an operand's parts wrap; 0: nowhere. */
static u64 wraps_at(const struct part *p)
{
	unsigned wrap = (p->desc & DESC_WRAP) >> DESC_WRAP_SHIFT;

	return wrap == DESC_WRAP_64K ? BIT64(16) : wrap == DESC_WRAP_4G ? BIT64(32) : 0;
}

/* The first of the two accesses that make the operand's: eight and two of an x87 register, or halves; or 0. */
static unsigned first_access(const struct part *p)
{
	unsigned size = p->desc & DESC_SIZE;

	return size == X87_REGISTER		       ? 8
	       : p->desc & DESC_HALVES		       ? size / 2
	       : size == 64 && (p->access & MMU_WRITE) ? 32
						       : 0;
}

/* Of how many bytes a part is that has an address of its own: an element of VMASKMOV's, or an access. */
static unsigned part_size(const struct part *p)
{
	return p->desc & DESC_MASK_VECTOR ? 1u << p->shift : first_access(p);
}

/* Where byte `offset` of the operand is: the address of each of its parts wraps, and inside them nothing does. */
static u64 place(const struct part *p, u64 at, unsigned offset)
{
	u64 end = wraps_at(p);
	unsigned into;

	if (LIKELY(!end))
		return at + offset;
	into = offset % part_size(p);
	return ((at + offset - into) & (end - 1)) + into;
}

/* Elements that must be aligned, and are not: by their size, and not at all for VMASKMOV. */
static bool element_misaligned(const struct cpu *cpu, const struct part *p, u64 lin)
{
	return UNLIKELY(cpu->mode & MODE_ALIGN) && !(p->desc & DESC_MASK_VECTOR) &&
	       (lin & ((1u << p->shift) - 1));
}

/* A masked operand could not be accessed: raises what its first bad element does. */
static int masked_fault(struct cpu *cpu, const struct part *p, u64 at)
{
	unsigned n = 1u << p->shift;
	struct cpu_exc whole = cpu->exc;
	u64 lin;

	for (unsigned i = 0; i < 64; i++) {
		int ret;

		if (!(p->active >> i & 1))
			continue;
		cpu->exc.pending = false;
		ret = address_check(cpu, p, place(p, at, i * n), n, &lin);
		if (!ret && element_misaligned(cpu, p, lin))
			ret = cpu_raise_err(cpu, EXC_AC, 0);
		if (!ret)
			ret = mmu_probe(cpu, lin, n, p->access | MMU_AS_VIEW | MMU_UNALIGNED);
		if (ret)
			return ret;
	}
	cpu->exc = whole;
	return CPU_EXC;
}

/* The second part of an operand has raised an exception: that of the first one's pages goes first. */
static int probe_first(struct cpu *cpu, const struct part *p, u64 lin, unsigned n)
{
	struct cpu_exc second = cpu->exc;
	int ret;

	cpu->exc.pending = false;
	ret = mmu_probe(cpu, lin, n, p->access | MMU_AS_VIEW);
	if (ret)
		return ret;
	cpu->exc = second;
	return CPU_EXC;
}

/* An operand that runs over the end of its segment: its first access faults for itself. */
static int beyond_limit(struct cpu *cpu, const struct part *p, u64 at)
{
	unsigned first = first_access(p);
	u64 lin;

	if (first && !address_check(cpu, p, at, first, &lin))
		return probe_first(cpu, p, lin, first);
	return CPU_EXC;
}

static enum mmu_resolve_kind stopped(int ret)
{
	return ret == CPU_EXC ? MMU_STOP_EXC : MMU_STOP_EXIT;
}

/*
 * An operand of two accesses of which the second one, from byte `split` on, is at the beginning of what the address
 * size reaches. The first one's page fault comes before the second one's segment.
 */
static enum mmu_resolve_kind resolve_accesses(struct cpu *cpu, const struct part *p, u64 at,
					      unsigned split)
{
	unsigned size[2] = {split, p->size - split};
	u64 lin[2];

	if (address_check(cpu, p, at, size[0], &lin[0]))
		return MMU_STOP_EXC;
	if (address_check(cpu, p, place(p, at, split), size[1], &lin[1]))
		return stopped(probe_first(cpu, p, lin[0], size[0]));
	return mmu_resolve_two(cpu, lin, size, 0, p->access);
}

/* Likewise under a mask: what lies between active elements is not checked, so not the parts as wholes. */
static enum mmu_resolve_kind resolve_elements(struct cpu *cpu, const struct part *p, u64 at,
					      unsigned split)
{
	u64 bytes = active_bytes(p), before = bytes & (BIT64(split - p->skip) - 1), lin[2], any;
	unsigned end = 64 - (unsigned)__builtin_clzll(before),
		 begin = (unsigned)__builtin_ctzll(bytes ^ before), n = 1u << p->shift,
		 size[2] = {end, p->size - begin};
	enum mmu_resolve_kind kind;

	for (unsigned i = p->skip; i < p->skip + p->size; i += n)
		if ((p->active >> (i >> p->shift) & 1) &&
		    address_check(cpu, p, place(p, at, i), n, &any))
			return stopped(masked_fault(cpu, p, at));
	lin[0] = address_raw(cpu, p, place(p, at, p->skip));
	lin[1] = address_raw(cpu, p, place(p, at, p->skip + begin));
	if (element_misaligned(cpu, p, lin[0]))
		return stopped(cpu_raise_err(cpu, EXC_AC, 0));
	kind = mmu_resolve_two(cpu, lin, size, begin - end, p->access | MMU_UNALIGNED);
	return kind == MMU_STOP_EXC ? stopped(masked_fault(cpu, p, at)) : kind;
}

/* Can all bytes from `offset` on be accessed, whatever the mask says? */
static bool can_access(struct cpu *cpu, const struct part *p, u64 at, unsigned offset, unsigned n)
{
	struct cpu_exc before = cpu->exc;
	bool can;
	u64 lin;

	can = !address_check(cpu, p, place(p, at, offset), n, &lin) &&
	      !mmu_probe(cpu, lin, n, p->access | MMU_AS_VIEW | MMU_UNALIGNED);
	cpu->exc = before;
	return can;
}

/*
 * Does a masked operand wrap that reaches over the end of the addresses? Zen 4 stores 64 bytes by halves when all of both
 * can be written; if not, element by element, and then nothing wraps. VMASKMOV goes by elements that
 * wrap, but a load first tries for the whole without.
 */
static bool masked_wraps(struct cpu *cpu, const struct part *p, u64 at)
{
	struct part straight = *p;
	unsigned size = p->desc & DESC_SIZE;

	if (!(p->desc & DESC_MASK_VECTOR))
		return can_access(cpu, p, at, 0, size / 2) &&
		       can_access(cpu, p, at, size / 2, size / 2);
	straight.desc &= ~DESC_WRAP;
	return (p->access & MMU_WRITE) || !can_access(cpu, &straight, at, 0, size);
}

/* From which byte on an operand's addresses have wrapped, by whole parts; 0: not between its bytes. */
static unsigned split_at(const struct part *p, u64 at)
{
	u64 end = wraps_at(p);
	unsigned size, split;

	if (LIKELY(!end) || at + p->skip + p->size <= end)
		return 0;
	size = part_size(p);
	split = (unsigned)(end - at + size - 1) / size * size;
	return split > p->skip && split < p->skip + p->size ? split : 0;
}

/* The operand's place for generated code, which is the bounce buffer when it has none. */
static u64 hand_out(struct cpu *cpu, const struct part *p, enum mmu_resolve_kind kind, u64 lin)
{
	struct jit *jit = cpu->jit;

	if (kind == MMU_BOUNCED) {
		/* At the operand's own alignment, so that aligned forms fault as they should. */
		jit->bounce_at = jit->bounce + ((lin - p->skip) & 63) + p->skip;
		jit->bounce_size = p->size;
		jit->bounce_x87 = p->desc & DESC_X87;
		jit->bounce_bytes = p->desc & DESC_MASK	     ? active_bytes(p)
				    : p->desc & DESC_MASKMOV ? jit_maskmov_bytes(p->desc)
							     : ~0ull;
		mem_copy(jit->bounce_at, cpu->bounce, p->size);
		cpu->jit_scratch[0] = (u64)jit->bounce_at;
	}
	cpu->jit_scratch[0] -= p->skip;
	return kind;
}

/* A device's read stops the instruction: what it is, for the answer. */
static void note_load(struct cpu *cpu, u64 desc)
{
	cpu->mmio.load = (struct cpu_mmio_load){
		.size = desc & DESC_LOAD ? (u8)(desc & DESC_SIZE) : 0,
		.reg = desc >> DESC_LOAD_REG_SHIFT & 15,
		.to = 1u << (desc >> DESC_LOAD_TO_SHIFT & 3),
		.sign = desc & DESC_LOAD_SIGN,
		.high = desc & DESC_LOAD_HIGH,
	};
}

/**
 * A data access missed the TLB. Returns MMU_DIRECT or MMU_BOUNCED with the host address in
 * jit_scratch[0], or another enum mmu_resolve_kind to stop.
 */
u64 jit_resolve(struct cpu *cpu, u64 at, u64 desc)
{
	struct part p = {
		.desc = desc,
		.size = desc & DESC_SIZE,
		.seg = (unsigned)(desc & DESC_SEG) >> DESC_SEG_SHIFT,
		.access = desc & DESC_WRITE ? MMU_WRITE : MMU_READ,
	};
	enum mmu_resolve_kind kind;
	unsigned split;
	u64 lin;
	int ret;

	if ((desc & DESC_X87) && x87_pending()) {
		cpu_raise(cpu, EXC_MF);
		return MMU_STOP_EXC;
	}
	if (desc & DESC_RMW)
		p.access |= MMU_RMW;
	if (p.seg == SEG_SS)
		p.access |= MMU_STACK;
	if (desc & DESC_MASK) {
		p.active = jit_mask_active(desc, p.size, &p.shift);
		if (!p.active) {
			/* nothing is touched: any readable place will do */
			cpu->jit_scratch[0] = (u64)cpu->jit->bounce;
			return MMU_DIRECT;
		}
		p.skip = (unsigned)__builtin_ctzll(p.active) << p.shift;
		p.size = ((64 - (unsigned)__builtin_clzll(p.active)) << p.shift) - p.skip;
	}
	if ((desc & DESC_ALIGN) && (address_raw(cpu, &p, at) & ((desc & DESC_SIZE) - 1)) &&
	    !((desc & DESC_MM) && misalignment_masked())) {
		cpu_raise_err(cpu, EXC_GP, 0);
		return MMU_STOP_EXC;
	}
	if ((desc & DESC_MASK) && (desc & DESC_WRAP) && at + (desc & DESC_SIZE) > wraps_at(&p) &&
	    !masked_wraps(cpu, &p, at))
		p.desc &= ~DESC_WRAP;
	split = split_at(&p, at);
	if (UNLIKELY(split)) {
		kind = desc & DESC_MASK ? resolve_elements(cpu, &p, at, split)
					: resolve_accesses(cpu, &p, at, split);
		return hand_out(cpu, &p, kind, p.skip);
	}
	ret = address_check(cpu, &p, place(&p, at, p.skip), p.size, &lin);
	if (ret) {
		ret = desc & DESC_MASK ? masked_fault(cpu, &p, at) : beyond_limit(cpu, &p, at);
		return stopped(ret);
	}
	if (desc & DESC_MASK) {
		if (element_misaligned(cpu, &p, lin)) {
			cpu_raise_err(cpu, EXC_AC, 0);
			return MMU_STOP_EXC;
		}
		p.access |= MMU_UNALIGNED;
	} else if (UNLIKELY(cpu->mode & MODE_ALIGN) && (desc & DESC_HALVES)) {
		if (lin & (p.size / 2 - 1)) {
			cpu_raise_err(cpu, EXC_AC, 0);
			return MMU_STOP_EXC;
		}
		p.access |= MMU_UNALIGNED;
	}
	kind = mmu_resolve(cpu, lin, p.size, p.access, desc & DESC_LOCK);
	if (kind == MMU_STOP_EXC && (desc & DESC_MASK))
		return stopped(masked_fault(cpu, &p, at));
	if (kind == MMU_STOP_EXIT)
		note_load(cpu, desc);
	return hand_out(cpu, &p, kind, lin);
}

/** A bounced store was done. Nonzero: leave the block behind this instruction. */
u64 jit_commit(struct cpu *cpu)
{
	struct jit *jit = cpu->jit;

	mem_copy(cpu->bounce, jit->bounce_at, jit->bounce_size);
	if (jit->bounce_x87 && x87_store_stopped())
		return (u64)mmu_bounce_commit_bytes(cpu, 0);
	return (u64)mmu_bounce_commit_bytes(cpu, jit->bounce_bytes);
}
