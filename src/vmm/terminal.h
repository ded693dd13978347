/*
 * The user's terminal in raw mode, and its way back.
 *
 * Three nets, each for what the one before cannot catch: terminal_restore() on every ordinary
 * end; handlers on the fatal signals; and a child process that waits for this one's death (even
 * by SIGKILL) and then restores the terminal itself.
 */
#ifndef VMM_TERMINAL_H
#define VMM_TERMINAL_H

#include <stdbool.h>

/**
 * Puts the terminal of standard input into raw mode if there is one and we are in its
 * foreground. Call before threads start and before libanykvm installs its signal handlers, so
 * that those pass real crashes on to ours. Returns true when the terminal is raw.
 */
bool terminal_init(void);

/** Gives the terminal back; safe to call twice and from a signal handler. */
void terminal_restore(void);

/** Raw mode again, after the process was stopped and continued. */
void terminal_resume(void);

#endif
