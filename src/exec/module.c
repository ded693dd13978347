/*
 * /sys/module/kvm*: the parameters of a kernel's modules as the emulated vendor's would read.
 * Programs that ask them decide by them what to try, so each says what the engine does.
 */
#include "exec/exec.h"

#include <string.h>

struct parameter {
	const char *module, *name, *value;
};

static const struct parameter parameters[] = {
	{"kvm", "enable_pmu", "Y\n"},
	{"kvm", "enable_vmware_backdoor", "N\n"},
	{"kvm", "force_emulation_prefix", "0\n"},
	{"kvm", "halt_poll_ns", "0\n"},
	{"kvm", "ignore_msrs", "N\n"},
	{"kvm", "report_ignored_msrs", "Y\n"},
	/* The record of pages given (mmu/pages.c) goes by guest-physical addresses, as such an MMU does. */
	{"kvm", "tdp_mmu", "Y\n"},
	{"kvm", "mitigate_smt_rsb", "N\n"},
	/* Guest page tables are walked in software: as a KVM without two-dimensional paging. */
	{"kvm_intel", "ept", "N\n"},
	{"kvm_intel", "eptad", "N\n"},
	{"kvm_intel", "pml", "N\n"},
	{"kvm_intel", "nested", "Y\n"},
	{"kvm_intel", "unrestricted_guest", "N\n"}, /* needs EPT */
	{"kvm_intel", "enable_apicv", "N\n"},
	{"kvm_intel", "enable_ipiv", "N\n"},
	{"kvm_intel", "emulate_invalid_guest_state", "Y\n"},
	{"kvm_intel", "allow_smaller_maxphyaddr", "Y\n"},
	{"kvm_intel", "error_on_inconsistent_vmcs_config", "Y\n"},
	{"kvm_amd", "npt", "N\n"},
	{"kvm_amd", "nested", "0\n"},
	{"kvm_amd", "nrips", "1\n"},
	{"kvm_amd", "vgif", "0\n"},
	{"kvm_amd", "vls", "0\n"},
	{"kvm_amd", "avic", "N\n"},
	{"kvm_amd", "sev", "N\n"},
	{"kvm_amd", "sev_es", "N\n"},
	{"kvm_amd", "sev_snp", "N\n"},
};

static bool is_module(const char *name, size_t n)
{
	if (n == 3)
		return true;
	return n == 4 + strlen(exec_options.vendor) && name[3] == '_' &&
	       !strncmp(name + 4, exec_options.vendor, n - 4);
}

/* The caller knows that the path begins with /sys/module/kvm. */
const char *exec_module_file(const char *path, int *writable)
{
	static _Thread_local char text[16] __attribute__((tls_model("initial-exec")));
	const char *name = path + strlen("/sys/module/"), *rest;
	size_t n = strcspn(name, "/");

	*writable = -1;
	if (!is_module(name, n))
		return NULL;
	rest = name + n;
	while (*rest == '/')
		rest++;
	if (!*rest || !strcmp(rest, "parameters") || !strcmp(rest, "parameters/"))
		return "";
	if (strncmp(rest, "parameters/", 11))
		return NULL;
	*writable = n == 3 ? exec_parameter_find(rest + 11) : -1;
	if (*writable >= 0) {
		exec_parameter_text(*writable, text, sizeof(text));
		return text;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(parameters); i++)
		if (strlen(parameters[i].module) == n && !strncmp(parameters[i].module, name, n) &&
		    !strcmp(parameters[i].name, rest + 11))
			return parameters[i].value;
	return NULL;
}
