/*
 * fpu_image.c - FXSAVE, FXRSTOR and the XSAVE family
 *
 * The guest's state is live in the host's registers. A save runs the host's own instruction into
 * cpu->fpu_scratch, always in the 64-bit standard form with all components, and then copies those
 * bytes to the guest that its instruction would have written in its mode and form. A restore builds
 * a standard image in the scratch buffer and runs the host's XRSTOR on it, after every check that
 * could make it fault.
 *
 * Two things are put right on the way. PKRU is not in the host's register: guests never touch that,
 * so its component is cpu->pkru. And the x87 instruction pointer names translated code: it becomes
 * the guest's RIP, and the data pointer, a host address then, becomes zero.
 *
 * Outside 64-bit mode registers 8 and up are neither stored nor changed.
 */
#include "base/mem.h"
#include "cpu/control.h"
#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/fpu.h"
#include "cpu/fpu_host.h"
#include "cpu/fpu_image.h"
#include "cpu/insn.h"
#include "mmu/mmu.h"
#include "mmu/translator.h"

#define XSAVE_HEADER	 512u
#define XSAVE_EXTENDED	 576u
#define AT_MXCSR	 24u
#define AT_ST		 32u
#define AT_XMM		 160u
#define BYTES_XMM_ALL	 256u
#define BYTES_XMM_LEGACY 128u

static struct fpu_legacy *scratch_of(struct cpu *cpu)
{
	return (struct fpu_legacy *)cpu->fpu_scratch;
}

/* --- pointers ------------------------------------------------------------------------------------ */

void fpu_pointers_guest(struct cpu *cpu, struct fpu_legacy *image)
{
	u64 pc = image->fip ? jit_guest_pc(cpu, image->fip) : 0;

	if (!pc)
		return;
	image->fip = pc;
	image->fdp = 0;
}

/* Without REX.W the pointers are 32 bits each, with selectors that are always zero here. */
static void pointers_narrow(struct fpu_legacy *image)
{
	image->fip = (u32)image->fip;
	image->fdp = (u32)image->fdp;
}

/* --- the guest's image ------------------------------------------------------------------------------ */

#define IMAGE_PIECE 16u

/* The operand. Its pieces have addresses of the address size: it may begin at one end and go on at the other. */
struct image {
	const struct cpu_insn *in;
	u64 off, mask, lin;
	bool wraps;
};

/* Reads, writes, or without a buffer only probes. */
static int linear_access(struct cpu *cpu, u64 lin, u8 *buf, u32 n, unsigned access)
{
	access |= MMU_AS_VIEW;
	return !buf		    ? mmu_probe(cpu, lin, n, access)
	       : access & MMU_WRITE ? mmu_write(cpu, lin, buf, n, access)
				    : mmu_read(cpu, lin, buf, n, access);
}

/* The same with bytes [at, at + n) of the image. */
static int image_access(struct cpu *cpu, const struct image *m, u32 at, void *buf, u32 n,
			unsigned access)
{
	int ret = CPU_OK;

	if (LIKELY(!m->wraps))
		return linear_access(cpu, m->lin + at, buf, n, access);
	for (u32 i = 0, len; i < n && !ret; i += len) {
		u64 lin;

		len = MIN(n - i, IMAGE_PIECE - (at + i) % IMAGE_PIECE);
		ret = cpu_linear(cpu, m->in->seg, (m->off + at + i) & m->mask, len, access, &lin);
		if (!ret)
			ret = linear_access(cpu, lin, buf ? (u8 *)buf + i : NULL, len, access);
	}
	return ret;
}

struct chunk {
	u16 at, from, len; /* offset in the guest's image, in the scratch buffer, bytes */
};

struct chunks {
	unsigned count;
	struct chunk c[4 + CPU_XCOMP_COUNT];
};

