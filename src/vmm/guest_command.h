/*
 * `anykvm run -- COMMAND`: the command travels as an extra cpio archive behind the initrd.
 *
 *   /anykvm/cmd    script: sets the console up, runs the command, reports its status
 *   /anykvm/exit   program: `exit N` writes N to the exit port (debug_port.h), which ends the VM
 *   /anykvm/ready  program: writes to the ready port, after which standard input comes
 *
 * A guest's init that finds anykvm.cmd=1 on the kernel command line runs /anykvm/cmd with the
 * console as standard input and output, and needs to do nothing more.
 */
#ifndef VMM_GUEST_COMMAND_H
#define VMM_GUEST_COMMAND_H

#include "vmm/types.h"

#define GUEST_COMMAND_ARGS "anykvm.cmd=1 quiet panic=-1"

/**
 * Appends the archive.
 * @tty_in: standard input is a terminal; if not, the guest's does not echo it
 * @tty:    standard output is one, so its lines shall end in \r\n
 */
void guest_command_archive(GByteArray *out, char **command, bool tty_in, bool tty);

/* For tests: one member of a "newc" cpio archive. */
void cpio_append(GByteArray *out, const char *name, u32 mode, const void *data, u32 size);

#endif
