/*
 * A vCPU's registers in the debugger's order and the XML that describes it. The first features are
 * gdb's own (general registers, x87, SSE, AVX, segment bases); the last one is ours: the system
 * registers, which gdb shows under `info registers system`.
 */
#include "vmm/gdb_internal.h"

#include <string.h>

#define MSR_KERNEL_GS_BASE 0xc0000102u
#define FXSAVE_BYTES	   512
#define XSAVE_AVX	   576 /* standard format: upper halves of YMM */
#define XSTATE_AVX	   4
#define XSAVE_XSTATE_BV	   512

/* Everything of a vCPU that the debugger can ask for. */
struct state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave; /* the first 512 bytes are an FXSAVE image */
	u64 kernel_gs_base;
};

enum source { FROM_REGS, FROM_SREGS, FROM_XSAVE, FROM_MSR, X87_TAG };

struct reg {
	const char *feature; /* of this and the next registers; NULL: as the one before */
	const char *name, *type, *group;
	u8 bytes;
	enum source source;
	u16 offset, width; /* within the source; width 0: as many as bytes */
};

#define REGS(r, gdb_type)                                                      \
	{                                                                      \
		.name = #r, .type = gdb_type, .bytes = 8, .source = FROM_REGS, \
		.offset = offsetof(struct kvm_regs, r)                         \
	}
#define SEGMENT(s)                                                             \
	{                                                                      \
		.name = #s, .type = "int32", .bytes = 4, .source = FROM_SREGS, \
		.offset = offsetof(struct kvm_sregs, s.selector), .width = 2   \
	}
#define SYSTEM(r)                                                                                 \
	{                                                                                         \
		.name = #r, .type = "int64", .group = "system", .bytes = 8, .source = FROM_SREGS, \
		.offset = offsetof(struct kvm_sregs, r)                                           \
	}
#define X87(n)                                                                          \
	{                                                                               \
		.name = "st" #n, .type = "i387_ext", .bytes = 10, .source = FROM_XSAVE, \
		.offset = 32 + 16 * (n)                                                 \
	}
#define X87_WORD(n, from, size, at)                                                     \
	{                                                                               \
		.name = n, .type = "int", .group = "float", .bytes = 4, .source = from, \
		.offset = at, .width = size                                             \
	}
#define XMM(n)                                                                         \
	{                                                                              \
		.name = "xmm" #n, .type = "vec128", .bytes = 16, .source = FROM_XSAVE, \
		.offset = 160 + 16 * (n)                                               \
	}
#define YMM(n)                                                                              \
	{                                                                                   \
		.name = "ymm" #n "h", .type = "uint128", .bytes = 16, .source = FROM_XSAVE, \
		.offset = XSAVE_AVX + 16 * (n)                                              \
	}

static const struct reg regs[] = {
	{"org.gnu.gdb.i386.core", "rax", "int64", NULL, 8, FROM_REGS,
	 offsetof(struct kvm_regs, rax), 0},
	REGS(rbx, "int64"),
	REGS(rcx, "int64"),
	REGS(rdx, "int64"),
	REGS(rsi, "int64"),
	REGS(rdi, "int64"),
	REGS(rbp, "data_ptr"),
	REGS(rsp, "data_ptr"),
	REGS(r8, "int64"),
	REGS(r9, "int64"),
	REGS(r10, "int64"),
	REGS(r11, "int64"),
	REGS(r12, "int64"),
	REGS(r13, "int64"),
	REGS(r14, "int64"),
	REGS(r15, "int64"),
	REGS(rip, "code_ptr"),
	{.name = "eflags",
	 .type = "i386_eflags",
	 .bytes = 4,
	 .source = FROM_REGS,
	 .offset = offsetof(struct kvm_regs, rflags)},
	SEGMENT(cs),
	SEGMENT(ss),
	SEGMENT(ds),
	SEGMENT(es),
	SEGMENT(fs),
	SEGMENT(gs),
	X87(0),
	X87(1),
	X87(2),
	X87(3),
	X87(4),
	X87(5),
	X87(6),
	X87(7),
	X87_WORD("fctrl", FROM_XSAVE, 2, 0),
	X87_WORD("fstat", FROM_XSAVE, 2, 2),
	X87_WORD("ftag", X87_TAG, 1, 4),
	X87_WORD("fiseg", FROM_XSAVE, 4, 12),
	X87_WORD("fioff", FROM_XSAVE, 4, 8),
	X87_WORD("foseg", FROM_XSAVE, 4, 20),
	X87_WORD("fooff", FROM_XSAVE, 4, 16),
	X87_WORD("fop", FROM_XSAVE, 2, 6),
	{"org.gnu.gdb.i386.sse", "xmm0", "vec128", NULL, 16, FROM_XSAVE, 160, 0},
	XMM(1),
	XMM(2),
	XMM(3),
	XMM(4),
	XMM(5),
	XMM(6),
	XMM(7),
	XMM(8),
	XMM(9),
	XMM(10),
	XMM(11),
	XMM(12),
	XMM(13),
	XMM(14),
	XMM(15),
	{.name = "mxcsr",
	 .type = "i386_mxcsr",
	 .group = "vector",
	 .bytes = 4,
	 .source = FROM_XSAVE,
	 .offset = 24},
	{"org.gnu.gdb.i386.segments", "fs_base", "int64", NULL, 8, FROM_SREGS,
	 offsetof(struct kvm_sregs, fs.base), 0},
	{.name = "gs_base",
	 .type = "int64",
	 .bytes = 8,
	 .source = FROM_SREGS,
	 .offset = offsetof(struct kvm_sregs, gs.base)},
	{"org.gnu.gdb.i386.avx", "ymm0h", "uint128", NULL, 16, FROM_XSAVE, XSAVE_AVX, 0},
	YMM(1),
	YMM(2),
	YMM(3),
	YMM(4),
	YMM(5),
	YMM(6),
	YMM(7),
	YMM(8),
	YMM(9),
	YMM(10),
	YMM(11),
	YMM(12),
	YMM(13),
	YMM(14),
	YMM(15),
	{"org.anykvm.system", "k_gs_base", "int64", "system", 8, FROM_MSR, 0, 0},
	SYSTEM(cr0),
	SYSTEM(cr2),
	SYSTEM(cr3),
	SYSTEM(cr4),
	SYSTEM(cr8),
	SYSTEM(efer),
};

