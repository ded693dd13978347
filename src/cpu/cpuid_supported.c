/*
 * cpuid_supported.c - the CPUID that guests can be given on this host
 *
 * Feature bits come from feature.def; here are the leaves that hold numbers. Topology (APIC IDs,
 * sharing of caches, levels) is the client's to fill in, as with KVM.
 */
#include <errno.h>
#include "cpu/cpuid.h"
#include "cpu/cpuid_internal.h"
#include "cpu/model.h"

enum policy { NO, HOST, EMUL, HOST_INTEL, EMUL_INTEL, HOST_AMD, EMUL_AMD, RUN, CAP };

static const struct feature_row {
	unsigned feature;
	const char *name;
	enum policy policy;
	const char *reason;
} rows[] = {
#define FEATURE(name, word, bit, policy, reason) {X86_FEATURE_##name, #name, policy, reason},
#include "cpu/feature.def"
};

const unsigned cpuid_words[FEATURE_WORD_COUNT] = {
#define WORD(id, leaf, index, reg) [FEATURE_WORD_##id] = FEATURE_BASE_##id,
#include "cpu/feature.def"
};

const char *feature_name(unsigned f)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].feature == f)
			return rows[i].name;
	return NULL;
}

/*
 * CPUID of a host that is a guest itself costs tens of microseconds, and every VM and vCPU asks for
 * dozens of leaves: each is asked once in a process. Facts of the host, not state of ours. Rows
 * are taken in order and never given back; who finds a row being filled asks the host.
 */
struct host_row {
	u32 state; /* 0: free, 1: being filled, 2: filled */
	u32 leaf, index, regs[4];
};

void cpuid_host(u32 leaf, u32 index, u32 regs[4])
{
	static struct host_row rows[96];
	struct host_row *row;

	for (row = rows; row < rows + ARRAY_SIZE(rows); row++) {
		u32 state = __atomic_load_n(&row->state, __ATOMIC_ACQUIRE);

		if (state == 2 && row->leaf == leaf && row->index == index) {
			for (unsigned i = 0; i < 4; i++)
				regs[i] = row->regs[i];
			return;
		}
		if (!state)
			break;
	}
	__asm__ volatile("cpuid"
			 : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
			 : "a"(leaf), "c"(index));
	for (; row < rows + ARRAY_SIZE(rows); row++) {
		u32 free = 0;

		if (!__atomic_compare_exchange_n(&row->state, &free, 1, false, __ATOMIC_ACQUIRE,
						 __ATOMIC_RELAXED))
			continue;
		row->leaf = leaf;
		row->index = index;
		for (unsigned i = 0; i < 4; i++)
			row->regs[i] = regs[i];
		__atomic_store_n(&row->state, 2, __ATOMIC_RELEASE);
		return;
	}
}

/* A host leaf that may not exist reads as zeros here, whatever the vendor's rule. */
static void host_leaf(u32 leaf, u32 index, u32 regs[4])
{
	cpuid_host(leaf & 0x80000000, 0, regs);
	if (regs[0] < leaf) {
		regs[0] = regs[1] = regs[2] = regs[3] = 0;
		return;
	}
	cpuid_host(leaf, index, regs);
}

static bool host_is_amd(void)
{
	u32 r[4];

	cpuid_host(0, 0, r);
	return r[CPUID_ECX] == 0x444d4163 || r[CPUID_ECX] == 0x656e6975;
}

u32 cpuid_word_supported(enum cpu_vendor vendor, enum cpu_feature_word word, bool caps)
{
	bool intel = vendor == CPU_VENDOR_INTEL;
	u32 host[4], v = 0;

	host_leaf(feature_leaf(cpuid_words[word]), feature_index(cpuid_words[word]), host);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		unsigned f = rows[i].feature, bit = feature_bit(f);
		bool has = (host[feature_reg(f)] >> bit) & 1, on = false;

		if (f >> 23 != word)
			continue;
		switch (rows[i].policy) {
		case NO:
		case RUN:
			break;
		case CAP:
			on = caps;
			break;
		case HOST:
			on = has;
			break;
		case EMUL:
			on = true;
			break;
		case HOST_INTEL:
			on = intel && has;
			break;
		case EMUL_INTEL:
			on = intel;
			break;
		case HOST_AMD:
			on = !intel && has;
			break;
		case EMUL_AMD:
			on = !intel;
			break;
		}
		v |= (u32)on << bit;
	}
	return v;
}

