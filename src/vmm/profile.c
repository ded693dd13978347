/* Samples of the vCPU threads and the report; see profile.h. */
#include "vmm/profile.h"

#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "vmm/error.h"
#include "vmm/profile_symbols.h"

#define PERIOD_NSEC 1003009 /* no multiple of anything that guests do */
#define PLACES	    (1u << 15)
#define GRANULE	    32 /* bytes of guest code that count as one place */
#define STACK_WORDS 512
#define SHOWN	    24

enum { TIME_USER = PHASE_COUNT, TIME_KERNEL, TIME_GLUE, TIME_HOST, TIME_COUNT };

static const char *const time_names[TIME_COUNT] = {
	[PHASE_NONE] = "elsewhere in this program",
	[PHASE_TRANSLATE] = "translation",
	[PHASE_INVALIDATE] = "flushes and invalidation",
	[PHASE_MISS] = "TLB misses and slow accesses",
	[PHASE_INSN] = "instructions executed in C",
	[PHASE_EVENT] = "exceptions and interrupts",
	[PHASE_DEVICE] = "devices",
	[PHASE_LOOP] = "dispatcher and run loop",
	[TIME_USER] = "translated code, user",
	[TIME_KERNEL] = "translated code, kernel",
	[TIME_GLUE] = "entry to and exit from translated code",
	[TIME_HOST] = "libraries and system calls",
};

/* One piece of guest code. */
struct place {
	u64 at; /* address / GRANULE * 2 + user; 0: free */
	u64 count;
};

struct profile {
	const struct accel *accel;
	struct symbols symbols;
	u64 total, lost;
	u64 time[TIME_COUNT];
	u64 *leaf; /* by symbol; the last one: unknown */
	u64 *insn; /* by symbol: the instruction in C that was being executed */
	struct place *places;
};

/* The profile that this thread adds to. */
static _Thread_local struct profile *current __attribute__((tls_model("initial-exec")));
static _Thread_local timer_t timer;
static _Thread_local u64 stack_end;

static void count(u64 *counter, u64 periods)
{
	__atomic_fetch_add(counter, periods, __ATOMIC_RELAXED);
}

static void count_place(struct profile *p, u64 rip, bool user, u64 periods)
{
	u64 at = rip / GRANULE * 2 + user, h = at * 0x9e3779b97f4a7c15ull >> 49;

	for (unsigned i = 0; i < 64; i++) {
		struct place *place = &p->places[(h + i) % PLACES];
		u64 free_slot = 0;

		if (__atomic_load_n(&place->at, __ATOMIC_RELAXED) == at ||
		    __atomic_compare_exchange_n(&place->at, &free_slot, at, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED) ||
		    free_slot == at) {
			count(&place->count, periods);
			return;
		}
	}
	count(&p->lost, periods);
}

/* What the engine was doing: the innermost function on the stack whose name tells. */
static unsigned phase_find(struct profile *p, unsigned leaf, const u64 *stack, u64 periods)
{
	const struct symbols *s = &p->symbols;

	for (unsigned i = 0, at = leaf; i <= STACK_WORDS; i++) {
		if (at < s->count && s->all[at].phase) {
			if (s->all[at].phase == PHASE_INSN)
				count(&p->insn[at], periods);
			return s->all[at].phase;
		}
		if (i == STACK_WORDS || (u64)(stack + i + 1) > stack_end)
			break;
		at = stack[i] > s->text_from && stack[i] < s->text_to
			     ? symbols_find(s, stack[i] - 1)
			     : s->count;
	}
	return leaf < s->count && !s->all[leaf].module ? PHASE_NONE : TIME_HOST;
}

static void on_sample(int sig, siginfo_t *info, void *context)
{
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct profile *p = current;
	unsigned long rip;
	unsigned cpl, leaf;
	u64 pc, periods;

	(void)sig;
	if (!p)
		return;
	/* Kernels look at such timers once a tick, which may be several periods. */
	periods = info->si_code == SI_TIMER ? (u64)info->si_overrun + 1 : 1;
	pc = (u64)regs[REG_RIP];
	count(&p->total, periods);
	switch (p->accel->ops->place(pc, &rip, &cpl)) {
	case ANYKVM_PLACE_GUEST:
		count(&p->time[cpl == 3 ? TIME_USER : TIME_KERNEL], periods);
		count_place(p, rip, cpl == 3, periods);
		break;
	case ANYKVM_PLACE_GLUE:
		count(&p->time[TIME_GLUE], periods);
		break;
	default:
		leaf = symbols_find(&p->symbols, pc);
		count(&p->leaf[leaf], periods);
		count(&p->time[phase_find(p, leaf, (const u64 *)regs[REG_RSP], periods)], periods);
		break;
	}
}

