/* ACPI Machine Language, as much of it as a static machine description takes. */
#include "vmm/aml.h"

#include <string.h>

void aml_u8(GByteArray *out, u8 v)
{
	g_byte_array_append(out, &v, 1);
}

void aml_u16(GByteArray *out, u16 v)
{
	aml_u8(out, (u8)v);
	aml_u8(out, (u8)(v >> 8));
}

void aml_u32(GByteArray *out, u32 v)
{
	aml_u16(out, (u16)v);
	aml_u16(out, (u16)(v >> 16));
}

void aml_u64(GByteArray *out, u64 v)
{
	aml_u32(out, (u32)v);
	aml_u32(out, (u32)(v >> 32));
}

void aml_int(GByteArray *out, u64 v)
{
	if (v <= 1) {
		aml_u8(out, (u8)v); /* ZeroOp, OneOp */
	} else if (v <= 0xff) {
		aml_u8(out, 0x0a);
		aml_u8(out, (u8)v);
	} else if (v <= 0xffff) {
		aml_u8(out, 0x0b);
		aml_u16(out, (u16)v);
	} else if (v <= 0xffffffff) {
		aml_u8(out, 0x0c);
		aml_u32(out, (u32)v);
	} else {
		aml_u8(out, 0x0e);
		aml_u64(out, v);
	}
}

void aml_string(GByteArray *out, const char *s)
{
	aml_u8(out, 0x0d);
	g_byte_array_append(out, (const u8 *)s, (guint)strlen(s) + 1);
}

void aml_eisa_id(GByteArray *out, const char *id)
{
	u32 v = 0, number = (u32)g_ascii_strtoull(id + 3, NULL, 16);

	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | ((u32)(id[i] - 'A' + 1) & 0x1f);
	v = v << 16 | number;
	aml_u8(out, 0x0c);
	aml_u32(out, GUINT32_SWAP_LE_BE(v));
}

void aml_path(GByteArray *out, const char *path)
{
	if (*path == '\\') {
		aml_u8(out, '\\');
		path++;
	}
	if (strchr(path, '.'))
		aml_u8(out, 0x2e); /* DualNamePrefix */
	while (*path) {
		for (unsigned i = 0; i < 4; i++)
			aml_u8(out, *path && *path != '.' ? (u8)*path++ : '_');
		path += *path == '.';
	}
}

void aml_name(GByteArray *out, const char *path)
{
	aml_u8(out, 0x08);
	aml_path(out, path);
}

/* PkgLength counts itself: 1 byte up to 63, else 4 low bits in the first byte. */
static void aml_length(GByteArray *out, u32 body)
{
	unsigned extra;
	u32 len;

	if (body + 1 <= 0x3f) {
		aml_u8(out, (u8)(body + 1));
		return;
	}
	for (extra = 1; extra < 3 && body + 1 + extra > (1u << (4 + 8 * extra)) - 1; extra++)
		;
	len = body + 1 + extra;
	aml_u8(out, (u8)(extra << 6 | (len & 0xf)));
	for (len >>= 4; extra; extra--, len >>= 8)
		aml_u8(out, (u8)len);
}

/* Length, the bytes of head, the bytes of body; frees both. */
static void aml_wrap(GByteArray *out, GByteArray *head, GByteArray *body)
{
	aml_length(out, head->len + body->len);
	g_byte_array_append(out, head->data, head->len);
	g_byte_array_append(out, body->data, body->len);
	g_byte_array_unref(head);
	g_byte_array_unref(body);
}

void aml_scope(GByteArray *out, const char *path, GByteArray *body)
{
	GByteArray *head = g_byte_array_new();

	aml_path(head, path);
	aml_u8(out, 0x10);
	aml_wrap(out, head, body);
}

void aml_device(GByteArray *out, const char *path, GByteArray *body)
{
	GByteArray *head = g_byte_array_new();

	aml_path(head, path);
	aml_u16(out, 0x825b);
	aml_wrap(out, head, body);
}

void aml_package(GByteArray *out, u8 elements, GByteArray *body)
{
	GByteArray *head = g_byte_array_new();

	aml_u8(head, elements);
	aml_u8(out, 0x12);
	aml_wrap(out, head, body);
}

void aml_resources(GByteArray *out, GByteArray *body)
{
	GByteArray *head = g_byte_array_new();

	aml_u16(body, 0x0079); /* end tag, checksum 0: not checked */
	aml_int(head, body->len);
	aml_u8(out, 0x11);
	aml_wrap(out, head, body);
}

void aml_io(GByteArray *out, u16 min, u16 max, u8 align, u8 len)
{
	aml_u8(out, 0x47);
	aml_u8(out, 1); /* decodes 16 bits */
	aml_u16(out, min);
	aml_u16(out, max);
	aml_u8(out, align);
	aml_u8(out, len);
}

void aml_irq(GByteArray *out, unsigned irq)
{
	aml_u8(out, 0x22); /* edge, active high, exclusive */
	aml_u16(out, (u16)(1u << irq));
}

void aml_word_bus(GByteArray *out, u16 min, u16 max)
{
	aml_u8(out, 0x88);
	aml_u16(out, 13);
	aml_u8(out, 2);	   /* bus numbers */
	aml_u8(out, 0x0c); /* min and max are fixed */
	aml_u8(out, 0);
	aml_u16(out, 0);
	aml_u16(out, min);
	aml_u16(out, max);
	aml_u16(out, 0);
	aml_u16(out, (u16)(max - min + 1));
}

void aml_word_io(GByteArray *out, u16 min, u16 max)
{
	aml_u8(out, 0x88);
	aml_u16(out, 13);
	aml_u8(out, 1);
	aml_u8(out, 0x0c);
	aml_u8(out, 3); /* entire range */
	aml_u16(out, 0);
	aml_u16(out, min);
	aml_u16(out, max);
	aml_u16(out, 0);
	aml_u16(out, (u16)(max - min + 1));
}

void aml_dword_memory(GByteArray *out, u32 min, u32 max)
{
	aml_u8(out, 0x87);
	aml_u16(out, 23);
	aml_u8(out, 0);
	aml_u8(out, 0x0c);
	aml_u8(out, 1); /* read-write, not cacheable */
	aml_u32(out, 0);
	aml_u32(out, min);
	aml_u32(out, max);
	aml_u32(out, 0);
	aml_u32(out, max - min + 1);
}
