/*
 * A driver that does what it likes with four virtio devices: writes and reads of configuration
 * space, ports and device registers, bytes in the memory that rings and requests lie in.
 */
#include "fake.h"
#include "input.h"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <unistd.h>

#include "vmm/machine.h"
#include "vmm/virtio_blk.h"
#include "vmm/virtio_console.h"
#include "vmm/virtio_net.h"
#include "vmm/virtio_rng.h"

#define DISK_SIZE (64u << 10)
#define MEMORY	  (16u << 20)
#define WINDOW	  0x10000u /* of memory that the input writes to */
#define DEVICES	  4

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
	u8 sum = 0;

	for (size_t i = 0; i < len; i++) /* every byte of it is there */
		sum ^= frame[i];
	__asm__ volatile("" : : "r"(sum));
}

static struct disk *make_disk(void)
{
	static u8 zeros[DISK_SIZE];
	char path[] = "/tmp/anykvm-fuzz-XXXXXX";
	struct config_disk cfg = {path, false, true};
	struct disk *disk;
	int fd = mkstemp(path);

	if (fd < 0 || write(fd, zeros, sizeof(zeros)) != sizeof(zeros))
		return NULL;
	close(fd);
	disk = disk_open(&cfg, NULL);
	unlink(path);
	return disk;
}

static void config_space(struct machine *m, unsigned slot, unsigned reg, u32 value, bool write)
{
	bus_write(&m->pio, 0xcf8, 0x80000000 | slot << 11 | (reg & 0xfc), 4);
	if (write)
		bus_write(&m->pio, 0xcfc + (reg & 3), value, 4 >> (reg & 3 ? 1 : 0));
	else
		bus_read(&m->pio, 0xcfc + (reg & 3), 1);
}

/* The device in its working state, with rings in the window; the input may change all of it. */
static void start(struct machine *m, unsigned device, u64 bar)
{
	static const struct {
		u16 offset, size;
		u32 value;
	} steps[] = {{20, 1, 0},       {20, 1, 3},	 {8, 4, 1},   {12, 4, 1},
		     {20, 1, 11},      {22, 2, 0},	 {24, 2, 16}, {32, 4, 0x10000},
		     {40, 4, 0x11000}, {48, 4, 0x12000}, {28, 2, 1},  {20, 1, 15}};

	config_space(m, device + 1, PCI_COMMAND, 6, true);
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++)
		bus_write(&m->mmio, bar + steps[i].offset, steps[i].value, steps[i].size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine machine;
	static struct backends back;
	struct input in = {data, size};
	struct machine *m = &machine;
	u64 bars[DEVICES];

	memset(m, 0, sizeof(*m));
	memset(&back, 0, sizeof(back));
	fake_reset(NULL);
	m->back = &back;
	bus_init(&m->pio);
	bus_init(&m->mmio);
	if (!memory_init(&back.mem, MEMORY, NULL))
		return 0;
	m->pci = pci_new(&m->pio, &m->mmio, NULL, &fake_power);
	back.disks[0] = make_disk();
	if (!back.disks[0] || !virtio_blk_new(m, back.disks[0], 0, NULL) ||
	    !virtio_net_new(m, NULL, NULL) || !virtio_rng_new(m, NULL) ||
	    !virtio_console_new(m, NULL))
		abort();
	for (unsigned d = 0; d < DEVICES; d++) {
		bus_write(&m->pio, 0xcf8, 0x80000000 | (d + 1) << 11 | PCI_BASE_ADDRESS_0, 4);
		bars[d] = bus_read(&m->pio, 0xcfc, 4) & 0xfffffff0;
		start(m, d, bars[d]);
	}
	while (input_more(&in)) {
		unsigned op = (unsigned)input_number(&in, 1), d = op >> 2 & 3;
		unsigned where = (unsigned)input_number(&in, 2);
		u8 bytes[32];

		switch (op & 3) {
		case 0:
			input_bytes(&in, bytes, sizeof(bytes));
			memory_write(&back.mem, 0x10000 + (where & (WINDOW - 64)), bytes,
				     sizeof(bytes));
			break;
		case 1:
			bus_write(&m->mmio, bars[d] + where % 0x4000, input_number(&in, 4),
				  1u << (op >> 4 & 3));
			break;
		case 2:
			bus_read(&m->mmio, bars[d] + where % 0x4000, 1u << (op >> 4 & 3));
			break;
		default:
			config_space(m, d + 1, where & 0xff, (u32)input_number(&in, 4), op & 0x10);
		}
		while (g_main_context_iteration(NULL, FALSE))
			;
	}
	for (unsigned i = 0; i < m->device_count; i++)
		m->devices[i].stop(m->devices[i].dev);
	while (m->device_count--)
		m->devices[m->device_count].free(m->devices[m->device_count].dev);
	pci_free(m->pci);
	disk_close(back.disks[0]);
	memory_free(&back.mem);
	bus_destroy(&m->pio);
	bus_destroy(&m->mmio);
	return 0;
}