void cpuid_words_native(u32 words[FEATURE_WORD_COUNT])
{
	u32 host[4] = {0}, word = FEATURE_WORD_COUNT;

	for (unsigned w = 0; w < FEATURE_WORD_COUNT; w++)
		words[w] = 0;
	/* The rows of a word lie together. */
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		unsigned f = rows[i].feature;

		if (rows[i].policy != HOST && rows[i].policy != HOST_INTEL &&
		    rows[i].policy != HOST_AMD)
			continue;
		if (f >> 23 != word) {
			word = f >> 23;
			host_leaf(feature_leaf(cpuid_words[word]), feature_index(cpuid_words[word]),
				  host);
		}
		words[word] |= host[feature_reg(f)] & BIT(feature_bit(f));
	}
}

/* --- XSAVE components ------------------------------------------------------------------------- */

static u64 host_xcr0(void)
{
	u32 r[4], lo, hi;

	cpuid_host(1, 0, r);
	if (!(r[CPUID_ECX] & BIT(27)))
		return XSTATE_X87 | XSTATE_SSE;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

u64 cpu_xcr0_supported(void)
{
	u64 v = host_xcr0() & CPU_XCR0_MASK;

	if ((v & XSTATE_AVX512) != XSTATE_AVX512)
		v &= ~XSTATE_AVX512;
	return v | XSTATE_PKRU;
}

void cpu_xcomp_init(struct cpu_xcomp x[CPU_XCOMP_COUNT])
{
	u64 mask = cpu_xcr0_supported() & ~XSTATE_PKRU;
	u32 end = 576, r[4];

	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++) {
		x[i].offset = x[i].size = 0;
		x[i].align = false;
		if (!(mask & BIT64(i)))
			continue;
		host_leaf(0xd, i, r);
		x[i].size = (u16)r[CPUID_EAX];
		x[i].offset = (u16)r[CPUID_EBX];
		x[i].align = r[CPUID_ECX] & 2;
		end = MAX(end, r[CPUID_EAX] + r[CPUID_EBX]);
	}
	/* PKRU lies where the host has it, or behind everything else. */
	host_leaf(0xd, 9, r);
	x[9].size = 8;
	x[9].offset = (u16)(r[CPUID_EBX] ? r[CPUID_EBX] : align_up(end, 64));
}

/* --- the leaves ------------------------------------------------------------------------------- */

struct list {
	enum cpu_vendor vendor;
	const struct cpu_model *model; /* or NULL: all that the host can do */
	struct cpu_cpuid *out;
	unsigned max, count;
};

/* The features of one word. */
static u32 word_of(const struct list *l, enum cpu_feature_word word)
{
	u32 v = cpuid_word_supported(l->vendor, word, false);

	for (unsigned bit = 0; l->model && bit < 32; bit++)
		if ((v >> bit & 1) && !cpu_model_has(l->model, cpuid_words[word] + bit))
			v &= ~BIT(bit);
	return v;
}

static void add(struct list *l, u32 leaf, u32 index, u32 flags, const u32 r[4])
{
	if (l->count < l->max)
		l->out[l->count] = (struct cpu_cpuid){
			.leaf = leaf,
			.index = index,
			.flags = flags,
			.eax = r[0],
			.ebx = r[1],
			.ecx = r[2],
			.edx = r[3],
		};
	l->count++;
}

#define WORD_OF(l, id)	   word_of(l, FEATURE_WORD_##id)
#define LEAF(l, leaf, ...) add(l, leaf, 0, 0, (const u32[4]){__VA_ARGS__})
#define LEAF_INDEX(l, leaf, index, ...) \
	add(l, leaf, index, CPUID_FLAG_INDEX, (const u32[4]){__VA_ARGS__})

