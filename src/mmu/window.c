/*
 * window.c - user memory translated by the host's own MMU
 *
 * The software TLB costs a check of seven instructions on the way of every access. Code of a program
 * that runs for long (MODE_WINDOW) does without: the pages of its address space are mapped a second
 * time, at distances from their linear addresses that depend on three bits of these (window.h). A page
 * that is not there faults in the host; the signal handler walks the guest's tables, maps the page and
 * lets the access go on, or, where that cannot be (a fault of the guest's, a device, a store to
 * translated code, a watchpoint, an address that the window does not serve), has the instruction
 * executed alone through the software TLB.
 *
 * The mappings are cached translations like those of the software TLB, and obey the same rules: one
 * is made only after a walk that has set A, is writable only when D is set, the page's dirty log has
 * it and no code was translated from it; it goes when the guest invalidates it. There is one
 * address space at a time (cpu->window_cr3). What invalidates much only marks the window stale;
 * before its code runs again each page is walked once more and stays where nothing changed: that is
 * a hundred times cheaper than to map it again, and a processor may fill its TLB at any time. A
 * page whose A bit the guest has taken away goes, so that the next access sets it again.
 *
 * There is one window in a process, because it takes half of what a process can address. One vCPU
 * uses it at a time. It is taken for an address space in which several interrupts in a row have met
 * user code, and given up when faults cost more than the checks would. While a program grows fast it
 * goes on without: each of its new pages would be a fault of the host's, too.
 *
 * Only memory that can be mapped twice serves: MAP_SHARED. And as the client cannot take back what
 * is mapped here, it has to ask for it (ANYKVM_CAP_WINDOW).
 */
#include "base/syscall.h"
#include "mmu/mmu_internal.h"
#include "mmu/translator.h"
#include "mmu/window.h"
#include "mmu/window_code.h"

#include <errno.h>
#include <sys/mman.h>

/* Each page is a mapping of the host's, which has some 65000 for a process. */
#define PAGES_MAX 16384u
#define HASH_SIZE 16384u
#define NO_PAGE 0xffffu
/* Pages within this many bytes are mapped with the one that faulted, when one mapping takes them. */
#define AROUND (64ull << 10)
/* What is kept free of anything else. */
#define ROOM_FIRST (WINDOW_HOST - WINDOW_GUARD)
#define ROOM_SIZE (WINDOW_SIZE + 2 * WINDOW_GUARD)
/* Bits of cpu->window_stale: all of it; the page of the last fault of the guest's waits. */
#define WINDOW_STALE 1u
#define WINDOW_NEXT 2u

/* Interrupts of one program in a row, until it has the window. */
#define HOT_TICKS 3
/*
 * What the window may cost, in ns: so much at once, and so much more with each interrupt that meets the
 * program. When that is used up the program goes on without it until half of it has come together again,
 * and after some times for long.
 */
#define CREDIT_MAX 12000000
#define CREDIT_TICK 1200000
#define COST_FAULT 9000
#define COST_MISS 70
/* Accesses elsewhere between two interrupts, in ns, that show a program which lies elsewhere. */
#define MISSED_MAX 700000
#define PAUSES_MAX 16
/* #PFs between two interrupts while a program grows too fast, and when it does no more. */
#define GROWS 160
#define GROWS_NOT 80
#define COLD_TICKS 1000

struct window_page {
	u64 lin, gfn;
	u8 *host;
	u16 next_lin, next_gfn;
	bool writable, global;
	bool large; /* part of a large page of the guest */
};

struct mmu_window {
	struct cpu *owner;      /* the vCPU that uses it; everything below is its own */
	bool wanted;            /* another one would */
	bool broken;            /* its addresses could not be kept */
	bool always;            /* every address space has it at once: for tests */
	bool readonly_wanted;   /* all write permissions are to go */
	unsigned count;
	u64 large;              /* bit n: 4 MiB regions n modulo 64 may have parts of large pages */
	s64 credit;
	s64 missed;             /* what of it went into accesses outside, since the last interrupt */
	unsigned pauses;        /* times that the credit was used up */
	bool lost;              /* it does not pay: the next interrupt takes it away */
	u16 by_lin[HASH_SIZE], by_gfn[HASH_SIZE];
	struct window_page page[PAGES_MAX];
	struct window_code code;
};

/* Makes a part of the window empty. */
static long clear(u64 host, u64 bytes)
{
	return sys_call(SYS_mmap, host, bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, ~0ull);
}

