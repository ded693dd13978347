/*
 * The interrupt controllers of one VM, with the behaviour of Linux KVM's in-kernel irqchip:
 * local APICs (irqchip/lapic.h), I/O APIC, a pair of 8259 PICs, an 8254 PIT, GSI routing, MSI.
 *
 * The layer knows neither VM nor vCPU: a vCPU is its index, and what concerns it goes up through
 * `struct irqchip_ops`. States and corner cases follow the "KVM API" document (KVM_GET_IRQCHIP,
 * KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, KVM_SIGNAL_MSI, KVM_CREATE_PIT2, …); devices follow Intel's
 * 82093AA, 8259A and 8254 data sheets.
 *
 * Threads: every function here may be called from any thread unless it says otherwise.
 *
 * Locks, outermost first (docs: locking-irqchip). None is held on return, no two of a kind nest:
 *   pit.config_lock  changing the reinject setting
 *   ack_lock    the list of ack notifiers; held while notifiers run
 *   pit.lock    everything in struct pit; never held while raising a line
 *   ioapic.lock struct ioapic;  pic.lock  both PICs; never both
 *   map_lock    the table of APICs and rebuilding the APIC map (readers take no lock)
 *   lapic.timer_lock  one local APIC's timer
 *   route_lock  the GSI routing table, held only to copy entries out or to swap it
 *   timer_service.lock (base/timer.h)
 * ops are called with ack_lock, ioapic.lock or timer_lock possibly held and must not call back
 * into this layer.
 */
#ifndef IRQCHIP_IRQCHIP_H
#define IRQCHIP_IRQCHIP_H

#include "base/timer.h"
#include "base/types.h"

#include <linux/kvm.h>

struct irqchip;
struct lapic;

/** vCPU indices are below this. */
#define IRQCHIP_MAX_VCPUS 1024u
/** vCPU ids (and so x2APIC ids) are below this. */
#define IRQCHIP_MAX_APIC_IDS 4096u
/** GSIs, and entries of a routing table, are below this. */
#define IRQCHIP_MAX_ROUTES 4096u

enum irqchip_mode {
	IRQCHIP_FULL,  /* KVM_CREATE_IRQCHIP: everything here */
	IRQCHIP_SPLIT, /* KVM_CAP_SPLIT_IRQCHIP: local APICs and MSI routes only */
};

/** Who drives a line; a line is high while any source holds it high. */
enum irqchip_source {
	IRQCHIP_SOURCE_USER = 0,     /* KVM_IRQ_LINE and plain irqfd */
	IRQCHIP_SOURCE_RESAMPLE = 1, /* irqfd with resample */
	IRQCHIP_SOURCE_PIT = 2,
	IRQCHIP_SOURCES = 32,
};

/**
 * What the layer above must do. `owner` is the pointer given to irqchip_create(), `vcpu` an
 * index. Called on any thread (also the vCPU's own and the timer thread), with FPU state of a
 * guest possibly live, and with locks of this layer held: do not call back, do not block long.
 */
struct irqchip_ops {
	/** An interrupt may have become deliverable: leave guest code or HLT, look again. */
	void (*kick)(void *owner, unsigned vcpu);
	/** Latch an NMI; wake. */
	void (*nmi)(void *owner, unsigned vcpu);
	/** Latch an SMI; wake. */
	void (*smi)(void *owner, unsigned vcpu);
	/** Latch INIT (dropping a latched SIPI); wake. */
	void (*init)(void *owner, unsigned vcpu);
	/** Latch a start-up IPI with this vector; wake. */
	void (*sipi)(void *owner, unsigned vcpu, u8 vector);
	/** Remote-read delivery: KVM's KVM_HC_KICK_CPU; a halted vCPU becomes runnable. */
	void (*unhalt)(void *owner, unsigned vcpu);
	/** The vCPU's TSC as its guest reads it now. Called from any thread. */
	u64 (*tsc_now)(void *owner, unsigned vcpu);
	/** Guest TSC ticks to ns, rounded up, saturating. Called from any thread. */
	u64 (*tsc_to_ns)(void *owner, unsigned vcpu, u64 ticks);
	/** IRQCHIP_SPLIT: the vCPU ended a level interrupt: KVM_EXIT_IOAPIC_EOI. Own thread. */
	void (*ioapic_eoi)(void *owner, unsigned vcpu, u8 vector);
};

/**
 * Makes the interrupt controllers of one VM with KVM's default GSI routing (IRQCHIP_FULL: GSI
 * 0-15 to PIC and IOAPIC, 16-23 to IOAPIC) or an empty one (IRQCHIP_SPLIT).
 *
 * @timers: must outlive the chip.
 * Returns 0 or -ENOMEM.
 */
int irqchip_create(struct irqchip **out, enum irqchip_mode mode, const struct irqchip_ops *ops,
		   void *owner, struct timer_service *timers);

/** Frees the chip and every local APIC of it. No other thread may be inside. NULL is allowed. */
void irqchip_destroy(struct irqchip *c);

enum irqchip_mode irqchip_mode(const struct irqchip *c);
/** Where trace points go; before anything happens. NULL: nowhere. */
struct trace;
void irqchip_set_trace(struct irqchip *c, const struct trace *trace);

/* Settings; before the first vCPU runs. */

