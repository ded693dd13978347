/* branch.h - what struct cpu_insn's imm2 says of a near branch */
#ifndef CPU_BRANCH_H
#define CPU_BRANCH_H

enum { BRANCH_JMP, BRANCH_CALL, BRANCH_RET, BRANCH_CONDITION, BRANCH_COUNT };

#endif
