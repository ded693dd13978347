/*
 * jit_internal.h - shared by the translator's files
 *
 * Register mapping (host ← guest):
 *	rax rdx rbx rbp rsi rdi r12 r13          the guest's register of the same name
 *	r14                                      guest RSP
 *	r15                                      guest RCX
 *	r8                                       guest R14
 *	STACK_GPR(n)(%rsp)                       guest R8 to R11, R15 ("memory-homed")
 *	r9                                       in the window: S, what is added to RSP; else nothing
 *	r10, r11, rcx                            scratch: address A, index/addend B, test T
 *	rsp                                      the host's stack, 16-byte aligned inside blocks; in the
 *	                                         window its mask (mmu/window.h)
 * RCX is scratch because LOOP and JRCXZ are the only branches that need no flags.
 */
#ifndef JIT_JIT_INTERNAL_H
#define JIT_JIT_INTERNAL_H

#include <Zydis/Zydis.h>
#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "cpu/mode.h"
#include "jit/emit.h"
#include "jit/jit.h"
#include "mmu/mmu.h"
#include "mmu/window.h"

#define REG_A	   H_R10
#define REG_B	   H_R11
#define REG_T	   H_RCX
#define REG_S	   H_R9
#define REG_MEMORY 0xff

#define GS(field)  ((u32)offsetof(struct cpu, field))
#define SCRATCH(n) ((u32)(offsetof(struct cpu, jit_scratch) + 8 * (n)))
#define GS_GPR(n)  ((u32)(offsetof(struct cpu, gpr) + 8 * (n)))

/*
 * The frame on the host's stack while guest code runs: memory-homed registers, and constants that enter leaves
 * there. Operands are shorter than in struct cpu; and what was stored by way of RSP, processors hand to the next
 * load as if it were in a register (Zen 4: an addition to such memory has a latency of 1 cycle, to struct cpu of 13).
 */
#define STACK_GPR(n)	  (8 * ((n) == R15 ? 4 : (s32)(n)-R8))
#define STACK_TLB_MASK	  40
#define STACK_PAGE_MASK	  48
#define STACK_UPPER_MASK  56
#define STACK_WINDOW_PART WINDOW_TABLE
#define STACK_FRAME	  72

/** dst = what makes of `host`, an address of the program's, one of the window. */
static inline void emit_window(struct emit *e, unsigned dst, unsigned host)
{
	emit_pext(e, dst, host, H_RSP);
	emit_load_stack_index(e, dst, dst, STACK_WINDOW_PART);
}

/* Why generated code came back to the dispatcher (value of jit_enter). */
enum jit_stop {
	JIT_NEXT, /* cpu->rip says where to go on */
	JIT_LINK, /* jit_scratch[2] = struct jit_link: go to its target and patch it */
	JIT_INSN, /* jit_scratch[2] = struct cpu_insn to execute in C; cpu->rip is at it */
	JIT_CALLED, /* likewise, C executed it within its block and could not go on: [3] = enum cpu_ret */
	JIT_RESOLVE, /* jit_scratch[1] = return address into a cold stub, [3] = mmu_resolve_kind */
	JIT_COMMIT,  /* likewise, a bounced store is done: go on behind the instruction */
	JIT_FAULT,   /* the host raised a signal: struct jit.fault */
	JIT_POLL,    /* jit_scratch[1] = return address: the instruction is yet to run */
	JIT_TARGET, /* jit_scratch[1] = return address: a computed jump to cpu->rip, its effects done */
};

struct jit_link;

/* One host address range ↔ one guest instruction, for faults and stops in its middle. */
struct jit_mark {
	u32 host;  /* offset from the block's entry, or from its first stub; each group ascends */
	u16 guest; /* offset from the block's first byte */
	u8 len;	   /* guest bytes of the instruction, JIT_MARK_FLOW */
	s8 sp;	   /* what RSP was ahead of its register before it (jit_sp_runs()) */
};