/* Where a page is that the window has. */
static u64 place_of(u64 lin)
{
	return lin + window_addend((unsigned)(lin / WINDOW_PART));
}

/* False: the host refuses (it allows so many mappings only). */
static bool protect(u64 lin, u64 bytes)
{
	return !sys_call(SYS_mprotect, place_of(lin), bytes, PROT_READ, 0, 0);
}

/* --- the list of pages ------------------------------------------------------------------------ */

#define LARGE_SHIFT 22 /* 2 MiB and 4 MiB pages are not told apart */

static u64 large_bit(u64 lin)
{
	return BIT64((lin >> LARGE_SHIFT) & 63);
}

static unsigned hash_of(u64 n)
{
	return (unsigned)((n * 0x9e3779b97f4a7c15ull) >> 50);
}
_Static_assert(HASH_SIZE == 1u << 14, "hash_of() yields 14 bits");

static void link_page(struct mmu_window *w, unsigned i)
{
	struct window_page *p = &w->page[i];
	u16 *lin = &w->by_lin[hash_of(p->lin >> PAGE_SHIFT)], *gfn = &w->by_gfn[hash_of(p->gfn)];

	p->next_lin = *lin;
	p->next_gfn = *gfn;
	*lin = *gfn = (u16)i;
}

static void unlink_page(struct mmu_window *w, unsigned i)
{
	struct window_page *p = &w->page[i];
	u16 *at = &w->by_lin[hash_of(p->lin >> PAGE_SHIFT)];

	while (*at != i)
		at = &w->page[*at].next_lin;
	*at = p->next_lin;
	at = &w->by_gfn[hash_of(p->gfn)];
	while (*at != i)
		at = &w->page[*at].next_gfn;
	*at = p->next_gfn;
}

static struct window_page *find(struct mmu_window *w, u64 lin)
{
	u16 i = w->by_lin[hash_of(lin >> PAGE_SHIFT)];

	while (i != NO_PAGE && w->page[i].lin != lin)
		i = w->page[i].next_lin;
	return i == NO_PAGE ? NULL : &w->page[i];
}

/* Takes a page off the list; the last one moves into its place. */
static void forget(struct mmu_window *w, struct window_page *p)
{
	unsigned i = (unsigned)(p - w->page), last = w->count - 1;

	unlink_page(w, i);
	if (i != last) {
		unlink_page(w, last);
		w->page[i] = w->page[last];
		link_page(w, i);
	}
	w->count = last;
}

/*
 * Keeps addresses for us. 0 or -errno. By the bare call: ThreadSanitizer would end the program for such
 * an address.
 */
static int reserve(u64 at, u64 size)
{
	long p = sys_call(SYS_mmap, at, size, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, ~0ull);

	if (p == (long)at)
		return 0;
	if (p < 0 && p > -4096)
		return p == -EEXIST ? -EBUSY : (int)p;
	/* a kernel that does not know the flag */
	sys_call(SYS_munmap, (u64)p, size, 0, 0, 0);
	return -EBUSY;
}

/* Takes the jumps of the window's code back. */
static void forget_code(struct cpu *cpu, struct mmu_window *w)
{
	jit_cross_links_drop(cpu);
	jit_jump_cache_flush_window(cpu);
	window_code_clear(&w->code);
}

static void drop_all(struct cpu *cpu, struct mmu_window *w)
{
	forget_code(cpu, w);
	if (w->broken)
		return;
	if (clear(WINDOW_HOST, WINDOW_SIZE) < 0) {
		/* there are too many mappings for another one; these go without one */
		sys_call(SYS_munmap, ROOM_FIRST, ROOM_SIZE, 0, 0, 0);
		w->broken = reserve(ROOM_FIRST, ROOM_SIZE) < 0;
	}
	w->count = 0;
	w->large = 0;
	mem_set(w->by_lin, 0xff, sizeof(w->by_lin));
	mem_set(w->by_gfn, 0xff, sizeof(w->by_gfn));
}

static void drop(struct cpu *cpu, struct mmu_window *w, struct window_page *p)
{
	if (clear(place_of(p->lin), PAGE_SIZE) < 0)
		drop_all(cpu, w);
	else
		forget(w, p);
}

/* --- whose it is ------------------------------------------------------------------------------ */

