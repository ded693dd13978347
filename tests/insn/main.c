/*
 * main.c - the instruction differential test: options, self-test, results as TAP
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include "run.h"
#include "memory.h"
#include "native.h"

static const char *const mode_name[GEN_COUNT] = {"enum", "random", "seq", "ud"};
static unsigned tap_number, tap_failed;

static void tap(bool ok, const char *what)
{
	tap_failed += !ok;
	printf("%sok %u - %s\n", ok ? "" : "not ", ++tap_number, what);
	fflush(stdout);
}

/* Ends what does not end by itself, in the process that has no other to watch it. */
static void watchdog(unsigned ms)
{
	struct itimerval t = {.it_interval = {ms / 1000, ms % 1000 * 1000},
			      .it_value = {ms / 1000, ms % 1000 * 1000}};

	setitimer(ITIMER_REAL, &t, NULL);
}

/* The harness finds no difference between native and native, and any that is put in. */
static void self_test(u64 seed)
{
	static struct insn_case c;
	static struct insn_result nat, eng;
	unsigned missed = 0, false_alarms = 0, compared = 0;
	bool skipped;

	compare_strict = true;
	watchdog(500);
	for (unsigned i = 0; i < 3000; i++) {
		u64 number = (u64)(i % GEN_UD) << 40 | i;
		const char *what = run_one(&engine_native, seed, number, &c, &nat, &eng, &skipped);

		if (what && eng.vector != INSN_VEC_TIMEOUT && false_alarms++ < 5)
			report_case(&c, &nat, &eng, what);
		if (skipped || eng.vector == INSN_VEC_TIMEOUT)
			continue;
		compared++;
		if (!run_one(&engine_broken, seed, number, &c, &nat, &eng, &skipped) && !skipped &&
		    missed++ < 5)
			report_case(&c, &nat, &eng, "spoiled, but not seen");
	}
	compare_strict = false;
	watchdog(0);
	printf("# self-test: %u cases, %u false alarms, %u spoiled results missed\n", compared,
	       false_alarms, missed);
	tap(!false_alarms && compared > 2500, "self-test: native agrees with native");
	tap(!missed && compared > 2500, "self-test: a broken engine is seen");
}

