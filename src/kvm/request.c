#include "kvm/request.h"

#include "base/futex.h"
#include "jit/jit.h"
#include "mmu/mmu.h"

void vcpu_wake(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->cpu.poll, 0, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->latch.waiting, __ATOMIC_SEQ_CST) &&
	    __atomic_exchange_n(&vcpu->latch.waiting, 0, __ATOMIC_SEQ_CST))
		futex_wake(&vcpu->latch.waiting, 1);
}

void vcpu_request(struct vcpu *vcpu, u64 mask)
{
	__atomic_fetch_or(&vcpu->latch.requests, mask, __ATOMIC_SEQ_CST);
	vcpu_wake(vcpu);
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->latch.kicked, 1, __ATOMIC_SEQ_CST);
	vcpu_wake(vcpu);
}

/* Waits until the vCPU is outside its section or has handled synchronisation `gen`. */
static void section_wait(struct vcpu *vcpu, u32 gen)
{
	struct vcpu_latch *l = &vcpu->latch;
	u32 seen;

	/* A client's signal handler that interrupted KVM_RUN on this thread would wait for itself;
	 * the vCPU handles its requests when the handler returns. */
	if (__atomic_load_n(&l->thread, __ATOMIC_RELAXED) == vcpu_thread_self())
		return;
	__atomic_fetch_add(&l->section_waiters, 1, __ATOMIC_SEQ_CST);
	while (((seen = __atomic_load_n(&l->section, __ATOMIC_SEQ_CST)) & 1) &&
	       (s32)(__atomic_load_n(&l->sync_done, __ATOMIC_SEQ_CST) - gen) < 0)
		futex_wait(&l->section, seen, FUTEX_NEVER);
	__atomic_fetch_sub(&l->section_waiters, 1, __ATOMIC_SEQ_CST);
}

static void section_move(struct vcpu *vcpu, u32 by)
{
	__atomic_fetch_add(&vcpu->latch.section, by, __ATOMIC_SEQ_CST);
	if (UNLIKELY(__atomic_load_n(&vcpu->latch.section_waiters, __ATOMIC_SEQ_CST)))
		futex_wake(&vcpu->latch.section, INT32_MAX);
}

void vm_request_all(struct vm *vm, u64 mask, bool wait)
{
	u32 count = vm_vcpu_count(vm);

	for (u32 i = 0; i < count; i++) {
		struct vcpu_latch *l = &vm->vcpus[i]->latch;

		__atomic_fetch_or(&l->requests, mask, __ATOMIC_SEQ_CST);
		if (wait)
			__atomic_fetch_add(&l->sync_wanted, 1, __ATOMIC_SEQ_CST);
		vcpu_wake(vm->vcpus[i]);
	}
	if (!wait)
		return;
	for (u32 i = 0; i < count; i++)
		section_wait(vm->vcpus[i],
			     __atomic_load_n(&vm->vcpus[i]->latch.sync_wanted, __ATOMIC_SEQ_CST));
}

void vm_memory_written(struct vm *vm, u64 gpa, u64 bytes)
{
	u32 count;

	if (LIKELY(!mmu_client_wrote_at(&vm->mem, gpa, bytes)))
		return;
	count = vm_vcpu_count(vm);
	for (u32 i = 0; i < count; i++) {
		struct vcpu *vcpu = __atomic_load_n(&vm->vcpus[i], __ATOMIC_ACQUIRE);

		if (vcpu)
			vcpu_wake(vcpu);
	}
}

void vcpu_handle_memory_requests(struct vcpu *vcpu)
{
	struct vcpu_latch *l = &vcpu->latch;
	struct cpu *cpu = &vcpu->cpu;
	u32 gen = __atomic_load_n(&l->sync_wanted, __ATOMIC_SEQ_CST);
	u64 got;

	if (LIKELY(gen == l->sync_done &&
		   !(__atomic_load_n(&l->requests, __ATOMIC_SEQ_CST) & REQ_MEMORY_MASK)))
		return;
	got = __atomic_fetch_and(&l->requests, ~REQ_MEMORY_MASK, __ATOMIC_SEQ_CST);
	/* Whatever else was published: slots may be gone. */
	mmu_slots_forget(cpu);
	if ((got & (BIT64(REQ_MEMORY) | BIT64(REQ_CODE_FLUSH))) && vcpu->has_code) {
		vcpu->has_code = false;
		jit_flush(cpu);
	}
	if (got & (BIT64(REQ_MEMORY) | BIT64(REQ_TLB_FLUSH))) {
		vcpu->stats.tlb_flush++;
		mmu_flush_all(cpu);
	} else if (got & BIT64(REQ_WRITE_FLUSH)) {
		mmu_flush_write(cpu);
	}
	__atomic_store_n(&l->sync_done, gen, __ATOMIC_SEQ_CST);
	section_move(vcpu, 2);
}

void vcpu_section_enter(struct vcpu *vcpu)
{
	section_move(vcpu, 1);
	vcpu_handle_memory_requests(vcpu);
}

void vcpu_section_leave(struct vcpu *vcpu)
{
	section_move(vcpu, 1);
}
