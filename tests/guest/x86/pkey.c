/*
 * Protection keys of user pages (PKU) and of supervisor pages (PKS) against a model: every
 * combination of the key's rights, the page's write and user bits, CR0.WP, SMAP and EFLAGS.AC, for
 * reads, writes and fetches of both privileges, in 4 KiB, 2 MiB and 1 GiB pages; and the
 * instructions and registers around them.
 *
 * The pages are dirty, so that nothing but the key keeps a write from being remembered as allowed.
 *
 * Source: SDM "Protection Keys", "Page-Fault Exceptions". Keys are looked at without a flush, so
 * no case below invalidates anything after it changes rights.
 */
#include "x86/paging.h"
#include "x86/probe.h"

enum { AD = 1, WD = 2 };

static struct cases cases;
static ulong *leaf[4], va[4]; /* by level */
static u8 *target;

static const char *const sizes[] = {"", "4 KiB", "2 MiB", "1 GiB"};

/* ---- instructions ---- */

static int pkru_write(u32 v, u32 ecx, u32 edx)
{
	trap_clear();
	__asm__ volatile(TRY("wrpkru") : : "a"(v), "c"(ecx), "d"(edx) : "memory");
	return trap_vector();
}
static int pkru_read(u32 *v, u32 ecx)
{
	u32 edx = 0x55;

	trap_clear();
	__asm__ volatile(TRY("rdpkru") : "=a"(*v), "+d"(edx) : "c"(ecx) : "memory");
	return trap_vector() == -1 && edx ? 99 : trap_vector();
}

static void access(enum access a, bool user, ulong at, bool ac)
{
	if (user)
		access_user(a, at);
	else
		access_kernel(a, at, ac);
}

/* ---- the model ---- */

struct state {
	bool pke, pks, wp, smap, ac;
	bool page_w, page_u;
	unsigned key, rights; /* of that key, in both registers */
};

