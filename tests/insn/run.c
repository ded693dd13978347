/*
 * run.c - running many cases in several processes
 *
 * A case's number says everything about it: bits 40 and up the generator, the rest the index.
 * Cases come in chunks; a chunk uses every code slot at most once, so the engine forgets its
 * translations between chunks only. Code that may jump anywhere runs with nothing but INT3 around it. Jobs are processes, since a case owns signal handlers and
 * fixed addresses; the parent watches them, wakes the one that hangs and replaces the one that
 * dies. Whether a case hangs is judged by the processor time that it took, since the machine
 * may be busy with other things.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "run.h"
#include "memory.h"
#include "native.h"

#define SLOTS ((INSN_CODE_SIZE - INSN_SLOT_FIRST) / INSN_SLOT_SIZE)

static struct run_job no_job, *run_job = &no_job; /* where signs of life go */

unsigned run_variant = RUN_VARIANT_TURNS;

#define LONG_CASE_NS 10000000ull /* natively: a loop that counts down a random register, say */
#define HANG_HOST_NS \
	100000000ull	      /* of processor time, natively: the case is too long in any case */
#define HANG_NS 3000000000ull /* by the engine */
#define DEAD_MS 120000	      /* without using the processor */

static u64 clock_ns(clockid_t clock)
{
	struct timespec t = {0};

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Code that is no case's own, after a wild jump, has an INT1: virtualized hosts report RIP before it. */
static bool met_int1(const struct insn_result *nat, const struct insn_result *eng)
{
	u64 at = segment_code_linear(nat->regs.sel[1], nat->regs.rip) - INSN_CODE_VA;

	return nat->vector == 1 && eng->vector == 1 && nat->regs.rip + 1 == eng->regs.rip &&
	       at < INSN_CODE_SIZE && insn_memory.code[at] == 0xf1;
}

/* The stub's bytes differ: code that was led there by its own address, in the code area, may have read them. */
static bool met_stub(const struct insn_result *nat)
{
	for (unsigned i = 0; i < ARRAY_SIZE(nat->regs.gpr); i++)
		if (nat->regs.gpr[i] - INSN_STUB_VA < PAGE_SIZE)
			return true;
	return false;
}

/* What the host did, for the engine's other variants: the native side is a third of the time. */
struct kept_result {
	bool is_kept, is_skipped;
	unsigned pages;
	struct insn_result nat;
	struct {
		unsigned n;
		u8 data[PAGE_SIZE];
	} page[2]; /* those that were changed; a case that changes more is run each time */
};

static void result_keep(struct kept_result *k, const struct insn_result *nat)
{
	k->pages = 0;
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++) {
		const u8 *page = insn_memory.native + n * PAGE_SIZE;

		if (memory_page(n) != PAGE_RW ||
		    !memcmp(page, insn_memory.baseline + n * PAGE_SIZE, PAGE_SIZE))
			continue;
		if (k->pages == ARRAY_SIZE(k->page))
			return;
		k->page[k->pages].n = n;
		memcpy(k->page[k->pages++].data, page, PAGE_SIZE);
	}
	memcpy(k->nat.xsave, nat->xsave, insn_xsave_size);
	k->nat.regs = nat->regs;
	k->nat.vector = nat->vector;
	k->nat.error = nat->error;
	k->nat.cr2 = nat->cr2;
	k->is_kept = true;
}

static void result_get(const struct kept_result *k, struct insn_result *nat)
{
	for (unsigned i = 0; i < k->pages; i++)
		memcpy(insn_memory.native + k->page[i].n * PAGE_SIZE, k->page[i].data, PAGE_SIZE);
	memcpy(nat->xsave, k->nat.xsave, insn_xsave_size);
	nat->regs = k->nat.regs;
	nat->vector = k->nat.vector;
	nat->error = k->nat.error;
	nat->cr2 = k->nat.cr2;
}

/* Runs a case on both sides; natively only where *kept has no result of an earlier time. It may be NULL. */
static const char *execute(const struct engine_ops *engine, struct insn_case *c,
			   struct insn_result *nat, struct insn_result *eng, bool *skipped,
			   struct kept_result *kept)
{
	static char text[512];
	const char *what;
	u64 start;

