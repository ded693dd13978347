/* Loading what the guest starts with: a Linux bzImage or an ELF/PVH kernel. */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "vmm/types.h"

#include "vmm/config.h"
#include "vmm/memory.h"

/* Where boot data lies in low memory. Nothing here outlives the kernel's own early boot. */
#define BOOT_GDT	 0x500
#define BOOT_START_INFO	 0x6000 /* PVH */
#define BOOT_MEMMAP	 0x6800 /* PVH */
#define BOOT_PARAMS	 0x7000 /* Linux "zero page" */
#define BOOT_STACK	 0x8ff0
#define BOOT_PML4	 0x9000
#define BOOT_PDPT	 0xa000
#define BOOT_PD		 0xb000 /* four pages: 4 GiB in 2 MiB pages */
#define BOOT_CMDLINE	 0x20000
#define BOOT_CMDLINE_MAX 0x10000
#define BOOT_EBDA	 0x9fc00
#define BOOT_BIOS	 0xe0000 /* ACPI tables */
#define BOOT_1M		 0x100000

enum boot_mode { BOOT_PROT32, BOOT_LONG64 };

/** The state in which vCPU 0 starts. */
struct boot_entry {
	enum boot_mode mode;
	u64 rip, rsp, rbx, rsi;
};

/** Files read once; a reboot loads them again from here. */
struct boot_image {
	char *name; /* of the kernel, for messages */
	GMappedFile *kernel;
	GByteArray *initrd; /* NULL for none */
	char *cmdline;
};

/** One range of the memory map that the guest is told. type: 1 RAM, 2 reserved. */
struct boot_range {
	u64 base, size;
	u32 type;
};
#define BOOT_RANGES_MAX 8

/** Paths of the cached default guest; true when both files can be read. */
bool boot_default_guest(char **kernel, char **initrd);

/** Reads the files that the options name (or the default guest's). */
bool boot_image_init(struct boot_image *img, const struct run_config *cfg, GError **error);
void boot_image_free(struct boot_image *img);

/** Loads everything into guest memory. rsdp: address of the ACPI root pointer. */
bool boot_load(const struct boot_image *img, const struct run_config *cfg,
	       const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry, GError **error);

/** The memory map; returns the number of ranges. */
unsigned boot_memory_map(const struct guest_memory *mem, struct boot_range *ranges);

/* The loaders; each returns false with no error set when the image is not of its kind. */
bool boot_linux_load(const struct boot_image *img, enum config_entry how,
		     const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry,
		     GError **error);
bool boot_elf_load(const struct boot_image *img, enum config_entry how,
		   const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry,
		   GError **error);

/**
 * Puts the initrd between floor (end of the kernel's own memory) and max, as high as it goes; sets
 * its address and size (0, 0 for none). An error says that the guest has too little memory.
 */
bool boot_place_initrd(const struct boot_image *img, const struct guest_memory *mem, u64 floor,
		       u64 max, u64 *base, u64 *size, GError **error);
/** Command line at BOOT_CMDLINE; GDT and identity page tables. */
bool boot_place_common(const struct boot_image *img, const struct guest_memory *mem,
		       u64 max_cmdline, enum boot_mode mode, GError **error);
/** Fills the Linux zero page's fields that the boot loader owns. params is 4096 bytes. */
void boot_fill_params(u8 *params, const struct guest_memory *mem, u64 cmdline_size, u64 rsdp,
		      u64 initrd, u64 initrd_size);

#endif
