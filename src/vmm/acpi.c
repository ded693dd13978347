/*
 * ACPI tables: RSDP, XSDT, FADT, FACS, MADT, DSDT. Source: ACPI specification, "ACPI Software
 * Programming Model"; field names in comments are the specification's.
 */
#include "vmm/acpi.h"

#include <string.h>

#include "vmm/acpi_pm.h"
#include "vmm/aml.h"
#include "vmm/boot.h"
#include "vmm/irq.h"
#include "vmm/pci.h"
#include "vmm/rtc.h"

#define LAPIC_ADDRESS  0xfee00000u
#define IOAPIC_ADDRESS 0xfec00000u

/* Appends a table's 36-byte header; table_end() fills in length and checksum. */
static GByteArray *table_begin(const char *signature, u8 revision)
{
	GByteArray *t = g_byte_array_new();

	g_byte_array_append(t, (const u8 *)signature, 4);
	aml_u32(t, 0);
	aml_u8(t, revision);
	aml_u8(t, 0);
	g_byte_array_append(t, (const u8 *)"ANYKVM", 6);
	g_byte_array_append(t, (const u8 *)"ANYKVMPC", 8);
	aml_u32(t, 1);
	g_byte_array_append(t, (const u8 *)"ANYK", 4);
	aml_u32(t, 1);
	return t;
}

static u8 checksum(const u8 *p, size_t len)
{
	u8 sum = 0;

	while (len--)
		sum += *p++;
	return (u8)-sum;
}

/* Where the next table goes. */
struct place {
	const struct guest_memory *mem;
	u64 at;
};

static u64 place_bytes(struct place *place, const void *data, u64 len, u64 align)
{
	u64 at = (place->at + align - 1) & ~(align - 1);

	/* 64 vCPUs and 32 PCI slots take some 4 KiB of the 128 KiB there are. */
	memory_write(place->mem, at, data, len);
	place->at = at + len;
	return at;
}

static u64 table_end(struct place *place, GByteArray *t)
{
	u64 at;

	memcpy(t->data + 4, &t->len, 4);
	t->data[9] = checksum(t->data, t->len);
	at = place_bytes(place, t->data, t->len, 16);
	g_byte_array_unref(t);
	return at;
}

/* ---- DSDT ---- */

static GByteArray *isa_device(const char *id, unsigned uid, u16 io, u16 io2, u8 len, unsigned irq)
{
	GByteArray *dev = g_byte_array_new(), *res = g_byte_array_new();

	aml_name(dev, "_HID");
	aml_eisa_id(dev, id);
	aml_name(dev, "_UID");
	aml_int(dev, uid);
	aml_name(dev, "_STA");
	aml_int(dev, 0xf);
	aml_io(res, io, io, 1, len);
	if (io2)
		aml_io(res, io2, io2, 1, len);
	aml_irq(res, irq);
	aml_name(dev, "_CRS");
	aml_resources(dev, res);
	return dev;
}

/* _PRT: slot's pin A–D to one of the eight PCI GSIs, turning with the slot. */
static void append_prt(GByteArray *out)
{
	GByteArray *rows = g_byte_array_new();

	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		GByteArray *row = g_byte_array_new();

		aml_int(row, (u64)slot << 16 | 0xffff);
		aml_int(row, 0); /* pin A, the only one in use */
		aml_int(row, 0); /* the GSI itself, no link device */
		aml_int(row, pci_slot_gsi(slot));
		aml_package(rows, 4, row);
	}
	aml_name(out, "_PRT");
	aml_package(out, PCI_SLOTS, rows);
}

static GByteArray *pci_root(void)
{
	GByteArray *dev = g_byte_array_new(), *res = g_byte_array_new();

	aml_name(dev, "_HID");
	aml_eisa_id(dev, "PNP0A03");
	aml_name(dev, "_UID");
	aml_int(dev, 0);
	aml_name(dev, "_BBN");
	aml_int(dev, 0);
	aml_word_bus(res, 0, 0);
	aml_io(res, 0xcf8, 0xcf8, 1, 8);
	aml_word_io(res, 0, 0xcf7);
	aml_word_io(res, 0xd00, 0xffff);
	aml_dword_memory(res, PCI_MMIO_BASE, PCI_MMIO_BASE + PCI_MMIO_SIZE - 1);
	aml_name(dev, "_CRS");
	aml_resources(dev, res);
	append_prt(dev);
	aml_device(dev, "COM1", isa_device("PNP0501", 1, 0x3f8, 0, 8, IRQ_GSI_SERIAL));
	aml_device(dev, "RTC", isa_device("PNP0B00", 0, 0x70, 0, 2, IRQ_GSI_RTC));
	aml_device(dev, "KBD", isa_device("PNP0303", 0, 0x60, 0x64, 1, IRQ_GSI_KEYBOARD));
	return dev;
}

