/* fpu_image.h - shared by fpu_image.c and fpu_env.c */
#ifndef CPU_FPU_IMAGE_H
#define CPU_FPU_IMAGE_H

#include "cpu/cpu.h"
#include "cpu/fpu_host.h"

/** Makes the x87 pointers of a 64-bit image the guest's where they name translated code. */
void fpu_pointers_guest(struct cpu *cpu, struct fpu_legacy *image);

#endif
