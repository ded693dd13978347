/*
 * vmcs.c - fields of a VMCS by their encodings
 */
#include "nested/vmx/vmcs.h"

#include "base/mem.h"

#define TYPE_u16 2
#define TYPE_u32 4
#define TYPE_u64 8

/* Where a field is; false: nowhere. Bit 0 of an encoding is "high" for 64-bit fields only. */
static bool locate(u32 encoding, unsigned *offset, unsigned *size)
{
	bool high = encoding & 1;

	if (high && (encoding >> 13 & 3) != 1)
		return false;
	switch (encoding & ~1u) {
#define HOLE(type, name, count)
#define FIELD(type, name, code)                                  \
	case code:                                               \
		*offset = __builtin_offsetof(struct vmcs, name); \
		*size = TYPE_##type;                             \
		break;
#include "nested/vmx/vmcs.def"
	default:
		return false;
	}
	if (high) {
		*offset += 4;
		*size = 4;
	}
	return true;
}

bool vmcs_read(const struct vmcs *v, u32 encoding, u64 *value)
{
	unsigned offset, size;

	if (!locate(encoding, &offset, &size))
		return false;
	*value = mem_load(v->bytes + offset, size);
	return true;
}

#define GUEST_AR_FIRST 0x4814u
#define GUEST_AR_LAST  0x4822u
#define AR_KNOWN       0x1f0ffu /* other bits of access rights are not kept */

bool vmcs_write(struct vmcs *v, u32 encoding, u64 value)
{
	unsigned offset, size;

	if (!locate(encoding, &offset, &size))
		return false;
	if (encoding >= GUEST_AR_FIRST && encoding <= GUEST_AR_LAST)
		value &= AR_KNOWN;
	mem_store(v->bytes + offset, value, size);
	return true;
}
