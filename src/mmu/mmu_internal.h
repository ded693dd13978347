/*
 * mmu_internal.h - what the files of src/mmu share
 */
#ifndef MMU_INTERNAL_H
#define MMU_INTERNAL_H

#include "base/futex.h"
#include "base/mem.h"
#include "cpu/mode.h"
#include "mmu/hostmem.h"
#include "mmu/mmu.h"
#include "mmu/pages.h"
#include "mmu/stats.h"
#include "mmu/window.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NOINLINE      __attribute__((noinline))

/* Orders all earlier stores before all later loads. (A bare instruction: ThreadSanitizer does not
 * know fences, and it is cheaper than MFENCE.) */
ALWAYS_INLINE void fence_full(void)
{
	__asm__ volatile("lock orq $0, (%%rsp)" : : : "memory", "cc");
}

/* struct mmu_slot.flags are the API's KVM_MEM_* bits; the one that matters here. */
#define MMU_SLOT_READONLY BIT(1)

/* --- the TLB's bookkeeping (tlb.c) ------------------------------------------------------------ */

/*
 * A superset of the large regions (4 MiB or 1 GiB) in which something is cached. The halves of the
 * address space are apart: user pages are invalidated often and are rarely large, while the
 * kernel's map of all memory consists of large pages.
 */
struct region_set {
	u64 bits[2][4];
};

ALWAYS_INLINE u64 *region_word(struct region_set *s, u64 lin, unsigned shift, u64 *bit)
{
	unsigned h = (unsigned)((lin >> shift) * 0x9e3779b97f4a7c15ull >> 56);

	*bit = BIT64(h & 63);
	return &s->bits[lin >> 63][h >> 6];
}
ALWAYS_INLINE void region_add(struct region_set *s, u64 lin, unsigned shift)
{
	u64 bit, *word = region_word(s, lin, shift, &bit);

	*word |= bit;
}
ALWAYS_INLINE bool region_may_have(struct region_set *s, u64 lin, unsigned shift)
{
	u64 bit, *word = region_word(s, lin, shift, &bit);

	return *word & bit;
}
#define REGION_LARGE 22 /* 2 MiB and 4 MiB pages are not told apart */
#define REGION_HUGE  30

/* info[] of a TLB slot: gfn << 8 | these. */
#define TLB_VALID     0x01u
#define TLB_GLOBAL    0x02u
#define TLB_LARGE     0x04u /* fragment of a 2M or 4M page */
#define TLB_HUGE      0x08u /* fragment of a 1G page */
#define TLB_IN_LOCAL  0x10u /* the index is in the log of non-global fills */
#define TLB_IN_GLOBAL 0x20u
#define TLB_LOGGED    (TLB_IN_LOCAL | TLB_IN_GLOBAL)

/*
 * Which slots of one view were filled since the last flush, so that a flush costs what was
 * filled. A slot can be in both logs: what counts then is its TLB_GLOBAL bit.
 */
struct tlb_log {
	unsigned local_count, global_count;
	struct region_set large, huge;
	/* In struct tlb_log_room: so that flushing an empty TLB touches no page of it. */
	u16 *local, *global;
	u64 *info;
};

struct tlb_log_room {
	u16 local[MMU_TLB_SIZE];
	u16 global[MMU_TLB_SIZE];
	u64 info[MMU_TLB_SIZE];
};

/* --- stashed address spaces (pcid.c) ------------------------------------------------------------ */

#define STASH_COUNT   8
#define STASH_ENTRIES 1024u

struct stash_entry {
	u64 tag, info; /* mmu_tlb_tag(page) */
	s64 addend;
	u16 index;
	u8 view;
	bool writable;
};

struct stash {
	bool valid;
	u16 pcid;
	u64 cr3, used; /* `used`: moment of the last switch away, for LRU */
	u64 wgen;
	unsigned count;
	struct stash_entry *entry; /* [STASH_ENTRIES], mapped when first used */
};

/* --- instruction TLB (fetch.c) -------------------------------------------------------------------- */

