/* The program `anykvm`: finds the subcommand and hands over. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "vmm/types.h"
#include "vmm/cmd.h"

#ifndef ANYKVM_VERSION
#define ANYKVM_VERSION "0.1"
#endif

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{"run", cmd_run, "boot a guest: kernel, disk, serial console, virtio devices"},
	{"test", cmd_test, "run guest unit tests on anykvm, a real KVM or QEMU"},
	{"exec", cmd_exec, "run an unmodified program that finds our /dev/kvm"},
	{"cpuid", cmd_cpuid, "show CPUID features by name: host, KVM API, guest"},
	{"doctor", cmd_doctor, "say what this host can and cannot do, and why"},
	{"help", cmd_help, "show this text, or the options of one command"},
	{"version", cmd_version, "show the version"},
};

static int find_and_run(int argc, char **argv)
{
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(argv[0], commands[i].name))
			return commands[i].run(argc, argv);
	fprintf(stderr, "anykvm: unknown command '%s'; 'anykvm help' lists them\n", argv[0]);
	return 2;
}

static int cmd_help(int argc, char **argv)
{
	if (argc > 1 && argv[1][0] != '-' && strcmp(argv[1], "help")) {
		char help[] = "--help";
		char *args[] = {argv[1], help, NULL};

		return find_and_run(2, args);
	}
	puts("Usage: anykvm COMMAND [OPTION]...\n"
	     "\n"
	     "anykvm is the Linux KVM API on a software x86-64 processor, and what runs on it.\n"
	     "\n"
	     "Commands:");
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s%s\n", commands[i].name, commands[i].summary);
	puts("\n'anykvm COMMAND --help' explains a command's options.");
	return 0;
}

static int cmd_version(int argc, char **argv)
{
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		puts("Usage: anykvm version\n\nShows the version.");
		return 0;
	}
	if (argc > 1) {
		fprintf(stderr, "anykvm version: unexpected argument '%s'\n", argv[1]);
		return 2;
	}
	puts("anykvm " ANYKVM_VERSION);
	return 0;
}

int main(int argc, char **argv)
{
	char help[] = "help", version[] = "version";
	char *alias = NULL;

	/* GLib's help has an ellipsis, which else is a question mark. */
	setlocale(LC_CTYPE, "");
	if (argc < 2) {
		fprintf(stderr, "anykvm: no command given; 'anykvm help' lists them\n");
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		alias = help;
	else if (!strcmp(argv[1], "--version"))
		alias = version;
	if (alias)
		argv[1] = alias;
	return find_and_run(argc - 1, argv + 1);
}
