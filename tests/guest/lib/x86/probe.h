/* Accesses that may fault, as functions that say which exception they met (-1: none). */
#ifndef GUEST_X86_PROBE_H
#define GUEST_X86_PROBE_H

#include "cpu.h"

/** RDMSR; *v is what EDX:EAX held afterwards. */
int msr_read(u32 msr, u64 *v);
/** WRMSR. */
int msr_write(u32 msr, u64 v);

enum access { READ, WRITE, FETCH };

/**
 * One byte at va by privilege level 0, with EFLAGS.AC as told; what is there must be a RET (0xc3),
 * which is what WRITE writes. trap_last() has the rest.
 */
int access_kernel(enum access a, ulong va, bool ac);
/** The same by privilege level 3, AC clear. */
int access_user(enum access a, ulong va);

#endif
