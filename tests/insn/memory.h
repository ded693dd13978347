/* memory.h - the memory that native code and guest code see */
#ifndef INSN_MEMORY_H
#define INSN_MEMORY_H

#include "base/types.h"
#include "layout.h"

enum insn_page_kind { PAGE_ABSENT, PAGE_RW, PAGE_RO };

struct insn_memory {
	u8 *code;     /* writable view of the code area; INSN_CODE_VA is the executable one */
	u8 *native;   /* the data area at INSN_DATA_VA */
	u8 *engine;   /* the guest's copy of the data area, its physical memory */
	u8 *baseline; /* what both hold before a case */
};
extern struct insn_memory insn_memory;

/** Maps everything. 0, or -1 (says why). */
int memory_init(void);
/** Gives a forked process memory of its own for code and the engine's data. 0 or -1. */
int memory_process_init(void);
/** What page n of the data area is. */
enum insn_page_kind memory_page(unsigned n);
/** Copies a new baseline into both data areas, the read-only page included. */
void memory_rebase(void);

/** A random address has met something of this process that the guest does not have. */
bool memory_met_process(u64 va);
/** Puts the engine's data area back to the baseline: a case starts again. */
void memory_restore_engine(void);

#endif
