/*
 * Device memory through every form of instruction that the manuals allow there: each is executed
 * on plain memory and on a device register that holds what is written (the timer's initial count
 * for 32 bits, the I/O APIC's index for bytes), with the same registers; registers, flags and the
 * memory afterwards must be the same. Which instructions: forms.def.
 * Source: SDM, the instructions' pages; "Local APIC": registers are accessed by 32 bits.
 */
#include "x86/apic.h"
#include "x86/paging.h"

#define TMICT 0xfee00380ul
#define INDEX 0xfec00000ul

/* Arithmetic flags that an instruction defines or leaves alone. */
enum {
	ALL = 0x8d5,
	LOGIC = 0x8c5,
	SHIFT1 = 0x8c5,
	SHIFTN = 0xc5,
	ROT1 = 0x8d5,
	ROTN = 0xd5,
	MUL = 0x801,
	NONE = 0,
	BITS = 0x41,
	SCAN = 0x40,
	COUNT = 0x41,
};

#if IS64
#define SP "rsp"
#define SI "rsi"
#define DI "rdi"
#else
#define SP "esp"
#define SI "esi"
#define DI "edi"
#endif

struct state {
	ulong ax, cx, dx, flags;
	u32 mem;
};

u32 cell;

typedef void form_fn(ulong p, struct state *s);

struct form {
	const char *text;
	u32 flags;
	int feature;
	form_fn *run;
};

#define NAME2(a, b) a##b
#define NAME1(a, b) NAME2(a, b)
#define F(mask, feature, code)                                                               \
	static void NAME1(KIND, __LINE__)(ulong p, struct state * s)                         \
	{                                                                                    \
		__asm__ volatile("push %[f]; popf\n" code "\npushf; pop %[f]"                \
				 : "+a"(s->ax), "+c"(s->cx), "+d"(s->dx), [f] "+r"(s->flags) \
				 : [p] "b"(p)                                                \
				 : "memory", "cc", SI, DI);                                  \
	}
#define KIND dword_
#define DWORDS
#include "forms.def"
#undef DWORDS
#undef KIND
#define KIND byte_
#define BYTES
#include "forms.def"
#undef BYTES
#undef KIND
#undef F

#define F(mask, feature, code) {code, mask, feature, NAME1(KIND, __LINE__)},
static const struct form dwords[] = {
#define KIND dword_
#define DWORDS
#include "forms.def"
#undef DWORDS
#undef KIND
};
static const struct form bytes[] = {
#define KIND byte_
#define BYTES
#include "forms.def"
#undef BYTES
#undef KIND
};

static void run(const struct form *f, ulong at, u32 value, ulong flags, bool byte, struct state *s)
{
	*s = (struct state){.ax = 0x3f801357, .cx = 0x40490f03, .dx = 0x00000002, .flags = flags};
	cell = 0x11223344;
	*(volatile u32 *)at = value;
	f->run(at, s);
	s->mem = *(volatile u32 *)at;
	if (byte)
		s->mem &= 0xff;
	s->flags &= f->flags;
}

/* A fault, such as an overflowing division, is as good as a result when both have it. */
struct job {
	const struct form *f;
	ulong at, flags;
	u32 value;
	bool byte;
	struct state s;
};
static void guarded(void *arg)
{
	struct job *j = arg;

	run(j->f, j->at, j->value, j->flags, j->byte, &j->s);
}

/* The text as the assembler has it. */
static const char *plain(const char *code)
{
	static char text[120];
	char *to = text;

	for (const char *p = code; *p && to < text + sizeof(text) - 1; p++) {
		if (p[0] == '%' && p[1] == '%')
			p++;
		*to++ = *p;
	}
	*to = 0;
	return text;
}

static void compare(const struct form *list, unsigned count, ulong device, bool byte)
{
	static const u32 values[] = {0x3fc00001, 0x00000040, 0xffffff9a, 0x80000000};
	static u32 ram[4] __attribute__((aligned(16)));

	for (unsigned i = 0; i < count; i++) {
		struct cases c = {0};

		if (list[i].feature >= 0 && !cpu_has((enum feature)list[i].feature))
			continue;
		for (unsigned k = 0; k < ARRAY_SIZE(values) * 2; k++) {
			u32 value = byte ? values[k / 2] & 0xff : values[k / 2];
			ulong flags = k & 1 ? 2 | FL_CF | FL_ZF | FL_SF : 2;
			struct job a = {&list[i], (ulong)ram, flags, value, byte, {0}}, b = a;
			int va, vb;

			b.at = device;
			va = trap_guard(guarded, &a);
			vb = trap_guard(guarded, &b);
			c.run++;
			if (va != vb || (va == -1 && memcmp(&a.s, &b.s, sizeof(a.s))))
				fail_case(
					&c,
					"%s of %x: memory %d ax %lx cx %lx dx %lx flags %lx %x, device %d ax %lx cx %lx dx %lx flags %lx %x",
					plain(list[i].text), value, va, a.s.ax, a.s.cx, a.s.dx,
					a.s.flags, a.s.mem, vb, b.s.ax, b.s.cx, b.s.dx, b.s.flags,
					b.s.mem);
		}
		report_cases(&c, plain(list[i].text));
	}
}

void test_main(void)
{
	cli();
	write_cr0((read_cr0() & ~(ulong)(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	if (HAS(XSAVE)) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		__asm__ volatile("xsetbv" : : "c"(0), "a"(HAS(AVX) ? 7 : 3), "d"(0));
	}
	outl(0xcf8, 0x80005a00);
	*(volatile u32 *)0xfee003e0 = 0xa; /* divide by 128: the count stays a while */
	*(volatile u32 *)0xfee00320 = LVT_MASKED;
	compare(dwords, ARRAY_SIZE(dwords), TMICT, false);
	*(volatile u32 *)TMICT = 0;
	compare(bytes, ARRAY_SIZE(bytes), INDEX, true);
}
