/* Guest memory: the PCI hole, and that no access gets past an end. */
#include "fake.h"

#include "vmm/memory.h"

static void small(void **state)
{
	struct guest_memory mem;
	u8 buf[8] = "abcdefg";

	assert_true(memory_init(&mem, 16 << 20, NULL));
	assert_int_equal(memory_high(&mem), 0);
	assert_non_null(memory_at(&mem, 0, 16 << 20));
	assert_null(memory_at(&mem, 0, (16 << 20) + 1));
	assert_null(memory_at(&mem, 1, 16 << 20));
	assert_null(memory_at(&mem, 16 << 20, 1));
	assert_null(memory_at(&mem, 0, 0));
	assert_null(memory_at(&mem, ~0ull, 1));
	assert_null(memory_at(&mem, 8, ~0ull));
	assert_null(memory_at(&mem, MEMORY_4G, 1));
	assert_true(memory_write(&mem, 100, buf, 8));
	memset(buf, 0, sizeof(buf));
	assert_true(memory_read(&mem, 100, buf, 8));
	assert_string_equal((char *)buf, "abcdefg");
	assert_false(memory_write(&mem, (16 << 20) - 4, buf, 8));
	memory_clear(&mem);
	assert_true(memory_read(&mem, 100, buf, 8));
	assert_int_equal(buf[0], 0);
	memory_free(&mem);
}

static u64 told_gpa, told_size;

static int tell(int vm_fd, unsigned long gpa, unsigned long size)
{
	told_gpa = gpa;
	told_size = size;
	return 0;
}

static void around_the_hole(void **state)
{
	struct guest_memory mem;
	const u64 high = 1ull << 30;

	assert_true(memory_init(&mem, MEMORY_PCI_HOLE + high, NULL));
	assert_int_equal(memory_high(&mem), high);
	assert_null(memory_at(&mem, MEMORY_PCI_HOLE, 1));
	assert_null(memory_at(&mem, MEMORY_PCI_HOLE - 1, 2));
	assert_null(memory_at(&mem, MEMORY_4G - 1, 1));
	assert_non_null(memory_at(&mem, MEMORY_4G, high));
	assert_null(memory_at(&mem, MEMORY_4G, high + 1));
	assert_null(memory_at(&mem, MEMORY_4G + high, 1));
	assert_ptr_equal(memory_at(&mem, MEMORY_4G, 1), mem.host + MEMORY_PCI_HOLE);
	mem.written = tell;
	memory_written(&mem, memory_at(&mem, MEMORY_PCI_HOLE - 8, 8), 8);
	assert_int_equal(told_gpa, MEMORY_PCI_HOLE - 8);
	memory_written(&mem, memory_at(&mem, MEMORY_4G + 16, 4), 4);
	assert_int_equal(told_gpa, MEMORY_4G + 16);
	assert_int_equal(told_size, 4);
	memory_free(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small),
		cmocka_unit_test(around_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
