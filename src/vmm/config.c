/* The option parser of `anykvm run`: one table row per option makes parser and help. */
#include "vmm/config.h"

#include <cpuid.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cpuid_names.h"
#include "vmm/error.h"

enum option_id {
	OPT_KERNEL = 256,
	OPT_INITRD,
	OPT_APPEND,
	OPT_MEMORY,
	OPT_CPUS,
	OPT_DISK,
	OPT_NET,
	OPT_RNG,
	OPT_CONSOLE,
	OPT_ENTRY,
	OPT_ACCEL,
	OPT_CPU,
	OPT_WINDOW,
	OPT_GDB,
	OPT_NO_REBOOT,
	OPT_TIMEOUT,
	OPT_STATS,
	OPT_PROFILE,
	OPT_PERF_MAP,
	OPT_HELP,
};

struct option_row {
	enum option_id id;
	const char *name;
	char letter; /* short form, 0 for none */
	const char *arg;
	const char *help; /* continuation lines after \n */
};

static const struct option_row rows[] = {
	{OPT_KERNEL, "kernel", 'k', "FILE",
	 "kernel to boot: a bzImage, or an ELF file with a PVH note;\n"
	 "without it the cached default guest is booted"},
	{OPT_INITRD, "initrd", 'i', "FILE", "initial RAM disk"},
	{OPT_APPEND, "append", 'a', "TEXT",
	 "kernel command line, after the built-in 'console=ttyS0'"},
	{OPT_MEMORY, "memory", 'm', "SIZE", "guest memory, such as 256M or 4G (default 1G)"},
	{OPT_CPUS, "cpus", 'c', "N", "virtual CPUs, 1 to 64 (default 1)"},
	{OPT_DISK, "disk", 'd', "FILE[,readonly][,snapshot]",
	 "raw disk image as /dev/vda, vdb, ...; with 'snapshot'\n"
	 "writes go to a temporary file and are gone at the end"},
	{OPT_NET, "net", 'n', "user[,hostfwd=PROTO:HOST:PORT-GUEST:PORT]...|none",
	 "network card behind a user-mode NAT (default none), e.g.\n"
	 "--net user,hostfwd=tcp:127.0.0.1:2222-:22"},
	{OPT_RNG, "rng", 'r', NULL, "random number device"},
	{OPT_CONSOLE, "console", 0, "serial|virtio", "where the terminal goes (default serial)"},
	{OPT_ENTRY, "entry", 0, "auto|64|32|pvh", "kernel entry point to use (default auto)"},
	{OPT_ACCEL, "accel", 0, "anykvm|kvm|auto",
	 "what runs the CPUs: anykvm's own processor (default),\n"
	 "the host's /dev/kvm, or the latter if there is one"},
	{OPT_CPU, "cpu", 0, "intel|amd|host[,-FEATURE]...",
	 "vendor of the guest's CPU (default intel), and what it\n"
	 "lacks, by the names of 'anykvm cpuid', e.g. amd,-x2apic"},
	{OPT_WINDOW, "window", 0, "auto|off|always",
	 "let the host's MMU translate the addresses of programs\n"
	 "that run for long (default auto), of none, or of all"},
	{OPT_GDB, "gdb", 0, "tcp:HOST:PORT|unix:PATH[,wait]",
	 "gdb server for the guest's CPUs; with 'wait' the guest\n"
	 "starts when the debugger lets it, e.g. --gdb tcp::1234,wait"},
	{OPT_NO_REBOOT, "no-reboot", 0, NULL, "end when the guest reboots"},
	{OPT_TIMEOUT, "timeout", 't', "SECONDS", "end with status 124 after this time"},
	{OPT_STATS, "stats", 0, NULL, "print counts of exits and of what the processor did"},
	{OPT_PROFILE, "profile", 0, NULL,
	 "sample the virtual CPUs and print where their time goes"},
	{OPT_PERF_MAP, "perf-map", 0, NULL,
	 "name translated code in /tmp/perf-PID.map, for perf(1)"},
	{OPT_HELP, "help", 'h', NULL, "this text"},
};

