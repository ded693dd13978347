/*
 * The user's end of the guest's console: standard input and output, the Ctrl-A escape, the
 * monitor's line editor. It outlives machines, so that a reboot loses no input.
 *
 * Input: the main loop reads standard input only while the queue has room, so a guest that does
 * not listen pushes back on the pipe that feeds it. Output: a writer thread owns the (perhaps
 * blocking) descriptor; a full buffer pushes back on the guest's UART.
 *
 * Locks: frontend_lock → the frontend's own → lock. Callbacks run with frontend_lock held.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include "vmm/types.h"

struct console;

/** What a guest device tells the console to call; from the main loop or the writer thread. */
struct console_frontend {
	void (*input_ready)(void *dev);	 /* console_read() has bytes */
	void (*output_ready)(void *dev); /* console_write() has room again */
};

/** Receives the monitor's command lines, in the main loop. The result is freed by g_free(). */
typedef char *(*console_command_fn)(void *opaque, const char *line);
/** Called in the main loop when the user asks to leave (Ctrl-A x). */
typedef void (*console_quit_fn)(void *opaque);

struct console_hooks {
	console_command_fn command;
	console_quit_fn quit;
	void *opaque;
};

/**
 * Starts reading in the default main context.
 * @escape:      Ctrl-A is ours (standard input is a terminal)
 * @end_of_file: the guest gets Ctrl-D when standard input ends
 */
struct console *console_new(bool escape, bool end_of_file);
/** Writes out what is left (at most for a second) and frees. 0, or the errno of output that was lost. */
int console_free(struct console *con);

/** Connects the guest's device; NULL disconnects, and returns only when no callback runs. */
void console_attach(struct console *con, const struct console_frontend *fe, void *dev);
/** Sets who answers commands and Ctrl-A x; NULL for nobody. Main thread. */
void console_set_hooks(struct console *con, const struct console_hooks *hooks);

/** Takes up to max bytes of input. Any thread. */
size_t console_read(struct console *con, u8 *buf, size_t max);
/** Bytes of input waiting. */
size_t console_pending(struct console *con);
/** Keeps input from the guest until it asks for it, or lets it through. Any thread. */
void console_hold_input(struct console *con, bool hold);
/** Queues output; returns how many bytes fit. After a short count output_ready() will come. */
size_t console_write(struct console *con, const void *buf, size_t len);

/* For tests: what the main loop calls with bytes of standard input. */
void console_feed(struct console *con, const u8 *buf, size_t len);

#endif