/* Neighbouring pieces become one. */
static void chunk_add(struct chunks *l, u32 at, u32 from, u32 len)
{
	struct chunk *last = l->count ? &l->c[l->count - 1] : NULL;

	if (!len)
		return;
	if (last && last->at + last->len == at && last->from + last->len == from)
		last->len = (u16)(last->len + len);
	else
		l->c[l->count++] = (struct chunk){(u16)at, (u16)from, (u16)len};
}

/*
 * All or nothing: every piece is checked before the first is written, unless all lie in one page,
 * where the first write speaks for the others.
 */
static int image_write(struct cpu *cpu, const struct image *m, const struct chunks *l)
{
	const struct chunk *last = &l->c[l->count - 1];
	u64 first_page = (m->lin + l->c[0].at) & PAGE_MASK;
	bool one_page = first_page == ((m->lin + last->at + last->len - 1) & PAGE_MASK);
	int ret = CPU_OK;

	for (unsigned i = 0; i < l->count && !ret && (m->wraps || !one_page); i++)
		ret = image_access(cpu, m, l->c[i].at, NULL, l->c[i].len, MMU_WRITE);
	for (unsigned i = 0; i < l->count && !ret; i++)
		ret = image_access(cpu, m, l->c[i].at, cpu->fpu_scratch + l->c[i].from, l->c[i].len,
				   MMU_WRITE);
	return ret;
}

/*
 * The operand of that size, aligned as the instruction wants it: looked at before the segment's or the
 * canonical check by the XSAVE family, after it by FXSAVE and FXRSTOR.
 */
static int image_begin(struct cpu *cpu, const struct cpu_insn *in, u32 size, u32 align,
		       unsigned access, struct image *m)
{
	u64 off = cpu_insn_offset(cpu, in);
	u64 base = cpu_is_64bit(cpu) && in->seg < SEG_FS ? 0 : cpu->seg[in->seg].base;

	bool aligned = !((base + off) & (align - 1));
	int ret;

	if (!aligned && align == 64)
		return cpu_raise_err(cpu, EXC_GP, 0);
	*m = (struct image){.in = in,
			    .off = off,
			    .mask = in->addrsize == 8 ? ~0ull : BIT64(8 * in->addrsize) - 1};
	m->wraps = off + size - 1 > m->mask;
	ret = cpu_linear(cpu, in->seg, off, m->wraps ? IMAGE_PIECE : size, access, &m->lin);
	return ret || aligned ? ret : cpu_raise_err(cpu, EXC_GP, 0);
}

static u32 xmm_bytes(const struct cpu *cpu)
{
	return cpu_is_64bit(cpu) ? BYTES_XMM_ALL : BYTES_XMM_LEGACY;
}

/* --- FXSAVE, FXRSTOR ---------------------------------------------------------------------------------- */

/* AMD's fast form leaves the XMM registers to the operating system. */
static bool fxsr_is_fast(const struct cpu *cpu)
{
	return (cpu->efer & EFER_FFXSR) && !cpu->cpl && cpu_is_64bit(cpu);
}

static int fxsr_check(struct cpu *cpu, const struct cpu_insn *in)
{
	if (!in->mem || (in->prefix & CPU_PREFIX_LOCK) || !cpu_has(cpu, X86_FEATURE_FXSR))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		return cpu_raise(cpu, EXC_NM);
	return CPU_OK;
}

