#include "base/trace.h"

#include <sys/syscall.h>

#define LINE_BYTES 320

static const struct {
	const char *name, *format;
} points[] = {
#define TRACE_POINT(name, format, what) {#name, format},
#include "base/trace.def"
};

const char *trace_name(unsigned point)
{
	return point < TRACE_POINT_COUNT ? points[point].name : NULL;
}

int trace_find(const char *name, size_t n)
{
	for (unsigned i = 0; i < TRACE_POINT_COUNT; i++) {
		const char *p = points[i].name;
		size_t k = 0;

		while (k < n && p[k] && p[k] == name[k])
			k++;
		if (k == n && !p[k])
			return (int)i;
	}
	return -1;
}

struct line {
	char text[LINE_BYTES];
	unsigned n;
};

static void put(struct line *l, const char *s)
{
	while (*s && l->n < LINE_BYTES - 1)
		l->text[l->n++] = *s++;
}

static void put_number(struct line *l, u64 v, unsigned base)
{
	char digits[24];
	unsigned at = sizeof(digits) - 1;

	digits[at] = 0;
	do {
		digits[--at] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	put(l, digits + at);
}

static long call(long number, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return ret;
}

void trace_write(const struct trace *t, enum trace_point point, const u64 *args)
{
	struct line l = {.n = 0};

	put(&l, "anykvm[");
	put_number(&l, (u64)call(SYS_gettid, 0, 0, 0), 10);
	put(&l, "]: ");
	put(&l, points[point].name);
	put(&l, ": ");
	for (const char *p = points[point].format; *p; p++) {
		if (*p != '%') {
			put(&l, (const char[]){*p, 0});
			continue;
		}
		p++;
		if (*p == 's')
			put(&l, (const char *)*args++);
		else
			put_number(&l, *args++, *p == 'x' ? 16 : 10);
	}
	l.text[l.n++] = '\n';
	call(SYS_write, t->fd, (long)l.text, (long)l.n);
}
