/*
 * 8042 keyboard controller with a keyboard that answers its commands but has no keys, and no
 * second (mouse) port. Guests that probe it get every answer at once and do not wait.
 */
#include "vmm/i8042.h"

#include <string.h>

#define QUEUE_MAX 16

enum { STATUS_OBF = 0x01, STATUS_SYSTEM = 0x04, STATUS_COMMAND = 0x08, STATUS_UNLOCKED = 0x10 };
enum {
	CONFIG_KBD_IRQ = 0x01,
	CONFIG_SYSTEM = 0x04,
	CONFIG_KBD_OFF = 0x10,
	CONFIG_AUX_OFF = 0x20,
	CONFIG_TRANSLATE = 0x40
};
enum { KBD_ACK = 0xfa, KBD_SELF_TEST_OK = 0xaa };
enum { OUTPUT_RESET = 0x01, OUTPUT_A20 = 0x02 };

struct i8042 {
	struct bus *pio;
	struct irq_ctl *irq;
	struct power power;
	struct bus_region data_region, command_region;
	GMutex lock;
	u8 queue[QUEUE_MAX];
	unsigned head, count;
	u8 config;
	u8 pending;	/* controller command that waits for its data byte, 0 for none */
	u8 kbd_pending; /* keyboard command that waits for its argument, 0 for none */
	bool command;	/* the last write went to the command port */
};

static void kbc_update_irq(struct i8042 *k)
{
	irq_set(k->irq, IRQ_GSI_KEYBOARD, 0, k->count && (k->config & CONFIG_KBD_IRQ));
}

static void kbc_push(struct i8042 *k, u8 v)
{
	if (k->count < QUEUE_MAX)
		k->queue[(k->head + k->count++) % QUEUE_MAX] = v;
}

static u8 kbc_pop(struct i8042 *k)
{
	u8 v = k->queue[k->head];

	if (!k->count)
		return v; /* the last byte again, as the chip's latch does */
	k->count--;
	if (k->count)
		k->head = (k->head + 1) % QUEUE_MAX;
	/* The line falls between two bytes: each is an edge of its own. */
	irq_set(k->irq, IRQ_GSI_KEYBOARD, 0, false);
	kbc_update_irq(k);
	return v;
}

static void keyboard_write(struct i8042 *k, u8 v)
{
	if (k->kbd_pending) {
		/* The argument: scan code set 0 asks which one is in use. */
		bool ask = k->kbd_pending == 0xf0 && v == 0;

		k->kbd_pending = 0;
		kbc_push(k, KBD_ACK);
		if (ask)
			kbc_push(k, 2);
		return;
	}
	switch (v) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* repeat rate */
		k->kbd_pending = v;
		kbc_push(k, KBD_ACK);
		break;
	case 0xee: /* echo */
		kbc_push(k, 0xee);
		break;
	case 0xf2: /* identify */
		kbc_push(k, KBD_ACK);
		kbc_push(k, 0xab);
		kbc_push(k, k->config & CONFIG_TRANSLATE ? 0x41 : 0x83);
		break;
	case 0xff: /* reset */
		kbc_push(k, KBD_ACK);
		kbc_push(k, KBD_SELF_TEST_OK);
		break;
	default:
		kbc_push(k, KBD_ACK);
		break;
	}
}

static void kbc_data(struct i8042 *k, u8 v)
{
	u8 pending = k->pending;

	k->pending = 0;
	switch (pending) {
	case 0x60:
		k->config = v;
		break;
	case 0xd1:
		if (!(v & OUTPUT_RESET))
			power_end(&k->power, POWER_RESET, 0);
		break;
	case 0xd2: /* as if the keyboard had sent it */
		kbc_push(k, v);
		break;
	case 0xd3: /* the same for the mouse: there is none */
	case 0xd4:
		break;
	default:
		k->config &= (u8)~CONFIG_KBD_OFF;
		keyboard_write(k, v);
		break;
	}
}

