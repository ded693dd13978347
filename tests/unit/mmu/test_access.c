/* Reads and writes of helpers and of generated code that are not one plain host access. */
#include "rig.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static struct cpu *start(void)
{
	struct cpu *cpu;

	rig_make(2);
	cpu = rig.cpu[0];
	rig_long(cpu);
	/* two pages that follow each other only in linear addresses */
	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W);
	rig_map(cpu, 0x401000, 0x9000, PAGE_SIZE, P | W);
	rig_map(cpu, 0x500000, RIG_DEVICE, PAGE_SIZE, P | W);
	rig_map(cpu, 0x501000, RIG_ROM_GPA, PAGE_SIZE, P | W);
	rig_map(cpu, 0x4ff000, 0xa000, PAGE_SIZE, P | W);
	return cpu;
}

static void crossing_read_write(void **state)
{
	struct cpu *cpu = start();
	u8 buf[64], out[64];

	for (unsigned i = 0; i < 64; i++)
		buf[i] = (u8)(i * 7 + 1);
	for (unsigned n = 2; n <= 64; n++)
		for (unsigned at = 1; at < n; at++) {
			memset(rig.ram + 0x5f00, 0, 0x100);
			memset(rig.ram + 0x9000, 0, 0x100);
			assert_int_equal(mmu_write(cpu, 0x401000 - at, buf, n, MMU_WRITE), CPU_OK);
			assert_memory_equal(rig.ram + 0x6000 - at, buf, at);
			assert_memory_equal(rig.ram + 0x9000, buf + at, n - at);
			assert_int_equal(rig.ram[0x9000 + n - at], 0);
			assert_int_equal(mmu_read(cpu, 0x401000 - at, out, n, MMU_READ), CPU_OK);
			assert_memory_equal(out, buf, n);
		}
	rig_free();
}

static void crossing_bounce(void **state)
{
	struct cpu *cpu = start();
	u64 v = 0x1122334455667788ull, old = 0xa1a2a3a4a5a6a7a8ull;

	memcpy(rig.ram + 0x5ffd, &old, 3);
	memcpy(rig.ram + 0x9000, (u8 *)&old + 3, 5);
	assert_int_equal(mmu_resolve(cpu, 0x400ffd, 8, MMU_READ, false), MMU_BOUNCED);
	assert_memory_equal(cpu->bounce, &old, 8);
	for (unsigned lock = 0; lock < 2; lock++) {
		assert_int_equal(mmu_resolve(cpu, 0x400ffd, 8, MMU_WRITE | MMU_RMW, lock),
				 MMU_BOUNCED);
		assert_int_equal(rig.vm.split_lock.word, lock);
		assert_memory_equal(cpu->bounce, lock ? &v : &old, 8);
		memcpy(cpu->bounce, &v, 8);
		assert_int_equal(mmu_bounce_commit(cpu), 0);
		assert_int_equal(rig.vm.split_lock.word, 0);
		assert_memory_equal(rig.ram + 0x5ffd, &v, 3);
		assert_memory_equal(rig.ram + 0x9000, (u8 *)&v + 3, 5);
	}
	/* an XSAVE area over five pages */
	for (unsigned i = 0; i < 6; i++)
		rig_map(cpu, 0x600000 + i * 4096, 0x20000 + 2 * i * 4096, PAGE_SIZE, P | W);
	assert_int_equal(mmu_resolve(cpu, 0x600801, 16384, MMU_WRITE, false), MMU_BOUNCED);
	memset(cpu->bounce, 0x5a, 16384);
	assert_int_equal(mmu_bounce_commit(cpu), 0);
	assert_int_equal(rig.ram[0x20801], 0x5a);
	assert_int_equal(rig.ram[0x28000 + 0x800], 0x5a);
	assert_int_equal(rig.ram[0x28000 + 0x801], 0);
	/* beyond the buffer: refused, not overrun */
	assert_int_equal(mmu_resolve(cpu, 0x600801, 16385, MMU_WRITE, false), MMU_STOP_EXIT);
	assert_int_equal(cpu->exit.reason, CPU_EXIT_INTERNAL);
	rig_free();
}

