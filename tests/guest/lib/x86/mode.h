/* Switching between paging modes; the code runs identity-mapped below 4 GiB. */
#ifndef GUEST_X86_MODE_H
#define GUEST_X86_MODE_H

#include "cpu.h"

/**
 * Turns paging off, loads CR4 and CR3, turns paging on again; in 64-bit kernels by way of 32-bit
 * code. Interrupts must be off.
 */
void mode_switch(ulong cr3, ulong cr4);

#endif
