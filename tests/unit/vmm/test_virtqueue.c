/* Split rings: ordinary requests, indirect tables, event indexes, and drivers that break rules. */
#include "fake.h"

#include <linux/virtio_ring.h>

#include "vmm/virtio.h"

#define SIZE	 8
#define DESC	 0x1000
#define AVAIL	 0x2000
#define USED	 0x3000
#define INDIRECT 0x4000
#define DATA	 0x10000

static struct guest_memory mem;
static struct virtqueue vq;
static struct virtio_request req;
static bool event_idx;
static unsigned interrupts;

const struct guest_memory *virtio_memory(const struct virtio *vio)
{
	return &mem;
}

void virtio_interrupt(struct virtio *vio, u16 vector)
{
	interrupts++;
}

bool virtio_has_feature(const struct virtio *vio, unsigned bit)
{
	return bit == VIRTIO_RING_F_EVENT_IDX && event_idx;
}

static struct vring_desc *table(u64 at)
{
	return memory_at(&mem, at, 16 * 64);
}

static struct vring_avail *avail(void)
{
	return memory_at(&mem, AVAIL, 64);
}

static struct vring_used *used(void)
{
	return memory_at(&mem, USED, 256);
}

static int setup(void **state)
{
	event_idx = false;
	interrupts = 0;
	memset(&vq, 0, sizeof(vq));
	if (!memory_init(&mem, 16 << 20, NULL))
		return -1;
	virtqueue_reset(&vq);
	vq.size = SIZE;
	vq.desc = DESC;
	vq.avail = AVAIL;
	vq.used = USED;
	vq.enabled = true;
	return 0;
}

static int teardown(void **state)
{
	memory_free(&mem);
	return 0;
}

static void offer(u16 head)
{
	avail()->ring[avail()->idx % SIZE] = head;
	avail()->idx++;
}

/* What devices wrote, as the accelerator is told. */
static u64 told[8][2];
static unsigned told_count;

static int tell(int vm_fd, unsigned long gpa, unsigned long size)
{
	assert_int_equal(vm_fd, 7);
	assert_true(told_count < 8);
	told[told_count][0] = gpa;
	told[told_count++][1] = size;
	return 0;
}

/* Every segment that a device may have written is told, before the driver sees the request done. */
static void writes_are_told(void **state)
{
	table(DESC)[2] = (struct vring_desc){DATA, 5, VRING_DESC_F_NEXT, 4};
	table(DESC)[4] =
		(struct vring_desc){DATA + 100, 7, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1};
	table(DESC)[1] = (struct vring_desc){DATA + 0x3000, 9, VRING_DESC_F_WRITE, 0};
	offer(2);
	assert_true(virtqueue_pop(&vq, &req));
	mem.written = tell;
	mem.vm_fd = 7;
	told_count = 0;
	virtqueue_push(&vq, &req, 3);
	assert_int_equal(told_count, 2);
	assert_int_equal(told[0][0], DATA + 100);
	assert_int_equal(told[0][1], 7);
	assert_int_equal(told[1][0], DATA + 0x3000);
	assert_int_equal(told[1][1], 9);
	assert_true(memory_write(&mem, DATA, "hello", 5));
	assert_int_equal(told_count, 3);
	assert_int_equal(told[2][0], DATA);
	assert_int_equal(told[2][1], 5);
}

static void ordinary(void **state)
{
	char buf[16];

	assert_false(virtqueue_pop(&vq, &req));
	table(DESC)[2] = (struct vring_desc){DATA, 5, VRING_DESC_F_NEXT, 4};
	table(DESC)[4] =
		(struct vring_desc){DATA + 100, 7, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1};
	table(DESC)[1] = (struct vring_desc){DATA + 200, 9, VRING_DESC_F_WRITE, 0};
	memory_write(&mem, DATA, "hello", 5);
	offer(2);
	assert_true(virtqueue_pop(&vq, &req));
	assert_int_equal(req.head, 2);
	assert_int_equal(req.out_count, 1);
	assert_int_equal(req.in_count, 2);
	assert_int_equal(req.in_len, 16);
	assert_int_equal(iov_to_buf(req.segments, req.out_count, 1, buf, 16), 4);
	assert_memory_equal(buf, "ello", 4);
	assert_int_equal(iov_from_buf(virtio_request_in(&req), 2, 3, "abcdefgh", 8), 8);
	assert_memory_equal(memory_at(&mem, DATA + 103, 4), "abcd", 4);
	assert_memory_equal(memory_at(&mem, DATA + 200, 4), "efgh", 4);
	virtqueue_push(&vq, &req, 11);
	assert_int_equal(used()->idx, 1);
	assert_int_equal(used()->ring[0].id, 2);
	assert_int_equal(used()->ring[0].len, 11);
	virtqueue_notify(&vq, 0);
	assert_int_equal(interrupts, 1);
	virtqueue_notify(&vq, 1); /* nothing new */
	assert_int_equal(interrupts, 1);
	assert_false(virtqueue_pop(&vq, &req));
	assert_false(vq.broken);
}

static void around_the_ring(void **state)
{
	table(DESC)[0] = (struct vring_desc){DATA, 1, 0, 0};
	for (unsigned i = 0; i < 70000; i++) {
		offer(0);
		assert_true(virtqueue_pop(&vq, &req));
		virtqueue_unpop(&vq);
		assert_true(virtqueue_pop(&vq, &req));
		virtqueue_push(&vq, &req, 0);
	}
	assert_int_equal(used()->idx, (u16)70000);
}

