/* Machine checks on request, for guests that test their handlers. */
#ifndef VMM_ERROR_PORT_H
#define VMM_ERROR_PORT_H

#include "vmm/memory.h"
#include "vmm/vcpu.h"

/*
 * Four bytes wide. Read: 0, or the number of the error that the last write met. Written: the
 * guest-physical address of a struct kvm_x86_mce, which the writing vCPU then suffers
 * (KVM_X86_SET_MCE). A guest harms only itself by it.
 */
#define ERROR_PORT 0x5f8

struct error_port;

struct error_port *error_port_new(struct vcpu_set *vcpus, const struct guest_memory *mem);
void error_port_free(struct error_port *port);

#endif