static u64 place_dsdt(struct place *place)
{
	GByteArray *t = table_begin("DSDT", 2), *sb = g_byte_array_new();
	GByteArray *s5 = g_byte_array_new();

	aml_device(sb, "PCI0", pci_root());
	aml_scope(t, "\\_SB_", sb);
	for (unsigned i = 0; i < 2; i++)
		aml_int(s5, ACPI_PM_S5);
	for (unsigned i = 0; i < 2; i++)
		aml_int(s5, 0);
	aml_name(t, "\\_S5_");
	aml_package(t, 4, s5);
	return table_end(place, t);
}

/* ---- the fixed tables ---- */

static u64 place_facs(struct place *place)
{
	u8 facs[64] = "FACS";

	facs[4] = sizeof(facs);
	facs[32] = 2; /* Version */
	return place_bytes(place, facs, sizeof(facs), 64);
}

/* A Generic Address Structure in I/O space. */
static void append_gas(GByteArray *t, u16 port, u8 bits, u8 access)
{
	aml_u8(t, 1);
	aml_u8(t, port ? bits : 0);
	aml_u8(t, 0);
	aml_u8(t, port ? access : 0);
	aml_u64(t, port);
}

static u64 place_fadt(struct place *place, u64 facs, u64 dsdt)
{
	/* WBINVD, PROC_C1, SLP_BUTTON (none), FIX_RTC (wakes nobody), TMR_VAL_EXT, RESET_REG_SUP */
	const u32 flags = BIT(0) | BIT(2) | BIT(5) | BIT(6) | BIT(8) | BIT(10);
	GByteArray *t = table_begin("FACP", 5);

	aml_u32(t, (u32)facs); /* FIRMWARE_CTRL */
	aml_u32(t, (u32)dsdt); /* DSDT */
	aml_u8(t, 0);
	aml_u8(t, 4);		   /* Preferred_PM_Profile: enterprise server */
	aml_u16(t, IRQ_GSI_SCI);   /* SCI_INT */
	aml_u32(t, 0);		   /* SMI_CMD: none, ACPI mode is always on */
	aml_u32(t, 0);		   /* ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT */
	aml_u32(t, ACPI_PM_EVENT); /* PM1a_EVT_BLK */
	aml_u32(t, 0);
	aml_u32(t, ACPI_PM_CONTROL); /* PM1a_CNT_BLK */
	aml_u32(t, 0);
	aml_u32(t, 0);
	aml_u32(t, ACPI_PM_TIMER); /* PM_TMR_BLK */
	aml_u32(t, 0);		   /* GPE0_BLK */
	aml_u32(t, 0);		   /* GPE1_BLK */
	aml_u8(t, 4);		   /* PM1_EVT_LEN */
	aml_u8(t, 2);		   /* PM1_CNT_LEN */
	aml_u8(t, 0);
	aml_u8(t, 4);		/* PM_TMR_LEN */
	aml_u32(t, 0);		/* GPE0_BLK_LEN, GPE1_BLK_LEN, GPE1_BASE, CST_CNT */
	aml_u16(t, 0xfff);	/* P_LVL2_LAT: no C2 */
	aml_u16(t, 0xfff);	/* P_LVL3_LAT: no C3 */
	aml_u32(t, 0);		/* FLUSH_SIZE, FLUSH_STRIDE */
	aml_u16(t, 0);		/* DUTY_OFFSET, DUTY_WIDTH */
	aml_u8(t, 0);		/* DAY_ALRM */
	aml_u8(t, 0);		/* MON_ALRM */
	aml_u8(t, RTC_CENTURY); /* CENTURY */
	aml_u16(t, BIT(0) | BIT(1) | BIT(2) | BIT(4)); /* ISA devices, 8042, no VGA, no ASPM */
	aml_u8(t, 0);
	aml_u32(t, flags);
	append_gas(t, PCI_RESET_PORT, 8, 1); /* RESET_REG */
	aml_u8(t, PCI_RESET_VALUE);
	aml_u16(t, 0);
	aml_u8(t, 1);	  /* FADT Minor Version */
	aml_u64(t, facs); /* X_FIRMWARE_CTRL */
	aml_u64(t, dsdt); /* X_DSDT */
	append_gas(t, ACPI_PM_EVENT, 32, 2);
	append_gas(t, 0, 0, 0);
	append_gas(t, ACPI_PM_CONTROL, 16, 2);
	append_gas(t, 0, 0, 0);
	append_gas(t, 0, 0, 0);
	append_gas(t, ACPI_PM_TIMER, 32, 3);
	append_gas(t, 0, 0, 0);
	append_gas(t, 0, 0, 0);
	append_gas(t, 0, 0, 0); /* SLEEP_CONTROL_REG */
	append_gas(t, 0, 0, 0); /* SLEEP_STATUS_REG */
	return table_end(place, t);
}

