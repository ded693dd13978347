/* A small printf: %c %s %d %u %x %p with width, '-', '0', and l, ll, z. */
#include "lib.h"

struct out {
	char *buf;
	size_t size, len;
};

static void put(struct out *o, char c)
{
	if (o->len + 1 < o->size)
		o->buf[o->len] = c;
	o->len++;
}

static void pad(struct out *o, int n, char c)
{
	while (n-- > 0)
		put(o, c);
}

/* Division by 10 in 32-bit steps: the 32-bit kernels have no library for 64-bit division. */
static unsigned div10(u64 *v)
{
	u32 part[4] = {(u32)(*v >> 48), (u32)(*v >> 32) & 0xffff, (u32)(*v >> 16) & 0xffff,
		       (u32)*v & 0xffff};
	u32 rest = 0;
	u64 q = 0;

	for (unsigned i = 0; i < 4; i++) {
		u32 n = rest << 16 | part[i];

		q = q << 16 | n / 10;
		rest = n % 10;
	}
	*v = q;
	return rest;
}

static void put_text(struct out *o, const char *s, int len, int width, bool left)
{
	if (!left)
		pad(o, width - len, ' ');
	for (int i = 0; i < len; i++)
		put(o, s[i]);
	if (left)
		pad(o, width - len, ' ');
}

static void put_number(struct out *o, u64 v, bool hex, bool negative, int width, bool zero,
		       bool left)
{
	char digits[24];
	int n = 0;

	do {
		unsigned d = hex ? v & 15 : div10(&v);

		if (hex)
			v >>= 4;
		digits[n++] = "0123456789abcdef"[d];
	} while (v);
	if (negative && zero)
		put(o, '-');
	if (zero)
		pad(o, width - n - negative, '0');
	else if (!left)
		pad(o, width - n - negative, ' ');
	if (negative && !zero)
		put(o, '-');
	for (int i = n; i > 0; i--)
		put(o, digits[i - 1]);
	if (left)
		pad(o, width - n - negative, ' ');
}

int vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
{
	struct out o = {buf, size, 0};

	for (; *fmt; fmt++) {
		bool left = false, zero = false, negative = false;
		int width = 0, size_of = 0;
		u64 v;

		if (*fmt != '%') {
			put(&o, *fmt);
			continue;
		}
		fmt++;
		for (;; fmt++) {
			if (*fmt == '-')
				left = true;
			else if (*fmt == '0')
				zero = true;
			else if (*fmt != '#')
				break;
		}
		if (*fmt == '*') {
			width = va_arg(args, int);
			fmt++;
		}
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + (*fmt++ - '0');
		for (; *fmt == 'l' || *fmt == 'z'; fmt++)
			size_of += *fmt == 'z' ? 1 : 1;
		if (*fmt == 'c') {
			char c = (char)va_arg(args, int);

			put_text(&o, &c, 1, width, left);
			continue;
		}
		if (*fmt == 's') {
			const char *s = va_arg(args, const char *);

			put_text(&o, s, (int)strlen(s), width, left);
			continue;
		}
		if (*fmt == '%') {
			put(&o, '%');
			continue;
		}
		if (size_of >= 2)
			v = va_arg(args, u64);
		else if (size_of || *fmt == 'p')
			v = *fmt == 'd' ? (u64)va_arg(args, long) : va_arg(args, ulong);
		else
			v = *fmt == 'd' ? (u64)va_arg(args, int) : va_arg(args, unsigned);
		if (*fmt == 'd' && (s64)v < 0) {
			negative = true;
			v = -v;
		}
		put_number(&o, v, *fmt == 'x' || *fmt == 'p', negative, width, zero, left);
	}
	if (size)
		buf[o.len < size ? o.len : size - 1] = 0;
	return (int)o.len;
}

int snprintf(char *buf, size_t size, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(buf, size, fmt, args);
	va_end(args);
	return n;
}

int printf(const char *fmt, ...)
{
	char buf[512];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	arch_puts(buf, strlen(buf));
	return n;
}
