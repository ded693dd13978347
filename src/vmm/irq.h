/*
 * Interrupt lines and messages of the in-kernel irqchip.
 *
 * A GSI may be shared by several devices: it is high while any of its sources is. Locking: the
 * lock is a leaf; devices call irq_set() with their own lock held.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include "vmm/types.h"

#include "vmm/accel.h"

#define IRQ_GSI_COUNT	 24
#define IRQ_GSI_TIMER	 0
#define IRQ_GSI_KEYBOARD 1
#define IRQ_GSI_SERIAL	 4
#define IRQ_GSI_RTC	 8
#define IRQ_GSI_SCI	 9
#define IRQ_GSI_PCI	 16 /* first of eight that PCI INTx pins share */

struct irq_ctl {
	const struct accel *accel;
	int vm_fd;
	GMutex lock;
	u64 sources[IRQ_GSI_COUNT]; /* bit per source that holds the line up */
	bool pin2_timer;	    /* GSI 0 goes to IOAPIC pin 2, as on a PC */
};

/** Creates irqchip and PIT on the VM and sets the PC's routing. */
bool irq_init(struct irq_ctl *irq, const struct accel *accel, int vm_fd, GError **error);
void irq_destroy(struct irq_ctl *irq);

/** Raises or lowers one source (0–63) of a GSI. */
void irq_set(struct irq_ctl *irq, unsigned gsi, unsigned source, bool level);

/** Sends a message-signalled interrupt. */
void irq_msi(struct irq_ctl *irq, u64 address, u32 data);

#endif
