/*
 * insn.h - the instruction differential test: the host CPU against the engine
 *
 * A case is an initial state (all registers, x87 and vector state), a small piece of code and a
 * memory image. It runs twice: natively in this process (native.c), and on an anykvm processor in
 * CPL 3 (engine.c) whose page tables give the same linear addresses the same contents. Everything
 * that the architecture lets a program see afterwards must be the same.
 *
 * Both sides see these linear addresses:
 *	INSN_DATA_VA  ten pages: absent, read-write, read-only (insn_page_kind)
 *	INSN_CODE_VA  executable, read-only; the cases' code, in slots; one piece of memory
 *	INSN_STUB_VA  a page that cases jump to when they are done: natively the code that saves
 *	              all registers, in the guest HLT (which is #GP in CPL 3)
 */
#ifndef INSN_INSN_H
#define INSN_INSN_H

#include <Zydis/Zydis.h>
#include "base/types.h"
#include "layout.h"
#include "rng.h"

#define INSN_XSAVE_SIZE 4096 /* room for the host's XSAVE area; what is used is insn_xsave_size */

/* Outcome of a case beside architectural vectors 0..31. */
enum {
	INSN_VEC_DONE = 0x100,	  /* reached the exit stub */
	INSN_VEC_TIMEOUT = 0x101, /* did not end */
	INSN_VEC_SYSCALL = 0x102, /* tried a system call */
	INSN_VEC_BROKEN = 0x103,  /* the engine gave up: `why` says how */
};

struct insn_regs {
	u64 gpr[16]; /* by encoding */
	u64 rip, rflags;
	u64 fs_base, gs_base;
	u16 sel[6]; /* ES CS SS DS FS GS */
};

struct insn_state {
	u8 xsave[INSN_XSAVE_SIZE] __attribute__((aligned(64)));
	struct insn_regs regs;
};

struct insn_result {
	u8 xsave[INSN_XSAVE_SIZE] __attribute__((aligned(64)));
	struct insn_regs regs;
	u32 vector;
	u32 error;
	u64 cr2;
	char why[120];
};

/* Processor mode of a case. */
enum insn_mode {
	INSN_LONG,
	INSN_COMPAT32, /* flat 32-bit code */
	INSN_SEG32,    /* 32-bit code, all segments with bases and limits */
	INSN_SEG16,    /* 16-bit code, likewise */
	INSN_MODES
};

/* The translator with another of its flag-free branches, and instruction by instruction … */
#define VARIANT_OTHER_BRANCH 1
#define VARIANT_STEP	     2
#define VARIANT_NO_GROUPS    4 /* every access has a TLB check of its own */
#define VARIANT_WINDOW	     8 /* the data area is reached through the window (mmu/window.c) */
#define INSN_VARIANTS	     9 /* combinations of these; stepping has no groups, and no window */

/* One instruction of a case; control flow within the case is resolved when it is laid out. */
#define INSN_ITEM_MAX 16
struct insn_item {
	u8 bytes[15];
	u8 len;
	u8 link_size; /* 1 or 4: the last bytes are a displacement to item `link`; 0: none */
	u8 link;      /* index of the target item, INSN_ITEM_MAX+: the end */
	u8 abs_size; /* 2 or 4: the last bytes are the offset in CS of item `link`; 8: its writable alias */
	u8 abs_add;    /* … plus this */
	u8 abs_tail;   /* bytes behind it */
	u8 rip_off;    /* offset of a disp32 that shall reach rip_target (RIP-relative); 0: none */
	bool rip_link; /* rip_target is an item (LEA of a code address) */
	u16 mnemonic;
	u64 rip_target;
	u32 tmpl; /* catalogue index */
};

struct insn_case {
	u64 seed, number;
	enum insn_mode mode;
	bool trap_end;	  /* ends with INT3 instead of a jump to the stub */
	bool smc;	  /* modifies its own code */
	bool far;	  /* loads segments or leaves its code segment */
	unsigned variant; /* of the engine, INSN_VARIANTS of them */
	bool wild;	  /* may jump to an address that it finds in memory */
	bool expect_ud;	  /* the host could run it, but the guest must not: #UD */
	bool overlong;	  /* more than 15 bytes: #GP */
	bool edge;	  /* the code area or code segment ends within the code */
	bool kernel;	  /* the engine runs it in CPL 0 */
	unsigned count;
	struct insn_item item[INSN_ITEM_MAX];
	u64 code_va; /* of the first instruction, linear */
	u64 ip;	     /* the same as an offset in CS */
	unsigned code_len;
	u32 ptr_mask, small_mask; /* GPRs that hold a data pointer, a small number */
	u8 vkind[32];		  /* enum state_vkind of each vector register */
	struct insn_state in;
};

/* --- native.c -------------------------------------------------------------------------------- */

/** Maps the stub, installs signal handlers and system call filter. 0, -1, or 1: this host cannot run
 * the test (says why). */
int native_init(void);
/** Runs a case on the host CPU. */
void native_run(const struct insn_case *c, struct insn_result *out);
/** The host's standard XSAVE format: size, offset of each component, components (XCR0). */
extern unsigned insn_xsave_size, insn_xsave_offset[8];
extern u64 insn_xsave_mask;

/* --- engine.c --------------------------------------------------------------------------------- */

