/*
 * trace.h - what the engine does, as lines of text under the names of KVM's trace points
 *
 * Lines are written while the guest's FPU state is live, so nothing here calls libc. Where no trace
 * is wanted the pointer is NULL, and a trace point costs a test of it.
 */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include "base/types.h"

enum trace_point {
#define TRACE_POINT(name, format, what) TRACE_##name,
#include "base/trace.def"
	TRACE_POINT_COUNT
};
_Static_assert(TRACE_POINT_COUNT <= 64, "struct trace has a bit for each");

struct trace {
	int fd;
	u64 points; /* a bit for each wanted one */
};

/** A point's name, or NULL. */
const char *trace_name(unsigned point);
/** A point's number by its name of n bytes, or -1. */
int trace_find(const char *name, size_t n);
/** Writes one line. `args`: as many as the point's format takes. Any thread. */
void trace_write(const struct trace *t, enum trace_point point, const u64 *args);

#define TRACE(trace_, point, ...)                                                         \
	do {                                                                              \
		const struct trace *trace_is = (trace_);                                  \
                                                                                          \
		if (UNLIKELY(trace_is) && (trace_is->points >> TRACE_##point & 1))        \
			trace_write(trace_is, TRACE_##point, (const u64[]){__VA_ARGS__}); \
	} while (0)
#define TRACE_STRING(s) ((u64)(const char *)(s))

#endif