#define ITLB_SIZE 256u

struct itlb_entry {
	u64 page; /* linear */
	u64 gpa;
	const u8 *host;
	u64 gen; /* 0: empty */
	bool global;
};

#define FETCH_BLOOM 4096u
/* A superset of the pages that code was fetched from. */
struct fetch_log {
	u64 bloom[FETCH_BLOOM / 64]; /* by the low bits of the page number */
	struct region_set large, huge;
};

/* --- paging-structure cache (walk.c) ---------------------------------------------------------- */

#define PSC_SIZE 64u

/* A page table (level 1) of a 4- or 5-level walk whose upper entries all have their A bits. */
struct psc_entry {
	u64 gen;       /* mmu_cpu.psc_gen, or dead */
	u64 key;       /* linear >> 21 */
	u64 all, none; /* upper entries and-ed, or-ed */
	u64 table;     /* guest-physical */
	u8 *host;
};

/* --- second stage (stage2.c) --------------------------------------------------------------------- */

#define STAGE2_SIZE 512u

/* A page of the nested guest's physical memory; permissions are those of EPT: read, write, execute. */
struct stage2_entry {
	u64 gen; /* mmu_cpu.stage2_gen, or dead */
	u64 gfn;
	u64 page; /* where it is for its hypervisor */
	u8 perms;
	bool dirty;
};

/* What an access asks of the second stage. */
#define STAGE2_READ  1u
#define STAGE2_WRITE 2u
#define STAGE2_EXEC  4u

struct stage2_req {
	u64 gpa, lin;
	unsigned need; /* STAGE2_* */
	bool table;    /* of a paging-structure entry */
	bool debug;
};

/* --- code tracking (code.c) ------------------------------------------------------------------------ */

#define CODE_CHUNK_SHIFT 6
#define CODE_BUCKETS	 16384u
#define CODE_FILTER_BITS (1u << 18) /* by the low bits of the gfn: exact within 1 GiB */

/* A guest page that holds, or held, translated code. Never freed while the VM lives. */
struct code_page {
	struct code_page *next;
	u64 gfn;
	u64 chunks;    /* read without a lock: bit n, 64-byte chunk n holds somebody's code */
	u64 vcpus[4];  /* bit (index & 255): these vCPUs have code here */
	u16 users[64]; /* vCPUs that have code in chunk n; under mmu_code.lock */
};

#define CODE_SLAB_BYTES (64u << 10)

struct mmu_code {
	struct futex_lock lock; /* counts, insertion, the slab. Outside mmu_vm.cpu_lock */
	u8 *slab, *slab_end;	/* room for code_page structures */
	u64 pages, bytes;	/* statistics */
	u64 filter[CODE_FILTER_BITS / 64]; /* a page of this kind was ever tracked */
	struct code_page *bucket[CODE_BUCKETS];
	u8 first_slab[CODE_SLAB_BYTES] __attribute__((aligned(64)));
};

/* A page in which this vCPU has code. Open addressing, linear probing; page == NULL: free. */
struct code_own {
	struct code_page *page;
	u64 chunks;
};

enum code_msg_kind { CODE_MSG_DROP_WRITE, CODE_MSG_INVALIDATE };

struct code_msg {
	u64 gfn;
	u64 chunks;
	enum code_msg_kind kind;
};

#define CODE_MSGS 64u

/* --- accesses in flight (resolve.c) --------------------------------------------------------------- */

/* A bounced access covers up to this many pages (sizeof cpu->bounce, unaligned). */
#define PEND_PARTS 5

struct pend_part {
	u64 gpa;
	u32 len;
	u32 gap;	       /* bytes of the bounce buffer before it that are nobody's */
	struct mmu_slot *slot; /* NULL: MMIO */
	u8 *host;	       /* NULL: MMIO */
	bool rom;	       /* RAM for reads, MMIO for writes */
};

struct mmu_cpu {
	/* Last slots found, for code that looks up one guest-physical address after another. */
	struct mmu_map *slot_map;
	struct mmu_slot *slot_last[2];

