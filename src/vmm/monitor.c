/* The monitor: one command line in, text out. Runs in the main thread. */
#include <string.h>

#include "vmm/gdb.h"
#include "vmm/machine.h"

#define DUMP_MAX  4096u /* bytes of one x or xp */
#define WORDS_MAX 4	/* more than any command takes, so that one too many is seen */

struct command {
	const char *name, *args, *help;
	unsigned most; /* arguments */
	void (*run)(struct machine *m, char **words, GString *out);
};

static const struct command commands[];

static void cmd_help(struct machine *m, char **words, GString *out);

/* Runs something while all vCPUs stand still. */
static void stand_still(struct machine *m, bool on)
{
	if (m->paused)
		return;
	if (on)
		vcpu_set_pause(&m->vcpus);
	else
		vcpu_set_resume(&m->vcpus);
}

static bool refuse_surplus(const char *word, GString *out)
{
	if (word)
		g_string_append_printf(out, "'%s' is too much; 'help' shows what is wanted\n",
				       word);
	return word;
}

static struct vcpu *pick_vcpu(struct machine *m, const char *word, GString *out)
{
	guint64 n = 0;

	if (!word || g_ascii_string_to_unsigned(word, 10, 0, m->vcpus.count - 1, &n, NULL))
		return &m->vcpus.vcpus[n];
	g_string_append_printf(out, "there is no vCPU %s\n", word);
	return NULL;
}

static void info_vcpu(struct machine *m, char **words, char *(*dump)(const struct vcpu *),
		      GString *out)
{
	struct vcpu *vcpu = pick_vcpu(m, words[2], out);
	g_autofree char *text = NULL;

	if (!vcpu)
		return;
	stand_still(m, true);
	text = dump(vcpu);
	stand_still(m, false);
	g_string_append(out, text);
}

static void info_cpus(struct machine *m, GString *out)
{
	stand_still(m, true);
	for (unsigned i = 0; i < m->vcpus.count; i++) {
		struct vcpu *v = &m->vcpus.vcpus[i];
		struct kvm_mp_state mp = {0};
		struct kvm_regs regs = {0};
		u64 exits = 0;

		accel_ioctl(&m->back->accel, v->fd, KVM_GET_MP_STATE, &mp);
		accel_ioctl(&m->back->accel, v->fd, KVM_GET_REGS, &regs);
		for (unsigned k = 0; k < VCPU_EXITS_MAX; k++)
			exits += v->exits[k];
		g_string_append_printf(
			out, "vCPU %u: rip %016llx, %s, %" G_GUINT64_FORMAT " exits\n", i, regs.rip,
			mp.mp_state == KVM_MP_STATE_RUNNABLE ? "running"
			: mp.mp_state == KVM_MP_STATE_HALTED ? "halted"
							     : "waiting for a start",
			exits);
	}
	stand_still(m, false);
}

static void info_status(struct machine *m, GString *out)
{
	g_string_append_printf(out, "%s on %s, %u vCPU%s, %" G_GUINT64_FORMAT " MiB\n",
			       m->paused ? "stopped" : "running", m->back->accel.ops->name,
			       m->vcpus.count, m->vcpus.count == 1 ? "" : "s",
			       m->back->mem.size >> 20);
}

static void cmd_info(struct machine *m, char **words, GString *out)
{
	const char *what = words[1] ? words[1] : "";
	g_autofree char *text = NULL;

	if (g_str_has_prefix("registers", what) && strlen(what) >= 3) {
		info_vcpu(m, words, vcpu_dump, out);
	} else if (!strcmp(what, "lapic")) {
		info_vcpu(m, words, vcpu_dump_lapic, out);
	} else if (!strcmp(what, "cpus")) {
		if (!refuse_surplus(words[2], out))
			info_cpus(m, out);
	} else if (!strcmp(what, "status")) {
		if (!refuse_surplus(words[2], out))
			info_status(m, out);
	} else if (!strcmp(what, "pci")) {
		if (refuse_surplus(words[2], out))
			return;
		text = pci_describe(m->pci);
		g_string_append(out, text);
	} else {
		g_string_append(out, "info registers [N] | lapic [N] | cpus | status | pci\n");
	}
}

static void cmd_stop(struct machine *m, char **words, GString *out)
{
	(void)words;
	(void)out;
	stand_still(m, true);
	m->paused = true;
}

static void cmd_cont(struct machine *m, char **words, GString *out)
{
	(void)words;
	if (gdb_holds(m->back->gdb)) {
		g_string_append(out, "the debugger holds the machine; continue there\n");
		return;
	}
	m->paused = false;
	vcpu_set_resume(&m->vcpus);
}

static void cmd_reset(struct machine *m, char **words, GString *out)
{
	(void)words;
	(void)out;
	machine_end(m, POWER_RESET, 0);
}

static void cmd_powerdown(struct machine *m, char **words, GString *out)
{
	(void)words;
	(void)out;
	acpi_pm_power_button(m->pm);
}

static void cmd_quit(struct machine *m, char **words, GString *out)
{
	(void)words;
	(void)out;
	machine_end(m, POWER_QUIT, 0);
}

