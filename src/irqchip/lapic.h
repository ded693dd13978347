/*
 * One vCPU's local APIC: Intel SDM, "Advanced Programmable Interrupt Controller (APIC)" and
 * "Extended XAPIC (x2APIC)".
 *
 * Who may touch what. An interrupt arrives like a posted interrupt: any thread sets a bit of the
 * IRR (and of the TMR) atomically, then a bit of `irr_summary`, then kicks. Everything that takes
 * interrupts (ISR, PPR, TPR, EOI) belongs to the vCPU's thread alone. The other registers are
 * written by the vCPU's thread and read by all (matching of destinations), so each is a relaxed
 * atomic 32-bit word. Only the timer has a lock, because its callback runs on another thread.
 *
 * "Own thread" below means: the vCPU's thread, or one that keeps it from running (vcpu->mutex).
 *
 * A write that can make an interrupt deliverable on this very vCPU (EOI, TPR, LVT) ends in
 * ops->kick of it.
 */
#ifndef IRQCHIP_LAPIC_H
#define IRQCHIP_LAPIC_H

#include "base/futex.h"
#include "base/timer.h"
#include "base/types.h"
#include "irqchip/apic_regs.h"

#include <linux/kvm.h>

struct irqchip;

/** What the vCPU's CPUID and MSRs give its APIC. */
struct lapic_features {
	bool x2apic;	   /* CPUID.1:ECX.x2APIC */
	bool tsc_deadline; /* CPUID.1:ECX.TSC-Deadline */
	bool cmci;	   /* MCG_CAP.CMCI_P: a seventh LVT entry */
	u64 base_reserved; /* address bits of IA32_APIC_BASE beyond MAXPHYADDR */
};

enum lapic_mode {
	LAPIC_DISABLED,
	LAPIC_XAPIC,
	LAPIC_X2APIC,
};

struct lapic {
	/* Read on every poll for interrupts. */
	u32 irr_summary;       /* any thread: bit w: IRR word w may have a bit set */
	u32 accept_pic;	       /* own thread: LINT0 lets the PIC's output in */
	s32 user_extint;       /* own thread: vector of KVM_INTERRUPT (split), or -1 */
	u32 isr_summary;       /* own thread: bit w: ISR word w is not 0 */
	const u32 *pic_output; /* the chip's PIC output; any thread */
	struct irqchip *chip;
	u64 base;  /* IA32_APIC_BASE; atomic, written by own thread */
	u32 index; /* vCPU index */
	u32 id;	   /* vCPU id = x2APIC id */
	bool bsp;
	bool linked;	 /* own thread: in the chip's table, so ops may be called */
	bool lint0_nmi;	 /* own thread: counted in chip->nmi_lint0 */
	u32 esr_pending; /* any thread: errors since ESR was last written */
	struct lapic_features features;

	/* Timer: protected by timer_lock. */
	struct futex_lock timer_lock;
	bool timer_armed;
	u32 timer_mode; /* APIC_TIMER_* of LVTT as last taken over */
	u32 timer_divide;
	u64 timer_period;   /* ns */
	u64 timer_target;   /* ns of the service's clock */
	u64 timer_deadline; /* guest TSC; 0: none */
	struct timer timer;
	struct lapic *grave; /* chip->graves */

	u32 regs[KVM_APIC_REG_SIZE / 4] __attribute__((aligned(64)));
};

/* Life. */

/**
 * Makes the local APIC of a vCPU in the state after power-on. Set-up path.
 *
 * @index: below IRQCHIP_MAX_VCPUS, not in use; @id: vCPU id, below IRQCHIP_MAX_APIC_IDS
 * @bsp: is (or would be) the boot CPU
 * 0, -EINVAL, -EEXIST, -ENOMEM, -EAGAIN.
 */
int lapic_create(struct irqchip *c, u32 index, u32 id, bool bsp, struct lapic **out);

/** Takes it out of service. The memory goes with the chip: a sender may still look at it. */
void lapic_destroy(struct lapic *l);

/** Power-on (init = false) or INIT (keeps IA32_APIC_BASE and the APIC id). Own thread. */
void lapic_reset(struct lapic *l, bool init);

/** Takes over new CPUID or MCG_CAP values: version register, LVT count, timer. Own thread. */
void lapic_set_features(struct lapic *l, const struct lapic_features *f);

/** KVM_SET_BOOT_CPU_ID changed which vCPU boots; effective at the next reset. */
void lapic_set_bsp(struct lapic *l, bool bsp);

/* IA32_APIC_BASE. */

static inline u64 lapic_base(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED);
}

static inline enum lapic_mode lapic_mode(const struct lapic *l)
{
	u64 base = lapic_base(l);

	return !(base & APIC_BASE_ENABLE) ? LAPIC_DISABLED
	       : base & APIC_BASE_X2APIC  ? LAPIC_X2APIC
					  : LAPIC_XAPIC;
}

/** Guest-physical address of the xAPIC page; meaningful in LAPIC_XAPIC. */
static inline u64 lapic_mmio_base(const struct lapic *l)
{
	return lapic_base(l) & APIC_BASE_ADDRESS;
}

