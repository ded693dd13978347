/* stats.c - names and values of the counters in struct jit */
#include "jit/stats.h"

#include "jit/jit_internal.h"

static const struct {
	const char *name;
	u32 at;
} rows[] = {
#define JIT_STAT(name, field) {#name, offsetof(struct jit, field)},
#include "jit/stats.def"
#undef JIT_STAT
};

static const char *row_name(unsigned index)
{
	return rows[index].name;
}

static u64 row_value(const struct cpu *cpu, unsigned index)
{
	return cpu->jit ? stat_read((const u64 *)((const u8 *)cpu->jit + rows[index].at)) : 0;
}

const struct stat_set jit_stats = {
	.count = ARRAY_SIZE(rows),
	.prefix = "anykvm_",
	.name = row_name,
	.value = row_value,
};

static const char *insn_name(unsigned index)
{
	return cpu_insn_name[index];
}

static u64 insn_value(const struct cpu *cpu, unsigned index)
{
	return cpu->jit ? stat_read(&cpu->jit->stat_cinsn[index]) : 0;
}

const struct stat_set jit_insn_stats = {
	.count = CPU_OP_COUNT,
	.prefix = "anykvm_insn_",
	.name = insn_name,
	.value = insn_value,
};
