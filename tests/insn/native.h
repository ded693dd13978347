/* native.h - the native side's set-up */
#ifndef INSN_NATIVE_H
#define INSN_NATIVE_H

#include <stdbool.h>

/** Alternate signal stack and system call filter of the process that will run cases. 0 or -1. */
int native_thread_init(void);
/** True while a case runs. */
bool native_active(void);
/** What the watchdog's signal does when it meets no native case. */
void native_set_kick(void (*fn)(void));

#endif
