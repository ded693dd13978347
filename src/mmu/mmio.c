/*
 * mmio.c - accesses that reach no memory
 *
 * Devices inside (interrupt controllers, ioeventfds) answer at once through cpu->ops; the rest is
 * for user space. A read that user space must answer stops the instruction before it has
 * committed anything. When it runs again it finds the answers in cpu->mmio.done[], in the order in
 * which they were asked for. If an access takes several fragments, and a device inside answered
 * the first while user space must answer a later one, the first is recorded there as well, so that
 * the restart does not read the device twice.
 *
 * Fragments are cut as KVM cuts them: eight bytes from the start, the rest last, page by page.
 */
#include "mmu/mmu_internal.h"

unsigned mmio_begin(struct cpu *cpu)
{
	if (!cpu->restart)
		cpu->mmio.done_count = cpu->mmio.done_next = 0;
	return cpu->mmio.done_count;
}

void mmio_end(struct cpu *cpu, unsigned mark)
{
	cpu->mmio.done_count = mark;
	if (cpu->mmio.done_next > mark)
		cpu->mmio.done_next = mark;
}

int mmio_read(struct cpu *cpu, u64 gpa, u8 *buf, unsigned n)
{
	while (n) {
		struct cpu_mmio *m = &cpu->mmio;
		unsigned len = MIN(n, 8u);
		struct cpu_mmio_frag *d = &m->done[m->done_next];

		if (m->done_next < m->done_count && d->gpa == gpa && d->len == len) {
			mem_copy(buf, d->data, len);
			m->done_next++;
		} else if (!(len & (len - 1)) && cpu->ops && cpu->ops->mmio_read &&
			   cpu->ops->mmio_read(cpu, gpa, len, buf)) {
			if (m->done_next == m->done_count && m->done_count < CPU_MMIO_FRAGS) {
				d = &m->done[m->done_count];
				d->gpa = gpa;
				d->len = (u8)len;
				mem_copy(d->data, buf, len);
				m->done_next = ++m->done_count;
			}
		} else {
			if (m->done_count == CPU_MMIO_FRAGS)
				return mmu_internal(cpu, "MMIO read too large");
			m->want.gpa = gpa;
			m->want.len = (u8)len;
			m->load.len = m->load.size = 0;
			m->read_wanted = true;
			cpu->exit.reason = CPU_EXIT_MMIO;
			return CPU_EXIT;
		}
		gpa += len;
		buf += len;
		n -= len;
	}
	return CPU_OK;
}

bool mmio_write(struct cpu *cpu, u64 gpa, const u8 *buf, unsigned n)
{
	bool queued = false;

	while (n) {
		struct cpu_mmio *m = &cpu->mmio;
		unsigned len = MIN(n, 8u);

		/* What comes behind a queued write must not overtake it. */
		if (m->write_count || (len & (len - 1)) || !cpu->ops || !cpu->ops->mmio_write ||
		    !cpu->ops->mmio_write(cpu, gpa, len, buf)) {
			struct cpu_mmio_frag *f = &m->write[m->write_count];

			if (m->write_count < CPU_MMIO_FRAGS) {
				m->write_count++;
				f->gpa = gpa;
				f->len = (u8)len;
				mem_copy(f->data, buf, len);
			}
			cpu->exit.reason = CPU_EXIT_MMIO;
			queued = true;
		}
		gpa += len;
		buf += len;
		n -= len;
	}
	return queued;
}

int mmio_room(struct cpu *cpu, const struct pend_part *part, unsigned count)
{
	unsigned frags = cpu->mmio.write_count;

	for (unsigned i = 0; i < count; i++)
		if (!part[i].host || part[i].rom)
			frags += mmio_frags(part[i].len);
	return frags <= CPU_MMIO_FRAGS ? CPU_OK : mmu_internal(cpu, "MMIO write too large");
}

int mmu_internal(struct cpu *cpu, const char *why)
{
	cpu->exit.reason = CPU_EXIT_INTERNAL;
	cpu->exit.internal.why = why;
	cpu->exit.internal.len = 0;
	return CPU_EXIT;
}

int memfault(struct cpu *cpu, u64 gpa, unsigned size, unsigned access)
{
	cpu->exit.reason = CPU_EXIT_MEMFAULT;
	cpu->exit.mem.gpa = gpa;
	cpu->exit.mem.size = size;
	cpu->exit.mem.write = access & MMU_WRITE;
	cpu->exit.mem.exec = access & MMU_EXEC;
	return CPU_EXIT;
}

bool gpa_blocked(struct cpu *cpu, u64 gpa, unsigned size, unsigned access)
{
	if (LIKELY(!cpu->mem->gpa_blocked) || !cpu->mem->gpa_blocked(cpu, gpa, access))
		return false;
	memfault(cpu, gpa, size, access);
	return true;
}

bool mmu_mmio_asked(struct cpu *cpu)
{
	bool asked = cpu->mmu->mmio_asked;

	cpu->mmu->mmio_asked = false;
	return asked;
}

void mmu_mmio_allow(struct cpu *cpu, bool allow)
{
	cpu->mmu->mmio_allowed = allow;
}
