/* The commands of gdb's remote protocol: queries, registers, memory, stops and continuing. */
#include "vmm/gdb_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define DR6_BS BIT(14)

enum resume { RESUME_NONE, RESUME_CONTINUE, RESUME_STEP };

/* ---- small parsers ---- */

static bool parse_hex(const char **text, u64 *value)
{
	const char *p = *text;

	for (*value = 0; g_ascii_isxdigit(*p); p++)
		*value = *value << 4 | (u64)g_ascii_xdigit_value(*p);
	if (p == *text)
		return false;
	*text = p;
	return true;
}

static bool parse_char(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}

/* A thread: vCPU number + 1; 0 is any, -1 all. */
static bool parse_thread(const char **text, s64 *thread)
{
	u64 n;

	*thread = -1;
	if (g_str_has_prefix(*text, "-1")) {
		*text += 2;
		return true;
	}
	if (!parse_hex(text, &n) || n > G_MAXINT32)
		return false;
	*thread = (s64)n;
	return true;
}

static void send_error(struct gdb *gdb, int error)
{
	g_autofree char *text = g_strdup_printf("E%02x", error & 0xff);

	gdb_send(gdb, text);
}

static void send_result(struct gdb *gdb, bool good)
{
	if (good)
		gdb_send(gdb, "OK");
	else
		send_error(gdb, EFAULT);
}

static struct vcpu *current(const struct gdb *gdb)
{
	return &gdb->m->vcpus.vcpus[gdb->thread];
}

/* ---- stops ---- */

static void send_stop(struct gdb *gdb, const char *why, int sig)
{
	g_autofree char *text = g_strdup_printf("T%02xthread:%x;%s", sig, gdb->thread + 1, why);

	gdb->answer_due = false;
	gdb_send(gdb, text);
}

/* Why a vCPU stopped, as the stop reply tells it; NULL when it was the guest's own doing. */
static char *describe_hit(const struct gdb *gdb, const struct vcpu *vcpu)
{
	const struct kvm_debug_exit_arch *hit = &vcpu->debug_exit;

	if (hit->exception == 3) {
		bool ours = gdb_break_find(gdb, BREAK_SOFT, hit->pc) != NULL;

		return ours ? g_strdup("swbreak:;") : NULL;
	}
	for (unsigned i = 0; i < GDB_DEBUG_REGS; i++) {
		const struct gdb_break *b =
			(hit->dr6 & BIT(i)) ? gdb_break_in_register(gdb, i) : NULL;

		if (b && b->type == BREAK_HARD)
			return g_strdup("hwbreak:;");
		if (b)
			return g_strdup_printf("%s:%" G_GINT64_MODIFIER "x;",
					       b->type == BREAK_WRITE ? "watch" : "awatch",
					       b->addr);
	}
	return (hit->dr6 & DR6_BS) && (vcpu->debug_control & KVM_GUESTDBG_SINGLESTEP) ? g_strdup("")
										      : NULL;
}

/*
 * An exception that was not made by us belongs to the guest: it gets it now. A breakpoint that was
 * taken away in the meantime is neither ours nor the guest's.
 */
static void give_back(struct gdb *gdb, struct vcpu *vcpu)
{
	bool step = vcpu->debug_control & KVM_GUESTDBG_SINGLESTEP;
	struct kvm_debugregs regs;
	u8 code;

	gdb->thread = vcpu->id; /* whose memory is looked at */
	if (vcpu->debug_exit.exception == 3) {
		if (gdb_memory_read(gdb, vcpu->debug_exit.pc, &code, 1) && code == 0xcc)
			gdb_break_apply(gdb, vcpu, step, KVM_GUESTDBG_INJECT_BP);
		return;
	}
	if (((vcpu->debug_control & KVM_GUESTDBG_USE_HW_BP) && (vcpu->debug_exit.dr6 & 0xf)) ||
	    ((vcpu->debug_exit.dr6 & DR6_BS) && step))
		return;
	if (accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_GET_DEBUGREGS, &regs) >= 0) {
		regs.dr6 = vcpu->debug_exit.dr6;
		accel_ioctl(vcpu->set->accel, vcpu->fd, KVM_SET_DEBUGREGS, &regs);
	}
	gdb_break_apply(gdb, vcpu, step, KVM_GUESTDBG_INJECT_DB);
}

