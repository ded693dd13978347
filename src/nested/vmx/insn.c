/*
 * insn.c - the VMX instructions, as the hypervisor (L1) executes them
 *
 * SDM volume 3, "VMX Instruction Reference". The order of checks: mode (#UD), VMX operation (#UD),
 * guest mode (an exit, intercept.c), privilege (#GP), operand. Success clears the arithmetic flags;
 * failure sets CF, or ZF with a number in the current VMCS when there is one.
 */
#include "base/mem.h"
#include "base/syscall.h"
#include "cpu/feature.h"
#include "cpu/mode.h"
#include "mmu/mmu.h"
#include "nested/vmx/vmx_internal.h"

#include <sys/mman.h>
#include <sys/syscall.h>

static int gp(struct cpu *cpu)
{
	return cpu_raise_err(cpu, EXC_GP, 0);
}

struct nested *vmx_alloc(struct cpu *cpu)
{
	long p;

	if (cpu->nested)
		return cpu->nested;
	p = sys_call(SYS_mmap, 0, sizeof(struct nested), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, ~0ull);
	if (p < 0 && p > -4096)
		return NULL;
	cpu->nested = (struct nested *)p;
	cpu->nested->vmxon_pa = cpu->nested->vmcs_pa = cpu->nested->deadline = VMX_NONE;
	cpu->nested->eptp = ~0ull;
	return cpu->nested;
}

void vmx_destroy(struct cpu *cpu)
{
	if (cpu->nested)
		sys_call(SYS_munmap, (u64)cpu->nested, sizeof(struct nested), 0, 0, 0);
	cpu->nested = NULL;
}

void vmx_reset(struct cpu *cpu)
{
	if (cpu->guest_mode)
		vmx_mode_leave(cpu);
	cpu->vmx_on = false;
	cpu->cr0_must = cpu->cr4_must = 0;
	if (!cpu->nested)
		return;
	cpu->nested->vmxon_pa = cpu->nested->vmcs_pa = VMX_NONE;
	cpu->nested->smm_vmxon = cpu->nested->smm_guest = cpu->nested->shadow_loaded = false;
}

/* --- results -------------------------------------------------------------------------------------- */

static int done(struct cpu *cpu, const struct cpu_insn *in, u64 flags)
{
	cpu_rflags_set(cpu, (cpu_rflags(cpu) & ~FLAG_ARITH) | flags);
	cpu_insn_done(cpu, in);
	return CPU_OK;
}

static int succeed(struct cpu *cpu, const struct cpu_insn *in)
{
	return done(cpu, in, 0);
}

static int fail_invalid(struct cpu *cpu, const struct cpu_insn *in)
{
	return done(cpu, in, FLAG_CF);
}

static int fail(struct cpu *cpu, const struct cpu_insn *in, u32 number)
{
	if (cpu->nested->vmcs_pa == VMX_NONE)
		return fail_invalid(cpu, in);
	vmcs_of(cpu)->vm_instruction_error = number;
	return done(cpu, in, FLAG_ZF);
}

/* --- operands ---------------------------------------------------------------------------------------- */

/* The 64-bit operand in memory: a physical address. */
static int operand_address(struct cpu *cpu, const struct cpu_insn *in, u64 *pa)
{
	return cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), pa, 8);
}

static void current_put(struct cpu *cpu)
{
	struct nested *n = cpu->nested;

	if (n->vmcs_pa == VMX_NONE)
		return;
	mmu_phys_write(cpu, n->vmcs_pa, &n->vmcs, VMCS_BYTES);
	n->vmcs_pa = VMX_NONE;
}

void vmx_shadow_put(struct cpu *cpu)
{
	struct nested *n = cpu->nested;

	if (n->shadow_loaded)
		mmu_phys_write(cpu, n->vmcs.vmcs_link_pointer, &n->shadow, VMCS_BYTES);
	n->shadow_loaded = false;
}

/* --- entering and leaving VMX operation ----------------------------------------------------------------- */

