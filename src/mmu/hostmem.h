/*
 * hostmem.h - single accesses to client memory, inline
 *
 * Guest memory is the client's own mapping: it may be unmapped, protected or behind the end of a
 * file at any moment. Every access of ours is one instruction that an exception table knows; the
 * signal handler of the jit layer asks hostmem_fixup() where to go on.
 *
 * A table row is two 32-bit distances, from the row itself to the instruction and to its fixup,
 * so it needs no relocation.
 */
#ifndef MMU_HOSTMEM_H
#define MMU_HOSTMEM_H

#include "base/types.h"

#define HOSTMEM_ROW(insn, fixup)               \
	".pushsection anykvm_extable, \"a\"\n" \
	".balign 4\n"                          \
	".long " insn " - .\n"                 \
	".long " fixup " - .\n"                \
	".popsection\n"

/* Label 1 faulted: set the error register, go on at label 2. */
#define HOSTMEM_FIXUP                                \
	".pushsection .text.hostmem_fixup, \"ax\"\n" \
	"3: movl $1, %[err]\n"                       \
	"jmp 2b\n"                                   \
	".popsection\n" HOSTMEM_ROW("1b", "3b")

#define HOSTMEM_LOAD(name, type, insn, reg)                                            \
	static inline bool name(const void *p, type *out)                              \
	{                                                                              \
		type v_;                                                               \
		u32 err = 0;                                                           \
		__asm__ volatile("1: " insn " %[mem], %" reg "[v]\n2:\n" HOSTMEM_FIXUP \
				 : [v] "=&q"(v_), [err] "+&r"(err)                     \
				 : [mem] "m"(*(const type *)p)                         \
				 : "memory");                                          \
		*out = v_;                                                             \
		return LIKELY(!err);                                                   \
	}
#define HOSTMEM_STORE(name, type, insn, reg)                                           \
	static inline bool name(void *p, type v_)                                      \
	{                                                                              \
		u32 err = 0;                                                           \
		__asm__ volatile("1: " insn " %" reg "[v], %[mem]\n2:\n" HOSTMEM_FIXUP \
				 : [mem] "=m"(*(type *)p), [err] "+&r"(err)            \
				 : [v] "q"(v_)                                         \
				 : "memory");                                          \
		return LIKELY(!err);                                                   \
	}

/* One load or store of 1, 2, 4 or 8 bytes, atomic when the host makes it so. False: it faulted
 * (a load's *out is then undefined). */
HOSTMEM_LOAD(hostmem_load8, u8, "movb", "b")
HOSTMEM_LOAD(hostmem_load16, u16, "movw", "w")
HOSTMEM_LOAD(hostmem_load32, u32, "movl", "k")
HOSTMEM_LOAD(hostmem_load64, u64, "movq", "q")
HOSTMEM_STORE(hostmem_store8, u8, "movb", "b")
HOSTMEM_STORE(hostmem_store16, u16, "movw", "w")
HOSTMEM_STORE(hostmem_store32, u32, "movl", "k")
HOSTMEM_STORE(hostmem_store64, u64, "movq", "q")

#undef HOSTMEM_LOAD
#undef HOSTMEM_STORE

/** Reads n guest bytes: 1, 2, 4, 8 with one load, else by the guest's aligned quadwords. */
bool hostmem_get(void *dst, const void *guest, size_t n);
/** Writes n guest bytes, likewise. */
bool hostmem_put(void *guest, const void *src, size_t n);
/** Compares guest bytes with ours: 1 the same, 0 different, -1 fault. */
int hostmem_same(const void *guest, const void *buf, size_t n);

#endif
