/*
 * slots.c - guest-physical address → the client's memory
 *
 * A map (map.c) is immutable once published. The API layer publishes a new one, then asks every vCPU for
 * a flush and waits for the answers before it frees the old one; a vCPU therefore needs only an
 * acquire load, and whatever it remembers about slots is forgotten in mmu_flush_all().
 */
#include "base/syscall.h"
#include "mmu/mmu_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAY_RETURN_NS 20000000ull

int mmu_vm_init(struct mmu_vm *vm)
{
	memset(vm, 0, sizeof(*vm));
	return code_vm_init(vm);
}

void mmu_vm_destroy(struct mmu_vm *vm)
{
	window_vm_destroy(vm);
	code_vm_destroy(vm);
	free(vm->cpus);
	vm->cpus = NULL;
	vm->cpu_count = vm->cpu_room = 0;
}

struct mmu_map *mmu_vm_set_map(struct mmu_vm *vm, unsigned as, struct mmu_map *map)
{
	return atomic_exchange_explicit(&vm->map[as], map, memory_order_acq_rel);
}

struct mmu_slot *slot_find_slow(struct cpu *cpu, u64 gpa)
{
	struct mmu_cpu *mc = cpu->mmu;
	struct mmu_map *map = slot_map_now(cpu);
	struct mmu_slot *s;

	if (mc->slot_map != map) {
		mc->slot_map = map;
		mc->slot_last[0] = mc->slot_last[1] = NULL;
	} else if (mc->slot_last[1] && gpa - mc->slot_last[1]->gpa < mc->slot_last[1]->size) {
		s = mc->slot_last[1];
		mc->slot_last[1] = mc->slot_last[0];
		mc->slot_last[0] = s;
		return s;
	}
	s = mmu_map_next(map, gpa);
	if (!s || gpa < s->gpa)
		return NULL;
	mc->slot_last[1] = mc->slot_last[0];
	mc->slot_last[0] = s;
	return s;
}

static u64 now_ns(void)
{
	struct timespec t = {0};

	sys_call(SYS_clock_gettime, CLOCK_MONOTONIC, (u64)&t, 0, 0, 0);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

void mmu_vm_slot_deleted(struct mmu_vm *vm)
{
	__atomic_store_n(&vm->deleted_ns, now_ns(), __ATOMIC_RELAXED);
}

/*
 * A client that changes what lies over RAM deletes the slot and adds its pieces, and between the two calls the
 * guest has no memory (QEMU 7.2; later ones stop the vCPUs for it). A vCPU that is not halted then gets a #PF for
 * memory that is there, and another for its IDT. KVM's are seldom in time for that; but here the deletion wakes each
 * of them and waits until it has answered. So for some milliseconds who misses a page table goes back to the run
 * loop, answers there, and tries again.
 */
bool slot_may_return(const struct cpu *cpu)
{
	return now_ns() - __atomic_load_n(&cpu->mem->deleted_ns, __ATOMIC_RELAXED) < MAY_RETURN_NS;
}

void mmu_slots_forget(struct cpu *cpu)
{
	cpu->mmu->slot_map = NULL;
	cpu->mmu->slot_last[0] = cpu->mmu->slot_last[1] = NULL;
}

struct mmu_slot *mmu_slot_find(struct cpu *cpu, u64 gpa)
{
	return slot_find(cpu, gpa);
}

void slot_dirty_slow(struct cpu *cpu, struct mmu_slot *slot, u64 gpa)
{
	u64 page = slot->first + ((gpa - slot->gpa) >> PAGE_SHIFT);
	u64 bit = BIT64(page & 63);
	u64 *word = &slot->dirty[page >> 6];

	if (__atomic_load_n(word, __ATOMIC_RELAXED) & bit)
		return;
	if (!(__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST) & bit) && cpu->mem->page_dirtied)
		cpu->mem->page_dirtied(cpu, slot, page);
}

static bool map_host_gpa(const struct mmu_map *map, const void *host, u64 *gpa)
{
	for (unsigned i = 0; map && i < map->count; i++) {
		const struct mmu_slot *s = &map->slot[i];
		u64 off = (u64)host - s->hva;

		if (map->inner) {
			if (map_host_gpa(s->priv, host, gpa))
				return true;
		} else if (off < s->size) {
			*gpa = s->gpa + off;
			return true;
		}
	}
	return false;
}

bool mmu_host_gpa(struct cpu *cpu, const void *host, u64 *gpa)
{
	return map_host_gpa(slot_map_now(cpu), host, gpa);
}

bool mmu_code_present(struct mmu_vm *vm, u64 gpa, u64 size)
{
	/* Page by page pays up to a point. */
	if (size >> PAGE_SHIFT > CODE_FILTER_BITS)
		return true;
	for (u64 end = gpa + size; gpa < end; gpa += PAGE_SIZE)
		if (code_tracked(vm, gpa))
			return true;
	return false;
}

int mmu_phys_read(struct cpu *cpu, u64 gpa, void *buf, unsigned n)
{
	u8 *p = buf;

	while (n) {
		struct mmu_slot *s = slot_find(cpu, gpa);
		unsigned part = (unsigned)MIN((u64)n, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));

		if (!s || !hostmem_get(p, mmu_slot_host(s, gpa), part))
			return -1;
		gpa += part;
		p += part;
		n -= part;
	}
	return 0;
}

int mmu_phys_write(struct cpu *cpu, u64 gpa, const void *buf, unsigned n)
{
	const u8 *p = buf;

	while (n) {
		struct mmu_slot *s = slot_find(cpu, gpa);
		unsigned part = (unsigned)MIN((u64)n, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));

		if (!s || (s->flags & MMU_SLOT_READONLY) ||
		    !ram_store(cpu, s, gpa, mmu_slot_host(s, gpa), p, part))
			return -1;
		gpa += part;
		p += part;
		n -= part;
	}
	return 0;
}

void *pages_map(size_t bytes)
{
	long ret = sys_call(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    ~0ull);

	return ret < 0 && ret > -4096 ? NULL : (void *)ret;
}

void pages_unmap(void *p, size_t bytes)
{
	if (p)
		sys_call(SYS_munmap, (u64)p, bytes, 0, 0, 0);
}
