/* A line to move, and points that wait for it. */
#include "line.h"

#define COM1 0x3f8

static struct {
	char name[80];
	bool ok;
} results[64];
static unsigned result_count;

void line_set(bool up)
{
	if (up) {
		outb(COM1 + 4, 0x0b); /* DTR, RTS, OUT2: its interrupt reaches the line */
		outb(COM1 + 1, 2);
	} else {
		outb(COM1 + 1, 0);
		inb(COM1 + 2);
	}
}

bool later(bool ok, const char *fmt, ...)
{
	va_list args;

	if (result_count == ARRAY_SIZE(results))
		die("too many points wait");
	va_start(args, fmt);
	results[result_count].ok = ok;
	vsnprintf(results[result_count++].name, sizeof(results[0].name), fmt, args);
	va_end(args);
	return ok;
}

void later_flush(void)
{
	for (unsigned i = 0; i < result_count; i++)
		report(results[i].ok, "%s", results[i].name);
	result_count = 0;
}