static void kbc_command(struct i8042 *k, u8 v)
{
	k->pending = 0;
	switch (v) {
	case 0x20:
		kbc_push(k, k->config);
		break;
	case 0x60:
	case 0xd1:
	case 0xd2:
	case 0xd3:
	case 0xd4:
		k->pending = v;
		break;
	case 0xa9: /* mouse port test: clock line stuck, that is, no port */
		kbc_push(k, 0x01);
		break;
	case 0xaa:
		k->config |= CONFIG_SYSTEM;
		kbc_push(k, 0x55);
		break;
	case 0xab:
		kbc_push(k, 0x00);
		break;
	case 0xad:
		k->config |= CONFIG_KBD_OFF;
		break;
	case 0xae:
		k->config &= (u8)~CONFIG_KBD_OFF;
		break;
	case 0xc0:
		kbc_push(k, 0x80); /* not locked */
		break;
	case 0xd0:
		kbc_push(k, OUTPUT_RESET | OUTPUT_A20);
		break;
	default:
		/* 0xf0–0xff pulse output lines; line 0 is the processors' reset. */
		if (v >= 0xf0 && !(v & 1))
			power_end(&k->power, POWER_RESET, 0);
		break;
	}
}

static u64 kbc_read_data(void *dev, u64 offset, unsigned size)
{
	struct i8042 *k = dev;
	u8 v;

	(void)offset;
	(void)size;
	g_mutex_lock(&k->lock);
	v = kbc_pop(k);
	g_mutex_unlock(&k->lock);
	return v;
}

static void kbc_write_data(void *dev, u64 offset, u64 value, unsigned size)
{
	struct i8042 *k = dev;

	(void)offset;
	(void)size;
	g_mutex_lock(&k->lock);
	k->command = false;
	kbc_data(k, (u8)value);
	kbc_update_irq(k);
	g_mutex_unlock(&k->lock);
}

static u64 kbc_read_status(void *dev, u64 offset, unsigned size)
{
	struct i8042 *k = dev;
	u8 v;

	(void)offset;
	(void)size;
	g_mutex_lock(&k->lock);
	v = STATUS_UNLOCKED | (k->count ? STATUS_OBF : 0) | (k->command ? STATUS_COMMAND : 0) |
	    (k->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0);
	g_mutex_unlock(&k->lock);
	return v;
}

static void kbc_write_command(void *dev, u64 offset, u64 value, unsigned size)
{
	struct i8042 *k = dev;

	(void)offset;
	(void)size;
	g_mutex_lock(&k->lock);
	k->command = true;
	kbc_command(k, (u8)value);
	kbc_update_irq(k);
	g_mutex_unlock(&k->lock);
}

static const struct bus_ops data_ops = {.read = kbc_read_data, .write = kbc_write_data};
static const struct bus_ops command_ops = {.read = kbc_read_status, .write = kbc_write_command};

struct i8042 *i8042_new(struct bus *pio, struct irq_ctl *irq, const struct power *power)
{
	struct i8042 *k = g_new0(struct i8042, 1);

	k->pio = pio;
	k->irq = irq;
	k->power = *power;
	k->config = CONFIG_SYSTEM | CONFIG_AUX_OFF | CONFIG_TRANSLATE;
	g_mutex_init(&k->lock);
	k->data_region = (struct bus_region){"keyboard", 0x60, 1, &data_ops, k};
	k->command_region = (struct bus_region){"keyboard", 0x64, 1, &command_ops, k};
	bus_add(pio, &k->data_region);
	bus_add(pio, &k->command_region);
	return k;
}

void i8042_free(struct i8042 *k)
{
	if (!k)
		return;
	bus_remove(k->pio, &k->data_region);
	bus_remove(k->pio, &k->command_region);
	g_mutex_clear(&k->lock);
	g_free(k);
}