	u64 wgen;		       /* moved when every cached write permission is dropped */
	u64 itlb_gen, itlb_global_gen; /* entries of other generations are dead */
	u64 psc_gen;
	u64 stage2_gen;
	struct fetch_log
		fetched[2]; /* by local and by global translations, since each was flushed */

	u8 views;		       /* a bit for each that mmu_view_begin() was called for */
	bool mmio_asked, mmio_allowed; /* mmu_vm.mmio_ask */

	/* The bounced store to be committed. */
	unsigned pend_count;
	bool pend_split; /* mmu_vm.split_lock is held */
	struct pend_part pend[PEND_PARTS];

	/* A direct store to a code page that could not be re-checked behind the store. */
	u64 late_gpa;
	unsigned late_len; /* 0: none */

	/* Messages of other vCPUs. */
	struct futex_lock msg_lock;
	u32 msg_waiting; /* read without the lock */
	bool msg_overflow;
	unsigned msg_count;

	/* Own code. */
	struct code_own *own;
	unsigned own_count, own_size; /* own_size: a power of two, or 0 */

	/* What mmu_window_tick() has seen. */
	u64 window_hot_cr3;	       /* of the last interrupts that met user code */
	unsigned window_hot_ticks;     /* how many */
	u64 window_user_faults;	       /* user_faults then */
	u64 window_cold_cr3;	       /* has lost the window */
	unsigned window_cold_ticks;    /* … for so many interrupts from now */
	struct mmu_window *window;     /* once it has wanted one, and there was one */
	struct mmu_fault window_fault; /* the last of the guest's that the window found */
	u64 window_next;	       /* its page */

	u64 user_faults; /* #PFs at CPL 3 */
	u64 stat[MMU_STAT_COUNT];

	u64 stash_clock;
	struct stash stash[STASH_COUNT];

	struct tlb_log log[MMU_TLB_COUNT];

	/* Large: behind all the rest. */
	struct code_msg msg[CODE_MSGS];
	struct psc_entry psc[PSC_SIZE];
	struct stage2_entry stage2[STAGE2_SIZE];
	struct code_own own_first[256];
	struct itlb_entry itlb[4][ITLB_SIZE]; /* supervisor, user; of a nested guest */
	struct tlb_log_room log_room[MMU_TLB_COUNT];
};

/* tlb.c */
ALWAYS_INLINE unsigned tlb_index(u64 lin)
{
	return (lin >> PAGE_SHIFT) & (MMU_TLB_SIZE - 1);
}
/**
 * Enters a translation. `host` is the page's host address. True when write permission was cached
 * as asked: the page may have become a code page while older messages were answered.
 */
bool tlb_fill(struct cpu *cpu, unsigned view, u64 lin, const struct mmu_walk *w, u8 *host,
	      bool writable);
/** Drops the live non-global entries. */
void tlb_flush_local(struct cpu *cpu);
/** Copies the live non-global entries, at most `max`. Their number. */
unsigned tlb_copy_local(struct cpu *cpu, struct stash_entry *to, unsigned max);
/** Puts them back where the slots are free; `writes`: with their write permissions. */
void tlb_restore_local(struct cpu *cpu, const struct stash_entry *from, unsigned count,
		       bool writes);
/** Drops cached write permission to a guest page; true when there was one. */
bool tlb_drop_write(struct cpu *cpu, u64 gfn);

/* pcid.c */
void stash_drop_all(struct cpu *cpu);
void stash_drop_pcid(struct cpu *cpu, unsigned pcid);
void stash_drop_page(struct cpu *cpu, u64 lin, unsigned pcid);
bool stash_drop_write(struct cpu *cpu, u64 gfn);
void stash_destroy(struct cpu *cpu);

/* slots.c */
struct mmu_slot *slot_find_slow(struct cpu *cpu, u64 gpa);

ALWAYS_INLINE struct mmu_map *slot_map_now(struct cpu *cpu)
{
	struct mmu_map *map = NULL;

	if (UNLIKELY(cpu->smm))
		map = atomic_load_explicit(&cpu->mem->map[1], memory_order_acquire);
	if (LIKELY(!map))
		map = atomic_load_explicit(&cpu->mem->map[0], memory_order_acquire);
	return map;
}

