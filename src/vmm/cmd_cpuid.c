/*
 * `anykvm cpuid`: CPUID features by name, side by side: what this host has, what the KVM API
 * offers for each vendor's guest, what a guest of `anykvm run` sees, and why not. The rows are
 * those of the engine (a generated copy of its table: facts, no code).
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/accel.h"
#include "vmm/cmd.h"
#include "vmm/error.h"
#include "vmm/vcpu.h"

enum reg { EAX, EBX, ECX, EDX };

enum word {
#define WORD(id, leaf, index, reg) WORD_##id,
#include "vmm/cpuid-features.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

static const struct {
	u32 leaf, index;
	enum reg reg;
} words[] = {
#define WORD(id, leaf, index, reg) {leaf, index, reg},
#include "vmm/cpuid-features.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

static const struct {
	const char *name;
	enum word word;
	unsigned bit;
	const char *reason;
} features[] = {
#define FEATURE(name, word, bit, policy, reason) {#name, WORD_##word, bit, reason},
#include "vmm/cpuid-features.def"
#undef WORD
#undef FEATURE
#undef RESERVED
};

static u32 host_word(enum word w)
{
	u32 r[4] = {0}, max;

	max = __get_cpuid_max(words[w].leaf & 0x80000000, NULL);
	if ((words[w].leaf & 0xf0000000) == 0x40000000) {
		__cpuid(0x40000000, r[0], r[1], r[2], r[3]);
		max = r[1] == 0x4b4d564b ? r[0] : 0;
		memset(r, 0, sizeof(r));
	}
	if (max >= words[w].leaf)
		__cpuid_count(words[w].leaf, words[w].index, r[0], r[1], r[2], r[3]);
	return r[words[w].reg];
}

static u32 api_word(const struct kvm_cpuid2 *cpuid, enum word w)
{
	for (unsigned i = 0; cpuid && i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
		const u32 r[4] = {e->eax, e->ebx, e->ecx, e->edx};

		if (e->function == words[w].leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == words[w].index))
			return r[words[w].reg];
	}
	return 0;
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
		guest_intel = g_memdup2(intel, sizeof(*intel) + intel->nent * sizeof(intel->entries[0]));
		cpuid_set_topology(guest_intel, 0, 1);
	}
	if (amd) {
		guest_amd = g_memdup2(amd, sizeof(*amd) + amd->nent * sizeof(amd->entries[0]));
		cpuid_set_topology(guest_amd, 0, 1);
	}
	printf("%-22s %-22s %-5s %-8s %-13s %-13s %s\n", "", "", "", "/dev/kvm", "API offers",
	       "guest sees", "");
	printf("%-22s %-22s %-5s %-8s %-6s %-6s %-6s %-6s %s\n", "feature", "leaf.index register:bit",
	       "host", kvm ? "offers" : "(none)", "intel", "amd", "intel", "amd", "why not");
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		enum word w = features[i].word;
		unsigned bit = features[i].bit;
		u32 host = host_word(w), ai = api_word(intel, w), aa = api_word(amd, w);
		char place[40];

		if (!all && !((host | ai | aa) >> bit & 1))
			continue;
		snprintf(place, sizeof(place), "%08x.%u %s:%u", words[w].leaf, words[w].index,
			 (const char *[]){"EAX", "EBX", "ECX", "EDX"}[words[w].reg], bit);
		printf("%-22s %-23s %-5s %-8s %-6s %-6s %-6s %-6s %s\n", features[i].name, place,
		       mark(host, bit), kvm ? mark(api_word(kvm, w), bit) : "", mark(ai, bit),
		       mark(aa, bit), mark(api_word(guest_intel, w), bit),
		       mark(api_word(guest_amd, w), bit), features[i].reason);
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
		fprintf(stderr, "anykvm cpuid: '%s' is not expected\n", argv[1]);
		return 2;
	}
	table(all);
	return 0;
}
