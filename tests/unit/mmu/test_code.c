/* Self-modifying and cross-modifying code. */
#include "rig.h"

#include <pthread.h>
#include <string.h>

#define CODE 0x5000ull /* guest-physical */
#define LIN  0x400000ull

static struct cpu *start(unsigned cpus)
{
	rig_make(cpus);
	for (unsigned i = 0; i < cpus; i++) {
		rig_long(rig.cpu[i]);
		rig_map(rig.cpu[i], LIN, CODE, PAGE_SIZE, P | W);
		rig_map(rig.cpu[i], LIN + 0x1000, CODE + 0x1000, PAGE_SIZE, P | W);
	}
	return rig.cpu[0];
}

/* A store as generated code does it. */
static enum mmu_resolve_kind store(struct cpu *cpu, u64 lin, u64 value)
{
	struct mmu_tlb *t = &cpu->tlb[cpu_mode_view(cpu)];
	enum mmu_resolve_kind kind;

	if (rig_hit(cpu, lin, 8, true)) {
		__atomic_store_n((u64 *)(lin + t->addend[tlb_index(lin)]), value, __ATOMIC_RELAXED);
		return MMU_DIRECT;
	}
	kind = mmu_resolve(cpu, lin, 8, MMU_WRITE, false);
	if (kind == MMU_DIRECT) {
		__atomic_store_n((u64 *)cpu->jit_scratch[0], value, __ATOMIC_RELAXED);
	} else if (kind == MMU_BOUNCED) {
		memcpy(cpu->bounce, &value, 8);
		mmu_bounce_commit(cpu);
	}
	return kind;
}

static void code_own_store(void **state)
{
	struct cpu *cpu = start(1);

	assert_int_equal(store(cpu, LIN, 1), MMU_DIRECT);
	assert_true(rig_hit(cpu, LIN, 8, true));
	mmu_code_add(cpu, CODE + 0x100, 70); /* chunks 4 and 5 */
	assert_true(rig_hit(cpu, LIN, 8, false));
	assert_false(rig_hit(cpu, LIN, 8, true));
	/* elsewhere in the page: plain, and not cached */
	assert_int_equal(store(cpu, LIN + 0xf8, 1), MMU_DIRECT);
	assert_int_equal(store(cpu, LIN + 0x180, 1), MMU_DIRECT);
	assert_false(rig_hit(cpu, LIN, 8, true));
	/* into it: alone only */
	assert_int_equal(store(cpu, LIN + 0xf9, 1), MMU_STOP_STEP);
	assert_int_equal(store(cpu, LIN + 0x17f, 1), MMU_STOP_STEP);
	cpu->mmu_stepping = true;
	/* the same bytes: nothing happens */
	assert_int_equal(store(cpu, LIN + 0x148, 0), MMU_BOUNCED);
	assert_int_equal(rig.invalidated, 0);
	assert_int_equal(store(cpu, LIN + 0x148, 7), MMU_BOUNCED);
	assert_int_equal(rig.invalidated, 1);
	assert_int_equal(rig.inv_gpa, CODE + 0x140);
	assert_int_equal(rig.inv_len, 64);
	assert_int_equal(*(u64 *)(rig.ram + CODE + 0x148), 7);
	cpu->mmu_stepping = false;
	assert_int_equal(store(cpu, LIN + 0x148, 8), MMU_DIRECT); /* no more code there */
	assert_int_equal(store(cpu, LIN + 0x108, 8), MMU_STOP_STEP);
	mmu_code_remove(cpu, CODE);
	assert_int_equal(store(cpu, LIN + 0x108, 8), MMU_DIRECT);
	assert_true(rig_hit(cpu, LIN, 8, true)); /* an ordinary page again */
	rig_free();
}

static void code_helper_store(void **state)
{
	struct cpu *cpu = start(1);
	unsigned avail;
	u8 *host;
	u64 v = 0;

	mmu_code_add(cpu, CODE, 4096);
	assert_int_equal(mmu_write(cpu, LIN + 8, &v, 8, MMU_WRITE), CPU_OK);
	assert_int_equal(rig.invalidated, 0);
	v = 1;
	assert_int_equal(mmu_write(cpu, LIN + 0x3c, &v, 8, MMU_WRITE), CPU_OK);
	assert_int_equal(rig.invalidated, 1);
	assert_int_equal(rig.inv_len, 128);
	assert_int_equal(mmu_host(cpu, LIN, MMU_WRITE, &host, &avail), CPU_OK);
	assert_null(host);
	assert_int_equal(mmu_host(cpu, LIN, MMU_READ, &host, &avail), CPU_OK);
	assert_non_null(host);
	assert_int_equal(mmu_phys_write(cpu, CODE + 0x80, &v, 8), 0);
	assert_int_equal(rig.invalidated, 2);
	mmu_code_reset(cpu);
	assert_int_equal(mmu_host(cpu, LIN, MMU_WRITE, &host, &avail), CPU_OK);
	assert_non_null(host);
	rig_free();
}