	*skipped = kept && kept->is_skipped;
	if (*skipped) {
		nat->vector = INSN_VEC_TIMEOUT;
		return NULL;
	}
	run_job->ticks++;
	start = clock_ns(CLOCK_MONOTONIC);
	if (c->expect_ud) {
		nat->regs = c->in.regs;
		nat->regs.rip = c->ip;
		nat->regs.rflags |= 0x10000;
		nat->vector = 6;
		nat->error = 0;
		nat->cr2 = 0;
		memcpy(nat->xsave, c->in.xsave, insn_xsave_size);
	} else if (kept && kept->is_kept) {
		result_get(kept, nat);
	} else {
		run_job->on_host = true;
		native_run(c, nat);
		run_job->on_host = false;
		run_job->ticks++;
	}
	/* Bytes that the decoder does not know, but the host does. */
	if (c->number >> 40 == GEN_UD &&
	    ((nat->vector != 6 && !(nat->vector == 13 && c->overlong) &&
	      !((nat->vector == 13 || nat->vector == 14) && c->edge)) ||
	     nat->regs.rip != c->ip)) {
		*skipped = true;
		compare_restore();
		return NULL;
	}
	if (nat->vector == INSN_VEC_TIMEOUT || nat->vector == INSN_VEC_SYSCALL ||
	    clock_ns(CLOCK_MONOTONIC) - start > LONG_CASE_NS) {
		*skipped = true;
		if (kept)
			kept->is_skipped = true;
		compare_restore();
		return NULL;
	}
	/* code that jumps about, or changes itself, may depend on what ran before */
	if (kept && !kept->is_kept && !c->expect_ud && !c->wild && !c->smc && !c->edge)
		result_keep(kept, nat);
	eng->why[0] = 0;
	if (c->smc)
		gen_layout(c, c->code_va);
	engine->run(c, eng);
	if (c->smc)
		gen_layout(c, c->code_va);
	what = compare(c, nat, eng, text, sizeof(text));
	compare_restore();
	if (what && ((eng->vector == 14 && memory_met_process(eng->cr2)) || met_int1(nat, eng) ||
		     met_stub(nat))) {
		*skipped = true;
		return NULL;
	}
	/* A wild jump may have met slots that get other code later. */
	if (nat->vector < 32 &&
	    (nat->regs.rip - c->ip > c->code_len || nat->regs.sel[1] != c->in.regs.sel[1]))
		engine->flush();
	return what;
}

void run_chunk_begin(const struct engine_ops *engine)
{
	memset(insn_memory.code + 8, 0xcc, INSN_CODE_SIZE - 8);
	engine->flush();
}

/*
 * Makes a case, or takes it as it was made for the variant before, which spares a tenth of the time. Where the
 * host's result is, or is to be kept.
 */
static struct kept_result *case_get(struct insn_case *c, u64 seed, u64 number)
{
	static struct insn_case kept[RUN_CHUNK];
	static struct kept_result result[RUN_CHUNK];
	struct insn_case *k = &kept[number % RUN_CHUNK];
	struct kept_result *host = &result[number % RUN_CHUNK];

	if (k->count && k->number == number && k->seed == seed) {
		*c = *k;
		return host;
	}
	gen_case(c, number >> 40, seed, number);
	*k = *c;
	host->is_kept = host->is_skipped = false;
	return host;
}

const char *run_one(const struct engine_ops *engine, u64 seed, u64 number, struct insn_case *c,
		    struct insn_result *nat, struct insn_result *eng, bool *skipped)
{
	static u64 epoch = ~0ull;
	struct kept_result *host;
	u64 index = number & ((1ull << 40) - 1);
	u64 now = (number >> 40) << 40 | index >> 12;

