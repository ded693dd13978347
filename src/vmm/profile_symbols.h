/* Functions of this program and the libraries in it, by address; lookups are signal-safe. */
#ifndef VMM_PROFILE_SYMBOLS_H
#define VMM_PROFILE_SYMBOLS_H

#include "vmm/types.h"

/* What the engine was doing, as the name of a function on the stack tells. */
enum profile_phase {
	PHASE_NONE, /* the name tells nothing */
	PHASE_TRANSLATE,
	PHASE_INVALIDATE,
	PHASE_MISS,
	PHASE_INSN,
	PHASE_EVENT,
	PHASE_DEVICE,
	PHASE_LOOP,
	PHASE_COUNT,
};

struct symbol {
	u64 from, to;
	const char *name;
	enum profile_phase phase;
	bool module; /* a whole library, not a function */
};

struct symbols {
	struct symbol *all; /* ascending */
	unsigned count;
	u64 text_from, text_to; /* of this program */
	char **names;		/* what all[].name points to */
};

/** Reads the symbol table of /proc/self/exe; without one only libraries are told apart. */
void symbols_load(struct symbols *s);
void symbols_free(struct symbols *s);
/** The index of the symbol at an address, or s->count. */
unsigned symbols_find(const struct symbols *s, u64 pc);

#endif
