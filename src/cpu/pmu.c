/*
 * pmu.c - performance counters
 *
 * Three kinds of events are counted. Cycles (and reference cycles) are time: the host's TSC while
 * the guest runs at a privilege level that the counter wants; they are added up whenever somebody
 * looks, and a timer of the layer above looks when one overflows. Instructions, branches and what
 * instructions do with memory are counted exactly: while such a counter is on, the guest runs in
 * blocks of one instruction (MODE_STEP) and the dispatcher reports each that completed. Everything
 * else stands still; CPUID says so.
 *
 * References to a cache and misses of it, which CPUID does not offer, count flushes of lines only.
 *
 * Sources: SDM, "Performance Monitoring"; APM, "Performance Monitoring Counters".
 */
#include "cpu/pmu.h"

#include "cpu/cpuid.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "cpu/msr_internal.h"
#include "cpu/tsc.h"

_Static_assert(4 * PMU_COUNTERS <= 64, "cpu_pmu.by_insn is too small");

#define VALUE_MASK (BIT64(PMU_WIDTH) - 1)

#define SEL_EVENT	   0xffull
#define SEL_UMASK	   0xff00ull
#define SEL_USR		   BIT64(16)
#define SEL_OS		   BIT64(17)
#define SEL_INT		   BIT64(20)
#define SEL_ENABLE	   BIT64(22)
#define SEL_RESERVED_INTEL 0xffffffff00200000ull
#define SEL_RESERVED_AMD   0xfffffff000280000ull

#define FIXED_OS      1u
#define FIXED_USR     2u
#define FIXED_PMI     8u
#define FIXED_ALLOWED 0xbull /* of each counter's four bits: not "any thread" */
#define GLOBAL_FIXED  32     /* first fixed counter's bit in the global registers */

enum event {
	EVENT_NONE,
	EVENT_CYCLES,
	EVENT_INSN,
	EVENT_BRANCH,
	EVENT_LOAD,
	EVENT_STORE,
	EVENT_LOAD_STORE,
	EVENT_FLUSH,
	EVENT_SLOTS,
};

static bool is_amd(const struct cpu *cpu)
{
	return cpu->vendor == CPU_VENDOR_AMD;
}

static enum event event_intel(u64 sel)
{
	switch (sel & (SEL_EVENT | SEL_UMASK)) {
	case 0x003c: /* core cycles */
	case 0x013c: /* reference cycles */
		return EVENT_CYCLES;
	case 0x00c0:
		return EVENT_INSN;
	case 0x00c4:
		return EVENT_BRANCH;
	case 0x4f2e:
	case 0x412e:
		return EVENT_FLUSH;
	case 0x01a4:
		return EVENT_SLOTS;
	case 0x81d0:
		return EVENT_LOAD;
	case 0x82d0:
		return EVENT_STORE;
	case 0x83d0:
		return EVENT_LOAD_STORE;
	default:
		return EVENT_NONE;
	}
}

static enum event event_amd(u64 sel)
{
	u64 code = (sel & SEL_EVENT) | (sel >> 24 & 0xf00);

	switch (code) {
	case 0x76:
		return EVENT_CYCLES;
	case 0xc0:
		return EVENT_INSN;
	case 0xc2:
		return EVENT_BRANCH;
	case 0x29: /* load-store unit's dispatches: loads, stores, both */
		switch (sel >> 8 & 7) {
		case 1:
			return EVENT_LOAD;
		case 2:
			return EVENT_STORE;
		default:
			return EVENT_LOAD_STORE;
		}
	default:
		return EVENT_NONE;
	}
}

static enum event event_of(const struct cpu *cpu, unsigned i)
{
	if (i >= PMU_GP_MAX)
		return i == PMU_GP_MAX ? EVENT_INSN : EVENT_CYCLES;
	return is_amd(cpu) ? event_amd(cpu->pmu.sel[i]) : event_intel(cpu->pmu.sel[i]);
}

static bool by_time(enum event e)
{
	return e == EVENT_CYCLES || e == EVENT_SLOTS;
}

static bool exists(const struct cpu *cpu, unsigned i)
{
	return i < PMU_GP_MAX ? i < cpu->pmu.gp_count : i - PMU_GP_MAX < cpu->pmu.fixed_count;
}

static u64 global_bit(unsigned i)
{
	return BIT64(i < PMU_GP_MAX ? i : GLOBAL_FIXED + i - PMU_GP_MAX);
}

