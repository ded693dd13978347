/* The program's own functions, from its ELF symbol table. */
#include "vmm/profile_symbols.h"

#include <fcntl.h>
#include <gelf.h>
#include <glib.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *prefix;
	enum profile_phase phase;
} phases[] = {
	{"jit_translate", PHASE_TRANSLATE},
	{"jit_cache_reset", PHASE_INVALIDATE},
	{"jit_invalidate", PHASE_INVALIDATE},
	{"jit_jump_cache_flush", PHASE_INVALIDATE},
	{"jit_page_check", PHASE_INVALIDATE},
	{"jit_jc_", PHASE_INVALIDATE},
	{"fetch_flush", PHASE_INVALIDATE},
	{"tlb_flush_", PHASE_INVALIDATE},
	{"mmu_set_cr3", PHASE_INVALIDATE},
	{"jit_resolve", PHASE_MISS},
	{"jit_commit", PHASE_MISS},
	{"insn_", PHASE_INSN},
	{"cpu_exc_deliver", PHASE_EVENT},
	{"inject_events", PHASE_EVENT},
	{"handle_io", PHASE_DEVICE},
	{"handle_mmio", PHASE_DEVICE},
	{"vcpu_dispatch", PHASE_DEVICE},
	{"jit_run", PHASE_LOOP},
	{"vcpu_run", PHASE_LOOP},
};

static enum profile_phase phase_of(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(phases); i++)
		if (g_str_has_prefix(name, phases[i].prefix))
			return phases[i].phase;
	return PHASE_NONE;
}

struct loading {
	GArray *all;
	GPtrArray *names;
	u64 base, from, to; /* of the program */
	bool first;
};

static void add(struct loading *l, u64 from, u64 to, const char *name, bool module)
{
	struct symbol s = {.from = from,
			   .to = to,
			   .name = g_strdup(name),
			   .module = module,
			   .phase = module ? PHASE_NONE : phase_of(name)};

	g_ptr_array_add(l->names, (void *)s.name);
	g_array_append_val(l->all, s);
}

static int on_module(struct dl_phdr_info *info, size_t size, void *opaque)
{
	struct loading *l = opaque;
	bool self = l->first;

	(void)size;
	l->first = false;
	if (self)
		l->base = info->dlpi_addr;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		u64 from = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		if (self) {
			l->from = from;
			l->to = from + ph->p_memsz;
		} else {
			g_autofree char *name = g_path_get_basename(info->dlpi_name);

			add(l, from, from + ph->p_memsz, *name ? name : "(kernel)", true);
		}
	}
	return 0;
}

static void read_table(struct loading *l, Elf *elf, Elf_Scn *scn, const GElf_Shdr *shdr)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	size_t count = data && shdr->sh_entsize ? shdr->sh_size / shdr->sh_entsize : 0;

	for (size_t i = 0; i < count; i++) {
		const char *name;
		GElf_Sym sym;

		if (!gelf_getsym(data, (int)i, &sym) || GELF_ST_TYPE(sym.st_info) != STT_FUNC ||
		    !sym.st_size)
			continue;
		name = elf_strptr(elf, shdr->sh_link, sym.st_name);
		if (name)
			add(l, l->base + sym.st_value, l->base + sym.st_value + sym.st_size, name,
			    false);
	}
}

static void read_program(struct loading *l)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;
	Elf *elf;

	if (fd < 0)
		return;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	while (elf && (scn = elf_nextscn(elf, scn)))
		if (gelf_getshdr(scn, &shdr) && shdr.sh_type == SHT_SYMTAB)
			read_table(l, elf, scn, &shdr);
	if (elf)
		elf_end(elf);
	close(fd);
}

static int ascending(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->from < y->from ? -1 : x->from > y->from;
}

void symbols_load(struct symbols *s)
{
	struct loading l = {
		.all = g_array_new(FALSE, FALSE, sizeof(struct symbol)),
		.names = g_ptr_array_new(),
		.first = true,
	};

	dl_iterate_phdr(on_module, &l);
	read_program(&l);
	g_array_sort(l.all, ascending);
	s->count = l.all->len;
	s->all = (struct symbol *)(void *)g_array_free(l.all, FALSE);
	s->text_from = l.from;
	s->text_to = l.to;
	g_ptr_array_add(l.names, NULL);
	s->names = (char **)g_ptr_array_free(l.names, FALSE);
}

void symbols_free(struct symbols *s)
{
	g_free(s->all);
	g_strfreev(s->names);
}

unsigned symbols_find(const struct symbols *s, u64 pc)
{
	unsigned low = 0, high = s->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (s->all[mid].from <= pc)
			low = mid + 1;
		else
			high = mid;
	}
	return low && pc < s->all[low - 1].to ? low - 1 : s->count;
}
