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
 * A window takes much of what a process can address, so there are MMU_WINDOWS in a process, for one VM. The first vCPUs
 * that want one have them, each for the program that window_policy.c chooses.
 *
 * Only memory that can be mapped twice serves: MAP_SHARED. And as the client cannot take back what
 * is mapped here, it has to ask for it (ANYKVM_CAP_WINDOW).
 */
#include "base/syscall.h"
#include "mmu/translator.h"
#include "mmu/window_internal.h"

#include <errno.h>
#include <sys/mman.h>

/* Pages within this many bytes are mapped with the one that faulted, when one mapping takes them. */
#define AROUND (64ull << 10)
/* Runs of more pages than these are given their entries in the host's tables at once. */
#define POPULATED 4
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; earlier ones refuse it, and the pages fault */
#endif
/* Bits of cpu->window_stale: all of it; the page of the last fault of the guest's waits. */
#define WINDOW_STALE 1u
#define WINDOW_NEXT  2u

/*
 * The windows of a process. What they leave of the host's addresses is where its own programs and libraries are; in the
 * third, position-independent programs may lie in either of two parts.
 */
static const struct window_shape shapes[MMU_WINDOWS] = {
	{.host = 0x12350000000ull, .part_shift = 44, .middle = 0x5, .middles = 1},
	{.host = 0x412550000000ull, .part_shift = 42, .middle = 0x15, .middles = 1},
	{.host = 0x601350000000ull, .part_shift = 41, .middle = 0x2a, .middles = 2},
};

const struct window_shape *window_shape(unsigned n)
{
	return &shapes[n];
}

/* Makes a part of the window empty. */
static long clear(u64 host, u64 bytes)
{
	return sys_call(SYS_mmap, host, bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, ~0ull);
}

/* Where a page is that the window has. */
static u64 place_of(const struct mmu_window *w, u64 lin)
{
	return lin + window_addend(w->shape, (unsigned)(lin >> w->shape->part_shift));
}