/* Where generated code stopped before: a device's driver does it again and again at the same place. */
#define JIT_STOPS 64u
struct jit_stopped {
	u64 pc; /* in the host's code; 0: none */
	const struct jit_block *block;
	const struct jit_mark *mark;
};

/* A guest page that blocks were translated from (page.c). */
struct jit_page {
	struct jit_page *next;
	u64 gfn;
	u64 epoch;	/* in which its bytes were last compared … */
	const u8 *host; /* … there … */
	u64 reach;	/* … and jit.reach then */
	u64 chunks;	/* those that code was read from: sum[] is known */
	struct jit_block *blocks;
	bool busy; /* being translated from: stays tracked without blocks */
	u64 sum[PAGE_SIZE / 64];
};

/*
 * A block of user code is position-independent: it is found by its guest-physical address alone,
 * has rip 0, and takes the linear address of its page from cpu->code_base. Its entry for
 * computed jumps sets that; jumps within the page enter behind it.
 */
#define JIT_NO_B 0xff

struct jit_block {
	/* one line of the host's cache: what a search looks at */
	u64 gpa, rip;
	struct jit_block *hash_next;
	struct jit_page *page;
	u8 *code; /* entry, writable view */
	u64 gpa2; /* second page of a block whose only instruction crosses pages, or ~0 */
	u32 mode, guest_len;
	s32 rsp_change; /* what the computed jump that ends the block did to RSP */
	bool dead;
	bool relative; /* position-independent */
	u8 retires;    /* PMU_INSN_* of a block of one instruction */
	u8 b_reg; /* a register whose distance in the window jumps may bring in B, or JIT_NO_B … */

	u8 *body;   /* entry of jumps within the page */
	u8 *body_b; /* … their entry */
	u8 *cold;   /* its stubs, in the cold half of the cache */
	u32 host_len, cold_len;
	u32 hot_marks, mark_count;
	struct jit_mark *mark;
	struct jit_link *in;  /* patched jumps that lead here */
	struct jit_link *out; /* this block's links */
	struct jit_block *page_next, *cross_next;
};
_Static_assert(offsetof(struct jit_block, body) == 64, "one line");

struct jit_link {
	u8 *site;   /* the rel32 field, writable view */
	u8 *stub;   /* where it leads while unpatched */
	u64 target; /* guest RIP; its offset in the page when position-independent */
	struct jit_block *from, *to;
	struct jit_link *next_out;
	u32 mode;		    /* of the block it leads to */
	struct jit_link *next_mode; /* jit.mode_links: those whose mode is not from's */
	struct jit_link *next_in, **prev_in;
	struct jit_link *next_cross; /* jit.cross_links of its page */
	bool cross, listed;	     /* it leads to another page (cross.c); it is on the list */
	u8 b_reg; /* the register whose distance in the window B has, or JIT_NO_B */
};

/*
 * Jump cache: the low bits of RIP are the index. A kernel has some ten thousand targets, and they
 * should not fight for slots. Slot 0 is where all jumps look while cpu.poll is cleared; 0, the empty
 * tag, stands for RIP 1. So slots 0 and 1 are never filled: their tag stands for RIP 2, and in slot 0,
 * where that can match, the code is the way out.
 */
#define JIT_JC_NOWHERE (~0ull)
#define JIT_JC_FIRST   2
#define JIT_JC_NO_MODE \
	BIT(31) /* in jc_mode: nobody has had the view yet, its slots 0 and 1 are not there */
_Static_assert(CPU_GO_ON == (JIT_JC_SIZE - 1) * sizeof(struct jit_jump),
	       "an offset in the jump cache");

/* CR4 bits that inline.c relies on and no mode bit tells. */
#define JIT_CR4 (CR4_SMAP | CR4_FSGSBASE)

#define JIT_HASH_BITS	   20
#define JIT_HASH_SIZE	   (1u << JIT_HASH_BITS)
#define JIT_PAGE_HASH_SIZE 4096u
#define JIT_REACHED	   512u
#define JIT_CROSS_BITS	   10

