/*
 * ELF kernels: through the PVH entry that a note names, or, for a 64-bit Linux vmlinux without
 * one, through its ELF entry with a zero page. Sources: Xen's "x86/HVM direct boot ABI", the
 * ELF specification, Linux' boot.rst.
 */
#include <elf.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/error.h"

#define PVH_MAGIC	  0x336ec578
#define NOTE_PHYS32_ENTRY 18
#define HEADERS_MAX	  64
#define NOTES_MAX	  65536

struct pvh_start_info {
	u32 magic, version, flags, nr_modules;
	u64 modlist, cmdline, rsdp, memmap;
	u32 memmap_entries, reserved;
};

struct pvh_module {
	u64 base, size, cmdline, reserved;
};

struct pvh_range {
	u64 base, size;
	u32 type, reserved;
};

/* One program header of either class. */
struct segment {
	u32 type;
	u64 offset, paddr, filesz, memsz, align;
};

struct elf_image {
	const u8 *data;
	u64 len;
	bool wide;
	u64 entry;
	struct segment segments[HEADERS_MAX];
	unsigned count;
};

static bool in_file(const struct elf_image *elf, u64 offset, u64 size)
{
	return offset <= elf->len && size <= elf->len - offset;
}

static struct segment read_segment(const struct elf_image *elf, u64 at)
{
	if (elf->wide) {
		Elf64_Phdr p;

		memcpy(&p, elf->data + at, sizeof(p));
		return (struct segment){p.p_type,   p.p_offset, p.p_paddr,
					p.p_filesz, p.p_memsz,	p.p_align};
	} else {
		Elf32_Phdr p;

		memcpy(&p, elf->data + at, sizeof(p));
		return (struct segment){p.p_type,   p.p_offset, p.p_paddr,
					p.p_filesz, p.p_memsz,	p.p_align};
	}
}

