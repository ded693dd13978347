/*
 * Linux bzImage by its boot protocol, with the 64-bit entry where the image has one, else the
 * 32-bit entry. Source: Linux' Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header",
 * "32-bit Boot Protocol", "64-bit Boot Protocol".
 */
#include <asm/bootparam.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/error.h"

#define HEADER_AT	 0x1f1
#define HEADER_MAGIC	 0x53726448 /* "HdrS" */
#define KERNEL_AT	 0x100000
#define ENTRY_64_OFFSET	 0x200
#define PROTOCOL_MIN	 0x0206 /* cmdline_size */
#define LOADER_UNDEFINED 0xff

/* Fields that a kernel of an older protocol does not have are 0 in a copied header. */
static bool read_header(const struct boot_image *img, struct setup_header *h)
{
	const u8 *data = (const u8 *)g_mapped_file_get_contents(img->kernel);
	gsize len = g_mapped_file_get_length(img->kernel), end;

	if (len < 1024)
		return false;
	memset(h, 0, sizeof(*h));
	/* The jump at 0x200 tells where the header ends. */
	end = MIN((gsize)0x202 + data[0x201], (gsize)HEADER_AT + sizeof(*h));
	if (end <= HEADER_AT)
		return false;
	memcpy(h, data + HEADER_AT, end - HEADER_AT);
	return h->boot_flag == 0xaa55 && h->header == HEADER_MAGIC;
}

static bool check_header(const struct boot_image *img, const struct setup_header *h, u64 *payload,
			 GError **error)
{
	u64 len = g_mapped_file_get_length(img->kernel);

	if (h->version < PROTOCOL_MIN || !(h->loadflags & LOADED_HIGH)) {
		vmm_error(error, "'%s' is a Linux kernel of boot protocol %u.%u; 2.06 is needed",
			  img->name, h->version >> 8, h->version & 0xff);
		return false;
	}
	*payload = ((h->setup_sects ? h->setup_sects : 4u) + 1) * 512ull;
	if (*payload >= len || (u64)h->syssize * 16 > len - *payload + 15) {
		vmm_error(error, "the kernel '%s' is cut short", img->name);
		return false;
	}
	return true;
}

void boot_fill_params(u8 *params, const struct guest_memory *mem, u64 cmdline_size, u64 rsdp,
		      u64 initrd, u64 initrd_size)
{
	struct boot_params *bp = (struct boot_params *)params;
	struct boot_range ranges[BOOT_RANGES_MAX];
	unsigned n = boot_memory_map(mem, ranges);

	bp->hdr.type_of_loader = LOADER_UNDEFINED;
	bp->hdr.cmd_line_ptr = BOOT_CMDLINE;
	bp->hdr.cmdline_size = (u32)cmdline_size;
	bp->hdr.ramdisk_image = (u32)initrd;
	bp->hdr.ramdisk_size = (u32)initrd_size;
	bp->acpi_rsdp_addr = rsdp;
	bp->alt_mem_k = (u32)MIN((mem->low - BOOT_1M) >> 10, (u64)0xffffffff);
	for (unsigned i = 0; i < n; i++) {
		bp->e820_table[i].addr = ranges[i].base;
		bp->e820_table[i].size = ranges[i].size;
		bp->e820_table[i].type = ranges[i].type;
	}
	bp->e820_entries = (u8)n;
}

bool boot_linux_load(const struct boot_image *img, enum config_entry how,
		     const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry,
		     GError **error)
{
	struct setup_header h;
	struct boot_params *bp;
	u64 payload, len, floor, initrd, initrd_size;
	bool wide;

	if (!read_header(img, &h))
		return false;
	if (!check_header(img, &h, &payload, error))
		return false;
	wide = (h.xloadflags & XLF_KERNEL_64) && how != ENTRY_32;
	if ((how == ENTRY_64 && !wide) || how == ENTRY_PVH) {
		vmm_error(error, "the kernel '%s' has no %s entry point", img->name,
			  how == ENTRY_PVH ? "PVH" : "64-bit");
		return false;
	}
	len = g_mapped_file_get_length(img->kernel) - payload;
	/* The kernel unpacks itself at its preferred address and needs init_size bytes there. */
	floor = KERNEL_AT + len;
	if (h.version >= 0x020a)
		floor = MAX(floor, MAX((u64)h.pref_address, (u64)KERNEL_AT) + h.init_size);
	floor = (floor + 0xfff) & ~0xfffull;
	if (!boot_place_initrd(img, mem, floor,
			       h.initrd_addr_max ? h.initrd_addr_max + 1ull : 0x38000000, &initrd,
			       &initrd_size, error) ||
	    !boot_place_common(img, mem, h.cmdline_size ? h.cmdline_size : 255,
			       wide ? BOOT_LONG64 : BOOT_PROT32, error))
		return false;
	if (!memory_write(mem, KERNEL_AT, g_mapped_file_get_contents(img->kernel) + payload, len)) {
		vmm_error(error, "too little memory for the kernel '%s'", img->name);
		return false;
	}
	bp = memory_at(mem, BOOT_PARAMS, sizeof(*bp));
	memset(bp, 0, sizeof(*bp));
	bp->hdr = h;
	boot_fill_params((u8 *)bp, mem, strlen(img->cmdline), rsdp, initrd, initrd_size);
	*entry = (struct boot_entry){
		.mode = wide ? BOOT_LONG64 : BOOT_PROT32,
		.rip = wide ? KERNEL_AT + ENTRY_64_OFFSET : KERNEL_AT,
		.rsp = BOOT_STACK,
		.rsi = BOOT_PARAMS,
	};
	return true;
}