/* Which slots of a jump cache are filled. */
struct jit_jump_log {
	u32 local_count, global_count;
	u32 *local,
		*global; /* in struct jit_jump_log_room: flushing an empty cache touches no page of it */
	u8 *state;
};

struct jit_jump_log_room {
	u32 local[JIT_JC_SIZE], global[JIT_JC_SIZE];
	u8 state[JIT_JC_SIZE];
};

/* What Zydis said of an instruction, for others of its kind (decode_cache.c). */
#define JIT_DECODED_BITS  11
#define JIT_DECODED_OPS	  5
#define JIT_DECODED_NO_OP 7
struct jit_decoded_op {
	u8 type : 3, mem_type : 3, visibility : 2;
	u8 encoding, actions;
	u8 segment, index, scale;
	u16 reg; /* or base, or an immediate that is no byte of the instruction */
	u16 size, element_size, element_count;
};
struct jit_decoded {
	u64 head; /* the key */
	u32 tail; /* 0: empty */
	u16 mnemonic;
	u8 length, opcode;
	u64 attributes;
	u8 encoding : 4, opcode_map : 4;
	u8 operand_width, address_width, operand_count;
	u8 category, isa_set, isa_ext, exception_class;
	u8 branch_type : 4, broadcast_static : 1, based : 1; /* based: mem_op has a base register */
	u8 broadcast, prefix_type;
	u8 reg_first, rm_first; /* of the registers' classes */
	u16 vector_length, mask;
	u8 imm_bytes[2];
	u16 reg_op : 3, rm_op : 3, mem_op : 3; /* operands to be filled in */
	u8 imm_op[2], imm_signed[2];
	u8 disp_scale;	      /* of EVEX's compressed displacement, else 1 */
	bool allowed, copied; /* see struct trans */
	struct jit_decoded_op op[JIT_DECODED_OPS];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct jit_decoded) == 128, "two cache lines");

struct jit {
	u8 *rw, *rx; /* the cache, two views of one memfd */
	size_t size;
	u8 *code_start; /* behind the thunks; what runs is together, misses and exits apart */
	u8 *code_next, *code_end;
	u8 *cold_next;			 /* from code_end to the end of the cache */
	void *tables;			 /* one mapping: hash, by_address, meta */
	u8 *meta, *meta_next, *meta_end; /* blocks, links, marks, insns: reset with the cache */
	struct jit_block **by_address;	 /* ascending host address, for lookups by host PC */
	u32 block_count, block_max;
	struct jit_block **hash;    /* JIT_HASH_SIZE, by gpa, rip, mode */
	struct jit_page **page;	    /* JIT_PAGE_HASH_SIZE, by gfn */
	struct jit_block *crossing; /* blocks that reach into a second page */
	ZydisDecoder decoder[4];    /* 64-bit, 32-bit, 16-bit protected, real mode */
	struct jit_link *mode_links;
	struct jit_link *cross_links
		[1u << JIT_CROSS_BITS]; /* that were patched since all were taken back, by page */
	bool cross_any;			/* there are some */
	u64 cr4;			/* its bits JIT_CR4 that the blocks were translated for */
	struct jit_stopped stopped[JIT_STOPS]; /* by their places */
	u32 jc_mode[MMU_TLB_COUNT];	       /* the mode whose blocks a jump cache holds */
	bool flush_wanted;
	int perfmap;	/* descriptor + 1 of the file of perfmap.c; 0: none */
	bool fsgsbase;	/* the host lets user mode write GS base */
	bool entered;	/* between jit_enter() and jit_leave() */
	u64 client_gs;	/* … GS base before */
	bool use_loop;	/* LOOP is fast (AMD); else JRCXZ over a jump */
	bool no_groups; /* group.c is switched off, for comparison */
	struct {
		u8 *enter, *enter_window, *next, *link, *insn, *resolve_read, *resolve_write,
			*commit, *fault, *poll, *target, *lookup, *again, *called;
	} thunk;
	struct {
		int signo, trapno, code;
		bool window; /* an access through the window: see outcome */
		enum mmu_window_outcome outcome;
		u64 pc, address, error;
	} fault;
	u8 bounce[192] __attribute__((aligned(64))); /* a bounced access at its own alignment */
	u8 *bounce_at;
	u32 bounce_size;
	bool bounce_x87;  /* an x87 store, which an unmasked exception stops */
	u64 bounce_bytes; /* those that a masked store writes, ~0: all */
	struct jit_jump_log jc_log[MMU_TLB_COUNT];
	u64 client_events; /* mmu_vm.client_events that the jump caches have seen */
	bool client_came;  /* a new epoch: code may have changed since it was compared */
	/* page.c: the pages that jumps lead into without the dispatcher; more than there is room for: not known */
	struct jit_page *reached[JIT_REACHED];
	u32 reached_count, reached_chunks;
	u64 reach; /* moves whenever there are none */
	u64 stat_client_writes, stat_jc_misses, stat_links_again, stat_jc_flushes,
		stat_jc_local_flushes;
	u64 stat_blocks, stat_insns, stat_flushes, stat_links, stat_dispatch,
		stat_cinsn[CPU_OP_COUNT];
	u8 *code_ready, *cold_ready; /* up to where the cache has memory already */
	bool meta_huge;		     /* the rest of meta was advised to be huge pages */
	u64 stat_decodes;	     /* those that Zydis did */
	u32 decoded_turn;
	struct jit_decoded decoded[1u << JIT_DECODED_BITS]; /* pairs by hash */
	struct jit_jump_log_room jc_log_room[MMU_TLB_COUNT];
};

