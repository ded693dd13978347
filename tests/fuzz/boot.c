/*
 * Kernel images: the loaders of bzImage and ELF files, with an initrd or without, and little memory
 * or much. The first bytes choose; the rest is the file.
 */
#include "input.h"

#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const u64 sizes[] = {16, 17, 64, 256};
	struct input in = {data, size};
	unsigned how = (unsigned)input_number(&in, 1);
	struct run_config cfg = {.entry = how & 3};
	struct guest_memory mem = {0};
	struct boot_image img = {.name = (char *)"fuzz", .cmdline = (char *)"console=ttyS0"};
	struct boot_entry entry;
	GError *error = NULL;
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	if (!in.left || fd < 0 || write(fd, in.data, in.left) != (ssize_t)in.left ||
	    !memory_init(&mem, sizes[how >> 2 & 3] << 20, NULL))
		goto out;
	img.kernel = g_mapped_file_new_from_fd(fd, FALSE, NULL);
	if (how & 0x10) {
		img.initrd = g_byte_array_new();
		g_byte_array_set_size(img.initrd, (how & 0xe0) << 12);
		if (img.initrd->len)
			memset(img.initrd->data, 0x55, img.initrd->len);
	}
	if (!boot_load(&img, &cfg, &mem, BOOT_BIOS, &entry, &error) && !error)
		__builtin_trap(); /* refused without a word */
	g_clear_error(&error);
	if (img.initrd)
		g_byte_array_unref(img.initrd);
	g_mapped_file_unref(img.kernel);
out:
	memory_free(&mem);
	if (fd >= 0)
		close(fd);
	return 0;
}