static void indirect(void **state)
{
	table(DESC)[0] = (struct vring_desc){INDIRECT, 3 * 16, VRING_DESC_F_INDIRECT, 0};
	for (u16 i = 0; i < 3; i++)
		table(INDIRECT)[i] = (struct vring_desc){DATA + i, 1, i < 2 ? VRING_DESC_F_NEXT : 0,
							 (u16)(i + 1)};
	offer(0);
	assert_true(virtqueue_pop(&vq, &req));
	assert_int_equal(req.out_count, 3);
}

static void suppression(void **state)
{
	table(DESC)[0] = (struct vring_desc){DATA, 1, 0, 0};
	avail()->flags = VRING_AVAIL_F_NO_INTERRUPT;
	offer(0);
	assert_true(virtqueue_pop(&vq, &req));
	virtqueue_push(&vq, &req, 0);
	virtqueue_notify(&vq, 0);
	assert_int_equal(interrupts, 0);
	virtqueue_enable_doorbell(&vq, false);
	assert_int_equal(used()->flags, VRING_USED_F_NO_NOTIFY);
	offer(0);
	assert_true(virtqueue_enable_doorbell(&vq, true)); /* one is waiting */
	assert_int_equal(used()->flags, 0);
	event_idx = true;
	avail()->ring[SIZE] = 1; /* interrupt when entry 1 is used */
	virtqueue_notify(&vq, 0);
	assert_int_equal(interrupts, 0);
	assert_true(virtqueue_pop(&vq, &req));
	virtqueue_push(&vq, &req, 0);
	virtqueue_notify(&vq, 1);
	assert_int_equal(interrupts, 1);
	assert_false(virtqueue_enable_doorbell(&vq, true));
	assert_int_equal(*(u16 *)&used()->ring[SIZE], 2);
}

static void breaks(void)
{
	offer(0);
	assert_false(virtqueue_pop(&vq, &req));
	assert_true(vq.broken);
	/* It stands still, whatever comes. */
	table(DESC)[0] = (struct vring_desc){DATA, 1, 0, 0};
	offer(0);
	assert_false(virtqueue_pop(&vq, &req));
	assert_false(virtqueue_enable_doorbell(&vq, true));
	teardown(NULL);
	setup(NULL);
}

static void broken_rules(void **state)
{
	/* a loop */
	table(DESC)[0] = (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, 0};
	breaks();
	/* a next outside of the table */
	table(DESC)[0] = (struct vring_desc){DATA, 1, VRING_DESC_F_NEXT, SIZE};
	breaks();
	/* memory that is not there, wraps, or is empty */
	table(DESC)[0] = (struct vring_desc){16 << 20, 1, 0, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){~0ull - 1, 4, 0, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){DATA, 0, 0, 0};
	breaks();
	/* something to read after something to write */
	table(DESC)[0] = (struct vring_desc){DATA, 1, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1};
	table(DESC)[1] = (struct vring_desc){DATA, 1, 0, 0};
	breaks();
	/* indirect tables: nested, chained on, ragged, empty, far away, endless */
	table(DESC)[0] = (struct vring_desc){INDIRECT, 16, VRING_DESC_F_INDIRECT, 0};
	table(INDIRECT)[0] = (struct vring_desc){INDIRECT, 16, VRING_DESC_F_INDIRECT, 0};
	breaks();
	table(DESC)[0] =
		(struct vring_desc){INDIRECT, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1};
	table(INDIRECT)[0] = (struct vring_desc){DATA, 1, 0, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){INDIRECT, 17, VRING_DESC_F_INDIRECT, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){INDIRECT, 0, VRING_DESC_F_INDIRECT, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){~0ull << 12, 16, VRING_DESC_F_INDIRECT, 0};
	breaks();
	table(DESC)[0] = (struct vring_desc){INDIRECT, 16 * 4096, VRING_DESC_F_INDIRECT, 0};
	breaks();
	/* more requests than the ring holds */
	avail()->idx = SIZE + 1;
	breaks();
	/* a head outside of the table */
	offer(SIZE);
	assert_false(virtqueue_pop(&vq, &req));
	assert_true(vq.broken);
}

static void rings_outside_of_memory(void **state)
{
	vq.used = 16 << 20;
	breaks();
	vq.avail = (16 << 20) - 4;
	assert_false(virtqueue_pop(&vq, &req));
	assert_true(vq.broken);
	virtqueue_push(&vq, &req, 0);
	virtqueue_notify(&vq, 5);
	teardown(NULL);
	setup(NULL);
	vq.desc = ~0ull - 15;
	breaks();
	vq.enabled = false;
	offer(0);
	assert_false(virtqueue_pop(&vq, &req));
	assert_false(vq.broken);
}

/* Rings full of noise: whatever happens, it ends and stays in bounds (sanitizers look). */
static void noise(void **state)
{
	for (unsigned round = 0; round < 2000; round++) {
		u8 *p = memory_at(&mem, DESC, 0x4000);

		for (unsigned i = 0; i < 0x4000; i += 2)
			*(u16 *)(p + i) = (u16)(rand() % 3 ? rand() % 16 : rand());
		vq.broken = false;
		for (unsigned i = 0; i < 10 && virtqueue_pop(&vq, &req); i++) {
			assert_true(req.out_count + req.in_count <= VIRTIO_SEGMENTS_MAX);
			virtqueue_push(&vq, &req, 0);
		}
		virtqueue_notify(&vq, 0);
	}
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(ordinary),	       CASE(around_the_ring), CASE(indirect),
		CASE(writes_are_told), CASE(around_the_ring), CASE(indirect),
		CASE(suppression),     CASE(broken_rules),    CASE(rings_outside_of_memory),
		CASE(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