/* What the translator holds while it makes one block. */
#define JIT_MARK_FLOW	0x80u /* in jit_mark.len: a commit resumes in the block (CALL) */
#define JIT_BLOCK_INSNS 48
/* An instruction has at most 8: a branch to another page its poll, exit and jump, twice in a group. */
#define JIT_COLD_MAX 512

struct cold {
	u8 *from;    /* jump field to fill in with this stub's address (rel32) */
	u8 *hot;     /* where to continue */
	u8 *hot_end; /* end of the instruction's bytes to repeat on a bounced store; NULL: read */
	u64 desc;
	u16 insn;   /* index into marks */
	bool plain; /* belongs to a second translation */
	enum { COLD_ACCESS, COLD_LINK, COLD_POLL, COLD_TARGET, COLD_INSN, COLD_AGAIN } kind;
	struct jit_link *link;
	u64 target; /* COLD_LINK: guest RIP; COLD_INSN: struct cpu_insn */
	u64 rip;    /* COLD_INSN */
	u8 base;    /* COLD_ACCESS: A is this host register + disp */
	s32 disp;
};

/* [base + index + disp] */
struct host_operand {
	int base, index;
	s32 disp;
};

/* Where a TLB check can still be changed: fields of 32 bits. */
struct check {
	u8 *address; /* displacement of the LEA that made A; NULL: there is none */
	u8 *tag;     /* displacement of the tag */
	u8 *reach;   /* distance to the byte that must be in the page, too */
	bool narrow; /* that is a field of 8 bits */
};

/* An address for jit_emit_check(): the page of `reg` is looked up, and has to hold reg + reach. */
struct host_address {
	unsigned reg;
	s32 reach;
	s32 disp;   /* of the access itself */
	bool based; /* reach may be a field of 8 bits */
};

/* Accesses that share one check (group.c). */
#define JIT_GROUP_MAX 24
struct group {
	struct check check;
	unsigned reg; /* guest base register */
	s64 lo, hi;   /* bytes touched, from the base register's value at the check */
	s64 shift;    /* what was added to the base register since */
	bool write;
	bool open, joined;    /* others may join; have joined */
	bool based;	      /* the page is the base register's own: lo >= 0 */
	unsigned first, last; /* instructions */
};

