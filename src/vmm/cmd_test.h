/*
 * `anykvm test`: guest unit tests on a target. A plan (table file × target × CPU counts) becomes
 * jobs; jobs run in parallel, each into its own log; their logs are read as TAP and summed up.
 */
#ifndef VMM_CMD_TEST_H
#define VMM_CMD_TEST_H

#include <stdio.h>

#include "vmm/types.h"

#define TEST_CPUS_MAX 16
#define TEST_LOG_MAX  (16u << 20) /* bytes of a log that are read */

/* What takes the place of a test's own status. */
enum {
	TEST_SHUTDOWN = 256, /* the machine shut down (triple fault) */
	TEST_SIGNALLED = -1, /* its program was ended by a signal */
	TEST_NO_STATUS = -2, /* QEMU ended with a status of its own */
};

enum test_target { TARGET_ANYKVM, TARGET_KVM, TARGET_QEMU_TCG, TARGET_QEMU_KVM, TARGET_EFI };

struct test_options {
	enum test_target target;
	const char *target_name;
	char *dir;    /* kernels, tests.cfg, deviations.cfg */
	char *logs;   /* one file a job */
	char *cpu;    /* "intel", "amd" or NULL */
	char *tap;    /* file, "-" for standard output, or NULL */
	char *junit;  /* file or NULL */
	char *append; /* more words for the tests' command line, or NULL */
	char **patterns;
	int jobs;
	int cpus; /* 0: as the table says */
	bool list;
};

enum point_result { POINT_PASS, POINT_FAIL, POINT_SKIP, POINT_KNOWN };

struct test_point {
	char *name, *why; /* why: reason of a skip or of a known deviation, or NULL */
	enum point_result result;
};

struct test_job {
	char *name; /* "walk.64", "smp.64/4" */
	char *about, *kernel, *groups, *qemu;
	char *without;	 /* "LM;X2APIC": features that its CPU lacks, or "" */
	char *append;	 /* more words for its command line */
	char *esp;	 /* folder of the EFI target's disk, or NULL */
	bool shuts_down; /* the test ends in a triple fault, after its plan */
	char *arch;	 /* "64", "32", "arm64", "efi" */
	unsigned cpus, timeout;
	u64 memory; /* bytes */

	/* after the run */
	char *log;
	double seconds;
	int status; /* the test's own: 0, 1, 2; or TEST_SHUTDOWN and so on */
	bool timed_out;
	GPtrArray *points; /* struct test_point */
	unsigned counts[4];
};

/** A known deviation of a target: points that need not pass, and why. */
struct test_deviation {
	GPatternSpec *job, *point;
	char *why;
};

/** Reads the table and makes the jobs that the options ask for. NULL with the error set. */
GPtrArray *test_plan(const struct test_options *opt, GError **error);
/** Reads the target's known deviations; an absent file is an empty list. */
GPtrArray *test_deviations(const struct test_options *opt, GError **error);
void test_job_free(void *job);

/** Makes the disk folder of a job of the EFI target; false with the error set. */
bool test_efi_prepare(struct test_job *job, const char *folder, const char *words, GError **error);

/** The command that runs a job; free with g_strfreev(). */
char **test_command(const struct test_options *opt, const struct test_job *job);

/** Runs all jobs; done is called after each, in the order of their ends. */
bool test_run(const struct test_options *opt, GPtrArray *jobs,
	      void (*done)(struct test_job *job, void *data), void *data, GError **error);

/** Reads a finished job's log into points. */
void test_job_read(struct test_job *job, GPtrArray *deviations);

/** A report for machines, "-" for standard output. NULL with the error set. */
FILE *test_report_open(const char *path, GError **error);
void test_write_tap(FILE *f, GPtrArray *jobs);
void test_write_junit(FILE *f, const char *suite, GPtrArray *jobs);
/** Closes f, which may be NULL; false with the error set when not all of it could be written. */
bool test_report_close(FILE *f, const char *path, GError **error);

#endif
