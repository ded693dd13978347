/* A vCPU's life, its reset, and its pages shared with the client. */
#include "kvm/vcpu.h"

#include "cpu/fpu.h"
#include "cpu/mode.h"
#include "cpu/msr.h"
#include "jit/jit.h"
#include "jit/perfmap.h"
#include "kvm/clock.h"
#include "kvm/cpuid.h"
#include "kvm/dirty.h"
#include "kvm/ioctl.h"
#include "kvm/ops.h"
#include "kvm/pv.h"
#include "kvm/request.h"
#include "nested/vmx/vmx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RUN_BYTES (2 * PAGE_SIZE) /* kvm_run and port data; the ring's page is the VM's */

static size_t vcpu_bytes(void)
{
	return align_up(sizeof(struct vcpu), PAGE_SIZE);
}

void vcpu_reset(struct vcpu *vcpu, bool init)
{
	struct cpu *cpu = &vcpu->cpu;

	vmx_reset(cpu);
	cpu_reset(cpu, init);
	if (!init) {
		cpu_msr_reset(cpu);
		cpu->hwcr = 0; /* as KVM's: the client sets TscFreqSel if it wants to */
	}
	vcpu->dr6_set = cpu->dr6;
	vcpu->dr7_set = cpu->dr7;
	cpu->exit.reason = CPU_EXIT_NONE;
	cpu->exc.pending = false;
	cpu->nmi_masked = false;
	cpu->restart = false;
	cpu->mmio.write_count = 0;
	cpu->mmio.read_wanted = false;
	vcpu->latch.nmi_queued = 0;
	vcpu->nmi_injected = vcpu->interrupt_injected = false;
	/* What runs behind an INIT has not asked for these records: its memory is its own. */
	vcpu->pv.async_pf_en = vcpu->pv.async_pf_int = 0;
	vcpu->pv.steal_time = vcpu->pv.system_time = vcpu->pv.eoi = 0;
	vcpu->pv.eoi_offered = false;
	if (!init)
		vcpu->pv.poll_control = 1;
	if (vcpu->apic)
		lapic_reset(vcpu->apic, init);
	else
		vcpu->apic_base_user = APIC_BASE_DEFAULT | APIC_BASE_ENABLE |
				       (vcpu->id == vcpu->vm->bsp_id ? APIC_BASE_BSP : 0);
	vcpu->cr8 = 0;
	vcpu_state_changed(vcpu);
}

void vcpu_state_changed(struct vcpu *vcpu)
{
	cpu_mode_update(&vcpu->cpu);
	vcpu_request(vcpu, BIT64(REQ_EVENT));
}

/* Most VMs have one vCPU, or begin with one: its pages come with the VM's, ready to be shared as one. */
static bool pages_are_vms(const struct vcpu *vcpu)
{
	return vcpu->run_pages == vcpu->vm->run_pages;
}

static int vcpu_init_pages(struct vcpu *vcpu)
{
	void *p = vcpu->vm->run_pages;

	if (vcpu->index)
		p = mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			 0);
	else if (vcpu->vm->run_pages_used)
		memset(p, 0, RUN_BYTES); /* by one that could not be made */
	if (p == MAP_FAILED)
		return -ENOMEM;
	vcpu->vm->run_pages_used = true;
	vcpu->run_pages = p;
	vcpu->run = p;
	vcpu->pio_page = (u8 *)p + PAGE_SIZE;
	return dirty_ring_create(vcpu);
}

static int vcpu_init_cpu(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;
	int ret;

	cpu->ops = &kvm_cpu_ops;
	cpu->nested_ops = &vmx_nested_ops;
	cpu->owner = vcpu;
	cpu->index = vcpu->index;
	cpu->vendor = vcpu->vm->sys->vendor;
	cpu->mcg_cap = 32; /* banks */
	cpu->trace = system_trace(vcpu->vm->sys);
	cpu->irq_window = 1;
	cpu->pmu.enabled = !vcpu->vm->pmu_disabled;
	cpu->disabled_quirks = (u32)vcpu->vm->disabled_quirks;
	ret = cpu_fpu_init(cpu);
	if (!ret)
		ret = mmu_cpu_init(cpu, &vcpu->vm->mem);
	if (!ret)
		ret = jit_cpu_init(cpu, vcpu->vm->sys->cache_bytes);
	if (!ret && vcpu->vm->sys->perfmap)
		ret = jit_perfmap_open(cpu);
	if (!ret)
		ret = cpuid_init(vcpu);
	return ret;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	struct cpu *cpu = &vcpu->cpu;

	if (!vcpu)
		return;
	jit_perfmap_close(cpu);
	vmx_destroy(cpu);
	if (cpu->jit)
		jit_cpu_destroy(cpu);
	if (cpu->mmu)
		mmu_cpu_destroy(cpu);
	if (cpu->xsave)
		cpu_fpu_destroy(cpu);
	pv_destroy(vcpu);
	dirty_ring_destroy(vcpu);
	if (vcpu->run_pages && !pages_are_vms(vcpu))
		munmap(vcpu->run_pages, RUN_BYTES);
	free(vcpu->cpuid);
	pthread_mutex_destroy(&vcpu->mutex);
	munmap(vcpu, vcpu_bytes());
}