static int by_count(const void *a, const void *b)
{
	const struct run_class *x = a, *y = b;

	return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

/* What the cases were: instructions by mode and group, and how the cases ended. */
static void distribution(const struct run_shared *sh)
{
	static const char *const mode[INSN_MODES] = {"64-bit", "32-bit flat", "32-bit segmented",
						     "16-bit segmented"};
	static const char *const group[CLASS_COUNT + 1] = {
		"integer", "x87/MMX", "SSE", "VEX", "EVEX", "privileged", "control/far"};

	printf("# %-18s", "instructions");
	for (unsigned k = 0; k <= CLASS_COUNT; k++)
		printf(" %11s", group[k]);
	for (unsigned i = 0; i < INSN_MODES; i++) {
		printf("\n# %-18s", mode[i]);
		for (unsigned k = 0; k <= CLASS_COUNT; k++)
			printf(" %11llu", (unsigned long long)sh->groups[i][k]);
	}
	printf("\n# cases by vector:");
	for (unsigned v = 0; v < 32; v++)
		if (sh->vectors[v])
			printf(" %u: %llu", v, (unsigned long long)sh->vectors[v]);
	printf(" none: %llu\n", (unsigned long long)sh->vectors[32]);
}

static void results(const struct run_options *o, struct run_shared *sh, bool verbose,
		    double seconds)
{
	u64 total = 0, skipped = 0, faults = 0, enumerated = 0;
	u32 usable, missed;
	char text[200];

	for (unsigned m = 0; m < GEN_COUNT; m++) {
		u64 cases = 0, differences = 0;

		for (unsigned n = 0; n < o->jobs; n++) {
			cases += sh->job[n].cases[m];
			differences += sh->job[n].differences[m];
		}
		total += cases;
		if (m == GEN_ENUM)
			enumerated = cases;
		if (!(o->modes >> m & 1))
			continue;
		snprintf(text, sizeof(text), "%s %s: %llu cases, %llu differences", o->engine->name,
			 mode_name[m], (unsigned long long)cases, (unsigned long long)differences);
		tap(!differences && cases, text);
	}
	for (unsigned n = 0; n < o->jobs; n++) {
		skipped += sh->job[n].skipped;
		faults += sh->job[n].faults;
	}
	snprintf(text, sizeof(text), "%s: no crash", o->engine->name);
	tap(!sh->crashes, text);
	if (o->count && !o->seconds && !o->stop) {
		snprintf(text, sizeof(text), "%s: all %llu cases were run", o->engine->name,
			 (unsigned long long)o->count);
		tap(total >= o->count * (run_variant == RUN_VARIANT_ALL ? INSN_VARIANTS : 1), text);
	}
	snprintf(text, sizeof(text), "%s: hardly a case is not comparable", o->engine->name);
	tap(skipped <= total / 200, text);
	usable = catalog_usable(sh->hits, &missed);
	/* the enumeration went round all encodings, and again for those that a fault hid */
	if (enumerated / (run_variant == RUN_VARIANT_ALL ? INSN_VARIANTS : 1) >
	    8 * (u64)catalog.count) {
		snprintf(text, sizeof(text), "%s: all %u encodings of this host", o->engine->name,
			 usable);
		tap(!missed, text);
	}
	printf("# %llu cases in %.1f s (%.0f a second), %llu ended with a fault, %llu not comparable\n",
	       (unsigned long long)total, seconds, total / seconds, (unsigned long long)faults,
	       (unsigned long long)skipped);
	distribution(sh);
	qsort(sh->cls, RUN_CLASSES, sizeof(sh->cls[0]), by_count);
	for (unsigned i = 0; i < RUN_CLASSES && sh->cls[i].count; i++)
		printf("# %8llu x %s (--case %#llx)\n", (unsigned long long)sh->cls[i].count,
		       sh->cls[i].key, (unsigned long long)sh->cls[i].example);
	if (o->coverage)
		catalog_coverage(sh->hits, sh->mnemonic);
	catalog_report(sh->hits, verbose);
}

static void usage(void)
{
	printf("insn-test [options]\n"
	       "  --engine anykvm|native|broken   what is compared with the host CPU\n"
	       "  --seed N       default: from the time, printed\n"
	       "  --case N       runs one case verbosely, as reported\n"
	       "  --from N       ... after running the cases from N on in the same process\n"
	       "  --count N      cases in all; 0: no limit\n"
	       "  --seconds S    stops after that time\n"
	       "  --jobs N       processes\n"
	       "  --mode LIST    enum,random,seq,ud\n"
	       "  --variant V    0 to 8, or all: a case runs in each; default: they take turns\n"
	       "  --reports N    differences a job reduces (one report a class is printed)\n"
	       "  --stop         at the first difference\n"
	       "  --coverage     a table of all mnemonics: encodings, cases, or why there are none\n"
	       "  --uncovered    lists the encodings that were not tested, with the reason\n");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"engine", required_argument, NULL, 'e'},
		{"seed", required_argument, NULL, 's'},
		{"case", required_argument, NULL, 'c'},
		{"from", required_argument, NULL, 'f'},
		{"count", required_argument, NULL, 'n'},
		{"seconds", required_argument, NULL, 't'},
		{"jobs", required_argument, NULL, 'j'},
		{"mode", required_argument, NULL, 'm'},
		{"variant", required_argument, NULL, 'v'},
		{"reports", required_argument, NULL, 'r'},
		{"stop", no_argument, NULL, 'x'},
		{"coverage", no_argument, NULL, 'C'},
		{"uncovered", no_argument, NULL, 'u'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct run_options o = {.engine = &engine_anykvm,
				.count = 1000000,
				.jobs = 2,
				.modes = (1 << GEN_COUNT) - 1,
				.reports = 1000};
	u64 single = ~0ull, from = ~0ull;
	bool verbose = false;
	struct timespec t0, t1;
	struct run_shared *sh;
	int opt;

	clock_gettime(CLOCK_REALTIME, &t0);
	o.seed = (u64)t0.tv_sec << 20 ^ t0.tv_nsec;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'e':
			o.engine = !strcmp(optarg, "native")   ? &engine_native
				   : !strcmp(optarg, "broken") ? &engine_broken
							       : &engine_anykvm;
			break;
		case 's':
			o.seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			single = strtoull(optarg, NULL, 0);
			break;
		case 'f':
			from = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			o.count = strtoull(optarg, NULL, 0);
			break;
		case 't':
			o.seconds = strtoull(optarg, NULL, 0);
			break;
		case 'j':
			o.jobs = MAX(1u, MIN((unsigned)atoi(optarg), RUN_JOBS_MAX));
			break;
		case 'm':
			o.modes = 0;
			for (unsigned m = 0; m < GEN_COUNT; m++)
				if (strstr(optarg, mode_name[m]))
					o.modes |= 1u << m;
			break;
		case 'v':
			run_variant = !strcmp(optarg, "all") ? RUN_VARIANT_ALL
							     : atoi(optarg) % INSN_VARIANTS;
			break;
		case 'r':
			o.reports = atoi(optarg);
			break;
		case 'x':
			o.stop = true;
			break;
		case 'C':
			o.coverage = true;
			break;
		case 'u':
			verbose = true;
			break;
		default:
			usage();
			return opt == 'h' ? 0 : 2;
		}
	}
	if (!o.modes) {
		usage();
		return 2;
	}
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	printf("# seed %#llx\n", (unsigned long long)o.seed);
	opt = memory_init() < 0 ? -1 : native_init();
	if (opt < 0)
		printf("Bail out! set-up failed\n");
	if (opt) {
		fflush(stdout);
		return opt < 0;
	}
	segment_init();
	catalog_init();
	watchdog(500);
	catalog_probe(o.engine);
	watchdog(0);
	if (single != ~0ull) {
		static struct insn_case c;
		static struct insn_result nat, eng;
		const char *what;
		bool skipped;

		if (run_init(o.engine) < 0)
			return 1;
		watchdog(2000);
		for (u64 k = MIN(from, single); k < single; k++) {
			if (k % RUN_CHUNK == 0)
				run_chunk_begin(o.engine);
			run_one(o.engine, o.seed, k, &c, &nat, &eng, &skipped);
		}
		what = run_one(o.engine, o.seed, single, &c, &nat, &eng, &skipped);
		report_case(&c, &nat, &eng, what ? what : skipped ? "(skipped)" : "(none)");
		return what != NULL;
	}
	self_test(o.seed);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	sh = run_cases(&o);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	if (!sh)
		return 1;
	results(&o, sh, verbose, t1.tv_sec - t0.tv_sec + (t1.tv_nsec - t0.tv_nsec) / 1e9);
	printf("1..%u\n", tap_number);
	fflush(stdout);
	return tap_failed != 0;
}
