/* What --stats prints. */
#ifndef VMM_STATS_H
#define VMM_STATS_H

#include "vmm/vcpu.h"

/**
 * The accelerator's counters (KVM_GET_STATS_FD) of the VM and of all vCPUs together, those that are
 * not zero. Free with g_free().
 */
char *stats_text(const struct vcpu_set *set);

#endif