	if (epoch != now) {
		struct rng r = rng_derive(seed, ~now);

		state_memory(&r);
		memory_rebase();
		epoch = now;
	}
	host = case_get(c, seed, number);
	c->variant = run_variant < INSN_VARIANTS ? run_variant : number / RUN_CHUNK % INSN_VARIANTS;
	if (c->wild || c->edge)
		run_chunk_begin(engine);
	gen_layout(c, c->edge ? c->code_va
			      : INSN_CODE_VA + INSN_SLOT_FIRST + index % SLOTS * INSN_SLOT_SIZE +
					c->code_va);
	/* 16-bit code ends with its 64K. */
	if (c->mode == INSN_SEG16 && c->ip + c->code_len > 0xfff0 && !c->edge) {
		*skipped = true;
		return NULL;
	}
	return execute(engine, c, nat, eng, skipped, run_variant < INSN_VARIANTS ? host : NULL);
}

/* Takes out item n; links across it stay with their targets. */
static void item_remove(struct insn_case *c, unsigned n)
{
	memmove(&c->item[n], &c->item[n + 1], (c->count - n - 1) * sizeof(c->item[0]));
	c->count--;
	for (unsigned i = 0; i < c->count; i++)
		if (c->item[i].link > n)
			c->item[i].link--;
}

static bool loops(const struct insn_case *c)
{
	for (unsigned i = 0; i < c->count; i++)
		if (c->item[i].link_size && c->item[i].link <= i)
			return true;
	return false;
}

/* Counts a difference; true for the first of its class. */
static bool class_count(struct run_shared *sh, const struct insn_case *c, const char *what)
{
	char key[96];
	unsigned i, n = 0;

	for (unsigned k = 0; k < c->count && k < 3; k++)
		n += snprintf(key + n, sizeof(key) - n, "%s ",
			      c->item[k].tmpl == ~0u ? "branch"
						     : ZydisMnemonicGetString(c->item[k].mnemonic));
	snprintf(key + n, sizeof(key) - n, "| %.*s",
		 (int)strcspn(what, strstr(what, "outcome") ? ":" : "0123456789:"), what);
	while (__atomic_exchange_n(&sh->lock, 1, __ATOMIC_ACQUIRE))
		;
	for (i = 0; i < RUN_CLASSES - 1; i++)
		if (!sh->cls[i].count || !strcmp(sh->cls[i].key, key))
			break;
	if (!sh->cls[i].count) {
		strcpy(sh->cls[i].key, key);
		sh->cls[i].example = c->number;
	}
	n = ++sh->cls[i].count;
	__atomic_store_n(&sh->lock, 0, __ATOMIC_RELEASE);
	return n == 1;
}

void run_report(const struct engine_ops *engine, struct insn_case *c, const char *what,
		struct run_shared *sh)
{
	static struct insn_case small;
	static struct insn_result nat, eng;
	u64 va = c->code_va;
	char first[512], kept[512];
	const char *again;
	bool skipped;

	snprintf(first, sizeof(first), "%s", what);
	engine->flush();
	again = execute(engine, c, &nat, &eng, &skipped, NULL);
	if (!again) {
		char text[600];

		snprintf(text, sizeof(text), "(not repeatable alone) %s", first);
		if (class_count(sh, c, text))
			report_case(c, &nat, &eng, text);
		return;
	}
	small = *c;
	snprintf(kept, sizeof(kept), "%s", again);
	/* A loop keeps the instruction that bounds it. */
	for (unsigned i = loops(&small); i < small.count && small.count > 1;) {
		struct insn_case try = small;

		item_remove(&try, i);
		gen_layout(&try, va);
		engine->flush();
		again = execute(engine, &try, &nat, &eng, &skipped, NULL);
		if (again) {
			small = try;
			snprintf(kept, sizeof(kept), "%s", again);
			i = loops(&small);
		} else {
			i++;
		}
	}
	gen_layout(&small, va);
	engine->flush();
	again = execute(engine, &small, &nat, &eng, &skipped, NULL);
	if (class_count(sh, &small, kept))
		report_case(&small, &nat, &eng, again ? again : kept);
	engine->flush();
}

