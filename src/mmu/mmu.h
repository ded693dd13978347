/*
 * mmu.h - guest memory: linear → guest-physical → host
 *
 * struct mmu_vm is one VM's guest-physical memory: an immutable, atomically published map of
 * slots per address space (0 normal, 1 SMM), and the record of which guest pages hold translated
 * code. Accessors take linear addresses and walk the guest's page tables; a refused access is
 * recorded as an exception, an access to no slot is memory-mapped I/O (see struct cpu_mmio).
 */
#ifndef MMU_MMU_H
#define MMU_MMU_H

#include <stdatomic.h>
#include "base/futex.h"
#include "base/types.h"
#include "cpu/cpu.h"

/* Kinds of access, or-ed. */
#define MMU_READ  0x0u
#define MMU_WRITE 0x1u
#define MMU_EXEC  0x2u
#define MMU_SYSTEM \
	0x4u /* implicit supervisor access (descriptor tables, TSS): CPL and AC ignored */
#define MMU_AS_USER   0x8u  /* checked as CPL 3, whatever CPL is */
#define MMU_AS_VIEW   0x10u /* by cpu->mode's view: the default for ordinary data */
#define MMU_STACK     0x20u /* through SS: a non-canonical address is #SS(0) rather than #GP(0) */
#define MMU_UNALIGNED 0x80u /* #AC does not apply, or was checked already */
#define MMU_RMW \
	0x40u /* with MMU_WRITE: the old value is needed. A plain store to MMIO must not
			    read the device first, so generated code must tell the two apart */

/* One page fault, from the walk to the exception or the exit (mission row 14). */
struct mmu_fault {
	u64 address; /* linear */
	u64 gpa;     /* of the access or of the paging-structure entry that stopped the walk */
	u32 error;   /* #PF error code */
	enum {
		MMU_FAULT_NONE,
		MMU_FAULT_PF,
		MMU_FAULT_NONCANONICAL,
		MMU_FAULT_HOST,
		MMU_FAULT_AGAIN, /* a table's slot was deleted, and may come back */
		/* A nested guest's second stage; gpa is the nested guest's. error: EPT's qualification. */
		MMU_FAULT_STAGE2,
		MMU_FAULT_STAGE2_BAD, /* misconfigured */
		MMU_FAULT_APIC,	      /* error: access type; of the APIC-access page */
	} kind;
};

/* The result of a successful walk. */
struct mmu_walk {
	u64 gpa;						  /* of the address */
	u64 page_size;						  /* 4K, 2M, 4M, 1G */
	bool writable, user, executable, global, dirty, accessed; /* effective */
	bool uncached; /* not for the TLB: a part of the page is elsewhere */
	u8 pkey;
};

struct mmu_slot {
	u64 gpa, size; /* bytes */
	u64 hva;       /* what the client said: 0 is as good as any */
	u32 id, flags; /* KVM_MEM_* */
	u64 *dirty;    /* bitmap, one bit a page, or NULL: no dirty log */
	void *priv;    /* the API layer's memslot; of an inner node's entry: struct mmu_map */
	u64 first;     /* of the bitmap: the bit of the slot's first page */
	struct mmu_pages
		*pages; /* what of it has been given to vCPUs (pages.h), or NULL: no record */
};

/** Where a slot has the byte at a guest-physical address within it. */
static inline u8 *mmu_slot_host(const struct mmu_slot *slot, u64 gpa)
{
	return (u8 *)(slot->hva + (gpa - slot->gpa));
}

/*
 * A node of the tree of slots (map.c). A leaf alone is a map as well: who needs only a few slots
 * may allocate one and fill it.
 */
struct mmu_map {
	unsigned count;
	bool inner;	  /* each entry covers the slots of a node below */
	bool fresh, dead; /* of an edit that is not over */
	struct mmu_map *link;
	struct mmu_slot slot[]; /* sorted by gpa, disjoint */
};

