/* run.h - running many cases in several processes */
#ifndef INSN_RUN_H
#define INSN_RUN_H

#include "insn.h"

#define RUN_JOBS_MAX 64
#define RUN_CLASSES  256
#define RUN_CHUNK    1024 /* cases between two flushes of the code area */

struct run_options {
	const struct engine_ops *engine;
	u64 seed;
	u64 count;   /* cases, or 0: no limit */
	u64 seconds; /* or 0 */
	unsigned jobs;
	unsigned modes;	  /* bit mask over enum gen_mode */
	unsigned reports; /* differences reduced at most, per job; one report a class is printed */
	bool stop;	  /* at the first difference */
	bool coverage;	  /* count mnemonics */
};

/* Shared between the jobs. */
struct run_shared {
	struct run_job {
		u64 progress; /* number of the running case + 1 */
		u64 ticks;    /* cases begun, on either side: a sign of life */
		bool on_host; /* the case runs natively */
		u64 cases[GEN_COUNT], skipped, faults, differences[GEN_COUNT];
		u64 chunk; /* the running chunk */
		bool done;
	} job[RUN_JOBS_MAX];
	struct run_class {
		char key[96];
		u64 count, example;
	} cls[RUN_CLASSES];
	int lock;
	u64 crashes;
	u64 groups[INSN_MODES]
		  [CLASS_COUNT + 1]; /* instructions reached; the last: control flow etc. */
	u64 vectors[33];	     /* cases by the fault that ended them; the last: none */
	u64 mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* cases that reached one */
	u32 hits[];				    /* the same by template */
};

#define RUN_VARIANT_TURNS INSN_VARIANTS
#define RUN_VARIANT_ALL	  (INSN_VARIANTS + 1)
/** The variant that runs the cases, or: they take turns by the chunk; each case runs in all. */
extern unsigned run_variant;

/** Starts the engine in this process. 0 or -1. */
int run_init(const struct engine_ops *engine);
/** Empties the code area: cases of one chunk (of RUN_CHUNK numbers) may jump into each other. */
void run_chunk_begin(const struct engine_ops *engine);
/** Runs cases as the options say; returns the shared results (kept until the next call). */
struct run_shared *run_cases(const struct run_options *o);
/**
 * Makes and runs one case. NULL when both agree (or it cannot be compared: *skipped), else the
 * first difference.
 */
const char *run_one(const struct engine_ops *engine, u64 seed, u64 number, struct insn_case *c,
		    struct insn_result *nat, struct insn_result *eng, bool *skipped);
/** Finds the smallest part of a case that still differs, and reports it when its class is new. */
void run_report(const struct engine_ops *engine, struct insn_case *c, const char *what,
		struct run_shared *sh);

#endif
