/*
 * Guest memory and breakpoints as the debugger sees them.
 *
 * A software breakpoint is an INT3 put at the physical address that the page tables gave when it
 * was inserted, and is taken back from there. Hardware breakpoints use the four debug registers of
 * KVM_SET_GUEST_DEBUG, the same ones on every vCPU.
 */
#include "vmm/gdb_internal.h"

#include <errno.h>
#include <string.h>

#define INT3	 0xcc
#define PAGE	 4096u
#define DR7_BASE 0x400 /* the bit that is always set */

static struct gdb_break *break_at(const struct gdb *gdb, unsigned i)
{
	return &g_array_index(gdb->breaks, struct gdb_break, i);
}

/* ---- memory ---- */

/* By the current vCPU's page tables, else by any other's: user pages differ, the kernel's do not. */
static bool translate(struct gdb *gdb, u64 va, u64 *pa)
{
	const struct guest_memory *mem = &gdb->m->back->mem;
	struct vcpu_set *set = &gdb->m->vcpus;

	*pa = va;
	if (gdb->physical || vcpu_virt_to_phys(&set->vcpus[gdb->thread], mem, va, pa))
		return true;
	for (unsigned i = 0; i < set->count; i++)
		if (i != gdb->thread && vcpu_virt_to_phys(&set->vcpus[i], mem, va, pa))
			return true;
	return false;
}

/* The breakpoints inside of [gpa, gpa+len): exchanges what they hide and what is in buf. */
static void hide_breaks(const struct gdb *gdb, u64 gpa, u8 *buf, u64 len)
{
	for (unsigned i = 0; i < gdb->breaks->len; i++) {
		const struct gdb_break *b = break_at(gdb, i);

		if (b->type == BREAK_SOFT && b->gpa >= gpa && b->gpa - gpa < len)
			buf[b->gpa - gpa] = b->original;
	}
}

static void keep_breaks(struct gdb *gdb, u64 gpa, u8 *buf, u64 len)
{
	for (unsigned i = 0; i < gdb->breaks->len; i++) {
		struct gdb_break *b = break_at(gdb, i);

		if (b->type == BREAK_SOFT && b->gpa >= gpa && b->gpa - gpa < len) {
			b->original = buf[b->gpa - gpa];
			buf[b->gpa - gpa] = INT3;
		}
	}
}

u64 gdb_memory_read(struct gdb *gdb, u64 addr, u8 *buf, u64 len)
{
	u64 done = 0, gpa;

	while (done < len) {
		u64 part = MIN(len - done, PAGE - ((addr + done) & (PAGE - 1)));

		if (!translate(gdb, addr + done, &gpa) ||
		    !memory_read(&gdb->m->back->mem, gpa, buf + done, part))
			break;
		hide_breaks(gdb, gpa, buf + done, part);
		done += part;
	}
	return done;
}

bool gdb_memory_write(struct gdb *gdb, u64 addr, const u8 *buf, u64 len)
{
	u8 page[PAGE];
	u64 done = 0, gpa;

	gdb->changed = true;
	while (done < len) {
		u64 part = MIN(len - done, PAGE - ((addr + done) & (PAGE - 1)));

		memcpy(page, buf + done, part);
		if (!translate(gdb, addr + done, &gpa) || !memory_at(&gdb->m->back->mem, gpa, part))
			return false;
		keep_breaks(gdb, gpa, page, part);
		memory_write(&gdb->m->back->mem, gpa, page, part);
		done += part;
	}
	return true;
}

/* ---- breakpoints ---- */

const struct gdb_break *gdb_break_find(const struct gdb *gdb, enum gdb_break_type type, u64 addr)
{
	for (unsigned i = 0; i < gdb->breaks->len; i++)
		if (break_at(gdb, i)->type == type && break_at(gdb, i)->addr == addr)
			return break_at(gdb, i);
	return NULL;
}

const struct gdb_break *gdb_break_in_register(const struct gdb *gdb, unsigned n)
{
	for (unsigned i = 0; i < gdb->breaks->len; i++)
		if (break_at(gdb, i)->type != BREAK_SOFT && !n--)
			return break_at(gdb, i);
	return NULL;
}

static int insert_soft(struct gdb *gdb, struct gdb_break *b)
{
	u8 int3 = INT3;

	if (!translate(gdb, b->addr, &b->gpa) ||
	    !memory_read(&gdb->m->back->mem, b->gpa, &b->original, 1))
		return -EFAULT;
	/* Two addresses of one byte: the second must not take the INT3 for the original. */
	hide_breaks(gdb, b->gpa, &b->original, 1);
	memory_write(&gdb->m->back->mem, b->gpa, &int3, 1);
	return 0;
}

