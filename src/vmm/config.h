/* What one `anykvm run` was asked to do; filled by the option parser, read-only afterwards. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "vmm/types.h"

#define CONFIG_CPUS_MAX	    64
#define CONFIG_DISKS_MAX    16
#define CONFIG_FORWARDS_MAX 32
#define CONFIG_MEMORY_MIN   (16ull << 20)

enum config_console { CONSOLE_SERIAL, CONSOLE_VIRTIO };
enum config_window { WINDOW_AUTO, WINDOW_OFF, WINDOW_ALWAYS };
enum config_entry { ENTRY_AUTO, ENTRY_64, ENTRY_32, ENTRY_PVH };

struct config_disk {
	char *path;
	bool readonly;
	bool snapshot; /* writes go to a temporary file */
};

/** One port forward from the host into the guest. */
struct config_forward {
	bool udp;
	char *host; /* numeric IPv4 address, "" for all */
	u16 host_port;
	char *guest; /* "" for the address that DHCP gives first */
	u16 guest_port;
};

struct run_config {
	char *kernel, *initrd, *append;
	bool default_guest; /* no kernel was named */
	u64 memory;	    /* bytes */
	unsigned cpus;
	struct config_disk disks[CONFIG_DISKS_MAX];
	unsigned disk_count;
	bool net;
	struct config_forward forwards[CONFIG_FORWARDS_MAX];
	unsigned forward_count;
	bool rng;
	enum config_console console;
	enum config_entry entry;
	enum config_window window;
	char *accel;
	char *gdb;	/* where the gdb server listens, NULL for none */
	char *vendor;	/* "intel", "amd" or NULL for the accelerator's own choice */
	char **without; /* names of CPU features that the guest does not see, or NULL */
	bool stats, profile, perf_map;
	bool no_reboot;
	unsigned timeout; /* seconds, 0 for none */
	char **command;	  /* CMD and its arguments, NULL for none */
};

/**
 * Parses `anykvm run`'s arguments (argv[0] is the command's name).
 * Returns NULL with the error set; with *help set instead when help was asked for.
 */
struct run_config *config_parse(int argc, char **argv, bool *help, GError **error);
void config_free(struct run_config *cfg);
/** "intel" or "amd": whose processor this host has, or is made like. */
const char *config_host_vendor(void);
/** A real KVM shows the host's vendor only; false with the error set where another is wished for. */
bool config_check_vendor(const char *vendor, GError **error);
/** Prints the help text of `anykvm run`. */
void config_print_help(void);

/* The parsers of single values, for tests. */

/** "64", "512M", "4G", "1024K": bytes; a plain number counts MiB. */
bool config_parse_size(const char *text, u64 *bytes, GError **error);
/** "FILE[,readonly][,snapshot]" */
bool config_parse_disk(const char *text, struct config_disk *disk, GError **error);
/** "user[,hostfwd=tcp|udp:HOST:PORT-GUEST:PORT]..." or "none" */
bool config_parse_net(const char *text, struct run_config *cfg, GError **error);
/** "tcp:HOST:PORT-GUEST:PORT" */
bool config_parse_forward(const char *text, struct config_forward *fwd, GError **error);

#endif
