/*
 * The part of an EFI application that runs under the firmware: it takes the machine over, puts the
 * kernel where it is linked to be, and enters it as PVH's loaders do. So the very same kernels
 * judge a machine that EFI has set up.
 *
 * Source: UEFI specification, "EFI Boot Services Table"; Linux, Documentation: PVH start info.
 */
#include "types.h"

#include <elf.h>

#define EFIAPI	  __attribute__((ms_abi))
#define LOWEST	  0x3100000ull /* kernels and their pages end below */
#define PVH_MAGIC 0x336ec578u

typedef u64 EFIAPI efi_get_map(u64 *size, void *map, u64 *key, u64 *step, u32 *version);
typedef u64 EFIAPI efi_exit(void *image, u64 key);
typedef u64 EFIAPI efi_text(void *console, const u16 *text);

/* Offsets as the specification's tables have them. */
struct boot_services {
	u8 before[56];
	efi_get_map *get_memory_map;
	u8 between[168];
	efi_exit *exit_boot_services;
};
_Static_assert(offsetof(struct boot_services, exit_boot_services) == 232, "EFI ABI");

struct text_output {
	void *reset;
	efi_text *output_string;
};

struct system_table {
	u8 before[64];
	struct text_output *console;
	u8 between[24];
	struct boot_services *boot;
};
_Static_assert(offsetof(struct system_table, boot) == 96, "EFI ABI");

struct start_info {
	u32 magic, version, flags, modules;
	u64 module_list, cmdline, rsdp, map;
	u32 map_entries, reserved;
};

extern const u8 kernel[], kernel_end[], command_line[];
void EFIAPI leave(u32 where, u32 info) __attribute__((noreturn));
u64 EFIAPI efi_main(void *image, struct system_table *st);

static void copy(u64 to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void clear(u64 to, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}

/* Puts the segments where they belong; the entry. */
static u32 load64(void)
{
	const Elf64_Ehdr *e = (const Elf64_Ehdr *)kernel;
	const Elf64_Phdr *p = (const Elf64_Phdr *)(kernel + e->e_phoff);

	for (unsigned i = 0; i < e->e_phnum; i++) {
		if (p[i].p_type != PT_LOAD)
			continue;
		copy(p[i].p_paddr, kernel + p[i].p_offset, p[i].p_filesz);
		clear(p[i].p_paddr + p[i].p_filesz, p[i].p_memsz - p[i].p_filesz);
	}
	return (u32)e->e_entry;
}

static u32 load32(void)
{
	const Elf32_Ehdr *e = (const Elf32_Ehdr *)kernel;
	const Elf32_Phdr *p = (const Elf32_Phdr *)(kernel + e->e_phoff);

	for (unsigned i = 0; i < e->e_phnum; i++) {
		if (p[i].p_type != PT_LOAD)
			continue;
		copy(p[i].p_paddr, kernel + p[i].p_offset, p[i].p_filesz);
		clear(p[i].p_paddr + p[i].p_filesz, p[i].p_memsz - p[i].p_filesz);
	}
	return e->e_entry;
}

/* The firmware's console shares the line with ours: a new line for what follows. */
static void new_line(void)
{
	static const char text[] = "\r\n";

	for (unsigned i = 0; i < 2; i++)
		__asm__ volatile("outb %0, %1" : : "a"(text[i]), "d"((u16)0x3f8));
}

static struct start_info info;
static u8 map[32768] __attribute__((aligned(16)));

u64 EFIAPI efi_main(void *image, struct system_table *st)
{
	u64 size = sizeof(map), key = 0, step = 0, status;
	u32 version = 0, entry;

	/* Above what is going to be overwritten, below 4 GiB. */
	if ((u64)kernel < LOWEST || (u64)kernel_end >> 32) {
		st->console->output_string(st->console, u"anykvm: loaded at a bad place\r\n");
		return 1ull << 63 | 1;
	}
	status = st->boot->get_memory_map(&size, map, &key, &step, &version);
	if (!status)
		status = st->boot->exit_boot_services(image, key);
	if (status)
		return status;
	__asm__ volatile("cli");
	entry = kernel[EI_CLASS] == ELFCLASS64 ? load64() : load32();
	info = (struct start_info){.magic = PVH_MAGIC, .version = 1, .cmdline = (u64)command_line};
	new_line();
	leave(entry, (u32)(u64)&info);
}