const char *config_host_vendor(void)
{
	u32 a, b = 0, c, d;

	__get_cpuid(0, &a, &b, &c, &d);
	return b == signature_INTEL_ebx ? "intel" : "amd";
}

bool config_check_vendor(const char *vendor, GError **error)
{
	if (!vendor || !strcmp(vendor, config_host_vendor()))
		return true;
	vmm_error_usage(error,
			"--cpu %s needs anykvm's processor; a real KVM shows the host's vendor",
			vendor);
	return false;
}

void config_print_help(void)
{
	puts("Usage: anykvm run [OPTION]... [-- COMMAND [ARG]...]\n"
	     "\n"
	     "Boots a guest with its console on this terminal. With COMMAND, runs it in the\n"
	     "guest and ends with its exit status.\n"
	     "\n"
	     "Options:");
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		g_autofree char *left = NULL;
		char **lines = g_strsplit(rows[i].help, "\n", -1);
		char letter[5] = "    ";

		if (rows[i].letter)
			snprintf(letter, sizeof(letter), "-%c, ", rows[i].letter);
		left = g_strdup_printf("  %s--%s%s%s", letter, rows[i].name, rows[i].arg ? " " : "",
				       rows[i].arg ? rows[i].arg : "");
		if (strlen(left) > 27)
			printf("%s\n%-28s%s\n", left, "", lines[0]);
		else
			printf("%-28s%s\n", left, lines[0]);
		for (unsigned k = 1; lines[k]; k++)
			printf("%-28s%s\n", "", lines[k]);
		g_strfreev(lines);
	}
	puts("\n"
	     "Keys while the guest runs on a terminal:\n"
	     "  Ctrl-A x  quit    Ctrl-A c  monitor and back    Ctrl-A h  help\n"
	     "\n"
	     "Exit status: 0 after the guest's power-off, COMMAND's status, 1 when the guest\n"
	     "could not be started, 2 for wrong options, 3 when the guest crashed, 124 after\n"
	     "--timeout, 125 when the guest ended without COMMAND's status.\n"
	     "\n"
	     "Examples:\n"
	     "  anykvm run -m 1G -c 2\n"
	     "  anykvm run -- uname -a\n"
	     "  anykvm run --kernel bzImage --initrd root.cpio.gz --disk disk.img,snapshot");
}

bool config_parse_size(const char *text, u64 *bytes, GError **error)
{
	unsigned shift = 20;
	char *end;
	u64 n;

	errno = 0;
	n = g_ascii_strtoull(text, &end, 10);
	if (!g_ascii_isdigit(text[0]) || errno)
		goto bad;
	switch (g_ascii_toupper(*end)) {
	case 'K':
		shift = 10;
		end++;
		break;
	case 'M':
		end++;
		break;
	case 'G':
		shift = 30;
		end++;
		break;
	case 'T':
		shift = 40;
		end++;
		break;
	}
	if (*end || n > (G_MAXUINT64 >> shift))
		goto bad;
	*bytes = n << shift;
	return true;
bad:
	vmm_error_usage(error, "'%s' is not a size (a number, or one with K, M, G or T)", text);
	return false;
}

bool config_parse_disk(const char *text, struct config_disk *disk, GError **error)
{
	char **parts = g_strsplit(text, ",", -1);
	bool ok = false;

	memset(disk, 0, sizeof(*disk));
	if (!parts[0] || !*parts[0]) {
		vmm_error_usage(error, "--disk needs a file name");
		goto out;
	}
	for (unsigned i = 1; parts[i]; i++) {
		if (!strcmp(parts[i], "readonly") || !strcmp(parts[i], "readonly=on")) {
			disk->readonly = true;
		} else if (!strcmp(parts[i], "snapshot") || !strcmp(parts[i], "snapshot=on")) {
			disk->snapshot = true;
		} else {
			vmm_error_usage(error, "unknown disk option '%s' (readonly or snapshot)",
					parts[i]);
			goto out;
		}
	}
	disk->path = g_strdup(parts[0]);
	ok = true;
out:
	g_strfreev(parts);
	return ok;
}