/**
 * Writes IA32_APIC_BASE. Own thread.
 * @host: by KVM_SET_MSRS or KVM_SET_SREGS: transitions a guest may not make are allowed
 * Returns 0, or 1 for #GP (reserved bits, invalid state or transition). CPUID.1:EDX.APIC follows
 * the enable bit: the caller updates it.
 */
int lapic_set_base(struct lapic *l, u64 value, bool host);

/* Registers. Own thread. */

/**
 * xAPIC page. `offset` is within the page; accesses are KVM's: reads of 1, 2, 4 bytes inside an
 * aligned word, writes of exactly 4 aligned bytes, others have no effect.
 * 0, or -EOPNOTSUPP when the page is not the APIC's (disabled or x2APIC mode and the
 * KVM_X86_QUIRK_LAPIC_MMIO_HOLE quirk is off).
 */
int lapic_mmio_read(struct lapic *l, u32 offset, void *data, unsigned len);
int lapic_mmio_write(struct lapic *l, u32 offset, const void *data, unsigned len);

/** x2APIC MSRs 0x800-0x8ff. 0, or 1 for #GP. */
int lapic_msr_read(struct lapic *l, u32 msr, u64 *value);
int lapic_msr_write(struct lapic *l, u32 msr, u64 value);

/** CR8: the task priority's upper four bits. */
u64 lapic_get_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, u64 cr8);

/** IA32_TSC_DEADLINE. Reads 0 outside deadline mode and after expiry. */
u64 lapic_get_tsc_deadline(struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, u64 value);
/** The guest's TSC jumped or changed its rate: recompute a pending deadline. */
void lapic_tsc_changed(struct lapic *l);

/* Taking interrupts. Own thread. */

/** Highest vector that priority lets in, or -1. Does not look at external (PIC) interrupts. */
int lapic_has_interrupt(struct lapic *l);
/** An external interrupt (PIC through LINT0, or KVM_INTERRUPT with a split irqchip) waits. */
bool lapic_has_extint(const struct lapic *l);
/** Acknowledges what the CPU should take now, external first: vector, or -1. */
int lapic_get_interrupt(struct lapic *l);
/** Moves a vector from IRR to ISR, as acceptance does. */
void lapic_ack_interrupt(struct lapic *l, u8 vector);
/** Ends the highest interrupt in service; its vector, or -1 when there is none. */
int lapic_eoi(struct lapic *l);
/** KVM_INTERRUPT with IRQCHIP_SPLIT: 0, or -EEXIST while one waits. */
int lapic_set_user_extint(struct lapic *l, u8 vector);
/** KVM_GET_VCPU_EVENTS and ready_for_interrupt_injection: the PIC's way in is open. */
static inline bool lapic_accepts_pic(const struct lapic *l)
{
	return l->accept_pic;
}

/**
 * Cheap poll: true when lapic_has_interrupt() or lapic_has_extint() would likely say so; false
 * only when they would not. Any thread (others see a moment's truth).
 */
static inline bool lapic_pending(const struct lapic *l)
{
	u32 summary = __atomic_load_n(&l->irr_summary, __ATOMIC_ACQUIRE);
	u32 word, bits, top;

	if (UNLIKELY(__atomic_load_n(&l->accept_pic, __ATOMIC_RELAXED)) &&
	    __atomic_load_n(l->pic_output, __ATOMIC_ACQUIRE))
		return true;
	if (UNLIKELY(__atomic_load_n(&l->user_extint, __ATOMIC_RELAXED) >= 0))
		return true;
	if (LIKELY(!summary))
		return false;
	word = 31 - (u32)__builtin_clz(summary);
	bits = __atomic_load_n(&l->regs[(APIC_IRR >> 2) + 4 * word], __ATOMIC_RELAXED);
	if (!bits)
		return true; /* stale summary: the full look repairs it */
	top = 32 * word + 31 - (u32)__builtin_clz(bits);
	return (top & 0xf0) > (lapic_reg(l->regs, APIC_PPR) & 0xf0) && lapic_mode(l);
}

/* Local sources. */

/**
 * Fires a local vector table entry (APIC_LVTPC, APIC_LVTTHMR, APIC_LVTCMCI, APIC_LVT0, …). Any
 * thread for all but LVTPC, which Intel masks on delivery (own thread).
 * Returns true when it was delivered.
 */
bool lapic_local_deliver(struct lapic *l, u32 lvt);

/**
 * Raises one edge-triggered vector on this vCPU (asynchronous page fault, posted interrupts). Any
 * thread. False when the APIC is disabled or the vector is below 16.
 */
bool lapic_raise(struct lapic *l, u8 vector);

/* Paravirtual EOI (KVM_FEATURE_PV_EOI): the flag in guest memory is the caller's. Own thread. */

/**
 * The guest may end the interrupt in service by clearing the flag: there is one, nothing else is
 * pending, and no I/O APIC waits for its EOI. When the guest did clear it, call lapic_eoi().
 */
bool lapic_pv_eoi_eligible(struct lapic *l);

/* KVM_GET_LAPIC, KVM_SET_LAPIC. Own thread. */

void lapic_get_state(struct lapic *l, struct kvm_lapic_state *state);
/** 0, or -EINVAL: with 32-bit ids, an id that is not the vCPU's. */
int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *state);

#endif