struct mmu_code; /* which pages hold translated code; code.c */

/* Windows of a process, see window.h. */
#define MMU_WINDOWS 3

struct mmu_vm {
	_Atomic(struct mmu_map *) map[2];
	struct mmu_code *code;
	struct futex_lock cpu_lock; /* protects cpus[]; a vCPU's message lock may be taken inside */
	struct cpu **cpus;
	unsigned cpu_count, cpu_room;
	u64 client_epoch; /* moved whenever the client may have changed code (jit/page.c) */
	u64 client_events; /* … and another thread told so: vCPUs look before they enter the guest */
	bool writes_told;	      /* the client says what it writes (mmu_client_wrote_at()) */
	u64 deleted_ns;		      /* when a slot was deleted last; see slot_may_return() */
	struct futex_lock split_lock; /* held by a locked access that crosses a page */
	/* Called on the vCPU's thread for each first write to a page of a slot with a dirty log. */
	void (*page_dirtied)(struct cpu *cpu, struct mmu_slot *slot, u64 page_index);
	/* No slot, but the VM wants a memory fault rather than MMIO (private memory …); may be NULL. */
	bool (*gpa_blocked)(struct cpu *cpu, u64 gpa, unsigned access);
	/*
	 * Instructions that reach no memory stop with CPU_EXIT_INTERNAL before they have done
	 * anything, for the API layer to decide whether they may: mmu_mmio_asked().
	 */
	bool mmio_ask;
	struct mmu_window *window[MMU_WINDOWS]; /* window.c; the first is NULL: not enabled */
	bool window_always;			/* every address space has one at once: for tests */
	bool nx_huge_pages; /* a fetch splits large pages in the record of pages given (pages.c) */
	struct futex_lock pages_lock; /* a leaf: making room for such a record */
};

/** Creates a VM's memory without slots. 0 or -ENOMEM. */
int mmu_vm_init(struct mmu_vm *vm);
void mmu_vm_destroy(struct mmu_vm *vm);
/** Publishes a new map for an address space; returns the old one, which the caller frees when no
 *  vCPU can hold it (each has acknowledged a flush). */
struct mmu_map *mmu_vm_set_map(struct mmu_vm *vm, unsigned as, struct mmu_map *map);
/** A slot is about to go out of the map. */
void mmu_vm_slot_deleted(struct mmu_vm *vm);
/* --- building maps: no locks, the caller serializes; map.c ------------------------------------- */

/* A change of a map. Readers of the old root see nothing of it. */
struct mmu_map_edit {
	struct mmu_map *root;	 /* the new map; NULL: without slots */
	struct mmu_map *fresh;	 /* nodes made */
	struct mmu_map *retired; /* nodes of the old map that the new one does not have */
};

void mmu_map_begin(struct mmu_map_edit *edit, struct mmu_map *root);
/** Puts in a slot that overlaps none. 0 or -ENOMEM: then only mmu_map_abort() may follow. */
int mmu_map_insert(struct mmu_map_edit *edit, const struct mmu_slot *slot);
/** Takes out the slot that begins at an address. 0, -ENOENT or -ENOMEM. */
int mmu_map_remove(struct mmu_map_edit *edit, u64 gpa);
/** The new map is in use and nobody can see the old one any more. */
void mmu_map_commit(struct mmu_map_edit *edit);
/** The old map stays. */
void mmu_map_abort(struct mmu_map_edit *edit);
void mmu_map_free(struct mmu_map *map);
/** The first slot that ends behind an address, or NULL. Any thread that may hold the map. */
struct mmu_slot *mmu_map_next(struct mmu_map *map, u64 gpa);

/** Forgets which slots were found last; a flush of everything does so, too. vCPU thread only. */
void mmu_slots_forget(struct cpu *cpu);
/** The slot that holds a guest-physical address in the vCPU's current address space, or NULL. */
struct mmu_slot *mmu_slot_find(struct cpu *cpu, u64 gpa);