static void append_override(GByteArray *t, u8 irq, u32 gsi, u16 flags)
{
	aml_u8(t, 2);
	aml_u8(t, 10);
	aml_u8(t, 0); /* ISA */
	aml_u8(t, irq);
	aml_u32(t, gsi);
	aml_u16(t, flags);
}

static u64 place_madt(struct place *place, unsigned cpus, bool pin2_timer)
{
	GByteArray *t = table_begin("APIC", 4);

	aml_u32(t, LAPIC_ADDRESS);
	aml_u32(t, 1); /* PCAT_COMPAT: there are 8259s too */
	for (unsigned i = 0; i < cpus; i++) {
		aml_u8(t, 0);
		aml_u8(t, 8);
		aml_u8(t, (u8)i); /* processor UID */
		aml_u8(t, (u8)i); /* APIC id */
		aml_u32(t, 1);	  /* enabled */
	}
	aml_u8(t, 1);
	aml_u8(t, 12);
	aml_u8(t, 0); /* KVM's IOAPIC id */
	aml_u8(t, 0);
	aml_u32(t, IOAPIC_ADDRESS);
	aml_u32(t, 0);
	if (pin2_timer)
		append_override(t, 0, 2, 0);
	append_override(t, IRQ_GSI_SCI, IRQ_GSI_SCI, 0xd); /* active high, level */
	/* NMI on LINT1 of all processors */
	aml_u8(t, 4);
	aml_u8(t, 6);
	aml_u8(t, 0xff);
	aml_u16(t, 0);
	aml_u8(t, 1);
	return table_end(place, t);
}

u64 acpi_place(const struct guest_memory *mem, unsigned cpus, bool pin2_timer)
{
	/* The root pointer comes first, where a scan from 0xe0000 finds it. */
	struct place place = {.mem = mem, .at = BOOT_BIOS + 64};
	u64 dsdt = place_dsdt(&place);
	u64 facs = place_facs(&place);
	u64 fadt = place_fadt(&place, facs, dsdt);
	u64 madt = place_madt(&place, cpus, pin2_timer);
	GByteArray *xsdt = table_begin("XSDT", 1);
	GByteArray *rsdp = g_byte_array_new();
	u64 xsdt_at;
	u8 sum;

	aml_u64(xsdt, fadt);
	aml_u64(xsdt, madt);
	xsdt_at = table_end(&place, xsdt);
	g_byte_array_append(rsdp, (const u8 *)"RSD PTR ", 8);
	aml_u8(rsdp, 0);
	g_byte_array_append(rsdp, (const u8 *)"ANYKVM", 6);
	aml_u8(rsdp, 2);  /* revision */
	aml_u32(rsdp, 0); /* no RSDT */
	aml_u32(rsdp, 36);
	aml_u64(rsdp, xsdt_at);
	aml_u32(rsdp, 0);
	sum = checksum(rsdp->data, 20);
	rsdp->data[8] = sum;
	rsdp->data[32] = checksum(rsdp->data, 36);
	memory_write(mem, BOOT_BIOS, rsdp->data, rsdp->len);
	g_byte_array_unref(rsdp);
	return BOOT_BIOS;
}
