/*
 * MC146818 real-time clock. Its time is the host's UTC plus an offset that the guest moves by
 * setting the clock. A timer of the main loop runs only while an interrupt is enabled.
 */
#include "vmm/rtc.h"

#include <string.h>
#include <time.h>

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D
};
enum { A_UIP = 0x80, A_RATE = 0x0f };
enum { B_24H = 0x02, B_BINARY = 0x04, B_UIE = 0x10, B_AIE = 0x20, B_PIE = 0x40, B_SET = 0x80 };
enum { C_UF = 0x10, C_AF = 0x20, C_PF = 0x40, C_IRQF = 0x80 };
enum { D_VALID = 0x80 };
#define ALARM_ANY 0xc0 /* an alarm byte from here on matches every value */
#define UIP_USEC  244

struct rtc {
	struct bus *pio;
	struct irq_ctl *irq;
	struct bus_region region;
	GMutex lock;
	u8 index;
	u8 cmos[128];
	s64 offset;	/* guest seconds minus host seconds */
	s64 ticked;	/* the guest second that was last looked at */
	GSource *timer; /* always attached; ready time -1 when nothing is due */
};

static u8 to_reg(const struct rtc *rtc, unsigned v)
{
	return (u8)(rtc->cmos[REG_B] & B_BINARY ? v : (v / 10) << 4 | v % 10);
}