/* The host's own signature when the vendor is the host's, else a widely known server. */
static u32 signature(const struct list *l)
{
	u32 r[4];

	if (l->model)
		return l->model->signature;
	if (host_is_amd() == (l->vendor == CPU_VENDOR_AMD)) {
		cpuid_host(1, 0, r);
		return r[0];
	}
	return l->vendor == CPU_VENDOR_AMD ? 0x00a00f11 : 0x000606a6;
}

/* Caches as the host describes them, with nothing shared; leaves 4 and 0x8000001d agree in format. */
static void add_caches(struct list *l, u32 leaf)
{
	u32 from = host_is_amd() ? 0x8000001d : 4, r[4];
	unsigned i;

	for (i = 0; i < 8; i++) {
		host_leaf(from, i, r);
		if (!(r[0] & 0x1f))
			break;
		r[0] &= 0x3fff;
		add(l, leaf, i, CPUID_FLAG_INDEX, r);
	}
	LEAF_INDEX(l, leaf, i, 0);
}

static void add_xsave(struct list *l)
{
	struct cpu_xcomp x[CPU_XCOMP_COUNT];
	u64 mask = cpu_xcr0_supported();
	u32 full, r[4];

	if (!(WORD_OF(l, 1_ECX) & BIT(26)))
		return;
	if (!cpu_model_has(l->model, X86_FEATURE_AVX))
		mask &= ~XSTATE_AVX;
	if (!cpu_model_has(l->model, X86_FEATURE_AVX512F))
		mask &= ~XSTATE_AVX512;
	if (!cpu_model_has(l->model, X86_FEATURE_PKU))
		mask &= ~XSTATE_PKRU;
	cpu_xcomp_init(x);
	full = cpu_xsave_size(x, mask, false);
	LEAF_INDEX(l, 0xd, 0, (u32)mask, full, full, (u32)(mask >> 32));
	r[0] = WORD_OF(l, D_1_EAX);
	r[1] = r[0] & (BIT(1) | BIT(3)) ? cpu_xsave_size(x, mask, true) : 0;
	LEAF_INDEX(l, 0xd, 1, r[0], r[1], 0, 0);
	for (unsigned i = 2; i < CPU_XCOMP_COUNT; i++)
		if (mask & BIT64(i))
			LEAF_INDEX(l, 0xd, i, x[i].size, x[i].offset, x[i].align ? 2 : 0, 0);
}

