/*
 * Settings, which the launcher hands over in the environment, the log, and the library's start
 * and end.
 */
#include "exec/exec.h"

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

static __attribute__((constructor)) void start(void)
{
	const char *open = getenv("ANYKVM_EXEC_OPEN"), *log = getenv("ANYKVM_EXEC_LOG");

	exec_real_load();
	exec_options.vendor = host_vendor();
	if (open && strstr(open, "vendor=amd"))
		exec_options.vendor = "amd";
	else if (open && strstr(open, "vendor=intel"))
		exec_options.vendor = "intel";
	snprintf(exec_options.open, sizeof(exec_options.open), "%s%svendor=%s", open ? open : "",
		 open && *open ? "," : "", exec_options.vendor);
	exec_options.trace = flag("ANYKVM_EXEC_TRACE");
	exec_options.stats = flag("ANYKVM_EXEC_STATS");
	exec_options.follow = flag("ANYKVM_EXEC_FOLLOW");
	exec_options.raw = flag("ANYKVM_EXEC_RAW");
	exec_options.all_features = flag("ANYKVM_EXEC_ALL_FEATURES");
	exec_options.host_cpuid = flag("ANYKVM_EXEC_HOST_CPUID");
	if (log && *log) {
		int fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

		if (fd >= 0)
			exec_options.log_fd = fd;
	}
	if (!exec_options.follow)
		unfollow();
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
