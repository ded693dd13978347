/* Register offsets and fields of the local APIC (Intel SDM, "Local APIC Register Address Map"). */
#ifndef IRQCHIP_APIC_REGS_H
#define IRQCHIP_APIC_REGS_H

#include "base/types.h"

#define APIC_ID	      0x020u
#define APIC_LVR      0x030u
#define APIC_TPR      0x080u
#define APIC_APR      0x090u
#define APIC_PPR      0x0a0u
#define APIC_EOI      0x0b0u
#define APIC_RRD      0x0c0u
#define APIC_LDR      0x0d0u
#define APIC_DFR      0x0e0u
#define APIC_SPIV     0x0f0u
#define APIC_ISR      0x100u
#define APIC_TMR      0x180u
#define APIC_IRR      0x200u
#define APIC_ESR      0x280u
#define APIC_LVTCMCI  0x2f0u
#define APIC_ICR      0x300u
#define APIC_ICR2     0x310u
#define APIC_LVTT     0x320u
#define APIC_LVTTHMR  0x330u
#define APIC_LVTPC    0x340u
#define APIC_LVT0     0x350u
#define APIC_LVT1     0x360u
#define APIC_LVTERR   0x370u
#define APIC_TMICT    0x380u
#define APIC_TMCCT    0x390u
#define APIC_TDCR     0x3e0u
#define APIC_SELF_IPI 0x3f0u

/* IA32_APIC_BASE */
#define APIC_BASE_BSP	  BIT64(8)
#define APIC_BASE_X2APIC  BIT64(10)
#define APIC_BASE_ENABLE  BIT64(11)
#define APIC_BASE_ADDRESS 0x000ffffffffff000ull
#define APIC_BASE_DEFAULT 0xfee00000ull

#define APIC_MSR_FIRST 0x800u

/* Version register */
#define APIC_VERSION_P4	      0x14u
#define APIC_LVR_DIRECTED_EOI BIT(24)

/* Spurious-interrupt vector register */
#define APIC_SPIV_ENABLED      BIT(8)
#define APIC_SPIV_DIRECTED_EOI BIT(12)

/* Destination format register */
#define APIC_DFR_FLAT	 0xfu
#define APIC_DFR_CLUSTER 0x0u

/* Interrupt command register */
#define APIC_ICR_VECTOR	   0xffu
#define APIC_ICR_LOGICAL   BIT(11)
#define APIC_ICR_BUSY	   BIT(12)
#define APIC_ICR_ASSERT	   BIT(14)
#define APIC_ICR_LEVEL	   BIT(15)
#define APIC_ICR_SHORTHAND (3u << 18)
/* Bits no one defines in x2APIC's 64-bit ICR: 13, 16-17, 20-31. */
#define APIC_X2ICR_RESERVED 0xfff32000u

#define APIC_DEST_NONE	  0u
#define APIC_DEST_SELF	  1u
#define APIC_DEST_ALL	  2u
#define APIC_DEST_ALL_BUT 3u
#define APIC_BROADCAST	  0xffu
#define X2APIC_BROADCAST  0xffffffffu

/* Delivery modes, as in bits 10:8 of ICR, LVT, MSI data and I/O APIC entries */
#define APIC_DM_FIXED	0u
#define APIC_DM_LOWEST	1u
#define APIC_DM_SMI	2u
#define APIC_DM_REMRD	3u
#define APIC_DM_NMI	4u
#define APIC_DM_INIT	5u
#define APIC_DM_STARTUP 6u
#define APIC_DM_EXTINT	7u

/* Local vector table */
#define APIC_LVT_DM_SHIFT   8
#define APIC_LVT_LEVEL	    BIT(15)
#define APIC_LVT_MASKED	    BIT(16)
#define APIC_LVT_BASE	    0x110ffu /* mask, delivery status, vector */
#define APIC_LVT_DM	    0x00700u
#define APIC_LVT_PIN	    0x0e000u /* polarity, remote IRR, trigger mode */
#define APIC_TIMER_MASK	    (3u << 17)
#define APIC_TIMER_ONESHOT  (0u << 17)
#define APIC_TIMER_PERIODIC (1u << 17)
#define APIC_TIMER_DEADLINE (2u << 17)

/* Error status register */
#define APIC_ESR_SEND_VECTOR BIT(5)
#define APIC_ESR_RECV_VECTOR BIT(6)
#define APIC_ESR_REGISTER    BIT(7)

/** Reads a register of an APIC page; `off` is the register's byte offset. */
static inline u32 lapic_reg(const u32 *regs, u32 off)
{
	return __atomic_load_n(&regs[off >> 2], __ATOMIC_RELAXED);
}

static inline void lapic_reg_set(u32 *regs, u32 off, u32 value)
{
	__atomic_store_n(&regs[off >> 2], value, __ATOMIC_RELAXED);
}

/* The 256-bit registers IRR, ISR, TMR: eight words, 16 bytes apart. */

static inline u32 *lapic_vector_word(u32 *regs, u32 off, unsigned vector)
{
	return &regs[(off >> 2) + 4 * (vector >> 5)];
}

static inline bool lapic_vector_test(const u32 *regs, u32 off, unsigned vector)
{
	const u32 *word = &regs[(off >> 2) + 4 * (vector >> 5)];

	return __atomic_load_n(word, __ATOMIC_RELAXED) >> (vector & 31) & 1;
}

#endif