static unsigned from_reg(const struct rtc *rtc, u8 v)
{
	return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 hour_to_reg(const struct rtc *rtc, unsigned hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return to_reg(rtc, hour);
	return to_reg(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static unsigned hour_from_reg(const struct rtc *rtc, u8 v)
{
	if (rtc->cmos[REG_B] & B_24H)
		return from_reg(rtc, v);
	return from_reg(rtc, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static s64 guest_time(const struct rtc *rtc)
{
	return g_get_real_time() / G_USEC_PER_SEC + rtc->offset;
}

/* Writes the running time into the CMOS bytes; not while the guest sets them. */
static void rtc_latch(struct rtc *rtc)
{
	time_t t = (time_t)guest_time(rtc);
	struct tm tm;

	if ((rtc->cmos[REG_B] & B_SET) || !gmtime_r(&t, &tm))
		return;
	rtc->cmos[SECONDS] = to_reg(rtc, (unsigned)tm.tm_sec);
	rtc->cmos[MINUTES] = to_reg(rtc, (unsigned)tm.tm_min);
	rtc->cmos[HOURS] = hour_to_reg(rtc, (unsigned)tm.tm_hour);
	rtc->cmos[WEEKDAY] = to_reg(rtc, (unsigned)tm.tm_wday + 1);
	rtc->cmos[DAY] = to_reg(rtc, (unsigned)tm.tm_mday);
	rtc->cmos[MONTH] = to_reg(rtc, (unsigned)tm.tm_mon + 1);
	rtc->cmos[YEAR] = to_reg(rtc, (unsigned)tm.tm_year % 100);
	rtc->cmos[RTC_CENTURY] = to_reg(rtc, (unsigned)tm.tm_year / 100 + 19);
}

/* Takes the CMOS bytes as the new time. */
static void rtc_set_time(struct rtc *rtc)
{
	unsigned century = from_reg(rtc, rtc->cmos[RTC_CENTURY]);
	struct tm tm = {
		.tm_sec = (int)from_reg(rtc, rtc->cmos[SECONDS]),
		.tm_min = (int)from_reg(rtc, rtc->cmos[MINUTES]),
		.tm_hour = (int)hour_from_reg(rtc, rtc->cmos[HOURS]),
		.tm_mday = (int)from_reg(rtc, rtc->cmos[DAY]),
		.tm_mon = (int)from_reg(rtc, rtc->cmos[MONTH]) - 1,
		.tm_year = (int)(century * 100 + from_reg(rtc, rtc->cmos[YEAR])) - 1900,
	};
	time_t t = timegm(&tm);

	if (t != (time_t)-1)
		rtc->offset = (s64)t - g_get_real_time() / G_USEC_PER_SEC;
	rtc->ticked = guest_time(rtc);
}

static gint64 rtc_period_usec(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	if (rate <= 2)
		rate += 7;
	return MAX((gint64)1000000 * (1 << (rate - 1)) / 32768, (gint64)122);
}

static void rtc_arm(struct rtc *rtc)
{
	gint64 due = -1, period = rtc_period_usec(rtc), now = g_get_monotonic_time();
	u8 b = rtc->cmos[REG_B];

	if ((b & B_PIE) && period)
		due = now + period;
	else if (b & (B_UIE | B_AIE))
		due = now + G_USEC_PER_SEC - g_get_real_time() % G_USEC_PER_SEC;
	g_source_set_ready_time(rtc->timer, due);
}

static void rtc_update_irq(struct rtc *rtc)
{
	u8 c = rtc->cmos[REG_C] & (C_UF | C_AF | C_PF);
	bool irq = c & rtc->cmos[REG_B];

	rtc->cmos[REG_C] = c | (irq ? C_IRQF : 0);
	irq_set(rtc->irq, IRQ_GSI_RTC, 0, irq);
}

static bool alarm_matches(const struct rtc *rtc, unsigned alarm, unsigned reg)
{
	return rtc->cmos[alarm] >= ALARM_ANY || rtc->cmos[alarm] == rtc->cmos[reg];
}

/* Sets the flags for a second that began since the last look. */
static void rtc_tick(struct rtc *rtc)
{
	s64 now = guest_time(rtc);

	if (now == rtc->ticked || (rtc->cmos[REG_B] & B_SET))
		return;
	rtc->ticked = now;
	rtc->cmos[REG_C] |= C_UF;
	rtc_latch(rtc);
	if (alarm_matches(rtc, SECONDS_ALARM, SECONDS) &&
	    alarm_matches(rtc, MINUTES_ALARM, MINUTES) && alarm_matches(rtc, HOURS_ALARM, HOURS))
		rtc->cmos[REG_C] |= C_AF;
}

static gboolean rtc_timer(gpointer opaque)
{
	struct rtc *rtc = opaque;

	g_mutex_lock(&rtc->lock);
	rtc_tick(rtc);
	if (rtc->cmos[REG_B] & B_PIE)
		rtc->cmos[REG_C] |= C_PF;
	rtc_update_irq(rtc);
	rtc_arm(rtc);
	g_mutex_unlock(&rtc->lock);
	return G_SOURCE_CONTINUE;
}

static u8 rtc_read_reg(struct rtc *rtc)
{
	u8 v;

	switch (rtc->index) {
	case SECONDS:
	case MINUTES:
	case HOURS:
	case WEEKDAY:
	case DAY:
	case MONTH:
	case YEAR:
	case RTC_CENTURY:
		rtc_latch(rtc);
		return rtc->cmos[rtc->index];
	case REG_A:
		v = rtc->cmos[REG_A];
		if (!(rtc->cmos[REG_B] & B_SET) &&
		    g_get_real_time() % G_USEC_PER_SEC >= G_USEC_PER_SEC - UIP_USEC)
			v |= A_UIP;
		return v;
	case REG_C:
		rtc_tick(rtc);
		v = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		rtc_update_irq(rtc);
		return v;
	default:
		return rtc->cmos[rtc->index];
	}
}

static void rtc_write_reg(struct rtc *rtc, u8 v)
{
	u8 index = rtc->index;

	switch (index) {
	case REG_A:
		rtc->cmos[REG_A] = v & (u8)~A_UIP;
		rtc_arm(rtc);
		break;
	case REG_B:
		if ((v & B_SET) && !(rtc->cmos[REG_B] & B_SET))
			rtc_latch(rtc);
		if ((rtc->cmos[REG_B] & B_SET) && !(v & B_SET)) {
			/* The bytes are in the format that holds from now on. */
			rtc->cmos[REG_B] = v;
			rtc_set_time(rtc);
		}
		rtc->cmos[REG_B] = v & (v & B_SET ? (u8)~B_UIE : 0xff);
		if (v & (B_UIE | B_AIE))
			rtc->ticked = guest_time(rtc);
		rtc_update_irq(rtc);
		rtc_arm(rtc);
		break;
	case REG_C:
	case REG_D:
		break; /* read-only */
	default:
		rtc_latch(rtc);
		rtc->cmos[index] = v;
		if ((index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM &&
		     index != HOURS_ALARM) ||
		    index == RTC_CENTURY)
			if (!(rtc->cmos[REG_B] & B_SET))
				rtc_set_time(rtc);
		break;
	}
}

static u64 rtc_read(void *dev, u64 offset, unsigned size)
{
	struct rtc *rtc = dev;
	u8 v = 0xff;

	(void)size;
	g_mutex_lock(&rtc->lock);
	if (offset == 1)
		v = rtc_read_reg(rtc);
	g_mutex_unlock(&rtc->lock);
	return v;
}

static void rtc_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct rtc *rtc = dev;

	g_mutex_lock(&rtc->lock);
	if (offset == 0) {
		rtc->index = value & 0x7f; /* bit 7 masks NMI on a PC */
		if (size == 2)
			rtc_write_reg(rtc, (u8)(value >> 8));
	} else {
		rtc_write_reg(rtc, (u8)value);
	}
	g_mutex_unlock(&rtc->lock);
}

static const struct bus_ops rtc_ops = {.read = rtc_read, .write = rtc_write};

static gboolean timer_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
	g_source_set_ready_time(source, -1);
	return callback(data);
}

static GSourceFuncs timer_funcs = {.dispatch = timer_dispatch};

/* Memory sizes at the places where PC firmware looks for them. */
static void rtc_set_memory(struct rtc *rtc, u64 low, u64 high)
{
	u64 kib = MIN(low >> 10, (u64)65535 + 1024);
	u64 ext = kib > 1024 ? MIN(kib - 1024, (u64)65535) : 0;
	u64 chunks = low > (16 << 20) ? MIN((low - (16 << 20)) >> 16, (u64)65535) : 0;
	u64 top = MIN(high >> 16, (u64)0xffffff);

	rtc->cmos[0x15] = 640 & 0xff;
	rtc->cmos[0x16] = 640 >> 8;
	rtc->cmos[0x17] = rtc->cmos[0x30] = ext & 0xff;
	rtc->cmos[0x18] = rtc->cmos[0x31] = (u8)(ext >> 8);
	rtc->cmos[0x34] = chunks & 0xff;
	rtc->cmos[0x35] = (u8)(chunks >> 8);
	rtc->cmos[0x5b] = top & 0xff;
	rtc->cmos[0x5c] = (top >> 8) & 0xff;
	rtc->cmos[0x5d] = (u8)(top >> 16);
}

struct rtc *rtc_new(struct bus *pio, struct irq_ctl *irq, u64 low, u64 high)
{
	struct rtc *rtc = g_new0(struct rtc, 1);

	rtc->pio = pio;
	rtc->irq = irq;
	g_mutex_init(&rtc->lock);
	rtc->cmos[REG_A] = 0x26; /* 32.768 kHz time base, 1024 Hz */
	rtc->cmos[REG_B] = B_24H;
	rtc->cmos[REG_D] = D_VALID;
	rtc_set_memory(rtc, low, high);
	rtc->ticked = guest_time(rtc);
	rtc->timer = g_source_new(&timer_funcs, sizeof(GSource));
	g_source_set_callback(rtc->timer, rtc_timer, rtc, NULL);
	g_source_set_ready_time(rtc->timer, -1);
	g_source_attach(rtc->timer, NULL);
	rtc->region = (struct bus_region){"rtc", 0x70, 2, &rtc_ops, rtc};
	bus_add(pio, &rtc->region);
	return rtc;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	bus_remove(rtc->pio, &rtc->region);
	g_source_destroy(rtc->timer);
	g_source_unref(rtc->timer);
	g_mutex_clear(&rtc->lock);
	g_free(rtc);
}
