/*
 * What the files of this folder share: the structures of the controllers and the way an
 * interrupt message travels from a source to a local APIC. Lock order: irqchip.h.
 */
#ifndef IRQCHIP_INTERNAL_H
#define IRQCHIP_INTERNAL_H

#include "base/futex.h"
#include "base/mem.h"
#include "base/trace.h"
#include "irqchip/irqchip.h"
#include "irqchip/lapic.h"

#define NS_PER_SEC 1000000000ull

/* Interrupt messages (deliver.c). */

/** What an I/O APIC, an MSI or an ICR write asks for. */
struct irq_msg {
	u32 dest; /* APIC id, 8 or 32 bits, or logical destination */
	u8 vector;
	u8 mode;      /* APIC_DM_* */
	u8 shorthand; /* APIC_DEST_* */
	bool logical;
	bool assert;   /* level of INIT and of level-triggered messages */
	bool level;    /* trigger mode */
	bool redirect; /* MSI's redirection hint: as lowest priority */
};

/** One bit a vCPU index: who accepted a message. */
struct irq_dest_map {
	u64 bits[IRQCHIP_MAX_VCPUS / 64];
};

/**
 * Sends a message to whoever it addresses. `src` is the sending APIC of an IPI, NULL otherwise;
 * `map`, when not NULL, collects the acceptors.
 * Returns the number of APICs that accepted it, or -1 when nobody is addressed.
 */
int irq_deliver(struct irqchip *c, struct lapic *src, const struct irq_msg *m,
		struct irq_dest_map *map);
/** Splits an MSI address and data. */
void irq_msg_from_msi(const struct irqchip *c, u32 lo, u32 hi, u32 data, struct irq_msg *m);

/* The APIC map (map.c). */

/** How all enabled APICs interpret logical destinations; MIXED needs the slow way. */
enum apic_map_mode {
	MAP_NONE,
	MAP_FLAT,
	MAP_CLUSTER,
	MAP_X2APIC,
	MAP_MIXED,
};

struct apic_map {
	struct lapic *phys[IRQCHIP_MAX_APIC_IDS];
	struct lapic *flat[8];
	struct lapic *cluster[16][4];
	u32 mode;   /* enum apic_map_mode */
	u32 usable; /* 0: two APICs share an id: match every APIC */
};

/** Rebuilds the map after an id, LDR, DFR or mode changed. */
void apic_map_update(struct irqchip *c);

/* One local APIC, inside the folder. */

/** Accepts a message addressed to this APIC; 1 or 0. Any thread. */
int lapic_accept(struct lapic *l, u8 mode, u8 vector, bool assert, bool level,
		 struct irq_dest_map *map);
void lapic_update_ppr(struct lapic *l);
/** Recomputes accept_pic and the count of LINT0s in NMI mode. Own thread. */
void lapic_lint0_changed(struct lapic *l);
/** Recomputes IRR and ISR summaries from the registers. Own thread. */
void lapic_summaries_rebuild(struct lapic *l);
/** Kicks the APIC's own vCPU when something is deliverable. */
void lapic_recheck(struct lapic *l);
/** Records an error and fires LVTERR. Any thread. */
void lapic_error(struct lapic *l, u32 esr);
/** Sends what an ICR value says. Own thread. */
void lapic_send_icr(struct lapic *l, u32 low, u32 high);
void lapic_write_tpr(struct lapic *l, u32 tpr);
void lapic_update_version(struct lapic *l);
static inline bool lapic_sw_enabled(const struct lapic *l)
{
	return lapic_reg(l->regs, APIC_SPIV) & APIC_SPIV_ENABLED;
}

/* Its timer (lapic_timer.c). */
void lapic_timer_fire(void *arg);
void lapic_timer_stop(struct lapic *l);
/** Stops for as long as the registers are replaced: a deadline stays, lapic_timer_start() arms it anew. */
void lapic_timer_pause(struct lapic *l);
/** LVTT was written: takes the mode over. */
void lapic_timer_lvtt(struct lapic *l);
void lapic_timer_tdcr(struct lapic *l);
/** Starts from TMICT; from_current: the first period is TMCCT long (restoring state). */
void lapic_timer_start(struct lapic *l, bool from_current);
u32 lapic_timer_current(struct lapic *l);