/* ---- the description ---- */

static const char flag_fields[] =
	"<flags id=\"i386_eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/>"
	"<field name=\"\" start=\"1\" end=\"1\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
	"<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
	"<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
	"<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
	"<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
	"<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
	"<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"VIF\" start=\"19\" end=\"19\"/>"
	"<field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"ID\" start=\"21\" end=\"21\"/>"
	"</flags>";

static const char vector_types[] =
	"<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	"<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	"<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	"<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	"<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	"<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
	"<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
	"<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
	"<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>"
	"<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/>"
	"<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
	"<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
	"<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/>"
	"<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>";

char *gdb_target_xml(void)
{
	GString *s = g_string_new("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM "
				  "\"gdb-target.dtd\"><target><architecture>i386:x86-64"
				  "</architecture>");
	bool open = false;

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		const struct reg *r = &regs[i];

		if (r->feature) {
			g_string_append_printf(s, "%s<feature name=\"%s\">",
					       open ? "</feature>" : "", r->feature);
			open = true;
			if (g_str_has_suffix(r->feature, ".core"))
				g_string_append(s, flag_fields);
			if (g_str_has_suffix(r->feature, ".sse"))
				g_string_append(s, vector_types);
		}
		g_string_append_printf(s, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"", r->name,
				       r->bytes * 8u, r->type);
		if (r->group)
			g_string_append_printf(s, " group=\"%s\"", r->group);
		g_string_append(s, "/>");
	}
	g_string_append(s, "</feature></target>");
	return g_string_free(s, FALSE);
}

unsigned gdb_reg_count(void)
{
	return ARRAY_SIZE(regs);
}

/* ---- values ---- */

static struct kvm_msrs *kernel_gs(u64 value)
{
	struct kvm_msrs *msrs = g_malloc0(sizeof(*msrs) + sizeof(msrs->entries[0]));

	msrs->nmsrs = 1;
	msrs->entries[0] = (struct kvm_msr_entry){.index = MSR_KERNEL_GS_BASE, .data = value};
	return msrs;
}

static struct state *state_get(const struct vcpu *vcpu)
{
	const struct accel *accel = vcpu->set->accel;
	struct state *s = g_new0(struct state, 1);
	struct kvm_msrs *msrs = kernel_gs(0);

	accel_ioctl(accel, vcpu->fd, KVM_GET_REGS, &s->regs);
	accel_ioctl(accel, vcpu->fd, KVM_GET_SREGS, &s->sregs);
	accel_ioctl(accel, vcpu->fd, KVM_GET_XSAVE, &s->xsave);
	if (accel_ioctl(accel, vcpu->fd, KVM_GET_MSRS, msrs) == 1)
		s->kernel_gs_base = msrs->entries[0].data;
	g_free(msrs);
	return s;
}

/* Where a register lies in the state, and of how many bytes. */
static u8 *place(struct state *s, const struct reg *r, unsigned *width)
{
	u8 *base[] = {
		[FROM_REGS] = (u8 *)&s->regs,	[FROM_SREGS] = (u8 *)&s->sregs,
		[FROM_XSAVE] = (u8 *)&s->xsave, [FROM_MSR] = (u8 *)&s->kernel_gs_base,
		[X87_TAG] = (u8 *)&s->xsave,
	};

	*width = r->width ? r->width : r->bytes;
	return base[r->source] + r->offset;
}