static int vmxon(struct cpu *cpu, const struct cpu_insn *in)
{
	const u64 enabled = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
	struct nested *n;
	u32 revision;
	u64 pa;
	int ret;

	if (cpu->cpl)
		return gp(cpu);
	if (cpu->vmx_on)
		return fail(cpu, in, VMX_ERR_VMXON_IN_ROOT);
	if (!vmx_fixed_ok(cpu->cr0, cpu->vmx_msr[VMX_CR0_FIXED0], cpu->vmx_msr[VMX_CR0_FIXED1]) ||
	    !vmx_fixed_ok(cpu->cr4, cpu->vmx_msr[VMX_CR4_FIXED0], vmx_msr_get(cpu, VMX_CR4_FIXED1)))
		return gp(cpu);
	if ((cpu->feature_control & enabled) != enabled)
		return gp(cpu);
	ret = operand_address(cpu, in, &pa);
	if (ret)
		return ret;
	n = vmx_alloc(cpu);
	if (!n) {
		cpu->exit.reason = CPU_EXIT_INTERNAL;
		cpu->exit.internal.why = "no memory for VMX operation";
		cpu->exit.internal.len = 0;
		return CPU_EXIT;
	}
	if (!vmx_address_ok(cpu, pa, PAGE_SIZE - 1) || mmu_phys_read(cpu, pa, &revision, 4) ||
	    revision != VMCS_REVISION)
		return fail_invalid(cpu, in);
	n->vmxon_pa = pa;
	n->vmcs_pa = VMX_NONE;
	cpu->vmx_on = true;
	cpu->cr0_must = cpu->vmx_msr[VMX_CR0_FIXED0];
	cpu->cr4_must = cpu->vmx_msr[VMX_CR4_FIXED0];
	return succeed(cpu, in);
}

static int vmxoff(struct cpu *cpu, const struct cpu_insn *in)
{
	current_put(cpu);
	vmx_reset(cpu);
	return succeed(cpu, in);
}

/* --- VMCS pointers ------------------------------------------------------------------------------------------ */

static int vmclear(struct cpu *cpu, const struct cpu_insn *in)
{
	struct nested *n = cpu->nested;
	u32 state = 0;
	u64 pa;
	int ret = operand_address(cpu, in, &pa);

	if (ret)
		return ret;
	if (!vmx_address_ok(cpu, pa, PAGE_SIZE - 1))
		return fail(cpu, in, VMX_ERR_VMCLEAR_ADDRESS);
	if (pa == n->vmxon_pa)
		return fail(cpu, in, VMX_ERR_VMCLEAR_VMXON);
	if (pa == n->vmcs_pa)
		current_put(cpu);
	mmu_phys_write(cpu, pa + __builtin_offsetof(struct vmcs, launch_state), &state, 4);
	return succeed(cpu, in);
}

static int vmptrld(struct cpu *cpu, const struct cpu_insn *in)
{
	struct nested *n = cpu->nested;
	u32 revision;
	u64 pa;
	int ret = operand_address(cpu, in, &pa);

	if (ret)
		return ret;
	if (!vmx_address_ok(cpu, pa, PAGE_SIZE - 1))
		return fail(cpu, in, VMX_ERR_VMPTRLD_ADDRESS);
	if (pa == n->vmxon_pa)
		return fail(cpu, in, VMX_ERR_VMPTRLD_VMXON);
	if (pa == n->vmcs_pa)
		return succeed(cpu, in);
	if (mmu_phys_read(cpu, pa, &revision, 4) || (revision & ~VMCS_SHADOW) != VMCS_REVISION ||
	    ((revision & VMCS_SHADOW) &&
	     !(cpu->vmx_msr[VMX_PROCBASED_CTLS2] >> 32 & PROC2_SHADOW_VMCS)))
		return fail(cpu, in, VMX_ERR_VMPTRLD_REVISION);
	current_put(cpu);
	if (mmu_phys_read(cpu, pa, &n->vmcs, VMCS_BYTES))
		return fail(cpu, in, VMX_ERR_VMPTRLD_REVISION);
	n->vmcs_pa = pa;
	return succeed(cpu, in);
}

static int vmptrst(struct cpu *cpu, const struct cpu_insn *in)
{
	int ret = cpu_write(cpu, in->seg, cpu_insn_offset(cpu, in), &cpu->nested->vmcs_pa, 8);

	return ret ? ret : succeed(cpu, in);
}

/* --- fields ------------------------------------------------------------------------------------------------- */

