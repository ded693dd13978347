/* The runtime's page tables. */
#include "paging.h"

#define ADDR(e) ((pte_t)((e) & (IS64 ? 0x000ffffffffff000ull : 0xfffff000ull)))

static pte_t *split(volatile pte_t *e, unsigned shift)
{
	unsigned bits = IS64 ? 9 : 10;
	pte_t *table = page_alloc(), old = *e;

	if ((old & PT_P) && (old & PT_PS))
		for (ulong i = 0; i < 1ul << bits; i++)
			table[i] = (old & ~(pte_t)(shift - bits == 12 ? PT_PS : 0)) +
				   (i << (shift - bits));
	*e = (ulong)table | PT_P | PT_W | PT_U;
	return table;
}

volatile pte_t *pte_of(ulong va)
{
	unsigned bits = IS64 ? 9 : 10, levels = IS64 ? 4 : 2;
	volatile pte_t *table = (pte_t *)ADDR(read_cr3());

	for (unsigned l = levels; l > 1; l--) {
		unsigned shift = 12 + bits * (l - 1);
		volatile pte_t *e = &table[(va >> shift) & ((1u << bits) - 1)];

		if (!(*e & PT_P) || (*e & PT_PS))
			table = split(e, shift);
		else
			table = (pte_t *)ADDR(*e);
	}
	return &table[(va >> 12) & ((1u << bits) - 1)];
}

void map_page(ulong va, ulong pa, pte_t flags)
{
	*pte_of(va) = pa | flags;
	invlpg((void *)va);
}

ulong va_alloc(void)
{
#if IS64
	static ulong next = 0x100000000000; /* 16 TiB */
#else
	static ulong next = 0x80000000;
#endif

	next += 0x400000;
	for (ulong at = 0; at < 0x100000; at += PAGE_SIZE)
		map_page(next + at, 0, 0);
	return next;
}

void user_map(void)
{
#if IS64
	volatile pte_t *pml4 = (pte_t *)ADDR(read_cr3());
	volatile pte_t *pdpt, *pd;

	pml4[0] |= PT_U;
	pdpt = (pte_t *)ADDR(pml4[0]);
	pdpt[0] |= PT_U;
	pd = (pte_t *)ADDR(pdpt[0]);
	for (unsigned i = 0; i < 512; i++)
		pd[i] |= PT_U;
#else
	volatile pte_t *pd = (pte_t *)ADDR(read_cr3());

	for (unsigned i = 0; i < 256; i++)
		pd[i] |= PT_U;
#endif
	write_cr3(read_cr3());
}

extern u8 user_start[], user_end[], user_stacks[CPUS_MAX][0x4000];

void user_map_code(void)
{
	for (u8 *p = user_start; p < user_end; p += PAGE_SIZE)
		*pte_of((ulong)p) |= PT_U;
	for (u8 *p = user_stacks[0]; p < (u8 *)user_stacks + sizeof(user_stacks); p += PAGE_SIZE)
		*pte_of((ulong)p) |= PT_U;
#if IS64
	((volatile pte_t *)ADDR(read_cr3()))[0] |= PT_U;
	((volatile pte_t *)ADDR(((pte_t *)ADDR(read_cr3()))[0]))[0] |= PT_U;
#endif
	write_cr3(read_cr3());
}
