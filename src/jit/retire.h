/* retire.h - what performance counters want to know of an instruction */
#ifndef JIT_RETIRE_H
#define JIT_RETIRE_H

#include "base/types.h"

struct trans;

/** PMU_INSN_* of the instruction that was decoded last. */
u8 jit_retire_class(const struct trans *t);

#endif
