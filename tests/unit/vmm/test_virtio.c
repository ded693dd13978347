/*
 * virtio devices behind their PCI transport: an honest driver gets its data; one that writes
 * noise into registers, rings and requests does no harm (the sanitizers look).
 */
#include "fake.h"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <unistd.h>

#include "vmm/machine.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_console.h"
#include "vmm/virtio_net.h"
#include "vmm/virtio_rng.h"

#define DEVICES	  4
#define DISK_SIZE (1u << 20)
#define DESC	  0x10000
#define AVAIL	  0x12000
#define USED	  0x14000
#define DATA	  0x100000

static struct machine m;
static struct backends back;
static char path[] = "/tmp/anykvm-test-XXXXXX";
static u8 *image;
static unsigned frames;

/* ---- what the devices call ---- */

void machine_add_device(struct machine *machine, void *dev, void (*stop)(void *),
			void (*free)(void *))
{
	machine->devices[machine->device_count++] = (struct machine_device){dev, stop, free};
}

void net_user_attach(struct net_user *net, net_receive_fn fn, void *opaque)
{
}

void net_user_send(struct net_user *net, const u8 *frame, size_t len)
{
	frames++;
}

/* ---- set-up ---- */

static int setup(void **state)
{
	struct config_disk cfg = {path, false, true};
	int fd;

	fake_reset(state);
	memset(&m, 0, sizeof(m));
	memset(&back, 0, sizeof(back));
	strcpy(path, "/tmp/anykvm-test-XXXXXX");
	fd = mkstemp(path);
	close(fd);
	image = g_malloc(DISK_SIZE);
	for (unsigned i = 0; i < DISK_SIZE; i++)
		image[i] = (u8)rand();
	assert_true(g_file_set_contents(path, (char *)image, DISK_SIZE, NULL));
	m.back = &back;
	bus_init(&m.pio);
	bus_init(&m.mmio);
	assert_true(memory_init(&back.mem, 32 << 20, NULL));
	m.pci = pci_new(&m.pio, &m.mmio, NULL, &fake_power);
	back.disks[0] = disk_open(&cfg, NULL);
	assert_true(virtio_blk_new(&m, back.disks[0], 0, NULL));
	assert_true(virtio_net_new(&m, NULL, NULL));
	assert_true(virtio_rng_new(&m, NULL));
	assert_true(virtio_console_new(&m, NULL));
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < m.device_count; i++)
		m.devices[i].stop(m.devices[i].dev);
	while (m.device_count--)
		m.devices[m.device_count].free(m.devices[m.device_count].dev);
	pci_free(m.pci);
	disk_close(back.disks[0]);
	memory_free(&back.mem);
	bus_destroy(&m.pio);
	bus_destroy(&m.mmio);
	unlink(path);
	g_free(image);
	return 0;
}

/* ---- an honest driver ---- */

static u64 bar(unsigned device)
{
	bus_write(&m.pio, 0xcf8, 0x80000000 | (device + 1) << 11 | PCI_BASE_ADDRESS_0, 4);
	return bus_read(&m.pio, 0xcfc, 4) & ~15ull;
}

static void reg(unsigned device, unsigned offset, u64 v, unsigned size)
{
	bus_write(&m.mmio, bar(device) + offset, v, size);
}

static u64 get(unsigned device, unsigned offset, unsigned size)
{
	return bus_read(&m.mmio, bar(device) + offset, size) & (~0ull >> (64 - 8 * size));
}

