/*
 * `anykvm exec`: runs a program with the preload library in front of its libc, so that /dev/kvm is
 * ours. docs/exec.md has the design.
 *
 * The program must not reach another /dev/kvm when the library is not in front after all (a
 * static program, system calls by hand). So KVM's ioctls are forbidden to it as system calls: the
 * library never makes any, and whoever does gets ENOTTY.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <glib.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/cmd.h"
#include "vmm/error.h"

#define KVM_IOCTL_TYPE 0xae
#define HEAD_BYTES     4096
#define SCRIPT_DEPTH   4
#define LIBRARY	       "libanykvm-exec.so"

/* As a shell has it. */
enum { STATUS_USAGE = 2, STATUS_REFUSED = 126, STATUS_NOT_FOUND = 127 };

/* ---- the program ---- */

static bool check_elf(const char *path, int fd, const unsigned char *head, size_t n, GError **error)
{
	const Elf64_Ehdr *eh = (const void *)head;
	bool dynamic = false;

	if (n < sizeof(*eh) || head[EI_CLASS] != ELFCLASS64 || eh->e_machine != EM_X86_64) {
		vmm_error(error, "%s is not a 64-bit x86 program", path);
		return false;
	}
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		char interp[256] = "";

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh->e_phoff + i * sizeof(ph))) !=
		    sizeof(ph)) {
			vmm_error(error, "%s is damaged: its program headers cannot be read", path);
			return false;
		}
		if (ph.p_type != PT_INTERP)
			continue;
		dynamic = true;
		if (pread(fd, interp, MIN(ph.p_filesz, sizeof(interp) - 1), (off_t)ph.p_offset) >
			    0 &&
		    strstr(interp, "ld-musl")) {
			vmm_error(error,
				  "%s uses musl's C library: only programs with the GNU C "
				  "library can be given our /dev/kvm",
				  path);
			return false;
		}
	}
	if (!dynamic)
		vmm_error(error,
			  "%s is statically linked, so its calls cannot be intercepted: link it "
			  "dynamically, or use libanykvm",
			  path);
	return dynamic;
}

/* Can the dynamic linker put the library in front of this program? */
static bool check_program(const char *path, int depth, GError **error)
{
	unsigned char head[HEAD_BYTES];
	struct stat st;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool good = false;

	if (fd < 0) {
		vmm_error(error, "%s: %s", path, g_strerror(errno));
		return false;
	}
	n = pread(fd, head, sizeof(head) - 1, 0);
	if (n < 0 || fstat(fd, &st)) {
		vmm_error(error, "%s: %s", path, g_strerror(errno));
	} else if (st.st_mode & (S_ISUID | S_ISGID)) {
		vmm_error(error,
			  "%s is set-user-ID or set-group-ID: the dynamic linker loads nothing "
			  "into it",
			  path);
	} else if (n >= 4 && !memcmp(head, ELFMAG, 4)) {
		good = check_elf(path, fd, head, (size_t)n, error);
	} else if (n >= 2 && head[0] == '#' && head[1] == '!' && depth < SCRIPT_DEPTH) {
		char *name = (char *)head + 2;

		head[n] = 0;
		name += strspn(name, " \t");
		name[strcspn(name, " \t\n")] = 0;
		good = check_program(name, depth + 1, error);
	} else {
		vmm_error(error, "%s is no program", path);
	}
	close(fd);
	return good;
}

/* ---- the library ---- */

static char *find_library(GError **error)
{
	static const char *const places[] = {
		"src/exec/" LIBRARY,	    LIBRARY,
		"../lib/anykvm/" LIBRARY,   "../lib/x86_64-linux-gnu/anykvm/" LIBRARY,
		"../lib64/anykvm/" LIBRARY,
	};
	const char *given = g_getenv("ANYKVM_EXEC_LIBRARY");
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *dir = self ? g_path_get_dirname(self) : NULL;

	if (given && *given)
		return g_strdup(given);
	for (unsigned i = 0; dir && i < G_N_ELEMENTS(places); i++) {
		char *path = g_build_filename(dir, places[i], NULL);

		if (!access(path, R_OK))
			return path;
		g_free(path);
	}
	vmm_error(error, LIBRARY " is not where it is installed or built, beside %s",
		  self ? self : "anykvm");
	return NULL;
}