int insn_fxsave(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = scratch_of(cpu);
	struct chunks l = {0};
	struct image m;
	int ret = fxsr_check(cpu, in);

	if (ret == CPU_OK)
		ret = image_begin(cpu, in, 512, 16, MMU_WRITE, &m);
	/* all of the area must be writable, even where nothing is stored */
	if (ret == CPU_OK)
		ret = image_access(cpu, &m, 0, NULL, 512, MMU_WRITE);
	if (ret)
		return ret;
	host_fxsave(image);
	fpu_pointers_guest(cpu, image);
	if (in->opsize != 8)
		pointers_narrow(image);
	chunk_add(&l, 0, 0, AT_XMM);
	if (!fxsr_is_fast(cpu))
		chunk_add(&l, AT_XMM, AT_XMM, xmm_bytes(cpu));
	ret = image_write(cpu, &m, &l);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

int insn_fxrstor(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = scratch_of(cpu), *guest = image + 1;
	struct image m;
	int ret = fxsr_check(cpu, in);

	if (ret == CPU_OK)
		ret = image_begin(cpu, in, 512, 16, MMU_READ, &m);
	if (ret == CPU_OK)
		ret = image_access(cpu, &m, 0, guest, 512, MMU_READ);
	if (ret)
		return ret;
	if (guest->mxcsr & ~cpu->mxcsr_mask)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (in->opsize != 8)
		pointers_narrow(guest);
	host_fxsave(image);
	mem_copy(image, guest, AT_XMM);
	if (!fxsr_is_fast(cpu))
		mem_copy(image->xmm, guest->xmm, xmm_bytes(cpu));
	host_fxrstor(image);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

/* --- the XSAVE family ------------------------------------------------------------------------------------ */

/* Conditions common to all forms. *rfbm: the components asked for. */
static int xsave_check(struct cpu *cpu, const struct cpu_insn *in, u64 *rfbm)
{
	static const struct {
		u8 form;
		enum cpu_feature feature;
	} forms[] = {
		{'S', X86_FEATURE_XSAVES},
		{'C', X86_FEATURE_XSAVEC},
		{'O', X86_FEATURE_XSAVEOPT},
	};
	bool ok = in->mem && !(in->prefix & CPU_PREFIX_LOCK) && (cpu->cr4 & CR4_OSXSAVE) &&
		  cpu_has(cpu, X86_FEATURE_XSAVE);

	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++)
		if (in->opcode == forms[i].form && !cpu_has(cpu, forms[i].feature))
			ok = false;
	if (!ok)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cr0 & CR0_TS)
		return cpu_raise(cpu, EXC_NM);
	if (in->opcode == 'S' && cpu->cpl)
		return cpu_raise_err(cpu, EXC_GP, 0);
	*rfbm = (u32)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;
	*rfbm &= cpu->xcr0 | (in->opcode == 'S' ? cpu->xss : 0);
	return CPU_OK;
}

/* Bytes of a component that the guest's mode can see: half of it where there are eight registers. */
static u32 component_bytes(const struct cpu *cpu, unsigned i)
{
	u32 size = cpu->xcomp[i].size;

	if (cpu_is_64bit(cpu) || i == 5 || i == 9)
		return size;
	return i == 7 ? 0 : size / 2;
}

/* Where component i lies in an image; walks upward from *end in the compacted format. */
static u32 component_place(const struct cpu *cpu, unsigned i, bool compacted, u32 *end)
{
	u32 at = cpu->xcomp[i].offset;

	if (compacted) {
		at = cpu->xcomp[i].align ? (u32)align_up(*end, 64) : *end;
		*end = at + cpu->xcomp[i].size;
	}
	return at;
}

/* The legacy area's pieces of an XSAVE. */
static void legacy_chunks(const struct cpu *cpu, struct chunks *l, u64 save, bool mxcsr)
{
	if (save & XSTATE_X87)
		chunk_add(l, 0, 0, AT_MXCSR);
	if (mxcsr)
		chunk_add(l, AT_MXCSR, AT_MXCSR, 8);
	if (save & XSTATE_X87)
		chunk_add(l, AT_ST, AT_ST, AT_XMM - AT_ST);
	if (save & XSTATE_SSE)
		chunk_add(l, AT_XMM, AT_XMM, xmm_bytes(cpu));
}

/* The whole live state with PKRU in the scratch buffer; returns the components in use. */
static u64 scratch_save(struct cpu *cpu)
{
	struct fpu_legacy *image = scratch_of(cpu);
	u64 pkru = cpu->pkru;

	mem_set(&image->xstate_bv, 0, 64);
	host_xsave(image, cpu->fpu_mask);
	mem_copy(cpu->fpu_scratch + cpu->xcomp[9].offset, &pkru, 8);
	return image->xstate_bv | (pkru ? XSTATE_PKRU : 0);
}

