/* What the files of the gdb server share. */
#ifndef VMM_GDB_INTERNAL_H
#define VMM_GDB_INTERNAL_H

#include "vmm/gdb.h"
#include "vmm/machine.h"

#define GDB_PACKET_MAX 0x4000 /* bytes of one packet, as told to the debugger */
#define GDB_DEBUG_REGS 4

enum gdb_break_type { BREAK_SOFT, BREAK_HARD, BREAK_WRITE, BREAK_READ, BREAK_ACCESS };

struct gdb_break {
	enum gdb_break_type type;
	u64 addr, len;
	u64 gpa;     /* BREAK_SOFT: where the instruction was put */
	u8 original; /* BREAK_SOFT: what was there */
};

struct gdb {
	struct machine *m; /* NULL between two machines */
	char *unix_path;   /* removed at the end */
	char *target;	   /* its address, as gdb's "target remote" takes it */
	int listen_fd, fd; /* fd -1: nobody is connected */
	guint listen_source, source;
	bool wait; /* the first machine waits for a debugger */

	/* the connection */
	GByteArray *in;
	GString *last; /* the last packet sent, for a repetition */
	bool no_ack;
	bool physical;	 /* memory is addressed physically */
	unsigned thread; /* vCPU that registers and memory are asked of */
	bool stopped;	 /* the machine stands still for the debugger */
	bool answer_due; /* a continue or step has no stop reply yet */

	/* gdb_break.c */
	GArray *breaks; /* struct gdb_break */
	bool changed;	/* breakpoints or code changed since the vCPUs were told */
};

/* gdb.c */
void gdb_send(struct gdb *gdb, const char *text);
void gdb_disconnect(struct gdb *gdb);
/** Stops all vCPUs for the debugger. */
void gdb_stop(struct gdb *gdb);
/** Called by a vCPU's thread after KVM_EXIT_DEBUG; opaque is the struct gdb. */
void gdb_notify(void *opaque);

/* gdb_command.c */
void gdb_command(struct gdb *gdb, const char *packet, size_t len);
/** Ctrl-C of the debugger. */
void gdb_interrupt(struct gdb *gdb);
/** vCPUs may have hit something: reports it, or lets them run on when it was the guest's own. */
void gdb_look_for_hits(struct gdb *gdb);

/* gdb_regs.c */
char *gdb_target_xml(void);
unsigned gdb_reg_count(void);
/** Appends a register in hexadecimal, or false when there is no such register. */
bool gdb_reg_read(const struct vcpu *vcpu, unsigned number, GString *out);
/** Sets a register from hexadecimal; the digits used, 0 on an error. */
unsigned gdb_reg_write(const struct vcpu *vcpu, unsigned number, const char *hex);
/** All registers in order. */
void gdb_regs_read(const struct vcpu *vcpu, GString *out);
bool gdb_regs_write(const struct vcpu *vcpu, const char *hex);

/* gdb_break.c: as many bytes as can be read; the breakpoints' own bytes are hidden. */
u64 gdb_memory_read(struct gdb *gdb, u64 addr, u8 *buf, u64 len);
bool gdb_memory_write(struct gdb *gdb, u64 addr, const u8 *buf, u64 len);
/** 0, or -errno (-ENOTSUP: no such kind of breakpoint). */
int gdb_break_insert(struct gdb *gdb, enum gdb_break_type type, u64 addr, u64 len);
int gdb_break_remove(struct gdb *gdb, enum gdb_break_type type, u64 addr, u64 len);
/** Removes all; the memory of a machine that has ended is not touched. */
void gdb_break_clear(struct gdb *gdb, bool memory);
/** Only those in registers survive a reboot. */
void gdb_break_rebooted(struct gdb *gdb);
const struct gdb_break *gdb_break_find(const struct gdb *gdb, enum gdb_break_type type, u64 addr);
/** The breakpoint in debug register n. */
const struct gdb_break *gdb_break_in_register(const struct gdb *gdb, unsigned n);
/** Tells a vCPU what it has to watch for. inject: KVM_GUESTDBG_INJECT_*, or 0. */
void gdb_break_apply(struct gdb *gdb, struct vcpu *vcpu, bool step, u32 inject);

#endif
