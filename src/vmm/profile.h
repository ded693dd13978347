/*
 * A sampling profile of the vCPU threads: where their processor time goes.
 *
 * Each thread is interrupted a thousand times for every second of processor time that it uses. A
 * sample in translated code counts for its guest address; one in this program counts for the
 * function, and, by the return addresses on the stack, for what the engine was doing at large.
 */
#ifndef VMM_PROFILE_H
#define VMM_PROFILE_H

#include <glib.h>

#include "vmm/accel.h"

struct profile;

/** NULL and an error when this accelerator cannot be profiled. */
struct profile *profile_new(const struct accel *accel, GError **error);
/** In the vCPU's thread, around its work. NULL is nothing to do. */
void profile_thread_begin(struct profile *p);
void profile_thread_end(struct profile *p);
/** What was found, after the threads have ended. Free with g_free(). */
char *profile_text(struct profile *p);
void profile_free(struct profile *p);

#endif