int insn_xsave(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = scratch_of(cpu);
	bool compacted = in->opcode == 'S' || in->opcode == 'C';
	u64 rfbm = 0, used, save, bv;
	struct chunks l = {0};
	struct image m;
	u32 end = XSAVE_EXTENDED;
	int ret = xsave_check(cpu, in, &rfbm);

	if (ret)
		return ret;
	u32 size = cpu_xsave_size(cpu->xcomp, rfbm, compacted);

	ret = image_begin(cpu, in, size, 64, MMU_WRITE, &m);
	/* all of the area must be writable, even where nothing is stored */
	if (ret == CPU_OK)
		ret = image_access(cpu, &m, 0, NULL, size, MMU_WRITE);
	if (ret)
		return ret;
	used = scratch_save(cpu);
	fpu_pointers_guest(cpu, image);
	if (in->opsize != 8)
		pointers_narrow(image);
	if (compacted && image->mxcsr != MXCSR_INIT)
		used |= XSTATE_SSE;
	save = in->opcode == 'X' ? rfbm : rfbm & used;
	bv = rfbm & used;
	if (!compacted) {
		u64 old;

		ret = image_access(cpu, &m, XSAVE_HEADER, &old, 8, MMU_READ);
		if (ret)
			return ret;
		bv |= old & ~rfbm;
	}
	image->xstate_bv = bv;
	image->xcomp_bv = rfbm | XCOMP_COMPACTED;
	legacy_chunks(cpu, &l, save,
		      compacted ? save & XSTATE_SSE : rfbm & (XSTATE_SSE | XSTATE_AVX));
	chunk_add(&l, XSAVE_HEADER, XSAVE_HEADER, compacted ? 16 : 8);
	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++) {
		u32 at;

		if (!(rfbm & BIT64(i)))
			continue;
		at = component_place(cpu, i, compacted, &end);
		if (save & BIT64(i))
			chunk_add(&l, at, cpu->xcomp[i].offset, component_bytes(cpu, i));
	}
	ret = image_write(cpu, &m, &l);
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

/* The header's rules for both formats. */
static bool header_valid(const struct cpu *cpu, const struct cpu_insn *in, const u64 h[8])
{
	u64 known = cpu->xcr0 | (in->opcode == 'S' ? cpu->xss : 0);
	u64 bv = h[0], xcomp = h[1];

	if (!(xcomp & XCOMP_COMPACTED))
		return in->opcode != 'S' && !(bv & ~known) && !xcomp && !h[2];
	if (in->opcode != 'S' && !cpu_has(cpu, X86_FEATURE_XSAVEC))
		return false;
	for (unsigned i = 2; i < 8; i++)
		if (h[i])
			return false;
	xcomp &= ~XCOMP_COMPACTED;
	return !(xcomp & ~known) && !(bv & ~xcomp);
}

/* What XRSTOR found in the guest's image. */
struct restore {
	struct image m;
	u64 rfbm, bv, xcomp;
	bool compacted;
};

/* The legacy area: what the guest's image gives, over what the registers hold now. */
static int restore_legacy(struct cpu *cpu, const struct cpu_insn *in, const struct restore *r)
{
	struct fpu_legacy *image = scratch_of(cpu), guest;
	u64 load = r->rfbm & r->bv;
	u32 mxcsr = image->mxcsr;
	int ret;

	ret = image_access(cpu, &r->m, 0, &guest, XSAVE_HEADER, MMU_READ);
	if (ret)
		return ret;
	if (!r->compacted && (r->rfbm & (XSTATE_SSE | XSTATE_AVX)))
		mxcsr = guest.mxcsr;
	else if (r->compacted && (r->rfbm & XSTATE_SSE))
		mxcsr = load & XSTATE_SSE ? guest.mxcsr : MXCSR_INIT;
	if (mxcsr & ~cpu->mxcsr_mask)
		return cpu_raise_err(cpu, EXC_GP, 0);
	if (load & XSTATE_X87) {
		if (in->opsize != 8)
			pointers_narrow(&guest);
		mem_copy(image, &guest, AT_MXCSR);
		mem_copy(image->st, guest.st, sizeof(image->st));
	}
	image->mxcsr = mxcsr;
	if (load & XSTATE_SSE)
		mem_copy(image->xmm, guest.xmm, xmm_bytes(cpu));
	else if (r->rfbm & XSTATE_SSE)
		mem_set(image->xmm, 0, xmm_bytes(cpu));
	return CPU_OK;
}