static void preload(const char *library)
{
	const char *before = g_getenv("LD_PRELOAD");
	g_autofree char *all =
		before && *before ? g_strdup_printf("%s:%s", library, before) : g_strdup(library);

	g_setenv("LD_PRELOAD", all, TRUE);
}

/* KVM's ioctls as system calls fail with ENOTTY from here on, in this process and its children. */
static bool forbid_kernel_kvm(GError **error)
{
#define LOAD(field)	   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
	/* Jumps count from the next instruction; the numbers at the right are places. */
	struct sock_filter code[] = {
		LOAD(arch),
		IF(AUDIT_ARCH_X86_64, 0, 4), /* 2, else 6 */
		LOAD(nr),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3fffffff), /* without x32's bit */
		IF(SYS_ioctl, 4, 0),				 /* 9 */
		IF(514, 3, 2),					 /* x32's ioctl: 9, else 8 */
		LOAD(nr),
		IF(54, 1, 0), /* i386's ioctl: 9, else 8 */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
		IF(KVM_IOCTL_TYPE << 8, 0, 1), /* 12, else 13 */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = G_N_ELEMENTS(code), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		vmm_error(error,
			  "the kernel refuses the filter that keeps the program from another "
			  "/dev/kvm: %s",
			  g_strerror(errno));
		return false;
	}
	return true;
}

/* ---- the command ---- */

static const struct {
	const char *name, *vendor;
} models[] = {
#define MODEL(name, vendor, signature, last, brand) {#name, #vendor},
#include "vmm/cpu-models.def"
};

/* As the engine has it: upper and lower case, - and _ are one. */
static bool model_is(const char *name, const char *wish)
{
	g_autofree char *folded = g_strdelimit(g_strdup(wish), "-", '_');

	return !g_ascii_strcasecmp(name, folded);
}

static bool check_model(const char *vendor, const char *model, GError **error)
{
	g_autoptr(GString) names = g_string_new(NULL);

	for (unsigned i = 0; i < G_N_ELEMENTS(models); i++) {
		if (g_ascii_strcasecmp(models[i].vendor, vendor))
			continue;
		if (model_is(models[i].name, model))
			return true;
		g_string_append_printf(names, "%s%s", names->len ? ", " : "", models[i].name);
	}
	g_strdelimit(names->str, "_", '-');
	vmm_error_usage(error, "--cpu %s/%s: the models are %s", vendor, model, names->str);
	return false;
}

/* VENDOR, VENDOR/MODEL */
static bool set_cpu(const char *cpu, GError **error)
{
	const char *slash = strchr(cpu, '/');
	size_t n = slash ? (size_t)(slash - cpu) : strlen(cpu);
	g_autofree char *vendor = g_strndup(cpu, n), *options = NULL;

	if (strcmp(vendor, "intel") && strcmp(vendor, "amd")) {
		vmm_error_usage(error, "--cpu %s: the vendor is intel or amd", cpu);
		return false;
	}
	if (slash && !check_model(vendor, slash + 1, error))
		return false;
	options = slash ? g_strdup_printf("vendor=%s,cpu=%s", vendor, slash + 1)
			: g_strdup_printf("vendor=%s", vendor);
	g_setenv("ANYKVM_EXEC_OPEN", options, TRUE);
	return true;
}

/* Names by KVM's trace points, and `ioctl`; none is all of them. */
static const char *const trace_points[] = {
	"ioctl",
#define TRACE_POINT(name, format, what) #name,
#include "vmm/trace-points.def"
};

static bool check_trace(const char *list, GError **error)
{
	g_auto(GStrv) names = g_strsplit(list, ",", -1);

	for (unsigned i = 0; names[i]; i++) {
		bool known = false;

		for (unsigned k = 0; k < G_N_ELEMENTS(trace_points); k++)
			known |= !strcmp(names[i], trace_points[k]);
		if (!known) {
			g_autoptr(GString) all = g_string_new(trace_points[0]);

			for (unsigned k = 1; k < G_N_ELEMENTS(trace_points); k++)
				g_string_append_printf(all, ", %s", trace_points[k]);
			vmm_error_usage(error,
					"--trace=%s: there are %s (and -- before the program)",
					names[i], all->str);
			return false;
		}
	}
	return true;
}

