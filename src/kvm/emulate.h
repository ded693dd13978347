/*
 * KVM_CAP_EXIT_ON_EMULATION_FAILURE: what the kernel's instruction emulator does not know.
 *
 * Here every instruction may access device memory. A client that enables the capability wants to
 * see the kernel's failures, to handle such instructions by itself; so with it enabled, and only
 * then, an instruction is looked up before it reaches a device.
 */
#ifndef KVM_EMULATE_H
#define KVM_EMULATE_H

#include "kvm/vcpu.h"

#define EMULATE_BYTES 15u

/** Copies the bytes at RIP, up to EMULATE_BYTES. Their number. */
unsigned emulate_fetch(struct vcpu *vcpu, u8 *bytes);
/** True when Linux 6.12's emulator carries out the instruction with its operand in memory. */
bool emulate_known(const struct vcpu *vcpu, const u8 *bytes, unsigned n);

#endif
