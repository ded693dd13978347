/* profile.h - what a host address is to the thread that runs it, for sampling profilers */
#ifndef JIT_PROFILE_H
#define JIT_PROFILE_H

#include "base/types.h"

enum jit_place {
	JIT_PLACE_OTHER, /* not generated code, or this thread runs no vCPU */
	JIT_PLACE_GUEST, /* translated guest code */
	JIT_PLACE_GLUE,	 /* the ways in and out of it */
};

/**
 * For signal handlers, on the thread that the signal interrupted at host address `pc`.
 * JIT_PLACE_GUEST sets *rip to the guest instruction's address (0: unknown) and *cpl.
 */
enum jit_place jit_place(u64 pc, u64 *rip, unsigned *cpl);

#endif
