/*
 * map.c - the tree of memory slots
 *
 * Slots lie in the leaves of a B-tree, sorted by guest-physical address. Running vCPUs read a tree
 * without a lock, so what they can see is never written: a change copies the nodes on the way from
 * the root to the leaf (three at most with all of KVM's 32764 slots), and the new root is
 * published by an atomic store. Nodes that only the old tree has are freed when every vCPU has
 * let go of it. So a change costs the same few microseconds whether there are ten slots or
 * thousands, and of the ten thousand changes that a conversion of scattered pages to private
 * memory takes, none copies the whole.
 *
 * Within one edit a node is copied once; later changes of the same edit are made in place.
 * An entry of an inner node covers the slots below it: gpa of the first, end of the last, the node
 * in `priv`. Leaves are not merged when they get empty by degrees: a node goes when it has no
 * entry left.
 */
#include "mmu/mmu_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FANOUT 64u

static struct mmu_map *node_new(struct mmu_map_edit *edit, bool inner)
{
	/* One place more than it keeps: it is split after it has overflown. */
	struct mmu_map *n = malloc(sizeof(*n) + (FANOUT + 1) * sizeof(n->slot[0]));

	if (!n)
		return NULL;
	n->count = 0;
	n->inner = inner;
	n->fresh = true;
	n->dead = false;
	n->link = edit->fresh;
	edit->fresh = n;
	return n;
}

/* The node as this edit may change it. Readers do not look at fresh, dead and link. */
static struct mmu_map *node_own(struct mmu_map_edit *edit, struct mmu_map *n)
{
	struct mmu_map *copy;

	if (n->fresh)
		return n;
	copy = node_new(edit, n->inner);
	if (!copy)
		return NULL;
	copy->count = n->count;
	memcpy(copy->slot, n->slot, n->count * sizeof(n->slot[0]));
	n->link = edit->retired;
	edit->retired = n;
	return copy;
}

static struct mmu_slot inner_entry(struct mmu_map *n)
{
	const struct mmu_slot *first = &n->slot[0], *last = &n->slot[n->count - 1];

	return (struct mmu_slot){
		.gpa = first->gpa,
		.size = last->gpa + last->size - first->gpa,
		.priv = n,
	};
}

