/*
 * intercept.c - instructions of L2 that the hypervisor (L1) may want: SDM volume 3, "Instructions That
 * Cause VM Exits" and "Changes to Instruction Behavior in VMX Non-Root Operation"
 *
 * Invalid opcodes, privilege and the I/O permission bitmap come before an exit; all other faults come
 * after it ("Relative Priority of Faults and VM Exits"). So a function here looks at these few first
 * and, when they fail, leaves the instruction to its own function, which raises them. Registers that
 * L1 owns in part (CR0, CR4, CR8) are read and written here.
 */
#include "cpu/control.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "cpu/seg.h"
#include "cpu/tsc.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

#define GO_ON CPU_NOT_INTERCEPTED

static int leave(struct cpu *cpu, const struct cpu_insn *in, u32 reason, u64 qualification)
{
	struct cpu_nested_exit e = {.code = reason, .info = qualification, .insn_len = in->len};

	return cpu_nested_exit(cpu, &e);
}

static u32 size_code(unsigned size)
{
	return size == 8 ? 2 : size == 4 ? 1 : 0;
}

/* VM-exit instruction information; each reason knows which parts of it mean something. */
static u32 insn_info(const struct cpu_insn *in)
{
	u32 v = size_code(in->addrsize) << 7 | (u32)(in->reg & 15) << 28;

	if (!in->mem)
		return v | BIT(10) | (u32)in->rm << 3;
	v |= (u32)__builtin_ctz(in->scale ? in->scale : 1) | (u32)in->seg << 15;
	v |= in->index >= 0 ? (u32)in->index << 18 : BIT(22);
	v |= in->base >= 0 ? (u32)in->base << 23 : BIT(27);
	return v;
}

static int leave_operand(struct cpu *cpu, const struct cpu_insn *in, u32 reason, u32 info)
{
	struct cpu_nested_exit e = {
		.code = reason,
		.info = (u64)in->disp + (in->rip_relative ? cpu->rip : 0),
		.insn_info = info,
		.insn_len = in->len,
	};

	return cpu_nested_exit(cpu, &e);
}

/* --- control registers -------------------------------------------------------------------------------- */

static u64 shown(u64 real, u64 mask, u64 shadow)
{
	return (real & ~mask) | (shadow & mask);
}

static u64 cr0_shown(const struct cpu *cpu)
{
	const struct vmcs *v = vmcs_of(cpu);

	return shown(cpu->cr0, v->cr0_guest_host_mask, v->cr0_read_shadow);
}

enum { CR_TO, CR_FROM, CR_CLTS, CR_LMSW };

static int leave_cr(struct cpu *cpu, const struct cpu_insn *in, unsigned n, unsigned type, u64 more)
{
	return leave(cpu, in, EXIT_CR, n | type << 4 | more);
}

static int finish(struct cpu *cpu, const struct cpu_insn *in, int ret)
{
	if (ret == CPU_OK)
		cpu_insn_done(cpu, in);
	return ret;
}

/* MOV to CR0 and CR4: L1's bits must be written with what L1 shows in them, and keep what they are. */
static int masked_write(struct cpu *cpu, const struct cpu_insn *in, unsigned n, u64 value)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 mask = n ? v->cr4_guest_host_mask : v->cr0_guest_host_mask;
	u64 shadow = n ? v->cr4_read_shadow : v->cr0_read_shadow;

	if ((value ^ shadow) & mask)
		return leave_cr(cpu, in, n, CR_TO, (u64)in->rm << 8);
	value = (value & ~mask) | ((n ? cpu->cr4 : cpu->cr0) & mask);
	return finish(cpu, in, n ? cpu_cr4_write(cpu, value) : cpu_cr0_write(cpu, value));
}

/* The virtual TPR, when L1 shadows it. False: it does not. */
static bool tpr_shadow(const struct cpu *cpu, u64 *address)
{
	const struct vmcs *v = vmcs_of(cpu);

	*address = v->virtual_apic_page_addr + 0x80;
	return v->cpu_based_vm_exec_control & PROC_TPR_SHADOW;
}

static int cr8_write(struct cpu *cpu, const struct cpu_insn *in, u64 value)
{
	u64 at;
	u32 tpr;

	if (vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_CR8_LOAD)
		return leave_cr(cpu, in, 8, CR_TO, (u64)in->rm << 8);
	if (!tpr_shadow(cpu, &at) || value > 15)
		return GO_ON;
	tpr = (u32)value << 4;
	mmu_phys_write(cpu, at, &tpr, 4);
	if (vmx_tpr_below(cpu))
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_RELAXED);
	return finish(cpu, in, CPU_OK);
}

