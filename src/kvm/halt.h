/*
 * Halt polling: a halted vCPU looks around for a moment before it sleeps. All on the vCPU's thread.
 *
 *	struct halt h;
 *	halt_begin(vcpu, &h);
 *	while (nothing came && halt_poll(vcpu, &h))
 *		;
 *	… sleep until something comes, with h.slept set …
 *	halt_end(vcpu, &h);
 */
#ifndef KVM_HALT_H
#define KVM_HALT_H

#include "base/types.h"

#define HALT_POLL_NS \
	200000u /* halt_poll_ns of a kernel's module kvm: the longest, unless the client sets it */

/* What a vCPU knows of its halts. */
struct vcpu_halt {
	u32 window;	     /* ns that it polls the next time */
	u32 cpus;	     /* that its thread may run on */
	u64 cpus_read;	     /* ns: when that was asked */
	u64 contended_until; /* ns: somebody else had the CPU for long */
};

/* One halt. */
struct halt {
	u64 begin, now, stop; /* ns: when it began, when it was looked at last, when polling ends */
	u64 yielded;	      /* ns: when others were let through last */
	bool allowed;	      /* the host may poll; what comes out moves the window */
	bool polls, slept;
};

struct vcpu;

/** A halt begins: decides whether and for how long to poll. */
void halt_begin(struct vcpu *vcpu, struct halt *h);
/** A moment of polling. False: it is over, sleep. */
bool halt_poll(struct vcpu *vcpu, struct halt *h);
/** … and ends, by whatever: statistics and the next window. */
void halt_end(struct vcpu *vcpu, struct halt *h);

#endif
