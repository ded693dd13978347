/*
 * `anykvm cpuid`: CPUID features by name, side by side: what this host has, what the KVM API
 * offers for each vendor's guest, what a guest of `anykvm run` sees, and why not.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/accel.h"
#include "vmm/cmd.h"
#include "vmm/cpuid_names.h"
#include "vmm/error.h"
#include "vmm/vcpu.h"

static u32 host_word(const struct cpuid_feature *f)
{
	u32 r[4] = {0}, max;

	max = __get_cpuid_max(f->leaf & 0x80000000, NULL);
	if ((f->leaf & 0xf0000000) == 0x40000000) {
		__cpuid(0x40000000, r[0], r[1], r[2], r[3]);
		max = r[1] == 0x4b4d564b ? r[0] : 0;
		memset(r, 0, sizeof(r));
	}
	if (max >= f->leaf)
		__cpuid_count(f->leaf, f->index, r[0], r[1], r[2], r[3]);
	return r[f->reg];
}

/* What the accelerator offers, NULL when it cannot be opened. */
static struct kvm_cpuid2 *ask(const char *name, const char *options)
{
	g_autofree char *why = NULL;
	g_autoptr(GError) error = NULL;
	struct accel accel = {.fd = -1};
	struct kvm_cpuid2 *cpuid = NULL;

	if (!accel_open(&accel, name, options, &why))
		cpuid = cpuid_supported(&accel, &error);
	accel_close(&accel);
	return cpuid;
}

static const char *mark(u32 word, unsigned bit)
{
	return word >> bit & 1 ? "yes" : "-";
}

static void table(bool all)
{
	g_autofree struct kvm_cpuid2 *kvm = ask("kvm", NULL);
	g_autofree struct kvm_cpuid2 *intel = ask("anykvm", "vendor=intel");
	g_autofree struct kvm_cpuid2 *amd = ask("anykvm", "vendor=amd");
	g_autofree struct kvm_cpuid2 *guest_intel = NULL, *guest_amd = NULL;

	if (intel) {
		guest_intel =
			g_memdup2(intel, sizeof(*intel) + intel->nent * sizeof(intel->entries[0]));
		cpuid_set_topology(guest_intel, 0, 1);
	}
	if (amd) {
		guest_amd = g_memdup2(amd, sizeof(*amd) + amd->nent * sizeof(amd->entries[0]));
		cpuid_set_topology(guest_amd, 0, 1);
	}
	printf("%-22s %-22s %-5s %-8s %-13s %-13s %s\n", "", "", "", "/dev/kvm", "API offers",
	       "guest sees", "");
	printf("%-22s %-22s %-5s %-8s %-6s %-6s %-6s %-6s %s\n", "feature",
	       "leaf.index register:bit", "host", kvm ? "offers" : "(none)", "intel", "amd",
	       "intel", "amd", "why not");
	for (unsigned i = 0; i < cpuid_feature_count; i++) {
		const struct cpuid_feature *f = &cpuid_features[i];
		u32 host = host_word(f), ai = cpuid_feature_word(intel, f),
		    aa = cpuid_feature_word(amd, f);
		char place[40];

		if (!all && !((host | ai | aa) >> f->bit & 1))
			continue;
		snprintf(place, sizeof(place), "%08x.%u %s:%u", f->leaf, f->index,
			 (const char *[]){"EAX", "EBX", "ECX", "EDX"}[f->reg], f->bit);
		printf("%-22s %-23s %-5s %-8s %-6s %-6s %-6s %-6s %s\n", f->name, place,
		       mark(host, f->bit), kvm ? mark(cpuid_feature_word(kvm, f), f->bit) : "",
		       mark(ai, f->bit), mark(aa, f->bit),
		       mark(cpuid_feature_word(guest_intel, f), f->bit),
		       mark(cpuid_feature_word(guest_amd, f), f->bit), f->reason);
	}
}

int cmd_cpuid(int argc, char **argv)
{
	gboolean all = FALSE;
	g_autoptr(GError) error = NULL;
	g_autoptr(GOptionContext) context = g_option_context_new(NULL);
	GOptionEntry entries[] = {
		{"all", 'a', 0, G_OPTION_ARG_NONE, &all, "features that nobody has as well", NULL},
		G_OPTION_ENTRY_NULL,
	};

	g_set_prgname("anykvm cpuid");
	g_option_context_set_summary(context,
				     "Shows CPUID features by name: this host's, what the KVM API\n"
				     "offers, and what a guest sees.");
	g_option_context_add_main_entries(context, entries, NULL);
	if (!g_option_context_parse(context, &argc, &argv, &error)) {
		fprintf(stderr, "anykvm cpuid: %s ('anykvm cpuid --help' explains)\n",
			error->message);
		return 2;
	}
	if (argc > 1) {
		fprintf(stderr,
			"anykvm cpuid: unexpected argument '%s' ('anykvm cpuid --help' explains)\n",
			argv[1]);
		return 2;
	}
	table(all);
	return 0;
}
