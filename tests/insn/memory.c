/*
 * memory.c - the memory that native code and guest code see
 *
 * The code area is one shared mapping, written here and executed there, never both. The data area
 * exists twice; the native copy is private to its fixed address, with absent and read-only pages.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "insn.h"
#include "memory.h"

struct insn_memory insn_memory;

enum insn_page_kind memory_page(unsigned n)
{
	static const u8 kind[INSN_DATA_PAGES] = {
		PAGE_ABSENT, PAGE_RW,	  PAGE_RW, PAGE_RO, PAGE_RW,	 PAGE_ABSENT,	 PAGE_RW,
		PAGE_RO,     PAGE_ABSENT, PAGE_RW, PAGE_RW, PAGE_ABSENT, [16] = PAGE_RW,
	};

	return n < INSN_DATA_PAGES ? kind[n] : PAGE_ABSENT;
}

static u8 *map_fixed(u64 va, size_t size, int prot, int flags, int fd)
{
	void *p = mmap((void *)va, size, prot, flags | MAP_POPULATE, fd, 0);

	if (p == MAP_FAILED || (u64)p != va) {
		printf("Bail out! cannot map %#llx\n", (unsigned long long)va);
		return NULL;
	}
	return p;
}

int memory_process_init(void)
{
	const size_t size = INSN_DATA_PAGES * PAGE_SIZE;
	int fd = memfd_create("insn-code", MFD_CLOEXEC);
	bool again = insn_memory.code;

	if (fd < 0 || ftruncate(fd, INSN_CODE_SIZE) < 0)
		return -1;
	insn_memory.code = mmap(insn_memory.code, INSN_CODE_SIZE, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_POPULATE | (again ? MAP_FIXED : 0), fd, 0);
	if (insn_memory.code == MAP_FAILED)
		return -1;
	if (!map_fixed(INSN_CODE_VA, INSN_CODE_SIZE, PROT_READ | PROT_EXEC,
		       MAP_SHARED | (again ? MAP_FIXED : MAP_FIXED_NOREPLACE), fd))
		return -1;
	if (!map_fixed(INSN_ALIAS_VA, INSN_CODE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | (again ? MAP_FIXED : MAP_FIXED_NOREPLACE), fd))
		return -1;
	close(fd);
	memset(insn_memory.code, 0xcc, INSN_CODE_SIZE);
	*(u64 *)insn_memory.code = INSN_STUB_VA;
	/* shared with the engine's own second mapping of it, and with no other process */
	insn_memory.engine =
		mmap(insn_memory.engine, size, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE | (again ? MAP_FIXED : 0), -1, 0);
	if (insn_memory.engine == MAP_FAILED)
		return -1;
	if (insn_memory.baseline)
		memory_restore_engine();
	return 0;
}

int memory_init(void)
{
	const size_t size = INSN_DATA_PAGES * PAGE_SIZE;

	if (memory_process_init() < 0)
		return -1;
	insn_memory.native = map_fixed(INSN_DATA_VA, size, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
	insn_memory.baseline = mmap(NULL, size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!insn_memory.native || insn_memory.baseline == MAP_FAILED)
		return -1;
	memory_rebase();
	return 0;
}

void memory_rebase(void)
{
	for (unsigned n = 0; n < INSN_DATA_PAGES; n++) {
		u8 *page = insn_memory.native + n * PAGE_SIZE;
		int prot[] = {PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ};

		if (memory_page(n) == PAGE_ABSENT)
			memset(insn_memory.baseline + n * PAGE_SIZE, 0, PAGE_SIZE);
		mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE);
		memcpy(page, insn_memory.baseline + n * PAGE_SIZE, PAGE_SIZE);
		mprotect(page, PAGE_SIZE, prot[memory_page(n)]);
	}
	memcpy(insn_memory.engine, insn_memory.baseline, INSN_DATA_PAGES * PAGE_SIZE);
}

bool memory_met_process(u64 va)
{
	if (va - INSN_DATA_VA < INSN_DATA_PAGES * PAGE_SIZE || va - INSN_CODE_VA < INSN_CODE_SIZE)
		return false;
	return !msync((void *)(va & ~(u64)(PAGE_SIZE - 1)), PAGE_SIZE, MS_ASYNC);
}

void memory_restore_engine(void)
{
	memcpy(insn_memory.engine, insn_memory.baseline, INSN_DATA_PAGES * PAGE_SIZE);
}
