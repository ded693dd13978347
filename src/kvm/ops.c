#include "kvm/ops.h"

#include "base/mem.h"
#include "kvm/clock.h"
#include "kvm/coalesced.h"
#include "kvm/ioeventfd.h"
#include "kvm/msr.h"
#include "kvm/pmu.h"
#include "kvm/pv.h"
#include "kvm/regs.h"
#include "kvm/request.h"
#include "kvm/trace.h"

/* --- device accesses ---------------------------------------------------------------------------- */

static bool lapic_hit(struct vcpu *vcpu, u64 gpa)
{
	return vcpu->apic && (gpa & PAGE_MASK) == lapic_mmio_base(vcpu->apic) &&
	       lapic_mode(vcpu->apic) != LAPIC_DISABLED;
}

static bool mmio_read(struct vcpu *vcpu, u64 gpa, unsigned len, void *data)
{
	struct irqchip *chip = vcpu->vm->irqchip;

	if (lapic_hit(vcpu, gpa) && !lapic_mmio_read(vcpu->apic, gpa & ~PAGE_MASK, data, len))
		return true;
	return chip && irqchip_mmio_read(chip, gpa, data, len);
}

static bool ops_mmio_read(struct cpu *cpu, u64 gpa, unsigned len, void *data)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (!mmio_read(vcpu, gpa, len, data))
		return false;
	if (UNLIKELY(cpu->trace))
		trace_mmio(vcpu, false, gpa, len, data);
	return true;
}

static bool mmio_write(struct vcpu *vcpu, u64 gpa, unsigned len, const void *data)
{
	struct irqchip *chip = vcpu->vm->irqchip;

	if (lapic_hit(vcpu, gpa) && !lapic_mmio_write(vcpu->apic, gpa & ~PAGE_MASK, data, len))
		return true;
	if (chip && irqchip_mmio_write(chip, gpa, data, len))
		return true;
	return ioeventfd_signal(vcpu->vm, false, gpa, len, data) ||
	       coalesced_write(vcpu->vm, false, gpa, len, data);
}

static bool ops_mmio_write(struct cpu *cpu, u64 gpa, unsigned len, const void *data)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	if (!mmio_write(vcpu, gpa, len, data))
		return false;
	if (UNLIKELY(cpu->trace))
		trace_mmio(vcpu, true, gpa, len, data);
	return true;
}

static bool ops_pio_read(struct cpu *cpu, u16 port, unsigned size, u32 *value)
{
	struct irqchip *chip = vcpu_of(cpu)->vm->irqchip;

	if (!chip || !irqchip_pio_read(chip, port, value, size))
		return false;
	if (UNLIKELY(cpu->trace))
		trace_pio(vcpu_of(cpu), true, port, size, 1, value);
	return true;
}

static bool pio_write(struct vm *vm, u16 port, unsigned size, u32 value)
{
	struct irqchip *chip = vm->irqchip;

	if (chip && irqchip_pio_write(chip, port, &value, size))
		return true;
	return ioeventfd_signal(vm, true, port, size, &value) ||
	       coalesced_write(vm, true, port, size, &value);
}

static bool ops_pio_write(struct cpu *cpu, u16 port, unsigned size, u32 value)
{
	if (!pio_write(vcpu_of(cpu)->vm, port, size, value))
		return false;
	if (UNLIKELY(cpu->trace))
		trace_pio(vcpu_of(cpu), false, port, size, 1, &value);
	return true;
}

/* --- registers of the layers here ------------------------------------------------------------------ */

static u64 ops_cr8_read(struct cpu *cpu)
{
	return vcpu_cr8(vcpu_of(cpu));
}

static void ops_cr8_write(struct cpu *cpu, u64 value)
{
	struct vcpu *vcpu = vcpu_of(cpu);
	u64 old = vcpu_cr8(vcpu);

	vcpu_set_cr8(vcpu, value);
	/* A lower priority may let in what the client's APIC holds back. */
	if (!vcpu->apic && value < old) {
		vcpu->set_tpr_exit = true;
		__atomic_store_n(&cpu->poll, 0, __ATOMIC_SEQ_CST);
	}
}