/* "/16xg": count, format (x hexadecimal, c characters), unit (b, h, w, g). */
static bool parse_format(const char *text, unsigned *count, char *format, unsigned *unit)
{
	char *end = (char *)text;
	u64 n = 1;

	*format = 'x';
	*unit = 4;
	if (*text != '/')
		return !*text;
	text++;
	if (g_ascii_isdigit(*text))
		n = g_ascii_strtoull(text, &end, 10);
	else
		end = (char *)text;
	for (; *end; end++) {
		switch (*end) {
		case 'x':
		case 'c':
			*format = *end;
			break;
		case 'b':
			*unit = 1;
			break;
		case 'h':
			*unit = 2;
			break;
		case 'w':
			*unit = 4;
			break;
		case 'g':
			*unit = 8;
			break;
		default:
			return false;
		}
	}
	if (*format == 'c')
		*unit = 1;
	*count = (unsigned)MIN(n, (u64)DUMP_MAX / *unit);
	return n > 0;
}

static void dump_memory(struct machine *m, bool virtual, u64 addr, unsigned count, char format,
			unsigned unit, GString *out)
{
	unsigned per_line = format == 'c' ? 32 : 16 / unit;

	for (unsigned i = 0; i < count; i++, addr += unit) {
		u64 pa = addr, v = 0;

		if (i % per_line == 0)
			g_string_append_printf(out, "%s%016" G_GINT64_MODIFIER "x:", i ? "\n" : "",
					       addr);
		if ((virtual && !vcpu_virt_to_phys(&m->vcpus.vcpus[0], &m->back->mem, addr, &pa)) ||
		    !memory_read(&m->back->mem, pa, &v, unit)) {
			g_string_append(out, " not memory");
			break;
		}
		if (format == 'c')
			g_string_append_c(out, g_ascii_isprint((char)v) ? (char)v : '.');
		else
			g_string_append_printf(out, " %0*" G_GINT64_MODIFIER "x", (int)unit * 2, v);
	}
	g_string_append_c(out, '\n');
}

static void cmd_x(struct machine *m, char **words, GString *out)
{
	bool virtual = !g_str_has_prefix(words[0], "xp");
	const char *format_text = words[0] + (virtual ? 1 : 2), *address = words[1];
	const char *surplus = words[1] ? words[2] : NULL;
	unsigned count = 1, unit;
	char format, *end;
	u64 addr;

	if (*format_text == '\0' && address && *address == '/') { /* "x /4x 1000" */
		format_text = words[1];
		address = words[2];
		surplus = NULL;
	}
	if (refuse_surplus(surplus, out))
		return;
	if (!address || !parse_format(format_text, &count, &format, &unit)) {
		g_string_append(out, "x/[COUNT][x|c][b|h|w|g] ADDRESS\n");
		return;
	}
	addr = g_ascii_strtoull(address, &end, 0);
	if (*end || end == address) {
		g_string_append_printf(out, "'%s' is no address\n", address);
		return;
	}
	stand_still(m, true);
	dump_memory(m, virtual, addr, count, format, unit, out);
	stand_still(m, false);
}

static const struct command commands[] = {
	{"help", "", "this list", 0, cmd_help},
	{"info", "WHAT [N]", "registers or lapic of vCPU N; cpus, status, pci", 2, cmd_info},
	{"stop", "", "stop all vCPUs", 0, cmd_stop},
	{"cont", "", "let them run again", 0, cmd_cont},
	{"x", "/FMT ADDR", "memory at a virtual address, as vCPU 0 sees it", 2, cmd_x},
	{"xp", "/FMT ADDR", "memory at a physical address; FMT: count, x or c, b h w g", 2, cmd_x},
	{"system_reset", "", "reset the machine", 0, cmd_reset},
	{"system_powerdown", "", "press the power button", 0, cmd_powerdown},
	{"quit", "", "end the run", 0, cmd_quit},
};

static void cmd_help(struct machine *m, char **words, GString *out)
{
	(void)m;
	(void)words;
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
		g_autofree char *left = g_strdup_printf(
			"%s%s%s", commands[i].name,
			*commands[i].args && *commands[i].args != '/' ? " " : "", commands[i].args);

		g_string_append_printf(out, "%-17s %s\n", left, commands[i].help);
	}
}

char *monitor_execute(struct machine *m, const char *line)
{
	GString *out = g_string_new(NULL);
	char **split = g_strsplit_set(line, " \t", -1);
	char *words[WORDS_MAX + 1] = {NULL};
	const struct command *found = NULL;
	unsigned n = 0;
	size_t len;

	for (unsigned i = 0; split[i] && n < WORDS_MAX; i++)
		if (*split[i])
			words[n++] = split[i];
	if (!n)
		goto out;
	len = strcspn(words[0], "/");
	for (unsigned i = 0; i < ARRAY_SIZE(commands) && !found; i++)
		if (strlen(commands[i].name) == len && !strncmp(commands[i].name, words[0], len))
			found = &commands[i];
	if (found && !refuse_surplus(words[found->most + 1], out))
		found->run(m, words, out);
	else if (!found)
		g_string_append_printf(out, "unknown command '%s'; 'help' lists them\n", words[0]);
out:
	g_strfreev(split);
	return g_string_free(out, FALSE);
}