static u64 global_mask(const struct cpu *cpu)
{
	return (BIT64(cpu->pmu.gp_count) - 1) | (BIT64(cpu->pmu.fixed_count) - 1) << GLOBAL_FIXED;
}

static u32 fixed_ctrl(const struct cpu *cpu, unsigned i)
{
	return (u32)(cpu->pmu.fixed_ctrl >> (4 * (i - PMU_GP_MAX))) & 0xf;
}

/* The privilege levels at which a counter is on: bit 0 the kernel's, bit 1 the user's. */
static unsigned levels(const struct cpu *cpu, unsigned i)
{
	const struct cpu_pmu *p = &cpu->pmu;

	if (!exists(cpu, i) || (p->version > 1 && !(p->global_ctrl & global_bit(i))))
		return 0;
	if (i >= PMU_GP_MAX)
		return fixed_ctrl(cpu, i) & (FIXED_OS | FIXED_USR);
	if (!(p->sel[i] & SEL_ENABLE))
		return 0;
	return (p->sel[i] & SEL_OS ? 1u : 0) | (p->sel[i] & SEL_USR ? 2u : 0);
}

static bool interrupts(const struct cpu *cpu, unsigned i)
{
	return i >= PMU_GP_MAX ? fixed_ctrl(cpu, i) & FIXED_PMI : (cpu->pmu.sel[i] & SEL_INT) != 0;
}

static bool filtered(struct cpu *cpu, unsigned i)
{
	if (!cpu->ops || !cpu->ops->pmu_allowed)
		return false;
	return !cpu->ops->pmu_allowed(cpu, i >= PMU_GP_MAX ? (int)(i - PMU_GP_MAX) : -1,
				      i < PMU_GP_MAX ? cpu->pmu.sel[i] : 0);
}

static void add(struct cpu *cpu, unsigned i, u64 n)
{
	struct cpu_pmu *p = &cpu->pmu;
	u64 old = p->counter[i];

	p->counter[i] = (old + n) & VALUE_MASK;
	if (LIKELY(old + n <= VALUE_MASK))
		return;
	if (p->version > 1)
		p->global_status |= global_bit(i);
	if (interrupts(cpu, i) && cpu->ops && cpu->ops->pmu_interrupt)
		cpu->ops->pmu_interrupt(cpu);
}

void cpu_pmu_settle(struct cpu *cpu)
{
	struct cpu_pmu *p = &cpu->pmu;
	u64 now = tsc_host(), ticks = now - p->since;

	p->since = now;
	for (u32 left = p->running ? p->by_time : 0; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);

		add(cpu, i, event_of(cpu, i) == EVENT_SLOTS ? 4 * ticks : ticks);
	}
}

/* Who counts at this privilege level. */
static void select_level(struct cpu *cpu)
{
	struct cpu_pmu *p = &cpu->pmu;
	unsigned level = cpu->cpl ? 2 : 1;

	p->by_time = p->by_insn = 0;
	for (u32 left = p->on; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);

		if (!(levels(cpu, i) & level))
			continue;
		if (by_time(event_of(cpu, i)))
			p->by_time |= BIT(i);
		else
			p->by_insn |= (u64)event_of(cpu, i) << (4 * i);
	}
}

u32 cpu_pmu_mode(struct cpu *cpu)
{
	cpu_pmu_settle(cpu);
	select_level(cpu);
	return cpu->pmu.by_insn ? MODE_STEP : 0;
}

/* A register that says what is counted has another value; what was counted is settled. */
static void changed(struct cpu *cpu)
{
	struct cpu_pmu *p = &cpu->pmu;

	p->on = p->by_time = p->by_insn = 0;
	p->since = tsc_host();
	for (unsigned i = 0; i < PMU_COUNTERS; i++)
		if (levels(cpu, i) && event_of(cpu, i) != EVENT_NONE && !filtered(cpu, i))
			p->on |= BIT(i);
	cpu_mode_update(cpu);
	if (cpu->ops && cpu->ops->pmu_changed)
		cpu->ops->pmu_changed(cpu);
}

void cpu_pmu_filter_changed(struct cpu *cpu)
{
	cpu_pmu_settle(cpu);
	changed(cpu);
}

void cpu_pmu_retired(struct cpu *cpu, u64 active, unsigned what)
{
	for (unsigned i = 0; active; i++, active >>= 4) {
		bool hit = false;

		switch ((enum event)(active & 15)) {
		case EVENT_INSN:
			hit = true;
			break;
		case EVENT_BRANCH:
			hit = what & PMU_INSN_BRANCH;
			break;
		case EVENT_LOAD:
			hit = what & PMU_INSN_LOAD;
			break;
		case EVENT_STORE:
			hit = what & PMU_INSN_STORE;
			break;
		case EVENT_LOAD_STORE:
			hit = what & (PMU_INSN_LOAD | PMU_INSN_STORE);
			break;
		case EVENT_FLUSH:
			hit = what & PMU_INSN_FLUSH;
			break;
		default:
			break;
		}
		if (hit)
			add(cpu, i, 1);
	}
}

