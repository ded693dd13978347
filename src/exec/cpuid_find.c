/*
 * Where the program's CPUID instructions are.
 *
 * Two bytes 0f a2 may be anything: part of another instruction, or data between functions. What is
 * taken for an instruction must be one for sure, because its bytes are changed. So the unwind tables
 * (.eh_frame, which stripped programs have, too) tell where each function begins and ends, and a
 * pair of bytes counts only if decoding from its function's first byte on arrives at it, meets
 * nothing that cannot be decoded, and ends where the function ends. Compilers put no data into
 * functions on x86-64. Code without unwind tables is left alone.
 *
 * "DWARF extensions" of the LSB core specification has the format of the tables. They are the
 * program's own, but nothing here trusts them: every read stays within a loaded segment.
 */
#include "exec/exec.h"

#include <Zydis/Zydis.h>
#include <link.h>
#include <string.h>

#define HEADER_VERSION 1
#define ENC_ABSENT     0xff
#define ENC_PCREL      0x10
#define ENC_DATAREL    0x30

struct image {
	u64 base;
	const ElfW(Phdr) * ph;
	unsigned count;
	/* the sorted table behind .eh_frame_hdr's head: pairs of (function, entry), both relative */
	const s32 *table;
	u32 rows;
	u64 header;
};

/* Is [addr, addr + n) inside one loaded, readable segment with these flags? */
static bool loaded(const struct image *im, u64 addr, u64 n, u32 flags)
{
	for (unsigned i = 0; i < im->count; i++) {
		u64 start = im->base + im->ph[i].p_vaddr;

		if (im->ph[i].p_type == PT_LOAD && (im->ph[i].p_flags & flags) == flags &&
		    addr >= start && n <= im->ph[i].p_memsz &&
		    addr - start <= im->ph[i].p_memsz - n)
			return true;
	}
	return false;
}

/* A reader of the tables: after a read outside of what is loaded, `bad` stays set. */
struct cursor {
	const struct image *im;
	u64 at;
	bool bad;
};

static u64 take(struct cursor *c, unsigned n)
{
	u64 v = 0;

	if (c->bad || !loaded(c->im, c->at, n, PF_R)) {
		c->bad = true;
		return 0;
	}
	memcpy(&v, (const void *)c->at, n);
	c->at += n;
	return v;
}

static u64 take_leb(struct cursor *c)
{
	u64 v = 0, byte;
	unsigned shift = 0;

	do {
		byte = take(c, 1);
		if (shift < 64)
			v |= (byte & 0x7f) << shift;
		shift += 7;
	} while ((byte & 0x80) && !c->bad);
	return v;
}

/* A number in an encoding's format, without its base. */
static u64 take_format(struct cursor *c, u8 enc)
{
	switch (enc & 0xf) {
	case 0x0:
	case 0x4:
	case 0xc:
		return take(c, 8);
	case 0x2:
		return take(c, 2);
	case 0xa:
		return (u64)(s16)take(c, 2);
	case 0x3:
		return take(c, 4);
	case 0xb:
		return (u64)(s32)take(c, 4);
	}
	c->bad = true;
	return 0;
}

static u64 take_pointer(struct cursor *c, u8 enc)
{
	u64 base = (enc & 0x70) == ENC_PCREL ? c->at : 0, v = take_format(c, enc);

	if ((enc & 0x70) && (enc & 0x70) != ENC_PCREL)
		c->bad = true;
	if (enc & 0x80) /* indirect */
		c->bad = true;
	return base + v;
}

/* The encoding of pointers in the entries of a CIE. */
static u8 cie_encoding(const struct image *im, u64 cie)
{
	struct cursor c = {im, cie, false};
	char text[8] = "";
	u8 version;

	take(&c, 8); /* length and id */
	version = (u8)take(&c, 1);
	for (unsigned i = 0; i < sizeof(text); i++) {
		text[i] = (char)take(&c, 1);
		if (!text[i])
			break;
	}
	if (text[sizeof(text) - 1] || c.bad)
		return ENC_ABSENT;
	take_leb(&c);
	take_leb(&c);
	if (version == 1)
		take(&c, 1);
	else
		take_leb(&c);
	if (text[0] != 'z')
		return text[0] ? ENC_ABSENT : 0;
	take_leb(&c);
	for (const char *p = text + 1; *p && !c.bad; p++) {
		switch (*p) {
		case 'R': {
			u8 enc = (u8)take(&c, 1);

			return c.bad ? ENC_ABSENT : enc;
		}
		case 'P':
			take_format(&c, (u8)take(&c, 1));
			break;
		case 'L':
			take(&c, 1);
			break;
		case 'S':
		case 'B':
			break;
		default:
			return ENC_ABSENT;
		}
	}
	return c.bad ? ENC_ABSENT : 0;
}