static int restore_extended(struct cpu *cpu, const struct restore *r, u32 *pkru)
{
	u32 end = XSAVE_EXTENDED;
	int ret;

	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++) {
		u8 *to = cpu->fpu_scratch + cpu->xcomp[i].offset;
		u32 at = 0, bytes = component_bytes(cpu, i);

		/* what a compacted image leaves out is asked for all the same: its initial state */
		if (!r->compacted || r->xcomp & BIT64(i))
			at = component_place(cpu, i, r->compacted, &end);
		if (!(r->rfbm & BIT64(i)) || !bytes)
			continue;
		if (!(r->bv & BIT64(i))) {
			mem_set(to, 0, bytes);
		} else {
			ret = image_access(cpu, &r->m, at, to, bytes, MMU_READ);
			if (ret)
				return ret;
		}
		if (i == 9)
			*pkru = (u32)mem_load(to, 4);
	}
	return CPU_OK;
}

int insn_xrstor(struct cpu *cpu, const struct cpu_insn *in)
{
	struct fpu_legacy *image = scratch_of(cpu);
	u64 header[8], used, mask;
	u32 pkru = cpu->pkru;
	struct restore r;
	int ret = xsave_check(cpu, in, &r.rfbm);

	if (ret)
		return ret;
	/* the beginning faults before the end is found to be beyond the segment */
	ret = image_begin(cpu, in, 64, 64, MMU_READ, &r.m);
	if (ret == CPU_OK)
		ret = image_access(cpu, &r.m, 0, NULL, 64, MMU_READ);
	if (ret == CPU_OK)
		ret = image_begin(cpu, in, XSAVE_EXTENDED, 64, MMU_READ, &r.m);
	if (ret == CPU_OK)
		ret = image_access(cpu, &r.m, 0, NULL, XSAVE_EXTENDED, MMU_READ);
	if (ret == CPU_OK)
		ret = image_access(cpu, &r.m, XSAVE_HEADER, header, 64, MMU_READ);
	if (ret)
		return ret;
	if (!header_valid(cpu, in, header))
		return cpu_raise_err(cpu, EXC_GP, 0);
	r.m.wraps = r.m.off > r.m.mask - sizeof(cpu->fpu_scratch); /* the extended part may */
	r.bv = header[0];
	r.compacted = header[1] & XCOMP_COMPACTED;
	r.xcomp = header[1] & ~XCOMP_COMPACTED;
	used = scratch_save(cpu);
	ret = restore_legacy(cpu, in, &r);
	if (ret == CPU_OK)
		ret = restore_extended(cpu, &r, &pkru);
	if (ret)
		return ret;
	mask = r.rfbm & cpu->fpu_mask;
	image->xstate_bv = r.bv & mask;
	if (!cpu_is_64bit(cpu)) {
		/* Registers 8 and up keep their values, which are in the image already. */
		mask &= ~BIT64(7);
		image->xstate_bv = (image->xstate_bv | (used & mask & ~XSTATE_X87)) & mask;
	}
	image->xcomp_bv = 0;
	/* MXCSR goes with SSE or AVX; a compacted image that names neither leaves it alone. */
	host_xrstor(image, mask);
	if (r.rfbm & XSTATE_PKRU)
		cpu_pkru_write(cpu, pkru);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}