/* The second page faults: its first byte is the address, and the first page is untouched. */
static void crossing_faults(void **state)
{
	struct cpu *cpu = start();
	u64 v = ~0ull;

	*rig_pte(cpu, 0x401000) = 0x9000 | P; /* read-only */
	assert_int_equal(mmu_resolve(cpu, 0x400ffd, 8, MMU_WRITE, false), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.payload, 0x401000);
	assert_int_equal(cpu->exc.error, 3);
	assert_int_equal(mmu_write(cpu, 0x400ffd, &v, 8, MMU_WRITE), CPU_EXC);
	assert_int_equal(rig.ram[0x5ffd], 0);
	assert_int_equal(mmu_resolve(cpu, 0x400ffd, 8, MMU_READ, false), MMU_BOUNCED);
	*rig_pte(cpu, 0x400000) = 0; /* both: the first one counts */
	mmu_flush_all(cpu);
	assert_int_equal(mmu_resolve(cpu, 0x400ffd, 8, MMU_WRITE, false), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.payload, 0x400ffd);
	assert_int_equal(cpu->exc.error, 2);
	/* the last canonical page, crossing out */
	rig_map(cpu, 0x00007ffffffff000ull, 0x5000, PAGE_SIZE, P | W);
	assert_int_equal(mmu_resolve(cpu, 0x00007ffffffffffdull, 8, MMU_READ, false), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.vector, EXC_GP);
	/* 32-bit addresses wrap */
	cpu->cr0 = CR0_PE;
	cpu->cr4 = 0;
	cpu->efer = 0;
	mmu_flush_all(cpu);
	memcpy(rig.ram, "abcd", 4);
	memcpy(rig.rom + RIG_ROM_SIZE - 4, "wxyz", 4);
	assert_int_equal(mmu_resolve(cpu, 0xfffffffc, 8, MMU_READ, false), MMU_BOUNCED);
	assert_memory_equal(cpu->bounce, "wxyzabcd", 8);
	rig_free();
}

static void mmio_user_space(void **state)
{
	struct cpu *cpu = start();
	u64 v = 0;

	/* a read restarts with its answer */
	assert_int_equal(mmu_resolve(cpu, 0x500010, 4, MMU_READ, false), MMU_STOP_EXIT);
	assert_int_equal(cpu->exit.reason, CPU_EXIT_MMIO);
	assert_true(cpu->mmio.read_wanted);
	assert_int_equal(cpu->mmio.want.gpa, RIG_DEVICE + 0x10);
	assert_int_equal(cpu->mmio.want.len, 4);
	cpu->mmio.done[cpu->mmio.done_count++] =
		(struct cpu_mmio_frag){RIG_DEVICE + 0x10, 4, {1, 2, 3, 4}};
	cpu->mmio.done_next = 0;
	cpu->restart = true;
	assert_int_equal(mmu_resolve(cpu, 0x500010, 4, MMU_READ, false), MMU_BOUNCED);
	assert_memory_equal(cpu->bounce, "\1\2\3\4", 4);
	cpu->restart = false;
	/* the next one asks again */
	assert_int_equal(mmu_read(cpu, 0x500010, &v, 4, MMU_READ), CPU_EXIT);

	/* a plain store reads nothing, and is queued */
	cpu->exit.reason = CPU_EXIT_NONE;
	assert_int_equal(mmu_resolve(cpu, 0x500020, 8, MMU_WRITE, false), MMU_BOUNCED);
	memcpy(cpu->bounce, "12345678", 8);
	assert_int_equal(mmu_bounce_commit(cpu), 1);
	assert_int_equal(cpu->mmio.write_count, 1);
	assert_int_equal(cpu->mmio.write[0].gpa, RIG_DEVICE + 0x20);
	assert_int_equal(cpu->mmio.write[0].len, 8);
	assert_memory_equal(cpu->mmio.write[0].data, "12345678", 8);
	assert_int_equal(cpu->exit.reason, CPU_EXIT_MMIO);
	/* a read-modify-write does read */
	cpu->mmio.write_count = 0;
	assert_int_equal(mmu_resolve(cpu, 0x500020, 8, MMU_WRITE | MMU_RMW, true), MMU_STOP_EXIT);
	assert_int_equal(cpu->mmio.want.gpa, RIG_DEVICE + 0x20);

	/* 12 bytes from RAM into the device: RAM part, then 8 bytes split as 8 + 1 */
	assert_int_equal(mmu_write(cpu, 0x4ffffd, "abcdefghijkl", 12, MMU_WRITE), CPU_OK);
	assert_memory_equal(rig.ram + 0xaffd, "abc", 3);
	assert_int_equal(cpu->mmio.write_count, 2);
	assert_int_equal(cpu->mmio.write[1].gpa, RIG_DEVICE + 8);
	assert_int_equal(cpu->mmio.write[1].len, 1);
	/* too large for the queue */
	assert_int_equal(mmu_resolve(cpu, 0x500000, 1024, MMU_WRITE, false), MMU_STOP_EXIT);
	assert_int_equal(cpu->exit.reason, CPU_EXIT_INTERNAL);
	rig_free();
}