/** Joins a vCPU to its VM's memory (TLB emptied). 0 or -ENOMEM. */
int mmu_cpu_init(struct cpu *cpu, struct mmu_vm *vm);
void mmu_cpu_destroy(struct cpu *cpu);

/* --- walks ---------------------------------------------------------------------------------- */

/**
 * Walks the guest's page tables for one address, checks permissions, sets A and, for writes, D
 * bits (atomically) unless `debug`. 0, or -1 with *fault filled and no exception recorded.
 */
int mmu_walk(struct cpu *cpu, u64 lin, unsigned access, bool debug, struct mmu_walk *out,
	     struct mmu_fault *fault);
/** Records a walk's failure as the guest's exception (or exit). Returns CPU_EXC or CPU_EXIT. */
int mmu_raise(struct cpu *cpu, const struct mmu_fault *fault);
/** Loads the PAE PDPTRs from CR3. 0, or -1: #GP is due, or cpu_leaving_guest(). */
int mmu_load_pdptrs(struct cpu *cpu, u64 cr3);

/** Makes a view of the TLB ready before generated code may ask it: its memory is there only when somebody does. */
void mmu_view_begin(struct cpu *cpu, unsigned view);
/** Empties the nested guest's views: other tables, INVVPID, INVEPT. */
void mmu_flush_guest(struct cpu *cpu);
/** Another level runs now; its views, and those of the one that ran, stay. */
void mmu_guest_switch(struct cpu *cpu);
/** Forgets what is remembered of the second stage's translations (another root, INVEPT). */
void mmu_stage2_flush(struct cpu *cpu);

/* --- checked accessors: CPU_OK, CPU_EXC, CPU_EXIT ---------------------------------------------- */

/** Reads n bytes (n <= 4096) at a linear address; nothing is delivered when any byte faults. */
int mmu_read(struct cpu *cpu, u64 lin, void *buf, unsigned n, unsigned access);
/** Writes n bytes; both pages of a crossing access are checked before either is written. */
int mmu_write(struct cpu *cpu, u64 lin, const void *buf, unsigned n, unsigned access);
/** Checks that an access would succeed, without doing it. */
int mmu_probe(struct cpu *cpu, u64 lin, unsigned n, unsigned access);
/*
 * mmu_read() from MMIO that user space must answer returns CPU_EXIT with CPU_EXIT_MMIO, nothing
 * done. mmu_write() to such MMIO queues it in cpu->mmio.write[], sets cpu->exit.reason to
 * CPU_EXIT_MMIO and returns CPU_OK: the instruction commits and the caller then leaves.
 */

/**
 * Atomic compare-and-exchange of 1, 2, 4 or 8 bytes within one page of RAM.
 * *old is compared, and updated when it differs; *done says whether the store happened.
 */
int mmu_cmpxchg(struct cpu *cpu, u64 lin, u64 *old, u64 new, unsigned n, bool *done,
		unsigned access);
/**
 * Host address for a plain access that lies within one page of RAM, for block operations such as
 * REP MOVS. *host is NULL when the page wants the slow path (MMIO, code, watchpoints).
 * *avail: bytes from there to the end of the page.
 */
int mmu_host(struct cpu *cpu, u64 lin, unsigned access, u8 **host, unsigned *avail);

/** Guest-physical reads and writes of RAM, for page tables, SMRAM, VMCBs. 0, or -1: not RAM. */
int mmu_phys_read(struct cpu *cpu, u64 gpa, void *buf, unsigned n);
int mmu_phys_write(struct cpu *cpu, u64 gpa, const void *buf, unsigned n);

/* --- what generated code calls on a TLB miss -------------------------------------------------- */