static void add_basic(struct list *l)
{
	bool intel = l->vendor == CPU_VENDOR_INTEL;

	if (intel)
		LEAF(l, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	else
		LEAF(l, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	LEAF(l, 1, signature(l), 0x00010800, WORD_OF(l, 1_ECX), WORD_OF(l, 1_EDX));
	if (intel) {
		LEAF(l, 2, 0x00feff01, 0, 0, 0); /* descriptors: see leaf 4; 64-byte prefetch */
		add_caches(l, 4);
	}
	LEAF(l, 5, 0); /* MWAIT: filled in by a client that lets the guest have it */
	LEAF(l, 6, WORD_OF(l, 6_EAX), 0, 0, 0);
	LEAF_INDEX(l, 7, 0, 2, WORD_OF(l, 7_0_EBX), WORD_OF(l, 7_0_ECX), WORD_OF(l, 7_0_EDX));
	LEAF_INDEX(l, 7, 1, WORD_OF(l, 7_1_EAX), 0, 0, WORD_OF(l, 7_1_EDX));
	LEAF_INDEX(l, 7, 2, 0, 0, 0, WORD_OF(l, 7_2_EDX));
	if (intel)
		LEAF(l, 0xa, 2 | PMU_GP_MAX << 8 | PMU_WIDTH << 16 | PMU_EVENTS_INTEL << 24,
		     PMU_EVENTS_MISSING, 0, PMU_FIXED_MAX | PMU_WIDTH << 5 | BIT(15));
	LEAF_INDEX(l, 0xb, 0, 0);
	add_xsave(l);
	if (!intel)
		return;
	LEAF_INDEX(l, 0x14, 0, 0); /* no processor trace */
	LEAF(l, 0x15, 0);	   /* the client's, with the TSC frequency it chose */
	LEAF(l, 0x16, 0);
	LEAF_INDEX(l, 0x1f, 0, 0);
}

static void add_brand(struct list *l)
{
	const char *text = l->model ? l->model->brand : NULL;
	u32 r[4];

	for (u32 leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
		if (text)
			r[0] = r[1] = r[2] = r[3] = 0;
		else
			host_leaf(leaf, 0, r);
		for (unsigned i = 0; text && i < 16 && *text; i++)
			r[i / 4] |= (u32)(u8)*text++ << (i % 4 * 8);
		add(l, leaf, 0, 0, r);
	}
}

static void add_extended(struct list *l)
{
	bool intel = l->vendor == CPU_VENDOR_INTEL;
	u32 r[4], addr;

	if (intel)
		LEAF(l, 0x80000000, 0x80000008, 0, 0, 0);
	else
		LEAF(l, 0x80000000, 0x80000022, 0x68747541, 0x444d4163, 0x69746e65);
	LEAF(l, 0x80000001, intel ? 0 : signature(l), 0, WORD_OF(l, 81_ECX), WORD_OF(l, 81_EDX));
	add_brand(l);
	host_leaf(0x80000005, 0, r);
	if (intel)
		r[0] = r[1] = r[2] = r[3] = 0;
	add(l, 0x80000005, 0, 0, r);
	host_leaf(0x80000006, 0, r);
	if (intel)
		r[0] = r[1] = r[3] = 0;
	else
		r[3] &= 0x0000ffff; /* size of L3 is that of the whole package */
	add(l, 0x80000006, 0, 0, r);
	LEAF(l, 0x80000007, 0, 0, 0, WORD_OF(l, 87_EDX));
	host_leaf(0x80000008, 0, r);
	addr = r[0] & 0xff;
	LEAF(l, 0x80000008, (addr ? addr : 36) | 57 << 8, WORD_OF(l, 88_EBX), 0, 0);
	if (intel)
		return;
	LEAF(l, 0x8000000a, 0, 0, 0, WORD_OF(l, 8A_EDX));
	LEAF(l, 0x80000019, 0);
	host_leaf(0x8000001a, 0, r);
	LEAF(l, 0x8000001a, r[0] & 7, 0, 0, 0);
	add_caches(l, 0x8000001d);
	LEAF(l, 0x8000001e, 0);
	LEAF(l, 0x8000001f, WORD_OF(l, 8_1F_EAX), 0, 0, 0);
	LEAF(l, 0x80000021, WORD_OF(l, 8_21_EAX), 0, WORD_OF(l, 8_21_ECX), 0);
	LEAF(l, 0x80000022, WORD_OF(l, 8_22_EAX), 0, 0, 0);
}

/* The model's last leaf in place of the newest's. */
static void drop_newer(struct list *l)
{
	unsigned n = 0;

	if (!l->model || l->count > l->max)
		return;
	for (unsigned i = 0; i < l->count; i++)
		if (l->out[i].leaf <= l->model->last_leaf)
			l->out[n++] = l->out[i];
	l->count = n;
	l->out[0].eax = l->model->last_leaf;
}

int cpu_cpuid_supported(enum cpu_vendor vendor, struct cpu_cpuid *out, unsigned max)
{
	return cpu_cpuid_supported_by(vendor, NULL, out, max);
}

int cpu_cpuid_supported_by(enum cpu_vendor vendor, const struct cpu_model *model,
			   struct cpu_cpuid *out, unsigned max)
{
	struct list l = {.vendor = vendor, .model = model, .out = out, .max = max};

	add_basic(&l);
	drop_newer(&l);
	LEAF(&l, 0x40000000, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d); /* KVMKVMKVM */
	LEAF(&l, 0x40000001, WORD_OF(&l, KVM_EAX), 0, 0, WORD_OF(&l, KVM_EDX));
	add_extended(&l);
	return l.count > max ? -E2BIG : (int)l.count;
}
