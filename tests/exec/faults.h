/*
 * Fault injection: the library's calls into libc are wrapped by the linker (--wrap), and the n-th
 * of them fails. Calls that libc makes inside itself, and the test's own through __real_ names,
 * stay as they are.
 */
#ifndef TESTS_FAULTS_H
#define TESTS_FAULTS_H

#include "base/types.h"

/** The n-th call from here on fails (1 is the next); 0: none. Counts calls either way. */
void faults_arm(u32 n);
/** Calls since faults_arm(). */
u32 faults_count(void);
/** Where to put the name of what failed and the address of its call, at once. */
void faults_report(const char **name, void **site);

#endif
