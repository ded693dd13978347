/* Boot files, memory map and the parts of low memory that all kernels' boot protocols share. */
#include "vmm/boot.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/error.h"
#include "vmm/guest_command.h"

#define IMAGE_MAX	    (2048ull << 20)
#define CONSOLE_SERIAL_ARGS "console=ttyS0"
#define CONSOLE_VIRTIO_ARGS "console=ttyS0 console=hvc0"

static GMappedFile *map_file(const char *what, const char *path, GError **error)
{
	g_autoptr(GError) why = NULL;
	GMappedFile *file;

	if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
		vmm_error(error, "the %s '%s' is a directory", what, path);
		return NULL;
	}
	/* A FIFO would wait for its writer, and what cannot be mapped is no image. */
	if (g_file_test(path, G_FILE_TEST_EXISTS) && !g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
		vmm_error(error, "the %s '%s' is not a regular file", what, path);
		return NULL;
	}
	file = g_mapped_file_new(path, FALSE, &why);
	if (!file) {
		vmm_error(error, "cannot read the %s '%s': %s", what, path,
			  access(path, R_OK) ? g_strerror(errno) : why->message);
		return NULL;
	}
	if (!g_mapped_file_get_length(file) || g_mapped_file_get_length(file) > IMAGE_MAX) {
		vmm_error(error, "the %s '%s' is %s", what, path,
			  g_mapped_file_get_length(file) ? "larger than 2 GiB" : "empty");
		g_clear_pointer(&file, g_mapped_file_unref);
	}
	return file;
}

/* The folder with the cached default guest: $ANYKVM_GUEST_DIR, or guest/ beside the program. */
static char *guest_folder(void)
{
	const char *env = g_getenv("ANYKVM_GUEST_DIR");
	g_autofree char *self = NULL, *dir = NULL;

	if (env && *env)
		return g_strdup(env);
	self = g_file_read_link("/proc/self/exe", NULL);
	dir = self ? g_path_get_dirname(self) : g_strdup(".");
	return g_build_filename(dir, "guest", NULL);
}

bool boot_default_guest(char **kernel, char **initrd)
{
	g_autofree char *dir = guest_folder();

	*kernel = g_build_filename(dir, "vmlinuz-6.1", NULL);
	*initrd = g_build_filename(dir, "initramfs.cpio.gz", NULL);
	return !access(*kernel, R_OK) && !access(*initrd, R_OK);
}

static bool load_initrd(struct boot_image *img, const char *path, char **command, GError **error)
{
	static const u8 zeros[4];

	img->initrd = g_byte_array_new();
	if (path) {
		GMappedFile *file = map_file("initrd", path, error);

		if (!file)
			return false;
		g_byte_array_append(img->initrd, (const u8 *)g_mapped_file_get_contents(file),
				    (guint)g_mapped_file_get_length(file));
		g_mapped_file_unref(file);
	}
	if (command) {
		/* Linux unpacks archives one after the other; each begins on 4 bytes. */
		g_byte_array_append(img->initrd, zeros, -img->initrd->len & 3);
		guest_command_archive(img->initrd, command, isatty(STDIN_FILENO),
				      isatty(STDOUT_FILENO));
	}
	if (!img->initrd->len)
		g_clear_pointer(&img->initrd, g_byte_array_unref);
	return true;
}

bool boot_image_init(struct boot_image *img, const struct run_config *cfg, GError **error)
{
	g_autofree char *kernel = g_strdup(cfg->kernel), *initrd = g_strdup(cfg->initrd);

	memset(img, 0, sizeof(*img));
	if (cfg->default_guest && !boot_default_guest(&kernel, &initrd)) {
		vmm_error(error,
			  "no default guest (%s and %s); 'scripts/guest-assets' makes it, "
			  "or name a kernel with --kernel",
			  kernel, initrd);
		return false;
	}
	img->name = g_strdup(kernel);
	img->kernel = map_file("kernel", kernel, error);
	if (!img->kernel || !load_initrd(img, initrd, cfg->command, error))
		return false;
	img->cmdline = g_strdup_printf("%s%s%s%s",
				       cfg->console == CONSOLE_VIRTIO ? CONSOLE_VIRTIO_ARGS
								      : CONSOLE_SERIAL_ARGS,
				       cfg->command ? " " GUEST_COMMAND_ARGS : "",
				       cfg->append ? " " : "", cfg->append ? cfg->append : "");
	return true;
}

