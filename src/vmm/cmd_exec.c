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

/*
 * The file that a name stands for, as execvp(3) finds it. NULL with the status that a shell would have:
 * a name that nothing has is another error than one that cannot be run.
 */
static char *find_program(const char *name, int *status, GError **error)
{
	char *found = g_find_program_in_path(name);
	g_auto(GStrv) folders = NULL;
	const char *path = g_getenv("PATH");
	g_autofree char *there = NULL;
	struct stat st;
	int why = EACCES;

	if (found)
		return found;
	if (strchr(name, '/'))
		there = g_strdup(name);
	folders = g_strsplit(path && !there ? path : "", ":", -1);
	for (char **folder = folders; *folder && !there; folder++) {
		g_autofree char *file = g_build_filename(**folder ? *folder : ".", name, NULL);

		if (!stat(file, &st) && S_ISREG(st.st_mode))
			there = g_steal_pointer(&file);
	}
	*status = STATUS_REFUSED;
	if (!there || stat(there, &st)) {
		if (!there || errno == ENOENT) {
			vmm_error(error, "%s: no such program", name);
			*status = STATUS_NOT_FOUND;
			return NULL;
		}
		why = errno;
	} else if (S_ISDIR(st.st_mode)) {
		why = EISDIR;
	} else if (S_ISREG(st.st_mode) && !(st.st_mode & 0111)) {
		why = 0;
	} else if (access(there, X_OK)) {
		why = errno;
	}
	vmm_error(error, "%s: %s", there, why ? g_strerror(why) : "not an executable file");
	return NULL;
}

/* Can the dynamic linker put the library in front of this program? *script: it begins with #!. */
static bool check_program(const char *path, int depth, bool *script, GError **error)
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
		*script = true;
		good = check_program(name, depth + 1, script, error);
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
	vmm_error(error,
		  LIBRARY " is not where it is installed or built, beside %s; 'make' builds it",
		  self ? self : "anykvm");
	return NULL;
}

/*
 * The program's side opens the log for itself, in whatever folder it is then; here it is tried and
 * its name made absolute.
 */