/* Reports the first hit that is there; the others wait for the next continue. */
static bool report_hit(struct gdb *gdb)
{
	struct vcpu_set *set = &gdb->m->vcpus;

	for (unsigned i = 0; i < set->count; i++) {
		g_autofree char *why = NULL;

		if (!set->vcpus[i].debug_hit)
			continue;
		set->vcpus[i].debug_hit = false;
		why = describe_hit(gdb, &set->vcpus[i]);
		if (!why) {
			give_back(gdb, &set->vcpus[i]);
			continue;
		}
		gdb->thread = i;
		send_stop(gdb, why, SIGTRAP);
		return true;
	}
	return false;
}

void gdb_look_for_hits(struct gdb *gdb)
{
	if (!gdb->m || (gdb->stopped && !gdb->answer_due))
		return;
	gdb_stop(gdb);
	if (gdb->answer_due && report_hit(gdb))
		return;
	gdb->stopped = gdb->m->paused = false;
	vcpu_set_resume(&gdb->m->vcpus);
}

void gdb_interrupt(struct gdb *gdb)
{
	if (!gdb->m || !gdb->answer_due)
		return;
	gdb_stop(gdb);
	if (!report_hit(gdb))
		send_stop(gdb, "", SIGINT);
}

/* ---- continuing ---- */

/* A breakpoint is hit again by whoever stands at it; what a watchpoint saw is seen only once. */
static void forget_repeating_hit(const struct gdb *gdb, struct vcpu *vcpu)
{
	const struct kvm_debug_exit_arch *hit = &vcpu->debug_exit;

	for (unsigned i = 0; i < GDB_DEBUG_REGS; i++) {
		const struct gdb_break *b =
			(hit->dr6 & BIT(i)) ? gdb_break_in_register(gdb, i) : NULL;

		if (b && b->type != BREAK_HARD)
			return;
	}
	vcpu->debug_hit = false;
}

static void resume(struct gdb *gdb, const enum resume *actions)
{
	struct vcpu_set *set = &gdb->m->vcpus;

	gdb->answer_due = true;
	for (unsigned i = 0; i < set->count; i++) {
		forget_repeating_hit(gdb, &set->vcpus[i]);
		gdb_break_apply(gdb, &set->vcpus[i], actions[i] == RESUME_STEP, 0);
		vcpu_hold(&set->vcpus[i], actions[i] == RESUME_NONE);
	}
	gdb->changed = false;
	/* A second vCPU may have hit something in the moment of the last stop. */
	if (report_hit(gdb))
		return;
	gdb->stopped = gdb->m->paused = false;
	vcpu_set_resume(set);
}

static void resume_all(struct gdb *gdb, enum resume action)
{
	enum resume actions[CONFIG_CPUS_MAX];

	/* The old commands step one thread and leave the others alone. */
	for (unsigned i = 0; i < gdb->m->vcpus.count; i++)
		actions[i] = action == RESUME_STEP && i != gdb->thread ? RESUME_NONE : action;
	resume(gdb, actions);
}

/* vCont;ACTION[:THREAD]...: the first action that fits a thread is its own. */
static void cmd_vcont(struct gdb *gdb, const char *p)
{
	enum resume actions[CONFIG_CPUS_MAX] = {RESUME_NONE};
	unsigned count = gdb->m->vcpus.count;

	while (parse_char(&p, ';')) {
		enum resume action = *p == 'c' || *p == 'C'   ? RESUME_CONTINUE
				     : *p == 's' || *p == 'S' ? RESUME_STEP
							      : RESUME_NONE;
		bool with_signal = *p == 'C' || *p == 'S';
		s64 thread = -1;
		u64 sig;

		if (action == RESUME_NONE)
			goto bad;
		p++;
		if (with_signal && !parse_hex(&p, &sig)) /* a guest takes no signals */
			goto bad;
		if (parse_char(&p, ':') && !parse_thread(&p, &thread))
			goto bad;
		if (thread > (s64)count)
			goto bad;
		if (thread == 0)
			thread = gdb->thread + 1;
		for (unsigned i = 0; i < count; i++)
			if (actions[i] == RESUME_NONE && (thread < 0 || thread == i + 1))
				actions[i] = action;
	}
	if (!*p) {
		resume(gdb, actions);
		return;
	}
bad:
	send_error(gdb, EINVAL);
}