/* PIC (pic.c). */

struct pic {
	struct futex_lock lock;
	u32 output;    /* atomic; written with lock held */
	bool wake;     /* output rose: wake a CPU after unlocking */
	u32 lines[16]; /* bit a source */
	struct kvm_pic_state chip[2];
};

void pic_init(struct irqchip *c);
int pic_set_line(struct irqchip *c, unsigned pin, unsigned source, bool level);
/** Acknowledges: the vector, a spurious one when nothing is pending any more. */
u8 pic_acknowledge(struct irqchip *c);
void pic_get_state(struct irqchip *c, unsigned chip, struct kvm_pic_state *s);
void pic_set_state(struct irqchip *c, unsigned chip, const struct kvm_pic_state *s);
u8 pic_port_read(struct irqchip *c, u16 port);
void pic_port_write(struct irqchip *c, u16 port, u8 value);
static inline bool pic_owns_port(u16 port)
{
	return (port & ~1) == 0x20 || (port & ~1) == 0xa0 || (port & ~1) == 0x4d0;
}

/* I/O APIC (ioapic.c). */

#define IOAPIC_BASE    0xfec00000ull
#define IOAPIC_SIZE    0x100u
#define IOAPIC_RTC_PIN 8u

struct ioapic {
	struct futex_lock lock;
	u64 base;
	u32 select;
	u32 id;
	u32 irr;	   /* pins that ask */
	u32 irr_delivered; /* edge pins whose request went out: not part of the saved state */
	u64 entry[KVM_IOAPIC_NUM_PINS];
	u32 lines[KVM_IOAPIC_NUM_PINS];	    /* bit a source */
	u32 eoi_count[KVM_IOAPIC_NUM_PINS]; /* successive EOIs with the line still high */
	struct timer storm;		    /* delayed injection */
	u8 rtc_vector;
	struct irq_dest_map rtc_pending; /* who has not ended the last RTC interrupt */
	u64 eoi_vectors[4];		 /* atomic: vectors an EOI of which concerns us */
};

int ioapic_init(struct irqchip *c);
int ioapic_set_line(struct irqchip *c, unsigned pin, unsigned source, bool level, bool line_status);
void ioapic_get_state(struct irqchip *c, struct kvm_ioapic_state *s);
void ioapic_set_state(struct irqchip *c, const struct kvm_ioapic_state *s);
/** The vCPU ended `vector`; `level`: its TMR bit. */
void ioapic_eoi(struct irqchip *c, struct lapic *l, u8 vector, bool level);
/** The APIC was reset: it will not end an RTC interrupt. */
void ioapic_forget(struct irqchip *c, struct lapic *l);
/** Recomputes eoi_vectors after notifiers or routes changed. */
void ioapic_eoi_vectors_update(struct irqchip *c);
u32 ioapic_read(struct irqchip *c, u32 offset);
void ioapic_write(struct irqchip *c, u32 offset, u32 value);

/* PIT (pit.c). */

struct pit {
	struct futex_lock config_lock; /* changing `reinject` together with its notifier */
	struct futex_lock pulse_lock;  /* one pulse of the line at a time */
	struct futex_lock lock;
	bool speaker_port;
	bool speaker_on;
	bool reinject;
	bool acked; /* the guest took the last tick (reinject mode) */
	u32 hpet_legacy;
	u32 pending; /* ticks not yet injected */
	u64 period;  /* ns; 0: channel 0 does not run */
	u64 target;  /* ns of the next tick; 0: not armed */
	bool periodic;
	u8 unloaded;	/* channels whose control word came and whose count did not, as bits */
	bool triggered; /* channel 2, modes 1 and 5: its gate rose since the control word */
	u64 gate_fell;	/* ns when channel 2's gate fell; 0: it is up */
	struct kvm_pit_channel_state ch[3];
	struct timer timer;
	struct irqchip_ack ack;
	struct irqchip *chip;
};