/* Error code of the fault, or -1. */
static int model(const struct state *s, enum access a, bool user)
{
	bool bad = false, pk = false;

	if (a != FETCH && (s->page_u ? s->pke : s->pks))
		pk = (s->rights & AD) || ((s->rights & WD) && a == WRITE && (user || s->wp));
	if (user) {
		bad = !s->page_u || (a == WRITE && !s->page_w);
	} else {
		bad = a == WRITE && !s->page_w && s->wp;
		bad |= s->page_u && a != FETCH && s->smap && !s->ac;
	}
	if (!bad && !pk)
		return -1;
	return (int)(PF_P | (a == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (a == FETCH ? PF_I : 0) |
		     (pk ? PF_PK : 0));
}

static void check(const struct state *s, unsigned level, enum access a, bool user)
{
	int want = model(s, a, user), got;

	access(a, user, va[level], s->ac);
	got = trap_vector() == -1 ? -1 : (int)trap_last()->error;
	cases.run++;
	if (got != want ||
	    (want >= 0 && (trap_vector() != EXC_PF || trap_last()->cr2 != va[level])))
		fail_case(&cases, "%s %s %s: page %s%s key %u %s%s %s%s%s%s%s: want %x, got %d/%x",
			  sizes[level], user ? "user" : "kernel",
			  a == READ    ? "read"
			  : a == WRITE ? "write"
				       : "fetch",
			  s->page_u ? "U" : "-", s->page_w ? "W" : "-", s->key,
			  s->rights & AD ? "AD" : "", s->rights & WD ? "WD" : "",
			  s->pke ? "PKE " : "", s->pks ? "PKS " : "", s->wp ? "WP " : "",
			  s->smap ? "SMAP " : "", s->ac ? "AC" : "", (unsigned)want, trap_vector(),
			  (unsigned)got);
}

/* Every other key but 0 forbids what this one allows. */
static u32 register_of(const struct state *s)
{
	u32 all = 0;

	for (unsigned k = 1; k < 16; k++)
		all |= (k == s->key ? s->rights : 3 ^ s->rights) << (2 * k);
	return all;
}

static void set_rights(const struct state *s)
{
	if (s->pke)
		pkru_write(register_of(s), 0, 0);
	if (s->pks)
		wrmsr(MSR_PKRS, register_of(s));
}

static void control(const struct state *s)
{
	write_cr0((read_cr0() & ~(ulong)CR0_WP) | (s->wp ? CR0_WP : 0));
	write_cr4((read_cr4() & ~(ulong)(CR4_PKE | CR4_PKS | CR4_SMAP)) | (s->pke ? CR4_PKE : 0) |
		  (s->pks ? CR4_PKS : 0) | (s->smap ? CR4_SMAP : 0));
}

static void sweep_page(struct state *s, unsigned level)
{
	static const u8 keys[] = {1, 7, 15};

	for (unsigned k = 0; k < ARRAY_SIZE(keys); k++)
		for (unsigned wu = 0; wu < 4; wu++) {
			s->key = keys[k];
			s->page_w = wu & 1;
			s->page_u = wu & 2;
			*(volatile ulong *)leaf[level] =
				((ulong)target & ~((1ul << (3 + 9 * level)) - 1)) | PT_P | PT_A |
				PT_D | (level > 1 ? PT_PS : 0) | (wu & 1 ? PT_W : 0) |
				(wu & 2 ? PT_U : 0) | (ulong)s->key << 59;
			invlpg((void *)va[level]);
			for (s->rights = 0; s->rights < 4; s->rights++) {
				set_rights(s);
				for (unsigned a = READ; a <= FETCH; a++) {
					check(s, level, (enum access)a, false);
					/* The manuals leave PK open for users on supervisor pages. */
					if (!s->ac && (s->page_u || !s->pks))
						check(s, level, (enum access)a, true);
				}
			}
		}
}

static void sweep(unsigned level)
{
	cases = (struct cases){0};
	for (unsigned c = 0; c < 32; c++) {
		struct state s = {
			.pke = c & 1, .pks = c & 2, .wp = c & 4, .smap = c & 8, .ac = c & 16};

		if ((s.pks && !HAS(PKS)) || (s.smap && !HAS(SMAP)) || (s.ac && !s.smap))
			continue;
		control(&s);
		sweep_page(&s, level);
		s.rights = 0;
		s.key = 0;
		if (s.pke)
			pkru_write(0, 0, 0);
		if (s.pks)
			wrmsr(MSR_PKRS, 0);
	}
	control(&(struct state){.wp = true});
	report_cases(&cases, sizes[level]);
}

static void tables(void)
{
	ulong *pml4 = (ulong *)(read_cr3() & ~0xffful), *pdpt = page_alloc(), *pd = page_alloc(),
	      *pt = page_alloc();
	ulong up = PT_P | PT_W | PT_U;

	target = page_alloc();
	target[0] = 0xc3;
	pml4[300] = (ulong)pdpt | up;
	pdpt[0] = (ulong)pd | up;
	pd[0] = (ulong)pt | up;
	va[1] = 0xffff000000000000 | 300ul << 39;
	leaf[1] = &pt[0];
	va[2] = va[1] + (1ul << 21) + ((ulong)target & 0x1fffff);
	leaf[2] = &pd[1];
	va[3] = va[1] + (1ul << 30) + ((ulong)target & 0x3fffffff);
	leaf[3] = &pdpt[1];
}

/* A read remembers a translation; what it remembers about writes must know the key. Plain data. */
static void write_after_read(void)
{
	ulong data = (ulong)page_alloc();

	for (unsigned user = 0; user < 2; user++) {
		if (!user && !HAS(PKS))
			continue;
		control(&(struct state){.wp = true, .pke = user, .pks = !user});
		*(volatile ulong *)leaf[1] =
			data | PT_P | PT_W | PT_A | PT_D | (user ? PT_U : 0) | 3ul << 59;
		invlpg((void *)va[1]);
		if (user)
			pkru_write(WD << 6, 0, 0);
		else
			wrmsr(MSR_PKRS, WD << 6);
		access(READ, user, va[1], false);
		report_eq((u64)(s64)trap_vector(), ~0ull, "WD: a read of %s page",
			  user ? "a user" : "a supervisor");
		access(WRITE, user, va[1], false);
		report(trap_vector() == EXC_PF && trap_last()->error & PF_PK, "WD: then a write");
		if (user)
			pkru_write(0, 0, 0);
		else
			wrmsr(MSR_PKRS, 0);
		access(WRITE, user, va[1], false);
		report_eq((u64)(s64)trap_vector(), ~0ull, "and a write when it is allowed");
	}
	control(&(struct state){.wp = true});
}

/* ---- registers ---- */

static void instructions(void)
{
	u32 v = 0;

	write_cr4(read_cr4() & ~(ulong)CR4_PKE);
	report_eq(pkru_read(&v, 0), EXC_UD, "RDPKRU without CR4.PKE");
	report_eq(pkru_write(0, 0, 0), EXC_UD, "WRPKRU without CR4.PKE");
	report(!HAS(OSPKE), "CPUID: no OSPKE");
	write_cr4(read_cr4() | CR4_PKE);
	report(HAS(OSPKE), "CPUID: OSPKE follows CR4.PKE");
	report_eq(pkru_write(0x12345678, 0, 0), -1, "WRPKRU");
	report(pkru_read(&v, 0) == -1 && v == 0x12345678, "RDPKRU reads it and clears EDX");
	report_eq(pkru_write(0, 1, 0), EXC_GP, "WRPKRU with ECX");
	report_eq(pkru_write(0, 0, 1), EXC_GP, "WRPKRU with EDX");
	report_eq(pkru_read(&v, 1), EXC_GP, "RDPKRU with ECX");
	__asm__ volatile("wrpkru" : : "a"(0), "c"(0xffffffff00000000), "d"(0xffffffff00000000));
	report(pkru_read(&v, 0) == -1 && !v, "upper halves of RCX and RDX do not count");
}

static void xsave(void)
{
	static u8 area[4096] __attribute__((aligned(64)));
	struct cpuid c;
	u32 v = 0;

	if (!HAS(XSAVE) || !(cpuid(0xd, 0).a & BIT(9))) {
		report_skip("PKRU in XSAVE areas");
		return;
	}
	write_cr4(read_cr4() | CR4_OSXSAVE | CR4_OSFXSR);
	__asm__ volatile("xsetbv" : : "a"(0x201), "d"(0), "c"(0));
	c = cpuid(0xd, 9);
	report(c.a == 8 && c.b >= 576, "its component has 8 bytes");
	pkru_write(0xa5a5a5a4, 0, 0);
	__asm__ volatile("xsave (%0)" : : "r"(area), "a"(0x200), "d"(0) : "memory");
	report(*(u32 *)(area + c.b) == 0xa5a5a5a4 && (*(u64 *)(area + 512) & BIT(9)),
	       "XSAVE stores PKRU");
	*(u32 *)(area + c.b) = 0x44440000;
	__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(0x200), "d"(0) : "memory");
	report(pkru_read(&v, 0) == -1 && v == 0x44440000, "XRSTOR loads it");
	*(u64 *)(area + 512) = 0;
	__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(0x200), "d"(0) : "memory");
	report(pkru_read(&v, 0) == -1 && !v, "XRSTOR without it: 0");
	/* Rights that XRSTOR loads count at once. */
	*(volatile ulong *)leaf[1] = (ulong)target | PT_P | PT_W | PT_U | 3ul << 59;
	invlpg((void *)va[1]);
	access(READ, false, va[1], false);
	report_eq((u64)(s64)trap_vector(), ~0ull, "key 3 may be read");
	*(u64 *)(area + 512) = BIT(9);
	*(u32 *)(area + c.b) = AD << 6;
	__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(0x200), "d"(0) : "memory");
	access(READ, false, va[1], false);
	report(trap_vector() == EXC_PF && trap_last()->error == (PF_P | PF_PK), "not after XRSTOR");
	pkru_write(0, 0, 0);
	__asm__ volatile("xsetbv" : : "a"(1), "d"(0), "c"(0));
}

