/* PCI: configuration mechanism, BAR sizing and moving, MSI-X masking, INTx, the reset port. */
#include "fake.h"

#include <linux/pci_regs.h>

#include "vmm/pci.h"

static struct bus pio, mmio;
static struct pci_bus *bus;
static struct pci_device dev;
static u64 hook_base;
static bool hook_mapped;

static u64 bar_read(void *opaque, u64 offset, unsigned size)
{
	return offset >= 0x3000 ? pci_msix_read(&dev, offset, size) : 0x1234;
}

static void bar_write(void *opaque, u64 offset, u64 value, unsigned size)
{
	if (offset >= 0x3000)
		pci_msix_write(&dev, offset, value, size);
}

static const struct bus_ops bar_ops = {bar_read, bar_write};

static void hook(void *opaque, u64 base, bool mapped)
{
	hook_base = base;
	hook_mapped = mapped;
}

static int setup(void **state)
{
	fake_reset(state);
	bus_init(&pio);
	bus_init(&mmio);
	bus = pci_new(&pio, &mmio, NULL, &fake_power);
	memset(&dev, 0, sizeof(dev));
	pci_device_init(&dev, "test", 0x1af4, 0x1042, 0x010000);
	dev.bar_size = 0x8000;
	dev.bar_ops = &bar_ops;
	dev.bar_hook = hook;
	pci_add_msix(&dev, 4, 0x3000, 0x3800);
	assert_true(pci_plug(bus, &dev));
	return 0;
}

static int teardown(void **state)
{
	pci_unplug(&dev);
	pci_free(bus);
	bus_destroy(&pio);
	bus_destroy(&mmio);
	return 0;
}

static u32 get(unsigned slot, unsigned reg, unsigned size)
{
	bus_write(&pio, 0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc), 4);
	return (u32)bus_read(&pio, 0xcfc + (reg & 3), size);
}

static void put(unsigned slot, unsigned reg, u32 v, unsigned size)
{
	bus_write(&pio, 0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc), 4);
	bus_write(&pio, 0xcfc + (reg & 3), v, size);
}