/*
 * The host itself does another thing the second time. An interrupt that comes when RIP is beyond
 * CS's limit makes the kernel's IRET fault instead of the fetch, so that RF is clear: once in some
 * ten million cases.
 */
static bool host_differs(const struct engine_ops *engine, struct insn_case *c,
			 const struct insn_result *first)
{
	static struct insn_result nat, eng;
	bool skipped;

	engine->flush();
	execute(engine, c, &nat, &eng, &skipped, NULL);
	return nat.vector != first->vector || nat.error != first->error ||
	       nat.regs.rip != first->regs.rip || nat.regs.rflags != first->regs.rflags;
}

static u64 now_ms(void)
{
	return clock_ns(CLOCK_MONOTONIC) / 1000000;
}

/* Chunk k of the run: which mode, and the first index. The modes take turns within each job, too. */
static enum gen_mode chunk_mode(unsigned modes, u64 k, u64 *index)
{
	unsigned list[GEN_COUNT], n = 0;

	for (unsigned m = 0; m < GEN_COUNT; m++)
		if (modes >> m & 1)
			list[n++] = m;
	*index = k / n * RUN_CHUNK;
	return list[(k + k / n) % n];
}

/* Counts the instructions that a case reached. */
static void reached(const struct run_options *o, struct run_shared *sh, const struct insn_case *c,
		    const struct insn_result *nat)
{
	u64 at = 0, end = nat->regs.rip - c->ip;
	bool all = nat->vector == INSN_VEC_DONE || end > c->code_len;

	sh->vectors[nat->vector < 32 ? nat->vector : 32]++;
	for (unsigned k = 0; k < c->count; at += c->item[k++].len) {
		const struct insn_item *it = &c->item[k];
		unsigned mnemonic = it->mnemonic;
		ZydisDecodedInstruction in;

		if (!all && (at > end || (at == end && nat->vector == 6)))
			break;
		if (it->tmpl != ~0u)
			sh->hits[it->tmpl]++;
		sh->groups[c->mode][it->tmpl == ~0u ? CLASS_COUNT : catalog.tmpl[it->tmpl].cls]++;
		if (!o->coverage)
			continue;
		if (it->tmpl == ~0u &&
		    ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&insn_decoder[c->mode], NULL,
							       it->bytes, it->len, &in)))
			mnemonic = in.mnemonic;
		sh->mnemonic[mnemonic]++;
	}
}

/* One chunk of cases, from an index on. False: stop. */
static bool chunk_run(const struct run_options *o, struct run_shared *sh, struct run_job *job,
		      enum gen_mode mode, u64 from, u64 end)
{
	static struct insn_case c;
	static struct insn_result nat, eng;
	static unsigned reports;
	bool skipped;

	run_chunk_begin(o->engine);
	for (u64 i = from; i < end; i++) {
		u64 number = (u64)mode << 40 | i;
		const char *what;

		job->progress = number + 1;
		what = run_one(o->engine, o->seed, number, &c, &nat, &eng, &skipped);
		job->cases[mode]++;
		job->skipped += skipped;
		job->faults += nat.vector < 32;
		if (!skipped)
			reached(o, sh, &c, &nat);
		if (!what)
			continue;
		if (host_differs(o->engine, &c, &nat)) {
			job->skipped++;
			continue;
		}
		job->differences[mode]++;
		if (reports++ < o->reports)
			run_report(o->engine, &c, what, sh);
		else
			class_count(sh, &c, what);
		if (o->stop)
			return false;
	}
	return true;
}

static void job_run(const struct run_options *o, struct run_shared *sh, unsigned n, u64 deadline)
{
	struct run_job *job = &sh->job[n];
	u64 chunks = (o->count + RUN_CHUNK - 1) / RUN_CHUNK;
	bool all = run_variant == RUN_VARIANT_ALL;

	run_job = job;
	for (; !o->count || job->chunk < chunks; job->chunk += o->jobs) {
		u64 index;
		enum gen_mode mode = chunk_mode(o->modes, job->chunk, &index);
		u64 from = job->progress > ((u64)mode << 40 | index) &&
					   job->progress < ((u64)mode << 40 | (index + RUN_CHUNK))
				   ? job->progress & ((1ull << 40) - 1)
				   : index;

		for (unsigned v = 0; v < (all ? INSN_VARIANTS : 1); v++) {
			if (all)
				run_variant = v;
			if (!chunk_run(o, sh, job, mode, v ? index : from, index + RUN_CHUNK))
				return;
		}
		if (deadline && now_ms() >= deadline)
			break;
	}
	job->done = true;
}