struct profile *profile_new(const struct accel *accel, GError **error)
{
	struct sigaction sa = {.sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct profile *p;

	if (!accel->ops->place) {
		vmm_error_usage(error, "--profile looks into anykvm's processor; use perf(1) with "
				       "a real KVM");
		return NULL;
	}
	p = g_new0(struct profile, 1);
	p->accel = accel;
	symbols_load(&p->symbols);
	p->leaf = g_new0(u64, p->symbols.count + 1);
	p->insn = g_new0(u64, p->symbols.count + 1);
	p->places = g_new0(struct place, PLACES);
	sigemptyset(&sa.sa_mask);
	sigaction(SIGPROF, &sa, NULL);
	return p;
}

void profile_thread_begin(struct profile *p)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
	struct itimerspec period = {.it_interval.tv_nsec = PERIOD_NSEC,
				    .it_value.tv_nsec = PERIOD_NSEC};

	pthread_attr_t attr;
	size_t size;
	void *stack;

	if (!p || pthread_getattr_np(pthread_self(), &attr))
		return;
	pthread_attr_getstack(&attr, &stack, &size);
	pthread_attr_destroy(&attr);
	stack_end = (u64)stack + size;
	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer))
		return;
	current = p;
	timer_settime(timer, 0, &period, NULL);
}

void profile_thread_end(struct profile *p)
{
	if (!p || !current)
		return;
	timer_delete(timer);
	current = NULL;
}

/* ---- the report ---- */

struct line {
	u64 count;
	char *text;
};

static void line_free(void *opaque)
{
	struct line *l = opaque;

	g_free(l->text);
	g_free(l);
}

static gint more_first(gconstpointer a, gconstpointer b)
{
	const struct line *x = *(struct line *const *)a, *y = *(struct line *const *)b;

	return x->count < y->count ? 1 : x->count > y->count ? -1 : strcmp(x->text, y->text);
}

static void line_add(GPtrArray *lines, u64 n, char *text)
{
	struct line *l;

	if (!n) {
		g_free(text);
		return;
	}
	l = g_new0(struct line, 1);
	l->count = n;
	l->text = text;
	g_ptr_array_add(lines, l);
}

static void print(GString *s, const char *title, GPtrArray *lines, u64 total)
{
	if (lines->len)
		g_string_append_printf(s, "%s:\n", title);
	g_ptr_array_sort(lines, more_first);
	for (unsigned i = 0; i < MIN(lines->len, SHOWN); i++) {
		const struct line *l = g_ptr_array_index(lines, i);

		g_string_append_printf(s, "%7.2f %%  %s\n",
				       100.0 * (double)l->count / (double)total, l->text);
	}
	g_ptr_array_free(lines, TRUE);
}

static GPtrArray *lines_new(void)
{
	return g_ptr_array_new_with_free_func(line_free);
}

static GPtrArray *by_symbol(const struct profile *p, const u64 *counts)
{
	GPtrArray *lines = lines_new();

	for (unsigned i = 0; i < p->symbols.count; i++)
		line_add(lines, counts[i], g_strdup(p->symbols.all[i].name));
	line_add(lines, counts[p->symbols.count], g_strdup("(unknown)"));
	return lines;
}

char *profile_text(struct profile *p)
{
	GString *s = g_string_new(NULL);
	GPtrArray *times = lines_new(), *places = lines_new();

	if (!p->total) {
		g_ptr_array_free(times, TRUE);
		g_ptr_array_free(places, TRUE);
		g_string_append(s, "profile: no samples, the vCPUs used next to no time\n");
		return g_string_free(s, FALSE);
	}
	for (unsigned i = 0; i < TIME_COUNT; i++)
		line_add(times, p->time[i], g_strdup(time_names[i]));
	for (unsigned i = 0; i < PLACES; i++)
		line_add(places, p->places[i].count,
			 g_strdup_printf("0x%" G_GINT64_MODIFIER "x %s",
					 p->places[i].at / 2 * GRANULE,
					 p->places[i].at & 1 ? "user" : "kernel"));
	line_add(places, p->lost, g_strdup("(more places than fit)"));
	g_string_append_printf(
		s, "profile of the vCPU threads, %" G_GUINT64_FORMAT " ms of processor time:\n",
		p->total);
	print(s, "where the time goes", times, p->total);
	print(s, "instructions in C", by_symbol(p, p->insn), p->total);
	print(s, "functions", by_symbol(p, p->leaf), p->total);
	print(s, "guest code, 32 bytes from", places, p->total);
	return g_string_free(s, FALSE);
}

void profile_free(struct profile *p)
{
	if (!p)
		return;
	symbols_free(&p->symbols);
	g_free(p->leaf);
	g_free(p->insn);
	g_free(p->places);
	g_free(p);
}