/* Outside 64-bit mode encodings and values are 32 bits wide. */
static u64 narrow(const struct cpu *cpu, u64 v)
{
	return cpu_is_64bit(cpu) ? v : (u32)v;
}

static bool field_exists(struct vmcs *v, u64 encoding)
{
	u64 value;

	return !(encoding >> 32) && vmcs_read(v, (u32)encoding, &value);
}

int vmx_vmread(struct cpu *cpu, const struct cpu_insn *in, struct vmcs *v)
{
	u64 encoding = narrow(cpu, cpu->gpr[in->reg]), value;
	struct cpu_insn op = *in;
	int ret;

	if (!field_exists(v, encoding))
		return fail(cpu, in, VMX_ERR_FIELD);
	vmcs_read(v, (u32)encoding, &value);
	op.opsize = cpu_is_64bit(cpu) ? 8 : 4;
	ret = cpu_rm_write(cpu, &op, value);
	return ret ? ret : succeed(cpu, in);
}

int vmx_vmwrite(struct cpu *cpu, const struct cpu_insn *in, struct vmcs *v)
{
	u64 encoding = narrow(cpu, cpu->gpr[in->reg]), value;
	struct cpu_insn op = *in;
	int ret;

	op.opsize = cpu_is_64bit(cpu) ? 8 : 4;
	ret = cpu_rm_read(cpu, &op, &value);
	if (ret)
		return ret;
	if (!field_exists(v, encoding))
		return fail(cpu, in, VMX_ERR_FIELD);
	if (vmcs_read_only((u32)encoding) && !(cpu->vmx_msr[VMX_MISC] & MISC_WRITE_ANY))
		return fail(cpu, in, VMX_ERR_READ_ONLY);
	vmcs_write(v, (u32)encoding, value);
	return succeed(cpu, in);
}

/* --- invalidation --------------------------------------------------------------------------------------------- */

static bool eptp_ok(const struct cpu *cpu, u64 eptp)
{
	u64 cap = cpu->vmx_msr[VMX_EPT_VPID_CAP];

	return (eptp & 7) == 6 && (eptp >> 3 & 7) == 3 && !((eptp & BIT64(6)) && !(cap & EPT_AD)) &&
	       !(eptp & 0xf80) && vmx_address_ok(cpu, eptp & PAGE_MASK, 0);
}

/* Translations are emptied by every entry and exit: only the second stage's are remembered longer. */
static int invept(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 type = narrow(cpu, cpu->gpr[in->reg]), cap = cpu->vmx_msr[VMX_EPT_VPID_CAP], desc[2];
	int ret;

	if (!(cpu->vmx_msr[VMX_PROCBASED_CTLS2] >> 32 & PROC2_EPT) || !(cap & EPT_INVEPT))
		return cpu_raise(cpu, EXC_UD);
	if (type < 1 || type > 2 || !(cap & (type == 1 ? EPT_INVEPT_SINGLE : EPT_INVEPT_ALL)))
		return fail(cpu, in, VMX_ERR_INVALIDATE);
	ret = cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), desc, 16);
	if (ret)
		return ret;
	if (type == 1 && !eptp_ok(cpu, desc[0]))
		return fail(cpu, in, VMX_ERR_INVALIDATE);
	mmu_stage2_flush(cpu);
	mmu_flush_guest(cpu);
	return succeed(cpu, in);
}

static int invvpid(struct cpu *cpu, const struct cpu_insn *in)
{
	u64 type = narrow(cpu, cpu->gpr[in->reg]), cap = cpu->vmx_msr[VMX_EPT_VPID_CAP], desc[2];
	int ret;

	if (!(cpu->vmx_msr[VMX_PROCBASED_CTLS2] >> 32 & PROC2_VPID) || !(cap & VPID_INVVPID))
		return cpu_raise(cpu, EXC_UD);
	if (type > 3 || !(cap & (VPID_ADDRESS << type)))
		return fail(cpu, in, VMX_ERR_INVALIDATE);
	ret = cpu_read(cpu, in->seg, cpu_insn_offset(cpu, in), desc, 16);
	if (ret)
		return ret;
	if (desc[0] >> 16 || (type != 2 && !desc[0]) ||
	    (type == 0 && !cpu_is_canonical(cpu, desc[1])))
		return fail(cpu, in, VMX_ERR_INVALIDATE);
	mmu_flush_guest(cpu);
	return succeed(cpu, in);
}