static int mov_to_cr(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 value = cpu_is_64bit(cpu) ? cpu->gpr[in->rm] : (u32)cpu->gpr[in->rm];

	if (cpu->cpl || (in->prefix & CPU_PREFIX_LOCK))
		return GO_ON;
	switch (in->reg) {
	case 0:
	case 4:
		return masked_write(cpu, in, in->reg, value);
	case 3:
		if (vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_CR3_LOAD)
			return leave_cr(cpu, in, 3, CR_TO, (u64)in->rm << 8);
		return GO_ON;
	case 8:
		return cpu_is_64bit(cpu) ? cr8_write(cpu, in, value) : GO_ON;
	}
	return GO_ON;
}

static int mov_from_cr(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);
	u32 proc = v->cpu_based_vm_exec_control, tpr;
	u64 value, at;

	if (cpu->cpl || (in->prefix & CPU_PREFIX_LOCK))
		return GO_ON;
	switch (in->reg) {
	case 0:
		value = cr0_shown(cpu);
		break;
	case 3:
		return proc & PROC_CR3_STORE ? leave_cr(cpu, in, 3, CR_FROM, (u64)in->rm << 8)
					     : GO_ON;
	case 4:
		value = shown(cpu->cr4, v->cr4_guest_host_mask, v->cr4_read_shadow);
		break;
	case 8:
		if (!cpu_is_64bit(cpu))
			return GO_ON;
		if (proc & PROC_CR8_STORE)
			return leave_cr(cpu, in, 8, CR_FROM, (u64)in->rm << 8);
		if (!tpr_shadow(cpu, &at) || mmu_phys_read(cpu, at, &tpr, 4))
			return GO_ON;
		value = tpr >> 4 & 15;
		break;
	default:
		return GO_ON;
	}
	cpu->gpr[in->rm] = cpu_is_64bit(cpu) ? value : (u32)value;
	return finish(cpu, in, CPU_OK);
}

static int clts(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);

	if (cpu->cpl || !(v->cr0_guest_host_mask & CR0_TS))
		return GO_ON;
	if (v->cr0_read_shadow & CR0_TS)
		return leave_cr(cpu, in, 0, CR_CLTS, 0);
	return finish(cpu, in, CPU_OK); /* L2 sees a clear bit already, L1's stays */
}

/* Bit 0 can only be set; bits 3..1 are written. */
static int lmsw(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 mask = v->cr0_guest_host_mask, value, lin = 0;
	struct cpu_nested_exit e = {.code = EXIT_CR, .insn_len = in->len};
	struct cpu_insn word = *in;
	int ret;

	if (cpu->cpl)
		return GO_ON;
	word.opsize = 2;
	ret = cpu_rm_read(cpu, &word, &value);
	if (ret)
		return ret;
	value &= 0xf;
	if (((value ^ v->cr0_read_shadow) & mask & (CR0_MP | CR0_EM | CR0_TS)) ||
	    ((value & mask & CR0_PE) && !(v->cr0_read_shadow & CR0_PE))) {
		if (in->mem)
			cpu_linear(cpu, in->seg, cpu_insn_offset(cpu, in), 2, MMU_READ, &lin);
		e.info = CR_LMSW << 4 | (in->mem ? BIT64(6) : 0) | value << 16;
		e.linear = lin;
		return cpu_nested_exit(cpu, &e);
	}
	value |= cpu->cr0 & CR0_PE;
	value = (cpu->cr0 & ~0xfull) | (value & ~mask) | (cpu->cr0 & 0xf & mask);
	return finish(cpu, in, cpu_cr0_write(cpu, value));
}

static int smsw(struct cpu *cpu, const struct cpu_insn *in)
{
	struct cpu_insn op = *in;

	if (!vmcs_of(cpu)->cr0_guest_host_mask || ((cpu->cr4 & CR4_UMIP) && cpu->cpl))
		return GO_ON;
	if (in->mem)
		op.opsize = 2;
	return finish(cpu, in, cpu_rm_write(cpu, &op, cr0_shown(cpu)));
}

static int mov_dr(struct cpu *cpu, const struct cpu_insn *in, bool from)
{
	if (cpu->cpl || in->reg > 7 || !(vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_MOV_DR))
		return GO_ON;
	return leave(cpu, in, EXIT_DR, in->reg | (from ? BIT64(4) : 0) | (u64)in->rm << 8);
}

/* --- ports ------------------------------------------------------------------------------------------------- */

