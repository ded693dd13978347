/*
 * string.c - MOVS, STOS, LODS, SCAS, CMPS with their repeat prefixes
 *
 * A repeated instruction advances in chunks. Where both operands are plain memory, a chunk is all
 * elements up to the nearest page end, and the host's own REP MOVS/STOS does it: same element
 * size, same direction, so overlapping operands replicate exactly as they would. A host fault in
 * the middle leaves the exact count in RCX. Everything else - elements across pages, devices,
 * code pages, watchpoints, alignment checks, segment ends - goes one element at a time through the
 * checked accessors, which also raise what a chunk refused.
 *
 * Registers are committed after every chunk, so a fault finds the completed part done, as the
 * architecture has it. Between chunks the instruction stops, RIP unchanged and RF set, when
 * somebody cleared cpu->poll; under single-step it stops after each element.
 */
#include <linux/kvm.h>
#include "base/mem.h"
#include "cpu/seg.h"
#include "cpu/str.h"
#include "mmu/hostmem.h"
#include "mmu/mmu.h"

bool str_begin(struct cpu *cpu, const struct cpu_insn *in, struct str *s)
{
	s->in = in;
	s->mask = in->addrsize == 8 ? ~0ull : in->addrsize == 4 ? 0xffffffffull : 0xffffull;
	s->n = in->opsize;
	s->rep = in->prefix & (CPU_PREFIX_REP | CPU_PREFIX_REPNE);
	s->down = cpu->df;
	s->count = 1;
	s->single = (cpu->rflags & FLAG_TF) ||
		    (cpu->guest_debug & (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)) ==
			    (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
	if (!s->rep)
		return true;
	s->count = cpu->gpr[RCX] & s->mask;
	if (s->count)
		return true;
	/* Intel writes the 32-bit count back even when nothing is done. */
	if (in->addrsize == 4 && cpu->vendor == CPU_VENDOR_INTEL)
		cpu->gpr[RCX] = 0;
	cpu_insn_done(cpu, in);
	return false;
}

static void reg_advance(struct cpu *cpu, const struct str *s, unsigned reg, u64 bytes)
{
	u64 v = s->down ? cpu->gpr[reg] - bytes : cpu->gpr[reg] + bytes;

	cpu_reg_write(cpu, reg, v, s->in->addrsize, true);
}

void str_advance(struct cpu *cpu, struct str *s, u64 k, bool src, bool dst)
{
	if (src)
		reg_advance(cpu, s, RSI, k * s->n);
	if (dst)
		reg_advance(cpu, s, RDI, k * s->n);
	s->count -= k;
	if (s->rep)
		cpu_reg_write(cpu, RCX, s->count, s->in->addrsize, true);
	/* Answers of devices belong to the element that asked. */
	cpu->mmio.done_count = 0;
	cpu->mmio.done_next = 0;
}

bool str_stop(struct cpu *cpu, struct str *s, unsigned max_writes, int *ret)
{
	*ret = CPU_OK;
	if (!s->count) {
		cpu_insn_done(cpu, s->in);
		return true;
	}
	/* The dispatcher leaves for queued writes, with the traps that are due. */
	if (LIKELY(cpu->mmio.write_count <= max_writes &&
		   __atomic_load_n(&cpu->poll, __ATOMIC_RELAXED)) &&
	    !s->single && !(cpu->mode & MODE_WATCH))
		return false;
	/* A single-step trap between two elements shows RF on Intel only. */
	if (!s->single || cpu->vendor != CPU_VENDOR_AMD)
		cpu->rflags |= FLAG_RF;
	return true;
}

/* A fault or exit in the middle: what was queued for devices must still go out. */
static int str_fail(struct cpu *cpu, int ret)
{
	if (ret == CPU_EXC && cpu->mmio.write_count) {
		cpu->exc.pending = false;
		cpu->rflags |= FLAG_RF;
		return cpu_exit_set(cpu, CPU_EXIT_MMIO);
	}
	return ret;
}

/*
 * How many elements from seg:off lie in one page and pass segmentation; *lin is the address of the
 * first. 0: one element the slow way, which finds out why.
 */
static u64 str_span(struct cpu *cpu, const struct str *s, unsigned seg, u64 off, unsigned access,
		    u64 *lin)
{
	u64 base = cpu->seg[seg].base, k, first;

	if (UNLIKELY(cpu->mode & MODE_ALIGN) || s->single)
		return 0;
	if (cpu->mode & MODE_LONG) {
		*lin = off + (seg >= SEG_FS ? base : 0);
		if (!cpu_is_canonical(cpu, *lin))
			return 0;
	} else {
		*lin = (u32)(base + off);
	}
	if (s->down) {
		if ((*lin & ~PAGE_MASK) + s->n > PAGE_SIZE)
			return 0;
		k = MIN((*lin & ~PAGE_MASK) / s->n, off / s->n) + 1;
	} else {
		k = (PAGE_SIZE - (*lin & ~PAGE_MASK)) / s->n;
		if (s->mask != ~0ull)
			k = MIN(k, (s->mask - off + 1) / s->n);
	}
	k = MIN(k, s->count);
	if (k && !(cpu->mode & MODE_LONG)) {
		first = s->down ? off - (k - 1) * s->n : off;
		if (!seg_access_ok(cpu, seg, first, (unsigned)(k * s->n), access))
			return 0;
	}
	return k;
}

/* How many of them are plain memory, and where. Nothing stays recorded when it refuses. */
static u64 str_room(struct cpu *cpu, const struct str *s, unsigned seg, u64 off, unsigned access,
		    u8 **host)
{
	unsigned avail;
	u64 lin, k = str_span(cpu, s, seg, off, access, &lin);

	if (!k)
		return 0;
	if (mmu_host(cpu, lin, access | MMU_AS_VIEW, host, &avail)) {
		cpu->exc.pending = false;
		cpu->exit.reason = CPU_EXIT_NONE;
		return 0;
	}
	return *host ? k : 0;
}

/*
 * A destination that is memory but not plain, because it holds translated code (pages of a
 * program that ended are cleared and reused): a block goes through mmu_write() at once rather than
 * element by element. How many elements; 0: not such a page.
 */
static u64 str_code_room(struct cpu *cpu, const struct str *s, u64 off, u64 *lin, u8 **host)
{
	struct mmu_fault fault;
	struct mmu_slot *slot;
	struct mmu_walk w;
	u64 k;

	if (!s->rep || s->down || s->count < 4 || (cpu->mode & MODE_WATCH))
		return 0;
	k = str_span(cpu, s, SEG_ES, off, MMU_WRITE, lin);
	if (k < 4 || mmu_walk(cpu, *lin, MMU_WRITE | MMU_AS_VIEW, true, &w, &fault))
		return 0;
	slot = mmu_slot_find(cpu, w.gpa);
	if (!slot || (slot->flags & KVM_MEM_READONLY))
		return 0;
	*host = mmu_slot_host(slot, w.gpa);
	return k;
}

/* Writes k elements from cpu->bounce; 0 when that was refused, to be found out the slow way. */
static u64 str_code_write(struct cpu *cpu, const struct str *s, u64 lin, u64 k)
{
	if (mmu_write(cpu, lin, cpu->bounce, (unsigned)(k * s->n), MMU_WRITE | MMU_AS_VIEW)) {
		cpu->exc.pending = false;
		cpu->exit.reason = CPU_EXIT_NONE;
		return 0;
	}
	return k;
}

/* --- the host's own string instructions; they return how many elements are left ---------------- */

#define HOST_REP(insn, dir_on, dir_off, src)                                      \
	__asm__ volatile(dir_on "1: rep " insn "\n2: " dir_off "\n" HOSTMEM_FIXUP \
			 : "+D"(dst), "+c"(k), src[err] "+&r"(err)                \
			 : "a"(value)                                             \
			 : "memory", "cc")

static u64 host_movs(u8 *dst, const u8 *src, u64 k, unsigned n, bool down)
{
	u64 value = 0;
	u32 err = 0;

#define MOVS(insn)                                                      \
	do {                                                            \
		if (down)                                               \
			HOST_REP(insn, "std\n", "cld", "+S"(src)COMMA); \
		else                                                    \
			HOST_REP(insn, "", "", "+S"(src)COMMA);         \
	} while (0)
#define COMMA ,
	switch (n) {
	case 1:
		MOVS("movsb");
		break;
	case 2:
		MOVS("movsw");
		break;
	case 4:
		MOVS("movsl");
		break;
	default:
		MOVS("movsq");
		break;
	}
#undef MOVS
	return k;
}

static u64 host_stos(u8 *dst, u64 value, u64 k, unsigned n, bool down)
{
	u32 err = 0;

#define STOS(insn)                                        \
	do {                                              \
		if (down)                                 \
			HOST_REP(insn, "std\n", "cld", ); \
		else                                      \
			HOST_REP(insn, "", "", );         \
	} while (0)
	switch (n) {
	case 1:
		STOS("stosb");
		break;
	case 2:
		STOS("stosw");
		break;
	case 4:
		STOS("stosl");
		break;
	default:
		STOS("stosq");
		break;
	}
#undef STOS
	return k;
}

/* --- MOVS, STOS, LODS -------------------------------------------------------------------------- */

/* MOVS from plain memory onto a code page; overlapping operands are left to the slow way. */
static u64 code_movs(struct cpu *cpu, const struct str *s, u64 di, const u8 *src, u64 room)
{
	u8 *dst;
	u64 lin, k = MIN(room, str_code_room(cpu, s, di, &lin, &dst)), n = k * s->n;

	if (!k || (dst + n > src && src + n > dst) || hostmem_copy(cpu->bounce, src, n))
		return 0;
	return str_code_write(cpu, s, lin, k);
}

static u64 code_stos(struct cpu *cpu, const struct str *s, u64 di)
{
	u8 *dst;
	u64 lin, k = str_code_room(cpu, s, di, &lin, &dst);

	if (!k)
		return 0;
	for (u64 i = 0; i < k; i++)
		mem_store(cpu->bounce + i * s->n, cpu->gpr[RAX], s->n);
	return str_code_write(cpu, s, lin, k);
}

int insn_movs(struct cpu *cpu, const struct cpu_insn *in)
{
	struct str s;
	int ret;

	if (!str_begin(cpu, in, &s))
		return CPU_OK;
	for (;;) {
		u64 si = str_offset(cpu, &s, RSI), di = str_offset(cpu, &s, RDI), k = 0, v = 0;
		u8 *src, *dst;

		if (s.rep)
			k = str_room(cpu, &s, in->seg, si, MMU_READ, &src);
		if (k) {
			u64 to = str_room(cpu, &s, SEG_ES, di, MMU_WRITE, &dst);

			if (to) {
				k = MIN(k, to);
				k -= host_movs(dst, src, k, s.n, s.down);
			} else {
				k = code_movs(cpu, &s, di, src, k);
			}
		}
		if (!k) {
			ret = cpu_read(cpu, in->seg, si, &v, s.n);
			if (!ret)
				ret = cpu_write(cpu, SEG_ES, di, &v, s.n);
			if (ret)
				return str_fail(cpu, ret);
			k = 1;
		}
		str_advance(cpu, &s, k, true, true);
		if (str_stop(cpu, &s, 0, &ret))
			return ret;
	}
}

int insn_stos(struct cpu *cpu, const struct cpu_insn *in)
{
	struct str s;
	int ret;

	if (!str_begin(cpu, in, &s))
		return CPU_OK;
	for (;;) {
		u64 di = str_offset(cpu, &s, RDI), k = 0;
		u8 *dst;

		if (s.rep)
			k = str_room(cpu, &s, SEG_ES, di, MMU_WRITE, &dst);
		if (k)
			k -= host_stos(dst, cpu->gpr[RAX], k, s.n, s.down);
		else
			k = code_stos(cpu, &s, di);
		if (!k) {
			ret = cpu_write(cpu, SEG_ES, di, &cpu->gpr[RAX], s.n);
			if (ret)
				return str_fail(cpu, ret);
			k = 1;
		}
		str_advance(cpu, &s, k, false, true);
		if (str_stop(cpu, &s, CPU_MMIO_FRAGS - 4, &ret))
			return ret;
	}
}

int insn_lods(struct cpu *cpu, const struct cpu_insn *in)
{
	struct str s;
	int ret;

	if (!str_begin(cpu, in, &s))
		return CPU_OK;
	for (;;) {
		u64 v = 0;

		ret = cpu_read(cpu, in->seg, str_offset(cpu, &s, RSI), &v, s.n);
		if (ret)
			return ret;
		cpu_reg_write(cpu, RAX, v, s.n, true);
		str_advance(cpu, &s, 1, true, false);
		if (str_stop(cpu, &s, 0, &ret))
			return ret;
	}
}

/* --- SCAS and CMPS ----------------------------------------------------------------------------- */

/* The flags of a - b, as the host computes them. */
static u16 compare_flags(u64 a, u64 b, unsigned n)
{
	u16 ax;

	switch (n) {
	case 1:
		__asm__("cmpb %b2, %b1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "q"(a), "q"(b) : "cc");
		break;
	case 2:
		__asm__("cmpw %w2, %w1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	case 4:
		__asm__("cmpl %k2, %k1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	default:
		__asm__("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
		break;
	}
	return ax;
}

/* REPE goes on while equal, REPNE while different. */
static bool compare_goes_on(const struct str *s, bool equal)
{
	return s->in->prefix & CPU_PREFIX_REPNE ? !equal : equal;
}

/*
 * Compares k elements of two buffers (a == NULL: of one value) until the condition ends it.
 * Returns how many were compared; the last pair is left in *x and *y.
 */
static u64 compare_run(const struct str *s, const u8 *a, const u8 *b, u64 k, u64 *x, u64 *y)
{
	u64 i = 0;

	do {
		if (a)
			*x = mem_load(a + i * s->n, s->n);
		*y = mem_load(b + i * s->n, s->n);
		i++;
	} while (i < k && compare_goes_on(s, *x == *y));
	return i;
}

/*
 * One element of each operand. Which comes first shows when both fault: [rSI] on Intel, [rDI] on
 * AMD except for REPE CMPSB.
 */
static int compare_read(struct cpu *cpu, const struct str *s, u64 *x, u64 *y)
{
	bool dst_first =
		cpu->vendor == CPU_VENDOR_AMD && !(s->n == 1 && (s->in->prefix & CPU_PREFIX_REP));
	int ret = CPU_OK;

	*y = 0;
	if (dst_first)
		ret = cpu_read(cpu, SEG_ES, str_offset(cpu, s, RDI), y, s->n);
	if (x && !ret) {
		*x = 0;
		ret = cpu_read(cpu, s->in->seg, str_offset(cpu, s, RSI), x, s->n);
	}
	if (!dst_first && !ret)
		ret = cpu_read(cpu, SEG_ES, str_offset(cpu, s, RDI), y, s->n);
	return ret;
}

/* Both instructions: cmps compares [rsi] with [rdi], scas the accumulator. */
static int compare(struct cpu *cpu, const struct cpu_insn *in, bool cmps)
{
	u8 *a = cmps ? cpu->bounce : NULL, *b = cpu->bounce + sizeof(cpu->bounce) / 2;
	u64 x = cpu_reg_read(cpu, RAX, in->opsize, true), y = 0, piece = 64;
	struct str s;
	int ret;

	if (!str_begin(cpu, in, &s))
		return CPU_OK;
	for (;;) {
		u64 si = str_offset(cpu, &s, RSI), di = str_offset(cpu, &s, RDI), k = 0;
		u8 *src = NULL, *dst;

		/* Pieces grow, so that a short string does not cost a page. */
		if (s.rep && !s.down)
			k = str_room(cpu, &s, SEG_ES, di, MMU_READ, &dst);
		if (k && cmps)
			k = MIN(k, str_room(cpu, &s, in->seg, si, MMU_READ, &src));
		k = MIN(k, piece / s.n);
		if (k && (hostmem_copy(b, dst, k * s.n) || (cmps && hostmem_copy(a, src, k * s.n))))
			k = 0;
		if (k) {
			k = compare_run(&s, a, b, k, &x, &y);
			piece = MIN(piece * 4, PAGE_SIZE);
		} else {
			ret = compare_read(cpu, &s, cmps ? &x : NULL, &y);
			if (ret)
				return ret;
			k = 1;
		}
		cpu->hflags = compare_flags(x, y, s.n);
		str_advance(cpu, &s, k, cmps, true);
		if (!compare_goes_on(&s, x == y)) {
			cpu_insn_done(cpu, in);
			return CPU_OK;
		}
		if (str_stop(cpu, &s, 0, &ret))
			return ret;
	}
}

int insn_scas(struct cpu *cpu, const struct cpu_insn *in)
{
	return compare(cpu, in, false);
}

int insn_cmps(struct cpu *cpu, const struct cpu_insn *in)
{
	return compare(cpu, in, true);
}