static void code_locked_store(void **state)
{
	struct cpu *cpu = start(2);

	mmu_code_add(cpu, CODE, 16);
	assert_int_equal(mmu_resolve(cpu, LIN, 8, MMU_WRITE | MMU_RMW, true), MMU_STOP_STEP);
	cpu->mmu_stepping = true;
	assert_int_equal(mmu_resolve(cpu, LIN, 8, MMU_WRITE | MMU_RMW, true), MMU_DIRECT);
	assert_int_equal(rig.invalidated, 1);
	assert_int_equal(cpu->poll, 0); /* to look again behind the store */
	cpu->mmu_stepping = false;
	/* the other vCPU translates in between */
	mmu_code_add(rig.cpu[1], CODE, 16);
	mmu_code_poll(cpu);
	rig.invalidated = 0;
	mmu_code_poll(rig.cpu[1]);
	assert_int_equal(rig.invalidated, 1);
	assert_ptr_equal(rig.inv_cpu, rig.cpu[1]);
	rig_free();
}

static void code_messages(void **state)
{
	struct cpu *a = start(3), *b = rig.cpu[1], *c = rig.cpu[2];

	/* b may write; a translates */
	assert_int_equal(store(b, LIN, 1), MMU_DIRECT);
	mmu_code_add(a, CODE, 16);
	assert_int_equal(b->poll, 0);
	assert_int_equal(c->poll, 0);
	assert_int_equal(a->poll, CPU_GO_ON);
	assert_true(rig_hit(b, LIN, 8, true)); /* nobody waits */
	mmu_code_poll(b);
	assert_false(rig_hit(b, LIN, 8, true));
	/* b had permission, so a must look at its code again */
	assert_int_equal(a->poll, 0);
	mmu_code_poll(a);
	assert_int_equal(rig.invalidated, 1);
	assert_ptr_equal(rig.inv_cpu, a);
	/* c had none */
	mmu_code_add(a, CODE, 16);
	mmu_code_poll(b);
	a->poll = CPU_GO_ON;
	mmu_code_poll(c);
	assert_int_equal(a->poll, CPU_GO_ON);

	/* a store of b into a's code */
	rig.invalidated = 0;
	assert_int_equal(store(b, LIN + 0x40, 5), MMU_BOUNCED); /* another chunk */
	assert_int_equal(a->poll, CPU_GO_ON);
	assert_int_equal(store(b, LIN, 1), MMU_BOUNCED); /* the same value */
	assert_int_equal(a->poll, CPU_GO_ON);
	assert_int_equal(store(b, LIN, 2), MMU_BOUNCED);
	assert_int_equal(a->poll, 0);
	assert_int_equal(rig.invalidated, 0);
	mmu_code_poll(a);
	assert_int_equal(rig.invalidated, 1);
	assert_int_equal(rig.inv_gpa, CODE);
	assert_int_equal(store(b, LIN, 3), MMU_DIRECT);
	assert_true(rig_hit(b, LIN, 8, true));

	/* permission forgotten by a flush before the message is read */
	mmu_code_add(a, CODE, 16);
	a->poll = CPU_GO_ON;
	mmu_flush_all(b);
	assert_int_equal(a->poll, 0);
	rig_free();
}

static void code_message_overflow(void **state)
{
	struct cpu *a = start(2), *b = rig.cpu[1];

	for (unsigned i = 0; i < 200; i++)
		rig_map(b, 0x10000000 + i * 4096, 0x200000 + i * 4096, PAGE_SIZE, P | W);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(store(b, 0x10000000 + i * 4096, 1), MMU_DIRECT);
	for (unsigned i = 0; i < 200; i++)
		mmu_code_add(a, 0x200000 + i * 4096, 16);
	mmu_code_poll(b);
	for (unsigned i = 0; i < 200; i++)
		assert_false(rig_hit(b, 0x10000000 + i * 4096, 8, true));
	assert_int_equal(rig.jit_flushes, 1); /* b's own, to be sure */
	mmu_code_poll(a);
	assert_int_equal(rig.jit_flushes, 2);
	assert_int_equal(code_own_chunks(a, 0x200000), 0);
	/* a hash of many pages, removed in another order */
	for (unsigned i = 0; i < 3000; i++)
		mmu_code_add(a, i * 4096, 64);
	for (unsigned i = 0; i < 3000; i += 3)
		mmu_code_remove(a, i * 4096);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(code_own_chunks(a, i * 4096), i % 3 ? 1 : 0);
	rig_free();
}