/** Outcome of mmu_resolve(). */
enum mmu_resolve_kind {
	MMU_DIRECT,    /* access host memory at cpu->jit_scratch[0] = host address */
	MMU_BOUNCED,   /* access cpu->bounce; a write then calls mmu_bounce_commit() */
	MMU_STOP_EXC,  /* an exception is recorded */
	MMU_STOP_EXIT, /* cpu->exit is set */
	MMU_STOP_STEP  /* the store would change the running block: run this instruction alone */
};
/**
 * Resolves a data access of generated code that missed the TLB, and fills the TLB when it may.
 * size up to sizeof(cpu->bounce); bounced reads are filled in. access: MMU_READ or MMU_WRITE (a
 * read-modify-write is MMU_WRITE and is bounced with its old value). `lock`: the instruction is
 * locked and must not be bounced within RAM (a crossing one is done under a VM-wide lock).
 */
enum mmu_resolve_kind mmu_resolve(struct cpu *cpu, u64 lin, unsigned size, unsigned access,
				  bool lock);
/**
 * Likewise, an operand whose two parts, of up to a page each, have addresses of their own: it is bounced, with
 * `gap` bytes between them that are not accessed. Not locked.
 */
enum mmu_resolve_kind mmu_resolve_two(struct cpu *cpu, const u64 lin[2], const unsigned size[2],
				      unsigned gap, unsigned access);
/**
 * Where client memory at a host address is in guest-physical space, for the signal handler's
 * report of a fault in generated code. False: in no slot.
 */
bool mmu_host_gpa(struct cpu *cpu, const void *host, u64 *gpa);
/** True, once, when the last exit was for mmio_ask. */
bool mmu_mmio_asked(struct cpu *cpu);
/** Whether instructions may go on all the same: set around jit_step(). */
void mmu_mmio_allow(struct cpu *cpu, bool allow);
/** Writes a bounced store back. 0; 1: leave the block behind this instruction (MMIO queued). */
int mmu_bounce_commit(struct cpu *cpu);
/**
 * Likewise of a store of up to 64 bytes that leaves some out: bit n of `bytes` stands for byte n, and
 * devices see only those. 0: nothing was stored. ~0: everything, whatever the size.
 */
int mmu_bounce_commit_bytes(struct cpu *cpu, u64 bytes);

/* --- the window: user memory translated by the host's MMU (window.c) ---------------------------- */

/**
 * Allows the window for a VM whose memory is mapped MAP_SHARED. `always`: no address space has to earn
 * it. Before vCPUs run. 0, -EBUSY (something in this process is where it would be), -ENOMEM.
 */
int mmu_window_enable(struct mmu_vm *vm, bool always);
/** The shape of a vCPU's window, which it has: its mode is MODE_WINDOW. */
const struct window_shape *mmu_window_shape(const struct cpu *cpu);
/** True when code of the window can have meant this host address, at which it faulted. */
bool mmu_window_has(const struct cpu *cpu, u64 host);
/** An interrupt is about to be delivered: the guest's own clock tells which program runs. */
void mmu_window_tick(struct cpu *cpu);
enum mmu_window_outcome {
	MMU_WINDOW_MAPPED, /* try again */
	MMU_WINDOW_FAULT,  /* the guest's #PF: mmu_window_raise() */
	MMU_WINDOW_ALONE,  /* the instruction has to run alone, through the software TLB */
};
/** Signal handler: generated code faulted at a host address in the window. */
enum mmu_window_outcome mmu_window_fault(struct cpu *cpu, u64 host, bool write);
/** Raises what mmu_window_fault() found. CPU_EXC. */
int mmu_window_raise(struct cpu *cpu);
/**
 * Jumps of the window's code will lead straight to a linear address, whose code is at a guest-physical one; gpa2: in the
 * next page, too, or ~0.
 */
void mmu_window_code(struct cpu *cpu, u64 rip, u64 gpa, u64 gpa2);
/** cpu->window_stale is set: makes the window true again, before its code runs. */
void mmu_window_refresh(struct cpu *cpu);
/** cpu->cr3 has a new value: the window may be due at once. */
void mmu_window_switched(struct cpu *cpu);