/* The device inside is read once although the instruction runs twice. */
static void mmio_mixed_restart(void **state)
{
	struct cpu *cpu = start();
	u8 buf[16];

	rig.device_inside = true;
	rig.dev_byte = 0x77;
	assert_int_equal(mmu_read(cpu, 0x500010, buf, 16, MMU_READ), CPU_OK);
	assert_int_equal(rig.device_reads, 2);
	assert_int_equal(buf[15], 0x77);
	assert_int_equal(cpu->mmio.done_count, 0);
	rig.device_reads = 0;
	/* 0xf8 is inside, 0x100 is not */
	assert_int_equal(mmu_read(cpu, 0x5000f8, buf, 16, MMU_READ), CPU_EXIT);
	assert_int_equal(rig.device_reads, 1);
	assert_int_equal(cpu->mmio.want.gpa, RIG_DEVICE + 0x100);
	cpu->mmio.done[cpu->mmio.done_count] = cpu->mmio.want;
	memset(cpu->mmio.done[cpu->mmio.done_count++].data, 0x33, 8);
	cpu->mmio.done_next = 0;
	cpu->restart = true;
	rig.dev_byte = 0x11;
	assert_int_equal(mmu_read(cpu, 0x5000f8, buf, 16, MMU_READ), CPU_OK);
	assert_int_equal(rig.device_reads, 1);
	assert_int_equal(buf[0], 0x77);
	assert_int_equal(buf[8], 0x33);
	cpu->restart = false;
	assert_int_equal(mmu_write(cpu, 0x500010, buf, 8, MMU_WRITE), CPU_OK);
	assert_int_equal(rig.device_writes, 1);
	assert_int_equal(cpu->mmio.write_count, 0);
	rig_free();
}

static void rom_writes_are_mmio(void **state)
{
	struct cpu *cpu = start();
	u32 v = 5;

	memcpy(rig.rom, "romdata", 7);
	assert_int_equal(mmu_resolve(cpu, 0x501000, 4, MMU_READ, false), MMU_DIRECT);
	assert_true(rig_hit(cpu, 0x501000, 4, false));
	assert_false(rig_hit(cpu, 0x501000, 4, true));
	assert_int_equal(mmu_resolve(cpu, 0x501000, 4, MMU_WRITE | MMU_RMW, false), MMU_BOUNCED);
	assert_memory_equal(cpu->bounce, "romd", 4);
	assert_int_equal(mmu_bounce_commit(cpu), 1);
	assert_int_equal(mmu_write(cpu, 0x501004, &v, 4, MMU_WRITE), CPU_OK);
	assert_int_equal(cpu->mmio.write_count, 2);
	assert_int_equal(cpu->mmio.write[1].gpa, RIG_ROM_GPA + 4);
	assert_memory_equal(rig.rom, "romdata", 7);
	rig_free();
}

