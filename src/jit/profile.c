/* profile.c - see profile.h */
#include "jit/profile.h"

#include "jit/jit_internal.h"

enum jit_place jit_place(u64 pc, u64 *rip, unsigned *cpl)
{
	struct cpu *cpu = jit_signal_running();
	const struct jit *jit = cpu ? cpu->jit : NULL;

	*rip = 0;
	*cpl = 0;
	if (!jit || pc < (u64)jit->rx || pc >= (u64)jit->rx + jit->size)
		return JIT_PLACE_OTHER;
	if (pc < jit_exec(jit, jit->code_start))
		return JIT_PLACE_GLUE;
	*rip = jit_guest_pc(cpu, pc);
	*cpl = (cpu->mode & MODE_CPL) >> MODE_CPL_SHIFT;
	return JIT_PLACE_GUEST;
}