static void cmd_continue(struct gdb *gdb, char command, const char *p)
{
	struct kvm_regs regs = {0};
	u64 value;

	if (command == 'C' || command == 'S') {
		parse_hex(&p, &value);
		parse_char(&p, ';');
	}
	if (parse_hex(&p, &value)) {
		accel_ioctl(current(gdb)->set->accel, current(gdb)->fd, KVM_GET_REGS, &regs);
		regs.rip = value;
		accel_ioctl(current(gdb)->set->accel, current(gdb)->fd, KVM_SET_REGS, &regs);
	}
	resume_all(gdb, command == 's' || command == 'S' ? RESUME_STEP : RESUME_CONTINUE);
}

/* ---- memory, registers, breakpoints ---- */

static void append_bytes(GString *out, const u8 *bytes, u64 len)
{
	for (u64 i = 0; i < len; i++)
		g_string_append_printf(out, "%02x", bytes[i]);
}

static void cmd_read_memory(struct gdb *gdb, const char *p)
{
	g_autoptr(GString) out = g_string_new(NULL);
	g_autofree u8 *buf = NULL;
	u64 addr, len;

	if (!parse_hex(&p, &addr) || !parse_char(&p, ',') || !parse_hex(&p, &len)) {
		send_error(gdb, EINVAL);
		return;
	}
	len = MIN(len, (u64)GDB_PACKET_MAX / 2 - 8);
	buf = g_malloc0(len + 1);
	len = gdb_memory_read(gdb, addr, buf, len);
	append_bytes(out, buf, len);
	if (len)
		gdb_send(gdb, out->str);
	else
		send_error(gdb, EFAULT);
}

/* M: hexadecimal; X: bytes, with } before those that the frame needs. */
static void cmd_write_memory(struct gdb *gdb, const char *p, const char *end, bool binary)
{
	g_autoptr(GByteArray) data = g_byte_array_new();
	u64 addr, len;

	if (!parse_hex(&p, &addr) || !parse_char(&p, ',') || !parse_hex(&p, &len) ||
	    !parse_char(&p, ':'))
		goto bad;
	while (p < end) {
		u8 byte;

		if (!binary) {
			if (!g_ascii_isxdigit(p[0]) || !g_ascii_isxdigit(p[1]))
				goto bad;
			byte = (u8)(g_ascii_xdigit_value(p[0]) << 4 | g_ascii_xdigit_value(p[1]));
			p += 2;
		} else {
			byte = (u8)*p++;
			if (byte == '}' && p < end)
				byte = (u8)*p++ ^ 0x20;
		}
		g_byte_array_append(data, &byte, 1);
	}
	if (data->len != len)
		goto bad;
	send_result(gdb, gdb_memory_write(gdb, addr, data->data, data->len));
	return;
bad:
	send_error(gdb, EINVAL);
}

static void cmd_breakpoint(struct gdb *gdb, const char *p, bool insert)
{
	u64 type, addr, len;
	int r;

	if (!parse_hex(&p, &type) || !parse_char(&p, ',') || !parse_hex(&p, &addr) ||
	    !parse_char(&p, ',') || !parse_hex(&p, &len)) {
		send_error(gdb, EINVAL);
		return;
	}
	r = type > BREAK_ACCESS ? -ENOTSUP
	    : insert		? gdb_break_insert(gdb, (enum gdb_break_type)type, addr, len)
				: gdb_break_remove(gdb, (enum gdb_break_type)type, addr, len);
	if (r == -ENOTSUP)
		gdb_send(gdb, "");
	else if (r)
		send_error(gdb, -r);
	else
		gdb_send(gdb, "OK");
}