static void cmpxchg(void **state)
{
	struct cpu *cpu = start();
	u64 old;
	bool done;

	for (unsigned n = 1; n <= 8; n *= 2) {
		u64 lin = 0x400100, mask = n == 8 ? ~0ull : (1ull << 8 * n) - 1;

		memset(rig.ram + 0x5100, 0x11, 16);
		old = 0;
		assert_int_equal(mmu_cmpxchg(cpu, lin, &old, ~0ull, n, &done, MMU_WRITE), CPU_OK);
		assert_false(done);
		assert_int_equal(old, 0x1111111111111111ull & mask);
		assert_int_equal(mmu_cmpxchg(cpu, lin, &old, ~0ull, n, &done, MMU_WRITE), CPU_OK);
		assert_true(done);
		assert_int_equal(rig.ram[0x5100 + n - 1], 0xff);
		assert_int_equal(rig.ram[0x5100 + n], 0x11);
	}
	old = 0;
	assert_int_equal(
		mmu_cmpxchg(cpu, 0x400ffc, &old, 0x8877665544332211ull, 8, &done, MMU_WRITE),
		CPU_OK);
	assert_true(done);
	assert_int_equal(rig.ram[0x5ffc], 0x11);
	assert_int_equal(rig.ram[0x9003], 0x88);
	rig_free();
}

static void host_pointers(void **state)
{
	struct cpu *cpu = start();
	unsigned avail;
	u8 *host;

	assert_int_equal(mmu_host(cpu, 0x400123, MMU_WRITE, &host, &avail), CPU_OK);
	assert_ptr_equal(host, rig.ram + 0x5123);
	assert_int_equal(avail, 0xedd);
	assert_int_equal(mmu_host(cpu, 0x500000, MMU_READ, &host, &avail), CPU_OK);
	assert_null(host);
	assert_int_equal(mmu_host(cpu, 0x501000, MMU_WRITE, &host, &avail), CPU_OK);
	assert_null(host);
	assert_int_equal(mmu_host(cpu, 0x501000, MMU_READ, &host, &avail), CPU_OK);
	assert_ptr_equal(host, rig.rom);
	assert_int_equal(mmu_host(cpu, 0x700000, MMU_READ, &host, &avail), CPU_EXC);
	rig_free();
}

static u64 marked[8];
static unsigned marked_count;
static void page_dirtied(struct cpu *cpu, struct mmu_slot *slot, u64 page)
{
	marked[marked_count++ & 7] = page;
}

static void dirty_log(void **state)
{
	struct cpu *cpu = start();
	static u64 bitmap[RIG_RAM / 2 / PAGE_SIZE / 64];

	memset(bitmap, 0, sizeof(bitmap));
	rig.map->slot[0].dirty = bitmap;
	rig.vm.page_dirtied = page_dirtied;
	marked_count = 0;
	mmu_flush_all(cpu);
	/* The walk itself dirties the pages of the tables. */
	assert_int_equal(mmu_resolve(cpu, 0x400000, 8, MMU_READ, false), MMU_DIRECT);
	assert_false(bitmap[0] >> 5 & 1);
	assert_true(bitmap[RIG_PT / PAGE_SIZE / 64] & 1);
	*rig_pte(cpu, 0x401000) |= A | D;
	assert_int_equal(mmu_resolve(cpu, 0x401000, 8, MMU_READ, false), MMU_DIRECT);
	assert_false(
		rig_hit(cpu, 0x401000, 8, true)); /* dirty in the guest is not dirty in the log */
	marked_count = 0;
	assert_int_equal(mmu_resolve(cpu, 0x401000, 8, MMU_WRITE, false), MMU_DIRECT);
	assert_true(bitmap[0] >> 9 & 1);
	assert_int_equal(marked_count, 1);
	assert_int_equal(marked[0], 9);
	assert_int_equal(mmu_write(cpu, 0x401000, "x", 1, MMU_WRITE), CPU_OK);
	assert_int_equal(marked_count, 1);
	/* read out */
	bitmap[0] = 0;
	mmu_flush_write(cpu);
	assert_true(rig_hit(cpu, 0x401000, 8, false));
	assert_false(rig_hit(cpu, 0x401000, 8, true));
	assert_int_equal(mmu_write(cpu, 0x401000, "x", 1, MMU_WRITE), CPU_OK);
	assert_true(bitmap[0] >> 9 & 1);
	rig_free();
}