static bool port_wanted(struct cpu *cpu, u16 port, unsigned size)
{
	const struct vmcs *v = vmcs_of(cpu);

	if (!(v->cpu_based_vm_exec_control & PROC_IO_BITMAPS))
		return v->cpu_based_vm_exec_control & PROC_IO;
	for (unsigned i = 0; i < size; i++) {
		u32 p = port + i;
		u8 byte;

		if (p > 0xffff)
			return true; /* the access wraps around */
		if (mmu_phys_read(cpu,
				  (p & 0x8000 ? v->io_bitmap_b : v->io_bitmap_a) + (p & 0x7fff) / 8,
				  &byte, 1) ||
		    (byte >> (p & 7) & 1))
			return true;
	}
	return false;
}

static int port_io(struct cpu *cpu, const struct cpu_insn *in, bool to_cpu, bool string)
{
	bool immediate = !string && in->imm2;
	u16 port = immediate ? (u8)in->imm : (u16)cpu->gpr[RDX];
	unsigned size = MIN((unsigned)in->opsize, 4u), seg = to_cpu ? SEG_ES : in->seg;
	bool rep = string && (in->prefix & (CPU_PREFIX_REP | CPU_PREFIX_REPNE));
	u64 mask = in->addrsize == 8 ? ~0ull : in->addrsize == 4 ? 0xffffffff : 0xffff;
	struct cpu_nested_exit e = {.code = EXIT_IO, .insn_len = in->len};
	int ret = cpu_port_check(cpu, port, size);

	if (ret)
		return ret;
	if (!port_wanted(cpu, port, size))
		return GO_ON;
	if (rep && !(cpu->gpr[RCX] & mask))
		return GO_ON; /* nothing is transferred */
	e.info = (size - 1) | (to_cpu ? BIT64(3) : 0) | (string ? BIT64(4) : 0) |
		 (rep ? BIT64(5) : 0) | (immediate ? BIT64(6) : 0) | (u64)port << 16;
	if (string) {
		u64 off = cpu->gpr[to_cpu ? RDI : RSI] & mask;

		e.insn_info = size_code(in->addrsize) << 7 | seg << 15;
		e.linear = off + (cpu_is_64bit(cpu) && seg < SEG_FS ? 0 : cpu->seg[seg].base);
		if (!cpu_is_64bit(cpu))
			e.linear = (u32)e.linear;
	}
	return cpu_nested_exit(cpu, &e);
}

/* --- MSRs --------------------------------------------------------------------------------------------------- */

static bool msr_wanted(struct cpu *cpu, u32 index, bool write)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 at = v->msr_bitmap + (write ? 2048 : 0);
	u8 byte;

	if (!(v->cpu_based_vm_exec_control & PROC_MSR_BITMAPS))
		return true;
	if (index >= 0xc0000000 && index < 0xc0002000)
		at += 1024;
	else if (index >= 0x2000)
		return true;
	index &= 0x1fff;
	return mmu_phys_read(cpu, at + index / 8, &byte, 1) || (byte >> (index & 7) & 1);
}

static int msr(struct cpu *cpu, const struct cpu_insn *in, bool write)
{
	if (cpu->cpl || !msr_wanted(cpu, (u32)cpu->gpr[RCX], write))
		return GO_ON;
	return leave(cpu, in, write ? EXIT_WRMSR : EXIT_RDMSR, 0);
}

/* --- VMX instructions ------------------------------------------------------------------------------------------ */

static bool shadow_wanted(struct cpu *cpu, const struct cpu_insn *in, bool write)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 encoding = cpu_is_64bit(cpu) ? cpu->gpr[in->reg] : (u32)cpu->gpr[in->reg];
	u8 byte;

	if (!(vmcs_proc2(v) & PROC2_SHADOW_VMCS) || encoding >> 15)
		return true;
	return mmu_phys_read(cpu, (write ? v->vmwrite_bitmap : v->vmread_bitmap) + encoding / 8,
			     &byte, 1) ||
	       (byte >> (encoding & 7) & 1);
}