int run_init(const struct engine_ops *engine)
{
	if (memory_process_init() < 0 || native_signals(false) < 0 || engine->init() < 0)
		return -1;
	native_set_kick(engine->kick);
	return native_signals(true);
}

static pid_t job_start(const struct run_options *o, struct run_shared *sh, unsigned n, u64 deadline)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (run_init(o->engine) < 0) {
			printf("Bail out! engine %s does not start\n", o->engine->name);
			fflush(stdout);
			_exit(0);
		}
		job_run(o, sh, n, deadline);
		fflush(stdout);
		_exit(0);
	}
	return pid;
}

/* When a job's last case began. */
struct sign_of_life {
	clockid_t clock; /* processor time of the job */
	u64 ticks, ms, used;
	unsigned kicks;
};

static void life_begin(struct sign_of_life *l, pid_t pid)
{
	*l = (struct sign_of_life){.clock = CLOCK_MONOTONIC, .ms = now_ms()};
	clock_getcpuclockid(pid, &l->clock);
	l->used = clock_ns(l->clock);
}

static void life_watch(struct sign_of_life *l, pid_t pid, const struct run_job *job)
{
	bool on_host = job->on_host;
	u64 hang = on_host ? HANG_HOST_NS : HANG_NS, ticks = job->ticks;
	u64 used = clock_ns(l->clock);

	if (ticks != l->ticks) {
		l->ticks = ticks;
		l->ms = now_ms();
		l->used = used;
		l->kicks = 0;
	} else if (l->kicks > 3 || now_ms() - l->ms > DEAD_MS) {
		kill(pid, SIGKILL);
	} else if (used > l->used + hang * (l->kicks + 1)) {
		l->kicks++;
		kill(pid, on_host ? SIGUSR2 : SIGUSR1);
	}
}

static void watch(const struct run_options *o, struct run_shared *sh, u64 deadline)
{
	pid_t pid[RUN_JOBS_MAX];
	struct sign_of_life life[RUN_JOBS_MAX];
	unsigned alive = o->jobs;

	for (unsigned n = 0; n < o->jobs; n++) {
		pid[n] = job_start(o, sh, n, deadline);
		life_begin(&life[n], pid[n]);
	}
	while (alive) {
		usleep(50000);
		for (unsigned n = 0; n < o->jobs; n++) {
			struct run_job *job = &sh->job[n];
			int status;

			if (!pid[n])
				continue;
			if (waitpid(pid[n], &status, WNOHANG) == pid[n]) {
				pid[n] = 0;
				if (WIFEXITED(status) && !WEXITSTATUS(status)) {
					alive--;
					continue;
				}
				printf("# CRASH: job %u died (status %x) at --seed %#llx --case %#llx\n",
				       n, status, (unsigned long long)o->seed,
				       (unsigned long long)job->progress - 1);
				sh->crashes++;
				if (o->stop || sh->crashes > 50) {
					alive--;
					continue;
				}
				job->on_host = false;
				pid[n] = job_start(o, sh, n, deadline);
				life_begin(&life[n], pid[n]);
				continue;
			}
			life_watch(&life[n], pid[n], job);
		}
	}
}

struct run_shared *run_cases(const struct run_options *o)
{
	size_t size = sizeof(struct run_shared) + catalog.count * sizeof(u32);
	struct run_shared *sh =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	u64 deadline = o->seconds ? now_ms() + o->seconds * 1000 : 0;

	if (sh == MAP_FAILED)
		return NULL;
	for (unsigned n = 0; n < o->jobs; n++)
		sh->job[n].chunk = n;
	watch(o, sh, deadline);
	return sh;
}