/* The x87 tag word of two bits a register, made from FXSAVE's one bit and the contents. */
static u16 tag_word(const struct state *s)
{
	const u8 *image = (const u8 *)&s->xsave;
	unsigned top = (image[3] >> 3) & 7, tags = 0;

	for (unsigned physical = 0; physical < 8; physical++) {
		const u8 *st = image + 32 + 16 * ((physical - top) & 7);
		unsigned exponent = (st[8] | st[9] << 8) & 0x7fff, tag = 0;
		u64 mantissa;

		memcpy(&mantissa, st, 8);
		if (!(image[4] >> physical & 1))
			tag = 3; /* empty */
		else if (!exponent && !mantissa)
			tag = 1; /* zero */
		else if (!exponent || exponent == 0x7fff || !(mantissa >> 63))
			tag = 2; /* special */
		tags |= tag << (2 * physical);
	}
	return (u16)tags;
}

static void append(struct state *s, const struct reg *r, GString *out)
{
	unsigned width;
	const u8 *p = place(s, r, &width);
	u8 value[16] = {0};

	if (r->source == X87_TAG) {
		u16 tags = tag_word(s);

		memcpy(value, &tags, 2);
	} else if (r->offset >= XSAVE_AVX && r->source == FROM_XSAVE &&
		   !(((u8 *)&s->xsave)[XSAVE_XSTATE_BV] & XSTATE_AVX)) {
		width = 0; /* in its initial state: the image holds whatever it held before */
	} else {
		memcpy(value, p, width);
	}
	for (unsigned i = 0; i < r->bytes; i++)
		g_string_append_printf(out, "%02x", value[i]);
}

/* Digits used; 0 when there are too few. */
static unsigned parse(struct state *s, const struct reg *r, const char *hex)
{
	unsigned width;
	u8 *p = place(s, r, &width), value[16] = {0};

	for (unsigned i = 0; i < r->bytes; i++) {
		int high = g_ascii_xdigit_value(hex[2 * i]);
		int low = high < 0 ? -1 : g_ascii_xdigit_value(hex[2 * i + 1]);

		if (low < 0) {
			if (hex[2 * i] != 'x') /* "xx": not known, leave it */
				return 0;
			return 2u * r->bytes;
		}
		value[i] = (u8)(high << 4 | low);
	}
	if (r->source == X87_TAG) {
		value[0] = (u8)~0u;
		for (unsigned i = 0; i < 8; i++)
			if (((g_ascii_xdigit_value(hex[i / 4 * 2 + (i % 4 < 2)]) >> (i % 2 * 2)) &
			     3) == 3)
				value[0] &= (u8)~BIT(i);
	}
	if (r->source == FROM_XSAVE)
		((u8 *)&s->xsave)[XSAVE_XSTATE_BV] |= r->offset >= XSAVE_AVX ? XSTATE_AVX : 3;
	memcpy(p, value, MIN(width, (unsigned)r->bytes));
	return 2u * r->bytes;
}

/* Only what has been changed is set: some values that were read cannot be set back as they are. */
static bool state_put(const struct vcpu *vcpu, const struct state *s, const struct state *old)
{
	const struct accel *accel = vcpu->set->accel;
	bool good = true;

	if (memcmp(&s->regs, &old->regs, sizeof(s->regs)))
		good &= accel_ioctl(accel, vcpu->fd, KVM_SET_REGS, &s->regs) >= 0;
	if (memcmp(&s->sregs, &old->sregs, sizeof(s->sregs)))
		good &= accel_ioctl(accel, vcpu->fd, KVM_SET_SREGS, &s->sregs) >= 0;
	if (memcmp(&s->xsave, &old->xsave, sizeof(s->xsave)))
		good &= accel_ioctl(accel, vcpu->fd, KVM_SET_XSAVE, &s->xsave) >= 0;
	if (s->kernel_gs_base != old->kernel_gs_base) {
		struct kvm_msrs *msrs = kernel_gs(s->kernel_gs_base);

		good &= accel_ioctl(accel, vcpu->fd, KVM_SET_MSRS, msrs) == 1;
		g_free(msrs);
	}
	return good;
}

bool gdb_reg_read(const struct vcpu *vcpu, unsigned number, GString *out)
{
	g_autofree struct state *s = NULL;

	if (number >= ARRAY_SIZE(regs))
		return false;
	s = state_get(vcpu);
	append(s, &regs[number], out);
	return true;
}

unsigned gdb_reg_write(const struct vcpu *vcpu, unsigned number, const char *hex)
{
	g_autofree struct state *s = NULL, *old = NULL;
	unsigned n;

	if (number >= ARRAY_SIZE(regs))
		return 0;
	s = state_get(vcpu);
	old = g_memdup2(s, sizeof(*s));
	n = parse(s, &regs[number], hex);
	return n && state_put(vcpu, s, old) ? n : 0;
}

void gdb_regs_read(const struct vcpu *vcpu, GString *out)
{
	g_autofree struct state *s = state_get(vcpu);

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		append(s, &regs[i], out);
}

bool gdb_regs_write(const struct vcpu *vcpu, const char *hex)
{
	g_autofree struct state *s = state_get(vcpu), *old = g_memdup2(s, sizeof(*s));

	/* A debugger may send fewer registers than there are. */
	for (unsigned i = 0; i < ARRAY_SIZE(regs) && *hex; i++) {
		unsigned n = parse(s, &regs[i], hex);

		if (!n)
			return false;
		hex += n;
	}
	return state_put(vcpu, s, old);
}
