/* gather.h - how the translator describes a gather or scatter in struct cpu_insn.imm */
#ifndef CPU_GATHER_H
#define CPU_GATHER_H

#define GATHER_EVEX			1u
#define GATHER_SCATTER			2u
#define GATHER_SHAPE(index_size, width) ((u64)(index_size) << 8 | (u64)(width) << 16)
#define GATHER_INDEX_SIZE(imm)		((unsigned)((imm) >> 8 & 0xff))	 /* bytes of an index */
#define GATHER_WIDTH(imm)		((unsigned)((imm) >> 16 & 0xff)) /* vector length in bytes */

#endif
