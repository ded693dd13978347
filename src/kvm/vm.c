/* A VM's life. */
#include "kvm/vm.h"

#include "kvm/clock.h"
#include "kvm/coalesced.h"
#include "kvm/dirty.h"
#include "kvm/ioctl.h"
#include "kvm/ioeventfd.h"
#include "kvm/irqfd.h"
#include "kvm/memslot.h"
#include "kvm/msr.h"
#include "kvm/pages.h"
#include "kvm/pmu.h"
#include "kvm/request.h"
#include "kvm/user.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define IDENTITY_MAP_DEFAULT 0xfffbc000ull

static void vm_destroy(struct vm *vm)
{
	u32 count = vm->vcpu_count;

	irqfd_destroy_all(vm);
	/* No timer callback may look at a vCPU that is being freed. */
	for (u32 i = 0; i < count; i++) {
		timer_destroy(&vm->vcpus[i]->signal_timer);
		timer_destroy(&vm->vcpus[i]->pmu_timer);
		if (vm->vcpus[i]->apic)
			lapic_destroy(vm->vcpus[i]->apic);
	}
	irqchip_destroy(vm->irqchip);
	timer_service_destroy(vm->timers);
	for (u32 i = 0; i < count; i++)
		vcpu_destroy(vm->vcpus[i]);
	free(vm->vcpus);
	ioeventfd_destroy_all(vm);
	coalesced_destroy(vm);
	msr_filter_destroy(vm);
	pmu_filter_destroy(vm);
	memslot_destroy_all(vm);
	mmu_vm_destroy(&vm->mem);
	if (vm->run_pages)
		munmap(vm->run_pages, VCPU_RUN_PAGES * PAGE_SIZE);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->slots_lock);
	system_put(vm->sys);
	free(vm);
}

void vm_get(struct vm *vm)
{
	__atomic_fetch_add(&vm->refs, 1, __ATOMIC_RELAXED);
}

void vm_put(struct vm *vm)
{
	if (__atomic_fetch_sub(&vm->refs, 1, __ATOMIC_ACQ_REL) == 1)
		vm_destroy(vm);
}

static int vm_init(struct vm *vm)
{
	int ret;

	vm->vcpus = calloc(KVM_ABI_MAX_VCPUS, sizeof(*vm->vcpus));
	if (!vm->vcpus)
		return -ENOMEM;
	vm->run_pages = mmap(NULL, VCPU_RUN_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm->run_pages == MAP_FAILED) {
		vm->run_pages = NULL;
		return -ENOMEM;
	}
	vm->coalesced_page = (u8 *)vm->run_pages + (VCPU_RUN_PAGES - 1) * PAGE_SIZE;
	ret = timer_service_create(&vm->timers, TIMER_MONOTONIC);
	if (ret)
		return ret;
	vm->mem.page_dirtied = memslot_page_dirtied;
	if (vm->private_mem)
		vm->mem.gpa_blocked = memslot_gpa_blocked;
	clock_vm_init(vm);
	return 0;
}

int vm_create(struct system *sys, unsigned long type)
{
	struct vm *vm;
	int ret;

	if (type != KVM_X86_DEFAULT_VM && type != KVM_X86_SW_PROTECTED_VM)
		return -EINVAL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return -ENOMEM;
	ret = mmu_vm_init(&vm->mem);
	if (ret) {
		free(vm);
		return ret;
	}
	vm->refs = 1;
	vm->sys = sys;
	system_get(sys);
	vm->type = (u32)type;
	vm->private_mem = type == KVM_X86_SW_PROTECTED_VM;
	vm->identity_map_addr = IDENTITY_MAP_DEFAULT;
	vm->halt_poll_ns = HALT_POLL_NS;
	pages_vm_init(vm);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->slots_lock, NULL);
	ret = vm_init(vm);
	if (!ret)
		ret = fd_create(&fd_vm_ops, vm);
	if (ret < 0)
		vm_put(vm);
	return ret;
}

struct vcpu *vm_vcpu_by_id(struct vm *vm, u32 id)
{
	u32 count = vm_vcpu_count(vm);

	if (id < count && vm->vcpus[id]->id == id)
		return vm->vcpus[id];
	for (u32 i = 0; i < count; i++)
		if (vm->vcpus[i]->id == id)
			return vm->vcpus[i];
	return NULL;
}

int vm_create_vcpu(struct vm *vm, void *data, unsigned long arg)
{
	return vcpu_create(vm, arg);
}

int vm_set_memory_region(struct vm *vm, void *data, unsigned long arg)
{
	const struct kvm_userspace_memory_region *r = data;
	struct kvm_userspace_memory_region2 r2 = {
		.slot = r->slot,
		.flags = r->flags,
		.guest_phys_addr = r->guest_phys_addr,
		.memory_size = r->memory_size,
		.userspace_addr = r->userspace_addr,
	};

	if (r->flags & KVM_MEM_GUEST_MEMFD)
		return -EINVAL;
	return memslot_set(vm, &r2);
}

int vm_set_memory_region2(struct vm *vm, void *data, unsigned long arg)
{
	return memslot_set(vm, data);
}

int vm_get_dirty_log(struct vm *vm, void *data, unsigned long arg)
{
	return dirty_log_get(vm, data);
}

int vm_clear_dirty_log(struct vm *vm, void *data, unsigned long arg)
{
	return dirty_log_clear(vm, data);
}

int vm_reset_dirty_rings(struct vm *vm, void *data, unsigned long arg)
{
	return dirty_ring_reset_all(vm);
}

/* There is no shadow page pool whose size could be set. */
int vm_set_nr_mmu_pages(struct vm *vm, void *data, unsigned long arg)
{
	return arg < 64 ? -EINVAL : 0;
}

/* The TSS and identity map are crutches of VMX's real mode: remembered, not used. */
int vm_set_tss_addr(struct vm *vm, void *data, unsigned long arg)
{
	if (arg > (u32)(-3 * (s32)PAGE_SIZE))
		return -EINVAL;
	vm->tss_addr = arg;
	return 0;
}

int vm_set_identity_map_addr(struct vm *vm, void *data, unsigned long arg)
{
	u64 addr;
	int ret = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count)
		ret = -EINVAL;
	else
		ret = user_copy_in(&addr, arg, sizeof(addr));
	if (!ret)
		vm->identity_map_addr = addr ? addr : IDENTITY_MAP_DEFAULT;
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int vm_set_boot_cpu_id(struct vm *vm, void *data, unsigned long arg)
{
	int ret = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count)
		ret = -EBUSY;
	else if (arg > KVM_ABI_MAX_VCPU_IDS || (vm->max_vcpu_id && arg > vm->max_vcpu_id))
		ret = -EINVAL;
	else
		vm->bsp_id = (u32)arg;
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

/* No devices of the KVM_CREATE_DEVICE kind are there (VFIO's has nothing to do here). */
int vm_create_device(struct vm *vm, void *data, unsigned long arg)
{
	return -ENODEV;
}