static struct vcpu *vcpu_alloc(struct vm *vm, u32 id, u32 index)
{
	/* Most of it is TLB, which is empty when it is zero: not touched, not committed. */
	struct vcpu *vcpu = mmap(NULL, vcpu_bytes(), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (vcpu == MAP_FAILED)
		return NULL;
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->index = index;
	pthread_mutex_init(&vcpu->mutex, NULL);
	return vcpu;
}

static int vcpu_init(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	bool bsp = vcpu->id == vm->bsp_id;
	int ret = vcpu_init_pages(vcpu);

	if (!ret)
		ret = vcpu_init_cpu(vcpu);
	if (!ret && vm->irqchip)
		ret = lapic_create(vm->irqchip, vcpu->index, vcpu->id, bsp, &vcpu->apic);
	if (ret)
		return ret;
	vcpu->mp_state = vcpu->apic && !bsp ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
	vcpu_reset(vcpu, false);
	clock_vcpu_init(vcpu);
	return 0;
}

static int vcpu_create_locked(struct vm *vm, u32 id)
{
	struct vcpu *vcpu;
	int ret;

	if (vm->vcpu_count == KVM_ABI_MAX_VCPUS)
		return -EINVAL;
	if (vm_vcpu_by_id(vm, id))
		return -EEXIST;
	vcpu = vcpu_alloc(vm, id, vm->vcpu_count);
	if (!vcpu)
		return -ENOMEM;
	ret = vcpu_init(vcpu);
	if (ret)
		goto out;
	/* In the table before the descriptor is known to anyone, with the descriptor's hold. */
	__atomic_store_n(&vm->vcpus[vcpu->index], vcpu, __ATOMIC_RELEASE);
	vm_get(vm);
	ret = fd_create(&fd_vcpu_ops, vcpu);
	if (ret < 0) {
		__atomic_fetch_sub(&vm->refs, 1, __ATOMIC_ACQ_REL);
		__atomic_store_n(&vm->vcpus[vcpu->index], NULL, __ATOMIC_RELEASE);
		goto out;
	}
	__atomic_store_n(&vm->vcpu_count, vm->vcpu_count + 1, __ATOMIC_RELEASE);
	return ret;
out:
	if (vcpu->apic)
		lapic_destroy(vcpu->apic);
	vcpu_destroy(vcpu);
	return ret;
}

int vcpu_create(struct vm *vm, unsigned long id)
{
	int ret;

	if (id >= KVM_ABI_MAX_VCPU_IDS || (vm->max_vcpu_id && id >= vm->max_vcpu_id))
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	ret = vcpu_create_locked(vm, (u32)id);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

/* Our mappings are for reading and writing, as most clients want them. */
static int page_protect(void *at, size_t bytes, int prot)
{
	if (prot == (PROT_READ | PROT_WRITE))
		return 0;
	return mprotect(at, bytes, prot) ? -errno : 0;
}

/* Maps a copy of one of our shared mappings over a reserved range. */
static int page_share(void *page, size_t bytes, void *at, int prot)
{
	void *p = mremap(page, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at);

	if (p == MAP_FAILED)
		return -ENOMEM;
	return page_protect(at, bytes, prot);
}

static int share_run(struct vcpu *vcpu, u8 *at, size_t length, int prot)
{
	size_t part = MIN(length, RUN_BYTES);
	int ret = page_share(vcpu->run_pages, part, at, prot);

	if (!ret && length > RUN_BYTES)
		ret = page_share(vcpu->vm->coalesced_page, PAGE_SIZE, at + RUN_BYTES, prot);
	return ret;
}

/* The first vCPU's pages lie before the ring's already. */
static long share_run_first(struct vcpu *vcpu, size_t length, int prot)
{
	void *p = mremap(vcpu->run_pages, 0, length, MREMAP_MAYMOVE);
	int ret;

	if (p == MAP_FAILED)
		return -ENOMEM;
	ret = page_protect(p, length, prot);
	if (ret)
		munmap(p, length);
	return ret ? ret : (long)p;
}

long vcpu_mmap(struct fd_file *file, size_t length, int prot, int flags, u64 offset)
{
	struct vcpu *vcpu = file->object;
	size_t ring = vcpu->dirty_ring ? vcpu->vm->dirty_ring_bytes : 0;
	bool is_ring = offset == KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE && ring;
	u8 *at;
	int ret;

	length = align_up(length, PAGE_SIZE);
	if (is_ring) {
		if (length > ring)
			return -EINVAL;
		if ((prot & PROT_EXEC) || !(flags & MAP_SHARED))
			return -EINVAL;
	} else if (offset || length > VCPU_RUN_PAGES * PAGE_SIZE) {
		return -EINVAL;
	}
	if (!is_ring && pages_are_vms(vcpu))
		return share_run_first(vcpu, length, prot);
	at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	ret = is_ring ? page_share(vcpu->dirty_ring, length, at, prot)
		      : share_run(vcpu, at, length, prot);
	if (ret) {
		munmap(at, length);
		return ret;
	}
	return (long)at;
}
