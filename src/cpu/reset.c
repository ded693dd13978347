/*
 * reset.c - power-on reset and INIT
 *
 * The values are those of the SDM's "Processor State After Reset" and the APM's "Initial Processor
 * State", which differ in nothing that software can see beyond EDX. INIT leaves caches' control
 * bits, MSRs, TSC, XCR0 and the FPU alone.
 */
#include "base/mem.h"
#include "cpu/cpuid.h"
#include "cpu/fpu.h"
#include "cpu/mode.h"
#include "cpu/msr.h"
#include "mmu/mmu.h"

#define CR0_RESET	  (CR0_ET | CR0_NW | CR0_CD)
#define DR6_RESET	  0xffff0ff0ull
#define DR7_RESET	  0x400ull
#define SIGNATURE_DEFAULT 0x600u

static const struct cpu_seg reset_code = {
	.base = 0xffff0000,
	.limit = 0xffff,
	.attr = SEG_ATTR_P | SEG_ATTR_S | 0xb,
	.sel = 0xf000,
};
static const struct cpu_seg reset_data = {
	.limit = 0xffff,
	.attr = SEG_ATTR_P | SEG_ATTR_S | 0x3,
};
static const struct cpu_seg reset_ldtr = {.limit = 0xffff, .attr = SEG_ATTR_P | 0x2};
static const struct cpu_seg reset_tr = {.limit = 0xffff, .attr = SEG_ATTR_P | 0xb};

static void reset_segments(struct cpu *cpu)
{
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		cpu->seg[i] = i == SEG_CS ? reset_code : reset_data;
	cpu->seg[SEG_LDTR] = reset_ldtr;
	cpu->seg[SEG_TR] = reset_tr;
	cpu->gdtr = (struct cpu_dtable){.limit = 0xffff};
	cpu->idtr = (struct cpu_dtable){.limit = 0xffff};
}

static void reset_events(struct cpu *cpu)
{
	cpu->exc.pending = false;
	cpu->shadow = 0;
	cpu->nmi_masked = cpu->smm_nmi_masked = false;
	cpu->monitor_armed = 0;
	cpu->msr_ready = cpu->msr_error = cpu->restart = false;
	cpu->pending_db = 0;
	cpu->exit.reason = CPU_EXIT_NONE;
	cpu->pio.ready = false;
	cpu->pio.count = 0;
	cpu->mmio.read_wanted = false;
	cpu->mmio.done_count = cpu->mmio.done_next = cpu->mmio.write_count = 0;
}

/* What a power-on sets and INIT leaves. */
static void reset_power_on(struct cpu *cpu)
{
	cpu->xcr0 = XSTATE_X87;
	cpu->xss = 0;
	cpu->pkru = 0;
	if (!cpu->tsc_ratio)
		cpu->tsc_ratio = 1ull << 48;
	cpu_msr_reset(cpu);
	if (cpu->xsave && !cpu->fpu_loaded)
		cpu_fpu_reset(cpu);
}

void cpu_reset(struct cpu *cpu, bool init_only)
{
	const struct cpu_cpuid *id = cpu_cpuid_find(cpu, 1, 0);
	u64 cache = init_only ? cpu->cr0 & (CR0_NW | CR0_CD) : CR0_NW | CR0_CD;
	bool was_smm = cpu->smm;

	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0;
	cpu->gpr[RDX] = id ? id->eax : SIGNATURE_DEFAULT;
	cpu->rip = 0xfff0;
	cpu_rflags_set(cpu, 2);
	reset_segments(cpu);
	cpu->cpl = 0;
	cpu->cr0 = (CR0_RESET & ~(CR0_NW | CR0_CD)) | cache;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
	cpu->efer = 0;
	for (unsigned i = 0; i < 4; i++)
		cpu->dr[i] = cpu->pdptr[i] = 0;
	cpu->dr6 = DR6_RESET;
	cpu->dr7 = DR7_RESET;
	reset_events(cpu);
	cpu->smm = false;
	if (!init_only)
		reset_power_on(cpu);
	if (was_smm && cpu->ops && cpu->ops->smm_changed)
		cpu->ops->smm_changed(cpu, false);
	if (cpu->mmu)
		mmu_flush_all(cpu);
	cpu_mode_update(cpu);
}
