/* A vCPU's registers as text, for crash reports and the monitor. */
#include "vmm/vcpu.h"

#include <string.h>

static void dump_segment(GString *s, const char *name, const struct kvm_segment *g)
{
	g_string_append_printf(s,
			       "%-4s %04x base %016llx limit %08x type %x s %u dpl %u p %u db "
			       "%u l %u g %u%s\n",
			       name, g->selector, g->base, g->limit, g->type, g->s, g->dpl,
			       g->present, g->db, g->l, g->g, g->unusable ? " unusable" : "");
}

static void dump_regs(GString *s, const struct kvm_regs *r)
{
	const u64 values[] = {r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rbp, r->rsp,
			      r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
	static const char *const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
					    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

	g_string_append_printf(s, "rip  %016llx  rflags %016llx\n", r->rip, r->rflags);
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
		g_string_append_printf(s, "%-4s %016" G_GINT64_MODIFIER "x%s", names[i], values[i],
				       i % 4 == 3 ? "\n" : "  ");
}

char *vcpu_dump(const struct vcpu *vcpu)
{
	const struct accel *accel = vcpu->set->accel;
	struct kvm_regs regs;
	struct kvm_sregs sr;
	struct kvm_mp_state mp;
	GString *s = g_string_new(NULL);

	g_string_append_printf(s, "vCPU %u", vcpu->id);
	if (accel_ioctl(accel, vcpu->fd, KVM_GET_MP_STATE, &mp) >= 0)
		g_string_append_printf(s, ", mp state %u", mp.mp_state);
	g_string_append_c(s, '\n');
	if (accel_ioctl(accel, vcpu->fd, KVM_GET_REGS, &regs) >= 0)
		dump_regs(s, &regs);
	if (accel_ioctl(accel, vcpu->fd, KVM_GET_SREGS, &sr) < 0)
		return g_string_free(s, FALSE);
	dump_segment(s, "cs", &sr.cs);
	dump_segment(s, "ds", &sr.ds);
	dump_segment(s, "es", &sr.es);
	dump_segment(s, "fs", &sr.fs);
	dump_segment(s, "gs", &sr.gs);
	dump_segment(s, "ss", &sr.ss);
	dump_segment(s, "tr", &sr.tr);
	dump_segment(s, "ldt", &sr.ldt);
	g_string_append_printf(s, "gdt  %016llx limit %04x  idt %016llx limit %04x\n", sr.gdt.base,
			       sr.gdt.limit, sr.idt.base, sr.idt.limit);
	g_string_append_printf(s, "cr0  %08llx  cr2 %016llx  cr3 %016llx  cr4 %08llx  cr8 %llx\n",
			       sr.cr0, sr.cr2, sr.cr3, sr.cr4, sr.cr8);
	g_string_append_printf(s, "efer %04llx  apic base %08llx\n", sr.efer, sr.apic_base);
	return g_string_free(s, FALSE);
}

static u32 lapic_reg(const struct kvm_lapic_state *l, unsigned reg)
{
	u32 v;

	memcpy(&v, l->regs + reg, sizeof(v));
	return v;
}

/* The vectors that are set in a 256-bit register of eight words. */
static void dump_vectors(GString *s, const char *name, const struct kvm_lapic_state *l,
			 unsigned reg)
{
	g_string_append_printf(s, "%s", name);
	for (unsigned v = 0; v < 256; v++)
		if (lapic_reg(l, reg + v / 32 * 16) & BIT(v % 32))
			g_string_append_printf(s, " %02x", v);
	g_string_append_c(s, '\n');
}

char *vcpu_dump_lapic(const struct vcpu *vcpu)
{
	const struct accel *accel = vcpu->set->accel;
	struct kvm_lapic_state l;
	GString *s = g_string_new(NULL);

	if (accel_ioctl(accel, vcpu->fd, KVM_GET_LAPIC, &l) < 0) {
		g_string_append(s, "no local APIC\n");
		return g_string_free(s, FALSE);
	}
	g_string_append_printf(s, "id %08x  tpr %02x  ppr %02x  svr %03x\n", lapic_reg(&l, 0x20),
			       lapic_reg(&l, 0x80), lapic_reg(&l, 0xa0), lapic_reg(&l, 0xf0));
	g_string_append_printf(s, "timer lvt %08x  initial %08x  current %08x  divide %x\n",
			       lapic_reg(&l, 0x320), lapic_reg(&l, 0x380), lapic_reg(&l, 0x390),
			       lapic_reg(&l, 0x3e0));
	g_string_append_printf(s, "lint0 %08x  lint1 %08x  error lvt %08x  esr %02x\n",
			       lapic_reg(&l, 0x350), lapic_reg(&l, 0x360), lapic_reg(&l, 0x370),
			       lapic_reg(&l, 0x280));
	dump_vectors(s, "in service", &l, 0x100);
	dump_vectors(s, "requested ", &l, 0x200);
	return g_string_free(s, FALSE);
}
