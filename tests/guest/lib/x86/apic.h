/* The local APIC in either mode, and the I/O APIC. */
#ifndef GUEST_X86_APIC_H
#define GUEST_X86_APIC_H

#include "cpu.h"

enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_APR = 0x90,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_CMCI = 0x2f0,
	APIC_ICR = 0x300,
	APIC_ICR2 = 0x310,
	APIC_LVTT = 0x320,
	APIC_LVTTHERM = 0x330,
	APIC_LVTPC = 0x340,
	APIC_LVT0 = 0x350,
	APIC_LVT1 = 0x360,
	APIC_LVTERR = 0x370,
	APIC_TMICT = 0x380,
	APIC_TMCCT = 0x390,
	APIC_TDCR = 0x3e0,
	APIC_SELF = 0x3f0,
};

#define APIC_BASE_BSP BIT64(8)
#define APIC_BASE_X2  BIT64(10)
#define APIC_BASE_EN  BIT64(11)

#define ICR_INIT    0x500u
#define ICR_SIPI    0x600u
#define ICR_NMI	    0x400u
#define ICR_LOWEST  0x100u
#define ICR_LOGICAL 0x800u
#define ICR_ASSERT  0x4000u
#define ICR_LEVEL   0x8000u
#define ICR_SELF    0x40000u
#define ICR_ALL	    0x80000u
#define ICR_OTHERS  0xc0000u

#define LVT_MASKED   0x10000u
#define LVT_PERIODIC 0x20000u
#define LVT_DEADLINE 0x40000u

bool apic_is_x2(void);
u32 apic_read(unsigned reg);
void apic_write(unsigned reg, u32 v);
u32 apic_id(void);
/** Sends; waits until the APIC took it. */
void apic_icr(u32 low, u32 dest);
static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}
/** Switches this CPU's APIC to x2APIC mode; false where there is none. */
bool apic_enable_x2(void);
/** And back, through disabled. */
void apic_disable_x2(void);
/** Software-enables with spurious vector 0xff, all LVTs masked, TPR 0. */
void apic_init(void);

u32 ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, u32 v);
/** Redirection entry. */
void ioapic_set(unsigned pin, u64 entry);
u64 ioapic_get(unsigned pin);

/** Masks everything in the two 8259s. */
void pic_disable(void);

#endif
