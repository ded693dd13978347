/*
 * ACPI fixed hardware: PM1a event and control block and the 3.579545 MHz timer. Register layout:
 * ACPI specification, "PM1 Event Grouping", "PM1 Control Grouping", "Power Management Timer".
 */
#include "vmm/acpi_pm.h"

#include <time.h>

#define PM_TIMER_HZ 3579545ull
enum { PM1_TIMER = 0x0001, PM1_GLOBAL = 0x0020, PM1_PWRBTN = 0x0100, PM1_WAKE = 0x8000 };
enum { CNT_SCI_EN = 0x0001, CNT_SLP_EN = 0x2000 };
#define CNT_SLP_TYP(v) (((v) >> 10) & 7)

struct acpi_pm {
	struct bus *pio;
	struct irq_ctl *irq;
	struct power power;
	struct bus_region region;
	GMutex lock;
	u16 status, enable, control;
};

static u32 timer_value(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u32)((u64)ts.tv_sec * PM_TIMER_HZ + (u64)ts.tv_nsec * PM_TIMER_HZ / 1000000000);
}

static void pm_update_irq(struct acpi_pm *pm)
{
	irq_set(pm->irq, IRQ_GSI_SCI, 0, pm->status & pm->enable & (PM1_PWRBTN | PM1_GLOBAL));
}

/* The block as 16 bytes, so that accesses of any width and alignment read the same registers. */
static u64 pm_read(void *dev, u64 offset, unsigned size)
{
	struct acpi_pm *pm = dev;
	u64 v = 0;
	u8 block[16] = {0};
	u32 timer = timer_value();

	g_mutex_lock(&pm->lock);
	block[0] = (u8)pm->status;
	block[1] = (u8)(pm->status >> 8);
	block[2] = (u8)pm->enable;
	block[3] = (u8)(pm->enable >> 8);
	block[4] = (u8)pm->control;
	block[5] = (u8)(pm->control >> 8);
	g_mutex_unlock(&pm->lock);
	for (unsigned i = 0; i < 4; i++)
		block[8 + i] = (u8)(timer >> (8 * i));
	for (unsigned i = 0; i < size; i++)
		v |= (u64)block[(offset + i) & 15] << (8 * i);
	return v;
}

static void pm_write_control(struct acpi_pm *pm, u16 v)
{
	pm->control = (v & (u16)~CNT_SLP_EN) | CNT_SCI_EN;
	if ((v & CNT_SLP_EN) && CNT_SLP_TYP(v) == ACPI_PM_S5)
		power_end(&pm->power, POWER_OFF, 0);
}

static void pm_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct acpi_pm *pm = dev;

	g_mutex_lock(&pm->lock);
	for (unsigned i = 0; i < size; i++) {
		u8 v = (u8)(value >> (8 * i));

		switch (offset + i) {
		case 0:
			pm->status &= (u16)~v;
			break;
		case 1:
			pm->status &= (u16) ~(v << 8);
			break;
		case 2:
			pm->enable = (u16)((pm->enable & 0xff00) | v);
			break;
		case 3:
			pm->enable = (u16)((pm->enable & 0x00ff) | v << 8);
			break;
		case 4:
			pm_write_control(pm, (u16)((pm->control & 0xff00) | v));
			break;
		case 5:
			pm_write_control(pm, (u16)((pm->control & 0x00ff) | v << 8));
			break;
		}
	}
	pm_update_irq(pm);
	g_mutex_unlock(&pm->lock);
}

static const struct bus_ops pm_ops = {.read = pm_read, .write = pm_write};

struct acpi_pm *acpi_pm_new(struct bus *pio, struct irq_ctl *irq, const struct power *power)
{
	struct acpi_pm *pm = g_new0(struct acpi_pm, 1);

	pm->pio = pio;
	pm->irq = irq;
	pm->power = *power;
	pm->control = CNT_SCI_EN; /* no SMI command: ACPI mode is the only one */
	g_mutex_init(&pm->lock);
	pm->region = (struct bus_region){"acpi-pm", ACPI_PM_EVENT, 16, &pm_ops, pm};
	bus_add(pio, &pm->region);
	return pm;
}

void acpi_pm_free(struct acpi_pm *pm)
{
	if (!pm)
		return;
	bus_remove(pm->pio, &pm->region);
	g_mutex_clear(&pm->lock);
	g_free(pm);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
	g_mutex_lock(&pm->lock);
	pm->status |= PM1_PWRBTN;
	pm_update_irq(pm);
	g_mutex_unlock(&pm->lock);
}