/* False: the host refuses (it allows so many mappings only). */
static bool protect(const struct mmu_window *w, u64 lin, u64 bytes)
{
	return !sys_call(SYS_mprotect, place_of(w, lin), bytes, PROT_READ, 0, 0);
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
 * Takes addresses for us. 0 or -errno. By the bare call: ThreadSanitizer would end the program for such
 * an address.
 */
static int take(u64 at, u64 size, int prot)
{
	long p = sys_call(SYS_mmap, at, size, (u64)prot,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, ~0ull);

	if (p == (long)at)
		return 0;
	if (p < 0 && p > -4096)
		return p == -EEXIST ? -EBUSY : (int)p;
	/* a kernel that does not know the flag */
	sys_call(SYS_munmap, (u64)p, size, 0, 0, 0);
	return -EBUSY;
}

static int reserve(const struct window_shape *s)
{
	return take(window_room(s), window_room_size(s), PROT_NONE);
}

static void give(u64 at, u64 size)
{
	sys_call(SYS_munmap, at, size, 0, 0, 0);
}

/* The stack, and what is in the frame for good. */
static int make_stack(const struct window_shape *s)
{
	u64 *table = (u64 *)(window_mask(s) + WINDOW_TABLE);
	int err = take(window_mask(s) - WINDOW_STACK, WINDOW_STACK + WINDOW_FRAME,
		       PROT_READ | PROT_WRITE);

	for (unsigned i = 0; !err && i < window_parts(s); i++)
		table[i] = window_addend(s, i);
	return err;
}

/* Takes the jumps of the window's code back. */
static void forget_code(struct cpu *cpu, struct mmu_window *w)
{
	jit_cross_links_drop(cpu);
	jit_jump_cache_flush_window(cpu);
	window_code_clear(&w->code);
}

void window_drop_all(struct cpu *cpu, struct mmu_window *w)
{
	forget_code(cpu, w);
	if (w->broken)
		return;
	if (clear(w->shape->host, window_size(w->shape)) < 0) {
		/* there are too many mappings for another one; these go without one */
		give(window_room(w->shape), window_room_size(w->shape));
		w->broken = reserve(w->shape) < 0;
	}
	cpu->mmu->stat[MMU_STAT_window_losses] += w->count;
	w->count = 0;
	w->large = 0;
	mem_set(w->by_lin, 0xff, sizeof(w->by_lin));
	mem_set(w->by_gfn, 0xff, sizeof(w->by_gfn));
}

static void drop(struct cpu *cpu, struct mmu_window *w, struct window_page *p)
{
	if (clear(place_of(w, p->lin), PAGE_SIZE) < 0)
		window_drop_all(cpu, w);
	else
		forget(w, p);
	cpu->mmu->stat[MMU_STAT_window_losses]++;
}

/* --- whose it is ------------------------------------------------------------------------------ */

static int window_make(const struct window_shape *s, struct mmu_window **out)
{
	struct mmu_window *w = pages_map(sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->shape = s; /* the rest is zero, and stays untouched until a vCPU takes it */
	err = reserve(s);
	if (!err) {
		err = make_stack(s);
		if (err)
			give(window_room(s), window_room_size(s));
	}
	if (err)
		pages_unmap(w, sizeof(*w));
	else
		*out = w;
	return err;
}

int mmu_window_enable(struct mmu_vm *vm, bool always)
{
	int err = vm->window[0] ? 0 : window_make(&shapes[0], &vm->window[0]);

	/* other vCPUs may do without */
	for (unsigned i = 1; !err && i < MMU_WINDOWS; i++)
		if (!vm->window[i])
			window_make(&shapes[i], &vm->window[i]);
	if (!err)
		vm->window_always = always;
	return err;
}

void window_vm_destroy(struct mmu_vm *vm)
{
	for (unsigned i = 0; i < MMU_WINDOWS; i++) {
		struct mmu_window *w = vm->window[i];

		if (!w)
			continue;
		if (!w->broken)
			give(window_room(w->shape), window_room_size(w->shape));
		give(window_mask(w->shape) - WINDOW_STACK, WINDOW_STACK + WINDOW_FRAME);
		pages_unmap(w, sizeof(*w));
		vm->window[i] = NULL;
	}
}

struct mmu_window *window_take(struct cpu *cpu)
{
	for (unsigned i = 0; i < MMU_WINDOWS && !cpu->mmu->window; i++) {
		struct mmu_window *w = cpu->mem->window[i];
		struct cpu *owner = NULL;

		if (!w || !__atomic_compare_exchange_n(&w->owner, &owner, cpu, false,
						       __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		mem_set(w->by_lin, 0xff, sizeof(w->by_lin));
		mem_set(w->by_gfn, 0xff, sizeof(w->by_gfn));
		window_code_clear(&w->code);
		cpu->mmu->window = w;
		cpu->window_rsp = window_mask(w->shape);
	}
	return cpu->mmu->window;
}

const struct window_shape *mmu_window_shape(const struct cpu *cpu)
{
	return cpu->mmu->window->shape;
}

bool mmu_window_has(const struct cpu *cpu, u64 host)
{
	const struct mmu_window *w = cpu->mmu->window;

	/* Not canonical to a host with five levels of page tables, it is the user's half there. */
	return w &&
	       (host - window_room(w->shape) < window_room_size(w->shape) || host >= WINDOW_USER);
}

void window_release(struct cpu *cpu)
{
	struct mmu_window *w = window_own(cpu);

	if (!w)
		return;
	window_drop_all(cpu, w);
	cpu->window_cr3 = WINDOW_NONE;
	cpu->window_stale = 0;
	w->readonly_wanted = false;
	cpu->mode &= ~MODE_WINDOW;
}

void window_cpu_destroy(struct cpu *cpu)
{
	struct mmu_window *w = cpu->mmu->window;

	window_release(cpu);
	if (w)
		__atomic_store_n(&w->owner, NULL, __ATOMIC_RELEASE);
}

/* --- pages come -------------------------------------------------------------------------------- */

/* May a page be written without another look, when an access of this kind found it as walked? */
static bool writable_now(struct cpu *cpu, const struct mmu_walk *walk, const struct mmu_slot *slot,
			 bool write)
{
	return (write || (walk->writable && walk->dirty && !slot->dirty)) &&
	       !code_tracked(cpu->mem, walk->gpa) && !(slot->flags & MMU_SLOT_READONLY);
}

/* Pages next to each other in the guest's address space, its memory, and so the host's. */
struct run {
	u64 lin, gpa, bytes;
	const struct mmu_slot *slot;
	bool writable;
};

/*
 * Is the page at lin one that was used, and goes on where the run ends (or begins)? It may be of the large
 * page that was walked.
 */
static bool belongs(struct cpu *cpu, const struct run *run, const struct mmu_walk *walk, u64 lin)
{
	u64 gpa = run->gpa + (lin - run->lin);
	struct mmu_fault fault;
	struct mmu_walk there;

	if (gpa - run->slot->gpa >= run->slot->size || find(window_own(cpu), lin))
		return false;
	if (walk->page_size > PAGE_SIZE) {
		there = *walk;
		there.gpa = gpa;
	} else if (walk_view(cpu, lin, MMU_READ, MMU_TLB_USER, true, &there, &fault) ||
		   !there.accessed || there.gpa != gpa) {
		return false;
	}
	return writable_now(cpu, &there, run->slot, false) == run->writable;
}

/* Pages around that would fault one by one. */
static void widen(struct cpu *cpu, struct run *run, const struct mmu_walk *walk)
{
	u64 first = run->lin & ~(AROUND - 1), end = first + AROUND;

	while (run->lin + run->bytes < end && belongs(cpu, run, walk, run->lin + run->bytes))
		run->bytes += PAGE_SIZE;
	while (run->lin > first && belongs(cpu, run, walk, run->lin - PAGE_SIZE)) {
		run->lin -= PAGE_SIZE;
		run->gpa -= PAGE_SIZE;
		run->bytes += PAGE_SIZE;
	}
}

static void add_page(struct mmu_window *w, u64 lin, const struct mmu_walk *walk,
		     const struct run *run)
{
	struct window_page *p = &w->page[w->count];
	u64 gpa = run->gpa + (lin - run->lin);

	*p = (struct window_page){
		.lin = lin,
		.gfn = gpa >> PAGE_SHIFT,
		.host = mmu_slot_host(run->slot, gpa),
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
	struct mmu_window *w = window_own(cpu);
	struct window_page *p = find(w, run->lin);
	u64 to, pages;

	if (p && p->gfn == run->gpa >> PAGE_SHIFT && p->writable == run->writable)
		return true;
	if (p)
		forget(w, p); /* its mapping is replaced */
	else
		widen(cpu, run, walk);
	if (w->count + (run->bytes >> PAGE_SHIFT) > PAGES_MAX)
		window_drop_all(cpu, w);
	to = place_of(w, run->lin);
	pages = run->bytes >> PAGE_SHIFT;
	/* of length 0: the mapping is not moved, but made a second time */
	if (sys_call(SYS_mremap, (u64)mmu_slot_host(run->slot, run->gpa), 0, run->bytes,
		     MREMAP_MAYMOVE | MREMAP_FIXED, to) < 0 ||
	    (!run->writable && !protect(w, run->lin, run->bytes))) {
		if (clear(to, run->bytes) < 0)
			window_drop_all(cpu, w);
		return false;
	}
	/* the host's tables as well: a fifth of what it costs to have each page fault */
	if (pages > POPULATED) {
		sys_call(SYS_madvise, to, run->bytes, MADV_POPULATE_READ, 0, 0);
		window_paid_pages(cpu, pages);
	}
	for (u64 at = 0; at < run->bytes; at += PAGE_SIZE) {
		pages_note(cpu, run->slot, run->gpa + at, run->writable ? MMU_WRITE : MMU_READ);
		add_page(w, run->lin + at, walk, run);
	}
	cpu->mmu->stat[MMU_STAT_window_maps]++;
	cpu->mmu->stat[MMU_STAT_window_pages] += pages;
	return true;
}

/* Maps the page that a walk has found. */
static bool map_page(struct cpu *cpu, u64 lin, bool write, const struct mmu_walk *walk)
{
	struct mmu_slot *slot = slot_find(cpu, walk->gpa);
	struct run run;

	if (!slot ||
	    (write && ((slot->flags & MMU_SLOT_READONLY) || code_tracked(cpu->mem, walk->gpa))))
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
	const struct mmu_window *w = window_own(cpu);
	u64 lin, place;

	if (!w || UNLIKELY(cpu->log_full))
		return MMU_WINDOW_ALONE;
	lin = window_lin(w->shape, host);
	if (UNLIKELY(w->broken) || !window_host(w->shape, lin, &place)) {
		window_paid_fault(cpu, false);
		return MMU_WINDOW_ALONE;
	}
	cpu->mmu->stat[MMU_STAT_window_faults]++;
	window_paid_fault(cpu, true);
	code_settle(cpu);
	if (UNLIKELY(cpu->mmu->late_len))
		code_late_check(cpu);
	return enter(cpu, lin, write);
}

/* --- pages go ---------------------------------------------------------------------------------- */

void window_stale(struct cpu *cpu)
{
	if (window_own(cpu))
		cpu->window_stale |= WINDOW_STALE;
}

void window_stale_pcid(struct cpu *cpu, unsigned pcid)
{
	if (window_own(cpu) && (!(cpu->cr4 & CR4_PCIDE) || (cpu->window_cr3 & 0xfff) == pcid))
		cpu->window_stale |= WINDOW_STALE;
}

void window_stale_writes(struct cpu *cpu)
{
	struct mmu_window *w = window_own(cpu);

	if (w) {
		w->readonly_wanted = true;
		cpu->window_stale |= WINDOW_STALE;
	}
}

void window_flush_page(struct cpu *cpu, u64 lin, unsigned pcid)
{
	struct mmu_window *w = window_own(cpu);
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
	struct mmu_window *w = window_own(cpu);
	bool had = false;

	if (LIKELY(!w))
		return false;
	for (u16 i = w->by_gfn[hash_of(gfn)]; i != NO_PAGE; i = w->page[i].next_gfn) {
		struct window_page *p = &w->page[i];

		if (p->gfn != gfn || !p->writable)
			continue;
		had = true;
		if (!protect(w, p->lin, PAGE_SIZE)) {
			window_drop_all(cpu, w);
			break;
		}
		p->writable = false;
	}
	return had;
}

bool window_next_write(struct cpu *cpu, unsigned *at, u64 *gfn)
{
	struct mmu_window *w = window_own(cpu);

	while (w && *at < w->count) {
		const struct window_page *p = &w->page[(*at)++];

		if (p->writable) {
			*gfn = p->gfn;
			return true;
		}
	}
	return false;
}

/* Pages next to each other of which the same is to be done, gathered while all are walked. */
struct same {
	u64 lin, bytes;
	bool gone; /* or: read-only */
};

/* False: it cannot be done, and all pages were dropped instead. */
static bool do_same(struct cpu *cpu, struct mmu_window *w, struct same *same)
{
	u64 bytes = same->bytes;

	same->bytes = 0;
	if (!bytes ||
	    (same->gone ? clear(place_of(w, same->lin), bytes) >= 0 : protect(w, same->lin, bytes)))
		return true;
	window_drop_all(cpu, w);
	return false;
}

static void gather(struct cpu *cpu, struct mmu_window *w, struct same *same, u64 lin, bool gone)
{
	bool below = lin + PAGE_SIZE == same->lin;

	if (!same->bytes || gone != same->gone || (!below && lin != same->lin + same->bytes)) {
		if (!do_same(cpu, w, same))
			return;
		*same = (struct same){.lin = lin, .gone = gone};
	} else if (below) {
		same->lin = lin;
	}
	same->bytes += PAGE_SIZE;
}

/* Is a page still what the guest's tables say? Its write permission may go. */
static bool still(struct cpu *cpu, const struct mmu_window *w, struct window_page *p)
{
	struct mmu_fault fault;
	struct mmu_slot *slot;
	struct mmu_walk walk;

	if (walk_view(cpu, p->lin, MMU_READ, MMU_TLB_USER, true, &walk, &fault) || !walk.accessed ||
	    walk.gpa >> PAGE_SHIFT != p->gfn || walk.global != p->global ||
	    (walk.page_size > PAGE_SIZE) != p->large)
		return false;
	slot = slot_find(cpu, walk.gpa);
	if (!slot || mmu_slot_host(slot, walk.gpa) != p->host)
		return false;
	pages_note(cpu, slot, walk.gpa, p->writable ? MMU_WRITE : MMU_READ);
	/* the log may be younger than the mapping */
	if (w->readonly_wanted || !walk.writable || !walk.dirty ||
	    (slot->flags & MMU_SLOT_READONLY) || !slot_logged(slot, walk.gpa))
		p->writable = false;
	return true;
}

/* Every page once more. */
static void walk_all(struct cpu *cpu, struct mmu_window *w)
{
	unsigned before = w->count;
	struct same same = {.bytes = 0};

	if (!window_code_still(cpu, &w->code))
		forget_code(cpu, w);
	cpu->mmu->stat[MMU_STAT_window_refreshes]++;
	/* a page that is forgotten gives its place to one that was looked at; or all are dropped */
	for (unsigned i = w->count; i-- > 0 && i < w->count;) {
		struct window_page *p = &w->page[i];
		bool writable = p->writable, gone = !still(cpu, w, p);
		u64 lin = p->lin;

		if (gone) {
			cpu->mmu->stat[MMU_STAT_window_losses]++;
			forget(w, p);
		}
		if (gone || p->writable != writable)
			gather(cpu, w, &same, lin, gone);
	}
	do_same(cpu, w, &same);
	w->readonly_wanted = false;
	/* another program has its page tables where those of the old one were */
	if (w->count < before / 2 && !cpu->mem->window_always)
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
	struct mmu_window *w = window_own(cpu);

	if (!w)
		return;
	window_code_note(cpu, &w->code, rip, gpa);
	if (UNLIKELY(gpa2 != ~0ull))
		window_code_note(cpu, &w->code, rip + PAGE_SIZE, gpa2);
}

void mmu_window_refresh(struct cpu *cpu)
{
	struct mmu_window *w = window_own(cpu);
	u8 what = cpu->window_stale;

	cpu->window_stale = 0;
	if (!w)
		return;
	code_settle(cpu);
	if (what & WINDOW_STALE)
		walk_all(cpu, w);
	if ((what & WINDOW_NEXT) && window_own(cpu))
		map_next(cpu);
}