static void enumeration(void **state)
{
	assert_int_equal(get(0, 0, 4), 0x0d578086);
	assert_int_equal(get(0, PCI_CLASS_DEVICE, 2), 0x0600);
	assert_int_equal(get(1, 0, 4), 0x10421af4);
	assert_int_equal(get(1, PCI_DEVICE_ID, 2), 0x1042);
	assert_int_equal(get(1, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	assert_int_equal(get(2, 0, 4), 0xffffffff);
	put(1, 0, 0, 4); /* read-only */
	assert_int_equal(get(1, 0, 4), 0x10421af4);
	bus_write(&pio, 0xcf8, 0x80000000 | 1 << 11 | 1 << 8, 4); /* function 1 */
	assert_int_equal((u32)bus_read(&pio, 0xcfc, 4), 0xffffffff);
	bus_write(&pio, 0xcf8, 0x80010000 | 1 << 11, 4); /* bus 1 */
	assert_int_equal((u32)bus_read(&pio, 0xcfc, 4), 0xffffffff);
	bus_write(&pio, 0xcf8, 1 << 11, 4); /* not enabled */
	assert_int_equal((u32)bus_read(&pio, 0xcfc, 4), 0xffffffff);
}

static void bar(void **state)
{
	u32 base = get(1, PCI_BASE_ADDRESS_0, 4);

	assert_int_equal(base, PCI_MMIO_BASE);
	assert_true(hook_mapped);
	assert_int_equal(bus_read(&mmio, base + 4, 4), 0x1234);
	put(1, PCI_COMMAND, 0, 2);
	assert_false(hook_mapped);
	assert_int_equal(bus_read(&mmio, base + 4, 4), ~0ull);
	put(1, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
	assert_int_equal(get(1, PCI_BASE_ADDRESS_0, 4), 0xffff8000);
	put(1, PCI_BASE_ADDRESS_0, base + 0x10000, 4);
	put(1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_true(hook_mapped);
	assert_int_equal(hook_base, base + 0x10000);
	assert_int_equal(bus_read(&mmio, base + 0x10004, 4), 0x1234);
	/* Outside of the window it answers nowhere. */
	put(1, PCI_BASE_ADDRESS_0, 0x1000000, 4);
	assert_false(hook_mapped);
	put(1, PCI_BASE_ADDRESS_0, 0xfee00000, 4);
	assert_false(hook_mapped);
	put(1, PCI_BASE_ADDRESS_0, base, 4);
	assert_true(hook_mapped);
}

static void put_entry(unsigned n, u64 address, u32 data, u32 control)
{
	u64 at = PCI_MMIO_BASE + 0x3000 + 16 * n;

	bus_write(&mmio, at, address, 8);
	bus_write(&mmio, at + 8, data, 4);
	bus_write(&mmio, at + 12, control, 4);
}

static void msix(void **state)
{
	unsigned cap = get(1, PCI_CAPABILITY_LIST, 1);

	assert_int_equal(get(1, cap, 1), PCI_CAP_ID_MSIX);
	assert_int_equal(get(1, cap + PCI_MSIX_FLAGS, 2), 3);
	put_entry(1, 0xfee01000, 0x41, 0);
	pci_msix_notify(&dev, 1); /* not enabled: nothing */
	assert_int_equal(fake.msis, 0);
	put(1, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_true(pci_msix_enabled(&dev));
	pci_msix_notify(&dev, 1);
	assert_int_equal(fake.msis, 1);
	assert_int_equal(fake.msi_address, 0xfee01000);
	assert_int_equal(fake.msi_data, 0x41);
	/* Masked entry: pending, then sent once. */
	put_entry(1, 0xfee01000, 0x42, 1);
	pci_msix_notify(&dev, 1);
	pci_msix_notify(&dev, 1);
	assert_int_equal(fake.msis, 1);
	assert_int_equal(bus_read(&mmio, PCI_MMIO_BASE + 0x3800, 8), 2);
	put_entry(1, 0xfee01000, 0x42, 0);
	assert_int_equal(fake.msis, 2);
	assert_int_equal(bus_read(&mmio, PCI_MMIO_BASE + 0x3800, 8), 0);
	/* All masked by the function. */
	put(1, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2);
	pci_msix_notify(&dev, 1);
	assert_int_equal(fake.msis, 2);
	put(1, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_int_equal(fake.msis, 3);
	pci_msix_notify(&dev, 4); /* no such vector */
	pci_msix_notify(&dev, 0xffff);
	assert_int_equal(fake.msis, 3);
	/* Past the table's end. */
	bus_write(&mmio, PCI_MMIO_BASE + 0x3040, 0, 8);
	assert_int_equal(bus_read(&mmio, PCI_MMIO_BASE + 0x303c, 8), 0);
}

static void window(void **state)
{
	static const u8 cap[18] = {0};
	struct pci_device other = {0};
	unsigned at;

	pci_device_init(&other, "window", 1, 2, 0xff0000);
	other.bar_size = 0x8000;
	other.bar_ops = &bar_ops;
	other.window_cap = at = pci_add_capability(&other, PCI_CAP_ID_VNDR, cap, sizeof(cap));
	memset(other.writable + at + 4, 0xff, 16);
	assert_true(pci_plug(bus, &other));
	put(2, at + 8, 0x10, 4);
	put(2, at + 12, 4, 4);
	assert_int_equal(get(2, at + 16, 4), 0x1234);
	put(2, at + 8, 0x8000, 4); /* past the BAR's end: what was there before */
	put(2, at + 16, 7, 4);
	assert_int_equal(get(2, at + 16, 4), 7);
	put(2, at + 8, 0x11, 4); /* not aligned */
	assert_int_equal(get(2, at + 16, 4), 7);
	put(2, at + 8, 0x10, 4);
	put(2, at + 12, 3, 4); /* no such width */
	assert_int_equal(get(2, at + 16, 4), 7);
	put(2, at + 4, 1, 1); /* no such BAR */
	put(2, at + 12, 4, 4);
	assert_int_equal(get(2, at + 16, 4), 7);
	pci_unplug(&other);
}

static void intx(void **state)
{
	unsigned gsi = pci_slot_gsi(1), cap = get(1, PCI_CAPABILITY_LIST, 1);

	assert_int_equal(get(1, PCI_INTERRUPT_PIN, 1), 1);
	pci_intx_set(&dev, true);
	assert_true(fake_line(gsi));
	assert_true(get(1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	put(1, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(fake_line(gsi));
	put(1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_true(fake_line(gsi));
	put(1, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_false(fake_line(gsi));
	put(1, cap + PCI_MSIX_FLAGS, 0, 2);
	pci_intx_set(&dev, false);
	assert_false(fake_line(gsi));
}

static void reset_port(void **state)
{
	bus_write(&pio, PCI_RESET_PORT, 0x02, 1);
	assert_int_equal(fake.end, POWER_ON);
	assert_int_equal(bus_read(&pio, PCI_RESET_PORT, 1), 2);
	bus_write(&pio, 0xcf8, 0x80000600, 4); /* a whole address is no reset */
	assert_int_equal(fake.end, POWER_ON);
	bus_write(&pio, PCI_RESET_PORT, 0x06, 1);
	assert_int_equal(fake.end, POWER_RESET);
}

static void full_bus(void **state)
{
	g_autofree struct pci_device *many = g_new0(struct pci_device, PCI_SLOTS);
	unsigned n = 0;

	while (n < PCI_SLOTS) {
		pci_device_init(&many[n], "more", 1, 2, 0xff0000);
		if (!pci_plug(bus, &many[n]))
			break;
		n++;
	}
	assert_int_equal(n, PCI_SLOTS - 2);
	while (n--)
		pci_unplug(&many[n]);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(enumeration), CASE(bar),	     CASE(msix),     CASE(intx),
		CASE(window),	   CASE(reset_port), CASE(full_bus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