static void ops_smm_changed(struct cpu *cpu, bool in_smm)
{
	struct vcpu *vcpu = vcpu_of(cpu);

	TRACE(cpu->trace, kvm_enter_smm, vcpu->id, TRACE_STRING(in_smm ? "entering" : "leaving"),
	      cpu->smbase);
	/* The other address space shows other memory, and INIT or SMI may have waited. */
	vcpu_request(vcpu, BIT64(REQ_EVENT) | BIT64(REQ_MEMORY));
}

const struct cpu_ops kvm_cpu_ops = {
	.mmio_read = ops_mmio_read,
	.mmio_write = ops_mmio_write,
	.pio_read = ops_pio_read,
	.pio_write = ops_pio_write,
	.msr_read = msr_ops_read,
	.msr_write = msr_ops_write,
	.cr8_read = ops_cr8_read,
	.cr8_write = ops_cr8_write,
	.hypercall = pv_hypercall,
	.smm_changed = ops_smm_changed,
	.pmu_allowed = pmu_ops_allowed,
	.pmu_interrupt = pmu_ops_interrupt,
	.pmu_changed = pmu_ops_changed,
};

/* --- what the interrupt controllers ask for ---------------------------------------------------------- */

/* NULL while a vCPU is being made: its APIC can be reached before the vCPU is in the table. */
static struct vcpu *vcpu_at(void *owner, unsigned index)
{
	return __atomic_load_n(&((struct vm *)owner)->vcpus[index], __ATOMIC_ACQUIRE);
}

static void chip_kick(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (vcpu)
		vcpu_request(vcpu, BIT64(REQ_EVENT));
}

void vcpu_queue_nmi(struct vcpu *vcpu)
{
	/* The processor latches one NMI while another is handled; beyond that they merge. */
	u32 n = __atomic_load_n(&vcpu->latch.nmi_queued, __ATOMIC_RELAXED);

	while (n < (vcpu->cpu.nmi_masked ? 1u : 2u) &&
	       !__atomic_compare_exchange_n(&vcpu->latch.nmi_queued, &n, n + 1, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
		;
	vcpu_request(vcpu, BIT64(REQ_EVENT));
}

static void chip_nmi(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (vcpu)
		vcpu_queue_nmi(vcpu);
}

static void chip_smi(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (vcpu)
		vcpu_request(vcpu, BIT64(REQ_SMI) | BIT64(REQ_EVENT));
}

static void chip_init(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (!vcpu)
		return;
	__atomic_store_n(&vcpu->latch.init_sipi, LATCH_INIT, __ATOMIC_SEQ_CST);
	vcpu_request(vcpu, BIT64(REQ_EVENT));
}

static void chip_sipi(void *owner, unsigned index, u8 vector)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (!vcpu)
		return;
	__atomic_store_n(&vcpu->latch.sipi_vector, vector, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&vcpu->latch.init_sipi, LATCH_SIPI, __ATOMIC_SEQ_CST);
	vcpu_request(vcpu, BIT64(REQ_EVENT));
}

static void chip_unhalt(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (!vcpu)
		return;
	__atomic_store_n(&vcpu->latch.unhalted, 1, __ATOMIC_SEQ_CST);
	vcpu_request(vcpu, BIT64(REQ_EVENT));
}

static u64 chip_tsc_now(void *owner, unsigned index)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	return vcpu ? clock_guest_tsc(vcpu, clock_host_tsc()) : 0;
}

static u64 chip_tsc_to_ns(void *owner, unsigned index, u64 ticks)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	return vcpu ? clock_tsc_to_ns(vcpu, ticks) : 0;
}

static void chip_ioapic_eoi(void *owner, unsigned index, u8 vector)
{
	struct vcpu *vcpu = vcpu_at(owner, index);

	if (!vcpu)
		return;
	vcpu->eoi_exit_vector = vector;
	vcpu->eoi_exit_pending = true;
	__atomic_store_n(&vcpu->cpu.poll, 0, __ATOMIC_SEQ_CST);
}

const struct irqchip_ops kvm_irqchip_ops = {
	.kick = chip_kick,
	.nmi = chip_nmi,
	.smi = chip_smi,
	.init = chip_init,
	.sipi = chip_sipi,
	.unhalt = chip_unhalt,
	.tsc_now = chip_tsc_now,
	.tsc_to_ns = chip_tsc_to_ns,
	.ioapic_eoi = chip_ioapic_eoi,
};