static bool parse_port(const char *text, u16 *port)
{
	char *end;
	u64 n = g_ascii_strtoull(text, &end, 10);

	if (!g_ascii_isdigit(text[0]) || *end || n == 0 || n > 65535)
		return false;
	*port = (u16)n;
	return true;
}

/* "HOST:PORT" with an empty or numeric IPv4 host. */
static bool parse_endpoint(const char *text, char **host, u16 *port)
{
	const char *colon = strrchr(text, ':');

	if (!colon || !parse_port(colon + 1, port))
		return false;
	*host = g_strndup(text, (gsize)(colon - text));
	if (**host && (!g_hostname_is_ip_address(*host) || strchr(*host, ':'))) {
		g_clear_pointer(host, g_free);
		return false;
	}
	return true;
}

bool config_parse_forward(const char *text, struct config_forward *fwd, GError **error)
{
	g_autofree char *left = NULL;
	const char *dash, *rest;

	memset(fwd, 0, sizeof(*fwd));
	if (g_str_has_prefix(text, "tcp:")) {
		rest = text + 4;
	} else if (g_str_has_prefix(text, "udp:")) {
		fwd->udp = true;
		rest = text + 4;
	} else {
		goto bad;
	}
	dash = strchr(rest, '-');
	if (!dash)
		goto bad;
	left = g_strndup(rest, (gsize)(dash - rest));
	if (!parse_endpoint(left, &fwd->host, &fwd->host_port))
		goto bad;
	if (!parse_endpoint(dash + 1, &fwd->guest, &fwd->guest_port)) {
		g_clear_pointer(&fwd->host, g_free);
		goto bad;
	}
	return true;
bad:
	vmm_error_usage(error,
			"'hostfwd=%s' is not a port forward (tcp:HOST:PORT-GUEST:PORT with IPv4 "
			"addresses or none, such as tcp:127.0.0.1:2222-:22)",
			text);
	return false;
}

bool config_parse_net(const char *text, struct run_config *cfg, GError **error)
{
	char **parts = g_strsplit(text, ",", -1);
	bool ok = false;

	if (parts[0] && !strcmp(parts[0], "none") && !parts[1]) {
		cfg->net = false;
		ok = true;
		goto out;
	}
	if (!parts[0] || strcmp(parts[0], "user")) {
		vmm_error_usage(error, "unknown network '%s' (user or none)", text);
		goto out;
	}
	for (unsigned i = 1; parts[i]; i++) {
		if (!g_str_has_prefix(parts[i], "hostfwd=")) {
			vmm_error_usage(error, "unknown network option '%s' (hostfwd=)", parts[i]);
			goto out;
		}
		if (cfg->forward_count == CONFIG_FORWARDS_MAX) {
			vmm_error_usage(error, "more than %d port forwards", CONFIG_FORWARDS_MAX);
			goto out;
		}
		if (!config_parse_forward(parts[i] + strlen("hostfwd="),
					  &cfg->forwards[cfg->forward_count], error))
			goto out;
		cfg->forward_count++;
	}
	cfg->net = true;
	ok = true;
out:
	g_strfreev(parts);
	return ok;
}

static bool parse_number(const char *name, const char *text, u64 min, u64 max, unsigned *out,
			 GError **error)
{
	char *end;
	u64 n = g_ascii_strtoull(text, &end, 10);

	if (!g_ascii_isdigit(text[0]) || *end || n < min || n > max) {
		vmm_error_usage(error,
				"--%s takes a number from %" G_GUINT64_FORMAT
				" to %" G_GUINT64_FORMAT ", not '%s'",
				name, min, max, text);
		return false;
	}
	*out = (unsigned)n;
	return true;
}