static void pkrs(void)
{
	u64 v = 1ull << 32;

	trap_clear();
	if (!HAS(PKS)) {
		__asm__ volatile(TRY("rdmsr") : : "c"(MSR_PKRS) : "eax", "edx");
		report_eq(trap_vector(), EXC_GP, "PKRS: not there");
		return;
	}
	wrmsr(MSR_PKRS, 0xffff0000);
	report_eq(rdmsr(MSR_PKRS), 0xffff0000, "PKRS");
	__asm__ volatile(TRY("wrmsr") : : "c"(MSR_PKRS), "a"((u32)v), "d"((u32)(v >> 32)));
	report_eq(trap_vector(), EXC_GP, "PKRS has 32 bits");
	wrmsr(MSR_PKRS, 0);
}

void test_main(void)
{
	cli();
	user_map_code();
	if (!HAS(PKU)) {
		trap_clear();
		__asm__ volatile(TRY("mov %0, %%cr4") : : "r"(read_cr4() | CR4_PKE) : "memory");
		report_eq(trap_vector(), EXC_GP, "no PKU: CR4.PKE is reserved");
		return;
	}
	tables();
	instructions();
	pkrs();
	for (unsigned level = 1; level <= 3; level++)
		if (level < 3 || HAS(GBPAGES))
			sweep(level);
	write_after_read();
	write_cr4(read_cr4() | CR4_PKE);
	xsave();
}
