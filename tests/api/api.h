/*
 * A small client of the KVM API for tests: opens anykvm (and proves that it is anykvm), makes a
 * VM with memory at 0 and vCPUs, runs pieces of real-mode, protected-mode or 64-bit code.
 *
 * Guest code is written in the test between API_CODE16/32/64(name, "…") as assembly text; it is
 * copied to API_CODE and starts there.
 */
#ifndef TESTS_API_H
#define TESTS_API_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <anykvm.h>

#include "base/types.h"
#include "kvm/abi.h"

#define API_MEM_SIZE  0x400000ull
#define API_CODE      0x8000u
#define API_STACK     0x7000u
#define API_MAX_VCPUS 8

/* Page tables, GDT and IDT of 64-bit guests. */
#define API_PML4 0x1000u
#define API_GDT	 0x5000u
#define API_IDT	 0x6000u

struct api_vm {
	int kvm, vm;
	int vcpu[API_MAX_VCPUS];
	struct kvm_run *run[API_MAX_VCPUS];
	u8 *mem;
	size_t run_size;
};

enum api_flags {
	API_IRQCHIP = 1,
	API_SPLIT = 2,
	API_AMD = 4,
	API_PIT = 8,
	API_PROTECTED = 16, /* KVM_X86_SW_PROTECTED_VM */
	API_WINDOW = 32,    /* ANYKVM_CAP_WINDOW for every program */
	API_TOLD = 64,	    /* ANYKVM_CAP_WRITES_TOLD */
};

/** Opens the system descriptor; fails the test unless it is anykvm's. */
int api_open(const char *options);

/** A VM with API_MEM_SIZE bytes at 0 and `vcpus` vCPUs with the supported CPUID. */
void api_vm_make(struct api_vm *t, unsigned vcpus, unsigned flags);
void api_vm_free(struct api_vm *t);

/** Sets a memory slot; result of the ioctl, -errno on failure. */
int api_slot(struct api_vm *t, u32 slot, u32 flags, u64 gpa, u64 size, void *hva);

/** ioctl that returns -errno. */
int api_ioctl(int fd, unsigned long req, void *arg);
#define api_ioctl_value(fd, req, value) api_ioctl(fd, req, (void *)(uintptr_t)(value))

/** KVM_RUN: 0 or -errno. */
int api_run(struct api_vm *t, unsigned vcpu);

/** KVM_GET_SUPPORTED_CPUID, on the heap. */
struct kvm_cpuid2 *api_supported_cpuid(int kvm);

/** Puts code at API_CODE and the vCPU into real mode at its start. */
void api_start16(struct api_vm *t, unsigned vcpu, const void *code, size_t size);
/** … into 64-bit mode, ring 0, with 1 GiB mapped one to one and a GDT. */
void api_start64(struct api_vm *t, unsigned vcpu, const void *code, size_t size);
/** … likewise without copying the code: at any address. */
void api_start64_at(struct api_vm *t, unsigned vcpu, u64 rip);
/** Points a vector of the 64-bit IDT at an address. */
void api_idt64(struct api_vm *t, unsigned vector, u64 handler);

struct kvm_regs api_regs(struct api_vm *t, unsigned vcpu);
void api_set_regs(struct api_vm *t, unsigned vcpu, const struct kvm_regs *r);
u64 api_msr(struct api_vm *t, unsigned vcpu, u32 index);
/** KVM_SET_MSRS of one: its result. */
int api_set_msr(struct api_vm *t, unsigned vcpu, u32 index, u64 value);

/** A register of the local APIC, as KVM_GET_LAPIC has it. */
u32 api_apic_reg(struct api_vm *t, unsigned vcpu, unsigned reg);
/** Routes a GSI, and no other, to an MSI for APIC 0. */
void api_route_msi(struct api_vm *t, u32 gsi, u32 data);

/** Runs until an exit that is a port write to `port`; returns the value written. */
u32 api_run_to_out(struct api_vm *t, unsigned vcpu, u16 port);
/** Runs once and asserts the exit reason. */
void api_run_expect(struct api_vm *t, unsigned vcpu, u32 reason);

#define API_BLOCK(bits, name, text)                                                  \
	__asm__(".pushsection .rodata\n.code" bits "\nguest_" #name "_begin:\n" text \
		"\nguest_" #name "_end:\n.code64\n.popsection");                     \
	extern const u8 name##_begin[] __asm__("guest_" #name "_begin");             \
	extern const u8 name##_end[] __asm__("guest_" #name "_end")
#define API_CODE16(name, text) API_BLOCK("16", name, text)
#define API_CODE32(name, text) API_BLOCK("32", name, text)
#define API_CODE64(name, text) API_BLOCK("64", name, text)
#define API_SIZE(name)	       ((size_t)(name##_end - name##_begin))

#define assert_errno(call, error) assert_int_equal((call), -(error))

#endif