/* What A may have a copy of: a memory-homed register, or FS's base, a base of operands in the window. */
#define A_FS	  16u
#define A_NOTHING 0xffu

struct trans {
	struct emit e;
	struct cpu *cpu;
	struct jit *jit;
	struct jit_block *block;
	u32 mode;
	u64 start;		    /* guest RIP of the block */
	u64 pc, next_pc;	    /* of the current instruction */
	bool relative;		    /* the block is position-independent */
	ZydisDecodedInstruction in; /* only what decode_cache.c's unpack() fills in */
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	bool allowed;	 /* jit_isa_check() need not be asked */
	bool copied;	 /* nor jit_classify(): C does not execute it */
	const u8 *bytes; /* of the current instruction */
	struct cold cold[JIT_COLD_MAX];
	unsigned cold_count;
	struct jit_mark mark[2 * JIT_BLOCK_INSNS + JIT_COLD_MAX];
	struct group group[JIT_GROUP_MAX];
	unsigned group_count;
	struct group *b_group; /* whose addend is in B; NULL: none's */
	bool keeps_b;	       /* the current instruction leaves B alone */
	u8 a_guest;	 /* in the window: what lives in memory and A has, too (jit_emit_a()) */
	bool keeps_a;	 /* the current instruction knows what a_guest is behind it */
	bool plain;	 /* every access has a check of its own */
	bool window;	 /* memory is reached through the window */
	bool stack_used; /* … and a stack access has been, by S */
	s32 sp_ahead;	 /* guest RSP - its register (stack.c) */
	const u8 *guest; /* the block's bytes */
	u8 *tail;	 /* behind the last instruction */
	unsigned insn_count, mark_count;
	bool sti, shadow; /* this, or the one before, was an inline STI */
	bool ended;	  /* the last instruction left the block */
};

/* A has been given the value of a memory-homed register. */
static inline void jit_a_has(struct trans *t, unsigned reg)
{
	t->a_guest = t->window && !t->plain ? (u8)reg : A_NOTHING;
}

/* Register classes, as Zydis numbers them. */
static inline bool jit_is_gpr(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15;
}

static inline bool jit_is_mmx(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_MM0 && r <= ZYDIS_REGISTER_MM7;
}

static inline bool jit_is_xmm(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_XMM0 && r <= ZYDIS_REGISTER_XMM31;
}

/* cache.c */
int jit_cache_init(struct jit *jit, size_t size);
void jit_cache_destroy(struct jit *jit);
void jit_cache_prepare(struct jit *jit);
void *jit_meta_alloc(struct jit *jit, size_t n);
/** Likewise, at the begin of one of the host's cache lines. */
void *jit_meta_alloc_line(struct jit *jit, size_t n);
void jit_cache_reset(struct cpu *cpu);
struct jit_block *jit_block_find(struct jit *jit, u64 gpa, u64 rip, u32 mode);
void jit_block_add(struct jit *jit, struct jit_block *b);
struct jit_block *jit_block_by_host(struct jit *jit, u64 host_pc);
void jit_link_patch(struct jit_link *link, struct jit_block *to);
void jit_link_unpatch(struct jit_link *link);
/** Turns back all jumps between blocks of different modes. */
void jit_mode_links_drop(struct jit *jit);
/** Guest RIP offset mark for a host PC within a block. */
const struct jit_mark *jit_mark_find(const struct jit *jit, const struct jit_block *b, u64 host_pc);
/** Executable-view address of a writable-view address. */
static inline u64 jit_exec(const struct jit *jit, const u8 *p)
{
	return (u64)(p - jit->rw + jit->rx);
}

/**
 * True when the block at a linear address is position-independent: code that processes share. Not
 * in the window, which only one process has, and not
 * where a branch could leave the canonical addresses, which depends on where the code lies.
 */
static inline bool jit_is_relative(u32 mode, u64 rip)
{
	return (mode & (MODE_LONG | MODE_CPL | MODE_WINDOW)) ==
		       (MODE_LONG | 3u << MODE_CPL_SHIFT) &&
	       rip < 0x7fff00000000ull;
}