/* --trace, --trace=LIST */
static gboolean parse_trace(const char *option, const char *value, gpointer data, GError **error)
{
	char **trace = data;

	(void)option;
	if (value && !check_trace(value, error))
		return FALSE;
	g_free(*trace);
	*trace = g_strdup(value ? value : "all");
	return TRUE;
}

/* ---- parameters of the module kvm ---- */

/* Those that can be written, which the library knows as well. */
static const char *const parameter_names[] = {
	"nx_huge_pages",
	"nx_huge_pages_recovery_ratio",
	"nx_huge_pages_recovery_period_ms",
	"eager_page_split",
};

/* The value that is wished for, or "". False: a wish that nobody can fulfil. */
static bool check_parameters(char **wishes, GError **error)
{
	for (unsigned i = 0; wishes && wishes[i]; i++) {
		size_t n = strcspn(wishes[i], "=");
		bool known = false;

		for (unsigned k = 0; k < G_N_ELEMENTS(parameter_names); k++)
			known |= strlen(parameter_names[k]) == n &&
				 !strncmp(parameter_names[k], wishes[i], n);
		if (!known || !wishes[i][n] || !wishes[i][n + 1]) {
			g_autofree char *names =
				g_strjoin(", ", parameter_names[0], parameter_names[1],
					  parameter_names[2], parameter_names[3], NULL);

			vmm_error_usage(error, "--parameter %s: NAME=VALUE, NAME being one of %s",
					wishes[i], names);
			return false;
		}
	}
	return true;
}

/* Files that all processes of the launch share; their numbers are out of the program's way. */
static bool make_parameters(char **wishes, GError **error)
{
	g_autoptr(GString) list = g_string_new(NULL);
	struct rlimit limit = {.rlim_cur = 1024};

	getrlimit(RLIMIT_NOFILE, &limit);
	for (unsigned k = 0; k < G_N_ELEMENTS(parameter_names); k++) {
		int low = memfd_create(parameter_names[k], MFD_CLOEXEC), fd;

		fd = low < 0 ? -1 : fcntl(low, F_DUPFD, (int)MIN(limit.rlim_cur / 2, (rlim_t)900));
		if (fd < 0) {
			vmm_error(error, "no descriptor for the parameters: %s", g_strerror(errno));
			return false;
		}
		close(low);
		for (unsigned i = 0; wishes && wishes[i]; i++) {
			size_t n = strcspn(wishes[i], "=");

			if (strlen(parameter_names[k]) == n &&
			    !strncmp(parameter_names[k], wishes[i], n))
				dprintf(fd, "%s\n", wishes[i] + n + 1);
		}
		g_string_append_printf(list, "%s%s:%d", k ? "," : "", parameter_names[k], fd);
	}
	g_setenv("ANYKVM_EXEC_PARAMETERS", list->str, TRUE);
	return true;
}

static void complain(const GError *error)
{
	fprintf(stderr, "anykvm exec: %s%s\n", error->message,
		error->code == VMM_ERROR_USAGE ? " ('anykvm exec --help' explains)" : "");
}

static int launch(char **argv, GError **error)
{
	g_autofree char *library = NULL, *program = NULL;

	program = g_find_program_in_path(argv[0]);
	if (!program) {
		vmm_error(error, "%s: no such program", argv[0]);
		return STATUS_NOT_FOUND;
	}
	if (!check_program(program, 0, error))
		return STATUS_REFUSED;
	library = find_library(error);
	if (!library)
		return STATUS_REFUSED;
	preload(library);
	if (!forbid_kernel_kvm(error))
		return STATUS_REFUSED;
	execv(program, argv);
	vmm_error(error, "%s: %s", program, g_strerror(errno));
	return STATUS_REFUSED;
}