static int vmx(struct cpu *cpu, const struct cpu_insn *in)
{
	int reason = vmx_insn_reason(in);

	if (reason < 0 || !vmx_insn_mode_ok(cpu) || (in->prefix & CPU_PREFIX_LOCK) ||
	    (reason == EXIT_VMXON && !(cpu->cr4 & CR4_VMXE)))
		return cpu_raise(cpu, EXC_UD);
	if ((reason == EXIT_VMREAD || reason == EXIT_VMWRITE) &&
	    !shadow_wanted(cpu, in, reason == EXIT_VMWRITE)) {
		if (cpu->cpl)
			return cpu_raise_err(cpu, EXC_GP, 0);
		if (!cpu->nested->shadow_loaded) { /* VMfailInvalid */
			cpu_rflags_set(cpu, (cpu_rflags(cpu) & ~FLAG_ARITH) | FLAG_CF);
			return finish(cpu, in, CPU_OK);
		}
		return reason == EXIT_VMREAD ? vmx_vmread(cpu, in, &cpu->nested->shadow)
					     : vmx_vmwrite(cpu, in, &cpu->nested->shadow);
	}
	switch (reason) {
	case EXIT_VMLAUNCH:
	case EXIT_VMRESUME:
	case EXIT_VMXOFF:
		return leave(cpu, in, (u32)reason, 0);
	case EXIT_VMREAD:
	case EXIT_VMWRITE:
		if (!in->mem) /* the register operand is where others have the segment's field */
			return leave_operand(cpu, in, (u32)reason, insn_info(in));
		break;
	}
	return leave_operand(cpu, in, (u32)reason, insn_info(in));
}

/* --- everything else ---------------------------------------------------------------------------------------------- */

static int descriptor_table(struct cpu *cpu, const struct cpu_insn *in)
{
	static const struct {
		u16 op;
		u8 identity;
		bool system, load;
	} rows[] = {
		{CPU_OP_SGDT, 0, false, false}, {CPU_OP_SIDT, 1, false, false},
		{CPU_OP_LGDT, 2, false, true},	{CPU_OP_LIDT, 3, false, true},
		{CPU_OP_SLDT, 0, true, false},	{CPU_OP_STR, 1, true, false},
		{CPU_OP_LLDT, 2, true, true},	{CPU_OP_LTR, 3, true, true},
	};
	u32 info = insn_info(in) & 0x0fffffff;

	if (!(vmcs_proc2(vmcs_of(cpu)) & PROC2_DESC))
		return GO_ON;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].op != in->op)
			continue;
		if (cpu->cpl && (rows[i].load || (cpu->cr4 & CR4_UMIP)))
			return GO_ON;
		if (rows[i].system ? !cpu_is_protected(cpu) : !in->mem)
			return GO_ON;
		info |= (u32)rows[i].identity << 28 | (in->opsize > 2 ? BIT(11) : 0);
		return leave_operand(cpu, in, rows[i].system ? EXIT_LDTR_TR : EXIT_GDTR_IDTR, info);
	}
	return GO_ON;
}

static int invlpg(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 lin = cpu_insn_offset(cpu, in);

	if (cpu->cpl || !in->mem || !(vmcs_of(cpu)->cpu_based_vm_exec_control & PROC_INVLPG))
		return GO_ON;
	if (!cpu_is_64bit(cpu))
		lin = (u32)(lin + cpu->seg[in->seg].base);
	else if (in->seg >= SEG_FS)
		lin += cpu->seg[in->seg].base;
	return leave(cpu, in, EXIT_INVLPG, lin);
}

static int invpcid(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);

	if (!(vmcs_proc2(v) & PROC2_INVPCID))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl || !in->mem || !cpu_has(cpu, X86_FEATURE_INVPCID) ||
	    !(v->cpu_based_vm_exec_control & PROC_INVLPG))
		return GO_ON;
	return leave_operand(cpu, in, EXIT_INVPCID, insn_info(in));
}

/*
 * The thread that wakes the vCPU for its preemption timer may be late. L2, which can tell by the counter only, does
 * not see a moment after the timer's end.
 */
static bool timer_over(const struct cpu *cpu)
{
	return UNLIKELY(cpu->nested->deadline != VMX_NONE) &&
	       cpu_tsc_read(cpu) >= cpu->nested->deadline;
}

static int rdtsc(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);
	bool p = in->op == CPU_OP_RDTSCP;

	if (timer_over(cpu))
		return cpu_nested_exit(cpu, &(struct cpu_nested_exit){.code = EXIT_TIMER});
	if (p && !(vmcs_proc2(v) & PROC2_RDTSCP))
		return cpu_raise(cpu, EXC_UD);
	if (((cpu->cr4 & CR4_TSD) && cpu->cpl) || (p && !cpu_has(cpu, X86_FEATURE_RDTSCP)) ||
	    !(v->cpu_based_vm_exec_control & PROC_RDTSC))
		return GO_ON;
	return leave(cpu, in, p ? EXIT_RDTSCP : EXIT_RDTSC, 0);
}