/* --- instruction fetch ------------------------------------------------------------------------ */

/**
 * Translates a code address. CPU_OK with the guest-physical address, a host pointer to that byte
 * (valid to the end of its page) and whether the translation is global; CPU_EXC (#PF with the
 * fetch bits), CPU_EXIT (MMIO).
 */
struct mmu_fetched {
	u64 gpa;
	const u8 *host;
	bool global;
};
int mmu_fetch(struct cpu *cpu, u64 lin, struct mmu_fetched *out);
/** Likewise when the translation is cached; false: mmu_fetch() has to walk. Nothing is recorded. */
bool mmu_fetch_cached(struct cpu *cpu, u64 lin, struct mmu_fetched *out);

/* --- invalidation ------------------------------------------------------------------------------ */

/** Drops everything, or everything but global pages, or one PCID, or one page. vCPU thread only. */
void mmu_flush_all(struct cpu *cpu);
void mmu_flush_nonglobal(struct cpu *cpu);
void mmu_flush_pcid(struct cpu *cpu, unsigned pcid);
void mmu_flush_page(struct cpu *cpu, u64 lin);
void mmu_flush_page_pcid(struct cpu *cpu, u64 lin, unsigned pcid);
/** Loads CR3 with `value` (bit 63: keep this PCID's entries) and flushes accordingly. PDPTRs and
 *  checks of the value are the caller's. */
void mmu_set_cr3(struct cpu *cpu, u64 value);
/** Drops write permission of all cached pages (dirty log enabled or read out). vCPU thread only. */
void mmu_flush_write(struct cpu *cpu);

/* --- code written by the client --------------------------------------------------------------- */

/** A vCPU comes from the client, which may have changed code. */
static inline void mmu_client_wrote(struct mmu_vm *vm)
{
	__atomic_fetch_add(&vm->client_epoch, 1, __ATOMIC_SEQ_CST);
}
/** The client makes an interrupt: by it the guest may learn of changed code. Before it is sent. */
static inline void mmu_client_event(struct mmu_vm *vm)
{
	if (vm->writes_told)
		return;
	mmu_client_wrote(vm);
	__atomic_fetch_add(&vm->client_events, 1, __ATOMIC_SEQ_CST);
}
/** The client has written here. True: it may have been code, vCPUs are to look. Any thread. */
bool mmu_client_wrote_at(struct mmu_vm *vm, u64 gpa, u64 bytes);

/* --- self-modifying code ---------------------------------------------------------------------- */

/**
 * The translator is about to read code bytes [gpa, gpa+n) of one page: their 64-byte chunks are
 * tracked from now on, for this vCPU; cached write permissions to the page are dropped on every
 * vCPU. Called BEFORE the bytes are read, or a store in between is lost.
 */
void mmu_code_add(struct cpu *cpu, u64 gpa, unsigned n);
/** The translator holds no more blocks from this page. */
void mmu_code_remove(struct cpu *cpu, u64 gpa);
/** The translator holds no blocks at all (jit_flush). */
void mmu_code_reset(struct cpu *cpu);
/** True when some vCPU may hold code translated from [gpa, gpa + size). Any thread. */
bool mmu_code_present(struct mmu_vm *vm, u64 gpa, u64 size);
/** Handles messages of other vCPUs about code pages. Called with cpu->poll seen as 0. */
void mmu_code_poll(struct cpu *cpu);

/* --- hostmem: accesses to client memory that may fault in the host ------------------------------ */

/** Copies with faults caught. 0, or -EFAULT when the client's mapping refused. */
int hostmem_copy(void *dst, const void *src, size_t n);
/** Atomic compare-and-exchange with faults caught: 0 or -EFAULT; *old updated, *done set. */
int hostmem_cmpxchg(void *p, u64 *old, u64 new, unsigned n, bool *done);
/** For the signal handler: where to continue when the host faulted at pc, or 0. */
u64 hostmem_fixup(u64 pc);

#endif