/** KVM_CAP_X2APIC_API flags (KVM_X2APIC_API_*); 0, or -EINVAL for unknown ones. */
int irqchip_set_x2apic_api(struct irqchip *c, u64 flags);
/** KVM_CAP_DISABLE_QUIRKS mask; KVM_X86_QUIRK_LINT0_REENABLED and _LAPIC_MMIO_HOLE matter. */
void irqchip_disable_quirks(struct irqchip *c, u64 quirks);
/** IRQCHIP_SPLIT: the first n GSIs are the pins of user space's IOAPICs. -EINVAL when too many. */
int irqchip_set_reserved_routes(struct irqchip *c, u32 n);
/** KVM_CAP_X86_APIC_BUS_CYCLES_NS: ns of one APIC timer tick at divide-by-one (1). -EINVAL. */
int irqchip_set_apic_bus_ns(struct irqchip *c, u64 ns);

/* Raising interrupts. */

/**
 * KVM_IRQ_LINE, irqfd: drives one source's level of a GSI to everything it is routed to.
 *
 * @line_status: the caller reports the result to user space (KVM_IRQ_LINE_STATUS), which makes
 *               RTC interrupts count as coalesced until every destination ended the last one.
 * Returns KVM's status: > 0 the number of CPUs reached (summed over controllers), 0 coalesced,
 * < 0 ignored (masked, or not routed).
 */
int irqchip_set_irq(struct irqchip *c, unsigned source, u32 gsi, bool level, bool line_status);

/** irqfd: one edge, or nothing when the GSI is not routed. Result as irqchip_set_irq(). */
int irqchip_pulse_irq(struct irqchip *c, unsigned source, u32 gsi);

/**
 * KVM_SIGNAL_MSI. Returns > 0 delivered, 0 blocked by the guest or nobody there, < 0 -EINVAL for
 * flags or (32-bit x2APIC ids) a reserved destination bit, or ignored.
 */
int irqchip_send_msi(struct irqchip *c, const struct kvm_msi *msi);

/* GSI routing. */

/**
 * KVM_SET_GSI_ROUTING. Returns 0, -ENOMEM, or -EINVAL: too many, GSI or pin out of range, flags,
 * two entries of one GSI that are not distinct irqchips, irqchip entries in IRQCHIP_SPLIT.
 */
int irqchip_set_routing(struct irqchip *c, const struct kvm_irq_routing_entry *entries, u32 nr);

/**
 * Called when the guest acknowledges (EOI) an interrupt of a GSI. `acked` may call
 * irqchip_set_irq(), nothing else of this layer; it runs with ack_lock held.
 */
struct irqchip_ack {
	u32 gsi;
	void (*acked)(struct irqchip_ack *ack);
	struct irqchip_ack *next; /* ack_lock */
};

/** Registers a notifier; the caller owns the memory. */
void irqchip_ack_add(struct irqchip *c, struct irqchip_ack *ack);
/** Unregisters; on return it is not running. Not from inside a notifier. */
void irqchip_ack_remove(struct irqchip *c, struct irqchip_ack *ack);

/* KVM_GET_IRQCHIP, KVM_SET_IRQCHIP. -EINVAL: bad chip_id; -ENXIO: IRQCHIP_SPLIT. */
int irqchip_get_state(struct irqchip *c, struct kvm_irqchip *state);
int irqchip_set_state(struct irqchip *c, const struct kvm_irqchip *state);

/* The guest's port and memory accesses; false: not ours. `len` is 1, 2, 4 or 8. */
bool irqchip_pio_read(struct irqchip *c, u16 port, void *data, unsigned len);
bool irqchip_pio_write(struct irqchip *c, u16 port, const void *data, unsigned len);
bool irqchip_mmio_read(struct irqchip *c, u64 gpa, void *data, unsigned len);
bool irqchip_mmio_write(struct irqchip *c, u64 gpa, const void *data, unsigned len);

/* PIT. Creation is serialised by the caller (the VM's lock). */

/**
 * KVM_CREATE_PIT, KVM_CREATE_PIT2 (flags: KVM_PIT_SPEAKER_DUMMY gives us port 0x61).
 * 0, -EEXIST, -ENOENT (IRQCHIP_SPLIT), -EINVAL (flags), -ENOMEM, -EAGAIN.
 */
int irqchip_create_pit(struct irqchip *c, u32 flags);
/** KVM_GET_PIT2; -ENXIO without a PIT. */
int irqchip_get_pit(struct irqchip *c, struct kvm_pit_state2 *state);
/** KVM_SET_PIT2 (KVM_SET_PIT: flags 0). -ENXIO without a PIT. */
int irqchip_set_pit(struct irqchip *c, const struct kvm_pit_state2 *state);
/** KVM_REINJECT_CONTROL; -ENXIO without a PIT. */
int irqchip_set_pit_reinject(struct irqchip *c, bool reinject);

/* Looking vCPUs up. */

/** Index of the vCPU with this physical APIC id (x2APIC id, or xAPIC id below 256), or -1. */
int irqchip_find_vcpu(struct irqchip *c, u32 apic_id);

/**
 * KVM_HC_SEND_IPI: an IPI to the APIC ids min + i for every bit i of the bitmaps.
 *
 * @bits: number of bits in each bitmap: 64, or 32 for a 32-bit guest
 * Returns the number of CPUs reached, or -KVM_EINVAL (-22) for an ICR with destination bits.
 */
int irqchip_send_pv_ipi(struct irqchip *c, u64 low, u64 high, u32 min, u32 icr, unsigned bits);

#endif