/* jump_cache.c */
u64 jit_jc_find(const struct cpu *cpu, unsigned view, u64 rip);
void jit_jc_fill(struct cpu *cpu, unsigned view, u64 rip, const struct jit_block *b, bool global);
u64 jit_jc_lookup(struct cpu *cpu);
void jit_jc_flush_view(struct cpu *cpu, unsigned view);
void jit_jc_drop_block(struct cpu *cpu, const struct jit_block *b);
void jit_jc_take(struct cpu *cpu, unsigned view, u32 mode);

/* cross.c */
void jit_cross_patch(struct jit *jit, struct jit_link *link, struct jit_block *to);
u64 jit_link_again(struct cpu *cpu, struct jit_link *link);

/* page.c */
struct jit_page *jit_page_find(struct jit *jit, u64 gfn);
bool jit_page_current(const struct cpu *cpu, const struct jit_page *p);
void jit_pages_unreached(struct jit *jit);
void jit_pages_recheck(struct cpu *cpu);
struct jit_page *jit_page_get(struct cpu *cpu, u64 gfn, const u8 *host);
void jit_page_check(struct cpu *cpu, struct jit_page *p, const u8 *host);
int jit_page_read(struct cpu *cpu, struct jit_page *p, const u8 *host, unsigned k, u8 *to);

/* thunks.c */
void jit_thunks_emit(struct cpu *cpu);

/* signal.c: the vCPU whose generated code this thread runs, for the handlers. */
void jit_signal_enter(struct cpu *cpu);
void jit_signal_leave(void);
/** The vCPU whose code this thread runs, or NULL. Async-signal-safe. */
struct cpu *jit_signal_running(void);

/* translate.c: returns the block, or NULL with *ret CPU_EXC/CPU_EXIT, or cache full (*ret CPU_OK). */
struct jit_block *jit_translate(struct cpu *cpu, const struct mmu_fetched *at, u64 rip, u32 mode,
				int *ret);
void jit_link_cross(struct jit *jit, struct jit_link *link);

/*
 * decode_cache.c: decodes the instruction at p, of which n bytes count, into t->in and t->op; 16
 * bytes at p can be read. What is no instruction has a length, too.
 */
ZyanStatus jit_decode(struct trans *t, const u8 *p, u32 n);
/* decode.c: the same by Zydis; and which of jit.decoder does it. */
ZyanStatus jit_decode_uncached(struct trans *t, const u8 *p, u32 n);
bool jit_vex_opmask(unsigned map, u8 opcode);
static inline unsigned jit_decoder_index(u32 mode)
{
	return mode & MODE_LONG ? 0 : mode & MODE_CS32 ? 1 : mode & MODE_PE ? 2 : 3;
}
/* classify.c: CPU_OP_NONE: an ordinary instruction, to be copied. */
unsigned jit_classify(struct trans *t, struct cpu_insn *out);
/* length.c: the length of what Zydis does not decode, as far as n bytes tell: above n, above 15. */
u32 jit_insn_length(const struct cpu *cpu, u32 mode, const u8 *p, u32 n);
/* isa.c: CPU_OP_NONE when the guest's CPU has the instruction and may use it now, else UD or NM. */
unsigned jit_isa_check(const struct cpu *cpu, u32 mode, const ZydisDecodedInstruction *in,
		       const ZydisDecodedOperand *op);

/* The same, whatever CPU and mode; likewise, that jit_classify() says CPU_OP_NONE. */
bool jit_isa_always(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op);
bool jit_classify_never(const struct trans *t);

/* An instruction that C executes without leaving the block it is in (inline.c). */
struct jit_called {
	struct cpu_insn insn;
	const struct jit_block *block;
};
/** Executes it. 0: the block may go on behind it; else jit_scratch[3] says how it ended. */
u64 jit_called(struct cpu *cpu, const struct jit_called *at);

/* inline.c: hot instructions of C's list that generated code does itself. True: done. */
bool jit_emit_inline(struct trans *t, const struct cpu_insn *c);

