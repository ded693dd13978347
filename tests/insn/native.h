/* native.h - the native side's set-up */
#ifndef INSN_NATIVE_H
#define INSN_NATIVE_H

#include <stdbool.h>

/**
 * Installs the signal handlers, or gives the signals back: an engine that installs handlers of its
 * own must do that in between, so that ours come first and pass on what is not a case's. 0 or -1.
 */
int native_signals(bool install);
/** True while a case runs. */
bool native_active(void);
/** What the watchdog's signal does when it meets no native case. */
void native_set_kick(void (*fn)(void));

#endif