int gdb_break_insert(struct gdb *gdb, enum gdb_break_type type, u64 addr, u64 len)
{
	struct gdb_break b = {.type = type, .addr = addr, .len = len};
	int r = 0;

	if (type == BREAK_READ)
		return -ENOTSUP; /* the processor has no such debug register */
	if (gdb_break_find(gdb, type, addr))
		return 0;
	if (type == BREAK_SOFT)
		r = insert_soft(gdb, &b);
	else if (type == BREAK_HARD)
		b.len = 1;
	else if ((len != 1 && len != 2 && len != 4 && len != 8) || (addr & (len - 1)))
		r = -EINVAL;
	if (type != BREAK_SOFT && gdb_break_in_register(gdb, GDB_DEBUG_REGS - 1))
		r = -ENOSPC;
	if (r)
		return r;
	g_array_append_val(gdb->breaks, b);
	gdb->changed = true;
	return 0;
}

static void remove_at(struct gdb *gdb, unsigned i, bool memory)
{
	struct gdb_break b = *break_at(gdb, i);
	bool shared = false;

	g_array_remove_index(gdb->breaks, i);
	gdb->changed = true;
	if (b.type != BREAK_SOFT || !memory)
		return;
	for (unsigned k = 0; k < gdb->breaks->len; k++)
		shared |= break_at(gdb, k)->type == BREAK_SOFT && break_at(gdb, k)->gpa == b.gpa;
	if (!shared)
		memory_write(&gdb->m->back->mem, b.gpa, &b.original, 1);
}

int gdb_break_remove(struct gdb *gdb, enum gdb_break_type type, u64 addr, u64 len)
{
	(void)len;
	for (unsigned i = 0; i < gdb->breaks->len; i++)
		if (break_at(gdb, i)->type == type && break_at(gdb, i)->addr == addr) {
			remove_at(gdb, i, true);
			return 0;
		}
	return type == BREAK_READ ? -ENOTSUP : 0; /* a reboot has taken it away already */
}

void gdb_break_clear(struct gdb *gdb, bool memory)
{
	while (gdb->breaks->len)
		remove_at(gdb, gdb->breaks->len - 1, memory);
}

void gdb_break_rebooted(struct gdb *gdb)
{
	for (unsigned i = gdb->breaks->len; i--;)
		if (break_at(gdb, i)->type == BREAK_SOFT)
			remove_at(gdb, i, false);
}

static u64 dr7_bits(const struct gdb_break *b, unsigned n)
{
	static const u8 lengths[] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
	u64 kind = b->type == BREAK_HARD ? 0 : b->type == BREAK_WRITE ? 1 : 3;

	return 2ull << (n * 2) | (kind | (u64)lengths[b->len] << 2) << (16 + n * 4);
}

void gdb_break_apply(struct gdb *gdb, struct vcpu *vcpu, bool step, u32 inject)
{
	struct kvm_guest_debug debug = {.control = inject};
	const struct accel *accel = vcpu->set->accel;
	unsigned hard = 0;

	for (unsigned i = 0; i < gdb->breaks->len; i++) {
		const struct gdb_break *b = break_at(gdb, i);

		if (b->type == BREAK_SOFT) {
			debug.control |= KVM_GUESTDBG_USE_SW_BP;
			continue;
		}
		debug.control |= KVM_GUESTDBG_USE_HW_BP;
		debug.arch.debugreg[hard] = b->addr;
		debug.arch.debugreg[7] |= DR7_BASE | dr7_bits(b, hard);
		hard++;
	}
	/* Without BLOCKIRQ a step would end in the handler of whatever interrupt is waiting. */
	if (step)
		debug.control |= KVM_GUESTDBG_SINGLESTEP |
				 (accel_extension(accel, accel->fd, KVM_CAP_SET_GUEST_DEBUG2) &
				  KVM_GUESTDBG_BLOCKIRQ);
	if (debug.control)
		debug.control |= KVM_GUESTDBG_ENABLE;
	if (debug.control || vcpu->debug_control || gdb->changed)
		accel_ioctl(accel, vcpu->fd, KVM_SET_GUEST_DEBUG, &debug);
	vcpu->debug_control = debug.control & ~inject;
}