void boot_image_free(struct boot_image *img)
{
	g_free(img->name);
	g_free(img->cmdline);
	if (img->kernel)
		g_mapped_file_unref(img->kernel);
	if (img->initrd)
		g_byte_array_unref(img->initrd);
	memset(img, 0, sizeof(*img));
}

unsigned boot_memory_map(const struct guest_memory *mem, struct boot_range *r)
{
	unsigned n = 0;

	r[n++] = (struct boot_range){0, BOOT_EBDA, 1};
	r[n++] = (struct boot_range){BOOT_EBDA, 0xa0000 - BOOT_EBDA, 2};
	r[n++] = (struct boot_range){BOOT_BIOS, BOOT_1M - BOOT_BIOS, 2};
	r[n++] = (struct boot_range){BOOT_1M, mem->low - BOOT_1M, 1};
	if (memory_high(mem))
		r[n++] = (struct boot_range){MEMORY_4G, memory_high(mem), 1};
	return n;
}

bool boot_place_initrd(const struct boot_image *img, const struct guest_memory *mem, u64 floor,
		       u64 max, u64 *base, u64 *size, GError **error)
{
	u64 top = MIN(mem->low, max), len = img->initrd ? img->initrd->len : 0;

	*base = *size = 0;
	if (floor + len > top) {
		vmm_error(
			error,
			"too little memory: kernel and initrd of '%s' need about %" G_GUINT64_FORMAT
			" MiB, the guest has %" G_GUINT64_FORMAT " MiB",
			img->name, ((floor + len) >> 20) + 1, mem->size >> 20);
		return false;
	}
	if (!len)
		return true;
	*base = (top - len) & ~0xfffull;
	*size = len;
	if (*base < floor)
		*base = floor; /* floor + len fits; only the rounding did not */
	return memory_write(mem, *base, img->initrd->data, len);
}

/* Flat segments at selectors 0x10 and 0x18, as the Linux boot protocol asks for. */
static void place_gdt(const struct guest_memory *mem, bool wide)
{
	const u64 gdt[4] = {0, 0, wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull,
			    0x00cf93000000ffffull};

	memory_write(mem, BOOT_GDT, gdt, sizeof(gdt));
}

static void place_page_tables(const struct guest_memory *mem)
{
	u64 *pml4 = memory_at(mem, BOOT_PML4, 4096);
	u64 *pdpt = memory_at(mem, BOOT_PDPT, 4096);
	u64 *pd = memory_at(mem, BOOT_PD, 4 * 4096);

	memset(pml4, 0, 4096);
	memset(pdpt, 0, 4096);
	pml4[0] = BOOT_PDPT | 3;
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = (BOOT_PD + i * 4096ull) | 3;
	for (unsigned i = 0; i < 4 * 512; i++)
		pd[i] = (u64)i << 21 | 0x83;
}

bool boot_place_common(const struct boot_image *img, const struct guest_memory *mem,
		       u64 max_cmdline, enum boot_mode mode, GError **error)
{
	size_t len = strlen(img->cmdline);

	if (len > max_cmdline || len + 1 > BOOT_CMDLINE_MAX) {
		vmm_error(
			error,
			"the kernel command line has %zu bytes; '%s' takes at most %" G_GUINT64_FORMAT,
			len, img->name, MIN(max_cmdline, (u64)BOOT_CMDLINE_MAX - 1));
		return false;
	}
	memory_write(mem, BOOT_CMDLINE, img->cmdline, len + 1);
	place_gdt(mem, mode == BOOT_LONG64);
	place_page_tables(mem);
	return true;
}

bool boot_load(const struct boot_image *img, const struct run_config *cfg,
	       const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry, GError **error)
{
	g_autoptr(GError) why = NULL;
	bool ok = boot_linux_load(img, cfg->entry, mem, rsdp, entry, &why);

	if (!ok && !why)
		ok = boot_elf_load(img, cfg->entry, mem, rsdp, entry, &why);
	if (ok)
		return true;
	if (why)
		g_propagate_error(error, g_steal_pointer(&why));
	else
		vmm_error(error, "'%s' is no kernel: neither a Linux bzImage nor an x86 ELF file",
			  img->name);
	return false;
}