static void alignment_check(void **state)
{
	struct cpu *cpu = start();

	rig_map(cpu, 0x400000, 0x5000, PAGE_SIZE, P | W | U);
	rig_cpl(cpu, 3);
	cpu->mode |= MODE_ALIGN;
	assert_int_equal(mmu_resolve(cpu, 0x400004, 4, MMU_READ, false), MMU_DIRECT);
	assert_int_equal(mmu_resolve(cpu, 0x400004, 8, MMU_READ, false), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.vector, EXC_AC);
	assert_int_equal(cpu->exc.error, 0);
	/* a page fault comes first */
	assert_int_equal(mmu_resolve(cpu, 0x700004, 8, MMU_READ, false), MMU_STOP_EXC);
	assert_int_equal(cpu->exc.vector, EXC_PF);
	assert_int_equal(mmu_read(cpu, 0x400001, &(u16){0}, 2, MMU_READ), CPU_EXC);
	assert_int_equal(mmu_read(cpu, 0x400001, &(u16){0}, 2, MMU_READ | MMU_SYSTEM), CPU_OK);
	rig_free();
}

static void watchpoints(void **state)
{
	struct cpu *cpu = start();

	cpu->mode |= MODE_WATCH;
	cpu->dr[1] = 0x400010;
	cpu->dr7 = 4 | 0xd << 20; /* L1, write, 4 bytes */
	assert_int_equal(mmu_resolve(cpu, 0x400000, 8, MMU_WRITE, false), MMU_DIRECT);
	assert_false(rig_hit(cpu, 0x400000, 8, false));
	assert_int_equal(mmu_resolve(cpu, 0x400010, 8, MMU_READ, false), MMU_DIRECT);
	assert_int_equal(mmu_resolve(cpu, 0x40000c, 4, MMU_WRITE, false), MMU_DIRECT);
	assert_int_equal(mmu_resolve(cpu, 0x40000c, 8, MMU_WRITE, false), MMU_STOP_STEP);
	assert_int_equal(cpu->pending_db, 0);
	cpu->mmu_stepping = true;
	assert_int_equal(mmu_resolve(cpu, 0x400013, 1, MMU_WRITE, false), MMU_DIRECT);
	assert_int_equal(cpu->pending_db, 2);
	assert_int_equal(mmu_resolve(cpu, 0x401000, 8, MMU_WRITE, false), MMU_DIRECT);
	assert_true(rig_hit(cpu, 0x401000, 8, true)); /* another page */
	rig_free();
}

/* --- faults of the client's mapping ---------------------------------------------------------- */

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	u64 next = hostmem_fixup((u64)u->uc_mcontext.gregs[REG_RIP]);

	if (!next) {
		signal(sig, SIG_DFL);
		return;
	}
	u->uc_mcontext.gregs[REG_RIP] = (greg_t)next;
}

static void expect_memfault(struct cpu *cpu, u64 gpa, bool write)
{
	assert_int_equal(cpu->exit.reason, CPU_EXIT_MEMFAULT);
	assert_int_equal(cpu->exit.mem.gpa, gpa);
	assert_int_equal(cpu->exit.mem.write, write);
	cpu->exit.reason = CPU_EXIT_NONE;
}