/* The function that an entry (FDE) describes. */
static bool entry_range(const struct image *im, u64 entry, u64 *start, u64 *end)
{
	struct cursor c = {im, entry, false};
	u64 length = take(&c, 4), at = c.at, id = take(&c, 4), size;
	u8 enc;

	if (c.bad || !length || length == 0xffffffff || !id)
		return false;
	enc = cie_encoding(im, at - id);
	if (enc == ENC_ABSENT)
		return false;
	*start = take_pointer(&c, enc);
	size = take_format(&c, enc & 0xf);
	*end = *start + size;
	return !c.bad && size && loaded(im, *start, size, PF_X);
}

static bool find_table(struct image *im)
{
	for (unsigned i = 0; i < im->count; i++) {
		struct cursor c = {im, im->base + im->ph[i].p_vaddr, false};
		u8 version, frame, number, table;

		if (im->ph[i].p_type != PT_GNU_EH_FRAME)
			continue;
		im->header = c.at;
		version = (u8)take(&c, 1);
		frame = (u8)take(&c, 1);
		number = (u8)take(&c, 1);
		table = (u8)take(&c, 1);
		take_format(&c, frame);
		/* What every linker writes. */
		if (c.bad || version != HEADER_VERSION || number != 0x3 ||
		    table != (ENC_DATAREL | 0xb))
			return false;
		im->rows = (u32)take(&c, 4);
		im->table = (const s32 *)c.at;
		return !c.bad && loaded(im, c.at, 8ull * im->rows, PF_R);
	}
	return false;
}

static bool function_of(const struct image *im, u64 addr, u64 *start, u64 *end)
{
	u32 low = 0, high = im->rows;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (im->header + (u64)(s64)im->table[2 * mid] <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low && entry_range(im, im->header + (u64)(s64)im->table[2 * low - 1], start, end) &&
	       *start <= addr && addr < *end;
}

/* All CPUID instructions of one function, in order. */
static unsigned sweep(u64 start, u64 end, struct exec_cpuid_insn *out, unsigned max)
{
	ZydisDecodedInstruction in;
	ZydisDecoder decoder;
	unsigned n = 0;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	while (start < end) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, (const void *)start,
								end - start, &in)))
			return 0;
		if (in.mnemonic == ZYDIS_MNEMONIC_CPUID && n < max)
			out[n++] = (struct exec_cpuid_insn){start, in.length};
		start += in.length;
	}
	return n;
}

static unsigned find_in_segment(const struct image *im, u64 at, u64 end,
				struct exec_cpuid_insn *out, unsigned max)
{
	unsigned n = 0;
	u64 first, last;

	/* A search for the rarer one of the bytes is ten times faster than one for both. */
	for (at++; at < end && n < max; at++) {
		at = (u64)memchr((const void *)at, 0xa2, end - at);
		if (!at)
			break;
		if (((const u8 *)at)[-1] != 0x0f || !function_of(im, at - 1, &first, &last))
			continue;
		n += sweep(first, last, out + n, max - n);
		at = MAX(at, last - 1);
	}
	return n;
}

struct search {
	struct exec_cpuid_insn *out;
	unsigned max, found;
};

/* The first image is the program itself. */
static int find_in_program(struct dl_phdr_info *info, size_t size, void *data)
{
	struct image im = {
		.base = info->dlpi_addr, .ph = info->dlpi_phdr, .count = info->dlpi_phnum};
	struct search *s = data;

	(void)size;
	if (!find_table(&im))
		return 1;
	for (unsigned i = 0; i < im.count; i++) {
		u64 start = im.base + im.ph[i].p_vaddr;

		if (im.ph[i].p_type == PT_LOAD &&
		    (im.ph[i].p_flags & (PF_X | PF_R)) == (PF_X | PF_R))
			s->found += find_in_segment(&im, start, start + im.ph[i].p_memsz,
						    s->out + s->found, s->max - s->found);
	}
	return 1;
}

struct segment {
	u64 addr, start, size;
};

static int find_segment(struct dl_phdr_info *info, size_t size, void *data)
{
	struct segment *s = data;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		u64 start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X) && s->addr >= start &&
		    s->addr - start < ph->p_memsz) {
			s->start = start;
			s->size = ph->p_memsz;
			return 1;
		}
	}
	return 0;
}

void exec_segment_of(u64 addr, u64 *start, u64 *size)
{
	struct segment s = {.addr = addr};

	dl_iterate_phdr(find_segment, &s);
	*start = s.start;
	*size = s.size;
}

unsigned exec_cpuid_find(struct exec_cpuid_insn *out, unsigned max)
{
	struct search s = {.out = out, .max = max};

	dl_iterate_phdr(find_in_program, &s);
	return s.found;
}
