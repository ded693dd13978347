/*
 * window_rig.h - programs of CPL 3 on the vCPUs of a VM with windows (ANYKVM_CAP_WINDOW), and what the process
 * has mapped for them
 *
 * The vCPUs take the windows in turn, so the one that makes its program's accesses through window n is vCPU n.
 * Everything here is about vCPU win_nth; behind the last window it is a vCPU that has none. Each has page
 * tables, stack and memory of its own; the programs have the same linear addresses.
 */
#ifndef TESTS_API_WINDOW_RIG_H
#define TESTS_API_WINDOW_RIG_H

#include "api.h"
#include "mmu/mmu.h"
#include "mmu/window.h"

#define WIN_CPUS     (MMU_WINDOWS + 1)
#define HOMES	     4
#define DATA(n)	     (win_home + 0x1000 * (n))
#define DATA_GPA(n)  (0x100000ull + 0x10000ull * win_nth + 0x1000 * (n))
#define TABLES	     (0x20000ull + 0x4000ull * win_nth) /* of the program: four pages */
#define TSS	     (0x30000ull + 0x100 * win_nth)
#define KERNEL_STACK (API_STACK - 0x200ull * win_nth)
#define HANDLER	     0x9000u
#define FAULTS	     0xa000u
#define PTE_USER     7ull /* present, writable, user */
#define PTE_A	     0x20ull
#define PTE_D	     0x40ull
/* In which the kernel's memory is, for all programs. */
#define KERNEL_END (1ull << 30)

extern const u64 win_homes[HOMES];
/** Where the program is: its code, the page at API_CODE, and behind it its data. */
extern u64 win_home;
/** The vCPU, and its window. */
extern unsigned win_nth;

/** A VM with vCPUs up to win_nth, and a program on that one, which has its window. */
void win_start(struct api_vm *t);
void win_free(struct api_vm *t);
/** Of a VM: what all programs share. */
void win_kernel(struct api_vm *t);
/** A program on vCPU win_nth, which takes a window if there is one. */
void win_program(struct api_vm *t);
/** The page table entry of the program's n-th page. */
u64 *win_pte(struct api_vm *t, unsigned n);
/** Maps a page anywhere, for the program; of a few at a time. */
void win_map(struct api_vm *t, u64 lin, u64 gpa);
/** ... and takes these away. The program has to load CR3. */
void win_unmap_all(struct api_vm *t);
/** A handler at a guest-physical address, for INT at CPL 3, too. */
void win_gate(struct api_vm *t, unsigned vector, u64 address, const void *code, size_t size);
/** The program at its beginning when it returns from the kernel. */
void win_restart(struct api_vm *t);

struct kvm_regs win_regs(struct api_vm *t);
void win_set_regs(struct api_vm *t, const struct kvm_regs *r);
/** The program's next round: reads at RDI, stores EBX at RSI; INVLPG of these comes first, or CR3 is loaded. */
void win_set(struct api_vm *t, u64 rdi, u64 rsi, u32 ebx, bool invlpg);
/** Runs until the kernel was called: what the program has read. */
u32 win_run(struct api_vm *t);
u32 win_word(struct api_vm *t, unsigned n);

/** An access of four bytes to an address without a page: the error code, or ~0 when it is #GP. */
u32 win_fault_of(u64 lin, bool write);
/** Reads and stores at an address fault: likewise, what the guest was told. */
u32 win_fault_at(struct api_vm *t, u64 rdi, u64 rsi);

/** The host's mapping of an address of its own: 0 none, 1 to be read, 3 to be written. */
unsigned win_host_mapping(u64 host);
/** Asserts how the program's page is mapped for the vCPU, if that has a window, and that it is in no other one. */
void win_assert_mapped(u64 lin, unsigned how);
/** Bit n: something is mapped where window n would be, bit 8 + n: where its stack would be. */
unsigned win_places_taken(void);
/** No address of a window's, nor before or behind it, can be mapped by someone else. */
bool win_room_is_whole(unsigned window);
#define WIN_ALL_PLACES 0x707u

/** Set-up: win_nth is the initial state. */
int win_choose(void **state);
/** After a test: no VM of one that has failed stays. */
int win_clean(void **state);
#define WIN_TEST(f, nth, name)                                              \
	{                                                                   \
#f name, f, win_choose, win_clean, (void *)(uintptr_t)(nth) \
	}
/** A test for each window, and for a vCPU without. */
#define WIN_EACH(f)                                                     \
	WIN_TEST(f, 0, " (first window)"), WIN_TEST(f, 1, " (second)"), \
		WIN_TEST(f, 2, " (third)"), WIN_TEST(f, 3, " (none)")

int win_main(const char *name, const struct CMUnitTest *tests, size_t count);

#endif
