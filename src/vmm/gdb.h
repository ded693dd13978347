/*
 * A gdb server: the guest's vCPUs as threads of one program, over TCP or a Unix socket.
 *
 * Everything runs in the main thread. The server outlives machines: after a reboot the debugger
 * finds itself connected to the new one. A vCPU that leaves KVM_RUN with KVM_EXIT_DEBUG stops the
 * set and calls gdb_notify(); the main loop then pauses the others and tells the debugger.
 */
#ifndef VMM_GDB_H
#define VMM_GDB_H

#include "vmm/types.h"

struct gdb;
struct machine;

/**
 * Listens at `spec`: "tcp:HOST:PORT" (an empty HOST is 127.0.0.1) or "unix:PATH", with ",wait"
 * behind it if the guest shall not start before a debugger lets it. NULL with the error set.
 */
struct gdb *gdb_new(const char *spec, GError **error);
void gdb_free(struct gdb *gdb);

/** A machine is about to start; its vCPUs are created and their threads are not. */
void gdb_machine_begins(struct gdb *gdb, struct machine *m);
/** It has ended and its vCPU threads are gone; rebooting: another one will follow. */
void gdb_machine_ended(struct gdb *gdb, bool rebooting, int status);

/** True while the debugger holds the machine, so that nobody else may let it run. */
bool gdb_holds(const struct gdb *gdb);

#endif