u64 cpu_pmu_next(const struct cpu *cpu)
{
	const struct cpu_pmu *p = &cpu->pmu;
	u64 next = ~0ull;

	for (u32 left = p->on; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);
		enum event e = event_of(cpu, i);

		if (by_time(e) && interrupts(cpu, i)) {
			u64 rest = VALUE_MASK - p->counter[i] + 1;

			next = MIN(next, e == EVENT_SLOTS ? rest / 4 : rest);
		}
	}
	return next;
}

void cpu_pmu_reset(struct cpu *cpu)
{
	struct cpu_pmu *p = &cpu->pmu;

	for (unsigned i = 0; i < PMU_COUNTERS; i++)
		p->counter[i] = 0;
	for (unsigned i = 0; i < PMU_GP_MAX; i++)
		p->sel[i] = 0;
	p->fixed_ctrl = p->global_status = 0;
	p->global_ctrl = p->version > 1 ? BIT64(p->gp_count) - 1 : 0;
	p->on = p->by_time = p->by_insn = 0;
}

void cpu_pmu_refresh(struct cpu *cpu)
{
	struct cpu_pmu *p = &cpu->pmu;
	const struct cpu_cpuid *leaf = cpu_cpuid_find(cpu, 0xa, 0);

	p->version = p->gp_count = p->fixed_count = 0;
	p->extended = false;
	if (p->enabled && is_amd(cpu)) {
		p->extended = cpu_has(cpu, X86_FEATURE_PERFCTR_CORE);
		p->gp_count = p->extended ? PMU_GP_MAX_AMD : 4;
	} else if (p->enabled && leaf && (leaf->eax & 0xff)) {
		p->version = (u8)MIN(leaf->eax & 0xff, 2u);
		p->gp_count = (u8)MIN(leaf->eax >> 8 & 0xff, PMU_GP_MAX);
		if (p->version > 1)
			p->fixed_count = (u8)MIN(leaf->edx & 0x1f, PMU_FIXED_MAX);
	}
	cpu_pmu_reset(cpu);
	changed(cpu);
}

int cpu_pmu_rdpmc(struct cpu *cpu, u32 index, u64 *value)
{
	const struct cpu_pmu *p = &cpu->pmu;
	unsigned i = index;

	if (!is_amd(cpu) && (index & BIT(30))) {
		i = index & ~BIT(30);
		if (i >= p->fixed_count)
			return 1;
		i += PMU_GP_MAX;
	} else if (is_amd(cpu) && !p->enabled && index < 4) {
		*value = 0; /* the legacy counters exist on every AMD; these stand still */
		return 0;
	} else if (i >= p->gp_count) {
		return 1;
	}
	cpu_pmu_settle(cpu);
	*value = p->counter[i];
	return 0;
}

/* ---- registers ---- */

#define GET(name) int msr_get_##name(struct cpu *cpu, unsigned at, u32 index, u64 *value, bool host)
#define SET(name) int msr_set_##name(struct cpu *cpu, unsigned at, u32 index, u64 value, bool host)

static int counter_get(struct cpu *cpu, unsigned i, u64 *value)
{
	cpu_pmu_settle(cpu);
	*value = cpu->pmu.counter[i];
	return 0;
}

static int counter_set(struct cpu *cpu, unsigned i, u64 value)
{
	cpu_pmu_settle(cpu);
	cpu->pmu.counter[i] = value & VALUE_MASK;
	if (cpu->pmu.on && cpu->ops && cpu->ops->pmu_changed)
		cpu->ops->pmu_changed(cpu);
	return 0;
}

static int sel_set(struct cpu *cpu, unsigned i, u64 value)
{
	if (is_amd(cpu))
		value &= ~SEL_RESERVED_AMD;
	else if (value & SEL_RESERVED_INTEL)
		return 1;
	cpu_pmu_settle(cpu);
	cpu->pmu.sel[i] = value;
	changed(cpu);
	return 0;
}

/* What CPUID does not show reads as 0 for the client, who may restore that. */
static int missing_get(u64 *value, bool host)
{
	*value = 0;
	return !host;
}