/* The number of entries that begin at or before an address. */
static unsigned entries_upto(const struct mmu_map *n, u64 gpa)
{
	unsigned lo = 0, hi = n->count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (n->slot[mid].gpa <= gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void entry_insert(struct mmu_map *n, unsigned i, const struct mmu_slot *e)
{
	memmove(&n->slot[i + 1], &n->slot[i], (n->count - i) * sizeof(*e));
	n->slot[i] = *e;
	n->count++;
}

static void entry_remove(struct mmu_map *n, unsigned i)
{
	n->count--;
	memmove(&n->slot[i], &n->slot[i + 1], (n->count - i) * sizeof(n->slot[0]));
}

/* Splits a node that has overflown. *sibling: its upper part. */
static int node_split(struct mmu_map_edit *edit, struct mmu_map *n, unsigned at,
		      struct mmu_map **sibling)
{
	/* Slots often come in ascending order: leaves are left full then. */
	unsigned keep = at == n->count - 1 ? n->count - 1 : n->count / 2;
	struct mmu_map *s = node_new(edit, n->inner);

	if (!s)
		return -ENOMEM;
	s->count = n->count - keep;
	memcpy(s->slot, &n->slot[keep], s->count * sizeof(s->slot[0]));
	n->count = keep;
	*sibling = s;
	return 0;
}

static int insert_below(struct mmu_map_edit *edit, struct mmu_map **node,
			const struct mmu_slot *slot, struct mmu_map **sibling)
{
	struct mmu_map *n = node_own(edit, *node), *child, *second = NULL;
	struct mmu_slot entry;
	unsigned i;
	int ret;

	if (!n)
		return -ENOMEM;
	*node = n;
	i = entries_upto(n, slot->gpa);
	if (!n->inner) {
		entry_insert(n, i, slot);
	} else {
		i = i ? i - 1 : 0;
		child = n->slot[i].priv;
		ret = insert_below(edit, &child, slot, &second);
		if (ret)
			return ret;
		n->slot[i] = inner_entry(child);
		if (!second)
			return 0;
		entry = inner_entry(second);
		entry_insert(n, ++i, &entry);
	}
	return n->count > FANOUT ? node_split(edit, n, i, sibling) : 0;
}

int mmu_map_insert(struct mmu_map_edit *edit, const struct mmu_slot *slot)
{
	struct mmu_map *second = NULL, *root;
	int ret;

	if (!edit->root) {
		edit->root = node_new(edit, false);
		if (!edit->root)
			return -ENOMEM;
	}
	ret = insert_below(edit, &edit->root, slot, &second);
	if (ret || !second)
		return ret;
	root = node_new(edit, true);
	if (!root)
		return -ENOMEM;
	root->slot[0] = inner_entry(edit->root);
	root->slot[1] = inner_entry(second);
	root->count = 2;
	edit->root = root;
	return 0;
}

static int remove_below(struct mmu_map_edit *edit, struct mmu_map **node, u64 gpa)
{
	struct mmu_map *n, *child;
	unsigned i = entries_upto(*node, gpa) - 1;
	int ret;

	n = node_own(edit, *node);
	if (!n)
		return -ENOMEM;
	*node = n;
	if (!n->inner) {
		entry_remove(n, i);
	} else {
		child = n->slot[i].priv;
		ret = remove_below(edit, &child, gpa);
		if (ret)
			return ret;
		if (child)
			n->slot[i] = inner_entry(child);
		else
			entry_remove(n, i);
	}
	if (!n->count) {
		n->dead = true;
		*node = NULL;
	}
	return 0;
}

int mmu_map_remove(struct mmu_map_edit *edit, u64 gpa)
{
	const struct mmu_slot *slot = mmu_map_next(edit->root, gpa);
	int ret;

	/* Nodes are copied on the way down, so it has to be known that there is an end. */
	if (!slot || slot->gpa != gpa)
		return -ENOENT;
	ret = remove_below(edit, &edit->root, gpa);
	/* A root with one entry is not needed. */
	while (!ret && edit->root && edit->root->inner && edit->root->count == 1) {
		struct mmu_map *root = edit->root;

		edit->root = root->slot[0].priv;
		if (root->fresh) {
			root->dead = true;
		} else {
			root->link = edit->retired;
			edit->retired = root;
		}
	}
	return ret;
}

void mmu_map_begin(struct mmu_map_edit *edit, struct mmu_map *root)
{
	*edit = (struct mmu_map_edit){.root = root};
}

void mmu_map_commit(struct mmu_map_edit *edit)
{
	for (struct mmu_map *n = edit->retired, *next; n; n = next) {
		next = n->link;
		free(n);
	}
	for (struct mmu_map *n = edit->fresh, *next; n; n = next) {
		next = n->link;
		n->fresh = false;
		if (n->dead)
			free(n);
	}
}

void mmu_map_abort(struct mmu_map_edit *edit)
{
	for (struct mmu_map *n = edit->fresh, *next; n; n = next) {
		next = n->link;
		free(n);
	}
}

void mmu_map_free(struct mmu_map *map)
{
	if (!map)
		return;
	for (unsigned i = 0; map->inner && i < map->count; i++)
		mmu_map_free(map->slot[i].priv);
	free(map);
}

struct mmu_slot *mmu_map_next(struct mmu_map *map, u64 gpa)
{
	while (map) {
		unsigned lo = 0, hi = map->count;

		while (lo < hi) {
			unsigned mid = (lo + hi) / 2;
			struct mmu_slot *s = &map->slot[mid];

			if (s->gpa + s->size - 1 < gpa)
				lo = mid + 1;
			else
				hi = mid;
		}
		if (lo == map->count)
			return NULL;
		if (!map->inner)
			return &map->slot[lo];
		map = map->slot[lo].priv;
	}
	return NULL;
}
