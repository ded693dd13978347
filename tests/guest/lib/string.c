/* Memory and strings; the compiler calls some of these by itself. */
#include "lib.h"

void *memcpy(void *to, const void *from, size_t n)
{
	u8 *t = to;
	const u8 *f = from;

#if defined(__x86_64__) || defined(__i386__)
	__asm__ volatile("rep movsb" : "+D"(t), "+S"(f), "+c"(n) : : "memory");
#else
	for (size_t i = 0; i < n; i++) {
		t[i] = f[i];
		barrier(); /* or the loop becomes a call to memcpy */
	}
#endif
	return to;
}

void *memset(void *to, int c, size_t n)
{
	u8 *t = to;

#if defined(__x86_64__) || defined(__i386__)
	__asm__ volatile("rep stosb" : "+D"(t), "+c"(n) : "a"(c) : "memory");
#else
	for (size_t i = 0; i < n; i++) {
		t[i] = (u8)c;
		barrier();
	}
#endif
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

int strncmp(const char *a, const char *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i] != b[i] || !a[i])
			return (u8)a[i] - (u8)b[i];
	return 0;
}