ALWAYS_INLINE struct mmu_slot *slot_find(struct cpu *cpu, u64 gpa)
{
	struct mmu_cpu *mc = cpu->mmu;

	if (LIKELY(mc->slot_map == slot_map_now(cpu))) {
		struct mmu_slot *s = mc->slot_last[0];

		if (LIKELY(s && gpa - s->gpa < s->size))
			return s;
	}
	return slot_find_slow(cpu, gpa);
}

/** Memory that is missing may be back soon: the vCPU had better try again. */
bool slot_may_return(const struct cpu *cpu);

/** Marks a page dirty in its slot's log, if it has one. Before the store. */
void slot_dirty_slow(struct cpu *cpu, struct mmu_slot *slot, u64 gpa);
ALWAYS_INLINE void slot_dirty(struct cpu *cpu, struct mmu_slot *slot, u64 gpa)
{
	if (UNLIKELY(slot->dirty))
		slot_dirty_slow(cpu, slot, gpa);
}

/** May a page be stored to and its slot's log, if it has one, stay as it is? */
static inline bool slot_logged(const struct mmu_slot *slot, u64 gpa)
{
	u64 page = slot->first + ((gpa - slot->gpa) >> PAGE_SHIFT);

	return !slot->dirty ||
	       (__atomic_load_n(&slot->dirty[page >> 6], __ATOMIC_RELAXED) & BIT64(page & 63));
}

/* pages.c */
/** A vCPU is about to reach a page of a slot, by a read, a write or a fetch. */
ALWAYS_INLINE void pages_note(struct cpu *cpu, const struct mmu_slot *slot, u64 gpa,
			      unsigned access)
{
	const struct mmu_pages *p = slot->pages;
	u8 need = PAGES_ALL, *block;

	if (UNLIKELY(!p))
		return;
	if (access & MMU_EXEC)
		need |= PAGES_EXEC;
	else if (access & MMU_WRITE)
		need |= PAGES_WRITE;
	block = __atomic_load_n(&p->block, __ATOMIC_ACQUIRE);
	if (UNLIKELY(!block ||
		     (need & ~__atomic_load_n(&block[(gpa >> PAGES_BLOCK_SHIFT) - p->first],
					      __ATOMIC_RELAXED))))
		pages_give(cpu, slot, gpa, need);
}

/* stage2.c */
/** A nested guest's physical address → its hypervisor's. 0, or -1 with *fault filled. */
int stage2_walk(struct cpu *cpu, const struct stage2_req *rq, struct stage2_entry *out,
		struct mmu_fault *fault);

/* walk.c */
/** Sets bits in one entry. 1: done (or ROM); 0: it changed, walk again; -1: host fault. */
int walk_mark(struct cpu *cpu, u64 gpa, u64 old, u64 bits, unsigned size);
/** mmu_walk() with the view already chosen. Does not look at canonicality. */
int walk_view(struct cpu *cpu, u64 lin, unsigned access, unsigned view, bool debug,
	      struct mmu_walk *out, struct mmu_fault *fault);
/** MMU_TLB_GUEST while a nested guest runs, else 0. */
ALWAYS_INLINE unsigned view_bank(const struct cpu *cpu)
{
	return cpu->mode >> MODE_VIEW_SHIFT & MMU_TLB_GUEST;
}
/** The view in which an access of these flags is checked; its table can be asked. */
ALWAYS_INLINE unsigned access_view(struct cpu *cpu, unsigned access)
{
	unsigned view = cpu_mode_view(cpu);

	if (access & MMU_SYSTEM)
		view = view_bank(cpu) |
		       ((cpu->cr4 & CR4_SMAP) ? MMU_TLB_KERNEL : MMU_TLB_KERNEL_AC);
	else if (access & MMU_AS_USER)
		view = view_bank(cpu) | MMU_TLB_USER;
	if (UNLIKELY(!(cpu->mmu->views >> view & 1)))
		mmu_view_begin(cpu, view);
	return view;
}
/** The page behind `lin`: wraps at 4 GiB outside IA-32e mode. */
ALWAYS_INLINE u64 lin_wrap(const struct cpu *cpu, u64 lin)
{
	return cpu_is_long(cpu) ? lin : (u32)lin;
}