/* Index of text in a NULL-terminated list of words. */
static bool parse_word(const char *name, const char *text, const char *const *words,
		       unsigned *index, GError **error)
{
	g_autofree char *list = NULL;

	for (unsigned i = 0; words[i]; i++) {
		if (!strcmp(words[i], text)) {
			*index = i;
			return true;
		}
	}
	list = g_strjoinv(", ", (char **)words);
	vmm_error_usage(error, "--%s takes one of %s, not '%s'", name, list, text);
	return false;
}

static void set_string(char **field, const char *value)
{
	g_free(*field);
	*field = g_strdup(value);
}

static bool config_parse_cpu(const char *text, struct run_config *cfg, GError **error)
{
	static const char *const vendors[] = {"intel", "amd", "host", NULL};
	g_auto(GStrv) parts = g_strsplit(text, ",", -1);
	unsigned n;

	if (!parse_word("cpu", parts[0] ? parts[0] : "", vendors, &n, error))
		return false;
	for (unsigned i = 1; parts[i]; i++) {
		if (parts[i][0] != '-') {
			vmm_error_usage(error, "--cpu: '%s' is not '-FEATURE'", parts[i]);
			return false;
		}
		if (!cpuid_feature_find(parts[i] + 1)) {
			vmm_error_usage(error,
					"--cpu: there is no feature '%s' ('anykvm cpuid --all' "
					"names all)",
					parts[i] + 1);
			return false;
		}
	}
	set_string(&cfg->vendor, n == 2 ? config_host_vendor() : parts[0]);
	g_strfreev(cfg->without);
	cfg->without = g_strdupv(parts + 1);
	return true;
}

static bool apply_option(struct run_config *cfg, const struct option_row *row, const char *arg,
			 GError **error)
{
	static const char *const consoles[] = {"serial", "virtio", NULL};
	static const char *const entries[] = {"auto", "64", "32", "pvh", NULL};
	static const char *const windows[] = {"auto", "off", "always", NULL};
	static const char *const accels[] = {"anykvm", "kvm", "auto", NULL};
	unsigned n;

	switch (row->id) {
	case OPT_KERNEL:
		set_string(&cfg->kernel, arg);
		return true;
	case OPT_INITRD:
		set_string(&cfg->initrd, arg);
		return true;
	case OPT_APPEND:
		set_string(&cfg->append, arg);
		return true;
	case OPT_MEMORY:
		return config_parse_size(arg, &cfg->memory, error);
	case OPT_CPUS:
		return parse_number(row->name, arg, 1, CONFIG_CPUS_MAX, &cfg->cpus, error);
	case OPT_TIMEOUT:
		return parse_number(row->name, arg, 1, 1000000, &cfg->timeout, error);
	case OPT_DISK:
		if (cfg->disk_count == CONFIG_DISKS_MAX) {
			vmm_error_usage(error, "more than %d disks", CONFIG_DISKS_MAX);
			return false;
		}
		if (!config_parse_disk(arg, &cfg->disks[cfg->disk_count], error))
			return false;
		cfg->disk_count++;
		return true;
	case OPT_NET:
		return config_parse_net(arg, cfg, error);
	case OPT_RNG:
		cfg->rng = true;
		return true;
	case OPT_STATS:
		cfg->stats = true;
		return true;
	case OPT_PROFILE:
		cfg->profile = true;
		return true;
	case OPT_PERF_MAP:
		cfg->perf_map = true;
		return true;
	case OPT_NO_REBOOT:
		cfg->no_reboot = true;
		return true;
	case OPT_CONSOLE:
		if (!parse_word(row->name, arg, consoles, &n, error))
			return false;
		cfg->console = n;
		return true;
	case OPT_ENTRY:
		if (!parse_word(row->name, arg, entries, &n, error))
			return false;
		cfg->entry = n;
		return true;
	case OPT_WINDOW:
		if (!parse_word(row->name, arg, windows, &n, error))
			return false;
		cfg->window = n;
		return true;
	case OPT_ACCEL:
		if (!parse_word(row->name, arg, accels, &n, error))
			return false;
		set_string(&cfg->accel, arg);
		return true;
	case OPT_CPU:
		return config_parse_cpu(arg, cfg, error);
	case OPT_GDB:
		set_string(&cfg->gdb, arg);
		return true;
	case OPT_HELP:
		break;
	}
	return true;
}

