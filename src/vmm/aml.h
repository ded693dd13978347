/*
 * Writes ACPI Machine Language. Containers are built from the inside out: fill a body, then wrap
 * it. Encoding: ACPI specification, "AML Byte Stream Byte Values", "Resource Data Types".
 */
#ifndef VMM_AML_H
#define VMM_AML_H

#include "vmm/types.h"

void aml_u8(GByteArray *out, u8 v);
void aml_u16(GByteArray *out, u16 v);
void aml_u32(GByteArray *out, u32 v);
void aml_u64(GByteArray *out, u64 v);

/** An integer in its shortest form. */
void aml_int(GByteArray *out, u64 v);
void aml_string(GByteArray *out, const char *s);
/** A compressed EISA id such as "PNP0A03". */
void aml_eisa_id(GByteArray *out, const char *id);
/** "\\_SB_" or "PCI0": an optional backslash and up to two segments joined by '.'. */
void aml_path(GByteArray *out, const char *path);
/** Name (path, ...): the object must follow. */
void aml_name(GByteArray *out, const char *path);

/* These append a container around body and free body. */
void aml_scope(GByteArray *out, const char *path, GByteArray *body);
void aml_device(GByteArray *out, const char *path, GByteArray *body);
void aml_package(GByteArray *out, u8 elements, GByteArray *body);
/** Buffer with a resource template: adds the end tag. */
void aml_resources(GByteArray *out, GByteArray *body);

/* Resource descriptors, for the body of aml_resources(). */
void aml_io(GByteArray *out, u16 min, u16 max, u8 align, u8 len);
void aml_irq(GByteArray *out, unsigned irq);
void aml_word_bus(GByteArray *out, u16 min, u16 max);
void aml_word_io(GByteArray *out, u16 min, u16 max);
void aml_dword_memory(GByteArray *out, u32 min, u32 max);

#endif