/* code.c */
struct code_page *code_find(struct mmu_vm *vm, u64 gfn);
/** The chunks that [gpa, gpa + n) touches; the range lies in one page. */
ALWAYS_INLINE u64 code_chunks(u64 gpa, unsigned n)
{
	unsigned first = (gpa >> CODE_CHUNK_SHIFT) & 63;
	unsigned last = ((gpa + n - 1) >> CODE_CHUNK_SHIFT) & 63;

	return bits_get(~0ull, 63, 0) >> (63 - last) & ~0ull << first;
}
/** The tracked chunks of a page; 0: an ordinary page. */
ALWAYS_INLINE u64 code_tracked(struct mmu_vm *vm, u64 gpa)
{
	u64 gfn = gpa >> PAGE_SHIFT, bit = gfn & (CODE_FILTER_BITS - 1);
	struct code_page *p;

	if (LIKELY(!(__atomic_load_n(&vm->code->filter[bit >> 6], __ATOMIC_ACQUIRE) >> (bit & 63) &
		     1)))
		return 0;
	p = code_find(vm, gfn);
	return p ? __atomic_load_n(&p->chunks, __ATOMIC_ACQUIRE) : 0;
}
/** This vCPU's own chunks of a page. */
u64 code_own_chunks(struct cpu *cpu, u64 gpa);
/** Bytes of these chunks changed: drops code here and tells the others. */
void code_changed(struct cpu *cpu, u64 gpa, unsigned n);
/** Before write permissions vanish (flush, eviction): answers "stop writing" messages. */
void code_poll_writes(struct cpu *cpu);
/** Re-checks the last direct store to a code page. */
void code_late_check(struct cpu *cpu);
void code_cpu_destroy(struct cpu *cpu);
int code_vm_init(struct mmu_vm *vm);
void code_vm_destroy(struct mmu_vm *vm);

/*
 * A cached write permission is about to be forgotten. Messages that ask for it must be answered
 * first, or its use is denied wrongly; the fence orders the guest's earlier stores before the look.
 */
ALWAYS_INLINE bool code_settle(struct cpu *cpu)
{
	if (cpu->mem->cpu_count < 2)
		return false;
	fence_full();
	if (LIKELY(!__atomic_load_n(&cpu->mmu->msg_waiting, __ATOMIC_ACQUIRE)))
		return false;
	code_poll_writes(cpu);
	return true;
}

/* fetch.c */
/** Drops what was fetched through non-global translations, or (global) all. */
void fetch_flush(struct cpu *cpu, bool global);
/** Drops what was fetched for a nested guest. */
void fetch_flush_guest(struct cpu *cpu);
/** Drops what was fetched through the translation of one page. */
void fetch_flush_page(struct cpu *cpu, u64 page);

/* watch.c: data breakpoints (DR7 or guest debug); called when cpu->mode has MODE_WATCH */
/** DR6 bits of the breakpoints that an access hits. */
u64 watch_hits(const struct cpu *cpu, u64 lin, unsigned n, bool write);
/** True when some breakpoint lies in the page. */
bool watch_page(const struct cpu *cpu, u64 lin);

/* window.c: cached translations that are mappings of the host; nothing without a window */
/** What pages lead to may have changed: all of them, or those of an address space. */
void window_stale(struct cpu *cpu);
void window_stale_pcid(struct cpu *cpu, unsigned pcid);
/** No page may be written without a new look. */
void window_stale_writes(struct cpu *cpu);
void window_flush_page(struct cpu *cpu, u64 lin, unsigned pcid);
/** As tlb_drop_write(). */
bool window_drop_write(struct cpu *cpu, u64 gfn);
/** Goes through the pages that may be written; *at begins with 0. */
bool window_next_write(struct cpu *cpu, unsigned *at, u64 *gfn);
/** An access of code that uses the window lay outside of it. */
void window_miss(struct cpu *cpu);
/** The program that has the vCPU's window loses it. */
void window_release(struct cpu *cpu);
/** The vCPU goes: another one may have its window. */
void window_cpu_destroy(struct cpu *cpu);
void window_vm_destroy(struct mmu_vm *vm);