int mmu_window_enable(struct mmu_vm *vm, bool always)
{
	struct mmu_window *w;
	int err;

	if (vm->window) {
		vm->window->always = always;
		return 0;
	}
	w = pages_map(sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->always = always; /* the rest is zero, and stays untouched until it is used */
	mem_set(w->by_lin, 0xff, sizeof(w->by_lin));
	mem_set(w->by_gfn, 0xff, sizeof(w->by_gfn));
	window_code_clear(&w->code);
	err = reserve(ROOM_FIRST, ROOM_SIZE);
	if (err)
		pages_unmap(w, sizeof(*w));
	else
		vm->window = w;
	return err;
}

void window_vm_destroy(struct mmu_vm *vm)
{
	struct mmu_window *w = vm->window;

	if (!w)
		return;
	if (!w->broken)
		sys_call(SYS_munmap, ROOM_FIRST, ROOM_SIZE, 0, 0, 0);
	pages_unmap(w, sizeof(*w));
	vm->window = NULL;
}

bool mmu_window_has(const struct cpu *cpu, u64 host)
{
	return cpu->mem->window && (host - ROOM_FIRST < ROOM_SIZE || host >> 63);
}

/* The window of a vCPU's VM, when this vCPU uses it. */
static struct mmu_window *own(struct cpu *cpu)
{
	return cpu->window_cr3 == WINDOW_NONE ? NULL : cpu->mem->window;
}

/* Not while generated code runs. */
void window_release(struct cpu *cpu)
{
	struct mmu_window *w = own(cpu);

	if (!w)
		return;
	drop_all(cpu, w);
	cpu->window_cr3 = WINDOW_NONE;
	cpu->window_stale = 0;
	w->readonly_wanted = false;
	cpu->mode &= ~MODE_WINDOW; /* before somebody else has it */
	__atomic_store_n(&w->wanted, false, __ATOMIC_RELAXED);
	__atomic_store_n(&w->owner, NULL, __ATOMIC_RELEASE);
}

/* The window goes to the current address space, when this vCPU can have it. */
static void claim(struct cpu *cpu)
{
	struct mmu_window *w = cpu->mem->window;
	struct cpu *owner = NULL;

	if (own(cpu)) {
		drop_all(cpu, w);
	} else if (w->broken || !__atomic_compare_exchange_n(&w->owner, &owner, cpu, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED)) {
		__atomic_store_n(&w->wanted, true, __ATOMIC_RELAXED);
		return;
	}
	w->credit = CREDIT_MAX;
	w->missed = 0;
	w->pauses = 0;
	w->lost = false;
	w->readonly_wanted = false;
	cpu->window_cr3 = cpu->cr3;
	cpu->window_paused = false;
	cpu->window_stale = 0;
}

/*
 * Something was done that would be cheaper without a window. A program whose memory is mostly elsewhere
 * will not do better. The window's code may be running, so it is not given away here: another vCPU's
 * pages would be under it.
 */
static void pay(struct cpu *cpu, s64 ns)
{
	struct mmu_window *w = own(cpu);

	w->credit -= ns;
	if ((LIKELY(w->credit > 0) && w->missed < MISSED_MAX) || w->always || cpu->window_paused)
		return;
	cpu->window_paused = true;
	w->lost = w->broken || ++w->pauses >= PAUSES_MAX || w->missed >= MISSED_MAX;
}

static void give_up(struct cpu *cpu)
{
	cpu->mmu->window_cold_cr3 = cpu->window_cr3;
	cpu->mmu->window_cold_ticks = COLD_TICKS;
	cpu->mmu->stat[MMU_STAT_window_given_up]++;
	window_release(cpu);
}

void mmu_window_tick(struct cpu *cpu)
{
	struct mmu_window *w = cpu->mem->window;
	struct mmu_cpu *mc = cpu->mmu;
	u64 grown;

	if (LIKELY(!w) || w->always || cpu->guest_mode)
		return;
	code_settle(cpu);
	grown = mc->user_faults - mc->window_user_faults;
	mc->window_user_faults = mc->user_faults;
	if (mc->window_cold_ticks)
		mc->window_cold_ticks--;
	if (own(cpu) && w->lost)
		give_up(cpu);
	if (own(cpu)) {
		if (cpu->cr3 == cpu->window_cr3) {
			w->credit = MIN(w->credit + CREDIT_TICK, CREDIT_MAX);
			w->missed = 0;
			if (grown > GROWS)
				cpu->window_paused = true;
			else if (grown < GROWS_NOT && w->credit > CREDIT_MAX / 2)
				cpu->window_paused = false;
			mc->window_away = 0;
			if (cpu->cpl == 3)
				mc->stat[cpu->window_paused ? MMU_STAT_window_paused : MMU_STAT_window_ticks]++;
			return;
		}
		if (++mc->window_away >= HOT_TICKS && __atomic_load_n(&w->wanted, __ATOMIC_RELAXED)) {
			window_release(cpu);
			return;
		}
	}
	if (cpu->cpl != 3)
		return;
	mc->stat[MMU_STAT_window_without]++;
	if (mc->window_hot_cr3 != cpu->cr3 || grown > GROWS || !cpu_is_64bit(cpu)) {
		mc->window_hot_cr3 = cpu->cr3;
		mc->window_hot_ticks = 0;
	}
	mc->window_hot_ticks += cpu_is_64bit(cpu);
	if (mc->window_hot_ticks >= HOT_TICKS && !(cpu->cr3 == mc->window_cold_cr3 && mc->window_cold_ticks))
		claim(cpu);
}

/* --- pages come -------------------------------------------------------------------------------- */

/* May a page be written without another look, when an access of this kind found it as walked? */
static bool writable_now(struct cpu *cpu, const struct mmu_walk *walk, const struct mmu_slot *slot, bool write)
{
	return (write || (walk->writable && walk->dirty && !slot->dirty)) && !code_tracked(cpu->mem, walk->gpa) &&
	       !(slot->flags & MMU_SLOT_READONLY);
}

/* Pages next to each other in the guest's address space, its memory, and so the host's. */
struct run {
	u64 lin, gpa, bytes;
	const struct mmu_slot *slot;
	bool writable;
};

/* Is the page at lin one that was used, and goes on where the run ends (or begins)? */
static bool belongs(struct cpu *cpu, const struct run *run, u64 lin)
{
	u64 gpa = run->gpa + (lin - run->lin);
	struct mmu_fault fault;
	struct mmu_walk walk;

	if (gpa - run->slot->gpa >= run->slot->size || find(own(cpu), lin))
		return false;
	return !walk_view(cpu, lin, MMU_READ, MMU_TLB_USER, true, &walk, &fault) && walk.accessed && walk.gpa == gpa &&
	       writable_now(cpu, &walk, run->slot, false) == run->writable;
}

/* Pages around that would fault one by one. */
static void widen(struct cpu *cpu, struct run *run)
{
	u64 first = run->lin & ~(AROUND - 1), end = first + AROUND;

	while (run->lin + run->bytes < end && belongs(cpu, run, run->lin + run->bytes))
		run->bytes += PAGE_SIZE;
	while (run->lin > first && belongs(cpu, run, run->lin - PAGE_SIZE)) {
		run->lin -= PAGE_SIZE;
		run->gpa -= PAGE_SIZE;
		run->bytes += PAGE_SIZE;
	}
}

static void add_page(struct mmu_window *w, u64 lin, const struct mmu_walk *walk, const struct run *run)
{
	struct window_page *p = &w->page[w->count];
	u64 gpa = run->gpa + (lin - run->lin);

	*p = (struct window_page){
		.lin = lin,
		.gfn = gpa >> PAGE_SHIFT,
		.host = run->slot->hva + (gpa - run->slot->gpa),
		.writable = run->writable,
		.global = walk->global,
		.large = walk->page_size > PAGE_SIZE,
	};
	if (p->large)
		w->large |= walk->page_size > BIT64(LARGE_SHIFT) ? ~0ull : large_bit(lin);
	link_page(w, w->count++);
}

static bool map_run(struct cpu *cpu, const struct mmu_walk *walk, struct run *run)
{
	struct mmu_window *w = own(cpu);
	struct window_page *p = find(w, run->lin);
	u64 to;

	if (p && p->gfn == run->gpa >> PAGE_SHIFT && p->writable == run->writable)
		return true;
	if (p)
		forget(w, p); /* its mapping is replaced */
	else if (walk->page_size == PAGE_SIZE)
		widen(cpu, run);
	if (w->count + run->bytes / PAGE_SIZE > PAGES_MAX)
		drop_all(cpu, w);
	to = place_of(run->lin);
	/* of length 0: the mapping is not moved, but made a second time */
	if (sys_call(SYS_mremap, (u64)run->slot->hva + (run->gpa - run->slot->gpa), 0, run->bytes,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) < 0 ||
	    (!run->writable && !protect(run->lin, run->bytes))) {
		if (clear(to, run->bytes) < 0)
			drop_all(cpu, w);
		return false;
	}
	for (u64 at = 0; at < run->bytes; at += PAGE_SIZE) {
		pages_note(cpu, run->slot, run->gpa + at, run->writable ? MMU_WRITE : MMU_READ);
		add_page(w, run->lin + at, walk, run);
	}
	cpu->mmu->stat[MMU_STAT_window_maps]++;
	cpu->mmu->stat[MMU_STAT_window_pages] += run->bytes / PAGE_SIZE;
	return true;
}

/* Maps the page that a walk has found. */
static bool map_page(struct cpu *cpu, u64 lin, bool write, const struct mmu_walk *walk)
{
	struct mmu_slot *slot = slot_find(cpu, walk->gpa);
	struct run run;

	if (!slot || (write && ((slot->flags & MMU_SLOT_READONLY) || code_tracked(cpu->mem, walk->gpa))))
		return false;
	if (write)
		slot_dirty(cpu, slot, walk->gpa);
	run = (struct run){
		.lin = lin & PAGE_MASK,
		.gpa = walk->gpa & PAGE_MASK,
		.bytes = PAGE_SIZE,
		.slot = slot,
		.writable = writable_now(cpu, walk, slot, write),
	};
	return (run.writable || !write) && map_run(cpu, walk, &run);
}

/* The page of an access that faulted. */
static enum mmu_window_outcome enter(struct cpu *cpu, u64 lin, bool write)
{
	struct mmu_fault *fault = &cpu->mmu->window_fault;
	struct mmu_walk walk;

	if (walk_view(cpu, lin, write ? MMU_WRITE : MMU_READ, MMU_TLB_USER, false, &walk, fault)) {
		if (fault->kind != MMU_FAULT_PF)
			return MMU_WINDOW_ALONE;
		cpu->mmu->window_next = lin & PAGE_MASK;
		cpu->window_stale |= WINDOW_NEXT;
		return MMU_WINDOW_FAULT;
	}
	return map_page(cpu, lin, write, &walk) ? MMU_WINDOW_MAPPED : MMU_WINDOW_ALONE;
}

enum mmu_window_outcome mmu_window_fault(struct cpu *cpu, u64 host, bool write)
{
	struct mmu_window *w = own(cpu);
	u64 lin = window_lin(host), place;

	if (!w)
		return MMU_WINDOW_ALONE;
	if (!window_host(lin, &place)) {
		w->missed += COST_FAULT;
		pay(cpu, COST_FAULT);
		return MMU_WINDOW_ALONE;
	}
	cpu->mmu->stat[MMU_STAT_window_faults]++;
	pay(cpu, COST_FAULT);
	code_settle(cpu);
	if (UNLIKELY(cpu->mmu->late_len))
		code_late_check(cpu);
	return enter(cpu, lin, write);
}

int mmu_window_raise(struct cpu *cpu)
{
	struct mmu_cpu *mc = cpu->mmu;

	if (mc->user_faults - mc->window_user_faults > GROWS && !cpu->mem->window->always)
		cpu->window_paused = true;
	return mmu_raise(cpu, &cpu->mmu->window_fault);
}

void window_miss(struct cpu *cpu)
{
	struct mmu_window *w = own(cpu);

	if (!w)
		return;
	w->missed += COST_MISS;
	pay(cpu, COST_MISS);
}

/* --- pages go ---------------------------------------------------------------------------------- */

void window_stale(struct cpu *cpu)
{
	if (own(cpu))
		cpu->window_stale |= WINDOW_STALE;
}

void window_stale_pcid(struct cpu *cpu, unsigned pcid)
{
	if (own(cpu) && (!(cpu->cr4 & CR4_PCIDE) || (cpu->window_cr3 & 0xfff) == pcid))
		cpu->window_stale |= WINDOW_STALE;
}

void window_stale_writes(struct cpu *cpu)
{
	struct mmu_window *w = own(cpu);

	if (w) {
		w->readonly_wanted = true;
		cpu->window_stale |= WINDOW_STALE;
	}
}

void window_flush_page(struct cpu *cpu, u64 lin, unsigned pcid)
{
	struct mmu_window *w = own(cpu);
	struct window_page *p;

	if (!w || (cpu->window_stale & WINDOW_STALE))
		return;
	/* INVLPG drops every part of a large page */
	if ((w->large & large_bit(lin)) || w->code.large || w->code.unsure) {
		cpu->window_stale |= WINDOW_STALE;
		return;
	}
	if (window_code_drop(&w->code, lin)) {
		jit_cross_links_drop_page(cpu, lin);
		jit_jump_cache_flush_page(cpu, lin, PAGE_SHIFT);
	}
	p = find(w, lin);
	if (p && (p->global || !(cpu->cr4 & CR4_PCIDE) || (cpu->window_cr3 & 0xfff) == pcid))
		drop(cpu, w, p);
}

bool window_drop_write(struct cpu *cpu, u64 gfn)
{
	struct mmu_window *w = own(cpu);
	bool had = false;

	if (LIKELY(!w))
		return false;
	for (u16 i = w->by_gfn[hash_of(gfn)]; i != NO_PAGE; i = w->page[i].next_gfn) {
		struct window_page *p = &w->page[i];

		if (p->gfn != gfn || !p->writable)
			continue;
		had = true;
		if (!protect(p->lin, PAGE_SIZE)) {
			drop_all(cpu, w);
			break;
		}
		p->writable = false;
	}
	return had;
}

bool window_next_write(struct cpu *cpu, unsigned *at, u64 *gfn)
{
	struct mmu_window *w = own(cpu);

	while (w && *at < w->count) {
		const struct window_page *p = &w->page[(*at)++];

		if (p->writable) {
			*gfn = p->gfn;
			return true;
		}
	}
	return false;
}

/* Is a page still what the guest's tables say? Its write permission may go. */
static bool still(struct cpu *cpu, struct mmu_window *w, struct window_page *p)
{
	struct mmu_fault fault;
	struct mmu_slot *slot;
	struct mmu_walk walk;

	if (walk_view(cpu, p->lin, MMU_READ, MMU_TLB_USER, true, &walk, &fault) || !walk.accessed ||
	    walk.gpa >> PAGE_SHIFT != p->gfn || walk.global != p->global ||
	    (walk.page_size > PAGE_SIZE) != p->large)
		return false;
	slot = slot_find(cpu, walk.gpa);
	if (!slot || slot->hva + (walk.gpa - slot->gpa) != p->host)
		return false;
	pages_note(cpu, slot, walk.gpa, p->writable ? MMU_WRITE : MMU_READ);
	if (p->writable && (w->readonly_wanted || !walk.writable || !walk.dirty || (slot->flags & MMU_SLOT_READONLY))) {
		p->writable = false;
		return protect(p->lin, PAGE_SIZE);
	}
	return true;
}

/* Every page once more. */
static void walk_all(struct cpu *cpu, struct mmu_window *w)
{
	unsigned before = w->count;

	if (!window_code_still(cpu, &w->code))
		forget_code(cpu, w);
	cpu->mmu->stat[MMU_STAT_window_refreshes]++;
	/* a page that is dropped gives its place to one that was looked at; or all are */
	for (unsigned i = w->count; i-- > 0 && i < w->count;)
		if (!still(cpu, w, &w->page[i]))
			drop(cpu, w, &w->page[i]);
	w->readonly_wanted = false;
	/* another program has its page tables where those of the old one were */
	if (w->count < before / 2 && !w->always)
		window_release(cpu);
}

/*
 * The guest was told of a page that is not there, and is likely back with it: that saves a fault of the
 * host's. As nobody has asked for it yet, its A bit has to be set.
 */
static void map_next(struct cpu *cpu)
{
	u64 lin = cpu->mmu->window_next;
	struct mmu_fault fault;
	struct mmu_walk walk;

	if (!walk_view(cpu, lin, MMU_READ, MMU_TLB_USER, true, &walk, &fault) && walk.accessed)
		map_page(cpu, lin, false, &walk);
}

void mmu_window_code(struct cpu *cpu, u64 rip, u64 gpa, u64 gpa2)
{
	struct mmu_window *w = own(cpu);

	if (!w)
		return;
	window_code_note(cpu, &w->code, rip, gpa);
	if (UNLIKELY(gpa2 != ~0ull))
		window_code_note(cpu, &w->code, rip + PAGE_SIZE, gpa2);
}

void mmu_window_refresh(struct cpu *cpu)
{
	struct mmu_window *w = own(cpu);
	u8 what = cpu->window_stale;

	cpu->window_stale = 0;
	if (!w)
		return;
	code_settle(cpu);
	if (what & WINDOW_STALE)
		walk_all(cpu, w);
	if ((what & WINDOW_NEXT) && own(cpu))
		map_next(cpu);
}

void mmu_window_switched(struct cpu *cpu)
{
	const struct mmu_window *w = cpu->mem->window;

	if (UNLIKELY(w && w->always) && cpu->cr3 != cpu->window_cr3 && !cpu->guest_mode)
		claim(cpu);
}
