/* The local APIC in either mode, the I/O APIC, the 8259s' masks. */
#include "apic.h"

#define BASE   0xfee00000ul
#define IOAPIC 0xfec00000ul

bool apic_is_x2(void)
{
	return rdmsr(MSR_APIC_BASE) & APIC_BASE_X2;
}

u32 apic_read(unsigned reg)
{
	if (apic_is_x2())
		return (u32)rdmsr(0x800 + (reg >> 4));
	return *(volatile u32 *)(BASE + reg);
}

void apic_write(unsigned reg, u32 v)
{
	if (apic_is_x2())
		wrmsr(0x800 + (reg >> 4), v);
	else
		*(volatile u32 *)(BASE + reg) = v;
}

u32 apic_id(void)
{
	u32 v = apic_read(APIC_ID);

	return apic_is_x2() ? v : v >> 24;
}

void apic_icr(u32 low, u32 dest)
{
	if (apic_is_x2()) {
		wrmsr(0x800 + (APIC_ICR >> 4), (u64)dest << 32 | low);
		return;
	}
	*(volatile u32 *)(BASE + APIC_ICR2) = dest << 24;
	*(volatile u32 *)(BASE + APIC_ICR) = low;
	while (*(volatile u32 *)(BASE + APIC_ICR) & 0x1000)
		pause();
}

bool apic_enable_x2(void)
{
	if (!HAS(X2APIC))
		return false;
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_EN | APIC_BASE_X2);
	return true;
}

void apic_disable_x2(void)
{
	u64 base = rdmsr(MSR_APIC_BASE) & ~(APIC_BASE_EN | APIC_BASE_X2);

	wrmsr(MSR_APIC_BASE, base);
	wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN);
	apic_init();
}

void apic_init(void)
{
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_LVTT, LVT_MASKED);
	apic_write(APIC_LVT0, LVT_MASKED);
	apic_write(APIC_LVT1, LVT_MASKED);
	apic_write(APIC_LVTERR, LVT_MASKED);
	apic_write(APIC_TPR, 0);
}

u32 ioapic_read(unsigned reg)
{
	*(volatile u32 *)IOAPIC = reg;
	return *(volatile u32 *)(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, u32 v)
{
	*(volatile u32 *)IOAPIC = reg;
	*(volatile u32 *)(IOAPIC + 0x10) = v;
}

void ioapic_set(unsigned pin, u64 entry)
{
	ioapic_write(0x11 + 2 * pin, (u32)(entry >> 32));
	ioapic_write(0x10 + 2 * pin, (u32)entry);
}

u64 ioapic_get(unsigned pin)
{
	return (u64)ioapic_read(0x11 + 2 * pin) << 32 | ioapic_read(0x10 + 2 * pin);
}

void pic_disable(void)
{
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}