/* --- dispatch ---------------------------------------------------------------------------------------------------- */

int vmx_insn_reason(const struct cpu_insn *in)
{
	switch (in->opcode) {
	case 0x01:
		if (in->mem)
			return -1;
		if ((in->reg & 7) == 0)
			return (in->rm & 7) == 2   ? EXIT_VMLAUNCH
			       : (in->rm & 7) == 3 ? EXIT_VMRESUME
			       : (in->rm & 7) == 4 ? EXIT_VMXOFF
						   : -1;
		return -1; /* VMFUNC is not offered */
	case 0x78:
		return EXIT_VMREAD;
	case 0x79:
		return EXIT_VMWRITE;
	case 0x80:
		return in->mem ? EXIT_INVEPT : -1;
	case 0x81:
		return in->mem ? EXIT_INVVPID : -1;
	case 0xc7:
		if (!in->mem)
			return -1;
		if ((in->reg & 7) == 7)
			return EXIT_VMPTRST;
		return in->prefix & CPU_PREFIX_REP  ? EXIT_VMXON
		       : in->prefix & CPU_PREFIX_66 ? EXIT_VMCLEAR
						    : EXIT_VMPTRLD;
	}
	return -1;
}

bool vmx_insn_mode_ok(const struct cpu *cpu)
{
	return (cpu->cr0 & CR0_PE) && !(cpu->rflags & FLAG_VM) &&
	       (!cpu_is_long(cpu) || cpu_is_64bit(cpu));
}

int vmx_insn(struct cpu *cpu, const struct cpu_insn *in)
{
	int reason = vmx_insn_reason(in);

	if (reason < 0 || !vmx_insn_mode_ok(cpu) || (in->prefix & CPU_PREFIX_LOCK))
		return cpu_raise(cpu, EXC_UD);
	if (reason == EXIT_VMXON)
		return cpu->cr4 & CR4_VMXE ? vmxon(cpu, in) : cpu_raise(cpu, EXC_UD);
	if (!cpu->vmx_on)
		return cpu_raise(cpu, EXC_UD);
	if (cpu->cpl)
		return gp(cpu);
	switch (reason) {
	case EXIT_VMXOFF:
		return vmxoff(cpu, in);
	case EXIT_VMCLEAR:
		return vmclear(cpu, in);
	case EXIT_VMPTRLD:
		return vmptrld(cpu, in);
	case EXIT_VMPTRST:
		return vmptrst(cpu, in);
	case EXIT_INVEPT:
		return invept(cpu, in);
	case EXIT_INVVPID:
		return invvpid(cpu, in);
	}
	if (cpu->nested->vmcs_pa == VMX_NONE)
		return fail_invalid(cpu, in);
	switch (reason) {
	case EXIT_VMREAD:
		return vmx_vmread(cpu, in, vmcs_of(cpu));
	case EXIT_VMWRITE:
		return vmx_vmwrite(cpu, in, vmcs_of(cpu));
	default:
		break;
	}
	/* VMLAUNCH, VMRESUME */
	if (vmcs_of(cpu)->revision & VMCS_SHADOW)
		return fail_invalid(cpu, in);
	if (cpu->shadow & CPU_SHADOW_MOV_SS)
		return fail(cpu, in, VMX_ERR_MOV_SS);
	if (reason == EXIT_VMLAUNCH && vmcs_of(cpu)->launch_state)
		return fail(cpu, in, VMX_ERR_VMLAUNCH_NOT_CLEAR);
	if (reason == EXIT_VMRESUME && !vmcs_of(cpu)->launch_state)
		return fail(cpu, in, VMX_ERR_VMRESUME_NOT_LAUNCHED);
	if (!vmx_controls_ok(cpu, vmcs_of(cpu)))
		return fail(cpu, in, VMX_ERR_CONTROLS);
	if (!vmx_host_ok(cpu, vmcs_of(cpu)))
		return fail(cpu, in, VMX_ERR_HOST);
	return vmx_enter(cpu, in, reason == EXIT_VMLAUNCH);
}