/*
 * Two threads: one translates a word (remembers it as a block would) and drops it when told; the
 * other stores to it, with cached permission and without, and flushes now and then. When both have
 * come to rest and answered their messages, what is remembered is what memory holds.
 */
static struct {
	pthread_barrier_t barrier;
	u64 seen[4];
	bool have[4];
	bool done;
	unsigned stale;
} race;

static void race_invalidate(struct cpu *cpu, u64 gpa, unsigned n)
{
	if (cpu != rig.cpu[0])
		return;
	for (unsigned i = 0; i < 4; i++)
		if (gpa - (gpa & 0xfff) == CODE && (gpa & 0xfff) <= i * 64 &&
		    (gpa & 0xfff) + n > i * 64)
			race.have[i] = false;
}

#define RACE_ROUNDS 3000

static void *race_writer(void *arg)
{
	struct cpu *cpu = rig.cpu[1];
	u64 r = 99;

	for (unsigned round = 0; round < RACE_ROUNDS; round++) {
		pthread_barrier_wait(&race.barrier);
		for (unsigned k = 0; k < 60; k++) {
			r = r * 6364136223846793005ull + 1442695040888963407ull;
			if (!__atomic_exchange_n(&cpu->poll, 1, __ATOMIC_SEQ_CST))
				mmu_code_poll(cpu);
			switch (r >> 59) {
			case 0:
				mmu_flush_all(cpu);
				break;
			case 1:
				/* evicts the entry */
				rig_hit(cpu, LIN + (4096ull << MMU_TLB_BITS), 8, true);
				mmu_resolve(cpu, LIN + (4096ull << MMU_TLB_BITS), 8, MMU_WRITE,
					    false);
				break;
			default:
				store(cpu, LIN + ((r >> 40) & 3) * 64, r);
			}
		}
		pthread_barrier_wait(&race.barrier);
		mmu_code_poll(cpu);
		pthread_barrier_wait(&race.barrier);
	}
	return NULL;
}

static void code_race(void **state)
{
	struct cpu *cpu = start(2);
	pthread_t writer;

	memset(&race, 0, sizeof(race));
	rig.on_invalidate = race_invalidate;
	rig_map(rig.cpu[1], LIN + (4096ull << MMU_TLB_BITS), 0x8000, PAGE_SIZE, P | W);
	pthread_barrier_init(&race.barrier, NULL, 2);
	pthread_create(&writer, NULL, race_writer, NULL);
	for (unsigned round = 0; round < RACE_ROUNDS; round++) {
		pthread_barrier_wait(&race.barrier);
		for (unsigned k = 0; k < 100; k++) {
			unsigned i = k & 3;

			if (!__atomic_exchange_n(&cpu->poll, 1, __ATOMIC_SEQ_CST))
				mmu_code_poll(cpu);
			if (!race.have[i]) {
				race.have[i] = true;
				mmu_code_add(cpu, CODE + i * 64, 8);
				race.seen[i] = __atomic_load_n((u64 *)(rig.ram + CODE + i * 64),
							       __ATOMIC_RELAXED);
			}
			if (k % 37 == 0) {
				mmu_code_remove(cpu, CODE);
				memset(race.have, 0, sizeof(race.have));
			}
		}
		pthread_barrier_wait(&race.barrier);
		pthread_barrier_wait(&race.barrier);
		mmu_code_poll(cpu);
		for (unsigned i = 0; i < 4; i++)
			if (race.have[i] && race.seen[i] != *(u64 *)(rig.ram + CODE + i * 64))
				race.stale++;
	}
	pthread_join(writer, NULL);
	pthread_barrier_destroy(&race.barrier);
	assert_int_equal(race.stale, 0);
	rig_free();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_own_store),	 cmocka_unit_test(code_helper_store),
		cmocka_unit_test(code_locked_store),	 cmocka_unit_test(code_messages),
		cmocka_unit_test(code_message_overflow), cmocka_unit_test(code_race),
	};

	return cmocka_run_group_tests_name("mmu code", tests, NULL, NULL);
}
