/* How a device tells the machine that its life ends: power-off, reset, an exit status. */
#ifndef VMM_POWER_H
#define VMM_POWER_H

#include "vmm/types.h"

enum power_end {
	POWER_ON,      /* still running */
	POWER_OFF,     /* the guest switched itself off */
	POWER_RESET,   /* the guest, or the monitor, asks for a reset */
	POWER_EXIT,    /* the guest wrote an exit status */
	POWER_CRASH,   /* triple fault, internal error, entry failure, guest panic */
	POWER_QUIT,    /* the user left */
	POWER_TIMEOUT, /* --timeout ran out */
	POWER_SIGNAL,  /* a signal asks us to end; status is its number */
};

/** Handed to devices; any thread may call it, and the first call decides. */
struct power {
	void (*end)(void *opaque, enum power_end why, int status);
	void *opaque;
};

static inline void power_end(const struct power *power, enum power_end why, int status)
{
	power->end(power->opaque, why, status);
}

#endif
