/*
 * 16550A UART. There is no line, so there is no baud rate: a byte written is on its way at once,
 * and the transmitter is busy only while the console's buffer is full.
 *
 * Nothing typed is lost: the console's queue is the receive FIFO. Linux empties the FIFO and reads
 * RBR blindly when it opens and closes the port, so input shows itself only to a driver that
 * enabled the receive interrupt or that obviously waits in a polling loop, and not while a driver
 * that uses RTS holds it down.
 */
#include "vmm/serial.h"

#include <string.h>

#define COM1_BASE    0x3f8
#define FIFO_SIZE    16
#define POLLS_READER 32 /* so many LSR reads without a write: somebody waits for input */

/* Registers and bits, named as in the PC16550D data sheet. */
enum {
	RBR = 0,
	THR = 0,
	DLL = 0,
	IER = 1,
	DLM = 1,
	IIR = 2,
	FCR = 2,
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7
};
enum { IER_RX = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum {
	IIR_NONE = 1,
	IIR_MODEM = 0,
	IIR_THRE = 2,
	IIR_RX = 4,
	IIR_LINE = 6,
	IIR_TIMEOUT = 12,
	IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum { LSR_DR = 1, LSR_OVERRUN = 2, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct serial {
	struct bus *pio;
	struct irq_ctl *irq;
	struct console *con;
	struct bus_region region;
	bool input;

	GMutex lock;
	u8 ier, fcr, lcr, mcr, lsr, scr, dll, dlm;
	u8 loop[FIFO_SIZE]; /* what loop-back mode sent to itself */
	unsigned loop_head, loop_count;
	unsigned polls; /* LSR reads in a row */
	u8 tx_held;	/* a byte the console had no room for */
	bool tx_busy;	/* tx_held is valid */
	bool thre_irq;	/* THR became empty and the driver has not been told */
	bool rts_seen;
};

/* Input is there for a driver that takes interrupts, or one that does nothing but poll LSR. */
static bool serial_rx_open(const struct serial *s)
{
	return s->input && ((s->ier & IER_RX) || s->polls >= POLLS_READER) &&
	       (!s->rts_seen || (s->mcr & MCR_RTS));
}

static void serial_update_dr(struct serial *s)
{
	bool dr = s->mcr & MCR_LOOP ? s->loop_count > 0
				    : serial_rx_open(s) && console_pending(s->con) > 0;

	s->lsr = (u8)((s->lsr & ~LSR_DR) | (dr ? LSR_DR : 0));
}

static void serial_update_irq(struct serial *s)
{
	bool level;

	serial_update_dr(s);
	level = ((s->ier & IER_RX) && (s->lsr & LSR_DR)) || ((s->ier & IER_THRE) && s->thre_irq) ||
		((s->ier & IER_LINE) && (s->lsr & LSR_OVERRUN));
	irq_set(s->irq, IRQ_GSI_SERIAL, 0, level);
}

static u8 serial_rx_pop(struct serial *s)
{
	u8 c = 0;

	if (s->mcr & MCR_LOOP) {
		if (s->loop_count) {
			c = s->loop[s->loop_head];
			s->loop_head = (s->loop_head + 1) % FIFO_SIZE;
			s->loop_count--;
		}
	} else if (serial_rx_open(s)) {
		console_read(s->con, &c, 1);
	}
	return c;
}

static void serial_tx_loop(struct serial *s, u8 c)
{
	unsigned depth = s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;

	if (s->loop_count < depth)
		s->loop[(s->loop_head + s->loop_count++) % FIFO_SIZE] = c;
	else
		s->lsr |= LSR_OVERRUN;
	s->thre_irq = true;
}

static void serial_tx(struct serial *s, u8 c)
{
	s->polls = 0;
	if (s->mcr & MCR_LOOP) {
		serial_tx_loop(s, c);
		return;
	}
	if (s->tx_busy)
		return; /* written without looking at LSR: lost, as on the chip */
	s->thre_irq = false;
	if (console_write(s->con, &c, 1)) {
		s->thre_irq = true;
		return;
	}
	s->tx_held = c;
	s->tx_busy = true;
	s->lsr &= (u8) ~(LSR_THRE | LSR_TEMT);
}

static u8 serial_iir(struct serial *s)
{
	u8 fifo = s->fcr & FCR_ENABLE ? IIR_FIFO : 0;

	if ((s->ier & IER_LINE) && (s->lsr & LSR_OVERRUN))
		return fifo | IIR_LINE;
	if ((s->ier & IER_RX) && (s->lsr & LSR_DR))
		return fifo | ((s->fcr & FCR_ENABLE) ? IIR_TIMEOUT : IIR_RX);
	if ((s->ier & IER_THRE) && s->thre_irq) {
		s->thre_irq = false; /* reading IIR acknowledges this source */
		return fifo | IIR_THRE;
	}
	return fifo | IIR_NONE;
}

static u8 serial_msr(const struct serial *s)
{
	u8 v = 0;

	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	v |= s->mcr & MCR_RTS ? MSR_CTS : 0;
	v |= s->mcr & MCR_DTR ? MSR_DSR : 0;
	v |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
	v |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
	return v;
}

static u64 serial_read(void *dev, u64 offset, unsigned size)
{
	struct serial *s = dev;
	u8 v = 0xff;

	(void)size;
	g_mutex_lock(&s->lock);
	switch (offset) {
	case RBR:
		v = s->lcr & LCR_DLAB ? s->dll : serial_rx_pop(s);
		break;
	case IER:
		v = s->lcr & LCR_DLAB ? s->dlm : s->ier;
		break;
	case IIR:
		v = serial_iir(s);
		break;
	case LCR:
		v = s->lcr;
		break;
	case MCR:
		v = s->mcr;
		break;
	case LSR:
		s->polls += s->polls < POLLS_READER;
		serial_update_dr(s);
		v = s->lsr;
		s->lsr &= (u8)~LSR_OVERRUN;
		break;
	case MSR:
		v = serial_msr(s);
		break;
	case SCR:
		v = s->scr;
		break;
	}
	serial_update_irq(s);
	g_mutex_unlock(&s->lock);
	return v;
}

static void serial_write_ier(struct serial *s, u8 v)
{
	/* Enabling the THRE interrupt while the register is empty raises it at once. */
	if (!(s->ier & IER_THRE) && (v & IER_THRE) && (s->lsr & LSR_THRE))
		s->thre_irq = true;
	s->ier = v & 0x0f;
	s->polls = 0;
}

static void serial_write_fcr(struct serial *s, u8 v)
{
	/* Clearing the FIFO loses nothing that was typed: that still waits in the console. */
	if ((v & FCR_CLEAR_RX) || ((v ^ s->fcr) & FCR_ENABLE))
		s->loop_count = 0;
	s->fcr = v & (FCR_ENABLE | 0xc8);
}

static void serial_write(void *dev, u64 offset, u64 value, unsigned size)
{
	struct serial *s = dev;
	u8 v = (u8)value;

	(void)size;
	g_mutex_lock(&s->lock);
	switch (offset) {
	case THR:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			serial_tx(s, v);
		break;
	case IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = v;
		else
			serial_write_ier(s, v);
		break;
	case FCR:
		serial_write_fcr(s, v);
		break;
	case LCR:
		s->lcr = v;
		break;
	case MCR:
		s->mcr = v & 0x1f;
		/* Loop-back probing sets RTS too, but with the line cut off it means nothing. */
		if ((v & MCR_RTS) && !(v & MCR_LOOP))
			s->rts_seen = true;
		break;
	case SCR:
		s->scr = v;
		break;
	}
	serial_update_irq(s);
	g_mutex_unlock(&s->lock);
}

static const struct bus_ops serial_ops = {.read = serial_read, .write = serial_write};

static void serial_input_ready(void *dev)
{
	struct serial *s = dev;

	g_mutex_lock(&s->lock);
	serial_update_irq(s);
	g_mutex_unlock(&s->lock);
}

static void serial_output_ready(void *dev)
{
	struct serial *s = dev;

	g_mutex_lock(&s->lock);
	if (s->tx_busy && console_write(s->con, &s->tx_held, 1)) {
		s->tx_busy = false;
		s->lsr |= LSR_THRE | LSR_TEMT;
		s->thre_irq = true;
		serial_update_irq(s);
	}
	g_mutex_unlock(&s->lock);
}

static const struct console_frontend serial_frontend = {
	.input_ready = serial_input_ready,
	.output_ready = serial_output_ready,
};

struct serial *serial_new(struct bus *pio, struct irq_ctl *irq, struct console *con, bool input)
{
	struct serial *s = g_new0(struct serial, 1);

	s->pio = pio;
	s->irq = irq;
	s->con = con;
	s->input = input;
	s->lsr = LSR_THRE | LSR_TEMT;
	g_mutex_init(&s->lock);
	s->region = (struct bus_region){"serial", COM1_BASE, 8, &serial_ops, s};
	bus_add(pio, &s->region);
	if (input)
		console_attach(con, &serial_frontend, s);
	return s;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	if (s->input)
		console_attach(s->con, NULL, NULL);
	bus_remove(s->pio, &s->region);
	g_mutex_clear(&s->lock);
	g_free(s);
}