static void host_faults(void **state)
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, was;
	struct cpu *cpu = start();
	u64 v = 1, old = 0, gpa;
	bool done;

	sigaction(SIGSEGV, &sa, &was);
	mprotect(rig.ram + 0x9000, 4096, PROT_NONE);
	assert_int_equal(mmu_read(cpu, 0x401008, &v, 8, MMU_READ), CPU_EXIT);
	expect_memfault(cpu, 0x9008, false);
	assert_int_equal(mmu_read(cpu, 0x401008, &v, 8, MMU_READ), CPU_EXIT); /* by the TLB */
	expect_memfault(cpu, 0x9008, false);
	assert_int_equal(mmu_write(cpu, 0x401008, &v, 8, MMU_WRITE), CPU_EXIT);
	expect_memfault(cpu, 0x9008, true);
	assert_int_equal(mmu_cmpxchg(cpu, 0x401008, &old, 1, 8, &done, MMU_WRITE), CPU_EXIT);
	expect_memfault(cpu, 0x9008, true);
	assert_int_equal(mmu_resolve(cpu, 0x400ffc, 8, MMU_READ, false), MMU_STOP_EXIT);
	expect_memfault(cpu, 0x9000, false);
	assert_int_equal(mmu_resolve(cpu, 0x400ffc, 8, MMU_WRITE, true), MMU_STOP_EXIT);
	expect_memfault(cpu, 0x9000, true);
	assert_int_equal(rig.vm.split_lock.word, 0);
	/* readable only: a bounced store finds out before the instruction runs */
	mprotect(rig.ram + 0x9000, 4096, PROT_READ);
	assert_int_equal(mmu_resolve(cpu, 0x400ffc, 8, MMU_READ, false), MMU_BOUNCED);
	assert_int_equal(mmu_resolve(cpu, 0x400ffc, 8, MMU_WRITE, false), MMU_STOP_EXIT);
	expect_memfault(cpu, 0x9000, true);
	assert_true(mmu_host_gpa(cpu, rig.ram + 0x9123, &gpa));
	assert_int_equal(gpa, 0x9123);
	assert_false(mmu_host_gpa(cpu, &gpa, &gpa));
	/* page tables */
	mprotect(rig.ram + RIG_PT, 16 << 12, PROT_NONE);
	mmu_flush_all(cpu);
	assert_int_equal(mmu_read(cpu, 0x401008, &v, 8, MMU_READ), CPU_EXIT);
	expect_memfault(cpu, cpu->cr3, false);
	mprotect(rig.ram + RIG_PT, 16 << 12, PROT_READ); /* A bits cannot be set */
	*(volatile u8 *)rig.ram = 0;
	assert_int_equal(mmu_probe(cpu, 0x4ff000, 8, MMU_READ), CPU_EXIT);
	assert_int_equal(cpu->exit.reason, CPU_EXIT_MEMFAULT);
	assert_int_equal(mmu_phys_read(cpu, 0x9000, &v, 8), 0);
	assert_int_equal(mmu_phys_write(cpu, 0x9000, &v, 8), -1);
	assert_int_equal(mmu_phys_read(cpu, RIG_DEVICE, &v, 8), -1);
	assert_int_equal(hostmem_copy(rig.ram + 0x8ff0, rig.ram + 0x5000, 64), -14);
	sigaction(SIGSEGV, &was, NULL);
	rig_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crossing_read_write),
		cmocka_unit_test(crossing_bounce),
		cmocka_unit_test(crossing_faults),
		cmocka_unit_test(mmio_user_space),
		cmocka_unit_test(mmio_mixed_restart),
		cmocka_unit_test(rom_writes_are_mmio),
		cmocka_unit_test(cmpxchg),
		cmocka_unit_test(host_pointers),
		cmocka_unit_test(dirty_log),
		cmocka_unit_test(alignment_check),
		cmocka_unit_test(watchpoints),
		cmocka_unit_test(host_faults),
	};

	return cmocka_run_group_tests_name("mmu access", tests, NULL, NULL);
}