static void cmd_registers(struct gdb *gdb, char command, const char *p)
{
	g_autoptr(GString) out = g_string_new(NULL);
	u64 number;

	switch (command) {
	case 'g':
		gdb_regs_read(current(gdb), out);
		gdb_send(gdb, out->str);
		return;
	case 'G':
		send_result(gdb, gdb_regs_write(current(gdb), p));
		return;
	case 'p':
		if (parse_hex(&p, &number) && number < gdb_reg_count() &&
		    gdb_reg_read(current(gdb), (unsigned)number, out))
			gdb_send(gdb, out->str);
		else
			send_error(gdb, EINVAL);
		return;
	default:
		send_result(gdb, parse_hex(&p, &number) && number < gdb_reg_count() &&
					 parse_char(&p, '=') &&
					 gdb_reg_write(current(gdb), (unsigned)number, p));
	}
}

/* ---- queries ---- */

static void send_part(struct gdb *gdb, const char *text, const char *range)
{
	g_autofree char *part = NULL;
	u64 offset, len, size = strlen(text);

	if (!parse_hex(&range, &offset) || !parse_char(&range, ',') || !parse_hex(&range, &len) ||
	    offset > size) {
		send_error(gdb, EINVAL);
		return;
	}
	len = MIN(len, (u64)GDB_PACKET_MAX - 8);
	part = g_strdup_printf("%c%.*s", size - offset > len ? 'm' : 'l',
			       (int)MIN(len, size - offset), text + offset);
	gdb_send(gdb, part);
}

static void send_threads(struct gdb *gdb)
{
	g_autoptr(GString) out = g_string_new("m");

	for (unsigned i = 0; i < gdb->m->vcpus.count; i++)
		g_string_append_printf(out, "%s%x", i ? "," : "", i + 1);
	gdb_send(gdb, out->str);
}

static void send_thread_info(struct gdb *gdb, const char *p)
{
	g_autoptr(GString) out = g_string_new(NULL);
	struct kvm_mp_state mp = {0};
	char text[64];
	s64 thread;

	if (!parse_thread(&p, &thread) || thread < 1 || thread > (s64)gdb->m->vcpus.count) {
		send_error(gdb, EINVAL);
		return;
	}
	accel_ioctl(&gdb->m->back->accel, gdb->m->vcpus.vcpus[thread - 1].fd, KVM_GET_MP_STATE,
		    &mp);
	g_snprintf(text, sizeof(text), "vCPU %u, %s", (unsigned)thread - 1,
		   mp.mp_state == KVM_MP_STATE_RUNNABLE ? "running"
		   : mp.mp_state == KVM_MP_STATE_HALTED ? "halted"
							: "waiting for a start");
	append_bytes(out, (const u8 *)text, strlen(text));
	gdb_send(gdb, out->str);
}

/* "monitor ..." in the debugger: our own monitor's commands. */
static void cmd_monitor(struct gdb *gdb, const char *hex)
{
	g_autoptr(GString) line = g_string_new(NULL), out = g_string_new(NULL);
	g_autofree char *answer = NULL;

	for (; g_ascii_isxdigit(hex[0]) && g_ascii_isxdigit(hex[1]); hex += 2)
		g_string_append_c(line, (char)(g_ascii_xdigit_value(hex[0]) << 4 |
					       g_ascii_xdigit_value(hex[1])));
	answer = monitor_execute(gdb->m, line->str);
	append_bytes(out, (const u8 *)answer, MIN(strlen(answer), (size_t)GDB_PACKET_MAX / 2 - 8));
	gdb_send(gdb, *out->str ? out->str : "OK");
}