/* Reads header and program headers; false when this is no x86 executable or a broken one. */
static bool elf_read(struct elf_image *elf, const struct boot_image *img, GError **error)
{
	u64 phoff, phentsize, phnum;
	u16 machine;

	elf->data = (const u8 *)g_mapped_file_get_contents(img->kernel);
	elf->len = g_mapped_file_get_length(img->kernel);
	if (elf->len < sizeof(Elf64_Ehdr) || memcmp(elf->data, ELFMAG, SELFMAG))
		return false;
	elf->wide = elf->data[EI_CLASS] == ELFCLASS64;
	if (elf->wide) {
		Elf64_Ehdr e;

		memcpy(&e, elf->data, sizeof(e));
		phoff = e.e_phoff, phentsize = e.e_phentsize, phnum = e.e_phnum;
		elf->entry = e.e_entry;
		machine = e.e_machine;
	} else {
		Elf32_Ehdr e;

		memcpy(&e, elf->data, sizeof(e));
		phoff = e.e_phoff, phentsize = e.e_phentsize, phnum = e.e_phnum;
		elf->entry = e.e_entry;
		machine = e.e_machine;
	}
	if (machine != (elf->wide ? EM_X86_64 : EM_386)) {
		vmm_error(error, "'%s' is an ELF file for another processor", img->name);
		return false;
	}
	if (phentsize != (elf->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || !phnum ||
	    phnum > HEADERS_MAX || !in_file(elf, phoff, phnum * phentsize)) {
		vmm_error(error, "the ELF file '%s' has no usable program headers", img->name);
		return false;
	}
	elf->count = (unsigned)phnum;
	for (unsigned i = 0; i < elf->count; i++)
		elf->segments[i] = read_segment(elf, phoff + i * phentsize);
	return true;
}

/* Looks for the note "Xen", PHYS32_ENTRY in one PT_NOTE segment. */
static bool find_pvh_entry(const struct elf_image *elf, const struct segment *seg, u64 *entry)
{
	u64 at = seg->offset, end, align = seg->align == 8 ? 8 : 4;

	if (!in_file(elf, seg->offset, seg->filesz) || seg->filesz > NOTES_MAX)
		return false;
	end = seg->offset + seg->filesz;
	while (at + 12 <= end) {
		u32 head[3];
		u64 name, desc, next;

		memcpy(head, elf->data + at, sizeof(head));
		name = at + 12;
		desc = name + ((head[0] + align - 1) & ~(align - 1));
		next = desc + ((head[1] + align - 1) & ~(align - 1));
		if (desc > end || desc + head[1] > end)
			return false;
		if (head[2] == NOTE_PHYS32_ENTRY && head[0] == 4 &&
		    !memcmp(elf->data + name, "Xen", 4) && (head[1] == 4 || head[1] == 8)) {
			*entry = 0;
			memcpy(entry, elf->data + desc, head[1]);
			return true;
		}
		at = next;
	}
	return false;
}

/* Copies PT_LOAD segments to their physical addresses; *top is the end of the highest one. */
static bool load_segments(const struct elf_image *elf, const struct boot_image *img,
			  const struct guest_memory *mem, u64 *top, GError **error)
{
	*top = BOOT_1M;
	for (unsigned i = 0; i < elf->count; i++) {
		const struct segment *s = &elf->segments[i];
		u8 *p;

		if (s->type != PT_LOAD || !s->memsz)
			continue;
		if (s->filesz > s->memsz || !in_file(elf, s->offset, s->filesz)) {
			vmm_error(error, "the kernel '%s' is cut short or broken", img->name);
			return false;
		}
		if (s->paddr < BOOT_1M) {
			vmm_error(error,
				  "the kernel '%s' wants to be loaded at 0x%" G_GINT64_MODIFIER
				  "x, below 1 MiB",
				  img->name, s->paddr);
			return false;
		}
		p = memory_at(mem, s->paddr, s->memsz);
		if (!p || s->paddr >= MEMORY_4G) {
			vmm_error(
				error,
				"too little memory: the kernel '%s' needs the range 0x%" G_GINT64_MODIFIER
				"x to 0x%" G_GINT64_MODIFIER "x",
				img->name, s->paddr, s->paddr + s->memsz);
			return false;
		}
		memcpy(p, elf->data + s->offset, s->filesz);
		memset(p + s->filesz, 0, s->memsz - s->filesz);
		*top = MAX(*top, s->paddr + s->memsz);
	}
	return true;
}

static void place_start_info(const struct boot_image *img, const struct guest_memory *mem, u64 rsdp,
			     u64 initrd, u64 initrd_size)
{
	struct {
		struct pvh_start_info info;
		struct pvh_module module;
	} start = {
		.info =
			{
				.magic = PVH_MAGIC,
				.version = 1,
				.nr_modules = initrd_size ? 1 : 0,
				.modlist = BOOT_START_INFO + sizeof(struct pvh_start_info),
				.cmdline = BOOT_CMDLINE,
				.rsdp = rsdp,
				.memmap = BOOT_MEMMAP,
			},
		.module = {.base = initrd, .size = initrd_size},
	};
	struct boot_range ranges[BOOT_RANGES_MAX];
	struct pvh_range map[BOOT_RANGES_MAX] = {{0}};
	unsigned n = boot_memory_map(mem, ranges);

	(void)img;
	for (unsigned i = 0; i < n; i++)
		map[i] = (struct pvh_range){ranges[i].base, ranges[i].size, ranges[i].type, 0};
	start.info.memmap_entries = n;
	memory_write(mem, BOOT_START_INFO, &start, sizeof(start));
	memory_write(mem, BOOT_MEMMAP, map, sizeof(map));
}

bool boot_elf_load(const struct boot_image *img, enum config_entry how,
		   const struct guest_memory *mem, u64 rsdp, struct boot_entry *entry,
		   GError **error)
{
	struct elf_image *elf = g_new0(struct elf_image, 1);
	u64 pvh = 0, top, initrd, initrd_size;
	bool use_pvh = false, ok = false;

	if (!elf_read(elf, img, error))
		goto out;
	for (unsigned i = 0; i < elf->count && !use_pvh; i++)
		if (elf->segments[i].type == PT_NOTE)
			use_pvh = find_pvh_entry(elf, &elf->segments[i], &pvh);
	if (how == ENTRY_64 && elf->wide)
		use_pvh = false;
	if ((!use_pvh && !elf->wide) || (how == ENTRY_PVH && !use_pvh) || how == ENTRY_32) {
		vmm_error(error, "the ELF kernel '%s' has no %s entry point", img->name,
			  how == ENTRY_32 ? "32-bit Linux" : "PVH");
		goto out;
	}
	/* Linux' decompressed image uses memory behind its end (brk) before it reads the map. */
	if (!load_segments(elf, img, mem, &top, error) ||
	    !boot_place_initrd(img, mem, (top + (1 << 20) - 1) & ~0xfffffull, MEMORY_4G, &initrd,
			       &initrd_size, error) ||
	    !boot_place_common(img, mem, BOOT_CMDLINE_MAX - 1, use_pvh ? BOOT_PROT32 : BOOT_LONG64,
			       error))
		goto out;
	if (use_pvh) {
		place_start_info(img, mem, rsdp, initrd, initrd_size);
		*entry = (struct boot_entry){
			.mode = BOOT_PROT32, .rip = pvh, .rbx = BOOT_START_INFO};
	} else {
		u8 *params = memory_at(mem, BOOT_PARAMS, 4096);

		memset(params, 0, 4096);
		boot_fill_params(params, mem, strlen(img->cmdline), rsdp, initrd, initrd_size);
		*entry = (struct boot_entry){.mode = BOOT_LONG64,
					     .rip = elf->entry,
					     .rsp = BOOT_STACK,
					     .rsi = BOOT_PARAMS};
	}
	ok = true;
out:
	g_free(elf);
	return ok;
}