static int missing_set(u64 value, bool host)
{
	return !host || value;
}

/* Counters and selectors 0 and 1 of the P6 may be touched even where there is no PMU. */
#define P6_COUNT 2u

GET(pmc)
{
	if (is_amd(cpu) || at >= cpu->pmu.gp_count)
		return missing_get(value, host || at < P6_COUNT);
	return counter_get(cpu, at, value);
}

/* 32 bits, sign-extended; the client restores all. */
SET(pmc)
{
	if (is_amd(cpu) || at >= cpu->pmu.gp_count)
		return at < P6_COUNT ? 0 : missing_set(value, host);
	return counter_set(cpu, at, host ? value : (u64)(s64)(s32)value);
}

static bool full_width(const struct cpu *cpu, unsigned at, bool host)
{
	return at < cpu->pmu.gp_count && (host || (cpu->pmu.caps & PMU_CAP_FULL_WIDTH));
}

GET(pmc_full)
{
	return full_width(cpu, at, host) ? counter_get(cpu, at, value) : 1;
}

SET(pmc_full)
{
	if (!full_width(cpu, at, host) || (value & ~VALUE_MASK))
		return 1;
	return counter_set(cpu, at, value);
}

GET(evntsel)
{
	if (is_amd(cpu) || at >= cpu->pmu.gp_count)
		return missing_get(value, host || at < P6_COUNT);
	*value = cpu->pmu.sel[at];
	return 0;
}

SET(evntsel)
{
	if (is_amd(cpu) || at >= cpu->pmu.gp_count)
		return at < P6_COUNT ? 0 : missing_set(value, host);
	return sel_set(cpu, at, value);
}

GET(fixed_ctr)
{
	return at < cpu->pmu.fixed_count ? counter_get(cpu, PMU_GP_MAX + at, value)
					 : missing_get(value, host);
}

SET(fixed_ctr)
{
	return at < cpu->pmu.fixed_count ? counter_set(cpu, PMU_GP_MAX + at, value)
					 : missing_set(value, host);
}

/* FIXED_CTR_CTRL, GLOBAL_STATUS, GLOBAL_CTRL, GLOBAL_OVF_CTRL */
GET(perf_global)
{
	const struct cpu_pmu *p = &cpu->pmu;
	const u64 values[] = {p->fixed_ctrl, p->global_status, p->global_ctrl, 0};

	if (p->version < 2)
		return missing_get(value, host);
	cpu_pmu_settle(cpu);
	*value = at == 1 ? p->global_status : values[at];
	return 0;
}

SET(perf_global)
{
	struct cpu_pmu *p = &cpu->pmu;
	u64 allowed = global_mask(cpu);

	if (p->version < 2)
		return missing_set(value, host);
	if (at == 0) {
		allowed = 0;
		for (unsigned i = 0; i < p->fixed_count; i++)
			allowed |= FIXED_ALLOWED << (4 * i);
	} else if (at == 3) {
		allowed |= 3ull << 62; /* buffer overflow and "changed": never set here */
	} else if (at == 1 && !host) {
		return 1;
	}
	if (value & ~allowed)
		return 1;
	cpu_pmu_settle(cpu);
	switch (at) {
	case 0:
		p->fixed_ctrl = value;
		break;
	case 1:
		p->global_status = value;
		return 0;
	case 2:
		p->global_ctrl = value;
		break;
	default:
		p->global_status &= ~value;
		return 0;
	}
	changed(cpu);
	return 0;
}

/* AMD: four selectors, four counters. */
GET(k7_pmc)
{
	*value = 0;
	if (!is_amd(cpu) || !cpu->pmu.enabled)
		return 0; /* for guests that look without asking CPUID */
	if (at >= 4)
		return counter_get(cpu, at - 4, value);
	*value = cpu->pmu.sel[at];
	return 0;
}

SET(k7_pmc)
{
	if (!is_amd(cpu) || !cpu->pmu.enabled)
		return 0;
	return at >= 4 ? counter_set(cpu, at - 4, value) : sel_set(cpu, at, value);
}

/* AMD's core extension: selector, counter, selector … */
GET(core_pmc)
{
	if (!cpu->pmu.extended)
		return missing_get(value, host);
	if (at & 1)
		return counter_get(cpu, at / 2, value);
	*value = cpu->pmu.sel[at / 2];
	return 0;
}

SET(core_pmc)
{
	if (!cpu->pmu.extended)
		return missing_set(value, host);
	return at & 1 ? counter_set(cpu, at / 2, value) : sel_set(cpu, at / 2, value);
}