static void cmd_query(struct gdb *gdb, const char *packet)
{
	static const char xml[] = "qXfer:features:read:target.xml:";

	if (g_str_has_prefix(packet, "qSupported")) {
		gdb_send(gdb, "PacketSize=4000;qXfer:features:read+;vContSupported+;"
			      "QStartNoAckMode+;swbreak+;hwbreak+");
	} else if (!strcmp(packet, "QStartNoAckMode")) {
		gdb_send(gdb, "OK");
		gdb->no_ack = true;
	} else if (g_str_has_prefix(packet, xml)) {
		g_autofree char *text = gdb_target_xml();

		send_part(gdb, text, packet + strlen(xml));
	} else if (!strcmp(packet, "qfThreadInfo")) {
		send_threads(gdb);
	} else if (!strcmp(packet, "qsThreadInfo")) {
		gdb_send(gdb, "l");
	} else if (g_str_has_prefix(packet, "qThreadExtraInfo,")) {
		send_thread_info(gdb, packet + strlen("qThreadExtraInfo,"));
	} else if (!strcmp(packet, "qC")) {
		g_autofree char *text = g_strdup_printf("QC%x", gdb->thread + 1);

		gdb_send(gdb, text);
	} else if (g_str_has_prefix(packet, "qAttached")) {
		gdb_send(gdb, "1");
	} else if (g_str_has_prefix(packet, "qRcmd,")) {
		cmd_monitor(gdb, packet + strlen("qRcmd,"));
	} else if (g_str_has_prefix(packet, "Qqemu.PhyMemMode:")) {
		gdb->physical = packet[strlen("Qqemu.PhyMemMode:")] == '1';
		gdb_send(gdb, "OK");
	} else if (!strcmp(packet, "qqemu.PhyMemMode")) {
		gdb_send(gdb, gdb->physical ? "1" : "0");
	} else {
		gdb_send(gdb, "");
	}
}

static void cmd_thread(struct gdb *gdb, const char *p)
{
	char what = *p ? *p++ : 0;
	s64 thread;

	if ((what != 'g' && what != 'c') || !parse_thread(&p, &thread) ||
	    thread > (s64)gdb->m->vcpus.count) {
		send_error(gdb, EINVAL);
		return;
	}
	if (thread > 0)
		gdb->thread = (unsigned)thread - 1;
	gdb_send(gdb, "OK");
}

void gdb_command(struct gdb *gdb, const char *packet, size_t len)
{
	const char *p = packet + 1;
	s64 thread;

	if (!gdb->m) { /* between two machines, or after the last */
		send_error(gdb, EAGAIN);
		return;
	}
	if (!gdb->stopped) {
		gdb_stop(gdb);
		gdb->answer_due = false;
	}
	switch (packet[0]) {
	case '?':
		send_stop(gdb, "", SIGTRAP);
		break;
	case 'q':
	case 'Q':
		cmd_query(gdb, packet);
		break;
	case 'H':
		cmd_thread(gdb, p);
		break;
	case 'T':
		send_result(gdb, parse_thread(&p, &thread) && thread > 0 &&
					 thread <= (s64)gdb->m->vcpus.count);
		break;
	case 'g':
	case 'G':
	case 'p':
	case 'P':
		cmd_registers(gdb, packet[0], p);
		break;
	case 'm':
		cmd_read_memory(gdb, p);
		break;
	case 'M':
	case 'X':
		cmd_write_memory(gdb, p, packet + len, packet[0] == 'X');
		break;
	case 'Z':
	case 'z':
		cmd_breakpoint(gdb, p, packet[0] == 'Z');
		break;
	case 'c':
	case 'C':
	case 's':
	case 'S':
		cmd_continue(gdb, packet[0], p);
		break;
	case 'v':
		if (!strcmp(packet, "vCont?"))
			gdb_send(gdb, "vCont;c;C;s;S");
		else if (g_str_has_prefix(packet, "vCont;"))
			cmd_vcont(gdb, packet + strlen("vCont"));
		else
			gdb_send(gdb, "");
		break;
	case 'D':
		gdb_send(gdb, "OK");
		gdb_disconnect(gdb);
		break;
	case 'k':
		machine_end(gdb->m, POWER_QUIT, 0);
		break;
	default:
		gdb_send(gdb, "");
		break;
	}
}