int cmd_exec(int argc, char **argv)
{
	gboolean stats = FALSE, follow = FALSE, all = FALSE, raw = FALSE, host_cpuid = FALSE;
	g_autofree char *cpu = NULL, *log = NULL, *trace = NULL;
	g_auto(GStrv) parameters = NULL;
	const GOptionEntry entries[] = {
		{"cpu", 0, 0, G_OPTION_ARG_STRING, &cpu,
		 "The CPU that guests see: intel or amd (default: the host's vendor), with a\nmodel if it is to be older than the host",
		 "VENDOR[/MODEL]"},
		{"parameter", 0, 0, G_OPTION_ARG_STRING_ARRAY, &parameters,
		 "Set a parameter of the module kvm, as in /sys/module/kvm/parameters\n(nx_huge_pages=Y); may be given more than once",
		 "NAME=VALUE"},
		{"log", 0, 0, G_OPTION_ARG_FILENAME, &log,
		 "Append messages to FILE (default: standard error)", "FILE"},
		{"trace", 0, G_OPTION_FLAG_OPTIONAL_ARG, G_OPTION_ARG_CALLBACK, parse_trace,
		 "Log every ioctl and KVM's trace points, or only those in LIST (kvm_exit,kvm_msr)",
		 "LIST"},
		{"stats", 0, 0, G_OPTION_ARG_NONE, &stats,
		 "Log counts of ioctls and exits at the end", NULL},
		{"follow", 0, 0, G_OPTION_ARG_NONE, &follow,
		 "Children of the program get /dev/kvm too (default: none)", NULL},
		{"raw", 0, 0, G_OPTION_ARG_NONE, &raw,
		 "Catch system calls made without libc as well (each costs a signal)", NULL},
		{"all-features", 0, 0, G_OPTION_ARG_NONE, &all,
		 "Offer also what the host's own CPUID contradicts (QEMU goes wrong with it)",
		 NULL},
		{"host-cpuid", 0, 0, G_OPTION_ARG_NONE, &host_cpuid,
		 "Leave the program's own CPUID instruction alone: it tells the host's CPU", NULL},
		{NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
	};
	g_autoptr(GOptionContext) context = g_option_context_new("-- PROGRAM [ARGUMENT]...");
	g_autoptr(GError) error = NULL;
	GOptionGroup *group;
	int status;

	(void)argc;
	group = g_option_group_new("exec", "", "", &trace, NULL);
	g_option_group_add_entries(group, entries);
	g_option_context_set_main_group(context, group);
	g_option_context_set_strict_posix(context, TRUE);
	g_option_context_set_summary(
		context, "Runs an unmodified program that finds anykvm's /dev/kvm.\n"
			 "The program must be dynamically linked with the GNU C library.");
	if (!g_option_context_parse(context, &argc, &argv, &error)) {
		fprintf(stderr, "anykvm exec: %s ('anykvm exec --help' explains)\n",
			error->message);
		return STATUS_USAGE;
	}
	argv++;
	if (argv[0] && !strcmp(argv[0], "--"))
		argv++;
	if (!argv[0]) {
		fprintf(stderr, "anykvm exec: no program given ('anykvm exec --help' explains)\n");
		return STATUS_USAGE;
	}
	if (cpu && !set_cpu(cpu, &error)) {
		complain(error);
		return STATUS_USAGE;
	}
	if (!check_parameters(parameters, &error)) {
		complain(error);
		return STATUS_USAGE;
	}
	if ((parameters || follow) && !make_parameters(parameters, &error)) {
		complain(error);
		return STATUS_REFUSED;
	}
	if (log)
		g_setenv("ANYKVM_EXEC_LOG", log, TRUE);
	g_setenv("ANYKVM_EXEC_TRACE", trace ? trace : "", TRUE);
	g_setenv("ANYKVM_EXEC_STATS", stats ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_FOLLOW", follow ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_RAW", raw ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_ALL_FEATURES", all ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_HOST_CPUID", host_cpuid ? "1" : "0", TRUE);
	status = launch(argv, &error);
	complain(error);
	return status;
}