/* memory.c */
/** A stub that the rel32 field `from` leads to. */
struct cold *jit_cold_add(struct trans *t, u8 *from, unsigned kind);
/** A branch to a cold stub of `kind` unless T is 1. */
struct cold *jit_emit_unless_one(struct trans *t, unsigned kind);
/** Host register that holds a guest register, or REG_MEMORY. */
extern const u8 jit_home[16];
/** Emits the offset of a memory operand into dst, A and B being free; 64 bits of it when `w`. */
void jit_emit_offset(struct trans *t, const ZydisDecodedOperand *op, s64 extra, unsigned dst,
		     bool w);
/** Emits the address of a memory operand into A: linear, or the offset when segments are not flat. */
void jit_emit_address(struct trans *t, const ZydisDecodedOperand *op, s64 extra_disp, u64 *desc);
/** The second half of jit_emit_address, for an offset already in A. */
void jit_emit_segment(struct trans *t, const ZydisDecodedOperand *op, u64 *desc);
/** Emits translation of A into host A+B (T destroyed); desc from jit_emit_address, size, access. */
struct cold *jit_emit_access(struct trans *t, unsigned size, unsigned access, bool lock, u64 desc);
/** Likewise for an address of the caller's; *check, when not NULL, tells where it can be patched. */
struct cold *jit_emit_check(struct trans *t, struct host_address at, unsigned size, unsigned access,
			    bool lock, u64 desc, struct check *check);
/** B = what makes of `host`, an address of the program's, one of the window. */
void jit_emit_window(struct trans *t, unsigned host);
/** The displacement of the TLB's tags from GS base. */
u32 jit_tlb_tag(const struct trans *t, bool write);
/** The displacement of its addends. */
u32 jit_tlb_addend(const struct trans *t);
/** The instruction's own bytes begin here (after jit_emit_access) and end there. */
void jit_access_end(struct trans *t, struct cold *c);
void jit_emit_reg_load(struct trans *t, unsigned host, unsigned guest);
void jit_emit_a(struct trans *t, unsigned reg);
void jit_emit_reg_store(struct trans *t, unsigned guest, unsigned host);
unsigned jit_gpr_index(ZydisRegister r);
#define X87_REGISTER 10u /* bytes */

#define DESC_SIZE		0xffffu
#define DESC_WRITE		BIT(16)
#define DESC_LOCK		BIT(17)
#define DESC_SEG_SHIFT		18
#define DESC_SEG		(7u << DESC_SEG_SHIFT)
#define DESC_ALIGN		BIT(23) /* #GP(0) when not aligned to its size, before any translation */
#define DESC_RMW		BIT(22)
#define DESC_X87		BIT(24)	  /* a pending x87 exception comes before the access */
#define DESC_MM			BIT(26)	  /* MXCSR.MM overrides DESC_ALIGN */
#define DESC_HALVES		BIT(25)	  /* checked as two accesses of half the size */
#define DESC_MASK		BIT64(32) /* under a mask, which the bits above describe (mask.c) */
#define DESC_MASK_VECTOR	BIT64(33)
#define DESC_MASK_PACKED	BIT64(34)
#define DESC_MASK_REG_SHIFT	36
#define DESC_MASK_ELEMENT_SHIFT 40
#define DESC_MASK_COUNT_SHIFT	44
#define DESC_WRAP_SHIFT		52 /* where the addresses of an operand in parts wrap */
#define DESC_WRAP		(3ull << DESC_WRAP_SHIFT)
#define DESC_WRAP_64K		1
#define DESC_WRAP_4G		2
/* A plain load of a general register, never under a mask (operand.c). */
#define DESC_LOAD	    BIT64(35)
#define DESC_LOAD_REG_SHIFT 36
#define DESC_LOAD_TO_SHIFT  40 /* log2 of the bytes of the register that are written */
#define DESC_LOAD_SIGN	    BIT64(42)
#define DESC_LOAD_HIGH	    BIT64(43)
/* MASKMOVDQU, MASKMOVQ: all bytes are looked at, those with a sign in the mask are written (mask.c). */
#define DESC_MASKMOV	 BIT64(54)
#define DESC_MASKMOV_MMX BIT64(55)
#define DESC_CHECK	 BIT(21) /* A is an offset: C code checks the segment */