/* What the options must fulfil together. */
static bool config_check(struct run_config *cfg, GError **error)
{
	cfg->memory &= ~0xfffull;
	if (cfg->memory < CONFIG_MEMORY_MIN) {
		vmm_error_usage(error, "too little memory: a guest needs at least %llu MiB",
				CONFIG_MEMORY_MIN >> 20);
		return false;
	}
	if (cfg->initrd && !cfg->kernel) {
		vmm_error_usage(error, "--initrd needs --kernel");
		return false;
	}
	cfg->default_guest = !cfg->kernel;
	return true;
}

struct run_config *config_parse(int argc, char **argv, bool *help, GError **error)
{
	struct run_config *cfg = g_new0(struct run_config, 1);
	struct option longs[ARRAY_SIZE(rows) + 1] = {{0}};
	char shorts[2 * ARRAY_SIZE(rows) + 3] = "+:";
	int c, n = 2;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		longs[i].name = rows[i].name;
		longs[i].has_arg = rows[i].arg ? required_argument : no_argument;
		longs[i].val = rows[i].id;
		if (rows[i].letter) {
			shorts[n++] = rows[i].letter;
			if (rows[i].arg)
				shorts[n++] = ':';
		}
	}
	cfg->memory = 1ull << 30;
	cfg->cpus = 1;
	cfg->accel = g_strdup("anykvm");
	*help = false;
	optind = 0; /* starts getopt anew */
	opterr = 0;
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct option_row *row = NULL;

		for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
			if (c == (int)rows[i].id || (rows[i].letter && c == rows[i].letter))
				row = &rows[i];
		if (c == ':') {
			vmm_error_usage(error, "option '%s' needs a value", argv[optind - 1]);
			goto fail;
		}
		if (!row) {
			if (optopt && optopt < 256)
				vmm_error_usage(error, "unknown option '-%c'", optopt);
			else
				vmm_error_usage(error, "unknown option '%s'", argv[optind - 1]);
			goto fail;
		}
		if (row->id == OPT_HELP) {
			*help = true;
			goto fail;
		}
		if (!apply_option(cfg, row, optarg, error))
			goto fail;
	}
	if (optind < argc && strcmp(argv[optind - 1], "--")) {
		vmm_error_usage(error, "unexpected argument '%s' (a command comes after '--')",
				argv[optind]);
		goto fail;
	}
	if (optind == argc && !strcmp(argv[argc - 1], "--")) {
		vmm_error_usage(error, "there is no command behind '--'");
		goto fail;
	}
	if (optind < argc)
		cfg->command = g_strdupv(argv + optind);
	if (config_check(cfg, error))
		return cfg;
fail:
	config_free(cfg);
	return NULL;
}

void config_free(struct run_config *cfg)
{
	if (!cfg)
		return;
	for (unsigned i = 0; i < cfg->disk_count; i++)
		g_free(cfg->disks[i].path);
	for (unsigned i = 0; i < cfg->forward_count; i++) {
		g_free(cfg->forwards[i].host);
		g_free(cfg->forwards[i].guest);
	}
	g_free(cfg->kernel);
	g_free(cfg->initrd);
	g_free(cfg->append);
	g_free(cfg->accel);
	g_free(cfg->vendor);
	g_free(cfg->gdb);
	g_strfreev(cfg->without);
	g_strfreev(cfg->command);
	g_free(cfg);
}
