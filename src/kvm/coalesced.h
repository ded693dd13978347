/*
 * Coalesced MMIO and PIO: writes to a zone go into a ring that the client empties at its leisure,
 * instead of an exit each. Zones are immutable sets, published whole.
 */
#ifndef KVM_COALESCED_H
#define KVM_COALESCED_H

#include "kvm/vm.h"

/** The write went into the ring. vCPU thread. */
bool coalesced_write(struct vm *vm, bool pio, u64 addr, unsigned len, const void *data);
void coalesced_destroy(struct vm *vm);

#endif
