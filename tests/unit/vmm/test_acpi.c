/* ACPI: tables hang together and add up; the fixed hardware switches off and interrupts. */
#include "fake.h"

#include "vmm/acpi.h"
#include "vmm/acpi_pm.h"
#include "vmm/aml.h"

static u8 sum(const struct guest_memory *mem, u64 at, u64 len)
{
	const u8 *p = memory_at(mem, at, len);
	u8 v = 0;

	assert_non_null(p);
	while (len--)
		v += *p++;
	return v;
}

static u64 load(const struct guest_memory *mem, u64 at, unsigned size)
{
	u64 v = 0;

	assert_true(memory_read(mem, at, &v, size));
	return v;
}

static void check_table(const struct guest_memory *mem, u64 at, const char *signature)
{
	assert_memory_equal(memory_at(mem, at, 4), signature, 4);
	assert_int_equal(sum(mem, at, load(mem, at + 4, 4)), 0);
}

static void tables(void **state)
{
	struct guest_memory mem;
	u64 rsdp, xsdt, fadt, madt;
	unsigned cpus = 0;

	assert_true(memory_init(&mem, 32 << 20, NULL));
	rsdp = acpi_place(&mem, 64, true);
	assert_memory_equal(memory_at(&mem, rsdp, 8), "RSD PTR ", 8);
	assert_int_equal(sum(&mem, rsdp, 20), 0);
	assert_int_equal(sum(&mem, rsdp, 36), 0);
	xsdt = load(&mem, rsdp + 24, 8);
	check_table(&mem, xsdt, "XSDT");
	fadt = load(&mem, xsdt + 36, 8);
	madt = load(&mem, xsdt + 44, 8);
	check_table(&mem, fadt, "FACP");
	check_table(&mem, madt, "APIC");
	assert_int_equal(load(&mem, fadt + 4, 4), 268);
	check_table(&mem, load(&mem, fadt + 140, 8), "DSDT");
	assert_int_equal(load(&mem, fadt + 40, 4), load(&mem, fadt + 140, 8));
	for (u64 at = madt + 44, end = madt + load(&mem, madt + 4, 4); at < end;
	     at += load(&mem, at + 1, 1)) {
		assert_true(load(&mem, at + 1, 1) >= 2);
		cpus += load(&mem, at, 1) == 0;
	}
	assert_int_equal(cpus, 64);
	assert_true(madt + load(&mem, madt + 4, 4) < 0x100000);
	memory_free(&mem);
}

static void aml(void **state)
{
	static const u8 pnp0a03[] = {0x0c, 0x41, 0xd0, 0x0a, 0x03};
	static const u8 path[] = {'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'};
	GByteArray *out = g_byte_array_new(), *body;

	aml_eisa_id(out, "PNP0A03");
	assert_memory_equal(out->data, pnp0a03, sizeof(pnp0a03));
	g_byte_array_set_size(out, 0);
	aml_path(out, "\\_SB.PCI0");
	assert_int_equal(out->len, sizeof(path));
	assert_memory_equal(out->data, path, sizeof(path));
	/* A package length of more than 63 takes two bytes. */
	g_byte_array_set_size(out, 0);
	body = g_byte_array_new();
	for (unsigned i = 0; i < 100; i++)
		aml_int(body, 1);
	aml_package(out, 100, body);
	assert_int_equal(out->len, 1 + 2 + 1 + 100);
	assert_int_equal((out->data[1] & 15) | out->data[2] << 4, out->len - 1);
	assert_int_equal(out->data[1] >> 6, 1);
	g_byte_array_unref(out);
}

static void fixed_hardware(void **state)
{
	struct acpi_pm *pm;
	struct bus pio;
	u32 t;

	fake_reset(state);
	bus_init(&pio);
	pm = acpi_pm_new(&pio, NULL, &fake_power);
	assert_int_equal(bus_read(&pio, ACPI_PM_CONTROL, 2) & 1, 1);
	acpi_pm_power_button(pm);
	assert_false(fake_line(IRQ_GSI_SCI));
	bus_write(&pio, ACPI_PM_EVENT + 2, 0x100, 2);
	assert_true(fake_line(IRQ_GSI_SCI));
	assert_int_equal(bus_read(&pio, ACPI_PM_EVENT, 2), 0x100);
	bus_write(&pio, ACPI_PM_EVENT, 0x100, 2);
	assert_false(fake_line(IRQ_GSI_SCI));
	t = (u32)bus_read(&pio, ACPI_PM_TIMER, 4);
	g_usleep(10000);
	assert_in_range((u32)bus_read(&pio, ACPI_PM_TIMER, 4) - t, 35000, 3579545);
	bus_write(&pio, ACPI_PM_CONTROL, 0x2000 | 1 << 10, 2); /* another sleep state */
	assert_int_equal(fake.end, POWER_ON);
	bus_write(&pio, ACPI_PM_CONTROL, ACPI_PM_S5 << 10, 2); /* without SLP_EN */
	assert_int_equal(fake.end, POWER_ON);
	bus_write(&pio, ACPI_PM_CONTROL, 0x2000 | ACPI_PM_S5 << 10, 2);
	assert_int_equal(fake.end, POWER_OFF);
	acpi_pm_free(pm);
	bus_destroy(&pio);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables),
		cmocka_unit_test(aml),
		cmocka_unit_test(fixed_hardware),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