struct engine;
struct engine_ops {
	const char *name;
	int (*init)(void);
	void (*run)(const struct insn_case *c, struct insn_result *out);
	/** All code slots will be reused. */
	void (*flush)(void);
	/** The watchdog's signal arrived outside native code. */
	void (*kick)(void);
	/** True when guests are not offered a Zydis ISA set: its instructions must be #UD. May be NULL. */
	bool (*masked)(unsigned isa_set);
};
extern const struct engine_ops engine_anykvm, engine_native, engine_broken;

/* --- segment.c: the local descriptor table --------------------------------------------------------- */

/** Descriptor n of the table, as the processor reads it. */
u64 segment_descriptor(unsigned n);
/** The linear address of an instruction pointer under a code selector. */
u64 segment_code_linear(u16 sel, u64 ip);
/** Gives the table to this process. */
void segment_init(void);
/** The kernel takes such a table. */
extern bool segment_available;
/** Random DS, ES, SS, FS, GS for a mode with segmentation. */
void segment_random(struct rng *r, struct insn_case *c);

static inline bool mode_segmented(enum insn_mode mode)
{
	return mode == INSN_SEG32 || mode == INSN_SEG16;
}

/* --- state.c: random initial states -------------------------------------------------------------- */

void state_init(u64 seed);
/** Fills the baseline of the data area. */
void state_memory(struct rng *r);
void state_random(struct rng *r, struct insn_case *c);
/** An address in or near the data area. */
u64 state_pointer(struct rng *r);
/** An offset at the end of 64 KiB, or at the beginning. */
u64 state_segment_end(struct rng *r);
/** The same for an operand of an instruction: often a whole image for those that load one. */
u64 state_target(struct rng *r, unsigned mnemonic);
/* What a vector register holds. */
enum state_vkind { V_RANDOM, V_F32, V_F64, V_SMALL32, V_SMALL64, V_ZERO, V_ONES, V_COUNT };

/* --- catalog.c: every encoding that Zydis knows ---------------------------------------------------- */

enum tmpl_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum tmpl_class { CLASS_INT, CLASS_X87, CLASS_SSE, CLASS_VEX, CLASS_EVEX, CLASS_PRIV, CLASS_COUNT };

struct tmpl {
	u8 enc, map, pp, w, ll, b;
	u8 opcode;
	s8 reg, rm; /* fixed ModRM fields, or -1 */
	bool modrm, mod3;
	u8 cls;
	u8 isa_set;
	u8 mode; /* enum insn_mode; those of INSN_LONG are tried in 32-bit mode too */
	u16 mnemonic;
	bool vsib;
	bool excluded;
	bool unsupported; /* always #UD on this host */
	bool masked;	  /* not offered to guests */
	const char *reason;
};

struct catalog {
	struct tmpl *tmpl;
	u32 count;
	/* Per class: mnemonics, and per mnemonic a range of `order` (template indices). */
	struct {
		struct catalog_mnem {
			u16 mnemonic;
			u32 first, count;
		} * mnem;
		u32 count;
	} cls[INSN_MODES][CLASS_COUNT];
	u32 *order;
	u32 *undefined, undefined_count; /* unsupported or masked ones */
};
extern struct catalog catalog;
extern ZydisDecoder insn_decoder[INSN_MODES]; /* by enum insn_mode */

/** Enumerates all encodings. */
void catalog_init(void);
/** Why a decoded instruction is not tested, or NULL. */
const char *catalog_excluded(const ZydisDecodedInstruction *in);
/** Tests on the host which templates are always #UD, and asks the engine which are masked. */
void catalog_probe(const struct engine_ops *engine);
/** Prints what was covered (hits per template) and what was not. */
void catalog_report(const u32 *hits, bool verbose);
/** Prints a line for every mnemonic: encodings, covered ones, cases, or why there are none. */
void catalog_coverage(const u32 *hits, const u64 *mnemonic);
/** Encodings that this host has, and those of them that were not covered. */
u32 catalog_usable(const u32 *hits, u32 *missed);

/* --- gen.c: cases -------------------------------------------------------------------------------------- */

enum gen_mode { GEN_ENUM, GEN_RANDOM, GEN_SEQ, GEN_UD, GEN_COUNT };
/** Makes case `number`: state and instructions, not laid out. */
void gen_case(struct insn_case *c, enum gen_mode mode, u64 seed, u64 number);
/** A random state for a case that is made by hand. */
void gen_state(struct rng *r, struct insn_case *c, enum insn_mode mode);
/** One random instruction from a template. false: no luck. */
bool gen_insn(struct rng *r, const struct insn_case *c, u32 tmpl, struct insn_item *out);
/** Writes a case's code at an address of the code area. */
void gen_layout(struct insn_case *c, u64 va);

/* --- compare.c -------------------------------------------------------------------------------------------- */

/**
 * Compares two outcomes and the two data areas. Returns NULL when they agree, else a description
 * of the first difference (in `text`).
 */
const char *compare(const struct insn_case *c, struct insn_result *nat, struct insn_result *eng,
		    char *text, size_t size);
/** The flags an instruction leaves that are not compared on this host (insn_undef.def). */
u32 compare_undefined(unsigned mnemonic);
/** Compare even what insn_loose.def leaves open: the self-test, where both sides are the host. */
extern bool compare_strict;
/** Puts both data areas back to the baseline. */
void compare_restore(void);
/** Prints a case: code, disassembly, what went in. */
void report_case(const struct insn_case *c, const struct insn_result *nat,
		 const struct insn_result *eng, const char *what);

#endif