static void start(unsigned device, unsigned queues)
{
	reg(device, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	reg(device, VIRTIO_PCI_COMMON_STATUS, 3, 1);
	reg(device, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	reg(device, VIRTIO_PCI_COMMON_GF, 1, 4); /* VERSION_1 */
	reg(device, VIRTIO_PCI_COMMON_STATUS, 11, 1);
	assert_int_equal(get(device, VIRTIO_PCI_COMMON_STATUS, 1), 11);
	for (unsigned q = 0; q < queues; q++) {
		reg(device, VIRTIO_PCI_COMMON_Q_SELECT, q, 2);
		assert_int_equal(get(device, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
		reg(device, VIRTIO_PCI_COMMON_Q_SIZE, 16, 2);
		reg(device, VIRTIO_PCI_COMMON_Q_DESCLO, DESC + q * 0x8000, 4);
		reg(device, VIRTIO_PCI_COMMON_Q_AVAILLO, AVAIL + q * 0x8000, 4);
		reg(device, VIRTIO_PCI_COMMON_Q_USEDLO, USED + q * 0x8000, 4);
		reg(device, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	}
	reg(device, VIRTIO_PCI_COMMON_STATUS, 15, 1);
}

static struct vring_desc *desc(unsigned q, unsigned n)
{
	return (struct vring_desc *)memory_at(&back.mem, DESC + q * 0x8000, 16 * 16) + n;
}

/* Offers chain 0 on a queue, rings, and waits until it is used; its used length. */
static u32 submit(unsigned device, unsigned q)
{
	struct vring_avail *avail = memory_at(&back.mem, AVAIL + q * 0x8000, 64);
	struct vring_used *used = memory_at(&back.mem, USED + q * 0x8000, 256);
	u16 want = used->idx + 1;
	gint64 end = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;

	avail->ring[avail->idx % 16] = 0;
	__atomic_store_n(&avail->idx, avail->idx + 1, __ATOMIC_RELEASE);
	reg(device, 0x4000 + 4 * q, q, 2);
	while (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) != want &&
	       g_get_monotonic_time() < end)
		g_main_context_iteration(NULL, FALSE);
	assert_int_equal(used->idx, want);
	return used->ring[(u16)(want - 1) % 16].len;
}

static u8 disk_request(u32 type, u64 sector, u32 len, bool write)
{
	struct virtio_blk_outhdr head = {.type = type, .sector = sector};
	u8 status;

	memory_write(&back.mem, DATA - 64, &head, sizeof(head));
	*desc(0, 0) = (struct vring_desc){DATA - 64, 16, VRING_DESC_F_NEXT, 1};
	*desc(0, 1) = (struct vring_desc){DATA, len,
					  VRING_DESC_F_NEXT | (write ? 0 : VRING_DESC_F_WRITE), 2};
	*desc(0, 2) = (struct vring_desc){DATA - 32, 1, VRING_DESC_F_WRITE, 0};
	submit(0, 0);
	memory_read(&back.mem, DATA - 32, &status, 1);
	return status;
}

static void disk(void **state)
{
	start(0, 1);
	assert_int_equal(get(0, 0x2000, 8), DISK_SIZE / 512);
	assert_int_equal(disk_request(VIRTIO_BLK_T_IN, 8, 4096, false), VIRTIO_BLK_S_OK);
	assert_memory_equal(memory_at(&back.mem, DATA, 4096), image + 8 * 512, 4096);
	memset(memory_at(&back.mem, DATA, 4096), 0x5a, 4096);
	assert_int_equal(disk_request(VIRTIO_BLK_T_OUT, 16, 4096, true), VIRTIO_BLK_S_OK);
	memset(memory_at(&back.mem, DATA, 4096), 0, 4096);
	assert_int_equal(disk_request(VIRTIO_BLK_T_IN, 16, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(*(u8 *)memory_at(&back.mem, DATA + 511, 1), 0x5a);
	assert_int_equal(disk_request(VIRTIO_BLK_T_GET_ID, 0, 20, false), VIRTIO_BLK_S_OK);
	assert_memory_equal(memory_at(&back.mem, DATA, 13), "anykvm-disk-0", 13);
	/* what does not fit */
	assert_int_equal(disk_request(VIRTIO_BLK_T_IN, DISK_SIZE / 512, 512, false),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_request(VIRTIO_BLK_T_IN, ~0ull, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_request(VIRTIO_BLK_T_IN, 0, 100, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_request(VIRTIO_BLK_T_DISCARD, 0, 15, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_request(77, 0, 512, false), VIRTIO_BLK_S_UNSUPP);
}

static void interrupts(void **state)
{
	unsigned gsi = pci_slot_gsi(3);

	start(2, 1);
	*desc(0, 0) = (struct vring_desc){DATA, 64, VRING_DESC_F_WRITE, 0};
	assert_int_equal(submit(2, 0), 64);
	/* The line rises after the used index: let the device get there. */
	for (unsigned i = 0; i < 1000 && !fake_line(gsi); i++)
		g_usleep(1000);
	assert_true(fake_line(gsi));
	assert_int_equal(get(2, 0x1000, 1), 1);
	assert_false(fake_line(gsi));
	assert_int_equal(get(2, 0x1000, 1), 0);
}

static void network(void **state)
{
	start(1, 2);
	frames = 0;
	*desc(1, 0) = (struct vring_desc){DATA, 12 + 60, 0, 0};
	submit(1, 1);
	assert_int_equal(frames, 1);
	*desc(1, 0) = (struct vring_desc){DATA, 5, 0, 0}; /* shorter than the header */
	submit(1, 1);
	assert_int_equal(frames, 1);
}

static void console(void **state)
{
	start(3, 2);
	assert_non_null(fake.frontend);
	memory_write(&back.mem, DATA, "to the user", 11);
	*desc(1, 0) = (struct vring_desc){DATA, 11, 0, 0};
	submit(3, 1);
	assert_string_equal(fake.output->str, "to the user");
	g_string_assign(fake.input, "typed");
	*desc(0, 0) = (struct vring_desc){DATA, 64, VRING_DESC_F_WRITE, 0};
	assert_int_equal(submit(3, 0), 5);
	assert_memory_equal(memory_at(&back.mem, DATA, 5), "typed", 5);
	reg(3, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	assert_null(fake.frontend);
}

static void negotiation(void **state)
{
	reg(2, VIRTIO_PCI_COMMON_STATUS, 3, 1);
	reg(2, VIRTIO_PCI_COMMON_STATUS, 11, 1); /* without VERSION_1 */
	assert_int_equal(get(2, VIRTIO_PCI_COMMON_STATUS, 1), 3);
	reg(2, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	reg(2, VIRTIO_PCI_COMMON_GF, 0x80000001, 4); /* a bit that was not offered */
	reg(2, VIRTIO_PCI_COMMON_STATUS, 11, 1);
	assert_int_equal(get(2, VIRTIO_PCI_COMMON_STATUS, 1), 3);
	reg(2, VIRTIO_PCI_COMMON_Q_SELECT, 9, 2);
	assert_int_equal(get(2, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
}

/* ---- a driver that does its worst ---- */

static u64 any_value(void)
{
	static const u64 picks[] = {0,	  1,	 2,    3,    11,       15,     16,	  255,
				    DESC, AVAIL, USED, DATA, 1u << 25, 0xffff, 0xffffffff};

	return rand() % 4 ? picks[(unsigned)rand() % ARRAY_SIZE(picks)] : (u64)rand();
}

static void any_register(unsigned device)
{
	static const unsigned sizes[] = {1, 2, 4, 8};
	static const unsigned areas[] = {0, 0, 0, 0, 0x1000, 0x2000, 0x3000, 0x3800, 0x4000};
	unsigned area = areas[(unsigned)rand() % ARRAY_SIZE(areas)];
	unsigned offset = area + (unsigned)rand() % (rand() % 8 ? 64 : 0x800);
	unsigned size = sizes[rand() % 4];

	if (rand() % 3)
		reg(device, offset & ~(size - 1), any_value(), size);
	else
		get(device, offset & ~(size - 1), size);
}

static void any_memory(void)
{
	u8 *p = memory_at(&back.mem, DESC, 0x10000);

	for (unsigned i = 0; i < 64; i++) {
		unsigned at = (unsigned)rand() % 0x10000 & ~7u;

		*(u64 *)(p + at) = rand() % 2 ? any_value() : DATA + (unsigned)rand() % 4096;
	}
}

static void noise(void **state)
{
	gint64 end = g_get_monotonic_time() + 4 * G_USEC_PER_SEC;

	for (unsigned round = 0; g_get_monotonic_time() < end; round++) {
		unsigned device = (unsigned)rand() % DEVICES;

		if (round % 50 == 0) {
			/* A good start now and then, or little would get past the handshake. */
			start(device, device == 0 || device == 2 ? 1 : 2);
		}
		any_memory();
		for (unsigned i = 0; i < 8; i++)
			any_register(device);
		g_string_append(fake.input, fake.input->len < 100 ? "x" : "");
		g_string_truncate(fake.output, 0);
		fake.output_room = (unsigned)rand() % 5000;
		for (unsigned i = 0; i < 3; i++)
			g_main_context_iteration(NULL, FALSE);
	}
	/* The devices still work for a driver that starts over. */
	fake.output_room = 1 << 20;
	memset(memory_at(&back.mem, DESC, 0x10000), 0, 0x10000);
	for (unsigned i = 0; i < DEVICES; i++)
		reg(i, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	start(0, 1);
	assert_int_equal(disk_request(VIRTIO_BLK_T_FLUSH, 0, 512, false), VIRTIO_BLK_S_OK);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(disk),    CASE(interrupts),  CASE(network),
		CASE(console), CASE(negotiation), CASE(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