u8 pit_port_read(struct irqchip *c, u16 port);
void pit_port_write(struct irqchip *c, u16 port, u8 value);
void pit_destroy(struct irqchip *c);
/** A pin that the PIT's GSI is routed to was unmasked: forget missed ticks. */
void pit_unmasked(struct irqchip *c);
/** Owns 0x40-0x43, and 0x61 when made with the speaker. */
bool pit_owns_port(const struct irqchip *c, u16 port);

/* Routing and acknowledgement (route.c, ack.c). */

struct route {
	u8 type;    /* KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI */
	u8 irqchip; /* KVM_IRQCHIP_* */
	u8 pin;	    /* of both PICs: 0-15 */
	u32 address_lo, address_hi, data;
};

struct route_table {
	u16 first[IRQCHIP_MAX_ROUTES + 1]; /* entries of GSI g: first[g] … first[g + 1] - 1 */
	s16 pin_gsi[KVM_NR_IRQCHIPS][KVM_IOAPIC_NUM_PINS];
	struct route entry[];
};

int route_init(struct irqchip *c);
/** GSI routed to this pin of a controller (PIC pins 0-7 of each chip), or -1. */
int route_pin_gsi(struct irqchip *c, unsigned irqchip, unsigned pin);
/** IRQCHIP_SPLIT: adds the vectors that the reserved routes send as level-triggered MSIs. */
void route_level_vectors(struct irqchip *c, u64 vectors[4]);
/** Runs the ack notifiers of the GSI of a pin. No lock held. */
void ack_notify(struct irqchip *c, unsigned irqchip, unsigned pin);
/** True when a notifier waits for this pin. */
bool ack_wanted(struct irqchip *c, unsigned irqchip, unsigned pin);
/** Routes were replaced: which pins have notifiers? No lock held. */
void ack_routes_changed(struct irqchip *c);
/** The guest (un)masked a pin. No lock held. */
void mask_notify(struct irqchip *c, unsigned irqchip, unsigned pin, bool masked);

struct irqchip {
	/* Constant after creation. */
	const struct irqchip_ops *ops;
	void *owner;
	struct timer_service *timers;
	enum irqchip_mode mode;
	/* Settings: written before vCPUs run. */
	bool x2apic_ids;	  /* KVM_X2APIC_API_USE_32BIT_IDS */
	bool broadcast_quirk_off; /* KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK */
	u64 disabled_quirks;
	u32 reserved_routes;
	u32 bus_ns;
	const struct trace *trace; /* or NULL */

	struct lapic *lapics[IRQCHIP_MAX_VCPUS]; /* atomic pointers; written with map_lock */
	u32 lapic_limit;			 /* atomic: highest index + 1 */
	u32 nmi_lint0;				 /* atomic: APICs with LINT0 in NMI mode */
	struct lapic *graves;			 /* map_lock: destroyed, freed with the chip */

	struct futex_lock map_lock;
	struct apic_map map;	 /* entries atomic; rebuilt with map_lock */
	struct apic_map scratch; /* map_lock */

	struct pic pic;
	struct ioapic ioapic;
	struct pit *pit; /* atomic: published once */

	struct futex_lock route_lock;
	struct route_table *routes; /* route_lock */

	struct futex_lock ack_lock;
	struct irqchip_ack *acks;      /* ack_lock */
	u32 ack_pins[KVM_NR_IRQCHIPS]; /* atomic: pins with a notifier; written with ack_lock */
};

static inline struct lapic *irqchip_lapic(struct irqchip *c, u32 index)
{
	return __atomic_load_n(&c->lapics[index], __ATOMIC_ACQUIRE);
}

/** Visits every local APIC. */
#define IRQCHIP_FOR_EACH_LAPIC(c, i, l)                                                            \
	for (u32 i = 0, limit_ = __atomic_load_n(&(c)->lapic_limit, __ATOMIC_ACQUIRE); i < limit_; \
	     i++)                                                                                  \
		if (!((l) = irqchip_lapic(c, i)))                                                  \
			continue;                                                                  \
		else

static inline u64 irqchip_now(const struct irqchip *c)
{
	return timer_service_now(c->timers);
}

#endif