static bool set_log(const char *name, GError **error)
{
	g_autofree char *path = g_canonicalize_filename(name, NULL);
	struct stat st;
	int fd;

	/* A FIFO's reader would take our close for the end. */
	if (stat(path, &st) || !S_ISFIFO(st.st_mode)) {
		fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
		if (fd < 0) {
			vmm_error(error, "cannot write the log '%s': %s", name, g_strerror(errno));
			return false;
		}
		close(fd);
	}
	g_setenv("ANYKVM_EXEC_LOG", path, TRUE);
	return true;
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

#define DIGITS_MAX 23 /* that the library reads */
#define WORDS	   "Y, N, y, n, 1, 0, on, off"

/* Those that can be written, which the library knows as well, and the words that each takes. */
static const struct {
	const char *name, *words; /* NULL: a number */
} parameters[] = {
	{"nx_huge_pages", WORDS ", auto, force, never"},
	{"nx_huge_pages_recovery_ratio", NULL},
	{"nx_huge_pages_recovery_period_ms", NULL},
	{"eager_page_split", WORDS},
};

/* The value of NAME=VALUE if that is the parameter's name, else NULL. */
static const char *wished(const char *wish, unsigned parameter)
{
	size_t n = strlen(parameters[parameter].name);

	return !strncmp(wish, parameters[parameter].name, n) && wish[n] == '=' ? wish + n + 1
									       : NULL;
}

static bool check_value(const char *wish, const char *words, const char *value, GError **error)
{
	g_auto(GStrv) list = words ? g_strsplit(words, ", ", -1) : NULL;
	char *end;

	if (list ? g_strv_contains((const char *const *)list, value)
		 : g_ascii_isdigit(*value) && g_ascii_strtoull(value, &end, 0) <= UINT32_MAX &&
			    !*end && strlen(value) <= DIGITS_MAX)
		return true;
	if (words)
		vmm_error_usage(error, "--parameter %s: VALUE is one of %s", wish, words);
	else
		vmm_error_usage(error, "--parameter %s: VALUE is a number from 0 to %u", wish,
				UINT32_MAX);
	return false;
}

/* NAME=VALUE, each. False: a wish that nobody can fulfil. */
static bool check_parameters(char **wishes, GError **error)
{
	for (unsigned i = 0; wishes && wishes[i]; i++) {
		g_autoptr(GString) names = g_string_new(NULL);
		const char *value = NULL, *words = NULL;

		for (unsigned k = 0; k < G_N_ELEMENTS(parameters) && !value; k++) {
			value = wished(wishes[i], k);
			words = parameters[k].words;
			g_string_append_printf(names, "%s%s", k ? ", " : "", parameters[k].name);
		}
		if (!value || !*value) {
			vmm_error_usage(error, "--parameter %s: NAME=VALUE, NAME being one of %s",
					wishes[i], names->str);
			return false;
		}
		if (!check_value(wishes[i], words, value, error))
			return false;
	}
	return true;
}

/* Files that all processes of the launch share; their numbers are out of the program's way. */
static bool make_parameters(char **wishes, GError **error)
{
	g_autoptr(GString) list = g_string_new(NULL);
	struct rlimit limit = {.rlim_cur = 1024};

	getrlimit(RLIMIT_NOFILE, &limit);
	for (unsigned k = 0; k < G_N_ELEMENTS(parameters); k++) {
		int low = memfd_create(parameters[k].name, MFD_CLOEXEC), fd;

		fd = low < 0 ? -1 : fcntl(low, F_DUPFD, (int)MIN(limit.rlim_cur / 2, (rlim_t)900));
		if (fd < 0) {
			vmm_error(error, "no descriptor for the parameters: %s", g_strerror(errno));
			return false;
		}
		close(low);
		for (unsigned i = 0; wishes && wishes[i]; i++)
			if (wished(wishes[i], k))
				dprintf(fd, "%s\n", wished(wishes[i], k));
		g_string_append_printf(list, "%s%s:%d", k ? "," : "", parameters[k].name, fd);
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
	bool script = false;
	int status;

	program = find_program(argv[0], &status, error);
	if (!program)
		return status;
	if (!check_program(program, 0, &script, error))
		return STATUS_REFUSED;
	g_setenv("ANYKVM_EXEC_SCRIPT", script ? program : "", TRUE);
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
	gboolean window = FALSE;
	g_autofree char *cpu = NULL, *log = NULL, *trace = NULL;
	g_auto(GStrv) wishes = NULL;
	const GOptionEntry entries[] = {
		{"cpu", 0, 0, G_OPTION_ARG_STRING, &cpu,
		 "Guests' CPU: intel or amd (default: the host's vendor), or an older model",
		 "VENDOR[/MODEL]"},
		{"parameter", 0, 0, G_OPTION_ARG_STRING_ARRAY, &wishes,
		 "Set a parameter of the module kvm (nx_huge_pages=Y); may be given more than once",
		 "NAME=VALUE"},
		{"log", 0, 0, G_OPTION_ARG_FILENAME, &log,
		 "Append messages to FILE (default: standard error)", "FILE"},
		{"trace", 0, G_OPTION_FLAG_OPTIONAL_ARG, G_OPTION_ARG_CALLBACK, parse_trace,
		 "Log ioctls and KVM's trace points: all (--trace alone), or LIST's (kvm_exit,kvm_msr)",
		 "LIST"},
		{"stats", 0, 0, G_OPTION_ARG_NONE, &stats,
		 "Log counts of ioctls and exits at the end", NULL},
		{"follow", 0, 0, G_OPTION_ARG_NONE, &follow,
		 "Children, and what PROGRAM turns into by exec(2), get /dev/kvm too", NULL},
		{"raw", 0, 0, G_OPTION_ARG_NONE, &raw,
		 "Catch system calls made without libc as well (each costs a signal)", NULL},
		{"all-features", 0, 0, G_OPTION_ARG_NONE, &all,
		 "Offer also what the host's own CPUID contradicts (QEMU goes wrong with it)",
		 NULL},
		{"host-cpuid", 0, 0, G_OPTION_ARG_NONE, &host_cpuid,
		 "Leave the program's own CPUID instruction alone: it tells the host's CPU", NULL},
		{"window", 0, 0, G_OPTION_ARG_NONE, &window,
		 "Guests' RAM is shared memory: their programs run up to twice as fast that way",
		 NULL},
		{NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
	};
	g_autoptr(GOptionContext) context = g_option_context_new("-- PROGRAM [ARGUMENT]...");
	g_autoptr(GError) error = NULL;
	GOptionGroup *group;
	int status;

	g_set_prgname("anykvm exec");
	group = g_option_group_new("exec", "", "", &trace, NULL);
	g_option_group_add_entries(group, entries);
	g_option_context_set_main_group(context, group);
	g_option_context_set_strict_posix(context, TRUE);
	g_option_context_set_summary(
		context,
		"Runs an unmodified program that finds anykvm's /dev/kvm.\n"
		"The program must be dynamically linked with the GNU C library. Its children, and\n"
		"a program that it turns into by exec(2), as a wrapper script does, find no\n"
		"/dev/kvm without --follow.");
	g_option_context_set_description(
		context,
		"Exit status: the program's; 2 for wrong options, 126 when the program cannot be\n"
		"run, or has no place for our /dev/kvm; 127 when there is none.\n");
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
	if (!check_parameters(wishes, &error)) {
		complain(error);
		return STATUS_USAGE;
	}
	if ((wishes || follow) && !make_parameters(wishes, &error)) {
		complain(error);
		return STATUS_REFUSED;
	}
	if (log && !set_log(log, &error)) {
		complain(error);
		return STATUS_USAGE;
	}
	g_setenv("ANYKVM_EXEC_TRACE", trace ? trace : "", TRUE);
	g_setenv("ANYKVM_EXEC_STATS", stats ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_FOLLOW", follow ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_RAW", raw ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_ALL_FEATURES", all ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_HOST_CPUID", host_cpuid ? "1" : "0", TRUE);
	g_setenv("ANYKVM_EXEC_WINDOW", window ? "1" : "0", TRUE);
	status = launch(argv, &error);
	complain(error);
	return status;
}
