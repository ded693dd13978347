/*
 * Settings, which the launcher hands over in the environment, the log, and the library's start
 * and end.
 */
#include "exec/exec.h"

#include "cpu/feature.h"
#include "cpu/model.h"

#include <cpuid.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

struct exec_options exec_options = {.log_fd = 2, .vendor = "intel"};

static bool flag(const char *name)
{
	const char *value = getenv(name);

	return value && *value && strcmp(value, "0");
}

/* The program finds the host's vendor by CPUID, so without a wish the guests' is the same. */
static const char *host_vendor(void)
{
	u32 a, b, c, d;

	__cpuid(0, a, b, c, d);
	return b == signature_AMD_ebx ? "amd" : "intel";
}

void exec_log(const char *format, ...)
{
	char line[512];
	va_list args;
	int n, m;

	n = snprintf(line, sizeof(line), "anykvm[%ld]: ", exec_raw(SYS_gettid, 0, 0, 0, 0, 0, 0));
	va_start(args, format);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
	va_end(args);
	n = MIN(n + MAX(m, 0), (int)sizeof(line) - 2);
	line[n++] = '\n';
	exec_raw(SYS_write, exec_options.log_fd, (long)line, n, 0, 0, 0);
}

/* Takes our library out of LD_PRELOAD, so that children run without it. */
static void unfollow(void)
{
	const char *all = getenv("LD_PRELOAD"), *p = all;
	char kept[4096];
	size_t used = 0;

	if (!all || strlen(all) >= sizeof(kept))
		return;
	while (*p) {
		size_t n = strcspn(p, ": ");
		static const char name[] = "libanykvm-exec.so";
		bool ours = n >= sizeof(name) - 1 &&
			    !strncmp(p + n - (sizeof(name) - 1), name, sizeof(name) - 1);

		if (n && !ours) {
			if (used)
				kept[used++] = ':';
			memcpy(kept + used, p, n);
			used += n;
		}
		p += n;
		p += *p != 0;
	}
	kept[used] = 0;
	if (used)
		setenv("LD_PRELOAD", kept, 1);
	else
		unsetenv("LD_PRELOAD");
}

/* `all`, or names separated by commas: `ioctl`, and the engine's, which it takes behind its descriptor. */
static void trace_start(const char *names)
{
	size_t used = strlen(exec_options.open), n = 0;
	bool all = names && !strcmp(names, "all");
	char list[384] = "";

	exec_options.trace = all;
	for (; names && *names && !all; names += strspn(names, ",")) {
		size_t k = strcspn(names, ",");

		if (k == 5 && !memcmp(names, "ioctl", k)) {
			exec_options.trace = true;
		} else if (n + k + 2 < sizeof(list)) {
			list[n] = n ? '+' : ':';
			memcpy(list + n + 1, names, k);
			n += k + 1;
		}
		names += k;
	}
	if (all || n)
		snprintf(exec_options.open + used, sizeof(exec_options.open) - used, ",trace=%d%s",
			 exec_options.log_fd, list);
}

static void model_start(const char *name)
{
	unsigned missing[64], n;
	char list[384] = "";
	size_t used = 0;

	exec_options.model = cpu_model_find(name, strcspn(name, ","));
	if (!exec_options.model)
		return;
	n = cpu_model_missing(exec_options.model, missing, ARRAY_SIZE(missing));
	for (unsigned i = 0; i < n && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, " %s",
					 feature_name(missing[i]));
	if (n)
		exec_log("of %s this host lacks:%s", exec_options.model->name, list);
}

static __attribute__((constructor)) void start(void)
{
	const char *open = getenv("ANYKVM_EXEC_OPEN"), *log = getenv("ANYKVM_EXEC_LOG");
	const char *script = getenv("ANYKVM_EXEC_SCRIPT");

	exec_real_load();
	if (log && *log) {
		int fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

		if (fd >= 0)
			exec_options.log_fd = fd;
	}
	exec_options.vendor = host_vendor();
	if (open && strstr(open, "vendor=amd"))
		exec_options.vendor = "amd";
	else if (open && strstr(open, "vendor=intel"))
		exec_options.vendor = "intel";
	snprintf(exec_options.open, sizeof(exec_options.open), "vendor=%s%s%s", exec_options.vendor,
		 open && *open ? "," : "", open ? open : "");
	if (open && strstr(open, "cpu="))
		model_start(strstr(open, "cpu=") + 4);
	exec_options.stats = flag("ANYKVM_EXEC_STATS");
	exec_options.follow = flag("ANYKVM_EXEC_FOLLOW");
	exec_options.raw = flag("ANYKVM_EXEC_RAW");
	exec_options.all_features = flag("ANYKVM_EXEC_ALL_FEATURES");
	exec_options.host_cpuid = flag("ANYKVM_EXEC_HOST_CPUID");
	exec_options.window = flag("ANYKVM_EXEC_WINDOW");
	trace_start(getenv("ANYKVM_EXEC_TRACE"));
	exec_parameters_start(getenv("ANYKVM_EXEC_PARAMETERS"));
	if (!exec_options.follow) {
		unfollow();
		if (script && *script)
			exec_log("%s is a script: what it starts, or turns into by exec, has no "
				 "/dev/kvm without --follow",
				 script);
	}
	if (exec_options.raw) {
		exec_signals_own();
		pthread_atfork(NULL, NULL, exec_raw_thread);
		exec_raw_thread();
	}
	exec_cpuid_start();
}

static __attribute__((destructor)) void end(void)
{
	if (exec_options.stats)
		exec_stats_print();
}
