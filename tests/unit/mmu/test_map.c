/* The tree of slots against a plain table: random insertions, removals, look-ups and aborts. */
#include "mmu/mmu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PLACES 6000u
#define STEP   0x10000ull

static bool there[PLACES];
static u64 seed = 1;

static u64 rnd(u64 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static struct mmu_slot slot_at(unsigned i)
{
	return (struct mmu_slot){.gpa = i * STEP, .size = STEP / 2, .id = i};
}

static unsigned check_node(const struct mmu_map *n)
{
	unsigned total = 0;

	assert_true(n->count > 0);
	assert_false(n->fresh);
	for (unsigned i = 0; i < n->count; i++) {
		const struct mmu_slot *s = &n->slot[i];

		if (i)
			assert_true(s[-1].gpa + s[-1].size <= s->gpa);
		if (n->inner) {
			const struct mmu_map *c = s->priv;

			assert_int_equal(c->slot[0].gpa, s->gpa);
			assert_int_equal(c->slot[c->count - 1].gpa + c->slot[c->count - 1].size,
					 s->gpa + s->size);
			total += check_node(c);
		} else {
			total++;
		}
	}
	return total;
}

static void check(struct mmu_map *map)
{
	unsigned want = 0;

	for (unsigned i = 0; i < PLACES; i++)
		want += there[i];
	assert_int_equal(map ? check_node(map) : 0, want);
	for (unsigned i = 0; i < PLACES; i++) {
		struct mmu_slot *s = mmu_map_next(map, i * STEP + STEP / 2 - 1);
		unsigned k = i;

		while (k < PLACES && !there[k])
			k++;
		if (k == PLACES)
			assert_null(s);
		else
			assert_int_equal(s->id, k);
		if (there[i]) {
			s = mmu_map_next(map, i * STEP + STEP / 2);
			assert_true(!s || s->id > i);
		}
	}
}

/* One edit of a few changes; a fifth of them is given up. */
static struct mmu_map *change(struct mmu_map *map, unsigned first, unsigned n, bool insert)
{
	bool abort = !rnd(5);
	struct mmu_map_edit edit;

	mmu_map_begin(&edit, map);
	for (unsigned i = first; i < first + n && i < PLACES; i++) {
		struct mmu_slot s = slot_at(i);

		if (insert && !there[i])
			assert_int_equal(mmu_map_insert(&edit, &s), 0);
		else if (!insert)
			assert_int_equal(mmu_map_remove(&edit, s.gpa), there[i] ? 0 : -2);
		else
			continue;
		if (!abort)
			there[i] = insert;
	}
	if (abort) {
		mmu_map_abort(&edit);
		return map;
	}
	map = edit.root;
	mmu_map_commit(&edit);
	return map;
}

static void random_changes(void **state)
{
	struct mmu_map *map = NULL;

	(void)state;
	for (unsigned phase = 0; phase < 6; phase++) {
		for (unsigned k = 0; k < 3000; k++)
			map = change(map, (unsigned)rnd(PLACES), 1 + (unsigned)rnd(8),
				     rnd(10) < (phase & 1 ? 2 : 8));
		check(map);
	}
	while (map)
		map = change(map, 0, PLACES, false);
	check(map);
	mmu_map_free(map);
}

static void ascending(void **state)
{
	struct mmu_map *map = NULL;

	(void)state;
	for (unsigned i = 0; i < PLACES; i++)
		while (!there[i])
			map = change(map, i, 1, true);
	check(map);
	/* Leaves are full: hardly more than a 64th as many nodes as slots. */
	assert_true(map->inner && map->count <= 3);
	mmu_map_free(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_changes),
		cmocka_unit_test(ascending),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
