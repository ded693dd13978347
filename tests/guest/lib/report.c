/* TAP reports, the command line, pages. */
#include "lib.h"

char cmdline[512];

static unsigned points, failures;

static void say(const char *head, const char *fmt, va_list args, const char *tail)
{
	char text[256], line[400];

	vsnprintf(text, sizeof(text), fmt, args);
	/* '#' begins a directive: "#PF" is written "PF" */
	{
		char *to = text;

		for (const char *p = text; *p; p++)
			if (*p != '#' && *p != '\n')
				*to++ = *p;
		*to = 0;
	}
	snprintf(line, sizeof(line), "%s%s%s\n", head, text, tail);
	arch_puts(line, strlen(line));
}

static void point(bool ok, const char *fmt, va_list args, const char *tail)
{
	char head[40];

	points++;
	failures += !ok;
	snprintf(head, sizeof(head), "%sok %u - ", ok ? "" : "not ", points);
	say(head, fmt, args, tail);
}

bool report(bool ok, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	point(ok, fmt, args, "");
	va_end(args);
	return ok;
}

bool report_eq(u64 got, u64 want, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	point(got == want, fmt, args, "");
	va_end(args);
	if (got != want)
		note("got 0x%llx, want 0x%llx", (unsigned long long)got, (unsigned long long)want);
	return got == want;
}

void report_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	point(true, fmt, args, " # SKIP");
	va_end(args);
}

void report_xfail(bool ok, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (ok) {
		point(true, fmt, args, "");
	} else {
		points++;
		printf("not ok %u - ", points);
		say("", fmt, args, " # TODO known");
	}
	va_end(args);
}

void note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("# ", fmt, args, "");
	va_end(args);
}

void fail_case(struct cases *c, const char *fmt, ...)
{
	va_list args;

	if (c->failed++ >= 8)
		return;
	va_start(args, fmt);
	say("# ", fmt, args, "");
	va_end(args);
}

void report_cases(const struct cases *c, const char *name)
{
	if (c->failed)
		note("%u of %u cases failed", (unsigned)c->failed, (unsigned)c->run);
	report(!c->failed && c->run, "%s", name);
}

void report_done(void)
{
	printf("1..%u\n", points);
	arch_exit(failures ? 1 : 0);
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say("Bail out! ", fmt, args, "");
	va_end(args);
	arch_exit(2);
}

/* ---- command line ---- */

u64 param(const char *name, u64 otherwise)
{
	size_t len = strlen(name);

	for (const char *p = cmdline; *p; p++) {
		u64 v = 0;
		unsigned base = 10;

		if ((p != cmdline && p[-1] != ' ') || strncmp(p, name, len) || p[len] != '=')
			continue;
		p += len + 1;
		if (p[0] == '0' && p[1] == 'x') {
			base = 16;
			p += 2;
		}
		for (;; p++) {
			unsigned d = *p >= 'a' ? *p - 'a' + 10u : *p - '0' + 0u;

			if (*p < '0' || d >= base)
				return v;
			v = v * base + d;
		}
	}
	return otherwise;
}

/* ---- pages: from 16 MiB up, in machines of 64 MiB and more ---- */

#ifdef __aarch64__
#define POOL_START 0x42000000ul
#define POOL_END   0x44000000ul
#else
#define POOL_START 0x01000000ul
#define POOL_END   0x03000000ul
#endif

static ulong pool = POOL_START;

void *pages_alloc(unsigned count)
{
	ulong size = PAGE_SIZE, at, old = __atomic_load_n(&pool, __ATOMIC_RELAXED);

	while (size < count * PAGE_SIZE)
		size *= 2;
	do {
		at = (old + size - 1) & ~(size - 1);
		if (at + count * PAGE_SIZE > POOL_END)
			die("out of memory");
	} while (!__atomic_compare_exchange_n(&pool, &old, at + count * PAGE_SIZE, false,
					      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	memset((void *)at, 0, count * PAGE_SIZE);
	return (void *)at;
}

void *page_alloc(void)
{
	return pages_alloc(1);
}