/* XSAVES and XRSTORS: #UD unless enabled; L1 may want those that name a component of its bitmap. */
static int xsaves(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);
	u64 mask = (u32)cpu->gpr[RAX] | cpu->gpr[RDX] << 32;

	if (in->opcode != 'S')
		return GO_ON;
	if (!(vmcs_proc2(v) & PROC2_XSAVES))
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl || !(mask & cpu->xss & v->xss_exit_bitmap))
		return GO_ON;
	return leave_operand(cpu, in, in->op == CPU_OP_XSAVE ? EXIT_XSAVES : EXIT_XRSTORS,
			     insn_info(in));
}

int vmx_intercept(struct cpu *cpu, const struct cpu_insn *in)
{
	const struct vmcs *v = vmcs_of(cpu);
	u32 proc = v->cpu_based_vm_exec_control;

	switch (in->op) {
	case CPU_OP_CPUID:
		return leave(cpu, in, EXIT_CPUID, 0);
	case CPU_OP_INVD:
		return cpu->cpl ? GO_ON : leave(cpu, in, EXIT_INVD, 0);
	case CPU_OP_XSETBV:
		if (cpu->cpl || !(cpu->cr4 & CR4_OSXSAVE))
			return GO_ON;
		return leave(cpu, in, EXIT_XSETBV, 0);
	case CPU_OP_HYPERCALL:
		return in->opcode == 0xc1 ? leave(cpu, in, EXIT_VMCALL, 0) : cpu_raise(cpu, EXC_UD);
	case CPU_OP_VMX:
		return vmx(cpu, in);
	case CPU_OP_HLT:
		return cpu->cpl || !(proc & PROC_HLT) ? GO_ON : leave(cpu, in, EXIT_HLT, 0);
	case CPU_OP_PAUSE:
		return proc & PROC_PAUSE ? leave(cpu, in, EXIT_PAUSE, 0) : GO_ON;
	case CPU_OP_MWAIT:
		return cpu->cpl || !(proc & PROC_MWAIT)
			       ? GO_ON
			       : leave(cpu, in, EXIT_MWAIT, cpu->monitor_armed != 0);
	case CPU_OP_MONITOR:
		return cpu->cpl || !(proc & PROC_MONITOR) ? GO_ON : leave(cpu, in, EXIT_MONITOR, 0);
	case CPU_OP_RDPMC:
		if (!(proc & PROC_RDPMC) ||
		    (cpu->cpl && !(cpu->cr4 & CR4_PCE) && (cpu->cr0 & CR0_PE)))
			return GO_ON;
		return leave(cpu, in, EXIT_RDPMC, 0);
	case CPU_OP_RDTSC:
	case CPU_OP_RDTSCP:
		return rdtsc(cpu, in);
	case CPU_OP_RDPID:
		return vmcs_proc2(v) & PROC2_RDTSCP ? GO_ON : cpu_raise(cpu, EXC_UD);
	case CPU_OP_WBINVD:
		return cpu->cpl || !(vmcs_proc2(v) & PROC2_WBINVD) ? GO_ON
								   : leave(cpu, in, EXIT_WBINVD, 0);
	case CPU_OP_INVLPG:
		return invlpg(cpu, in);
	case CPU_OP_INVPCID:
		return invpcid(cpu, in);
	case CPU_OP_MOV_TO_CR:
		return mov_to_cr(cpu, in);
	case CPU_OP_MOV_FROM_CR:
		return mov_from_cr(cpu, in);
	case CPU_OP_CLTS:
		return clts(cpu, in);
	case CPU_OP_LMSW:
		return lmsw(cpu, in);
	case CPU_OP_SMSW:
		return smsw(cpu, in);
	case CPU_OP_MOV_TO_DR:
		return mov_dr(cpu, in, false);
	case CPU_OP_MOV_FROM_DR:
		return mov_dr(cpu, in, true);
	case CPU_OP_IN:
		return port_io(cpu, in, true, false);
	case CPU_OP_OUT:
		return port_io(cpu, in, false, false);
	case CPU_OP_INS:
		return port_io(cpu, in, true, true);
	case CPU_OP_OUTS:
		return port_io(cpu, in, false, true);
	case CPU_OP_RDMSR:
		return msr(cpu, in, false);
	case CPU_OP_WRMSR:
		return msr(cpu, in, true);
	case CPU_OP_XSAVE:
	case CPU_OP_XRSTOR:
		return xsaves(cpu, in);
	case CPU_OP_SGDT:
	case CPU_OP_SIDT:
	case CPU_OP_LGDT:
	case CPU_OP_LIDT:
	case CPU_OP_SLDT:
	case CPU_OP_STR:
	case CPU_OP_LLDT:
	case CPU_OP_LTR:
		return descriptor_table(cpu, in);
	default:
		return GO_ON;
	}
}
