/* Interrupt controllers: the ioctls around src/irqchip. */
#include "kvm/ioctl.h"
#include "kvm/irqfd.h"
#include "kvm/ops.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vm_irqchip_create(struct vm *vm, enum irqchip_mode mode)
{
	struct irqchip *chip;
	int ret = irqchip_create(&chip, mode, &kvm_irqchip_ops, vm, vm->timers);

	if (ret)
		return ret;
	ret = irqchip_set_x2apic_api(chip, vm->x2apic_api);
	irqchip_disable_quirks(chip, vm->disabled_quirks);
	irqchip_set_trace(chip, system_trace(vm->sys));
	if (ret) {
		irqchip_destroy(chip);
		return ret;
	}
	__atomic_store_n(&vm->irqchip, chip, __ATOMIC_RELEASE);
	return 0;
}

int vm_create_irqchip(struct vm *vm, void *data, unsigned long arg)
{
	int ret;

	pthread_mutex_lock(&vm->lock);
	if (vm->irqchip)
		ret = -EEXIST;
	else if (vm->vcpu_count)
		ret = -EINVAL;
	else
		ret = vm_irqchip_create(vm, IRQCHIP_FULL);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int vm_get_irqchip(struct vm *vm, void *data, unsigned long arg)
{
	irqfd_drain(vm);
	return vm_pic_inside(vm) ? irqchip_get_state(vm_irqchip(vm), data) : -ENXIO;
}

int vm_set_irqchip(struct vm *vm, void *data, unsigned long arg)
{
	irqfd_drain(vm);
	return vm_pic_inside(vm) ? irqchip_set_state(vm_irqchip(vm), data) : -ENXIO;
}

int vm_irq_line(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_irq_level *l = data;

	if (!vm_irqchip(vm))
		return -ENXIO;
	mmu_client_event(&vm->mem);
	irqchip_set_irq(vm_irqchip(vm), IRQCHIP_SOURCE_USER, l->irq, l->level, false);
	return 0;
}

int vm_irq_line_status(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_irq_level *l = data;
	u32 irq = l->irq, level = l->level;

	if (!vm_irqchip(vm))
		return -ENXIO;
	mmu_client_event(&vm->mem);
	l->status = irqchip_set_irq(vm_irqchip(vm), IRQCHIP_SOURCE_USER, irq, level, true);
	return 0;
}

int vm_set_gsi_routing(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_irq_routing head;
	void *entries;
	int ret;

	if (user_copy_in(&head, arg, sizeof(head)))
		return -EFAULT;
	if (!vm_irqchip(vm) || head.nr > KVM_ABI_MAX_IRQ_ROUTES || head.flags)
		return -EINVAL;
	ret = user_array_in(&entries, arg + sizeof(head), head.nr,
			    sizeof(struct kvm_irq_routing_entry), KVM_ABI_MAX_IRQ_ROUTES);
	if (ret)
		return ret;
	irqfd_drain(vm); /* by the old routes */
	ret = irqchip_set_routing(vm_irqchip(vm), entries, head.nr);
	free(entries);
	return ret;
}

int vm_signal_msi(struct vm *vm, void *data, unsigned long arg)
{
	if (!vm_irqchip(vm))
		return -EINVAL;
	mmu_client_event(&vm->mem);
	return irqchip_send_msi(vm_irqchip(vm), data);
}

/* --- PIT --------------------------------------------------------------------------------------------- */

static int create_pit(struct vm *vm, u32 flags)
{
	int ret = -ENOENT;

	pthread_mutex_lock(&vm->lock);
	if (vm_pic_inside(vm))
		ret = irqchip_create_pit(vm->irqchip, flags);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int vm_create_pit(struct vm *vm, void *data, unsigned long arg)
{
	return create_pit(vm, KVM_PIT_SPEAKER_DUMMY);
}

int vm_create_pit2(struct vm *vm, void *data, unsigned long arg)
{
	return create_pit(vm, ((const struct kvm_pit_config *)data)->flags);
}

int vm_get_pit2(struct vm *vm, void *data, unsigned long arg)
{
	return vm_irqchip(vm) ? irqchip_get_pit(vm_irqchip(vm), data) : -ENXIO;
}

int vm_set_pit2(struct vm *vm, void *data, unsigned long arg)
{
	return vm_irqchip(vm) ? irqchip_set_pit(vm_irqchip(vm), data) : -ENXIO;
}

int vm_get_pit(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_pit_state2 s2;
	int ret = vm_get_pit2(vm, &s2, 0);

	if (!ret)
		memcpy(((struct kvm_pit_state *)data)->channels, s2.channels, sizeof(s2.channels));
	return ret;
}

int vm_set_pit(struct vm *vm, void *data, unsigned long arg)
{
	struct kvm_pit_state2 s2 = {.flags = 0};

	memcpy(s2.channels, ((struct kvm_pit_state *)data)->channels, sizeof(s2.channels));
	return vm_set_pit2(vm, &s2, 0);
}

int vm_reinject_control(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_reinject_control *c = data;

	return vm_irqchip(vm) ? irqchip_set_pit_reinject(vm_irqchip(vm), c->pit_reinject) : -ENXIO;
}

/* --- a vCPU's interrupts ---------------------------------------------------------------------------- */

int vcpu_get_lapic(struct vcpu *vcpu, void *data, unsigned long arg)
{
	if (!vcpu->apic)
		return -EINVAL;
	irqfd_drain(vcpu->vm);
	lapic_get_state(vcpu->apic, data);
	return 0;
}

int vcpu_set_lapic(struct vcpu *vcpu, void *data, unsigned long arg)
{
	struct kvm_lapic_state state;
	int ret;

	if (!vcpu->apic)
		return -EINVAL;
	if (user_copy_in(&state, arg, sizeof(state)))
		return -EFAULT;
	irqfd_drain(vcpu->vm);
	ret = lapic_set_state(vcpu->apic, &state);
	vcpu_request(vcpu, BIT64(REQ_EVENT));
	return ret;
}

int vcpu_interrupt(struct vcpu *vcpu, void *data, unsigned long arg)
{
	u32 vector = ((const struct kvm_interrupt *)data)->irq;
	int ret = 0;

	if (vector > 255)
		return -EINVAL;
	if (vm_pic_inside(vcpu->vm))
		return -ENXIO;
	if (vcpu->apic) {
		ret = lapic_set_user_extint(vcpu->apic, (u8)vector);
	} else {
		vcpu->interrupt_injected = true;
		vcpu->interrupt_soft = false;
		vcpu->interrupt_vector = (u8)vector;
	}
	vcpu_request(vcpu, BIT64(REQ_EVENT));
	return ret;
}

int vcpu_nmi(struct vcpu *vcpu, void *data, unsigned long arg)
{
	vcpu_queue_nmi(vcpu);
	return 0;
}

int vcpu_smi(struct vcpu *vcpu, void *data, unsigned long arg)
{
	vcpu_request(vcpu, BIT64(REQ_SMI) | BIT64(REQ_EVENT));
	return 0;
}
