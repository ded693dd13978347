/* Kernel loaders: good images land where they should; broken ones are refused with one line. */
#include "fake.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <unistd.h>

#include "vmm/boot.h"
#include "vmm/guest_command.h"

static struct guest_memory mem;
static struct run_config cfg;
static struct boot_entry entry;
static char path[] = "/tmp/anykvm-test-XXXXXX";

static int setup(void **state)
{
	int fd;

	memset(&cfg, 0, sizeof(cfg));
	strcpy(path, "/tmp/anykvm-test-XXXXXX");
	fd = mkstemp(path);
	close(fd);
	cfg.kernel = path;
	return memory_init(&mem, 64 << 20, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
	unlink(path);
	memory_free(&mem);
	return 0;
}

/* Loads a kernel file with these bytes; the error's text, or NULL when it worked. */
static char *try_load(const void *data, size_t len)
{
	struct boot_image img;
	GError *error = NULL;
	char *text = NULL;

	assert_true(g_file_set_contents(path, data, (gssize)len, NULL));
	if (boot_image_init(&img, &cfg, &error))
		boot_load(&img, &cfg, &mem, BOOT_BIOS, &entry, &error);
	boot_image_free(&img);
	if (error) {
		text = g_strdup(error->message);
		assert_null(strchr(text, '\n'));
		g_error_free(error);
	}
	return text;
}

static void refused(const void *data, size_t len, const char *word)
{
	g_autofree char *text = try_load(data, len);

	assert_non_null(text);
	assert_non_null(strstr(text, word));
}

static u8 *make_linux(size_t *len)
{
	u8 *k = g_malloc0(512 * 8);
	struct setup_header *h = (struct setup_header *)(k + 0x1f1);

	h->setup_sects = 3;
	h->boot_flag = 0xaa55;
	h->jump = 0x6aeb;
	h->header = 0x53726448;
	h->version = 0x20f;
	h->loadflags = 1;
	h->syssize = 512 * 4 / 16;
	h->initrd_addr_max = 0x7fffffff;
	h->cmdline_size = 200;
	h->pref_address = 0x1000000;
	h->init_size = 0x1000000;
	h->xloadflags = XLF_KERNEL_64;
	memset(k + 2048, 0xcc, 2048);
	*len = 512 * 8;
	return k;
}

static void linux_loads(void **state)
{
	size_t len;
	g_autofree u8 *k = make_linux(&len);
	const struct boot_params *bp = memory_at(&mem, BOOT_PARAMS, sizeof(*bp));

	cfg.append = "quiet";
	assert_null(try_load(k, len));
	assert_int_equal(entry.mode, BOOT_LONG64);
	assert_int_equal(entry.rip, 0x100200);
	assert_int_equal(entry.rsi, BOOT_PARAMS);
	assert_int_equal(*(u8 *)memory_at(&mem, 0x100000, 1), 0xcc);
	assert_string_equal((char *)memory_at(&mem, BOOT_CMDLINE, 64), "console=ttyS0 quiet");
	assert_int_equal(bp->hdr.cmd_line_ptr, BOOT_CMDLINE);
	assert_int_equal(bp->acpi_rsdp_addr, BOOT_BIOS);
	assert_int_equal(bp->e820_entries, 4);
	assert_int_equal(bp->e820_table[3].addr, 0x100000);
	assert_int_equal(bp->e820_table[3].size, (64 << 20) - 0x100000);
	cfg.entry = ENTRY_32;
	assert_null(try_load(k, len));
	assert_int_equal(entry.mode, BOOT_PROT32);
	assert_int_equal(entry.rip, 0x100000);
}

static void linux_broken(void **state)
{
	size_t len;
	g_autofree u8 *k = make_linux(&len);
	struct setup_header *h = (struct setup_header *)(k + 0x1f1);
	char cmdline[300];

	refused(k, 600, "no kernel");
	refused(k, 1500, "cut short");
	refused(k, len - 1024, "cut short");
	cfg.entry = ENTRY_PVH;
	refused(k, len, "PVH");
	cfg.entry = ENTRY_AUTO;
	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[sizeof(cmdline) - 1] = 0;
	cfg.append = cmdline;
	refused(k, len, "command line");
	cfg.append = NULL;
	h->init_size = 0x4000000;
	refused(k, len, "too little memory");
	h->init_size = 0xffffffff;
	h->pref_address = ~0ull << 12;
	refused(k, len, "memory");
	h->pref_address = 0x1000000;
	h->init_size = 0x1000000;
	h->setup_sects = 0xff;
	refused(k, len, "cut short");
	h->setup_sects = 3;
	h->version = 0x200;
	refused(k, len, "protocol");
	k[0x1fe] = 0;
	refused(k, len, "no kernel");
}

struct elf_file {
	Elf64_Ehdr head;
	Elf64_Phdr load, note;
	struct {
		u32 namesz, descsz, type;
		char name[4];
		u32 desc;
	} xen;
	u8 code[256];
};

static struct elf_file make_elf(void)
{
	struct elf_file e = {
		.head = {.e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_entry = 0x1000040,
			 .e_phoff = offsetof(struct elf_file, load),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 2},
		.load = {.p_type = PT_LOAD,
			 .p_offset = offsetof(struct elf_file, code),
			 .p_paddr = 0x1000000,
			 .p_filesz = 256,
			 .p_memsz = 8192},
		.note = {.p_type = PT_NOTE,
			 .p_offset = offsetof(struct elf_file, xen),
			 .p_filesz = sizeof(e.xen),
			 .p_align = 4},
		.xen = {4, 4, 18, "Xen", 0x1000010},
	};

	memcpy(e.head.e_ident, ELFMAG "\2\1\1", 7);
	memset(e.code, 0xab, sizeof(e.code));
	return e;
}

static void elf_loads(void **state)
{
	struct elf_file e = make_elf();
	const u32 *info = memory_at(&mem, BOOT_START_INFO, 64);

	memset(memory_at(&mem, 0x1000000, 8192), 0xff, 8192);
	assert_null(try_load(&e, sizeof(e)));
	assert_int_equal(entry.mode, BOOT_PROT32);
	assert_int_equal(entry.rip, 0x1000010);
	assert_int_equal(entry.rbx, BOOT_START_INFO);
	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(*(u8 *)memory_at(&mem, 0x10000ff, 1), 0xab);
	assert_int_equal(*(u8 *)memory_at(&mem, 0x1000100, 1), 0);
	cfg.entry = ENTRY_64;
	assert_null(try_load(&e, sizeof(e)));
	assert_int_equal(entry.mode, BOOT_LONG64);
	assert_int_equal(entry.rip, 0x1000040);
	cfg.entry = ENTRY_AUTO;
	e.xen.type = 1; /* no PVH note: Linux' own entry */
	assert_null(try_load(&e, sizeof(e)));
	assert_int_equal(entry.mode, BOOT_LONG64);
}

static void elf_broken(void **state)
{
	struct elf_file e = make_elf();

	refused(&e, 100, "program headers");
	e.head.e_machine = EM_AARCH64;
	refused(&e, sizeof(e), "another processor");
	e = make_elf();
	e.head.e_phoff = ~0ull;
	refused(&e, sizeof(e), "program headers");
	e = make_elf();
	e.head.e_phnum = 0xffff;
	refused(&e, sizeof(e), "program headers");
	e = make_elf();
	e.load.p_offset = ~0ull - 10;
	refused(&e, sizeof(e), "cut short");
	e = make_elf();
	e.load.p_filesz = e.load.p_memsz + 1;
	refused(&e, sizeof(e), "cut short");
	e = make_elf();
	e.load.p_memsz = ~0ull - 0x1000000;
	refused(&e, sizeof(e), "too little memory");
	e = make_elf();
	e.load.p_paddr = 0x1000;
	refused(&e, sizeof(e), "below 1 MiB");
	e = make_elf();
	e.xen.namesz = 0xfffffff0;
	e.xen.descsz = 0xfffffff0;
	g_free(try_load(&e, sizeof(e))); /* must not read past the note */
	e.note.p_filesz = ~0ull;
	g_free(try_load(&e, sizeof(e)));
}

static void files(void **state)
{
	char *kernel = cfg.kernel;
	struct boot_image img;
	GError *error = NULL;

	refused("", 0, "empty");
	refused("#!/bin/sh\n", 10, "no kernel");
	cfg.kernel = "/nonexistent/bzImage";
	assert_false(boot_image_init(&img, &cfg, &error));
	assert_non_null(strstr(error->message, "No such file"));
	g_clear_error(&error);
	boot_image_free(&img);
	cfg.kernel = "/tmp";
	assert_false(boot_image_init(&img, &cfg, &error));
	assert_non_null(strstr(error->message, "directory"));
	g_clear_error(&error);
	boot_image_free(&img);
	cfg.kernel = kernel;
	cfg.initrd = "/nonexistent/initrd";
	assert_true(g_file_set_contents(path, "x", 1, NULL));
	assert_false(boot_image_init(&img, &cfg, &error));
	assert_non_null(strstr(error->message, "initrd"));
	g_clear_error(&error);
	boot_image_free(&img);
}

static void initrd_placement(void **state)
{
	struct boot_image img = {.name = "k", .initrd = g_byte_array_new()};
	u64 base, size;

	g_byte_array_set_size(img.initrd, 10000);
	assert_true(boot_place_initrd(&img, &mem, 1 << 20, 0x7fffffff, &base, &size, NULL));
	assert_int_equal(base % 4096, 0);
	assert_true(base + size <= mem.low && base + size + 4096 > mem.low);
	assert_true(boot_place_initrd(&img, &mem, 1 << 20, 0x200000, &base, &size, NULL));
	assert_true(base + size <= 0x200000);
	assert_false(boot_place_initrd(&img, &mem, 0x1ff000, 0x200000, &base, &size, NULL));
	g_byte_array_unref(img.initrd);
}

/* The members of the archive: sizes add up, names are there, the ELF file is one. */
static void command_archive(void **state)
{
	char *words[] = {"echo", "it's", "$HOME", NULL};
	GByteArray *out = g_byte_array_new();
	unsigned members = 0, seen = 0;

	guest_command_archive(out, words, false, false);
	for (u64 at = 0; at + 110 <= out->len; members++) {
		char field[9] = {0};
		u64 name_size, size, data;

		assert_memory_equal(out->data + at, "070701", 6);
		memcpy(field, out->data + at + 6 + 8 * 6, 8);
		size = g_ascii_strtoull(field, NULL, 16);
		memcpy(field, out->data + at + 6 + 8 * 11, 8);
		name_size = g_ascii_strtoull(field, NULL, 16);
		data = (at + 110 + name_size + 3) & ~3ull;
		if (!strcmp((char *)out->data + at + 110, "anykvm/cmd")) {
			g_autofree char *text = g_strndup((char *)out->data + data, size);

			assert_non_null(strstr(text, "'echo' 'it'\\''s' '$HOME'\n"));
			assert_non_null(strstr(text, "exec /anykvm/exit $?"));
			seen++;
		}
		if (!strcmp((char *)out->data + at + 110, "anykvm/exit")) {
			assert_memory_equal(out->data + data, ELFMAG, 4);
			assert_non_null(memmem(out->data + data, size, "\x66\xba\xf4\x05", 4));
			seen++;
		}
		if (!strcmp((char *)out->data + at + 110, "anykvm/ready")) {
			assert_non_null(memmem(out->data + data, size, "\xbf\xf5\x05\0\0", 5));
			assert_non_null(memmem(out->data + data, size, "\x66\xba\xf5\x05", 4));
			seen++;
		}
		at = (data + size + 3) & ~3ull;
		if (at >= out->len)
			assert_int_equal(at, out->len);
	}
	assert_int_equal(members, 5);
	assert_int_equal(seen, 3);
	g_byte_array_unref(out);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(linux_loads), CASE(linux_broken),	   CASE(elf_loads),	  CASE(elf_broken),
		CASE(files),	   CASE(initrd_placement), CASE(command_archive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