/* access.c */
/** Checks canonicality, walks, and raises what fails. CPU_OK, CPU_EXC, CPU_EXIT. */
int page_walk(struct cpu *cpu, u64 lin, unsigned access, unsigned view, struct mmu_walk *w);
/**
 * A RAM page was reached by an access that passed every check: marks it dirty (writes) and caches
 * it. True when a write permission was cached, or none was wanted.
 */
bool page_enter(struct cpu *cpu, u64 lin, unsigned access, unsigned view, const struct mmu_walk *w,
		struct mmu_slot *slot, bool tracked);
/** Walks every page of an access and splits it. Number of parts, or minus CPU_EXC, CPU_EXIT. */
int parts_walk(struct cpu *cpu, u64 lin, unsigned n, unsigned access, unsigned view,
	       struct pend_part *part);
/** #AC: true when it applies to an access of n bytes and these are not naturally aligned. */
ALWAYS_INLINE bool misaligned(const struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	unsigned natural = n & (n - 1) ? (n == 10 ? 8 : 1) : MIN(n, 16u);

	return UNLIKELY(cpu->mode & MODE_ALIGN) && (lin & (natural - 1)) &&
	       !(access & (MMU_SYSTEM | MMU_UNALIGNED));
}
/** AMD's processors report misalignment before page faults, Intel's after them. */
ALWAYS_INLINE bool align_first(const struct cpu *cpu, u64 lin, unsigned n, unsigned access)
{
	return misaligned(cpu, lin, n, access) && cpu->vendor == CPU_VENDOR_AMD &&
	       (!cpu_is_long(cpu) || cpu_is_canonical(cpu, lin));
}
/** Stores to RAM by a helper, with dirty log and code tracking. False: host fault. */
bool ram_store(struct cpu *cpu, struct mmu_slot *slot, u64 gpa, u8 *host, const void *src,
	       unsigned n);

/* mmio.c */
/** Opens an access; mmio_end() forgets what was recorded when it is complete. */
unsigned mmio_begin(struct cpu *cpu);
void mmio_end(struct cpu *cpu, unsigned mark);
/** One page's bytes of an MMIO read: CPU_OK or CPU_EXIT. */
int mmio_read(struct cpu *cpu, u64 gpa, u8 *buf, unsigned n);
/** Queues or performs one page's bytes of an MMIO write; true: queued for user space. */
bool mmio_write(struct cpu *cpu, u64 gpa, const u8 *buf, unsigned n);
/** CPU_OK when the queue has room for the MMIO parts of a write, or CPU_EXIT. */
int mmio_room(struct cpu *cpu, const struct pend_part *part, unsigned count);
/** How many queue entries an MMIO access of n bytes takes at most. */
ALWAYS_INLINE unsigned mmio_frags(unsigned n)
{
	return (n + 7) / 8;
}
/** Stops with CPU_EXIT_INTERNAL. CPU_EXIT. */
int mmu_internal(struct cpu *cpu, const char *why);
/** Records a fault of the client's mapping, or a refused guest-physical address. CPU_EXIT. */
int memfault(struct cpu *cpu, u64 gpa, unsigned size, unsigned access);
/** True (with cpu->exit set) when an address in no slot is a memory fault rather than MMIO. */
bool gpa_blocked(struct cpu *cpu, u64 gpa, unsigned size, unsigned access);

/** Pages by raw system call: libc's allocator may use vector registers. NULL: no memory. */
void *pages_map(size_t bytes);
void pages_unmap(void *p, size_t bytes);

#endif