/* group.c */
/** True when a memory operand is base + displacement as groups want it. */
bool jit_group_operand(const struct trans *t, const ZydisDecodedOperand *op, unsigned *reg,
		       s32 *disp);
/**
 * Emits the check of an access at [reg + disp], or none when it joins a group. True: the operand is
 * [home of reg + B + disp]; *c is NULL or the stub, for jit_access_end(). False: nothing was done.
 */
bool jit_group_access(struct trans *t, unsigned reg, s32 disp, unsigned size, unsigned access,
		      bool lock, u64 desc, struct cold **c);
unsigned jit_group_base(unsigned reg);
unsigned jit_group_addend(const struct trans *t, unsigned reg);
void jit_group_stack(struct trans *t);
unsigned jit_group_b(const struct trans *t);
/** True when an operand at a fixed address is in the window: then *host is where the host has it. */
bool jit_window_static(const struct trans *t, const ZydisDecodedOperand *op, u64 *host);
void jit_group_shift(struct trans *t, int n);
void jit_group_next(struct trans *t);
void jit_group_end(struct trans *t);
void jit_group_regions(const struct trans *t, s16 *end);

/* mask.c */
u64 jit_maskmov_desc(const struct trans *t);
u64 jit_maskmov_bytes(u64 desc);
u64 jit_mask_desc(const struct trans *t, const ZydisDecodedOperand *mem);

/* operand.c */
bool jit_cache_line_op(const struct trans *t);
u64 jit_operand_desc(const struct trans *t, unsigned size);
bool jit_operand_in_parts(const struct trans *t, unsigned size);
u64 jit_mask_active(u64 desc, unsigned size, unsigned *shift);

/* rewrite.c: ordinary instructions. False: not expressible (a #UD is due). */
bool jit_emit_ordinary(struct trans *t);
/* flow.c, stack.c: true when the mnemonic was handled. */
bool jit_emit_flow(struct trans *t);
bool jit_emit_stack(struct trans *t);
/** Ends the block with a jump to a static guest address. */
void jit_emit_goto(struct trans *t, u64 target);
/** Likewise, in another mode (one bit of cpu->mode was changed by the code before). */
void jit_emit_goto_mode(struct trans *t, u64 target, u32 mode);
/** Ends the block: guest RIP in A. */
void jit_emit_goto_a(struct trans *t);
void jit_emit_poll(struct trans *t);
void jit_emit_jump_cache(struct trans *t);
/** The jump cache's line of an address that a computed jump will go to soon. */
void jit_emit_prefetch(struct trans *t, u64 rip);
/** A = stack pointer + disp (stack.c); and RSP += n. */
void jit_emit_sp_address(struct trans *t, int disp, u64 *desc);
struct host_operand jit_emit_sp_access(struct trans *t, int disp, unsigned size, unsigned access,
				       struct cold **c);
/** Such an access takes nothing but S: A, B and T keep what they have. */
bool jit_sp_by_s(const struct trans *t);
/** May what RSP is ahead of its register stay so over the current instruction, or become so? */
bool jit_sp_runs(const struct trans *t);
/** The register of RSP becomes RSP. */
void jit_emit_sp(struct trans *t);
void jit_emit_sp_add(struct trans *t, int n);
void jit_emit_store_rip(struct trans *t, u64 rip);
/** reg = a guest RIP near this block. */
void jit_emit_rip(struct trans *t, unsigned reg, u64 rip);

/* resolve.c: called from thunks */
u64 jit_resolve(struct cpu *cpu, u64 lin, u64 desc);
u64 jit_commit(struct cpu *cpu);

#endif
